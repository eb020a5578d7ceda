//! Calls in a notation that is read when it is whole: Python's, and that of Gemma 4.

use serde_json::{Map, Value};

use super::happening::{Happening, Look, Next};
use super::tool::is_name;
use crate::limits;

/// A call: name and arguments.
type Call = (String, Map<String, Value>);

/// A notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    /// `[name(key="text", other=[1, True, None])]`
    Python,
    /// `call:name{key:<|"|>text<|"|>,other:[1,true]}`
    Gemma,
}

/// Reads everything up to a closing text.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    notation: Notation,
    close: &'static str,
    /// Bytes that hold no closing.
    looked: usize,
}

impl Noted {
    pub fn new(notation: Notation, close: &'static str) -> Noted {
        Noted {
            notation,
            close,
            looked: 0,
        }
    }

    /// Takes all of it, or nothing yet.
    pub fn step(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        let looked = &look.text[self.looked..];
        let found = looked.find(self.close).filter(|_| !self.close.is_empty());
        let (end, taken) = match found {
            Some(at) => (self.looked + at, self.looked + at + self.close.len()),
            None if look.end => (look.text.len(), look.text.len()),
            None => {
                let mut looked = (look.text.len() + 1).saturating_sub(self.close.len());
                while !look.text.is_char_boundary(looked) {
                    looked -= 1;
                }
                self.looked = self.looked.max(looked);
                return Next::Wait;
            }
        };
        let text = &look.text[..end];
        let calls = match self.notation {
            Notation::Python => Reader::python(text),
            Notation::Gemma => Reader::gemma(text),
        };
        match calls {
            Some(calls) if !calls.is_empty() => {
                for (name, arguments) in calls {
                    // Llama's way to name the methods of its built-in tools.
                    let name = name.strip_suffix(".call").unwrap_or(&name);
                    out.push(Happening::Name(name.to_owned()));
                    out.push(Happening::Arguments(Value::Object(arguments).to_string()));
                    out.push(Happening::End);
                }
                Next::Over(taken)
            }
            _ => Next::Bad,
        }
    }
}

/// The value that a text is as a literal of Python: how some templates print lists and objects.
pub(super) fn python_value(text: &str) -> Option<Value> {
    let mut reader = Reader::new(text, Notation::Python);
    let value = reader.value()?;
    reader.ended().then_some(value)
}

/// Reads a notation from the front; `None` where it is none.
struct Reader<'t> {
    rest: &'t str,
    notation: Notation,
    depth: usize,
}

const GEMMA_QUOTE: &str = "<|\"|>";

impl<'t> Reader<'t> {
    fn new(text: &'t str, notation: Notation) -> Self {
        Reader {
            rest: text,
            notation,
            depth: 0,
        }
    }

    fn python(text: &str) -> Option<Vec<Call>> {
        let mut r = Reader::new(text, Notation::Python);
        let list = r.take("[");
        let mut calls = Vec::new();
        loop {
            if list && r.take("]") {
                break;
            }
            let name = r.until('(')?;
            calls.push((name, r.pairs("=", ")")?));
            match list {
                true if r.take(",") => {}
                true if r.take("]") => break,
                true => return None,
                false => break,
            }
        }
        r.ended().then_some(calls)
    }

    fn gemma(text: &str) -> Option<Vec<Call>> {
        let mut r = Reader::new(text, Notation::Gemma);
        if !r.take("call:") {
            return None;
        }
        let name = r.until('{')?;
        let arguments = r.pairs(":", "}")?;
        r.ended().then(|| vec![(name, arguments)])
    }

    fn ended(&mut self) -> bool {
        self.rest.trim_start().is_empty()
    }

    /// Takes a text, behind white space, if it comes.
    fn take(&mut self, wanted: &str) -> bool {
        match self.rest.trim_start().strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A name and the character behind it.
    fn until(&mut self, end: char) -> Option<String> {
        let (name, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        let name = name.trim();
        is_name(name).then(|| name.to_owned())
    }

    /// `key SEPARATOR value, …` up to `close`.
    fn pairs(&mut self, separator: &str, close: &str) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        while !self.take(close) {
            let key = match self.quote() {
                Some(quote) => self.text(quote)?,
                None => {
                    let (key, _) = self.rest.split_once(separator)?;
                    let (key, skipped) = (key.trim().to_owned(), key.len());
                    self.rest = &self.rest[skipped..];
                    key
                }
            };
            if key.is_empty() || !self.take(separator) {
                return None;
            }
            let value = self.value()?;
            map.insert(key, value);
            if !self.take(",") && !self.rest.trim_start().starts_with(close) {
                return None;
            }
        }
        Some(map)
    }

    /// The quote that comes next, taken.
    fn quote(&mut self) -> Option<&'static str> {
        let quotes: &[&'static str] = match self.notation {
            Notation::Python => &["\"\"\"", "'''", "\"", "'"],
            Notation::Gemma => &[GEMMA_QUOTE, "\""],
        };
        quotes.iter().copied().find(|q| self.take(q))
    }

    /// A text up to its quote, which is taken too.
    fn text(&mut self, quote: &str) -> Option<String> {
        if quote == GEMMA_QUOTE {
            let (text, rest) = self.rest.split_once(quote)?;
            self.rest = rest;
            return Some(text.to_owned());
        }
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if let Some(rest) = self.rest[at..].strip_prefix(quote) {
                // Templates and models forget to escape: a quote inside a word is a part of it.
                let next = rest.trim_start().chars().next();
                if next.is_none_or(|c| ",)]}:=".contains(c)) {
                    self.rest = rest;
                    return Some(out);
                }
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (_, escaped) = chars.next()?;
            let digits = match escaped {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            match escaped {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                '0' => out.push('\0'),
                '\n' => {}
                '\\' | '\'' | '"' | '/' => out.push(escaped),
                _ if digits > 0 => {
                    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    let code = u32::from_str_radix(&hex, 16).ok()?;
                    out.push(char::from_u32(code).unwrap_or('\u{FFFD}'));
                }
                // Python keeps what it does not know.
                other => out.extend(['\\', other]),
            }
        }
        None
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > limits::MAX_JSON_DEPTH {
            return None;
        }
        let value = self.any();
        self.depth -= 1;
        value
    }

    fn any(&mut self) -> Option<Value> {
        if let Some(quote) = self.quote() {
            return self.text(quote).map(Value::from);
        }
        if self.take("{") {
            return self.pairs(":", "}").map(Value::Object);
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if !self.take(open) {
                continue;
            }
            let mut items = Vec::new();
            while !self.take(close) {
                items.push(self.value()?);
                if !self.take(",") && !self.rest.trim_start().starts_with(close) {
                    return None;
                }
            }
            return Some(Value::Array(items));
        }
        let text = self.rest.trim_start();
        let ends = |c: char| matches!(c, ',' | ')' | ']' | '}') || c.is_whitespace();
        let word = &text[..text.find(ends).unwrap_or(text.len())];
        self.rest = &text[word.len()..];
        match word {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            word => serde_json::from_str(word).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn calls(found: Option<Vec<Call>>) -> Value {
        found.map_or(Value::Null, |calls| {
            let call = |(name, arguments)| json!([name, arguments]);
            calls.into_iter().map(call).collect()
        })
    }

    #[test]
    fn python_is_read() {
        for (text, wanted) in [
            ("[f()]", json!([["f", {}]])),
            (
                "[f(a=\"x, y)\", b=[1, -2.5, True], c={'k': None}), g(d='it\\'s \\u00e9\\n')]",
                json!([["f", {"a": "x, y)", "b": [1, -2.5, true], "c": {"k": null}}], ["g", {"d": "it's é\n"}]]),
            ),
            ("f.call(a=(1, 2,))", json!([["f.call", {"a": [1, 2]}]])),
            (
                "[f(a=\"\"\"two \"quotes\" 中\"\"\",)]",
                json!([["f", {"a": "two \"quotes\" 中"}]]),
            ),
            (
                "[f(a='it's \"so\"', b=['x'])]",
                json!([["f", {"a": "it's \"so\"", "b": ["x"]}]]),
            ),
            ("[f(a=1]", json!(null)),
            ("[f(1)]", json!(null)),
            ("[f(a=b)]", json!(null)),
            ("[f(a=1)] and more", json!(null)),
            ("[f(a=\"open)]", json!(null)),
            ("", json!(null)),
        ] {
            assert_eq!(calls(Reader::python(text)), wanted, "{text}");
        }
        let deep = format!("f(a={})", "[".repeat(100_000));
        assert_eq!(Reader::python(&deep), None);
    }

    #[test]
    fn gemma_is_read() {
        for (text, wanted) in [
            ("call:f{}", json!([["f", {}]])),
            (
                "call:f{a:<|\"|>x \"y\", {z}<|\"|>,b:[1,<|\"|>c<|\"|>],o:{k:true,<|\"|>q<|\"|>:null}}",
                json!([["f", {"a": "x \"y\", {z}", "b": [1, "c"], "o": {"k": true, "q": null}}]]),
            ),
            ("call:f{a:}", json!(null)),
            ("f{}", json!(null)),
            ("call:f{a:1", json!(null)),
        ] {
            assert_eq!(calls(Reader::gemma(text)), wanted, "{text}");
        }
    }
}
