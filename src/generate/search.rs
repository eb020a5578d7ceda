//! Several answers to one prompt, best first: the most probable of n samples, or beam search.
//!
//! ```text
//! score = (sum over the answer's tokens of log p(token)) / tokens^length_penalty
//! ```
//! The end token counts as a token. The prompt is evaluated once, and all answers share one pass per token: each
//! has a fork of the sequence that read it. Results do not depend on threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use geb_kernels::Kernels;

use super::{
    Events, GenerateOptions, Generation, StopReason, beginning, check, check_prompt, refuse,
};
use crate::engine::{Engine, Sequence as State, Span};
use crate::error::{Error, Result};
use crate::limits;
use crate::logits::{log_sum, top_k};
use crate::model::forward::Segment;
use crate::session::{Session, Want};
use crate::speculate::{Draft, Guesses, Speculation};
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

/// Evaluates of `ids` what the session does not hold yet, for logits at least the last one.
fn read(session: &mut Session, ids: &[u32], want: Want, events: &mut dyn Events) -> Result<()> {
    let most = ids.len() - usize::from(want == Want::Last);
    let keep = session.common_prefix(ids).min(most);
    if keep < session.pos() {
        session.truncate(keep);
    }
    // A recurrent state cannot go back: the session may have kept less than asked.
    let keep = session.pos().min(keep);
    let mut progress = |done, total| events.prefill(done, total);
    session.forward_with(&ids[keep..], want, &mut progress)?;
    Ok(())
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
/// next seed, and ranks them. Answer i is what [`super::generate`] gives for its seed; several are generated
/// side by side, and nobody guesses for them.
///
/// # Errors
/// As [`super::generate`]; [`Error::Request`] for a number or a penalty out of range; [`Error::Memory`],
/// [`Error::Pages`].
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
    let mut options = options.clone();
    options.log_probs = true;
    let mut answers = Vec::new();
    if n == 1 {
        let one = super::generate_with(session, speculation, tokenizer, prompt, &options, events)?;
        answers.push(one);
    } else {
        let (engine, seq) = session.parts();
        check(engine, prompt, &options)?;
        let text = beginning(engine, seq, prompt)?;
        let held = text.len() - 1;
        read(session, &text[..held], Want::None, events)?;
        let (engine, seq) = session.parts();
        let mut all = Vec::with_capacity(n);
        for i in 0..n {
            let mut options = options.clone();
            options.sampling.seed = options.sampling.seed.wrapping_add(i as u64);
            let answer = Generation::new(engine, tokenizer, text.clone(), options)?;
            all.push((answer, engine.fork(seq, seq.tokens().len())?));
        }
        side_by_side(engine, &mut all, events)?;
        answers.extend(all.into_iter().map(|(answer, _)| answer.into_parts().0));
    }
    let ranked = answers.into_iter().map(|answer| {
        let log_prob = answer.log_probs.iter().sum();
        Sequence {
            score: score(log_prob, answer.log_probs.len(), length_penalty),
            ids: answer.ids,
            text: answer.text,
            log_prob,
            reason: answer.reason,
        }
    });
    let mut sequences: Vec<_> = ranked.collect();
    rank(&mut sequences);
    Ok(sequences)
}

/// Steps all answers until each has ended.
fn side_by_side(
    engine: &mut Engine,
    all: &mut [(Generation<'_>, State)],
    events: &mut dyn Events,
) -> Result<()> {
    let (batch, vocab) = (engine.batch(), engine.model().config().vocab);
    let mut cancelled = false;
    while all.iter().any(|(answer, _)| answer.reason().is_none()) {
        let going = all.iter_mut().filter(|(a, _)| a.reason().is_none());
        let mut group: Vec<_> = going.take(batch).collect();
        let mut spans = Vec::with_capacity(group.len());
        for (answer, seq) in &mut group {
            answer.plan(&mut Draft::new(engine, seq), 1, Guesses::Of(0));
            let plan = answer.planned();
            let input = Segment::Tokens(plan.ids);
            let want = plan.want;
            spans.push(Span { seq, input, want });
        }
        let mut out = match engine.step(&mut spans) {
            Err(Error::Interrupted) => {
                drop(spans);
                all.iter_mut().for_each(|(answer, _)| drop(answer.cancel()));
                break;
            }
            out => out?,
        };
        drop(spans);
        if let Some((_, error)) = out.failed.pop() {
            return Err(error);
        }
        for (i, (answer, seq)) in group.into_iter().enumerate() {
            answer.evaluated(seq.tokens().len(), None);
            while let Some(progress) = answer.accept(out.of(i, vocab))? {
                cancelled |= !progress.text.is_empty() && events.text(&progress.text).is_break();
            }
        }
        if cancelled {
            all.iter_mut().for_each(|(answer, _)| drop(answer.cancel()));
        }
    }
    Ok(())
}

/// An answer that may go on.
struct Beam {
    ids: Vec<u32>,
    log_prob: f64,
    /// What has seen all of it but the last token.
    seq: State,
}

/// A token behind a beam.
struct Candidate {
    beam: usize,
    id: u32,
    log_prob: f64,
}

struct Search<'a> {
    engine: &'a mut Engine,
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
    let (engine, seq) = session.parts();
    check_prompt(engine, prompt)?;
    let prompt = beginning(engine, seq, prompt)?;
    let room = session.ctx() - prompt.len();
    let length = options.max_tokens.min(room + 1);
    read(session, &prompt, Want::Last, events)?;
    let first = session.logits().to_vec();
    let (engine, seq) = session.parts();
    let mut search = Search {
        open: Vec::new(),
        done: Vec::new(),
        last: prompt.last().copied(),
        engine,
        tokenizer,
        options,
    };
    let start = Beam {
        ids: Vec::new(),
        log_prob: 0.0,
        seq: search.engine.fork(seq, seq.tokens().len())?,
    };
    let most_tokens = most(options, tokenizer);
    let candidates = best(0, 0.0, &first, most_tokens, search.engine.kernels());
    search.open.push(start);
    let reason = search.run(length, candidates.collect())?;
    search.close(reason);
    Ok(search.done)
}

/// How many tokens behind a beam are looked at: end tokens take no place among the open answers.
fn most(options: &BeamOptions, tokenizer: &Tokenizer) -> usize {
    options.beams + tokenizer.stop_ids().len()
}

/// The most probable tokens behind a beam of log-probability `before`, whose next logits `row` are.
fn best(
    beam: usize,
    before: f64,
    row: &[f32],
    most: usize,
    kernels: &Kernels,
) -> impl Iterator<Item = Candidate> {
    let best = top_k(row, most.min(row.len()));
    let largest = best.first().map_or(0.0, |(_, v)| *v);
    let sum = log_sum(kernels, row, largest);
    best.into_iter().map(move |(id, logit)| Candidate {
        beam,
        id,
        log_prob: before + (f64::from(logit) - sum),
    })
}

impl Search<'_> {
    /// Steps until nothing better is to be expected; says why the open answers end. `candidates` may follow
    /// the prompt.
    fn run(&mut self, most: usize, mut candidates: Vec<Candidate>) -> Result<StopReason> {
        for length in 1..=most {
            let flag = self.options.cancel.as_ref();
            if flag.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Ok(StopReason::Cancelled);
            }
            if length > 1 {
                candidates = match self.candidates() {
                    Err(Error::Interrupted) => return Ok(StopReason::Cancelled),
                    other => other?,
                };
            }
            candidates.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
            self.choose(std::mem::take(&mut candidates), length)?;
            if self.open.is_empty() || self.is_settled(length) {
                self.open.clear();
                break;
            }
        }
        Ok(StopReason::Length)
    }

    /// Every open answer is evaluated, as many as fit in a pass; returns the tokens that may follow.
    fn candidates(&mut self) -> Result<Vec<Candidate>> {
        let (batch, vocab) = (self.engine.batch(), self.engine.model().config().vocab);
        let (most, kernels) = (most(self.options, self.tokenizer), self.engine.kernels());
        let (mut open, mut all) = (std::mem::take(&mut self.open), Vec::new());
        for first in (0..open.len()).step_by(batch) {
            let end = open.len().min(first + batch);
            let spans = open[first..end].iter_mut().map(|beam| Span {
                seq: &mut beam.seq,
                input: Segment::Tokens(&beam.ids[beam.ids.len() - 1..]),
                want: Want::Last,
            });
            let mut spans: Vec<_> = spans.collect();
            let stepped = self.engine.step(&mut spans);
            drop(spans);
            let mut out = match stepped {
                Ok(out) => out,
                Err(error) => {
                    self.open = open;
                    return Err(error);
                }
            };
            if let Some((_, error)) = out.failed.pop() {
                return Err(error);
            }
            for (i, row) in (first..end).zip(out.logits.chunks_exact(vocab)) {
                all.extend(best(i, open[i].log_prob, row, most, kernels));
            }
        }
        self.open = open;
        Ok(all)
    }

    /// The best candidates become the open answers; those that end are done.
    fn choose(&mut self, candidates: Vec<Candidate>, length: usize) -> Result<()> {
        let (beams, mut next) = (self.options.beams, Vec::new());
        for (place, c) in candidates.into_iter().enumerate() {
            if next.len() == beams {
                break;
            }
            let Beam { ids, seq, .. } = &self.open[c.beam];
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
                seq: self.engine.fork(seq, seq.tokens().len())?,
            });
        }
        self.open = next;
        Ok(())
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
