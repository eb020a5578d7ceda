//! A session that is looked into.

use geb_kernels::float::KvType;

use super::{BATCH, Segment, Session, Want};
use crate::engine::Alone;
use crate::error::{Error, Result};
use crate::model::inputs::InputStats;
use crate::model::observer::Observer;

impl Session {
    /// Runs `tokens` from an empty cache through all layers, adding what goes into each linear layer
    /// to `stats`; computes no logits and leaves the cache empty.
    ///
    /// # Errors
    /// As [`Session::forward`], without those of logits.
    pub fn observe(&mut self, tokens: &[u32], stats: &mut InputStats) -> Result<()> {
        self.check_stack("statistics of inputs")?;
        self.reset();
        self.engine.check(&self.seq, tokens, 0)?;
        let layers = self.engine.model.config().block_count;
        for batch in tokens.chunks(BATCH.min(self.engine.ctx)) {
            let alone = Alone {
                input: Segment::Tokens(batch),
                wanted: batch.len()..batch.len(),
                first: self.seq.tokens.len(),
                layers,
                observer: Some(stats),
            };
            self.pass(alone, 0..0)?;
            self.seq.tokens.extend_from_slice(batch);
        }
        self.reset();
        Ok(())
    }

    /// As [`Session::forward`], telling `observer` what is computed.
    ///
    /// # Errors
    /// As [`Session::forward`]; [`Error::Request`] for a KV cache that is not F32,
    /// [`Error::Unsupported`] for a model with an encoder.
    pub fn forward_observed(
        &mut self,
        tokens: &[u32],
        want: Want,
        observer: &mut dyn Observer,
    ) -> Result<&[f32]> {
        self.check_stack("observation")?;
        if self.engine.kv != KvType::F32 {
            return Err(Error::Request {
                what: "KV cache type".into(),
                value: self.engine.kv.name().into(),
                allowed: "f32, for attention that is looked at".into(),
            });
        }
        self.engine
            .check(&self.seq, tokens, self.seq.tokens.len())?;
        let segments = [Segment::Tokens(tokens)];
        self.feed(&segments, want, Some(observer), &mut |_, _| {})
    }

    /// Logits `[rows, vocab]` that the output norm and matrix make of `states`, `[rows, E]`: of the residual
    /// stream behind any layer (logit lens). Behind the last one they are the bits of the model's logits.
    ///
    /// # Errors
    /// [`Error::Request`] for states of another width, for more than a batch of them or with
    /// numbers that are not finite; [`Error::NonFinite`] for NaN logits.
    pub fn lens(&mut self, states: &[f32]) -> Result<&[f32]> {
        let e = self.engine.model.config().embedding_length;
        crate::engine::check_vectors(states, e)?;
        let (rows, most) = (states.len() / e, BATCH.min(self.engine.ctx));
        if rows > most {
            return Err(Error::Request {
                what: "states".into(),
                value: rows.to_string(),
                allowed: format!("at most {most} at a time"),
            });
        }
        self.batch = 0;
        self.engine.want(rows)?;
        let logits = 0..self.engine.wanted;
        let (seq, again) = (&mut self.seq, Alone::again(0));
        self.engine
            .lead_alone(seq, again, logits, |pass, buffers, out| {
                pass.lens(buffers, states, out);
                Ok(())
            })?;
        self.engine.finite(0..self.engine.wanted, 0)?;
        Ok(self.logits())
    }
}
