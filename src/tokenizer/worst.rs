//! The worst texts and vocabularies of each algorithm: work grows with the text's length, or ends with an
//! error; and a flag stops all of them. Work is counted, no clock is read.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::work::Work;
use super::{Encode, Tokenizer};
use crate::error::Error;
use crate::gguf::GgufFile;
use crate::gguf::writer::{MetaValue, Plan};
use crate::limits;

type Meta = Vec<(&'static str, MetaValue)>;

fn strs(list: Vec<String>) -> MetaValue {
    MetaValue::Strs(list)
}

fn build(meta: Meta) -> crate::Result<Tokenizer> {
    let mut plan = Plan::default();
    for (key, value) in meta {
        plan.push_meta(key, value);
    }
    let header = plan.layout().expect("a valid file").header;
    Tokenizer::from_gguf(&GgufFile::from_bytes(header).expect("a valid file"))
}

/// `<unk> <s> </s> ▁` and all runs of `a` up to `longest`; longer ones are worth more.
fn runs(model: &str, longest: usize) -> Meta {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "▁"].map(String::from).into();
    tokens.extend((1..=longest).map(|n| "a".repeat(n)));
    let mut kinds = vec![1; tokens.len()];
    (kinds[0], kinds[1], kinds[2]) = (2, 3, 3);
    let scores = (0..tokens.len())
        .map(|i| i as f32 - tokens.len() as f32)
        .collect();
    vec![
        ("tokenizer.ggml.model", MetaValue::Str(model.into())),
        ("tokenizer.ggml.tokens", strs(tokens)),
        ("tokenizer.ggml.token_type", MetaValue::I32s(kinds)),
        ("tokenizer.ggml.scores", MetaValue::F32s(scores)),
        ("tokenizer.ggml.eos_token_id", MetaValue::U32(2)),
        ("tokenizer.ggml.unknown_token_id", MetaValue::U32(0)),
    ]
}

fn bytes(pre: &str) -> Meta {
    let alphabet = super::bpe::alphabet();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    for n in 1..40 {
        tokens.push("a".repeat(n + 1));
        merges.push(format!("{} a", "a".repeat(n)));
    }
    tokens.push("<|end|>".into());
    let mut kinds = vec![1; tokens.len()];
    *kinds.last_mut().expect("tokens") = 3;
    let end = tokens.len() as u32 - 1;
    vec![
        ("tokenizer.ggml.model", MetaValue::Str("gpt2".into())),
        ("tokenizer.ggml.pre", MetaValue::Str(pre.into())),
        ("tokenizer.ggml.tokens", strs(tokens)),
        ("tokenizer.ggml.token_type", MetaValue::I32s(kinds)),
        ("tokenizer.ggml.merges", strs(merges)),
        ("tokenizer.ggml.eos_token_id", MetaValue::U32(end)),
    ]
}

fn rwkv() -> Meta {
    let tokens = (1..=1_000).map(|n| "a".repeat(n));
    let tokens: Vec<String> = std::iter::once("<s>".to_owned()).chain(tokens).collect();
    let mut kinds = vec![1; tokens.len()];
    kinds[0] = 3;
    vec![
        ("tokenizer.ggml.model", MetaValue::Str("rwkv".into())),
        ("tokenizer.ggml.tokens", strs(tokens)),
        ("tokenizer.ggml.token_type", MetaValue::I32s(kinds)),
        ("tokenizer.ggml.eos_token_id", MetaValue::U32(0)),
    ]
}

/// Steps for a text, or `None` when there were too many.
fn steps(tokenizer: &Tokenizer, text: &str) -> Option<u64> {
    let mut work = Work::new(text.len(), None);
    let done = tokenizer.encode_with(text, &[], &mut work, &mut Vec::new());
    match done {
        Ok(()) => Some(work.taken()),
        Err(Error::Request { what, .. }) => {
            assert_eq!(what, "work of the tokenizer");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn work_grows_with_the_length_of_the_text() {
    let json = |meta: Meta, normalizer: &str| {
        let mut meta = meta;
        meta.push((super::NORMALIZER, MetaValue::Str(normalizer.into())));
        meta
    };
    let vocabularies = [
        ("spm", runs("llama", 200)),
        ("unigram", runs("t5", 60)),
        ("rwkv", rwkv()),
        ("bytes", bytes("gpt-2")),
        ("digits", bytes("tiny_aya")),
        ("thousands", bytes("superbpe")),
        ("deepseek", bytes("deepseek-llm")),
        ("composed", json(bytes("gpt-2"), r#"{"type": "NFC"}"#)),
        (
            "replaced",
            json(
                runs("llama", 20),
                r#"{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}"#,
            ),
        ),
    ];
    for (name, meta) in vocabularies {
        let tokenizer = build(meta).expect("valid");
        for unit in [
            "a", "aaaaaaab", "1", " ", "\n", " a", "\u{301}", "e\u{301}", "1 ",
        ] {
            if name == "rwkv" && unit.chars().any(|c| c != 'a') {
                continue;
            }
            let of = |n: usize| steps(&tokenizer, &unit.repeat(n / unit.len()));
            let (small, large) = (of(4_000), of(16_000));
            let (small, large) = (small.expect("within the bound"), large.expect("within"));
            // Four times the text; a heap adds a logarithm.
            assert!(
                large < 6 * small + 20_000,
                "{name} {unit:?}: {small}, {large}"
            );
        }
    }
}

#[test]
fn long_pieces_are_refused_and_long_searches_end() {
    let error = build(runs("t5", limits::MAX_SEARCHED_TOKEN_BYTES + 1))
        .err()
        .expect("refused");
    assert!(error.to_string().contains("unigram"), "{error}");
    // All lengths up to the bound at every byte of the text.
    let tokenizer = build(runs("t5", limits::MAX_SEARCHED_TOKEN_BYTES)).expect("valid");
    assert!(steps(&tokenizer, &"a".repeat(1_000)).is_some());
    assert!(steps(&tokenizer, &"a".repeat(4_000)).is_none());
    // A control token that would be searched through at every byte.
    let mut meta = bytes("gpt-2");
    let long = format!("{}b", "a".repeat(limits::MAX_SEARCHED_TOKEN_BYTES));
    for (key, value) in &mut meta {
        if let (&mut "tokenizer.ggml.tokens", MetaValue::Strs(list)) = (key, value) {
            *list.last_mut().expect("tokens") = long.clone();
        }
    }
    assert!(
        build(meta)
            .err()
            .expect("refused")
            .to_string()
            .contains("special token")
    );
}

/// A table whose keys are `a` up to 4,000 times: each byte looks through all of them.
#[test]
fn a_deep_table_ends() {
    let mut units = vec![0u32; 1 << 13];
    // A chain: from node 256 the label `a` leads to the next multiple of 256 units of offset.
    let offset = |n: usize| (n as u32) << 10;
    let depth = 30;
    units[0] = offset(256);
    let mut node = 256;
    for _ in 0..depth {
        let at = node ^ usize::from(b'a');
        let next = node + 256;
        units[at] = offset(at ^ next) | u32::from(b'a');
        node = next;
    }
    // The end leads back to its own child, so that a run of any length is walked.
    let at = node ^ usize::from(b'a');
    units[at] = offset(at ^ node) | u32::from(b'a');
    let mut table = (4 * units.len() as u32).to_le_bytes().to_vec();
    table.extend(units.iter().flat_map(|u| u.to_le_bytes()));
    table.push(0);
    let mut meta = runs("t5", 4);
    meta.push(("tokenizer.ggml.precompiled_charsmap", MetaValue::U8s(table)));
    let tokenizer = build(meta).expect("valid");
    assert!(steps(&tokenizer, &"a".repeat(1_000)).is_some());
    assert!(steps(&tokenizer, &"a".repeat(4_000)).is_none());
}

#[test]
fn a_flag_stops_every_algorithm() {
    for meta in [runs("llama", 20), runs("t5", 20), rwkv(), bytes("gpt-2")] {
        let mut tokenizer = build(meta).expect("valid");
        let flag = Arc::new(AtomicBool::new(false));
        tokenizer.cancel_with(flag.clone());
        let text = "a".repeat(1 << 17);
        assert!(tokenizer.encode("aaaa", Encode::default()).is_ok());
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        let stopped = tokenizer.encode(&text, Encode::default());
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
