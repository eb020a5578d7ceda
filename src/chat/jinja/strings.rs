//! Methods of texts.

use super::args::{Given, flag, int, int_or, some, text};
use super::chars::{
    is_alnum, is_alpha, is_cased, is_decimal, is_digit, is_numeric, is_printable, is_space,
    is_title, is_word, push_title,
};
use super::print::html;
use super::value::{Text, Value};
use super::vm::Vm;
use super::{Fail, fail};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

/// All of Python's.
pub(super) const METHODS: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Lines with or without their ends, as `splitlines` cuts them.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let c = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = at + if rest[at..].starts_with("\r\n") { 2 } else { c };
        out.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// Text in which words begin with a large letter.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            push_title(c, &mut out);
        }
        inside = is_cased(c);
    }
    out
}

pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    if let Some(first) = chars.next() {
        push_title(first, &mut out);
    }
    out + &chars.as_str().to_lowercase()
}

fn swapcase(text: &str) -> String {
    let swap = |c: char| -> String {
        if c.is_uppercase() {
            c.to_lowercase().collect()
        } else {
            c.to_uppercase().collect()
        }
    };
    text.chars().map(swap).collect()
}

fn casefold(text: &str) -> String {
    let fold = |c: char| {
        if c == 'ı' {
            "ı".into()
        } else {
            c.to_string().to_uppercase().to_lowercase()
        }
    };
    text.chars().map(fold).collect::<String>().replace('ς', "σ")
}

/// Whether words begin with large letters and go on with small ones.
fn is_titled(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() || is_title(c) {
            if inside {
                return false;
            }
            (inside, any) = (true, true);
        } else if c.is_lowercase() {
            if !inside {
                return false;
            }
            any = true;
        } else {
            inside = false;
        }
    }
    any
}

pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// The methods that ask something about all characters.
fn asks(text: &str, name: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    Some(match name {
        "isalnum" => all(is_alnum),
        "isalpha" => all(is_alpha),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "islower" => is_lower(text),
        "isupper" => is_upper(text),
        "istitle" => is_titled(text),
        "isidentifier" => {
            let first = text.chars().next();
            first.is_some_and(|c| c == '_' || is_alpha(c)) && text.chars().all(is_word)
        }
        _ => return None,
    })
}

/// Strips characters from one or both ends.
pub(super) fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let drop = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left {
        text.trim_start_matches(drop)
    } else {
        text
    };
    if right {
        text.trim_end_matches(drop)
    } else {
        text
    }
}

/// Pieces between white space, at most `limit` cuts.
fn words(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = strip(rest, None, !from_right, from_right);
        if rest.is_empty() {
            break;
        }
        let cut = if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        match cut.filter(|_| out.len() < limit) {
            None => {
                out.push(strip(rest, None, from_right && out.len() >= limit, false));
                break;
            }
            Some(at) if from_right => {
                let after = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                out.push(&rest[after..]);
                rest = &rest[..at];
            }
            Some(at) => {
                out.push(&rest[..at]);
                rest = &rest[at..];
            }
        }
    }
    if from_right {
        // Only the ends that cuts touch are stripped.
        out.reverse();
    }
    out
}

/// Byte range of `text[start:stop]`.
fn span(text: &str, start: i64, stop: Option<i64>) -> Option<std::ops::Range<usize>> {
    let len = text.chars().count() as i64;
    let place = |at: i64| {
        if at < 0 {
            at.saturating_add(len).max(0)
        } else {
            at
        }
    };
    let (start, stop) = (place(start), place(stop.unwrap_or(len)).min(len));
    let byte = |at: i64| {
        text.char_indices()
            .nth(at as usize)
            .map_or(text.len(), |(i, _)| i)
    };
    (start <= stop && start <= len).then(|| byte(start)..byte(stop))
}

impl Vm<'_> {
    pub(super) fn text_method(&mut self, own: &Text, name: &str, given: Given) -> Result<Value> {
        self.work(own.len())?;
        if let Some(holds) = asks(own, name) {
            given.none(name)?;
            return Ok(Value::Bool(holds));
        }
        match name {
            "capitalize" | "casefold" | "lower" | "swapcase" | "title" | "upper" => {
                given.none(name)?;
                self.memory(3 * own.len())?;
                self.like(
                    own,
                    match name {
                        "capitalize" => capitalize(own),
                        "casefold" => casefold(own),
                        "lower" => own.to_lowercase(),
                        "swapcase" => swapcase(own),
                        "title" => title(own),
                        _ => own.to_uppercase(),
                    },
                )
            }
            "center" | "ljust" | "rjust" => self.padded(own, name, given),
            "zfill" => {
                let [width] = given.bind(name, ["<width>"], 1)?;
                let width = int(name, &width.unwrap_or(Value::None))?;
                let zeros = self.padding(own, width, "0")?;
                let digits = own.strip_prefix(['+', '-']).unwrap_or(own);
                let sign = &own[..own.len() - digits.len()];
                self.like(own, format!("{sign}{zeros}{digits}"))
            }
            "count" | "find" | "index" | "rfind" | "rindex" => self.search(own, name, given),
            "startswith" | "endswith" => self.starts_or_ends(own, name, given),
            "strip" | "lstrip" | "rstrip" => {
                let [chars] = given.bind(name, ["<chars>"], 0)?;
                let chars = some(&chars).map(|c| text(name, c)).transpose()?;
                self.work(own.len() * chars.map_or(1, str::len).min(64))?;
                self.like(
                    own,
                    strip(own, chars, name != "rstrip", name != "lstrip").to_owned(),
                )
            }
            "split" | "rsplit" => self.split(own, name, given),
            "splitlines" => {
                let [keep] = given.bind(name, ["keepends"], 0)?;
                let parts = lines(own, flag(&keep))
                    .into_iter()
                    .map(str::to_owned)
                    .collect();
                self.pieces(own, parts)
            }
            "partition" | "rpartition" => self.partition(own, name, given),
            "removeprefix" | "removesuffix" => {
                let [affix] = given.bind(name, ["<affix>"], 1)?;
                let affix = affix.unwrap_or(Value::None);
                let affix = text(name, &affix)?;
                let rest = if name == "removeprefix" {
                    own.strip_prefix(affix)
                } else {
                    own.strip_suffix(affix)
                };
                self.like(own, rest.unwrap_or(own).to_owned())
            }
            "replace" => {
                let [old, new, count] = given.bind(name, ["<old>", "<new>", "count"], 2)?;
                let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
                let (old, new) = (
                    text(name, &old)?,
                    self.argument(own, text(name, &new)?, &new),
                );
                let count = int_or(name, &count, -1)?;
                self.replaced(own, old, &new, count)
            }
            "join" => self.join_method(own, given),
            "expandtabs" => {
                let [size] = given.bind(name, ["tabsize"], 0)?;
                let size = int_or(name, &size, 8)?.clamp(0, 1 << 20) as usize;
                self.memory(own.matches('\t').count().saturating_mul(size) + own.len())?;
                self.like(own, expand_tabs(own, size))
            }
            "format" => self.format_method(own, given),
            "format_map" => {
                let [map] = given.bind(name, ["<map>"], 1)?;
                let Some(Value::Dict(map)) = map else {
                    return fail("format_map needs a mapping");
                };
                let named = map
                    .entries
                    .iter()
                    .filter_map(|(k, v)| Some((k.as_text()?.text.clone(), v.clone())));
                let named = named.collect();
                self.format_method(
                    own,
                    Given {
                        positional: Vec::new(),
                        named,
                    },
                )
            }
            other => fail(format!("`{other}` is not available in chat templates")),
        }
    }

    /// A text that is safe if `own` is.
    pub(super) fn like(&mut self, own: &Text, text: impl Into<String>) -> Result<Value> {
        let text: String = text.into();
        self.memory(text.len())?;
        Ok(Value::Text(Text {
            text: text.into(),
            safe: own.safe,
        }))
    }

    /// An argument of a method: safe text takes in other text escaped.
    fn argument(&self, own: &Text, text: &str, value: &Value) -> String {
        let safe = value.as_text().is_some_and(|t| t.safe);
        if own.safe && !safe {
            html(text)
        } else {
            text.to_owned()
        }
    }

    fn pieces(&mut self, own: &Text, parts: Vec<String>) -> Result<Value> {
        let mut items = Vec::new();
        self.memory(parts.len().saturating_mul(2 * size_of::<Value>()))?;
        for part in parts {
            items.push(self.like(own, part)?);
        }
        Value::list(items)
    }

    /// What makes a text `width` characters long, counted before it is made.
    fn padding(&mut self, own: &Text, width: i64, fill: &str) -> Result<String> {
        let have = own.chars().count();
        let missing = usize::try_from(width).unwrap_or(0).saturating_sub(have);
        if missing > limits::MAX_RENDERED_BYTES {
            return fail(format!(
                "a width of {width}, allowed: {}",
                limits::MAX_RENDERED_BYTES
            ));
        }
        self.memory(missing.saturating_mul(fill.len()))?;
        Ok(fill.repeat(missing))
    }

    fn padded(&mut self, own: &Text, name: &str, given: Given) -> Result<Value> {
        let [width, fill] = given.bind(name, ["<width>", "<fillchar>"], 1)?;
        let width = int(name, &width.unwrap_or(Value::None))?;
        let fill = self.or_text(fill, " ")?;
        let fill = text(name, &fill)?;
        if fill.chars().count() != 1 {
            return fail("The fill character must be exactly one character long");
        }
        let padding = self.padding(own, width, fill)?;
        let total = padding.chars().count();
        let left = match name {
            "ljust" => 0,
            "rjust" => total,
            _ => total / 2 + (total & width as usize & 1),
        };
        let (left, right) = padding.split_at(left * fill.len());
        self.like(own, [left, own, right].concat())
    }

    fn search(&mut self, own: &Text, name: &str, given: Given) -> Result<Value> {
        let [part, start, stop] = given.bind(name, ["<sub>", "<start>", "<end>"], 1)?;
        let part = part.unwrap_or(Value::None);
        let part = text(name, &part)?;
        let start = some(&start).map_or(Ok(0), |v| int(name, v))?;
        let stop = some(&stop).map(|v| int(name, v)).transpose()?;
        let range = span(own, start, stop);
        let inside = range.as_ref().map_or("", |r| &own[r.clone()]);
        if name == "count" {
            let count = match (part, &range) {
                (_, None) => 0,
                ("", _) => inside.chars().count() + 1,
                _ => inside.matches(part).count(),
            };
            return Ok(Value::Int(count as i128));
        }
        let found = if name.starts_with('r') {
            inside.rfind(part)
        } else {
            inside.find(part)
        };
        let place = range
            .zip(found)
            .map(|(r, at)| own[..r.start + at].chars().count() as i128);
        match place {
            Some(place) => Ok(Value::Int(place)),
            None if name.ends_with("find") => Ok(Value::Int(-1)),
            None => fail("substring not found"),
        }
    }

    fn starts_or_ends(&mut self, own: &Text, name: &str, given: Given) -> Result<Value> {
        let [part, start, stop] = given.bind(name, ["<affix>", "<start>", "<end>"], 1)?;
        let part = part.unwrap_or(Value::None);
        let start = some(&start).map_or(Ok(0), |v| int(name, v))?;
        let stop = some(&stop).map(|v| int(name, v)).transpose()?;
        let Some(range) = span(own, start, stop) else {
            return Ok(Value::Bool(false));
        };
        let inside = &own[range];
        let single = std::slice::from_ref(&part);
        let parts = match &part {
            Value::Tuple(items) => &items.items,
            _ => single,
        };
        let mut holds = false;
        for part in parts {
            let part = text(name, part)?;
            holds |= if name == "startswith" {
                inside.starts_with(part)
            } else {
                inside.ends_with(part)
            };
        }
        Ok(Value::Bool(holds))
    }

    fn split(&mut self, own: &Text, name: &str, given: Given) -> Result<Value> {
        let [separator, limit] = given.bind(name, ["sep", "maxsplit"], 0)?;
        let limit = int_or(name, &limit, -1)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let from_right = name == "rsplit";
        let parts: Vec<&str> = match some(&separator) {
            None => words(own, limit, from_right),
            Some(separator) => {
                let separator = text(name, separator)?;
                if separator.is_empty() {
                    return fail("empty separator");
                }
                let most = limit.saturating_add(1);
                if from_right {
                    let mut parts: Vec<&str> = own.rsplitn(most, separator).collect();
                    parts.reverse();
                    parts
                } else {
                    own.splitn(most, separator).collect()
                }
            }
        };
        self.memory(parts.len().saturating_mul(2 * size_of::<Value>()))?;
        self.pieces(own, parts.into_iter().map(str::to_owned).collect())
    }

    fn partition(&mut self, own: &Text, name: &str, given: Given) -> Result<Value> {
        let [separator] = given.bind(name, ["<sep>"], 1)?;
        let separator = separator.unwrap_or(Value::None);
        let separator = text(name, &separator)?;
        if separator.is_empty() {
            return fail("empty separator");
        }
        let parts = match (name, own.split_once(separator), own.rsplit_once(separator)) {
            ("partition", Some((a, b)), _) | ("rpartition", _, Some((a, b))) => [a, separator, b],
            ("partition", ..) => [own, "", ""],
            _ => ["", "", own],
        };
        let parts = parts
            .iter()
            .map(|p| self.like(own, *p))
            .collect::<Result<_>>()?;
        Value::tuple(parts)
    }

    /// `replace`, with at most `count` replacements if that is not negative.
    pub(super) fn replaced(
        &mut self,
        own: &Text,
        old: &str,
        new: &str,
        count: i64,
    ) -> Result<Value> {
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        let found = own.matches(old).count().min(most);
        self.work(found.saturating_mul(64))?;
        self.memory(found.saturating_mul(new.len()).saturating_add(own.len()))?;
        self.like(own, own.replacen(old, new, most))
    }

    fn join_method(&mut self, own: &Text, given: Given) -> Result<Value> {
        let [items] = given.bind("join", ["<iterable>"], 1)?;
        let mut out = String::new();
        for (i, item) in items
            .unwrap_or(Value::None)
            .elements(self)?
            .iter()
            .enumerate()
        {
            let Value::Text(item_text) = item else {
                let name = item.type_name();
                return fail(format!(
                    "sequence item {i}: expected str instance, {name} found"
                ));
            };
            self.memory(item_text.len() + own.len() + 1)?;
            out.push_str(if i > 0 { own } else { "" });
            out.push_str(&self.argument(own, item_text, item));
        }
        self.like(own, out)
    }
}

fn expand_tabs(text: &str, size: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c => {
                column = if matches!(c, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
                out.push(c);
            }
        }
    }
    out
}
