//! Calls whose name stands before their JSON: `begin NAME separator {…} end`.

use super::happening::{Begins, Happening, Look, Next};
use super::json::Taken;
use super::object::Arguments;
use super::tool::is_name;
use crate::limits;

/// How a family writes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    /// Stands before a name; may be empty.
    pub begin: &'static str,
    /// Stands between a name and its arguments.
    pub separator: &'static str,
    /// Stands behind the arguments; models may leave it out.
    pub end: &'static str,
    /// What belongs to a name and is left out of it.
    pub trim: Trim,
    /// The name under which text for the person stands; empty if there is none.
    pub text: &'static str,
}

/// Parts of a written name that are not the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trim {
    None,
    /// Everything from a text on: `[CALL_ID]`.
    From(&'static str),
    /// `functions.` before it and `:0` behind it.
    Kimi,
}

impl Trim {
    fn apply(self, written: &str) -> &str {
        let written = written.trim();
        match self {
            Trim::None => written,
            Trim::From(text) => written.split(text).next().unwrap_or_default().trim(),
            Trim::Kimi => {
                let name = written.strip_prefix("functions.").unwrap_or(written);
                match name.rsplit_once(':') {
                    Some((name, index)) if index.bytes().all(|b| b.is_ascii_digit()) => name,
                    _ => name,
                }
            }
        }
    }
}

/// Reads such calls up to a closing text.
#[derive(Clone, Debug)]
pub(super) struct Named {
    naming: &'static Naming,
    close: &'static str,
    at: At,
    calls: usize,
}

#[derive(Clone, Debug)]
enum At {
    Begin,
    Name,
    Arguments(Box<Arguments>),
    End,
}

impl Named {
    pub fn new(naming: &'static Naming, close: &'static str) -> Named {
        Named {
            naming,
            close,
            at: At::Begin,
            calls: 0,
        }
    }

    /// Takes what it can.
    pub fn step(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        match &mut self.at {
            At::Begin => self.begin(look),
            At::Name => self.name(look, out),
            At::Arguments(arguments) => {
                let mut text = String::new();
                let (taken, state) = arguments.take_all(look.text, &mut text);
                if !text.is_empty() {
                    out.push(Happening::Arguments(text));
                }
                match state {
                    Taken::Inside if taken == 0 => look.wait(),
                    Taken::Inside => Next::Took(taken),
                    Taken::Last => {
                        self.at = At::End;
                        Next::Took(taken)
                    }
                    Taken::Past | Taken::Bad => Next::Bad,
                }
            }
            At::End => self.end(look, out),
        }
    }

    fn begin(&mut self, look: Look<'_>) -> Next {
        let Naming { begin, .. } = *self.naming;
        if begin.is_empty() && self.calls == 0 {
            self.at = At::Name;
            return Next::Took(0);
        }
        let (rest, spaces) = look.trimmed();
        if rest.text.is_empty() && !look.end {
            return Next::Wait;
        }
        let (closes, begins) = match (self.close, begin) {
            ("", "") => return Next::Over(0),
            (close, "") => (rest.begins(close), Begins::No),
            ("", begin) => (Begins::No, rest.begins(begin)),
            (close, begin) => (rest.begins(close), rest.begins(begin)),
        };
        match (closes, begins) {
            (Begins::Yes, _) if self.calls > 0 => Next::Over(spaces + self.close.len()),
            (_, Begins::Yes) => {
                self.at = At::Name;
                Next::Took(spaces + begin.len())
            }
            (Begins::Perhaps, _) | (_, Begins::Perhaps) => Next::Wait,
            // The closing is left out.
            _ if self.calls > 0 => Next::Over(0),
            _ => Next::Bad,
        }
    }

    fn name(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let separator = self.naming.separator;
        let found = look.text.find(separator);
        let written = look.text[..found.unwrap_or(look.text.len())].trim_start();
        // A part of the separator may be there.
        let most = limits::MAX_TOOL_NAME + found.map_or(separator.len(), |_| 0);
        let line = !separator.starts_with(char::is_whitespace) && written.contains('\n');
        if line || written.chars().count() > most {
            return Next::Bad;
        }
        let Some(at) = found else {
            return look.wait();
        };
        let name = self.naming.trim.apply(written);
        let taken = at + separator.len();
        if !self.naming.text.is_empty() && name == self.naming.text {
            return Next::Over(taken);
        }
        if !is_name(name) {
            return Next::Bad;
        }
        out.push(Happening::Name(name.to_owned()));
        self.at = At::Arguments(Box::new(Arguments::new()));
        Next::Took(taken)
    }

    fn end(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let end = self.naming.end;
        // White space is part of some endings, and optional before others.
        let (rest, spaces) = look.trimmed();
        let taken = match (look.begins(end), rest.begins(end.trim_start())) {
            (Begins::Yes, _) => end.len(),
            (_, Begins::Yes) => spaces + end.trim_start().len(),
            (Begins::Perhaps, _) | (_, Begins::Perhaps) => return Next::Wait,
            _ => 0,
        };
        out.push(Happening::End);
        self.calls += 1;
        self.at = At::Begin;
        Next::Took(taken)
    }
}
