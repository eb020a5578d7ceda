//! What both SentencePiece algorithms share: spaces as U+2581, and text that no piece covers.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};

use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Vocab};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;

/// U+2581, which stands for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// The score that converters give to tokens which were added to a SentencePiece model.
pub const ADDED: f32 = -1000.0;

/// User-defined pieces of a SentencePiece model: part of its text, which they neither begin nor end. (Added
/// tokens are of the same kind and have the score [`ADDED`].) Of those at one place the longest counts.
#[derive(Clone, Default)]
pub struct Inner {
    texts: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Inner {
    /// # Errors
    /// [`Error::Key`] for more texts than fit a matcher.
    pub fn new<'v>(pieces: impl Iterator<Item = (u32, &'v str)>) -> Result<Inner> {
        let (ids, texts): (Vec<u32>, Vec<&str>) = pieces.unzip();
        if texts.is_empty() {
            return Ok(Inner::default());
        }
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .start_kind(StartKind::Anchored)
            .build(texts);
        let texts = matcher.map_err(|e| {
            validate::key_error(
                validate::TOKENS,
                e,
                "user-defined pieces that fit a matcher",
            )
        })?;
        let texts = Some(texts);
        Ok(Inner { texts, ids })
    }

    /// Those of a vocabulary.
    pub fn of(vocab: &Vocab, scores: &[f32]) -> Result<Inner> {
        Inner::new(vocab.iter().filter_map(|(id, text, kind)| {
            let inner = kind == Kind::UserDefined && scores[id as usize] != ADDED;
            (inner && !text.is_empty()).then_some((id, text))
        }))
    }

    /// Their ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Length of the longest piece that `text` begins with.
    pub fn longest(&self, text: &str) -> Option<usize> {
        let texts = self.texts.as_ref()?;
        let found = texts.find(Input::new(text).anchored(Anchored::Yes))?;
        Some(found.end())
    }
}

/// Byte tokens and the unknown token.
pub(super) struct Fallback {
    bytes: [Option<u32>; 256],
    byte_of: HashMap<u32, u8>,
    unknown: Option<u32>,
    /// Unknown texts that follow each other are one token.
    fuse: bool,
}

/// False where each unknown character is a token of its own.
pub const FUSE_UNKNOWN: &str = "tokenizer.geb.fuse_unknown";

impl Fallback {
    pub fn new(file: &GgufFile, vocab: &Vocab, ids: &SpecialIds) -> Result<Fallback> {
        let bytes = validate::byte_tokens(vocab)?;
        let byte_of = (0u8..=255)
            .zip(bytes)
            .filter_map(|(b, id)| Some((id?, b)))
            .collect();
        Ok(Fallback {
            bytes,
            byte_of,
            unknown: ids.unknown,
            fuse: file.bool(FUSE_UNKNOWN)?.unwrap_or(true),
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
        if !self.fuse || out.get(start..).and_then(<[u32]>::last) != Some(&unknown) {
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
