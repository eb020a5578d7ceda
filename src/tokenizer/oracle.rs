//! Byte-level BPE against the crate `tokenizers`, on random vocabularies and random text.

use std::collections::HashSet;

use proptest::prelude::*;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Model, NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior,
};

use super::bpe::alphabet;
use super::pre::{self, Pre};
use super::{Encode, Tokenizer};
use crate::gguf::GgufFile;
use crate::gguf::writer::{MetaValue, Plan};

/// Tokens without the end token, and merges.
#[derive(Clone, Debug)]
struct Random {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

/// A vocabulary of single bytes (without those in `absent`) and of joins picked by `picks`.
/// Small picks repeat themselves, so that texts have several merges and some merges come twice.
fn random(absent: &[u8], picks: &[(u16, u16)]) -> Random {
    let bytes = (0u8..=255)
        .zip(alphabet())
        .filter(|(b, _)| !absent.contains(b));
    let mut tokens: Vec<String> = bytes.map(|(_, c)| c.to_string()).collect();
    // Those that text uses most come first, where picks are dense.
    tokens.sort_by_key(|t| !"abehlotn'sĠĊ0123ä".contains(t.as_str()));
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let mut merges = Vec::new();
    for &(a, b) in picks {
        let pick = |i: u16| tokens[usize::from(i) % tokens.len().min(40 + merges.len())].clone();
        let (a, b) = (pick(a), pick(b));
        let joined = format!("{a}{b}");
        if joined.len() <= 24 {
            merges.push((a, b));
            if known.insert(joined.clone()) {
                tokens.insert(tokens.len().min(17), joined);
            }
        }
    }
    Random { tokens, merges }
}

fn ours(random: &Random, pre: &Pre) -> Tokenizer {
    let mut tokens = random.tokens.clone();
    tokens.push("<|endoftext|>".into());
    let end = tokens.len() as u32 - 1;
    let mut kinds = vec![1; tokens.len()];
    kinds[end as usize] = 3;
    let merges = random.merges.iter().map(|(a, b)| format!("{a} {b}"));
    let mut plan = Plan::default();
    for (key, value) in [
        ("tokenizer.ggml.model", MetaValue::Str("gpt2".into())),
        ("tokenizer.ggml.pre", MetaValue::Str(pre.names[0].into())),
        ("tokenizer.ggml.tokens", MetaValue::Strs(tokens)),
        ("tokenizer.ggml.token_type", MetaValue::I32s(kinds)),
        ("tokenizer.ggml.merges", MetaValue::Strs(merges.collect())),
        ("tokenizer.ggml.eos_token_id", MetaValue::U32(end)),
    ] {
        plan.push_meta(key, value);
    }
    let header = plan.layout().expect("a valid file").header;
    let file = GgufFile::from_bytes(header).expect("a valid file");
    Tokenizer::from_gguf(&file).expect("a valid tokenizer")
}

/// The same from the parts of the crate.
struct Oracle {
    model: BPE,
    splits: Vec<Split>,
    /// For the text in GPT-2's alphabet.
    bytes: Vec<Split>,
    nfc: bool,
}

impl Oracle {
    fn new(random: &Random, pre: &Pre) -> Oracle {
        let vocab: ahash::AHashMap<_, _> = random.tokens.iter().cloned().zip(0u32..).collect();
        let model = BPE::builder()
            .ignore_merges(pre.ignore_merges)
            .vocab_and_merges(vocab, random.merges.clone());
        let split = |p: &&str| {
            let pattern = SplitPattern::Regex((*p).to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("compiles")
        };
        Oracle {
            model: model.build().expect("valid merges"),
            splits: pre.patterns.iter().map(split).collect(),
            bytes: pre.bytes.iter().map(split).collect(),
            nfc: pre.nfc,
        }
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let mut text = NormalizedString::from(text);
        if self.nfc {
            text.nfc();
        }
        let mut pieces = PreTokenizedString::from(text);
        for split in &self.splits {
            split.pre_tokenize(&mut pieces).expect("cuts");
        }
        ByteLevel::new(false, false, false)
            .pre_tokenize(&mut pieces)
            .expect("byte characters");
        for split in &self.bytes {
            split.pre_tokenize(&mut pieces).expect("cuts");
        }
        let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        let ids = |piece| self.model.tokenize(piece).expect("encodes");
        let tokens = pieces.into_iter().flat_map(|(piece, _, _)| ids(piece));
        tokens.map(|t| t.id).collect()
    }
}

/// Text in which words, spaces, digits and marks follow each other closely, or any text.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[abehlotn]{1,12}",
        "[ \t\r\n\u{a0}\u{3000}]{1,4}",
        "['’](s|t|re|ve|m|ll|d|S|LL)",
        "[0-9٣½]{1,7}",
        "[-!?.,;:/(){}$+<=>^~|`]{1,3}",
        "[äßÉжЯאबाกำ一龥가ー゙\u{301}😀\u{200d}]{1,4}",
        "\\PC{1,3}",
        any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        8 => prop::collection::vec(word, 0..40).prop_map(|w| w.concat()),
        1 => "[ab]{0,300}",
        1 => ".{0,60}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn ids_equal_those_of_the_crate(
        absent in prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 1..4)],
        picks in prop::collection::vec((0u16..400, 0u16..400), 0..600),
        texts in prop::collection::vec(text(), 1..8),
    ) {
        let random = random(&absent, &picks);
        for name in pre::known().split(", ") {
            let pre = pre::find(name).expect("a known name");
            if pre.names[0] != name {
                continue;
            }
            let (ours, oracle) = (ours(&random, pre), Oracle::new(&random, pre));
            for text in &texts {
                let found = ours.encode(text, Encode::default()).expect("encodes");
                prop_assert_eq!(found, oracle.encode(text), "{}: {:?}", name, text);
            }
        }
    }
}
