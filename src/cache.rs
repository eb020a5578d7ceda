//! The KV cache: keys and values per layer and KV head, each a run of blocks (`KvShape`).
//!
//! A model whose layers all have a window keeps a ring: the window and the largest batch, so that
//! a batch never overwrites what its own tokens see. What a batch wrote over is gone, which limits
//! how far a session can go back ([`KvCache::keeps`]).

use geb_kernels::float::{KvHead, KvShape, KvType};

use crate::error::{Error, Result};
use crate::model::Config;

/// Alignment of the cache: a cache line, so that no vector load crosses one.
const ALIGN: usize = 64;

/// Keys and values of one session: `[layers][KV heads][keys, values]`.
pub struct KvCache {
    data: Vec<u8>,
    /// Bytes before the first aligned one.
    skip: usize,
    shape: KvShape,
    heads: usize,
    window: usize,
    /// One past the highest position ever written since the cache was empty.
    written: usize,
}

/// Zeroed memory straight from the system: pages are touched when a position is first written.
fn zeroed(len: usize) -> Result<Vec<u8>> {
    let failed = |()| Error::Memory {
        what: "KV cache".into(),
        needed: len as u64,
        available: 0,
    };
    bytemuck::allocation::try_zeroed_vec(len).map_err(failed)
}

/// The shape of a head: the whole context, or a ring of the window and a batch if that is less.
fn shape(c: &Config, kv: KvType, ctx: usize, batch: usize) -> KvShape {
    let ring = c.widest_window().saturating_add(batch);
    KvShape::new(kv, c.head_size, ctx.min(ring))
}

/// Bytes of one layer.
fn layer_bytes(c: &Config, shape: KvShape) -> usize {
    2 * c.head_count_kv * shape.head_bytes()
}

impl KvCache {
    /// Bytes a cache for `ctx` positions takes, written in batches of at most `batch`.
    pub fn bytes(c: &Config, kv: KvType, ctx: usize, batch: usize) -> u64 {
        (c.block_count * layer_bytes(c, shape(c, kv, ctx, batch))) as u64
    }

    /// An empty cache for `ctx` positions, written in batches of at most `batch`; allocated once.
    pub fn new(c: &Config, kv: KvType, ctx: usize, batch: usize) -> Result<KvCache> {
        let shape = shape(c, kv, ctx, batch);
        let data = zeroed(c.block_count * layer_bytes(c, shape) + ALIGN)?;
        Ok(KvCache {
            skip: data.as_ptr().align_offset(ALIGN).min(ALIGN),
            data,
            shape,
            heads: c.head_count_kv,
            window: c.widest_window(),
            written: 0,
        })
    }

    /// Type and layout of a head.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Bytes of one position, all layers together.
    pub fn position_bytes(&self) -> u64 {
        ((self.data.len() - ALIGN) / self.shape.positions()) as u64
    }

    /// Keys and values of one head of one layer.
    pub fn head(&self, layer: usize, head: usize) -> KvHead<'_> {
        let bytes = self.shape.head_bytes();
        let at = self.skip + (layer * self.heads + head) * 2 * bytes;
        let (keys, values) = self.data[at..at + 2 * bytes].split_at(bytes);
        KvHead::new(self.shape, keys, values)
    }

    /// All heads of one layer: `[KV heads][keys, values]`, [`KvShape::head_bytes`] each.
    pub fn layer_mut(&mut self, layer: usize) -> &mut [u8] {
        let bytes = 2 * self.heads * self.shape.head_bytes();
        let at = self.skip + layer * bytes;
        &mut self.data[at..at + bytes]
    }

    /// To be called before the positions up to `end` are written.
    pub fn will_write(&mut self, end: usize) {
        self.written = self.written.max(end);
    }

    /// How many of the first `n` positions are left when the later ones are given up: all of them
    /// or, when a ring has lost some that the next token would see, none.
    ///
    /// Going back by as many positions as the largest batch has is always exact, counted from the
    /// highest position written since the cache was last empty.
    pub fn keeps(&mut self, n: usize) -> usize {
        let sees_from = (n + 1).saturating_sub(self.window);
        let lost = self.written.saturating_sub(self.shape.positions());
        let kept = if n > 0 && lost > sees_from { 0 } else { n };
        if kept == 0 {
            self.written = 0;
        }
        kept
    }
}
