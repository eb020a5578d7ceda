//! Matrices of which most weights are zero, packed in memory.
//!
//! The file stays an ordinary Q8_0 file. `geb-quantize` counts the zeros of every tensor as it writes
//! ([`crate::sparsity::ZERO_PERCENT`]), so that only matrices worth packing are looked at, and nothing of other files.
//! What the key says is a hint: a matrix is packed by the zeros it has. Products are the same bits.

use std::collections::BTreeMap;

use geb_kernels::SparseMatrix;

use super::weights::{QMatrix, Weights};
use crate::gguf::{GgufFile, TensorInfo};
use crate::mmap::Advice;
use crate::sparsity::{PACKED_FROM, marked, percent, worth_packing};
use crate::threads;

/// Which matrices are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SparseChoice {
    /// Those that the file marks, where their products are faster for it ([`expands`](geb_kernels::Kernels::expands)).
    #[default]
    Auto,
    /// All with enough zeros, on every machine: the whole file is read, and less memory is held.
    Scan,
    /// None.
    Off,
}

/// What was packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PackedSums {
    /// Matrices.
    pub matrices: usize,
    /// Their bytes in the file.
    pub file_bytes: u64,
    /// Their bytes in memory.
    pub bytes: u64,
}

/// Packed matrices.
#[derive(Default)]
pub(crate) struct Packed {
    /// By the start of their tensor.
    matrices: BTreeMap<usize, (TensorInfo, SparseMatrix)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Packed {
    /// Packs those of a model's matrices that have enough zeros, and gives their pages in the file back.
    pub fn new(file: &GgufFile, weights: &Weights, all: bool) -> Packed {
        let mut out = Packed::default();
        let marked = match all {
            true => None,
            false => Some(marked(file, &mut out.warnings)),
        };
        // A table of which single rows are read is no matrix.
        let table = &weights.token_embd.range;
        let tied = *table == weights.output.weight.range;
        let infos: Vec<&TensorInfo> = file
            .tensors()
            .map(|t| t.info())
            .filter(|t| worth_packing(t.dtype, &t.dims) && (tied || t.range != *table))
            .filter(|t| marked.as_ref().is_none_or(|m| m.contains(t.name.as_str())))
            .collect();
        let pack = |info: &&TensorInfo| {
            let bytes = file.slice(&info.range);
            let zeros = SparseMatrix::zeros(bytes) as u64;
            let enough = percent(zeros, info.elements()) >= PACKED_FROM;
            let packed = enough.then(|| SparseMatrix::pack(bytes, info.cols()));
            if !matches!(packed, Some(Err(_))) {
                file.advise(&info.range, Advice::Dropped);
            }
            Some(((*info).clone(), packed?))
        };
        let packed = threads::spread(threads::here(), &infos, pack);
        for (info, packed) in packed.into_iter().flatten() {
            match packed {
                Ok(packed) => {
                    out.matrices.insert(info.range.start, (info, packed));
                }
                Err(e) => out.warnings.push(format!("{}: not packed: {e}", info.name)),
            }
        }
        out
    }

    /// What was packed.
    pub fn sums(&self) -> PackedSums {
        let bytes = |(info, packed): &(TensorInfo, SparseMatrix)| PackedSums {
            matrices: 1,
            file_bytes: info.range.len() as u64,
            bytes: packed.memory_bytes() as u64,
        };
        let add = |a: PackedSums, b: PackedSums| PackedSums {
            matrices: a.matrices + b.matrices,
            file_bytes: a.file_bytes + b.file_bytes,
            bytes: a.bytes + b.bytes,
        };
        self.matrices
            .values()
            .map(bytes)
            .fold(PackedSums::default(), add)
    }

    /// The matrix that has these rows, and the number of the first.
    pub(super) fn find(&self, m: &QMatrix) -> Option<(&SparseMatrix, usize)> {
        let (start, (info, packed)) = self.matrices.range(..=m.range.start).next_back()?;
        let inside = m.range.end <= info.range.end && m.rows > 0 && m.cols == packed.cols();
        inside.then(|| (packed, (m.range.start - start) / (m.range.len() / m.rows)))
    }
}
