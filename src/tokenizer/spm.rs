//! SentencePiece BPE (`tokenizer.ggml.model = llama`).
//!
//! Pseudo-code: put a space before text that follows the start or a special token; write
//! spaces as U+2581; start with one symbol per character; while some adjacent pair joined
//! is a token, join the pair of the highest score (of equal ones the leftmost); take unused
//! pieces apart again; symbols that are no token become byte tokens.
//!
//! The code differs in keeping candidates in a heap and symbols in a doubly linked list:
//! a candidate is dropped when one of its symbols has changed since it was pushed.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::Engine;
use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Lookup, Vocab};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;

/// U+2581, which stands for a space.
const SPACE: &str = "\u{2581}";

pub(super) struct Spm {
    lookup: Lookup,
    scores: Vec<f32>,
    bytes: [Option<u32>; 256],
    byte_of: HashMap<u32, u8>,
    unknown: Option<u32>,
    space_prefix: bool,
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
        let bytes = validate::byte_tokens(vocab)?;
        let byte_of = (0u8..=255)
            .zip(bytes)
            .filter_map(|(b, id)| Some((id?, b)))
            .collect();
        Ok(Spm {
            lookup: validate::lookup(vocab, &[Kind::UserDefined, Kind::Unused])?,
            scores,
            bytes,
            byte_of,
            unknown: ids.unknown,
            space_prefix: file
                .bool("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(true),
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

    /// Emits the token of one symbol, the tokens of an unused piece's parts, or bytes.
    fn emit(
        &self,
        vocab: &Vocab,
        symbol: &str,
        splits: &HashMap<&str, usize>,
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
                    None => self.emit_bytes(text, out)?,
                },
            }
        }
        Ok(())
    }

    fn emit_bytes(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let start = out.len();
        for byte in text.bytes() {
            if let Some(id) = self.bytes[usize::from(byte)] {
                out.push(id);
                continue;
            }
            out.truncate(start);
            let Some(unknown) = self.unknown else {
                return Err(Error::Request {
                    what: "text".into(),
                    value: format!("{text:?}, for which the model has no token"),
                    allowed: "text that the vocabulary covers".into(),
                });
            };
            out.push(unknown);
            break;
        }
        Ok(())
    }
}

impl Engine for Spm {
    fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let prefix = if self.space_prefix { SPACE } else { "" };
        let text = format!("{prefix}{}", text.replace(' ', SPACE));
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
        let splits = self.merge(vocab, &text, &mut symbols);
        for s in symbols.iter().filter(|s| s.len > 0) {
            self.emit(vocab, &text[s.start..s.start + s.len], &splits, out)?;
        }
        Ok(())
    }

    fn append_bytes(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        match vocab.kind(id) {
            Kind::Byte => out.extend(self.byte_of.get(&id)),
            _ => out.extend(vocab.text(id).replace(SPACE, " ").into_bytes()),
        }
    }

    fn adds_space(&self) -> bool {
        self.space_prefix
    }
}
