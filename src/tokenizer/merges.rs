//! The merges of byte-level BPE as ids, read from the file by several threads: for a large
//! vocabulary this is the longest part of opening a model.

use ahash::AHashMap;

use super::validate::{self, key_error};
use super::vocab::{Kind, Lookup, Vocab};
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, ValueType};
use crate::limits;
use crate::threads;

/// Merges of one thread, at least: fewer take less time than the thread's start.
const MIN_PART: usize = 8_192;

/// By pair of ids the rank (place in the list) and the id of the joined token.
pub(super) struct Merges(AHashMap<(u32, u32), (u32, u32)>);

impl Merges {
    /// Reads `tokenizer.ggml.merges`. Both parts of each merge and the joined text are in
    /// `known`; of equal merges the last one counts.
    pub fn from_gguf(file: &GgufFile, vocab: &Vocab, known: &Lookup) -> Result<Merges> {
        const KEY: &str = validate::MERGES;
        let array = GgufFile::require(KEY, file.array(KEY, ValueType::Str)?)?;
        if array.len > limits::MAX_MERGES {
            let allowed = format!("at most {}", limits::MAX_MERGES);
            return Err(key_error(KEY, format!("{} merges", array.len), allowed));
        }
        let threads = threads::default_threads().min(array.len / MIN_PART).max(1);
        let part = array.len.div_ceil(threads).max(1);
        let read = |first: usize| -> Result<Vec<Merge>> {
            let mut reader = Reader {
                vocab,
                known,
                joined: Vec::new(),
                next: 0,
            };
            let lines = array.strings().enumerate().skip(first).take(part);
            lines
                .map(|(i, line)| reader.merge(i as u32, line))
                .collect()
        };
        let mut map = AHashMap::with_capacity(array.len);
        for merges in threads::each((0..threads).collect(), |i| read(i * part)) {
            map.extend(merges?);
        }
        Ok(Merges(map))
    }

    /// Rank and result of joining two tokens.
    pub fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.0.get(&(left, right)).copied()
    }
}

type Merge = ((u32, u32), (u32, u32));

/// Turns lines into ids.
struct Reader<'v> {
    vocab: &'v Vocab,
    known: &'v Lookup,
    joined: Vec<u8>,
    /// The token after the one joined last: mostly the one to be joined next.
    next: u32,
}

impl Reader<'_> {
    fn merge(&mut self, rank: u32, line: &[u8]) -> Result<Merge> {
        // A part is never empty, and a space inside a part is written as another character.
        let space = line.iter().position(|&b| b == b' ');
        let parts = space.map(|at| (&line[..at], &line[at + 1..]));
        let parts = parts.filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(&b' '));
        let Some((a, b)) = parts else {
            return Err(wrong(rank, line, "two parts with one space between".into()));
        };
        self.joined.clear();
        self.joined.extend_from_slice(a);
        self.joined.extend_from_slice(b);
        let (vocab, known) = (self.vocab, self.known);
        let is_next =
            vocab.kind(self.next) == Kind::Normal && vocab.bytes(self.next) == self.joined;
        let joined = match is_next {
            true => Some(self.next),
            false => known.get_bytes(vocab, &self.joined),
        };
        let id = |text: &[u8], id: Option<u32>| {
            id.ok_or_else(|| {
                let text = validate::short(&String::from_utf8_lossy(text));
                wrong(rank, line, format!("texts of tokens; {text} is none"))
            })
        };
        let pair = (
            id(a, known.get_bytes(vocab, a))?,
            id(b, known.get_bytes(vocab, b))?,
        );
        let joined = id(&self.joined, joined)?;
        self.next = joined + 1;
        Ok((pair, (rank, joined)))
    }
}

fn wrong(rank: u32, line: &[u8], allowed: String) -> Error {
    let line = validate::short(&String::from_utf8_lossy(line));
    key_error(validate::MERGES, format!("{line} (merge {rank})"), allowed)
}
