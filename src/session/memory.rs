//! Bytes that a session takes and reads.

use super::Session;
use crate::model::PackedSums;
use crate::model::adapters::Adapters;

/// Bytes of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionMemory {
    /// Weights: in the file (mapped, not copied), or packed.
    pub weights: u64,
    /// KV cache.
    pub kv: u64,
    /// Buffers of a batch.
    pub scratch: u64,
    /// Adapters in use.
    pub adapters: u64,
}

impl Session {
    /// Bytes of weights, cache and buffers.
    pub fn memory(&self) -> SessionMemory {
        let tensors = self.engine.model.file().tensors();
        SessionMemory {
            weights: self.packed_of(tensors.map(|t| t.bytes().len() as u64).sum()),
            kv: self.engine.kv_bytes() + self.engine.state_bytes(),
            scratch: self.engine.scratch,
            adapters: self.seq.adapters.as_ref().map_or(0, Adapters::bytes),
        }
    }

    /// Matrices that were packed because most of their weights are zero.
    pub fn packed(&self) -> PackedSums {
        let packed = self
            .engine
            .model
            .packed(self.engine.sparse, self.engine.kernels);
        packed.map_or(PackedSums::default(), |p| p.sums())
    }

    /// What the user should know about matrices that were not packed.
    pub fn warnings(&self) -> &[String] {
        let packed = self
            .engine
            .model
            .packed(self.engine.sparse, self.engine.kernels);
        packed.map_or(&[], |p| &p.warnings)
    }

    /// Bytes of weights read to decode one token: [`Model::bytes_per_token`](crate::model::Model::bytes_per_token)
    /// with packed matrices as they are in memory.
    pub fn bytes_per_token(&self) -> u64 {
        self.packed_of(self.engine.model.bytes_per_token())
    }

    /// What so many bytes of weights are with packed matrices.
    fn packed_of(&self, bytes: u64) -> u64 {
        let packed = self.packed();
        bytes.saturating_sub(packed.file_bytes) + packed.bytes
    }
}
