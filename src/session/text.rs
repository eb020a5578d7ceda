//! Models with an encoder: the text that it reads, and what the decoder looks at.

use super::{BATCH, Buffers, Session};
use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::model::forward::Pass;

/// What an encoder has read.
pub(super) struct Text {
    tokens: Vec<u32>,
    /// Keys and values for the layers of the decoder.
    pub(super) cache: KvCache,
}

impl Session {
    /// The text that the encoder has read last; empty without one.
    pub fn text(&self) -> &[u32] {
        self.text.as_ref().map_or(&[], |t| &t.tokens)
    }

    /// Reads the text that the decoder of a model with an encoder looks at; forgets all other tokens
    /// unless it is the text read last. The decoder starts with `config().encoder.start`.
    ///
    /// # Errors
    /// [`Error::Request`] for a model without an encoder, no tokens, one outside the vocabulary, or more
    /// than [`BATCH`] or the context; [`Error::Interrupted`] when cancelled.
    pub fn encode(&mut self, tokens: &[u32]) -> Result<()> {
        if self.text.as_ref().is_some_and(|t| t.tokens == tokens) {
            return Ok(());
        }
        let c = self.model.config();
        let bad = |what: &str, value: String, allowed: String| Error::Request {
            what: what.into(),
            value,
            allowed,
        };
        let Some(encoder) = c.encoder else {
            let value = format!("architecture {}", c.arch.name);
            return Err(bad("model", value, "one with an encoder".into()));
        };
        let (n, most) = (tokens.len(), BATCH.min(self.ctx));
        if !(1..=most).contains(&n) {
            let value = format!("{n} tokens");
            return Err(bad("text of the encoder", value, format!("1 to {most}")));
        }
        self.check_ids(tokens)?;
        let mut own = KvCache::of_rows(c, encoder.block_count, n)?;
        let mut text = KvCache::of_rows(c, c.block_count, n)?;
        self.reset();
        self.text = None;
        std::mem::swap(&mut self.cache, &mut own);
        let run = |pass: &mut Pass<'_, '_>, b: &mut Buffers, _: &mut [f32]| {
            pass.causal = false;
            pass.encode(b, tokens, &mut text)
        };
        let done = self.team(0, encoder.block_count, 0..0, None, run);
        std::mem::swap(&mut self.cache, &mut own);
        done?;
        self.text = Some(Text {
            tokens: tokens.to_vec(),
            cache: text,
        });
        Ok(())
    }
}
