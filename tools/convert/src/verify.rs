//! The tokenizer that will be written against the tokenizer of the source.
//!
//! The texts are chosen from the tokenizer itself: every added token with letters and with spaces around
//! it, every text that its normalizer replaces, letters composed and decomposed, and
//! [`GENERATED`] texts made of its own tokens, of runs, and of characters from anywhere.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::folder::{Folder, bad, without_mark};
use super::spm::Plain;
use super::tokens::{Kind, Vocab};
use super::{bpe, hf, rwkv_vocab, spm};
use geb::error::{Error, Result};
use geb::gguf::GgufFile;
use geb::gguf::writer::{self, MetaValue};
use geb::limits;
use geb::threads;
use geb::tokenizer::pieces::ADDED;
use geb::tokenizer::special::Flags;
use geb::tokenizer::{Encode, Tokenizer};

/// Number of generated texts.
const GENERATED: usize = 2_000;

/// English, Chinese, digits, white space, punctuation, code, letters composed and decomposed, and emoji.
const PROBE: &[&str] = &[
    "Hello, world! It's 2024; we'll see 1234567 results at 3.14 %.",
    "In the beginning God created the heaven and the earth.",
    "量化把浮点权重变成很少的比特。今天天气很好，我们去公园散步吧。",
    "中文 and English 混合：GPU 的 8-bit 权重（约 70%）",
    "  leading and   inner  spaces ",
    "line one\nline two\n\n\ttab\r\nend",
    "fn main() { println!(\"{}\", x_1 + 2 * y[3]); } // done",
    "naïve café Ünïcödé ßtraße 日本語 テキスト 한국어 العربية",
    "nai\u{308}ve cafe\u{301} \u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8} A\u{30a} \u{212b} q\u{323}\u{307} q\u{307}\u{323}",
    "ﬁ ½ ² Ⅷ ㎏ ＡＢＣ İ ı ſ ΑΣ ǆ \u{ad}\u{200b}\u{feff}\u{fffd}",
    "🙂👍🏽 𝒳 — “quotes” … ",
    "a",
    " ",
    "▁",
    " ▁ a▁b",
];

/// Compares token ids of the probe texts.
///
/// # Errors
/// [`Error::Verify`] with the first text that differs.
pub(super) fn tokenizer(
    folder: &Folder,
    vocab: &Vocab,
    metadata: &[(String, MetaValue)],
) -> Result<()> {
    let plan = writer::Plan {
        metadata: metadata.to_vec(),
        tensors: Vec::new(),
    };
    let mut bytes = Vec::new();
    writer::write_to(&mut bytes, &plan, &mut |_, _| Ok(()))?;
    let written = Tokenizer::from_gguf(&GgufFile::from_bytes(bytes)?)?;
    let source = Reference::open(folder, vocab)?;
    let texts = source.texts(vocab);
    let part = texts.len().div_ceil(threads::default_threads()).max(1);
    let compare_all =
        |texts: &[String]| texts.iter().try_for_each(|t| compare(&source, &written, t));
    let parts = texts.chunks(part).collect();
    threads::each(parts, compare_all).into_iter().collect()
}

fn compare(source: &Reference, written: &Tokenizer, text: &str) -> Result<()> {
    let how = Encode {
        add_special: false,
        parse_special: true,
    };
    let (want, got) = (source.encode(text)?, written.encode(text, how)?);
    if want == got {
        return Ok(());
    }
    let at = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
    let piece = |ids: &[u32]| {
        ids.get(at)
            .map_or("the end".into(), |id| format!("token {id}"))
    };
    Err(Error::Verify(format!(
        "the written tokenizer differs from the source on {text:?} at position {at}: {} instead of {}",
        piece(&got),
        piece(&want)
    )))
}

/// The tokenizer of the source.
enum Reference {
    Json {
        tokenizer: Box<tokenizers::Tokenizer>,
        /// What its normalizer replaces.
        patterns: Vec<String>,
    },
    /// Tokens of RWKV by their bytes.
    Longest(HashMap<Vec<u8>, u32>),
    Pieces {
        plain: Box<Plain>,
        /// Texts, ids and flags of the tokens that are found first, the longest first.
        special: Vec<(String, u32, u8)>,
    },
}

impl Reference {
    fn open(folder: &Folder, vocab: &Vocab) -> Result<Reference> {
        for file in spm::FILES {
            if folder.has(file) {
                let plain = Box::new(Plain::open(folder, file, vocab)?);
                let mut special = special(vocab);
                special.sort_by_key(|s| std::cmp::Reverse(s.0.len()));
                return Ok(Reference::Pieces { plain, special });
            }
        }
        if let Some(file) = rwkv_vocab::file(folder)? {
            let tokens = rwkv_vocab::tokens(folder, &file)?;
            return Ok(Reference::Longest(tokens.into_iter().zip(0..).collect()));
        }
        let bytes = match folder.bytes(hf::FILE)? {
            Some(bytes) => without_mark(bytes),
            None => bpe::from_parts(folder)?.map_or_else(Vec::new, |v| v.to_string().into()),
        };
        // The library panics on some malformed files.
        let built = catch_unwind(|| {
            let mut built = tokenizers::Tokenizer::from_bytes(&bytes)?;
            built.with_padding(None);
            built.with_truncation(None)?;
            Ok::<_, tokenizers::Error>(built)
        });
        let allowed = "a tokenizer that loads";
        let tokenizer = match built {
            Ok(Ok(t)) => Box::new(t),
            Ok(Err(e)) => return Err(bad(hf::FILE, "tokenizer", e, allowed)),
            Err(_) => return Err(bad(hf::FILE, "tokenizer", "not consistent", allowed)),
        };
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut patterns = Vec::new();
        replaced(
            json.get("normalizer").unwrap_or(&Value::Null),
            &mut patterns,
        );
        Ok(Reference::Json {
            tokenizer,
            patterns,
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Reference::Pieces { plain, special } => pieces(plain, special, text),
            Reference::Longest(ids) => longest(ids, text),
            Reference::Json { tokenizer, .. } => {
                let run = AssertUnwindSafe(|| tokenizer.encode_fast(text, false));
                let allowed = "a tokenizer that encodes";
                match catch_unwind(run) {
                    Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
                    Ok(Err(e)) => Err(bad(hf::FILE, "encoding", e, allowed)),
                    Err(_) => Err(bad(hf::FILE, "encoding", "a panic of the library", allowed)),
                }
            }
        }
    }

    /// The texts to compare.
    fn texts(&self, vocab: &Vocab) -> Vec<String> {
        let mut out: Vec<String> = PROBE.iter().map(|t| (*t).to_owned()).collect();
        let around = |t: &str| format!("a {t} b{t}c  {t}\n{t}{t}1{t}。 {t}");
        match self {
            Reference::Json {
                tokenizer,
                patterns,
            } => {
                out.extend(patterns.iter().map(|t| around(t)));
                let added = tokenizer.get_added_tokens_decoder();
                out.extend(added.values().map(|t| around(&t.content)));
            }
            Reference::Pieces { special, .. } => {
                out.extend(special.iter().map(|(t, ..)| around(t)));
                let user = vocab.tokens.iter().filter(|t| t.kind == Kind::UserDefined);
                out.extend(user.map(|t| around(&t.text)));
            }
            Reference::Longest(_) => {}
        }
        let mut numbers = Numbers(1);
        out.extend((0..GENERATED).map(|_| generated(&mut numbers, vocab)));
        out
    }
}

/// Tokens that are found before the algorithm runs, with flags.
fn special(vocab: &Vocab) -> Vec<(String, u32, u8)> {
    let mut out = Vec::new();
    for (id, t) in (0u32..).zip(&vocab.tokens) {
        let added = t.kind == Kind::UserDefined && t.score == ADDED;
        if added || matches!(t.kind, Kind::Control | Kind::Unknown) {
            let flags = vocab.flags.get(id as usize).copied().unwrap_or(0);
            out.push((t.text.clone(), id, flags));
        }
    }
    out
}

/// The texts that a normalizer replaces, and what it puts there.
fn replaced(value: &Value, out: &mut Vec<String>) {
    for v in value
        .get("normalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        replaced(v, out);
    }
    let pattern = value.get("pattern").and_then(|p| p.get("String"));
    let texts = [pattern, value.get("content"), value.get("prepend")];
    out.extend(
        texts
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned),
    );
}

/// By the definition: at each place the longest special token, the rest as pieces.
fn pieces(plain: &Plain, special: &[(String, u32, u8)], text: &str) -> Result<Vec<u32>> {
    let (mut out, mut from, mut at, mut trim) = (Vec::new(), 0, 0, false);
    let part = |from: usize, to: usize, trim: bool, out: &mut Vec<u32>, end: bool| {
        let mut part = &text[from..to];
        if trim {
            part = part.trim_start();
        }
        if end {
            part = part.trim_end();
        }
        plain.encode(part, from == 0, out)
    };
    while at < text.len() {
        let found = special
            .iter()
            .find(|s| text[at..].starts_with(&s.0) && !s.0.is_empty());
        let Some((token, id, flags)) = found else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        part(from, at, trim, &mut out, flags & Flags::LSTRIP != 0)?;
        out.push(*id);
        at += token.len();
        (from, trim) = (at, flags & Flags::RSTRIP != 0);
    }
    part(from, text.len(), trim, &mut out, false)?;
    Ok(out)
}

fn longest(ids: &HashMap<Vec<u8>, u32>, text: &str) -> Result<Vec<u32>> {
    let (mut rest, mut out) = (text.as_bytes(), Vec::new());
    while !rest.is_empty() {
        let token = |n: usize| Some((n, *ids.get(&rest[..n])?));
        let most = rest.len().min(limits::MAX_SEARCHED_TOKEN_BYTES);
        let Some((n, id)) = (1..=most).rev().find_map(token) else {
            let byte = format!("no token for byte {:#04x}", rest[0]);
            return Err(bad("vocabulary", "tokens", byte, "one for each byte"));
        };
        out.push(id);
        rest = &rest[n..];
    }
    Ok(out)
}

/// A linear congruential generator: the same texts every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    fn code(&mut self, from: u32, n: usize) -> char {
        char::from_u32(from + self.below(n) as u32).unwrap_or('\u{fffd}')
    }
}

/// One to eight parts: tokens of the vocabulary, words, runs, digits, marks, spaces, characters from
/// anywhere and combining marks.
fn generated(numbers: &mut Numbers, vocab: &Vocab) -> String {
    const SPACES: &[&str] = &[
        " ", "  ", "\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "   ", "\n\n", " \n ",
    ];
    const MARKS: &[&str] = &[
        "!",
        "?",
        ".",
        ",",
        "'s",
        "'LL",
        "...",
        "(",
        "):",
        "{\"",
        "//",
        "<|",
        "|>",
        "--",
        "_",
        "$",
        "，",
        "。",
        "“",
        "…",
        "ﬁ",
        "½",
        "²",
        "é",
        "e\u{301}",
        "Å",
        "\u{1112}\u{1161}\u{11ab}",
    ];
    let mut out = String::new();
    for _ in 0..1 + numbers.below(8) {
        let length = 1 + numbers.below(5);
        match numbers.below(10) {
            0..=2 => {
                let token = &vocab.tokens[numbers.below(vocab.tokens.len())];
                if token.kind == Kind::Normal && token.text.len() < 64 {
                    out.push_str(&readable(vocab, &token.text));
                }
            }
            3 => out.extend((0..length).map(|_| numbers.code(97, 26))),
            4 => out.extend((0..length + 2).map(|_| numbers.code(48, 10))),
            5 => {
                let c = ['a', ' ', '\n', '=', '-', '1', '▁', '的', 'ا'][numbers.below(9)];
                out.extend(std::iter::repeat_n(c, 1 + numbers.below(20)));
            }
            6 => out.push_str(MARKS[numbers.below(MARKS.len())]),
            7 => out.push_str(SPACES[numbers.below(SPACES.len())]),
            8 => out.extend((0..length).map(|_| numbers.code(0x4E00, 0x51A6))),
            _ => match numbers.below(3) {
                0 => out.push(numbers.code(1, 0x10_FFFF)),
                1 => out.extend((0..length).map(|_| numbers.code(0x80, 0x900))),
                _ => out.push(numbers.code(0x300, 0x70)),
            },
        }
    }
    out
}

/// The text of a token, as far as it is complete characters.
fn readable(vocab: &Vocab, text: &str) -> String {
    match vocab.model {
        "gpt2" => {
            let bytes = text.chars().map(geb::tokenizer::byte_of);
            let bytes: Option<Vec<u8>> = bytes.collect();
            bytes
                .and_then(|b| String::from_utf8(b).ok())
                .unwrap_or_default()
        }
        "rwkv" => String::new(),
        _ => text.replace('▁', " "),
    }
}

#[cfg(test)]
mod tests;
