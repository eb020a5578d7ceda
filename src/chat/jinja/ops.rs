//! Operators, attributes, items and slices.

use std::cmp::Ordering;
use std::rc::Rc;

use super::args::int;
use super::ast::{Comparison, Operator};
use super::containers::{self, places};
use super::print::html;
use super::value::{Text, Value, View, range_len};
use super::vm::Vm;
use super::{Fail, cut, fail, strings};

type Result<T> = std::result::Result<T, Fail>;

/// Methods that Python's sandbox refuses, as they change what they belong to.
const CHANGING: [&str; 13] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "add",
    "discard",
];

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Sub => "-",
        Operator::Mul => "*",
        Operator::Div => "/",
        Operator::FloorDiv => "//",
        Operator::Mod => "%",
        Operator::Pow => "**",
    }
}

impl Vm<'_> {
    pub(super) fn operate(&mut self, o: Operator, a: &Value, b: &Value) -> Result<Value> {
        match (o, a) {
            (Operator::Mod, Value::Text(format)) => return self.percent(format, b),
            _ => {
                a.defined()?;
                b.defined()?;
            }
        }
        match (o, a, b) {
            (Operator::Add, Value::Text(x), Value::Text(y)) => self.add_texts(x, y),
            (Operator::Add, Value::List(x), Value::List(y)) => {
                self.work(x.items.len() + y.items.len())?;
                self.list(x.items.iter().chain(&y.items).cloned().collect())
            }
            (
                Operator::Add,
                Value::Tuple(x) | Value::Group(x),
                Value::Tuple(y) | Value::Group(y),
            ) => Value::tuple(x.items.iter().chain(&y.items).cloned().collect()),
            (Operator::Mul, many, times) if repeats(many) && times.as_int().is_some() => {
                self.repeat(many, times)
            }
            (Operator::Mul, times, many) if repeats(many) && times.as_int().is_some() => {
                self.repeat(many, times)
            }
            _ => match (a.as_int(), b.as_int()) {
                (Some(x), Some(y)) => integers(o, x, y),
                _ => match (a.as_float(), b.as_float()) {
                    (Some(x), Some(y)) => floats(o, x, y).map(Value::Float),
                    _ => {
                        let (sign, a, b) = (sign(o), a.type_name(), b.type_name());
                        fail(format!(
                            "unsupported operand type(s) for {sign}: '{a}' and '{b}'"
                        ))
                    }
                },
            },
        }
    }

    fn add_texts(&mut self, a: &Text, b: &Text) -> Result<Value> {
        self.memory(a.len().saturating_add(b.len()))?;
        self.work(a.len().saturating_add(b.len()))?;
        if a.safe || b.safe {
            // Text that `safe` has marked takes other text in escaped.
            let part = |t: &Text| if t.safe { t.to_string() } else { html(t) };
            let text = (part(a) + &part(b)).into();
            return Ok(Value::Text(Text { text, safe: true }));
        }
        Ok(Value::text([&**a, &**b].concat()))
    }

    fn repeat(&mut self, many: &Value, times: &Value) -> Result<Value> {
        let times = usize::try_from(int("*", times)?.max(0)).unwrap_or(usize::MAX);
        if let Value::Text(text) = many {
            self.memory(text.len().saturating_mul(times))?;
            let times = if text.is_empty() { 0 } else { times };
            let text_of = text.text.repeat(times).into();
            return Ok(Value::Text(Text {
                text: text_of,
                safe: text.safe,
            }));
        }
        let items = many.as_items().unwrap_or_default();
        self.memory(
            items
                .len()
                .saturating_mul(times)
                .saturating_mul(size_of::<Value>()),
        )?;
        let times = if items.is_empty() { 0 } else { times };
        let all = std::iter::repeat_n(items, times)
            .flatten()
            .cloned()
            .collect();
        if matches!(many, Value::List(_)) {
            Value::list(all)
        } else {
            Value::tuple(all)
        }
    }

    pub(super) fn negate(&mut self, value: &Value) -> Result<Value> {
        value.defined()?;
        match (value, value.as_int()) {
            (_, Some(i)) => integers(Operator::Sub, 0, i),
            (Value::Float(f), _) => Ok(Value::Float(-f)),
            _ => fail(format!(
                "bad operand type for unary -: '{}'",
                value.type_name()
            )),
        }
    }

    pub(super) fn plus(&mut self, value: &Value) -> Result<Value> {
        value.defined()?;
        match (value, value.as_int()) {
            (_, Some(i)) => Ok(Value::Int(i)),
            (Value::Float(f), _) => Ok(Value::Float(*f)),
            _ => fail(format!(
                "bad operand type for unary +: '{}'",
                value.type_name()
            )),
        }
    }

    pub(super) fn compares(&mut self, c: Comparison, a: &Value, b: &Value) -> Result<bool> {
        let order = |vm: &mut Self| a.compare(b, vm);
        Ok(match c {
            Comparison::Eq => a.equals(b, self)?,
            Comparison::Ne => !a.equals(b, self)?,
            Comparison::Lt => order(self)? == Some(Ordering::Less),
            Comparison::Gt => order(self)? == Some(Ordering::Greater),
            Comparison::Le => matches!(order(self)?, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Ge => matches!(order(self)?, Some(Ordering::Greater | Ordering::Equal)),
            Comparison::In => self.contains(b, a)?,
            Comparison::NotIn => !self.contains(b, a)?,
        })
    }

    /// `part in whole`
    pub(super) fn contains(&mut self, whole: &Value, part: &Value) -> Result<bool> {
        match (whole, part) {
            (Value::Text(whole), Value::Text(part)) => {
                self.work(whole.len() + part.len())?;
                Ok(whole.contains(&**part))
            }
            (Value::Text(_), other) => {
                let name = other.type_name();
                fail(format!(
                    "'in <string>' requires string as left operand, not {name}"
                ))
            }
            (Value::Dict(dict) | Value::View(View::Keys, dict), key) => {
                Ok(dict.get(key)?.is_some())
            }
            (Value::Range(range), number) => {
                let [first, _, step] = **range;
                let at = match (number.as_int(), number.as_float()) {
                    (Some(i), _) => Some(i),
                    (None, Some(f)) => super::value::exact_int(f),
                    _ => None,
                };
                let Some(distance) = at.map(|i| i - first) else {
                    return Ok(false);
                };
                let turn = distance / step;
                let inside = turn >= 0 && turn < range_len(range) as i128;
                Ok(distance % step == 0 && inside)
            }
            (whole, part) => {
                if !whole.is_iterable() {
                    let name = whole.type_name();
                    return fail(format!("argument of type '{name}' is not iterable"));
                }
                for item in whole.elements(self)? {
                    if item.same(part) || item.equals(part, self)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// `a.name`: an attribute, else an item.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
        value.defined()?;
        let kind = value.type_name();
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(found) = dict.get_text(name)
        {
            return Ok(found.clone());
        }
        Ok(missing(value, kind, name))
    }

    /// `a[key]`: an item, else an attribute.
    pub(super) fn item(&mut self, value: &Value, key: &Value) -> Result<Value> {
        value.defined()?;
        let kind = value.type_name();
        let found = match (value, key) {
            (Value::Dict(dict), key) => dict.get(key).ok().flatten().cloned(),
            (_, key) => match key.as_int() {
                Some(at) => self.at(value, at)?,
                None => None,
            },
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Value::Text(name) = key {
            return match self.own_attribute(value, name)? {
                Some(found) => Ok(found),
                None => Ok(missing(value, kind, name)),
            };
        }
        let key = self.repr(key).unwrap_or_default();
        Ok(Value::undefined(format!(
            "'{kind}' object has no element {}",
            cut(&key)
        )))
    }

    /// The element at a place, from the end if it is negative.
    fn at(&mut self, value: &Value, at: i128) -> Result<Option<Value>> {
        let place = |len: usize| {
            let from = if at < 0 { at + len as i128 } else { at };
            usize::try_from(from).ok().filter(|&i| i < len)
        };
        Ok(match value {
            Value::Text(text) => {
                self.work(text.len())?;
                let chars = value.len().unwrap_or(0);
                let c = place(chars).and_then(|i| text.chars().nth(i));
                c.map(|c| {
                    let text_of = c.encode_utf8(&mut [0; 4]).into();
                    Value::Text(Text {
                        text: text_of,
                        safe: text.safe,
                    })
                })
            }
            Value::Range(range) => {
                place(range_len(range)).map(|i| Value::Int(range[0] + i as i128 * range[2]))
            }
            other => {
                let items = other.as_items().unwrap_or_default();
                place(items.len()).map(|i| items[i].clone())
            }
        })
    }

    /// What a value has by this name besides its items.
    fn own_attribute(&mut self, value: &Value, name: &str) -> Result<Option<Value>> {
        let method = || Some(Value::Method(Rc::new((value.clone(), name.into()))));
        Ok(match value {
            Value::Text(_) if strings::METHODS.contains(&name) => method(),
            Value::Group(items) if name == "grouper" => Some(items.items[0].clone()),
            Value::Group(items) if name == "list" => Some(items.items[1].clone()),
            Value::List(_) | Value::Tuple(_) | Value::Group(_) | Value::Dict(_)
                if containers::has(value, name) =>
            {
                method()
            }
            Value::Int(_) | Value::Bool(_) | Value::Float(_) => match name {
                "real" => Some(self.plus(value)?),
                "imag" if matches!(value, Value::Float(_)) => Some(Value::Float(0.0)),
                "imag" => Some(Value::Int(0)),
                "numerator" if value.as_int().is_some() => Some(self.plus(value)?),
                "denominator" if value.as_int().is_some() => Some(Value::Int(1)),
                name if containers::has(value, name) => method(),
                _ => None,
            },
            Value::Namespace(id) => self.namespace_dict(*id)?.get_text(name).cloned(),
            Value::Loop(id) => self.loop_attribute(*id, name)?,
            Value::Cycler(cycler) => match name {
                "current" => Some(cycler.0.items[cycler.1.get()].clone()),
                "next" | "reset" => method(),
                _ => None,
            },
            Value::Joiner(joiner) => match name {
                "sep" => Some(joiner.0.clone().into()),
                "used" => Some(Value::Bool(joiner.1.get())),
                _ => None,
            },
            Value::Range(range) => match name {
                "start" => Some(Value::Int(range[0])),
                "stop" => Some(Value::Int(range[1])),
                "step" => Some(Value::Int(range[2])),
                "count" | "index" => method(),
                _ => None,
            },
            Value::Macro(m, _) => match name {
                "name" => Some(m.name.as_deref().map_or(Value::None, Value::text)),
                "arguments" => {
                    let names = m.parameters.iter().map(|p| Value::text(&**p)).collect();
                    Some(Value::tuple(names)?)
                }
                "caller" => Some(Value::Bool(m.caller)),
                "catch_kwargs" => Some(Value::Bool(m.kwargs)),
                "catch_varargs" => Some(Value::Bool(m.varargs)),
                _ => None,
            },
            Value::Function("dict") if name == "fromkeys" => method(),
            _ => None,
        })
    }

    /// Calls a method.
    pub(super) fn method(&mut self, value: &Value, name: &str, given: Given) -> Result<Value> {
        match value {
            Value::Text(text) => self.text_method(text, name, given),
            Value::Loop(id) => self.loop_method(*id, name, given),
            Value::Cycler(cycler) => {
                given.none(name)?;
                Ok(self.cycle(cycler, name))
            }
            other => self.container_method(other, name, given),
        }
    }

    /// `a[start:stop:step]`
    pub(super) fn slice(&mut self, value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
        value.defined()?;
        let kind = value.type_name();
        if value.as_text().is_none()
            && value.as_items().is_none()
            && !matches!(value, Value::Range(_))
        {
            return fail(format!("'{kind}' object has no slices"));
        }
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(&bounds) {
            *number = match bound {
                None | Some(Value::None) => None,
                Some(value) => Some(int("a slice", value)?),
            };
        }
        if numbers[2] == Some(0) {
            return fail("slice step cannot be zero");
        }
        let items = value.elements(self)?;
        let out: Vec<Value> = places(items.len(), numbers)
            .map(|i| items[i].clone())
            .collect();
        match value {
            Value::Text(text) => {
                let all: String = out
                    .iter()
                    .filter_map(|v| v.as_text().map(|t| &**t))
                    .collect();
                self.memory(all.len())?;
                Ok(Value::Text(Text {
                    text: all.into(),
                    safe: text.safe,
                }))
            }
            Value::Range(range) => {
                let step = range[2] * i128::from(numbers[2].unwrap_or(1));
                let first = out.first().and_then(Value::as_int).unwrap_or(range[0]);
                Ok(Value::Range(Rc::new([
                    first,
                    first + step * out.len() as i128,
                    step,
                ])))
            }
            Value::List(_) => self.list(out),
            _ => Value::tuple(out),
        }
    }
}

use super::args::Given;

fn missing(value: &Value, kind: &str, name: &str) -> Value {
    let name = cut(name);
    let list = matches!(value, Value::List(_) | Value::Dict(_));
    Value::undefined(if list && CHANGING.contains(&name.as_str()) {
        format!("access to attribute '{name}' of '{kind}' object is unsafe.")
    } else {
        format!("'{kind} object' has no attribute '{name}'")
    })
}

fn repeats(value: &Value) -> bool {
    matches!(value, Value::Text(_)) || value.as_items().is_some()
}

fn integers(o: Operator, a: i128, b: i128) -> Result<Value> {
    let whole = match o {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mul => a.checked_mul(b),
        Operator::Div if b == 0 => return fail("division by zero"),
        Operator::Div => return Ok(Value::Float(quotient(a, b))),
        Operator::FloorDiv | Operator::Mod if b == 0 => {
            return fail("integer division or modulo by zero");
        }
        Operator::FloorDiv => a
            .checked_div(b)
            .map(|q| q - i128::from(a % b != 0 && (a < 0) != (b < 0))),
        Operator::Mod => a.checked_rem(b).map(|r| {
            if r != 0 && (r < 0) != (b < 0) {
                r + b
            } else {
                r
            }
        }),
        Operator::Pow if b < 0 => return floats(o, a as f64, b as f64).map(Value::Float),
        Operator::Pow => u32::try_from(b).ok().and_then(|b| match a {
            0 | 1 => Some(a.pow(b.min(1))),
            _ => a.checked_pow(b),
        }),
    };
    match whole {
        Some(value) => Ok(Value::Int(value)),
        None => fail(format!(
            "{} gives an integer of more than 127 bits",
            sign(o)
        )),
    }
}

/// The float nearest to a quotient of integers.
fn quotient(a: i128, b: i128) -> f64 {
    let (top, bottom) = (a.unsigned_abs(), b.unsigned_abs());
    let (mut whole, mut rest, mut shift) = (top / bottom, top % bottom, 0);
    while whole < 1 << 64 && shift < 256 {
        (whole, rest, shift) = (whole << 1, rest << 1, shift + 1);
        if rest >= bottom {
            (whole, rest) = (whole | 1, rest - bottom);
        }
    }
    // A bit far below the last one of a float says which way to round.
    let size = (whole | u128::from(rest != 0)) as f64 * 2f64.powi(-shift);
    if (a < 0) == (b < 0) { size } else { -size }
}

fn floats(o: Operator, a: f64, b: f64) -> Result<f64> {
    Ok(match o {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mul => a * b,
        Operator::Div | Operator::FloorDiv | Operator::Mod if b == 0.0 => {
            return fail("float division by zero");
        }
        Operator::Div => a / b,
        Operator::Mod => modulo(a, b),
        Operator::FloorDiv => {
            let quotient = (a - modulo(a, b)) / b;
            // The difference is a multiple of b up to rounding.
            if quotient == 0.0 {
                0.0f64.copysign(a / b)
            } else {
                quotient.round()
            }
        }
        Operator::Pow => {
            let power = a.powf(b);
            if a == 0.0 && b < 0.0 {
                return fail("0.0 cannot be raised to a negative power");
            }
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return fail("the result of ** is too large");
            }
            if power.is_nan() && !a.is_nan() && !b.is_nan() {
                return fail("the result of ** is a complex number");
            }
            power
        }
    })
}

/// Python's remainder, which has the sign of the divisor.
fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        0.0f64.copysign(b)
    } else if (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}
