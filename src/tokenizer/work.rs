//! A bound on the work of one encoding, and the flag that stops it.
//!
//! Every algorithm counts its steps: bytes looked at, candidates, nodes of a trie. A text may cost
//! [`limits::TOKENIZER_STEPS`] and [`limits::TOKENIZER_STEPS_PER_BYTE`] for each of its bytes; published
//! vocabularies take a few tens.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::limits;

/// Steps between two looks at the flag.
const TURN: u64 = 1 << 16;

/// What is left of the steps of one encoding.
pub(super) struct Work<'a> {
    allowed: u64,
    left: u64,
    look: u64,
    bytes: usize,
    cancel: Option<&'a AtomicBool>,
}

impl<'a> Work<'a> {
    /// For a text of so many bytes.
    pub fn new(bytes: usize, cancel: Option<&'a AtomicBool>) -> Work<'a> {
        let per_byte = limits::TOKENIZER_STEPS_PER_BYTE.saturating_mul(bytes as u64);
        let allowed = limits::TOKENIZER_STEPS.saturating_add(per_byte);
        Work {
            allowed,
            left: allowed,
            look: allowed,
            bytes,
            cancel,
        }
    }

    /// Takes `steps` away.
    ///
    /// # Errors
    /// [`Error::Request`] when none are left, [`Error::Interrupted`] when the flag is set.
    #[inline]
    pub fn spend(&mut self, steps: usize) -> Result<()> {
        match self.left.checked_sub(steps as u64) {
            Some(left) => self.left = left,
            None => return Err(self.spent()),
        }
        match self.look - self.left >= TURN {
            true => self.look(),
            false => Ok(()),
        }
    }

    fn look(&mut self) -> Result<()> {
        self.look = self.left;
        match self.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    #[cold]
    fn spent(&self) -> Error {
        Error::Request {
            what: "work of the tokenizer".into(),
            value: format!("over {} steps for {} bytes", self.allowed, self.bytes),
            allowed: "a text that this vocabulary cuts in fewer".into(),
        }
    }

    /// Steps taken so far.
    #[cfg(test)]
    pub fn taken(&self) -> u64 {
        self.allowed - self.left
    }
}
