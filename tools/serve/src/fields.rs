//! A JSON object whose fields are read one by one: what is malformed is refused by its name, and what nobody has
//! read is named at the end.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

/// The fields of an object.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Where the object is: `messages[2].`, or nothing.
    at: String,
    /// Of a body that is read while its task waits for a model.
    read: Mutex<HashSet<&'a str>>,
}

impl<'a> Fields<'a> {
    /// Those of a body.
    pub fn of(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            at: String::new(),
            read: Mutex::default(),
        }
    }

    /// Those of a value inside a body, which `at` names.
    ///
    /// # Errors
    /// For something else than an object.
    pub fn inside(value: &'a Value, at: &str) -> Result<Self> {
        let map = value.as_object();
        let map = map.ok_or_else(|| ApiError::wrong(at, value, "an object"))?;
        Ok(Self {
            at: format!("{at}."),
            ..Self::of(map)
        })
    }

    fn seen(&self) -> MutexGuard<'_, HashSet<&'a str>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A field with its place.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.at)
    }

    /// A value that is there and not null.
    pub fn value(&self, key: &'a str) -> Option<&'a Value> {
        self.seen().insert(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The value, read by `f`; none of it: refused with what is allowed.
    fn read<T>(
        &self,
        key: &'a str,
        allowed: &str,
        f: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match f(value) {
            Some(found) => Ok(Some(found)),
            None => Err(ApiError::wrong(&self.name(key), value, allowed)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// For a value of another type, as all of these.
    pub fn text(&self, key: &'a str) -> Result<Option<&'a str>> {
        self.read(key, "a text", Value::as_str)
    }

    /// True or false.
    ///
    /// # Errors
    /// For a value of another type.
    pub fn flag(&self, key: &'a str) -> Result<Option<bool>> {
        self.read(key, "true, false", Value::as_bool)
    }

    /// A number in a range, as a sampler takes it.
    ///
    /// # Errors
    /// For a value of another type or out of the range.
    pub fn real(&self, key: &'a str, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        let allowed = format!("{} to {}", range.start(), range.end());
        let real = |v: &Value| v.as_f64().map(|n| n as f32);
        self.read(key, &allowed, |v| real(v).filter(|n| range.contains(n)))
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// For a value of another type or out of the range.
    pub fn count(&self, key: &'a str, range: RangeInclusive<u64>) -> Result<Option<usize>> {
        let allowed = format!("a whole number, {} to {}", range.start(), range.end());
        let whole = |v: &Value| {
            // Clients of languages with one type of number send 16.0.
            let float = || {
                v.as_f64()
                    .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
            };
            v.as_u64().or_else(|| float().map(|n| n as u64))
        };
        let n = self.read(key, &allowed, |v| whole(v).filter(|n| range.contains(n)))?;
        Ok(n.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    /// A list.
    ///
    /// # Errors
    /// For a value of another type.
    pub fn list(&self, key: &'a str) -> Result<Option<&'a [Value]>> {
        self.read(key, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    /// An object.
    ///
    /// # Errors
    /// For a value of another type.
    pub fn object(&self, key: &'a str) -> Result<Option<Fields<'a>>> {
        let value = self.value(key);
        value
            .map(|v| Fields::inside(v, &self.name(key)))
            .transpose()
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// If it is not.
    pub fn required<T>(&self, key: &'a str, found: Option<T>) -> Result<T> {
        let name = self.name(key);
        found.ok_or_else(|| ApiError::field(&name, format!("{name} is absent, allowed: required")))
    }

    /// Fields that are known and have no effect here.
    pub fn accept(&self, keys: &[&'a str]) {
        self.seen().extend(keys);
    }

    /// Fields that are known and cannot be had: anything but nothing is refused.
    ///
    /// # Errors
    /// Names the first that asks for something.
    pub fn refuse(&self, keys: &[&'a str], why: &str) -> Result<()> {
        for key in keys {
            let empty = |v: &&Value| {
                !matches!(v, Value::Bool(false)) && v.as_array().is_none_or(|a| !a.is_empty())
            };
            if let Some(value) = self.value(key).filter(empty) {
                return Err(ApiError::wrong(&self.name(key), value, why));
            }
        }
        Ok(())
    }

    /// What nobody has read.
    pub fn unknown(&self) -> Vec<String> {
        let read = self.seen();
        let keys = self
            .map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, _)| k);
        let left = keys.filter(|k| !read.contains(k.as_str()));
        left.map(|k| self.name(k)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_once_and_the_rest_is_named() {
        let body = json!({ "a": 1, "b": 2.0, "c": null, "d": "x", "e": [1], "n": {} });
        let map = body.as_object().unwrap();
        let f = Fields::of(map);
        assert_eq!(f.count("a", 0..=1), Ok(Some(1)));
        assert_eq!(f.count("b", 0..=2), Ok(Some(2)));
        assert_eq!(f.count("c", 0..=2), Ok(None));
        assert_eq!(f.unknown(), ["d", "e", "n"]);
        let error = f.real("a", 2.0..=3.0).unwrap_err();
        assert_eq!(error.message, "a is 1, allowed: 2 to 3");
        assert_eq!(error.param.as_deref(), Some("a"));
        assert!(f.refuse(&["c"], "absent").is_ok());
        assert!(f.refuse(&["e"], "absent").is_err());
        assert_eq!(f.object("n").unwrap().unwrap().name("k"), "n.k");
    }

    #[test]
    fn counts_end_where_their_range_does() {
        for (value, good) in [
            (json!(0), false),
            (json!(1), true),
            (json!(3), true),
            (json!(4), false),
        ] {
            let body = json!({ "n": value });
            let f = Fields::of(body.as_object().unwrap());
            assert_eq!(f.count("n", 1..=3).is_ok(), good, "{value}");
        }
        for bad in [json!(-1), json!(1.5), json!("1"), json!(1e300), json!(true)] {
            let body = json!({ "n": bad });
            let f = Fields::of(body.as_object().unwrap());
            assert!(f.count("n", 0..=9).is_err(), "{bad}");
        }
    }
}
