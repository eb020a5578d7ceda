//! The models of a `tokenizer.json`: BPE over characters becomes `llama`, BPE over bytes `gpt2`, unigram
//! `t5`. `hf` reads what is around them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::folder::{Folder, bad, kind, short};
use super::hf::{self, FILE, token_id};
use super::scores::{self, UNMERGED};
use super::tokens::{Kind, Sources, Token, Vocab};
use geb::error::{Error, Result};
use geb::gguf::writer::MetaValue;
use geb::tokenizer;
use geb::tokenizer::steps::Steps;

/// Reads `tokenizer.json` into `vocab`.
pub(super) fn read(sources: &Sources, vocab: &mut Vocab) -> Result<()> {
    let Some(json) = &sources.tokenizer else {
        return Ok(());
    };
    let model = json.get("model").filter(|m| m.is_object());
    let model = model.ok_or_else(|| bad(FILE, "model", "absent", "an object"))?;
    hf::training_state(json, vocab);
    // Old files lack the type; a merge list means BPE.
    match model.get("type").and_then(Value::as_str) {
        Some("Unigram") => unigram(json, model, vocab)?,
        Some("BPE") => bpe(json, model, vocab)?,
        None if model.get("merges").is_some() => bpe(json, model, vocab)?,
        other => {
            let value = other.unwrap_or("absent").chars().take(40).collect();
            return Err(Error::Unsupported {
                what: "tokenizer model",
                value,
                known: "BPE, Unigram".into(),
            });
        }
    }
    hf::ends(json, sources, vocab)?;
    if let Some(unk) = model.get("unk_token").and_then(Value::as_str) {
        let id = vocab.tokens.iter().position(|t| t.text == unk);
        vocab.special.extend(id.map(|id| ("unknown", id as u32)));
    }
    Ok(())
}

/// Options of BPE that other programs' files cannot say, and that no published model uses.
fn plain_bpe(model: &Value) -> Result<()> {
    let text = |key: &str| model.get(key).and_then(Value::as_str).unwrap_or_default();
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if !text(key).is_empty() {
            return Err(Error::Unsupported {
                what: "option of a BPE tokenizer",
                value: format!("{key} {:?}", text(key)),
                known: "none".into(),
            });
        }
    }
    match model.get("dropout").and_then(Value::as_f64) {
        Some(p) if p > 0.0 => Err(Error::Unsupported {
            what: "option of a BPE tokenizer",
            value: format!("dropout {p}"),
            known: "0".into(),
        }),
        _ => Ok(()),
    }
}

fn flag(model: &Value, key: &str) -> bool {
    model.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn bpe(json: &Value, model: &Value, vocab: &mut Vocab) -> Result<()> {
    plain_bpe(model)?;
    let merges = merges(model)?;
    tokens(model, vocab)?;
    if hf::over_bytes(json) {
        hf::added(json, vocab, true)?;
        return over_bytes(json, model, merges, vocab);
    }
    if flag(model, "byte_fallback") {
        for token in &mut vocab.tokens {
            if token.kind == Kind::Normal && is_byte(&token.text) {
                (token.kind, token.score) = (Kind::Byte, 0.0);
            }
        }
    }
    hf::added(json, vocab, true)?;
    vocab.model = "llama";
    hf::words(json, vocab)?;
    let ignore_merges = flag(model, "ignore_merges");
    // Whether scores say what the merges do; otherwise the file keeps these.
    if !scores::from_merges(&mut vocab.tokens, &merges) || ignore_merges {
        check_merges(&merges, vocab)?;
        vocab.merges = merges
            .into_iter()
            .map(|(a, b)| format!("{a} {b}"))
            .collect();
        vocab.own(tokenizer::BY_RANK, MetaValue::Bool(true));
        vocab.notes.push("the order of merges is kept beside the scores, which other programs read: they may cut some texts differently".into());
        if ignore_merges {
            vocab.own(tokenizer::IGNORE_MERGES, MetaValue::Bool(true));
        }
    }
    let bytes = vocab.tokens.iter().filter(|t| t.kind == Kind::Byte).count();
    if bytes < 256 && !flag(model, "fuse_unk") {
        vocab.own(tokenizer::FUSE_UNKNOWN, MetaValue::Bool(false));
    }
    Ok(())
}

fn over_bytes(
    json: &Value,
    model: &Value,
    merges: Vec<(String, String)>,
    vocab: &mut Vocab,
) -> Result<()> {
    vocab.model = "gpt2";
    let normalizer = json.get("normalizer").unwrap_or(&Value::Null);
    Steps::parse(normalizer, &[])?;
    let types = hf::types(normalizer, "normalizers");
    let nfc = types == ["NFC"];
    let ignore_merges = flag(model, "ignore_merges");
    let pre = hf::pre_tokenizer(json, (ignore_merges, nfc), vocab)?;
    vocab.pre = pre.names[0];
    if pre.ignore_merges != ignore_merges {
        vocab.own(tokenizer::IGNORE_MERGES, MetaValue::Bool(ignore_merges));
    }
    if (nfc || types.is_empty()) && pre.nfc == nfc {
        // What the row says.
    } else {
        vocab.own(tokenizer::NORMALIZER, normalizer.to_string().into());
        vocab.notes.push(match types.is_empty() {
            true => format!("other programs may compose characters (NFC) for {:?}; the source does not", vocab.pre),
            false => format!("the source changes text first ({}); GGUF has no key for it: other programs may not", types.join(", ")),
        });
    }
    check_merges(&merges, vocab)?;
    let line = |(a, b): &(String, String)| {
        let [a, b] = [a, b].map(|t| t.replace(' ', "\u{120}"));
        format!("{a} {b}")
    };
    vocab.merges = merges.iter().map(line).collect();
    Ok(())
}

fn unigram(json: &Value, model: &Value, vocab: &mut Vocab) -> Result<()> {
    let list = model.get("vocab").and_then(Value::as_array);
    let list =
        list.ok_or_else(|| bad(FILE, "model.vocab", "no list", "a list of texts and scores"))?;
    let unk = model.get("unk_id").and_then(Value::as_u64);
    let fallback = flag(model, "byte_fallback");
    let mut scores = Vec::with_capacity(list.len());
    for (id, entry) in list.iter().enumerate() {
        let pair = entry.as_array().filter(|p| p.len() == 2);
        let pair = pair.and_then(|p| Some((p[0].as_str()?, p[1].as_f64()?)));
        let (text, score) = pair.filter(|p| (p.1 as f32).is_finite()).ok_or_else(|| {
            bad(
                FILE,
                format!("model.vocab[{id}]"),
                short(entry),
                "a text and a finite score",
            )
        })?;
        scores.push(score);
        vocab.tokens.push(Token {
            text: text.into(),
            score: score as f32,
            kind: match unk == Some(id as u64) {
                true => Kind::Unknown,
                false if fallback && is_byte(text) => Kind::Byte,
                false => Kind::Normal,
            },
        });
    }
    hf::added(json, vocab, true)?;
    vocab.special.extend(unk.map(|id| ("unknown", id as u32)));
    vocab.model = "t5";
    vocab.collapse = Some(true);
    hf::words(json, vocab)?;
    if scores.iter().any(|&s| f64::from(s as f32) != s) {
        vocab.doubles = scores;
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
    let known: HashSet<&str> = vocab.tokens.iter().map(|t| t.text.as_str()).collect();
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

/// `<0xNN>` with exactly two upper-case hexadecimal digits.
fn is_byte(text: &str) -> bool {
    let b = text.as_bytes();
    let hex = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
    b.len() == 6 && b.starts_with(b"<0x") && hex(b[3]) && hex(b[4]) && b[5] == b'>'
}
