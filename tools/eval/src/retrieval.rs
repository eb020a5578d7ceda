//! Retrieval heads (arXiv 2404.15574): heads whose attention copies from far back.
//!
//! ```text
//! prompt = filler + needle + filler + question + answer        as in `needle`
//! hit    = from the token before an answer token, the head's greatest weight lies on a token of the needle
//!          that is that answer token
//! score  = hits / answer tokens, over all prompts
//! ```
//! The paper counts the tokens that the model itself writes; here the right answer is given, so
//! that a model that misses it has scores too. [`Retrieval::predicted`] tells how many of
//! these tokens it would have written.

use std::ops::Range;

use serde::Serialize;

use super::choice::run::argmax;
use super::needle::{Plan, prompts};
use crate::probe::{heads, strongest};
use geb::error::{Error, Result};
use geb::model::observer::{Heads, Observer};
use geb::session::{Session, Want};
use geb::tokenizer::Tokenizer;

/// How often each head copied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Hits of each head of each layer.
    pub hits: Vec<Vec<usize>>,
    /// Answer tokens.
    pub tokens: usize,
    /// Of these, those that the model itself would have written.
    pub predicted: usize,
}

impl Retrieval {
    /// No tokens yet.
    pub fn new(session: &Session) -> Retrieval {
        let none = |heads: usize| vec![0; heads];
        Retrieval {
            hits: heads(session.model()).into_iter().map(none).collect(),
            tokens: 0,
            predicted: 0,
        }
    }

    /// Share of the answer tokens that a head copied.
    pub fn score(&self, layer: usize, head: usize) -> f64 {
        let hits = self.hits.get(layer).and_then(|l| l.get(head));
        hits.copied().unwrap_or(0) as f64 / self.tokens.max(1) as f64
    }

    /// Layer, head and score of every head, highest first.
    pub fn ranking(&self) -> Vec<(usize, usize, f64)> {
        let of = |l: usize| (0..self.hits[l].len()).map(move |h| (l, h));
        let all = (0..self.hits.len()).flat_map(of);
        let mut all: Vec<_> = all.map(|(l, h)| (l, h, self.score(l, h))).collect();
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all
    }

    /// Adds a prompt: `ids` with the needle at `needle` and the answer from `answer` to the end. What the session
    /// holds of it is not evaluated again.
    ///
    /// # Errors
    /// [`Error::Request`] for ranges outside the prompt; as [`Session::forward_observed`].
    pub fn add(
        &mut self,
        session: &mut Session,
        ids: &[u32],
        needle: Range<usize>,
        answer: usize,
    ) -> Result<()> {
        if answer == 0 || answer >= ids.len() || needle.end > answer {
            return Err(Error::Request {
                what: "needle and answer".into(),
                value: format!("{needle:?} and {answer}.."),
                allowed: format!("one behind the other, within {} tokens", ids.len()),
            });
        }
        let context = &ids[..answer - 1];
        session.truncate(session.common_prefix(context));
        let held = session.pos();
        session.forward(&context[held..], Want::None)?;
        let mut hits = Hits {
            hits: &mut self.hits,
            ids,
            needle,
        };
        let logits =
            session.forward_observed(&ids[answer - 1..ids.len() - 1], Want::All, &mut hits)?;
        let answer = &ids[answer..];
        let rows = logits.chunks_exact(logits.len() / answer.len());
        let right = rows
            .zip(answer)
            .filter(|(row, id)| argmax(row) as u32 == **id);
        self.predicted += right.count();
        self.tokens += answer.len();
        Ok(())
    }
}

/// Counts while the session runs.
struct Hits<'a> {
    hits: &'a mut [Vec<usize>],
    ids: &'a [u32],
    needle: Range<usize>,
}

impl Observer for Hits<'_> {
    fn heads(&mut self, heads: &mut Heads<'_>) {
        for token in 0..heads.tokens() {
            let next = self.ids[heads.first + token + 1];
            let seen = heads.seen(token).start;
            for (head, hits) in self.hits[heads.layer].iter_mut().enumerate() {
                let at = seen + strongest(&heads.weights(head, token));
                *hits += usize::from(self.needle.contains(&at) && self.ids[at] == next);
            }
        }
    }
}

/// Tries every prompt of the plan. `observe` is given the number of prompts done; its `false` ends with
/// [`Error::Interrupted`].
///
/// # Errors
/// As [`super::needle::run`] and [`Retrieval::add`].
pub fn run(
    session: &mut Session,
    tokenizer: &Tokenizer,
    plan: &Plan,
    observe: &mut dyn FnMut(usize) -> bool,
) -> Result<Retrieval> {
    session.reset();
    let mut found = Retrieval::new(session);
    let mut done = 0;
    prompts(session, tokenizer, plan, &mut |session, planted| {
        let prompt = &planted.prompt;
        let needle = planted.needle_tokens(tokenizer)?;
        found.add(session, &prompt.ids, needle, prompt.from)?;
        done += 1;
        match observe(done) {
            true => Ok(()),
            false => Err(Error::Interrupted),
        }
    })?;
    Ok(found)
}
