//! SentencePiece's text normalisation: replacements by a compiled table, white space
//! collapsed, a space in front, spaces as U+2581.
//!
//! The table (`tokenizer.ggml.precompiled_charsmap`) is `u32 n`, `n` bytes of a double-array
//! trie over UTF-8, then NUL-terminated texts. A leaf of the trie holds the offset of its text.
//! Of the keys that begin the rest of a text the longest is replaced. Units of the trie are
//! little-endian 32 bits: bits 0-7 and 31 a label, bit 8 whether a leaf follows, bits 10-30 an
//! offset that bit 9 multiplies by 256; the unit of a leaf holds its value in bits 0-30.

use super::pieces::{Inner, SPACE};
use super::validate::key_error;
use super::work::Work;
use super::{Prefix, Text};
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value, ValueType};
use crate::limits;

const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const COLLAPSE: &str = "tokenizer.ggml.remove_extra_whitespaces";
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// How a text is changed before it is cut into pieces.
pub struct Normalizer {
    charsmap: Option<Charsmap>,
    /// Runs of spaces become one; those at both ends go.
    collapse: bool,
    /// Put a space in front.
    prefix: Prefix,
    /// Pieces that stay as they are.
    inner: Inner,
}

impl Normalizer {
    /// From the parts of a SentencePiece model; an empty `charsmap` changes nothing.
    ///
    /// # Errors
    /// [`crate::Error::Key`] for a table that breaks its form.
    pub fn new(
        charsmap: &[u8],
        collapse: bool,
        prefix: Prefix,
        inner: Inner,
    ) -> Result<Normalizer> {
        let charsmap = match charsmap {
            [] => None,
            bytes => Some(Charsmap::new(bytes)?),
        };
        Ok(Normalizer {
            charsmap,
            collapse,
            prefix,
            inner,
        })
    }

    /// As the keys of a file say.
    ///
    /// # Errors
    /// [`Error::Key`] for a key that is none of its values.
    pub fn from_gguf(file: &GgufFile, inner: Inner) -> Result<Normalizer> {
        let prefix = match (file.bool(PREFIX)?, Prefix::of_key(file)?) {
            (Some(false), _) => Prefix::Never,
            (_, Some(prefix)) => prefix,
            (_, None) => Prefix::Always,
        };
        let collapse = file.bool(COLLAPSE)?.unwrap_or(false);
        Self::new(charsmap(file)?, collapse, prefix, inner)
    }

    /// When a space is put in front.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// The text that pieces are looked for in.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the table makes the text longer than
    /// [`limits::MAX_NORMALIZED_BYTES`], or when this takes too much work.
    pub(super) fn apply(&self, text: Text<'_>, work: &mut Work<'_>) -> Result<String> {
        let mut rest = text.text;
        while self.collapse && !rest.is_empty() {
            let (" ", used) = self.replace(rest, work)? else {
                break;
            };
            rest = &rest[used..];
        }
        let mut out = String::with_capacity(rest.len() + SPACE.len());
        let first = Text { text: rest, ..text };
        if self.prefix.before(first, ' ') && !rest.is_empty() {
            out.push_str(SPACE);
        }
        let mut after_space = self.collapse;
        while !rest.is_empty() {
            let (mut piece, used) = self.replace(rest, work)?;
            work.spend(1 + piece.len())?;
            rest = &rest[used..];
            if after_space {
                piece = piece.trim_start_matches(' ');
            }
            for c in piece.chars() {
                match c {
                    ' ' => out.push_str(SPACE),
                    c => out.push(c),
                }
            }
            if !piece.is_empty() {
                after_space = self.collapse && piece.ends_with(' ');
            }
            if out.len() > limits::MAX_NORMALIZED_BYTES {
                return Err(too_long());
            }
        }
        while self.collapse && out.ends_with(SPACE) {
            out.truncate(out.len() - SPACE.len());
        }
        Ok(out)
    }

    /// As `Normalizer::apply`, of a text that begins the whole one or follows a special token.
    pub fn whole(&self, text: &str, start: bool) -> Result<String> {
        self.apply(Text { text, start }, &mut Work::new(text.len(), None))
    }

    /// What the beginning of a text (not empty) becomes, and how many of its bytes that covers.
    fn replace<'t>(&'t self, text: &'t str, work: &mut Work<'_>) -> Result<(&'t str, usize)> {
        if let Some(len) = self.inner.longest(text) {
            return Ok((&text[..len], len));
        }
        let found = match &self.charsmap {
            Some(table) => table.longest(text, work)?,
            None => None,
        };
        Ok(found.unwrap_or_else(|| {
            let first = text.chars().next().map_or(0, char::len_utf8);
            (&text[..first], first)
        }))
    }
}

pub(super) fn too_long() -> Error {
    Error::Request {
        what: "normalised text".into(),
        value: format!("over {} bytes", limits::MAX_NORMALIZED_BYTES),
        allowed: "a shorter text".into(),
    }
}

/// `tokenizer.ggml.precompiled_charsmap`; empty when absent.
pub(super) fn charsmap(file: &GgufFile) -> Result<&[u8]> {
    match file.get(CHARSMAP) {
        None => Ok(&[]),
        Some(Value::Array(a)) if matches!(a.elem, ValueType::U8 | ValueType::I8) => Ok(a.raw()),
        Some(_) => Err(key_error(CHARSMAP, "something else", "an array of bytes")),
    }
}

pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    pub fn new(bytes: &[u8]) -> Result<Charsmap> {
        let wrong = |found: &str, allowed: &str| Err(key_error(CHARSMAP, found, allowed));
        if bytes.len() > limits::MAX_CHARSMAP_BYTES {
            let allowed = format!("at most {} bytes", limits::MAX_CHARSMAP_BYTES);
            return wrong(&format!("{} bytes", bytes.len()), &allowed);
        }
        let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
            return wrong("less than four bytes", "a trie and texts");
        };
        let size = u32::from_le_bytes(*size) as usize;
        let Some((trie, texts)) = rest.split_at_checked(size) else {
            return wrong("a trie longer than the table", "a trie and texts");
        };
        let (units, []) = trie.as_chunks::<4>() else {
            return wrong("a trie of broken units", "units of four bytes");
        };
        let Ok(texts) = std::str::from_utf8(texts) else {
            return wrong("texts that are no UTF-8", "UTF-8");
        };
        Ok(Charsmap {
            units: units.iter().map(|&u| u32::from_le_bytes(u)).collect(),
            texts: texts.to_owned(),
        })
    }

    /// The replacement of the longest key that begins `text`, and the key's length.
    fn longest(&self, text: &str, work: &mut Work<'_>) -> Result<Option<(&str, usize)>> {
        let mut found = None;
        self.keys(text, work, |value, len| {
            found = Some((value, len));
            true
        })?;
        Ok(found.and_then(|(value, len)| Some((self.text(value)?, len))))
    }

    /// The replacement of the shortest key that begins `text`.
    pub fn shortest(&self, text: &str, work: &mut Work<'_>) -> Result<Option<&str>> {
        let mut found = None;
        self.keys(text, work, |value, _| {
            found = Some(value);
            false
        })?;
        Ok(found.and_then(|value| self.text(value)))
    }

    /// The text of a leaf.
    fn text(&self, value: usize) -> Option<&str> {
        self.texts.get(value..)?.split('\0').next()
    }

    /// Values and lengths of the keys that begin `text`, the shortest first, while `go_on` wants more.
    fn keys(
        &self,
        text: &str,
        work: &mut Work<'_>,
        mut go_on: impl FnMut(usize, usize) -> bool,
    ) -> Result<()> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let Some(&root) = self.units.first() else {
            return Ok(());
        };
        let mut node = offset(root);
        for (i, byte) in text.bytes().enumerate() {
            work.spend(1)?;
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else {
                break;
            };
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit & (1 << 8) != 0 && text.is_char_boundary(i + 1) {
                let value = self.units.get(node).map(|v| (v & 0x7FFF_FFFF) as usize);
                let value = value.filter(|&v| self.texts.get(v..).is_some());
                if value.is_some_and(|v| !go_on(v, i + 1)) {
                    break;
                }
            }
        }
        Ok(())
    }
}
