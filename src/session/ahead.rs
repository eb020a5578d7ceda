//! Looks ahead of the last token, at the price of a part of a pass: the first layers alone, and further
//! heads. Neither changes what the session holds.

use super::{BATCH, Segment, Session};
use crate::cache::Part;
use crate::engine::Heads;
use crate::error::{Error, Result};

/// Most tokens of a pass that verifies guesses.
const VERIFY: usize = 32;

impl Session {
    /// Further heads that [`Session::look_ahead`] can ask: none unless
    /// [`SessionOptions::extra_heads`](super::SessionOptions::extra_heads) was set.
    pub fn extra_heads(&self) -> usize {
        self.seq.heads.as_ref().map_or(0, Heads::count)
    }

    /// Logits `[n, vocab]` of the first `n` further heads after the last token: row `i` is a guess of the
    /// token `i + 2` positions behind it (the next one is what [`Session::forward`] is about).
    ///
    /// # Errors
    /// [`Error::Request`] for more heads than there are, and before the first token;
    /// [`Error::Interrupted`] when cancelled; [`Error::NonFinite`].
    pub fn look_ahead(&mut self, n: usize) -> Result<&[f32]> {
        let (end, have) = (self.seq.tokens.len(), self.extra_heads());
        let Some(mut heads) = self.seq.heads.take_if(|_| end > 0 && n <= have) else {
            return Err(Error::Request {
                what: "heads to ask".into(),
                value: format!("{n} after {end} tokens"),
                allowed: format!("at most {have}, after the first token"),
            });
        };
        self.engine.want(n)?;
        self.batch = 0;
        let step = BATCH.min(self.engine.ctx);
        let ready = self
            .engine
            .pages_for(&mut self.seq.table, Part::Heads, 0..end);
        let logits = 0..self.engine.wanted;
        let done = ready.and_then(|()| {
            self.team(
                super::NOTHING,
                end,
                0,
                logits.clone(),
                None,
                |pass, buffers, out| heads.run(pass, buffers, (end, step), out),
            )
        });
        self.seq.heads = Some(heads);
        done?;
        self.engine.finite(logits, end)?;
        Ok(self.logits())
    }

    /// Most tokens that one pass verifies: logits are the same bits for any batch, but longer guesses
    /// seldom hold.
    ///
    /// One for a model that keeps a state: it cannot take back what it has seen of wrong guesses.
    pub fn verify_batch(&self) -> usize {
        if self.seq.state.is_empty() { VERIFY } else { 1 }
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
        let first = self.seq.tokens.len().saturating_add(ahead);
        self.check_layers(layers)?;
        self.engine.check(&self.seq, &[token], first)?;
        self.engine.want(1)?;
        let logits = 0..self.engine.model.config().vocab;
        self.pass(Segment::Tokens(&[token]), first, layers, logits, None)?;
        Ok(self.logits())
    }

    /// Refuses an exit layer that this model has not, and any for a model that keeps a state.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<()> {
        if !self.seq.state.is_empty() {
            return Err(Error::Request {
                what: "exit layer".into(),
                value: layers.to_string(),
                allowed: "none: the state of a recurrent model would see the guesses".into(),
            });
        }
        let count = self.engine.model.config().block_count;
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
