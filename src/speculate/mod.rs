//! Exact speculation: several tokens per pass over the weights, the same tokens as without it.
//!
//! ```text
//! the token t is chosen; a source guesses d1 … dk
//! one pass evaluates t, d1, …, dk                       logits after each of them
//! the next token is chosen from the logits after t, as always
//!     it is d1: the logits after d1 are there already; go on with d2
//!     it is not: what was evaluated after t is taken back (the cache is cut), and a new pass begins
//! ```
//! (speculative decoding, arXiv 2211.17192, in the form where a guess counts only if the sampler
//! chooses the same token.) Every token is chosen by the same sampler from the same logits in the
//! same order, so the text is that of plain decoding for any setting. That rests on one promise of the
//! engine: a pass of several tokens gives bit for bit the logits of single tokens.
//!
//! Sources are [`Lookup`] (earlier text), [`DraftModel`] (a smaller model), [`EarlyExit`] (the first
//! layers of the same model) and [`ExtraHeads`] (heads trained to guess). [`Drafter`] is all they share; how many guesses are made is decided by
//! measured times and past success (`pace`). What is not here: choosing tokens, stopping, text.

mod early_exit;
mod heads;
mod lookup;
mod model;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use early_exit::EarlyExit;
pub use heads::ExtraHeads;
pub use lookup::Lookup;
pub use model::DraftModel;

use crate::engine::{Engine, Sequence};
use crate::error::Result;
use crate::model::Model;
use pace::{Choice, Odds, Pace, follow};

/// Plain steps between two tries of a source that did not pay.
const PATIENCE: std::ops::RangeInclusive<usize> = 16..=512;

/// What a source can say before it drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How sure the first guess is: success is counted by class. The i-th guess of a draft counts as
    /// `class + i`.
    pub class: usize,
    /// The first guess, if it is known at no cost; its success is then followed in plain steps too.
    pub next: Option<u32>,
}

/// What a source may use of the model that decodes: an engine and the sequence that decodes on it.
pub struct Draft<'a> {
    engine: &'a mut Engine,
    seq: &'a mut Sequence,
}

impl<'a> Draft<'a> {
    /// Lends a sequence of this engine.
    pub fn new(engine: &'a mut Engine, seq: &'a mut Sequence) -> Self {
        Self { engine, seq }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// Tokens that the sequence holds.
    pub fn tokens(&self) -> &[u32] {
        self.seq.tokens()
    }

    /// As [`Engine::look_ahead`].
    ///
    /// # Errors
    /// As [`Engine::look_ahead`].
    pub fn look_ahead(&mut self, n: usize) -> Result<&[f32]> {
        self.engine.look_ahead(self.seq, n)
    }

    /// As [`Engine::exit_early`].
    ///
    /// # Errors
    /// As [`Engine::exit_early`].
    pub fn exit_early(&mut self, token: u32, ahead: usize, layers: usize) -> Result<&[f32]> {
        self.engine.exit_early(self.seq, token, ahead, layers)
    }

    /// Most tokens of a pass over the last token and guesses.
    fn room(&self) -> usize {
        let free = self.engine.ctx() - self.seq.tokens().len();
        self.seq.verify_batch().min(free)
    }

    /// Gives up what lies behind the first `n` tokens.
    pub(crate) fn truncate(&mut self, n: usize) {
        if self.seq.tokens().len() > n {
            self.seq.truncate(n);
        }
    }
}

/// How many guesses a pass verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guesses {
    /// As many as measured times of passes and past success promise a gain.
    Tuned,
    /// So many of the first source, if it has them: who plans passes of many sequences decides.
    Of(usize),
}

/// A source of guesses. It cannot change what is generated, only how fast.
pub trait Drafter: Send {
    /// Name for reports.
    fn name(&self) -> &'static str;

    /// A new text begins.
    fn begin(&mut self) {}

    /// Share of the guesses of a class that are expected to hold, before any was seen.
    fn prior(&self, class: usize) -> f64 {
        _ = class;
        0.7
    }

    /// Whether there is something to guess after `history`, at little cost.
    fn offer(&mut self, history: &[u32]) -> Option<Offer>;

    /// Appends up to `max` guesses of what follows `history` to `out`, which is empty.
    ///
    /// `target` is the sequence that decodes. It holds all of `history` but the last token, and has
    /// room for `max` more behind that; it must be left as long as it is.
    ///
    /// # Errors
    /// Any; a failed draft counts as none.
    fn draft(
        &mut self,
        target: &mut Draft<'_>,
        history: &[u32],
        max: usize,
        out: &mut Vec<u32>,
    ) -> Result<()>;
}

/// When a source is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tuning {
    /// When measured times and past success promise a gain.
    #[default]
    Auto,
    /// Whenever it has something to offer, for as many guesses as are allowed.
    Always,
}

/// Counts of one generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpeculationStats {
    /// Passes of the model while decoding.
    pub passes: usize,
    /// Of these, passes that verified guesses.
    pub verify_batches: usize,
    /// Guesses verified.
    pub drafted: usize,
    /// Guesses that were the next token.
    pub accepted: usize,
}

impl SpeculationStats {
    /// Adds the counts of another generation.
    pub fn add(&mut self, other: &SpeculationStats) {
        self.passes += other.passes;
        self.verify_batches += other.verify_batches;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }

    /// Tokens per pass; 1 without speculation, `None` without passes.
    pub fn tokens_per_pass(&self) -> Option<f64> {
        (self.passes > 0).then(|| 1.0 + self.accepted as f64 / self.passes as f64)
    }
}

/// A source with its record.
struct Source {
    drafter: Box<dyn Drafter>,
    tuning: Tuning,
    /// Most guesses at once.
    max: usize,
    odds: Odds,
    /// Seconds per guess.
    seconds: Option<f64>,
    /// Length of the history after its last draft.
    drafted_at: usize,
    /// Plain steps since then, and how many it waits before it is tried again.
    idle: usize,
    patience: usize,
}

impl Source {
    /// How many guesses to ask for.
    fn choose(&self, offer: Offer, max: usize, pace: &Pace) -> Choice {
        let max = max.min(self.max);
        if self.tuning == Tuning::Always || max == 0 {
            return Choice {
                guesses: max,
                gain: f64::INFINITY,
            };
        }
        let draft = self.seconds.and_then(|s| pace.in_steps(s)).unwrap_or(0.0);
        let choice = pace.choose(&self.odds, offer.class, max, draft);
        // Without a try nothing is learned about a source whose guesses have a price.
        if choice.guesses == 0 && offer.next.is_none() && self.idle >= self.patience {
            return Choice {
                guesses: 1,
                gain: 1.0,
            };
        }
        choice
    }

    /// Drafts as chosen, and measures what a guess costs.
    fn draft(
        &mut self,
        target: &mut Draft<'_>,
        history: &[u32],
        (class, choice): (usize, Choice),
        out: &mut Vec<u32>,
    ) {
        let start = Instant::now();
        let done = self.drafter.draft(target, history, choice.guesses, out);
        if done.is_err() || out.is_empty() {
            // Time for nothing is as bad as a wrong guess.
            self.odds.observe(class, false);
            out.clear();
        }
        // After a pause it had to read up on the text, which is no part of a guess.
        if history.len() - self.drafted_at <= 2 * target.seq.verify_batch() && !out.is_empty() {
            let seconds = start.elapsed().as_secs_f64() / out.len() as f64;
            self.seconds = Some(follow(self.seconds, seconds, 1.0 / 8.0));
        }
        self.drafted_at = history.len();
        self.idle = 0;
        self.patience = if choice.gain > 1.0 {
            *PATIENCE.start()
        } else {
            (self.patience * 2).min(*PATIENCE.end())
        };
    }
}

/// Sources of guesses and the pass that is being used up. Keep it for as long as the engine: what it
/// has measured stays valid.
#[derive(Default)]
pub struct Speculation {
    sources: Vec<Source>,
    pace: Pace,
    stats: SpeculationStats,
    /// The tokens of the last pass, and which of them is the last token of the text.
    batch: Vec<u32>,
    at: usize,
    /// Who guessed: source, and class of the first guess; nobody where what follows is known.
    by: Option<(usize, usize)>,
    /// First guesses that were not verified, to be compared with what comes: source, class, token.
    unasked: Vec<(usize, usize, u32)>,
}

impl Speculation {
    /// No sources: plain decoding.
    pub fn off() -> Self {
        Self::default()
    }

    /// Adds a source of at most `max` guesses at once. Of several that promise the same, the first is taken.
    pub fn with(mut self, drafter: Box<dyn Drafter>, tuning: Tuning, max: usize) -> Self {
        self.sources.push(Source {
            odds: Odds::new(|class| drafter.prior(class)),
            drafter,
            tuning,
            max,
            seconds: None,
            drafted_at: 0,
            idle: 0,
            patience: *PATIENCE.start(),
        });
        self
    }

    /// Forgets what was measured.
    pub fn forget(&mut self) {
        self.pace = Pace::default();
        for s in &mut self.sources {
            s.odds = Odds::new(|class| s.drafter.prior(class));
            s.seconds = None;
            s.patience = *PATIENCE.start();
        }
    }

    /// Names of the sources, in the order they are asked.
    pub fn names(&self) -> Vec<&'static str> {
        self.sources.iter().map(|s| s.drafter.name()).collect()
    }

    /// Counts since [`Speculation::begin`].
    pub fn stats(&self) -> SpeculationStats {
        self.stats
    }

    /// A new text begins.
    pub fn begin(&mut self) {
        self.stats = SpeculationStats::default();
        self.batch.clear();
        self.at = 0;
        self.unasked.clear();
        for s in &mut self.sources {
            s.drafter.begin();
            s.drafted_at = 0;
        }
    }

    /// Takes the token that was chosen from the logits of [`Speculation::row`]. True if it is what the pass
    /// has evaluated next: then its logits are there already, one row further.
    pub fn goes_on(&mut self, token: u32) -> bool {
        for (source, class, next) in self.unasked.drain(..) {
            self.sources[source].odds.observe(class, next == token);
        }
        let Some(guess) = self.batch.get(self.at + 1) else {
            return false;
        };
        let held = *guess == token;
        if let Some((source, class)) = self.by {
            self.sources[source].odds.observe(class + self.at, held);
            self.stats.accepted += usize::from(held);
        }
        self.at += usize::from(held);
        held
    }

    /// The tokens of the next pass: the last one of `history`, and guesses of those behind it. At most
    /// `wanted` (at least one) tokens will still be chosen.
    pub fn plan(
        &mut self,
        target: &mut Draft<'_>,
        history: &[u32],
        wanted: usize,
        guesses: Guesses,
    ) -> &[u32] {
        if self.start(target, history) {
            self.guess(target, history, wanted, guesses);
        }
        &self.batch
    }

    /// As [`Speculation::plan`], where it is known what follows.
    pub(crate) fn plan_known(
        &mut self,
        target: &mut Draft<'_>,
        history: &[u32],
        wanted: usize,
        known: impl Iterator<Item = u32>,
    ) {
        if self.start(target, history) {
            let most = target.room().min(wanted).saturating_sub(1);
            self.batch.extend(known.take(most));
        }
    }

    /// The batch has the last token alone; false if there is none.
    fn start(&mut self, target: &mut Draft<'_>, history: &[u32]) -> bool {
        self.at = 0;
        self.by = None;
        self.batch.clear();
        let Some((last, before)) = history.split_last() else {
            return false;
        };
        target.truncate(before.len());
        self.batch.push(*last);
        true
    }

    /// The tokens of the pass that was planned.
    pub fn batch(&self) -> &[u32] {
        &self.batch
    }

    /// Which row of the pass's logits belongs to the last token of the text.
    pub fn row(&self) -> usize {
        self.at
    }

    /// The planned pass is done. `time` is what it took if it was this sequence's alone.
    pub fn evaluated(&mut self, time: Option<Duration>) {
        let guesses = self.by.map_or(0, |_| self.batch.len() - 1);
        self.stats.passes += 1;
        self.stats.verify_batches += usize::from(guesses > 0);
        self.stats.drafted += guesses;
        if let Some(time) = time {
            self.pace.record(self.batch.len(), time.as_secs_f64());
        }
    }

    /// Gives up the guesses of the planned pass, which failed: it may have been for a wrong guess, where
    /// plain decoding never comes. False if it had none.
    pub fn drop_guesses(&mut self) -> bool {
        let had = self.batch.len() > 1;
        self.batch.truncate(1);
        had
    }

    /// Probabilities that at least the first, the first two … of at most `max` guesses hold after `history`, by
    /// past success; empty if there is nothing to guess.
    pub fn chances(&mut self, history: &[u32], max: usize) -> Vec<f64> {
        let mut sources = self.sources.iter_mut();
        let Some((source, offer)) = sources
            .find_map(|s| Some((s.drafter.offer(history)?, s)))
            .map(|(offer, s)| (s, offer))
        else {
            return Vec::new();
        };
        let mut all_hold = 1.0;
        let classes = offer.class..offer.class + max.min(source.max);
        classes
            .map(|class| {
                all_hold *= source.odds.of(class);
                all_hold
            })
            .collect()
    }

    /// Appends guesses to the batch, as many as are worth it and have room.
    fn guess(&mut self, target: &mut Draft<'_>, history: &[u32], wanted: usize, guesses: Guesses) {
        let max = target.room().min(wanted).saturating_sub(1);
        let mut best = None;
        for (i, source) in self.sources.iter_mut().enumerate() {
            source.idle += 1;
            let Some(offer) = source.drafter.offer(history) else {
                continue;
            };
            self.unasked
                .extend(offer.next.map(|id| (i, offer.class, id)));
            let choice = match guesses {
                Guesses::Tuned => source.choose(offer, max, &self.pace),
                Guesses::Of(n) => Choice {
                    guesses: n.min(max).min(source.max),
                    gain: f64::INFINITY,
                },
            };
            if choice.guesses > 0
                && best.is_none_or(|(_, _, b): (_, _, Choice)| choice.gain > b.gain)
            {
                best = Some((i, offer.class, choice));
            }
        }
        let Some((i, class, choice)) = best else {
            return;
        };
        // Its guesses are compared one by one as they are used.
        self.unasked.retain(|(source, ..)| *source != i);
        self.by = Some((i, class));
        let mut guesses = Vec::with_capacity(choice.guesses);
        self.sources[i].draft(target, history, (class, choice), &mut guesses);
        let vocab = target.model().config().vocab;
        let known = guesses.into_iter().take_while(|id| (*id as usize) < vocab);
        self.batch.extend(known.take(choice.guesses));
    }
}
