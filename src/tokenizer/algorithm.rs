//! What every algorithm is: ordinary text to ids, ids to bytes, a space in front or none.

use super::validate;
use super::vocab::Vocab;
use super::work::Work;
use crate::error::Result;
use crate::gguf::GgufFile;

/// A piece of ordinary text.
#[derive(Clone, Copy)]
pub(crate) struct Text<'t> {
    pub text: &'t str,
    /// It begins the whole text; otherwise a special token is before it.
    pub start: bool,
}

/// When a space is put in front of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefix {
    /// Never.
    Never,
    /// At the start and after special tokens.
    Always,
    /// So too, unless there is one already.
    AlwaysUnless,
    /// At the start only, unless there is one already.
    FirstUnless,
}

impl Prefix {
    /// `tokenizer.geb.space_prefix`: `always` or `first`, both only where there is none already.
    pub(super) fn of_key(file: &GgufFile) -> Result<Option<Prefix>> {
        Ok(match file.str(SPACE_PREFIX)? {
            None => None,
            Some("always") => Some(Prefix::AlwaysUnless),
            Some("first") => Some(Prefix::FirstUnless),
            Some(other) => {
                let found = validate::short(other);
                return Err(validate::key_error(SPACE_PREFIX, found, "always, first"));
            }
        })
    }

    /// Whether one is put before `text`, whose spaces are written `space`.
    pub(super) fn before(self, text: Text<'_>, space: char) -> bool {
        match self {
            Prefix::Never => false,
            Prefix::Always => true,
            Prefix::AlwaysUnless => !text.text.starts_with(space),
            Prefix::FirstUnless => text.start && !text.text.starts_with(space),
        }
    }
}

/// See `Prefix::of_key`.
pub const SPACE_PREFIX: &str = "tokenizer.geb.space_prefix";
/// An algorithm over ordinary text.
pub(super) trait Engine: Send + Sync {
    /// Appends the ids of `text`.
    fn encode(
        &self,
        vocab: &Vocab,
        text: Text<'_>,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()>;
    /// Appends the bytes that a token stands for.
    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>);
    /// When encoding puts a space before text.
    fn prefix(&self) -> Prefix;
    /// User-defined tokens that the algorithm itself finds, in order.
    fn inner(&self) -> &[u32] {
        &[]
    }
}
