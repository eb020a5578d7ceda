//! SentencePiece unigram (`tokenizer.ggml.model = t5`).
//!
//! Pseudo-code: normalise the text; of all ways to cut it into pieces take the one whose scores
//! have the largest sum. A character that is no piece may stand alone for the lowest score less
//! ten; it becomes byte tokens, or the unknown token.
//!
//! The best cut of every beginning of the text is found from those of shorter ones (Viterbi).
//! Sums are rounded where SentencePiece rounds them, so that nearly equal cuts are chosen alike.

use super::pieces::{Fallback, Inner};
use super::validate::{self, SpecialIds};
use super::vocab::{Kind, Vocab};
use super::words::Words;
use super::work::Work;
use super::{Engine, Prefix, Text};
use crate::error::Result;
use crate::gguf::GgufFile;
use crate::limits;

/// What an unknown character costs below the lowest score.
const UNKNOWN_PENALTY: f64 = 10.0;

pub(super) struct Unigram {
    prefixes: Prefixes,
    scores: Vec<f64>,
    /// Score of a character that is no piece.
    unknown: f64,
    /// Round sums to 32 bits, as SentencePiece does; the crate `tokenizers` does not.
    round: bool,
    fallback: Fallback,
    words: Words,
    inner: Inner,
}

/// Scores that 32 bits do not hold.
pub const SCORES: &str = "tokenizer.geb.scores";

impl Unigram {
    pub fn from_gguf(file: &GgufFile, vocab: &Vocab, ids: &SpecialIds) -> Result<Unigram> {
        // Checks that texts occur once.
        validate::lookup(vocab, &[])?;
        let single = validate::scores(file, vocab.len())?;
        let inner = Inner::of(vocab, &single)?;
        let mut scores = match validate::doubles(file, SCORES, vocab.len())? {
            Some(scores) => scores,
            None => single.into_iter().map(f64::from).collect(),
        };
        let prefixes = Prefixes::new(vocab, &inner)?;
        let words = Words::from_gguf(file, inner.clone())?;
        let normal = vocab.iter().filter(|t| t.2 == Kind::Normal);
        let normal = normal.map(|(id, ..)| scores[id as usize]);
        let (low, high) = normal.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| {
            (low.min(s), high.max(s))
        });
        let low = if low.is_finite() { low } else { 0.0 };
        let unknown = low - UNKNOWN_PENALTY;
        // So that they are always chosen.
        for &id in inner.ids() {
            let bytes = vocab.text(id).len() as f32;
            scores[id as usize] = f64::from(bytes * high as f32) - 0.1;
        }
        Ok(Unigram {
            unknown,
            prefixes,
            scores,
            round: matches!(words, Words::Pieces(_)),
            fallback: Fallback::new(file, vocab, ids)?,
            words,
            inner,
        })
    }

    /// The best cut: byte length and token of each piece, last piece first.
    fn cut(
        &self,
        vocab: &Vocab,
        text: &str,
        work: &mut Work<'_>,
    ) -> Result<Vec<(usize, Option<u32>)>> {
        let start = Best {
            score: 0.0,
            len: 0,
            id: None,
        };
        let mut best = vec![start; text.len() + 1];
        for (at, c) in text.char_indices() {
            // Every character can stand alone, so every one is reached.
            let here = best[at].score;
            let (mut alone, mut deep) = (false, 0);
            for (len, id) in self.prefixes.of(vocab, &text.as_bytes()[at..], &mut deep) {
                alone |= len == c.len_utf8();
                self.offer(
                    &mut best[at + len],
                    self.scores[id as usize] + here,
                    len,
                    Some(id),
                );
            }
            work.spend(1 + deep)?;
            if !alone {
                let len = c.len_utf8();
                let mut sum = self.unknown + here;
                if self.round {
                    sum = f64::from(self.unknown as f32 + here as f32);
                }
                self.offer(&mut best[at + len], sum, len, None);
            }
        }
        let mut out = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { len, id, .. } = best[end];
            out.push((len as usize, id));
            end -= len as usize;
        }
        Ok(out)
    }

    fn offer(&self, best: &mut Best, sum: f64, len: usize, id: Option<u32>) {
        if best.len == 0 || sum > best.score {
            *best = Best {
                score: if self.round {
                    f64::from(sum as f32)
                } else {
                    sum
                },
                len: len as u32,
                id,
            };
        }
    }
}

/// The best cut of a beginning of the text: its sum of scores and last piece, which has a length
/// as soon as there is a cut. Tokens are far shorter than 2^32 bytes.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    len: u32,
    id: Option<u32>,
}

impl Engine for Unigram {
    fn encode(
        &self,
        vocab: &Vocab,
        text: Text<'_>,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        for text in self.words.of(text, work)? {
            let (start, mut at) = (out.len(), 0);
            for (len, id) in self.cut(vocab, &text, work)?.into_iter().rev() {
                match id {
                    Some(id) => out.push(id),
                    None => self.fallback.encode(&text[at..at + len], start, out)?,
                }
                at += len;
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

/// The tokens of text sorted by text: a trie without nodes, where the tokens below a node are a
/// range.
struct Prefixes {
    ids: Vec<u32>,
}

impl Prefixes {
    fn new(vocab: &Vocab, inner: &Inner) -> Result<Prefixes> {
        let normal = vocab
            .iter()
            .filter(|&(_, text, kind)| kind == Kind::Normal && !text.is_empty());
        let mut ids: Vec<u32> = normal.map(|(id, ..)| id).collect();
        ids.extend(inner.ids());
        ids.sort_unstable_by_key(|&id| vocab.bytes(id));
        match ids
            .iter()
            .find(|&&id| vocab.bytes(id).len() > limits::MAX_SEARCHED_TOKEN_BYTES)
        {
            Some(id) => Err(validate::key_error(
                validate::TOKENS,
                format!("token {id} of {} bytes", vocab.bytes(*id).len()),
                format!(
                    "at most {} bytes in a unigram vocabulary",
                    limits::MAX_SEARCHED_TOKEN_BYTES
                ),
            )),
            None => Ok(Prefixes { ids }),
        }
    }

    /// Length and id of the tokens that `text` begins with, the shortest first; `deep` counts the bytes
    /// looked at.
    fn of<'a>(
        &'a self,
        vocab: &'a Vocab,
        text: &'a [u8],
        deep: &'a mut usize,
    ) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut below = self.ids.as_slice();
        let narrowed = text.iter().enumerate().map_while(move |(depth, byte)| {
            *deep += 1;
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
