//! Converted SentencePiece models against the reference libraries.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::family::{FAMILIES, Family};
use super::super::{verify, vocab};
use super::*;
use geb::gguf::GgufFile;
use geb::gguf::writer::Plan;
use geb::tokenizer::{Encode, Tokenizer};

fn numbers(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tokenizer of a folder with a vocabulary of `rows`, after the converter's own check.
fn tokenizer(path: &Path, family: &Family, architecture: &str, rows: usize) -> Tokenizer {
    let folder = Folder::new(path);
    let config = folder.json("config.json").expect("JSON");
    let config = config.unwrap_or_else(|| serde_json::json!({}));
    let vocab = vocab::read(&folder, &config, family, rows, None).expect("reads");
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", architecture.to_owned());
    for (key, value) in vocab.metadata() {
        plan.push_meta(key, value);
    }
    verify::tokenizer(&folder, &vocab, &vocab.metadata()).expect("equals the source");
    let file = GgufFile::from_bytes(plan.layout().expect("fits").header).expect("valid");
    Tokenizer::from_gguf(&file).expect("valid metadata")
}

/// T5's tokenizers, with and without a table of replacements.
#[test]
fn unigram_ids_equal_the_reference() {
    for case in ["t5", "t5-relu"] {
        let folder = root().join("tests/fixtures").join(case);
        let tokenizer = tokenizer(&folder.join("hf"), &FAMILIES[0], "t5", 336);
        let expected = std::fs::read(folder.join("expected.json")).expect("a file");
        let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
        let cases = expected["tokenizer_cases"].as_array().expect("cases");
        assert!(cases.len() > 30);
        for wanted in cases {
            let text = wanted["text"].as_str().expect("a text");
            for (name, add_special, parse_special) in [
                ("ids", true, true),
                ("ids_no_special", false, true),
                ("ids_plain", false, false),
            ] {
                let how = Encode {
                    add_special,
                    parse_special,
                };
                let found = tokenizer.encode(text, how).expect("encodes");
                assert_eq!(found, numbers(&wanted[name]), "{case}: {name} of {text:?}");
            }
            if wanted["decode_roundtrip"] == true {
                let plain = numbers(&wanted["ids_plain"]);
                assert_eq!(tokenizer.decode(&plain), text, "{case}");
            }
        }
    }
}

/// The numbers behind the texts of `tests/oracle/pieces.py`.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % n
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u32) as usize]
    }
}

const WORDS: &[&str] = &[
    "the",
    " of",
    "Model",
    " quantize",
    "today",
    "今天",
    "中国",
    "的",
    "语言模型",
    "don't",
    "Ünï",
    "naïve",
];
const MARKS: &[&str] = &[
    "!", "?", ".", ",", ";", ":", "(", ")", "[", "]", "{", "}", "<", ">", "/", "\\", "|", "@", "#",
    "$", "%", "^", "&", "*", "-", "_", "=", "+", "'", "\"", "~", "`", "，", "。", "！", "？", "《",
    "》", "“", "”", "…", "—", "ﬁ", "½", "²",
];
const SPACES: &[&str] = &[
    " ", "  ", "\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "\u{200b}", "   ",
];

/// English, Chinese, digits, marks, white space, and characters from anywhere.
fn text(numbers: &mut Numbers) -> String {
    let mut out = String::new();
    for _ in 0..1 + numbers.below(24) {
        let (kind, length) = (numbers.below(8), 1 + numbers.below(6));
        let run = matches!(kind, 0 | 1 | 2 | 6);
        for _ in 0..if run { length } else { 1 } {
            let mut code =
                |from, n| out.extend(char::from_u32(from + numbers.below(n)).or(Some('\u{fffd}')));
            match kind {
                0 => code(97, 26),
                1 => code(0x4E00, 0x51A6),
                2 => code(48, 10),
                3 => out.push_str(numbers.of(MARKS)),
                4 => out.push_str(numbers.of(SPACES)),
                5 => code(1, 0x10_FFFF),
                6 => code(0x80, 0x180),
                _ => out.push_str(numbers.of(WORDS)),
            }
        }
    }
    out
}

/// Number of tokens and hash of the ids of 10,000 texts.
fn digest(tokenizer: &Tokenizer) -> (usize, String) {
    let (mut numbers, mut hash, mut tokens) = (Numbers(1), Sha256::new(), 0);
    for _ in 0..10_000 {
        let ids = tokenizer.encode(&text(&mut numbers), Encode::default());
        let ids = ids.expect("encodes");
        tokens += ids.len();
        for id in ids.into_iter().chain([u32::MAX]) {
            hash.update(id.to_le_bytes());
        }
    }
    let hash = hash.finalize();
    (tokens, hash.iter().map(|b| format!("{b:02x}")).collect())
}

/// Hashes are those that `tests/oracle/pieces.py` prints, made by the SentencePiece library.
#[test]
fn random_texts_equal_the_sentencepiece_library() {
    for (case, tokens, hash) in [
        (
            "t5",
            220_738,
            "7559b3abd45a469f99388a71319d6ad4d00d31940b5c009189d886b36fcc53d4",
        ),
        (
            "t5-relu",
            208_126,
            "15f86d3b1ee77a527543374660a328e5e4686198fc6213cc632dd32d5ad1fd79",
        ),
        (
            "llama",
            546_782,
            "109c60d6d627a321e1cc00459cf5eb345d3d20f3d3e14c99ed8c2f5caf3def16",
        ),
        (
            "gemma3",
            541_781,
            "514b593af2e7709a690f2c57c1175b105eedaa713ec96521237a9f6c5535b4de",
        ),
    ] {
        let folder = root().join("tests/fixtures").join(case).join("hf");
        let found = digest(&tokenizer(&folder, &FAMILIES[0], case, 1_000));
        assert_eq!(found, (tokens, hash.to_owned()), "{case}");
    }
}

/// The tokenizer of GEB and ChatGLM3. Its file cannot be part of this repository.
#[test]
fn random_texts_of_geb_equal_the_sentencepiece_library() {
    let folder = root().join("../shared/geb");
    if !folder.join("GEBtokenizer.model").exists() {
        println!("NOT RUN: no GEBtokenizer.model in {}", folder.display());
        return;
    }
    let geb = FAMILIES.iter().find(|f| f.types.contains(&"geblm"));
    let found = digest(&tokenizer(&folder, geb.expect("a family"), "llama", 64_896));
    let hash = "e35b4f08e2a81ae32e2748680979ce65880ccbfca6d1fc2d107ac8e75b199438";
    assert_eq!(found, (418_029, hash.to_owned()));
}
