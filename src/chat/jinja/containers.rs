//! Methods of lists, tuples, dicts and numbers.

use std::rc::Rc;

use super::args::{Given, int, int_or};
use super::print::float;
use super::value::{Dict, Value, View};
use super::vm::Vm;
use super::{Fail, fail};

type Result<T> = std::result::Result<T, Fail>;

/// Whether a value has a method of this name.
pub(super) fn has(value: &Value, name: &str) -> bool {
    let names: &[&str] = match value {
        Value::List(_) => &["count", "index", "copy"],
        Value::Tuple(_) | Value::Group(_) => &["count", "index"],
        Value::Dict(_) => &["get", "items", "keys", "values", "copy", "fromkeys"],
        Value::Int(_) | Value::Bool(_) => {
            &["bit_length", "bit_count", "conjugate", "as_integer_ratio"]
        }
        Value::Float(_) => &["is_integer", "conjugate", "hex", "as_integer_ratio"],
        _ => &[],
    };
    names.contains(&name)
}

/// The places of a slice of `len` elements.
pub(super) fn places(
    len: usize,
    [start, stop, step]: [Option<i64>; 3],
) -> impl Iterator<Item = usize> {
    let (len, step) = (len as i64, step.unwrap_or(1));
    // Where a slice may begin and end, in its direction.
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let from_end = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    let border =
        |at: Option<i64>, default: i64| at.map_or(default, |at| from_end(at).clamp(low, high));
    let (first, end) = if step > 0 {
        (border(start, low), border(stop, high))
    } else {
        (border(start, high), border(stop, low))
    };
    let mut at = first;
    std::iter::from_fn(move || {
        let inside = if step > 0 { at < end } else { at > end };
        let place = usize::try_from(at).ok().filter(|_| inside);
        at = at.saturating_add(step);
        place
    })
}

impl Vm<'_> {
    pub(super) fn container_method(
        &mut self,
        value: &Value,
        name: &str,
        given: Given,
    ) -> Result<Value> {
        match (value, name) {
            (Value::Dict(dict), "get") => {
                let [key, default] = given.bind("get", ["<key>", "<default>"], 1)?;
                let found = dict.get(&key.unwrap_or(Value::None))?.cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            (_, "fromkeys") => self.dict_of_keys(given),
            (Value::Dict(dict), "items" | "keys" | "values" | "copy") => {
                given.none(name)?;
                let view = match name {
                    "items" => View::Items,
                    "keys" => View::Keys,
                    "values" => View::Values,
                    _ => return Ok(value.clone()),
                };
                Ok(Value::View(view, dict.clone()))
            }
            (Value::List(_), "copy") => {
                given.none(name)?;
                let items = value.elements(self)?;
                self.list(items)
            }
            (_, "count") => {
                let [wanted] = given.bind("count", ["<value>"], 1)?;
                let wanted = wanted.unwrap_or(Value::None);
                let mut count = 0;
                for item in value.elements(self)? {
                    count += i128::from(item.same(&wanted) || item.equals(&wanted, self)?);
                }
                Ok(Value::Int(count))
            }
            (_, "index") => self.index(value, given),
            (number, name) => {
                given.none(name)?;
                self.number_method(number, name)
            }
        }
    }

    fn dict_of_keys(&mut self, given: Given) -> Result<Value> {
        let [keys, value] = given.bind("fromkeys", ["<keys>", "<value>"], 1)?;
        let value = value.unwrap_or(Value::None);
        let keys = keys.unwrap_or(Value::None).elements(self)?;
        let dict = Dict::new(keys.into_iter().map(|k| (k, value.clone())))?;
        Ok(Value::Dict(Rc::new(dict)))
    }

    fn index(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [wanted, start, stop] = given.bind("index", ["<value>", "<start>", "<stop>"], 1)?;
        let wanted = wanted.unwrap_or(Value::None);
        let items = value.elements(self)?;
        let start = Some(int_or("index", &start, 0)?);
        let stop = stop.as_ref().map(|s| int("index", s)).transpose()?;
        for i in places(items.len(), [start, stop, None]) {
            if items[i].same(&wanted) || items[i].equals(&wanted, self)? {
                return Ok(Value::Int(i as i128));
            }
        }
        fail("the value that index looks for is not there")
    }

    fn number_method(&mut self, number: &Value, name: &str) -> Result<Value> {
        match (number, name) {
            (_, "conjugate") => self.plus(number),
            (Value::Float(f), "is_integer") => Ok(Value::Bool(f.is_finite() && f.fract() == 0.0)),
            (Value::Float(f), "as_integer_ratio") => ratio(*f),
            (Value::Float(f), name) => {
                let f = float(*f);
                fail(format!(
                    "`{name}` of {f} is not available in chat templates"
                ))
            }
            (other, name) => {
                let magnitude = other.as_int().unwrap_or(0).unsigned_abs();
                match name {
                    "bit_length" => Ok(Value::Int((128 - magnitude.leading_zeros()).into())),
                    "bit_count" => Ok(Value::Int(magnitude.count_ones().into())),
                    "as_integer_ratio" => Value::tuple(vec![self.plus(other)?, Value::Int(1)]),
                    _ => fail(format!("`{name}` is not available in chat templates")),
                }
            }
        }
    }
}

/// Numerator and denominator of a float.
fn ratio(f: f64) -> Result<Value> {
    let (mut top, mut bottom) = (f, 1i128);
    while top.is_finite() && top.fract() != 0.0 && bottom < 1 << 100 {
        (top, bottom) = (top * 2.0, bottom * 2);
    }
    match super::value::exact_int(top) {
        Some(top) => Value::tuple(vec![Value::Int(top), Value::Int(bottom)]),
        None => fail("the float has no ratio of integers of 127 bits"),
    }
}
