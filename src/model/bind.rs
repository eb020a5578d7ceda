//! Architecture plus file gives weights: every missing, misshapen or unusable tensor is reported at once (rule 13).

mod encoder;
mod experts;
mod recurrent;

use std::collections::BTreeSet;

use geb_kernels::dtype::Dtype;
use geb_kernels::{Kernels, Level};

use super::arch::{Arch, MixerKind, NormKind, NormPlace, Positions, QkNorm, StateLayers};
use super::config::Config;
use super::scaling::ScalingKind;
use super::weights::{
    Attention, Bias, Branch, Encoder, Ffn, GateUp, Layer, Linear, Mixer, Norm, QMatrix, Qkv,
    Weights,
};
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, TensorInfo};
use crate::limits::MAX_SHOWN_PROBLEMS;

/// The scalar kernels: every format that has kernels has these.
fn reference() -> &'static Kernels {
    Kernels::for_level(Level::Scalar).expect("every build has the scalar level")
}

/// Collects problems while tensors are looked up.
struct Binder<'a> {
    file: &'a GgufFile,
    problems: Vec<String>,
    /// How many there are beside [`MAX_SHOWN_PROBLEMS`].
    more: usize,
    unsupported: Vec<String>,
    used: std::collections::HashSet<String>,
    /// Floats per token that a recurrent branch works with, at most.
    scratch: usize,
}

/// A layer in the file.
struct Place {
    /// How the names of its tensors begin.
    stem: String,
    /// Which of the sizes of layers are its own.
    n: usize,
}

impl Place {
    fn new(stem: &str, number: usize, n: usize) -> Place {
        let stem = format!("{stem}.{number}");
        Place { stem, n }
    }

    fn name(&self, role: &str) -> String {
        format!("{}.{role}", self.stem)
    }
}

impl Binder<'_> {
    fn placeholder() -> QMatrix {
        QMatrix {
            dtype: Dtype::F32,
            rows: 0,
            cols: 0,
            range: 0..0,
        }
    }

    fn problem(&mut self, text: impl FnOnce() -> String) {
        match self.problems.len() < MAX_SHOWN_PROBLEMS {
            true => self.problems.push(text()),
            false => self.more += 1,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// A matrix `[rows, cols]`; `rows` of 0 accepts any number.
    fn matrix(&mut self, name: String, rows: usize, cols: usize) -> QMatrix {
        let Some(t) = self.file.tensor(&name) else {
            self.problem(|| format!("  {name}: missing, expected [{rows}, {cols}]"));
            return Self::placeholder();
        };
        let info = t.info();
        let found = (info.rows(), info.cols(), info.dims.len());
        if found.1 != cols || (rows != 0 && found.0 != rows) || found.2 > 2 {
            self.problem(|| {
                format!(
                    "  {name}: shape [{}, {}], expected [{rows}, {cols}]",
                    found.0, found.1
                )
            });
        }
        self.check_type(info);
        self.used.insert(name);
        QMatrix {
            dtype: info.dtype,
            rows: found.0,
            cols: found.1,
            range: info.range.clone(),
        }
    }

    fn scratch(&mut self, floats: usize) {
        self.scratch = self.scratch.max(floats);
    }

    fn check_type(&mut self, info: &TensorInfo) {
        if !reference().supports(info.dtype) {
            self.unsupported
                .push(format!("{} ({})", info.name, info.dtype));
        }
    }

    /// A vector of floats, `[len]`, copied out (norms and biases are small).
    fn vector(&mut self, name: String, len: usize) -> Vec<f32> {
        let Some(t) = self.file.tensor(&name) else {
            self.problem(|| format!("  {name}: missing, expected [{len}]"));
            return Vec::new();
        };
        let info = t.info();
        let mut out = Vec::new();
        if info.elements() != len as u64 {
            self.problem(|| format!("  {name}: {} elements, expected {len}", info.elements()));
        } else if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            self.problem(|| format!("  {name}: type {}, expected F32, F16 or BF16", info.dtype));
        } else {
            // What the file says must be there before it is given memory.
            out.resize(len, 0.0);
            reference().dequantize(info.dtype, t.bytes(), &mut out);
            if let Some(i) = out.iter().position(|v| !v.is_finite()) {
                self.problem(|| format!("  {name}: element {i} is {}", out[i]));
            }
        }
        self.used.insert(name);
        out
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Linear {
        let weight = self.matrix(format!("{name}.weight"), rows, cols);
        let bias = format!("{name}.bias");
        let bias = self.has(&bias).then(|| self.vector(bias, weight.rows));
        Linear { weight, bias }
    }

    /// A norm of the architecture's kind, if it has one at this place.
    fn norm(&mut self, c: &Config, name: String, here: bool) -> Norm {
        let e = c.embedding_length;
        match c.arch.norm {
            _ if !here => Norm::None,
            NormKind::Rms => Norm::Rms(self.vector(format!("{name}.weight"), e)),
            NormKind::Layer => Norm::Layer(
                self.vector(format!("{name}.weight"), e),
                self.vector(format!("{name}.bias"), e),
            ),
            NormKind::LayerWeights => {
                let weights = self.vector(format!("{name}.weight"), e);
                let biases = vec![0.0; weights.len()];
                Norm::Layer(weights, biases)
            }
            // A width that the file does not have is given no memory.
            NormKind::BareLayer if !self.problems.is_empty() => Norm::None,
            NormKind::BareLayer => Norm::Layer(vec![1.0; e], vec![0.0; e]),
        }
    }

    /// Divisors of rotation angles, one per pair.
    fn factors(&mut self, c: &Config, name: &str) -> Option<Vec<f32>> {
        let name = name.to_owned();
        if !self.has(&name) {
            return None;
        }
        let factors = self.vector(name.clone(), c.rope_dimension_count / 2);
        if factors.contains(&0.0) {
            self.problem(|| format!("  {name}: contains 0"));
        }
        Some(factors)
    }

    fn layer(&mut self, c: &Config, at: &Place) -> Layer {
        if let (Some(r), StateLayers::All) = (&c.recurrent, c.arch.state_layers) {
            return self.recurrent_layer(c, r, at.n);
        }
        let e = c.embedding_length;
        let name = |role: &str| at.name(role);
        let (before, after) = match c.arch.norm_place {
            NormPlace::Before => (true, false),
            NormPlace::After => (false, true),
            NormPlace::Both => (true, true),
        };
        // Branches side by side may share a norm.
        let own = |role, shared| match self.has(&name(&format!("{role}.weight"))) {
            true => role,
            false => shared,
        };
        let attn_norm = own("attn_norm_2", "attn_norm");
        let usual = c.arch.ffn_norm;
        let ffn_norm = own(usual, if c.parallel { "attn_norm" } else { usual });
        let mixer = self.mixer(c, at);
        Layer {
            mixer: Branch {
                norm: self.norm(c, name(attn_norm), before),
                body: mixer,
                post_norm: after.then(|| self.vector(name("post_attention_norm.weight"), e)),
            },
            ffn: Branch {
                norm: self.norm(c, name(ffn_norm), before),
                body: self.feed_forward(c, at),
                post_norm: after.then(|| self.vector(name("post_ffw_norm.weight"), e)),
            },
        }
    }

    fn mixer(&mut self, c: &Config, at: &Place) -> Mixer {
        match (c.layers[at.n].mixer, &c.recurrent) {
            (MixerKind::ShortConv, Some(r)) => self.short_conv(c, r, at.n),
            (MixerKind::DeltaNet, Some(r)) => self.delta_net(c, r, at.n),
            _ => match self.expert_attention(c, at) {
                Some(attention) => Mixer::Experts(attention),
                None => Mixer::Attention(self.attention(c, at)),
            },
        }
    }

    /// Norms of the embeddings, if there is one, and before the output.
    fn outer_norms(&mut self, c: &Config) -> [Norm; 2] {
        let first = "token_embd_norm";
        let last = match c.arch.encoder {
            true => "dec.output_norm",
            false if self.has("output_norm.weight") => "output_norm",
            false => c.arch.output_norm,
        };
        let normed = c.arch.output_norm != first && self.has("token_embd_norm.weight");
        let embedding = self.norm(c, first.into(), normed);
        [embedding, self.norm(c, last.into(), true)]
    }

    /// The layers of further heads. A head too few or too many is one problem.
    fn heads(&mut self, c: &Config) -> Vec<Layer> {
        let file = self.file;
        let number = |name: &str| name.strip_prefix("mtp.")?.split_once('.')?.0.parse().ok();
        let names: Vec<&str> = file.tensors().map(|t| &*t.info().name).collect();
        let there: BTreeSet<usize> = names.iter().filter_map(|n| number(n)).collect();
        let count = c.extra_heads;
        let says = format!("{}.mtp_head_count is {count}", c.arch.name);
        for i in there.range(count..) {
            self.problem(|| format!("  mtp.{i}: unexpected, {says}"));
        }
        let unexpected = names
            .iter()
            .filter(|n| number(n).is_some_and(|i| i >= count));
        self.used.extend(unexpected.map(|n| n.to_string()));
        let mut heads = Vec::new();
        for i in 0..count {
            match there.contains(&i) {
                true => heads.push(self.layer(c, &Place::new("mtp", i, c.block_count + i))),
                false => self.problem(|| format!("  mtp.{i}: missing, {says}")),
            }
        }
        heads
    }

    fn attention(&mut self, c: &Config, at: &Place) -> Attention {
        let (e, sizes) = (c.embedding_length, c.layers[at.n]);
        let (q, kv) = (sizes.q_width(), sizes.kv_width());
        let name = |role: &str| at.name(role);
        let qk_norm = match c.arch.qk_norm {
            QkNorm::None => None,
            QkNorm::Head | QkNorm::HeadRotated => Some([c.head_size; 2]),
            QkNorm::Width => Some([q, kv]),
        };
        let qkv = if c.arch.gated_attention {
            self.scratch(2 * q);
            Qkv::Gated([
                self.linear(&name("attn_q"), 2 * q, e),
                self.linear(&name("attn_k"), kv, e),
                self.linear(&name("attn_v"), kv, e),
            ])
        } else if self.has(&name("attn_qkv.weight")) {
            Qkv::Fused(self.linear(&name("attn_qkv"), q + 2 * kv, e))
        } else {
            Qkv::Split([
                self.linear(&name("attn_q"), q, e),
                self.linear(&name("attn_k"), kv, e),
                self.linear(&name("attn_v"), kv, e),
            ])
        };
        Attention {
            qkv,
            qk_norm: qk_norm.map(|[q, k]| {
                [
                    self.vector(name("attn_q_norm.weight"), q),
                    self.vector(name("attn_k_norm.weight"), k),
                ]
            }),
            output: self.linear(&name("attn_output"), e, q),
        }
    }

    fn feed_forward(&mut self, c: &Config, at: &Place) -> Ffn {
        let (e, f) = (c.embedding_length, c.layers[at.n].feed_forward_length);
        let name = |role: &str| at.name(role);
        if self.has(&name("ffn_gate_inp.weight")) {
            return self.experts(c, at);
        }
        if c.arch.plain.is_some() && !self.has(&name("ffn_gate.weight")) {
            return Ffn::Plain {
                up: self.linear(&name("ffn_up"), f, e),
                down: self.linear(&name("ffn_down"), e, f),
            };
        }
        let gate_up = self.gate_up(&name("ffn_gate"), &name("ffn_up"), f, e);
        let down = self.linear(&name("ffn_down"), e, f);
        Ffn::Gated { gate_up, down }
    }

    /// Gate and up, or one matrix of both under the name of up.
    fn gate_up(&mut self, gate: &str, up: &str, f: usize, e: usize) -> GateUp {
        if self.has(&format!("{gate}.weight")) {
            GateUp::Split([self.linear(gate, f, e), self.linear(up, f, e)])
        } else {
            GateUp::Fused(self.linear(up, 2 * f, e))
        }
    }
}

/// Binds every tensor of the architecture; sets `config.vocab`.
pub fn bind(file: &GgufFile, config: &mut Config) -> Result<Weights> {
    let mut b = Binder {
        file,
        problems: Vec::new(),
        more: 0,
        unsupported: Vec::new(),
        used: Default::default(),
        scratch: 0,
    };
    let e = config.embedding_length;
    let token_embd = b.matrix("token_embd.weight".into(), 0, e);
    config.vocab = token_embd.rows;
    let [embedding_norm, output_norm] = b.outer_norms(config);
    let learned = config.arch.positions == Positions::Learned;
    let position_embd =
        learned.then(|| b.matrix("position_embd.weight".into(), config.context_length, e));
    let heads = config.widest(|l| l.head_count);
    let bias = config.alibi.map(|max| Bias::alibi(heads, max));
    let output = if b.has("output.weight") {
        b.linear("output", config.vocab, e)
    } else {
        Linear {
            weight: token_embd.clone(),
            bias: None,
        }
    };
    let [rope_freqs, rope_factors_long, rope_factors_short] = [
        "rope_freqs.weight",
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    ]
    .map(|name| b.factors(config, name));
    if config.rope_scaling.kind == ScalingKind::LongRope
        && rope_freqs.is_none()
        && (rope_factors_long.is_none() || rope_factors_short.is_none())
    {
        let missing = "  rope_factors_long.weight, rope_factors_short.weight: missing";
        b.problem(|| missing.into());
    }
    let (encoder, layers, bias) = match config.encoder {
        Some(sizes) => {
            let (encoder, layers, bias) = b.encoder(config, sizes);
            (Some(encoder), layers, Some(bias))
        }
        None => {
            let layers = (0..config.block_count).map(|n| Place::new("blk", n, n));
            let layers = layers.map(|at| b.layer(config, &at));
            (None, layers.collect(), bias)
        }
    };
    let heads = b.heads(config);
    config.scratch = b.scratch;
    let all = encoder.iter().flat_map(|e: &Encoder| &e.layers);
    let all: Vec<&Layer> = all.chain(&layers).chain(&heads).collect();
    b.experts_used(config, &all);
    for t in file.tensors() {
        let name = &t.info().name;
        // A dropped layer or a graph this program does not know must not go unnoticed.
        if of_layers(config.arch, name)
            && !b.used.contains(name)
            && !guesses(config, name)
            && !name.ends_with(".rope_freqs.weight")
        {
            b.problem(|| format!("  {name}: not part of architecture {}", config.arch.name));
        }
    }
    if b.problems.is_empty() && !b.unsupported.is_empty() {
        return Err(unsupported(&b.unsupported));
    }
    if b.problems.is_empty() {
        return Ok(Weights {
            token_embd,
            embedding_norm,
            position_embd,
            bias,
            encoder,
            output_norm,
            output,
            rope_freqs,
            rope_factors_long,
            rope_factors_short,
            layers,
            heads,
        });
    }
    if b.more > 0 {
        b.problems.push(format!("  ... and {} more", b.more));
    }
    Err(Error::Tensors(b.problems))
}

fn unsupported(tensors: &[String]) -> Error {
    let known: Vec<_> = Dtype::ALL
        .iter()
        .filter(|t| reference().supports(**t))
        .map(|t| t.name())
        .collect();
    Error::Unsupported {
        what: "tensor type",
        value: format!("{} tensors, first {}", tensors.len(), tensors[0]),
        known: known.join(", "),
    }
}

/// Whether a tensor belongs to the blocks that guess further tokens, which are not run.
fn guesses(c: &Config, name: &str) -> bool {
    let number = name.strip_prefix("blk.").and_then(|n| n.split_once('.'));
    let number = number.and_then(|(number, _)| number.parse().ok());
    number.is_some_and(|n: usize| (c.block_count..c.block_count + c.nextn_blocks).contains(&n))
}

/// Whether a tensor belongs to the layers, so that it must be part of the graph. T5 files may hold a
/// bias for looking at the prompt, which no graph has.
fn of_layers(arch: &Arch, name: &str) -> bool {
    let starts = match arch.encoder {
        true => &["enc.", "dec."][..],
        false => &["blk.", "mtp."][..],
    };
    starts.iter().any(|s| name.starts_with(s)) && !name.ends_with(".cross_attn_rel_b.weight")
}
