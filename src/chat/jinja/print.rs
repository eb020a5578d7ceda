//! Values as text: Python's `str`, `repr` and `json.dumps`.

use std::fmt::Write as _;

use super::chars::is_printable;
use super::value::{Text, Value};
use super::vm::Vm;
use super::{Fail, fail};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

/// Digits of a finite float, shortest first, and the power of ten of the first one.
fn shortest(f: f64) -> (String, i32) {
    let text = format!("{:e}", f.abs());
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (digits.replace('.', ""), exponent.parse().unwrap_or(0))
}

/// Python's `repr` of a float.
pub(super) fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".into();
    }
    let sign = if f.is_sign_negative() { "-" } else { "" };
    if f.is_infinite() {
        return format!("{sign}inf");
    }
    let (digits, exponent) = shortest(f);
    if (-4..16).contains(&exponent) {
        // Rust prints the same digits, without an exponent whatever the size.
        let text = f.to_string();
        return if text.contains('.') {
            text
        } else {
            text + ".0"
        };
    }
    let (first, rest) = digits.split_at(1);
    let dot = if rest.is_empty() { "" } else { "." };
    let mark = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{dot}{rest}e{mark}{:02}", exponent.abs())
}

/// Python's `repr` of a text.
pub(super) fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => escape(c, out),
        }
    }
    out.push(mark);
}

/// `\xhh`, `\uhhhh` or `\Uhhhhhhhh`.
pub(super) fn escape(c: char, out: &mut String) {
    let done = match u32::from(c) {
        n @ ..=0xff => write!(out, "\\x{n:02x}"),
        n @ ..=0xffff => write!(out, "\\u{n:04x}"),
        n => write!(out, "\\U{n:08x}"),
    };
    debug_assert!(done.is_ok(), "writing to a string does not fail");
}

/// HTML's five characters as Python's `Markup` writes them.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// Elements between two marks, each by `part`.
fn list(
    out: &mut String,
    marks: (&str, &str),
    n: usize,
    mut part: impl FnMut(usize, &mut String) -> Result<()>,
) -> Result<()> {
    out.push_str(marks.0);
    for i in 0..n {
        out.push_str(if i > 0 { ", " } else { "" });
        part(i, out)?;
    }
    out.push_str(marks.1);
    Ok(())
}

impl Vm<'_> {
    /// Python's `str`, counted.
    pub(super) fn str(&mut self, value: &Value) -> Result<String> {
        let mut out = String::new();
        match value {
            Value::Text(text) => {
                self.memory(text.len())?;
                out.push_str(text);
            }
            Value::Undefined(_) => {}
            other => self.write_repr(other, &mut out, 0)?,
        }
        self.work(out.len())?;
        Ok(out)
    }

    /// As [`Vm::str`], keeping the mark of safe text.
    pub(super) fn soft(&mut self, value: &Value) -> Result<Text> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Ok(Text {
                text: self.str(other)?.into(),
                safe: false,
            }),
        }
    }

    /// Python's `repr`, counted.
    pub(super) fn repr(&mut self, value: &Value) -> Result<String> {
        let mut out = String::new();
        self.write_repr(value, &mut out, 0)?;
        Ok(out)
    }

    fn write_repr(&mut self, value: &Value, out: &mut String, depth: usize) -> Result<()> {
        let before = out.len();
        self.work(256)?;
        if out.len() > limits::MAX_RENDERED_BYTES || depth > limits::MAX_TEMPLATE_DEPTH + 8 {
            return fail("a value is too large to be printed");
        }
        match value {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
            Value::Int(i) => drop(write!(out, "{i}")),
            Value::Float(f) => out.push_str(&float(*f)),
            Value::Text(text) if text.safe => {
                out.push_str("Markup(");
                quote(text, out);
                out.push(')');
            }
            Value::Text(text) => quote(text, out),
            Value::List(items) => self.write_items(&items.items, ("[", "]"), out, depth)?,
            Value::Tuple(items) | Value::Group(items) => {
                let end = if items.items.len() == 1 { ",)" } else { ")" };
                self.write_items(&items.items, ("(", end), out, depth)?;
            }
            Value::Dict(dict) => list(out, ("{", "}"), dict.entries.len(), |i, out| {
                let (key, value) = &dict.entries[i];
                self.write_repr(key, out, depth + 1)?;
                out.push_str(": ");
                self.write_repr(value, out, depth + 1)
            })?,
            Value::View(..) => {
                out.push_str(value.type_name());
                let items = value.elements(self)?;
                self.write_items(&items, ("([", "])"), out, depth)?;
            }
            Value::Range(range) => {
                let [first, end, step] = **range;
                let _ = write!(out, "range({first}, {end}");
                out.push_str(&if step == 1 {
                    ")".into()
                } else {
                    format!(", {step})")
                });
            }
            Value::Namespace(id) => {
                out.push_str("<Namespace ");
                let all = Value::Dict(self.namespace_dict(*id)?);
                self.write_repr(&all, out, depth + 1)?;
                out.push('>');
            }
            Value::Macro(m, _) => match &m.name {
                Some(name) => {
                    out.push_str("<Macro ");
                    quote(name, out);
                    out.push('>');
                }
                None => out.push_str("<Macro anonymous>"),
            },
            Value::Loop(id) => {
                let (index, length) = self.loop_place(*id)?;
                let _ = write!(out, "<LoopContext {index}/{length}>");
            }
            other => {
                let name = other.type_name();
                return fail(format!("a value of type {name} has no text of its own"));
            }
        }
        self.memory(out.len().saturating_sub(before).min(4096))
    }

    fn write_items(
        &mut self,
        items: &[Value],
        marks: (&str, &str),
        out: &mut String,
        depth: usize,
    ) -> Result<()> {
        list(out, marks, items.len(), |i, out| {
            self.write_repr(&items[i], out, depth + 1)
        })
    }
}

/// How `tojson` writes.
#[derive(Debug)]
pub(super) struct Json {
    pub item: String,
    pub key: String,
    pub indent: Option<String>,
    pub ascii: bool,
    pub sort: bool,
}

impl Json {
    /// Appends a value as Python's `json.dumps` does.
    pub fn write(&self, vm: &mut Vm, value: &Value, out: &mut String, depth: usize) -> Result<()> {
        let before = out.len();
        vm.work(256)?;
        if depth > limits::MAX_TEMPLATE_DEPTH + 8 || out.len() > limits::MAX_RENDERED_BYTES {
            return fail("a value is too large for tojson");
        }
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Int(i) => drop(write!(out, "{i}")),
            Value::Float(f) => out.push_str(&json_float(*f)),
            Value::Text(text) => self.string(text, out),
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
                if self.sort {
                    vm.sort_by_keys(&mut entries)?;
                }
                self.list(('{', '}'), entries.len(), depth, out, |i, out| {
                    let (key, value) = entries[i];
                    self.string(&json_key(key)?, out);
                    out.push_str(&self.key);
                    self.write(vm, value, out, depth + 1)
                })?;
            }
            other => match other.as_items() {
                Some(items) => self.list(('[', ']'), items.len(), depth, out, |i, out| {
                    self.write(vm, &items[i], out, depth + 1)
                })?,
                None => {
                    let name = other.type_name();
                    return fail(format!("Object of type {name} is not JSON serializable"));
                }
            },
        }
        let made = out.len().saturating_sub(before);
        vm.memory(made.min(4096))
    }

    fn list(
        &self,
        (open, close): (char, char),
        n: usize,
        depth: usize,
        out: &mut String,
        mut part: impl FnMut(usize, &mut String) -> Result<()>,
    ) -> Result<()> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        for i in 0..n {
            out.push_str(if i > 0 { &self.item } else { "" });
            line(out, depth + 1);
            part(i, out)?;
        }
        if n > 0 {
            line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || self.ascii && (!c.is_ascii() || c == '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_float(f: f64) -> String {
    if f.is_nan() {
        "NaN".into()
    } else if f.is_infinite() {
        if f > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        float(f)
    }
}

fn json_key(key: &Value) -> Result<String> {
    Ok(match key {
        Value::Text(text) => text.to_string(),
        Value::None => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => json_float(*f),
        other => {
            let name = other.type_name();
            return fail(format!(
                "keys must be str, int, float, bool or None, not {name}"
            ));
        }
    })
}
