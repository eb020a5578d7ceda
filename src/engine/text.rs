//! Models with an encoder: the text that it reads, and what the decoder looks at.

use std::sync::Arc;

use super::sequence::Text;
use super::{Engine, Sequence};
use crate::cache::OwnPages;
use crate::error::{Error, Result};
use crate::model::forward::Segment;

impl Engine {
    /// Reads the text that the decoder of a model with an encoder looks at; the sequence forgets all other
    /// tokens unless it is the text read last. The decoder starts with `config().encoder.start`.
    ///
    /// # Errors
    /// [`Error::Request`] for a model without an encoder, no tokens, one outside the vocabulary, or more
    /// than [`Engine::batch`]; [`Error::Interrupted`] when cancelled.
    pub fn encode(&mut self, seq: &mut Sequence, tokens: &[u32]) -> Result<()> {
        if seq.text.as_ref().is_some_and(|t| t.tokens == tokens) {
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
        let (n, most) = (tokens.len(), self.batch());
        if !(1..=most).contains(&n) {
            let value = format!("{n} tokens");
            return Err(bad("text of the encoder", value, format!("1 to {most}")));
        }
        self.check_ids(tokens)?;
        let mut own = OwnPages::of_rows(c, encoder.block_count, n)?;
        let mut text = OwnPages::of_rows(c, c.block_count, n)?;
        seq.truncate(0);
        seq.text = None;
        let mut span = seq.span(Segment::Tokens(tokens), 0..n, 0..0);
        span.table = &own.table;
        self.lead(
            Some(&mut own.pool),
            vec![span],
            &[(0, 0)],
            encoder.block_count,
            0..0,
            None,
            |pass, b, _| {
                pass.causal = false;
                pass.encode(b, &mut text)
            },
        )?;
        seq.text = Some(Arc::new(Text {
            tokens: tokens.to_vec(),
            pages: text,
        }));
        Ok(())
    }
}
