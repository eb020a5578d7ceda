//! Architectures as data: each is one small file of answers to the questions below, and one
//! layer loop (`model/forward.rs`) serves them all. Nothing here contains a loop.

mod arcee;
mod bloom;
mod chatglm;
mod cohere2;
mod ernie4_5;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt2;
mod gptneo;
mod gptneox;
mod granite;
mod hunyuan_dense;
mod jetmoe;
mod lfm2;
mod llama;
mod mamba;
mod mamba2;
mod minicpm;
mod mistral3;
mod olmo;
mod olmo2;
mod olmoe;
mod openelm;
mod phi2;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen35moe;
mod qwen3moe;
mod qwen3next;
mod registry;
mod rwkv6;
mod rwkv7;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod t5;

pub use registry::REGISTRY;

/// How the elements of a head are paired for rotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopePairing {
    /// `(2i, 2i+1)`.
    Adjacent,
    /// `(i, i + r/2)`.
    Half,
}

/// What mixes the tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MixerKind {
    /// Attention over keys and values.
    Attention,
    /// RWKV 6: a matrix per head that decays by what the token says.
    Rwkv6,
    /// RWKV 7: the same with a delta rule.
    Rwkv7,
    /// A selective state space with a decay for each channel and state.
    Mamba,
    /// The same with one decay for a head.
    Mamba2,
    /// A gated convolution over a few tokens (LFM2).
    ShortConv,
    /// A gated delta rule: a matrix per head that decays and is corrected (arXiv 2412.06464).
    DeltaNet,
}

/// Every so many layers of architectures with [`StateLayers::Listed`] one has attention, if the file does not say.
pub const FULL_EVERY: usize = 4;

/// Which layers keep a state, of an architecture whose mixer does; the others have attention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateLayers {
    /// All of them.
    All,
    /// Those without KV heads: `attention.head_count_kv` has a number for each layer, there 0.
    WithoutHeads,
    /// Those that `attention.recurrent_layers` names or, without that key, all but the last of every
    /// `full_attention_interval`.
    Listed,
}

/// How a token's position is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rope,
    /// A vector for each position is added to the embedding.
    Learned,
    /// Scores fall with the distance, by a slope for each head (ALiBi, arXiv 2108.12409).
    Alibi,
    /// Scores change with the distance by learned steps (T5, arXiv 1910.10683).
    Buckets,
}

/// How layers with a window rotate, beside layers that see all positions.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WindowRope {
    /// As all layers.
    Same,
    /// Not stretched.
    Plain,
    /// Not stretched, with this base.
    Base(f32),
}

/// Which layers rotate neither queries nor keys (NoPE), where others do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unrotated {
    /// None.
    None,
    /// The last one of every so many.
    Every(usize),
    /// Those that see all positions.
    Full,
    /// The same in models that have a window.
    FullBesideWindows,
}

/// Formula of the norms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NormKind {
    /// RMSNorm with weights.
    Rms,
    /// LayerNorm with weights and biases.
    Layer,
    /// LayerNorm with weights alone.
    LayerWeights,
    /// LayerNorm without weights and biases.
    BareLayer,
}

/// Where a layer norms: what goes into attention and feed-forward, what comes out, or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NormPlace {
    /// `x + f(norm(x))`.
    Before,
    /// `x + norm(f(x))`.
    After,
    /// `x + norm(f(norm(x)))`.
    Both,
}

/// RMSNorm of queries and keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head on its own, before rotation; weights `[d]` shared by the heads.
    Head,
    /// The same after rotation.
    HeadRotated,
    /// All heads of a token together, before rotation; weights `[H d]` and `[K d]`.
    Width,
}

/// Activation of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// SiLU.
    Silu,
    /// GELU, tanh form.
    Gelu,
    /// The larger of the number and 0.
    Relu,
    /// Its square (arXiv 2109.08668).
    ReluSquared,
}

/// Factors of embedding, residual branches and logits where the file has no keys for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalars {
    /// All 1.
    Ones,
    /// Embeddings times the root of the width.
    RootWidth,
    /// 12; 1.4 / root of the layers; logits times 256 / width.
    MiniCpm,
    /// Logits over the root of the width where the output matrix is the embedding.
    Tied,
}

/// What says how wide feed-forward layers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FfnWidth {
    /// `feed_forward_length`.
    Key,
    /// The rows of `ffn_up`.
    Tensors,
}

/// What the scale of the logits in a file does to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogitScale {
    /// They are divided by it.
    Divides,
    /// They are multiplied by it.
    Multiplies,
}

/// An architecture: what differs between the graphs of the family.
#[derive(Debug)]
pub struct Arch {
    /// Value of `general.architecture`, also the prefix of its keys.
    pub name: &'static str,
    /// What mixes the tokens; all but attention keep a state instead of keys and values.
    pub mixer: MixerKind,
    /// Which layers have that mixer, if it keeps a state.
    pub state_layers: StateLayers,
    /// A gate for each number that attention makes comes with the queries: `attn_q` has `[q, gate]` of each head.
    pub gated_attention: bool,
    /// Heads of values that share a key head lie side by side; otherwise they take turns (delta nets).
    pub grouped_values: bool,
    /// How positions are told.
    pub positions: Positions,
    /// Pairing of the rotation.
    pub rope: RopePairing,
    /// Rotated share of a head when `rope.dimension_count` is absent: 1 / this.
    pub rope_divisor: usize,
    /// Layers that do not rotate.
    pub unrotated: Unrotated,
    /// Formula of the norms.
    pub norm: NormKind,
    /// Place of the norms.
    pub norm_place: NormPlace,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Name of the norm before the feed-forward part.
    pub ffn_norm: &'static str,
    /// Name of the norm before the output in files that have no `output_norm`.
    pub output_norm: &'static str,
    /// Activation of the gate.
    pub gate: Gate,
    /// Activation of feed-forward layers without `ffn_gate`; `None`: `ffn_up` holds the gate too.
    pub plain: Option<Gate>,
    /// Where the width of feed-forward layers is told.
    pub ffn_width: FfnWidth,
    /// An encoder reads the prompt, and the layers look at what it made of it.
    pub encoder: bool,
    /// Scores are divided by the root of the head size, if the file does not say.
    pub scaled: bool,
    /// Models of so many layers divide them by the root of width / heads instead.
    pub wide_scale_layers: Option<usize>,
    /// Caps of scores and of logits, if the file does not say; 0: none.
    pub softcaps: [f32; 2],
    /// What a token sees in layers with a window, if the file does not say; 0: all.
    pub window: usize,
    /// Attention and feed-forward see the same input, if the file does not say.
    pub parallel: bool,
    /// Whether the weights of a token's experts are divided by their sum, if the file does not say.
    pub renormalise: bool,
    /// Default factors.
    pub scalars: Scalars,
    /// Meaning of `logit_scale`.
    pub logit_scale: LogitScale,
    /// If the file does not say: every so many layers, the last one sees all positions and the
    /// others a window; 1: a window, if there is one, holds for all layers.
    pub full_every: usize,
    /// Rotation of layers with a window, if the file does not say.
    pub window_rope: WindowRope,
}
