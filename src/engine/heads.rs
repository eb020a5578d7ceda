//! Further heads of a model, as a sequence keeps them.

use crate::error::Result;
use crate::model::Config;
use crate::model::forward::{Buffers, Pass};
use crate::ram;

/// What further heads need besides pages.
pub(crate) struct Heads {
    /// What went into the last layer at each position, `[context, E]`.
    trunk: Vec<f32>,
    /// Positions that each head has seen: it comes after when it is asked.
    seen: Vec<usize>,
    ctx: usize,
}

impl Heads {
    /// Bytes for `count` heads and a context of `ctx`.
    pub(crate) fn bytes(c: &Config, count: usize, ctx: usize) -> u64 {
        match count {
            0 => 0,
            _ => 4 * (ctx * c.embedding_length) as u64,
        }
    }

    /// Heads that have seen nothing; `None` for a count of 0.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn new(c: &Config, count: usize, ctx: usize) -> Result<Option<Heads>> {
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(Heads {
            trunk: zeros(ctx * c.embedding_length)?,
            seen: vec![0; count],
            ctx,
        }))
    }

    /// The same behind the first `at` positions; the heads read them again.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(super) fn fork(&self, at: usize) -> Result<Heads> {
        let mut trunk = zeros(self.trunk.len())?;
        let held = at * self.trunk.len() / self.ctx;
        trunk[..held].copy_from_slice(&self.trunk[..held]);
        Ok(Heads {
            trunk,
            seen: vec![0; self.seen.len()],
            ctx: self.ctx,
        })
    }

    /// Where a pass leaves what goes into the last layer.
    pub(crate) fn trunk(&mut self) -> &mut [f32] {
        &mut self.trunk
    }

    /// How many heads there are.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Forgets the positions from `n` on.
    pub(crate) fn truncate(&mut self, n: usize) {
        self.seen.iter_mut().for_each(|seen| *seen = n.min(*seen));
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

fn zeros(len: usize) -> Result<Vec<f32>> {
    let refused = |()| ram::refused("further heads", 4 * len as u64);
    bytemuck::allocation::try_zeroed_vec(len).map_err(refused)
}
