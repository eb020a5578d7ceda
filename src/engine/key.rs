//! What makes the states behind equal inputs equal.

use sha2::{Digest, Sha256};

/// Who may find what was computed for whom: equal scopes only. All zeros is a scope like others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scope(pub [u8; 32]);

/// What makes the states behind equal inputs of one model and type of cache equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SeqKey(pub(super) [u8; 32]);

impl SeqKey {
    /// The key of sequences of a scope, with adapters of this identity and an encoder's text.
    pub(super) fn new(scope: &Scope, adapters: Option<[u8; 32]>, text: &[u32]) -> SeqKey {
        let mut hash = Sha256::new();
        hash.update(scope.0);
        hash.update(adapters.unwrap_or_default());
        for id in text {
            hash.update(id.to_le_bytes());
        }
        SeqKey(hash.finalize().into())
    }
}
