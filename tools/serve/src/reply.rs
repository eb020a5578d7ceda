//! Answers while they come: the events of the scheduler as pieces that every dialect can write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use geb::chat::tools::{CallIds, Delivery, ReplyEvent, ReplyFormat, ReplyParser, Tool};
use geb::engine::Stored;
pub use geb::generate::Weighed;
use geb::generate::{GenerateOptions, Progress, StopReason, Timings};
use geb::scheduler::{Event, Handle, Refusal, Request};

use crate::error::{ApiError, Fault, Result};
use crate::form::Held;
use crate::keys::Owner;
use crate::metrics::Metrics;
use crate::models::Loaded;
use crate::{id, limits};

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
    /// The token that ended it and is no part of its text, if asked for.
    pub end: Option<Weighed>,
    /// Why it ended; none while it goes on.
    pub finish: Option<Finish>,
    /// The stop text that ended it.
    pub stop: Option<String>,
    /// Counts and times, whole at the end.
    pub timings: Timings,
    /// Tokens chosen so far.
    pub sampled: usize,
    /// Of these, tokens of reasoning.
    pub reasoning_tokens: usize,
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
    /// How to read the answer; that of a text that is continued is read as it is.
    pub reading: Option<Reading>,
    /// What holds the answer.
    pub held: Held,
}

impl Prompt {
    /// A text that is continued.
    pub fn of(ids: Vec<u32>) -> Prompt {
        Prompt {
            ids,
            stored: None,
            reading: None,
            held: Held::default(),
        }
    }

    /// A reader of an answer to it.
    pub fn reader(&self) -> Reader {
        let parser = self.reading.as_ref().map(|r| {
            let ids = CallIds {
                prefix: id::random("call_"),
                first: 0,
            };
            r.format
                .parser(&r.opened, r.tools.clone(), ids, Delivery::Whole)
        });
        Reader {
            parser,
            parallel: self.reading.as_ref().is_none_or(|r| r.parallel),
            reply: Reply::default(),
        }
    }
}

/// How the answer to a conversation is read.
#[derive(Clone)]
pub struct Reading {
    /// How the model writes reasoning and calls.
    pub format: ReplyFormat,
    /// What the prompt ends with.
    pub opened: String,
    /// What it may call.
    pub tools: Vec<Tool>,
    /// Whether it may call several.
    pub parallel: bool,
}

/// An answer and what reads it.
pub struct Reader {
    parser: Option<ReplyParser>,
    parallel: bool,
    /// The answer so far.
    pub reply: Reply,
}

/// Answers to the prompts of one request.
pub struct Replies {
    runs: Vec<Run>,
    turn: usize,
    metrics: Arc<Metrics>,
    loaded: Arc<Loaded>,
}

struct Run {
    /// It was not handed over yet.
    request: Option<Request>,
    /// It runs or waits.
    handle: Option<Handle>,
    reader: Reader,
    /// What has happened and was not told.
    steps: VecDeque<Step>,
    asked: Instant,
    last: Option<Instant>,
}

impl Replies {
    /// Hands over a request for each prompt and each of `answers`, some of them now and the others when these have
    /// ended; the seeds of one prompt's answers follow each other.
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
                options.constraint.clone_from(&prompt.held.constraint);
                let request = Request {
                    prompt: prompt.ids.clone(),
                    stored: prompt.stored.clone(),
                    options,
                    adapters: loaded.adapters.clone(),
                    scope: owner.scope,
                    owner: owner.id,
                };
                runs.push(Run {
                    request: Some(request),
                    handle: None,
                    reader: prompt.reader(),
                    steps: VecDeque::new(),
                    asked: Instant::now(),
                    last: None,
                });
            }
        }
        let mut replies = Replies {
            runs,
            turn: 0,
            metrics,
            loaded,
        };
        replies.submit()?;
        Ok(replies)
    }

    /// Hands over what there is room for.
    fn submit(&mut self) -> Result<()> {
        let mut open = self.runs.iter().filter(|r| r.handle.is_some()).count();
        for run in self.runs.iter_mut().filter(|r| r.request.is_some()) {
            if open >= limits::AT_ONCE {
                break;
            }
            let Some(request) = run.request.take() else {
                continue;
            };
            match self.loaded.scheduler.submit(request.clone()) {
                Ok(handle) => {
                    run.handle = Some(handle);
                    open += 1;
                }
                Err(Refusal::Full { .. }) if open > 0 => {
                    run.request = Some(request);
                    break;
                }
                Err(refusal) => {
                    run.request = Some(request);
                    return Err(refusal.into());
                }
            }
        }
        Ok(())
    }

    /// Hands over what has waited for others of its request to end.
    async fn refill(&mut self) {
        while self.runs.iter().any(|r| r.request.is_some()) {
            match self.submit() {
                Ok(()) => break,
                // Others have filled the queue.
                Err(e) if e.fault == Fault::Overloaded => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(e) => {
                    for run in self.runs.iter_mut().filter(|r| r.request.is_some()) {
                        run.request = None;
                        run.steps.push_back(Step::Failed(e.clone()));
                    }
                }
            }
        }
    }

    /// The answer of a number, as far as it has come.
    pub fn reply(&self, n: usize) -> &Reply {
        &self.runs[n].reader.reply
    }

    /// All of them.
    pub fn all(&self) -> Vec<&Reply> {
        self.runs.iter().map(|r| &r.reader.reply).collect()
    }

    /// What happens next, and to which answer; none when all have ended.
    pub async fn next(&mut self) -> Option<(usize, Step)> {
        let (n, event) = std::future::poll_fn(|cx| {
            let count = self.runs.len();
            let mut waits = false;
            for i in 0..count {
                let n = (self.turn + i) % count;
                if !self.runs[n].steps.is_empty() {
                    return Poll::Ready(Some((n, None)));
                }
                let Some(handle) = &self.runs[n].handle else {
                    continue;
                };
                match handle.poll_recv(cx) {
                    Poll::Ready(event) => {
                        self.turn = n + 1;
                        return Poll::Ready(Some((n, Some(event))));
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
        let run = &mut self.runs[n];
        if let Some(event) = event {
            run.take(event, &self.metrics);
        }
        let step = run.steps.pop_front().unwrap_or(Step::NOTHING);
        if run.handle.is_none() {
            self.refill().await;
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
    fn take(&mut self, event: Option<Event>, metrics: &Metrics) {
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
        let steps = self.reader.take(event);
        if steps
            .iter()
            .any(|s| matches!(s, Step::Done | Step::Failed(_)))
        {
            self.handle = None;
        }
        self.steps.extend(steps);
    }
}

impl Reader {
    /// Takes an event of the scheduler; none: it has ended. What has happened then, in order.
    pub fn take(&mut self, event: Option<Event>) -> Vec<Step> {
        match event {
            Some(Event::Started { prompt, cached }) => {
                self.reply.timings.prompt_tokens = prompt;
                self.reply.timings.reused_tokens = cached;
                vec![Step::Started]
            }
            Some(Event::Prefill { .. }) => Vec::new(),
            Some(Event::Prompt(tokens)) => {
                self.reply.prompt.extend(tokens);
                Vec::new()
            }
            Some(Event::Token(progress)) => self.grow(progress),
            Some(Event::Done { reason, timings }) => self.end(reason, timings),
            Some(Event::Failed(error)) => vec![Step::Failed(ApiError::of("messages", &error))],
            None => vec![Step::Failed(ApiError::new(
                Fault::Unavailable,
                "the server ends",
            ))],
        }
    }

    fn end(&mut self, reason: StopReason, timings: Timings) -> Vec<Step> {
        self.reply.timings = timings;
        let rest = self.parser.as_mut().map(ReplyParser::finish);
        let pieces = self.pieces(rest.unwrap_or_default());
        self.reply.finish = Some(match reason {
            _ if self.reply.calls() > 0 => Finish::Calls,
            StopReason::Length => Finish::Length,
            StopReason::Stop => Finish::Stop,
            _ => Finish::End,
        });
        let tokens = Vec::new();
        match pieces.is_empty() {
            true => vec![Step::Done],
            false => vec![Step::Grown { pieces, tokens }, Step::Done],
        }
    }

    fn grow(&mut self, progress: Progress) -> Vec<Step> {
        if let Some(id) = progress.id {
            self.reply.ids.push(id);
            self.reply.sampled += 1;
            let reasons = self.parser.as_ref().is_some_and(ReplyParser::in_reasoning);
            self.reply.reasoning_tokens += usize::from(reasons);
        }
        let weighed = progress.id.or(progress.end).zip(progress.log_prob);
        let mut tokens: Vec<_> = weighed
            .map(|(id, log_prob)| Weighed {
                id,
                log_prob,
                top: progress.top,
            })
            .into_iter()
            .collect();
        if progress.id.is_none() {
            self.reply.end = tokens.pop();
        }
        self.reply.tokens.extend_from_slice(&tokens);
        self.reply.stop = progress.stop;
        let events = match &mut self.parser {
            Some(parser) => parser.push(&progress.text),
            None if progress.text.is_empty() => Vec::new(),
            None => vec![ReplyEvent::Content(progress.text)],
        };
        let pieces = self.pieces(events);
        let grown = Step::Grown { pieces, tokens };
        if !self.parallel && self.reply.calls() > 0 {
            // The one call that was allowed is whole: what would follow it is not waited for.
            self.reply.finish = Some(Finish::Calls);
            self.reply.timings.sampled_tokens = self.reply.sampled;
            return vec![grown, Step::Done];
        }
        vec![grown]
    }

    /// What a reader of replies tells, as pieces; all but the first of several calls are left out if one is allowed.
    fn pieces(&mut self, events: Vec<ReplyEvent>) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(events.len());
        for event in events {
            let piece = match event {
                ReplyEvent::Content(text) => Piece::Text(text),
                ReplyEvent::Reasoning(text) => Piece::Reasoning(text),
                ReplyEvent::CallStarted { index, .. } | ReplyEvent::CallArguments { index, .. }
                    if index > 0 && !self.parallel =>
                {
                    continue;
                }
                ReplyEvent::CallStarted { id, name, .. } => Piece::Call { id, name },
                ReplyEvent::CallArguments { text, .. } => Piece::Arguments(text),
                ReplyEvent::CallFinished { .. } | ReplyEvent::CallDropped { .. } => continue,
            };
            self.reply.push(&piece);
            pieces.push(piece);
        }
        pieces
    }
}
