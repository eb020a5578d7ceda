//! Passes of one sequence: a look into its layers, and looks ahead of its last token at the price of a part of
//! a pass (the first layers alone, further heads). A look does not change what the sequence holds.

use std::ops::Range;

use super::{BATCH, Engine, Heads, Sequence};
use crate::cache::Part;
use crate::error::{Error, Result};
use crate::model::forward::{Buffers, Pass, Segment};
use crate::model::observer::Observer;

/// Most tokens of a pass that verifies guesses.
const VERIFY: usize = 32;

/// What one sequence gives to a pass of its own.
pub(crate) struct Alone<'a> {
    pub(crate) input: Segment<'a>,
    /// Rows of the input whose logits are asked for.
    pub(crate) wanted: Range<usize>,
    /// Position of its first row.
    pub(crate) first: usize,
    /// Layers that it goes through.
    pub(crate) layers: usize,
    pub(crate) observer: Option<&'a mut dyn Observer>,
}

impl Alone<'_> {
    /// A pass at this position over what the buffers have already.
    pub(crate) fn again(first: usize) -> Self {
        Alone {
            input: Segment::Tokens(&[]),
            wanted: 0..0,
            first,
            layers: 0,
            observer: None,
        }
    }
}

impl Engine {
    /// Calls `f` as the leader of the team with `self.logits[logits]`.
    pub(crate) fn lead_alone(
        &mut self,
        seq: &mut Sequence,
        alone: Alone<'_>,
        logits: Range<usize>,
        f: impl FnOnce(&mut Pass<'_, '_>, &mut Buffers, &mut [f32]) -> Result<()> + Send,
    ) -> Result<()> {
        let n = alone.input.len(self.model.config().embedding_length);
        let mut span = seq.span(alone.input, 0..n, alone.wanted);
        span.first = alone.first;
        let places = [(0, alone.first)];
        let (layers, observer) = (alone.layers, alone.observer);
        self.lead(None, vec![span], &places, layers, logits, observer, f)
    }

    /// One pass, whose logits of the wanted rows must be finite.
    pub(crate) fn pass_alone(
        &mut self,
        seq: &mut Sequence,
        alone: Alone<'_>,
        logits: Range<usize>,
    ) -> Result<()> {
        let end = alone.first + alone.input.len(self.model.config().embedding_length);
        self.pages_for(&mut seq.table, Part::Layers, alone.first..end)?;
        self.ropes.extend(end);
        let at = alone.first + alone.wanted.start;
        let done = self
            .lead_alone(seq, alone, logits.clone(), |pass, b, out| pass.run(b, out))
            .and_then(|()| self.finite(logits, at));
        if done.is_err() {
            seq.go_back();
        }
        done
    }

    /// Logits `[n, vocab]` of the first `n` further heads after the last token: row `i` is a guess of the
    /// token `i + 2` positions behind it (the next one is what [`Engine::step`] is about).
    ///
    /// # Errors
    /// [`Error::Request`] for more heads than there are, and before the first token;
    /// [`Error::Interrupted`] when cancelled; [`Error::NonFinite`].
    pub fn look_ahead(&mut self, seq: &mut Sequence, n: usize) -> Result<&[f32]> {
        let (end, have) = (seq.tokens.len(), seq.extra_heads());
        let Some(mut heads) = seq.heads.take_if(|_| end > 0 && n <= have) else {
            return Err(Error::Request {
                what: "heads to ask".into(),
                value: format!("{n} after {end} tokens"),
                allowed: format!("at most {have}, after the first token"),
            });
        };
        self.want(n)?;
        let step = BATCH.min(self.ctx);
        let logits = 0..self.wanted;
        let ready = self.pages_for(&mut seq.table, Part::Heads, 0..end);
        let done = ready.and_then(|()| {
            let (again, out) = (Alone::again(end), logits.clone());
            self.lead_alone(seq, again, out, |pass, buffers, out| {
                heads.run(pass, buffers, (end, step), out)
            })
        });
        seq.heads = Some(heads);
        done?;
        self.finite(logits, end)?;
        Ok(&self.logits[..self.wanted])
    }

    /// Evaluates `token`, `ahead` positions behind the end, with the first `layers` layers only, the
    /// output norm and the output matrix (early exit, arXiv 2404.16710); returns its logits `[vocab]`.
    ///
    /// The tokens between the end and `token` must have gone the same way before. The sequence keeps
    /// its length: what this leaves behind its end is written again by the next pass.
    ///
    /// # Errors
    /// As [`Engine::step`], and [`Error::Request`] for a number of layers that the model has not.
    pub fn exit_early(
        &mut self,
        seq: &mut Sequence,
        token: u32,
        ahead: usize,
        layers: usize,
    ) -> Result<&[f32]> {
        let first = seq.tokens.len().saturating_add(ahead);
        self.check_layers(seq, layers)?;
        self.check(seq, &[token], first)?;
        self.want(1)?;
        let alone = Alone {
            input: Segment::Tokens(&[token]),
            wanted: 0..1,
            first,
            layers,
            observer: None,
        };
        self.pass_alone(seq, alone, 0..self.wanted)?;
        Ok(&self.logits[..self.wanted])
    }

    /// Refuses an exit layer that this model has not, and any for a model that keeps a state.
    pub(crate) fn check_layers(&self, seq: &Sequence, layers: usize) -> Result<()> {
        if !seq.state.is_empty() {
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

impl Sequence {
    /// Further heads that [`Engine::look_ahead`] can ask: none unless
    /// [`SessionOptions::extra_heads`](super::SessionOptions::extra_heads) was set.
    pub fn extra_heads(&self) -> usize {
        self.heads.as_ref().map_or(0, Heads::count)
    }

    /// Most tokens that one pass verifies: logits are the same bits for any batch, but longer guesses
    /// seldom hold.
    ///
    /// One for a model that keeps a state: it cannot take back what it has seen of wrong guesses.
    pub fn verify_batch(&self) -> usize {
        if self.state.is_empty() { VERIFY } else { 1 }
    }
}
