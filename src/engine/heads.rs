//! Further heads of a model, as a sequence keeps them.

use std::ops::Range;

use geb_kernels::float::KvType;

use crate::cache::KvCache;
use crate::error::Result;
use crate::model::Config;
use crate::model::forward::{Buffers, Pass};
use crate::ram;

/// What further heads need.
pub(crate) struct Heads {
    /// Keys and values of their layers.
    pub(crate) cache: KvCache,
    /// What went into the last layer at each position, `[context, E]`.
    trunk: Vec<f32>,
    /// Positions that each head has seen: it comes after when it is asked.
    seen: Vec<usize>,
    ctx: usize,
    needed: u64,
}

impl Heads {
    /// Bytes for the first `count` heads of a model, as [`KvCache::bytes`].
    pub(crate) fn bytes(c: &Config, count: usize, kv: KvType, sizes: [usize; 2]) -> u64 {
        let trunk = if count > 0 {
            4 * sizes[0] * c.embedding_length
        } else {
            0
        };
        let own = c.block_count..c.block_count + count;
        KvCache::bytes(c, own, kv, sizes) + trunk as u64
    }

    /// Heads that have seen nothing; `None` for a count of 0.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(crate) fn new(
        c: &Config,
        count: usize,
        kv: KvType,
        sizes: [usize; 2],
    ) -> Result<Option<Heads>> {
        if count == 0 {
            return Ok(None);
        }
        let needed = Self::bytes(c, count, kv, sizes);
        let no_memory = |()| ram::refused("further heads", needed);
        let trunk = sizes[0] * c.embedding_length;
        Ok(Some(Heads {
            cache: KvCache::new(c, c.block_count..c.block_count + count, kv, sizes)?,
            trunk: bytemuck::allocation::try_zeroed_vec(trunk).map_err(no_memory)?,
            seen: vec![0; count],
            ctx: sizes[0],
            needed,
        }))
    }

    /// Bytes they take.
    pub(crate) fn held(&self) -> u64 {
        self.needed
    }

    /// Where a pass leaves what goes into the last layer.
    pub(crate) fn trunk(&mut self) -> &mut [f32] {
        &mut self.trunk
    }

    /// What went into the last layer at these positions.
    pub(crate) fn rows(&self, positions: Range<usize>) -> &[f32] {
        let e = self.width();
        &self.trunk[positions.start * e..positions.end * e]
    }

    /// Numbers of a position.
    pub(crate) fn width(&self) -> usize {
        self.trunk.len() / self.ctx
    }

    /// Other tokens take these positions, the last ones: `rows` went into the last layer there.
    pub(crate) fn rewrite(&mut self, positions: Range<usize>, rows: &[f32]) {
        self.truncate(positions.start);
        let at = positions.start * self.width();
        self.trunk[at..at + rows.len()].copy_from_slice(rows);
    }

    /// How many heads there are.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Forgets the positions from `n` on.
    pub(crate) fn truncate(&mut self, n: usize) {
        if self.seen.iter().all(|seen| *seen <= n) {
            return;
        }
        let kept = self.cache.keeps(n);
        self.seen
            .iter_mut()
            .for_each(|seen| *seen = kept.min(*seen));
    }

    /// Logits `[n, vocab]` of the first `n` heads after position `end - 1`.
    pub(crate) fn run(
        &mut self,
        pass: &mut Pass<'_, '_>,
        b: &mut Buffers,
        (end, step): (usize, usize),
        logits: &mut [f32],
    ) -> Result<()> {
        let c = pass.model.config();
        let (n, e) = (logits.len() / c.vocab, c.embedding_length);
        let mut states = vec![0.0; n * e];
        for (i, out) in states.chunks_exact_mut(e).enumerate() {
            // What it has seen of the last position gave it no state to keep.
            let mut at = self.seen[i].min(end - 1);
            while at < end {
                let next = end.min(at + step);
                let out = (next == end).then_some(&mut *out);
                pass.head_layer(b, i, (at, &self.trunk[at * e..next * e]), out)?;
                (at, self.seen[i]) = (next, next);
            }
        }
        pass.lens(b, &states, logits);
        Ok(())
    }
}
