//! Answers that are held to a form: after each token a grammar says which may follow, and which must.
//!
//! ```text
//! engine's thread                                 thread of the answer
//! a token is chosen                 -- taken -->  the grammar takes it
//! the pass over it                                tokens that must follow; the set that may follow those
//! forced tokens, unchosen; then one of the set  <-- next --
//! ```
//! What may follow depends on earlier tokens only, so it is worked out while the pass runs, and never by the thread
//! that leads the engine: an answer whose grammar is late sits out a step. Forced tokens are part of what the text
//! *is*: they are taken as they are wherever the grammar forces them, in one pass where they are known, so the text
//! is a function of prompt and options, whoever guesses.
//!
//! Grammars are made elsewhere (`geb-constrain`); what is here knows tokens only.

mod follow;
mod openings;
mod schema;

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
pub(crate) use follow::{Choice, Follow, Wake};
pub use schema::for_grammar;

/// A grammar, ready for use by any number of answers.
pub trait Grammar: Send + Sync + Debug {
    /// Follows one text from its beginning.
    fn matcher(&self) -> Box<dyn Matcher>;
}

/// A grammar on its way through a text. Called on a thread of its own.
pub trait Matcher: Send {
    /// The text begins with these bytes, which were said already; none if no text of the grammar does.
    ///
    /// # Errors
    /// [`Error::Slow`](crate::Error::Slow), [`Error::Constraint`](crate::Error::Constraint).
    fn begin(&mut self, said: &[u8]) -> Result<Option<Next>>;

    /// The text goes on with this token, which was one of those that may follow.
    ///
    /// # Errors
    /// As [`Matcher::begin`].
    fn take(&mut self, token: u32) -> Result<Next>;
}

/// How a text may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// Tokens that must follow.
    pub forced: Vec<u32>,
    /// What may follow behind them; none where the text ends.
    pub allowed: Option<Arc<TokenSet>>,
}

/// A set of tokens, a bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet(Vec<u32>);

impl TokenSet {
    /// From words of 32 tokens, the lowest bit first.
    pub fn of(words: Vec<u32>) -> TokenSet {
        TokenSet(words)
    }

    /// Whether the token is among them.
    pub fn has(&self, token: u32) -> bool {
        let word = self.0.get(token as usize / 32).copied().unwrap_or(0);
        word >> (token % 32) & 1 == 1
    }

    /// Adds a token.
    pub fn add(&mut self, token: u32) {
        let at = token as usize / 32;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (token % 32);
    }

    /// Minus infinity to all tokens that are not among them. `logits`: `[vocab]`.
    pub fn apply(&self, logits: &mut [f32]) {
        for (i, chunk) in logits.chunks_mut(32).enumerate() {
            let word = self.0.get(i).copied().unwrap_or(0);
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in chunk.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// What an answer is held to, and from where on.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// What holds it.
    pub grammar: Arc<dyn Grammar>,
    /// Reasoning that comes first and is free.
    pub reasoning: Reasoning,
    /// Texts behind each of which the grammar begins; where it ends the answer is free again. Empty: it holds from the
    /// first token on, or behind the reasoning, and the answer ends with it.
    pub openings: Vec<String>,
}

/// Reasoning in front of what is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// None.
    #[default]
    None,
    /// The answer begins inside it, and this text ends it.
    Open {
        /// What ends it.
        close: String,
    },
    /// The answer may begin with it.
    Possible {
        /// The token that begins it.
        open: u32,
        /// What ends it.
        close: String,
    },
}

impl Constraint {
    /// The whole answer is a text of the grammar.
    pub fn whole(grammar: Arc<dyn Grammar>) -> Constraint {
        Constraint {
            grammar,
            reasoning: Reasoning::None,
            openings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_forbids_what_it_does_not_have() {
        let mut set = TokenSet::of(vec![0b101, u32::MAX]);
        set.add(70);
        assert!(set.has(0) && !set.has(1) && set.has(2) && set.has(33) && set.has(70));
        assert!(!set.has(69) && !set.has(1_000));
        let mut logits = vec![1.0; 100];
        set.apply(&mut logits);
        for (id, logit) in logits.iter().enumerate() {
            assert_eq!(*logit == 1.0, set.has(id as u32), "{id}");
        }
    }
}
