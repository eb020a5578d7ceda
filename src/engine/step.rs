//! One pass over the weights for spans of any number of sequences.

use std::ops::Range;

use super::{Engine, Sequence, Want, check_vectors};
use crate::cache::Part;
use crate::error::{Error, Result};
use crate::model::forward::Segment;

/// Tokens that a step appends to a sequence.
pub struct Span<'a> {
    /// The sequence.
    pub seq: &'a mut Sequence,
    /// What is appended: one token of a decode, or a piece of a prompt.
    pub input: Segment<'a>,
    /// Which logits are asked for.
    pub want: Want,
}

impl Span<'_> {
    /// Rows whose logits are asked for, counted from its first; `e`: width of the model.
    fn wanted(&self, e: usize) -> Range<usize> {
        let n = self.input.len(e);
        match self.want {
            Want::None => n..n,
            Want::Last => n - 1..n,
            Want::All => 0..n,
        }
    }
}

/// What a step found.
pub struct Output<'a> {
    /// Logits, `[rows, vocab]`, span after span.
    pub logits: &'a [f32],
    /// Rows of each span; empty for a span that failed.
    pub rows: Vec<Range<usize>>,
    /// Spans that failed, by number: their sequences are as before, the others went on.
    pub failed: Vec<(usize, Error)>,
}

impl Output<'_> {
    /// Logits of a span: `[rows, vocab]`.
    pub fn of(&self, span: usize, vocab: usize) -> &[f32] {
        &self.logits[self.rows[span].start * vocab..self.rows[span].end * vocab]
    }
}

impl Engine {
    /// Appends to every span's sequence in one pass over the weights: prompts and decodes in any
    /// mixture. Each gets the bits that it would get alone.
    ///
    /// A span that cannot run (a token outside the vocabulary, no room in its context, logits that are
    /// not finite) fails alone; its sequence keeps what it held, one with a recurrent state what it can go
    /// back to.
    ///
    /// # Errors
    /// [`Error::Request`] for more rows than [`Engine::batch`] and for a sequence of another engine (nothing is
    /// changed); [`Error::Interrupted`] when cancelled: no sequence has grown.
    pub fn step(&mut self, spans: &mut [Span<'_>]) -> Result<Output<'_>> {
        self.check_step(spans)?;
        let c = self.model.config();
        let (e, vocab) = (c.embedding_length, c.vocab);
        let mut errors = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let (first, n) = (span.seq.tokens.len(), span.input.len(e));
            let ready = self
                .check_span(span)
                .and_then(|()| self.pages_for(&mut span.seq.table, Part::Layers, first..first + n));
            errors.push(ready.err());
        }
        let mut end = 0;
        let mut rows = Vec::with_capacity(spans.len());
        for (span, error) in spans.iter().zip(&errors) {
            let wanted = if error.is_none() {
                span.wanted(e).len()
            } else {
                0
            };
            rows.push(end..end + wanted);
            end += wanted;
        }
        self.want(end)?;
        let done = self.pass(spans, &errors);
        for (i, span) in spans.iter_mut().enumerate() {
            if errors[i].is_some() {
                continue;
            }
            let n = span.input.len(e);
            let first = span.seq.tokens.len() + n - rows[i].len();
            let logits = rows[i].start * vocab..rows[i].end * vocab;
            match (&done, self.finite(logits, first)) {
                (Ok(()), Ok(())) => {
                    span.seq.append(span.input, n);
                    self.remember(span.seq);
                }
                (Ok(()), Err(error)) => {
                    span.seq.go_back();
                    rows[i] = 0..0;
                    errors[i] = Some(error);
                }
                (Err(_), _) => span.seq.go_back(),
            }
        }
        done?;
        let failed = errors.into_iter().enumerate();
        Ok(Output {
            logits: &self.logits[..self.wanted],
            rows,
            failed: failed.filter_map(|(i, e)| Some((i, e?))).collect(),
        })
    }

    /// One pass over the spans without errors, which writes the logits that they want.
    fn pass(&mut self, spans: &mut [Span<'_>], errors: &[Option<Error>]) -> Result<()> {
        let c = self.model.config();
        let (e, layers) = (c.embedding_length, c.block_count);
        let (mut views, mut places) = (Vec::new(), Vec::new());
        let (mut row, mut end) = (0, 0);
        for (span, error) in spans.iter_mut().zip(errors) {
            if error.is_some() {
                continue;
            }
            let (n, first) = (span.input.len(e), span.seq.tokens.len());
            if n > 1 {
                span.seq.state.mark(first);
            }
            places.push((row, first));
            end = end.max(first + n);
            let wanted = span.wanted(e);
            views.push(span.seq.span(span.input, row..row + n, wanted));
            row += n;
        }
        if views.is_empty() {
            return Ok(());
        }
        self.ropes.extend(end);
        let logits = 0..self.wanted;
        self.lead(
            None,
            views,
            &places,
            layers,
            logits,
            None,
            |pass, b, out| pass.run(b, out),
        )
    }

    /// Whether a step of these spans can begin.
    fn check_step(&self, spans: &[Span<'_>]) -> Result<()> {
        let e = self.model.config().embedding_length;
        let total: usize = spans.iter().map(|s| s.input.len(e)).sum();
        if total > self.batch() {
            return Err(Error::Request {
                what: "rows of a step".into(),
                value: total.to_string(),
                allowed: format!("at most {}", self.batch()),
            });
        }
        spans.iter().try_for_each(|s| self.check_made(s.seq))
    }

    /// Refuses a sequence of another engine.
    pub(super) fn check_made(&self, seq: &Sequence) -> Result<()> {
        match self.pages.made(&seq.table) {
            true => Ok(()),
            false => Err(Error::Request {
                what: "sequence".into(),
                value: "one of another engine".into(),
                allowed: "sequences that this engine made".into(),
            }),
        }
    }

    /// Whether a span can be evaluated.
    fn check_span(&self, span: &Span<'_>) -> Result<()> {
        let e = self.model.config().embedding_length;
        let first = span.seq.tokens.len();
        match span.input {
            Segment::Tokens(ids) => self.check(span.seq, ids, first)?,
            Segment::Vectors(x) => {
                check_vectors(x, e)?;
                self.check(span.seq, &[], first)?;
                self.check_room(span.input.len(e), first)?;
            }
        }
        match span.input.len(e) {
            0 => Err(Error::Request {
                what: "tokens of a span".into(),
                value: "0".into(),
                allowed: "one or more".into(),
            }),
            _ => Ok(()),
        }
    }
}
