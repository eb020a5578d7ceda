//! Folders with a `tokenizer.json` only, in the forms that published ones have: what is written gives the
//! ids of the crate `tokenizers` for all texts of the self-check.

use std::path::{Path, PathBuf};

use sentencepiece_model::{SentencePieceModel, Type};
use serde_json::{Value, json};

use super::super::family::FAMILIES;
use super::super::{family, vocab};
use super::*;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// Reads the tokenizer of a folder and compares it with its source.
fn checked(path: &Path, config: &Value, rows: Option<usize>) -> Result<Vocab> {
    let folder = Folder::new(path);
    let types = config
        .get("model_type")
        .and_then(Value::as_str)
        .unwrap_or("");
    let family = FAMILIES.iter().find(|f| f.types.contains(&types));
    let family: &family::Family = family.unwrap_or(&FAMILIES[0]);
    let rows = rows.or_else(|| Some(config.get("vocab_size")?.as_u64()? as usize));
    let vocab = vocab::read(&folder, config, family, rows.unwrap_or(1_000), None)?;
    tokenizer(&folder, &vocab, &vocab.metadata())?;
    Ok(vocab)
}

/// The same of a `tokenizer.json`, with a byte order mark before it.
fn of_json(json: &Value) -> Result<Vocab> {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("\u{feff}{json}");
    std::fs::write(folder.path().join("tokenizer.json"), text).expect("written");
    checked(folder.path(), &json!({}), Some(2_000))
}

fn file(case: &str, name: &str) -> Value {
    let bytes = std::fs::read(fixtures().join(case).join("hf").join(name)).expect("a fixture");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn pieces(case: &str, name: &str) -> SentencePieceModel {
    let path = fixtures().join(case).join("hf").join(name);
    let bytes = std::fs::read(path).expect("a fixture");
    SentencePieceModel::from_slice(&bytes).expect("a model")
}

fn added(id: usize, text: &str, special: bool) -> Value {
    json!({
        "id": id, "content": text, "special": special, "normalized": false,
        "lstrip": false, "rstrip": false, "single_word": false,
    })
}

/// A SentencePiece model as BPE over characters, with all merges in the order of its scores.
fn characters(case: &str) -> Value {
    let model = pieces(case, "tokenizer.model");
    let ids: HashMap<&str, usize> = model
        .pieces()
        .iter()
        .enumerate()
        .map(|(i, p)| (p.piece(), i))
        .collect();
    let mut merges = Vec::new();
    for p in model.pieces().iter().filter(|p| p.r#type() == Type::Normal) {
        for (at, _) in p.piece().char_indices().skip(1) {
            let (a, b) = p.piece().split_at(at);
            if let (Some(&i), Some(&j)) = (ids.get(a), ids.get(b)) {
                merges.push((-p.score(), i, j, json!([a, b])));
            }
        }
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<Value> = merges.into_iter().map(|m| m.3).collect();
    let special = model.pieces().iter().enumerate();
    let special = special.filter(|(_, p)| matches!(p.r#type(), Type::Control | Type::Unknown));
    let special: Vec<Value> = special.map(|(i, p)| added(i, p.piece(), true)).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": true,
            "ignore_merges": false, "vocab": ids, "merges": merges,
        },
    })
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn all(kind: &str, list: &[Value]) -> Value {
    json!({"type": "Sequence", kind: list})
}

fn set(json: &Value, key: &str, value: Value) -> Value {
    let mut out = json.clone();
    out[key] = value;
    out
}

/// Every tokenizer of the fixtures.
#[test]
fn every_family_equals_its_source() {
    let mut families = Vec::new();
    for entry in std::fs::read_dir(fixtures()).expect("fixtures") {
        let hf = entry.expect("an entry").path().join("hf");
        let name = hf
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy();
        if !hf.join("config.json").exists() {
            continue;
        }
        let config: Value = Folder::new(&hf)
            .json("config.json")
            .expect("JSON")
            .expect("a file");
        let padded = config.get("padded_vocab_size").and_then(Value::as_u64);
        let vocab = checked(&hf, &config, padded.map(|n| n as usize));
        let vocab = vocab.unwrap_or_else(|e| panic!("{name}: {e}"));
        families.push(format!("{name} ({})", vocab.model));
    }
    println!("{}", families.join(", "));
    assert!(families.len() >= 36, "{}", families.len());
}

#[test]
fn bpe_over_characters_in_all_its_forms() {
    let base = characters("llama");
    let space = || replace(json!({"String": " "}), "▁");
    let again = || replace(json!({"Regex": r"\A▁"}), "▁▁");
    let prepend = || json!({"type": "Prepend", "prepend": "▁"});
    let gemma = json!({
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        "invert": false,
    });
    let words = json!({
        "type": "Split", "pattern": {"Regex": r"▁th|\.|e\-s"}, "behavior": "Isolated",
        "invert": false,
    });
    let old = json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true});
    // Normalizer, pre-tokenizer, whether GGUF's own keys say it.
    let forms = [
        (Value::Null, metaspace("always", false), false),
        (Value::Null, metaspace("first", false), false),
        (Value::Null, metaspace("never", false), true),
        (Value::Null, metaspace("always", true), false),
        (Value::Null, metaspace("first", true), false),
        (Value::Null, old, false),
        (all("normalizers", &[prepend(), space()]), Value::Null, true),
        (space(), gemma, true),
        (
            all("normalizers", &[space(), again()]),
            all("pretokenizers", &[metaspace("always", false)]),
            true,
        ),
        (
            all("normalizers", &[space(), again()]),
            all("pretokenizers", &[metaspace("always", false), words]),
            false,
        ),
        (
            all("normalizers", &[json!({"type": "NFKC"}), space()]),
            metaspace("first", false),
            false,
        ),
        (
            all(
                "normalizers",
                &[
                    json!({"type": "Lowercase"}),
                    json!({"type": "Strip", "strip_left": true, "strip_right": true}),
                ],
            ),
            metaspace("always", true),
            false,
        ),
    ];
    for (normalizer, pre_tokenizer, plain) in forms {
        let json = set(
            &set(&base, "normalizer", normalizer),
            "pre_tokenizer",
            pre_tokenizer,
        );
        let vocab = of_json(&json)
            .unwrap_or_else(|e| panic!("{} {}: {e}", json["normalizer"], json["pre_tokenizer"]));
        assert_eq!(vocab.model, "llama");
        assert_eq!(vocab.own.is_empty(), plain, "{:?}", vocab.own);
    }
}

/// Merges as texts, state of training, and merges that no scores say.
#[test]
fn merges_in_any_order_and_what_training_leaves() {
    let mut json = set(
        &characters("llama"),
        "pre_tokenizer",
        metaspace("first", false),
    );
    json["padding"] = json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<unk>",
    });
    json["truncation"] =
        json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let vocab = of_json(&json).expect("equal");
    assert!(vocab.merges.is_empty());
    assert!(
        vocab.notes.iter().any(|n| n.contains("padding")),
        "{:?}",
        vocab.notes
    );
    let merges = json["model"]["merges"].as_array().expect("merges").clone();
    let texts = merges.iter().map(|m| {
        let part = |i: usize| m[i].as_str().expect("a text");
        Value::from(format!("{} {}", part(0), part(1)))
    });
    // Every other merge first: those of one token do not follow each other.
    let texts: Vec<Value> = texts.collect();
    let halves = texts
        .iter()
        .step_by(2)
        .chain(texts.iter().skip(1).step_by(2));
    json["model"]["merges"] = halves.cloned().collect();
    for ignore in [false, true] {
        json["model"]["ignore_merges"] = ignore.into();
        let vocab = of_json(&json).expect("equal");
        assert!(!vocab.merges.is_empty() && !vocab.notes.is_empty());
    }
}

#[test]
fn unigram_with_a_table_and_with_patterns() {
    let model = pieces("t5", "spiece.model");
    let mut list: Vec<Value> = model
        .pieces()
        .iter()
        .map(|p| json!([p.piece(), p.score()]))
        .collect();
    let special = model.pieces().iter().enumerate();
    let special = special.filter(|(_, p)| matches!(p.r#type(), Type::Control | Type::Unknown));
    let special: Vec<Value> = special.map(|(i, p)| added(i, p.piece(), true)).collect();
    let unk = model
        .pieces()
        .iter()
        .position(|p| p.r#type() == Type::Unknown);
    let json = |list: &[Value]| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "Unigram", "unk_id": unk, "vocab": list, "byte_fallback": false},
        })
    };
    let table = pieces("t5", "spiece.model");
    let table = table
        .model()
        .normalizer_spec
        .as_ref()
        .map(|n| n.precompiled_charsmap().to_vec());
    let table =
        json!({"type": "Precompiled", "precompiled_charsmap": base64(&table.expect("a table"))});
    let several = || replace(json!({"Regex": " {2,}"}), " ");
    let cuts = all(
        "pretokenizers",
        &[
            json!({"type": "WhitespaceSplit"}),
            metaspace("always", true),
        ],
    );
    let forms = [
        (table.clone(), cuts),
        (
            all("normalizers", &[table, several()]),
            metaspace("always", true),
        ),
        (
            all(
                "normalizers",
                &[
                    replace(json!({"String": "``"}), "\""),
                    json!({"type": "Nmt"}),
                    json!({"type": "NFKD"}),
                    json!({"type": "StripAccents"}),
                    several(),
                ],
            ),
            metaspace("first", false),
        ),
    ];
    for (normalizer, pre_tokenizer) in &forms {
        let json = set(&json(&list), "normalizer", normalizer.clone());
        let vocab = of_json(&set(&json, "pre_tokenizer", pre_tokenizer.clone())).expect("equal");
        assert_eq!((vocab.model, vocab.doubles.len()), ("t5", 0));
        assert_eq!(
            vocab.charsmap.is_empty(),
            !normalizer.to_string().contains("Precompiled")
        );
    }
    // Scores that need 64 bits.
    for entry in &mut list {
        entry[1] = json!(entry[1].as_f64().expect("a number") * 1.000_000_01);
    }
    let json = set(&json(&list), "pre_tokenizer", metaspace("always", true));
    assert!(!of_json(&json).expect("equal").doubles.is_empty());
}

/// The inverse of what the converter reads.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for i in 0..4 {
            match i <= group.len() {
                true => out.push(char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])),
                false => out.push('='),
            }
        }
    }
    out
}

#[test]
fn flags_of_added_tokens_count() {
    let bytes = file("qwen2", "tokenizer.json");
    let words = set(
        &characters("llama"),
        "pre_tokenizer",
        metaspace("first", false),
    );
    let old = all(
        "normalizers",
        &[
            json!({"type": "Prepend", "prepend": "▁"}),
            replace(json!({"String": " "}), "▁"),
        ],
    );
    let old = set(&characters("llama"), "normalizer", old);
    let lower = set(&bytes, "normalizer", json!({"type": "Lowercase"}));
    for base in [bytes, words, old, lower] {
        let mut json = base;
        let list = json["added_tokens"].as_array_mut().expect("tokens");
        let texts = [
            "<L>",
            "<R>",
            "<Both>",
            "<Word>",
            "word",
            "Normal",
            "<Ä>",
            "two words",
            " ",
        ];
        let first = 600 + list.len();
        for (i, text) in texts.into_iter().enumerate() {
            let mut token = added(first + i, text, i % 2 == 0);
            token["lstrip"] = matches!(text, "<L>" | "<Both>").into();
            token["rstrip"] = matches!(text, "<R>" | "<Both>").into();
            token["single_word"] = matches!(text, "word" | "<Word>").into();
            token["normalized"] = matches!(text, "Normal" | "<Ä>" | "two words").into();
            list.push(token);
        }
        // Ids without gaps: the library numbers tokens itself.
        let count = json["model"]["vocab"].as_object().expect("tokens").len();
        let known = json["model"]["vocab"].clone();
        let mut next = count;
        for token in json["added_tokens"].as_array_mut().expect("tokens") {
            let text = token["content"].as_str().expect("a text").to_owned();
            token["id"] = match known.get(&text) {
                Some(id) => id.clone(),
                None => {
                    next += 1;
                    (next - 1).into()
                }
            };
        }
        let vocab = of_json(&json).unwrap_or_else(|e| panic!("{}: {e}", json["normalizer"]));
        assert!(vocab.flags.iter().filter(|&&f| f != 0).count() >= 7);
    }
}

#[test]
fn normalizers_before_bytes_are_applied_or_refused() {
    let base = file("qwen2", "tokenizer.json");
    for kind in [
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "StripAccents",
        "Nmt",
    ] {
        let json = set(&base, "normalizer", json!({"type": kind}));
        let vocab = of_json(&json).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(vocab.own.is_empty(), kind == "NFC", "{kind}");
    }
    // A family whose name means NFC, without it.
    let none = of_json(&set(&base, "normalizer", Value::Null)).expect("equal");
    assert!(!none.own.is_empty() || none.pre != "qwen2");
    for (normalizer, name) in [
        (
            json!({"type": "BertNormalizer", "clean_text": true}),
            "BertNormalizer",
        ),
        (replace(json!({"Regex": "[a-z]{7}"}), ""), "[a-z]{7}"),
        (all("normalizers", &[json!({"type": "Secret"})]), "Secret"),
        (json!({"type": "ByteLevel"}), "ByteLevel"),
    ] {
        let error = of_json(&set(&base, "normalizer", normalizer)).expect_err("refused");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn steps_over_bytes_are_a_row_or_refused() {
    let base = file("gpt2", "tokenizer.json");
    let level = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let split = |p: &str| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false});
    let with_prefix = of_json(&set(&base, "pre_tokenizer", level(true, true))).expect("equal");
    assert!(
        with_prefix
            .own
            .iter()
            .any(|k| k.0 == geb::tokenizer::SPACE_PREFIX)
    );
    let o200k = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    for (steps, name) in [
        (vec![split(o200k), level(false, false)], "gpt-4o"),
        (
            vec![
                split(r"\d{1,3}(?=(?:\d{3})*\b)"),
                split(o200k),
                level(false, false),
            ],
            "tiny_aya",
        ),
        (
            vec![
                split(r"\p{N}+"),
                split(r"(?=(\d{3})+(?!\d))"),
                level(false, false),
            ],
            "superbpe",
        ),
        (
            vec![
                json!({"type": "Digits", "individual_digits": true}),
                level(false, true),
            ],
            "starcoder",
        ),
    ] {
        let json = set(&base, "pre_tokenizer", all("pretokenizers", &steps));
        let vocab = of_json(&json).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(vocab.pre, name);
    }
    for (step, name) in [
        (split("[a-z]{7}"), "[a-z]{7}"),
        (json!({"type": "UnicodeScripts"}), "UnicodeScripts"),
    ] {
        let steps = all("pretokenizers", &[step, level(false, true)]);
        let error = of_json(&set(&base, "pre_tokenizer", steps)).expect_err("refused");
        assert!(error.to_string().contains(name), "{error}");
    }
    let mut json = base;
    json["post_processor"] = json!({"type": "Secret"});
    assert!(
        of_json(&json)
            .expect_err("refused")
            .to_string()
            .contains("Secret")
    );
    json["post_processor"] = Value::Null;
    json["model"]["end_of_word_suffix"] = "</w>".into();
    assert!(
        of_json(&json)
            .expect_err("refused")
            .to_string()
            .contains("</w>")
    );
    json["model"]["end_of_word_suffix"] = Value::Null;
    json["model"]["type"] = "WordPiece".into();
    assert!(
        of_json(&json)
            .expect_err("refused")
            .to_string()
            .contains("WordPiece")
    );
}

/// The check finds a tokenizer that is not the source's.
#[test]
fn a_difference_is_an_error_that_shows_the_text() {
    let path = fixtures().join("qwen2/hf");
    let folder = Folder::new(&path);
    let config = folder.json("config.json").expect("JSON").expect("a file");
    let vocab = checked(&path, &config, None).expect("equal");
    let mut other = vocab.clone();
    other.own(geb::tokenizer::NORMALIZER, "null".to_owned().into());
    let error = tokenizer(&folder, &other, &other.metadata()).expect_err("differs");
    assert!(
        error.to_string().contains("differs from the source on"),
        "{error}"
    );
}
