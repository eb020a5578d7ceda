//! Sequences that begin as others did.

use geb_kernels::float::BLOCK;

use super::key::{Scope, SeqKey};
use super::prefix::{Cursor, PrefixStats};
use super::{Engine, Sequence, VECTOR};
use crate::error::{Error, Result};
use crate::model::adapters::Adapters;

impl Engine {
    /// Gives an empty sequence the longest beginning of `prompt` that sequences of an equal scope, equal
    /// adapters and an equal text of the encoder had: whole pages and, of one page more, 16 tokens or more.
    /// At least the last token of the prompt is left to evaluate. From now on what the sequence holds can be
    /// found by others. Returns how many tokens it got; its bits are those of evaluating them.
    ///
    /// # Errors
    /// [`Error::Request`] for a sequence that is not empty or of another engine; [`Error::Memory`].
    pub fn begin(&mut self, seq: &mut Sequence, scope: &Scope, prompt: &[u32]) -> Result<usize> {
        self.check_made(seq)?;
        if !seq.tokens.is_empty() {
            return Err(Error::Request {
                what: "tokens of the sequence".into(),
                value: seq.tokens.len().to_string(),
                allowed: "0, for one that begins".into(),
            });
        }
        let adapters = seq.adapters.as_ref().map(Adapters::identity);
        let key = SeqKey::new(scope, adapters, seq.text());
        let all = &prompt[..prompt.len().saturating_sub(1)];
        let mut cursor = Cursor::new(key);
        // What further heads go by is not in pages.
        if seq.heads.is_none() {
            match seq.state.is_empty() {
                true => {
                    let held = self.prefixes.take(&mut cursor, &mut seq.table, all);
                    seq.tokens.extend_from_slice(&all[..held]);
                }
                false => self.take_state(seq, &key, all)?,
            }
        }
        // What found no room on its way to the disk gets another chance.
        self.save(&cursor.path);
        seq.cursor = Some(cursor);
        self.prefixes.stats.asked += prompt.len() as u64;
        self.prefixes.stats.found += seq.tokens.len() as u64;
        Ok(seq.tokens.len())
    }

    fn take_state(&mut self, seq: &mut Sequence, key: &SeqKey, tokens: &[u32]) -> Result<()> {
        if let Some(copy) = self.prefixes.copy_of(key, tokens) {
            let held = copy.tokens.len();
            if let Some(state) = copy.state.fork(held, held)? {
                seq.state = state;
                seq.table = copy.table.share(held);
                seq.tokens.extend_from_slice(&copy.tokens);
            }
        }
        Ok(())
    }

    /// Lets others find the whole pages that a sequence has got; where the tree has an equal page already, the
    /// sequence goes on with that one.
    pub(super) fn remember(&mut self, seq: &mut Sequence) {
        let Some(cursor) = &mut seq.cursor else {
            return;
        };
        if !seq.state.is_empty() || seq.heads.is_some() {
            return;
        }
        let known = cursor.path.len();
        let goes_on = self.prefixes.remember(cursor, &mut seq.table, &seq.tokens);
        self.save(&cursor.path[known..]);
        if !goes_on {
            seq.cursor = None;
        }
    }

    /// Keeps a copy of a sequence's recurrent state for others that begin with its tokens, and where layers have
    /// attention too names its pages: worth it at the end of a prompt and of an answer. Models of attention alone
    /// need none.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn keep_state(&mut self, seq: &Sequence) -> Result<()> {
        let Some(cursor) = seq.cursor.as_ref().filter(|_| !seq.state.is_empty()) else {
            return Ok(());
        };
        let held = seq.tokens.len();
        if held == 0 || seq.tokens.contains(&VECTOR) {
            return Ok(());
        }
        if let Some(state) = seq.state.fork(held, held)?
            && (self.prefixes).keep(cursor.key, &seq.tokens, state, seq.table.share(held))
        {
            self.save_state(cursor.key, seq);
        }
        Ok(())
    }

    /// What lookups found so far.
    pub fn prefix_stats(&self) -> PrefixStats {
        self.prefixes.stats
    }

    /// Tokens whose pages the tree names, and copies of states.
    pub fn prefix_tokens(&self) -> usize {
        let (copied, _) = self.pages.named(&self.prefixes.tables());
        BLOCK * (self.prefixes.len() + copied)
    }
}
