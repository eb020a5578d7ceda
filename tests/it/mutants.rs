//! Damaged containers by the thousand: structured mutants, truncation at every byte, every
//! byte changed. No panic, accepted files obey the rules, heap stays within
//! 2 x metadata + 16 MiB. `GEB_MUTANTS` sets the number of mutants (100,000 by default).

use crate::common::alloc::peak;
use crate::common::gguf::{self as g, File, Val};
use crate::common::mutate::{Rng, mutant};
use geb::gguf::writer::{MetaValue, Plan, write_to};
use geb::gguf::{GgufFile, Index, Value};
use geb::{Dtype, Error};

const HEAP_BASE: usize = 16 << 20;

/// Re-derives rules 7 to 10 from the accepted index, by other arithmetic than the parser's.
fn assert_obeys_rules(file: &GgufFile) {
    let (index, len) = (file.index(), file.data().len());
    assert!(index.alignment.is_power_of_two() && (8..=65_536).contains(&index.alignment));
    assert!(index.data_start <= len.max(index.metadata_bytes));
    let mut ranges = Vec::new();
    for view in file.tensors() {
        let t = view.info();
        assert!(!t.name.is_empty() && t.name.len() <= 64);
        assert!(
            (1..=4).contains(&t.dims.len()) && t.dims.iter().all(|&d| (1..=1 << 40).contains(&d))
        );
        let elements: u128 = t.dims.iter().map(|&d| u128::from(d)).product();
        let block = t.dtype.block_len() as u128;
        assert_eq!(u128::from(t.dims[0]) % block, 0);
        let bytes = elements / block * t.dtype.block_bytes() as u128;
        assert_eq!(view.bytes().len() as u128, bytes);
        assert!(
            t.range.start >= index.data_start && t.range.end <= len && t.range.start < t.range.end
        );
        assert_eq!(
            (t.range.start - index.data_start) % index.alignment as usize,
            0
        );
        assert_eq!(file.tensor(&t.name).map(|v| v.info()), Some(t));
        ranges.push(t.range.clone());
    }
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.windows(2).all(|p| p[0].end <= p[1].start));
    let mut keys = 0;
    for (key, value) in file.metadata() {
        assert!(!key.is_empty());
        if let Value::Array(a) = value {
            assert_eq!(a.iter().count(), a.len);
        }
        keys += 1;
    }
    let stated = u64::from_le_bytes(file.data()[16..24].try_into().unwrap());
    assert_eq!(keys, stated);
}

/// Parses within the heap bound. Returns whether the file was accepted.
fn parse_bounded(bytes: &'static [u8]) -> bool {
    let (result, heap) = peak(|| GgufFile::from_bytes(bytes));
    let metadata = result
        .as_ref()
        .map_or(bytes.len(), |f| f.index().metadata_bytes);
    assert!(
        heap <= 2 * metadata + HEAP_BASE,
        "{heap} bytes of heap for {metadata} bytes of metadata"
    );
    match result {
        Ok(file) => {
            assert_obeys_rules(&file);
            true
        }
        Err(Error::Format { rule: 1..=10, .. } | Error::Type { .. }) => false,
        Err(other) => panic!("unexpected kind: {other}"),
    }
}

/// As [`parse_bounded`] for bytes that are dropped afterwards.
fn check(bytes: Vec<u8>) -> bool {
    let (result, heap) = peak(|| Index::parse(&bytes));
    assert!(
        heap <= 2 * bytes.len() + HEAP_BASE,
        "{heap} bytes of heap for {} bytes",
        bytes.len()
    );
    match result {
        Ok(_) => {
            assert_obeys_rules(&GgufFile::from_bytes(bytes).unwrap());
            true
        }
        Err(Error::Format { rule: 1..=10, .. } | Error::Type { .. }) => false,
        Err(other) => panic!("unexpected kind: {other}"),
    }
}

fn fixtures() -> [File; 3] {
    let words: Vec<String> = (0..40).map(|i| format!("w{i}\u{e9}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let vocabulary = File::new()
        .str("general.architecture", "llama")
        .strs("tokenizer.ggml.tokens", &words)
        .f32s("tokenizer.ggml.scores", &[0.5; 40])
        .i32s("tokenizer.ggml.token_type", &[1; 40])
        .tensor("token_embd.weight", Dtype::Q4_0, &[32, 40]);
    let aligned = File::new()
        .u32("general.alignment", 64)
        .tensor("a", Dtype::BF16, &[3])
        .tensor("b", Dtype::F32, &[5]);
    [
        File::sample(),
        vocabulary,
        aligned.edit(|f| f.alignment = 64),
    ]
}

#[test]
fn structured_mutants() {
    let count: u64 = std::env::var("GEB_MUTANTS")
        .map_or(100_000, |v| v.parse().expect("GEB_MUTANTS is a number"));
    let bases = fixtures();
    let start = std::time::Instant::now();
    let accepted = (0..count)
        .filter(|&seed| check(mutant(&bases[seed as usize % 3], seed)))
        .count() as u64;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{count} mutants, {accepted} accepted, {rate:.0} per second");
    // Both outcomes must be common, or the mutator has gone blind.
    assert!(
        accepted > count / 50 && accepted < count * 3 / 4,
        "{accepted} of {count} accepted"
    );
}

#[test]
fn truncated_at_every_byte() {
    for file in fixtures() {
        let whole = file.encode();
        let used = GgufFile::from_bytes(whole.clone()).unwrap();
        let end = used
            .index()
            .tensors
            .iter()
            .map(|t| t.range.end)
            .max()
            .unwrap();
        for len in 0..whole.len() {
            let accepted = check(whole[..len].to_vec());
            // Only the padding after the last tensor may be missing.
            assert_eq!(accepted, len >= end, "cut at {len}, data ends at {end}");
        }
    }
}

#[test]
fn every_byte_changed() {
    for file in fixtures() {
        let whole = file.encode();
        let header = GgufFile::from_bytes(whole.clone())
            .unwrap()
            .index()
            .metadata_bytes;
        for i in 0..header {
            for value in [
                0,
                1,
                0x7f,
                0x80,
                0xff,
                whole[i] ^ 1,
                whole[i].wrapping_add(1),
                whole[i].wrapping_sub(1),
            ] {
                let mut bytes = whole.clone();
                bytes[i] = value;
                check(bytes);
            }
        }
    }
}

/// Writes the fixtures and some mutants as seeds for `fuzz/` when `GEB_CORPUS` names a folder.
#[test]
fn seeds_for_the_fuzzer() {
    let Some(folder) = std::env::var_os("GEB_CORPUS").map(std::path::PathBuf::from) else {
        return;
    };
    std::fs::create_dir_all(&folder).unwrap();
    for (i, file) in fixtures().iter().enumerate() {
        std::fs::write(folder.join(format!("fixture{i}")), file.encode()).unwrap();
        for seed in 0..50 {
            std::fs::write(folder.join(format!("mutant{i}-{seed}")), mutant(file, seed)).unwrap();
        }
    }
}

#[test]
fn random_bytes() {
    let mut rng = Rng::new(7);
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
        let good = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0";
        let n = rng.below(good.len() + 1).min(bytes.len());
        bytes[..n].copy_from_slice(&good[..n]);
        check(bytes);
    }
}

/// The worst honest files: as many of the smallest keys and tensors as allowed, long keys,
/// and one huge array of empty strings.
#[test]
fn heap_is_bounded() {
    let mut tiny = File::new().u32("general.alignment", 8);
    tiny.alignment = 8;
    for i in 0..65_535u32 {
        tiny = tiny.key(&format!("{i:x}"), g::U8, Val::Raw(vec![0]));
        tiny = tiny.tensor(&format!("{i:x}"), Dtype::I8, &[1]);
    }
    let mut gaps = tiny.clone();
    gaps.keys.truncate(1);
    for (i, t) in gaps.tensors.iter_mut().enumerate() {
        t.offset = Some(i as u64 * 8);
        t.data = vec![0; 8];
    }
    let mut long = File::new();
    for i in 0..64 {
        long = long.key(&format!("{i:065535}"), g::U8, Val::Raw(vec![0]));
    }
    let strings = File::new().key(
        "s",
        g::ARRAY,
        Val::Array {
            elem: g::STR,
            count: Some(4 << 20),
            items: vec![Val::Raw(vec![0; 32 << 20])],
        },
    );
    // A tensor name and a long key that end up in an error.
    let twice = long.clone().edit(|f| f.keys[63] = f.keys[0].clone());
    for (file, accepted) in [
        (tiny, true),
        (gaps, true),
        (long, true),
        (strings, true),
        (twice, false),
    ] {
        assert_eq!(parse_bounded(file.encode().leak()), accepted);
    }
}

/// Linear duplicate detection: long keys that differ in the last byte, and all of them equal
/// in a hash table without a seed, would show here as minutes.
#[test]
fn many_similar_keys() {
    let mut file = File::new();
    for i in 0..20_000u32 {
        file = file.key(
            &format!("{}{i:05}", "k".repeat(1000)),
            g::U8,
            Val::Raw(vec![0]),
        );
    }
    assert!(parse_bounded(file.clone().encode().leak()));
    let last = file.keys[19_999].clone();
    assert!(!parse_bounded(
        file.edit(|f| f.keys.push(last)).encode().leak()
    ));
}

/// An accepted mutant copied through the writer reads back with the same content.
#[test]
fn accepted_mutants_survive_the_writer() {
    let bases = fixtures();
    let mut copied = 0;
    for seed in 0..5_000 {
        let Ok(file) = GgufFile::from_bytes(mutant(&bases[seed as usize % 3], seed)) else {
            continue;
        };
        let mut plan = Plan::default();
        plan.copy_meta(&file, |_, _| true);
        for t in file.tensors() {
            plan.push_tensor(&t.info().name, t.dtype(), t.info().dims.clone());
        }
        let views: Vec<_> = file.tensors().collect();
        let mut out = Vec::new();
        write_to(&mut out, &plan, &mut |i, w| {
            w.write_all(views[i].bytes()).map_err(Error::io("memory"))
        })
        .unwrap();
        let back = GgufFile::from_bytes(out).unwrap();
        // NaN never equals itself; the encoded text of both sides does.
        let text = |f: &GgufFile| {
            f.metadata()
                .map(|(k, v)| format!("{k:?} {:?}", MetaValue::from_value(v)))
                .collect::<Vec<_>>()
        };
        assert_eq!(text(&file), text(&back));
        assert_eq!(file.index().alignment, back.index().alignment);
        for (a, b) in file.tensors().zip(back.tensors()) {
            assert_eq!(
                (&a.info().name, &a.info().dims, a.dtype(), a.bytes()),
                (&b.info().name, &b.info().dims, b.dtype(), b.bytes())
            );
        }
        copied += 1;
    }
    assert!(copied > 100, "{copied} copied");
}
