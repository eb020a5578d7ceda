//! What a `tokenizer.json` does to text before its algorithm: its `normalizer`, and its `pre_tokenizer`
//! where words are marked by U+2581. Both are read from JSON, by the converter from the folder and by the
//! runtime from `tokenizer.geb.normalizer` and `tokenizer.geb.pre_tokenizer`.
//!
//! What is not known is an error that names it; nothing is accepted and left out. Regular expressions are
//! a closed list: no pattern from a file is compiled.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use fancy_regex::Regex;
use serde_json::Value;
use unicode_normalization_alignments::UnicodeNormalization;
use unicode_normalization_alignments::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

use super::normalize::{Charsmap, too_long};
use super::pieces::SPACE;
use super::work::Work;
use super::{Prefix, Text};
use crate::error::{Error, Result};
use crate::limits;

/// One change of a text.
enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    StripAccents,
    Nmt,
    Strip {
        left: bool,
        right: bool,
    },
    Replace {
        from: String,
        to: String,
    },
    Pattern {
        from: Regex,
        to: String,
    },
    Prepend(String),
    /// A compiled table, looked up by grapheme.
    Precompiled(Charsmap),
}

/// Regular expressions of `Replace` in published tokenizers.
const PATTERNS: [&str; 9] = [
    r"\A▁",
    r"^▁",
    r" {2,}",
    r"\A +| +\z",
    r"\s+",
    r"\s{2,}",
    r"\n",
    r"[\r\n]+",
    r"▁{2,}",
];

/// A normalizer.
pub struct Steps(Vec<Step>);

/// Name of a component or the reason why it is refused.
type Parsed<T> = std::result::Result<T, String>;

/// The components of a sequence under `list`, or the one there is.
fn sequence<'v>(value: &'v Value, list: &str) -> Vec<&'v Value> {
    match value.get(list).and_then(Value::as_array) {
        Some(list_) => list_.iter().flat_map(|v| sequence(v, list)).collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

fn kind(value: &Value) -> &str {
    value
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("absent")
}

fn flag(value: &Value, key: &str, default: bool) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn text<'v>(value: &'v Value, key: &str) -> Parsed<&'v str> {
    let found = value.get(key).and_then(Value::as_str);
    found.ok_or_else(|| format!("{} without the text {key}", kind(value)))
}

impl Steps {
    /// Nothing, or the composition of characters.
    pub fn nfc(on: bool) -> Steps {
        Steps(on.then_some(Step::Nfc).into_iter().collect())
    }

    /// Reads a normalizer; `charsmap` is the table of a `Precompiled` that has none of its own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the component that is not known, [`Error::Key`] a bad table.
    pub fn parse(value: &Value, charsmap: &[u8]) -> Result<Steps> {
        let mut steps = Vec::new();
        for v in sequence(value, "normalizers") {
            let step = match kind(v) {
                "Precompiled" => Ok(Step::Precompiled(Charsmap::new(&table(v, charsmap)?)?)),
                _ => step(v),
            };
            steps.push(step.map_err(|value| Error::Unsupported {
                what: "normalizer",
                value: limits_cut(&value),
                known: "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Nmt, Strip, Prepend, Precompiled, Replace of a text or of a published pattern".into(),
            })?);
        }
        Ok(Steps(steps))
    }

    /// The changed text, and whether it begins with what the text began with.
    ///
    /// # Errors
    /// [`Error::Request`] for a text that grows over [`limits::MAX_NORMALIZED_BYTES`] or takes too much
    /// work.
    pub(super) fn apply<'t>(
        &self,
        text: &'t str,
        work: &mut Work<'_>,
    ) -> Result<(Cow<'t, str>, bool)> {
        let (mut text, mut kept) = (Cow::Borrowed(text), true);
        for step in &self.0 {
            work.spend(text.len())?;
            kept &= !step.drops_start(&text);
            if let Some(changed) = step.apply(&text, work)? {
                if changed.len() > limits::MAX_NORMALIZED_BYTES {
                    return Err(too_long());
                }
                text = Cow::Owned(changed);
            }
        }
        Ok((text, kept))
    }
}

/// Text from a file, as far as a message shows it.
fn limits_cut(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The table of a `Precompiled`: base64 of its own, or `other`.
pub fn table(value: &Value, other: &[u8]) -> Result<Vec<u8>> {
    match value.get("precompiled_charsmap") {
        None => Ok(other.to_vec()),
        Some(own) => own
            .as_str()
            .and_then(base64)
            .ok_or_else(|| Error::Unsupported {
                what: "normalizer",
                value: "Precompiled with a table that is no base64".into(),
                known: "base64".into(),
            }),
    }
}

fn step(v: &Value) -> Parsed<Step> {
    Ok(match kind(v) {
        "NFC" => Step::Nfc,
        "NFD" => Step::Nfd,
        "NFKC" => Step::Nfkc,
        "NFKD" => Step::Nfkd,
        "Lowercase" => Step::Lowercase,
        "StripAccents" => Step::StripAccents,
        "Nmt" => Step::Nmt,
        "Strip" => Step::Strip {
            left: flag(v, "strip_left", true),
            right: flag(v, "strip_right", true),
        },
        "Prepend" => Step::Prepend(text(v, "prepend")?.to_owned()),
        "Replace" => {
            let to = text(v, "content")?.to_owned();
            let pattern = v.get("pattern").unwrap_or(&Value::Null);
            if let Some(from) = pattern.get("String").and_then(Value::as_str) {
                if from.is_empty() {
                    return Err("Replace of an empty text".into());
                }
                let from = from.to_owned();
                return Ok(Step::Replace { from, to });
            }
            let from = pattern.get("Regex").and_then(Value::as_str).unwrap_or("");
            let known = PATTERNS
                .into_iter()
                .find(|p| *p == from.replace('\n', r"\n"));
            let known = known.and_then(|p| Regex::new(p).ok());
            match known {
                Some(from) => Step::Pattern { from, to },
                None => return Err(format!("Replace of the pattern {from:?}")),
            }
        }
        other => return Err(other.to_owned()),
    })
}

impl Step {
    /// Whether the beginning of a text goes without a replacement.
    fn drops_start(&self, text: &str) -> bool {
        let first = text.chars().next();
        match self {
            Step::StripAccents => first.is_some_and(is_combining_mark),
            Step::Nmt => first.is_some_and(|c| nmt(c).is_none()),
            Step::Strip { left, .. } => *left && first.is_some_and(char::is_whitespace),
            Step::Replace { from, to } => to.is_empty() && text.starts_with(from.as_str()),
            Step::Pattern { from, to } => {
                let found = from.find(text).ok().flatten();
                to.is_empty() && found.is_some_and(|m| m.start() == 0 && m.end() > 0)
            }
            _ => false,
        }
    }

    /// The changed text, `None` when this step changes nothing.
    fn apply(&self, text: &str, work: &mut Work<'_>) -> Result<Option<String>> {
        let composed = |c: (char, isize)| c.0;
        Ok(Some(match self {
            // ASCII is composed and decomposed.
            Step::Nfc | Step::Nfd | Step::Nfkc | Step::Nfkd if text.is_ascii() => return Ok(None),
            Step::Nfc => text.nfc().map(composed).collect(),
            Step::Nfd => text.nfd().map(composed).collect(),
            Step::Nfkc => text.nfkc().map(composed).collect(),
            Step::Nfkd => text.nfkd().map(composed).collect(),
            Step::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Step::StripAccents => text.chars().filter(|&c| !is_combining_mark(c)).collect(),
            Step::Nmt => text.chars().filter_map(nmt).collect(),
            Step::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { text };
                let text = if *right { text.trim_end() } else { text };
                text.to_owned()
            }
            Step::Replace { from, to } => {
                if !text.contains(from.as_str()) {
                    return Ok(None);
                }
                let found = text.matches(from.as_str()).count();
                fits(text.len() + found.saturating_mul(to.len()))?;
                text.replace(from.as_str(), to)
            }
            Step::Pattern { from, to } => {
                let mut out = String::new();
                let mut end = 0;
                for found in from.find_iter(text) {
                    let found = found.map_err(|e| Error::Request {
                        what: "work of the tokenizer".into(),
                        value: e.to_string(),
                        allowed: "text that its patterns cut".into(),
                    })?;
                    out.push_str(&text[end..found.start()]);
                    out.push_str(to);
                    fits(out.len())?;
                    end = found.end();
                }
                out + &text[end..]
            }
            Step::Prepend(_) if text.is_empty() => return Ok(None),
            Step::Prepend(prefix) => format!("{prefix}{text}"),
            Step::Precompiled(table) => {
                let mut out = String::with_capacity(text.len());
                for grapheme in text.graphemes(true) {
                    precompiled(table, grapheme, work, &mut out)?;
                    fits(out.len())?;
                }
                out
            }
        }))
    }
}

fn fits(len: usize) -> Result<()> {
    match len > limits::MAX_NORMALIZED_BYTES {
        true => Err(too_long()),
        false => Ok(()),
    }
}

/// A short grapheme is replaced as one, where the table has a key that it begins with; of a longer one
/// each character. The shortest key counts.
fn precompiled(
    table: &Charsmap,
    grapheme: &str,
    work: &mut Work<'_>,
    out: &mut String,
) -> Result<()> {
    if grapheme.len() < 6
        && let Some(text) = table.shortest(grapheme, work)?
    {
        out.push_str(text);
        return Ok(());
    }
    for (at, c) in grapheme.char_indices() {
        match table.shortest(&grapheme[at..at + c.len_utf8()], work)? {
            Some(text) => out.push_str(text),
            None => out.push(c),
        }
    }
    Ok(())
}

/// Control characters go, unusual white space becomes a space.
fn nmt(c: char) -> Option<char> {
    match u32::from(c) {
        0x01..=0x08 | 0x0B | 0x0E..=0x1F | 0x7F | 0x8F | 0x9F => None,
        0x09 | 0x0A | 0x0C | 0x0D | 0x1680 | 0x200B..=0x200F => Some(' '),
        0x2028 | 0x2029 | 0x2581 | 0xFEFF | 0xFFFD => Some(' '),
        _ => Some(c),
    }
}

/// Bytes of a base64 text with padding.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &b in group {
            bits = bits << 6 | u32::from(digit(b)?);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        out.extend(bytes.get(1..group.len())?);
    }
    Some(out)
}

/// How text is cut where words are marked by U+2581.
pub struct Cuts(Vec<Cut>);

enum Cut {
    /// White space as a border that is left out.
    Whitespace,
    /// Spaces as U+2581, one in front; `split` cuts before each.
    Metaspace { prefix: Prefix, split: bool },
    /// A text, or one of several.
    Literals { texts: AhoCorasick, place: Place },
}

/// Where a cut puts what it was found by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Alone,
    Before,
    After,
    Out,
}

impl Cuts {
    /// Reads a pre-tokenizer.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the component that is not known.
    pub fn parse(value: &Value) -> Result<Cuts> {
        let cuts = sequence(value, "pretokenizers").into_iter().map(cut);
        let cuts = cuts.collect::<Parsed<Vec<Cut>>>();
        cuts.map(Cuts).map_err(|value| Error::Unsupported {
            what: "pre-tokenizer",
            value: limits_cut(&value),
            known: "Metaspace, WhitespaceSplit, Split of texts, Sequence".into(),
        })
    }

    /// Whether a space is put in front of text.
    pub fn prefix(&self) -> Prefix {
        let mut prefixes = self.0.iter().map(|cut| match cut {
            Cut::Metaspace { prefix, .. } => *prefix,
            _ => Prefix::Never,
        });
        prefixes.next_back().unwrap_or(Prefix::Never)
    }

    /// The words of a text.
    pub(super) fn apply(&self, text: Text<'_>, work: &mut Work<'_>) -> Result<Vec<String>> {
        let mut words = vec![(text.text.to_owned(), text.start)];
        for cut in &self.0 {
            let mut finer = Vec::new();
            for (word, start) in words {
                work.spend(word.len())?;
                cut.apply(&word, start, &mut finer);
            }
            words = finer;
        }
        Ok(words.into_iter().map(|w| w.0).collect())
    }
}

fn cut(v: &Value) -> Parsed<Cut> {
    match kind(v) {
        "WhitespaceSplit" => Ok(Cut::Whitespace),
        "Metaspace" => {
            let replacement = text(v, "replacement")?;
            if replacement != SPACE {
                return Err(format!("Metaspace with the character {replacement:?}"));
            }
            let scheme = match v.get("prepend_scheme").and_then(Value::as_str) {
                Some("never") => Prefix::Never,
                Some("first") => Prefix::FirstUnless,
                Some("always") => Prefix::AlwaysUnless,
                None if !flag(v, "add_prefix_space", true) => Prefix::Never,
                None => Prefix::AlwaysUnless,
                Some(other) => return Err(format!("Metaspace with the scheme {other:?}")),
            };
            Ok(Cut::Metaspace {
                prefix: scheme,
                split: flag(v, "split", true),
            })
        }
        "Split" => {
            let pattern = v.get("pattern").unwrap_or(&Value::Null);
            let texts = match pattern.get("String").and_then(Value::as_str) {
                Some(text) => Some(vec![text.to_owned()]),
                None => pattern
                    .get("Regex")
                    .and_then(Value::as_str)
                    .and_then(literals),
            };
            let texts = texts.filter(|t| t.iter().all(|t| !t.is_empty()));
            let texts = texts.ok_or_else(|| format!("Split of the pattern {pattern}"))?;
            let place = match v.get("behavior").and_then(Value::as_str) {
                Some("Isolated") => Place::Alone,
                Some("MergedWithPrevious") => Place::Before,
                Some("MergedWithNext") => Place::After,
                Some("Removed") => Place::Out,
                other => return Err(format!("Split with the behaviour {other:?}")),
            };
            if flag(v, "invert", false) {
                return Err("Split, inverted".into());
            }
            let texts = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .build(texts);
            let texts = texts.map_err(|e| format!("Split: {e}"))?;
            Ok(Cut::Literals { texts, place })
        }
        other => Err(other.to_owned()),
    }
}

/// The texts of a pattern that lists texts: `a|b\.|c`.
fn literals(pattern: &str) -> Option<Vec<String>> {
    let mut out = vec![String::new()];
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let last = out.last_mut()?;
        match c {
            '|' => out.push(String::new()),
            '\\' => match chars.next()? {
                // A class, an anchor or a code, not a character.
                c if c.is_alphanumeric() => return None,
                c => last.push(c),
            },
            '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' => return None,
            c => last.push(c),
        }
    }
    Some(out)
}

impl Cut {
    /// Appends the words of a word; `start`: it begins the whole text.
    fn apply(&self, word: &str, start: bool, out: &mut Vec<(String, bool)>) {
        match self {
            Cut::Whitespace => {
                let words = word.split(char::is_whitespace).filter(|w| !w.is_empty());
                let mut first = start && !word.starts_with(char::is_whitespace);
                for w in words {
                    out.push((w.to_owned(), std::mem::take(&mut first)));
                }
            }
            Cut::Metaspace { prefix, split } => {
                let mut marked = word.replace(' ', SPACE);
                let text = Text {
                    text: &marked,
                    start,
                };
                if prefix.before(text, '\u{2581}') {
                    marked.insert_str(0, SPACE);
                }
                let (mut from, mut first) = (0, start);
                let borders = marked.match_indices(SPACE).map(|(at, _)| at);
                let borders: Vec<usize> = borders.filter(|&at| *split && at > 0).collect();
                for at in borders.into_iter().chain([marked.len()]) {
                    let piece = marked[from..at].to_owned();
                    if !piece.is_empty() {
                        out.push((piece, std::mem::take(&mut first)));
                    }
                    from = at;
                }
            }
            Cut::Literals { texts, place } => {
                let (mut from, mut first) = (0, start);
                let mut push = |piece: &str, first: &mut bool| {
                    if !piece.is_empty() {
                        out.push((piece.to_owned(), std::mem::take(first)));
                    }
                };
                for found in texts.find_iter(word) {
                    // What is left out at the beginning leaves nothing that begins the text.
                    if *place == Place::Out && found.start() == 0 {
                        first = false;
                    }
                    match place {
                        Place::Alone => {
                            push(&word[from..found.start()], &mut first);
                            push(&word[found.range()], &mut first);
                        }
                        Place::Before => push(&word[from..found.end()], &mut first),
                        Place::After | Place::Out => push(&word[from..found.start()], &mut first),
                    }
                    from = match place {
                        Place::After => found.start(),
                        _ => found.end(),
                    };
                }
                push(&word[from..], &mut first);
            }
        }
    }
}

static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\d$").ok());
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\w$").ok());

fn is(class: &LazyLock<Option<Regex>>, c: char) -> bool {
    let class = class.as_ref();
    class.is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false))
}

/// `\d`: a decimal digit of any script.
pub(super) fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && is(&DIGIT, c)
}

/// `\w`: a letter, mark, digit or connector.
pub(super) fn is_word(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '_',
        false => is(&WORD, c),
    }
}
