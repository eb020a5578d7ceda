//! Tokenizer metadata with one thing wrong: the error names the key, nothing panics.

#[path = "common/fixture.rs"]
#[allow(dead_code)]
mod fixture;

use fixture::file_of;
use geb::Error;
use geb::gguf::writer::MetaValue as V;
use geb::tokenizer::{Encode, Tokenizer};

type Meta = Vec<(&'static str, V)>;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const COLLAPSE: &str = "tokenizer.ggml.remove_extra_whitespaces";

fn strs(list: &[&str]) -> V {
    V::Strs(list.iter().map(|s| (*s).to_owned()).collect())
}

/// `<unk> <s> </s>`, two byte tokens and four pieces.
fn spm() -> Meta {
    vec![
        (MODEL, V::Str("llama".into())),
        (
            TOKENS,
            strs(&[
                "<unk>", "<s>", "</s>", "<0x00>", "<0x0A>", "a", "b", "ab", "\u{2581}",
            ]),
        ),
        (
            SCORES,
            V::F32s(vec![0.0, 0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -1.0, -4.0]),
        ),
        (TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 1, 1])),
    ]
}

/// Unigram, with a table that turns `x` into `ab`.
fn unigram() -> Meta {
    vec![
        (MODEL, V::Str("t5".into())),
        (
            TOKENS,
            strs(&["<pad>", "</s>", "<unk>", "a", "b", "ab", "\u{2581}"]),
        ),
        (SCORES, V::F32s(vec![0.0, 0.0, 0.0, -2.0, -3.0, -4.0, -4.0])),
        (TYPES, V::I32s(vec![3, 3, 2, 1, 1, 1, 1])),
        (CHARSMAP, V::U8s(charsmap(0))),
        (COLLAPSE, V::Bool(true)),
    ]
}

/// A trie of the key `x`, whose text is at `offset`: root, its child at 128, the leaf at 0.
fn charsmap(offset: u32) -> Vec<u8> {
    let mut units = [0u32; 256];
    // The child of a root with offset 128 is at 128 ^ label; its leaf at that place ^ 255.
    let child = usize::from(b'x') ^ 128;
    units[0] = 128 << 10;
    units[child] = 255 << 10 | 1 << 8 | u32::from(b'x');
    units[child ^ 255] = 1 << 31 | offset;
    let mut out = (4 * units.len() as u32).to_le_bytes().to_vec();
    out.extend(units.iter().flat_map(|u| u.to_le_bytes()));
    out.extend(b"ab\0");
    out
}

fn bpe() -> Meta {
    vec![
        (MODEL, V::Str("gpt2".into())),
        (PRE, V::Str("gpt-2".into())),
        (TOKENS, strs(&["a", "b", "c", "ab", "abc", "<|endoftext|>"])),
        (TYPES, V::I32s(vec![1, 1, 1, 1, 1, 3])),
        (MERGES, strs(&["a b", "ab c"])),
        (EOS, V::U32(5)),
    ]
}

fn set(meta: &mut Meta, key: &'static str, value: V) {
    meta.retain(|(k, _)| *k != key);
    meta.push((key, value));
}

fn build(meta: Meta) -> geb::Result<Tokenizer> {
    Tokenizer::from_gguf(&file_of(meta).expect("a valid container"))
}

#[test]
fn the_bases_are_valid() {
    let ids = |t: &Tokenizer, text| t.encode(text, Encode::default()).expect("encodes");
    let tokenizer = build(spm()).expect("valid");
    assert_eq!(ids(&tokenizer, "ab a"), [8, 7, 8, 5]);
    assert_eq!(ids(&tokenizer, "\n"), [8, 4]);
    // No bytes for this one.
    assert_eq!(ids(&tokenizer, "z"), [8, 0]);
    let tokenizer = build(unigram()).expect("valid");
    assert_eq!(ids(&tokenizer, "ab  b "), [6, 5, 6, 4]);
    assert_eq!(ids(&tokenizer, "xzza"), [6, 5, 2, 3]);
    assert!(tokenizer.add_eos() && !tokenizer.add_bos());
    let tokenizer = build(bpe()).expect("valid");
    assert_eq!(ids(&tokenizer, "abcab"), [4, 3]);
    assert_eq!(tokenizer.decode(&[4, 5, 3]), "abcab");
}

/// Each edit must be refused with an error that names this key.
#[test]
fn one_wrong_key_is_one_named_error() {
    let long = || "x".repeat(geb::limits::MAX_TOKEN_BYTES + 1);
    let with = |base: fn() -> Meta, key: &'static str, value: V| {
        let mut meta = base();
        set(&mut meta, key, value);
        (meta, key)
    };
    let token = |base: fn() -> Meta, id: usize, text: String| {
        let mut meta = base();
        for (key, value) in &mut meta {
            if let (&mut TOKENS, V::Strs(list)) = (key, value) {
                list[id] = text.clone();
            }
        }
        (meta, TOKENS)
    };
    let without = |base: fn() -> Meta, key: &'static str| {
        let mut meta = base();
        meta.retain(|(k, _)| *k != key);
        (meta, key)
    };
    let mut cases = vec![
        // The table of replacements.
        with(unigram, CHARSMAP, V::Str("x".into())),
        with(unigram, CHARSMAP, V::U8s(vec![1, 0])),
        with(unigram, CHARSMAP, V::U8s(vec![8, 0, 0, 0, 1])),
        with(unigram, CHARSMAP, V::U8s(vec![1, 0, 0, 0, 1])),
        with(unigram, CHARSMAP, V::U8s(vec![0, 0, 0, 0, 0xFF])),
        with(unigram, COLLAPSE, V::U32(1)),
        without(unigram, SCORES),
        // The model.
        without(spm, MODEL),
        with(spm, MODEL, V::U32(1)),
        // Tokens.
        without(spm, TOKENS),
        with(spm, TOKENS, V::Strs(vec![])),
        with(spm, TOKENS, V::U32s(vec![1; 9])),
        with(spm, TOKENS, V::Str("a".into())),
        token(spm, 5, long()),
        token(bpe, 0, long()),
        token(spm, 6, "a".into()),
        token(bpe, 1, "a".into()),
        // Kinds.
        with(spm, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 1])),
        with(spm, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 1, 1, 1])),
        with(spm, TYPES, V::U32s(vec![2, 3, 3, 6, 6, 1, 1, 1, 1])),
        with(spm, TYPES, V::U8s(vec![2, 3, 3, 6, 6, 1, 1, 1, 1])),
        with(spm, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 1, 0])),
        with(spm, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 1, 7])),
        with(spm, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 1, -1])),
        // Scores.
        without(spm, SCORES),
        with(spm, SCORES, V::F32s(vec![0.0; 8])),
        with(spm, SCORES, V::F64s(vec![0.0; 9])),
        with(spm, SCORES, V::F32s(vec![f32::NAN; 9])),
        with(spm, SCORES, V::F32s(vec![f32::NEG_INFINITY; 9])),
        // Keys of this project.
        with(bpe, "tokenizer.geb.normalizer", V::Str("{".into())),
        with(bpe, "tokenizer.geb.normalizer", V::Str(" ".repeat(2 << 20))),
        with(bpe, "tokenizer.geb.normalizer", V::U32(1)),
        with(spm, "tokenizer.geb.pre_tokenizer", V::Str("[".into())),
        with(
            spm,
            "tokenizer.geb.space_prefix",
            V::Str("sometimes".into()),
        ),
        with(spm, "tokenizer.geb.added_tokens", V::U8s(vec![0; 8])),
        with(spm, "tokenizer.geb.added_tokens", V::U8s(vec![16; 9])),
        with(spm, "tokenizer.geb.added_tokens", V::Str("0".into())),
        with(spm, "tokenizer.geb.by_rank", V::U32(1)),
        with(spm, "tokenizer.geb.fuse_unknown", V::Str("no".into())),
        with(bpe, "tokenizer.geb.ignore_merges", V::U32(1)),
        with(unigram, "tokenizer.geb.scores", V::F64s(vec![f64::NAN; 7])),
        with(unigram, "tokenizer.geb.scores", V::F64s(vec![0.0; 6])),
        with(unigram, "tokenizer.geb.scores", V::F32s(vec![0.0; 7])),
        // Merges.
        without(bpe, MERGES),
        with(bpe, MERGES, V::U32s(vec![1, 2])),
        with(bpe, MERGES, strs(&["ab"])),
        with(bpe, MERGES, strs(&[""])),
        with(bpe, MERGES, strs(&[" "])),
        with(bpe, MERGES, strs(&["a "])),
        with(bpe, MERGES, strs(&[" a"])),
        with(bpe, MERGES, strs(&["a b c"])),
        with(bpe, MERGES, strs(&["a  b"])),
        with(bpe, MERGES, strs(&["a z"])),
        with(bpe, MERGES, strs(&["z a"])),
        with(bpe, MERGES, strs(&["b a"])),
        // Longer than any token: the library panics on this one.
        with(bpe, MERGES, strs(&["<|endoftext|> <|endoftext|>"])),
        with(bpe, MERGES, strs(&["abc abc"])),
        // Special ids.
        with(bpe, EOS, V::U32(6)),
        with(bpe, EOS, V::U32(u32::MAX)),
        with(bpe, EOS, V::I32(-1)),
        with(bpe, EOS, V::F32(1.0)),
        with(bpe, EOS, V::Str("5".into())),
        with(spm, BOS, V::U64(1 << 32)),
        with(spm, "tokenizer.ggml.unknown_token_id", V::U32(9)),
        with(spm, "tokenizer.ggml.padding_token_id", V::I64(-1)),
        with(spm, "tokenizer.ggml.seperator_token_id", V::U32(1000)),
        with(spm, "tokenizer.ggml.fim_pre_token_id", V::U32(1000)),
        // Flags.
        with(bpe, ADD_BOS, V::Bool(true)),
        with(spm, ADD_BOS, V::U8(1)),
        with(spm, ADD_EOS, V::Str("true".into())),
        with(spm, "tokenizer.ggml.add_space_prefix", V::U32(1)),
        with(bpe, PRE, V::U32(1)),
    ];
    for text in [
        "<0x-1>", "<0x1>", "<0x001>", "<0xGG>", "<0x 1>", "0x00", "<0x+1>", "", "<0x00", "<0X00>",
    ] {
        cases.push(token(spm, 3, text.into()));
    }
    // The same byte twice, in another spelling.
    cases.push(token(spm, 3, "<0x0a>".into()));
    // No token ends a text.
    let mut meta = bpe();
    meta.retain(|(k, _)| *k != EOS);
    set(&mut meta, TOKENS, strs(&["a", "b", "c", "ab", "abc", "x"]));
    cases.push((meta, EOS));
    assert!(cases.len() >= 60, "{}", cases.len());
    for (i, (meta, expected)) in cases.into_iter().enumerate() {
        match build(meta) {
            Err(Error::Key {
                key,
                value,
                allowed,
            }) => {
                assert_eq!(key, expected, "case {i}: {value}, {allowed}");
                assert!(!value.is_empty() && !allowed.is_empty(), "case {i}");
                assert!(
                    value.len() < 300,
                    "case {i}: a message of {} bytes",
                    value.len()
                );
            }
            Err(other) => panic!("case {i}: {other}"),
            Ok(_) => panic!("case {i} ({expected}) was accepted"),
        }
    }
}

#[test]
fn unknown_algorithms_are_unsupported_and_the_known_ones_listed() {
    for (key, value) in [
        (MODEL, "bert"),
        (MODEL, "gemma4"),
        (MODEL, ""),
        (PRE, "whitespace"),
        (PRE, ""),
    ] {
        let mut meta = bpe();
        set(&mut meta, key, V::Str(value.into()));
        let Err(Error::Unsupported {
            value: found,
            known,
            ..
        }) = build(meta)
        else {
            panic!("{key}: {value}")
        };
        assert_eq!(found, value);
        assert!(
            known.contains(if key == MODEL { "llama" } else { "llama-bpe" }),
            "{known}"
        );
    }
}

/// Tries that lead nowhere, or to no text, change nothing.
#[test]
fn a_broken_trie_replaces_nothing() {
    let valid = charsmap(0);
    let mut broken = vec![charsmap(3), charsmap(99), charsmap(1 << 30)];
    for cut in [4, 8, 12, 300] {
        let mut bytes = valid.clone();
        bytes.drain(4 + cut..4 + 1024);
        bytes[..4].copy_from_slice(&(cut as u32).to_le_bytes());
        broken.push(bytes);
    }
    for bytes in broken {
        let mut meta = unigram();
        set(&mut meta, CHARSMAP, V::U8s(bytes));
        let tokenizer = build(meta).expect("valid");
        let ids = tokenizer.encode("xa", Encode::default()).expect("encodes");
        assert!(ids == [6, 2, 3] || ids == [6, 3], "{ids:?}");
    }
}

#[test]
fn a_missing_pre_is_the_default_with_a_warning() {
    let mut meta = bpe();
    meta.retain(|(k, _)| *k != PRE);
    let tokenizer = build(meta).expect("valid");
    assert!(tokenizer.warnings()[0].contains(PRE));
    assert_eq!(
        tokenizer.encode("abc", Encode::default()).expect("encodes"),
        [4]
    );
}

/// Merging must not build a control token out of text, whatever the file says.
#[test]
fn merges_cannot_make_control_tokens() {
    let mut meta = bpe();
    set(&mut meta, TYPES, V::I32s(vec![1, 1, 1, 1, 3, 3]));
    let Err(Error::Key { key, .. }) = build(meta) else {
        panic!("accepted")
    };
    assert_eq!(key, MERGES);
    // The same through the special ids of a file that calls everything normal.
    let mut meta = bpe();
    set(&mut meta, TYPES, V::I32s(vec![1; 6]));
    set(&mut meta, EOS, V::U32(4));
    let Err(Error::Key { key, .. }) = build(meta) else {
        panic!("accepted")
    };
    assert_eq!(key, MERGES);
    let mut meta = spm();
    set(&mut meta, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 3, 1]));
    let tokenizer = build(meta).expect("valid");
    let encode = |parse_special| {
        tokenizer
            .encode(
                "ab",
                Encode {
                    add_special: false,
                    parse_special,
                },
            )
            .expect("encodes")
    };
    assert_eq!(encode(false), [8, 5, 6]);
    assert_eq!(encode(true), [7]);
}

/// Unused pieces are merged on the way and taken apart at the end.
#[test]
fn unused_pieces_come_apart() {
    let mut meta = spm();
    set(
        &mut meta,
        TOKENS,
        strs(&[
            "<unk>", "<s>", "</s>", "<0x00>", "<0x0A>", "a", "b", "ab", "abab",
        ]),
    );
    set(&mut meta, TYPES, V::I32s(vec![2, 3, 3, 6, 6, 1, 1, 5, 1]));
    set(&mut meta, "tokenizer.ggml.add_space_prefix", V::Bool(false));
    let tokenizer = build(meta).expect("valid");
    assert_eq!(
        tokenizer.encode("ab", Encode::default()).expect("encodes"),
        [5, 6]
    );
    assert_eq!(
        tokenizer
            .encode("abab", Encode::default())
            .expect("encodes"),
        [8]
    );
    assert_eq!(
        tokenizer
            .encode("ababab", Encode::default())
            .expect("encodes"),
        [8, 5, 6]
    );
}

/// Without bytes and without an unknown token some text has no ids.
#[test]
fn text_without_tokens_is_an_error() {
    let mut meta = spm();
    set(&mut meta, TOKENS, strs(&["a", "</s>"]));
    set(&mut meta, TYPES, V::I32s(vec![1, 3]));
    set(&mut meta, SCORES, V::F32s(vec![0.0; 2]));
    set(&mut meta, EOS, V::U32(1));
    set(&mut meta, "tokenizer.ggml.add_space_prefix", V::Bool(false));
    let tokenizer = build(meta).expect("valid");
    assert_eq!(
        tokenizer.encode("aa", Encode::default()).expect("encodes"),
        [0, 0]
    );
    assert!(matches!(
        tokenizer.encode("ab", Encode::default()),
        Err(Error::Request { .. })
    ));
}

/// User-defined tokens are found everywhere, the longest first; control tokens on request.
#[test]
fn special_tokens_are_found_longest_first() {
    let mut meta = spm();
    set(
        &mut meta,
        TOKENS,
        strs(&[
            "<unk>", "<s>", "</s>", "<0x00>", "<s>x", "a", "b", "aa", "\u{2581}",
        ]),
    );
    set(&mut meta, TYPES, V::I32s(vec![2, 3, 3, 6, 3, 1, 1, 4, 1]));
    set(&mut meta, "tokenizer.ggml.add_space_prefix", V::Bool(false));
    let tokenizer = build(meta).expect("valid");
    let encode = |text, parse_special| {
        tokenizer
            .encode(
                text,
                Encode {
                    add_special: false,
                    parse_special,
                },
            )
            .expect("encodes")
    };
    assert_eq!(encode("aaa<s>x<s>b", true), [7, 5, 4, 1, 6]);
    assert_eq!(encode("aaab", false), [7, 5, 6]);
    let plain = encode("<s>x", false);
    assert!(
        plain.iter().all(|&id| !tokenizer.is_control(id)),
        "{plain:?}"
    );
}
