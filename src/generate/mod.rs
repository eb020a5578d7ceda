//! Text generation: prompt ids in, streamed text out.
//!
//! ```text
//! keep the longest common prefix of prompt and cache; evaluate the rest   (prefill)
//! repeat: sample from the last logits                                     (decode)
//!         end token?            -> stop `eos`
//!         text of the token     -> stop scanner -> callback   (`stop` when a stop string is complete)
//!         a part repeated for `stop_repeats` tokens          -> stop `repeat`
//!         max_tokens reached, or no room in the context      -> stop `length`
//!         evaluate the token
//! ```
//! Evaluating may mean reading a row that an earlier pass has computed along with others
//! ([`crate::speculate`]); the loop is the same and so are its tokens.
//! Cancelling (flag or callback) ends with `cancelled` and keeps what was generated. The loop knows
//! nothing of chats, terminals or servers; they own the prompt and the callback.

mod repeat;
mod search;
mod stop;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use geb_kernels::Kernels;

use crate::error::{Error, Result};
use crate::logits::log_sum;
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::{Session, Want};
use crate::speculate::{Speculation, SpeculationStats};
use crate::tokenizer::Tokenizer;
pub use repeat::RepeatDetector;
pub use search::{BeamOptions, Sequence, beam_search, best_of};
pub use stop::StopScanner;

/// What to generate and when to stop.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// The answer ends before the first of these texts; they are not part of it.
    pub stop: Vec<String>,
    /// Go on after an end token.
    pub ignore_eos: bool,
    /// End an answer that has repeated itself for so many tokens ([`RepeatDetector`]); 0 never does.
    pub stop_repeats: usize,
    /// Fill [`Generated::log_probs`].
    pub log_probs: bool,
    /// Set from outside to stop. Give the session the same flag, so that a long prefill ends too.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: SamplerOptions::default(),
            stop: Vec::new(),
            ignore_eos: false,
            stop_repeats: 0,
            log_probs: false,
            cancel: None,
        }
    }
}

/// Receives what happens while it happens.
pub trait Events {
    /// `done` of `total` prompt tokens are evaluated.
    fn prefill(&mut self, done: usize, total: usize) {
        _ = (done, total);
    }

    /// New text, complete UTF-8, never empty. `Break` cancels.
    fn text(&mut self, text: &str) -> ControlFlow<()>;
}

/// Every closure on text is an [`Events`].
impl<F: FnMut(&str) -> ControlFlow<()>> Events for F {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        self(text)
    }
}

/// Why generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// The model said it is done.
    Eos,
    /// A stop string appeared.
    Stop,
    /// `max_tokens` reached or the context is full.
    Length,
    /// The answer went round in circles.
    Repeat,
    /// Stopped from outside.
    Cancelled,
}

impl StopReason {
    /// The name used in JSON: `eos`, `stop`, `length`, `repeat`, `cancelled`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Repeat => "repeat",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Counts and times of one generation.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, found in the KV cache and not evaluated again.
    pub reused_tokens: usize,
    /// Time to evaluate the others.
    pub prefill: Duration,
    /// From the call to the first sampled token.
    pub first_token: Duration,
    /// Tokens sampled (an end token included).
    pub sampled_tokens: usize,
    /// From the first sampled token to the end.
    pub decode: Duration,
    /// Passes and guesses while decoding.
    pub speculation: SpeculationStats,
}

impl Timings {
    /// Prompt tokens evaluated per second; `None` when nothing was.
    pub fn prefill_tok_s(&self) -> Option<f64> {
        per_second(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// Tokens per second after the first; `None` for fewer than two tokens.
    pub fn decode_tok_s(&self) -> Option<f64> {
        per_second(self.sampled_tokens.saturating_sub(1), self.decode)
    }
}

fn per_second(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// The result of [`generate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Generated ids, without the end token. After a stop string: all ids up to the one that completed it.
    pub ids: Vec<u32>,
    /// The text of the answer, exactly what the callback received.
    pub text: String,
    /// If asked for: natural logarithm of the probability that the model gives to each sampled token, an
    /// end token included, before penalties and temperature.
    pub log_probs: Vec<f64>,
    /// Why it ended.
    pub reason: StopReason,
    /// Counts and times.
    pub timings: Timings,
}

/// Evaluates `prompt` (token ids, at least one) and generates after it.
///
/// The part of `prompt` that the session already holds is not evaluated again. Afterwards the
/// session holds the prompt and all generated tokens but the last.
///
/// # Errors
/// [`Error::Request`] for an empty prompt, one that does not fit the context, an empty stop string
/// or bad sampling options; whatever the session or the sampler reports.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    events: &mut dyn Events,
) -> Result<Generated> {
    let plain = &mut Speculation::off();
    generate_with(session, plain, tokenizer, prompt, options, events)
}

/// As [`generate`], with the same result, faster where `speculation` guesses well.
///
/// # Errors
/// As [`generate`].
pub fn generate_with(
    session: &mut Session,
    speculation: &mut Speculation,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    events: &mut dyn Events,
) -> Result<Generated> {
    let start = Instant::now();
    check(session, prompt, options)?;
    let read = prompt.len();
    let prompt = beginning(session, prompt)?;
    let mut run = Run {
        sampler: Sampler::new(options.sampling.clone())?,
        scanner: StopScanner::new(&options.stop),
        repeats: RepeatDetector::new(options.stop_repeats),
        logits: Vec::new(),
        history: prompt,
        out: Generated {
            ids: Vec::new(),
            text: String::new(),
            log_probs: Vec::new(),
            reason: StopReason::Length,
            timings: Timings {
                prompt_tokens: read,
                ..Timings::default()
            },
        },
    };
    match run.prefill(session, events) {
        Err(Error::Interrupted) => run.out.reason = StopReason::Cancelled,
        Err(e) => return Err(e),
        Ok(()) => {
            let held = run.history.len();
            let mut ahead = Ahead {
                session,
                speculation,
                held,
            };
            ahead.speculation.begin();
            let done = run.decode(&mut ahead, tokenizer, options, events, start);
            run.out.timings.speculation = ahead.speculation.stats();
            // Guesses that were not used do not stay behind.
            ahead.session.truncate(ahead.held);
            done?;
        }
    }
    Ok(run.out)
}

fn refuse(what: &str, value: String, allowed: String) -> Error {
    Error::Request {
        what: what.into(),
        value,
        allowed,
    }
}

/// Everything that can be refused before work starts.
fn check(session: &Session, prompt: &[u32], options: &GenerateOptions) -> Result<()> {
    check_prompt(session, prompt)?;
    if options.stop.iter().any(String::is_empty) {
        let allowed = "at least one character".into();
        return Err(refuse("stop string", "empty".into(), allowed));
    }
    Ok(())
}

fn check_prompt(session: &Session, prompt: &[u32]) -> Result<()> {
    if prompt.is_empty() {
        let allowed = "at least one token".into();
        return Err(refuse("prompt", "empty".into(), allowed));
    }
    if prompt.len() > session.ctx() {
        let allowed = format!("at most {} (the context)", session.ctx());
        let value = format!("{} tokens", prompt.len());
        return Err(refuse("prompt", value, allowed));
    }
    Ok(())
}

/// What the text begins with: the prompt or, where an encoder reads the prompt, the token that starts
/// an answer to it.
fn beginning(session: &mut Session, prompt: &[u32]) -> Result<Vec<u32>> {
    match session.model().config().encoder {
        Some(encoder) => {
            session.encode(prompt)?;
            Ok(vec![encoder.start])
        }
        None => Ok(prompt.to_vec()),
    }
}

/// Evaluates of `ids` what the session does not hold yet, for logits at least the last one. Returns how
/// many it held.
fn read(session: &mut Session, ids: &[u32], want: Want, events: &mut dyn Events) -> Result<usize> {
    let most = ids.len() - usize::from(want == Want::Last);
    let keep = session.common_prefix(ids).min(most);
    if keep < session.pos() {
        session.truncate(keep);
    }
    // A recurrent state cannot go back: the session may have kept less than asked.
    let keep = session.pos().min(keep);
    let mut progress = |done, total| events.prefill(done, total);
    session.forward_with(&ids[keep..], want, &mut progress)?;
    Ok(keep)
}

/// The session while it decodes: it may hold more than the text.
struct Ahead<'a> {
    session: &'a mut Session,
    speculation: &'a mut Speculation,
    /// Tokens of the text that are evaluated.
    held: usize,
}

impl Ahead<'_> {
    /// Evaluates the last token of `history` if need be and copies the logits after it.
    fn evaluate(&mut self, history: &[u32], wanted: usize, logits: &mut [f32]) -> Result<()> {
        self.speculation.advance(self.session, history, wanted)?;
        self.held = history.len();
        let at = self.speculation.row() * logits.len();
        logits.copy_from_slice(&self.session.logits()[at..at + logits.len()]);
        Ok(())
    }
}

/// Natural logarithm of the probability of token `id`.
fn log_prob(kernels: &Kernels, row: &[f32], id: u32) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(row[id as usize]) - log_sum(kernels, row, largest)
}

/// The state of one generation.
struct Run {
    sampler: Sampler,
    scanner: StopScanner,
    repeats: RepeatDetector,
    /// `[vocab]`, a copy: sampling changes them.
    logits: Vec<f32>,
    /// Prompt and generated ids, for the repetition penalty.
    history: Vec<u32>,
    out: Generated,
}

impl Run {
    /// Evaluates the prompt.
    fn prefill(&mut self, session: &mut Session, events: &mut dyn Events) -> Result<()> {
        let start = Instant::now();
        self.out.timings.reused_tokens = read(session, &self.history, Want::Last, events)?;
        self.logits.extend_from_slice(session.logits());
        self.out.timings.prefill = start.elapsed();
        Ok(())
    }

    /// Samples until one of the reasons to stop applies.
    fn decode(
        &mut self,
        ahead: &mut Ahead<'_>,
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
        events: &mut dyn Events,
        start: Instant,
    ) -> Result<()> {
        let cancelled = || {
            options
                .cancel
                .as_ref()
                .is_some_and(|c| c.load(Ordering::Relaxed))
        };
        // The text continues the prompt: a space between the two is part of it.
        let mut stream = tokenizer.stream_after(self.history.last().copied());
        let mut first = None;
        self.out.reason = loop {
            if self.out.ids.len() >= options.max_tokens {
                break StopReason::Length;
            }
            if cancelled() {
                break StopReason::Cancelled;
            }
            let unchanged = options.log_probs.then(|| self.logits.clone());
            let id = self.sampler.sample(&mut self.logits, &self.history)?;
            if let Some(row) = unchanged {
                let kernels = ahead.session.kernels();
                self.out.log_probs.push(log_prob(kernels, &row, id));
            }
            self.out.timings.sampled_tokens += 1;
            first.get_or_insert_with(Instant::now);
            if !options.ignore_eos && tokenizer.is_stop(id) {
                break StopReason::Eos;
            }
            self.out.ids.push(id);
            self.history.push(id);
            let piece = stream.push(id);
            if let Some(reason) = self.emit(&piece, events) {
                break reason;
            }
            if self.repeats.push(id).is_some() {
                break StopReason::Repeat;
            }
            let wanted = options.max_tokens - self.out.ids.len();
            if wanted > 0 {
                if ahead.held >= ahead.session.ctx() {
                    break StopReason::Length;
                }
                match ahead.evaluate(&self.history, wanted, &mut self.logits) {
                    Ok(()) => {}
                    Err(Error::Interrupted) => break StopReason::Cancelled,
                    Err(e) => return Err(e),
                }
            }
        };
        let rest = stream.finish();
        self.flush(&rest, events);
        let first = first.unwrap_or_else(Instant::now);
        self.out.timings.first_token = first - start;
        self.out.timings.decode = first.elapsed();
        Ok(())
    }

    /// Passes new text through the stop scanner to the callback.
    fn emit(&mut self, piece: &str, events: &mut dyn Events) -> Option<StopReason> {
        let (text, stopped) = self.scanner.push(piece);
        let cancelled = self.deliver(&text, events);
        if stopped {
            Some(StopReason::Stop)
        } else {
            cancelled.then_some(StopReason::Cancelled)
        }
    }

    /// At the end: the rest of an incomplete character, and what was held back for a stop string.
    fn flush(&mut self, rest: &str, events: &mut dyn Events) {
        if self.out.reason == StopReason::Stop {
            return;
        }
        let (mut text, stopped) = self.scanner.push(rest);
        if stopped {
            self.out.reason = StopReason::Stop;
        } else {
            text.push_str(&self.scanner.finish());
        }
        self.deliver(&text, events);
    }

    /// Gives text to the callback and keeps it; true when the callback wants to stop.
    fn deliver(&mut self, text: &str, events: &mut dyn Events) -> bool {
        if text.is_empty() {
            return false;
        }
        self.out.text.push_str(text);
        events.text(text).is_break()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_time_and_tokens() {
        let t = Timings {
            sampled_tokens: 11,
            decode: Duration::from_secs(2),
            ..Timings::default()
        };
        assert_eq!(t.decode_tok_s(), Some(5.0));
        assert_eq!(t.prefill_tok_s(), None);
    }
}
