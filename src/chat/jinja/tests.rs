//! jinja2's tests.

use super::args::Given;
use super::ast::{Comparison, Operator};
use super::value::Value;
use super::vm::Vm;
use super::{Fail, cut, fail, filters, strings};

type Result<T> = std::result::Result<T, Fail>;

/// All of jinja2's.
const TESTS: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

impl Vm<'_> {
    pub(super) fn test(&mut self, name: &str, value: &Value, given: Given) -> Result<bool> {
        if !TESTS.contains(&name) {
            return fail(format!("No test named '{}'", cut(name)));
        }
        let comparison = match name {
            "==" | "eq" | "equalto" => Some(Comparison::Eq),
            "!=" | "ne" => Some(Comparison::Ne),
            ">" | "gt" | "greaterthan" => Some(Comparison::Gt),
            ">=" | "ge" => Some(Comparison::Ge),
            "<" | "lt" | "lessthan" => Some(Comparison::Lt),
            "<=" | "le" => Some(Comparison::Le),
            "in" => Some(Comparison::In),
            _ => None,
        };
        if let Some(comparison) = comparison {
            let [other] = given.bind(name, ["<other>"], 1)?;
            return self.compares(comparison, value, &other.unwrap_or(Value::None));
        }
        match name {
            "divisibleby" => {
                let [by] = given.bind(name, ["num"], 1)?;
                return self.leaves(value, by.unwrap_or(Value::None), 0);
            }
            "sameas" => {
                let [other] = given.bind(name, ["other"], 1)?;
                return Ok(value.same(&other.unwrap_or(Value::None)));
            }
            "filter" | "test" => drop(value.key()?),
            _ => {}
        }
        given.none(name)?;
        Ok(match name {
            "odd" => self.leaves(value, Value::Int(2), 1)?,
            "even" => self.leaves(value, Value::Int(2), 0)?,
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "filter" => value
                .as_text()
                .is_some_and(|t| filters::FILTERS.contains(&&**t)),
            "test" => value.as_text().is_some_and(|t| TESTS.contains(&&**t)),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "false" => matches!(value, Value::Bool(false)),
            "true" => matches!(value, Value::Bool(true)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => value.as_text().is_some(),
            "mapping" => matches!(value, Value::Dict(_)),
            "escaped" => value.as_text().is_some_and(|t| t.safe),
            "callable" => matches!(
                value,
                Value::Undefined(_)
                    | Value::Macro(..)
                    | Value::Function(_)
                    | Value::Method(_)
                    | Value::Joiner(_)
                    | Value::Loop(_)
            ),
            "iterable" => value.is_iterable(),
            "sequence" => value.len().is_some() && !matches!(value, Value::View(..)),
            "lower" => strings::is_lower(&self.str(value)?),
            _ => strings::is_upper(&self.str(value)?),
        })
    }

    /// Whether dividing leaves a rest.
    fn leaves(&mut self, value: &Value, by: Value, rest: i128) -> Result<bool> {
        let found = self.operate(Operator::Mod, value, &by)?;
        found.equals(&Value::Int(rest), self)
    }
}
