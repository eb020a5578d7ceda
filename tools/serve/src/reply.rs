//! Answers while they come: the events of the scheduler as pieces that every dialect can write.

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use geb::engine::Stored;
pub use geb::generate::Weighed;
use geb::generate::{GenerateOptions, Progress, StopReason, Timings};
use geb::scheduler::{Event, Handle, Request};

use crate::error::{ApiError, Fault, Result};
use crate::keys::Owner;
use crate::metrics::Metrics;
use crate::models::Loaded;

/// What an answer has grown by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Text of the answer.
    Text(String),
    /// Text of the reasoning before it.
    Reasoning(String),
    /// A tool call begins.
    Call {
        /// Its name among the calls.
        id: String,
        /// The tool.
        name: String,
    },
    /// Text of the last call's arguments, which are a JSON object.
    Arguments(String),
}

/// A part of an answer, in the order in which they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Text.
    Text(String),
    /// Reasoning.
    Reasoning(String),
    /// A tool call.
    Call {
        /// Its name among the calls.
        id: String,
        /// The tool.
        name: String,
        /// A JSON object.
        arguments: String,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// The model said so.
    End,
    /// A stop text came.
    Stop,
    /// The model has called tools.
    Calls,
    /// As many tokens as asked for, or as the context has.
    Length,
}

/// An answer so far.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    /// What it consists of.
    pub parts: Vec<Part>,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The prompt's tokens from the second on, with their log-probabilities, if asked for.
    pub prompt: Vec<Weighed>,
    /// Its tokens with their log-probabilities, if asked for.
    pub tokens: Vec<Weighed>,
    /// Why it ended; none while it goes on.
    pub finish: Option<Finish>,
    /// The stop text that ended it.
    pub stop: Option<String>,
    /// Counts and times, whole at the end.
    pub timings: Timings,
    /// Tokens chosen so far.
    pub sampled: usize,
}

impl Step {
    const NOTHING: Step = Step::Grown {
        pieces: Vec::new(),
        tokens: Vec::new(),
    };
}

impl Reply {
    /// All its text.
    pub fn text(&self) -> String {
        let texts = self.parts.iter().filter_map(|p| match p {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// All its reasoning, if there is any.
    pub fn reasoning(&self) -> Option<String> {
        let texts = self.parts.iter().filter_map(|p| match p {
            Part::Reasoning(text) => Some(text.as_str()),
            _ => None,
        });
        Some(texts.collect::<String>()).filter(|t| !t.is_empty())
    }

    /// How many tools it calls.
    pub fn calls(&self) -> usize {
        self.parts
            .iter()
            .filter(|p| matches!(p, Part::Call { .. }))
            .count()
    }

    fn push(&mut self, piece: &Piece) {
        let last = self.parts.last_mut();
        match (piece, last) {
            (Piece::Text(new), Some(Part::Text(text)))
            | (Piece::Reasoning(new), Some(Part::Reasoning(text)))
            | (
                Piece::Arguments(new),
                Some(Part::Call {
                    arguments: text, ..
                }),
            ) => text.push_str(new),
            (Piece::Text(new), _) => self.parts.push(Part::Text(new.clone())),
            (Piece::Reasoning(new), _) => self.parts.push(Part::Reasoning(new.clone())),
            (Piece::Call { id, name }, _) => self.parts.push(Part::Call {
                id: id.clone(),
                name: name.clone(),
                arguments: String::new(),
            }),
            // Arguments follow their call.
            (Piece::Arguments(_), _) => {}
        }
    }
}

/// What happened to an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// It has entered: its prompt is about to be read.
    Started,
    /// New pieces and tokens, of each perhaps none; tokens of the prompt are in the reply.
    Grown {
        /// What there is to show.
        pieces: Vec<Piece>,
        /// Tokens with log-probabilities, if asked for.
        tokens: Vec<Weighed>,
    },
    /// It is whole.
    Done,
    /// It could not go on.
    Failed(ApiError),
}

/// A prompt on its way to the scheduler.
#[derive(Clone)]
pub struct Prompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// What is on disk of its beginning.
    pub stored: Option<Arc<Stored>>,
}

/// Answers to the prompts of one request.
pub struct Replies {
    runs: Vec<Run>,
    turn: usize,
    metrics: Arc<Metrics>,
    /// Keeps the model in memory.
    _loaded: Arc<Loaded>,
}

struct Run {
    handle: Option<Handle>,
    reply: Reply,
    asked: Instant,
    last: Option<Instant>,
}

impl Replies {
    /// Hands over a request for each prompt and each of `answers`; the seeds of one prompt's answers follow each
    /// other.
    ///
    /// # Errors
    /// When the queue is full; nothing is asked then.
    pub fn start(
        loaded: Arc<Loaded>,
        metrics: Arc<Metrics>,
        owner: &Owner,
        prompts: &[Prompt],
        answers: usize,
        options: &GenerateOptions,
    ) -> Result<Replies> {
        let mut runs = Vec::with_capacity(prompts.len() * answers);
        for prompt in prompts {
            for i in 0..answers {
                let mut options = options.clone();
                options.sampling.seed = options.sampling.seed.wrapping_add(i as u64);
                let request = Request {
                    prompt: prompt.ids.clone(),
                    stored: prompt.stored.clone(),
                    options,
                    adapters: loaded.adapters.clone(),
                    scope: owner.scope,
                    owner: owner.id,
                };
                runs.push(Run {
                    handle: Some(loaded.scheduler.submit(request)?),
                    reply: Reply::default(),
                    asked: Instant::now(),
                    last: None,
                });
            }
        }
        Ok(Replies {
            runs,
            turn: 0,
            metrics,
            _loaded: loaded,
        })
    }

    /// The answer of a number, as far as it has come.
    pub fn reply(&self, n: usize) -> &Reply {
        &self.runs[n].reply
    }

    /// All of them.
    pub fn all(&self) -> Vec<&Reply> {
        self.runs.iter().map(|r| &r.reply).collect()
    }

    /// What happens next, and to which answer; none when all have ended.
    pub async fn next(&mut self) -> Option<(usize, Step)> {
        let (n, event) = std::future::poll_fn(|cx| {
            let count = self.runs.len();
            let mut waits = false;
            for i in 0..count {
                let n = (self.turn + i) % count;
                let Some(handle) = &self.runs[n].handle else {
                    continue;
                };
                match handle.poll_recv(cx) {
                    Poll::Ready(event) => {
                        self.turn = n + 1;
                        return Poll::Ready(Some((n, event)));
                    }
                    Poll::Pending => waits = true,
                }
            }
            if waits {
                Poll::Pending
            } else {
                Poll::Ready(None)
            }
        })
        .await?;
        let step = self.runs[n].take(event, &self.metrics);
        if matches!(step, Step::Done | Step::Failed(_)) {
            self.runs[n].handle = None;
        }
        Some((n, step))
    }

    /// Waits until all are whole.
    ///
    /// # Errors
    /// What the first that fails says.
    pub async fn whole(&mut self) -> Result<()> {
        while let Some((_, step)) = self.next().await {
            if let Step::Failed(error) = step {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Run {
    /// Takes an event, and counts it.
    fn take(&mut self, event: Option<Event>, metrics: &Metrics) -> Step {
        match &event {
            Some(Event::Started { prompt, cached }) => {
                metrics.started(self.asked.elapsed(), *prompt, *cached)
            }
            Some(Event::Token(progress)) if progress.id.is_some() => {
                let now = Instant::now();
                match self.last.replace(now) {
                    None => metrics.first_token(self.asked.elapsed()),
                    Some(last) => metrics.next_token(now - last),
                }
            }
            Some(Event::Done { reason, .. }) => {
                metrics.finished(reason.name(), self.asked.elapsed())
            }
            Some(Event::Failed(_)) => metrics.finished("error", self.asked.elapsed()),
            _ => {}
        }
        self.reply.take(event)
    }
}

impl Reply {
    /// Takes an event of the scheduler; none: it has ended.
    pub fn take(&mut self, event: Option<Event>) -> Step {
        match event {
            Some(Event::Started { prompt, cached }) => {
                self.timings.prompt_tokens = prompt;
                self.timings.reused_tokens = cached;
                Step::Started
            }
            Some(Event::Prefill { .. }) => Step::NOTHING,
            Some(Event::Prompt(tokens)) => {
                self.prompt.extend(tokens);
                Step::NOTHING
            }
            Some(Event::Token(progress)) => self.grow(progress),
            Some(Event::Done { reason, timings }) => {
                self.timings = timings;
                self.finish = Some(match reason {
                    _ if self.calls() > 0 => Finish::Calls,
                    StopReason::Length => Finish::Length,
                    StopReason::Stop => Finish::Stop,
                    _ => Finish::End,
                });
                Step::Done
            }
            Some(Event::Failed(error)) => Step::Failed(ApiError::of("messages", &error)),
            None => Step::Failed(ApiError::new(Fault::Unavailable, "the server ends")),
        }
    }

    fn grow(&mut self, progress: Progress) -> Step {
        if let Some(id) = progress.id {
            self.ids.push(id);
            self.sampled += 1;
        }
        let weighed = progress.id.zip(progress.log_prob);
        let tokens: Vec<_> = weighed
            .map(|(id, log_prob)| Weighed {
                id,
                log_prob,
                top: progress.top,
            })
            .into_iter()
            .collect();
        self.tokens.extend_from_slice(&tokens);
        self.stop = progress.stop;
        let pieces = match progress.text.is_empty() {
            true => Vec::new(),
            false => vec![Piece::Text(progress.text)],
        };
        pieces.iter().for_each(|p| self.push(p));
        Step::Grown { pieces, tokens }
    }
}
