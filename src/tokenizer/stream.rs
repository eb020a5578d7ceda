//! Turning ids back into text, one at a time, without ever emitting half a character.

use super::vocab::Kind;
use super::{Prefix, Tokenizer};

/// Decodes a growing sequence of tokens. Bytes that may still become a character are held
/// back; bytes that cannot become one are replaced by U+FFFD, as
/// [`String::from_utf8_lossy`] does.
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    pending: Vec<u8>,
    /// The next token follows a place where a space was put in.
    after_special: bool,
    show_control: bool,
    /// Control tokens that are text all the same.
    shown: Vec<u32>,
}

impl<'t> StreamDecoder<'t> {
    fn new(tokenizer: &'t Tokenizer, previous: Option<u32>, show_control: bool) -> Self {
        let prefix = tokenizer.engine.prefix();
        let first = previous.is_none_or(|id| tokenizer.bos() == Some(id));
        let after_special = match prefix {
            Prefix::Never => false,
            Prefix::FirstUnless => first,
            _ => first || previous.is_some_and(|id| tokenizer.is_special(id)),
        };
        StreamDecoder {
            tokenizer,
            pending: Vec::new(),
            after_special,
            show_control,
            shown: Vec::new(),
        }
    }

    /// Takes these control tokens for text: what is written between them means something to the reader.
    pub fn show(&mut self, ids: &[u32]) {
        self.shown = ids.to_vec();
    }

    /// Adds a token; returns the text that is complete now (often empty, never broken).
    pub fn push(&mut self, id: u32) -> String {
        let tokenizer = self.tokenizer;
        if self.show_control || !tokenizer.is_control(id) || self.shown.contains(&id) {
            let start = self.pending.len();
            tokenizer
                .engine
                .append_bytes(&tokenizer.vocab, id, &mut self.pending);
            let space = self.after_special && !tokenizer.is_special(id);
            if space && self.pending.get(start) == Some(&b' ') {
                self.pending.remove(start);
            }
        }
        self.after_special = match tokenizer.engine.prefix() {
            Prefix::Never => false,
            Prefix::FirstUnless => self.after_special && tokenizer.bos() == Some(id),
            _ => tokenizer.is_special(id),
        };
        let mut out = String::new();
        let held = drain_complete(&self.pending, &mut out);
        self.pending.drain(..self.pending.len() - held);
        out
    }

    /// Ends the sequence: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.after_special = self.tokenizer.engine.prefix() != Prefix::Never;
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

impl Tokenizer {
    /// The text of a sequence without its control tokens; broken characters become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(StreamDecoder::new(self, None, false), ids)
    }

    /// Like [`Tokenizer::decode`], with the texts of control tokens.
    pub fn decode_with_control(&self, ids: &[u32]) -> String {
        self.decode_with(StreamDecoder::new(self, None, true), ids)
    }

    fn decode_with(&self, mut stream: StreamDecoder<'_>, ids: &[u32]) -> String {
        let mut out = String::new();
        for &id in ids {
            out.push_str(&stream.push(id));
        }
        out + &stream.finish()
    }

    /// A decoder for the tokens of a new text; control tokens are left out.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self, None, false)
    }

    /// A decoder for tokens that continue a text whose last token is `previous`.
    pub fn stream_after(&self, previous: Option<u32>) -> StreamDecoder<'_> {
        StreamDecoder::new(self, previous, false)
    }

    /// The text of `ids` that continue a text whose last token is `previous`.
    pub fn continuation(&self, previous: Option<u32>, ids: &[u32]) -> String {
        self.decode_with(self.stream_after(previous), ids)
    }
}

/// Appends all complete text of `bytes` to `out` and returns how many bytes at the end may
/// still become a character.
fn drain_complete(mut bytes: &[u8], out: &mut String) -> usize {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                return 0;
            }
            Err(e) => {
                let (good, rest) = bytes.split_at(e.valid_up_to());
                out.push_str(&String::from_utf8_lossy(good));
                let Some(bad) = e.error_len() else {
                    return rest.len();
                };
                out.push('\u{FFFD}');
                bytes = &rest[bad..];
            }
        }
    }
}

impl Tokenizer {
    /// Whether a token is found in text before the algorithm runs; text after it starts anew.
    pub(super) fn is_special(&self, id: u32) -> bool {
        match self.vocab.kind(id) {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => self.engine.inner().binary_search(&id).is_err(),
            _ => false,
        }
    }
}
