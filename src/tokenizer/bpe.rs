//! Byte-level BPE (`tokenizer.ggml.model = gpt2`) on the `tokenizers` crate.
//!
//! The crate supplies cutting, the byte alphabet and merging. It is assembled from fixed
//! components and called only with data that `validate` has checked; it never sees a
//! `tokenizer.json`, a pattern or a special token of a file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ahash::AHashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

use super::Engine;
use super::pre::{self, Pre};
use super::validate;
use super::vocab::{Kind, Vocab};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;

pub(super) struct ByteBpe {
    model: BPE,
    splits: Vec<Split>,
    bytes: ByteLevel,
}

/// The table entry of a file, and a warning when the key is absent.
pub(super) fn pre_of(file: &GgufFile) -> Result<(&'static Pre, Option<String>)> {
    const KEY: &str = "tokenizer.ggml.pre";
    let Some(name) = file.str(KEY)? else {
        let warning = format!(
            "{KEY} is absent: using `default`, which may cut text differently from the model's own tokenizer"
        );
        return Ok((&pre::DEFAULT, Some(warning)));
    };
    let found = pre::find(name);
    let found = found.ok_or_else(|| Error::Unsupported {
        what: "tokenizer.ggml.pre",
        value: name.to_owned(),
        known: pre::known(),
    })?;
    Ok((found, None))
}

impl ByteBpe {
    pub fn from_gguf(file: &GgufFile, vocab: &Vocab, pre: &Pre) -> Result<ByteBpe> {
        let known = validate::mergeable(vocab)?;
        let merges = validate::merges(file, &known)?;
        let known = known.into_iter().map(|(text, id)| (text.to_owned(), id));
        let build = move || -> tokenizers::Result<ByteBpe> {
            let builder = BPE::builder().ignore_merges(pre.ignore_merges);
            let model = builder
                .vocab_and_merges(known.collect::<AHashMap<_, _>>(), merges)
                .build()?;
            let split = |p: &&str| {
                Split::new(
                    SplitPattern::Regex((*p).to_owned()),
                    SplitDelimiterBehavior::Isolated,
                    false,
                )
            };
            let splits = pre
                .patterns
                .iter()
                .map(split)
                .collect::<tokenizers::Result<_>>()?;
            Ok(ByteBpe {
                model,
                splits,
                bytes: ByteLevel::new(false, false, false),
            })
        };
        let refused = |why: String| Error::Key {
            key: validate::MERGES.to_owned(),
            value: why,
            allowed: "merges that the tokenizers library accepts".to_owned(),
        };
        match catch_unwind(AssertUnwindSafe(build)) {
            Ok(Ok(bpe)) => Ok(bpe),
            Ok(Err(why)) => Err(refused(why.to_string())),
            Err(_) => Err(refused("refused by a panic".to_owned())),
        }
    }
}

fn failed(why: tokenizers::Error) -> Error {
    Error::Request {
        what: "text".into(),
        value: why.to_string(),
        allowed: "text that can be tokenized".into(),
    }
}

impl Engine for ByteBpe {
    fn encode(&self, _: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut pieces = PreTokenizedString::from(text);
        for split in &self.splits {
            split.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        self.bytes.pre_tokenize(&mut pieces).map_err(failed)?;
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            out.extend(
                self.model
                    .tokenize(piece)
                    .map_err(failed)?
                    .iter()
                    .map(|t| t.id),
            );
        }
        Ok(())
    }

    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        let text = vocab.text(id);
        if vocab.kind(id) != Kind::Normal {
            return out.extend_from_slice(text.as_bytes());
        }
        for c in text.chars() {
            match byte_of(c) {
                Some(byte) => out.push(byte),
                // Some vocabularies hold added text in plain form.
                None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    fn adds_space(&self) -> bool {
        false
    }
}

/// The byte behind a character of GPT-2's printable alphabet: printable bytes are
/// themselves, the other 68 follow from U+0100 in increasing order.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    Some(match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code as u8,
        0x100..=0x120 => (code - 0x100) as u8,
        0x121..=0x142 => (code - 0x121) as u8 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [false; 256];
        for c in ByteLevel::alphabet() {
            let byte = byte_of(c).expect("a character of the alphabet");
            assert!(!std::mem::replace(&mut seen[usize::from(byte)], true));
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('一'), None);
    }

    #[test]
    fn every_pattern_of_the_table_compiles() {
        for name in pre::known().split(", ") {
            for pattern in pre::find(name).expect("a known name").patterns {
                let pattern = SplitPattern::Regex((*pattern).to_owned());
                Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("compiles");
            }
        }
        assert!(pre::find("no such name").is_none());
    }
}
