//! One answer as a state machine: says what is to be evaluated, takes the logits, gives text.
//!
//! ```text
//! plan     -> tokens to evaluate: a piece of what the sequence has not read, or the last token and guesses
//! (whoever owns the engine evaluates them, alone or among the tokens of others)
//! evaluated
//! accept   -> one token's text, as often as there are logits for
//!         (one that the constraint allows, or the one that it forces)
//!         end token?            -> `eos`
//!         text of the token     -> stop scanner   (`stop` when a stop string is complete)
//!         a part repeated for `stop_repeats` tokens          -> `repeat`
//!         max_tokens reached, or no room in the context      -> `length`
//! ```
//! It reads whatever of the text its sequence does not hold: the prompt, and all of it again when the sequence
//! was emptied for a while. Tokens and text are a function of prompt and options, however often it is asked,
//! with whatever guesses, among whomever.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use geb_kernels::Kernels;

use super::answer::{GenerateOptions, Generated, StopReason, Timings, refuse};
use super::repeat::RepeatDetector;
use super::stop::StopScanner;
use crate::constraint::{Choice, Follow, TokenSet, Wake};
use crate::engine::{Engine, Sequence, Want};
use crate::error::{Error, Result};
use crate::logits::{log_sum, top_k};
use crate::sampler::Sampler;
use crate::speculate::{Draft, Guesses, Speculation};
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// What is to be evaluated next, behind what the sequence holds.
pub struct Planned<'a> {
    /// Tokens, at least one.
    pub ids: &'a [u32],
    /// Which of their logits are needed.
    pub want: Want,
}

/// A token with its log-probability and its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability, before penalties and temperature.
    pub log_prob: f64,
    /// As many of the most probable tokens as asked for, best first, each with that number.
    pub top: Vec<(u32, f64)>,
}

/// How long the engine's thread waits for a constraint whose thread has had the time of a pass.
const PATIENCE: Duration = Duration::from_micros(500);
/// Rows of a prompt whose logits are looked at in one pass.
const WEIGHED_ROWS: usize = 64;

/// What a token brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// New text, complete UTF-8; often empty. The last one brings what was held back for a stop string.
    pub text: String,
    /// The token, unless it ended the answer before it became part of it.
    pub id: Option<u32>,
    /// The token that ended the answer and is no part of it.
    pub end: Option<u32>,
    /// If asked for: natural logarithm of the probability of the sampled token, an end token included, before
    /// penalties and temperature.
    pub log_prob: Option<f64>,
    /// As many of the most probable tokens as asked for, best first, each with that number.
    pub top: Vec<(u32, f64)>,
    /// Why the answer ended; none if it goes on.
    pub done: Option<StopReason>,
    /// The stop string that ended it.
    pub stop: Option<String>,
}

/// Where an answer stands.
pub struct Generation<'t> {
    tokenizer: &'t Tokenizer,
    options: GenerateOptions,
    sampler: Sampler<'t>,
    speculation: Speculation,
    stream: StreamDecoder<'t>,
    scanner: StopScanner,
    repeats: RepeatDetector,
    /// What holds the answer to a form.
    follow: Option<Follow>,
    /// Called when that has something to say; without it, it is waited for.
    wake: Option<Wake>,
    /// `[vocab]`: logits that wait for it.
    late: Option<Vec<f32>>,
    kernels: &'static Kernels,
    /// Positions of the context.
    ctx: usize,
    /// Prompt and answer.
    history: Vec<u32>,
    /// How many of these have been evaluated.
    held: usize,
    /// The planned pass is one of the last token and guesses; else one that reads.
    answering: bool,
    /// Which tokens it reads then.
    read: Range<usize>,
    /// Rows of logits of a pass that reads.
    rows: usize,
    /// Tokens of the prompt whose log-probabilities are told, if they are asked for; the first has none.
    weighed: usize,
    /// The pass is to be repeated, without guesses.
    again: bool,
    /// There are logits for the last token.
    ready: bool,
    /// The last token was chosen, and nobody has looked yet whether it was guessed.
    unsettled: bool,
    /// `[vocab]`: a copy, where filters change it.
    logits: Vec<f32>,
    out: Generated,
    done: bool,
    pub(super) started: Instant,
    reading: Instant,
    first: Option<Instant>,
}

impl<'t> Generation<'t> {
    /// An answer to `prompt`, on a sequence of `engine`.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty prompt, one that does not fit the context or has ids outside the
    /// vocabulary, an empty stop string or bad sampling options.
    pub fn new(
        engine: &Engine,
        tokenizer: &'t Tokenizer,
        prompt: Vec<u32>,
        options: GenerateOptions,
    ) -> Result<Self> {
        check(engine, &prompt, &options)?;
        let bytes = move |id| tokenizer.token_bytes(id);
        // The text continues the prompt: a space between the two is part of it.
        let mut stream = tokenizer.stream_after(prompt.last().copied());
        stream.show(&options.shown);
        Ok(Self {
            sampler: Sampler::with_token_bytes(options.sampling.clone(), bytes)?,
            scanner: StopScanner::new(&options.stop),
            repeats: RepeatDetector::new(options.stop_repeats),
            stream,
            follow: options.constraint.clone().map(Follow::new),
            wake: None,
            late: None,
            speculation: Speculation::off(),
            kernels: engine.kernels(),
            ctx: engine.ctx(),
            held: prompt.len(),
            answering: false,
            read: 0..0,
            rows: 1,
            weighed: 1,
            again: false,
            ready: false,
            unsettled: false,
            logits: Vec::new(),
            out: Generated {
                ids: Vec::new(),
                text: String::new(),
                log_probs: Vec::new(),
                reason: StopReason::Length,
                timings: Timings {
                    prompt_tokens: prompt.len(),
                    ..Timings::default()
                },
            },
            done: false,
            started: Instant::now(),
            reading: Instant::now(),
            first: None,
            history: prompt,
            tokenizer,
            options,
        })
    }

    /// Lets it guess.
    pub fn guess_with(&mut self, mut speculation: Speculation) {
        speculation.begin();
        self.speculation = speculation;
    }

    /// A constraint that is late is not waited for: its answer [`is_late`](Self::is_late), and `wake` is called when
    /// it may [`resume`](Self::resume).
    pub(crate) fn wake_with(&mut self, wake: Wake) {
        self.wake = Some(wake);
    }

    /// Takes what `seq` holds of the prompt, and gives the rest of it up.
    ///
    /// # Errors
    /// As [`Engine::step`], for the tokens that are to be read; [`Error::Threads`] for a constraint.
    pub fn begin(&mut self, engine: &Engine, seq: &mut Sequence) -> Result<()> {
        if let Some(follow) = &mut self.follow {
            follow.start(self.wake.as_ref())?;
        }
        let pairs = seq.tokens().iter().zip(&self.history);
        let same = pairs.take_while(|(a, b)| a == b).count();
        let keep = same.min(self.history.len() - 1);
        if keep < seq.tokens().len() {
            seq.truncate(keep);
        }
        // A recurrent state cannot go back: it may have kept less than asked.
        let keep = seq.tokens().len();
        if self.out.ids.is_empty() {
            self.out.timings.reused_tokens = keep;
            self.reading = Instant::now();
        }
        engine.check(seq, &self.history[keep..], keep)
    }

    /// Prompt and answer so far.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Whether all but the last token was read when the sequence holds `held` tokens: each pass gives a token
    /// or more.
    pub fn is_answering(&self, held: usize) -> bool {
        !self.out.ids.is_empty() && held + 1 >= self.history.len()
    }

    /// Tokens of the text that a pass has seen. The sequence may hold guesses behind them.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Why it ended; none if it goes on.
    pub fn reason(&self) -> Option<StopReason> {
        self.done.then_some(self.out.reason)
    }

    /// Tokens that may still be chosen.
    pub fn wanted(&self) -> usize {
        self.options.max_tokens - self.out.ids.len()
    }

    /// Probabilities that the first, the first two … of at most `max` guesses hold: [`Speculation::chances`].
    pub fn chances(&mut self, max: usize) -> Vec<f64> {
        let max = max.min(self.wanted().saturating_sub(1));
        self.speculation.chances(&self.history, max)
    }

    /// What to evaluate next, at most `rows` tokens of a text that is read.
    pub fn plan(&mut self, target: &mut Draft<'_>, rows: usize, guesses: Guesses) -> Planned<'_> {
        // Guesses that did not hold do not stay.
        target.truncate(self.history.len() - 1);
        // The logits of an earlier pass are gone, whether its guesses hold or not.
        self.unsettled = false;
        let held = target.tokens().len();
        self.answering = self.is_answering(held);
        if self.answering && !std::mem::take(&mut self.again) {
            self.plan_answer(target, rows, guesses);
        }
        let weighs = self.weighs_prompt();
        let most = if weighs { WEIGHED_ROWS } else { usize::MAX };
        self.read = held..self.history.len().min(held + rows.clamp(1, most));
        self.rows = if weighs { self.read.len() } else { 1 };
        self.planned()
    }

    /// The last token, and those that follow it for certain, or guesses.
    fn plan_answer(&mut self, target: &mut Draft<'_>, rows: usize, guesses: Guesses) {
        let wanted = self.wanted();
        if let Some(follow) = &mut self.follow {
            let known = follow.known();
            if known.len() > 0 {
                let known = known.take(rows.saturating_sub(1));
                let (speculation, history) = (&mut self.speculation, &self.history);
                return speculation.plan_known(target, history, wanted, known);
            }
        }
        let batch = self
            .speculation
            .plan(target, &self.history, wanted, guesses);
        let refused = |follow: &Follow| batch.get(1).is_some_and(|id| !follow.admits(*id));
        if self.follow.as_ref().is_some_and(refused) {
            self.speculation.drop_guesses();
        }
    }

    /// Tokens that are known to follow the last one.
    pub fn known(&mut self) -> usize {
        self.follow.as_mut().map_or(0, |f| f.known().len())
    }

    /// What was planned last.
    pub fn planned(&self) -> Planned<'_> {
        if self.answering {
            return Planned {
                ids: self.speculation.batch(),
                want: Want::All,
            };
        }
        let whole = self.read.end == self.history.len();
        let want = match self.weighs_prompt() {
            true => Want::All,
            false if whole => Want::Last,
            false => Want::None,
        };
        Planned {
            ids: &self.history[self.read.clone()],
            want,
        }
    }

    /// Whether log-probabilities of the prompt are asked for and not all told.
    pub fn weighs_prompt(&self) -> bool {
        let prompt = self.out.timings.prompt_tokens;
        self.options.prompt_log_probs && self.out.ids.is_empty() && self.weighed < prompt
    }

    /// The log-probabilities of the prompt's tokens that the pass tells, from its logits, `[rows, vocab]`, in the
    /// order of the prompt without its first token. Each is told once, however often it is read.
    pub fn weigh_prompt(&mut self, logits: &[f32]) -> Vec<Weighed> {
        if self.answering || !self.weighs_prompt() || self.read.is_empty() {
            return Vec::new();
        }
        let vocab = logits.len() / self.read.len();
        let end = (self.read.end + 1).min(self.history.len());
        let new = self.weighed.max(self.read.start + 1)..end;
        let told = new.clone().map(|at| {
            let row = at - 1 - self.read.start;
            self.weigh(&logits[row * vocab..(row + 1) * vocab], self.history[at])
        });
        let told = told.collect();
        self.weighed = self.weighed.max(new.end);
        told
    }

    /// What was planned is evaluated, and the sequence holds `held` tokens. `time`: what the pass took, if it
    /// was this answer's alone. Returns tokens read and to be read, of a prompt.
    pub fn evaluated(&mut self, held: usize, time: Option<Duration>) -> Option<(usize, usize)> {
        self.ready = held >= self.history.len();
        self.late = None;
        if self.ready {
            self.held = self.history.len();
        }
        if self.answering {
            self.speculation.evaluated(time);
            return None;
        }
        if !self.out.ids.is_empty() {
            return None;
        }
        if self.ready {
            self.out.timings.prefill = self.reading.elapsed();
        }
        let reused = self.out.timings.reused_tokens;
        Some((held.saturating_sub(reused), self.history.len() - reused))
    }

    /// What was planned could not be evaluated; the sequence is as before. Guesses may have been at fault: then
    /// the next plan is without them.
    ///
    /// # Errors
    /// `error`, if the text itself is at fault.
    pub fn failed(&mut self, error: Error) -> Result<()> {
        let guessed = matches!(error, Error::NonFinite { .. }) && self.answering;
        self.again = guessed && self.speculation.drop_guesses();
        if self.again { Ok(()) } else { Err(error) }
    }

    /// Chooses the next token from the logits of the pass, `[rows, vocab]` as they were planned; none if they
    /// are used up or the answer has ended.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn accept(&mut self, logits: &[f32]) -> Result<Option<Progress>> {
        if self.done {
            return Ok(None);
        }
        if std::mem::take(&mut self.unsettled)
            && let Some(last) = self.out.ids.last()
            && self.answering
            && self.speculation.goes_on(*last)
        {
            (self.ready, self.held) = (true, self.history.len());
        }
        if !std::mem::take(&mut self.ready) {
            return Ok(None);
        }
        if self.wanted() == 0 {
            return Ok(Some(self.finish(Progress::default(), StopReason::Length)));
        }
        if self.is_cancelled() {
            return Ok(Some(
                self.finish(Progress::default(), StopReason::Cancelled),
            ));
        }
        let (row, rows) = match self.answering {
            true => (self.speculation.row(), self.speculation.batch().len()),
            false => (self.rows - 1, self.rows),
        };
        let vocab = logits.len() / rows;
        let row = &logits[row * vocab..(row + 1) * vocab];
        if self.waits()? {
            self.late = Some(row.to_vec());
            return Ok(None);
        }
        self.take(row).map(Some)
    }

    /// Whether its constraint has not said yet how it goes on.
    fn waits(&mut self) -> Result<bool> {
        let most = self.wake.as_ref().map(|_| PATIENCE);
        match &mut self.follow {
            Some(follow) => {
                // A fork of a sequence that has read the prompt has no beginning.
                follow.start(self.wake.as_ref())?;
                Ok(!follow.ready(most)?)
            }
            None => Ok(false),
        }
    }

    /// Whether there are logits for the next token, which wait for the constraint.
    pub(crate) fn is_late(&self) -> bool {
        self.late.is_some()
    }

    /// Chooses the token that waited for the constraint; none if that has nothing to say yet.
    ///
    /// # Errors
    /// As [`Generation::accept`].
    pub(crate) fn resume(&mut self) -> Result<Option<Progress>> {
        let ready = match &mut self.follow {
            Some(follow) => follow.ready(Some(Duration::ZERO))?,
            None => true,
        };
        match self.late.take_if(|_| ready) {
            Some(row) => self.take(&row).map(Some),
            None => Ok(None),
        }
    }

    /// The next token from `row`, `[vocab]`; none where the text is whole.
    fn choose(&mut self, row: &[f32]) -> Result<Option<u32>> {
        let allowed = match self.follow.as_mut().map_or(Choice::Free, Follow::choose) {
            Choice::End => return Ok(None),
            Choice::Forced(id) => return Ok(Some(id)),
            Choice::Among(set) => Some(set),
            Choice::Free => None,
        };
        if allowed.is_none() && !self.sampler.has_filters() {
            return self.sampler.choose(row).map(Some);
        }
        self.logits.clear();
        self.logits.extend_from_slice(row);
        if let Some(set) = &allowed {
            TokenSet::apply(set, &mut self.logits);
        }
        let chosen = self.sampler.sample(&mut self.logits, &self.history);
        chosen.map(Some)
    }

    /// Takes the next token, from `row`, `[vocab]`.
    fn take(&mut self, row: &[f32]) -> Result<Progress> {
        let mut progress = Progress::default();
        let Some(id) = self.choose(row)? else {
            return Ok(self.finish(progress, StopReason::Eos));
        };
        if self.options.log_probs {
            let weighed = self.weigh(row, id);
            self.out.log_probs.push(weighed.log_prob);
            progress.log_prob = Some(weighed.log_prob);
            progress.top = weighed.top;
        }
        self.out.timings.sampled_tokens += 1;
        self.first.get_or_insert_with(Instant::now);
        if !self.options.ignore_eos && self.tokenizer.is_stop(id) {
            progress.end = Some(id);
            return Ok(self.finish(progress, StopReason::Eos));
        }
        self.out.ids.push(id);
        self.history.push(id);
        progress.id = Some(id);
        if let Some(follow) = &mut self.follow {
            follow.took(id, &self.tokenizer.token_bytes(id));
        }
        let piece = self.stream.push(id);
        let (text, stopped) = self.scanner.push(&piece);
        self.out.text.push_str(&text);
        progress.text = text;
        let reason = if stopped {
            StopReason::Stop
        } else if self.repeats.push(id).is_some() {
            StopReason::Repeat
        } else if self.wanted() == 0 || self.history.len() > self.ctx {
            StopReason::Length
        } else {
            self.unsettled = true;
            return Ok(progress);
        };
        Ok(self.finish(progress, reason))
    }

    /// The log-probability of `id` in `row`, `[vocab]`, and of the best.
    fn weigh(&self, row: &[f32], id: u32) -> Weighed {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum = log_sum(self.kernels, row, largest);
        let top = top_k(row, self.options.top_log_probs.min(row.len()));
        let top = top.into_iter().map(|(id, v)| (id, f64::from(v) - sum));
        Weighed {
            id,
            log_prob: f64::from(row[id as usize]) - sum,
            top: top.collect(),
        }
    }

    /// Ends it from outside.
    pub fn cancel(&mut self) -> Progress {
        match self.reason() {
            None => self.finish(Progress::default(), StopReason::Cancelled),
            Some(reason) => {
                if !matches!(reason, StopReason::Stop | StopReason::Eos) {
                    self.out.reason = StopReason::Cancelled;
                }
                Progress::default()
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        let flag = self.options.cancel.as_ref();
        flag.is_some_and(|c| c.load(Ordering::Relaxed))
    }

    /// The last progress: with the rest of an incomplete character, and what was held back for a stop string.
    fn finish(&mut self, mut progress: Progress, mut reason: StopReason) -> Progress {
        if reason != StopReason::Stop {
            let rest = self.stream.finish();
            let (mut text, stopped) = self.scanner.push(&rest);
            if stopped {
                reason = StopReason::Stop;
            } else {
                text.push_str(&self.scanner.finish());
            }
            self.out.text.push_str(&text);
            progress.text.push_str(&text);
        }
        let first = *self.first.get_or_insert_with(Instant::now);
        self.out.timings.first_token = first - self.started;
        self.out.timings.decode = first.elapsed();
        self.out.timings.speculation = self.speculation.stats();
        self.out.reason = reason;
        self.done = true;
        progress.stop = self.scanner.found().map(str::to_owned);
        progress.done = Some(reason);
        progress
    }

    /// The answer, and what guessed with what it has learned.
    pub fn into_parts(self) -> (Generated, Speculation) {
        (self.out, self.speculation)
    }

    /// Counts and times, whole when it has ended.
    pub fn timings(&mut self) -> &mut Timings {
        &mut self.out.timings
    }
}

/// Everything that can be refused before work starts.
pub(super) fn check(engine: &Engine, prompt: &[u32], options: &GenerateOptions) -> Result<()> {
    check_prompt(engine, prompt)?;
    if options.stop.iter().any(String::is_empty) {
        let allowed = "at least one character".into();
        return Err(refuse("stop string", "empty".into(), allowed));
    }
    Ok(())
}

pub(super) fn check_prompt(engine: &Engine, prompt: &[u32]) -> Result<()> {
    if prompt.is_empty() {
        let allowed = "at least one token".into();
        return Err(refuse("prompt", "empty".into(), allowed));
    }
    if prompt.len() > engine.ctx() {
        let allowed = format!("at most {} (the context)", engine.ctx());
        let value = format!("{} tokens", prompt.len());
        return Err(refuse("prompt", value, allowed));
    }
    Ok(())
}
