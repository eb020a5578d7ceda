//! The weights of a model as the layer loop meets them. Matrices stay in the file.

mod bias;

use std::ops::Range;
use std::slice::from_ref;

use geb_kernels::dtype::Dtype;

use super::Config;
pub use bias::Bias;

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

impl QMatrix {
    /// Some of its rows, as a matrix.
    pub fn part(&self, rows: Range<usize>) -> QMatrix {
        let row = self.range.len() / self.rows.max(1);
        let rows = rows.start.min(self.rows)..rows.end.min(self.rows);
        let start = self.range.start + rows.start * row;
        QMatrix {
            rows: rows.len(),
            range: start..start + rows.len() * row,
            ..*self
        }
    }
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
    /// Three matrices, that of the queries with a gate behind each head: `[H, 2, d]` rows.
    Gated([Linear; 3]),
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
    /// Attention whose queries and output are those of a few experts for each token.
    Experts(ExpertAttention),
    /// Time mixing of RWKV 6.
    Rwkv6(Box<Rwkv6>),
    /// Time mixing of RWKV 7.
    Rwkv7(Box<Rwkv7>),
    /// A selective state space.
    Mamba(Box<Mamba>),
    /// A gated convolution over a few tokens.
    ShortConv(Box<ShortConv>),
    /// A gated delta net.
    DeltaNet(Box<DeltaNet>),
}

/// A mixture of attention heads (JetMoE, arXiv 2404.07413): each of the k experts of a token has K
/// query heads, one for each KV head.
#[derive(Clone, Debug)]
pub struct ExpertAttention {
    /// Router, `[X, E]`.
    pub router: Linear,
    /// Queries of each expert, `[K d, E]`.
    pub queries: Vec<Linear>,
    /// Keys and values of all experts, `[K d, E]`.
    pub keys_values: [Linear; 2],
    /// Back from the heads of each expert, `[E, K d]`.
    pub outputs: Vec<Linear>,
    /// Added to the sum of the outputs, `[E]`.
    pub bias: Option<Vec<f32>>,
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
    /// Channel mixing of RWKV.
    ChannelMix(ChannelMix),
    /// Nothing.
    None,
    /// `down(act(up x))`.
    Plain {
        /// Up, `[F, E]`.
        up: Linear,
        /// Down, `[E, F]`.
        down: Linear,
    },
    /// A few of many such layers for each token.
    Experts(Experts),
}

/// One expert.
#[derive(Clone, Debug)]
pub struct Expert {
    /// Gate and up, `[Fx, E]` each, or up alone.
    pub inner: Vec<Linear>,
    /// Down, `[E, Fx]`.
    pub down: Linear,
}

/// A mixture of experts: `sum over the chosen e of weight_e expert_e(x)`.
#[derive(Clone, Debug)]
pub struct Experts {
    /// Router, `[X, E]`.
    pub router: Linear,
    /// The experts, X of them.
    pub experts: Vec<Expert>,
    /// Works on every token.
    pub shared: Option<Shared>,
    /// Added to the sum, `[E]`.
    pub bias: Option<Vec<f32>>,
}

/// An expert for every token: `sigmoid(router x) down(act(gate x) * up x)`.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its weight, `[1, E]`.
    pub router: Linear,
    /// Gate and up.
    pub gate_up: GateUp,
    /// Down, `[E, Fs]`.
    pub down: Linear,
}

impl GateUp {
    /// The matrices.
    pub fn linears(&self) -> &[Linear] {
        match self {
            GateUp::Fused(w) => from_ref(w),
            GateUp::Split(w) => w,
        }
    }
}

/// Attention over the text that an encoder has read.
#[derive(Clone, Debug)]
pub struct Cross {
    /// Queries, `[H d, E]`.
    pub q: Linear,
    /// Keys and values of the text, `[K d, E]` each.
    pub kv: [Linear; 2],
    /// Projection back, `[E, H d]`.
    pub output: Linear,
}

/// What reads the prompt of a model with an encoder.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Norm of what they make.
    pub norm: Norm,
    /// What is added to the scores of its attention.
    pub bias: Bias,
    /// For each layer of the decoder: its look at the prompt, after its own attention.
    pub cross: Vec<Branch<Cross>>,
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
    /// Floats of state that the two branches keep.
    pub fn state_len(&self, c: &Config) -> [usize; 2] {
        let r = c.recurrent.map_or(0, |r| r.inner * r.state);
        let mixer = match &self.mixer.body {
            Mixer::Attention(_) | Mixer::Experts(_) => 0,
            Mixer::Rwkv6(_) | Mixer::Rwkv7(_) => c.embedding_length + r,
            Mixer::Mamba(m) => (m.taps() - 1) * m.conv_bias.len() + r,
            // All inputs but the current one.
            Mixer::ShortConv(m) => m.conv.len() - c.embedding_length.min(m.conv.len()),
            Mixer::DeltaNet(m) => m.conv.len() - m.channels().min(m.conv.len()) + r,
        };
        let ffn = match &self.ffn.body {
            Ffn::ChannelMix(_) => c.embedding_length,
            _ => 0,
        };
        [mixer, ffn]
    }

    /// The linear maps of the layer, in order; those of a group have the same input.
    pub fn linears(&self) -> Vec<&[Linear]> {
        self.inputs().into_iter().flatten().collect()
    }

    /// As [`Layer::linears`], with the groups of all experts together: their inputs are some of the
    /// tokens each.
    pub fn inputs(&self) -> Vec<Vec<&[Linear]>> {
        let mut inputs: Vec<Vec<&[Linear]>> = Vec::new();
        match &self.mixer.body {
            Mixer::Attention(a) => {
                inputs.push(match &a.qkv {
                    Qkv::Fused(w) => vec![from_ref(w)],
                    Qkv::Split(w) | Qkv::Gated(w) => vec![w],
                });
                inputs.push(vec![from_ref(&a.output)]);
            }
            Mixer::Experts(a) => {
                inputs.push(vec![from_ref(&a.router)]);
                inputs.push(a.queries.iter().map(from_ref).collect());
                inputs.push(vec![&a.keys_values]);
                inputs.push(a.outputs.iter().map(from_ref).collect());
            }
            Mixer::Rwkv6(m) => inputs.extend(m.linears().map(|w| vec![from_ref(w)])),
            Mixer::Rwkv7(m) => inputs.extend(m.linears().map(|w| vec![from_ref(w)])),
            Mixer::Mamba(m) => inputs.extend(m.linears().map(|w| vec![w])),
            Mixer::ShortConv(m) => inputs.extend([vec![&m.input[..]], vec![from_ref(&m.output)]]),
            Mixer::DeltaNet(m) => inputs.extend([vec![&m.input[..]], vec![from_ref(&m.output)]]),
        }
        match &self.ffn.body {
            Ffn::Gated { gate_up, down } => {
                inputs.extend([vec![gate_up.linears()], vec![from_ref(down)]]);
            }
            Ffn::Experts(w) => {
                inputs.push(vec![from_ref(&w.router)]);
                inputs.push(w.experts.iter().map(|e| &e.inner[..]).collect());
                inputs.push(w.experts.iter().map(|e| from_ref(&e.down)).collect());
                if let Some(s) = &w.shared {
                    inputs.push(vec![from_ref(&s.router)]);
                    inputs.extend([vec![s.gate_up.linears()], vec![from_ref(&s.down)]]);
                }
            }
            Ffn::Plain { up, down } => inputs.extend([vec![from_ref(up)], vec![from_ref(down)]]),
            Ffn::ChannelMix(m) => {
                inputs.push(vec![from_ref(&m.key)]);
                inputs.extend(m.receptance.iter().map(|(_, w)| vec![from_ref(w)]));
                inputs.push(vec![from_ref(&m.value)]);
            }
            Ffn::None => {}
        }
        inputs
    }
}

/// Two matrices of low rank, one after the other.
pub type LowRank = [Linear; 2];

/// Time mixing of RWKV 6.
#[derive(Clone, Debug)]
pub struct Rwkv6 {
    /// How much of the token before goes into the mixing factors, `[E]`.
    pub lerp_x: Vec<f32>,
    /// The fixed part of the mixing factors of w, k, v, r, g, `[E]` each.
    pub lerp: [Vec<f32>; 5],
    /// Into the ranks of their other part, `[rank, E]` each.
    pub mix_in: [Linear; 5],
    /// And back, `[E, rank]` each.
    pub mix_out: [Linear; 5],
    /// What decays, with a bias.
    pub decay: LowRank,
    /// Key, value, receptance, gate: `[E, E]`.
    pub kvrg: [Linear; 4],
    /// Weight of the token itself, `[E]`.
    pub first: Vec<f32>,
    /// Weight and bias of the norm of each head, `[E]`.
    pub norm: [Vec<f32>; 2],
    /// Projection back, `[E, E]`.
    pub output: Linear,
}

impl Rwkv6 {
    /// The matrices that may be quantized.
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.kvrg.iter().chain([&self.output])
    }
}

/// Time mixing of RWKV 7.
#[derive(Clone, Debug)]
pub struct Rwkv7 {
    /// How much of the token before goes into r, w, k, v, a, g, `[E]` each.
    pub lerp: [Vec<f32>; 6],
    /// Receptance, key, value: `[E, E]`.
    pub rkv: [Linear; 3],
    /// Decay, with a bias.
    pub decay: LowRank,
    /// In-context learning rate, with a bias.
    pub rate: LowRank,
    /// How much of the first layer's values is taken, with a bias; the first layer has none.
    pub value: Option<LowRank>,
    /// Gate.
    pub gate: LowRank,
    /// Factor of the keys that are removed, `[E]`.
    pub k_k: Vec<f32>,
    /// How much the learning rate scales the keys, `[E]`.
    pub k_a: Vec<f32>,
    /// Weight of the token itself, `[E]`.
    pub r_k: Vec<f32>,
    /// Weight and bias of the norm of each head, `[E]`.
    pub norm: [Vec<f32>; 2],
    /// Projection back, `[E, E]`.
    pub output: Linear,
}

impl Rwkv7 {
    /// The matrices that may be quantized.
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.rkv.iter().chain([&self.output])
    }
}

/// Channel mixing of RWKV: `sigmoid(receptance x_r) * value relu(key x_k)^2`.
#[derive(Clone, Debug)]
pub struct ChannelMix {
    /// How much of the token before goes into the key's input, `[E]`.
    pub lerp: Vec<f32>,
    /// `[F, E]`.
    pub key: Linear,
    /// `[E, F]`.
    pub value: Linear,
    /// Mixing factors `[E]` and matrix `[E, E]` of the receptance (RWKV 6).
    pub receptance: Option<(Vec<f32>, Linear)>,
}

/// A selective state space: convolution, step sizes, scan, gate.
#[derive(Clone, Debug)]
pub struct Mamba {
    /// Input: z `[D, E]` and what is convolved; of Mamba 2 also the step size `[heads, E]`.
    pub input: Vec<Linear>,
    /// Factors of the convolution, `[taps, channels]`, the last one for the current token.
    pub conv: Vec<f32>,
    /// `[channels]`.
    pub conv_bias: Vec<f32>,
    /// Mamba 1: the step size's ranks, B and C from the convolved input, and the step size from its
    /// ranks, with a bias.
    pub step: Option<([Linear; 3], Linear)>,
    /// Mamba 2: bias of the step size, `[heads]`.
    pub step_bias: Vec<f32>,
    /// Decay, negative: `[D, N]`, of Mamba 2 `[heads]`.
    pub a: Vec<f32>,
    /// Weight of the token itself: `[D]`, of Mamba 2 `[heads]`.
    pub d: Vec<f32>,
    /// Mamba 2: norm of what comes out, `[D]`.
    pub norm: Vec<f32>,
    /// Projection back, `[E, D]`.
    pub output: Linear,
}

impl Mamba {
    /// Tokens that the convolution sees.
    pub fn taps(&self) -> usize {
        (self.conv.len() / self.conv_bias.len().max(1)).max(1)
    }

    fn linears(&self) -> impl Iterator<Item = &[Linear]> {
        let step = self.step.iter();
        [&self.input[..]]
            .into_iter()
            .chain(step.flat_map(|(w, dt)| [&w[..], from_ref(dt)]))
            .chain([from_ref(&self.output)])
    }
}

/// A gated convolution over a few tokens: `output(C * conv(B * X))`.
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// B, C and X, `[E, E]` each.
    pub input: [Linear; 3],
    /// Factors of the convolution, `[taps, E]`, the last one for the current token.
    pub conv: Vec<f32>,
    /// Projection back, `[E, E]`.
    pub output: Linear,
}

/// A gated delta net (arXiv 2412.06464): G heads of queries and keys of size n, which several of the heads of
/// values share.
#[derive(Clone, Debug)]
pub struct DeltaNet {
    /// Queries, keys and values `[2 G n + D, E]`, which are convolved; the gate of what comes out `[D, E]`; of
    /// each head how much is corrected, and the step size of its decay, `[heads, E]` each or one behind the other
    /// for each of the G heads in one matrix.
    pub input: Vec<Linear>,
    /// Factors of the convolution, `[taps, channels]`, the last one for the current token.
    pub conv: Vec<f32>,
    /// Bias of the step size, `[heads]`.
    pub step_bias: Vec<f32>,
    /// Decay, negative, `[heads]`.
    pub a: Vec<f32>,
    /// Norm of what comes out of each head, `[D / heads]`.
    pub norm: Vec<f32>,
    /// Projection back, `[E, D]`.
    pub output: Linear,
}

impl DeltaNet {
    /// What is convolved.
    pub fn channels(&self) -> usize {
        self.input[0].weight.rows
    }
}

/// All weights.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Embedding table, `[V, E]`.
    pub token_embd: QMatrix,
    /// What is added to the embedding at each position, `[context, E]`.
    pub position_embd: Option<QMatrix>,
    /// What is added to the scores of attention.
    pub bias: Option<Bias>,
    /// What reads the prompt; `layers` are those of the decoder then.
    pub encoder: Option<Encoder>,
    /// Norm of the embeddings.
    pub embedding_norm: Norm,
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
    /// Further heads: each takes what goes into the last of the layers, in the place of that layer.
    pub heads: Vec<Layer>,
}
