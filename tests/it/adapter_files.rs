//! PEFT adapters to GGUF, merging, and leaving layers out: compared with checkpoints whose weights were
//! changed by hand, under the names and in the order of Hugging Face.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::mutate::Rng;
use geb::gguf::{GgufFile, Load, Value, ValueType};
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::{Dtype, Error};
use geb_convert::{self as convert, GebLayout, Options, peft};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Elem, TensorView, serialize_to_file};
use serde_json::{Value as Json, json};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn source(case: &str) -> PathBuf {
    let root = Path::new(crate::common::ROOT);
    match case {
        "nano" => root.join("assets/geb-nano/hf"),
        _ => root.join("tests/fixtures").join(case).join("hf"),
    }
}

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let values = |t: &TensorView<'_>| match t.dtype() {
        Elem::F32 => t
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Elem::BF16 => (t.data().as_chunks::<2>().0.iter())
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
            .collect(),
        other => panic!("{other:?}"),
    };
    file.iter()
        .map(|(name, t)| (name.to_owned(), (t.shape().to_vec(), values(&t))))
        .collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let bytes: Vec<Vec<u8>> = tensors
        .values()
        .map(|(_, x)| x.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| {
            (
                name.clone(),
                TensorView::new(Elem::F32, shape.clone(), bytes).expect("a tensor"),
            )
        });
    serialize_to_file(views, None, path).expect("written");
}

/// A checkpoint folder like `from`, with other weights.
fn checkpoint(from: &Path, to: &Path, weights: &Tensors) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name");
        if path.is_file() && name != "model.safetensors" {
            fs::copy(&path, to.join(name)).expect("copied");
        }
    }
    write(&to.join("model.safetensors"), weights);
}

/// A PEFT adapter of every matrix of the layers and the output, and the weights that it stands for.
struct Peft {
    config: Json,
    tensors: Tensors,
    merged: Tensors,
}

impl Peft {
    fn random(base: &Tensors, seed: u64, magnitudes: bool, root: bool) -> Peft {
        let rng = &mut Rng::new(seed);
        let mut random = |n: usize, size: f32| -> Vec<f32> {
            (0..n)
                .map(|_| (rng.below(2_000_001) as f32 / 1e6 - 1.0) * size)
                .collect()
        };
        let (mut tensors, mut merged) = (Tensors::new(), base.clone());
        let alphas = json!({"v_proj": 3.0, "layers.1.mlp.down_proj": 5.0});
        for (name, (shape, w)) in base {
            let Some(module) = name.strip_suffix(".weight") else {
                continue;
            };
            let tables = ["embed", "wte.", "wpe."];
            let &[mut rows, mut cols] = &shape[..] else {
                continue;
            };
            if tables.iter().any(|t| name.contains(t)) {
                continue;
            }
            // GPT-2 keeps inputs by outputs; its adapters have the usual shapes.
            let turned = name.contains(".c_");
            let w = if turned { turn(w, cols) } else { w.clone() };
            if turned {
                (rows, cols) = (cols, rows);
            }
            let rank: usize = if name.contains("layers.0") { 3 } else { 4 };
            let alpha = match module {
                m if m.ends_with(".v_proj") => 3.0,
                m if m.ends_with("layers.1.mlp.down_proj") => 5.0,
                _ => 8.0f64,
            };
            let divisor = rank as f64;
            let s = alpha / if root { divisor.sqrt() } else { divisor };
            let size = (w.iter().map(|v| v * v).sum::<f32>() / w.len() as f32).sqrt() * 0.1;
            let (a, b) = (random(rank * cols, 1.0), random(rows * rank, size));
            let m = magnitudes.then(|| -> Vec<f32> {
                let norm = |w: &[f32]| w.iter().map(|v| v * v).sum::<f32>().sqrt();
                let rows = w.chunks_exact(cols).zip(random(rows, 0.3));
                rows.map(|(w, u)| norm(w) * (1.0 + u)).collect()
            });
            let new = changed(&w, cols, (&a, &b), s, m.as_deref());
            merged.get_mut(name).expect("the same names").1 = match turned {
                true => turn(&new, cols),
                false => new,
            };
            let key = |end: &str| format!("base_model.model.{module}.{end}");
            tensors.insert(key("lora_A.weight"), (vec![rank, cols], a));
            tensors.insert(key("lora_B.weight"), (vec![rows, rank], b));
            if let Some(m) = m {
                tensors.insert(key("lora_magnitude_vector"), (vec![rows], m));
            }
        }
        let config = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": magnitudes,
            "use_rslora": root, "alpha_pattern": alphas, "rank_pattern": {"layers.0": 3},
            "modules_to_save": null, "fan_in_fan_out": false,
        });
        Peft {
            config,
            tensors,
            merged,
        }
    }

    fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("folder");
        fs::write(folder.join("adapter_config.json"), self.config.to_string()).expect("written");
        write(&folder.join("adapter_model.safetensors"), &self.tensors);
    }
}

/// A matrix with `cols` columns, columns as rows.
fn turn(w: &[f32], cols: usize) -> Vec<f32> {
    let rows = w.len() / cols;
    (0..w.len())
        .map(|i| w[i % rows * cols + i / rows])
        .collect()
}

/// The definition, in F64: `W + s B A`, with m row by row `m (W + s B A) / |W + s B A|`.
fn changed(
    w: &[f32],
    cols: usize,
    (a, b): (&[f32], &[f32]),
    s: f64,
    m: Option<&[f32]>,
) -> Vec<f32> {
    let rank = a.len() / cols;
    let rows = w.chunks_exact(cols).zip(b.chunks_exact(rank)).enumerate();
    rows.flat_map(|(r, (w, b))| {
        let dot = |c: usize| -> f64 {
            (0..rank)
                .map(|k| f64::from(b[k]) * f64::from(a[k * cols + c]))
                .sum()
        };
        let row: Vec<f64> = (0..cols).map(|c| f64::from(w[c]) + s * dot(c)).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let gain = m.map_or(1.0, |m| f64::from(m[r]) / norm);
        row.into_iter().map(move |v| (gain * v) as f32)
    })
    .collect()
}

fn f32_file(source: &Path, out: &Path, change: impl FnOnce(&mut Options)) -> Arc<Model> {
    let mut options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    change(&mut options);
    convert::convert(source, out, &options, &mut ()).expect("convert");
    Model::load(Arc::new(GgufFile::open(out, Load::Copy).expect("GGUF"))).expect("model")
}

fn logits(model: &Arc<Model>, adapter: Option<&Path>) -> Vec<f32> {
    let options = SessionOptions {
        threads: 2,
        kv: KvChoice::F32,
        ..Default::default()
    };
    let mut s = Session::new(model.clone(), &options).expect("session");
    if let Some(path) = adapter {
        let file = GgufFile::open(path, Load::Map).expect("GGUF");
        let adapter = model.adapter(&file).expect("fits");
        s.set_adapters(&[(&adapter, 1.0)]).expect("fits");
    }
    let ids: Vec<u32> = (0..30)
        .map(|i| (i * 7919 % model.config().vocab) as u32)
        .collect();
    s.forward(&ids, Want::All).expect("forward").to_vec()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

#[test]
fn peft_adapters_keep_their_meaning_under_gguf_names() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name);
    // Reordered heads; a fused matrix; matrices packed and split; stored the other way round; alphas of modules.
    for (seed, case) in ["llama", "phi3", "nano", "minicpm", "qwen2", "gpt2"]
        .into_iter()
        .enumerate()
    {
        let base = read(&source(case).join("model.safetensors"));
        for (magnitudes, root) in [(false, false), (true, true)] {
            let peft = Peft::random(&base, seed as u64, magnitudes, root);
            peft.write(&path("peft"));
            checkpoint(&source(case), &path("merged"), &peft.merged);
            let want = logits(
                &f32_file(&path("merged"), &path("merged.gguf"), |_| {}),
                None,
            );
            let plain = f32_file(&source(case), &path("plain.gguf"), |_| {});
            let change = worst(&logits(&plain, None), &want);

            let adapter = path("adapter.gguf");
            let done = peft::convert(
                &path("peft"),
                &source(case),
                &GebLayout::default(),
                &adapter,
            );
            assert_eq!(
                done.expect("converts").architecture,
                plain.config().arch.name
            );
            let beside = worst(&logits(&plain, Some(&adapter)), &want);

            let merge = |o: &mut Options| o.adapters = vec![(adapter.clone(), 1.0)];
            let merged = f32_file(&source(case), &path("m.gguf"), merge);
            let within = worst(&logits(&merged, None), &want);
            let again = f32_file(&path("plain.gguf"), &path("n.gguf"), merge);
            assert!(
                logits(&again, None) == logits(&merged, None),
                "{case}: from GGUF"
            );
            println!(
                "{case} magnitudes {magnitudes}: change {change:.1e}, beside {beside:.1e}, merged {within:.1e}"
            );
            assert!(beside < 2e-3 * change && within < 2e-3 * change, "{case}");
            let recorded = merged.file().array("geb.merged.adapters", ValueType::Str);
            assert_eq!(recorded.expect("strings").expect("present").len, 1);
        }
    }
}

#[test]
fn peft_folders_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let folder = dir.path().join("peft");
    let base = read(&source("llama").join("model.safetensors"));
    let good = Peft::random(&base, 9, true, false);
    let out = dir.path().join("adapter.gguf");
    let convert = |p: &Peft| {
        p.write(&folder);
        peft::convert(&folder, &source("llama"), &GebLayout::default(), &out).map(|_| ())
    };
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("lora_bias", json!(true)),
        ("lora_alpha", json!(null)),
        ("lora_alpha", json!(0)),
        ("r", json!(0)),
        ("alpha_pattern", json!({"layers.(0|1)": 4})),
    ] {
        let mut bad = Peft {
            config: good.config.clone(),
            tensors: good.tensors.clone(),
            merged: Tensors::new(),
        };
        bad.config[key] = value.clone();
        let e = convert(&bad).expect_err(key);
        assert!(
            matches!(e, Error::Checkpoint { .. } | Error::Unsupported { .. }),
            "{key}: {e}"
        );
    }
    let stem = "base_model.model.model.layers.0.self_attn";
    let mut bad = Peft {
        config: good.config.clone(),
        tensors: good.tensors.clone(),
        merged: Tensors::new(),
    };
    bad.tensors.remove(&format!("{stem}.q_proj.lora_A.weight"));
    bad.tensors
        .get_mut(&format!("{stem}.k_proj.lora_B.weight"))
        .expect("B")
        .0
        .reverse();
    let o = bad
        .tensors
        .remove(&format!("{stem}.o_proj.lora_A.weight"))
        .expect("A");
    bad.tensors
        .insert(format!("{stem}.x_proj.lora_A.weight"), o.clone());
    bad.tensors
        .insert(format!("{stem}.v_proj.base_layer.weight"), o);
    let text = convert(&bad).expect_err("refused").to_string();
    for part in [
        "attn_q.weight: lora_A or",
        "attn_k.weight: A",
        "x_proj: the base has no",
        "base_layer.weight: not lora_A",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!out.exists(), "nothing is written");
}

#[test]
fn kept_layers_are_those_of_the_source() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name);
    // A checkpoint cut by hand: names and configuration.
    let cut_by_hand = |case: &str, keep: &[usize], edit: &dyn Fn(&mut Json)| {
        let mut weights = Tensors::new();
        for (name, t) in read(&source(case).join("model.safetensors")) {
            let Some((before, rest)) = name.split_once("layers.") else {
                weights.insert(name, t);
                continue;
            };
            let (old, rest) = rest.split_once('.').expect("a number");
            let old: usize = old.parse().expect("a number");
            if let Some(new) = keep.iter().position(|k| *k == old) {
                weights.insert(format!("{before}layers.{new}.{rest}"), t);
            }
        }
        checkpoint(&source(case), &path("cut"), &weights);
        let config = path("cut").join("config.json");
        let mut json: Json =
            serde_json::from_slice(&fs::read(&config).expect("file")).expect("JSON");
        json["num_hidden_layers"] = keep.len().into();
        edit(&mut json);
        fs::write(&config, json.to_string()).expect("written");
        logits(&f32_file(&path("cut"), &path("cut.gguf"), |_| {}), None)
    };
    let kept = |source: &Path, keep: &[usize]| {
        let model = f32_file(source, &path("kept.gguf"), |o| {
            o.layers = Some(keep.to_vec())
        });
        assert_eq!(model.config().block_count, keep.len());
        (logits(&model, None), model)
    };
    let want = cut_by_hand("llama", &[0, 2], &|_| {});
    assert!(kept(&source("llama"), &[0, 2]).0 == want);
    f32_file(&source("llama"), &path("plain.gguf"), |_| {});
    assert!(kept(&path("plain.gguf"), &[0, 2]).0 == want, "from GGUF");
    // Of Gemma's seven layers number 5 sees all positions; its new number is 2.
    let (_, model) = kept(&source("gemma3"), &[1, 4, 5, 6]);
    let full: Vec<bool> = model
        .config()
        .windows
        .iter()
        .map(|w| *w == usize::MAX)
        .collect();
    assert_eq!(full, [false, false, true, false]);
    // Of Gemma 2's every second.
    let (_, model) = kept(&source("gemma2"), &[1, 2]);
    assert_eq!(model.config().windows, [usize::MAX, 8]);
    // The factor of MiniCPM's branches stays what the weights were trained with.
    let (_, model) = kept(&source("minicpm"), &[0]);
    let whole = f32_file(&source("minicpm"), &path("plain.gguf"), |_| {});
    assert_eq!(model.config().residual_scale, whole.config().residual_scale);
    assert!(matches!(
        model.file().get("minicpm.block_count"),
        Some(Value::U32(1))
    ));
}

#[test]
fn layers_that_a_model_has_not_are_refused() {
    let try_with = |change: &dyn Fn(&mut Options)| {
        let mut options = Options {
            policy: Dtype::F32.into(),
            ..Options::default()
        };
        change(&mut options);
        convert::dry_run(&source("llama"), &options).map(|_| ())
    };
    try_with(&|o| o.layers = Some(vec![1])).expect("one layer");
    for bad in [vec![], vec![3], vec![1, 0], vec![1, 1]] {
        let refused = try_with(&|o| o.layers = Some(bad.clone()));
        assert!(matches!(refused, Err(Error::Request { .. })), "{bad:?}");
    }
    let refused = try_with(&|o| {
        o.layers = Some(vec![0]);
        o.adapters = vec![("none.gguf".into(), 1.0)];
    });
    assert!(matches!(refused, Err(Error::Request { .. })));
}
