//! The weights of a model as the layer loop meets them. Matrices stay in the file.

use std::ops::Range;
use std::slice::from_ref;

use geb_kernels::dtype::Dtype;

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

/// A norm of the residual stream.
#[derive(Clone, Debug)]
pub enum Norm {
    /// None at this place.
    None,
    /// RMSNorm with weights `[E]`.
    Rms(Vec<f32>),
    /// LayerNorm with weights and biases `[E]`.
    Layer(Vec<f32>, Vec<f32>),
}

/// A branch of a layer: `x += post_norm(body(norm(x)))`.
#[derive(Clone, Debug)]
pub struct Branch<T> {
    /// Norm of what goes in.
    pub norm: Norm,
    /// What it computes.
    pub body: T,
    /// RMSNorm weights of what comes out, `[E]`.
    pub post_norm: Option<Vec<f32>>,
}

/// Self-attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Projections into heads.
    pub qkv: Qkv,
    /// RMSNorm weights of queries and of keys, `[d]` for each head or `[H d]` and `[K d]` for all.
    pub qk_norm: Option<[Vec<f32>; 2]>,
    /// Projection back, `[E, H d]`.
    pub output: Linear,
}

/// What mixes the tokens.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Attention over the KV cache.
    Attention(Attention),
}

/// What works on each token alone.
#[derive(Clone, Debug)]
pub enum Ffn {
    /// `down(act(gate x) * up x)`.
    Gated {
        /// Gate and up.
        gate_up: GateUp,
        /// Down, `[E, F]`.
        down: Linear,
    },
}

/// Weights of one layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Mixes the tokens.
    pub mixer: Branch<Mixer>,
    /// Works on each token.
    pub ffn: Branch<Ffn>,
}

impl Layer {
    /// The linear maps of the layer, in order; those of a group have the same input.
    pub fn linears(&self) -> Vec<&[Linear]> {
        let mut groups: Vec<&[Linear]> = Vec::new();
        match &self.mixer.body {
            Mixer::Attention(a) => {
                groups.push(match &a.qkv {
                    Qkv::Fused(w) => from_ref(w),
                    Qkv::Split(w) => w,
                });
                groups.push(from_ref(&a.output));
            }
        }
        match &self.ffn.body {
            Ffn::Gated { gate_up, down } => {
                groups.push(match gate_up {
                    GateUp::Fused(w) => from_ref(w),
                    GateUp::Split(w) => w,
                });
                groups.push(from_ref(down));
            }
        }
        groups
    }
}

/// All weights.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Embedding table, `[V, E]`.
    pub token_embd: QMatrix,
    /// Norm before the output.
    pub output_norm: Norm,
    /// Vocabulary projection, `[V, E]`; the embedding table when the file has none.
    pub output: Linear,
    /// Divisors of the rotation frequencies, `[r / 2]`.
    pub rope_freqs: Option<Vec<f32>>,
    /// The divisors for runs longer than the original context (LongRoPE).
    pub rope_factors_long: Option<Vec<f32>>,
    /// The divisors for other runs.
    pub rope_factors_short: Option<Vec<f32>>,
    /// The layers.
    pub layers: Vec<Layer>,
}
