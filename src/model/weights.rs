//! The weights of a model as the layer loop meets them. Matrices stay in the file.

use std::ops::Range;
use std::slice::from_ref;

use geb_kernels::dtype::Dtype;

use super::Config;

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

/// What is added to the scores of a head, by the distance from query to key.
#[derive(Clone, Debug)]
pub enum Bias {
    /// The distance times a slope for each head (ALiBi).
    Slopes(Vec<f32>),
    /// A value for each distance from `-reach` to `reach`, beyond which nothing changes (T5).
    Distances {
        /// `[heads, 2 reach + 1]`.
        table: Vec<f32>,
        /// Largest distance.
        reach: usize,
    },
}

impl Bias {
    /// The slopes of ALiBi (arXiv 2108.12409): powers of one ratio for as many heads as the next lower
    /// power of two has, then every second power of its root.
    pub fn alibi(heads: usize, max_bias: f32) -> Bias {
        let whole = match heads.is_power_of_two() {
            true => heads,
            false => heads.next_power_of_two() / 2,
        };
        let slope = |h: usize| {
            let power = match h < whole {
                true => max_bias * (h + 1) as f32 / whole as f32,
                false => max_bias / 2.0 * (2 * (h - whole) + 1) as f32 / whole as f32,
            };
            (-power).exp2()
        };
        Bias::Slopes((0..heads).map(slope).collect())
    }

    /// T5's: `values` `[buckets, heads]`; from a distance of `reach` on all keys are in the last bucket; keys
    /// after the query have half of the buckets if it sees them.
    pub fn buckets(values: &[f32], buckets: usize, reach: usize, both_sides: bool) -> Bias {
        let (heads, end) = (values.len() / buckets, reach as isize);
        let value = |head: usize, distance| {
            let bucket = bucket(distance, buckets, reach, both_sides);
            values[bucket * heads + head]
        };
        let of = |head| (-end..=end).map(move |distance| value(head, distance));
        Bias::Distances {
            table: (0..heads).flat_map(of).collect(),
            reach,
        }
    }

    /// Of `head`, for a key `distance` positions after the query.
    pub fn at(&self, head: usize, distance: isize) -> f32 {
        match self {
            Bias::Slopes(slopes) => slopes[head] * distance as f32,
            Bias::Distances { table, reach } => {
                let reach = *reach as isize;
                let at = (distance.clamp(-reach, reach) + reach) as usize;
                table[head * (2 * reach + 1) as usize + at]
            }
        }
    }
}

/// The bucket of a distance (arXiv 1910.10683): one for each small distance, then ever wider ones.
fn bucket(distance: isize, buckets: usize, reach: usize, both_sides: bool) -> usize {
    let (side, count, away) = match both_sides {
        true if distance > 0 => (buckets / 2, buckets / 2, distance),
        true => (0, buckets / 2, -distance),
        false => (0, buckets, (-distance).max(0)),
    };
    let (exact, away) = (count / 2, away as usize);
    if away < exact {
        return side + away;
    }
    let share = (away as f32 / exact as f32).ln() / (reach as f32 / exact as f32).ln();
    let wide = exact + (share * (count - exact) as f32) as usize;
    side + wide.min(count - 1)
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
                    Qkv::Split(w) => vec![w],
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

#[cfg(test)]
mod tests {
    use super::{Bias, bucket};

    #[test]
    fn buckets_are_the_published_ones() {
        let both = |d| bucket(d, 32, 128, true);
        let want = [15, 10, 8, 1, 0, 17, 24, 26, 31];
        assert_eq!([-200, -20, -8, -1, 0, 1, 8, 20, 200].map(both), want);
        let causal = |d| bucket(d, 32, 128, false);
        let want = [31, 23, 16, 15, 1, 0, 0];
        assert_eq!([-200, -40, -16, -15, -1, 0, 3].map(causal), want);
        let values: Vec<f32> = (0..64).map(|v| v as f32).collect();
        let bias = Bias::buckets(&values, 32, 128, true);
        assert_eq!(
            [bias.at(1, -200), bias.at(0, 1), bias.at(1, 300)],
            [31.0, 34.0, 63.0]
        );
    }

    /// Against `T5Attention._relative_position_bucket` with `max_distance` other than 128.
    #[test]
    fn buckets_end_where_the_file_says() {
        let of = |reach, both, distances: [isize; 8]| distances.map(|d| bucket(d, 32, reach, both));
        let both = [-2000, -19, -12, -9, 7, 13, 40, 300];
        let causal = [5, -15, -17, -19, -30, -63, -400, -2000];
        let want = [15, 15, 11, 9, 23, 28, 31, 31];
        assert_eq!(of(20, true, both), want);
        assert_eq!(of(64, true, both), [15, 11, 9, 8, 23, 25, 30, 31]);
        assert_eq!(of(1000, true, both), [15, 9, 8, 8, 23, 24, 26, 30]);
        assert_eq!(of(20, false, causal), [0, 15, 20, 28, 31, 31, 31, 31]);
        assert_eq!(of(64, false, causal), [0, 15, 16, 17, 23, 31, 31, 31]);
        assert_eq!(of(1000, false, causal), [0, 15, 16, 16, 18, 21, 28, 31]);
        let values: Vec<f32> = (0..32).map(|v| v as f32).collect();
        let bias = Bias::buckets(&values, 32, 1000, false);
        assert_eq!([bias.at(0, -400), bias.at(0, -5000)], [28.0, 31.0]);
    }

    #[test]
    fn slopes_are_the_published_ones() {
        let slopes = |heads: usize| -> Vec<f32> {
            let bias = Bias::alibi(heads, 8.0);
            (0..heads).map(|h| bias.at(h, 1)).collect()
        };
        assert_eq!(slopes(8)[..2], [0.5, 0.25]);
        assert_eq!(slopes(8)[7], 0.00390625);
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8));
        for (slope, want) in twelve[8..].iter().zip([
            std::f32::consts::FRAC_1_SQRT_2,
            0.353553,
            0.176777,
            0.088388,
        ]) {
            assert!((slope - want).abs() < 1e-6);
        }
    }
}
