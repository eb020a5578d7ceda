//! Which parts of a rendered conversation are the template's own text.
//!
//! Every string of a request is foreign: contents, names, arguments, descriptions, and all strings and keys of
//! schemas. A template may trim, split or move them, so positions are found by rendering again
//! with marks (private-use characters that occur nowhere else) put into the strings, and
//! accepted only when the result without marks is exactly the plain rendering. Four ways
//! are tried, from the most to the least informative; when a template changes strings so
//! much that none works, every control token whose text occurs in a string, or that a string could be part of, is
//! taken as plain text everywhere, also in the template's own text: odd, but never an injection.
//!
//! Words that templates ask for by name (`WORDS`) and roles carry no marks: they are a closed list, or letters and
//! digits, and hold no control text.

use std::ops::Range;

use serde_json::{Map, Value};

use super::prompt::Prompt;
use crate::error::Result;
use crate::limits;
use crate::tokenizer::{Tokenizer, check_length};

/// Words of the protocol: what templates compare with, as keys or values. Letters, digits, `_` and `$` only.
const WORDS: [&str; 70] = [
    "role",
    "content",
    "type",
    "text",
    "name",
    "id",
    "function",
    "functions",
    "arguments",
    "tool_calls",
    "tool_call_id",
    "tool",
    "tools",
    "system",
    "user",
    "assistant",
    "developer",
    "reasoning_content",
    "reasoning",
    "thinking",
    "messages",
    "documents",
    "title",
    "description",
    "parameters",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "default",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "object",
    "array",
    "string",
    "number",
    "integer",
    "boolean",
    "null",
    "nullable",
    "additionalProperties",
    "patternProperties",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "pattern",
    "format",
    "examples",
    "definitions",
    "$defs",
    "$ref",
    "$schema",
    "$id",
    "response",
    "returns",
    "return",
    "strict",
    "add_generation_prompt",
    "code_interpreter",
];

/// Renders a context; `None` when the template fails on it.
type Render<'a> = &'a dyn Fn(&Value) -> Option<String>;

/// A rendering whose parts are to be told apart.
pub(super) struct Rendering<'a> {
    /// What the template was given.
    pub context: &'a Value,
    /// What it made of it.
    pub text: &'a str,
    /// Its source.
    pub source: &'a str,
    pub end: End,
    pub render: Render<'a>,
}

/// Where a rendering ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Where the template ends.
    Template,
    /// Inside a string of the request.
    Foreign,
}

impl Rendering<'_> {
    /// Tokenizes it: control tokens are recognised in the template's own text only.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn prompt(&self, tokenizer: &Tokenizer) -> Result<Prompt> {
        check_length(self.text, limits::MAX_PROMPT_BYTES)?;
        let own = self.template_ranges(tokenizer);
        let mut ids = Vec::new();
        tokenizer.encode_parts(self.text, &own, &mut ids)?;
        let last = own.last().filter(|r| r.end == self.text.len());
        Ok(Prompt {
            ids,
            text: self.text.to_owned(),
            opened: last.map_or("", |r| &self.text[r.clone()]).to_owned(),
            ignored: Vec::new(),
        })
    }

    /// Byte ranges of the text, in order, inside which control tokens may be recognised.
    fn template_ranges(&self, tokenizer: &Tokenizer) -> Vec<Range<usize>> {
        let [start, end, inner] = free_marks(&[self.text, self.source], self.context);
        let controls = || Controls::of(tokenizer);
        self.wrapped(start, end)
            .or_else(|| self.broken(tokenizer, inner, &|_| true))
            .or_else(|| {
                let controls = controls();
                self.broken(tokenizer, inner, &|text| controls.may_hold(text))
            })
            .unwrap_or_else(|| self.cautious(tokenizer))
    }

    /// Way 1: marks around every string give exact ranges.
    fn wrapped(&self, start: char, end: char) -> Option<Vec<Range<usize>>> {
        let wrap = |text: &str| match core(text) {
            (_, "", _) => Some(text.to_owned()),
            (before, core, after) => Some(format!("{before}{start}{core}{end}{after}")),
        };
        let marked = self.marked(&wrap, &[start, end])?;
        let mut plain = String::with_capacity(self.text.len());
        let mut ranges = Vec::new();
        // Where the template's text began; `None` inside a string.
        let mut own = Some(0);
        for c in marked.chars() {
            if c == start {
                ranges.push(own.take()?..plain.len());
            } else if c == end {
                if own.is_some() {
                    return None;
                }
                own = Some(plain.len());
            } else {
                plain.push(c);
            }
        }
        match own {
            Some(from) => ranges.push(from..plain.len()),
            None if self.end == End::Foreign => {}
            None => return None,
        }
        (plain == self.text).then_some(ranges)
    }

    /// Ways 2 and 3: a mark inside every control text of a string, and at the ends of strings for which `edges`
    /// holds. A control token that covers a mark comes from a string. Marks need no partner, so
    /// a template may drop parts of a string.
    fn broken(
        &self,
        tokenizer: &Tokenizer,
        mark: char,
        edges: &dyn Fn(&str) -> bool,
    ) -> Option<Vec<Range<usize>>> {
        let broken = |text: &str| break_up(tokenizer, text, mark, edges(text));
        let marked = self.marked(&broken, &[mark])?;
        let mut plain = String::with_capacity(self.text.len());
        let mut ranges = Vec::new();
        let mut from = 0;
        for c in marked.chars() {
            if c == mark {
                ranges.push(from..plain.len());
                from = plain.len();
            } else {
                plain.push(c);
            }
        }
        ranges.push(from..plain.len());
        (plain == self.text).then_some(ranges)
    }

    /// The rendering with changed strings. Marks that were written as escapes are marks again.
    fn marked(&self, change: &dyn Fn(&str) -> Option<String>, marks: &[char]) -> Option<String> {
        let mut text = (self.render)(&changed(self.context, change)?)?;
        for &mark in marks {
            for escaped in escapes(mark) {
                if text.contains(&escaped) && !self.text.contains(&escaped) {
                    text = text.replace(&escaped, mark.encode_utf8(&mut [0; 4]));
                }
            }
        }
        Some(text)
    }

    /// Last resort: only control tokens whose text occurs in no string and that no string could be a part of, in
    /// any case of letters.
    fn cautious(&self, tokenizer: &Tokenizer) -> Vec<Range<usize>> {
        let mut strings: Vec<String> = Vec::new();
        each(self.context, &mut |text| strings.push(text.to_lowercase()));
        let mut ranges = tokenizer.control_ranges(self.text).unwrap_or_default();
        ranges.retain(|range| {
            let control = self.text[range.clone()].to_lowercase();
            let word = |s: &str| s.chars().all(|c| c.is_alphanumeric() || c == '_');
            let part = |s: &str| overlaps(s, &control) || !word(s) && control.contains(s);
            !strings
                .iter()
                .any(|s| s.contains(&control) || part(core(s).1))
        });
        ranges
    }
}

/// Private-use characters that occur in none of the texts and nowhere in a context.
pub(super) fn free_marks<const N: usize>(texts: &[&str], context: &Value) -> [char; N] {
    let mut used = std::collections::BTreeSet::new();
    let private = |c: &char| ('\u{F0000}'..='\u{FFFFD}').contains(c);
    let mut look = |text: &str| used.extend(text.chars().filter(private));
    texts.iter().for_each(|t| look(t));
    each(context, &mut look);
    let mut free = ('\u{F0000}'..='\u{FFFFD}').filter(|c| !used.contains(c));
    // Texts are far shorter than the private-use plane times four bytes; if an adversary
    // fills it nevertheless, equal marks make every check fail and `cautious` decides.
    std::array::from_fn(|_| free.next().unwrap_or('\u{FFFFD}'))
}

/// A private character beyond the basic plane as Python escapes it, in JSON and in what it shows of texts.
fn escapes(c: char) -> [String; 2] {
    let mut units = [0; 2];
    let units = c.encode_utf16(&mut units);
    let json = units.iter().map(|u| format!("\\u{u:04x}")).collect();
    [json, format!("\\U{:08x}", u32::from(c))]
}

/// Whether a string carries no marks.
fn is_word(text: &str) -> bool {
    WORDS.contains(&text)
}

/// What a request may put into a context; other names are switches, whose values are words.
const FOREIGN: [&str; 3] = ["messages", "tools", "documents"];

/// All foreign strings and keys of a context.
fn each(context: &Value, see: &mut dyn FnMut(&str)) {
    FOREIGN.iter().for_each(|name| each_in(&context[name], see));
}

/// The context with all foreign strings and keys changed.
fn changed(context: &Value, change: &dyn Fn(&str) -> Option<String>) -> Option<Value> {
    let mut out = context.clone();
    for name in FOREIGN {
        if let Some(value) = out.get_mut(name) {
            *value = changed_in(value, change)?;
        }
    }
    Some(out)
}

fn each_in(value: &Value, see: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) if !is_word(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| each_in(item, see)),
        Value::Object(map) => {
            for (key, value) in map {
                if !is_word(key) {
                    see(key);
                }
                if !is_role(key, value) {
                    each_in(value, see);
                }
            }
        }
        _ => {}
    }
}

fn changed_in(value: &Value, change: &dyn Fn(&str) -> Option<String>) -> Option<Value> {
    Some(match value {
        Value::String(text) if !is_word(text) => Value::String(change(text)?),
        Value::Array(items) => {
            let items = items.iter().map(|item| changed_in(item, change));
            Value::Array(items.collect::<Option<_>>()?)
        }
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                let new = match is_word(key) {
                    true => key.clone(),
                    false => change(key)?,
                };
                let value = match is_role(key, value) {
                    true => value.clone(),
                    false => changed_in(value, change)?,
                };
                out.insert(new, value);
            }
            Value::Object(out)
        }
        other => other.clone(),
    })
}

/// Whether a value is a role: a name that templates put into their own control texts.
fn is_role(key: &str, value: &Value) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    key == "role" && value.as_str().is_some_and(|role| role.bytes().all(plain))
}

/// A text as (white space, core, white space): templates often trim.
fn core(text: &str) -> (&str, &str, &str) {
    let tail = text.trim_start();
    let middle = tail.trim_end();
    (
        &text[..text.len() - tail.len()],
        middle,
        &tail[middle.len()..],
    )
}

/// Puts marks into a text until it holds no control text. `None` if that takes long.
fn break_up(tokenizer: &Tokenizer, content: &str, mark: char, edges: bool) -> Option<String> {
    let mut text = match core(content) {
        (before, core, after) if edges && !core.is_empty() => {
            format!("{before}{mark}{core}{mark}{after}")
        }
        _ => content.to_owned(),
    };
    // Texts of control tokens may overlap; each round ends at least the leftmost ones.
    for _ in 0..16 {
        let found = tokenizer.control_ranges(&text).ok()?;
        if found.is_empty() {
            return Some(text);
        }
        let mut next = String::with_capacity(text.len() + 4 * found.len());
        let mut from = 0;
        for range in found {
            let first = text[range.clone()].chars().next().map_or(0, char::len_utf8);
            if first == range.len() {
                // A control token of one character cannot be broken.
                return None;
            }
            next.push_str(&text[from..range.start + first]);
            next.push(mark);
            from = range.start + first;
        }
        next.push_str(&text[from..]);
        text = next;
    }
    None
}

/// The texts of all control tokens, in small letters.
struct Controls(Vec<String>);

impl Controls {
    fn of(tokenizer: &Tokenizer) -> Controls {
        let vocab = tokenizer.vocab();
        let controls = vocab.iter().filter(|(id, ..)| tokenizer.is_control(*id));
        Controls(controls.map(|(_, text, _)| text.to_lowercase()).collect())
    }

    /// Whether a text may be a part of a control text, together with what stands around it.
    fn may_hold(&self, text: &str) -> bool {
        let text = core(text).1.to_lowercase();
        let part = |control: &String| control.contains(&text) || overlaps(&text, control);
        !text.is_empty() && self.0.iter().any(part)
    }
}

/// Whether `text` ends with the beginning of `control`, or begins with its end.
fn overlaps(text: &str, control: &str) -> bool {
    let inner = || (1..control.len()).filter(|&at| control.is_char_boundary(at));
    inner().any(|at| text.ends_with(&control[..at]) || text.starts_with(&control[at..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_plain() {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        assert!(WORDS.iter().all(|w| w.chars().all(plain)));
    }

    #[test]
    fn every_string_but_words_is_changed() {
        let context = json!({
            "messages": [{"role": "user", "content": "a", "name": "b"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"k": {"enum": ["e", 1]}}, "required": ["k"]}}}],
            "documents": [{"x<": null}],
            "enable_thinking": "yes",
        });
        let mut seen = Vec::new();
        each(&context, &mut |text| seen.push(text.to_owned()));
        assert_eq!(seen, ["a", "b", "f", "k", "e", "k", "x<"]);
        let marked = changed(&context, &|text| Some(format!("+{text}"))).expect("all");
        assert_eq!(
            marked,
            json!({
                "messages": [{"role": "user", "content": "+a", "name": "+b"}],
                "tools": [{"type": "function", "function": {"name": "+f", "parameters": {"properties": {"+k": {"enum": ["+e", 1]}}, "required": ["+k"]}}}],
                "documents": [{"+x<": null}],
                "enable_thinking": "yes",
            })
        );
        // A role that is more than a word is a string as any other.
        let role = json!({"messages": [{"role": "<|x|>"}]});
        assert_eq!(changed(&role, &|_| None), None);
    }

    #[test]
    fn overlaps_are_seen() {
        assert!(overlaps("ax<|eot", "<|eot_id|>"));
        assert!(overlaps("_id|> b", "<|eot_id|>"));
        assert!(!overlaps("eot", "<|eot_id|>"));
        assert_eq!(escapes('\u{F0000}'), ["\\udb80\\udc00", "\\U000f0000"]);
    }
}
