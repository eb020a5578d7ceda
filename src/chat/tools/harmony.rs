//! Replies of several messages with channels, as gpt-oss writes them:
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`.
//!
//! A message to `functions.NAME` is a call, one in the channel `analysis` is reasoning, everything else is text for
//! the person. The recipient may stand before or behind the channel.

use super::happening::{Begins, Happening, Look, Next, first, held};
use super::json::Taken;
use super::object::Arguments;
use super::tool::is_name;

/// Longest header of a message, bytes.
const MAX_HEADER: usize = 1_024;
const MESSAGE: &str = "<|message|>";
/// What ends a message, or begins the next one.
const ENDS: [&str; 5] = [
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|start|>",
    "<|channel|>",
];
/// What a header begins with, behind the prompt.
const HEADERS: [&str; 6] = [
    "<|channel|>",
    "<|start|>",
    "<|constrain|>",
    MESSAGE,
    "to=",
    " to=",
];

/// All markers of the format.
pub(super) const MARKERS: [&str; 7] = [
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    MESSAGE,
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

/// Reads whole replies.
#[derive(Clone, Debug)]
pub(super) struct Harmony {
    at: At,
    header: String,
}

#[derive(Clone, Debug)]
enum At {
    /// Before a header, or text without one.
    Between,
    Header,
    Body(Body),
    Call(Box<Arguments>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    Content,
    Reasoning,
}

impl Harmony {
    pub fn new() -> Harmony {
        Harmony {
            at: At::Between,
            header: String::new(),
        }
    }

    /// Whether the next text is reasoning.
    pub fn in_reasoning(&self) -> bool {
        matches!(self.at, At::Body(Body::Reasoning))
    }

    /// The message was no call: its header, which becomes text as well as what follows it.
    pub fn recover(&mut self) -> String {
        self.at = At::Body(Body::Content);
        std::mem::take(&mut self.header)
    }

    /// Takes what it can.
    pub fn step(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        match &mut self.at {
            At::Between => self.between(look),
            At::Header => self.header(look, out),
            At::Body(body) => {
                let body = *body;
                self.body(body, look, out)
            }
            At::Call(arguments) => {
                let mut text = String::new();
                let (taken, state) = arguments.take_all(look.text, &mut text);
                if !text.is_empty() {
                    out.push(Happening::Arguments(text));
                }
                match state {
                    Taken::Inside if taken == 0 => look.wait(),
                    Taken::Inside => Next::Took(taken),
                    Taken::Last => {
                        out.push(Happening::End);
                        self.at = At::Between;
                        Next::Took(taken)
                    }
                    Taken::Past | Taken::Bad => Next::Bad,
                }
            }
        }
    }

    fn between(&mut self, look: Look<'_>) -> Next {
        if look.text.is_empty() {
            return if look.end { Next::Over(0) } else { Next::Wait };
        }
        let all = || ENDS[..3].iter().chain(&HEADERS);
        let found = all().map(|w| (w, look.begins(w)));
        let found: Vec<_> = found.filter(|(_, b)| *b != Begins::No).collect();
        if let Some((w, _)) = found.iter().find(|(_, b)| *b == Begins::Yes) {
            if HEADERS.contains(w) {
                self.at = At::Header;
                return Next::Took(0);
            }
            return Next::Took(w.len());
        }
        if !found.is_empty() {
            return Next::Wait;
        }
        self.at = At::Body(Body::Content);
        Next::Took(0)
    }

    fn header(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let found = look.text.find(MESSAGE);
        let length = found.unwrap_or(look.text.len());
        if length > MAX_HEADER + found.map_or(MESSAGE.len(), |_| 0) {
            self.header.clear();
            return Next::Bad;
        }
        let Some(at) = found else {
            return match look.end {
                // A header that was cut off is no text.
                true => Next::Over(look.text.len()),
                false => Next::Wait,
            };
        };
        let header = &look.text[..at];
        let taken = at + MESSAGE.len();
        look.text[..taken].clone_into(&mut self.header);
        let recipient = word_behind(header, "to=");
        let channel = word_behind(header, "<|channel|>");
        let name = recipient.strip_prefix("functions.");
        let known = || look.tools.iter().any(|t| t.name == recipient);
        let name = name.or_else(|| known().then_some(recipient));
        self.at = match name {
            Some(name) if is_name(name) && !look.tools.is_empty() => {
                out.push(Happening::Name(name.to_owned()));
                At::Call(Box::new(Arguments::new()))
            }
            _ if channel == "analysis" => At::Body(Body::Reasoning),
            _ => At::Body(Body::Content),
        };
        Next::Took(taken)
    }

    fn body(&mut self, body: Body, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let wanted = || ENDS.into_iter();
        let (upto, taken) = match first(look.text, wanted()) {
            Some((at, "<|start|>" | "<|channel|>")) => (at, at),
            Some((at, end)) => (at, at + end.len()),
            None if look.end => (look.text.len(), look.text.len()),
            None => {
                let upto = held(look.text, wanted());
                if upto == 0 {
                    return Next::Wait;
                }
                push(body, &look.text[..upto], out);
                return Next::Took(upto);
            }
        };
        push(body, &look.text[..upto], out);
        self.at = At::Between;
        Next::Took(taken)
    }
}

fn push(body: Body, text: &str, out: &mut Vec<Happening>) {
    if !text.is_empty() {
        out.push(match body {
            Body::Content => Happening::Content(text.to_owned()),
            Body::Reasoning => Happening::Reasoning(text.to_owned()),
        });
    }
}

/// The word that stands behind a text: up to white space or a marker.
fn word_behind<'h>(header: &'h str, before: &str) -> &'h str {
    let Some((_, rest)) = header.split_once(before) else {
        return "";
    };
    let ends = |c: char| c.is_whitespace() || c == '<';
    rest.split(ends).next().unwrap_or_default()
}
