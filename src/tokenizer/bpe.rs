//! Byte-level BPE (`tokenizer.ggml.model = gpt2`).
//!
//! Pseudo-code: cut the text by the patterns of its `pre` entry; write each byte of a piece as
//! the token of its character in GPT-2's alphabet; while some adjacent pair of tokens has a
//! merge, join the pair of the lowest rank (of equal ones the leftmost).
//!
//! The code differs in keeping pairs in a heap and symbols in a doubly linked list: a pair is
//! dropped when it is no longer the one that was pushed. Tables hold ids; texts stay in the
//! vocabulary. The ids equal those of the crate `tokenizers` (`oracle.rs`).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fancy_regex::{Regex, RegexBuilder};

use super::merges::Merges;
use super::pre::{self, Pre};
use super::steps::{is_digit, is_word};
use super::validate;
use super::vocab::{Kind, Lookup, Vocab};
use super::work::Work;
use super::{Engine, Prefix, Text};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::limits;

pub(super) struct ByteBpe {
    cutters: Vec<Cutter>,
    /// For text in the alphabet.
    byte_cutters: Vec<Cutter>,
    known: Lookup,
    merges: Merges,
    /// Character and token of each byte; a byte without a token is left out of the ids.
    bytes: [(char, Option<u32>); 256],
    ignore_merges: bool,
    /// A space before text that does not begin with one.
    prefix: Prefix,
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
        let ignore_merges = file.bool(IGNORE_MERGES)?.unwrap_or(pre.ignore_merges);
        let prefix = Prefix::of_key(file)?.unwrap_or(Prefix::Never);
        std::thread::scope(|scope| {
            let cutters = std::thread::Builder::new()
                .spawn_scoped(scope, || compile(pre.patterns))
                .ok();
            let known = validate::lookup(vocab, &[Kind::UserDefined, Kind::Byte])?;
            let merges = Merges::from_gguf(file, vocab, &known)?;
            let cutters = cutters.and_then(|c| c.join().ok());
            let cutters = cutters.unwrap_or_else(|| compile(pre.patterns))?;
            let token = |c: char| known.get(vocab, c.encode_utf8(&mut [0; 4]));
            Ok(ByteBpe {
                bytes: alphabet().map(|c| (c, token(c))),
                cutters,
                byte_cutters: compile(pre.bytes)?,
                known,
                merges,
                ignore_merges,
                prefix,
            })
        })
    }

    /// Appends the ids of one piece.
    fn encode_piece(
        &self,
        vocab: &Vocab,
        piece: &str,
        (merging, work): (&mut Merging, &mut Work<'_>),
        out: &mut Vec<u32>,
    ) -> Result<()> {
        work.spend(piece.len())?;
        let bytes = piece.bytes().map(|b| self.bytes[usize::from(b)]);
        if self.ignore_merges || !self.byte_cutters.is_empty() {
            merging.text.clear();
            merging.text.extend(bytes.clone().map(|(c, _)| c));
        }
        if !self.byte_cutters.is_empty() {
            let text = std::mem::take(&mut merging.text);
            for part in cut_all(&text, &self.byte_cutters, work)? {
                self.merge(
                    vocab,
                    part,
                    part.chars().map(|c| self.of(c)),
                    merging,
                    work,
                    out,
                )?;
            }
            merging.text = text;
            return Ok(());
        }
        let text = std::mem::take(&mut merging.text);
        self.merge(vocab, &text, bytes.map(|(_, id)| id), merging, work, out)?;
        merging.text = text;
        Ok(())
    }

    /// The token of a character of the alphabet.
    fn of(&self, c: char) -> Option<u32> {
        byte_of(c).and_then(|b| self.bytes[usize::from(b)].1)
    }

    /// Appends the ids of a piece: itself, where merges are ignored and it is a token (`text`, in the
    /// alphabet), or its bytes joined.
    fn merge(
        &self,
        vocab: &Vocab,
        text: &str,
        ids: impl Iterator<Item = Option<u32>>,
        merging: &mut Merging,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        if self.ignore_merges
            && let Some(id) = self.known.get(vocab, text)
        {
            out.push(id);
            return Ok(());
        }
        merging.merge(ids.flatten(), &self.merges, work)?;
        out.extend(merging.ids());
        Ok(())
    }
}

/// Overrides the row of `tokenizer.ggml.pre`.
pub const IGNORE_MERGES: &str = "tokenizer.geb.ignore_merges";

/// One way to cut.
enum Cutter {
    Regex(Regex),
    /// [`pre::FROM_THE_END`], by hand: as a regular expression it looks through the whole run of digits
    /// for each group.
    FromTheEnd,
    /// [`pre::THOUSANDS`], for the same reason.
    Thousands,
}

/// The patterns of the table are constants, and a test compiles them all.
fn compile(patterns: &[&str]) -> Result<Vec<Cutter>> {
    let one = |p: &&str| match *p {
        pre::FROM_THE_END => Ok(Cutter::FromTheEnd),
        pre::THOUSANDS => Ok(Cutter::Thousands),
        p => RegexBuilder::new(p)
            .backtrack_limit(limits::MAX_TEXT_BYTES)
            .build()
            .map(Cutter::Regex)
            .map_err(|e| Error::Unsupported {
                what: "pattern of tokenizer.ggml.pre",
                value: e.to_string(),
                known: pre::known(),
            }),
    };
    patterns.iter().map(one).collect()
}

/// The pieces that all cutters in turn leave.
fn cut_all<'t>(text: &'t str, cutters: &[Cutter], work: &mut Work<'_>) -> Result<Vec<&'t str>> {
    let mut pieces: Vec<&str> = Some(text).filter(|t| !t.is_empty()).into_iter().collect();
    let mut finer = Vec::new();
    for cutter in cutters {
        for piece in pieces.drain(..) {
            cutter.cut(piece, work, &mut finer)?;
        }
        std::mem::swap(&mut pieces, &mut finer);
    }
    Ok(pieces)
}

impl Cutter {
    /// Cuts `text` into matches and what lies between them.
    fn cut<'t>(&self, text: &'t str, work: &mut Work<'_>, out: &mut Vec<&'t str>) -> Result<()> {
        work.spend(text.len())?;
        let regex = match self {
            Cutter::Regex(regex) => regex,
            Cutter::FromTheEnd => {
                from_the_end(text, out);
                return Ok(());
            }
            Cutter::Thousands => {
                thousands(text, out);
                return Ok(());
            }
        };
        let mut end = 0;
        for found in regex.find_iter(text) {
            let found = found.map_err(|e| Error::Request {
                what: "work of the tokenizer".into(),
                value: e.to_string(),
                allowed: "text that its patterns cut".into(),
            })?;
            let pieces = [&text[end..found.start()], found.as_str()];
            out.extend(pieces.into_iter().filter(|p| !p.is_empty()));
            end = found.end();
            // Some patterns look far into white space of which they take little.
            let space = found.as_str().ends_with(char::is_whitespace);
            let rest = text[end..].chars().take(64);
            let rest = rest.take_while(|c| space && c.is_whitespace());
            work.spend(1 + rest.count())?;
        }
        out.extend(Some(&text[end..]).filter(|rest| !rest.is_empty()));
        Ok(())
    }
}

/// Runs of digits (`\d`) in order: where each begins and ends.
fn digit_runs(text: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_digit)?;
        let rest = &text[start..];
        at = start + rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
        Some((start, at))
    })
}

/// Cuts before each third digit from the end of `run`, and pushes the pieces.
fn threes<'t>(run: &'t str, out: &mut Vec<&'t str>) {
    let digits: Vec<usize> = run.char_indices().map(|(at, _)| at).collect();
    let first = digits.len() % 3;
    let (mut from, whole) = (0, digits.get(first..).unwrap_or_default());
    for &at in whole.iter().step_by(3).filter(|&&at| at > 0) {
        out.push(&run[from..at]);
        from = at;
    }
    out.push(&run[from..]);
}

/// A run that ends before a letter has no groups.
fn from_the_end<'t>(text: &'t str, out: &mut Vec<&'t str>) {
    let mut done = 0;
    for (start, end) in digit_runs(text) {
        if text[end..].chars().next().is_some_and(is_word) {
            continue;
        }
        out.extend(Some(&text[done..start]).filter(|t| !t.is_empty()));
        threes(&text[start..end], out);
        done = end;
    }
    out.extend(Some(&text[done..]).filter(|t| !t.is_empty()));
}

fn thousands<'t>(text: &'t str, out: &mut Vec<&'t str>) {
    let mut done = 0;
    for (start, end) in digit_runs(text) {
        // The text before goes with the digits that make no group of three.
        let digits = text[start..end].chars().count();
        if digits < 3 {
            continue;
        }
        let mut pieces = Vec::new();
        threes(&text[start..end], &mut pieces);
        let mut at = start;
        if !digits.is_multiple_of(3) {
            at += pieces[0].len();
            pieces.remove(0);
        }
        out.extend(Some(&text[done..at]).filter(|t| !t.is_empty()));
        // What follows the run goes with its last group.
        let last = pieces.pop().map_or(0, str::len);
        out.extend(pieces);
        done = end - last;
    }
    out.extend(Some(&text[done..]).filter(|t| !t.is_empty()));
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
pub(super) struct Merging {
    text: String,
    symbols: Vec<Symbol>,
    /// Rank and left symbol of pairs that may be joined, the lowest first.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Merging {
    /// The symbols that are left.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.symbols.iter().filter(|s| s.alive).map(|s| s.id)
    }

    /// Joins the symbols `ids` until no pair has a merge.
    pub fn merge(
        &mut self,
        ids: impl Iterator<Item = u32>,
        merges: &Merges,
        work: &mut Work<'_>,
    ) -> Result<()> {
        self.heap.clear();
        self.symbols.clear();
        self.symbols.extend((0u32..).zip(ids).map(|(i, id)| Symbol {
            id,
            alive: true,
            prev: i.wrapping_sub(1),
            next: i + 1,
        }));
        let Some(last) = self.symbols.last_mut() else {
            return Ok(());
        };
        last.next = NONE;
        for left in 0..self.symbols.len() as u32 - 1 {
            self.push(left, merges);
        }
        while let Some(Reverse((rank, left))) = self.heap.pop() {
            work.spend(1)?;
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
        Ok(())
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
    fn encode(
        &self,
        vocab: &Vocab,
        text: Text<'_>,
        work: &mut Work<'_>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let text = match self.prefix.before(text, ' ') {
            true => Cow::Owned(format!(" {}", text.text)),
            false => Cow::Borrowed(text.text),
        };
        let mut merging = Merging::default();
        for piece in cut_all(&text, &self.cutters, work)? {
            self.encode_piece(vocab, piece, (&mut merging, work), out)?;
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

    fn prefix(&self) -> Prefix {
        self.prefix
    }
}

/// The byte behind a character of GPT-2's printable alphabet: printable bytes are
/// themselves, the other 68 follow from U+0100 in increasing order.
pub fn byte_of(c: char) -> Option<u8> {
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
            assert_eq!(
                compile(pre.patterns).expect("compiles").len(),
                pre.patterns.len()
            );
        }
        assert!(pre::find("no such name").is_none());
    }
}
