//! Tokens that are found in text before the algorithm runs, and tokens that end a text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::validate::{SpecialIds, TOKENS};
use super::vocab::{Kind, Vocab};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::limits;

/// Texts of control tokens that end generation in some published family. They count only where the
/// vocabulary says that the token is one: `</s>` is HTML to Gemma 3 and Qwen 2.
const STOP_TEXTS: [&str; 18] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
    "</s>",
    "[EOS]",
];

/// More of them in vocabularies of the ChatGLM family, recognised by `[gMASK]`; other
/// families use the same texts for something else.
const CHATGLM_STOP_TEXTS: [&str; 2] = ["<|user|>", "<|observation|>"];

/// Whether a control token of this text ends generation in some family.
pub(crate) fn is_stop_text(text: &str) -> bool {
    STOP_TEXTS.contains(&text)
}

/// All ids that end generation, in increasing order: those the file declares, and control tokens by
/// their texts.
pub(super) fn stop_ids(vocab: &Vocab, ids: &SpecialIds) -> Vec<u32> {
    // All of these texts begin with one of three bytes, which few tokens do.
    let marks = || {
        vocab
            .iter()
            .filter(|(_, text, _)| text.starts_with(['<', '[', '_']))
    };
    let controls = || marks().filter(|(_, _, kind)| *kind == Kind::Control);
    let has = |wanted: &str| controls().any(|(_, text, _)| text == wanted);
    let chatglm = has("[gMASK]");
    // Where turns end with these, `<|end|>` only ends a part of one.
    let parts = has("<|return|>") && has("<|call|>");
    let stops = |text: &str| {
        is_stop_text(text) && !(parts && text == "<|end|>")
            || chatglm && CHATGLM_STOP_TEXTS.contains(&text)
    };
    let mut out: Vec<u32> = [ids.eos, ids.eot, ids.eom].into_iter().flatten().collect();
    out.extend(&ids.stops);
    out.extend(
        controls()
            .filter(|(_, text, _)| stops(text))
            .map(|(id, ..)| id),
    );
    out.sort_unstable();
    out.dedup();
    out
}

/// Control tokens that swallow white space next to them.
#[derive(Default)]
pub(super) struct Strips {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
}

/// Those of Phi-3's chats, whose tokenizer marks them `rstrip`, and T5's sentinels (also `lstrip`).
/// GGUF has no key for that, so the architecture decides.
pub(super) fn strips(file: &GgufFile, vocab: &Vocab) -> Result<Strips> {
    const NOT: [&str; 4] = ["<unk>", "<s>", "</s>", "<|endoftext|>"];
    let controls = |wanted: fn(&str) -> bool| -> Vec<u32> {
        let special = |&(_, text, kind): &(u32, &str, Kind)| kind == Kind::Control && wanted(text);
        vocab.iter().filter(special).map(|(id, ..)| id).collect()
    };
    let sentinels = || controls(|text| text.starts_with("<extra_id_"));
    Ok(match file.str("general.architecture")? {
        Some("phi3") => Strips {
            before: Vec::new(),
            after: controls(|text| !NOT.contains(&text)),
        },
        Some("t5") => Strips {
            before: sentinels(),
            after: sentinels(),
        },
        _ => Strips::default(),
    })
}

/// Finds texts; of those that start at the same place the longest.
struct Matcher {
    texts: AhoCorasick,
    ids: Vec<u32>,
}

impl Matcher {
    fn new(special: &[(u32, &str)]) -> Result<Option<Matcher>> {
        if special.is_empty() {
            return Ok(None);
        }
        let texts = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special.iter().map(|(_, text)| text));
        let texts = texts.map_err(|e| Error::Key {
            key: TOKENS.to_owned(),
            value: e.to_string(),
            allowed: "special tokens that fit a matcher".to_owned(),
        })?;
        Ok(Some(Matcher {
            texts,
            ids: special.iter().map(|&(id, _)| id).collect(),
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
        let (mut always, mut parsed, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (id, text, kind) in vocab.iter() {
            if text.is_empty() || matches!(kind, Kind::Normal | Kind::Unused | Kind::Byte) {
                continue;
            }
            if kind == Kind::UserDefined {
                always.push((id, text));
            }
            parsed.push((id, text));
            bytes += text.len();
        }
        if parsed.len() > limits::MAX_SPECIAL_TOKENS || bytes > limits::MAX_SPECIAL_BYTES {
            return Err(Error::Key {
                key: TOKENS.to_owned(),
                value: format!("{} special tokens of {bytes} bytes", parsed.len()),
                allowed: format!(
                    "{} of {} bytes",
                    limits::MAX_SPECIAL_TOKENS,
                    limits::MAX_SPECIAL_BYTES
                ),
            });
        }
        Ok(Special {
            always: Matcher::new(&always)?,
            parsed: Matcher::new(&parsed)?,
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
