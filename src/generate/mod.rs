//! Text generation: prompt ids in, streamed text out.
//!
//! [`Generation`] is one answer: it plans what is to be evaluated and takes the logits. [`generate`] is the loop
//! around one of them; beams and the scheduler are others. Evaluating may mean reading a row that an earlier
//! pass has computed along with others ([`crate::speculate`]); the tokens are the same.
//! Cancelling (flag or callback) ends with `cancelled` and keeps what was generated. Nothing here knows of
//! chats, terminals or servers; they own the prompt and the callback.

mod answer;
mod generation;
mod repeat;
mod search;
mod stop;

use std::ops::ControlFlow;
use std::time::Instant;

use crate::engine::{Engine, Sequence as State, Span};
use crate::error::{Error, Result};
use crate::model::forward::Segment;
use crate::session::Session;
use crate::speculate::{Draft, Guesses, Speculation};
use crate::tokenizer::Tokenizer;
use answer::refuse;
pub use answer::{GenerateOptions, Generated, StopReason, Timings};
pub use generation::{Generation, Planned, Progress, Weighed};
use generation::{check, check_prompt};
pub use repeat::RepeatDetector;
pub use search::{BeamOptions, Sequence, beam_search, best_of};
pub use stop::StopScanner;

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
    use std::time::Duration;

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
