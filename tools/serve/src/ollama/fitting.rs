//! A conversation that is too long, without its oldest messages: as few as possible, and found with few readings.
//!
//! ```text
//! all of it fits                       that is the prompt
//! only what must stay does not fit     it is refused
//! else                                 halves of what may be left out, until n fits and n - 1 does not
//! ```
//! A template may refuse a conversation that begins with an answer: then one message more is left out.

use std::sync::Arc;

use crate::app::App;
use crate::conversation::Conversation;
use crate::error::{ApiError, Fault, Result};
use crate::models::Loaded;
use crate::reply::Prompt;

/// What came of leaving out some messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// The rest fits.
    Fits,
    /// It is too long.
    Long,
    /// The template does not take it.
    Refused,
}

/// The search for the least number that fits.
#[derive(Debug)]
struct Search {
    /// A number that does not fit.
    low: usize,
    /// A number that fits.
    high: usize,
    /// Comes next, because the one before was refused.
    beside: Option<usize>,
}

impl Search {
    fn new(low: usize, high: usize) -> Search {
        let beside = None;
        Search { low, high, beside }
    }

    /// The number to be tried next; none if the least one is found.
    fn next(&self) -> Option<usize> {
        let middle = self.low + (self.high - self.low) / 2;
        (self.high - self.low > 1).then(|| self.beside.unwrap_or(middle))
    }

    /// What came of `n`.
    fn learn(&mut self, n: usize, found: Found) {
        let was_beside = self.beside.take().is_some();
        match found {
            Found::Fits => self.high = n,
            Found::Refused if !was_beside && n + 1 < self.high => self.beside = Some(n + 1),
            Found::Long | Found::Refused => self.low = n,
        }
    }
}

/// A conversation that is to fit.
pub(super) struct Fitting<'a> {
    app: &'a App,
    loaded: &'a Arc<Loaded>,
    conversation: Conversation,
    /// Most tokens.
    ctx: usize,
}

impl<'a> Fitting<'a> {
    /// Into so many tokens.
    pub(super) fn new(
        app: &'a App,
        loaded: &'a Arc<Loaded>,
        conversation: Conversation,
        ctx: usize,
    ) -> Self {
        Self {
            app,
            loaded,
            conversation,
            ctx,
        }
    }

    /// Its prompt and how many messages were left out for it, none unless `truncate` allows it.
    ///
    /// # Errors
    /// For what does not fit.
    pub(super) async fn prompt(&self, truncate: bool) -> Result<(Prompt, usize)> {
        let most = self.droppable();
        match self.without(0).await {
            Ok(prompt) => return Ok((prompt, 0)),
            Err(long) if truncate && most > 0 && is_long(&long) => {}
            Err(error) => return Err(error),
        }
        let mut best = (self.without(most).await?, most);
        let mut search = Search::new(0, most);
        while let Some(n) = search.next() {
            let found = match self.without(n).await {
                Ok(prompt) => {
                    best = (prompt, n);
                    Found::Fits
                }
                Err(error) if is_long(&error) => Found::Long,
                Err(error) if error.fault == Fault::Invalid => Found::Refused,
                Err(error) => return Err(error),
            };
            search.learn(n, found);
        }
        Ok(best)
    }

    /// The system text stays, and so does what is to be answered.
    fn droppable(&self) -> usize {
        let messages = &self.conversation.messages;
        let old = messages.split_last().map_or(&[][..], |(_, old)| old);
        old.iter().filter(|m| m["role"] != "system").count()
    }

    /// The prompt without so many of the oldest messages.
    async fn without(&self, dropped: usize) -> Result<Prompt> {
        let mut conversation = self.conversation.clone();
        let mut left = dropped;
        conversation.messages.retain(|m| {
            let stays = left == 0 || m["role"] == "system";
            left -= usize::from(!stays);
            stays
        });
        let prompt = self.app.prompt(self.loaded, conversation).await?;
        match prompt.ids.len() {
            n if n <= self.ctx => Ok(prompt),
            n => Err(ApiError::too_long("messages", n, self.ctx)),
        }
    }
}

fn is_long(error: &ApiError) -> bool {
    matches!(error.fault, Fault::TooLong { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a search finds, and how many it tries.
    fn search(most: usize, of: impl Fn(usize) -> Found) -> (usize, usize) {
        let (mut search, mut tried) = (Search::new(0, most), 0);
        while let Some(n) = search.next() {
            assert!(n > search.low && n < search.high);
            search.learn(n, of(n));
            tried += 1;
        }
        assert_eq!(search.high, search.low + 1);
        (search.high, tried)
    }

    #[test]
    fn the_least_number_that_fits_is_found_in_few_steps() {
        for most in [1, 2, 3, 999, 1000] {
            for least in 1..=most {
                let of = |n| match n >= least {
                    true => Found::Fits,
                    false => Found::Long,
                };
                let (found, tried) = search(most, of);
                assert_eq!(found, least);
                assert!(tried <= 10, "{tried} of {most}");
            }
        }
    }

    #[test]
    fn a_template_that_wants_turns_loses_no_more_than_it_must() {
        for most in [2, 3, 998, 999] {
            for least in 1..=most {
                // An answer would come first.
                let of = |n: usize| match (n.is_multiple_of(2), n >= least) {
                    (false, _) => Found::Refused,
                    (true, true) => Found::Fits,
                    (true, false) => Found::Long,
                };
                let (found, tried) = search(most, of);
                assert_eq!(found, least.next_multiple_of(2).min(most));
                assert!(tried <= 20, "{tried} of {most}");
            }
        }
    }
}
