//! BPE over characters by the ranks of merges (`tokenizer.ggml.model = llama` with
//! `tokenizer.geb.by_rank`): a `tokenizer.json` whose merges no scores can express.
//!
//! Pseudo-code: one token per character of a word, or its byte tokens, or the unknown token; while some
//! adjacent pair has a merge, join the pair of the lowest rank (of equal ones the leftmost).

use super::bpe::{IGNORE_MERGES, Merging};
use super::merges::Merges;
use super::pieces::{Fallback, Inner};
use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Lookup, Vocab};
use super::words::Words;
use super::work::Work;
use super::{Engine, Prefix, Text};
use crate::error::Result;
use crate::gguf::GgufFile;

/// True in such files.
pub const BY_RANK: &str = "tokenizer.geb.by_rank";

pub(super) struct Ranks {
    known: Lookup,
    merges: Merges,
    fallback: Fallback,
    words: Words,
    ignore_merges: bool,
}

impl Ranks {
    pub fn from_gguf(file: &GgufFile, vocab: &Vocab, ids: &SpecialIds) -> Result<Ranks> {
        let known = validate::lookup(vocab, &[Kind::UserDefined, Kind::Unused, Kind::Byte])?;
        Ok(Ranks {
            merges: Merges::from_gguf(file, vocab, &known)?,
            known,
            fallback: Fallback::new(file, vocab, ids)?,
            words: Words::from_gguf(file, Inner::default())?,
            ignore_merges: file.bool(IGNORE_MERGES)?.unwrap_or(false),
        })
    }
}

impl Engine for Ranks {
    fn encode(
        &self,
        vocab: &Vocab,
        text: Text<'_>,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut merging = Merging::default();
        let mut ids = Vec::new();
        for word in self.words.of(text, work)? {
            work.spend(word.len())?;
            if self.ignore_merges
                && let Some(id) = self.known.get(vocab, &word)
            {
                out.push(id);
                continue;
            }
            ids.clear();
            for (at, c) in word.char_indices() {
                let c = &word[at..at + c.len_utf8()];
                match self.known.get(vocab, c) {
                    Some(id) => ids.push(id),
                    None => self.fallback.encode(c, 0, &mut ids)?,
                }
            }
            merging.merge(ids.iter().copied(), &self.merges, work)?;
            out.extend(merging.ids());
        }
        Ok(())
    }

    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        self.fallback.append_bytes(vocab, id, out);
    }

    fn prefix(&self) -> Prefix {
        self.words.prefix()
    }
}
