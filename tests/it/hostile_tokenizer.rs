//! Tokenizer metadata with one thing wrong: the error names the key, nothing panics.

use crate::common::fixture::file_of;
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
const STOPS: &str = "tokenizer.ggml.stop_token_ids";
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
        with(spm, BOS, V::U64(1 << 32)),
        with(spm, STOPS, V::I32s(vec![2])),
        with(
            spm,
            STOPS,
            V::U32s(vec![2; geb::limits::MAX_STOP_TOKENS + 1]),
        ),
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
    // An id that is needed: nothing else ends a text; asked for at its end.
    let mut meta = bpe();
    set(&mut meta, TYPES, V::I32s(vec![1; 6]));
    set(&mut meta, EOS, V::U32(6));
    cases.push((meta, EOS));
    let mut meta = bpe();
    set(&mut meta, ADD_EOS, V::Bool(true));
    set(&mut meta, EOS, V::I32(-1));
    cases.push((meta, EOS));
    let mut meta = bpe();
    set(&mut meta, ADD_BOS, V::Bool(true));
    set(&mut meta, BOS, V::F32(1.0));
    cases.push((meta, BOS));
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

/// An id that is no token, or no integer, is left out with a warning that names it.
#[test]
fn special_ids_that_nobody_needs_may_be_wrong() {
    let same = |t: &Tokenizer, base: &Tokenizer| {
        let special = Encode {
            add_special: true,
            parse_special: true,
        };
        for text in ["ab a", "abcab<|endoftext|>", "</s>z"] {
            assert_eq!(
                t.encode(text, special).ok(),
                base.encode(text, special).ok()
            );
        }
        assert_eq!(t.stop_ids(), base.stop_ids());
    };
    let names = [
        "padding",
        "mask",
        "seperator",
        "unknown",
        "eot",
        "eom",
        "cls",
        "fim_pre",
        "fim_suf",
        "fim_mid",
        "prefix",
        "suffix",
        "middle",
        "eos",
        "anything_else",
    ];
    for base in [spm as fn() -> Meta, bpe] {
        let right = build(base()).expect("valid");
        assert!(right.warnings().is_empty());
        for name in names {
            let key: &'static str = format!("tokenizer.ggml.{name}_token_id").leak();
            for (value, shown) in [
                (V::U32(u32::MAX), "4294967295"),
                (V::U32(9), "9"),
                (V::I32(-1), "-1"),
                (V::I64(i64::MIN), "-9223372036854775808"),
                (V::U64(u64::MAX), "18446744073709551615"),
                (V::F32(1.5), "1.5"),
                (V::Str("x\u{1b}[2J".repeat(100)), "x"),
                (V::Bool(true), "no number"),
                (V::U32s(vec![1]), "no number"),
            ] {
                let mut meta = base();
                set(&mut meta, key, value);
                let tokenizer = build(meta).unwrap_or_else(|e| panic!("{key} {shown}: {e}"));
                same(&tokenizer, &right);
                let [warning] = tokenizer.warnings() else {
                    panic!("{key}: {:?}", tokenizer.warnings())
                };
                assert!(
                    warning.contains(key) && warning.contains(shown),
                    "{warning}"
                );
                assert!(
                    warning.len() < 500 && !warning.contains('\u{1b}'),
                    "{warning:?}"
                );
            }
        }
    }
}

/// Ends of an answer: declared ids, and control tokens of known texts. Other tokens of the same
/// texts are text.
#[test]
fn texts_end_answers_only_where_they_are_control_tokens() {
    let texts = [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eom_id|>",
        "<EOT>",
        "<end_of_utterance>",
        "</s>",
        "[EOS]",
        "<|return|>",
        "<|call|>",
    ];
    for text in texts {
        for kind in [1, 3, 4, 5] {
            let mut meta = bpe();
            set(
                &mut meta,
                TOKENS,
                strs(&["a", "b", "c", "ab", "abc", "<end>", text]),
            );
            set(&mut meta, TYPES, V::I32s(vec![1, 1, 1, 1, 1, 3, kind]));
            let mut declared = meta.clone();
            let tokenizer = build(meta).expect("valid");
            let wanted: &[u32] = if kind == 3 { &[5, 6] } else { &[5] };
            assert_eq!(tokenizer.stop_ids(), wanted, "{text}, type {kind}");
            // Declared, it counts whatever its type and text.
            for key in [
                "tokenizer.ggml.eot_token_id",
                "tokenizer.ggml.eom_token_id",
                EOS,
            ] {
                set(&mut declared, key, V::U32(6));
                let tokenizer = build(declared.clone()).expect("valid");
                assert!(tokenizer.is_stop(6), "{text}, type {kind}, {key}");
            }
        }
    }
    let mut meta = bpe();
    set(&mut meta, MERGES, strs(&["a b"]));
    set(&mut meta, STOPS, V::U32s(vec![2, 4, 77]));
    let tokenizer = build(meta).expect("valid");
    assert_eq!(tokenizer.stop_ids(), [2, 4, 5]);
    assert!(
        tokenizer.warnings()[0].contains("77"),
        "{:?}",
        tokenizer.warnings()
    );
    // Where `<|return|>` and `<|call|>` end turns, `<|end|>` ends a message inside of one.
    let mut meta = bpe();
    let harmony = ["a", "b", "ab", "<|end|>", "<|call|>", "<|return|>"];
    set(&mut meta, TOKENS, strs(&harmony));
    set(&mut meta, MERGES, strs(&["a b"]));
    set(&mut meta, TYPES, V::I32s(vec![1, 1, 1, 3, 3, 3]));
    assert_eq!(build(meta).expect("valid").stop_ids(), [4, 5]);
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
