//! SentencePiece's text normalisation: replacements by a compiled table, white space
//! collapsed, a space in front, spaces as U+2581.
//!
//! The table (`tokenizer.ggml.precompiled_charsmap`) is `u32 n`, `n` bytes of a double-array
//! trie over UTF-8, then NUL-terminated texts. A leaf of the trie holds the offset of its text.
//! Of the keys that begin the rest of a text the longest is replaced. Units of the trie are
//! little-endian 32 bits: bits 0-7 and 31 a label, bit 8 whether a leaf follows, bits 10-30 an
//! offset that bit 9 multiplies by 256; the unit of a leaf holds its value in bits 0-30.

use super::pieces::SPACE;
use super::validate::key_error;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value, ValueType};
use crate::limits;

const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const COLLAPSE: &str = "tokenizer.ggml.remove_extra_whitespaces";
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// How a text is changed before it is cut into pieces.
pub(crate) struct Normalizer {
    charsmap: Option<Charsmap>,
    /// Runs of spaces become one; those at both ends go.
    collapse: bool,
    /// Put a space in front.
    prefix: bool,
}

impl Normalizer {
    /// From the parts of a SentencePiece model; an empty `charsmap` changes nothing.
    ///
    /// # Errors
    /// [`Error::Key`] for a table that breaks its form.
    pub fn new(charsmap: &[u8], collapse: bool, prefix: bool) -> Result<Normalizer> {
        let charsmap = match charsmap {
            [] => None,
            bytes => Some(Charsmap::new(bytes)?),
        };
        Ok(Normalizer {
            charsmap,
            collapse,
            prefix,
        })
    }

    pub fn from_gguf(file: &GgufFile) -> Result<Normalizer> {
        let charsmap = match file.get(CHARSMAP) {
            None => &[],
            Some(Value::Array(a)) if matches!(a.elem, ValueType::U8 | ValueType::I8) => a.raw(),
            Some(_) => return Err(key_error(CHARSMAP, "something else", "an array of bytes")),
        };
        Self::new(
            charsmap,
            file.bool(COLLAPSE)?.unwrap_or(false),
            file.bool(PREFIX)?.unwrap_or(true),
        )
    }

    pub fn adds_space(&self) -> bool {
        self.prefix
    }

    /// The text that pieces are looked for in.
    ///
    /// # Errors
    /// [`Error::Request`] when the table makes the text longer than
    /// [`limits::MAX_NORMALIZED_BYTES`].
    pub fn apply(&self, text: &str) -> Result<String> {
        let mut rest = text;
        while self.collapse && !rest.is_empty() {
            let (" ", used) = self.replace(rest) else {
                break;
            };
            rest = &rest[used..];
        }
        let mut out = String::with_capacity(rest.len() + SPACE.len());
        if self.prefix && !rest.is_empty() {
            out.push_str(SPACE);
        }
        let mut after_space = self.collapse;
        while !rest.is_empty() {
            let (mut piece, used) = self.replace(rest);
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
                return Err(Error::Request {
                    what: "normalised text".into(),
                    value: format!("over {} bytes", limits::MAX_NORMALIZED_BYTES),
                    allowed: "a shorter text".into(),
                });
            }
        }
        while self.collapse && out.ends_with(SPACE) {
            out.truncate(out.len() - SPACE.len());
        }
        Ok(out)
    }

    /// What the beginning of a text (not empty) becomes, and how many of its bytes that covers.
    fn replace<'t>(&'t self, text: &'t str) -> (&'t str, usize) {
        let found = self.charsmap.as_ref().and_then(|c| c.longest(text));
        found.unwrap_or_else(|| {
            let first = text.chars().next().map_or(0, char::len_utf8);
            (&text[..first], first)
        })
    }
}

struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    fn new(bytes: &[u8]) -> Result<Charsmap> {
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
    fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut found = None;
        let mut node = offset(*self.units.first()?);
        for (i, byte) in text.bytes().enumerate() {
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
                let rest = value.and_then(|v| self.texts.get(v..));
                let replacement = rest.and_then(|r| r.split('\0').next());
                found = replacement.map(|r| (r, i + 1)).or(found);
            }
        }
        found
    }
}
