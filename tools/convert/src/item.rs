//! Tensors to be written, and what they are made of.

use geb_kernels::dtype::Dtype;

use super::checkpoint::Checkpoint;
use super::made::Made;
use super::policy::Reason;
use super::rows::Part;

/// Where the rows of an output tensor come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Rows of checkpoint tensors.
    Rows(Vec<Part>),
    /// Values made from the configuration.
    Values(Vec<f32>),
    /// A small tensor computed from whole tensors of the checkpoint.
    Made(Made),
}

/// An output tensor before its type is chosen.
#[derive(Clone, Debug)]
pub struct Output {
    /// GGUF name.
    pub name: String,
    /// Dimensions in GGUF order (contiguous first).
    pub dims: Vec<u64>,
    /// What it is made of.
    pub source: Source,
}

impl Output {
    /// The rows it is made of, in order; none for a tensor that is computed.
    pub fn parts(&self) -> &[Part] {
        match &self.source {
            Source::Rows(parts) => parts,
            Source::Values(_) | Source::Made(_) => &[],
        }
    }
}

/// One tensor to be written.
#[derive(Debug)]
pub(super) struct Item {
    pub name: String,
    pub dims: Vec<u64>,
    pub from: Dtype,
    pub dtype: Dtype,
    pub reason: Reason,
    pub source: Source,
}

impl Item {
    /// A remark for the user.
    pub fn note(&self) -> Option<String> {
        (self.reason == Reason::Fallback).then(|| {
            format!(
                "{}: rows of {} weights do not fill blocks: {}",
                self.name, self.dims[0], self.dtype
            )
        })
    }

    /// Bytes of the source that it is made of.
    pub fn source_bytes(&self, checkpoint: &Checkpoint) -> u64 {
        let parts = match &self.source {
            Source::Rows(parts) => parts,
            Source::Made(made) => return made.source_bytes(checkpoint),
            Source::Values(_) => return 0,
        };
        let one = |p: &Part| {
            let t = &checkpoint.tensors()[p.tensor];
            // Rows of the map are rows of the source, or single elements of a vector.
            let all = if t.shape.len() == 1 || p.transposed {
                t.cols()
            } else {
                t.rows()
            }
            .max(1) as u64;
            (u128::from(t.stored()) * p.rows.len() as u128 / u128::from(all)) as u64
        };
        parts.iter().map(one).sum()
    }
}
