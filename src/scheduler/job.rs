//! A request while it waits or runs.

use std::collections::VecDeque;
use std::sync::Arc;

use geb_kernels::float::BLOCK;

use super::channel::Sender;
use super::policy::{Running, Waiting};
use super::shared::{Event, Request};
use crate::adapter::Adapter;
use crate::engine::{Engine, Scope, Sequence, Stored};
use crate::error::{Error, Result};
use crate::generate::Generation;
use crate::speculate::Speculation;
use crate::tokenizer::Tokenizer;

/// A request, its answer so far, and who reads it.
pub(super) struct Job<'t> {
    pub(super) owner: u64,
    /// When it entered for the first time.
    pub(super) ticket: Option<u64>,
    pub(super) answer: Generation<'t>,
    adapters: Vec<(Arc<Adapter>, f32)>,
    scope: Scope,
    stored: Option<Arc<Stored>>,
    /// What an encoder reads; empty without one.
    text: Vec<u32>,
    /// What it holds while it runs.
    pub(super) seq: Option<Sequence>,
    /// Rows that the step at hand plans for it, and guesses among them.
    pub(super) rows: usize,
    pub(super) guesses: usize,
    /// It has read its prompt in the step at hand.
    pub(super) has_read: bool,
    mail: Mail,
}

/// Events on their way to a reader.
pub(super) struct Mail {
    events: Sender<Event>,
    /// Those that found no room.
    held: VecDeque<Event>,
}

impl Mail {
    pub(super) fn new(events: Sender<Event>) -> Self {
        Self {
            events,
            held: VecDeque::new(),
        }
    }

    /// Hands an event over, or keeps it behind those that found no room.
    pub(super) fn send(&mut self, event: Event) {
        self.held.push_back(event);
        self.flush();
    }

    /// Hands over what there is room for; true if nothing is left.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(event) = self.held.pop_front() {
            if let Err(event) = self.events.send(event) {
                self.held.push_front(event);
                return false;
            }
        }
        true
    }

    /// Whether the reader has left.
    pub(super) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }
}

impl<'t> Job<'t> {
    /// A request that has not entered yet; what is wrong with it is said to its reader.
    pub(super) fn new(
        engine: &Engine,
        tokenizer: &'t Tokenizer,
        request: Request,
        mut mail: Mail,
    ) -> Option<Job<'t>> {
        let prompt_tokens = request.prompt.len();
        let (prompt, text) = match engine.model().config().encoder {
            Some(encoder) if prompt_tokens > 0 => (vec![encoder.start], request.prompt),
            _ => (request.prompt, Vec::new()),
        };
        let ids = engine.check_ids(&prompt);
        let answer = ids.and_then(|()| Generation::new(engine, tokenizer, prompt, request.options));
        match answer {
            Ok(mut answer) => {
                let bell = mail.events.bell();
                answer.wake_with(Arc::new(move || bell.ring()));
                answer.timings().prompt_tokens = prompt_tokens;
                Some(Job {
                    owner: request.owner,
                    ticket: None,
                    answer,
                    adapters: request.adapters,
                    scope: request.scope,
                    stored: request.stored,
                    text,
                    seq: None,
                    rows: 0,
                    guesses: 0,
                    has_read: false,
                    mail,
                })
            }
            Err(error) => {
                mail.send(Event::Failed(error));
                None
            }
        }
    }

    /// Whether it reads a beginning now that `other` will find when it is read: pages of it at least.
    pub(super) fn is_ahead_of(&self, other: &Job<'_>) -> bool {
        let Some(seq) = self.seq.as_ref().filter(|s| s.is_shared()) else {
            return false;
        };
        if self.is_answering()
            || self.is_paused()
            || other.answer.weighs_prompt()
            || self.scope != other.scope
        {
            return false;
        }
        let same = |a: &(Arc<Adapter>, f32), b: &(Arc<Adapter>, f32)| {
            Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1
        };
        let (mine, theirs) = (&self.adapters, &other.adapters);
        if mine.len() != theirs.len() || !mine.iter().zip(theirs).all(|(a, b)| same(a, b)) {
            return false;
        }
        let pairs = self.answer.history().iter().zip(other.answer.history());
        let common = pairs.take_while(|(a, b)| a == b).count();
        // The last token of a prompt is always read.
        let common = common.min(other.answer.history().len() - 1) / BLOCK * BLOCK;
        common > seq.tokens().len()
    }

    /// Takes a sequence for it, or one that holds the beginning of its text.
    pub(super) fn enter(&mut self, engine: &mut Engine) -> Result<()> {
        let mut seq = engine.sequence()?;
        if !self.adapters.is_empty() {
            let adapters: Vec<_> = self.adapters.iter().map(|(a, s)| (&**a, *s)).collect();
            engine.set_adapters(&mut seq, &adapters)?;
        }
        if !self.text.is_empty() {
            engine.encode(&mut seq, &self.text)?;
        }
        // What is found has no logits.
        if !self.answer.weighs_prompt() {
            match self.stored.take().map(|stored| engine.restore(&stored)) {
                // Without memory for it, it is computed.
                None | Some(Ok(_) | Err(Error::Memory { .. })) => {}
                Some(Err(error)) => return Err(error),
            }
            engine.begin(&mut seq, &self.scope, self.answer.history())?;
        }
        self.answer.begin(engine, &mut seq)?;
        self.seq = Some(seq);
        Ok(())
    }

    /// It has entered for the first time.
    pub(super) fn started(&mut self, ticket: u64, guesses: Option<Speculation>) {
        self.ticket = Some(ticket);
        if let Some(guesses) = guesses {
            self.answer.guess_with(guesses);
        }
        let timings = self.answer.timings();
        let (prompt, cached) = (timings.prompt_tokens, timings.reused_tokens);
        self.send(Event::Started { prompt, cached });
    }

    /// Tokens that its sequence holds.
    pub(super) fn held(&self) -> usize {
        self.seq.as_ref().map_or(0, |s| s.tokens().len())
    }

    /// Whether each pass gives it a token or more.
    pub(super) fn is_answering(&self) -> bool {
        self.answer.is_answering(self.held())
    }

    /// Whether it cannot go on now: its reader is too slow, or its constraint.
    pub(super) fn is_paused(&self) -> bool {
        !self.mail.held.is_empty() || self.answer.is_late()
    }

    /// Rows that it has to read.
    pub(super) fn left(&self) -> usize {
        if self.is_answering() {
            return 0;
        }
        self.answer.history().len() - self.held()
    }

    /// What the policy knows of it while it waits.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting {
            owner: self.owner,
            ticket: self.ticket,
        }
    }

    /// What the policy knows of it while it runs.
    pub(super) fn running(&self) -> Running {
        Running {
            ticket: self.ticket.unwrap_or(u64::MAX),
            left: if self.is_paused() { 0 } else { self.left() },
        }
    }

    /// Tells its reader.
    pub(super) fn send(&mut self, event: Event) {
        self.mail.send(event);
    }

    /// Hands over what waits for room.
    pub(super) fn flush(&mut self) {
        self.mail.flush();
    }

    /// Rows of tokens that are known to follow the last one.
    pub(super) fn known(&mut self) -> usize {
        let verify = self.seq.as_ref().map_or(1, Sequence::verify_batch);
        let wanted = self.answer.wanted();
        self.answer
            .known()
            .min(wanted.min(verify).saturating_sub(1))
    }

    /// Whether its reader has left.
    pub(super) fn is_closed(&self) -> bool {
        self.mail.is_closed()
    }

    /// The end: the last event, on its way, and what guessed.
    pub(super) fn leave(mut self, last: Event) -> (Mail, Speculation) {
        self.mail.send(last);
        (self.mail, self.answer.into_parts().1)
    }
}
