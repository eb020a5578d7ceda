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

use super::Engine;
use super::normalize::Normalizer;
use super::pieces::Fallback;
use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Lookup, Vocab};
use crate::error::Result;
use crate::gguf::GgufFile;

pub(super) struct Spm {
    lookup: Lookup,
    scores: Vec<f32>,
    fallback: Fallback,
    normalizer: Normalizer,
}

/// A run of characters in the text; `len` 0 means that it was joined to its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
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
        Ok(Spm {
            lookup: validate::lookup(vocab, &[Kind::UserDefined, Kind::Unused])?,
            scores,
            fallback: Fallback::new(vocab, ids)?,
            normalizer: Normalizer::from_gguf(file)?,
        })
    }

    fn push_candidate(
        &self,
        vocab: &Vocab,
        text: &str,
        symbols: &[Symbol],
        left: usize,
        heap: &mut BinaryHeap<Candidate>,
    ) {
        if left == NONE || symbols[left].next == NONE {
            return;
        }
        let right = symbols[left].next;
        let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
        if let Some(id) = self.lookup.get(vocab, &text[start..start + len]) {
            heap.push(Candidate {
                score: self.scores[id as usize],
                left,
                right,
                len,
            });
        }
    }

    /// Joins symbols until nothing can be joined. `joined` remembers where each joined
    /// text was split, which is needed to take unused pieces apart.
    fn merge<'t>(
        &self,
        vocab: &Vocab,
        text: &'t str,
        symbols: &mut [Symbol],
    ) -> HashMap<&'t str, usize> {
        let mut splits = HashMap::new();
        let mut heap = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.push_candidate(vocab, text, symbols, left, &mut heap);
        }
        while let Some(c) = heap.pop() {
            let (left, right) = (&symbols[c.left], &symbols[c.right]);
            let stale = left.len == 0 || right.len == 0 || left.len + right.len != c.len;
            if stale {
                continue;
            }
            let joined = &text[left.start..left.start + c.len];
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
            self.push_candidate(vocab, text, symbols, prev, &mut heap);
            self.push_candidate(vocab, text, symbols, c.left, &mut heap);
        }
        splits
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
    fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let text = self.normalizer.apply(text)?;
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (i, (start, c)) in text.char_indices().enumerate() {
            symbols.push(Symbol {
                start,
                len: c.len_utf8(),
                prev: i.wrapping_sub(1),
                next: i + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let start = out.len();
        let splits = self.merge(vocab, &text, &mut symbols);
        for s in symbols.iter().filter(|s| s.len > 0) {
            let symbol = &text[s.start..s.start + s.len];
            self.emit(vocab, symbol, &splits, start, out)?;
        }
        Ok(())
    }

    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        self.fallback.append_bytes(vocab, id, out);
    }

    fn adds_space(&self) -> bool {
        self.normalizer.adds_space()
    }
}
