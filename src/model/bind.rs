//! Architecture plus file gives weights: every missing, misshapen or unusable tensor is reported at once (rule 13).

use geb_kernels::dtype::Dtype;
use geb_kernels::{Kernels, Level};
use std::ops::Range;

use super::config::Config;
use crate::error::{Error, Result};
use crate::gguf::GgufFile;

/// A weight matrix that stays in the file: `[rows, cols]`, rows contiguous.
#[derive(Clone, Debug)]
pub struct QMatrix {
    /// Type of the weights.
    pub dtype: Dtype,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Bytes in the file.
    pub range: Range<usize>,
}

/// A matrix and its bias: `y = W x + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W, `[out, in]`.
    pub weight: QMatrix,
    /// b, `[out]`.
    pub bias: Option<Vec<f32>>,
}

/// Query, key and value projections: one matrix or three.
#[derive(Clone, Debug)]
pub enum Qkv {
    /// Rows Q, K, V in one matrix.
    Fused(Linear),
    /// Three matrices.
    Split([Linear; 3]),
}

/// Gate and up projections: one matrix, gate rows first, or two.
#[derive(Clone, Debug)]
pub enum GateUp {
    /// Rows gate, up in one matrix.
    Fused(Linear),
    /// Two matrices.
    Split([Linear; 2]),
}

/// Weights of one layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Norm before attention, `[E]`.
    pub attn_norm: Vec<f32>,
    /// Projections into heads.
    pub qkv: Qkv,
    /// Projection back, `[E, H d]`.
    pub attn_output: Linear,
    /// Norm before the feed-forward layer, `[E]`.
    pub ffn_norm: Vec<f32>,
    /// Gate and up.
    pub gate_up: GateUp,
    /// Down, `[E, F]`.
    pub ffn_down: Linear,
}

/// All weights.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Embedding table, `[V, E]`.
    pub token_embd: QMatrix,
    /// Norm before the output, `[E]`.
    pub output_norm: Vec<f32>,
    /// Vocabulary projection, `[V, E]`; the embedding table when the file has none.
    pub output: Linear,
    /// Divisors of the rotation frequencies, `[r / 2]`.
    pub rope_freqs: Option<Vec<f32>>,
    /// The layers.
    pub layers: Vec<Layer>,
}

/// The scalar kernels: every format that has kernels has these.
fn reference() -> &'static Kernels {
    Kernels::for_level(Level::Scalar).expect("every build has the scalar level")
}

/// Collects problems while tensors are looked up.
struct Binder<'a> {
    file: &'a GgufFile,
    problems: Vec<String>,
    unsupported: Vec<String>,
    used: std::collections::HashSet<String>,
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

    fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// A matrix `[rows, cols]`; `rows` of 0 accepts any number.
    fn matrix(&mut self, name: String, rows: usize, cols: usize) -> QMatrix {
        let Some(t) = self.file.tensor(&name) else {
            self.problems
                .push(format!("  {name}: missing, expected [{rows}, {cols}]"));
            return Self::placeholder();
        };
        let info = t.info();
        let found = (info.rows(), info.cols(), info.dims.len());
        if found.1 != cols || (rows != 0 && found.0 != rows) || found.2 > 2 {
            self.problems.push(format!(
                "  {name}: shape [{}, {}], expected [{rows}, {cols}]",
                found.0, found.1
            ));
        }
        if !reference().supports(info.dtype) {
            self.unsupported.push(format!("{name} ({})", info.dtype));
        }
        self.used.insert(name);
        QMatrix {
            dtype: info.dtype,
            rows: found.0,
            cols: found.1,
            range: info.range.clone(),
        }
    }

    /// A vector of floats, `[len]`, copied out (norms and biases are small).
    fn vector(&mut self, name: String, len: usize) -> Vec<f32> {
        let Some(t) = self.file.tensor(&name) else {
            self.problems
                .push(format!("  {name}: missing, expected [{len}]"));
            return Vec::new();
        };
        let info = t.info();
        let mut out = vec![0.0; len];
        if info.elements() != len as u64 {
            self.problems.push(format!(
                "  {name}: {} elements, expected {len}",
                info.elements()
            ));
        } else if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            self.problems.push(format!(
                "  {name}: type {}, expected F32, F16 or BF16",
                info.dtype
            ));
        } else {
            reference().dequantize(info.dtype, t.bytes(), &mut out);
            if let Some(i) = out.iter().position(|v| !v.is_finite()) {
                self.problems
                    .push(format!("  {name}: element {i} is {}", out[i]));
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

    fn layer(&mut self, c: &Config, n: usize) -> Layer {
        let (e, f, q, kv) = (
            c.embedding_length,
            c.feed_forward_length,
            c.q_width(),
            c.kv_width(),
        );
        let name = |role: &str| format!("blk.{n}.{role}");
        Layer {
            attn_norm: self.vector(name("attn_norm.weight"), e),
            qkv: if self.has(&name("attn_qkv.weight")) {
                Qkv::Fused(self.linear(&name("attn_qkv"), q + 2 * kv, e))
            } else {
                Qkv::Split([
                    self.linear(&name("attn_q"), q, e),
                    self.linear(&name("attn_k"), kv, e),
                    self.linear(&name("attn_v"), kv, e),
                ])
            },
            attn_output: self.linear(&name("attn_output"), e, q),
            ffn_norm: self.vector(name("ffn_norm.weight"), e),
            gate_up: if self.has(&name("ffn_gate.weight")) {
                GateUp::Split([
                    self.linear(&name("ffn_gate"), f, e),
                    self.linear(&name("ffn_up"), f, e),
                ])
            } else {
                GateUp::Fused(self.linear(&name("ffn_up"), 2 * f, e))
            },
            ffn_down: self.linear(&name("ffn_down"), e, f),
        }
    }
}

/// Binds every tensor of the architecture; sets `config.vocab`.
pub fn bind(file: &GgufFile, config: &mut Config) -> Result<Weights> {
    let mut b = Binder {
        file,
        problems: Vec::new(),
        unsupported: Vec::new(),
        used: Default::default(),
    };
    let e = config.embedding_length;
    let token_embd = b.matrix("token_embd.weight".into(), 0, e);
    config.vocab = token_embd.rows;
    let output_norm = b.vector("output_norm.weight".into(), e);
    let output = if b.has("output.weight") {
        b.linear("output", config.vocab, e)
    } else {
        Linear {
            weight: token_embd.clone(),
            bias: None,
        }
    };
    let freqs = "rope_freqs.weight".to_owned();
    let rope_freqs = b
        .has(&freqs)
        .then(|| b.vector(freqs, config.rope_dimension_count / 2));
    if rope_freqs.as_ref().is_some_and(|f| f.contains(&0.0)) {
        b.problems.push("  rope_freqs.weight: contains 0".into());
    }
    let layers = (0..config.block_count)
        .map(|n| b.layer(config, n))
        .collect();
    for t in file.tensors() {
        let name = &t.info().name;
        // A dropped layer or a graph this program does not know must not go unnoticed.
        if name.starts_with("blk.")
            && !b.used.contains(name)
            && !name.ends_with(".rope_freqs.weight")
        {
            b.problems.push(format!(
                "  {name}: not part of architecture {}",
                config.arch.name
            ));
        }
    }
    if b.problems.is_empty() && !b.unsupported.is_empty() {
        return Err(unsupported(&b.unsupported));
    }
    if b.problems.is_empty() {
        return Ok(Weights {
            token_embd,
            output_norm,
            output,
            rope_freqs,
            layers,
        });
    }
    let shown = 40;
    if b.problems.len() > shown {
        let rest = b.problems.len() - shown;
        b.problems.truncate(shown);
        b.problems.push(format!("  ... and {rest} more"));
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
