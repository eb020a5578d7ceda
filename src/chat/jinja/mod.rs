//! Jinja as Python runs it: templates written for Hugging Face's `apply_chat_template` see Python's
//! values (tuples, integers and floats apart, how things print), jinja2's filters, tests and scopes,
//! and the sandbox that library puts around them.
//!
//! `lexer` and `parser` make the tree of `ast`; `vm` runs it; `value` and `print` are Python's values
//! and their texts; `ops` are operators, `strings`, `format` and `containers` methods, `filters` and
//! `sequences` filters, `tests` tests, `objects` loops, macros and functions. What jinja2 knows and
//! this does not is refused by its name.
//!
//! A template is foreign code: steps, work, memory, nesting and output are counted against
//! `limits`, nothing it makes can be changed, and there is nothing it could load.

mod args;
mod ast;
mod chars;
mod containers;
mod filters;
mod format;
mod lexer;
mod objects;
mod ops;
mod parser;
mod print;
mod sequences;
mod strings;
mod tests;
mod value;
mod vm;
mod wrap;

use std::sync::Arc;

/// Why a template could not be read or rendered.
#[derive(Debug)]
pub(super) struct Fail {
    message: String,
    line: Option<u32>,
    /// Whether a budget is used up: trying again would take as long.
    pub exhausted: bool,
}

impl Fail {
    fn syntax(message: impl Into<String>, line: u32) -> Fail {
        Fail {
            message: message.into(),
            line: Some(line),
            exhausted: false,
        }
    }

    /// With the line, if it has none yet.
    fn at(self, line: u32) -> Fail {
        Fail {
            line: self.line.or(Some(line)),
            ..self
        }
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match self.line {
            Some(line) => write!(f, " (in chat:{line})"),
            None => Ok(()),
        }
    }
}

fn fail<T>(message: impl Into<String>) -> Result<T, Fail> {
    Err(Fail {
        message: message.into(),
        line: None,
        exhausted: false,
    })
}

/// The end of a budget.
fn exhausted<T>(message: impl Into<String>) -> Result<T, Fail> {
    Err(Fail {
        message: message.into(),
        line: None,
        exhausted: true,
    })
}

/// The beginning of a foreign text, for messages.
fn cut(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A template that has been read.
#[derive(Debug)]
pub(super) struct Template(ast::Body);

impl Template {
    /// Reads a source.
    pub fn new(source: &str) -> Result<Template, Fail> {
        Ok(Template(parser::parse(source)?))
    }

    /// Renders with the names of `defaults` and, before them, those of the object `context`.
    pub fn render(
        &self,
        defaults: &[(String, serde_json::Value)],
        context: &serde_json::Value,
    ) -> Result<String, Fail> {
        let mut globals: Vec<(Arc<str>, value::Value)> = Vec::new();
        for (name, json) in context.as_object().into_iter().flatten() {
            globals.push((name.as_str().into(), value::Value::from_json(json)?));
        }
        for (name, json) in defaults {
            globals.push((name.as_str().into(), value::Value::from_json(json)?));
        }
        vm::render(&self.0, &globals)
    }
}
