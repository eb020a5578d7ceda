//! Byte-level BPE (`tokenizer.ggml.model = gpt2`).
//!
//! Pseudo-code: cut the text by the patterns of its `pre` entry; write each byte of a piece as
//! the token of its character in GPT-2's alphabet; while some adjacent pair of tokens has a
//! merge, join the pair of the lowest rank (of equal ones the leftmost).
//!
//! The code differs in keeping pairs in a heap and symbols in a doubly linked list: a pair is
//! dropped when it is no longer the one that was pushed. Tables hold ids; texts stay in the
//! vocabulary. The ids equal those of the crate `tokenizers` (`oracle.rs`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fancy_regex::Regex;

use super::Engine;
use super::merges::Merges;
use super::pre::{self, Pre};
use super::validate;
use super::vocab::{Kind, Lookup, Vocab};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;

pub(super) struct ByteBpe {
    patterns: Vec<Regex>,
    known: Lookup,
    merges: Merges,
    /// Character and token of each byte; a byte without a token is left out of the ids.
    bytes: [(char, Option<u32>); 256],
    ignore_merges: bool,
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
        std::thread::scope(|scope| {
            let compiling = std::thread::Builder::new().spawn_scoped(scope, || compile(pre));
            let known = validate::lookup(vocab, &[Kind::UserDefined, Kind::Byte])?;
            let merges = Merges::from_gguf(file, vocab, &known)?;
            let patterns = compiling.ok().and_then(|c| c.join().ok());
            let patterns = patterns.unwrap_or_else(|| compile(pre))?;
            let token = |c: char| known.get(vocab, c.encode_utf8(&mut [0; 4]));
            Ok(ByteBpe {
                bytes: alphabet().map(|c| (c, token(c))),
                patterns,
                known,
                merges,
                ignore_merges: pre.ignore_merges,
            })
        })
    }

    /// Appends the ids of one piece.
    fn encode_piece(&self, vocab: &Vocab, piece: &str, work: &mut Work, out: &mut Vec<u32>) {
        let bytes = piece.bytes().map(|b| self.bytes[usize::from(b)]);
        if self.ignore_merges {
            work.text.clear();
            work.text.extend(bytes.clone().map(|(c, _)| c));
            if let Some(id) = self.known.get(vocab, &work.text) {
                return out.push(id);
            }
        }
        work.merge(bytes.filter_map(|(_, id)| id), &self.merges);
        out.extend(work.symbols.iter().filter(|s| s.alive).map(|s| s.id));
    }
}

/// The patterns of the table are constants, and a test compiles them all.
fn compile(pre: &Pre) -> Result<Vec<Regex>> {
    let compiled = pre.patterns.iter().map(|p| Regex::new(p));
    compiled
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::Unsupported {
            what: "pattern of tokenizer.ggml.pre",
            value: e.to_string(),
            known: pre::known(),
        })
}

/// Cuts `text` into matches of `pattern` and what lies between them. Where the matcher gives
/// up, the rest is one piece.
fn cut<'t>(text: &'t str, pattern: &Regex, out: &mut Vec<&'t str>) {
    let mut end = 0;
    for found in pattern.find_iter(text).map_while(|m| m.ok()) {
        let pieces = [&text[end..found.start()], found.as_str()];
        out.extend(pieces.into_iter().filter(|p| !p.is_empty()));
        end = found.end();
    }
    out.extend(Some(&text[end..]).filter(|rest| !rest.is_empty()));
}

/// A token in a piece.
struct Symbol {
    id: u32,
    /// False once it was joined to its left neighbour.
    alive: bool,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Buffers that are used for one piece after the other.
#[derive(Default)]
struct Work {
    text: String,
    symbols: Vec<Symbol>,
    /// Rank and left symbol of pairs that may be joined, the lowest first.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Work {
    /// Joins the symbols `ids` until no pair has a merge.
    fn merge(&mut self, ids: impl Iterator<Item = u32>, merges: &Merges) {
        self.symbols.clear();
        self.symbols.extend((0u32..).zip(ids).map(|(i, id)| Symbol {
            id,
            alive: true,
            prev: i.wrapping_sub(1),
            next: i + 1,
        }));
        let Some(last) = self.symbols.last_mut() else {
            return;
        };
        last.next = NONE;
        for left in 0..self.symbols.len() as u32 - 1 {
            self.push(left, merges);
        }
        while let Some(Reverse((rank, left))) = self.heap.pop() {
            let Some((_, joined)) = self.rule(left, merges).filter(|(r, _)| *r == rank) else {
                continue;
            };
            let right = self.symbols[left as usize].next;
            let next = self.symbols[right as usize].next;
            self.symbols[right as usize].alive = false;
            let symbol = &mut self.symbols[left as usize];
            (symbol.id, symbol.next) = (joined, next);
            let prev = symbol.prev;
            if next != NONE {
                self.symbols[next as usize].prev = left;
            }
            if prev != NONE {
                self.push(prev, merges);
            }
            self.push(left, merges);
        }
    }

    /// Rank and result of joining a living symbol and the one to its right.
    fn rule(&self, left: u32, merges: &Merges) -> Option<(u32, u32)> {
        let left = &self.symbols[left as usize];
        if !left.alive || left.next == NONE {
            return None;
        }
        let right = &self.symbols[left.next as usize];
        merges.get(left.id, right.id)
    }

    fn push(&mut self, left: u32, merges: &Merges) {
        if let Some((rank, _)) = self.rule(left, merges) {
            self.heap.push(Reverse((rank, left)));
        }
    }
}

impl Engine for ByteBpe {
    fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut pieces: Vec<&str> = Some(text).filter(|t| !t.is_empty()).into_iter().collect();
        let mut finer = Vec::new();
        for pattern in &self.patterns {
            pieces.drain(..).for_each(|p| cut(p, pattern, &mut finer));
            std::mem::swap(&mut pieces, &mut finer);
        }
        let mut work = Work::default();
        for piece in pieces {
            self.encode_piece(vocab, piece, &mut work, out);
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

/// The character of each byte, the inverse of [`byte_of`].
pub(super) fn alphabet() -> [char; 256] {
    let mut out = ['\0'; 256];
    for c in '\0'..'\u{144}' {
        if let Some(byte) = byte_of(c) {
            out[usize::from(byte)] = c;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_reference() {
        let reference = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let ours = alphabet();
        assert!(ours.iter().all(|c| reference.contains(c)));
        for (byte, c) in ours.into_iter().enumerate() {
            assert_eq!(byte_of(c).map(usize::from), Some(byte));
        }
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('一'), None);
    }

    #[test]
    fn every_pattern_of_the_table_compiles() {
        for name in pre::known().split(", ") {
            let pre = pre::find(name).expect("a known name");
            assert_eq!(compile(pre).expect("compiles").len(), pre.patterns.len());
        }
        assert!(pre::find("no such name").is_none());
    }
}
