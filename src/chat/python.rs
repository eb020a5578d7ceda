//! What makes minijinja behave like Python's Jinja as Hugging Face configures it.

use std::fmt::Write as _;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use crate::limits;

/// Adds functions, filters, string methods and the way values are printed.
pub(super) fn install(env: &mut Environment<'static>) {
    super::bounds::install(env);
    env.add_function(
        "raise_exception",
        |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", |format: String| strftime(&format, now()));
    // Nothing is no empty list in Python.
    env.add_test("iterable", |value: Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    env.add_filter("tojson", tojson);
    env.add_filter("length", length);
    env.add_filter("count", length);
}

/// JSON as a value; the order of keys is kept.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), value(v)))),
    }
}

/// Output that stops at [`limits::MAX_RENDERED_BYTES`].
#[derive(Default)]
pub(super) struct Bounded {
    pub bytes: Vec<u8>,
    pub overflown: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > limits::MAX_RENDERED_BYTES - self.bytes.len() {
            self.overflown = true;
            return Err(io::Error::other("output too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks what a model said, for training. It opens a scope and renders
/// its body, which `{% with %}` does too.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let inner = tag[2..]
            .strip_prefix(['-', '+'])
            .unwrap_or(&tag[2..])
            .trim_start();
        let name_at = tag.len() - inner.len();
        let word = ["generation", "endgeneration"].into_iter().find(|w| {
            let after = inner.strip_prefix(w).map(str::trim_start);
            after.is_some_and(|a| a.strip_prefix(['-', '+']).unwrap_or(a).starts_with("%}"))
        });
        out.push_str(&tag[..name_at]);
        rest = &tag[name_at..];
        if let Some(word) = word {
            out.push_str(if word == "generation" {
                "with"
            } else {
                "endwith"
            });
            rest = &rest[word.len()..];
        }
    }
    out + rest
}

/// Jinja's `length`, which is 0 for undefined values.
fn length(value: Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("{} has no length", value.kind()),
        )
    })
}

/// Hugging Face's `tojson`: Python's `json.dumps` with `ensure_ascii` off by default.
fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let indent: Option<usize> = kwargs.get("indent")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        None => (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        ),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "separators need two texts",
            ));
        }
    };
    let mut json = Writer {
        out: String::new(),
        item,
        key,
        indent: indent.map(|i| i.min(16)),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    json.value(&value, 0)?;
    Ok(Value::from(json.out))
}

struct Writer {
    out: String,
    item: String,
    key: String,
    indent: Option<usize>,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > 32 || self.out.len() > limits::MAX_RENDERED_BYTES {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "value too large for tojson",
            ));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.take(limits::MAX_PROMPT_BYTES).collect();
                self.list('[', ']', items.len(), depth, |json, i| {
                    json.value(&items[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list('{', '}', keys.len(), depth, |json, i| {
                    json.string(&keys[i].to_string());
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.value(&value.get_item(&keys[i])?, depth + 1)
                })?;
            }
            kind => {
                let message = format!("{kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        len: usize,
        depth: usize,
        mut element: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..len {
            if i > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            element(self, i)?;
        }
        if len > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn number(&mut self, value: &Value) {
        let text = value.to_string();
        self.out.push_str(&text);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' '
                    || self.ensure_ascii && !c.is_ascii()
                    || c == '\u{7f}' && self.ensure_ascii =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Seconds since 1970, UTC; 0 if the clock is before that.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Year, month (1 to 12) and day of the month of a day counted from 1970-01-01, in the
/// Gregorian calendar. Years are taken to begin in March, which puts the leap day last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days from 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

/// Python's `strftime` for the codes that templates use; time zone UTC.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (clock / 3_600, clock / 60 % 60, clock % 60);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
    let day_of_year = before + day + u64::from(leap && month > 2);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[((days + 4) % 7) as usize]);
    let hour12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let code = chars.next();
        let (pad, code) = if code == Some('-') {
            (1, chars.next())
        } else {
            (2, code)
        };
        let done = match code {
            Some('d') => write!(out, "{day:0pad$}"),
            Some('e') => write!(out, "{day:2}"),
            Some('m') => write!(out, "{month:0pad$}"),
            Some('y') => write!(out, "{:0pad$}", year % 100),
            Some('Y') => write!(out, "{year}"),
            Some('H') => write!(out, "{hour:0pad$}"),
            Some('I') => write!(out, "{hour12:0pad$}"),
            Some('M') => write!(out, "{minute:0pad$}"),
            Some('S') => write!(out, "{second:0pad$}"),
            Some('j') => write!(out, "{day_of_year:0w$}", w = if pad == 1 { 1 } else { 3 }),
            Some('B') => write!(out, "{month_name}"),
            Some('b' | 'h') => write!(out, "{}", &month_name[..3]),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", &day_name[..3]),
            Some('p') => write!(out, "{half}"),
            Some('F') => write!(out, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => write!(out, "UTC"),
            Some('%') => write!(out, "%"),
            other => {
                let code = other.map_or("nothing".to_owned(), |c| format!("`{c}`"));
                let message = format!("strftime_now: {code} after % is not known");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        // Writing to a string does not fail.
        let _ = done;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let all = "%d %b %Y|%A %B %-d|%y-%m-%e %H:%M:%S %I %p %j %%";
        // 2024-02-29 13:05:09 UTC, a Thursday.
        let expected = "29 Feb 2024|Thursday February 29|24-02-29 13:05:09 01 PM 060 %";
        assert_eq!(strftime(all, 1_709_211_909).expect("known codes"), expected);
        assert_eq!(
            strftime("%F %T %a", 0).expect("known codes"),
            "1970-01-01 00:00:00 Thu"
        );
        // 2100 has no leap day.
        assert_eq!(
            strftime("%F", 4_107_542_400).expect("known codes"),
            "2100-03-01"
        );
        assert!(strftime("%Q", 0).is_err());
        assert!(strftime("%", 0).is_err());
    }

    #[test]
    fn generation_tags_become_scopes() {
        let source = "{%- generation -%}a{% set x = '{%' %}{%endgeneration%}{% generation_x %}";
        let expected = "{%- with -%}a{% set x = '{%' %}{%endwith%}{% generation_x %}";
        assert_eq!(without_generation_tags(source), expected);
    }

    fn json(expression: &str) -> Result<String, Error> {
        let mut env = Environment::new();
        install(&mut env);
        super::super::bounds::start();
        env.render_str(expression, ())
    }

    #[test]
    fn json_is_written_like_python() {
        let data = r#"{"a": [1, 2.5, true, none, "é<'\n"], "b": {}}"#;
        let plain = "{\"a\": [1, 2.5, true, null, \"é<'\\n\"], \"b\": {}}";
        assert_eq!(
            json(&format!("{{{{ {data}|tojson }}}}")).expect("renders"),
            plain
        );
        let ascii = json("{{ 'é😀'|tojson(ensure_ascii=true) }}").expect("renders");
        assert_eq!(ascii, r#""\u00e9\ud83d\ude00""#);
        let indented =
            json("{{ {'b': 1, 'a': []}|tojson(indent=2, sort_keys=true) }}").expect("renders");
        assert_eq!(indented, "{\n  \"a\": [],\n  \"b\": 1\n}");
        let compact = json("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}").expect("renders");
        assert_eq!(compact, r#"[1,{"a":2}]"#);
        assert!(json("{{ 1|tojson(unknown=1) }}").is_err());
    }

    #[test]
    fn values_print_like_python() {
        let shown =
            json("{{ none }} {{ true }} {{ missing }} {{ missing|length }} {{ none is iterable }}");
        assert_eq!(shown.expect("renders"), "None True  0 False");
    }
}
