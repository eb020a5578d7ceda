//! Tokens that are found in text before the algorithm runs, and tokens that end a text.

use std::borrow::Cow;
use std::ops::Range;

use ahash::AHashMap;
use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::steps::{Steps, is_word};
use super::validate::{self, SpecialIds, TOKENS};
use super::vocab::{Kind, Vocab};
use super::work::Work;
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::limits;

pub use super::validate::FLAGS;

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
pub fn is_stop_text(text: &str) -> bool {
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

/// How a token is found in text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// White space before it belongs to it.
    pub const LSTRIP: u8 = 1;
    /// White space behind it belongs to it.
    pub const RSTRIP: u8 = 2;
    /// It is looked for in the normalised text.
    pub const NORMALIZED: u8 = 4;
    /// It is no token inside a word.
    pub const SINGLE_WORD: u8 = 8;

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// Flags of all tokens that have some: of the file's own key, or, where it has none, those of Phi-3's
/// chats, whose tokenizer marks them `rstrip`, and of T5's sentinels (also `lstrip`). GGUF has no key for
/// that, so the architecture decides.
pub(super) fn flags(file: &GgufFile, vocab: &Vocab) -> Result<AHashMap<u32, Flags>> {
    const NOT: [&str; 4] = ["<unk>", "<s>", "</s>", "<|endoftext|>"];
    if let Some(bytes) = validate::flags(file, vocab.len())? {
        let set = (0u32..).zip(bytes).filter(|(_, f)| **f != 0);
        return Ok(set.map(|(id, &f)| (id, Flags(f))).collect());
    }
    let controls = |wanted: fn(&str) -> bool, flags: u8| -> AHashMap<u32, Flags> {
        let special = |&(_, text, kind): &(u32, &str, Kind)| kind == Kind::Control && wanted(text);
        vocab
            .iter()
            .filter(special)
            .map(|(id, ..)| (id, Flags(flags)))
            .collect()
    };
    Ok(match file.str("general.architecture")? {
        Some("phi3") => controls(|text| !NOT.contains(&text), Flags::RSTRIP),
        Some("t5") => controls(
            |text| text.starts_with("<extra_id_"),
            Flags::LSTRIP | Flags::RSTRIP,
        ),
        _ => AHashMap::new(),
    })
}

/// Finds texts; of those that start at the same place the longest.
struct Matcher {
    texts: AhoCorasick,
    ids: Vec<u32>,
}

impl Matcher {
    fn new(special: &[(u32, Cow<'_, str>)]) -> Result<Option<Matcher>> {
        if special.is_empty() {
            return Ok(None);
        }
        let texts = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special.iter().map(|(_, text)| text.as_bytes()));
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
    /// With the white space that belongs to it.
    pub range: Range<usize>,
    pub id: u32,
}

/// Matchers over one form of the text.
#[derive(Default)]
struct Both {
    /// User-defined tokens: recognised everywhere.
    always: Option<Matcher>,
    /// These and control and unknown tokens: recognised where special texts are parsed.
    parsed: Option<Matcher>,
}

/// The special tokens of a vocabulary.
pub(super) struct Special {
    raw: Both,
    /// Tokens that are looked for in the normalised text, by their normalised texts.
    normal: Both,
    /// Where only parts of a text are parsed, what is control is looked for in these parts as they are.
    partly: Option<Matcher>,
    flags: AHashMap<u32, Flags>,
}

impl Special {
    /// Of the tokens that are none of `inner` (sorted). `steps` changes the texts of those that are
    /// looked for in normalised text.
    pub fn new(
        vocab: &Vocab,
        inner: &[u32],
        flags: AHashMap<u32, Flags>,
        steps: &Steps,
    ) -> Result<Special> {
        let mut raw: [Vec<(u32, Cow<'_, str>)>; 2] = Default::default();
        let mut normal: [Vec<(u32, Cow<'_, str>)>; 2] = Default::default();
        let mut partly: Vec<(u32, Cow<'_, str>)> = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for (id, text, kind) in vocab.iter() {
            let plain = matches!(kind, Kind::Normal | Kind::Unused | Kind::Byte);
            if text.is_empty() || plain || inner.binary_search(&id).is_ok() {
                continue;
            }
            if text.len() > limits::MAX_SEARCHED_TOKEN_BYTES {
                let allowed = format!("at most {}", limits::MAX_SEARCHED_TOKEN_BYTES);
                let found = format!("special token {id} of {} bytes", text.len());
                return Err(validate::key_error(TOKENS, found, allowed));
            }
            (count, bytes) = (count + 1, bytes + text.len());
            let user = kind == Kind::UserDefined;
            let flag = flags.get(&id).copied().unwrap_or_default();
            let (set, text) = match flag.has(Flags::NORMALIZED) {
                false => (&mut raw, Cow::Borrowed(text)),
                true => {
                    if !user {
                        partly.push((id, Cow::Borrowed(text)));
                    }
                    let changed = steps.apply(text, &mut Work::new(text.len(), None))?;
                    (&mut normal, changed.0)
                }
            };
            if text.is_empty() {
                continue;
            }
            if user {
                set[0].push((id, text.clone()));
            }
            set[1].push((id, text));
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
        if !partly.is_empty() {
            partly.extend(raw[1].iter().cloned());
        }
        let both = |[always, parsed]: [Vec<(u32, Cow<'_, str>)>; 2]| -> Result<Both> {
            Ok(Both {
                always: Matcher::new(&always)?,
                parsed: Matcher::new(&parsed)?,
            })
        };
        Ok(Special {
            raw: both(raw)?,
            normal: both(normal)?,
            partly: Matcher::new(&partly)?,
            flags,
        })
    }

    /// The special tokens of `text` in order, not overlapping. Control and unknown tokens
    /// are found only where they lie completely inside one of the ranges `parse`, which
    /// are in order; user-defined ones everywhere.
    pub fn find_all(
        &self,
        text: &str,
        parse: &[Range<usize>],
        work: &mut Work<'_>,
    ) -> Result<Vec<Found>> {
        let whole = matches!(parse, [] | [Range { start: 0, .. }] if parse.iter().all(|p| p.end == text.len()));
        let parsed = match &self.partly {
            Some(partly) if !whole => Some(partly),
            _ => self.raw.parsed.as_ref(),
        };
        self.find(text, parse, (self.raw.always.as_ref(), parsed), true, work)
    }

    /// Those of a normalised text that are looked for there; `parse`: all of it is parsed.
    pub fn find_normal(&self, text: &str, parse: bool, work: &mut Work<'_>) -> Result<Vec<Found>> {
        let whole = 0..text.len();
        let parse = if parse {
            std::slice::from_ref(&whole)
        } else {
            &[]
        };
        let Both { always, parsed } = &self.normal;
        self.find(text, parse, (always.as_ref(), parsed.as_ref()), true, work)
    }

    /// All special tokens of `text`, whatever form they are looked for in, without white space.
    pub fn find_control(&self, text: &str, work: &mut Work<'_>) -> Result<Vec<Found>> {
        let some = self.partly.as_ref().or(self.raw.parsed.as_ref());
        let whole = 0..text.len();
        self.find(
            text,
            std::slice::from_ref(&whole),
            (self.raw.always.as_ref(), some),
            false,
            work,
        )
    }

    /// Whether some tokens are looked for in the normalised text.
    pub fn has_normal(&self) -> bool {
        self.normal.parsed.is_some()
    }

    fn find(
        &self,
        text: &str,
        parse: &[Range<usize>],
        (all, some): (Option<&Matcher>, Option<&Matcher>),
        extend: bool,
        work: &mut Work<'_>,
    ) -> Result<Vec<Found>> {
        let mut out: Vec<Found> = Vec::new();
        let mut pos = 0;
        let next_always = |pos: usize| all.and_then(|m| m.find(text, pos..text.len()));
        let next_parsed = |pos: usize| {
            let first = parse.partition_point(|r| r.end <= pos);
            let mut ranges = parse[first..].iter();
            ranges.find_map(|r| some?.find(text, r.start.max(pos)..r.end))
        };
        work.spend(text.len())?;
        let (mut always, mut parsed) = (next_always(pos), next_parsed(pos));
        loop {
            let found = match (&always, &parsed) {
                (None, None) => return Ok(out),
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
            // A search looks at most one token's length too far.
            work.spend(64)?;
            pos = found.range.end;
            let before = out.last().map_or(0, |f| f.range.end);
            match extend {
                true => out.extend(self.extended(text, before, found)),
                false => out.push(found),
            }
            if always.as_ref().is_some_and(|f| f.range.start < pos) {
                always = next_always(pos);
            }
            if parsed.as_ref().is_some_and(|f| f.range.start < pos) {
                parsed = next_parsed(pos);
            }
        }
    }

    /// A match with its white space, not before the end of the one `before`; `None` inside a word.
    fn extended(&self, text: &str, before: usize, mut found: Found) -> Option<Found> {
        let flags = self.flags.get(&found.id).copied().unwrap_or_default();
        let (head, tail) = (&text[..found.range.start], &text[found.range.end..]);
        let inside = || {
            head.chars().next_back().is_some_and(is_word)
                || tail.chars().next().is_some_and(is_word)
        };
        if flags.has(Flags::SINGLE_WORD) && inside() {
            return None;
        }
        if flags.has(Flags::LSTRIP) {
            let own = head.get(before..).unwrap_or_default();
            found.range.start = head.len() - (own.len() - own.trim_end().len());
        }
        if flags.has(Flags::RSTRIP) {
            found.range.end += tail.len() - tail.trim_start().len();
        }
        found.range.start = found.range.start.max(before);
        found.range.end = found.range.end.max(before);
        Some(found)
    }
}
