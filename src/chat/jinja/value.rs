//! Values as Python has them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::Macro;
use super::{Fail, fail};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

/// A text; `safe` marks Python's `Markup`.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub text: Rc<str>,
    pub safe: bool,
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// What is missing, in words.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    /// A pair of `groupby`, a tuple with two names.
    Group(Rc<Items>),
    Dict(Rc<Dict>),
    View(View, Rc<Dict>),
    Range(Rc<[i128; 3]>),
    /// A generator: can be walked through once.
    Iter(Rc<RefCell<VecDeque<Value>>>),
    /// Index into the objects of the rendering, as for loops: objects may hold themselves.
    Namespace(usize),
    Loop(usize),
    Cycler(Rc<(Rc<Items>, Cell<usize>)>),
    Joiner(Rc<(Text, Cell<bool>)>),
    /// A macro and the scope it was made in.
    Macro(Arc<Macro>, usize),
    Function(&'static str),
    /// A method with what it belongs to.
    Method(Rc<(Value, Rc<str>)>),
}

/// What `items()`, `keys()` and `values()` of a dict give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum View {
    Items,
    Keys,
    Values,
}

/// Elements, and how deeply they are nested.
#[derive(Debug)]
pub(super) struct Items {
    pub items: Vec<Value>,
    depth: usize,
}

/// Keys and values in the order of insertion.
#[derive(Debug, Default)]
pub(super) struct Dict {
    pub entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: usize,
}

/// What makes two values the same key of a dict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Undefined,
    None,
    Int(i128),
    Float(u64),
    Text(Rc<str>),
    Tuple(Vec<Key>),
    Object(u8, usize),
}

fn deepest<'v>(values: impl Iterator<Item = &'v Value>) -> Result<usize> {
    let depth = values.map(Value::depth).max().unwrap_or(0) + 1;
    if depth > limits::MAX_TEMPLATE_DEPTH {
        return fail("lists are nested too deeply");
    }
    Ok(depth)
}

impl Items {
    pub fn new(items: Vec<Value>) -> Result<Rc<Items>> {
        let depth = deepest(items.iter())?;
        Ok(Rc::new(Items { items, depth }))
    }
}

impl Dict {
    pub fn new(pairs: impl IntoIterator<Item = (Value, Value)>) -> Result<Dict> {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            dict.insert(key, value)?;
        }
        Ok(dict)
    }

    pub fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        let hash = key.key()?;
        self.depth = self.depth.max(deepest([&key, &value].into_iter())?);
        match self.index.get(&hash) {
            Some(&at) => self.entries[at].1 = value,
            None => {
                self.index.insert(hash, self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    pub fn get(&self, key: &Value) -> Result<Option<&Value>> {
        Ok(self.index.get(&key.key()?).map(|&at| &self.entries[at].1))
    }

    pub fn get_text(&self, key: &str) -> Option<&Value> {
        let at = self.index.get(&Key::Text(key.into()))?;
        Some(&self.entries[*at].1)
    }
}

impl Value {
    pub fn text(text: impl Into<Rc<str>>) -> Value {
        Value::Text(Text {
            text: text.into(),
            safe: false,
        })
    }

    pub fn undefined(what: impl Into<Rc<str>>) -> Value {
        Value::Undefined(what.into())
    }

    pub fn list(items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(Items::new(items)?))
    }

    pub fn tuple(items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(Items::new(items)?))
    }

    /// A generator over what has been computed.
    pub fn iter(items: impl Into<VecDeque<Value>>) -> Value {
        Value::Iter(Rc::new(RefCell::new(items.into())))
    }

    /// JSON as Python reads it; the order of keys is kept.
    pub fn from_json(json: &serde_json::Value) -> Result<Value> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i.into()),
                (None, Some(u)) => Value::Int(u.into()),
                (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::text(text.as_str()),
            Json::Array(items) => {
                Value::list(items.iter().map(Value::from_json).collect::<Result<_>>()?)?
            }
            Json::Object(map) => {
                let mut dict = Dict::default();
                for (key, value) in map {
                    dict.insert(Value::text(key.as_str()), Value::from_json(value)?)?;
                }
                Value::Dict(Rc::new(dict))
            }
        })
    }

    fn depth(&self) -> usize {
        match self {
            Value::List(items) | Value::Tuple(items) | Value::Group(items) => items.depth,
            Value::Dict(dict) | Value::View(_, dict) => dict.depth + 1,
            Value::Iter(items) => items.borrow().iter().map(Value::depth).max().unwrap_or(0) + 1,
            Value::Cycler(cycler) => cycler.0.depth + 1,
            Value::Method(method) => method.0.depth() + 1,
            _ => 0,
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Elements of a list or tuple.
    pub fn as_items(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) | Value::Group(items) => Some(&items.items),
            _ => None,
        }
    }

    /// An integer; bools are 0 and 1.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(b) => Some((*b).into()),
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            other => other.as_int().map(|i| i as f64),
        }
    }

    /// Python's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(text) if text.safe => "Markup",
            Value::Text(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Group(_) => "_GroupTuple",
            Value::Dict(_) => "dict",
            Value::View(View::Items, _) => "dict_items",
            Value::View(View::Keys, _) => "dict_keys",
            Value::View(View::Values, _) => "dict_values",
            Value::Range(_) => "range",
            Value::Iter(_) => "generator",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Cycler(_) => "Cycler",
            Value::Joiner(_) => "Joiner",
            Value::Macro(..) => "Macro",
            Value::Function(_) => "function",
            Value::Method(_) => "builtin_function_or_method",
        }
    }

    /// The error that using something undefined gives, if this is.
    pub fn defined(&self) -> Result<()> {
        match self {
            Value::Undefined(what) => fail(what.to_string()),
            _ => Ok(()),
        }
    }

    pub fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            other => other.len() != Some(0),
        }
    }

    /// What `len` gives, if the value has a length.
    pub fn len(&self) -> Option<usize> {
        Some(match self {
            Value::Undefined(_) => 0,
            Value::Text(text) if text.is_ascii() => text.len(),
            Value::Text(text) => text.chars().count(),
            Value::Dict(dict) | Value::View(_, dict) => dict.entries.len(),
            Value::Range(range) => range_len(range),
            other => other.as_items()?.len(),
        })
    }

    pub fn is_iterable(&self) -> bool {
        matches!(self, Value::Iter(_) | Value::Loop(_)) || self.len().is_some()
    }

    /// The key that a dict keeps this value under.
    pub fn key(&self) -> Result<Key> {
        Ok(match self {
            Value::Undefined(_) => Key::Undefined,
            Value::None => Key::None,
            Value::Float(f) => match exact_int(*f) {
                Some(i) => Key::Int(i),
                None => Key::Float(f.to_bits()),
            },
            Value::Text(text) => Key::Text(text.text.clone()),
            Value::Tuple(items) | Value::Group(items) => {
                Key::Tuple(items.items.iter().map(Value::key).collect::<Result<_>>()?)
            }
            Value::Namespace(id) => Key::Object(0, *id),
            Value::Loop(id) => Key::Object(1, *id),
            other => match other.as_int() {
                Some(i) => Key::Int(i),
                None => return fail(format!("unhashable type: '{}'", other.type_name())),
            },
        })
    }

    /// Python's `is`, as far as it can be told.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(a), Value::Undefined(b)) => Rc::ptr_eq(a, b),
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) => a.text == b.text && a.safe == b.safe,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                Rc::ptr_eq(a, b)
            }
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
            (Value::Iter(a), Value::Iter(b)) => Rc::ptr_eq(a, b),
            (Value::Namespace(a), Value::Namespace(b)) | (Value::Loop(a), Value::Loop(b)) => a == b,
            (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
            (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a, x), Value::Macro(b, y)) => Arc::ptr_eq(a, b) && x == y,
            (Value::Function(a), Value::Function(b)) => a == b,
            _ => false,
        }
    }
}

/// A float without a fraction as integer.
pub(super) fn exact_int(f: f64) -> Option<i128> {
    (f.fract() == 0.0 && f.abs() < 1e37).then_some(f as i128)
}

pub(super) fn range_len(&[first, end, step]: &[i128; 3]) -> usize {
    let distance = end
        .saturating_sub(first)
        .saturating_mul(step.signum())
        .max(0);
    let count = distance.unsigned_abs().div_ceil(step.unsigned_abs().max(1));
    usize::try_from(count).unwrap_or(usize::MAX)
}
