//! What a conversion did: types, sizes and the error of every type.

use std::collections::BTreeMap;
use std::path::PathBuf;

use geb_kernels::dtype::Dtype;

use super::item::Item;
use super::sums::{Outcome, Sums, WorstBlock};
use geb::sparsity::percent;

/// One tensor of the output.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// GGUF name.
    pub name: String,
    /// Dimensions, contiguous first.
    pub dims: Vec<u64>,
    /// Type in the source (of the first part).
    pub from: Dtype,
    /// Type in the output.
    pub to: Dtype,
    /// Why not the base type; empty when it is.
    pub reason: &'static str,
    /// Bytes in the output.
    pub bytes: u64,
    /// Error sums; `n` is 0 before the tensor is written.
    pub sums: Sums,
    /// The block with the largest error.
    pub worst: WorstBlock,
    /// Weights that are NaN or infinite (only when allowed).
    pub nonfinite: u64,
    /// Weights that are zero in the output; counted for matrices of Q8_0.
    pub zeros: u64,
}

impl TensorReport {
    pub(super) fn new(item: &Item, bytes: u64) -> TensorReport {
        TensorReport {
            name: item.name.clone(),
            dims: item.dims.clone(),
            from: item.from,
            to: item.dtype,
            reason: item.reason.text(),
            bytes,
            sums: Sums::default(),
            worst: WorstBlock::default(),
            nonfinite: 0,
            zeros: 0,
        }
    }

    /// Weights.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bits per weight in the output.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elements().max(1) as f64
    }
}

/// All tensors of one output type together.
#[derive(Clone, Debug)]
pub struct TypeRow {
    /// Type in the output.
    pub dtype: Dtype,
    /// Tensors.
    pub tensors: usize,
    /// Weights.
    pub elements: u64,
    /// Bytes.
    pub bytes: u64,
    /// Error sums over all of them.
    pub sums: Sums,
}

/// What was (or, after a dry run, would be) written.
#[derive(Clone, Debug)]
pub struct Report {
    /// `general.architecture`.
    pub architecture: String,
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// Size of the file, as one.
    pub file_bytes: u64,
    /// Bytes of source weights read.
    pub source_bytes: u64,
    /// Tensors in file order.
    pub tensors: Vec<TensorReport>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(
        architecture: String,
        file_bytes: u64,
        source_bytes: u64,
        tensors: Vec<TensorReport>,
        notes: Vec<String>,
    ) -> Report {
        Report {
            architecture,
            files: Vec::new(),
            file_bytes,
            source_bytes,
            tensors,
            notes,
        }
    }

    pub(super) fn record(&mut self, i: usize, outcome: &Outcome) {
        self.tensors[i].sums = outcome.sums;
        self.tensors[i].worst = outcome.worst;
        self.tensors[i].nonfinite = outcome.nonfinite;
        self.tensors[i].zeros = outcome.zeros;
    }

    pub(super) fn finish(&mut self, allow_nonfinite: bool) {
        if allow_nonfinite {
            let bad = self.tensors.iter().filter(|t| t.nonfinite > 0);
            self.notes.extend(
                bad.map(|t| format!("{}: {} weights are NaN or infinite", t.name, t.nonfinite))
                    .collect::<Vec<_>>(),
            );
        }
    }

    /// Zeros of every tensor in per cent.
    pub(super) fn zero_percents(&self) -> Vec<u8> {
        let percent = |t: &TensorReport| percent(t.zeros, t.elements());
        self.tensors.iter().map(percent).collect()
    }

    /// Weights.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(TensorReport::elements).sum()
    }

    /// Bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.tensors.iter().map(|t| t.bytes).sum();
        bytes as f64 * 8.0 / self.elements().max(1) as f64
    }

    /// The tensors by output type, in the order of type ids.
    pub fn by_type(&self) -> Vec<TypeRow> {
        let mut rows: BTreeMap<Dtype, TypeRow> = BTreeMap::new();
        for t in &self.tensors {
            let row = rows.entry(t.to).or_insert(TypeRow {
                dtype: t.to,
                tensors: 0,
                elements: 0,
                bytes: 0,
                sums: Sums::default(),
            });
            row.tensors += 1;
            row.elements += t.elements();
            row.bytes += t.bytes;
            row.sums.add(&t.sums);
        }
        rows.into_values().collect()
    }
}
