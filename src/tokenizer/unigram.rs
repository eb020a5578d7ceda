//! SentencePiece unigram (`tokenizer.ggml.model = t5`).
//!
//! Pseudo-code: normalise the text; of all ways to cut it into pieces take the one whose scores
//! have the largest sum. A character that is no piece may stand alone for the lowest score less
//! ten; it becomes byte tokens, or the unknown token.
//!
//! The best cut of every beginning of the text is found from those of shorter ones (Viterbi).
//! Sums are rounded where SentencePiece rounds them, so that nearly equal cuts are chosen alike.

use super::Engine;
use super::normalize::Normalizer;
use super::pieces::Fallback;
use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Vocab};
use crate::error::Result;
use crate::gguf::GgufFile;

/// What an unknown character costs below the lowest score.
const UNKNOWN_PENALTY: f32 = 10.0;

pub(super) struct Unigram {
    prefixes: Prefixes,
    scores: Vec<f32>,
    /// Score of a character that is no piece.
    unknown: f32,
    fallback: Fallback,
    normalizer: Normalizer,
}

impl Unigram {
    pub fn from_gguf(file: &GgufFile, vocab: &Vocab, ids: &SpecialIds) -> Result<Unigram> {
        // Checks that texts occur once.
        validate::lookup(vocab, &[])?;
        let scores = validate::scores(file, vocab.len())?;
        let prefixes = Prefixes::new(vocab);
        let normal = prefixes.ids.iter().map(|&id| scores[id as usize]);
        Ok(Unigram {
            unknown: normal.reduce(f32::min).unwrap_or(0.0) - UNKNOWN_PENALTY,
            prefixes,
            scores,
            fallback: Fallback::new(vocab, ids)?,
            normalizer: Normalizer::from_gguf(file)?,
        })
    }

    /// The best cut: byte length and token of each piece, last piece first.
    fn cut(&self, vocab: &Vocab, text: &str) -> Vec<(usize, Option<u32>)> {
        let start = Best {
            score: 0.0,
            len: 0,
            id: None,
        };
        let mut best = vec![start; text.len() + 1];
        for (at, c) in text.char_indices() {
            // Every character can stand alone, so every one is reached.
            let here = best[at].score;
            let mut alone = false;
            for (len, id) in self.prefixes.of(vocab, &text.as_bytes()[at..]) {
                alone |= len == c.len_utf8();
                let sum = f64::from(self.scores[id as usize]) + f64::from(here);
                offer(&mut best[at + len], sum, len, Some(id));
            }
            if !alone {
                let len = c.len_utf8();
                offer(
                    &mut best[at + len],
                    f64::from(self.unknown + here),
                    len,
                    None,
                );
            }
        }
        let mut out = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { len, id, .. } = best[end];
            out.push((len as usize, id));
            end -= len as usize;
        }
        out
    }
}

/// The best cut of a beginning of the text: its sum of scores and last piece, which has a length
/// as soon as there is a cut. Tokens are far shorter than 2^32 bytes.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    len: u32,
    id: Option<u32>,
}

fn offer(best: &mut Best, sum: f64, len: usize, id: Option<u32>) {
    if best.len == 0 || sum > f64::from(best.score) {
        *best = Best {
            score: sum as f32,
            len: len as u32,
            id,
        };
    }
}

impl Engine for Unigram {
    fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let text = self.normalizer.apply(text)?;
        let (start, mut at) = (out.len(), 0);
        for (len, id) in self.cut(vocab, &text).into_iter().rev() {
            match id {
                Some(id) => out.push(id),
                None => self.fallback.encode(&text[at..at + len], start, out)?,
            }
            at += len;
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

/// The normal tokens sorted by text: a trie without nodes, where the tokens below a node are a
/// range.
struct Prefixes {
    ids: Vec<u32>,
}

impl Prefixes {
    fn new(vocab: &Vocab) -> Prefixes {
        let normal = vocab
            .iter()
            .filter(|&(_, text, kind)| kind == Kind::Normal && !text.is_empty());
        let mut ids: Vec<u32> = normal.map(|(id, ..)| id).collect();
        ids.sort_unstable_by_key(|&id| vocab.bytes(id));
        Prefixes { ids }
    }

    /// Length and id of the tokens that `text` begins with, the shortest first.
    fn of<'a>(
        &'a self,
        vocab: &'a Vocab,
        text: &'a [u8],
    ) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut below = self.ids.as_slice();
        let narrowed = text.iter().enumerate().map_while(move |(depth, byte)| {
            // All of `below` agree up to `depth`.
            let next = |id: &u32| vocab.bytes(*id).get(depth);
            let from = below.partition_point(|id| next(id) < Some(byte));
            let to = below.partition_point(|id| next(id) <= Some(byte));
            below = &below[from..to];
            below.first().map(|&id| (depth + 1, id))
        });
        narrowed.filter(|&(len, id)| vocab.bytes(id).len() == len)
    }
}
