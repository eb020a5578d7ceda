//! Several texts with one beginning in one session: what differs is copied out and in again.

use super::{BATCH, Session};
use crate::error::{Error, Result};
use crate::ram;

/// What a session holds behind a beginning that other texts share: tokens, their keys and values, what
/// further heads go by, the recurrent state. The text of an encoder is not part of it.
pub struct Branch {
    /// Where the shared beginning ends.
    from: usize,
    /// All tokens, those of the beginning too.
    tokens: Vec<u32>,
    kv: Vec<u8>,
    /// For further heads; they read it again.
    trunk: Vec<f32>,
    state: Vec<f32>,
}

impl Branch {
    /// The tokens of the session that it was copied from.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl Session {
    /// A copy of what lies behind the first `from` tokens, for [`Session::resume`]. Keys and values are
    /// copied in blocks of 64 positions; a recurrent state is copied whole.
    pub fn branch(&self, from: usize) -> Branch {
        let from = from.min(self.seq.tokens.len());
        Branch {
            from,
            tokens: self.seq.tokens.clone(),
            kv: self.seq.cache.copy_out(from..self.seq.tokens.len()),
            trunk: match &self.seq.heads {
                Some(heads) => heads.rows(from..self.seq.tokens.len()).to_vec(),
                None => Vec::new(),
            },
            state: self.seq.state.values().to_vec(),
        }
    }

    /// Becomes the session that `branch` was copied from, bit for bit. It must still hold the
    /// beginning; in layers with a window also those of its positions that the next token sees, which
    /// it does until it goes more than [`BATCH`] tokens further than the branch.
    ///
    /// # Errors
    /// [`Error::Request`] if it does not; nothing is changed then.
    pub fn resume(&mut self, branch: &Branch) -> Result<()> {
        let (from, end) = (branch.from, branch.tokens.len());
        let lost = || Error::Request {
            what: "beginning of a branch".into(),
            value: "no longer held".into(),
            allowed: format!("the same {from} tokens, and at most {BATCH} more than its {end}"),
        };
        let shared = self.seq.tokens.get(..from) == branch.tokens.get(..from);
        if !shared || branch.state.len() != self.seq.state.values().len() {
            return Err(lost());
        }
        // Equal tokens have left equal bits.
        let trunk = self
            .seq
            .heads
            .as_ref()
            .map_or(0, |h| h.rows(from..end).len());
        if branch.trunk.len() != trunk {
            return Err(lost());
        }
        if self.seq.tokens != branch.tokens && !self.seq.cache.copy_in(from..end, &branch.kv) {
            return Err(lost());
        }
        self.seq.state.set(&branch.state, end)?;
        if let Some(heads) = &mut self.seq.heads {
            heads.rewrite(from..end, &branch.trunk);
        }
        self.seq.tokens.clone_from(&branch.tokens);
        (self.batch, self.engine.wanted) = (0, 0);
        Ok(())
    }

    /// From where on a branch must be copied so that it can be resumed however far the session went.
    pub(crate) fn safe_from(&self, from: usize) -> usize {
        if self.seq.cache.has_ring() { 0 } else { from }
    }

    /// Refuses `count` branches of positions `from..to` that do not fit into memory.
    pub(crate) fn check_branches(&self, count: usize, from: usize, to: usize) -> Result<()> {
        let trunk = self
            .seq
            .heads
            .as_ref()
            .map_or(0, |h| h.width() * (to - from));
        let floats = self.seq.state.values().len() + trunk;
        let each = self.seq.cache.copy_bytes(from..to) + 4 * floats as u64;
        let needed = each.saturating_mul(count as u64);
        ram::check(
            || format!("{count} copies of the last {} tokens", to - from),
            needed,
        )
    }
}
