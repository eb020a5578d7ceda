//! Reads the tokenizer keys of a file. Everything is checked here, before any algorithm
//! sees it; each rule names the key, the value found and what was allowed.

use super::vocab::{Kind, Lookup, Vocab};
use crate::error::{Error, Result};
use crate::gguf::{ArrayRef, GgufFile, Value, ValueType};
use crate::limits;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// The algorithms behind `tokenizer.ggml.model`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Algorithm {
    /// `llama`: SentencePiece BPE.
    Spm,
    /// `gpt2`: byte-level BPE.
    ByteBpe,
    /// `t5`: SentencePiece unigram.
    Unigram,
    /// `rwkv`: the longest token.
    Rwkv,
}

/// Special ids; all are below the vocabulary's length.
#[derive(Clone, Debug, Default)]
pub(super) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
    /// Further ones that end generation.
    pub stops: Vec<u32>,
    /// What was not taken: key, value, what was allowed.
    pub unfit: Vec<(String, String, String)>,
}

impl SpecialIds {
    /// The error for a special id that is needed, if its key holds no token.
    fn needed(&self, key: &str) -> Result<()> {
        match self.unfit.iter().find(|(unfit, ..)| unfit == key) {
            Some((key, value, allowed)) => Err(key_error(key, value, allowed)),
            None => Ok(()),
        }
    }

    /// One sentence for each id that was not taken.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let sentence = |(key, value, allowed): &(String, String, String)| {
            format!("{key} is {value}, allowed: {allowed}; ignored")
        };
        self.unfit.iter().map(sentence)
    }
}

pub(super) fn key_error(key: &str, value: impl ToString, allowed: impl ToString) -> Error {
    Error::Key {
        key: key.to_owned(),
        value: value.to_string(),
        allowed: allowed.to_string(),
    }
}

/// `tokenizer.ggml.model`.
pub(super) fn algorithm(file: &GgufFile) -> Result<Algorithm> {
    const KEY: &str = "tokenizer.ggml.model";
    match GgufFile::require(KEY, file.str(KEY)?)? {
        "llama" => Ok(Algorithm::Spm),
        "gpt2" => Ok(Algorithm::ByteBpe),
        "t5" => Ok(Algorithm::Unigram),
        "rwkv" => Ok(Algorithm::Rwkv),
        other => Err(Error::Unsupported {
            what: "tokenizer model",
            value: other.to_owned(),
            known: "llama, gpt2, t5, rwkv".to_owned(),
        }),
    }
}

/// `tokenizer.ggml.tokens`.
pub(super) fn tokens(file: &GgufFile) -> Result<ArrayRef<'_>> {
    let tokens = GgufFile::require(TOKENS, file.array(TOKENS, ValueType::Str)?)?;
    if tokens.len == 0 || tokens.len > limits::MAX_VOCAB {
        let allowed = format!("1 to {} tokens", limits::MAX_VOCAB);
        return Err(key_error(TOKENS, format!("{} tokens", tokens.len), allowed));
    }
    Ok(tokens)
}

/// Tokens and their kinds.
pub(super) fn vocab(file: &GgufFile) -> Result<Vocab> {
    let tokens = tokens(file)?;
    // Each string has an eight-byte length in the file; the rest is text.
    let text_bytes = tokens.raw().len().saturating_sub(8 * tokens.len);
    if u32::try_from(text_bytes).is_err() {
        return Err(key_error(
            TOKENS,
            format!("{text_bytes} bytes"),
            "at most 2^32 - 1 bytes",
        ));
    }
    let mut vocab = Vocab::with_capacity(tokens.len, text_bytes);
    for (i, value) in tokens.iter().enumerate() {
        let Value::Str(text) = value else { continue };
        if text.len() > limits::MAX_TOKEN_BYTES {
            let allowed = format!("at most {} bytes", limits::MAX_TOKEN_BYTES);
            return Err(key_error(
                TOKENS,
                format!("token {i} of {} bytes", text.len()),
                allowed,
            ));
        }
        vocab.push(text);
    }
    if let Some(types) = file.array(TYPES, ValueType::I32)? {
        same_length(TYPES, types, vocab.len())?;
        for (id, value) in (0u32..).zip(numbers(types)) {
            let kind = Kind::from_id(i32::from_le_bytes(value));
            let kind = kind.ok_or_else(|| {
                let found = format!("{} for token {id}", i32::from_le_bytes(value));
                key_error(TYPES, found, "1 to 6")
            })?;
            vocab.set_kind(id, kind);
        }
    }
    Ok(vocab)
}

/// `tokenizer.ggml.start_token_ids`, a key of this project: what every text starts with where that is
/// more than one token (`[gMASK] sop` of ChatGLM).
pub(super) fn starts(file: &GgufFile, vocab: usize) -> Result<Vec<u32>> {
    const KEY: &str = "tokenizer.ggml.start_token_ids";
    let Some(array) = file.array(KEY, ValueType::U32)? else {
        return Ok(Vec::new());
    };
    if array.len > 16 {
        return Err(key_error(KEY, format!("{} ids", array.len), "at most 16"));
    }
    let ids: Vec<u32> = numbers(array).map(u32::from_le_bytes).collect();
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(key_error(KEY, id, format!("below {vocab}"))),
        None => Ok(ids),
    }
}

fn same_length(key: &str, array: ArrayRef<'_>, len: usize) -> Result<()> {
    if array.len == len {
        return Ok(());
    }
    Err(key_error(
        key,
        format!("{} elements", array.len),
        format!("{len}, one per token"),
    ))
}

/// The four-byte elements of a number array.
fn numbers(array: ArrayRef<'_>) -> impl Iterator<Item = [u8; 4]> + '_ {
    array.raw().as_chunks::<4>().0.iter().copied()
}

/// `tokenizer.ggml.scores`, one finite number per token.
pub(super) fn scores(file: &GgufFile, len: usize) -> Result<Vec<f32>> {
    let array = GgufFile::require(SCORES, file.array(SCORES, ValueType::F32)?)?;
    same_length(SCORES, array, len)?;
    let mut out = Vec::with_capacity(len);
    for (i, bytes) in numbers(array).enumerate() {
        let score = f32::from_le_bytes(bytes);
        if !score.is_finite() {
            return Err(key_error(
                SCORES,
                format!("{score} for token {i}"),
                "finite numbers",
            ));
        }
        // Adding zero turns -0.0 into 0.0, so that equal scores also compare equal by bits.
        out.push(score + 0.0);
    }
    Ok(out)
}

/// Finite numbers of 64 bits under `key`, one per token.
pub(super) fn doubles(file: &GgufFile, key: &str, len: usize) -> Result<Option<Vec<f64>>> {
    let Some(array) = file.array(key, ValueType::F64)? else {
        return Ok(None);
    };
    same_length(key, array, len)?;
    let numbers = array.raw().as_chunks::<8>().0;
    let numbers: Vec<f64> = numbers.iter().map(|&b| f64::from_le_bytes(b)).collect();
    match numbers.iter().position(|n| !n.is_finite()) {
        Some(id) => {
            let found = format!("{} for token {id}", numbers[id]);
            Err(key_error(key, found, "finite numbers"))
        }
        None => Ok(Some(numbers)),
    }
}

/// A text of JSON under `key`: part of a `tokenizer.json`.
pub(super) fn json(file: &GgufFile, key: &str) -> Result<Option<serde_json::Value>> {
    let Some(text) = file.str(key)? else {
        return Ok(None);
    };
    if text.len() > limits::MAX_TOKENIZER_JSON_BYTES {
        let allowed = format!("at most {} bytes", limits::MAX_TOKENIZER_JSON_BYTES);
        return Err(key_error(key, format!("{} bytes", text.len()), allowed));
    }
    let value = serde_json::from_str(text);
    value
        .map(Some)
        .map_err(|e| key_error(key, short(text), format!("JSON ({e})")))
}

/// `tokenizer.geb.added_tokens`, a byte per token.
pub const FLAGS: &str = "tokenizer.geb.added_tokens";

/// How each token is found in text, bits of [`super::special::Flags`].
pub(super) fn flags(file: &GgufFile, len: usize) -> Result<Option<&[u8]>> {
    let Some(array) = file.array(FLAGS, ValueType::U8)? else {
        return Ok(None);
    };
    same_length(FLAGS, array, len)?;
    match array.raw().iter().position(|&f| f > 15) {
        Some(id) => Err(key_error(
            FLAGS,
            format!("{} for token {id}", array.raw()[id]),
            "0 to 15",
        )),
        None => Ok(Some(array.raw())),
    }
}

/// The beginning of a text from the file, quoted.
pub(super) fn short(text: &str) -> String {
    let begin: String = text.chars().take(64).collect();
    let more = if begin.len() < text.len() { "…" } else { "" };
    format!("{begin:?}{more}")
}

fn duplicate(text: &str, first: u32, second: u32) -> Error {
    let found = format!("{} twice (tokens {first} and {second})", short(text));
    key_error(TOKENS, found, "normal tokens with different texts")
}

/// Tokens of these kinds with their texts; empty texts are no text.
fn of_kinds<'v>(vocab: &'v Vocab, kinds: &'v [Kind]) -> impl Iterator<Item = (u32, &'v str)> {
    let wanted = |&(_, text, kind): &(u32, &str, Kind)| kinds.contains(&kind) && !text.is_empty();
    vocab.iter().filter(wanted).map(|(id, text, _)| (id, text))
}

/// Checks that no two normal tokens have the same text and returns the lookup table over
/// the tokens that text can become: normal ones and those of the kinds `also`. Control tokens
/// stay out, so that no text can become one.
pub(super) fn lookup(vocab: &Vocab, also: &[Kind]) -> Result<Lookup> {
    let mut table = Lookup::with_capacity(vocab.len());
    // Normal tokens first: a filler of the same text must not hide one.
    for (id, text) in of_kinds(vocab, &[Kind::Normal]) {
        table
            .insert(vocab, id)
            .map_err(|first| duplicate(text, first, id))?;
    }
    for (id, _) in of_kinds(vocab, also) {
        // The first one wins.
        let _ = table.insert(vocab, id);
    }
    Ok(table)
}

/// Ids of the byte tokens, by byte. Texts are exactly `<0x`, two hex digits, `>`.
pub(super) fn byte_tokens(vocab: &Vocab) -> Result<[Option<u32>; 256]> {
    let mut out = [None; 256];
    for (id, text, kind) in vocab.iter() {
        if kind != Kind::Byte {
            continue;
        }
        let byte = match *text.as_bytes() {
            [b'<', b'0', b'x', high, low, b'>'] => hex(high).zip(hex(low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        let byte = byte.ok_or_else(|| {
            key_error(
                TOKENS,
                format!("{} for byte token {id}", short(text)),
                "<0xNN> with two hex digits",
            )
        })?;
        if let Some(first) = out[usize::from(byte)].replace(id) {
            let found = format!("{text:?} twice (tokens {first} and {id})");
            return Err(key_error(TOKENS, found, "one token per byte"));
        }
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// `tokenizer.ggml.stop_token_ids`, a key of this project: what ends an answer besides the tokens
/// that GGUF has keys for.
const STOPS: &str = "tokenizer.ggml.stop_token_ids";

/// An integer of a file as the id of a token; else what stands there and what was allowed.
fn token_id(value: Value<'_>, len: usize) -> std::result::Result<u32, (String, String)> {
    let number = value.as_int();
    let id = number
        .and_then(|id| usize::try_from(id).ok())
        .filter(|&id| id < len);
    id.map(|id| id as u32).ok_or_else(|| {
        let shown = match (value, number) {
            (_, Some(number)) => number.to_string(),
            (Value::Str(text), _) => short(text),
            (Value::F32(f), _) => f.to_string(),
            (Value::F64(f), _) => f.to_string(),
            _ => "no number".to_owned(),
        };
        (shown, format!("an integer in 0..={}", len - 1))
    })
}

/// All keys `tokenizer.ggml.*_token_id` and [`STOPS`]. What is no token is noted and left out, as
/// most of these are never used; who needs one refuses.
pub(super) fn special_ids(file: &GgufFile, algorithm: Algorithm, len: usize) -> Result<SpecialIds> {
    let mut ids = SpecialIds::default();
    for (key, value) in file.metadata() {
        let name = key
            .strip_prefix("tokenizer.ggml.")
            .and_then(|k| k.strip_suffix("_token_id"));
        let Some(name) = name else {
            continue;
        };
        let id = match token_id(value, len) {
            Ok(id) => Some(id),
            Err((found, allowed)) => {
                ids.unfit.push((key.to_owned(), found, allowed));
                None
            }
        };
        match name {
            "bos" => ids.bos = id,
            "eos" => ids.eos = id,
            "eot" => ids.eot = id,
            "eom" => ids.eom = id,
            "unknown" => ids.unknown = id,
            "padding" => ids.padding = id,
            _ => {}
        }
    }
    if let Some(array) = file.array(STOPS, ValueType::U32)? {
        if array.len > limits::MAX_STOP_TOKENS {
            let allowed = format!("at most {}", limits::MAX_STOP_TOKENS);
            return Err(key_error(STOPS, format!("{} ids", array.len), allowed));
        }
        for value in array.iter() {
            match token_id(value, len) {
                Ok(id) => ids.stops.push(id),
                Err((found, allowed)) => ids.unfit.push((STOPS.to_owned(), found, allowed)),
            }
        }
    }
    if len > 2 {
        // The published defaults of both SentencePiece algorithms.
        let defaults = |bos: Option<u32>, eos, unknown| (bos, Some(eos), Some(unknown));
        let (bos, eos, unknown) = match algorithm {
            Algorithm::Spm => defaults(Some(1), 2, 0),
            Algorithm::Unigram => defaults(None, 1, 2),
            Algorithm::ByteBpe | Algorithm::Rwkv => (None, None, None),
        };
        ids.bos = ids.bos.or(bos);
        ids.eos = ids.eos.or(eos);
        ids.unknown = ids.unknown.or(unknown);
    }
    Ok(ids)
}

/// Whether a text gets the token `name` (`bos` or `eos`): `tokenizer.ggml.add_NAME_token`, else the
/// default of the algorithm.
pub(super) fn add_token(
    file: &GgufFile,
    ids: &SpecialIds,
    name: &str,
    default: bool,
) -> Result<bool> {
    let id = if name == "bos" { ids.bos } else { ids.eos };
    let key = format!("tokenizer.ggml.add_{name}_token");
    let asked = file.bool(&key)?;
    if asked.unwrap_or(default) {
        ids.needed(&format!("tokenizer.ggml.{name}_token_id"))?;
    }
    match (asked, id) {
        (Some(true), None) => Err(key_error(
            &key,
            "true without the token's id",
            "true only if the id is given",
        )),
        (Some(add), _) => Ok(add),
        (None, id) => Ok(default && id.is_some()),
    }
}

/// The error for a file in which nothing ends a text.
pub(super) fn no_stop(ids: &SpecialIds) -> Error {
    const EOS: &str = "tokenizer.ggml.eos_token_id";
    let absent = || key_error(EOS, "absent", "the id of the token that ends a text");
    ids.needed(EOS).err().unwrap_or_else(absent)
}
