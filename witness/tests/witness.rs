//! gguf-rs 0.1.8 as a second witness: on files we write and on mutants we accept it sees the
//! same keys, values, names, shapes, types and offsets. What it is known to get wrong is
//! listed here and asserted, so that a better version shows itself.
//!
//! `GEB_WITNESS` sets the number of accepted mutants (2,000 by default).

#[path = "../../tests/common/gguf.rs"]
#[allow(dead_code)]
mod gguf;
#[path = "../../tests/common/mutate.rs"]
#[allow(dead_code)]
mod mutate;

use std::io::{Cursor, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use geb::gguf::writer::{Plan, write_to};
use geb::gguf::{GgufFile, Value};
use geb::{Dtype, Error};
use gguf::File;
use gguf_rs::{ByteOrder, GGUFContainer, GGUFModel};
use mutate::mutant;
use serde_json::Value as Json;

/// Types whose size gguf-rs 0.1.8 computes wrongly: it guesses block lengths from id ranges.
const WRONG_SIZE: &[Dtype] = &[
    Dtype::Q8_1,
    Dtype::IQ4_NL,
    Dtype::I8,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::F64,
    Dtype::BF16,
    Dtype::MXFP4,
];
/// It panics on this type (`unreachable!`) …
const PANICS: Dtype = Dtype::NVFP4;
/// … and does not know these.
const UNKNOWN: &[Dtype] = &[Dtype::Q1_0, Dtype::Q2_0];

enum Seen {
    Model(Box<GGUFModel>),
    Refused,
    Panicked,
}

fn gguf_rs(bytes: &[u8]) -> Seen {
    // The constructor wants a reader behind the magic. Without a cap tokenizer arrays are cut.
    let reader = Cursor::new(bytes[4..].to_vec());
    let decode = || GGUFContainer::new(ByteOrder::LE, Box::new(reader), u64::MAX).decode();
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(model)) => Seen::Model(Box::new(model)),
        Ok(Err(_)) => Seen::Refused,
        Err(_) => Seen::Panicked,
    }
}

/// Our value as gguf-rs would turn it into JSON: NaN and infinities become null.
fn json(value: Value<'_>) -> Json {
    match value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::F32(v) => v.into(),
        Value::Bool(v) => v.into(),
        Value::Str(v) => v.into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::F64(v) => v.into(),
        Value::Array(a) => a.iter().map(json).collect(),
    }
}

/// Compares both views of an accepted file. Returns whether gguf-rs could read it at all.
fn compare(bytes: &[u8], what: &str) -> bool {
    let ours = GgufFile::from_bytes(bytes.to_vec()).expect("accepted");
    let has = |types: &[Dtype]| ours.tensors().any(|t| types.contains(&t.dtype()));
    let model = match gguf_rs(bytes) {
        Seen::Model(model) => model,
        Seen::Panicked => {
            assert!(has(&[PANICS]), "{what}: gguf-rs panicked");
            return false;
        }
        Seen::Refused => {
            assert!(has(UNKNOWN), "{what}: gguf-rs refused");
            return false;
        }
    };
    assert!(
        !has(&[PANICS]) && !has(UNKNOWN),
        "{what}: gguf-rs has learned a type; update the lists"
    );
    let mut keys: Vec<_> = ours.metadata().collect();
    keys.sort_by_key(|(key, _)| *key);
    assert_eq!(keys.len(), model.metadata().len(), "{what}");
    for ((key, value), (their_key, their_value)) in keys.into_iter().zip(model.metadata()) {
        assert_eq!(key, their_key, "{what}");
        assert_eq!(&json(value), their_value, "{what}: {key}");
    }
    assert_eq!(
        model.alignment(),
        u64::from(ours.index().alignment),
        "{what}"
    );
    assert_eq!(model.tensors().len(), ours.tensors().count(), "{what}");
    for (a, b) in ours.tensors().zip(model.tensors()) {
        let info = a.info();
        assert_eq!(
            (info.name.as_str(), &info.dims, info.dtype.id()),
            (b.name.as_str(), &b.shape, b.kind),
            "{what}"
        );
        assert_eq!(
            info.range.start as u64,
            model.data_offset() + b.offset,
            "{what}: {}",
            info.name
        );
        let same_size = a.bytes().len() as u64 == b.size;
        assert_eq!(
            same_size,
            !WRONG_SIZE.contains(&info.dtype),
            "{what}: {}",
            info.dtype
        );
    }
    true
}

/// Every type with a shape of whole blocks, written by our writer.
#[test]
fn files_we_write() {
    for &dtype in Dtype::ALL {
        for align in [8u32, 32, 4096] {
            let mut plan = Plan::default();
            plan.push_meta("general.alignment", align)
                .push_meta("general.architecture", "witness");
            plan.push_meta("f.nan", f32::NAN)
                .push_meta("f.inf", vec![f64::INFINITY, 0.1]);
            plan.push_meta("i.min", i64::MIN)
                .push_meta("u.max", u64::MAX)
                .push_meta("text", "\u{0} \u{1f600}");
            plan.push_meta("tokenizer.ggml.tokens", vec!["a".to_owned(); 50])
                .push_meta("none", Vec::<u32>::new());
            plan.push_tensor("a", dtype, [dtype.block_len() as u64, 3])
                .push_tensor("b", Dtype::F32, [7, 1, 2]);
            let layout = plan.layout().unwrap();
            let mut out = Vec::new();
            let mut fill = |i: usize, w: &mut dyn Write| {
                let range = &layout.tensors[i];
                w.write_all(&vec![1; (range.end - range.start) as usize])
                    .map_err(Error::io("memory"))
            };
            write_to(&mut out, &plan, &mut fill).unwrap();
            let readable = compare(&out, &format!("{dtype} aligned to {align}"));
            assert_eq!(
                readable,
                dtype != PANICS && !UNKNOWN.contains(&dtype),
                "{dtype}"
            );
        }
    }
}

#[test]
fn accepted_mutants() {
    let wanted: usize =
        std::env::var("GEB_WITNESS").map_or(2_000, |v| v.parse().expect("GEB_WITNESS is a number"));
    let base = File::sample();
    let (mut accepted, mut readable) = (0, 0);
    for seed in 0.. {
        if accepted == wanted {
            break;
        }
        let bytes = mutant(&base, seed);
        if GgufFile::from_bytes(bytes.clone()).is_ok() {
            accepted += 1;
            readable += usize::from(compare(&bytes, &format!("mutant {seed}")));
        }
    }
    println!("{accepted} accepted mutants, {readable} of them readable by gguf-rs");
    assert!(readable * 10 >= accepted * 9);
}

/// What gguf-rs accepts and we refuse: the reason it is a witness and not the reader.
#[test]
fn known_gaps_of_the_witness() {
    let refused_only_by_us: Vec<(&str, Vec<u8>)> = vec![
        (
            "row of 33 x Q4_0",
            File::sample()
                .edit(|f| (f.tensors[0].ty, f.tensors[0].dims) = (2, vec![33]))
                .encode(),
        ),
        (
            "offset far outside",
            File::sample()
                .edit(|f| f.tensors[3].offset = Some(999_999_999_999_968))
                .encode(),
        ),
        (
            "duplicate tensor name",
            File::sample()
                .edit(|f| f.tensors[1].name = f.tensors[0].name.clone())
                .encode(),
        ),
        (
            "duplicate key",
            File::sample()
                .edit(|f| f.keys[1].name = f.keys[0].name.clone())
                .encode(),
        ),
        (
            "alignment 13",
            File::sample().u32("general.alignment", 13).encode(),
        ),
        (
            "bool 7",
            File::sample()
                .with("scalar.bool", 7, gguf::Val::Raw(vec![7]))
                .encode(),
        ),
    ];
    for (what, bytes) in refused_only_by_us {
        assert!(GgufFile::from_bytes(bytes.clone()).is_err(), "{what}");
        assert!(
            matches!(gguf_rs(&bytes), Seen::Model(_)),
            "{what}: gguf-rs has learned this; say so in the docs"
        );
    }
}
