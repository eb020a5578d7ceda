//! Vectors in and out of a session: hidden states instead of logits, embeddings instead of ids.

use super::{BATCH, Segment, Session, Want};
use crate::cache::Part;
use crate::engine::{Alone, check_vectors};
use crate::error::{Error, Result};
use crate::model::forward::{BufferSizes, Buffers};
use crate::ram;

impl Session {
    /// As [`Session::forward`] for pieces of which some are vectors: summaries, soft prompts, encoded
    /// images. A vector stands where the embedding of a token would, at the next position.
    ///
    /// # Errors
    /// As [`Session::forward`], and [`Error::Request`] for vectors of another width or with numbers that
    /// are not finite.
    pub fn forward_inputs(&mut self, segments: &[Segment<'_>], want: Want) -> Result<&[f32]> {
        let e = self.engine.model.config().embedding_length;
        for segment in segments {
            match segment {
                Segment::Tokens(ids) => self.engine.check_ids(ids)?,
                Segment::Vectors(x) => check_vectors(x, e)?,
            }
        }
        self.engine.check(&self.seq, &[], self.seq.tokens.len())?;
        let n = segments.iter().map(|s| s.len(e)).sum();
        self.engine.check_room(n, self.seq.tokens.len())?;
        self.feed(segments, want, None, &mut |_, _| {})
    }

    /// What the layers make of `tokens`, after the output norm: `[tokens, E]`. Starts from an empty cache
    /// and leaves it empty. Unless `causal`, each token sees the whole text; that takes buffers for all
    /// of it at once.
    ///
    /// # Errors
    /// As [`Session::forward`]; [`Error::Unsupported`] for a model with windows whose tokens are to see
    /// the whole text; [`Error::Memory`]; [`Error::NonFinite`].
    pub fn hidden_states(&mut self, tokens: &[u32], causal: bool) -> Result<Vec<f32>> {
        self.check_stack("hidden states")?;
        self.reset();
        self.engine.check_ids(tokens)?;
        self.engine.check_room(tokens.len(), 0)?;
        let e = self.engine.model.config().embedding_length;
        let mut out = Vec::with_capacity(tokens.len() * e);
        let batch = BATCH.min(self.engine.ctx);
        let done = if causal || tokens.len() <= batch {
            let step = if causal { batch } else { tokens.len().max(1) };
            let mut pieces = tokens.chunks(step);
            pieces.try_for_each(|piece| self.states(piece, causal, &mut out))
        } else {
            let wide = self.wide_buffers(tokens.len())?;
            let narrow = std::mem::replace(&mut self.engine.buffers, wide);
            let done = self.states(tokens, causal, &mut out);
            self.engine.buffers = narrow;
            done
        };
        self.reset();
        done.map(|()| out)
    }

    /// Refuses a model with an encoder.
    pub(super) fn check_stack(&self, what: &'static str) -> Result<()> {
        let c = self.engine.model.config();
        match c.encoder {
            None => Ok(()),
            Some(_) => Err(Error::Unsupported {
                what,
                value: format!("architecture {}", c.arch.name),
                known: "models without an encoder".into(),
            }),
        }
    }

    /// Buffers for a batch of `n`.
    fn wide_buffers(&self, n: usize) -> Result<Buffers> {
        let c = self.engine.model.config();
        let sizes = BufferSizes::new(c, n);
        ram::check(|| format!("a text of {n} tokens at once"), sizes.bytes())?;
        Buffers::new(&sizes)
    }

    /// Appends one batch to the cache and its states to `out`.
    fn states(&mut self, tokens: &[u32], causal: bool, out: &mut Vec<f32>) -> Result<()> {
        let c = self.engine.model.config();
        let (e, layers) = (c.embedding_length, c.block_count);
        if !causal && (c.windows.iter().any(|w| *w != usize::MAX) || c.recurrent.is_some()) {
            return Err(Error::Unsupported {
                what: "attention to the whole text",
                value: "a model with sliding windows or recurrent layers".into(),
                known: "models whose layers see all positions".into(),
            });
        }
        let first = self.seq.tokens.len();
        let end = first + tokens.len();
        let table = &mut self.seq.table;
        self.engine.pages_for(table, Part::Layers, first..end)?;
        self.engine.ropes.extend(end);
        let len = tokens.len() * e;
        self.engine.wanted = 0;
        self.engine
            .logits
            .resize(len.max(self.engine.logits.len()), 0.0);
        let alone = Alone {
            input: Segment::Tokens(tokens),
            wanted: tokens.len()..tokens.len(),
            first,
            layers,
            observer: None,
        };
        self.batch = 0;
        self.engine
            .lead_alone(&mut self.seq, alone, 0..len, |pass, buffers, states| {
                pass.causal = causal;
                pass.run(buffers, &mut [])?;
                pass.hidden(buffers, states);
                Ok(())
            })?;
        self.seq.tokens.extend_from_slice(tokens);
        let states = &self.engine.logits[..len];
        if let Some(i) = states.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite {
                what: format!("hidden state of position {}", first + i / e),
                index: (i % e) as u64,
                value: states[i],
            });
        }
        out.extend_from_slice(states);
        Ok(())
    }
}
