//! Models of a few thousand random weights, and what they compute for a single token, in F64.

use std::collections::BTreeMap;

use geb::Dtype;
use geb::gguf::writer::{MetaValue, Plan, write_to};

const WIDTH: usize = 32;
const HEADS: usize = 2;
const FFN: usize = 48;
const EXPERT: usize = 16;

/// A tensor: dimensions outermost first, and values.
type Tensor = (Vec<usize>, Vec<f32>);

/// Metadata and tensors; the fields repeat what some of the metadata says.
#[derive(Clone)]
pub struct Tiny {
    arch: String,
    layers: usize,
    pub vocab: usize,
    pub experts: usize,
    pub used: usize,
    pub sigmoid: bool,
    pub renormalise: bool,
    pub scale: f64,
    keys: Vec<(String, MetaValue)>,
    pub tensors: Vec<(String, Tensor)>,
    seed: u64,
}

impl Tiny {
    /// Embedding, norms and attention of a Llama-shaped model; no feed-forward layers yet.
    pub fn new(arch: &str, layers: usize) -> Tiny {
        let mut tiny = Tiny {
            arch: arch.into(),
            layers,
            vocab: 23,
            experts: 0,
            used: 0,
            sigmoid: false,
            renormalise: true,
            scale: 1.0,
            keys: Vec::new(),
            tensors: Vec::new(),
            seed: 7,
        };
        tiny.add("token_embd", &[23, WIDTH], 1.0);
        tiny.add("output_norm", &[WIDTH], 1.0);
        tiny.add("output", &[23, WIDTH], 0.3);
        for l in 0..layers {
            for norm in ["attn_norm", "ffn_norm"] {
                tiny.add(&format!("blk.{l}.{norm}"), &[WIDTH], 1.0);
            }
            for matrix in ["attn_q", "attn_k", "attn_v", "attn_output"] {
                tiny.add(&format!("blk.{l}.{matrix}"), &[WIDTH, WIDTH], 0.3);
            }
        }
        let number = |n: usize| MetaValue::U32(n as u32);
        tiny.key("block_count", number(layers));
        tiny.key("context_length", number(128));
        tiny.key("embedding_length", number(WIDTH));
        tiny.key("feed_forward_length", number(FFN));
        tiny.key("attention.head_count", number(HEADS));
        tiny.key("attention.layer_norm_rms_epsilon", MetaValue::F32(1e-5));
        tiny
    }

    /// Sets or replaces a key of the architecture.
    pub fn key(&mut self, suffix: &str, value: MetaValue) {
        let key = format!("{}.{suffix}", self.arch);
        self.keys.retain(|k| k.0 != key);
        self.keys.push((key, value));
    }

    /// Adds a key of the whole file.
    pub fn meta(&mut self, key: &str, value: MetaValue) {
        self.keys.push((key.into(), value));
    }

    /// Leaves the first `n` tokens: an unknown one, start, end, and letters.
    pub fn letters(&mut self, n: usize) {
        self.vocab = n;
        for (name, (shape, values)) in &mut self.tensors {
            if name == "token_embd.weight" || name == "output.weight" {
                shape[0] = n;
                values.truncate(n * WIDTH);
            }
        }
        let letters = (b'a'..=b'z').map(|c| (c as char).to_string());
        let named = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let tokens = named.into_iter().chain(letters).take(n).collect();
        let kinds = [2, 3, 3].into_iter().chain(std::iter::repeat(1)).take(n);
        self.meta("tokenizer.ggml.model", MetaValue::Str("llama".into()));
        self.meta("tokenizer.ggml.tokens", MetaValue::Strs(tokens));
        self.meta("tokenizer.ggml.scores", MetaValue::F32s(vec![0.0; n]));
        let kinds = MetaValue::I32s(kinds.collect());
        self.meta("tokenizer.ggml.token_type", kinds);
        self.meta("tokenizer.ggml.bos_token_id", MetaValue::U32(1));
        self.meta("tokenizer.ggml.eos_token_id", MetaValue::U32(2));
    }

    /// `used` of `experts` for each token.
    pub fn routing(&mut self, experts: usize, used: usize) {
        (self.experts, self.used) = (experts, used);
        self.key("expert_count", MetaValue::U32(experts as u32));
        self.key("expert_used_count", MetaValue::U32(used as u32));
        self.key("expert_feed_forward_length", MetaValue::U32(EXPERT as u32));
    }

    /// Values of about ±`size`.
    fn add(&mut self, stem: &str, shape: &[usize], size: f32) {
        let n = shape.iter().product();
        let mut values = Vec::with_capacity(n);
        for _ in 0..n {
            self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(99);
            values.push(((self.seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * size);
        }
        let tensor = (shape.to_vec(), values);
        self.tensors.push((format!("{stem}.weight"), tensor));
    }

    /// An expert of width `width` for every token of all layers.
    pub fn share(&mut self, width: usize) {
        let value = MetaValue::U32(width as u32);
        self.key("expert_shared_feed_forward_length", value);
        for l in 0..self.layers {
            let name = |role: &str| format!("blk.{l}.ffn_{role}_shexp");
            self.add(&name("gate_inp"), &[1, WIDTH], 0.5);
            self.add(&name("gate"), &[width, WIDTH], 0.3);
            self.add(&name("up"), &[width, WIDTH], 0.3);
            self.add(&name("down"), &[WIDTH, width], 0.3);
        }
    }

    /// Tensors with this in their names become vectors.
    pub fn flatten(&mut self, part: &str) {
        for (name, (shape, _)) in &mut self.tensors {
            if name.contains(part) {
                *shape = vec![shape.iter().product()];
            }
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|t| t.0 != name);
    }

    /// Gate and up of all experts in one tensor.
    pub fn fused(&self) -> Tiny {
        let mut out = self.clone();
        for l in 0..self.layers {
            let name = |role: &str| format!("blk.{l}.ffn_{role}_exps.weight");
            let each = EXPERT * WIDTH;
            let (gate, up) = (self.values(&name("gate")), self.values(&name("up")));
            let pairs = gate.chunks(each).zip(up.chunks(each));
            let both = pairs.flat_map(|(g, u)| [g, u].concat()).collect();
            out.remove(&name("gate"));
            out.remove(&name("up"));
            let shape = vec![self.experts, 2 * EXPERT, WIDTH];
            out.tensors.push((name("gate_up"), (shape, both)));
        }
        out
    }

    /// Each expert in tensors of its own.
    pub fn one_by_one(&self) -> Tiny {
        let mut out = self.clone();
        out.tensors.clear();
        for (name, (shape, values)) in &self.tensors {
            let Some(stem) = name.strip_suffix("_exps.weight") else {
                out.tensors
                    .push((name.clone(), (shape.clone(), values.clone())));
                continue;
            };
            let each = shape[1] * shape[2];
            for (x, values) in values.chunks(each).enumerate() {
                let tensor = (shape[1..].to_vec(), values.to_vec());
                out.tensors.push((format!("{stem}.{x}.weight"), tensor));
            }
        }
        out
    }

    /// Elements of each tensor.
    pub fn sizes(&self) -> BTreeMap<&str, u64> {
        let size = |t: &Tensor| t.1.len() as u64;
        self.tensors
            .iter()
            .map(|(name, t)| (name.as_str(), size(t)))
            .collect()
    }

    /// The GGUF file, F32.
    pub fn bytes(&self) -> Vec<u8> {
        let mut plan = Plan::default();
        plan.push_meta("general.architecture", self.arch.as_str());
        for (key, value) in &self.keys {
            plan.push_meta(key.clone(), value.clone());
        }
        for (name, (shape, _)) in &self.tensors {
            let dims: Vec<u64> = shape.iter().rev().map(|d| *d as u64).collect();
            plan.push_tensor(name.clone(), Dtype::F32, dims);
        }
        let mut bytes = Vec::new();
        write_to(&mut bytes, &plan, &mut |i, out| {
            for v in &self.tensors[i].1.1 {
                out.write_all(&v.to_le_bytes()).expect("memory");
            }
            Ok(())
        })
        .expect("a valid plan");
        bytes
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.0 == name).map(|t| &t.1)
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.find(name).unwrap_or_else(|| panic!("{name}")).1
    }

    /// `W x`; `matrix` counts those of a stack.
    fn times(&self, stem: &str, matrix: usize, x: &[f64]) -> Vec<f64> {
        let (shape, values) = self
            .find(&format!("{stem}.weight"))
            .unwrap_or_else(|| panic!("{stem}"));
        let rows = if shape.len() < 2 {
            1
        } else {
            shape[shape.len() - 2]
        };
        let each = rows * x.len();
        values[matrix * each..(matrix + 1) * each]
            .chunks(x.len())
            .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
            .collect()
    }

    fn norm(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let weights = self.values(&format!("{stem}.weight"));
        let one = |(x, w): (&f64, &f32)| x / (mean + 1e-5).sqrt() * f64::from(*w);
        x.iter().zip(weights).map(one).collect()
    }

    fn gated(&self, stem: impl Fn(&str) -> String, matrix: usize, h: &[f64]) -> Vec<f64> {
        let gate = self.times(&stem("gate"), matrix, h);
        let up = self.times(&stem("up"), matrix, h);
        let one = |(g, u): (&f64, &f64)| g / (1.0 + (-g).exp()) * u;
        let inner: Vec<f64> = gate.iter().zip(&up).map(one).collect();
        self.times(&stem("down"), matrix, &inner)
    }

    /// Numbers and weights of the experts for `h`.
    fn route(&self, l: usize, h: &[f64]) -> Vec<(usize, f64)> {
        let logits = self.times(&format!("blk.{l}.ffn_gate_inp"), 0, h);
        let weights: Vec<f64> = match self.sigmoid {
            true => logits.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
            false => {
                let sum: f64 = logits.iter().map(|v| v.exp()).sum();
                logits.iter().map(|v| v.exp() / sum).collect()
            }
        };
        let mut all: Vec<(usize, f64)> = weights.into_iter().enumerate().collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(self.used);
        let sum: f64 = match self.renormalise {
            true => all.iter().map(|e| e.1).sum(),
            false => 1.0,
        };
        all.iter_mut().for_each(|e| e.1 *= self.scale / sum);
        all
    }

    /// Logits of `token` at the first position.
    pub fn logits(&self, token: usize) -> Vec<f64> {
        let table = self.values("token_embd.weight");
        let row = &table[token * WIDTH..(token + 1) * WIDTH];
        let mut x: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        let add = |x: &mut [f64], y: &[f64], factor: f64| {
            x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
        };
        for l in 0..self.layers {
            let name = |role: &str| format!("blk.{l}.{role}");
            let h = self.norm(&name("attn_norm"), &x);
            let v = self.times(&name("attn_v"), 0, &h);
            add(&mut x, &self.times(&name("attn_output"), 0, &v), 1.0);
            let h = self.norm(&name("ffn_norm"), &x);
            if self.find(&name("ffn_gate_inp.weight")).is_none() {
                let y = self.gated(|role| name(&format!("ffn_{role}")), 0, &h);
                add(&mut x, &y, 1.0);
                continue;
            }
            for (e, weight) in self.route(l, &h) {
                let y = self.gated(|role| name(&format!("ffn_{role}_exps")), e, &h);
                add(&mut x, &y, weight);
            }
            if self.find(&name("ffn_gate_shexp.weight")).is_some() {
                let weight = self.times(&name("ffn_gate_inp_shexp"), 0, &h)[0];
                let y = self.gated(|role| name(&format!("ffn_{role}_shexp")), 0, &h);
                add(&mut x, &y, 1.0 / (1.0 + (-weight).exp()));
            }
        }
        self.times("output", 0, &self.norm("output_norm", &x))
    }
}

/// A feed-forward layer without experts.
pub fn dense_layer(tiny: &mut Tiny, l: usize) {
    tiny.add(&format!("blk.{l}.ffn_gate"), &[FFN, WIDTH], 0.3);
    tiny.add(&format!("blk.{l}.ffn_up"), &[FFN, WIDTH], 0.3);
    tiny.add(&format!("blk.{l}.ffn_down"), &[WIDTH, FFN], 0.3);
}

/// One with experts, which must have been counted before.
pub fn expert_layer(tiny: &mut Tiny, l: usize) {
    let x = tiny.experts;
    tiny.add(&format!("blk.{l}.ffn_gate_inp"), &[x, WIDTH], 1.0);
    tiny.add(&format!("blk.{l}.ffn_gate_exps"), &[x, EXPERT, WIDTH], 0.5);
    tiny.add(&format!("blk.{l}.ffn_up_exps"), &[x, EXPERT, WIDTH], 0.5);
    tiny.add(&format!("blk.{l}.ffn_down_exps"), &[x, WIDTH, EXPERT], 0.5);
}
