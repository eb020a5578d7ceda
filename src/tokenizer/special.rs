//! Tokens that are found in text before the algorithm runs, and tokens that end a text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::validate::{SpecialIds, TOKENS};
use super::vocab::{Kind, Vocab};
use crate::error::{Error, Result};
use crate::limits;

/// Texts of tokens that end generation in some published family.
const STOP_TEXTS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<end_of_utterance>",
    "</s>",
    "[EOS]",
];

/// More of them in vocabularies of the ChatGLM family, recognised by `[gMASK]`; other
/// families use the same texts for something else.
const CHATGLM_STOP_TEXTS: [&str; 2] = ["<|user|>", "<|observation|>"];

/// All ids that end generation, in increasing order.
pub(super) fn stop_ids(vocab: &Vocab, ids: &SpecialIds) -> Vec<u32> {
    let chatglm = vocab
        .iter()
        .any(|(_, text, kind)| kind != Kind::Normal && text == "[gMASK]");
    let stops =
        |text: &str| STOP_TEXTS.contains(&text) || chatglm && CHATGLM_STOP_TEXTS.contains(&text);
    let mut out: Vec<u32> = [ids.eos, ids.eot, ids.eom].into_iter().flatten().collect();
    out.extend(
        vocab
            .iter()
            .filter(|(_, text, _)| stops(text))
            .map(|(id, _, _)| id),
    );
    out.sort_unstable();
    out.dedup();
    out
}

/// Finds texts; of those that start at the same place the longest.
struct Matcher {
    texts: AhoCorasick,
    ids: Vec<u32>,
}

impl Matcher {
    fn new(vocab: &Vocab, take: impl Fn(Kind) -> bool) -> Result<Option<Matcher>> {
        let wanted = |&(_, text, kind): &(u32, &str, Kind)| take(kind) && !text.is_empty();
        let (mut count, mut bytes) = (0, 0);
        for (_, text, _) in vocab.iter().filter(wanted) {
            (count, bytes) = (count + 1, bytes + text.len());
        }
        if count > limits::MAX_SPECIAL_TOKENS || bytes > limits::MAX_SPECIAL_BYTES {
            return Err(Error::Key {
                key: TOKENS.to_owned(),
                value: format!("{count} special tokens of {bytes} bytes"),
                allowed: format!(
                    "{} of {} bytes",
                    limits::MAX_SPECIAL_TOKENS,
                    limits::MAX_SPECIAL_BYTES
                ),
            });
        }
        if count == 0 {
            return Ok(None);
        }
        let texts = vocab.iter().filter(wanted).map(|(_, text, _)| text);
        let texts = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts);
        let texts = texts.map_err(|e| Error::Key {
            key: TOKENS.to_owned(),
            value: e.to_string(),
            allowed: "special tokens that fit a matcher".to_owned(),
        })?;
        Ok(Some(Matcher {
            texts,
            ids: vocab.iter().filter(wanted).map(|(id, _, _)| id).collect(),
        }))
    }

    fn find(&self, text: &str, range: Range<usize>) -> Option<Found> {
        let m = self.texts.find(Input::new(text).range(range))?;
        Some(Found {
            range: m.range(),
            id: self.ids[m.pattern().as_usize()],
        })
    }
}

/// A special token in a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub range: Range<usize>,
    pub id: u32,
}

/// Both matchers of a vocabulary.
pub(super) struct Special {
    /// User-defined tokens: recognised everywhere.
    always: Option<Matcher>,
    /// These and control and unknown tokens: recognised where special texts are parsed.
    parsed: Option<Matcher>,
}

impl Special {
    pub fn new(vocab: &Vocab) -> Result<Special> {
        Ok(Special {
            always: Matcher::new(vocab, |k| k == Kind::UserDefined)?,
            parsed: Matcher::new(vocab, |k| {
                matches!(k, Kind::UserDefined | Kind::Control | Kind::Unknown)
            })?,
        })
    }

    /// The special tokens of `text` in order, not overlapping. Control and unknown tokens
    /// are found only where they lie completely inside one of the ranges `parse`, which
    /// are in order; user-defined ones everywhere.
    pub fn find_all(&self, text: &str, parse: &[Range<usize>]) -> Vec<Found> {
        let mut out = Vec::new();
        let mut pos = 0;
        let mut always = self
            .always
            .as_ref()
            .and_then(|m| m.find(text, 0..text.len()));
        let mut parsed = self.next_parsed(text, parse, pos);
        loop {
            let found = match (&always, &parsed) {
                (None, None) => return out,
                (Some(a), Some(p)) => {
                    // Leftmost, then longest.
                    let key = |f: &Found| (f.range.start, std::cmp::Reverse(f.range.end));
                    if key(a) < key(p) {
                        a.clone()
                    } else {
                        p.clone()
                    }
                }
                (Some(f), None) | (None, Some(f)) => f.clone(),
            };
            pos = found.range.end;
            out.push(found);
            if always.as_ref().is_some_and(|f| f.range.start < pos) {
                always = self
                    .always
                    .as_ref()
                    .and_then(|m| m.find(text, pos..text.len()));
            }
            if parsed.as_ref().is_some_and(|f| f.range.start < pos) {
                parsed = self.next_parsed(text, parse, pos);
            }
        }
    }

    fn next_parsed(&self, text: &str, parse: &[Range<usize>], pos: usize) -> Option<Found> {
        let matcher = self.parsed.as_ref()?;
        let first = parse.partition_point(|r| r.end <= pos);
        parse[first..]
            .iter()
            .find_map(|r| matcher.find(text, r.start.max(pos)..r.end))
    }
}
