//! What a grammar is made from.

use geb::constraint::for_grammar;
use geb::error::{Error, Result};
use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

/// What a grammar is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Any JSON object.
    Json,
    /// JSON of a schema.
    Schema {
        /// The schema.
        schema: Value,
        /// What cannot be enforced is an error; else it is told, and left.
        strict: bool,
    },
    /// A text that a regular expression describes as a whole.
    Regex(String),
    /// A text of a grammar in llguidance's form of Lark.
    Lark(String),
}

/// Longest form.
const MOST_BYTES: usize = 64 << 10;
/// Bytes of a message that are told.
const TOLD: usize = 300;

impl Source {
    /// Refuses what is too long, or no whole expression.
    pub(crate) fn check(&self) -> Result<()> {
        let bytes = self.key().len();
        if bytes > MOST_BYTES {
            let why = format!("a form of {bytes} bytes, allowed: at most {MOST_BYTES}");
            return Err(Error::Constraint(why));
        }
        match self {
            // Behind it an end would be read that is none.
            Source::Regex(text)
                if text.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1 =>
            {
                let why = "a regular expression ends in a backslash, allowed: an escape behind it";
                Err(Error::Constraint(why.into()))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that only equal sources share.
    pub(crate) fn key(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Source::Json => ("json", String::new()),
            Source::Schema { schema, strict } if *strict => ("strict", schema.to_string()),
            Source::Schema { schema, .. } => ("schema", schema.to_string()),
            Source::Regex(text) => ("regex", text.clone()),
            Source::Lark(text) => ("lark", text.clone()),
        };
        format!("{kind}\0{text}").into_bytes()
    }

    pub(crate) fn grammar(&self) -> Result<TopLevelGrammar> {
        Ok(match self {
            Source::Json => {
                let any = Map::from_iter([("type".to_owned(), json!("object"))]);
                TopLevelGrammar::from_json_schema(for_grammar(&any, true))
            }
            Source::Schema { schema, strict } => match schema {
                Value::Object(map) => TopLevelGrammar::from_json_schema(for_grammar(map, !strict)),
                Value::Bool(true) => {
                    TopLevelGrammar::from_json_schema(for_grammar(&Map::new(), !strict))
                }
                _ => {
                    let why = format!("a schema is {schema}, allowed: an object, or true");
                    return Err(Error::Constraint(said(&why)));
                }
            },
            Source::Regex(text) => TopLevelGrammar::from_regex(text),
            Source::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        })
    }
}

/// What llguidance says, on one line of bounded length.
pub(crate) fn said(why: &str) -> String {
    let why = why.replace("<non-verbose/>", "");
    let line = why.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
