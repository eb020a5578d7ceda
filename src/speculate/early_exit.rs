//! Early exit: the first layers of the model that decodes, with its own output norm and matrix
//! (LayerSkip, arXiv 2404.16710).
//!
//! The draft writes keys and values of its layers into the cache behind the end; verification
//! evaluates the guesses with all layers and writes the same rows again. With a batch as exact as
//! single tokens these are the same values, so nothing of a draft remains. A model that was not
//! trained for it guesses badly: the text stays right, there is only no gain.

use super::{Draft, Drafter, Offer};
use crate::error::Result;
use crate::sampler::argmax;
use crate::session::Session;

/// Guesses with the first layers of the model itself.
#[derive(Clone, Copy, Debug)]
pub struct EarlyExit {
    layers: usize,
}

impl EarlyExit {
    /// Guesses of `session`'s model after `layers` layers.
    ///
    /// # Errors
    /// [`crate::Error::Request`] unless the model has that many.
    pub fn new(session: &Session, layers: usize) -> Result<Self> {
        session.check_layers(layers)?;
        Ok(Self { layers })
    }
}

impl Drafter for EarlyExit {
    fn name(&self) -> &'static str {
        "exit-layer"
    }

    fn offer(&mut self, _: &[u32]) -> Option<Offer> {
        Some(Offer {
            class: 0,
            next: None,
        })
    }

    fn draft(
        &mut self,
        target: &mut Draft<'_>,
        history: &[u32],
        max: usize,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut last = history.last().copied();
        for ahead in 0..max {
            let Some(token) = last else { break };
            let guess = argmax(target.exit_early(token, ahead, self.layers)?)?;
            out.push(guess);
            last = Some(guess);
        }
        Ok(())
    }
}
