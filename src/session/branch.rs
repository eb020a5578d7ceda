//! Several texts with one beginning in one session.

use super::Session;
use crate::engine::Sequence;
use crate::error::Result;

/// What a session was, to go on from there: a fork of its sequence, which shares its pages.
pub struct Branch(Sequence);

impl Branch {
    /// The tokens of the session that it was made from.
    pub fn tokens(&self) -> &[u32] {
        self.0.tokens()
    }
}

impl Session {
    /// The session as it is, for [`Session::resume`].
    ///
    /// # Errors
    /// As [`Engine::fork`](super::Engine::fork).
    pub fn branch(&self) -> Result<Branch> {
        let held = self.seq.tokens.len();
        Ok(Branch(self.engine.fork(&self.seq, held)?))
    }

    /// Becomes the session that `branch` was made from, bit for bit.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a branch of another session; nothing is changed then.
    pub fn resume(&mut self, branch: &Branch) -> Result<()> {
        self.seq = self.engine.fork(&branch.0, branch.0.tokens.len())?;
        (self.batch, self.engine.wanted) = (0, 0);
        Ok(())
    }
}
