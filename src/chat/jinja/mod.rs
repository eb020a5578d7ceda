//! Jinja as Python runs it: templates written for Hugging Face's `apply_chat_template` see Python's
//! values (tuples, integers and floats apart, how things print), jinja2's filters, tests and scopes,
//! and the sandbox that library puts around them.
//!
//! `lexer` and `parser` make the tree of `ast`; `vm` runs it and keeps its `state`; `value`, `walk` and
//! `print` are Python's values, their elements and order, and their texts; `ops` are operators, `strings`, `format` and `containers` methods, `filters` and
//! `sequences` filters, `tests` tests, `objects` loops, macros and functions. What jinja2 knows and
//! this does not is refused by its name.
//!
//! A template is foreign code: steps, work, memory, nesting and output are counted against
//! `limits`, nothing it makes can be changed, and there is nothing it could load.

mod args;
mod ast;
mod chars;
mod containers;
mod fail;
mod filters;
mod format;
mod lexer;
mod objects;
mod ops;
mod parser;
mod print;
mod sequences;
mod state;
mod strings;
mod tests;
mod value;
mod vm;
mod walk;
mod wrap;

use std::sync::Arc;

pub(super) use fail::Fail;
use fail::{cut, exhausted, fail};

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
