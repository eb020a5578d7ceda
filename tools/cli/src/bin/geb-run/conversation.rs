//! A conversation and what it has cost.

use std::sync::Arc;
use std::time::Duration;

use geb::chat::{ChatTemplate, Message};
use geb::constraint::Constraint;
use geb::generate::{GenerateOptions, Timings};
use geb::speculate::{Speculation, SpeculationStats};
use geb::tokenizer::Tokenizer;

use crate::args::{OutputArgs, ReasoningHow};
use crate::load::Loaded;
use crate::report::rate;

/// A running conversation.
pub struct Chat {
    /// Model and cache.
    pub loaded: Loaded,
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    pub options: GenerateOptions,
    pub guesses: Speculation,
    pub output: OutputArgs,
    /// What is shown of reasoning.
    pub reasoning: ReasoningHow,
    /// What holds every answer.
    pub constraint: Option<Constraint>,
    /// What the model is told first; not part of `messages`.
    pub system: Option<String>,
    /// User and assistant in turn.
    pub messages: Vec<Message>,
    /// Seed of the first answer; every answer uses the next one.
    pub seed: u64,
    /// What happened so far.
    pub totals: Totals,
    pub load_shown: bool,
    /// Whether it has been said what the template does with a system text.
    pub system_shown: bool,
}

/// Sums over the answers of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Answers given.
    pub answers: u64,
    /// Prompt tokens evaluated.
    pub evaluated: usize,
    /// Prompt tokens found in the cache.
    pub reused: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Time of prefill and decode.
    pub prefill: Duration,
    /// From the first token to the end of each answer.
    pub decode: Duration,
    /// Tokens after the first of each answer.
    pub decoded: usize,
    /// Passes and guesses.
    pub speculation: SpeculationStats,
}

impl Totals {
    /// Adds an answer.
    pub fn add(&mut self, t: &Timings) {
        self.answers += 1;
        self.evaluated += t.prompt_tokens - t.reused_tokens;
        self.reused += t.reused_tokens;
        self.generated += t.sampled_tokens;
        self.prefill += t.prefill;
        self.decode += t.decode;
        self.decoded += t.sampled_tokens.saturating_sub(1);
        self.speculation.add(&t.speculation);
    }

    /// `prefill X tok/s, decode Y tok/s`.
    pub fn rates(&self) -> String {
        let per = |n: usize, t: Duration| {
            if t.is_zero() {
                "-".into()
            } else {
                rate(n as f64 / t.as_secs_f64())
            }
        };
        let (prefill, decode) = (
            per(self.evaluated, self.prefill),
            per(self.decoded, self.decode),
        );
        format!("prefill {prefill} tok/s, decode {decode} tok/s")
    }
}
