//! `tokenizer.json` with BPE as a GGUF vocabulary: byte fallback becomes model `llama`, byte-level
//! becomes `gpt2` with the name of its pre-tokenizer.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::folder::{Folder, bad, kind, short};
use super::vocab::{Kind, Sources, Token, Vocab, place};
use crate::error::{Error, Result};
use crate::limits;

const FILE: &str = "tokenizer.json";

/// Score of tokens that no merge produces.
const UNMERGED: f32 = -1e6;

/// Reads `tokenizer.json` into `vocab`.
pub(super) fn read(sources: &Sources, vocab: &mut Vocab) -> Result<()> {
    let Some(json) = &sources.tokenizer else {
        return Ok(());
    };
    let model = json.get("model").filter(|m| m.is_object());
    let model = model.ok_or_else(|| bad(FILE, "model", "absent", "an object"))?;
    // Old files lack the type; a merge list means BPE.
    let ty = model.get("type").and_then(Value::as_str);
    if ty.is_some_and(|t| t != "BPE") || (ty.is_none() && model.get("merges").is_none()) {
        let value = ty.unwrap_or("absent").chars().take(40).collect();
        return Err(Error::Unsupported {
            what: "tokenizer model",
            value,
            known: "BPE".into(),
        });
    }
    let merges = merges(model)?;
    tokens(model, vocab)?;
    added(json, vocab)?;
    normalizer(json.get("normalizer"), vocab)?;
    let fallback = model
        .get("byte_fallback")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    if fallback {
        vocab.model = "llama";
        let pre = json
            .get("pre_tokenizer")
            .and_then(|p| p.get("type"))
            .and_then(Value::as_str);
        if pre.is_some_and(|t| t != "Metaspace") {
            let value = pre.unwrap_or_default().chars().take(40).collect();
            return Err(Error::Unsupported {
                what: "pre-tokenizer with byte fallback",
                value,
                known: "none, Metaspace".into(),
            });
        }
        byte_fallback(json, model, &merges, vocab);
    } else {
        vocab.model = "gpt2";
        vocab.pre = pre_tokenizer(json, model)?;
        check_merges(&merges, vocab)?;
        vocab.merges = merges
            .iter()
            .map(|(a, b)| {
                format!(
                    "{} {}",
                    a.replace(' ', "\u{120}"),
                    b.replace(' ', "\u{120}")
                )
            })
            .collect();
    }
    let [before, after] = template_ends(json, vocab);
    let eos = after.last();
    vocab.add_bos = sources.flag("add_bos_token")?.or(Some(before.len() == 1));
    vocab.add_eos = sources.flag("add_eos_token")?.or(Some(eos.is_some()));
    if before.len() > 1 {
        vocab.starts = before;
    } else {
        vocab.special.extend(before.first().map(|&id| ("bos", id)));
    }
    vocab.special.extend(eos.map(|&id| ("eos", id)));
    if let Some(unk) = model.get("unk_token").and_then(Value::as_str) {
        let id = vocab.tokens.iter().position(|t| t.text == unk);
        vocab.special.extend(id.map(|id| ("unknown", id as u32)));
    }
    Ok(())
}

/// A `tokenizer.json` made of the files of older byte-level tokenizers, which all cut text as GPT-2
/// does: `vocab.json`, `merges.txt` and perhaps `added_tokens.json`.
pub(super) fn from_parts(folder: &Folder) -> Result<Option<Value>> {
    let (vocab, merges) = (folder.json("vocab.json")?, folder.text("merges.txt")?);
    let (Some(vocab), Some(merges)) = (vocab, merges) else {
        return Ok(None);
    };
    let lines = merges.lines().filter(|l| !l.starts_with("#version"));
    let merges: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
    let special = folder.json("special_tokens_map.json")?;
    let special = special.map_or_else(String::new, |v| v.to_string());
    let added = folder.json("added_tokens.json")?.unwrap_or_default();
    let one = |(text, id): (&String, &Value)| {
        let special = special.contains(&Value::from(text.as_str()).to_string());
        json!({
            "id": id, "content": text, "special": special, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let added: Vec<Value> = added.as_object().into_iter().flatten().map(one).collect();
    Ok(Some(json!({
        "version": "1.0",
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        },
        "added_tokens": added,
    })))
}

fn token_id(value: &Value, field: impl Fn() -> String) -> Result<usize> {
    let id = value.as_u64().filter(|&id| id < limits::MAX_VOCAB as u64);
    id.map(|id| id as usize).ok_or_else(|| {
        bad(
            FILE,
            field(),
            short(value),
            format!("an id below {}", limits::MAX_VOCAB),
        )
    })
}

fn tokens(model: &Value, vocab: &mut Vocab) -> Result<()> {
    let Some(map) = model.get("vocab").and_then(Value::as_object) else {
        let found = model.get("vocab").map_or("absent", kind);
        return Err(bad(FILE, "model.vocab", found, "an object"));
    };
    let mut slots: Vec<Option<&str>> = Vec::new();
    for (text, id) in map {
        let field = || {
            format!(
                "model.vocab.{:?}",
                text.chars().take(40).collect::<String>()
            )
        };
        let id = token_id(id, field)?;
        if slots.len() <= id {
            slots.resize(id + 1, None);
        }
        if let Some(other) = slots[id].replace(text) {
            let other: String = other.chars().take(40).collect();
            return Err(bad(
                FILE,
                field(),
                id,
                format!("an id of its own (also {other:?})"),
            ));
        }
    }
    let unk = model.get("unk_token").and_then(Value::as_str);
    for (id, text) in slots.into_iter().enumerate() {
        let token = match text {
            None => Token {
                text: format!("[PAD{id}]"),
                score: -10000.0,
                kind: Kind::Unused,
            },
            Some(t) if Some(t) == unk => Token {
                text: t.into(),
                score: 0.0,
                kind: Kind::Unknown,
            },
            Some(t) => Token {
                text: t.into(),
                score: UNMERGED,
                kind: Kind::Normal,
            },
        };
        vocab.tokens.push(token);
    }
    Ok(())
}

fn added(json: &Value, vocab: &mut Vocab) -> Result<()> {
    for (i, token) in json
        .get("added_tokens")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let field = || format!("added_tokens[{i}]");
        let id = token_id(token.get("id").unwrap_or(&Value::Null), || {
            format!("{}.id", field())
        })?;
        let text = token.get("content").and_then(Value::as_str);
        let text =
            text.ok_or_else(|| bad(FILE, field(), short(token), "an object with content"))?;
        let special = token
            .get("special")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        place(vocab, id, text, special);
    }
    Ok(())
}

fn merges(model: &Value) -> Result<Vec<(String, String)>> {
    let Some(list) = model.get("merges").and_then(Value::as_array) else {
        let found = model.get("merges").map_or("absent", kind);
        return Err(bad(FILE, "model.merges", found, "a list"));
    };
    let one = |(i, m): (usize, &Value)| {
        let pair = match m {
            Value::String(s) => s.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            Value::Array(p) => match p.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
                _ => None,
            },
            _ => None,
        };
        let pair = pair.filter(|(a, b)| !a.is_empty() && !b.is_empty());
        pair.ok_or_else(|| bad(FILE, format!("model.merges[{i}]"), short(m), "two tokens"))
    };
    list.iter().enumerate().map(one).collect()
}

/// Both parts and the result of a merge are tokens.
fn check_merges(merges: &[(String, String)], vocab: &Vocab) -> Result<()> {
    let known: std::collections::HashSet<&str> =
        vocab.tokens.iter().map(|t| t.text.as_str()).collect();
    for (i, (a, b)) in merges.iter().enumerate() {
        let joined = format!("{a}{b}");
        for part in [a.as_str(), b.as_str(), &joined] {
            if !known.contains(part) {
                let cut: String = part.chars().take(40).collect();
                return Err(bad(
                    FILE,
                    format!("model.merges[{i}]"),
                    format!("{cut:?} (not a token)"),
                    "tokens of model.vocab",
                ));
            }
        }
    }
    Ok(())
}

/// Only normalizers with a GGUF form, or harmless ones; no pattern of a file is ever compiled.
fn normalizer(value: Option<&Value>, vocab: &mut Vocab) -> Result<()> {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return Ok(());
    };
    let list: Vec<&Value> = match value.get("normalizers").and_then(Value::as_array) {
        Some(list) => list.iter().collect(),
        None => vec![value],
    };
    for v in list {
        let plain = v.get("pattern").and_then(|p| p.get("String")).is_some();
        match v.get("type").and_then(Value::as_str) {
            Some("Prepend") => {}
            Some("Replace") if plain => {}
            Some("NFC") => vocab
                .notes
                .push("the source composes characters (NFC) first; GGUF has no key for it".into()),
            other => {
                let value = other.unwrap_or("absent").chars().take(40).collect();
                return Err(Error::Unsupported {
                    what: "normalizer",
                    value,
                    known: "Prepend, Replace of a string, NFC".into(),
                });
            }
        }
    }
    Ok(())
}

/// Types and scores for the SentencePiece algorithm. A token's score is minus the rank of the
/// first merge that makes it, so that the highest score is the earliest merge.
fn byte_fallback(json: &Value, model: &Value, merges: &[(String, String)], vocab: &mut Vocab) {
    let mut rank: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (i, (a, b)) in merges.iter().enumerate() {
        rank.entry(format!("{a}{b}")).or_insert(i);
    }
    for token in &mut vocab.tokens {
        if token.kind != Kind::Normal {
            continue;
        }
        if is_byte(&token.text) {
            token.kind = Kind::Byte;
            token.score = 0.0;
        } else if let Some(&r) = rank.get(&token.text) {
            token.score = -(r as f32);
        }
    }
    let unreachable = vocab
        .tokens
        .iter()
        .filter(|t| t.score == UNMERGED && t.text.chars().count() > 1)
        .count();
    if unreachable > 0 {
        vocab.notes.push(format!("{unreachable} tokens are the result of no merge; SentencePiece runtimes may still form them"));
    }
    let prepends = |v: Option<&Value>| v.is_some_and(|v| v.to_string().contains("\"Prepend\""));
    let metaspace = json
        .get("pre_tokenizer")
        .filter(|v| !v.is_null())
        .map(Value::to_string)
        .unwrap_or_default();
    let meta = metaspace.contains("\"Metaspace\"")
        && !metaspace.contains("\"prepend_scheme\":\"never\"")
        && !metaspace.contains("\"add_prefix_space\":false");
    vocab.space_prefix = Some(prepends(json.get("normalizer")) || meta);
    if model.get("ignore_merges").and_then(Value::as_bool) == Some(true) {
        vocab
            .notes
            .push("ignore_merges with byte fallback has no GGUF form".into());
    }
}

/// `<0xNN>` with exactly two upper-case hexadecimal digits.
fn is_byte(text: &str) -> bool {
    let b = text.as_bytes();
    let hex = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
    b.len() == 6 && b.starts_with(b"<0x") && hex(b[3]) && hex(b[4]) && b[5] == b'>'
}

/// The tokens that a `TemplateProcessing` post-processor puts before and behind a text.
fn template_ends(json: &Value, vocab: &Vocab) -> [Vec<u32>; 2] {
    let Some(post) = json.get("post_processor") else {
        return Default::default();
    };
    let list: Vec<&Value> = match post.get("processors").and_then(Value::as_array) {
        Some(list) => list.iter().collect(),
        None => vec![post],
    };
    let template = list
        .into_iter()
        .find(|p| p.get("type").and_then(Value::as_str) == Some("TemplateProcessing"));
    let single = template.and_then(|t| t.get("single"));
    let Some(single) = single.and_then(Value::as_array) else {
        return Default::default();
    };
    let id = |v: &Value| {
        let text = v.get("SpecialToken")?.get("id")?.as_str()?;
        let at = vocab.tokens.iter().position(|t| t.text == text);
        at.map(|i| i as u32)
    };
    let text = single.iter().position(|v| v.get("Sequence").is_some());
    let (before, after) = single.split_at(text.unwrap_or(single.len()));
    [before, after].map(|part| part.iter().filter_map(id).collect())
}

const REGEX_LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const REGEX_QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const REGEX_TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const REGEX_BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
/// Digits are runs here; the last step cuts them in threes.
const FALCON: [&str; 4] = [
    "Punctuation",
    "ByteLevel+regex",
    "DigitRuns",
    "Split([0-9][0-9][0-9])",
];

/// Name of the pre-tokenizer by its steps.
///
/// # Errors
/// [`Error::Unsupported`] with the steps when no known one has them.
fn pre_tokenizer(json: &Value, model: &Value) -> Result<&'static str> {
    let pre = json.get("pre_tokenizer").unwrap_or(&Value::Null);
    let list: Vec<&Value> = match pre.get("pretokenizers").and_then(Value::as_array) {
        Some(list) => list.iter().collect(),
        None => vec![pre],
    };
    let steps: Vec<String> = list.into_iter().map(step).collect();
    let ignore_merges = model
        .get("ignore_merges")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let split = |regex: &str| format!("Split({regex})");
    let is = |want: &[&str]| steps.iter().map(String::as_str).eq(want.iter().copied());
    let (llama3, qwen2, tekken) = (split(REGEX_LLAMA3), split(REGEX_QWEN2), split(REGEX_TEKKEN));
    let name = if is(&[&llama3, "ByteLevel"]) {
        if ignore_merges { "llama-bpe" } else { "dbrx" }
    } else if is(&[&qwen2, "ByteLevel"]) {
        "qwen2"
    } else if is(&[&tekken, "ByteLevel"]) {
        "tekken"
    } else if is(&["ByteLevel+regex"]) {
        "gpt-2"
    } else if is(&["Digits", "ByteLevel+regex"]) {
        "smollm"
    } else if is(&[&split(REGEX_BLOOM), "ByteLevel"]) {
        "bloom"
    } else if is(&FALCON) {
        "falcon"
    } else {
        let value = steps.join(", ").chars().take(200).collect();
        return Err(Error::Unsupported {
            what: "pre-tokenizer",
            value,
            known: "llama-bpe, dbrx, qwen2, tekken, gpt-2, smollm, bloom, falcon".into(),
        });
    };
    Ok(name)
}

/// One step in words that can be compared.
fn step(v: &Value) -> String {
    let flag = |k: &str, default: bool| v.get(k).and_then(Value::as_bool).unwrap_or(default);
    match v.get("type").and_then(Value::as_str) {
        Some("Split") => {
            let isolated = v.get("behavior").and_then(Value::as_str) == Some("Isolated")
                && !flag("invert", false);
            let removed = v.get("behavior").and_then(Value::as_str) == Some("Removed")
                && flag("invert", false);
            let regex = v
                .get("pattern")
                .and_then(|p| p.get("Regex"))
                .and_then(Value::as_str)
                .unwrap_or("?");
            format!(
                "Split({}{regex})",
                if isolated || removed {
                    ""
                } else {
                    "other behavior: "
                }
            )
        }
        Some("ByteLevel") if flag("add_prefix_space", true) => {
            "ByteLevel with a space prefix".into()
        }
        Some("ByteLevel") if flag("use_regex", true) => "ByteLevel+regex".into(),
        Some("ByteLevel") => "ByteLevel".into(),
        Some("Digits") if flag("individual_digits", false) => "Digits".into(),
        Some("Digits") => "DigitRuns".into(),
        Some("Punctuation") if v.get("behavior").and_then(Value::as_str) != Some("Contiguous") => {
            "Punctuation of another behavior".into()
        }
        Some(other) => other.to_owned(),
        None => "none".into(),
    }
}
