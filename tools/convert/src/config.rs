//! Reading `config.json`. The names of one fact are looked for together, and names that contradict each
//! other are an error. What was asked for is remembered, so that a key which nobody read, and which is not
//! known to be harmless, is an error too: it may change what the model computes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::folder::{Fields, bad, short};
use super::known::{self, TEXT_MODELS, TEXT_TYPES};
use geb::error::{Error, Result};

pub(super) const FILE: &str = "config.json";

/// One object of a configuration.
pub struct Config<'a> {
    /// File that the object is from, for messages.
    pub file: &'a str,
    /// The object.
    pub value: &'a Value,
    /// What names of keys begin with in messages: `rope_parameters.`
    path: String,
    seen: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Config<'a> {
    /// The object `value` of a file; `path` leads to it.
    pub fn new(file: &'a str, value: &'a Value, path: impl Into<String>) -> Config<'a> {
        Config {
            file,
            value,
            path: path.into(),
            seen: RefCell::default(),
        }
    }

    fn fields(&self) -> Fields<'a> {
        Fields {
            file: self.file,
            value: self.value,
        }
    }

    /// An error about one of the keys.
    pub fn bad(&self, name: &str, value: impl ToString, allowed: impl Into<String>) -> Error {
        bad(self.file, self.name(name), value, allowed)
    }

    /// Whether a key was asked for.
    pub fn was_read(&self, name: &str) -> bool {
        self.seen.borrow().contains(name)
    }

    /// Takes keys as read.
    pub fn note(&self, names: &[&'static str]) {
        self.seen.borrow_mut().extend(names);
    }

    /// The full name of a key, for messages.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The first of `names` that is there and not null.
    pub fn get(&self, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        self.note(names);
        self.fields().get(names)
    }

    /// The value that is there under one of `names` or under several.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for two different values, naming both keys.
    pub fn one(&self, names: &[&'static str]) -> Result<Option<(&'static str, &'a Value)>> {
        let Some((name, value)) = self.get(names) else {
            return Ok(None);
        };
        for &other in names {
            let second = self.value.get(other).filter(|v| !v.is_null());
            if let Some(second) = second.filter(|v| !known::equal(value, v)) {
                let names = [self.name(name), self.name(other)];
                return Err(contradiction(&names, value, second));
            }
        }
        Ok(Some((name, value)))
    }

    /// An unsigned integer in `range`.
    pub fn uint(&self, names: &[&'static str], range: RangeInclusive<u64>) -> Result<Option<u64>> {
        self.one(names)?;
        self.fields().uint(names, range).map_err(self.within())
    }

    /// A required unsigned integer.
    pub fn need_uint(&self, names: &[&'static str], range: RangeInclusive<u64>) -> Result<u64> {
        let found = self.uint(names, range)?;
        found.ok_or_else(|| self.bad(names[0], "absent", "an integer"))
    }

    /// A finite number in `range`.
    pub fn float(&self, names: &[&'static str], range: RangeInclusive<f64>) -> Result<Option<f64>> {
        self.one(names)?;
        self.fields().float(names, range).map_err(self.within())
    }

    /// A bool.
    pub fn bool(&self, name: &'static str) -> Result<Option<bool>> {
        self.note(&[name]);
        self.fields().bool(name).map_err(self.within())
    }

    /// A string.
    pub fn str(&self, names: &[&'static str]) -> Result<Option<&'a str>> {
        self.one(names)?;
        self.fields().str(names).map_err(self.within())
    }

    /// Completes the name of the key in an error.
    fn within(&self) -> impl Fn(Error) -> Error {
        let path = self.path.clone();
        move |error| match error {
            Error::Checkpoint {
                file,
                field,
                value,
                allowed,
            } => Error::Checkpoint {
                file,
                field: format!("{path}{field}"),
                value,
                allowed,
            },
            other => other,
        }
    }

    /// Refuses what nobody has read and may matter to `graph`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the key.
    pub fn check_unread(&self, graph: &str) -> Result<()> {
        let seen = self.seen.borrow();
        let all = self.value.as_object().into_iter().flatten();
        for (name, value) in all.filter(|(name, _)| !seen.contains(name.as_str())) {
            if known::harmless(name, value) {
                continue;
            }
            let allowed = match known::fixed(name) {
                Some(values) => values.join(" or "),
                None => format!(
                    "absent: nothing of {graph} reads this key, and it may change the result \
                     (remove it from the file if it does not)"
                ),
            };
            let name: String = name.chars().take(80).collect();
            return Err(self.bad(&name, short(value), allowed));
        }
        Ok(())
    }
}

/// Two keys for one fact with different values.
pub(super) fn contradiction(names: &[String; 2], first: &Value, second: &Value) -> Error {
    let [a, b] = names;
    let value = format!("{}, but {b} is {}", short(first), short(second));
    bad(FILE, a, value, "one value under both names")
}

/// The configuration of the text model: of a model for several kinds of input that is an object inside, in
/// which the reference library leaves out what is as usual. Token ids of the outer one hold.
///
/// # Errors
/// [`Error::Checkpoint`] when the kind of text model is not known.
pub(super) fn text_model(config: &Value) -> Result<(Value, bool)> {
    let outer = Config::new(FILE, config, "");
    let nested = |n: &&'static str| Some((*n, config.get(n).filter(|v| v.is_object())?));
    let Some((name, inner)) = TEXT_MODELS.iter().find_map(nested) else {
        return Ok((config.clone(), false));
    };
    let mut text = inner.clone();
    let class = inner.get("architectures").and_then(|a| a.get(0));
    if class.is_none() && inner.get("model_type").is_none_or(Value::is_null) {
        let outer = outer.str(&["model_type"])?.unwrap_or("absent");
        let usual = TEXT_TYPES.iter().find(|t| t.0 == outer);
        let Some((_, kind)) = usual else {
            let allowed = format!("the kind of text model in {outer}");
            return Err(bad(FILE, format!("{name}.model_type"), "absent", allowed));
        };
        text["model_type"] = Value::from(*kind);
    }
    for (key, value) in config.as_object().into_iter().flatten() {
        let there = inner.get(key).filter(|v| !v.is_null());
        let shapes = known::OUTSIDE.contains(&key.as_str()) && !value.is_null();
        if let Some(there) = there.filter(|v| shapes && !known::equal(v, value)) {
            let names = [format!("{name}.{key}"), key.clone()];
            return Err(contradiction(&names, there, value));
        }
        let id = key.ends_with("_token_id") && !value.is_null();
        let also = ["tie_word_embeddings", "quantization_config"].contains(&key.as_str());
        if id || (inner.get(key).is_none() && (also || shapes)) {
            text[key] = value.clone();
        }
    }
    Ok((text, true))
}
