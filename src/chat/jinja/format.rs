//! `%` and `str.format`.

use super::args::Given;
use super::print::{escape, float, html};
use super::value::{Text, Value};
use super::vm::Vm;
use super::{Fail, cut, fail};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

/// How a value is to be laid out.
#[derive(Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Digits of a float that is not negative, as C prints them.
fn digits(f: f64, kind: char, precision: usize, alternate: bool) -> String {
    if !f.is_finite() {
        let text = if f.is_nan() { "nan" } else { "inf" };
        return if kind.is_uppercase() {
            text.to_uppercase()
        } else {
            text.into()
        };
    }
    let text = match kind.to_ascii_lowercase() {
        'f' => format!("{f:.precision$}"),
        '%' => format!("{:.precision$}", f * 100.0),
        'e' => scientific(f, precision),
        _ => {
            let precision = precision.max(1);
            let first = format!("{f:.*e}", precision - 1);
            let exponent: i64 = first
                .split_once('e')
                .and_then(|(_, e)| e.parse().ok())
                .unwrap_or(0);
            let text = if (-4..precision as i64).contains(&exponent) {
                format!("{f:.*}", (precision as i64 - 1 - exponent) as usize)
            } else {
                scientific(f, precision - 1)
            };
            if alternate {
                text
            } else {
                let (mantissa, exponent) = text.split_at(text.find('e').unwrap_or(text.len()));
                let mantissa = match mantissa.contains('.') {
                    true => mantissa.trim_end_matches('0').trim_end_matches('.'),
                    false => mantissa,
                };
                format!("{mantissa}{exponent}")
            }
        }
    };
    let text = match alternate && !text.contains('.') {
        true => {
            let at = text.find(['e', '%']).unwrap_or(text.len());
            format!("{}.{}", &text[..at], &text[at..])
        }
        false => text,
    };
    if kind.is_uppercase() {
        text.to_uppercase()
    } else {
        text
    }
}

fn scientific(f: f64, precision: usize) -> String {
    let text = format!("{f:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{exponent:0>2}")
}

fn radix(value: u128, kind: char) -> String {
    match kind {
        'b' => format!("{value:b}"),
        'o' => format!("{value:o}"),
        'x' => format!("{value:x}"),
        'X' => format!("{value:X}"),
        _ => value.to_string(),
    }
}

/// Separators between groups of digits before the point.
fn grouped(text: &str, mark: char, size: usize) -> String {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    let mut out = String::new();
    for (i, c) in text[..end].chars().enumerate() {
        if i > 0 && (end - i).is_multiple_of(size) {
            out.push(mark);
        }
        out.push(c);
    }
    out + &text[end..]
}

impl Vm<'_> {
    /// A width or precision that is not absurd.
    fn bounded(&mut self, n: usize) -> Result<usize> {
        if n > limits::MAX_RENDERED_BYTES {
            return fail(format!(
                "a width of {n}, allowed: {}",
                limits::MAX_RENDERED_BYTES
            ));
        }
        self.memory(n)?;
        Ok(n)
    }

    /// Pads to the width; zeros go between the sign and the digits.
    fn laid_out(&mut self, spec: &Spec, prefix: &str, body: &str, default: char) -> Result<String> {
        let have = prefix.chars().count() + body.chars().count();
        let missing = self.bounded(spec.width)?.saturating_sub(have);
        let fill = spec.fill.unwrap_or(' ').to_string();
        let pad = |n: usize| fill.repeat(n);
        Ok(match spec.align.unwrap_or(default) {
            '<' => format!("{prefix}{body}{}", pad(missing)),
            '^' => format!(
                "{}{prefix}{body}{}",
                pad(missing / 2),
                pad(missing - missing / 2)
            ),
            '=' => format!("{prefix}{}{body}", pad(missing)),
            _ => format!("{}{prefix}{body}", pad(missing)),
        })
    }

    fn number(&mut self, spec: &Spec, negative: bool, prefix: &str, text: &str) -> Result<String> {
        let sign = match (negative, spec.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let prefix = format!("{sign}{prefix}");
        let size = if matches!(spec.kind, Some('b' | 'o' | 'x' | 'X')) {
            4
        } else {
            3
        };
        let mut text = text.to_owned();
        if let Some(mark) = spec.grouping {
            let width = self.bounded(spec.width)?.saturating_sub(prefix.len());
            let plain = text.clone();
            text = grouped(&plain, mark, size);
            let mut zeros = 0;
            while spec.fill == Some('0') && spec.align == Some('=') && text.len() < width {
                zeros += 1;
                self.work(zeros + plain.len())?;
                text = grouped(&("0".repeat(zeros) + &plain), mark, size);
            }
        }
        self.laid_out(spec, &prefix, &text, '>')
    }

    fn integer(&mut self, spec: &Spec, value: i128) -> Result<String> {
        let kind = spec.kind.unwrap_or('d');
        let prefix = match kind {
            'b' | 'o' | 'x' | 'X' if spec.alternate => format!("0{kind}"),
            _ => String::new(),
        };
        let text = radix(value.unsigned_abs(), kind);
        self.number(spec, value < 0, &prefix, &text)
    }

    fn real(&mut self, spec: &Spec, value: f64) -> Result<String> {
        let precision = self.bounded(spec.precision.unwrap_or(6))?;
        let (kind, magnitude) = (spec.kind.unwrap_or('r'), value.abs());
        let mut text = match (kind, spec.precision) {
            ('r', None) => float(magnitude),
            ('r', Some(_)) => {
                let text = digits(magnitude, 'g', precision, spec.alternate);
                if text.contains(['.', 'e', 'n']) {
                    text
                } else {
                    text + ".0"
                }
            }
            ('n', _) => digits(magnitude, 'g', precision, spec.alternate),
            _ => digits(magnitude, kind, precision, spec.alternate),
        };
        if kind == '%' {
            text.push('%');
        }
        let negative = value.is_sign_negative() && !value.is_nan();
        self.number(spec, negative, "", &text)
    }

    // `%`

    /// `format % args`
    pub(super) fn percent(&mut self, format: &Text, args: &Value) -> Result<Value> {
        let one = std::slice::from_ref(args);
        let list = match args {
            Value::Tuple(items) | Value::Group(items) => &items.items[..],
            _ => one,
        };
        // Python does not count what lists and mappings hold.
        let uncounted = |v: &Value| {
            matches!(
                v,
                Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_)
            )
        };
        let counted = !uncounted(args);
        let mut state = Percent {
            chars: format.chars().collect(),
            at: 0,
            list,
            used: 0,
        };
        self.memory(4 * format.len())?;
        self.work(format.len())?;
        let mut out = String::new();
        while let Some(c) = state.next() {
            match c {
                '%' => self.conversion(&mut state, format.safe, args, &mut out)?,
                c => out.push(c),
            }
        }
        if counted && state.used < list.len() {
            return fail("not all arguments converted during string formatting");
        }
        self.like(format, out)
    }

    fn conversion(
        &mut self,
        state: &mut Percent<'_>,
        safe: bool,
        args: &Value,
        out: &mut String,
    ) -> Result<()> {
        let key = state.key()?;
        let mut spec = Spec::default();
        let mut left = false;
        let mut zero = false;
        while let Some(c) = state.next_if(|c| "#0- +".contains(c)) {
            match c {
                '#' => spec.alternate = true,
                '0' => zero = true,
                '-' => left = true,
                '+' => spec.sign = Some('+'),
                _ => spec.sign = spec.sign.or(Some(' ')),
            }
        }
        if let Some(width) = state.size()? {
            left |= width < 0;
            spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        }
        if state.next_if(|c| c == '.').is_some() {
            let precision = state.size()?.unwrap_or(0).max(0);
            let precision = usize::try_from(precision).unwrap_or(usize::MAX);
            spec.precision = Some(self.bounded(precision)?);
        }
        state.next_if(|c| matches!(c, 'h' | 'l' | 'L'));
        let Some(kind) = state.next() else {
            return fail("incomplete format");
        };
        if kind == '%' {
            out.push('%');
            return Ok(());
        }
        let value = match (&key, args) {
            (None, _) => state.argument()?.clone(),
            (Some(key), Value::Dict(dict)) => match dict.get_text(key) {
                Some(value) => value.clone(),
                None => return fail(format!("the format needs the key '{}'", cut(key))),
            },
            (Some(_), _) => return fail("format requires a mapping"),
        };
        spec.align = left.then_some('<');
        if zero && !left {
            (spec.fill, spec.align) = (Some('0'), Some('='));
        }
        let text = self.converted(kind, spec, &value, safe)?;
        self.memory(text.len())?;
        out.push_str(&text);
        Ok(())
    }

    fn converted(
        &mut self,
        kind: char,
        mut spec: Spec,
        value: &Value,
        safe: bool,
    ) -> Result<String> {
        if matches!(kind, 's' | 'r' | 'a' | 'c') {
            if spec.fill.is_some() {
                (spec.fill, spec.align) = (None, None);
            }
            let text = match kind {
                's' => self.str(value)?,
                'c' => character(value)?,
                _ => self.repr(value)?,
            };
            let text = if kind == 'a' { ascii(&text) } else { text };
            let marked = value.as_text().is_some_and(|t| t.safe) && kind == 's';
            let text = if safe && !marked && kind != 'c' {
                html(&text)
            } else {
                text
            };
            let text = match spec.precision.filter(|_| kind != 'c') {
                Some(n) => text.chars().take(n).collect(),
                None => text,
            };
            return self.laid_out(&spec, "", &text, '>');
        }
        let number = || {
            format!(
                "%{kind} format: a number is required, not {}",
                value.type_name()
            )
        };
        match kind {
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
                let float = match value {
                    Value::Float(f) if matches!(kind, 'd' | 'i' | 'u') => f
                        .is_finite()
                        .then_some(f.trunc())
                        .and_then(super::value::exact_int),
                    _ => None,
                };
                let Some(integer) = value.as_int().or(float) else {
                    return fail(number());
                };
                let kind = if matches!(kind, 'i' | 'u') { 'd' } else { kind };
                let prefix = match kind {
                    'o' | 'x' | 'X' if spec.alternate => format!("0{kind}"),
                    _ => String::new(),
                };
                let text = radix(integer.unsigned_abs(), kind);
                let least = spec.precision.unwrap_or(0);
                let text = format!("{}{text}", "0".repeat(least.saturating_sub(text.len())));
                self.number(&spec, integer < 0, &prefix, &text)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let Some(float) = value.as_float() else {
                    return fail(number());
                };
                if !float.is_finite() && spec.fill.is_some() {
                    spec.fill = Some('0');
                }
                spec.kind = Some(kind);
                self.real(&spec, float)
            }
            other => fail(format!("unsupported format character {other:?}")),
        }
    }

    // `str.format`

    pub(super) fn format_method(&mut self, format: &Text, given: Given) -> Result<Value> {
        let mut next = Some(0);
        let text = self.formatted(format, format.safe, &given, &mut next, 2)?;
        self.like(format, text)
    }

    fn formatted(
        &mut self,
        format: &str,
        safe: bool,
        given: &Given,
        next: &mut Option<usize>,
        depth: usize,
    ) -> Result<String> {
        if depth == 0 {
            return fail("Max string recursion exceeded");
        }
        self.work(format.len())?;
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let (mark, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(mark) {
                out.push_str(mark);
                rest = after;
                continue;
            }
            if mark == "}" {
                return fail("Single '}' encountered in format string");
            }
            let Some(end) = closing(after) else {
                return fail("expected '}' before end of string");
            };
            let text = self.field(&after[..end], safe, given, next, depth)?;
            self.memory(text.len())?;
            out.push_str(&text);
            rest = &after[end + 1..];
        }
        Ok(out + rest)
    }

    /// `name.attribute[item]!r:spec`
    fn field(
        &mut self,
        field: &str,
        safe: bool,
        given: &Given,
        next: &mut Option<usize>,
        depth: usize,
    ) -> Result<String> {
        let bracket =
            |at: usize| field[..at].matches('[').count() > field[..at].matches(']').count();
        let end = field
            .match_indices(['!', ':'])
            .map(|(at, _)| at)
            .find(|&at| !bracket(at));
        let (name, rest) = field.split_at(end.unwrap_or(field.len()));
        let (conversion, spec) = match rest.strip_prefix('!') {
            Some(rest) => {
                let mut chars = rest.chars();
                let kind = chars.next();
                match (kind, chars.as_str()) {
                    (Some(kind), "") => (Some(kind), ""),
                    (Some(kind), more) if more.starts_with(':') => (Some(kind), &more[1..]),
                    _ => return fail("expected ':' after conversion specifier"),
                }
            }
            None => (None, rest.strip_prefix(':').unwrap_or("")),
        };
        let mut value = self.field_value(name, given, next)?;
        match conversion {
            None => {}
            Some('s') => value = Value::text(self.str(&value)?),
            Some('r') => value = Value::text(self.repr(&value)?),
            Some('a') => value = Value::text(ascii(&self.repr(&value)?)),
            Some(other) => return fail(format!("Unknown conversion specifier {other:?}")),
        }
        let spec = if spec.contains(['{', '}']) {
            self.formatted(spec, false, given, next, depth - 1)?
        } else {
            spec.to_owned()
        };
        let marked = value.as_text().is_some_and(|t| t.safe);
        let text = self.format_value(&value, &spec)?;
        Ok(if safe && !marked { html(&text) } else { text })
    }

    fn field_value(
        &mut self,
        name: &str,
        given: &Given,
        next: &mut Option<usize>,
    ) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let place = match first.parse::<usize>() {
            Ok(at) if first.bytes().all(|b| b.is_ascii_digit()) => {
                if next.is_some_and(|n| n > 0) {
                    return fail(
                        "cannot switch from automatic field numbering to manual field specification",
                    );
                }
                *next = None;
                Some(at)
            }
            _ if first.is_empty() => match next {
                Some(n) => {
                    *n += 1;
                    Some(*n - 1)
                }
                None => {
                    return fail(
                        "cannot switch from manual field specification to automatic field numbering",
                    );
                }
            },
            _ => None,
        };
        let found = match place {
            Some(at) => given.positional.get(at),
            None => given
                .named
                .iter()
                .find(|(n, _)| **n == *first)
                .map(|(_, v)| v),
        };
        let Some(found) = found else {
            return fail(format!("the format needs the argument '{}'", cut(first)));
        };
        let mut value = found.clone();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let Some((key, after)) = rest[1..].split_once(']') else {
                    return fail("Missing ']' in format string");
                };
                let key = match key.parse::<i128>() {
                    Ok(at) if at >= 0 => Value::Int(at),
                    _ => Value::text(key),
                };
                value = self.item(&value, &key)?;
                rest = after;
            }
        }
        Ok(value)
    }

    /// Python's `format(value, spec)`.
    fn format_value(&mut self, value: &Value, spec: &str) -> Result<String> {
        if spec.is_empty() {
            return self.str(value);
        }
        let parsed = parse_spec(spec)?;
        let unknown = |kind: char| {
            fail(format!(
                "Unknown format code '{kind}' for object of type '{}'",
                value.type_name()
            ))
        };
        match (value, parsed.kind) {
            (Value::Text(text), None | Some('s')) => {
                if parsed.sign.is_some() || parsed.alternate || parsed.grouping.is_some() {
                    return fail("a text has no sign, no grouping and no alternate form");
                }
                let text = match parsed.precision {
                    Some(n) => text.chars().take(n).collect(),
                    None => text.to_string(),
                };
                if parsed.align == Some('=') {
                    return self.laid_out(
                        &Spec {
                            align: None,
                            ..parsed
                        },
                        "",
                        &text,
                        '<',
                    );
                }
                self.laid_out(&parsed, "", &text, '<')
            }
            (Value::Int(_) | Value::Bool(_), None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X')) => {
                if parsed.precision.is_some() {
                    return fail("Precision not allowed in integer format specifier");
                }
                self.integer(&parsed, value.as_int().unwrap_or(0))
            }
            (Value::Int(_) | Value::Bool(_), Some('c')) => {
                let text = character(value)?;
                self.laid_out(&parsed, "", &text, '<')
            }
            (
                Value::Int(_) | Value::Bool(_) | Value::Float(_),
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'),
            )
            | (Value::Float(_), None | Some('n')) => {
                self.real(&parsed, value.as_float().unwrap_or(0.0))
            }
            (Value::Text(_) | Value::Int(_) | Value::Bool(_) | Value::Float(_), Some(kind)) => {
                unknown(kind)
            }
            (other, _) => {
                let name = other.type_name();
                fail(format!(
                    "unsupported format string passed to {name}.__format__"
                ))
            }
        }
    }
}

/// The state of a `%` format.
struct Percent<'v> {
    chars: Vec<char>,
    at: usize,
    list: &'v [Value],
    used: usize,
}

impl Percent<'_> {
    fn next(&mut self) -> Option<char> {
        self.at += 1;
        self.chars.get(self.at - 1).copied()
    }

    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        let c = self.chars.get(self.at).copied().filter(|&c| wanted(c))?;
        self.at += 1;
        Some(c)
    }

    fn argument(&mut self) -> Result<&Value> {
        self.used += 1;
        match self.list.get(self.used - 1) {
            Some(value) => Ok(value),
            None => fail("not enough arguments for format string"),
        }
    }

    /// `(key)`
    fn key(&mut self) -> Result<Option<String>> {
        if self.next_if(|c| c == '(').is_none() {
            return Ok(None);
        }
        let (mut key, mut open) = (String::new(), 1);
        loop {
            match self.next() {
                None => return fail("incomplete format key"),
                Some('(') => open += 1,
                Some(')') => open -= 1,
                Some(_) => {}
            }
            if open == 0 {
                return Ok(Some(key));
            }
            key.push(self.chars[self.at - 1]);
        }
    }

    /// Digits, or the next argument for `*`.
    fn size(&mut self) -> Result<Option<i64>> {
        if self.next_if(|c| c == '*').is_some() {
            return match self.argument()?.as_int().map(i64::try_from) {
                Some(Ok(size)) => Ok(Some(size)),
                _ => fail("* wants int"),
            };
        }
        let mut size = None;
        while let Some(c) = self.next_if(|c| c.is_ascii_digit()) {
            let digit = i64::from(c as u32 - '0' as u32);
            size = Some(
                size.unwrap_or(0i64)
                    .saturating_mul(10)
                    .saturating_add(digit),
            );
        }
        Ok(size)
    }
}

/// The place of the brace that closes a field.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        (open == 0).then_some(at)
    })
}

fn parse_spec(text: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut chars: Vec<char> = text.chars().collect();
    chars.reverse();
    let aligns = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    let n = chars.len();
    if n > 1 && aligns(chars.get(n - 2)) {
        spec.fill = chars.pop();
        spec.align = chars.pop();
    } else if aligns(chars.last()) {
        spec.align = chars.pop();
    }
    spec.sign = chars.pop_if(|c| "+- ".contains(*c));
    chars.pop_if(|c| *c == 'z');
    spec.alternate = chars.pop_if(|c| *c == '#').is_some();
    if chars.pop_if(|c| *c == '0').is_some() {
        spec.fill = spec.fill.or(Some('0'));
        spec.align = spec.align.or(Some('='));
    }
    let number = |chars: &mut Vec<char>| {
        let mut n = None;
        while let Some(c) = chars.pop_if(|c| c.is_ascii_digit()) {
            let digit = c.to_digit(10).unwrap_or(0) as usize;
            n = Some(n.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
        }
        n
    };
    spec.width = number(&mut chars).unwrap_or(0);
    spec.grouping = chars.pop_if(|c| matches!(*c, ',' | '_'));
    if chars.pop_if(|c| *c == '.').is_some() {
        match number(&mut chars) {
            Some(precision) if precision <= limits::MAX_RENDERED_BYTES => {
                spec.precision = Some(precision);
            }
            _ => return fail("Format specifier missing precision"),
        }
    }
    spec.kind = chars.pop();
    if !chars.is_empty() {
        return fail(format!("Invalid format specifier '{}'", cut(text)));
    }
    Ok(spec)
}

fn character(value: &Value) -> Result<String> {
    if let Some(code) = value.as_int() {
        let c = u32::try_from(code).ok().and_then(char::from_u32);
        return match c {
            Some(c) => Ok(c.to_string()),
            None => fail("%c arg not in range(0x110000)"),
        };
    }
    match value {
        Value::Text(text) if text.chars().count() == 1 => Ok(text.to_string()),
        _ => fail("%c requires int or char"),
    }
}

/// With escapes in place of what is not ASCII.
fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c)
        } else {
            escape(c, &mut out)
        }
    }
    out
}
