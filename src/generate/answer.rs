//! What is asked for, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::constraint::Constraint;
use crate::error::Error;
use crate::sampler::SamplerOptions;
use crate::speculate::SpeculationStats;

/// What to generate and when to stop.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// The answer ends before the first of these texts; they are not part of it.
    pub stop: Vec<String>,
    /// Control tokens whose texts are part of the answer.
    pub shown: Vec<u32>,
    /// Go on after an end token.
    pub ignore_eos: bool,
    /// End an answer that has repeated itself for so many tokens ([`RepeatDetector`](super::RepeatDetector)); 0 never does.
    pub stop_repeats: usize,
    /// Fill [`Generated::log_probs`].
    pub log_probs: bool,
    /// With them, the most probable tokens at each place: [`Progress::top`](super::Progress::top).
    pub top_log_probs: usize,
    /// Tell the log-probabilities of the prompt's tokens too: [`Event::Prompt`](crate::scheduler::Event::Prompt).
    pub prompt_log_probs: bool,
    /// What the answer is held to.
    pub constraint: Option<Constraint>,
    /// Set from outside to stop. Give the session the same flag, so that a long prefill ends too.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: SamplerOptions::default(),
            stop: Vec::new(),
            shown: Vec::new(),
            ignore_eos: false,
            stop_repeats: 0,
            log_probs: false,
            top_log_probs: 0,
            prompt_log_probs: false,
            constraint: None,
            cancel: None,
        }
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

/// The result of [`generate`](super::generate()).
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

pub(super) fn refuse(what: &str, value: String, allowed: String) -> Error {
    Error::Request {
        what: what.into(),
        value,
        allowed,
    }
}
