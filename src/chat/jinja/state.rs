//! What a rendering keeps.

use std::sync::Arc;

use super::ast::For;
use super::value::Value;

/// Functions that every template sees.
pub(super) const FUNCTIONS: [&str; 8] = [
    "range",
    "dict",
    "namespace",
    "cycler",
    "joiner",
    "lipsum",
    "raise_exception",
    "strftime_now",
];

/// A running loop, as jinja2's `LoopContext`.
pub(super) struct LoopState {
    pub f: Arc<For>,
    /// Where its names are resolved.
    pub scope: usize,
    pub source: std::vec::IntoIter<Value>,
    /// Whether `source` still has to pass the loop's condition.
    pub filtered: bool,
    /// Elements, once known.
    pub length: Option<usize>,
    /// Turns begun.
    pub index: usize,
    pub before: Option<Value>,
    pub current: Option<Value>,
    /// Looked at already, if it has been.
    pub after: Option<Option<Value>>,
    pub changed: Option<Vec<Value>>,
    pub depth: usize,
}
