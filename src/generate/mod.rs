//! Text generation: prompt ids in, streamed text out.
//!
//! [`Generation`] is one answer: it plans what is to be evaluated and takes the logits. [`generate`] is the loop
//! around one of them; beams and the scheduler are others. Evaluating may mean reading a row that an earlier
//! pass has computed along with others ([`crate::speculate`]); the tokens are the same.
//! Cancelling (flag or callback) ends with `cancelled` and keeps what was generated. Nothing here knows of
//! chats, terminals or servers; they own the prompt and the callback.

mod generation;
mod repeat;
mod search;
mod stop;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Sequence as State, Span};
use crate::error::{Error, Result};
use crate::model::forward::Segment;
use crate::sampler::SamplerOptions;
use crate::session::Session;
use crate::speculate::{Draft, Guesses, Speculation, SpeculationStats};
use crate::tokenizer::Tokenizer;
pub use generation::{Generation, Planned, Progress};
use generation::{check, check_prompt};
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
    /// With them, the most probable tokens at each place: [`Progress::top`].
    pub top_log_probs: usize,
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
            top_log_probs: 0,
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
    let (engine, seq) = session.parts();
    generate_on(engine, seq, speculation, tokenizer, prompt, options, events)
}

/// As [`generate_with`], on a sequence of an engine.
///
/// # Errors
/// As [`generate`].
pub fn generate_on(
    engine: &mut Engine,
    seq: &mut State,
    speculation: &mut Speculation,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    events: &mut dyn Events,
) -> Result<Generated> {
    let started = Instant::now();
    check(engine, prompt, options)?;
    let text = beginning(engine, seq, prompt)?;
    let mut answer = Generation::new(engine, tokenizer, text, options.clone())?;
    answer.started = started;
    answer.timings().prompt_tokens = prompt.len();
    answer.guess_with(std::mem::take(speculation));
    let done = run(engine, seq, &mut answer, events);
    // Guesses that were not used do not stay behind.
    seq.truncate(answer.held());
    let (generated, guesses) = answer.into_parts();
    *speculation = guesses;
    done.map(|()| generated)
}

/// The loop around one answer on an engine of its own.
fn run(
    engine: &mut Engine,
    seq: &mut State,
    answer: &mut Generation<'_>,
    events: &mut dyn Events,
) -> Result<()> {
    answer.begin(engine, seq)?;
    let rows = engine.batch();
    while answer.reason().is_none() {
        let plan = answer.plan(&mut Draft::new(engine, seq), rows, Guesses::Tuned);
        let span = Span {
            seq: &mut *seq,
            input: Segment::Tokens(plan.ids),
            want: plan.want,
        };
        let start = Instant::now();
        let mut out = match engine.step(&mut [span]) {
            Err(Error::Interrupted) => {
                deliver(answer.cancel(), answer, events);
                break;
            }
            out => out?,
        };
        if let Some((_, error)) = out.failed.pop() {
            answer.failed(error)?;
            continue;
        }
        let read = answer.evaluated(seq.tokens().len(), Some(start.elapsed()));
        if let Some((done, total)) = read {
            events.prefill(done, total);
        }
        while let Some(progress) = answer.accept(out.logits)? {
            deliver(progress, answer, events);
        }
    }
    Ok(())
}

/// Gives new text to the callback, which may cancel; then what was held back comes too.
fn deliver(progress: Progress, answer: &mut Generation<'_>, events: &mut dyn Events) {
    if !progress.text.is_empty() && events.text(&progress.text).is_break() {
        let rest = answer.cancel();
        if !rest.text.is_empty() {
            _ = events.text(&rest.text);
        }
    }
}

fn refuse(what: &str, value: String, allowed: String) -> Error {
    Error::Request {
        what: what.into(),
        value,
        allowed,
    }
}

/// What the text begins with: the prompt or, where an encoder reads the prompt, the token that starts
/// an answer to it.
fn beginning(engine: &mut Engine, seq: &mut State, prompt: &[u32]) -> Result<Vec<u32>> {
    match engine.model().config().encoder {
        Some(encoder) => {
            engine.encode(seq, prompt)?;
            Ok(vec![encoder.start])
        }
        None => Ok(prompt.to_vec()),
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
