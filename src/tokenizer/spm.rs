//! SentencePiece BPE (`tokenizer.ggml.model = llama`).
//!
//! Pseudo-code: normalise the text (a space before text that follows the start or a special
//! token, spaces as U+2581); start with one symbol per character; while some adjacent pair joined
//! is a token, join the pair of the highest score (of equal ones the leftmost); take unused
//! pieces apart again; symbols that are no token become byte tokens.
//!
//! The code differs in keeping candidates in a heap and symbols in a doubly linked list:
//! a candidate is dropped when one of its symbols has changed since it was pushed.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::pieces::{Fallback, Inner};
use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Lookup, Vocab};
use super::words::Words;
use super::work::Work;
use super::{Engine, Prefix, Text};
use crate::error::Result;
use crate::gguf::GgufFile;

pub(super) struct Spm {
    lookup: Lookup,
    scores: Vec<f32>,
    fallback: Fallback,
    words: Words,
    inner: Inner,
}

/// A run of characters in the text; `len` 0 means that it was joined to its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
    /// A user-defined piece, which is never joined.
    whole: bool,
}

const NONE: usize = usize::MAX;

struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both symbols together when this was pushed.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    pub fn from_gguf(file: &GgufFile, vocab: &Vocab, ids: &SpecialIds) -> Result<Spm> {
        let scores = validate::scores(file, vocab.len())?;
        let inner = Inner::of(vocab, &scores)?;
        Ok(Spm {
            lookup: validate::lookup(vocab, &[Kind::UserDefined, Kind::Unused])?,
            scores,
            fallback: Fallback::new(file, vocab, ids)?,
            words: Words::from_gguf(file, inner.clone())?,
            inner,
        })
    }

    /// One symbol per character, or per user-defined piece.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(c) = text[start..].chars().next() {
            let inner = self.inner.longest(&text[start..]);
            let (len, i) = (inner.unwrap_or(c.len_utf8()), symbols.len());
            symbols.push(Symbol {
                start,
                len,
                prev: i.wrapping_sub(1),
                next: i + 1,
                whole: inner.is_some(),
            });
            start += len;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        symbols
    }

    fn push_candidate(
        &self,
        vocab: &Vocab,
        text: &str,
        symbols: &[Symbol],
        left: usize,
        (heap, work): (&mut BinaryHeap<Candidate>, &mut Work<'_>),
    ) -> Result<()> {
        if left == NONE || symbols[left].next == NONE {
            return Ok(());
        }
        let right = symbols[left].next;
        if symbols[left].whole || symbols[right].whole {
            return Ok(());
        }
        let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
        // Looking a text up reads all of it.
        work.spend(1 + len / 8)?;
        if let Some(id) = self.lookup.get(vocab, &text[start..start + len]) {
            heap.push(Candidate {
                score: self.scores[id as usize],
                left,
                right,
                len,
            });
        }
        Ok(())
    }

    /// Joins symbols until nothing can be joined. `joined` remembers where each joined
    /// text was split, which is needed to take unused pieces apart.
    fn merge<'t>(
        &self,
        vocab: &Vocab,
        text: &'t str,
        symbols: &mut [Symbol],
        work: &mut Work<'_>,
    ) -> Result<HashMap<&'t str, usize>> {
        let mut splits = HashMap::new();
        let mut heap = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.push_candidate(vocab, text, symbols, left, (&mut heap, work))?;
        }
        while let Some(c) = heap.pop() {
            let (left, right) = (&symbols[c.left], &symbols[c.right]);
            let stale = left.len == 0 || right.len == 0 || left.len + right.len != c.len;
            if stale {
                continue;
            }
            let joined = &text[left.start..left.start + c.len];
            work.spend(1 + c.len / 8)?;
            if self
                .lookup
                .get(vocab, joined)
                .is_some_and(|id| vocab.kind(id) == Kind::Unused)
            {
                splits.insert(joined, left.len);
            }
            let next = right.next;
            symbols[c.left].len = c.len;
            symbols[c.left].next = next;
            symbols[c.right].len = 0;
            if next != NONE {
                symbols[next].prev = c.left;
            }
            let prev = symbols[c.left].prev;
            self.push_candidate(vocab, text, symbols, prev, (&mut heap, work))?;
            self.push_candidate(vocab, text, symbols, c.left, (&mut heap, work))?;
        }
        Ok(splits)
    }

    /// Emits the token of one symbol, the tokens of an unused piece's parts, or bytes; the text
    /// began at `out[start]`.
    fn emit(
        &self,
        vocab: &Vocab,
        symbol: &str,
        splits: &HashMap<&str, usize>,
        start: usize,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut stack = vec![symbol];
        while let Some(text) = stack.pop() {
            match self.lookup.get(vocab, text) {
                Some(id) if vocab.kind(id) != Kind::Unused => out.push(id),
                _ => match splits.get(text) {
                    Some(&at) => {
                        let (left, right) = text.split_at(at);
                        stack.push(right);
                        stack.push(left);
                    }
                    None => self.fallback.encode(text, start, out)?,
                },
            }
        }
        Ok(())
    }
}

impl Engine for Spm {
    fn encode(
        &self,
        vocab: &Vocab,
        text: Text<'_>,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        for text in self.words.of(text, work)? {
            let mut symbols = self.symbols(&text);
            let start = out.len();
            let splits = self.merge(vocab, &text, &mut symbols, work)?;
            for s in symbols.iter().filter(|s| s.len > 0) {
                let symbol = &text[s.start..s.start + s.len];
                self.emit(vocab, symbol, &splits, start, out)?;
            }
        }
        Ok(())
    }

    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        self.fallback.append_bytes(vocab, id, out);
    }

    fn prefix(&self) -> Prefix {
        self.words.prefix()
    }

    fn inner(&self) -> &[u32] {
        self.inner.ids()
    }
}
