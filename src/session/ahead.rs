//! Looks ahead of the last token, as [`Engine`](super::Engine) has them.

use super::Session;
use crate::error::Result;

impl Session {
    /// As [`Sequence::extra_heads`](super::Sequence::extra_heads).
    pub fn extra_heads(&self) -> usize {
        self.seq.extra_heads()
    }

    /// As [`Engine::look_ahead`](super::Engine::look_ahead).
    ///
    /// # Errors
    /// As [`Engine::look_ahead`](super::Engine::look_ahead).
    pub fn look_ahead(&mut self, n: usize) -> Result<&[f32]> {
        self.batch = 0;
        self.engine.look_ahead(&mut self.seq, n)
    }

    /// As [`Sequence::verify_batch`](super::Sequence::verify_batch).
    pub fn verify_batch(&self) -> usize {
        self.seq.verify_batch()
    }

    /// As [`Engine::exit_early`](super::Engine::exit_early).
    ///
    /// # Errors
    /// As [`Engine::exit_early`](super::Engine::exit_early).
    pub fn exit_early(&mut self, token: u32, ahead: usize, layers: usize) -> Result<&[f32]> {
        self.batch = 0;
        self.engine.exit_early(&mut self.seq, token, ahead, layers)
    }

    /// Refuses an exit layer that this model has not, and any for a model that keeps a state.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<()> {
        self.engine.check_layers(&self.seq, layers)
    }
}
