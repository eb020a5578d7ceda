//! The vocabulary file of RWKV's World models: lines `id literal length`, the literal a Python string or
//! bytes literal. Nothing is evaluated.

use super::folder::{Folder, bad};
use super::tokens::{Kind, Token, Vocab};
use geb::error::Result;
use geb::limits;

/// The vocabulary file of a folder.
pub(super) fn file(folder: &Folder) -> Result<Option<String>> {
    let known = |n: &String| n.starts_with("rwkv_vocab");
    Ok(folder.ending(".txt")?.into_iter().find(known))
}

/// Tokens by id; ids that the file leaves out are empty.
pub(super) fn tokens(folder: &Folder, file: &str) -> Result<Vec<Vec<u8>>> {
    let text = folder.text(file)?.unwrap_or_default();
    let mut out: Vec<Vec<u8>> = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|l| !l.1.is_empty()) {
        let wrong = |value: &str, allowed: &str| {
            let value: String = value.chars().take(60).collect();
            bad(file, format!("line {}", n + 1), value, allowed)
        };
        let parts = line.split_once(' ').and_then(|(id, rest)| {
            let (literal, len) = rest.rsplit_once(' ')?;
            let numbers: (usize, usize) = (id.parse().ok()?, len.parse().ok()?);
            Some((numbers, literal))
        });
        let Some(((id, len), literal)) = parts else {
            return Err(wrong(line, "id, literal, length"));
        };
        if id >= limits::MAX_VOCAB {
            return Err(wrong(line, "ids below the largest vocabulary"));
        }
        let bytes = evaluate(literal).filter(|b| b.len() == len && len > 0);
        let bytes = bytes.ok_or_else(|| wrong(line, "a Python literal of that length"))?;
        out.resize(out.len().max(id + 1), Vec::new());
        if !std::mem::replace(&mut out[id], bytes).is_empty() {
            return Err(wrong(line, "ids that occur once"));
        }
    }
    Ok(out)
}

/// Reads the vocabulary.
pub(super) fn read(folder: &Folder, file: &str, vocab: &mut Vocab) -> Result<()> {
    vocab.model = "rwkv";
    for (id, bytes) in tokens(folder, file)?.into_iter().enumerate() {
        let (text, kind) = match (id, &bytes[..]) {
            (0, []) => ("<s>".into(), Kind::Control),
            (_, []) => (format!("[PAD{id}]"), Kind::Unused),
            (_, bytes) => (literal(bytes), Kind::Normal),
        };
        if bytes == b"\n\n" {
            vocab.special.push(("eot", id as u32));
        }
        vocab.tokens.push(Token {
            text,
            score: 0.0,
            kind,
        });
    }
    vocab.special.extend([("bos", 0), ("eos", 0)]);
    Ok(())
}

/// The inside of the bytes literal that Python prints.
fn literal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    // Python quotes with ' unless only that occurs.
    let escape_quote = bytes.contains(&b'\'') && bytes.contains(&b'"');
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\'' if escape_quote => out.push_str("\\'"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// A Python string (as UTF-8) or bytes literal.
fn evaluate(literal: &str) -> Option<Vec<u8>> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|c| "'\"".contains(*c))?;
    let inside = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = Vec::new();
    let mut put = |code: u32| match (is_bytes, char::from_u32(code)) {
        (true, _) => u8::try_from(code).map(|b| out.push(b)).ok(),
        (false, Some(c)) => {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            Some(())
        }
        (false, None) => None,
    };
    let mut rest = inside.chars();
    while let Some(c) = rest.next() {
        if c == quote {
            return None;
        }
        if c != '\\' {
            put(c.into())?;
            continue;
        }
        let kind = rest.next()?;
        let digits = match kind {
            'x' => 2,
            'u' if !is_bytes => 4,
            'U' if !is_bytes => 8,
            _ => 0,
        };
        let mut hex =
            || (0..digits).try_fold(0, |n: u32, _| Some(n << 4 | rest.next()?.to_digit(16)?));
        put(match kind {
            _ if digits > 0 => hex()?,
            't' => 9,
            'n' => 10,
            'r' => 13,
            'a' => 7,
            'b' => 8,
            'v' => 11,
            'f' => 12,
            '\\' | '\'' | '"' => kind.into(),
            _ => return None,
        })?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_and_written_as_python_does() {
        for (text, bytes, written) in [
            (r"'\x00'", &b"\0"[..], r"\x00"),
            (r"b'\xfe'", b"\xfe", r"\xfe"),
            (r#"" weren't""#, b" weren't", " weren't"),
            (r#"'\'"'"#, b"'\"", r#"\'""#),
            (r"'\u00e9é\\'", "éé\\".as_bytes(), r"\xc3\xa9\xc3\xa9\\"),
            (r"'\n\n'", b"\n\n", r"\n\n"),
        ] {
            assert_eq!(evaluate(text).as_deref(), Some(bytes), "{text}");
            assert_eq!(literal(bytes), written);
        }
        for broken in [
            "",
            "'",
            "a",
            "'a",
            "'a'b'",
            r"'\x1'",
            r"b'\u0041'",
            r"'\q'",
            "b'é\u{100}'",
        ] {
            assert_eq!(evaluate(broken), None, "{broken}");
        }
    }
}
