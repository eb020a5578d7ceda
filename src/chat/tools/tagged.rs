//! Calls whose arguments are texts between tags.

use serde_json::Value;

use super::happening::{Begins, Happening, Look, Next, first};
use super::tool::{Tool, is_name};
use super::typed;
use crate::limits;

/// How a family writes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tags {
    /// Stands before a name; empty where the opening of the section does.
    pub call: &'static str,
    /// Stands behind a name; empty where white space or the next tag ends it.
    pub name_end: &'static str,
    /// Stands before a key.
    pub key: &'static str,
    /// Stands behind a key.
    pub key_end: &'static str,
    /// Stands before a value, behind white space.
    pub value: &'static str,
    /// Stands behind a value.
    pub value_end: &'static str,
    /// Ends a call.
    pub end: &'static str,
    /// What is written around a value and does not belong to it.
    pub frame: Frame,
}

/// White space around a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    None,
    /// A line end before it and one behind it.
    Lines,
}

/// Reads such calls up to a closing text.
#[derive(Clone, Debug)]
pub(super) struct Tagged {
    tags: &'static Tags,
    close: &'static str,
    at: At,
    calls: usize,
    name: String,
    key: String,
    /// Parameters read.
    count: usize,
    /// Bytes of a value that hold no end of it.
    looked: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Call,
    Name,
    /// A key, or the end of the call.
    Key,
    KeyText,
    ValueTag,
    Value,
}

impl Tagged {
    pub fn new(tags: &'static Tags, close: &'static str) -> Tagged {
        Tagged {
            tags,
            close,
            at: At::Call,
            calls: 0,
            name: String::new(),
            key: String::new(),
            count: 0,
            looked: 0,
        }
    }

    /// Takes what it can.
    pub fn step(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        match self.at {
            At::Call => self.call(look),
            At::Name => self.name(look, out),
            At::Key => self.key(look, out),
            At::KeyText => self.key_text(look),
            At::ValueTag => self.value_tag(look),
            At::Value => self.value(look, out),
        }
    }

    fn call(&mut self, look: Look<'_>) -> Next {
        let call = self.tags.call;
        if call.is_empty() {
            if self.calls > 0 {
                return Next::Over(0);
            }
            self.at = At::Name;
            return Next::Took(0);
        }
        let (rest, spaces) = look.trimmed();
        if rest.text.is_empty() && !look.end {
            return Next::Wait;
        }
        match (rest.begins(self.close), rest.begins(call)) {
            (Begins::Yes, _) if self.calls > 0 => Next::Over(spaces + self.close.len()),
            (_, Begins::Yes) => {
                self.at = At::Name;
                Next::Took(spaces + call.len())
            }
            (Begins::Perhaps, _) | (_, Begins::Perhaps) => Next::Wait,
            _ if self.calls > 0 => Next::Over(0),
            _ => Next::Bad,
        }
    }

    fn name(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let end = self.tags.name_end;
        let at = match end {
            "" => {
                let lead = look.text.len() - look.text.trim_start().len();
                let ends = |c: char| c.is_whitespace() || c == '<';
                look.text[lead..].find(ends).map(|at| lead + at)
            }
            end => look.text.find(end),
        };
        let written = &look.text[..at.unwrap_or(look.text.len())];
        let most = limits::MAX_TOOL_NAME + at.map_or(end.len(), |_| 0);
        if written.chars().count() > most {
            return Next::Bad;
        }
        let Some(at) = at else {
            return look.wait();
        };
        let name = written.trim();
        if !is_name(name) {
            return Next::Bad;
        }
        self.name = name.to_owned();
        out.push(Happening::Name(self.name.clone()));
        (self.at, self.count) = (At::Key, 0);
        Next::Took(at + end.len())
    }

    fn key(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let (rest, spaces) = look.trimmed();
        match (rest.begins(self.tags.key), rest.begins(self.tags.end)) {
            (Begins::Yes, _) => {
                self.at = At::KeyText;
                Next::Took(spaces + self.tags.key.len())
            }
            (_, Begins::Yes) => {
                let end = if self.count == 0 { "{}" } else { "}" };
                out.push(Happening::Arguments(end.to_owned()));
                out.push(Happening::End);
                (self.at, self.calls) = (At::Call, self.calls + 1);
                Next::Took(spaces + self.tags.end.len())
            }
            (Begins::Perhaps, _) | (_, Begins::Perhaps) => Next::Wait,
            _ => Next::Bad,
        }
    }

    fn key_text(&mut self, look: Look<'_>) -> Next {
        let end = self.tags.key_end;
        let at = look.text.find(end);
        let written = &look.text[..at.unwrap_or(look.text.len())];
        if written.len() > 4 * limits::MAX_TOOL_NAME + at.map_or(end.len(), |_| 0) {
            return Next::Bad;
        }
        let Some(at) = at else {
            return look.wait();
        };
        self.key = written.trim().to_owned();
        self.at = At::ValueTag;
        Next::Took(at + end.len())
    }

    fn value_tag(&mut self, look: Look<'_>) -> Next {
        self.looked = 0;
        let tag = self.tags.value;
        if tag.is_empty() {
            self.at = At::Value;
            return Next::Took(0);
        }
        let (rest, spaces) = look.trimmed();
        match rest.begins(tag) {
            Begins::Yes => {
                self.at = At::Value;
                Next::Took(spaces + tag.len())
            }
            Begins::Perhaps => Next::Wait,
            Begins::No => Next::Bad,
        }
    }

    /// A value ends where its end is followed by a key or the end of the call: it may hold the text of its end.
    fn value(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let end = self.tags.value_end;
        while let Some((at, _)) = first(&look.text[self.looked..], [end].into_iter()) {
            let at = self.looked + at;
            let (rest, _) = look.from(at + end.len()).trimmed();
            let follows = [self.tags.key, self.tags.end].map(|w| rest.begins(w));
            if follows.contains(&Begins::Yes) {
                self.push(&look.text[..at], look.tools, out);
                self.at = At::Key;
                return Next::Took(at + end.len());
            }
            if follows.contains(&Begins::Perhaps) {
                self.looked = at;
                return Next::Wait;
            }
            self.looked = at + end.len();
        }
        // An end may be half there.
        let mut looked = (look.text.len() + 1)
            .saturating_sub(end.len())
            .max(self.looked);
        while !look.text.is_char_boundary(looked) {
            looked -= 1;
        }
        self.looked = looked;
        look.wait()
    }

    fn push(&mut self, written: &str, tools: &[Tool], out: &mut Vec<Happening>) {
        let text = match self.tags.frame {
            Frame::None => written,
            Frame::Lines => {
                let text = written.strip_prefix('\n').unwrap_or(written);
                text.strip_suffix('\n').unwrap_or(text)
            }
        };
        let tool = tools.iter().find(|t| t.name == self.name);
        let value = match attribute(&self.key) {
            Some((key, kind)) => {
                let json = || serde_json::from_str(text).ok();
                let value = (kind == "false").then(json).flatten();
                let value = value.unwrap_or_else(|| Value::from(text));
                self.key = key.to_owned();
                value
            }
            None => typed::value(text, &self.key, tool),
        };
        let before = if self.count == 0 { "{" } else { ", " };
        let key = Value::from(self.key.as_str());
        out.push(Happening::Arguments(format!("{before}{key}: {value}")));
        self.count += 1;
    }
}

/// `KEY" string="true`: a key with the attribute that says whether its value is a string.
fn attribute(key: &str) -> Option<(&str, &str)> {
    let (name, kind) = key.split_once("\" string=\"")?;
    ["true", "false"].contains(&kind).then_some((name, kind))
}
