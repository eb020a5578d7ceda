//! Text as the words that a SentencePiece algorithm cuts: as SentencePiece makes them, or as a
//! `tokenizer.json` says.

use serde_json::Value;

use super::normalize::Normalizer;
use super::pieces::Inner;
use super::steps::Cuts;
use super::work::Work;
use super::{Prefix, Text, validate};
use crate::error::Result;
use crate::gguf::GgufFile;

/// The `pre_tokenizer` of a `tokenizer.json` whose words SentencePiece would make differently.
pub const PRE_TOKENIZER: &str = "tokenizer.geb.pre_tokenizer";

/// One of both.
pub(super) enum Words {
    Pieces(Normalizer),
    Cuts(Cuts),
}

impl Words {
    pub fn from_gguf(file: &GgufFile, inner: Inner) -> Result<Words> {
        match validate::json(file, PRE_TOKENIZER)? {
            Some(value) => Words::cuts(&value),
            None => Ok(Words::Pieces(Normalizer::from_gguf(file, inner)?)),
        }
    }

    fn cuts(value: &Value) -> Result<Words> {
        Ok(Words::Cuts(Cuts::parse(value)?))
    }

    /// Whether a space is put in front of text.
    pub fn prefix(&self) -> Prefix {
        match self {
            Words::Pieces(normalizer) => normalizer.prefix(),
            Words::Cuts(cuts) => cuts.prefix(),
        }
    }

    /// The words of a text.
    pub fn of(&self, text: Text<'_>, work: &mut Work<'_>) -> Result<Vec<String>> {
        match self {
            Words::Pieces(normalizer) => Ok(vec![normalizer.apply(text, work)?]),
            Words::Cuts(cuts) => cuts.apply(text, work),
        }
    }
}
