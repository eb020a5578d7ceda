//! What a family of checkpoints and one of its models are: the tables and numbers that readers fill and walks follow.

use super::recurrent::{Kind, States};
use crate::config::Config;
use geb::error::Result;
use geb::gguf::writer::MetaValue;

/// Reads what only some families state.
type More = fn(&Config<'_>, &mut Hyper) -> Result<()>;

/// A family: everything that tells it from the others, before numbers are read.
#[derive(Debug)]
pub struct Family {
    /// Values of `architectures[0]`.
    pub classes: &'static [&'static str],
    /// Values of `model_type`, looked at when there is no class.
    pub types: &'static [&'static str],
    /// GGUF architecture.
    pub architecture: &'static str,
    /// Heads of q and k are stored for pairs `(i, i + d/2)` and reordered for `(2i, 2i+1)`.
    pub permuted: bool,
    /// The norms of the reference are LayerNorm (another key for epsilon).
    pub layer_norm: bool,
    /// Added to the weights of norms: 1 where the reference multiplies by one plus them.
    pub norm_offset: f32,
    /// Whether the output matrix is the embedding when the configuration does not say.
    pub tied: bool,
    /// Names under which the activation is stated, and its names that the graph has.
    pub activation: (&'static [&'static str], &'static [&'static str]),
    /// Switches that the graph has in one position only: name, position, what is allowed.
    pub fixed: &'static [(&'static str, bool, &'static str)],
    /// Keys that only this family has, and that its graph or its tensors answer.
    pub harmless: &'static [&'static str],
    /// `sliding_window` holds for the layers.
    pub windowed: bool,
    /// The rotation of layers with a window.
    pub window_rope: WindowRope,
    /// Share of a head that is rotated when the configuration does not say; `None`: no rotation.
    pub rotated: Option<f64>,
    /// A number of the rotation's map that only this family has.
    pub rope_number: Option<&'static str>,
    /// Trained context when the configuration does not say.
    pub context: Option<u64>,
    /// Width of the feed-forward layers in widths of the model, when the configuration does not say.
    pub ffn_times: Option<u64>,
    /// Tokens that the tokenizer's code numbers after the pieces of its file.
    pub appended: &'static [&'static str],
    /// Texts of the tokens that every text starts with, where there are several.
    pub starts: &'static [&'static str],
    /// Chat template of folders without one.
    pub template: Option<&'static str>,
    /// The layout is not published: `GebLayout` answers.
    pub open_layout: bool,
    pub(crate) shape: fn(&Config<'_>, &Family, usize, usize) -> Result<Shape>,
    pub(crate) more: More,
    pub(crate) table: &'static Table,
    /// Further lines of layers whose router, the first line, is in the checkpoint.
    pub(crate) experts: &'static [Line],
    /// Further lines of the other layers.
    pub(crate) dense: &'static [Line],
    /// How names of a layer begin where `extra_heads.{}` begins those of a further head; empty in
    /// families without.
    pub(crate) heads: &'static str,
    /// Further lines of layers with attention and of layers that keep a state, in families with both.
    pub(crate) mixers: Mixers,
    /// Takes the place of the table in families whose layers keep a state.
    pub(crate) states: Option<&'static States>,
}

/// Lines of layers of two kinds.
#[derive(Debug)]
pub(crate) struct Mixers {
    pub attention: &'static [Line],
    pub state: &'static [Line],
}

/// A dimension in symbols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dim {
    Vocab,
    Width,
    /// One head.
    Head,
    Ffn,
    /// All query heads.
    Q,
    /// All key (or value) heads.
    Kv,
    /// Queries, keys and values.
    Qkv,
    Ffn2,
    /// All experts of a layer.
    Experts,
    /// One expert.
    ExpertFfn,
    /// The expert of every token.
    SharedFfn,
    One,
    /// Trained positions.
    Context,
    /// Query heads, counted.
    Heads,
    /// Buckets of distances.
    Buckets,
    /// All query heads and a gate of each.
    Q2,
    /// Three times the width.
    Width3,
    /// Taps of a convolution, whose channels have a dimension of 1 in between.
    Taps,
    /// Queries, keys and values of layers that keep a state.
    Channels,
    /// Their values.
    Inner,
    /// One head of these.
    ValueHead,
    /// Such heads, counted.
    ValueHeads,
    /// Twice as many.
    ValueHeads2,
}

/// Which rows of a source tensor, and in which order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows {
    All,
    /// Heads reordered for interleaved rotation.
    Rotary,
    /// Keys of GEB's packed matrix, reordered.
    GebKey,
    /// Values of GEB's packed matrix.
    GebValue,
    GebGate,
    GebUp,
    /// Groups of `[query heads of a key head, key, value]` become queries, keys, values.
    Grouped,
    /// The first half, of each expert where a source has several.
    First,
    /// The second half.
    Second,
    /// The source is stored transposed: columns become rows.
    Transposed,
    /// Heads of values, grouped by those of keys, become one of each group in turn.
    InTurn,
    /// The same behind the rows of queries and keys.
    BehindKeys,
    /// The same of the columns.
    ColumnsInTurn,
    /// `-exp(x)` of a single small tensor.
    NegExp,
    /// The same, as [`Rows::InTurn`].
    NegExpInTurn,
    /// Groups of `[query, key, values, gates]` of a head of keys become queries, keys, values.
    OfEachKey,
    /// The gates of such groups.
    GateOfEachKey,
}

/// One line of a table: GGUF stem (`{}` = layer), shape, sources (`{}` = layer, `{e}` = each expert).
/// Stems that end with `.bias` or `ssm_a` are whole names, also those of their sources.
#[derive(Debug)]
pub(crate) struct Line {
    pub gguf: &'static str,
    pub shape: &'static [Dim],
    pub parts: &'static [(&'static str, Rows)],
}

macro_rules! lines {
    ($($gguf:literal [$($dim:ident),+] = $($hf:literal $rows:ident),+;)*) => {
        &[$(Line { gguf: $gguf, shape: &[$(Dim::$dim),+], parts: &[$(($hf, Rows::$rows)),+] },)*]
    };
}

/// Stems of one architecture: before the layers, per layer, after the layers.
#[derive(Debug)]
pub(crate) struct Table {
    pub first: &'static [Line],
    /// The layers of an encoder.
    pub encoder: &'static [&'static [Line]],
    /// In pieces that families share.
    pub layer: &'static [&'static [Line]],
    pub last: &'static [Line],
    /// Ends of names that hold no weights of the graph.
    pub skip: &'static [&'static str],
}

/// Sizes of one layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayerSizes {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
}

/// Sizes of all layers, as a family's configuration states them.
#[derive(Clone, Debug)]
pub struct Shape {
    /// One for each layer.
    pub layers: Vec<LayerSizes>,
    /// Width of one head; 0 without attention.
    pub head_dim: usize,
}

/// Experts of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// Width of one.
    pub width: usize,
    /// Width of the one that works on every token.
    pub shared: usize,
}

/// Hyperparameters of a checkpoint.
#[derive(Clone, Debug)]
pub struct Hyper {
    /// The family.
    pub family: &'static Family,
    /// Where the tensors are.
    pub(crate) table: &'static Table,
    /// Width of the model, `embedding_length`.
    pub width: usize,
    /// Layers and heads.
    pub shape: Shape,
    /// Where layers have experts.
    pub experts: Option<Experts>,
    /// Vocabulary size of the configuration (rows of the embedding may be more).
    pub vocab: usize,
    /// Trained context.
    pub context: u64,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Stretching of positions.
    pub scaling: Option<RopeScaling>,
    /// Sliding window; `None` is full attention.
    pub window: Option<u32>,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Layers of the encoder, where there is one; `shape` is that of the decoder then.
    pub encoder_layers: usize,
    /// Further heads, each a layer in the place of the last one.
    pub extra_heads: usize,
    /// Buckets of distances that have a bias.
    pub buckets: usize,
    /// Rotated elements of a head; 0 where positions are told otherwise.
    pub rotary: usize,
    /// The rotations as the configuration states them.
    pub(crate) ropes: Option<Ropes>,
    /// Sizes of layers that keep a state.
    pub states: Option<StateSizes>,
    /// Layers that keep a state beside others that have attention.
    pub hybrid: Option<Hybrid>,
    /// Keys that only some families have.
    pub more: Vec<(&'static str, MetaValue)>,
}

/// How positions are stretched beyond the trained context.
#[derive(Clone, PartialEq, Debug)]
pub enum RopeScaling {
    /// All angles divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: becomes the tensor `rope_freqs.weight`.
    Llama3 {
        /// Divisor of the slow frequencies.
        factor: f64,
        /// Wavelengths longer than `original / low` are divided in full.
        low: f64,
        /// Wavelengths shorter than `original / high` stay.
        high: f64,
        /// Context before stretching.
        original: f64,
    },
    /// LongRoPE: becomes the tensors `rope_factors_long.weight` and `rope_factors_short.weight`.
    Long {
        /// Divisors per pair for runs longer than `original`.
        long: Vec<f32>,
        /// And for others.
        short: Vec<f32>,
        /// Context before stretching.
        original: u32,
        /// Multiplies cosine and sine.
        attn_factor: f32,
    },
    /// The base is multiplied by a power of this number: the family does.
    Alpha(f64),
    /// YaRN (arXiv 2309.00071), left to the runtime.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Context before stretching.
        original: u32,
        /// Multiplies cosine and sine.
        magnitude: f64,
        /// Rotations over the original context above which a pair stays as trained.
        beta_fast: f64,
        /// Rotations below which a pair is divided.
        beta_slow: f64,
        /// The bounds of the ramp between are whole pairs.
        truncate: bool,
    },
}

/// What the rotation is in layers with a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowRope {
    /// That of the other layers.
    Same,
    /// Not stretched.
    Plain,
    /// Not stretched, with a base of its own.
    Local,
}

/// The rotation of one kind of layers.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Rope {
    pub base: f64,
    /// Share of a head that is rotated.
    pub share: Option<f64>,
    pub scaling: Option<RopeScaling>,
    /// The family's own number.
    pub number: Option<f64>,
}

/// The rotations of all layers.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Ropes {
    pub full: Rope,
    /// Of layers with a window, where it may differ; `None`: not stated.
    pub window: Option<Rope>,
}

/// Sizes that only these families have.
#[derive(Clone, Copy, Debug)]
pub struct StateSizes {
    pub(crate) kind: Kind,
    /// Layers.
    pub layers: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Heads.
    pub heads: usize,
    /// State for each inner channel.
    pub state: usize,
    /// Inner width.
    pub inner: usize,
    /// Taps of the convolution.
    pub taps: usize,
    /// Rank of the step size.
    pub rank: usize,
    /// Groups that share B and C.
    pub groups: usize,
    /// The reference halves the residual stream after so many layers; 0: never.
    pub rescale: usize,
    /// What heads are divided by before their norm.
    pub divisor: f32,
    /// Epsilon of the norms of step size, B and C.
    pub mixer_epsilon: f32,
}

/// Layers that keep a state, in families where others have attention.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hybrid {
    /// Which of the layers.
    pub layers: Vec<bool>,
    /// Taps of their convolution.
    pub taps: usize,
    /// Heads of values; 0 where there is only the convolution.
    pub heads: usize,
    /// Width of one.
    pub value: usize,
    /// Heads of queries and keys, a divisor of those.
    pub key_heads: usize,
    /// Width of one.
    pub key: usize,
}

impl Hybrid {
    /// Width of all queries, or keys.
    pub(crate) fn keys(&self) -> usize {
        self.key_heads * self.key
    }

    /// Width of all values.
    pub(crate) fn values(&self) -> usize {
        self.heads * self.value
    }
}
