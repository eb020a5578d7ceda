//! How many weights of a tensor are zero: what pruning left (arXiv 2405.03594), seen through the type of
//! the file. F32, F16, BF16, Q8_0 and Q4_0 keep zeros; types with a minimum per block do not.

use std::collections::HashSet;

use geb_kernels::Kernels;
use geb_kernels::dtype::Dtype;

use crate::gguf::{GgufFile, TensorView, Value, ValueType};

/// Zeros of each tensor in whole per cent, rounded down: one byte per tensor, in file order. Written into
/// files that have Q8_0 matrices, 0 for other tensors.
pub const ZERO_PERCENT: &str = "geb.tensors.zero_percent";
/// Per cent of zeros from which on a matrix is packed: then it has about half of the bytes, and its
/// products are faster from memory (`docs/performance.md`).
pub const PACKED_FROM: u8 = 62;

/// Whether a tensor may be packed if it has enough zeros: matrices of Q8_0. Of other types either zeros do
/// not stay zeros, or fewer bytes do not make products faster.
pub fn worth_packing(dtype: Dtype, dims: &[u64]) -> bool {
    dtype == Dtype::Q8_0 && dims.len() == 2
}

/// Whole per cent, rounded down.
pub fn percent(zeros: u64, weights: u64) -> u8 {
    (u128::from(zeros) * 100 / u128::from(weights.max(1))).min(100) as u8
}

/// Weights that are looked at together: what one block of the common types holds.
pub const GROUP: usize = 32;
/// Weights decoded at a time, a multiple of every block length.
const PIECE: usize = 1 << 14;

/// The matrices of which the file says that they have enough zeros; what is wrong with the key is added to
/// `warnings`, and nothing is marked then.
pub fn marked<'a>(file: &'a GgufFile, warnings: &mut Vec<String>) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (part, path) in file.parts() {
        let tensors = part.own_tensors();
        let percents = match part.get(ZERO_PERCENT) {
            None => continue,
            Some(Value::Array(a)) if a.elem == ValueType::U8 && a.len == tensors.len() => a,
            Some(_) => {
                let (path, n) = (path.display(), tensors.len());
                warnings.push(format!(
                    "{path}: {ZERO_PERCENT} is not an array of {n} bytes, ignored"
                ));
                continue;
            }
        };
        let enough = |p: Value<'_>| p.as_int().is_some_and(|p| p >= PACKED_FROM.into());
        let found = tensors
            .iter()
            .zip(percents.iter())
            .filter(|(_, p)| enough(*p));
        let found = found.filter(|(t, _)| worth_packing(t.dtype, &t.dims));
        names.extend(found.map(|(t, _)| t.name.as_str()));
    }
    names
}

/// Counts of one or several tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Zeros {
    /// All weights.
    pub weights: u64,
    /// Those that are zero.
    pub zeros: u64,
    /// Groups of [`GROUP`] weights in a row.
    pub groups: u64,
    /// Groups in which all weights are zero.
    pub empty: u64,
}

impl Zeros {
    /// Counts the zeros of a tensor; `None` for a type without decoder.
    pub fn of(tensor: &TensorView<'_>, kernels: &Kernels) -> Option<Zeros> {
        let dtype = tensor.dtype();
        if !kernels.supports(dtype) {
            return None;
        }
        let mut sum = Zeros::default();
        let mut values = vec![0.0; PIECE];
        let piece = PIECE / dtype.block_len() * dtype.block_bytes();
        for bytes in tensor.bytes().chunks(piece) {
            let n = bytes.len() / dtype.block_bytes() * dtype.block_len();
            let values = &mut values[..n];
            kernels.dequantize(dtype, bytes, values);
            for group in values.chunks(GROUP) {
                let zeros = group.iter().filter(|v| **v == 0.0).count();
                sum.add(&Zeros {
                    weights: group.len() as u64,
                    zeros: zeros as u64,
                    groups: 1,
                    empty: (zeros == group.len()).into(),
                });
            }
        }
        Some(sum)
    }

    /// Adds the counts of another tensor.
    pub fn add(&mut self, other: &Zeros) {
        self.weights += other.weights;
        self.zeros += other.zeros;
        self.groups += other.groups;
        self.empty += other.empty;
    }

    /// Zeros in per cent of the weights.
    pub fn percent(&self) -> f64 {
        100.0 * self.zeros as f64 / self.weights.max(1) as f64
    }

    /// Empty groups in per cent of the groups.
    pub fn empty_percent(&self) -> f64 {
        100.0 * self.empty as f64 / self.groups.max(1) as f64
    }
}
