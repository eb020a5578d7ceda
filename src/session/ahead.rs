//! Looks ahead of the last token, at the price of a part of a pass: the first layers alone, and further
//! heads. Neither changes what the session holds.

use std::ops::Range;

use geb_kernels::float::KvType;

use super::{BATCH, Segment, Session};
use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::forward::{Buffers, Pass};
use crate::ram;

/// Most tokens of a pass that verifies guesses.
const VERIFY: usize = 32;

/// What further heads need.
pub(super) struct Heads {
    /// Keys and values of their layers.
    cache: KvCache,
    /// What went into the last layer at each position, `[context, E]`.
    trunk: Vec<f32>,
    /// Positions that each head has seen: it comes after when it is asked.
    seen: Vec<usize>,
    ctx: usize,
    needed: u64,
}

impl Heads {
    /// Bytes for the first `count` heads of a model, as [`KvCache::bytes`].
    pub(super) fn bytes(c: &Config, count: usize, kv: KvType, sizes: [usize; 2]) -> u64 {
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
    pub(super) fn new(
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
    pub(super) fn held(&self) -> u64 {
        self.needed
    }

    /// Where a pass leaves what goes into the last layer.
    pub(super) fn trunk(&mut self) -> &mut [f32] {
        &mut self.trunk
    }

    /// What went into the last layer at these positions.
    pub(super) fn rows(&self, positions: Range<usize>) -> &[f32] {
        let e = self.width();
        &self.trunk[positions.start * e..positions.end * e]
    }

    /// Numbers of a position.
    pub(super) fn width(&self) -> usize {
        self.trunk.len() / self.ctx
    }

    /// Other tokens take these positions, the last ones: `rows` went into the last layer there.
    pub(super) fn rewrite(&mut self, positions: Range<usize>, rows: &[f32]) {
        self.truncate(positions.start);
        let at = positions.start * self.width();
        self.trunk[at..at + rows.len()].copy_from_slice(rows);
    }

    /// Forgets the positions from `n` on.
    pub(super) fn truncate(&mut self, n: usize) {
        if self.seen.iter().all(|seen| *seen <= n) {
            return;
        }
        let kept = self.cache.keeps(n);
        self.seen
            .iter_mut()
            .for_each(|seen| *seen = kept.min(*seen));
    }

    /// Logits `[n, vocab]` of the first `n` heads after position `end - 1`.
    fn run(
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
                pass.first = at;
                let out = (next == end).then_some(&mut *out);
                pass.head_layer(b, i, &self.trunk[at * e..next * e], out)?;
                (at, self.seen[i]) = (next, next);
            }
        }
        pass.lens(b, &states, logits);
        Ok(())
    }
}

impl Session {
    /// Further heads that [`Session::look_ahead`] can ask: none unless
    /// [`SessionOptions::extra_heads`](super::SessionOptions::extra_heads) was set.
    pub fn extra_heads(&self) -> usize {
        self.heads.as_ref().map_or(0, |h| h.seen.len())
    }

    /// Logits `[n, vocab]` of the first `n` further heads after the last token: row `i` is a guess of the
    /// token `i + 2` positions behind it (the next one is what [`Session::forward`] is about).
    ///
    /// # Errors
    /// [`Error::Request`] for more heads than there are, and before the first token;
    /// [`Error::Interrupted`] when cancelled; [`Error::NonFinite`].
    pub fn look_ahead(&mut self, n: usize) -> Result<&[f32]> {
        let (end, have) = (self.tokens.len(), self.extra_heads());
        let Some(mut heads) = self.heads.take_if(|_| end > 0 && n <= have) else {
            return Err(Error::Request {
                what: "heads to ask".into(),
                value: format!("{n} after {end} tokens"),
                allowed: format!("at most {have}, after the first token"),
            });
        };
        self.want(n)?;
        self.batch = 0;
        let step = BATCH.min(self.ctx);
        std::mem::swap(&mut self.cache, &mut heads.cache);
        let logits = 0..self.wanted;
        let done = self.team(end, 0, logits.clone(), None, |pass, buffers, out| {
            heads.run(pass, buffers, (end, step), out)
        });
        std::mem::swap(&mut self.cache, &mut heads.cache);
        self.heads = Some(heads);
        done?;
        self.finite(logits, end)?;
        Ok(self.logits())
    }

    /// Most tokens that one pass verifies: logits are the same bits for any batch, but longer guesses
    /// seldom hold.
    ///
    /// One for a model that keeps a state: it cannot take back what it has seen of wrong guesses.
    pub fn verify_batch(&self) -> usize {
        if self.state.is_empty() { VERIFY } else { 1 }
    }

    /// Evaluates `token`, `ahead` positions behind the end, with the first `layers` layers only, the
    /// output norm and the output matrix (early exit, arXiv 2404.16710); returns its logits `[vocab]`.
    ///
    /// The tokens between the end and `token` must have gone the same way before. The session keeps
    /// its length: what this leaves behind the end of the cache is written again by the next forward pass.
    ///
    /// # Errors
    /// As [`Session::forward`], and [`Error::Request`] for a number of layers that the model has not.
    pub fn exit_early(&mut self, token: u32, ahead: usize, layers: usize) -> Result<&[f32]> {
        let first = self.tokens.len().saturating_add(ahead);
        self.check_layers(layers)?;
        self.check(&[token], first)?;
        self.want(1)?;
        let logits = 0..self.model.config().vocab;
        self.pass(Segment::Tokens(&[token]), first, layers, logits, None)?;
        Ok(self.logits())
    }

    /// Refuses an exit layer that this model has not, and any for a model that keeps a state.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<()> {
        if !self.state.is_empty() {
            return Err(Error::Request {
                what: "exit layer".into(),
                value: layers.to_string(),
                allowed: "none: the state of a recurrent model would see the guesses".into(),
            });
        }
        let count = self.model.config().block_count;
        if (1..=count).contains(&layers) {
            return Ok(());
        }
        Err(Error::Request {
            what: "exit layer".into(),
            value: layers.to_string(),
            allowed: format!("1..={count}, the layers of the model"),
        })
    }
}
