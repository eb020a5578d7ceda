//! Several answers to one prompt, best first: the most probable of n samples, or beam search.
//!
//! ```text
//! score = (sum over the answer's tokens of log p(token)) / tokens^length_penalty
//! ```
//! The end token counts as a token. The prompt is evaluated once; what lies behind it is copied out and in
//! again as answers take turns ([`Session::branch`]). Results do not depend on threads.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Events, GenerateOptions, StopReason, beginning, check, check_prompt, read, refuse};
use crate::error::{Error, Result};
use crate::limits;
use crate::logits::{log_sum, top_k};
use crate::session::{Branch, Session, Want};
use crate::speculate::Speculation;
use crate::tokenizer::Tokenizer;

/// One of several answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Ids, without the end token.
    pub ids: Vec<u32>,
    /// The text.
    pub text: String,
    /// Natural logarithm of the probability of all its tokens, the end token included.
    pub log_prob: f64,
    /// What answers are ranked by.
    pub score: f64,
    /// Why it ended.
    pub reason: StopReason,
}

/// How to search with beams.
#[derive(Clone, Debug)]
pub struct BeamOptions {
    /// Answers followed side by side, and returned; at most [`limits::MAX_SEQUENCES`].
    pub beams: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Exponent of the length that log-probabilities are divided by: above 0 favours long answers.
    pub length_penalty: f64,
    /// Go on after an end token.
    pub ignore_eos: bool,
    /// Set from outside to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

fn score(log_prob: f64, tokens: usize, length_penalty: f64) -> f64 {
    log_prob / (tokens.max(1) as f64).powf(length_penalty)
}

/// Best first; of equals the one found first.
fn rank(sequences: &mut [Sequence]) {
    sequences.sort_by(|a, b| b.score.total_cmp(&a.score));
}

fn check_search(count: usize, length_penalty: f64) -> Result<()> {
    let most = limits::MAX_SEQUENCES;
    if !(1..=most).contains(&count) {
        let allowed = format!("1..={most}");
        return Err(refuse("number of answers", count.to_string(), allowed));
    }
    if !(-10.0..=10.0).contains(&length_penalty) {
        let value = length_penalty.to_string();
        return Err(refuse("length penalty", value, "-10 to 10".into()));
    }
    Ok(())
}

/// Generates `n` answers to `prompt`, the first with the seed of `options`, each further one with the
/// next seed, and ranks them. Answer i is what [`super::generate`] gives for its seed.
///
/// # Errors
/// As [`super::generate`]; [`Error::Request`] for a number or a penalty out of range.
pub fn best_of(
    session: &mut Session,
    speculation: &mut Speculation,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    (n, length_penalty): (usize, f64),
    events: &mut dyn Events,
) -> Result<Vec<Sequence>> {
    check_search(n, length_penalty)?;
    check(session, prompt, options)?;
    let all = beginning(session, prompt)?;
    let held = all.len() - 1;
    read(session, &all[..held], Want::None, events)?;
    let start = session.branch()?;
    let mut sequences = Vec::new();
    for i in 0..n {
        session.resume(&start)?;
        let mut options = options.clone();
        options.log_probs = true;
        options.sampling.seed = options.sampling.seed.wrapping_add(i as u64);
        let answer =
            super::generate_with(session, speculation, tokenizer, prompt, &options, events)?;
        let log_prob = answer.log_probs.iter().sum();
        sequences.push(Sequence {
            score: score(log_prob, answer.log_probs.len(), length_penalty),
            ids: answer.ids,
            text: answer.text,
            log_prob,
            reason: answer.reason,
        });
        if answer.reason == StopReason::Cancelled {
            break;
        }
    }
    rank(&mut sequences);
    Ok(sequences)
}

/// An answer that may go on.
struct Beam {
    ids: Vec<u32>,
    log_prob: f64,
    /// The session before the last of `ids`; none for the prompt alone.
    before: Option<Rc<Branch>>,
}

/// A token behind a beam.
struct Candidate {
    beam: usize,
    id: u32,
    log_prob: f64,
}

struct Search<'a> {
    session: &'a mut Session,
    tokenizer: &'a Tokenizer,
    options: &'a BeamOptions,
    /// Last token of the prompt.
    last: Option<u32>,
    open: Vec<Beam>,
    done: Vec<Sequence>,
}

/// The `options.beams` best answers that beam search finds: at every step each open answer is continued
/// by every token, and the most probable `beams` of all these stay; one that reaches an end token while
/// among these is done. Ends when `beams` answers are done and no open one has a better score at its
/// present length. One beam is greedy decoding; with as many beams as there are texts the search is
/// exhaustive. Equal answers: the lower token id first.
///
/// Beams share the pages of what they have in common.
///
/// # Errors
/// [`Error::Request`] for a bad prompt, number or penalty; [`Error::Memory`]; what the session reports.
pub fn beam_search(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &BeamOptions,
    events: &mut dyn Events,
) -> Result<Vec<Sequence>> {
    check_search(options.beams, options.length_penalty)?;
    check_prompt(session, prompt)?;
    let prompt = beginning(session, prompt)?;
    let room = session.ctx() - prompt.len();
    let most = options.max_tokens.min(room + 1);
    read(session, &prompt, Want::Last, events)?;
    let mut search = Search {
        session,
        tokenizer,
        options,
        last: prompt.last().copied(),
        open: vec![Beam {
            ids: Vec::new(),
            log_prob: 0.0,
            before: None,
        }],
        done: Vec::new(),
    };
    let reason = search.run(most)?;
    search.close(reason);
    Ok(search.done)
}

impl Search<'_> {
    /// Steps until nothing better is to be expected; says why the open answers end.
    fn run(&mut self, most: usize) -> Result<StopReason> {
        for length in 1..=most {
            let flag = self.options.cancel.as_ref();
            if flag.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Ok(StopReason::Cancelled);
            }
            let (held, candidates) = match self.candidates() {
                Err(Error::Interrupted) => return Ok(StopReason::Cancelled),
                other => other?,
            };
            self.choose(held, candidates, length);
            if self.open.is_empty() || self.is_settled(length) {
                self.open.clear();
                break;
            }
        }
        Ok(StopReason::Length)
    }

    /// Every open answer is evaluated; returns what the session was after each, and the tokens that may
    /// follow, most probable first.
    fn candidates(&mut self) -> Result<(Vec<Rc<Branch>>, Vec<Candidate>)> {
        // End tokens take no place among the open answers.
        let most = self.options.beams + self.tokenizer.stop_ids().len();
        let (mut held, mut all) = (Vec::new(), Vec::new());
        for (beam, b) in self.open.iter().enumerate() {
            if let (Some(before), Some(id)) = (&b.before, b.ids.last()) {
                self.session.resume(before)?;
                self.session.forward(&[*id], Want::Last)?;
            }
            let row = self.session.logits();
            let best = top_k(row, most.min(row.len()));
            let largest = best.first().map_or(0.0, |(_, v)| *v);
            let sum = log_sum(self.session.kernels(), row, largest);
            all.extend(best.into_iter().map(|(id, logit)| Candidate {
                beam,
                id,
                log_prob: b.log_prob + (f64::from(logit) - sum),
            }));
            held.push(Rc::new(self.session.branch()?));
        }
        all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
        Ok((held, all))
    }

    /// The best candidates become the open answers; those that end are done.
    fn choose(&mut self, held: Vec<Rc<Branch>>, candidates: Vec<Candidate>, length: usize) {
        let (beams, mut next) = (self.options.beams, Vec::new());
        for (place, c) in candidates.into_iter().enumerate() {
            if next.len() == beams {
                break;
            }
            let ids = &self.open[c.beam].ids;
            if !self.options.ignore_eos && self.tokenizer.is_stop(c.id) {
                if place < beams {
                    let ids = ids.clone();
                    self.finish(ids, c.log_prob, length, StopReason::Eos);
                }
                continue;
            }
            next.push(Beam {
                ids: ids.iter().copied().chain([c.id]).collect(),
                log_prob: c.log_prob,
                before: Some(held[c.beam].clone()),
            });
        }
        self.open = next;
    }

    /// Adds an answer of `tokens` tokens to those that are done, of which the best stay.
    fn finish(&mut self, ids: Vec<u32>, log_prob: f64, tokens: usize, reason: StopReason) {
        self.done.push(Sequence {
            text: self.tokenizer.continuation(self.last, &ids),
            ids,
            log_prob,
            score: score(log_prob, tokens, self.options.length_penalty),
            reason,
        });
        rank(&mut self.done);
        self.done.truncate(self.options.beams);
    }

    /// Whether as many answers as asked for are done and none that is open is better as it is.
    fn is_settled(&self, length: usize) -> bool {
        let worst = self.done.get(self.options.beams - 1);
        let best = self.open.first().map(|b| b.log_prob);
        let best = best.map(|b| score(b, length, self.options.length_penalty));
        worst.is_some_and(|worst| best.is_none_or(|best| worst.score >= best))
    }

    /// What is open ends where it is.
    fn close(&mut self, reason: StopReason) {
        for beam in std::mem::take(&mut self.open) {
            let tokens = beam.ids.len();
            self.finish(beam.ids, beam.log_prob, tokens, reason);
        }
    }
}
