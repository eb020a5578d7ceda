//! What is inside values, and how they compare: counted, as values may be large.

use std::cmp::Ordering;
use std::rc::Rc;

use super::value::{Text, Value, View, range_len};
use super::vm::Vm;
use super::{Fail, fail};

type Result<T> = std::result::Result<T, Fail>;

/// A pair as a tuple.
fn pair(key: &Value, value: &Value) -> Result<Value> {
    Value::tuple(vec![key.clone(), value.clone()])
}

impl Value {
    /// The elements a loop would see. Generators are used up.
    pub fn elements(&self, vm: &mut Vm) -> Result<Vec<Value>> {
        let bytes = match self {
            Value::Text(text) => 2 * text.len(),
            Value::Iter(items) => items.borrow().len(),
            other => other.len().unwrap_or(0),
        };
        vm.memory(bytes.saturating_mul(size_of::<Value>()))?;
        vm.work(bytes.saturating_mul(16))?;
        Ok(match self {
            Value::Undefined(_) => Vec::new(),
            Value::Text(text) => {
                let one = |c: char| {
                    let text = c.encode_utf8(&mut [0; 4]).into();
                    Value::Text(Text {
                        text,
                        safe: text_is_safe(self),
                    })
                };
                text.chars().map(one).collect()
            }
            Value::List(items) | Value::Tuple(items) | Value::Group(items) => items.items.clone(),
            Value::Dict(dict) | Value::View(View::Keys, dict) => {
                dict.entries.iter().map(|e| e.0.clone()).collect()
            }
            Value::View(View::Values, dict) => dict.entries.iter().map(|e| e.1.clone()).collect(),
            Value::View(View::Items, dict) => dict
                .entries
                .iter()
                .map(|(k, v)| pair(k, v))
                .collect::<Result<_>>()?,
            Value::Range(range) => {
                let number = |i: usize| Value::Int(range[0] + i as i128 * range[2]);
                (0..range_len(range)).map(number).collect()
            }
            Value::Iter(items) => std::mem::take(&mut *items.borrow_mut()).into(),
            Value::Loop(id) => vm.rest_of_loop(*id)?,
            other => return fail(format!("'{}' object is not iterable", other.type_name())),
        })
    }

    /// `==`
    pub fn equals(&self, other: &Value, vm: &mut Vm) -> Result<bool> {
        vm.work(64)?;
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Text(a), Value::Text(b)) => {
                vm.work(a.len().min(b.len()))?;
                a.text == b.text
            }
            (Value::List(a), Value::List(b))
            | (Value::Tuple(a) | Value::Group(a), Value::Tuple(b) | Value::Group(b)) => {
                Rc::ptr_eq(a, b) || all_equal(&a.items, &b.items, vm)?
            }
            (Value::Dict(a), Value::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.get(key)? {
                        Some(other) if value.equals(other, vm)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Range(a), Value::Range(b)) => {
                let (n, m) = (range_len(a), range_len(b));
                n == m && (n == 0 || a[0] == b[0] && (n == 1 || a[2] == b[2]))
            }
            (Value::View(a, x), Value::View(b, y)) if a == b && *a != View::Values => {
                Value::Dict(x.clone()).equals(&Value::Dict(y.clone()), vm)?
            }
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => match (self.as_float(), other.as_float()) {
                    (Some(a), Some(b)) => a == b,
                    _ => self.same(other),
                },
            },
        })
    }

    /// How two values are ordered; `None` for what is neither less nor greater, as NaN.
    pub fn compare(&self, other: &Value, vm: &mut Vm) -> Result<Option<Ordering>> {
        vm.work(64)?;
        self.defined()?;
        other.defined()?;
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return Ok(a.partial_cmp(&b));
        }
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => {
                vm.work(a.len().min(b.len()))?;
                Ok(Some(a.text.cmp(&b.text)))
            }
            (Value::List(a), Value::List(b))
            | (Value::Tuple(a) | Value::Group(a), Value::Tuple(b) | Value::Group(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, vm)? {
                        return a.compare(b, vm);
                    }
                }
                Ok(Some(a.items.len().cmp(&b.items.len())))
            }
            _ => {
                let (a, b) = (self.type_name(), other.type_name());
                fail(format!(
                    "'<' not supported between instances of '{a}' and '{b}'"
                ))
            }
        }
    }
}

fn text_is_safe(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.safe)
}

fn all_equal(a: &[Value], b: &[Value], vm: &mut Vm) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if !a.same(b) && !a.equals(b, vm)? {
            return Ok(false);
        }
    }
    Ok(true)
}
