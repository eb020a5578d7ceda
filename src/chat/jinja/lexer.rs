//! Source to tokens, with Jinja's rules for white space: `trim_blocks` and `lstrip_blocks` are on.

use super::Fail;
use super::chars::is_space;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longer ones first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// Whether the text that follows begins a line.
    fresh: bool,
    out: Vec<(Token, u32)>,
}

/// All tokens with their lines; the last one is [`Token::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, u32)>, Fail> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        source: &source,
        at: 0,
        line: 1,
        fresh: true,
        out: Vec::new(),
    };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    let line = lexer.line;
    lexer.out.push((Token::End, line));
    Ok(lexer.out)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Fail> {
        Err(Fail::syntax(message, self.line))
    }

    fn push(&mut self, token: Token) {
        self.out.push((token, self.line));
    }

    /// Moves on and counts lines.
    fn skip(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count() as u32;
        self.fresh = passed.ends_with('\n');
        self.at += bytes;
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        let bytes = rest.len() - rest.trim_start_matches(is_space).len();
        if bytes > 0 {
            self.skip(bytes);
        }
    }

    /// Text up to a tag, and the tag.
    fn root(&mut self) -> Result<(), Fail> {
        let rest = self.rest();
        let tag = rest
            .match_indices('{')
            .find(|(at, _)| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
        let Some((at, _)) = tag else {
            let text = rest.to_owned();
            self.push(Token::Data(text));
            self.skip(self.source.len() - self.at);
            return Ok(());
        };
        let kind = rest.as_bytes()[at + 1];
        let sign = rest
            .as_bytes()
            .get(at + 2)
            .copied()
            .filter(|s| matches!(s, b'-' | b'+'));
        let text = &rest[..at];
        let kept = text_before(text, sign, kind == b'{', self.fresh).to_owned();
        if !kept.is_empty() {
            self.push(Token::Data(kept));
        }
        self.skip(at + 2 + usize::from(sign.is_some()));
        match kind {
            b'#' => self.comment(),
            b'%' if self.raw()? => Ok(()),
            b'%' => {
                self.push(Token::BlockBegin);
                self.inside(true)
            }
            _ => {
                self.push(Token::VariableBegin);
                self.inside(false)
            }
        }
    }

    /// Bytes of `%}` or `#}` with its sign and what it swallows, if one stands here.
    fn end_of_tag(&self, rest: &str, end: &str) -> Option<usize> {
        if let Some(after) = rest.strip_prefix('-').and_then(|r| r.strip_prefix(end)) {
            return Some(rest.len() - after.trim_start_matches(is_space).len());
        }
        if let Some(after) = rest.strip_prefix('+').and_then(|r| r.strip_prefix(end)) {
            return Some(rest.len() - after.len());
        }
        let after = rest.strip_prefix(end)?;
        Some(rest.len() - after.strip_prefix('\n').unwrap_or(after).len())
    }

    fn comment(&mut self) -> Result<(), Fail> {
        let rest = self.rest();
        let end = rest
            .find("#}")
            .map(|at| match rest.as_bytes()[..at].last() {
                Some(b'-' | b'+') => at - 1,
                _ => at,
            });
        match end.and_then(|at| Some(at + self.end_of_tag(&rest[at..], "#}")?)) {
            Some(bytes) => {
                self.skip(bytes);
                Ok(())
            }
            None => self.fail("a comment without its end"),
        }
    }

    /// `raw %}…{% endraw %}`, if that is what follows.
    fn raw(&mut self) -> Result<bool, Fail> {
        let rest = self.rest();
        let Some(after) = rest.trim_start_matches(is_space).strip_prefix("raw") else {
            return Ok(false);
        };
        let after = after.trim_start_matches(is_space);
        let body = match (after.strip_prefix("-%}"), after.strip_prefix("%}")) {
            (Some(body), _) => body.trim_start_matches(is_space),
            (None, Some(body)) => body,
            _ => return Ok(false),
        };
        self.skip(rest.len() - body.len());
        let rest = self.rest();
        for (at, _) in rest.match_indices("{%") {
            let tag = &rest[at + 2..];
            let sign = tag.bytes().next().filter(|s| matches!(s, b'-' | b'+'));
            let name = tag[usize::from(sign.is_some())..].trim_start_matches(is_space);
            let Some(after) = name.strip_prefix("endraw") else {
                continue;
            };
            let after = after.trim_start_matches(is_space);
            if let Some(end) = self.end_of_tag(after, "%}") {
                let text = text_before(&rest[..at], sign, false, self.fresh).to_owned();
                let bytes = rest.len() - after.len() + end;
                if !text.is_empty() {
                    self.push(Token::Data(text));
                }
                self.skip(bytes);
                return Ok(true);
            }
        }
        self.fail("a raw block without its end")
    }

    /// The tokens of a tag up to its end.
    fn inside(&mut self, block: bool) -> Result<(), Fail> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty() {
                let end = if block {
                    self.end_of_tag(rest, "%}")
                } else if rest.starts_with("}}") {
                    Some(2)
                } else {
                    rest.strip_prefix("-}}")
                        .map(|after| rest.len() - after.trim_start_matches(is_space).len())
                };
                if let Some(bytes) = end {
                    let token = if block {
                        Token::BlockEnd
                    } else {
                        Token::VariableEnd
                    };
                    self.push(token);
                    self.skip(bytes);
                    return Ok(());
                }
            }
            let Some(c) = rest.chars().next() else {
                return self.fail("a tag without its end");
            };
            if is_space(c) {
                self.skip_spaces();
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c.is_alphanumeric() || c == '_' {
                let name = rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next();
                let name = name.unwrap_or_default().to_owned();
                let bytes = name.len();
                self.push(Token::Name(name));
                self.skip(bytes);
            } else if c == '\'' || c == '"' {
                self.string(c)?;
            } else {
                self.operator(&mut open)?;
            }
        }
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Result<(), Fail> {
        let found = OPERATORS.iter().find(|o| self.rest().starts_with(**o));
        let Some(&operator) = found else {
            let c = self.rest().chars().next().unwrap_or(' ');
            return self.fail(format!("unexpected character {c:?}"));
        };
        match operator {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" if open.pop() != Some(operator) => {
                return self.fail(format!("unexpected '{operator}'"));
            }
            _ => {}
        }
        self.push(Token::Operator(operator));
        self.skip(operator.len());
        Ok(())
    }

    /// Bytes of digits with single underscores between them; 0 if there are none.
    fn digits(&self, from: usize, radix: u32) -> usize {
        let bytes = &self.source.as_bytes()[from..];
        let digit = |i: usize| bytes.get(i).is_some_and(|b| (*b as char).is_digit(radix));
        let mut n = 0;
        while digit(n) || n > 0 && bytes.get(n) == Some(&b'_') && digit(n + 1) {
            n += 1;
        }
        n
    }

    fn number(&mut self) -> Result<(), Fail> {
        let bytes = self.source.as_bytes();
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let start = self.at;
        let whole = self.digits(start, 10);
        // A number after a dot is an index: `a.0.1`.
        if start == 0 || byte(start - 1) != b'.' {
            let mut end = start + whole;
            if byte(end) == b'.' {
                let fraction = self.digits(end + 1, 10);
                end += if fraction > 0 { 1 + fraction } else { 0 };
            }
            if matches!(byte(end), b'e' | b'E') {
                let sign = usize::from(matches!(byte(end + 1), b'+' | b'-'));
                let exponent = self.digits(end + 1 + sign, 10);
                end += if exponent > 0 { 1 + sign + exponent } else { 0 };
            }
            if end > start + whole {
                let text = self.source[start..end].replace('_', "");
                let value: f64 = text.parse().or_else(|_| self.fail("a malformed number"))?;
                self.push(Token::Float(value));
                self.skip(end - start);
                return Ok(());
            }
        }
        let radix = match (byte(start), byte(start + 1).to_ascii_lowercase()) {
            (b'0', b'b') => 2,
            (b'0', b'o') => 8,
            (b'0', b'x') => 16,
            _ => 10,
        };
        let (from, count) = if radix == 10 {
            let zeros =
                self.source[start..].len() - self.source[start..].trim_start_matches('0').len();
            (start, if zeros > 0 { zeros } else { whole })
        } else {
            let from = start + 2 + usize::from(byte(start + 2) == b'_');
            (from, self.digits(from, radix))
        };
        let text = self.source[from..from + count].replace('_', "");
        let value = i128::from_str_radix(&text, radix);
        let value = value.or_else(|_| self.fail("a number of more than 127 bits"))?;
        self.push(Token::Int(value));
        self.skip(from + count - start);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), Fail> {
        let rest = &self.rest()[1..];
        let mut escaped = false;
        let end = rest.char_indices().find(|&(_, c)| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else {
            return self.fail("a text without its end");
        };
        match unescape(&rest[..end]) {
            Ok(text) => self.push(Token::Text(text)),
            Err(message) => return self.fail(message),
        }
        self.skip(end + 2);
        Ok(())
    }
}

/// What remains of the text before a tag.
fn text_before(text: &str, sign: Option<u8>, variable: bool, fresh: bool) -> &str {
    match sign {
        Some(b'-') => text.trim_end_matches(is_space),
        None if !variable => {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = text[line..].chars().all(is_space);
            if blank && (line > 0 || fresh) {
                &text[..line]
            } else {
                text
            }
        }
        _ => text,
    }
}

/// Python's escapes.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(code) = chars.next() else {
            return Err("a backslash at the end of a text".into());
        };
        let width = match code {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if width > 0 {
            let digits: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_hexdigit))
                .take(width)
                .collect();
            let value = u32::from_str_radix(&digits, 16)
                .ok()
                .and_then(char::from_u32);
            match value.filter(|_| digits.len() == width) {
                Some(c) => out.push(c),
                None => return Err(format!("\\{code}{digits} is no character")),
            }
            continue;
        }
        match code {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(code),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'N' => return Err("\\N escapes are not available".into()),
            '0'..='7' => {
                let mut value = code.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) {
                        value = value * 8 + digit;
                        chars.next();
                    }
                }
                out.extend(char::from_u32(value));
            }
            // Jinja escapes what is not ASCII before it looks at backslashes.
            c if !c.is_ascii() => out.push_str(&match u32::from(c) {
                n @ ..=0xff => format!("\\x{n:02x}"),
                n @ ..=0xffff => format!("\\u{n:04x}"),
                n => format!("\\U{n:08x}"),
            }),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Ok(out)
}
