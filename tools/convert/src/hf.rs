//! What is around the model of a `tokenizer.json`: added tokens, normalizer, pre-tokenizer and
//! post-processor, as keys of a GGUF file. What is not known is an error that names it.

use serde_json::{Value, json};

use super::folder::{bad, short};
use super::tokens::{Sources, Vocab, looks_special, place};
use geb::error::{Error, Result};
use geb::limits;
use geb::tokenizer::special::Flags;
use geb::tokenizer::steps::{self, Cuts, Steps};
use geb::tokenizer::{self, Prefix, pre};

pub(super) const FILE: &str = "tokenizer.json";

pub(super) fn token_id(value: &Value, field: impl Fn() -> String) -> Result<usize> {
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

/// What training leaves behind and tokenizing does not need.
pub(super) fn training_state(json: &Value, vocab: &mut Vocab) {
    for key in ["truncation", "padding"] {
        if json.get(key).is_some_and(|v| !v.is_null()) {
            vocab.notes.push(format!("{FILE}: {key} is ignored"));
        }
    }
}

/// The parts of a component, in order.
fn parts<'v>(value: &'v Value, list: &str) -> Vec<&'v Value> {
    match value.get(list).and_then(Value::as_array) {
        Some(all) => all.iter().flat_map(|v| parts(v, list)).collect(),
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

/// The types of the parts of a component.
pub(super) fn types<'v>(value: &'v Value, list: &str) -> Vec<&'v str> {
    parts(value, list).into_iter().map(kind).collect()
}

fn pre_tokenizer_of(json: &Value) -> &Value {
    json.get("pre_tokenizer").unwrap_or(&Value::Null)
}

/// Whether the model sees bytes, as characters of GPT-2's alphabet.
pub(super) fn over_bytes(json: &Value) -> bool {
    types(pre_tokenizer_of(json), "pretokenizers").contains(&"ByteLevel")
}

/// `added_tokens`: texts, kinds and how they are found; `normalized` as for [`flags`].
pub(super) fn added(json: &Value, vocab: &mut Vocab, normalized: bool) -> Result<()> {
    let list = json.get("added_tokens").and_then(Value::as_array);
    for (i, token) in list.into_iter().flatten().enumerate() {
        let field = || format!("added_tokens[{i}]");
        let id = token_id(token.get("id").unwrap_or(&Value::Null), || {
            format!("{}.id", field())
        })?;
        let text = token.get("content").and_then(Value::as_str);
        let text =
            text.ok_or_else(|| bad(FILE, field(), short(token), "an object with content"))?;
        let special = flag(token, "special", false) || looks_special(text);
        place(vocab, id, text, special);
        vocab.set_flags(id, flags(token, normalized));
    }
    Ok(())
}

/// How an added token is found; `normalized` where the algorithm has a normaliser.
pub(super) fn flags(token: &Value, normalized: bool) -> u8 {
    let bits = [
        ("lstrip", Flags::LSTRIP, true),
        ("rstrip", Flags::RSTRIP, true),
        ("normalized", Flags::NORMALIZED, normalized),
        ("single_word", Flags::SINGLE_WORD, true),
    ];
    let set = bits.into_iter().filter(|b| b.2 && flag(token, b.0, false));
    set.fold(0, |all, bit| all | bit.1)
}

/// Normalizer and pre-tokenizer where words are marked by U+2581: as GGUF's own keys where they do what
/// SentencePiece does, else as they are.
pub(super) fn words(json: &Value, vocab: &mut Vocab) -> Result<()> {
    let normalizer = json.get("normalizer").unwrap_or(&Value::Null);
    let pre_tokenizer = pre_tokenizer_of(json);
    let tables: Vec<&Value> = parts(normalizer, "normalizers");
    let tables = tables.into_iter().filter(|v| kind(v) == "Precompiled");
    let tables: Vec<&Value> = tables.collect();
    let mut normalizer = normalizer.clone();
    if let [table] = tables[..] {
        vocab.charsmap = steps::table(table, &[])?;
        strip_table(&mut normalizer);
    }
    Steps::parse(&normalizer, &vocab.charsmap)?;
    let cuts = Cuts::parse(pre_tokenizer)?;
    let prepends = types(&normalizer, "normalizers").contains(&"Prepend");
    vocab.space_prefix = Some(prepends || cuts.prefix() != Prefix::Never);
    if vocab.model == "llama"
        && !vocab.has_flag(Flags::NORMALIZED)
        && let Some(prefix) = as_sentencepiece(&normalizer, pre_tokenizer)
    {
        vocab.space_prefix = Some(prefix);
        return Ok(());
    }
    if !normalizer.is_null() {
        vocab.own(tokenizer::NORMALIZER, normalizer.to_string().into());
    }
    vocab.own(tokenizer::PRE_TOKENIZER, pre_tokenizer.to_string().into());
    Ok(())
}

/// The table is a key of its own.
fn strip_table(value: &mut Value) {
    if let Some(list) = value.get_mut("normalizers").and_then(Value::as_array_mut) {
        return list.iter_mut().for_each(strip_table);
    }
    if kind(value) == "Precompiled"
        && let Some(object) = value.as_object_mut()
    {
        object.remove("precompiled_charsmap");
    }
}

/// Whether both do what SentencePiece does with spaces, and then whether it puts one in front.
fn as_sentencepiece(normalizer: &Value, pre_tokenizer: &Value) -> Option<bool> {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let again = json!({"type": "Replace", "pattern": {"Regex": r"\A▁"}, "content": "▁▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let normal = parts(normalizer, "normalizers");
    let mut cuts = parts(pre_tokenizer, "pretokenizers");
    // Gemma cuts at spaces when none are left.
    if normal.contains(&&replace) {
        cuts.retain(|v| {
            let at_spaces = v.get("pattern") == Some(&json!({"String": " "}));
            kind(v) != "Split" || !at_spaces || flag(v, "invert", false)
        });
    }
    let metaspace = |v: &Value| {
        let whole = kind(v) == "Metaspace" && !flag(v, "split", true);
        let scheme = v.get("prepend_scheme").and_then(Value::as_str);
        whole.then(|| scheme.unwrap_or("always").to_owned())
    };
    match (&normal[..], &cuts[..]) {
        ([a, b], []) if **a == prepend && **b == replace => Some(true),
        ([a, b], []) if **a == replace && **b == prepend => Some(true),
        ([a], []) if **a == replace => Some(false),
        ([a, b], [m]) if **a == replace && **b == again => {
            (metaspace(m)? == "always").then_some(true)
        }
        ([], [m]) => (metaspace(m)? == "never").then_some(false),
        ([a], [m]) if **a == replace => (metaspace(m)? == "never").then_some(false),
        _ => None,
    }
}

/// The row of the table for the steps of a pre-tokenizer over bytes.
///
/// # Errors
/// [`Error::Unsupported`] with the steps when no row has them.
pub(super) fn pre_tokenizer(
    json: &Value,
    (ignore_merges, nfc): (bool, bool),
    vocab: &mut Vocab,
) -> Result<&'static pre::Pre> {
    let list = parts(pre_tokenizer_of(json), "pretokenizers");
    let (mut patterns, mut bytes) = (Vec::new(), Vec::new());
    let mut over_bytes = false;
    for (i, v) in list.into_iter().enumerate() {
        if kind(v) == "ByteLevel" && !over_bytes {
            over_bytes = true;
            if flag(v, "add_prefix_space", true) {
                if i > 0 {
                    return Err(unknown("ByteLevel with a space prefix inside a text"));
                }
                vocab.own(tokenizer::SPACE_PREFIX, "always".to_owned().into());
            }
            if flag(v, "use_regex", true) {
                patterns.push(pre::GPT2.to_owned());
            }
            continue;
        }
        let pattern = pattern(v).ok_or_else(|| unknown(&describe(v)))?;
        match over_bytes {
            true => bytes.push(pattern),
            false => patterns.push(pattern),
        }
    }
    let found = pre::find_patterns(&patterns, &bytes, ignore_merges, nfc);
    found.ok_or_else(|| {
        let steps: Vec<String> = patterns
            .iter()
            .chain(&bytes)
            .map(|p| format!("Split({p})"))
            .collect();
        unknown(&steps.join(", "))
    })
}

fn unknown(value: &str) -> Error {
    Error::Unsupported {
        what: "pre-tokenizer",
        value: value.chars().take(200).collect(),
        known: pre::known(),
    }
}

fn describe(v: &Value) -> String {
    match kind(v) {
        "Split" => format!("Split {}", short(v)),
        other => other.to_owned(),
    }
}

/// The pattern that cuts as a step does; of a text only if it is one character that stands for itself.
fn pattern(v: &Value) -> Option<String> {
    let behavior = v.get("behavior").and_then(Value::as_str);
    Some(match kind(v) {
        "Split" => {
            let isolated = behavior == Some("Isolated") && !flag(v, "invert", false);
            let matches = behavior == Some("Removed") && flag(v, "invert", false);
            let regex = v.get("pattern")?.get("Regex")?.as_str()?;
            (isolated || matches).then(|| regex.to_owned())?
        }
        "Digits" if flag(v, "individual_digits", false) => pre::DIGIT.to_owned(),
        "Digits" => pre::DIGITS.to_owned(),
        "Punctuation" if behavior == Some("Contiguous") => pre::MARKS.to_owned(),
        "Punctuation" if behavior.is_none_or(|b| b == "Isolated") => pre::MARK.to_owned(),
        _ => return None,
    })
}

/// The tokens that the post-processor puts around a text.
pub(super) fn ends(json: &Value, sources: &Sources, vocab: &mut Vocab) -> Result<()> {
    let [before, after] = post_processor(json, vocab)?;
    let eos = after.last().copied();
    vocab.add_bos = sources.flag("add_bos_token")?.or(Some(before.len() == 1));
    vocab.add_eos = sources.flag("add_eos_token")?.or(Some(eos.is_some()));
    if before.len() > 1 {
        vocab.starts = before;
    } else {
        vocab.special.extend(before.first().map(|&id| ("bos", id)));
    }
    vocab.special.extend(eos.map(|id| ("eos", id)));
    Ok(())
}

fn post_processor(json: &Value, vocab: &Vocab) -> Result<[Vec<u32>; 2]> {
    let id = |text: &str| {
        let at = vocab.tokens.iter().position(|t| t.text == text);
        at.map(|i| i as u32).ok_or_else(|| {
            bad(
                FILE,
                "post_processor",
                format!("{text:?}"),
                "texts of tokens",
            )
        })
    };
    let mut out: [Vec<u32>; 2] = Default::default();
    let post = json.get("post_processor").unwrap_or(&Value::Null);
    for v in parts(post, "processors") {
        match kind(v) {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let single = v.get("single").and_then(Value::as_array);
                let single = single.map_or(&[][..], |s| s);
                let text = single.iter().position(|v| v.get("Sequence").is_some());
                let (before, after) = single.split_at(text.unwrap_or(single.len()));
                for (side, part) in out.iter_mut().zip([before, after]) {
                    for special in part.iter().filter_map(|v| v.get("SpecialToken")) {
                        side.push(id(special.get("id").and_then(Value::as_str).unwrap_or(""))?);
                    }
                }
            }
            "BertProcessing" | "RobertaProcessing" => {
                for (side, key) in out.iter_mut().zip(["cls", "sep"]) {
                    let text = v.get(key).and_then(|p| p.get(0)).and_then(Value::as_str);
                    side.push(id(text.unwrap_or(""))?);
                }
            }
            other => {
                return Err(Error::Unsupported {
                    what: "post-processor",
                    value: other.chars().take(40).collect(),
                    known:
                        "TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing, Sequence"
                            .into(),
                });
            }
        }
    }
    if out[1].len() > 1 {
        let value = format!("{} tokens behind the text", out[1].len());
        return Err(bad(FILE, "post_processor", value, "at most one"));
    }
    Ok(out)
}
