//! What both SentencePiece algorithms share: spaces as U+2581, and text that no piece covers.

use std::collections::HashMap;

use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Vocab};
use crate::error::{Error, Result};

/// U+2581, which stands for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// Byte tokens and the unknown token.
pub(super) struct Fallback {
    bytes: [Option<u32>; 256],
    byte_of: HashMap<u32, u8>,
    unknown: Option<u32>,
}

impl Fallback {
    pub fn new(vocab: &Vocab, ids: &SpecialIds) -> Result<Fallback> {
        let bytes = validate::byte_tokens(vocab)?;
        let byte_of = (0u8..=255)
            .zip(bytes)
            .filter_map(|(b, id)| Some((id?, b)))
            .collect();
        Ok(Fallback {
            bytes,
            byte_of,
            unknown: ids.unknown,
        })
    }

    /// Appends the byte tokens of `text`, or the unknown token where one is missing. Unknown
    /// texts that follow each other in `out[start..]` are one token.
    pub fn encode(&self, text: &str, start: usize, out: &mut Vec<u32>) -> Result<()> {
        let before = out.len();
        out.extend(text.bytes().map_while(|b| self.bytes[usize::from(b)]));
        if out.len() - before == text.len() {
            return Ok(());
        }
        out.truncate(before);
        let Some(unknown) = self.unknown else {
            return Err(Error::Request {
                what: "text".into(),
                value: format!(
                    "{}, for which the model has no token",
                    validate::short(text)
                ),
                allowed: "text that the vocabulary covers".into(),
            });
        };
        if out.get(start..).and_then(<[u32]>::last) != Some(&unknown) {
            out.push(unknown);
        }
        Ok(())
    }

    /// Appends the bytes that a token stands for.
    pub fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        match vocab.kind(id) {
            Kind::Byte => out.extend(self.byte_of.get(&id)),
            _ => out.extend(vocab.text(id).replace(SPACE, " ").into_bytes()),
        }
    }
}
