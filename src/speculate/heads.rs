//! Further heads of the model that decodes (arXiv 2404.19737): one pass over the trunk, a layer for each
//! guess.
//!
//! After the last evaluated token the model's own head has chosen the token that is about to be
//! evaluated; the further heads guess those behind it. The next pass verifies all of them.

use super::{Draft, Drafter, Offer};
use crate::error::Result;
use crate::sampler::argmax;
use crate::session::Session;

/// Guesses with the further heads of the model itself.
#[derive(Clone, Copy, Debug)]
pub struct ExtraHeads {
    count: usize,
}

impl ExtraHeads {
    /// The heads of `session`; `None` if it has none
    /// ([`SessionOptions::extra_heads`](crate::session::SessionOptions::extra_heads)).
    pub fn new(session: &Session) -> Option<Self> {
        let count = session.extra_heads();
        (count > 0).then_some(Self { count })
    }
}

impl Drafter for ExtraHeads {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn offer(&mut self, history: &[u32]) -> Option<Offer> {
        (history.len() > 1).then_some(Offer {
            class: 0,
            next: None,
        })
    }

    fn draft(
        &mut self,
        target: &mut Draft<'_>,
        _: &[u32],
        max: usize,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let vocab = target.model().config().vocab;
        let logits = target.look_ahead(max.min(self.count))?;
        for logits in logits.chunks_exact(vocab) {
            out.push(argmax(logits)?);
        }
        Ok(())
    }
}
