//! Encoder and decoder with experts (Switch Transformers; GShard and Z-code route to two): a random checkpoint
//! under Hugging Face names against a page of loops.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::common::changed::Changed;
use geb::gguf::GgufFile;
use geb::gguf::writer::MetaValue;
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};
use safetensors::tensor::{Dtype as Elem, TensorView};
use serde_json::{Value, json};

const WIDTH: usize = 32;
const HEADS: usize = 4;
const D: usize = 8;
const FFN: usize = 48;
const EXPERTS: usize = 4;
const LAYERS: usize = 2;
const BUCKETS: usize = 32;
/// Rows of the vocabulary of the borrowed tokenizer.
const VOCAB: usize = 336;

/// Tensors under Hugging Face names: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Experts in every second layer of both stacks.
fn checkpoint() -> Tensors {
    let mut state = 5u64;
    let mut random = |scale: f32| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let mut all = Tensors::new();
    let mut add = |name: String, shape: &[usize], scale: f32| {
        let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
        let n = shape.iter().product();
        let values = (0..n).map(|_| centre + random(scale)).collect();
        all.insert(format!("{name}.weight"), (shape.to_vec(), values));
    };
    add("shared".into(), &[VOCAB, WIDTH], 2.0);
    for (stack, parts) in [("encoder", 2), ("decoder", 3)] {
        add(format!("{stack}.final_layer_norm"), &[WIDTH], 0.3);
        let bias = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias");
        add(bias, &[BUCKETS, HEADS], 1.0);
        for l in 0..LAYERS {
            let name = |part: usize, role: &str| format!("{stack}.block.{l}.layer.{part}.{role}");
            for part in 0..parts {
                add(name(part, "layer_norm"), &[WIDTH], 0.3);
            }
            for (part, role) in ["SelfAttention", "EncDecAttention"]
                .iter()
                .enumerate()
                .take(parts - 1)
            {
                for matrix in ["q", "k", "v", "o"] {
                    add(
                        name(part, &format!("{role}.{matrix}")),
                        &[WIDTH, HEADS * D],
                        0.3,
                    );
                }
            }
            let ffn = |role: &str| name(parts - 1, &format!("mlp.{role}"));
            let mut pair = |stem: String| {
                add(format!("{stem}wi"), &[FFN, WIDTH], 0.4);
                add(format!("{stem}wo"), &[WIDTH, FFN], 0.4);
            };
            if l % 2 == 0 {
                pair(ffn(""));
                continue;
            }
            (0..EXPERTS).for_each(|e| pair(ffn(&format!("experts.expert_{e}."))));
            add(ffn("router.classifier"), &[EXPERTS, WIDTH], 1.0);
        }
    }
    all
}

fn config() -> Value {
    json!({
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": "switch_transformers", "d_model": WIDTH, "d_kv": D, "d_ff": FFN,
        "num_heads": HEADS, "num_layers": LAYERS, "num_decoder_layers": LAYERS,
        "num_experts": EXPERTS, "expert_capacity": 64, "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": BUCKETS,
        "decoder_start_token_id": 0, "vocab_size": VOCAB, "pad_token_id": 0, "eos_token_id": 1,
    })
}

fn converted(tensors: &Tensors, dtype: Dtype, keep: Option<&str>) -> Result<Vec<u8>, Error> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = (tensors.iter())
        .map(|(name, (shape, v))| {
            (
                name,
                shape,
                v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Elem::F32, shape.to_vec(), bytes).expect("a tensor");
        (name.as_str(), view)
    });
    let file = safetensors::serialize(views, None).expect("a checkpoint");
    std::fs::write(dir.path().join("model.safetensors"), file).expect("writes");
    std::fs::write(dir.path().join("config.json"), config().to_string()).expect("writes");
    let model = "tests/fixtures/t5-relu/hf/spiece.model";
    let model = Path::new(crate::common::ROOT).join(model);
    std::fs::copy(model, dir.path().join("spiece.model")).expect("a file of the repository");
    let options = Options {
        policy: dtype.into(),
        keep_experts: keep.map(str::parse).transpose()?,
        ..Options::default()
    };
    Ok(convert::convert_to_vec(dir.path(), &options)?.0)
}

fn load(bytes: Vec<u8>) -> Result<Arc<Model>, Error> {
    Model::load(Arc::new(GgufFile::from_bytes(bytes).expect("a valid file")))
}

fn session(model: &Arc<Model>, threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        ..Default::default()
    };
    Session::new(model.clone(), &options).expect("session")
}

// ---- the page of loops, in F64 ----

/// The checkpoint, and how it routes.
struct Plain<'a> {
    tensors: &'a Tensors,
    /// Which experts there are.
    experts: Vec<usize>,
    used: usize,
    renormalise: bool,
}

/// States of all positions.
type States = Vec<Vec<f64>>;

fn sum(a: &[f64], b: &[f64], factor: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

/// Bucket of a distance from query to key, by the formula of arXiv 1910.10683.
fn bucket(distance: isize, both: bool) -> usize {
    let (count, side) = match both {
        true => (BUCKETS / 2, if distance > 0 { BUCKETS / 2 } else { 0 }),
        false => (BUCKETS, 0),
    };
    let away = if both {
        distance.abs()
    } else {
        (-distance).max(0)
    } as usize;
    let exact = count / 2;
    if away < exact {
        return side + away;
    }
    let share = (away as f64 / exact as f64).ln() / (128.0 / exact as f64).ln();
    side + (exact + (share * (count - exact) as f64) as usize).min(count - 1)
}

impl Plain<'_> {
    fn times(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let (_, values) = &self.tensors[&format!("{stem}.weight")];
        let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        values.chunks(x.len()).map(row).collect()
    }

    fn norm(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let weights = &self.tensors[&format!("{stem}.weight")].1;
        let one = |(x, w): (&f64, &f32)| x / (mean + 1e-6).sqrt() * f64::from(*w);
        x.iter().zip(weights).map(one).collect()
    }

    fn plain(&self, stem: &str, h: &[f64]) -> Vec<f64> {
        let inner: Vec<f64> = self
            .times(&format!("{stem}wi"), h)
            .iter()
            .map(|v| v.max(0.0))
            .collect();
        self.times(&format!("{stem}wo"), &inner)
    }

    fn feed_forward(&self, stem: &str, h: &[f64]) -> Vec<f64> {
        let router = format!("{stem}router.classifier");
        if !self.tensors.contains_key(&format!("{router}.weight")) {
            return self.plain(stem, h);
        }
        let logits = self.times(&router, h);
        let logits: Vec<(usize, f64)> = self
            .experts
            .iter()
            .map(|e| (*e, logits[*e].exp()))
            .collect();
        let all: f64 = logits.iter().map(|l| l.1).sum();
        let mut best = logits;
        best.sort_by(|a, b| b.1.total_cmp(&a.1));
        best.truncate(self.used);
        let all = if self.renormalise {
            best.iter().map(|l| l.1).sum()
        } else {
            all
        };
        best.iter().fold(vec![0.0; WIDTH], |out, (e, weight)| {
            sum(
                &out,
                &self.plain(&format!("{stem}experts.expert_{e}."), h),
                weight / all,
            )
        })
    }

    /// Attention of `xs` over `over`, or over themselves with the bias of their stack.
    fn attention(
        &self,
        stem: &str,
        xs: &States,
        over: Option<&States>,
        bias: Option<&str>,
    ) -> States {
        let name = |matrix: &str| format!("{stem}.{matrix}");
        let of = |matrix: &str, xs: &States| -> States {
            xs.iter().map(|x| self.times(&name(matrix), x)).collect()
        };
        let from = over.unwrap_or(xs);
        let (q, k, v) = (of("q", xs), of("k", from), of("v", from));
        let encoder = stem.starts_with("encoder");
        let table = bias.map(|stem| &self.tensors[&format!("{stem}.weight")].1);
        let mut out = Vec::new();
        for (t, q) in q.iter().enumerate() {
            let seen = if over.is_some() || encoder {
                from.len()
            } else {
                t + 1
            };
            let mut mixed = Vec::new();
            for (head, q) in q.chunks(D).enumerate() {
                let at = head * D..(head + 1) * D;
                let score = |p: usize| -> f64 {
                    let dot: f64 = q.iter().zip(&k[p][at.clone()]).map(|(a, b)| a * b).sum();
                    let row = bucket(p as isize - t as isize, encoder);
                    (dot + table.map_or(0.0, |t| f64::from(t[row * HEADS + head]))).exp()
                };
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let all: f64 = scores.iter().sum();
                mixed.extend(
                    at.clone()
                        .map(|i| scores.iter().zip(&v).map(|(s, v)| s * v[i]).sum::<f64>() / all),
                );
            }
            out.push(self.times(&name("o"), &mixed));
        }
        out
    }

    fn stack(&self, stack: &str, ids: &[u32], text: Option<&States>) -> States {
        let table = &self.tensors["shared.weight"].1;
        let row = |id: &u32| {
            let at = *id as usize * WIDTH;
            table[at..at + WIDTH]
                .iter()
                .map(|v| f64::from(*v))
                .collect()
        };
        let mut xs: States = ids.iter().map(row).collect();
        let bias = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias");
        for l in 0..LAYERS {
            let name = |part: usize, role: &str| format!("{stack}.block.{l}.layer.{part}.{role}");
            let normed = |part, xs: &States| -> States {
                xs.iter()
                    .map(|x| self.norm(&name(part, "layer_norm"), x))
                    .collect()
            };
            let add = |xs: &States, ys: States| -> States {
                xs.iter().zip(ys).map(|(x, y)| sum(x, &y, 1.0)).collect()
            };
            let h = normed(0, &xs);
            xs = add(
                &xs,
                self.attention(&name(0, "SelfAttention"), &h, None, Some(&bias)),
            );
            let mut last = 1;
            if let Some(text) = text {
                let h = normed(1, &xs);
                xs = add(
                    &xs,
                    self.attention(&name(1, "EncDecAttention"), &h, Some(text), None),
                );
                last = 2;
            }
            let made = |h: &Vec<f64>| self.feed_forward(&name(last, "mlp."), h);
            let made = normed(last, &xs).iter().map(made).collect();
            xs = add(&xs, made);
        }
        xs.iter()
            .map(|x| self.norm(&format!("{stack}.final_layer_norm"), x))
            .collect()
    }

    /// Logits of every position of the decoder.
    fn logits(&self, text: &[u32], ids: &[u32]) -> States {
        let text = self.stack("encoder", text, None);
        let states = self.stack("decoder", ids, Some(&text));
        let scale = (WIDTH as f64).powf(-0.5);
        let one = |x: &Vec<f64>| self.times("shared", x).iter().map(|v| v * scale).collect();
        states.iter().map(one).collect()
    }
}

fn plain(tensors: &Tensors) -> Plain<'_> {
    Plain {
        tensors,
        experts: (0..EXPERTS).collect(),
        used: 1,
        renormalise: false,
    }
}

fn texts() -> (Vec<u32>, Vec<u32>) {
    let some = |n: usize, by: usize| (0..n).map(move |i| (3 + i * by) as u32 % VOCAB as u32);
    (
        some(30, 71).collect(),
        [0].into_iter().chain(some(20, 37)).collect(),
    )
}

fn equals(model: &Arc<Model>, plain: &Plain<'_>) {
    let (text, ids) = texts();
    let want = plain.logits(&text, &ids).concat();
    let mut session = session(model, 2);
    session.encode(&text).expect("encode");
    let got = session.forward(&ids, Want::All).expect("forward");
    assert_eq!(got.len(), want.len());
    let pairs = got
        .iter()
        .zip(&want)
        .map(|(a, b)| (f64::from(*a) - b).abs());
    let error = pairs.fold(0.0, f64::max);
    assert!(error < 1e-4, "{error}");
}

#[test]
fn logits_of_encoder_and_decoder_with_experts_equal_a_plain_loop() {
    let tensors = checkpoint();
    let model = load(converted(&tensors, Dtype::F32, None).expect("converts")).expect("loads");
    let c = model.config();
    let routing = c.experts.as_ref().expect("experts");
    assert_eq!(
        (c.arch.name, routing.count, routing.used),
        ("t5", EXPERTS, 1)
    );
    equals(&model, &plain(&tensors));
    // Other experts would have given other logits.
    let (text, ids) = texts();
    let other = Plain {
        experts: vec![0, 1],
        ..plain(&tensors)
    };
    let [a, b] = [plain(&tensors), other].map(|p| p.logits(&text, &ids).concat());
    assert!(a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 0.1));
}

#[test]
fn two_experts_for_a_token_are_weighted_by_their_share() {
    let tensors = checkpoint();
    let file = converted(&tensors, Dtype::F32, None).expect("converts");
    let file = GgufFile::from_bytes(file).expect("own file");
    for renormalise in [true, false] {
        let mut changed = Changed::of(&file);
        changed
            .plan
            .set_meta("t5.expert_used_count", MetaValue::U32(2));
        changed
            .plan
            .set_meta("t5.expert_weights_norm", MetaValue::Bool(renormalise));
        let model = load(changed.bytes()).expect("loads");
        equals(
            &model,
            &Plain {
                used: 2,
                renormalise,
                ..plain(&tensors)
            },
        );
    }
}

#[test]
fn batches_and_threads_change_nothing() {
    let model =
        load(converted(&checkpoint(), Dtype::Q8_0, None).expect("converts")).expect("loads");
    let (text, ids) = texts();
    let run = |threads, piece| {
        let mut session = session(&model, threads);
        session.encode(&text).expect("encode");
        let mut out = Vec::new();
        for ids in ids.chunks(piece) {
            out.extend_from_slice(session.forward(ids, Want::All).expect("forward"));
        }
        out
    };
    let want = run(1, 21);
    for (threads, piece) in [(1, 1), (3, 1), (2, 5), (4, 21)] {
        assert!(
            run(threads, piece) == want,
            "{threads} threads, pieces of {piece}"
        );
    }
}

#[test]
fn pruned_experts_are_gone_from_both_stacks() {
    let tensors = checkpoint();
    let left = converted(&tensors, Dtype::F32, Some("0,3")).expect("converts");
    let file = GgufFile::from_bytes(left.clone()).expect("own file");
    for stack in ["enc", "dec"] {
        let dims = |role: &str| {
            let name = format!("{stack}.blk.1.{role}.weight");
            file.tensor(&name).expect("a tensor").info().dims.clone()
        };
        assert_eq!(dims("ffn_up_exps"), [WIDTH as u64, FFN as u64, 2]);
        assert_eq!(dims("ffn_gate_inp"), [WIDTH as u64, 2]);
    }
    equals(
        &load(left).expect("loads"),
        &Plain {
            experts: vec![0, 3],
            ..plain(&tensors)
        },
    );
    let error = converted(&tensors, Dtype::F32, Some("0,1 0:1"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("a layer with experts"), "{error}");
}

#[test]
fn what_is_missing_is_named() {
    let without = |name: &str| {
        let mut tensors = checkpoint();
        tensors.remove(name).expect("a tensor");
        converted(&tensors, Dtype::F32, None)
            .unwrap_err()
            .to_string()
    };
    let expert = "decoder.block.1.layer.2.mlp.experts.expert_2.wo.weight";
    let error = without(expert);
    assert!(error.contains(&format!("{expert}: missing")), "{error}");
    let file = converted(&checkpoint(), Dtype::F32, None).expect("converts");
    let file = GgufFile::from_bytes(file).expect("own file");
    let mut changed = Changed::of(&file);
    changed.remove("enc.blk.1.ffn_up_exps");
    let error = load(changed.bytes()).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("enc.blk.1.ffn_up_exps.weight: missing, expected [4, 48, 32]"),
        "{error}"
    );
    changed.plan.set_meta("t5.expert_count", MetaValue::U32(0));
    let error = load(changed.bytes()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("there is no t5.expert_count"), "{error}");
}
