//! Adapters: beside the weights they equal weights that were changed by hand, for any type of the
//! weights; hot swap; files that do not fit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::gguf::{self, File};
use crate::common::mutate::{Rng, mutant};
use geb::gguf::GgufFile;
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

fn source(case: &str) -> PathBuf {
    let root = Path::new(crate::common::ROOT);
    match case {
        "nano" => root.join("assets/geb-nano/hf"),
        _ => root.join("tests/fixtures").join(case).join("hf"),
    }
}

/// A checkpoint of the repository as the bytes of a GGUF file.
fn converted(case: &str, dtype: Dtype) -> Vec<u8> {
    let options = Options {
        policy: dtype.into(),
        ..Options::default()
    };
    convert::convert_to_vec(&source(case), &options)
        .expect("convert")
        .0
}

fn load(bytes: Vec<u8>) -> Arc<Model> {
    Model::load(Arc::new(GgufFile::from_bytes(bytes).expect("GGUF"))).expect("model")
}

fn random(rng: &mut Rng, n: usize, size: f32) -> Vec<f32> {
    let one = |_| (rng.below(2_000_001) as f32 / 1e6 - 1.0) * size;
    (0..n).map(one).collect()
}

fn bytes_of(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(file: &GgufFile, name: &str) -> Option<Vec<f32>> {
    let view = file.tensor(name)?;
    let (numbers, _) = view.bytes().as_chunks::<4>();
    Some(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// The matrices that the tests change: all of the layers and the output.
fn matrices(base: &GgufFile) -> Vec<(String, usize, usize)> {
    let of = |t: geb::gguf::TensorView<'_>| {
        let info = t.info();
        (info.name.clone(), info.rows(), info.cols())
    };
    base.tensors()
        .filter(|t| t.info().dims.len() == 2 && t.info().name != "token_embd.weight")
        .map(of)
        .collect()
}

/// A random adapter for the F32 file `base`. Its changes are about a fifth of the weights.
fn adapter(base: &GgufFile, seed: u64, rank: usize, magnitudes: bool) -> File {
    let rng = &mut Rng::new(seed);
    let mut out = File::new()
        .str("general.type", "adapter")
        .str(
            "general.architecture",
            base.str("general.architecture").unwrap().unwrap(),
        )
        .str("adapter.type", "lora")
        .f32("adapter.lora.alpha", 2.0 * rank as f32);
    for (name, rows, cols) in matrices(base) {
        let w = floats(base, &name).expect("F32");
        let norm = |w: &[f32]| w.iter().map(|v| v * v).sum::<f32>().sqrt();
        let size = norm(&w) / (w.len() as f32).sqrt() * 0.3 / (rank as f32).sqrt();
        let dims = |a: usize, b: usize| [a as u64, b as u64];
        out = out
            .tensor_with(
                &format!("{name}.lora_a"),
                Dtype::F32,
                &dims(cols, rank),
                bytes_of(&random(rng, cols * rank, 1.0)),
            )
            .tensor_with(
                &format!("{name}.lora_b"),
                Dtype::F32,
                &dims(rank, rows),
                bytes_of(&random(rng, rows * rank, size)),
            );
        if magnitudes {
            let m: Vec<f32> = w
                .chunks_exact(cols)
                .zip(random(rng, rows, 0.3))
                .map(|(w, u)| norm(w) * (1.0 + u))
                .collect();
            out = out.tensor_with(
                &format!("{name}.lora_m"),
                Dtype::F32,
                &[rows as u64],
                bytes_of(&m),
            );
        }
    }
    out
}

/// The file with the changes of all adapters added to its weights: the definition, in F64.
fn merged(base: &[u8], adapters: &[(&GgufFile, f32)]) -> Vec<u8> {
    let (file, mut out) = (
        GgufFile::from_bytes(base.to_vec()).expect("GGUF"),
        base.to_vec(),
    );
    for (name, rows, cols) in matrices(&file) {
        let w = floats(&file, &name).expect("F32");
        let mut sum: Vec<f64> = w.iter().map(|v| f64::from(*v)).collect();
        for (adapter, scale) in adapters {
            let part = |end: &str| floats(adapter, &format!("{name}.{end}"));
            let (a, b) = (part("lora_a").expect("A"), part("lora_b").expect("B"));
            let (m, rank) = (part("lora_m"), a.len() / cols);
            let alpha = adapter.float("adapter.lora.alpha").unwrap().unwrap();
            let s = f64::from(*scale) * f64::from(alpha) / rank as f64;
            for r in 0..rows {
                let changed: Vec<f64> = (0..cols)
                    .map(|c| {
                        let dot =
                            |k: usize| f64::from(b[r * rank + k]) * f64::from(a[k * cols + c]);
                        f64::from(w[r * cols + c]) + s * (0..rank).map(dot).sum::<f64>()
                    })
                    .collect();
                let norm = changed.iter().map(|v| v * v).sum::<f64>().sqrt();
                let gain = m.as_ref().map_or(1.0, |m| f64::from(m[r]) / norm);
                for c in 0..cols {
                    sum[r * cols + c] += gain * changed[c] - f64::from(w[r * cols + c]);
                }
            }
        }
        let range = file.tensor(&name).expect("tensor").info().range.clone();
        let new: Vec<f32> = sum.iter().map(|v| *v as f32).collect();
        out[range].copy_from_slice(&bytes_of(&new));
    }
    out
}

fn session(model: &Arc<Model>, threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        kv: KvChoice::F32,
        ..Default::default()
    };
    Session::new(model.clone(), &options).expect("session")
}

fn ids(model: &Model, n: usize) -> Vec<u32> {
    (0..n)
        .map(|i| (i * 7919 % model.config().vocab) as u32)
        .collect()
}

/// Logits of some ids with adapters.
fn logits(model: &Arc<Model>, adapters: &[(&GgufFile, f32)]) -> Vec<f32> {
    let mut s = session(model, 2);
    set(&mut s, adapters).expect("fits");
    s.forward(&ids(model, 40), Want::All)
        .expect("forward")
        .to_vec()
}

fn set(s: &mut Session, adapters: &[(&GgufFile, f32)]) -> geb::Result<()> {
    let model = s.model().clone();
    let read: Vec<_> = adapters
        .iter()
        .map(|(f, s)| Ok((model.adapter(f)?, *s)))
        .collect::<geb::Result<_>>()?;
    let read: Vec<_> = read.iter().map(|(a, s)| (a, *s)).collect();
    s.set_adapters(&read)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

fn mean(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).sum();
    sum / a.len() as f64
}

#[test]
fn beside_f32_weights_they_equal_changed_weights() {
    // Split and fused matrices, with and without bias, tied and own output.
    for case in ["llama", "qwen2", "phi3", "llama-tied-bf16"] {
        let base = converted(case, Dtype::F32);
        let file = GgufFile::from_bytes(base.clone()).expect("GGUF");
        let make = |seed, rank, m| {
            GgufFile::from_bytes(adapter(&file, seed, rank, m).encode()).expect("GGUF")
        };
        let (lora, other) = (make(1, 4, false), make(2, 7, false));
        let (dora, second) = (make(3, 3, true), make(4, 8, true));
        let model = load(base.clone());
        let plain = logits(&model, &[]);
        for set in [
            vec![(&lora, 1.0)],
            vec![(&lora, 0.5), (&other, -0.75)],
            vec![(&dora, 1.0)],
            vec![(&dora, 0.5), (&lora, 1.0), (&second, 0.25)],
        ] {
            let want = logits(&load(merged(&base, &set)), &[]);
            let got = logits(&model, &set);
            let (error, change) = (worst(&got, &want), worst(&plain, &want));
            println!(
                "{case}, {} adapters: difference {error:.1e}, change {change:.1e}",
                set.len()
            );
            assert!(
                error < 2e-3 * change,
                "{case}: {error} of a change of {change}"
            );
        }
        assert_eq!(
            logits(&model, &[(&dora, 0.0)]),
            plain,
            "{case}: a scale of 0 is off"
        );
    }
}

#[test]
fn beside_quantized_weights_the_error_is_that_of_the_quantization() {
    let base = converted("nano", Dtype::F32);
    let file = GgufFile::from_bytes(base.clone()).expect("GGUF");
    let plain = logits(&load(base.clone()), &[]);
    for magnitudes in [false, true] {
        let one = GgufFile::from_bytes(adapter(&file, 5, 8, magnitudes).encode()).expect("GGUF");
        let want = logits(&load(merged(&base, &[(&one, 1.0)])), &[]);
        for dtype in [Dtype::Q8_0, Dtype::Q4_0] {
            let model = load(converted("nano", dtype));
            let alone = mean(&logits(&model, &[]), &plain);
            let error = mean(&logits(&model, &[(&one, 1.0)]), &want);
            let change = mean(&plain, &want);
            println!(
                "{dtype} magnitudes {magnitudes}: error {error:.4}, of the type alone {alone:.4}, change {change:.4}"
            );
            assert!(
                error < 1.5 * alone && error < 0.6 * change,
                "{dtype}: {error} {alone} {change}"
            );
        }
    }
}

#[test]
fn neither_threads_nor_batches_change_a_bit() {
    let file = GgufFile::from_bytes(converted("llama", Dtype::F32)).expect("GGUF");
    let one = GgufFile::from_bytes(adapter(&file, 6, 5, true).encode()).expect("GGUF");
    let model = load(converted("llama", Dtype::Q8_0));
    let ids = ids(&model, 40);
    let want = logits(&model, &[(&one, 1.0)]);
    for threads in [1, 3] {
        for step in [1, 3, 16] {
            let mut s = session(&model, threads);
            set(&mut s, &[(&one, 1.0)]).expect("fits");
            let mut got = Vec::new();
            for piece in ids.chunks(step) {
                got.extend_from_slice(s.forward(piece, Want::All).expect("forward"));
            }
            assert!(got == want, "{threads} threads, pieces of {step}");
        }
    }
}

#[test]
fn adapters_are_swapped_while_a_session_lives() {
    let file = GgufFile::from_bytes(converted("llama", Dtype::F32)).expect("GGUF");
    let make = |seed| GgufFile::from_bytes(adapter(&file, seed, 4, false).encode()).expect("GGUF");
    let (first, second) = (make(7), make(8));
    let model = load(converted("llama", Dtype::Q4_0));
    let ids = ids(&model, 9);
    let mut s = session(&model, 1);
    let mut seen = Vec::new();
    for adapters in [
        vec![],
        vec![(&first, 1.0)],
        vec![(&second, 1.0)],
        vec![(&first, 1.0)],
        vec![],
    ] {
        set(&mut s, &adapters).expect("fits");
        assert_eq!(
            s.pos(),
            0,
            "what was computed with other weights is forgotten"
        );
        assert_eq!(s.memory().adapters > 0, !adapters.is_empty());
        seen.push(s.forward(&ids, Want::Last).expect("forward").to_vec());
    }
    assert!(seen[0] == seen[4] && seen[1] == seen[3]);
    assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2]);
    // A refused set leaves the one in use.
    set(&mut s, &[(&first, 1.0)]).expect("fits");
    assert!(matches!(
        set(&mut s, &[(&first, f32::NAN)]),
        Err(Error::Request { .. })
    ));
    assert!(s.forward(&ids, Want::Last).expect("forward") == seen[1]);
    let other = load(converted("geb", Dtype::Q8_0));
    let foreign = model.adapter(&first).expect("fits");
    let refused = session(&other, 1).set_adapters(&[(&foreign, 1.0)]);
    assert!(matches!(refused, Err(Error::Tensors(_))), "{refused:?}");
}

#[test]
fn files_that_do_not_fit_are_refused_with_all_reasons() {
    let base = GgufFile::from_bytes(converted("llama", Dtype::F32)).expect("GGUF");
    let model = load(converted("llama", Dtype::Q8_0));
    let good = adapter(&base, 9, 4, true);
    let read =
        |f: &File| model.adapter(&GgufFile::from_bytes(f.encode()).expect("a valid container"));
    read(&good).expect("fits");
    for (key, value) in [
        ("general.architecture", "qwen2"),
        ("general.type", "model"),
        ("adapter.type", "control_vector"),
    ] {
        let bad = good
            .clone()
            .with(key, gguf::STR, gguf::Val::Str(value.into()));
        let e = read(&bad).expect_err("refused").to_string();
        assert!(e.contains(key) && e.contains(value), "{e}");
        assert!(read(&good.clone().without(key)).is_err(), "{key}");
    }
    let tokens = good
        .clone()
        .i32s("adapter.alora.invocation_tokens", &[1, 2]);
    assert!(matches!(read(&tokens), Err(Error::Unsupported { .. })));
    let at = |name: &str| {
        let is = |t: &gguf::Tensor| t.name.bytes == name.as_bytes();
        good.tensors.iter().position(is).expect("a tensor")
    };
    let [q, k, v, o] = [
        "attn_q.weight.lora_b",
        "attn_k.weight.lora_a",
        "attn_v.weight.lora_b",
        "attn_output.weight.lora_m",
    ]
    .map(|n| at(&format!("blk.0.{n}")));
    let bad = good.clone().edit(|f| {
        f.tensors[q].dims.reverse();
        f.tensors[k].name = "blk.0.attn_kk.weight.lora_a".into();
        f.tensors[v].data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        f.tensors[o].name = "blk.0.attn_norm.weight".into();
    });
    let Err(Error::Tensors(problems)) = read(&bad) else {
        panic!("accepted");
    };
    let text = problems.join("\n");
    for part in [
        "blk.0.attn_q.weight: A",
        "blk.0.attn_k.weight: lora_a is missing",
        "blk.0.attn_kk.weight: the model has no such tensor",
        "blk.0.attn_v.weight: element 0",
        "blk.0.attn_norm.weight: not NAME.lora_a",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for name in ["token_embd.weight", "output_norm.weight"] {
        let bad = good.clone().edit(|f| {
            f.tensors[q].name = format!("{name}.lora_b").as_str().into();
        });
        assert!(read(&bad).is_err(), "{name}");
    }
    let empty = good.clone().edit(|f| f.tensors.clear());
    assert!(read(&empty).is_err());
}

#[test]
fn no_adapter_file_ends_in_a_panic() {
    let base = GgufFile::from_bytes(converted("llama", Dtype::F32)).expect("GGUF");
    let model = load(converted("llama", Dtype::Q8_0));
    let good = adapter(&base, 10, 2, true).edit(|f| f.tensors.truncate(6));
    let mut outcomes: HashMap<bool, usize> = HashMap::new();
    for seed in 0..3000 {
        if let Ok(file) = GgufFile::from_bytes(mutant(&good, seed)) {
            *outcomes.entry(model.adapter(&file).is_ok()).or_default() += 1;
        }
    }
    assert!(outcomes.len() == 2, "{outcomes:?}");
}
