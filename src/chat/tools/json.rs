//! Follows JSON (RFC 8259) character by character, before its end is known.

use crate::limits;

/// What a character is to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The value goes on.
    Inside,
    /// The value ends with this character.
    Last,
    /// The value ended before this character: only numbers do.
    Past,
    /// No JSON.
    Bad,
}

/// One value, followed from its first character.
#[derive(Clone, Debug)]
pub(super) struct Follow {
    /// What is open: true for objects, outermost first.
    open: Vec<bool>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// A value has to begin; the bool: or `]`, the list being empty so far.
    Value(bool),
    /// A key has to begin; the bool: or `}`.
    Key(bool),
    Colon,
    /// Behind an element.
    Behind,
    Text(Text, Role),
    Number,
    /// What is left of `true`, `false` or `null`.
    Word(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Text {
    Plain,
    Escape,
    /// So many hexadecimal digits are left.
    Hex(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Key,
    Value,
}

/// White space of JSON.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

impl Follow {
    pub fn new() -> Follow {
        Follow {
            open: Vec::new(),
            at: At::Value(false),
        }
    }

    /// Whether the next character stands inside a string.
    pub fn in_text(&self) -> bool {
        matches!(self.at, At::Text(..))
    }

    /// Takes a character.
    pub fn take(&mut self, c: char) -> Taken {
        if let At::Text(text, role) = self.at {
            return self.in_string(text, role, c);
        }
        if self.at == At::Number {
            if matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E') {
                return Taken::Inside;
            }
            if self.open.is_empty() {
                return Taken::Past;
            }
            self.at = At::Behind;
        }
        if let At::Word(rest) = self.at {
            return match rest.strip_prefix(c) {
                Some("") => self.ended(),
                Some(rest) => self.go(At::Word(rest)),
                None => Taken::Bad,
            };
        }
        match (self.at, c) {
            (_, c) if is_space(c) => Taken::Inside,
            (At::Value(true), ']') | (At::Key(true), '}') => self.close(),
            (At::Value(_), _) => self.begin(c),
            (At::Key(_), '"') => self.go(At::Text(Text::Plain, Role::Key)),
            (At::Colon, ':') => self.go(At::Value(false)),
            (At::Behind, ',') if self.open.last() == Some(&true) => self.go(At::Key(false)),
            (At::Behind, ',') => self.go(At::Value(false)),
            (At::Behind, '}') if self.open.last() == Some(&true) => self.close(),
            (At::Behind, ']') if self.open.last() == Some(&false) => self.close(),
            _ => Taken::Bad,
        }
    }

    fn go(&mut self, at: At) -> Taken {
        self.at = at;
        Taken::Inside
    }

    fn begin(&mut self, c: char) -> Taken {
        match c {
            '{' | '[' if self.open.len() >= limits::MAX_JSON_DEPTH => Taken::Bad,
            '{' => {
                self.open.push(true);
                self.go(At::Key(true))
            }
            '[' => {
                self.open.push(false);
                self.go(At::Value(true))
            }
            '"' => self.go(At::Text(Text::Plain, Role::Value)),
            '-' | '0'..='9' => self.go(At::Number),
            't' => self.go(At::Word("rue")),
            'f' => self.go(At::Word("alse")),
            'n' => self.go(At::Word("ull")),
            _ => Taken::Bad,
        }
    }

    fn in_string(&mut self, text: Text, role: Role, c: char) -> Taken {
        let next = match (text, c) {
            (Text::Plain, '"') if role == Role::Key => return self.go(At::Colon),
            (Text::Plain, '"') => return self.ended(),
            (Text::Plain, '\\') => Text::Escape,
            (Text::Plain, _) => Text::Plain,
            (Text::Escape, 'u') => Text::Hex(4),
            (Text::Escape, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Text::Plain,
            (Text::Hex(1), c) if c.is_ascii_hexdigit() => Text::Plain,
            (Text::Hex(left), c) if c.is_ascii_hexdigit() => Text::Hex(left - 1),
            _ => return Taken::Bad,
        };
        self.go(At::Text(next, role))
    }

    fn close(&mut self) -> Taken {
        self.open.pop();
        self.ended()
    }

    fn ended(&mut self) -> Taken {
        self.at = At::Behind;
        match self.open.is_empty() {
            true => Taken::Last,
            false => Taken::Inside,
        }
    }
}

/// A raw control character of a string, as JSON wants it written: models forget it.
pub(super) fn push_escaped(c: char, in_text: bool, out: &mut String) {
    match c {
        '\n' if in_text => out.push_str("\\n"),
        '\r' if in_text => out.push_str("\\r"),
        '\t' if in_text => out.push_str("\\t"),
        c if in_text && u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}

/// Gives the characters of a string that is still being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Unescape {
    /// An escape that is not whole, with its backslash.
    escape: String,
}

impl Unescape {
    /// Takes a character from between the quotes and appends what it completes.
    pub fn take(&mut self, c: char, out: &mut String) {
        if self.escape.is_empty() && c != '\\' {
            out.push(c);
            return;
        }
        self.escape.push(c);
        // A first half of a pair needs the second.
        let half = |digits: &str| {
            let code = u32::from_str_radix(digits, 16).unwrap_or(0);
            (0xD800..0xDC00).contains(&code)
        };
        let whole = match self.escape.as_bytes() {
            [b'\\', b'u'] => false,
            [b'\\', b'u', digits @ ..] => match digits.len() {
                4 => !half(&self.escape[2..]),
                5 => c != '\\',
                6 => c != 'u',
                0..10 => false,
                _ => true,
            },
            bytes => bytes.len() > 1,
        };
        if whole {
            let quoted = format!("\"{}\"", std::mem::take(&mut self.escape));
            match serde_json::from_str::<String>(&quoted) {
                Ok(text) => out.push_str(&text),
                // Half a pair; what follows it stands for itself.
                Err(_) => out.extend(['\u{FFFD}', c]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far a text is one value.
    fn followed(text: &str) -> (Taken, usize) {
        let mut follow = Follow::new();
        for (at, c) in text.char_indices() {
            match follow.take(c) {
                Taken::Inside => {}
                other => return (other, at),
            }
        }
        (Taken::Inside, text.len())
    }

    #[test]
    fn values_end_where_they_end() {
        for (text, wanted) in [
            ("{}x", (Taken::Last, 1)),
            (
                " {\"a\": [1, {\"b\": \"}\\\"]\"}], \"c\": null} ",
                (Taken::Last, 36),
            ),
            ("[]", (Taken::Last, 1)),
            ("[1,2.5e-3, true ]", (Taken::Last, 16)),
            ("\"a\\u00e9\\n\"", (Taken::Last, 10)),
            ("-12,", (Taken::Past, 3)),
            ("null", (Taken::Last, 3)),
            ("{\"a\"", (Taken::Inside, 4)),
            ("{a", (Taken::Bad, 1)),
            ("[1 2]", (Taken::Bad, 3)),
            ("[1,]", (Taken::Bad, 3)),
            ("{\"a\":1]", (Taken::Bad, 6)),
            ("{\"a\":1,}", (Taken::Bad, 7)),
            ("nul1", (Taken::Bad, 3)),
            ("\"\\x\"", (Taken::Bad, 2)),
            ("\"\\u12g4\"", (Taken::Bad, 5)),
            ("tru", (Taken::Inside, 3)),
        ] {
            assert_eq!(followed(text), wanted, "{text}");
        }
        assert_eq!(followed(&"[".repeat(4096)).0, Taken::Bad);
    }

    #[test]
    fn escapes_are_undone_as_serde_does() {
        for text in [
            "a\\n\\\"\\\\b",
            "\\u00e9\\u4e2d",
            "\\ud83d\\ude00!",
            "plain 中",
        ] {
            let (mut unescape, mut out) = (Unescape::default(), String::new());
            text.chars().for_each(|c| unescape.take(c, &mut out));
            let wanted: String = serde_json::from_str(&format!("\"{text}\"")).expect("valid");
            assert_eq!(out, wanted);
        }
        // Half a pair is no character.
        let (mut unescape, mut out) = (Unescape::default(), String::new());
        "\\ud83dxy".chars().for_each(|c| unescape.take(c, &mut out));
        assert_eq!(out, "\u{FFFD}xy");
    }
}
