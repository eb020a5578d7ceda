//! Importance matrices: what is collected, how files go on, and which files are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::calibrate::{self, Chunks, Imatrix, Origin};
use geb::gguf::GgufFile;
use geb::gguf::writer::{MetaValue, Plan, write_file};
use geb::kernels::Effort;
use geb::model::Model;
use geb::model::inputs::InputStats;
use geb::session::{Session, SessionOptions};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

/// Tokens of a chunk.
const CHUNK: usize = 32;

fn checkpoint() -> PathBuf {
    Path::new(crate::common::ROOT).join("tests/fixtures/llama/hf")
}

fn model() -> Arc<Model> {
    let source = checkpoint();
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let (bytes, _) = convert::convert_to_vec(&source, &options).expect("converts");
    Model::load(Arc::new(GgufFile::from_bytes(bytes).expect("own file"))).expect("own model")
}

fn session(threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        ctx: Some(CHUNK),
        ..SessionOptions::default()
    };
    Session::new(model(), &options).expect("session")
}

fn ids() -> Vec<u32> {
    (0..5 * CHUNK as u32 + 7)
        .map(|i| (i * 37 + i * i) % 578)
        .collect()
}

fn origin() -> Origin {
    Origin::new(Path::new("folder/text.txt"), "text", CHUNK as u32)
}

/// Sums of chunks `first..end` on top of `stats`.
fn collect(session: &mut Session, stats: &mut InputStats, first: usize, end: usize) {
    let ids = ids();
    let chunks = Chunks::new(&ids, CHUNK, None, None).expect("chunks");
    assert_eq!(chunks.count, 5);
    let done = calibrate::collect(
        session,
        &chunks,
        first,
        stats,
        &mut |done, _| Ok(done < end),
    );
    assert_eq!(done.expect("collects"), end);
}

#[test]
fn the_first_input_is_the_norm_of_the_embeddings() {
    let mut session = session(2);
    let model = session.model().clone();
    let mut stats = InputStats::new(&model, true).expect("memory");
    collect(&mut session, &mut stats, 0, 5);
    let file = model.file();
    let numbers = |name: &str| -> Vec<f32> {
        let bytes = file.tensor(name).expect(name).bytes();
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    let (table, norm) = (
        numbers("token_embd.weight"),
        numbers("blk.0.attn_norm.weight"),
    );
    let n = norm.len();
    let mut moments = vec![0f64; n * n];
    for id in &ids()[..5 * CHUNK] {
        let x = &table[*id as usize * n..][..n];
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean + 1e-5).sqrt();
        let h: Vec<f64> = x
            .iter()
            .zip(&norm)
            .map(|(x, w)| f64::from(x * w) * scale)
            .collect();
        for i in 0..n {
            for j in 0..n {
                moments[i * n + j] += h[i] * h[j];
            }
        }
    }
    let input = &stats.inputs()[0];
    assert_eq!(input.names[0], "blk.0.attn_q.weight");
    assert_eq!(
        (input.names.len(), &input.tokens[..]),
        (3, &[5 * CHUNK as u64][..])
    );
    let largest = moments.iter().fold(0f64, |m, v| m.max(v.abs()));
    for i in 0..n {
        let square = moments[i * n + i];
        assert!((f64::from(input.squares[i]) - square).abs() < 1e-5 * largest);
        for j in 0..n {
            let found = f64::from(input.moments[i * n + j]);
            assert!(
                (found - moments[i * n + j]).abs() < 1e-5 * largest,
                "{i} {j}"
            );
            assert_eq!(input.moments[i * n + j], input.moments[j * n + i]);
        }
    }
    for input in stats.inputs() {
        for (i, s) in input.squares.iter().enumerate() {
            let m = input.moments[i * input.cols + i];
            assert!(
                (s - m).abs() <= 1e-4 * m.abs() + 1e-12,
                "{:?} {i}",
                input.names
            );
        }
    }
}

#[test]
fn the_file_is_the_same_for_any_threads_and_after_a_pause() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name);
    for covariance in [false, true] {
        for (name, threads) in [("one", 1), ("three", 3)] {
            let mut session = session(threads);
            let mut stats = InputStats::new(session.model(), covariance).expect("memory");
            collect(&mut session, &mut stats, 0, 5);
            calibrate::write(&path(name), &origin(), 5, &stats).expect("writes");
        }
        let mut session = session(2);
        let mut stats = InputStats::new(session.model(), covariance).expect("memory");
        collect(&mut session, &mut stats, 0, 2);
        calibrate::write(&path("part"), &origin(), 2, &stats).expect("writes");
        let mut stats = InputStats::new(session.model(), covariance).expect("memory");
        let first = calibrate::resume(&path("part"), &origin(), &mut stats).expect("resumes");
        assert_eq!(first, 2);
        collect(&mut session, &mut stats, first, 5);
        calibrate::write(&path("part"), &origin(), 5, &stats).expect("writes");
        let read = |name: &str| std::fs::read(path(name)).expect("a file");
        assert_eq!(read("one"), read("three"));
        assert_eq!(read("one"), read("part"));
        let matrix = Imatrix::open(&path("one")).expect("opens");
        assert_eq!((matrix.len(), matrix.chunks()), (3 * 7 + 1, 5));
        assert_eq!(matrix.datasets(), ["text.txt"]);
        assert_eq!(matrix.has_covariances(), covariance);
        let other = Origin {
            text: "another".into(),
            ..origin()
        };
        let refused = calibrate::resume(&path("one"), &other, &mut stats);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("geb.imatrix.text")
        );
        let mut opposite = InputStats::new(session.model(), !covariance).expect("memory");
        let refused = calibrate::resume(&path("one"), &origin(), &mut opposite);
        assert!(refused.unwrap_err().to_string().contains("in_cov"));
    }
}

/// A matrix with one entry, written without the library's own writer of matrices.
fn matrix(path: &Path, name: &str, sums: &[f32], counts: &[f32], kind: &str) {
    let mut plan = Plan::default();
    plan.push_meta("general.type", kind);
    plan.push_meta("imatrix.datasets", vec!["a.txt".to_owned()]);
    plan.push_meta("imatrix.chunk_count", 1u32);
    plan.push_meta("imatrix.chunk_size", MetaValue::U32(512));
    let mats = counts.len().max(1);
    let cols = (sums.len() / mats) as u64;
    plan.push_tensor(format!("{name}.in_sum2"), Dtype::F32, [cols, mats as u64]);
    let mut values = vec![sums];
    if !counts.is_empty() {
        plan.push_tensor(format!("{name}.counts"), Dtype::F32, [1, mats as u64]);
        values.push(counts);
    }
    write_file(path, &plan, &mut |i, out| {
        let bytes: Vec<u8> = values[i].iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes).map_err(geb::Error::io(path))
    })
    .expect("writes");
}

#[test]
fn bad_files_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("m.gguf");
    let q = "blk.0.attn_q.weight";
    let ones = [1f32; 64];
    let with = |v: f32| {
        let mut sums = ones;
        sums[7] = v;
        sums
    };
    let cases: [(&[f32], &[f32], &str, &str); 7] = [
        (&with(f32::NAN), &[8.0], "imatrix", "in_sum2[7] is NaN"),
        (&with(-1.0), &[8.0], "imatrix", "in_sum2[7] is -1"),
        (&with(f32::INFINITY), &[8.0], "imatrix", "in_sum2[7] is inf"),
        (&ones, &[0.0], "imatrix", "counts[0] is 0"),
        (&ones, &[f32::NAN], "imatrix", "counts[0] is NaN"),
        (&ones, &[], "imatrix", "counts is absent"),
        (&ones, &[8.0], "model", "general.type is model"),
    ];
    for (sums, counts, kind, text) in cases {
        matrix(&path, q, sums, counts, kind);
        let error = Imatrix::open(&path).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(matches!(error, Error::Imatrix { .. }));
    }
}

#[test]
fn a_matrix_of_another_model_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("m.gguf");
    let options = Options {
        policy: Dtype::Q4_0.into(),
        imatrix: Some(path.clone()),
        search: Effort::Fast,
        ..Options::default()
    };
    let source = checkpoint();
    let cases = [
        (
            "blk.0.attn_q.weight",
            32,
            "columns of blk.0.attn_q.weight is 32",
        ),
        ("blk.9.attn_q.weight", 64, "blk.9.attn_q.weight is unknown"),
        ("blk.0.attn_q.weight", 64, "is absent, allowed: statistics"),
    ];
    for (name, cols, text) in cases {
        matrix(&path, name, &vec![1.0; cols], &[8.0], "imatrix");
        let error = convert::dry_run(&source, &options).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// From text to a file with feedback: the same bytes for any threads, readable, recorded, and no
/// paths in it.
#[test]
fn a_matrix_reaches_the_file() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("m.gguf");
    let mut session = session(2);
    let mut stats = InputStats::new(session.model(), true).expect("memory");
    collect(&mut session, &mut stats, 0, 5);
    calibrate::write(&path, &origin(), 5, &stats).expect("writes");
    let convert = |search, threads| {
        let options = Options {
            policy: Dtype::Q4_0.into(),
            imatrix: Some(path.clone()),
            search,
            threads: Some(threads),
            ..Options::default()
        };
        convert::convert_to_vec(&checkpoint(), &options).expect("converts")
    };
    let (best, _) = convert(Effort::Best, 1);
    assert_eq!(best, convert(Effort::Best, 3).0);
    let (fast, _) = convert(Effort::Fast, 2);
    let file = GgufFile::from_bytes(best.clone()).expect("own file");
    let text = |key: &str| {
        file.str(key)
            .expect("a string")
            .expect("a value")
            .to_owned()
    };
    assert_eq!(text("quantize.imatrix.file"), "m.gguf");
    assert_eq!(text("quantize.imatrix.dataset"), "text.txt");
    assert_eq!(text("geb.imatrix.sha256").len(), 64);
    let number = |key: &str| file.int(key, 0..=100).expect("a number");
    assert_eq!(number("quantize.imatrix.entries_count"), Some(22));
    assert_eq!(number("quantize.imatrix.chunks_count"), Some(5));
    let fast = GgufFile::from_bytes(fast).expect("own file");
    let name = "blk.1.ffn_up.weight";
    let bytes = |f: &GgufFile| f.tensor(name).expect(name).bytes().to_vec();
    assert_ne!(bytes(&file), bytes(&fast));
}

/// Types with blocks that are written; the kernels encode a few more, for tests.
fn block_types() -> Vec<Dtype> {
    let kernels = geb::kernels::Kernels::best().expect("kernels");
    let not = [Dtype::NVFP4, Dtype::Q1_0, Dtype::Q2_0];
    let all = Dtype::ALL.iter().copied();
    let types = all.filter(|d| kernels.writes(*d) && d.block_len() > 1 && !not.contains(d));
    let types: Vec<Dtype> = types.collect();
    assert_eq!(types.len(), 15);
    types
}

const WEIGHT: &str = "blk.0.ffn_up.weight";

/// A GGUF file in F32 with one matrix of 512 columns.
fn one_matrix(path: &Path, values: &[f32]) {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "llama");
    plan.push_meta("llama.block_count", 1u32);
    plan.push_meta("llama.attention.head_count", 4u32);
    plan.push_meta("llama.attention.head_count_kv", 4u32);
    plan.push_tensor(WEIGHT, Dtype::F32, [512, values.len() as u64 / 512]);
    write_file(path, &plan, &mut |_, out| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes).map_err(geb::Error::io(path))
    })
    .expect("writes");
}

fn quantized(
    source: &Path,
    imatrix: Option<&Path>,
    dtype: Dtype,
    search: Effort,
) -> geb::Result<Vec<u8>> {
    let options = Options {
        policy: dtype.into(),
        imatrix: imatrix.map(Path::to_owned),
        search,
        ..Options::default()
    };
    let (bytes, _) = convert::convert_to_vec(source, &options)?;
    let file = GgufFile::from_bytes(bytes).expect("own file");
    let tensor = file.tensor(WEIGHT).expect(WEIGHT);
    assert_eq!(tensor.dtype(), dtype);
    Ok(tensor.bytes().to_vec())
}

/// Repeatable numbers of -1..1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Only ratios of importances count: every type gets the same bytes from sums of any size.
#[test]
fn the_size_of_importances_changes_no_bit() {
    let dir = tempfile::tempdir().expect("folder");
    let (source, path) = (dir.path().join("s.gguf"), dir.path().join("m.gguf"));
    one_matrix(&source, &numbers(2 * 512, 3));
    let plain: Vec<f32> = numbers(512, 5).iter().map(|v| 0.5 + 0.499 * v).collect();
    let mut mixed = plain.clone();
    mixed[..20].iter_mut().for_each(|v| *v = 0.0);
    mixed[20..40].iter_mut().for_each(|v| *v *= 2f32.powi(-60));
    for sums in [&plain, &mixed] {
        for dtype in block_types() {
            let mut first: Option<Vec<u8>> = None;
            // From 2^-60 to the largest: sums, errors times sums and their squares are beyond F32 at the ends.
            for power in [0, -60, -40, 20, 59, 70, 100, 127] {
                let scaled: Vec<f32> = sums.iter().map(|v| v * 2f32.powi(power)).collect();
                matrix(&path, WEIGHT, &scaled, &[1.0], "imatrix");
                let bytes = quantized(&source, Some(&path), dtype, Effort::Fast).expect("converts");
                let first = first.get_or_insert_with(|| bytes.clone());
                assert!(*first == bytes, "{dtype}: sums times 2^{power}");
            }
        }
    }
}

/// A weight beyond the scale of a type is refused by name, whatever the search.
#[test]
fn weights_that_a_type_cannot_hold_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let (source, path) = (dir.path().join("s.gguf"), dir.path().join("m.gguf"));
    matrix(&path, WEIGHT, &[1.0; 512], &[1.0], "imatrix");
    for dtype in block_types().into_iter().chain([Dtype::F16]) {
        if dtype == Dtype::MXFP4 {
            // Its scale is a power of two of any size.
            continue;
        }
        for value in [1e12f32, -1e12, 3e38] {
            let mut values = numbers(2 * 512, 3);
            values[700] = value;
            one_matrix(&source, &values);
            for (imatrix, search) in [
                (None, Effort::Reference),
                (None, Effort::Fast),
                (None, Effort::Best),
                (Some(path.as_path()), Effort::Fast),
            ] {
                let error = quantized(&source, imatrix, dtype, search).expect_err("too large");
                let said = error.to_string();
                let begin = format!(
                    "weight out of range: tensor {WEIGHT} as {dtype} at index 700 is {value:e}, allowed: -"
                );
                assert!(said.starts_with(&begin), "{said}");
                assert!(matches!(error, Error::OutOfRange { .. }));
            }
        }
    }
}

/// The older form of a matrix: entries of (name, calls, mean squares times calls), then chunks and a name.
fn older(entries: &[(&str, i32, &[f32])], end: Option<(i32, &str)>) -> Vec<u8> {
    let int = |n: usize| (n as i32).to_le_bytes();
    let mut out = int(entries.len()).to_vec();
    for (name, calls, values) in entries {
        out.extend([&int(name.len())[..], name.as_bytes(), &calls.to_le_bytes()].concat());
        out.extend(int(values.len()));
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    if let Some((chunks, name)) = end {
        out.extend([&chunks.to_le_bytes()[..], &int(name.len()), name.as_bytes()].concat());
    }
    out
}

#[test]
fn the_older_form_means_the_same() {
    let dir = tempfile::tempdir().expect("folder");
    let source = dir.path().join("s.gguf");
    one_matrix(&source, &numbers(2 * 512, 3));
    let sums: Vec<f32> = numbers(512, 5).iter().map(|v| 700.0 * v.abs()).collect();
    let new = dir.path().join("m.gguf");
    matrix(&new, WEIGHT, &sums, &[7.0], "imatrix");
    // The name says nothing about the form.
    let old = dir.path().join("old.gguf");
    for end in [Some((12, "text.txt")), Some((0, "")), None] {
        std::fs::write(&old, older(&[(WEIGHT, 7, &sums)], end)).expect("written");
        let read = Imatrix::open(&old).expect("opens");
        assert_eq!(read.len(), 1);
        assert_eq!(read.chunks(), end.map_or(0, |e| e.0 as u32));
        let named = end.filter(|e| !e.1.is_empty());
        assert_eq!(read.datasets().len(), usize::from(named.is_some()));
        assert!(!read.has_covariances() && read.hash().len() == 64);
        for dtype in [Dtype::Q4_0, Dtype::Q4_K, Dtype::IQ4_XS] {
            let of = |path: &Path| {
                quantized(&source, Some(path), dtype, Effort::Fast).expect("converts")
            };
            assert!(of(&new) == of(&old), "{dtype}");
        }
    }
}

#[test]
fn bad_files_of_the_older_form_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("m.dat");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        let error = Imatrix::open(&path).map(|_| ()).expect_err("bad");
        let bad = matches!(
            error,
            Error::Format { .. } | Error::Imatrix { .. } | Error::Kind { .. }
        );
        assert!(bad, "{error}");
        error.to_string()
    };
    let (ones, q) = ([1f32; 64], "blk.0.attn_q.weight");
    let good = older(&[(q, 3, &ones), ("b", 3, &ones)], Some((1, "t")));
    for n in 0..good.len() {
        // Cut where the entries end it is a file of before April 2024.
        if n != good.len() - 9 {
            refused(&good[..n]);
        }
    }
    let with = |v: f32| older(&[(q, 3, &[1.0, v, 1.0])], None);
    for (bytes, text) in [
        (with(f32::NAN), "blk.0.attn_q.weight[1] is NaN"),
        (with(-1.0), "blk.0.attn_q.weight[1] is -1"),
        (with(f32::INFINITY), "blk.0.attn_q.weight[1] is inf"),
        (
            older(&[(q, 3, &ones), (q, 3, &ones)], None),
            "entry 1 is blk.0.attn_q.weight, allowed: each tensor once",
        ),
        (older(&[(q, -3, &ones)], None), "calls of entry 0 is beyond"),
        (
            older(&[(q, 3, &[])], None),
            "values of blk.0.attn_q.weight is 0",
        ),
        ([&good[..], b"x"].concat(), "rest of the file is 1 bytes"),
        (
            [&70_000i32.to_le_bytes()[..], &good[4..]].concat(),
            "entries is 70000",
        ),
        (
            [&good[..4 + 4 + q.len() + 4], &i32::MAX.to_le_bytes()].concat(),
            "values of entry 0 is beyond",
        ),
        (b"GGUF".to_vec(), ""),
        (
            b"a text that is no matrix of importance at all".to_vec(),
            "m.dat is a text file",
        ),
        (vec![0; 4096], "m.dat is "),
    ] {
        let said = refused(&bytes);
        assert!(said.contains(text), "{text}: {said}");
    }
}
