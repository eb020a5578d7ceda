//! Hidden states, embeddings and input vectors, compared with a direct computation in F64.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::embed::{self, Pooling, Settings};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{BATCH, KvChoice, Segment, Session, SessionOptions, VECTOR, Want};
use geb::tokenizer::Tokenizer;
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

fn fixture(case: &str) -> PathBuf {
    Path::new(crate::common::ROOT)
        .join("tests/fixtures")
        .join(case)
        .join("hf")
}

/// A fixture with another length of context and other keys, as F32.
fn model(case: &str, context: usize, keys: &[(&str, geb::gguf::writer::MetaValue)]) -> Arc<Model> {
    let dir = tempfile::tempdir().expect("folder");
    for entry in fs::read_dir(fixture(case)).expect("folder") {
        let path = entry.expect("entry").path();
        fs::copy(&path, dir.path().join(path.file_name().expect("name"))).expect("copied");
    }
    let config = dir.path().join("config.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(&config).expect("file")).expect("JSON");
    if let Some(old) = json.get_mut("max_position_embeddings") {
        *old = context.into();
    }
    fs::write(&config, json.to_string()).expect("written");
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let (bytes, _) = convert::convert_to_vec(dir.path(), &options).expect("convert");
    let file = GgufFile::from_bytes(bytes).expect("GGUF");
    let mut plan = geb::gguf::writer::Plan::default();
    plan.copy_meta(&file, |_, _| true);
    for (key, value) in keys {
        plan.set_meta(key, value.clone());
    }
    for t in file.tensors() {
        plan.push_tensor(t.info().name.clone(), t.dtype(), t.info().dims.clone());
    }
    let tensors: Vec<_> = file.tensors().collect();
    let path = dir.path().join("model.gguf");
    geb::gguf::writer::write_file(&path, &plan, &mut |i, out| {
        out.write_all(tensors[i].bytes())
            .map_err(Error::io("model"))
    })
    .expect("written");
    Model::load(Arc::new(GgufFile::open(&path, Load::Copy).expect("GGUF"))).expect("model")
}

fn session(model: &Arc<Model>, threads: usize) -> Session {
    let ctx = Some(model.config().context_length);
    let options = SessionOptions {
        threads,
        ctx,
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

type Matrix = Vec<Vec<f64>>;

fn tensor(model: &Model, name: &str) -> Matrix {
    let t = model
        .file()
        .tensor(name)
        .unwrap_or_else(|| panic!("{name}"));
    let values = t
        .bytes()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f64::from(f32::from_le_bytes(*b)));
    let values: Vec<f64> = values.collect();
    values
        .chunks_exact(t.info().dims[0] as usize)
        .map(<[f64]>::to_vec)
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(w: &Matrix, x: &[f64]) -> Vec<f64> {
    w.iter().map(|row| dot(row, x)).collect()
}

fn rms(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(w).map(|(x, w)| x * scale * w).collect()
}

/// The llama graph as its definition says it, with or without the mask.
fn reference(model: &Model, ids: &[u32], causal: bool) -> Matrix {
    let c = model.config();
    let (d, eps) = (c.head_size, f64::from(c.norm_epsilon));
    let (heads, group) = (c.layers[0].head_count, c.layers[0].group());
    let table = tensor(model, "token_embd.weight");
    let mut x: Matrix = ids.iter().map(|id| table[*id as usize].clone()).collect();
    for l in 0..c.block_count {
        let of = |name: &str| tensor(model, &format!("blk.{l}.{name}.weight"));
        let turn = |v: Vec<f64>, p: usize| -> Vec<f64> {
            let pairs = v.chunks_exact(2).enumerate().flat_map(|(i, pair)| {
                let exponent = -2.0 * (i % (d / 2)) as f64 / d as f64;
                let (sin, cos) = (p as f64 * f64::from(c.rope_freq_base).powf(exponent)).sin_cos();
                [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos]
            });
            pairs.collect()
        };
        let norm = of("attn_norm").remove(0);
        let h: Matrix = x.iter().map(|x| rms(x, &norm, eps)).collect();
        let (wq, wk, wv, wo) = (of("attn_q"), of("attn_k"), of("attn_v"), of("attn_output"));
        let rotated = |w: &Matrix| -> Matrix {
            h.iter()
                .enumerate()
                .map(|(p, h)| turn(times(w, h), p))
                .collect()
        };
        let (q, k) = (rotated(&wq), rotated(&wk));
        let v: Matrix = h.iter().map(|h| times(&wv, h)).collect();
        for (i, x) in x.iter_mut().enumerate() {
            let seen = if causal { i + 1 } else { ids.len() };
            let mut out = Vec::new();
            for head in 0..heads {
                let (own, kv) = (
                    head * d..(head + 1) * d,
                    head / group * d..(head / group + 1) * d,
                );
                let scores = (0..seen)
                    .map(|j| dot(&q[i][own.clone()], &k[j][kv.clone()]) / (d as f64).sqrt());
                let weights: Vec<f64> = scores.map(f64::exp).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..d).map(|e| {
                    (0..seen)
                        .map(|j| weights[j] / sum * v[j][kv.start + e])
                        .sum::<f64>()
                }));
            }
            x.iter_mut()
                .zip(times(&wo, &out))
                .for_each(|(x, y)| *x += y);
        }
        let (gate, up, down, norm) = (
            of("ffn_gate"),
            of("ffn_up"),
            of("ffn_down"),
            of("ffn_norm").remove(0),
        );
        for x in &mut x {
            let h = rms(x, &norm, eps);
            let inner: Vec<f64> = (times(&gate, &h).iter().zip(times(&up, &h)))
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            x.iter_mut()
                .zip(times(&down, &inner))
                .for_each(|(x, y)| *x += y);
        }
    }
    let norm = tensor(model, "output_norm.weight").remove(0);
    x.iter().map(|x| rms(x, &norm, eps)).collect()
}

fn worst(a: &[f32], b: &Matrix) -> f64 {
    let b: Vec<f64> = b.concat();
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(&b)
        .map(|(x, y)| (f64::from(*x) - y).abs())
        .fold(0.0, f64::max)
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = dot(x, x).sqrt();
    x.iter().map(|v| v / length).collect()
}

#[test]
fn hidden_states_equal_a_direct_computation() {
    // Longer than a batch, too: without a mask the text goes through each layer as a whole.
    let model = model("llama", 1024, &[]);
    for n in [1, 40, BATCH + 37] {
        let ids = ids(&model, n);
        for causal in [true, false] {
            let want = reference(&model, &ids, causal);
            let mut s = session(&model, 2);
            let got = s.hidden_states(&ids, causal).expect("states");
            let error = worst(&got, &want);
            println!("{n} tokens, causal {causal}: {error:.1e}");
            assert!(error < 1e-3, "{n} tokens, causal {causal}: {error}");
            assert_eq!(s.pos(), 0);
            assert!(
                session(&model, 1)
                    .hidden_states(&ids, causal)
                    .expect("states")
                    == got
            );
            // The session is as good as new.
            let logits = s.forward(&ids[..1], Want::Last).expect("forward").to_vec();
            assert!(
                session(&model, 2)
                    .forward(&ids[..1], Want::Last)
                    .expect("forward")
                    == logits
            );
        }
    }
}

#[test]
fn embeddings_are_pooled_states_of_length_one() {
    let model = model("llama", 128, &[]);
    let tokenizer = Tokenizer::from_gguf(model.file()).expect("tokenizer");
    let mut s = session(&model, 2);
    let settings = Settings::of(&model).expect("settings");
    assert!(settings.causal && settings.pooling == Pooling::Mean);
    let (ids, skip) =
        embed::encode(&tokenizer, Some(" Find texts: "), "a text of some words").expect("encodes");
    let (alone, none) = embed::encode(&tokenizer, None, "a text of some words").expect("encodes");
    assert_eq!(none, 0);
    let bos = usize::from(tokenizer.add_bos());
    assert!(
        skip > bos && ids.len() - skip == alone.len() - bos,
        "{ids:?} {skip} {alone:?}"
    );
    for causal in [true, false] {
        let states = reference(&model, &ids, causal);
        let mean = states[skip..].iter().fold(vec![0.0; 64], |sum, x| {
            sum.iter().zip(x).map(|(s, x)| s + x).collect()
        });
        for (pooling, want) in [
            (Pooling::Mean, mean),
            (Pooling::Cls, states[skip].clone()),
            (Pooling::Last, states[ids.len() - 1].clone()),
        ] {
            let got =
                embed::embed(&mut s, &ids, skip, Settings { pooling, causal }).expect("embeds");
            let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
            let cosine = dot(&got, &unit(&want));
            assert!((dot(&got, &got) - 1.0).abs() < 1e-5);
            assert!(
                cosine > 0.999999,
                "{} causal {causal}: {cosine}",
                pooling.name()
            );
        }
    }
    assert!(matches!(
        embed::embed(&mut s, &[], 0, settings),
        Err(Error::Request { .. })
    ));
}

#[test]
fn the_file_says_how_and_what_it_is_not_for() {
    let keys = [
        ("llama.pooling_type", 3u32.into()),
        ("llama.attention.causal", false.into()),
    ];
    let encoder = model("llama", 128, &keys);
    let settings = Settings::of(&encoder).expect("settings");
    assert!(!settings.causal && settings.pooling == Pooling::Last);
    let ids = ids(&encoder, 5);
    let mut s = session(&encoder, 1);
    assert!(matches!(
        s.forward(&ids, Want::Last),
        Err(Error::Unsupported { .. })
    ));
    let inputs = [Segment::Tokens(&ids)];
    assert!(matches!(
        s.forward_inputs(&inputs, Want::Last),
        Err(Error::Unsupported { .. })
    ));
    embed::embed(&mut s, &ids, 0, settings).expect("embeds");
    let ranking = model("llama", 128, &[("llama.pooling_type", 4u32.into())]);
    assert!(matches!(
        Settings::of(&ranking),
        Err(Error::Unsupported { .. })
    ));
    // Windows have no meaning without a mask.
    let windows = model("mistral-swa", 128, &[]);
    let refused = session(&windows, 1).hidden_states(&ids, false);
    assert!(
        matches!(refused, Err(Error::Unsupported { .. })),
        "{refused:?}"
    );
}

#[test]
fn vectors_stand_in_for_embeddings() {
    // Gemma scales its embeddings: what is given instead is not scaled. GPT-2 adds positions to both.
    for (case, n) in [("llama", BATCH + 50), ("gemma3", BATCH + 50), ("gpt2", 60)] {
        let model = model(case, 1024, &[]);
        let (c, table) = (model.config(), tensor(&model, "token_embd.weight"));
        let rows = |ids: &[u32]| -> Vec<f32> {
            let row = |id: &u32| {
                table[*id as usize]
                    .iter()
                    .map(|v| *v as f32 * c.embedding_scale)
            };
            ids.iter().flat_map(row).collect()
        };
        let ids = ids(&model, n);
        let mut s = session(&model, 2);
        let want = s.forward(&ids, Want::All).expect("forward").to_vec();
        let (first, last) = (rows(&ids[..3]), rows(&ids[20..n - 10]));
        let segments = [
            Segment::Vectors(&first),
            Segment::Tokens(&ids[3..20]),
            Segment::Vectors(&last),
            Segment::Tokens(&ids[n - 10..]),
        ];
        s.reset();
        assert!(
            s.forward_inputs(&segments, Want::All).expect("forward") == want,
            "{case}"
        );
        assert_eq!(s.pos(), ids.len());
        assert_eq!(s.tokens()[..4], [VECTOR, VECTOR, VECTOR, ids[3]]);
        s.reset();
        let end = s.forward_inputs(&segments, Want::Last).expect("forward");
        assert!(end == &want[want.len() - c.vocab..]);
        // A conversation goes on after vectors, and their positions count.
        s.reset();
        s.forward_inputs(&segments[..1], Want::None)
            .expect("forward");
        let next = s.forward(&ids[3..9], Want::All).expect("forward");
        assert!(next == &want[3 * c.vocab..9 * c.vocab]);
    }
}

#[test]
fn vectors_that_do_not_fit_change_nothing() {
    let model = model("llama", 8, &[]);
    let e = model.config().embedding_length;
    let mut s = session(&model, 1);
    s.forward(&[1, 2], Want::None).expect("forward");
    let (short, bad) = (vec![0.0; e - 1], vec![f32::NAN; e]);
    let long = vec![0.5; 7 * e];
    for x in [&short, &bad, &long] {
        let refused = s.forward_inputs(&[Segment::Tokens(&[1]), Segment::Vectors(x)], Want::Last);
        assert!(matches!(refused, Err(Error::Request { .. })), "{refused:?}");
        assert_eq!(s.tokens(), [1, 2]);
    }
    s.forward_inputs(&[Segment::Vectors(&long[..6 * e])], Want::Last)
        .expect("exactly full");
}
