//! What an engine is asked for.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use geb_kernels::level::Level;

use crate::model::SparseChoice;
use crate::threads::SharedPool;

/// Tokens of one batch: enough to fill the prefill tiles, few enough to stay in the caches.
pub const BATCH: usize = 512;
/// Context used when none is asked for and the model allows more.
pub const DEFAULT_CTX: usize = 4096;

/// Element type of the KV cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KvChoice {
    /// F32 for a model whose matrices are floats (a reference run), else F16.
    #[default]
    Auto,
    /// 4 bytes per element.
    F32,
    /// 2 bytes per element.
    F16,
    /// 8 bits and a scale per 32 elements of a head: 1.125 bytes per element.
    Q8_0,
}

/// What [`Sequence::tokens`](super::Sequence::tokens) has for a position that a vector was given for.
pub const VECTOR: u32 = u32::MAX;

/// How to run a model.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Threads; 0 takes [`default_threads`](crate::threads::default_threads).
    pub threads: usize,
    /// Threads that other engines use too, one at a time; they take the place of `threads`.
    pub pool: Option<SharedPool>,
    /// Positions of the context; `None` takes the trained length, at most [`DEFAULT_CTX`], 0 all of it.
    pub ctx: Option<usize>,
    /// Let `ctx` exceed the trained length, up to [`MAX_CONTEXT`](crate::limits::MAX_CONTEXT): rotations that were never
    /// trained. Not for models whose positions are a table.
    pub beyond: bool,
    /// KV cache type.
    pub kv: KvChoice,
    /// Instruction level; `None` takes the best of the host (or `GEB_ISA`).
    pub level: Option<Level>,
    /// Set to stop a forward pass at the next layer.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Matrices of which most weights are zero; changes speed and memory, never results.
    pub sparse: SparseChoice,
    /// Bytes that weights, cache and buffers may take: of a model with experts, those least recently
    /// used are given up.
    pub max_ram: Option<u64>,
    /// Keep what further heads of the model need ([`Engine::look_ahead`](super::Engine::look_ahead)), where it has any.
    pub extra_heads: bool,
    /// Sequences that pages of the KV cache are planned for; 0 is one. More can be made: the cache grows
    /// as far as there is memory, unless [`kv_memory`](Self::kv_memory) is given.
    pub streams: usize,
    /// Bytes of the pages of all sequences, which then never grow: a sequence that finds none left gets
    /// [`Error::Pages`](crate::Error::Pages).
    pub kv_memory: Option<u64>,
}

/// Which logits a forward pass returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// None: only the cache is filled.
    None,
    /// Those of the last token.
    Last,
    /// Those of every token.
    All,
}
