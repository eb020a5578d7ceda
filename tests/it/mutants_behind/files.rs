//! Files beside a model: adapters, importance matrices, saved states, parts of a set.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::Dtype;
use geb::calibrate::Imatrix;
use geb::gguf::checksums::check_hashes;
use geb::gguf::{GgufFile, Load};
use geb::kernels::Effort;
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb_convert::{self as convert, Options};
use sha2::{Digest, Sha256};

use super::carry::{
    At, Reached, TARGETS, both_ways, convert_it, converted, count, one_token, run_seeds, step,
};
use super::mutant::{self, Bases};
use crate::common::gguf::File;
use crate::common::mutate::Rng;

fn model_of(case: &str) -> (Vec<u8>, Arc<Model>) {
    let bytes = converted(case, Dtype::F32);
    let file = GgufFile::from_bytes(bytes.clone()).expect("what was written");
    (bytes, Model::load(Arc::new(file)).expect("a model"))
}

fn session(model: &Arc<Model>) -> Session {
    let options = SessionOptions {
        threads: 1,
        ctx: Some(64),
        ..SessionOptions::default()
    };
    Session::new(model.clone(), &options).expect("a session")
}

/// An adapter for some matrices of the model, with magnitudes for one.
fn adapter(model: &Model) -> File {
    let mut file = File::new()
        .str("general.type", "adapter")
        .str("adapter.type", "lora")
        .str("general.architecture", "llama")
        .f32("adapter.lora.alpha", 4.0);
    for name in ["attn_q", "attn_v", "attn_output", "ffn_down"] {
        let name = format!("blk.0.{name}.weight");
        let dims = &model.file().tensor(&name).expect("a matrix").info().dims;
        let zeros = |n: u64| vec![0; 4 * n as usize];
        let (cols, rows) = (dims[0], dims[1]);
        let (a, b) = (format!("{name}.lora_a"), format!("{name}.lora_b"));
        file = file
            .tensor_with(&a, Dtype::F32, &[cols, 4], zeros(4 * cols))
            .tensor_with(&b, Dtype::F32, &[4, rows], zeros(4 * rows));
        if name.contains("attn_v") {
            let m = format!("{name}.lora_m");
            file = file.tensor_with(&m, Dtype::F32, &[rows], zeros(rows));
        }
    }
    file
}

#[test]
fn adapters() {
    let (bytes, model) = model_of("llama");
    let files = vec![("adapter".to_owned(), adapter(&model))];
    let bases = Bases { files };
    let one = |seed: u64, path: &Path, at: &At, r: &mut Reached| {
        let (_, m) = bases.mutant(seed);
        let encoded = m.file.encode();
        let Some(file) = step(at, r, "open", || GgufFile::from_bytes(encoded.clone())) else {
            return;
        };
        if let Some(adapter) = step(at, r, "adapter", || model.adapter(&file)) {
            let mut session = session(&model);
            step(at, r, "set", || session.set_adapters(&[(&adapter, 0.5)]));
            step(at, r, "token", || {
                session.forward(&[5, 6], Want::Last).map(drop)
            });
        }
        let source = path.with_extension("model.gguf");
        if !source.exists() {
            std::fs::write(&source, &bytes).expect("a temporary file");
        }
        std::fs::write(path, &encoded).expect("a temporary file");
        let options = Options {
            adapters: vec![(path.to_owned(), 1.0)],
            threads: Some(1),
            ..Options::default()
        };
        step(at, r, "merge", || {
            convert::convert_to_vec(&source, &options).map(drop)
        });
    };
    let describe = |seed: u64| format!("seed {seed}: {}", bases.mutant(seed).1.what.join("; "));
    let count = count() / 20;
    let reached = run_seeds("adapters", count, &describe, &one);
    both_ways(&reached, "merge", count);
}

/// Importances and second moments for all matrices of the layers.
fn imatrix(model: &Model) -> File {
    let mut names = Vec::new();
    let mut file = File::new()
        .str("general.type", "imatrix")
        .u32("imatrix.chunk_count", 2)
        .u32("imatrix.chunk_size", 8)
        .strs("imatrix.datasets", &["a.txt"]);
    for t in model.file().tensors() {
        let (name, dims) = (t.info().name.clone(), &t.info().dims);
        if dims.len() < 2 || !name.starts_with("blk.") {
            continue;
        }
        let ones = |n: u64| {
            (0..n)
                .flat_map(|i| (1.0 + i as f32).to_le_bytes())
                .collect()
        };
        let (cols, sums) = (dims[0], format!("{name}.in_sum2"));
        file = file
            .tensor_with(&sums, Dtype::F32, &[cols, 1], ones(cols))
            .tensor_with(&format!("{name}.counts"), Dtype::F32, &[1, 1], ones(1));
        if name.contains("attn_q.") {
            let all = |i: u64| if i / cols == i % cols { 2f32 } else { 0.0 };
            let data = (0..cols * cols)
                .flat_map(|i| all(i).to_le_bytes())
                .collect();
            file = file.tensor_with(&format!("{name}.in_cov"), Dtype::F32, &[cols, cols], data);
            names.push(name);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    file.strs("geb.imatrix.readers", &names)
        .strs("geb.imatrix.covariances", &names)
}

#[test]
fn importance_matrices() {
    let (bytes, model) = model_of("llama");
    let bases = Bases {
        files: vec![("imatrix".to_owned(), imatrix(&model))],
    };
    let one = |seed: u64, path: &Path, at: &At, r: &mut Reached| {
        let (_, m) = bases.mutant(seed);
        std::fs::write(path, m.file.encode()).expect("a temporary file");
        let source = path.with_extension("model.gguf");
        if !source.exists() {
            std::fs::write(&source, &bytes).expect("a temporary file");
        }
        step(at, r, "imatrix", || Imatrix::open(path).map(drop));
        let options = Options {
            policy: TARGETS[seed as usize % TARGETS.len()].into(),
            imatrix: Some(path.to_owned()),
            search: match seed % 3 {
                0 => Effort::Best,
                _ => Effort::Fast,
            },
            threads: Some(1),
            ..Options::default()
        };
        step(at, r, "convert", || {
            convert::convert_to_vec(&source, &options).map(drop)
        });
    };
    let describe = |seed: u64| format!("seed {seed}: {}", bases.mutant(seed).1.what.join("; "));
    let count = count() / 50;
    let reached = run_seeds("importance matrices", count, &describe, &one);
    both_ways(&reached, "convert", count);
}

#[test]
fn saved_states() {
    let (_, model) = model_of("rwkv7");
    let mut first = session(&model);
    first.forward(&[1, 2, 3], Want::None).expect("tokens");
    let saved = first.save_state().expect("a state");
    let whole = saved.len() - 32;
    let mutant = |seed: u64| {
        let (mut rng, mut bytes) = (Rng::new(seed), saved[..whole].to_vec());
        for _ in 0..1 + rng.below(3) {
            match rng.below(5) {
                0 => bytes.truncate(rng.below(whole)),
                1 => bytes.extend([0; 12]),
                2 if bytes.len() > 80 => {
                    // Counts, tokens, values.
                    let at = 44 + 4 * rng.below((bytes.len() - 48) / 4);
                    let value = rng.pick(&[0, 1, 3, u32::MAX, 0x7fc0_0000, 0x7f80_0000, 1 << 31]);
                    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                }
                _ if bytes.len() > 64 => {
                    let at = rng.below(if seed.is_multiple_of(2) {
                        64
                    } else {
                        bytes.len()
                    });
                    bytes[at] = rng.next() as u8;
                }
                _ => {}
            }
        }
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    };
    let one = |seed: u64, _: &Path, at: &At, r: &mut Reached| {
        let mut session = session(&model);
        let bytes = mutant(seed);
        if step(at, r, "state", || session.load_state(&bytes)).is_some() {
            step(at, r, "token", || {
                session.forward(&[4], Want::Last).map(drop)
            });
        }
    };
    let describe = |seed: u64| format!("seed {seed}");
    let count = count() / 20;
    let reached = run_seeds("saved states", count, &describe, &one);
    both_ways(&reached, "state", count);
}

#[test]
fn parts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = Path::new(crate::common::ROOT).join("tests/fixtures/llama/hf");
    let options = Options {
        policy: Dtype::Q8_0.into(),
        split_max: Some(80_000),
        ..Options::default()
    };
    let made = convert::convert(&source, &dir.path().join("m.gguf"), &options, &mut ());
    let made = made.expect("a set").files;
    assert!(made.len() > 2, "{made:?}");
    let open = |p: &PathBuf| GgufFile::from_bytes(std::fs::read(p).expect("a part"));
    let files = made.iter().map(|p| File::decode(&open(p).expect("a part")));
    let files = files.map(|f| ("part".to_owned(), f)).collect();
    let bases = Bases { files };
    let changed = |seed: u64| {
        let (part, mut m) = bases.mutant(seed);
        let mut rng = Rng::new(!seed);
        if rng.below(3) > 0 {
            let key = rng.pick(&[
                "split.no",
                "split.count",
                "split.tensors.count",
                "geb.split.sha256",
            ]);
            let (ty, val) = mutant::value(&mut rng);
            m.what.push(format!("{key} of type {ty}"));
            m.file = m.file.with(key, ty, val);
        }
        (part, m)
    };
    let one = |seed: u64, path: &Path, at: &At, r: &mut Reached| {
        let (part, m) = changed(seed);
        let folder = path.with_extension("set");
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut paths = Vec::new();
        for (i, whole) in made.iter().enumerate() {
            let to = folder.join(whole.file_name().expect("a name"));
            match i == part {
                true => std::fs::write(&to, m.file.encode()).expect("a part"),
                false => _ = std::fs::copy(whole, &to).expect("a part"),
            }
            paths.push(to);
        }
        step(at, r, "hashes", || {
            check_hashes(&paths[seed as usize % paths.len()]).map(drop)
        });
        let open = || GgufFile::open(&paths[0], Load::Copy);
        if let Some(file) = step(at, r, "open", open) {
            if let Some(model) = step(at, r, "bind", || Model::load(Arc::new(file))) {
                step(at, r, "token", || one_token(&model, None, &[]));
            }
            step(at, r, "convert", || convert_it(&paths[0], seed).map(drop));
        }
    };
    let describe = |seed: u64| format!("seed {seed}: {}", changed(seed).1.what.join("; "));
    let count = count() / 50;
    let reached = run_seeds("parts", count, &describe, &one);
    both_ways(&reached, "open", count);
}
