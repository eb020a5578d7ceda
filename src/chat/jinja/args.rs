//! Arguments of calls.

use std::rc::Rc;

use super::value::Value;
use super::{Fail, fail};

type Result<T> = std::result::Result<T, Fail>;

/// The arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub positional: Vec<Value>,
    pub named: Vec<(Rc<str>, Value)>,
}

impl Given {
    pub fn of(positional: Vec<Value>) -> Given {
        Given {
            positional,
            named: Vec::new(),
        }
    }

    /// The arguments by their names; at least the first `required` are there. A name in `<>` can only
    /// be given by its position.
    pub fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let given = self.positional.len();
        if given > N {
            return fail(format!("{what} takes at most {N} arguments, {given} given"));
        }
        let mut out = [const { None }; N];
        for (slot, value) in out.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| *n == &*name) {
                Some(at) if out[at].is_none() => out[at] = Some(value),
                _ => {
                    let name = super::cut(&name);
                    return fail(format!("{what} got an unexpected argument '{name}'"));
                }
            }
        }
        match out.iter().take(required).position(Option::is_none) {
            Some(at) => fail(format!("{what} needs the argument {}", names[at])),
            None => Ok(out),
        }
    }

    /// As [`Given::bind`] for what takes nothing.
    pub fn none(self, what: &str) -> Result<()> {
        self.bind::<0>(what, [], 0).map(drop)
    }
}

/// An integer, for what counts.
pub(super) fn int(what: &str, value: &Value) -> Result<i64> {
    value.defined()?;
    match value.as_int() {
        Some(i) => Ok(i64::try_from(i).unwrap_or(if i < 0 { i64::MIN } else { i64::MAX })),
        None => fail(format!(
            "{what} needs an integer, not {}",
            value.type_name()
        )),
    }
}

/// An integer, or what stands for it: `None` where Python's default is.
pub(super) fn int_or(what: &str, value: &Option<Value>, default: i64) -> Result<i64> {
    value.as_ref().map_or(Ok(default), |v| int(what, v))
}

/// A text.
pub(super) fn text<'v>(what: &str, value: &'v Value) -> Result<&'v str> {
    value.defined()?;
    match value {
        Value::Text(text) => Ok(text),
        other => fail(format!("{what} needs a text, not {}", other.type_name())),
    }
}

/// Whether an argument is given and true.
pub(super) fn flag(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::truth)
}

/// An argument that is not `None`.
pub(super) fn some(value: &Option<Value>) -> Option<&Value> {
    value.as_ref().filter(|v| !matches!(v, Value::None))
}
