//! Functions, filters and methods that count the bytes they make and the work they do.
//!
//! `guard` sends every step of a template that can grow a value through here. Two budgets
//! are kept per rendering: bytes made (an upper bound of the memory in use) and work
//! (bytes and elements looked at). Values may not be nested deeply, so that dropping and
//! comparing them needs little stack.

use std::cell::Cell;
use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::limits;

thread_local! {
    // A rendering runs on one thread from start to end.
    static MEMORY: Cell<usize> = const { Cell::new(0) };
    static WORK: Cell<usize> = const { Cell::new(0) };
}

/// Fills the budgets of this thread for one rendering.
pub(super) fn start() {
    MEMORY.set(limits::TEMPLATE_MEMORY_BYTES);
    WORK.set(limits::TEMPLATE_WORK);
}

fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn spend(
    budget: &'static std::thread::LocalKey<Cell<usize>>,
    amount: usize,
    what: &str,
) -> Result<(), Error> {
    let left = budget.get().checked_sub(amount);
    budget.set(left.ok_or_else(|| error(format!("the template needs too much {what}")))?);
    Ok(())
}

/// Announces `bytes` of new values before they are made.
fn memory(bytes: usize) -> Result<(), Error> {
    spend(&MEMORY, bytes, "memory")
}

fn work(steps: usize) -> Result<(), Error> {
    spend(&WORK, steps, "time")
}

/// Bytes of an element of a list, counted generously.
const ELEMENT: usize = 32;

/// Elements and bytes to look at when a value is used.
fn effort(value: &Value) -> usize {
    match value.kind() {
        ValueKind::String | ValueKind::Bytes => value.as_str().map_or(0, str::len),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            value.len().unwrap_or(limits::MAX_TEMPLATE_RANGE)
        }
        _ => 0,
    }
}

/// Counts a value that has just been made, and how deeply it is nested.
fn made(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => memory(effort(&value))?,
        ValueKind::Seq | ValueKind::Map => {
            memory(effort(&value).saturating_mul(ELEMENT))?;
            nesting(&value, limits::MAX_TEMPLATE_DEPTH)?;
        }
        _ => {}
    }
    Ok(value)
}

fn nesting(value: &Value, left: usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        return Ok(());
    }
    if left == 0 {
        return Err(error("lists are nested too deeply"));
    }
    work(256 + 16 * effort(value))?;
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        nesting(
            &if is_map { value.get_item(&item)? } else { item },
            left - 1,
        )?;
    }
    Ok(())
}

/// Appends what Python's `str` gives for a value.
fn print(value: &Value, out: &mut String, quoted: bool, depth: usize) -> Result<(), Error> {
    if depth > limits::MAX_TEMPLATE_DEPTH + 4 || out.len() > limits::MAX_RENDERED_BYTES {
        return Err(error("a value is too large to be printed"));
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String if !quoted => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                print(&item, out, true, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                print(&key, out, true, depth + 1)?;
                out.push_str(": ");
                print(&value.get_item(&key)?, out, true, depth + 1)?;
            }
            out.push('}');
        }
        // Writing to a string does not fail.
        _ => drop(write!(out, "{value}")),
    }
    Ok(())
}

/// Python's `repr` of a string.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' || c == '\u{7f}' => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(mark);
}

/// The text of a value, counted.
fn text_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    memory(effort(value))?;
    print(value, &mut out, false, 0)?;
    work(out.len())?;
    Ok(out)
}

/// `a ~ b ~ ...`
fn cat(values: Rest<Value>) -> Result<Value, Error> {
    let mut out = String::new();
    for value in values.iter() {
        memory(effort(value))?;
        print(value, &mut out, false, 0)?;
    }
    Ok(Value::from(out))
}

/// `a + b + ...`
fn add(values: Rest<Value>) -> Result<Value, Error> {
    let mut rest = values.iter();
    let Some(first) = rest.next() else {
        return Ok(Value::UNDEFINED);
    };
    rest.try_fold(first.clone(), |sum, value| add_two(&sum, value))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add_two(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        memory(x.len().saturating_add(y.len()))?;
        if a.is_safe() || b.is_safe() {
            // Text that `safe` has marked takes other text in escaped.
            let sum = escaped(x, a.is_safe())? + &escaped(y, b.is_safe())?;
            return Ok(Value::from_safe_string(sum));
        }
        return Ok(Value::from([x, y].concat()));
    }
    if is_list(a) && is_list(b) {
        memory((effort(a) + effort(b)).saturating_mul(ELEMENT))?;
        let all: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
        return Ok(Value::from(all));
    }
    numbers("+", a, b, i128::checked_add, |a, b| a + b)
}

/// HTML's five characters as Python's Markup writes them.
fn escaped(text: &str, safe: bool) -> Result<String, Error> {
    if safe {
        return Ok(text.to_owned());
    }
    memory(text.len().saturating_mul(5))?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// `a[start:stop:step]`, as in Python.
fn slice(
    value: Value,
    start: Option<i64>,
    stop: Option<i64>,
    step: Option<i64>,
) -> Result<Value, Error> {
    let items: Vec<Value> = match value.as_str() {
        Some(text) => text.chars().map(Value::from).collect(),
        None if is_list(&value) => value.try_iter()?.collect(),
        None if value.is_undefined() => return Err(error("undefined values have no slices")),
        // As every item that is not there.
        None => return Ok(Value::UNDEFINED),
    };
    memory(items.len().saturating_mul(ELEMENT))?;
    let (len, step) = (items.len() as i64, step.unwrap_or(1));
    // Where a slice may begin and end, in its direction.
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let from_end = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    let border = |at: Option<i64>, default| at.map_or(default, |at| from_end(at).clamp(low, high));
    let (first, end) = match step {
        0 => return Err(error("slice step cannot be zero")),
        1.. => (border(start, low), border(stop, high)),
        _ => (border(start, high), border(stop, low)),
    };
    let mut at = first;
    let mut out = Vec::new();
    while if step > 0 { at < end } else { at > end } {
        out.extend(usize::try_from(at).ok().and_then(|i| items.get(i)).cloned());
        at = at.saturating_add(step);
    }
    Ok(match value.as_str() {
        Some(_) => Value::from(out.iter().filter_map(Value::as_str).collect::<String>()),
        None => Value::from(out),
    })
}

fn numbers(
    sign: &str,
    a: &Value,
    b: &Value,
    whole: fn(i128, i128) -> Option<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let integer = |v: &Value| match v.kind() {
        ValueKind::Bool => Some(i128::from(v.is_true())),
        _ if v.is_integer() => i128::try_from(v.clone()).ok(),
        _ => None,
    };
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        let sum = whole(a, b).ok_or_else(|| error(format!("{sign} overflows")))?;
        return Ok(i64::try_from(sum).map_or_else(|_| Value::from(sum), Value::from));
    }
    if let (true, true, Ok(a), Ok(b)) = (
        a.is_number(),
        b.is_number(),
        f64::try_from(a.clone()),
        f64::try_from(b.clone()),
    ) {
        return Ok(Value::from(float(a, b)));
    }
    Err(error(format!(
        "{sign} does not work on {} and {}",
        a.kind(),
        b.kind()
    )))
}

/// `a * b`
fn mul(a: Value, b: Value) -> Result<Value, Error> {
    let (many, times) = if a.as_str().is_some() || is_list(&a) {
        (&a, &b)
    } else {
        (&b, &a)
    };
    if many.as_str().is_none() && !is_list(many) {
        return numbers("*", &a, &b, i128::checked_mul, |a, b| a * b);
    }
    let times = i64::try_from(times.clone()).map_err(|_| error("only integers repeat a value"))?;
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = many.as_str() {
        memory(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    memory(effort(many).saturating_mul(ELEMENT).saturating_mul(times))?;
    let items: Vec<Value> = many.try_iter()?.collect();
    let times = if items.is_empty() { 0 } else { times };
    Ok(Value::from(
        std::iter::repeat_n(items, times)
            .flatten()
            .collect::<Vec<_>>(),
    ))
}

fn replace(text: String, old: String, new: String) -> Result<String, Error> {
    let count = text.matches(&old).count();
    memory(count.saturating_mul(new.len()).saturating_add(text.len()))?;
    Ok(text.replace(&old, &new))
}

fn join(values: Value, separator: Option<String>, kwargs: Kwargs) -> Result<String, Error> {
    let named: Option<String> = kwargs.get("d")?;
    let attribute: Option<String> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let separator = separator.or(named).unwrap_or_default();
    let mut out = String::new();
    for (i, value) in values.try_iter()?.enumerate() {
        memory(separator.len() + 1)?;
        out.push_str(if i > 0 { &separator } else { "" });
        let value = match &attribute {
            Some(name) => value.get_attr(name)?,
            None => value,
        };
        memory(effort(&value))?;
        print(&value, &mut out, false, 0)?;
    }
    Ok(out)
}

fn indent(
    text: String,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or(4);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let lines = text.matches('\n').count() + 1;
    memory(lines.saturating_mul(width).saturating_add(text.len()))?;
    let space = " ".repeat(width);
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        let wanted = if i == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if wanted { &space } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

fn list(value: Value) -> Result<Value, Error> {
    memory(effort(&value).saturating_mul(ELEMENT))?;
    Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()))
}

fn range(first: i64, end: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (first, end) = end.map_or((0, first), |end| (first, end));
    let step = i128::from(step.unwrap_or(1));
    if step == 0 {
        return Err(error("range needs a step other than 0"));
    }
    let distance = (i128::from(end) - i128::from(first)) * step.signum();
    let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > limits::MAX_TEMPLATE_RANGE {
        return Err(error(format!(
            "a range of {count} numbers, allowed: {}",
            limits::MAX_TEMPLATE_RANGE
        )));
    }
    memory(count * ELEMENT)?;
    let number = |i: usize| i128::from(first) + step * i as i128;
    Ok(Value::from(
        (0..count)
            .map(|i| Value::from(number(i) as i64))
            .collect::<Vec<_>>(),
    ))
}

/// String and map methods of Python: checks what a call may make, then calls minijinja's.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    work(effort(value))?;
    args.iter().try_for_each(|a| work(effort(a)))?;
    let text = value.as_str().unwrap_or_default();
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    match name {
        "replace" => memory(text.matches(arg(0)).count().saturating_mul(arg(1).len()))?,
        "split" | "rsplit" | "splitlines" => {
            let parts = match arg(0) {
                "" => text.matches(char::is_whitespace).count(),
                separator => text.matches(separator).count(),
            };
            memory((parts + 1).saturating_mul(ELEMENT))?;
        }
        "join" => {
            let Some(items) = args.first() else {
                return Err(error("join needs a list"));
            };
            for item in items.try_iter()? {
                memory(effort(&item) + text.len())?;
            }
        }
        // A format with `:` can ask for any width.
        "format" if text.contains(':') => {
            return Err(error(
                "formats with `:` are not available in chat templates",
            ));
        }
        "format" => {
            let longest = args.iter().map(effort).max().unwrap_or(0);
            memory(text.matches('{').count().saturating_mul(longest) + text.len())?;
        }
        _ => {}
    }
    made(minijinja_contrib::pycompat::unknown_method_callback(
        state, value, name, args,
    )?)
}

/// Adds the functions that `guard` writes and replaces what could exceed the budgets.
pub(super) fn install(env: &mut Environment<'static>) {
    env.set_formatter(|out, _, value| {
        let text = text_of(value)?;
        out.write_str(&text).map_err(Error::from)
    });
    env.set_unknown_method_callback(method);
    env.add_function("__geb_cat", cat);
    env.add_function("__geb_add", add);
    env.add_function("__geb_mul", mul);
    env.add_filter("__geb_out", made);
    env.add_filter("__geb_in", |value: Value| -> Result<Value, Error> {
        work(effort(&value))?;
        Ok(value)
    });
    env.add_filter("__geb_slice", slice);
    env.add_filter("__geb_each", |value: Value| match value.kind() {
        ValueKind::None => Err(error("none is not iterable")),
        _ => Ok(value),
    });
    env.add_filter("__geb_lazy", |_: Value| -> Result<Value, Error> {
        Err(error("a generator cannot be written as JSON"))
    });
    env.add_function("range", range);
    env.add_function(
        "namespace",
        |init: Option<ValueOrKwargs>| -> Result<Value, Error> {
            // Namespaces can hold each other; their number bounds the depth.
            work(limits::TEMPLATE_WORK / limits::MAX_TEMPLATE_NAMESPACES)?;
            minijinja::functions::namespace(init)
        },
    );
    env.remove_global("debug");
    env.add_filter("replace", replace);
    env.add_filter("join", join);
    env.add_filter("indent", indent);
    env.add_filter("list", list);
    env.add_filter("string", |value: Value| text_of(&value));
    for name in [
        "format", "pprint", "batch", "slice", "sum", "split", "lines", "chain", "zip",
    ] {
        env.remove_filter(name);
    }
}
