//! Pruned checkpoints: `geb-quantize` marks their matrices, a session packs them, and nothing else changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::Dtype;
use geb::gguf::writer::{MetaValue, Plan, write_to};
use geb::gguf::{GgufFile, Load, Value};
use geb::kernels::{Kernels, Level};
use geb::model::Model;
use geb::session::{Session, SessionOptions, SparseChoice, Want};
use geb::sparsity::{ZERO_PERCENT, Zeros, marked};
use geb_convert::{self as convert, Options};

fn source(name: &str) -> PathBuf {
    Path::new(crate::common::ROOT).join(name)
}

fn options(dtype: Dtype, split_max: Option<u64>) -> Options {
    Options {
        policy: dtype.into(),
        split_max,
        ..Options::default()
    }
}

/// A checkpoint whose matrices have lost their smallest `percent` of weights, as an F32 file.
fn pruned(from: &str, percent: usize, to: &Path) {
    let (mut bytes, _) =
        convert::convert_to_vec(&source(from), &options(Dtype::F32, None)).expect("converts");
    let file = GgufFile::from_bytes(bytes.clone()).expect("own file");
    let matrices = file.tensors().filter(|t| t.info().dims.len() == 2);
    for range in matrices.map(|t| t.info().range.clone()) {
        let weights = bytes[range].as_chunks_mut::<4>().0;
        let mut sizes: Vec<f32> = weights
            .iter()
            .map(|w| f32::from_le_bytes(*w).abs())
            .collect();
        sizes.sort_by(f32::total_cmp);
        let least = sizes[sizes.len() * percent / 100];
        for w in weights {
            if f32::from_le_bytes(*w).abs() < least {
                *w = [0; 4];
            }
        }
    }
    std::fs::write(to, bytes).expect("written");
}

/// That checkpoint as Q8_0; in parts of at most `split_max` bytes.
fn quantized(from: &str, percent: usize, split_max: Option<u64>, dir: &Path) -> GgufFile {
    let (plain, out) = (dir.join("f32.gguf"), dir.join("q8.gguf"));
    pruned(from, percent, &plain);
    let report = convert::convert(&plain, &out, &options(Dtype::Q8_0, split_max), &mut ());
    let path = report.expect("converts").files[0].clone();
    GgufFile::open(&path, Load::Map).expect("own file")
}

fn session(file: &Arc<GgufFile>, sparse: SparseChoice, level: Level) -> Session {
    let model = Model::load(file.clone()).expect("own model");
    let options = SessionOptions {
        threads: 2,
        ctx: Some(96),
        level: Some(level),
        sparse,
        ..SessionOptions::default()
    };
    Session::new(model, &options).expect("session")
}

/// Logits of every position, fed in chunks of these lengths, again and again.
fn logits(session: &mut Session, chunks: &[usize]) -> Vec<u32> {
    let ids: Vec<u32> = (0..60u32).map(|i| (i * 37 + i * i) % 578).collect();
    let (mut out, mut rest) = (Vec::new(), &ids[..]);
    for &n in chunks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(n.min(rest.len()));
        let logits = session.forward(now, Want::All).expect("finite logits");
        out.extend(logits.iter().map(|v| v.to_bits()));
        rest = later;
    }
    session.reset();
    out
}

const LLAMA: &str = "tests/fixtures/llama/hf";
const NANO: &str = "assets/geb-nano/hf";

/// The bits of whole prompts, single tokens and uneven chunks, on every level of this machine.
#[test]
fn packed_logits_equal_dense_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = Arc::new(quantized(LLAMA, 70, None, dir.path()));
    for level in Level::available() {
        let mut dense = session(&file, SparseChoice::Off, level);
        assert_eq!(dense.packed().matrices, 0);
        let mut packed = session(&file, SparseChoice::Scan, level);
        // Seven matrices in each of three layers, and the output, but not the embedding table.
        assert_eq!(packed.packed().matrices, 3 * 7 + 1, "{level}");
        for chunks in [&[60][..], &[1], &[7, 1, 3, 20, 2]] {
            let (dense, packed) = (logits(&mut dense, chunks), logits(&mut packed, chunks));
            assert!(dense == packed, "{level}, chunks of {chunks:?}");
        }
    }
}

/// What the file marks is packed without looking at the rest, where that is faster.
#[test]
fn marked_matrices_are_packed_to_less_than_half() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = Arc::new(quantized(NANO, 75, None, dir.path()));
    let (mut warnings, matrices) = (Vec::new(), 4 * 7 + 1);
    assert_eq!(
        marked(&file, &mut warnings).len(),
        matrices + 1,
        "with the table"
    );
    for level in Level::available() {
        let kernels = Kernels::for_level(level).expect("available");
        let auto = session(&file, SparseChoice::Auto, level);
        let sums = auto.packed();
        assert_eq!(sums.matrices, if kernels.expands() { matrices } else { 0 });
        assert!(2 * sums.bytes <= sums.file_bytes, "{sums:?}");
        let saved = sums.file_bytes - sums.bytes;
        let all = session(&file, SparseChoice::Off, level).memory().weights;
        assert_eq!(auto.memory().weights, all - saved);
        assert_eq!(
            auto.bytes_per_token(),
            auto.model().bytes_per_token() - saved
        );
    }
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn half_of_zeros_is_left_dense() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = Arc::new(quantized(LLAMA, 50, None, dir.path()));
    assert!(marked(&file, &mut Vec::new()).is_empty());
    for sparse in [SparseChoice::Auto, SparseChoice::Scan] {
        let session = session(&file, sparse, Level::detect());
        assert_eq!(session.packed().matrices, 0);
    }
}

/// The key is what a count of the file finds, in parts too.
#[test]
fn zeros_are_counted_as_they_are_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let kernels = Kernels::best().expect("a level");
    for split in [None, Some(60_000)] {
        let file = quantized(LLAMA, 66, split, dir.path());
        assert_eq!(file.parts().count() > 1, split.is_some());
        for (part, _) in file.parts() {
            let Some(Value::Array(percents)) = part.get(ZERO_PERCENT) else {
                panic!("no {ZERO_PERCENT}");
            };
            let found: Vec<_> = percents.iter().map(|v| v.as_int()).collect();
            let count = |name: &str| {
                let tensor = file.tensor(name).expect("there");
                let zeros = Zeros::of(&tensor, kernels).expect("a decoder");
                let matrix = tensor.info().dims.len() == 2;
                Some(if matrix { zeros.percent() as i128 } else { 0 })
            };
            let counted = part.own_tensors().iter().map(|t| count(&t.name));
            assert_eq!(found, counted.collect::<Vec<_>>());
        }
    }
}

#[test]
fn files_without_q8_0_have_no_key() {
    for dtype in [Dtype::F16, Dtype::Q4_0] {
        let (bytes, _) =
            convert::convert_to_vec(&source(LLAMA), &options(dtype, None)).expect("converts");
        let file = GgufFile::from_bytes(bytes).expect("own file");
        let has_matrices = file.tensors().any(|t| t.dtype() == Dtype::Q8_0);
        assert_eq!(file.get(ZERO_PERCENT).is_some(), has_matrices, "{dtype}");
    }
}

/// The file with another value of the key.
fn with_key(file: &GgufFile, value: MetaValue) -> Arc<GgufFile> {
    let mut plan = Plan::default();
    plan.copy_meta(file, |_, _| true);
    plan.set_meta(ZERO_PERCENT, value);
    for t in file.tensors() {
        plan.push_tensor(t.info().name.clone(), t.dtype(), t.info().dims.clone());
    }
    let tensors: Vec<_> = file.tensors().collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, &plan, &mut |i, out| {
        out.write_all(tensors[i].bytes()).expect("memory");
        Ok(())
    })
    .expect("a valid plan");
    Arc::new(GgufFile::from_bytes(bytes).expect("a valid file"))
}

/// It can make matrices be looked at or not, never be packed wrongly; nonsense is ignored aloud.
#[test]
fn a_wrong_key_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let dense = quantized(LLAMA, 40, None, dir.path());
    let n = dense.tensors().count();
    let level = Level::detect();
    let expands = Kernels::for_level(level).is_some_and(Kernels::expands);
    let nonsense = [
        MetaValue::U8s(vec![99; n - 1]),
        MetaValue::Str("all".into()),
        MetaValue::I8s(vec![99; n]),
    ];
    for (value, warns) in nonsense
        .map(|v| (v, expands))
        .into_iter()
        .chain([(MetaValue::U8s(vec![99; n]), false)])
    {
        let session = session(&with_key(&dense, value), SparseChoice::Auto, level);
        assert_eq!(session.packed().matrices, 0);
        let warned = session.warnings().iter().any(|w| w.contains(ZERO_PERCENT));
        assert_eq!(warned, warns, "{:?}", session.warnings());
    }
}
