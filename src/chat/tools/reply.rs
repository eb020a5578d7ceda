//! A reply of a model, read as it comes: text for the person, reasoning, tool calls.
//!
//! ```text
//! Text       -> content, up to what may become an opening; white space waits, for none is told before a call
//!   opening of reasoning, at its place  -> Reasoning, up to its closing -> Text
//!   opening of calls                    -> Section: the reader of the row takes text
//!     a call is whole                   -> told; white space around it is not content
//!     over                              -> Text
//!     no call                           -> the opening is content, and what follows it is read again as Text
//! ```
//! Every decision depends on the text alone: events are the same however the text is cut into pieces, but for how
//! contents, reasonings and arguments are cut.

use super::events::{Delivery, ReplyEvent};
use super::happening::{Begins, Happening, Look, Next, begins, first, held};
use super::ids::CallIds;
use super::object::is_object;
use super::reader::Reader;
use super::table::{Beginning, Calls, Names, Pair, Row, Where};
use super::tool::{Tool, is_name};

/// Openings that were no calls after which a reply is only text: each makes what follows it be read again.
const MOST_FAILURES: usize = 64;

/// Reads one reply.
#[derive(Debug)]
pub struct ReplyParser {
    row: &'static Row,
    pair: Option<&'static Pair>,
    tools: Vec<Tool>,
    ids: CallIds,
    delivery: Delivery,
    state: State,
    /// What has not been taken.
    text: String,
    /// What the section has taken since its opening or its last call.
    raw: String,
    /// The opening of the section, until a call has come.
    opening: String,
    call: Option<Call>,
    calls: usize,
    failures: usize,
    flow: Flow,
    out: Vec<ReplyEvent>,
}

#[derive(Debug)]
enum State {
    Text,
    Reasoning,
    Section(Box<Reader>),
}

/// A call that is not whole.
#[derive(Debug)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// Where in a run of content or reasoning the text stands.
#[derive(Debug)]
struct Flow {
    /// White space before the first other character is not told.
    trims: bool,
    /// There has been nothing else.
    blank: bool,
    /// A reply that began like a call was none.
    tried: bool,
    /// White space that waits for what follows it.
    spaces: String,
}

impl Flow {
    fn new(trims: bool) -> Flow {
        Flow {
            trims,
            blank: true,
            tried: false,
            spaces: String::new(),
        }
    }

    /// The text that can be told now.
    fn take(&mut self, text: &str) -> Option<String> {
        let body = text.trim_end();
        if body.is_empty() {
            self.spaces.push_str(text);
            return None;
        }
        let mut told = std::mem::take(&mut self.spaces);
        told.push_str(body);
        if self.blank && self.trims {
            told = told.trim_start().to_owned();
        }
        self.blank = false;
        self.spaces.push_str(&text[body.len()..]);
        Some(told)
    }
}

/// What a reader of replies is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub row: &'static Row,
    pub pair: Option<&'static Pair>,
    pub beginning: Beginning,
    pub delivery: Delivery,
}

impl ReplyParser {
    pub(super) fn new(style: Style, tools: Vec<Tool>, ids: CallIds) -> ReplyParser {
        let Style { row, pair, .. } = style;
        let state = match (&row.calls, style.beginning) {
            (Calls::Harmony, _) => State::Section(Box::new(Reader::new(row))),
            (_, Beginning::Reasoning) => State::Reasoning,
            (_, Beginning::Call) if !tools.is_empty() => State::Section(Box::new(Reader::new(row))),
            _ => State::Text,
        };
        ReplyParser {
            row,
            pair,
            tools,
            ids,
            delivery: style.delivery,
            flow: Flow::new(matches!(state, State::Reasoning)),
            state,
            text: String::new(),
            raw: String::new(),
            opening: String::new(),
            call: None,
            calls: 0,
            failures: 0,
            out: Vec::new(),
        }
    }

    /// Adds a piece of the reply; what it brings.
    pub fn push(&mut self, piece: &str) -> Vec<ReplyEvent> {
        self.text.push_str(piece);
        while self.step(false) {}
        std::mem::take(&mut self.out)
    }

    /// Ends the reply; what has waited.
    pub fn finish(&mut self) -> Vec<ReplyEvent> {
        while self.step(true) {}
        if matches!(self.state, State::Text) && !(self.flow.blank && self.flow.trims) {
            let spaces = std::mem::take(&mut self.flow.spaces);
            self.tell(ReplyEvent::Content(spaces));
        }
        std::mem::take(&mut self.out)
    }

    /// Whether what comes next belongs to the reasoning, as far as it is known.
    pub fn in_reasoning(&self) -> bool {
        match &self.state {
            State::Reasoning => true,
            State::Section(reader) => {
                matches!(&**reader, Reader::Harmony(h) if h.in_reasoning())
            }
            State::Text => false,
        }
    }

    /// Calls that have been told whole.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// One step; whether there may be another one.
    fn step(&mut self, end: bool) -> bool {
        match &self.state {
            State::Text => !self.text.is_empty() && self.in_text(end),
            State::Reasoning => !self.text.is_empty() && self.reason(end),
            State::Section(_) => self.section(end),
        }
    }

    fn tell(&mut self, event: ReplyEvent) {
        let joined = match (self.out.last_mut(), &event) {
            (Some(ReplyEvent::Content(old)), ReplyEvent::Content(new)) => Some((old, new)),
            (Some(ReplyEvent::Reasoning(old)), ReplyEvent::Reasoning(new)) => Some((old, new)),
            (
                Some(ReplyEvent::CallArguments { text: old, .. }),
                ReplyEvent::CallArguments { text: new, .. },
            ) => Some((old, new)),
            (_, ReplyEvent::Content(new) | ReplyEvent::Reasoning(new)) if new.is_empty() => return,
            _ => None,
        };
        match joined {
            Some((old, new)) => old.push_str(new),
            None => self.out.push(event),
        }
    }

    /// Takes bytes from the front.
    fn take(&mut self, bytes: usize) -> String {
        let rest = self.text.split_off(bytes);
        std::mem::replace(&mut self.text, rest)
    }

    // Text.

    fn in_text(&mut self, end: bool) -> bool {
        let front = self.text.trim_start();
        if self.flow.blank && !self.flow.tried {
            if front.is_empty() && !end {
                return false;
            }
            match self.at_front(front, end) {
                (Begins::Yes, Some(pair)) => return self.enter_reasoning(pair),
                (Begins::Yes, None) => return self.enter_front(),
                (Begins::Perhaps, _) => return false,
                (Begins::No, _) => {}
            }
        }
        let wanted = self.openings();
        if let Some((at, opening)) = first(&self.text, wanted.iter().copied()) {
            let before = self.take(at);
            self.content(&before);
            match self.pair {
                Some(pair) if pair.open == opening => _ = self.enter_reasoning(pair),
                _ => self.enter(opening),
            }
            return true;
        }
        let upto = match end {
            true => self.text.len(),
            false => held(&self.text, wanted.iter().copied()),
        };
        let text = self.take(upto);
        self.content(&text);
        false
    }

    fn content(&mut self, text: &str) {
        if let Some(told) = self.flow.take(text) {
            self.tell(ReplyEvent::Content(told));
        }
    }

    /// What is looked for everywhere.
    fn openings(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        all.extend(
            self.pair
                .filter(|p| p.at == Where::Anywhere)
                .map(|p| p.open),
        );
        if self.calls_count() {
            all.extend(self.row.open);
            all.extend(self.row.begin());
        }
        all
    }

    /// Whether calls are looked for.
    fn calls_count(&self) -> bool {
        !self.tools.is_empty() && self.failures < MOST_FAILURES
    }

    /// Whether the first characters of a run of text open something.
    fn at_front(&self, front: &str, end: bool) -> (Begins, Option<&'static Pair>) {
        let mut found = (Begins::No, None);
        if let Some(pair) = self.pair.filter(|p| p.at == Where::Start) {
            found = (begins(front, pair.open, end), Some(pair));
        }
        if found.0 == Begins::Yes || !self.calls_count() {
            return found;
        }
        let mut opens = |wanted: &str| match begins(front, wanted, end) {
            Begins::Yes => found = (Begins::Yes, None),
            Begins::Perhaps if found.0 == Begins::No => found = (Begins::Perhaps, None),
            _ => {}
        };
        match (self.row.names, &self.row.calls) {
            (Names::Line, _) => {
                let names = self.tools.iter().map(|t| &t.name);
                names.for_each(|name| opens(&format!("{name}\n")));
            }
            (Names::Known, Calls::Objects(..)) => opens("{"),
            _ => {}
        }
        found
    }

    fn enter_front(&mut self) -> bool {
        let spaces = self.text.len() - self.text.trim_start().len();
        let before = self.take(spaces);
        self.flow.spaces.push_str(&before);
        self.opening.clear();
        self.begin_section();
        true
    }

    /// Begins the calls behind an opening, which lies at the front.
    fn enter(&mut self, opening: &str) {
        self.begin_section();
        opening.clone_into(&mut self.opening);
        let own = match &self.row.calls {
            Calls::Named(naming) => naming.begin,
            Calls::Tagged(tags) => tags.call,
            _ => "",
        };
        // The reader wants to see the beginning of a call itself.
        if opening != own {
            self.raw = self.take(opening.len());
        }
    }

    fn begin_section(&mut self) {
        self.raw.clear();
        self.state = State::Section(Box::new(Reader::new(self.row)));
    }

    // Reasoning.

    /// Begins the reasoning whose opening comes next, behind white space.
    fn enter_reasoning(&mut self, pair: &'static Pair) -> bool {
        let spaces = self.text.len() - self.text.trim_start().len();
        self.take(spaces + pair.open.len());
        self.flow = Flow::new(true);
        self.state = State::Reasoning;
        true
    }

    fn reason(&mut self, end: bool) -> bool {
        let Some(pair) = self.pair else {
            self.state = State::Text;
            return true;
        };
        // The model repeats an opening that the prompt has.
        let front = self.text.trim_start();
        if self.flow.blank && !self.flow.tried {
            if front.is_empty() && !end {
                return false;
            }
            match begins(front, pair.open, end) {
                Begins::Yes => return self.enter_reasoning(pair),
                Begins::Perhaps => return false,
                Begins::No => self.flow.tried = true,
            }
        }
        let (upto, closed) = match self.text.find(pair.close) {
            Some(at) => (at, true),
            None if end => (self.text.len(), false),
            None => (held(&self.text, [pair.close].into_iter()), false),
        };
        let text = self.take(upto);
        if let Some(told) = self.flow.take(&text) {
            self.tell(ReplyEvent::Reasoning(told));
        }
        if closed {
            self.take(pair.close.len());
            self.flow = Flow::new(true);
            self.state = State::Text;
        }
        closed
    }

    // Calls.

    fn section(&mut self, end: bool) -> bool {
        let State::Section(reader) = &mut self.state else {
            return false;
        };
        let mut found = Vec::new();
        let look = Look {
            text: &self.text,
            end,
            tools: &self.tools,
        };
        let next = reader.step(look, &mut found);
        if let Next::Took(bytes) | Next::Over(bytes) = next {
            let taken = self.take(bytes);
            self.raw.push_str(&taken);
        }
        if !self.happened(found) {
            self.no_call();
            return true;
        }
        match next {
            Next::Took(_) => {
                self.forget();
                true
            }
            Next::Wait => false,
            Next::Over(_) => {
                self.raw.clear();
                self.flow = Flow::new(true);
                self.state = State::Text;
                !self.text.is_empty()
            }
            Next::Bad => {
                self.no_call();
                true
            }
        }
    }

    /// Messages with channels give back what belongs to a call.
    fn forget(&mut self) {
        if matches!(self.row.calls, Calls::Harmony) && self.call.is_none() {
            self.raw.clear();
        }
    }

    /// Tells what a reader has found; false if it is no call after all.
    fn happened(&mut self, found: Vec<Happening>) -> bool {
        for happening in found {
            match happening {
                Happening::Content(text) => self.tell(ReplyEvent::Content(text)),
                Happening::Reasoning(text) => self.tell(ReplyEvent::Reasoning(text)),
                Happening::Name(name) => {
                    let known = || self.tools.iter().any(|t| t.name == name);
                    if !is_name(&name) || self.row.names != Names::Any && !known() {
                        return false;
                    }
                    self.started(name);
                }
                Happening::Arguments(text) => self.argued(text),
                Happening::End => {
                    if !self.ended() {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn started(&mut self, name: String) {
        let id = self.ids.id(self.row.ids, self.calls, &name);
        if self.delivery == Delivery::InPieces {
            self.tell(ReplyEvent::CallStarted {
                index: self.calls,
                id: id.clone(),
                name: name.clone(),
            });
        }
        self.call = Some(Call {
            id,
            name,
            arguments: String::new(),
        });
    }

    fn argued(&mut self, text: String) {
        let Some(call) = &mut self.call else {
            return;
        };
        call.arguments.push_str(&text);
        if self.delivery == Delivery::InPieces {
            let index = self.calls;
            self.tell(ReplyEvent::CallArguments { index, text });
        }
    }

    fn ended(&mut self) -> bool {
        let index = self.calls;
        let Some(call) = self.call.take_if(|c| is_object(&c.arguments)) else {
            return false;
        };
        if self.delivery == Delivery::Whole {
            let Call {
                id,
                name,
                arguments: text,
            } = call;
            self.tell(ReplyEvent::CallStarted { index, id, name });
            self.tell(ReplyEvent::CallArguments { index, text });
        }
        self.tell(ReplyEvent::CallFinished { index });
        self.calls += 1;
        self.raw.clear();
        self.opening.clear();
        self.flow = Flow::new(true);
        true
    }

    /// What the section has taken goes back; its opening is content.
    fn no_call(&mut self) {
        if self.call.take().is_some() && self.delivery == Delivery::InPieces {
            self.tell(ReplyEvent::CallDropped { index: self.calls });
            // The client has seen this place.
            self.calls += 1;
        }
        self.failures += 1;
        let back = std::mem::take(&mut self.raw);
        self.text.insert_str(0, &back);
        if let State::Section(reader) = &mut self.state
            && let Reader::Harmony(harmony) = &mut **reader
        {
            let header = harmony.recover();
            let header = self.take(header.len());
            self.tell(ReplyEvent::Content(header));
            return;
        }
        self.state = State::Text;
        self.flow.tried = true;
        let opening = std::mem::take(&mut self.opening);
        if self.text.starts_with(&opening) {
            let opening = self.take(opening.len());
            self.content(&opening);
        }
    }
}
