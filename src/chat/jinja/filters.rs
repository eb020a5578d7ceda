//! jinja2's filters of one value; those over sequences are in `sequences`.

use super::args::{Given, flag, int, int_or, some, text};
use super::chars::{is_space, is_word};
use super::print::{Json, html};
use super::strings;
use super::value::{Text, Value, exact_int};
use super::vm::Vm;
use super::{Fail, cut, fail};

type Result<T> = std::result::Result<T, Fail>;

/// All of jinja2's.
pub(super) const FILTERS: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// A text after a bounded `repr`, for messages.
fn needs(what: &str, value: &Value) -> Result<Value> {
    value.defined()?;
    fail(format!("{what} does not work on {}", value.type_name()))
}

impl Vm<'_> {
    pub(super) fn filter(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        if !FILTERS.contains(&name) {
            return fail(format!("No filter named '{}'", cut(name)));
        }
        match name {
            "random" | "urlize" => fail(format!(
                "the filter `{name}` is not available in chat templates"
            )),
            "batch" | "dictsort" | "first" | "groupby" | "items" | "join" | "last" | "list"
            | "map" | "max" | "min" | "reject" | "rejectattr" | "reverse" | "select"
            | "selectattr" | "slice" | "sort" | "sum" | "unique" => {
                self.over_items(name, value, given)
            }
            "abs" | "float" | "int" | "round" | "filesizeformat" => {
                self.numeric(name, value, given)
            }
            "default" | "d" => {
                let [other, boolean] = given.bind(name, ["default_value", "boolean"], 0)?;
                let replace = value.is_undefined() || flag(&boolean) && !value.truth();
                if replace {
                    self.or_text(other, "")
                } else {
                    Ok(value.clone())
                }
            }
            "length" | "count" => {
                given.none(name)?;
                match (value, value.len()) {
                    (Value::Loop(id), _) => Ok(Value::Int(self.loop_place(*id)?.1 as i128)),
                    (_, Some(n)) => Ok(Value::Int(n as i128)),
                    _ => fail(format!(
                        "object of type '{}' has no len()",
                        value.type_name()
                    )),
                }
            }
            "attr" => {
                let [attribute] = given.bind(name, ["name"], 1)?;
                let attribute = attribute.unwrap_or(Value::None);
                match value {
                    // Items of a dict are no attributes.
                    Value::Dict(_) => {
                        let kind = value.type_name();
                        match self.attribute(value, text(name, &attribute)?)? {
                            method @ Value::Method(_) => Ok(method),
                            _ => Ok(Value::undefined(format!(
                                "'{kind} object' has no such attribute"
                            ))),
                        }
                    }
                    _ => self.attribute(value, text(name, &attribute)?),
                }
            }
            "tojson" => self.json_text(value, given),
            "pprint" => {
                given.none(name)?;
                self.pretty(value)
            }
            "xmlattr" => self.xml_attributes(value, given),
            "urlencode" => {
                given.none(name)?;
                self.url(value)
            }
            _ => self.textual(name, value, given),
        }
    }

    /// Filters that look at the text of a value.
    fn textual(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        let own = match name {
            "string" if value.as_text().is_some() => {
                given.none(name)?;
                return Ok(value.clone());
            }
            "indent" | "truncate" | "wordwrap" => match value {
                Value::Text(text) => text.clone(),
                // What is short enough is returned, whatever it is.
                other if name == "truncate" && other.len().is_some_and(|n| n <= 255) => {
                    let length = given.positional.first().or(given
                        .named
                        .iter()
                        .find(|n| &*n.0 == "length")
                        .map(|n| &n.1));
                    let length = int_or(name, &length.cloned(), 255)?;
                    if other.len().is_some_and(|n| n as i64 <= length) {
                        return Ok(value.clone());
                    }
                    return needs(name, other);
                }
                other => return needs(name, other),
            },
            _ => self.soft(value)?,
        };
        self.work(own.len())?;
        match name {
            "capitalize" | "lower" | "upper" => self.text_method(&own, name, given),
            "string" | "safe" | "title" | "wordcount" | "striptags" | "escape" | "e"
            | "forceescape" => {
                given.none(name)?;
                self.plain(name, own)
            }
            "trim" => {
                let [chars] = given.bind(name, ["chars"], 0)?;
                self.text_method(
                    &own,
                    "strip",
                    Given::of(some(&chars).cloned().into_iter().collect()),
                )
            }
            "center" => {
                let [width] = given.bind(name, ["width"], 0)?;
                let width = width.unwrap_or(Value::Int(80));
                self.text_method(&own, "center", Given::of(vec![width]))
            }
            "format" => {
                if !given.named.is_empty() && !given.positional.is_empty() {
                    return fail("format takes positional or named arguments, not both");
                }
                let args = if given.named.is_empty() {
                    Value::tuple(given.positional)?
                } else {
                    let pairs = given.named.into_iter().map(|(k, v)| (Value::text(k), v));
                    Value::Dict(std::rc::Rc::new(super::value::Dict::new(pairs)?))
                };
                self.percent(&own, &args)
            }
            "replace" => {
                let [old, new, count] = given.bind(name, ["old", "new", "count"], 2)?;
                let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
                let (old, new) = (self.str(&old)?, self.str(&new)?);
                let count = some(&count).map_or(Ok(-1), |c| int(name, c))?;
                self.replaced(
                    &Text {
                        text: own.text,
                        safe: false,
                    },
                    &old,
                    &new,
                    count,
                )
            }
            "indent" => self.indent(&own, given),
            "truncate" => self.truncate(&own, given),
            _ => self.wrap(&own, given),
        }
    }

    fn plain(&mut self, name: &str, own: Text) -> Result<Value> {
        self.memory(own.len().saturating_mul(5))?;
        Ok(match name {
            "string" => own.into(),
            "safe" => Text { safe: true, ..own }.into(),
            "escape" | "e" if own.safe => own.into(),
            "escape" | "e" | "forceescape" => Text {
                text: html(&own).into(),
                safe: true,
            }
            .into(),
            "title" => Text {
                text: title(&own).into(),
                safe: own.safe && own.is_empty(),
            }
            .into(),
            "wordcount" => {
                let words = own.split(|c| !is_word(c)).filter(|w| !w.is_empty());
                Value::Int(words.count() as i128)
            }
            _ => self.text(strip_tags(&own))?,
        })
    }

    fn indent(&mut self, own: &Text, given: Given) -> Result<Value> {
        let [width, first, blank] = given.bind("indent", ["width", "first", "blank"], 0)?;
        let space = match &width {
            Some(Value::Text(text)) => text.to_string(),
            other => {
                let width = usize::try_from(int_or("indent", other, 4)?).unwrap_or(0);
                self.memory(width)?;
                " ".repeat(width)
            }
        };
        // As in Python, where a line end is added and the text cut into lines.
        let ended = format!("{}\n", &**own);
        let parts = strings::lines(&ended, false);
        self.memory(
            parts
                .len()
                .saturating_mul(space.len() + 1)
                .saturating_add(own.len()),
        )?;
        let mut out = String::new();
        for (i, line) in parts.iter().enumerate() {
            out.push_str(if i > 0 { "\n" } else { "" });
            let wanted = if i == 0 {
                flag(&first)
            } else {
                flag(&blank) || !line.is_empty()
            };
            out.push_str(if wanted { &space } else { "" });
            out.push_str(line);
        }
        self.like(own, out)
    }

    fn truncate(&mut self, own: &Text, given: Given) -> Result<Value> {
        let names = ["length", "killwords", "end", "leeway"];
        let [length, kill, end, leeway] = given.bind("truncate", names, 0)?;
        let length = int_or("truncate", &length, 255)?;
        let leeway = some(&leeway).map_or(Ok(5), |l| int("truncate", l))?;
        let end = self.or_text(end, "...")?;
        let end = text("truncate", &end)?;
        let room = length.saturating_sub(end.chars().count() as i64);
        if room < 0 || leeway < 0 {
            return fail("truncate needs a length of at least its end, and no negative leeway");
        }
        if own.chars().count() as i64 <= length.saturating_add(leeway) {
            return Ok(own.clone().into());
        }
        let cut: String = own.chars().take(room as usize).collect();
        let kept = if flag(&kill) {
            &cut
        } else {
            cut.rsplit_once(' ').map_or(&*cut, |(a, _)| a)
        };
        self.like(own, format!("{kept}{end}"))
    }

    fn json_text(&mut self, value: &Value, given: Given) -> Result<Value> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ascii, indent, separators, sort] = given.bind("tojson", names, 0)?;
        let indent = match some(&indent) {
            None => None,
            Some(Value::Text(text)) => Some(text.to_string()),
            Some(other) => {
                let width = usize::try_from(int("tojson", other)?).unwrap_or(0);
                if width > 64 {
                    return fail(format!("tojson with an indent of {width}, allowed: 64"));
                }
                Some(" ".repeat(width))
            }
        };
        let (item, key) = match some(&separators) {
            None => (
                if indent.is_some() { "," } else { ", " }.into(),
                ": ".into(),
            ),
            Some(pair) => match pair.elements(self)?.as_slice() {
                [Value::Text(item), Value::Text(key)] => (item.to_string(), key.to_string()),
                _ => return fail("separators need two texts"),
            },
        };
        let json = Json {
            item,
            key,
            indent,
            ascii: flag(&ascii),
            sort: flag(&sort),
        };
        let mut out = String::new();
        json.write(self, value, &mut out, 0)?;
        self.text(out)
    }

    /// Python's `pprint.pformat`, for what fits on a line.
    fn pretty(&mut self, value: &Value) -> Result<Value> {
        let sorted = self.sorted_deep(value)?;
        let text = self.repr(&sorted)?;
        if text.chars().count() > 80 {
            return fail("pprint of more than 80 characters is not available in chat templates");
        }
        self.text(text)
    }

    fn xml_attributes(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [space] = given.bind("xmlattr", ["autospace"], 0)?;
        let Value::Dict(dict) = value else {
            return needs("xmlattr", value);
        };
        let mut out = String::new();
        for (key, value) in &dict.entries {
            if matches!(value, Value::None | Value::Undefined(_)) {
                continue;
            }
            let key = text("xmlattr", key)?;
            if key.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
                return fail(format!(
                    "Invalid character in attribute name: '{}'",
                    cut(key)
                ));
            }
            let value = self.soft(value)?;
            self.memory(5 * (key.len() + value.len()))?;
            let shown = if value.safe {
                value.to_string()
            } else {
                html(&value)
            };
            out.push_str(if out.is_empty() { "" } else { " " });
            out.push_str(&format!("{}=\"{shown}\"", html(key)));
        }
        let space = space.as_ref().is_none_or(Value::truth) && !out.is_empty();
        self.text(if space { format!(" {out}") } else { out })
    }

    fn url(&mut self, value: &Value) -> Result<Value> {
        if value.as_text().is_some() || !value.is_iterable() {
            let text = self.str(value)?;
            self.memory(3 * text.len())?;
            return self.text(quoted(&text, false));
        }
        let pairs = match value {
            Value::Dict(dict) => dict.entries.clone(),
            other => {
                let mut pairs = Vec::new();
                for pair in other.elements(self)? {
                    match pair.elements(self)?.as_slice() {
                        [key, value] => pairs.push((key.clone(), value.clone())),
                        _ => return fail("urlencode needs pairs"),
                    }
                }
                pairs
            }
        };
        let mut parts = Vec::new();
        for (key, value) in pairs {
            let (key, value) = (self.str(&key)?, self.str(&value)?);
            self.memory(3 * (key.len() + value.len()))?;
            parts.push(format!("{}={}", quoted(&key, true), quoted(&value, true)));
        }
        self.text(parts.join("&"))
    }

    fn numeric(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        match name {
            "abs" => {
                given.none(name)?;
                match (value, value.as_int()) {
                    (_, Some(i)) => Ok(Value::Int(i.saturating_abs())),
                    (Value::Float(f), _) => Ok(Value::Float(f.abs())),
                    _ => needs(name, value),
                }
            }
            "float" => {
                let [default] = given.bind(name, ["default"], 0)?;
                let float = match value {
                    Value::Text(text) => parse_float(text),
                    Value::Undefined(_) => return needs(name, value),
                    other => other.as_float(),
                };
                Ok(float.map_or(default.unwrap_or(Value::Float(0.0)), Value::Float))
            }
            "int" => {
                let [default, base] = given.bind(name, ["default", "base"], 0)?;
                let base = int_or(name, &base, 10)?;
                let (whole, float) = match value {
                    Value::Text(text) => (parse_int(text, base), parse_float(text)),
                    Value::Float(f) if f.is_infinite() => {
                        return fail("cannot convert float infinity to integer");
                    }
                    Value::Float(f) => (None, Some(*f)),
                    Value::Undefined(_) => return needs(name, value),
                    other => (other.as_int(), None),
                };
                let whole = whole.or(float.and_then(|f| exact_int(f.trunc())));
                if whole.is_none() && float.is_some_and(f64::is_finite) {
                    return fail("int gives an integer of more than 127 bits");
                }
                Ok(whole.map_or(default.unwrap_or(Value::Int(0)), Value::Int))
            }
            "round" => round(value, given),
            _ => self.file_size(value, given),
        }
    }

    fn file_size(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [binary] = given.bind("filesizeformat", ["binary"], 0)?;
        let bytes = match value {
            Value::Text(text) => parse_float(text),
            other => other.as_float(),
        };
        let Some(bytes) = bytes else {
            return needs("filesizeformat", value);
        };
        let (base, suffix): (f64, _) = if flag(&binary) {
            (1024.0, "iB")
        } else {
            (1000.0, "B")
        };
        if bytes == 1.0 {
            return self.text("1 Byte");
        }
        if bytes < base {
            return self.text(format!("{} Bytes", bytes.trunc()));
        }
        let letters = if flag(&binary) {
            "KMGTPEZY"
        } else {
            "kMGTPEZY"
        };
        let mut unit = base;
        let mut letter = 'k';
        for c in letters.chars() {
            unit *= base;
            letter = c;
            if bytes < unit {
                break;
            }
        }
        self.text(format!("{:.1} {letter}{suffix}", base * bytes / unit))
    }
}

/// jinja2's own idea of title case.
fn title(text: &str) -> String {
    let parts = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if parts(c) {
            (begins, _) = (true, out.push(c));
        } else if std::mem::take(&mut begins) {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// Without comments and tags, and with single spaces.
fn strip_tags(text: &str) -> String {
    let mut rest = text.to_owned();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut out = String::new();
        let mut left = rest.as_str();
        while let Some(start) = left.find(open) {
            let Some(end) = left[start..].find(close) else {
                break;
            };
            out.push_str(&left[..start]);
            left = &left[start + end + close.len()..];
        }
        rest = out + left;
    }
    let words: Vec<&str> = rest.split(is_space).filter(|w| !w.is_empty()).collect();
    let text = words.join(" ");
    // Entities of the five characters that escaping writes.
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"");
    text.replace("&#39;", "'")
        .replace("&#34;", "\"")
        .replace("&amp;", "&")
}

fn quoted(text: &str, query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(byte.into())
            }
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Python's `float` of a text.
fn parse_float(text: &str) -> Option<f64> {
    let text = strings::strip(text, None, true, true);
    let plain = without_underscores(text)?;
    let lower = plain.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['+', '-']);
    let word = matches!(unsigned, "inf" | "infinity" | "nan");
    let number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if word || number {
        lower.parse().ok()
    } else {
        None
    }
}

/// Underscores may stand between digits only.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |i: Option<usize>| {
        i.and_then(|i| bytes.get(i))
            .is_some_and(u8::is_ascii_alphanumeric)
    };
    let fits = |(i, b): (usize, &u8)| *b != b'_' || digit(i.checked_sub(1)) && digit(Some(i + 1));
    bytes
        .iter()
        .enumerate()
        .all(fits)
        .then(|| text.replace('_', ""))
}

/// Python's `int` of a text.
fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = strings::strip(text, None, true, true);
    let plain = without_underscores(text)?;
    let digits = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match (base, lower.get(..2)) {
        (2 | 0, Some("0b")) => (2, &lower[2..]),
        (8 | 0, Some("0o")) => (8, &lower[2..]),
        (16 | 0, Some("0x")) => (16, &lower[2..]),
        (0, _)
            if lower.len() > 1 && lower.starts_with('0') && !lower.trim_matches('0').is_empty() =>
        {
            return None;
        }
        (0, _) => (10, &*lower),
        (2..=36, _) => (base as u32, &*lower),
        _ => return None,
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    Some(if plain.starts_with('-') {
        -value
    } else {
        value
    })
}

fn round(value: &Value, given: Given) -> Result<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"], 0)?;
    let precision = int_or("round", &precision, 0)?.clamp(-400, 400) as i32;
    let method = method.unwrap_or_else(|| Value::text("common"));
    let method = text("round", &method)?;
    match (method, value, value.as_int(), value.as_float()) {
        ("common", _, Some(i), _) if precision >= 0 => Ok(Value::Int(i)),
        ("common", _, Some(i), _) => {
            let unit = 10i128.checked_pow(precision.unsigned_abs());
            Ok(Value::Int(unit.map_or(0, |unit| {
                let (below, rest) = (i.div_euclid(unit), i.rem_euclid(unit));
                let up = 2 * rest > unit || 2 * rest == unit && below % 2 != 0;
                (below + i128::from(up)) * unit
            })))
        }
        ("common", Value::Float(f), ..) => {
            if !f.is_finite() {
                return Ok(Value::Float(*f));
            }
            if precision >= 0 {
                let text = format!("{f:.*}", precision as usize);
                return Ok(Value::Float(text.parse().unwrap_or(*f)));
            }
            let unit = 10f64.powi(-precision);
            Ok(Value::Float((f / unit).round_ties_even() * unit))
        }
        ("ceil" | "floor", _, _, Some(f)) => {
            let unit = 10f64.powi(precision);
            let part = if method == "ceil" {
                (f * unit).ceil()
            } else {
                (f * unit).floor()
            };
            Ok(Value::Float(part / unit))
        }
        ("common" | "ceil" | "floor", value, ..) => needs("round", value),
        _ => fail("method must be common, ceil or floor"),
    }
}
