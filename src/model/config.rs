//! Hyperparameters: read once, range-checked, then plain numbers (rule 11).

use super::arch::{
    Arch, LogitScale, MixerKind, NormKind, Positions, REGISTRY, Scalars, StateLayers, WindowRope,
};
use super::keys::Keys;
use super::recurrent::{Recurrent, mixers};
use super::routing::Routing;
use super::scaling::{RopeScaling, ScalingKind, Temperature};
use super::switches;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value, ValueType};
use crate::limits;

/// Sizes of one layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerSizes {
    /// What mixes the tokens.
    pub mixer: MixerKind,
    /// Query heads, H; 0 in a layer that keeps a state.
    pub head_count: usize,
    /// Key/value heads, K; divides H.
    pub head_count_kv: usize,
    /// Elements of a head, d.
    pub head_size: usize,
    /// Width of the feed-forward layer, F.
    pub feed_forward_length: usize,
}

impl LayerSizes {
    /// Query heads per KV head.
    pub fn group(&self) -> usize {
        self.head_count / self.head_count_kv
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.head_count * self.head_size
    }

    /// Width of all key (or value) heads.
    pub fn kv_width(&self) -> usize {
        self.head_count_kv * self.head_size
    }
}

/// Numbers of a model with an encoder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncoderSizes {
    /// Layers of the encoder.
    pub block_count: usize,
    /// Kinds of distances that have a bias.
    pub buckets: usize,
    /// Distance from which on all tokens are of one kind.
    pub reach: usize,
    /// Token that the decoder starts with.
    pub start: u32,
}

/// The numbers of a model.
#[derive(Clone, Debug)]
pub struct Config {
    /// The architecture's answers.
    pub arch: &'static Arch,
    /// Layers.
    pub block_count: usize,
    /// Blocks that the file counts behind the layers: they guess further tokens, and are not run.
    pub nextn_blocks: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Width of the residual stream, E.
    pub embedding_length: usize,
    /// Further heads, which predict the tokens behind the next one (arXiv 2404.19737).
    pub extra_heads: usize,
    /// Sizes of each layer, then of the layer of each further head.
    pub layers: Vec<LayerSizes>,
    /// Where layers have experts: how they choose among them.
    pub experts: Option<Routing>,
    /// Elements of a head, d.
    pub head_size: usize,
    /// Epsilon of the norms.
    pub norm_epsilon: f32,
    /// Epsilon of the norm before the output.
    pub output_norm_epsilon: f32,
    /// Rotated elements of a head, r; even, at most d.
    pub rope_dimension_count: usize,
    /// Base of the rotation angles.
    pub rope_freq_base: f32,
    /// Stretching of the rotation.
    pub rope_scaling: RopeScaling,
    /// Base of the rotation in layers with a window, if it is another one.
    pub rope_freq_base_window: Option<f32>,
    /// Whether queries and keys are rotated, of as many layers.
    pub rotated: Vec<bool>,
    /// Growth of the queries.
    pub temperature: Option<Temperature>,
    /// As many: a token sees itself and `window - 1` before it; `usize::MAX` means all.
    pub windows: Vec<usize>,
    /// Whether a token sees none after its own; false for text encoders.
    pub causal: bool,
    /// Queries, keys and values are clamped to this magnitude.
    pub clamp: Option<f32>,
    /// Factor of the embeddings.
    pub embedding_scale: f32,
    /// Factor of what attention and feed-forward add.
    pub residual_scale: f32,
    /// Factor of the logits.
    pub logit_scale: f32,
    /// `s`: logits become `s tanh(logit / s)`.
    pub logit_softcap: Option<f32>,
    /// Attention and feed-forward of a layer see the same input.
    pub parallel: bool,
    /// ALiBi: the exponent of its smallest slope.
    pub alibi: Option<f32>,
    /// What reads the prompt.
    pub encoder: Option<EncoderSizes>,
    /// Factor of the attention scores.
    pub attention_scale: f32,
    /// `s`: scaled scores become `s tanh(score / s)`.
    pub attention_softcap: Option<f32>,
    /// Sizes of the mixers that keep a state.
    pub recurrent: Option<Recurrent>,
    /// After each so many layers the residual stream is halved; 0: never.
    pub rescale_every: usize,
    /// Floats per token that these mixers work with, set when tensors are bound.
    pub scratch: usize,
    /// Vocabulary: rows of the embedding table, set when tensors are bound.
    pub vocab: usize,
}

impl Config {
    /// Reads the keys of `general.architecture`.
    pub fn read(file: &GgufFile) -> Result<Config> {
        let name = GgufFile::require("general.architecture", file.str("general.architecture")?)?;
        let arch = Arch::by_name(name).ok_or_else(|| Error::Unsupported {
            what: "architecture",
            value: name.to_owned(),
            known: REGISTRY
                .iter()
                .map(|a| a.name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        let keys = Keys { file, arch };
        let embedding_length = keys.required("embedding_length", limits::MAX_WIDTH)?;
        let nextn_blocks = keys.count("nextn_predict_layers", limits::MAX_LAYERS)?;
        let nextn_blocks = nextn_blocks.unwrap_or(0);
        let blocks = blocks(&keys, nextn_blocks)?;
        let encoder = encoder(&keys, blocks)?;
        let block_count = match encoder {
            Some(_) => keys.int("decoder_block_count", limits::MAX_LAYERS)?,
            None => None,
        };
        let block_count = block_count.unwrap_or(blocks);
        let recurrent = Recurrent::read(&keys, embedding_length)?;
        let layers = match (&recurrent, arch.state_layers) {
            (Some(_), StateLayers::All) => vec![without_heads(&keys)?; block_count],
            _ => layers(&keys, blocks.max(block_count), embedding_length)?,
        };
        let extra_heads = match (&encoder, &recurrent) {
            (None, None) => keys.count("mtp_head_count", limits::MAX_LAYERS)?,
            _ => None,
        };
        let extra_heads = extra_heads.unwrap_or(0);
        if encoder.is_some() && layers.iter().any(|l| *l != layers[0]) {
            let value = "of several values";
            return keys.bad("attention.head_count", value, "one size for all layers");
        }
        let head_size = layers[0].head_size;
        let rope_dimension_count = rotated(&keys, head_size)?;
        switches::check_sections(&keys)?;
        let context_length = keys.required("context_length", limits::MAX_CONTEXT)?;
        let epsilon = match arch.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            _ => "attention.layer_norm_epsilon",
        };
        let norm_epsilon = GgufFile::require(&keys.key(epsilon), keys.float(epsilon, 0.0..=1.0)?)?;
        let [embedding_scale, residual_scale, logit_scale] =
            scalars(&keys, embedding_length, block_count)?;
        let optional = |suffix| {
            keys.float(suffix, 0.0..=1e6)
                .map(|v| v.filter(|v| *v > 0.0))
        };
        let windows = windows(&keys, layers.len())?;
        let attention_scale = attention_scale(&keys, block_count, embedding_length, layers[0])?;
        let [attention_softcap, logit_softcap] = switches::softcaps(&keys)?;
        let rope_freq_base = keys.float("rope.freq_base", 1.0..=1e12)?;
        let rope_freq_base = rope_freq_base.unwrap_or(10_000.0);
        let base_window = keys.float("rope.freq_base_swa", 1.0..=1e12)?;
        Ok(Config {
            arch,
            block_count,
            nextn_blocks,
            context_length,
            embedding_length,
            experts: Routing::read(&keys, layers[0].feed_forward_length)?,
            rotated: like_last(switches::rotated(&keys, &windows)?, extra_heads),
            windows: like_last(windows, extra_heads),
            temperature: switches::temperature(&keys)?,
            extra_heads,
            layers: like_last(layers, extra_heads),
            head_size,
            norm_epsilon,
            output_norm_epsilon: keys
                .float("output_norm_epsilon", 0.0..=1.0)?
                .unwrap_or(norm_epsilon),
            rope_dimension_count,
            rope_freq_base,
            rope_scaling: rope_scaling(&keys, context_length)?,
            rope_freq_base_window: base_window.or(match arch.window_rope {
                WindowRope::Same => None,
                WindowRope::Plain => Some(rope_freq_base),
                WindowRope::Base(base) => Some(base),
            }),
            causal: keys.bool("attention.causal")?.unwrap_or(true),
            clamp: optional("attention.clamp_kqv")?,
            embedding_scale,
            residual_scale,
            logit_scale,
            parallel: keys.bool("use_parallel_residual")?.unwrap_or(arch.parallel),
            alibi: match arch.positions {
                Positions::Alibi => Some(optional("attention.max_alibi_bias")?.unwrap_or(8.0)),
                Positions::Rope | Positions::Learned | Positions::Buckets => None,
            },
            encoder,
            logit_softcap,
            attention_scale,
            attention_softcap,
            rescale_every: match recurrent {
                Some(_) => keys.count("rescale_every_n_layers", limits::MAX_LAYERS)?,
                None => None,
            }
            .unwrap_or(0),
            recurrent,
            scratch: 0,
            vocab: 0,
        })
    }

    /// The largest of a number of the layers.
    pub fn widest(&self, of: impl Fn(&LayerSizes) -> usize) -> usize {
        self.layers.iter().map(of).max().unwrap_or(0)
    }
}

/// What the layers have, and `more` of what the last one has: for heads that stand in its place.
fn like_last<T: Copy>(mut layers: Vec<T>, more: usize) -> Vec<T> {
    if let Some(last) = layers.last().copied() {
        layers.extend(std::iter::repeat_n(last, more));
    }
    layers
}

/// The layers that run: the blocks but those that guess further tokens.
fn blocks(keys: &Keys<'_>, nextn: usize) -> Result<usize> {
    let all = keys.required("block_count", limits::MAX_LAYERS)?;
    match all.checked_sub(nextn) {
        Some(blocks @ 1..) => Ok(blocks),
        _ => {
            let allowed = format!("fewer than the {all} blocks");
            keys.bad("nextn_predict_layers", nextn, allowed)
        }
    }
}

/// Rotated elements of a head.
fn rotated(keys: &Keys<'_>, head_size: usize) -> Result<usize> {
    let given = keys.int("rope.dimension_count", limits::MAX_WIDTH)?;
    let rotated = match keys.arch.positions {
        Positions::Rope => given.unwrap_or(head_size / keys.arch.rope_divisor),
        Positions::Learned | Positions::Alibi | Positions::Buckets => 0,
    };
    if rotated > head_size || !rotated.is_multiple_of(2) {
        let allowed = format!("an even number up to the head size {head_size}");
        return keys.bad("rope.dimension_count", rotated, allowed);
    }
    Ok(rotated)
}

/// The encoder of architectures that have one.
fn encoder(keys: &Keys<'_>, block_count: usize) -> Result<Option<EncoderSizes>> {
    if !keys.arch.encoder {
        return Ok(None);
    }
    let buckets = keys.int("attention.relative_buckets_count", limits::MAX_BUCKETS)?;
    let start = keys.key("decoder_start_token_id");
    let start = keys.file.int(&start, 0..=limits::MAX_VOCAB as u64)?;
    let buckets = buckets.unwrap_or(32);
    if !buckets.is_multiple_of(4) {
        return keys.bad(
            "attention.relative_buckets_count",
            buckets,
            "a multiple of 4",
        );
    }
    let reach = keys.int("attention.relative_max_distance", limits::MAX_REACH)?;
    let reach = reach.unwrap_or(128);
    if reach <= buckets / 2 {
        let allowed = format!("over {}, half of the buckets", buckets / 2);
        return keys.bad("attention.relative_max_distance", reach, allowed);
    }
    Ok(Some(EncoderSizes {
        block_count,
        buckets,
        reach,
        start: start.unwrap_or(0) as u32,
    }))
}

/// Sizes of the layers; each number is one for all or an array.
fn layers(keys: &Keys<'_>, count: usize, width: usize) -> Result<Vec<LayerSizes>> {
    let heads = keys.each("attention.head_count", limits::MAX_HEADS, count)?;
    let heads = GgufFile::require(&keys.key("attention.head_count"), heads)?;
    let kv = match keys.arch.state_layers {
        StateLayers::WithoutHeads => {
            keys.each_or_0("attention.head_count_kv", limits::MAX_HEADS, count)?
        }
        _ => keys.each("attention.head_count_kv", limits::MAX_HEADS, count)?,
    };
    let kv = kv.unwrap_or_else(|| heads.clone());
    let mixers = mixers(keys, &kv)?;
    let ffn = switches::ffn_widths(keys, count)?;
    let head_size = match keys.int("attention.key_length", limits::MAX_WIDTH)? {
        Some(d) => d,
        None if width.is_multiple_of(heads[0]) => width / heads[0],
        None => {
            let allowed = format!("a divisor of width {width}");
            return keys.bad("attention.head_count", heads[0], allowed);
        }
    };
    let values = keys.int("attention.value_length", limits::MAX_WIDTH)?;
    if values.is_some_and(|v| v != head_size) {
        let value = "not the key length";
        return keys.bad("attention.value_length", value, format!("{head_size}"));
    }
    let mut layers = Vec::with_capacity(count);
    for l in 0..count {
        if mixers[l] != MixerKind::Attention {
            layers.push(LayerSizes {
                mixer: mixers[l],
                head_count: 0,
                head_count_kv: 0,
                head_size,
                feed_forward_length: ffn[l],
            });
            continue;
        }
        let sizes = LayerSizes {
            mixer: MixerKind::Attention,
            head_count: heads[l],
            head_count_kv: kv[l],
            head_size,
            feed_forward_length: ffn[l],
        };
        if !heads[l].is_multiple_of(kv[l]) {
            let allowed = format!("a divisor of {} heads", heads[l]);
            return keys.bad("attention.head_count_kv", kv[l], allowed);
        }
        if sizes.q_width() as u64 > limits::MAX_WIDTH {
            let allowed = "heads together at most 2^20 wide";
            return keys.bad("attention.key_length", head_size, allowed);
        }
        layers.push(sizes);
    }
    Ok(layers)
}

/// Sizes of layers whose mixer keeps a state; Mamba has no feed-forward part.
fn without_heads(keys: &Keys<'_>) -> Result<LayerSizes> {
    let feed_forward_length = match keys.arch.mixer {
        MixerKind::Mamba | MixerKind::Mamba2 => 0,
        _ => keys.required("feed_forward_length", limits::MAX_WIDTH)?,
    };
    Ok(LayerSizes {
        mixer: keys.arch.mixer,
        head_count: 0,
        head_count_kv: 0,
        head_size: 0,
        feed_forward_length,
    })
}

/// Factors of embeddings, residual branches and logits.
fn scalars(keys: &Keys<'_>, width: usize, layers: usize) -> Result<[f32; 3]> {
    let (width, layers) = (width as f32, layers as f32);
    let default = match keys.arch.scalars {
        Scalars::Ones => [1.0; 3],
        Scalars::RootWidth => [width.sqrt(), 1.0, 1.0],
        Scalars::Tied if keys.file.tensor("output.weight").is_some() => [1.0; 3],
        Scalars::Tied => [1.0, 1.0, 1.0 / width.sqrt()],
        Scalars::MiniCpm => [12.0, 1.4 / layers.sqrt(), 256.0 / width],
    };
    let range = 1e-6..=1e6;
    let of = |suffix| keys.float(suffix, range.clone());
    Ok([
        of("embedding_scale")?.unwrap_or(default[0]),
        of("residual_scale")?.unwrap_or(default[1]),
        match (of("logit_scale")?, keys.arch.logit_scale) {
            (None, _) => default[2],
            (Some(s), LogitScale::Divides) => 1.0 / s,
            (Some(s), LogitScale::Multiplies) => s,
        },
    ])
}

/// Factor of the attention scores.
fn attention_scale(
    keys: &Keys<'_>,
    block_count: usize,
    width: usize,
    first: LayerSizes,
) -> Result<f32> {
    let arch = keys.arch;
    let divisor = match arch.wide_scale_layers {
        Some(n) if n == block_count => width / first.head_count.max(1),
        _ => first.head_size,
    };
    let usual = match arch.scaled {
        true => 1.0 / (divisor.max(1) as f32).sqrt(),
        false => 1.0,
    };
    let said = keys.float("attention.scale", 1e-6..=1e6)?;
    Ok(said.unwrap_or(usual))
}

/// What the tokens of each layer see.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<usize>> {
    let file = keys.file;
    let window = switches::window(keys)?;
    let pattern = keys.key("attention.sliding_window_pattern");
    if window == 0 {
        return Ok(vec![usize::MAX; layers]);
    }
    if let Some(Value::Array(_)) = file.get(&pattern) {
        let array = GgufFile::require(&pattern, file.array(&pattern, ValueType::Bool)?)?;
        let slides: Vec<bool> = array.iter().map(|v| v == Value::Bool(true)).collect();
        if slides.len() < layers {
            return Err(Error::Key {
                key: pattern,
                value: format!("{} values", slides.len()),
                allowed: format!("one for each of {layers} layers"),
            });
        }
        let seen = |slides: &bool| if *slides { window } else { usize::MAX };
        return Ok(slides[..layers].iter().map(seen).collect());
    }
    let every = keys
        .int("attention.sliding_window_pattern", limits::MAX_LAYERS)?
        .unwrap_or(keys.arch.full_every);
    let full = |l: usize| every > 1 && (l + 1).is_multiple_of(every);
    let seen = |l| if full(l) { usize::MAX } else { window };
    Ok((0..layers).map(seen).collect())
}

fn rope_scaling(keys: &Keys<'_>, context_length: usize) -> Result<RopeScaling> {
    let name = keys.file.str(&keys.key("rope.scaling.type"))?;
    let factor = match keys.float("rope.scaling.factor", 1e-6..=1e6)? {
        Some(f) => Some(f),
        None => keys.float("rope.scale_linear", 1e-6..=1e6)?,
    };
    let kind = match (name, factor) {
        (Some("none"), _) | (None, None) => ScalingKind::None,
        (Some("linear"), _) | (None, Some(_)) => ScalingKind::Linear,
        (Some("yarn"), _) => ScalingKind::Yarn,
        (Some("longrope"), _) => ScalingKind::LongRope,
        (Some(other), _) => {
            return Err(Error::Unsupported {
                what: "rope scaling type",
                value: other.to_owned(),
                known: "none, linear, yarn, longrope (and rope_freqs.weight)".into(),
            });
        }
    };
    let factor = factor.unwrap_or(1.0);
    let number = |suffix, usual| Ok::<_, Error>(keys.float(suffix, 1e-6..=1e6)?.unwrap_or(usual));
    // Llama.cpp's: the weight of the usual factor of cosine and sine, and how much of YaRN applies.
    let weight = keys.float("rope.scaling.yarn_log_multiplier", 0.0..=1e6)?;
    let weight = weight.filter(|w| *w > 0.0 && factor > 1.0);
    let weighted = weight.map_or(1.0, |w| 1.0 / (1.0 + 0.1 * w * factor.ln()));
    let mix = keys.float("rope.scaling.yarn_ext_factor", -1.0..=1.0)?;
    if kind == ScalingKind::Yarn
        && let Some(mix) = mix.filter(|m| ![-1.0, 1.0].contains(m))
    {
        return keys.bad("rope.scaling.yarn_ext_factor", mix, "1, or -1 for as usual");
    }
    Ok(RopeScaling {
        kind,
        factor,
        original_context: keys
            .int("rope.scaling.original_context_length", limits::MAX_CONTEXT)?
            .unwrap_or(context_length) as f32,
        attn_factor: number("rope.scaling.attn_factor", 1.0)?
            * match kind {
                ScalingKind::Yarn => number("rope.scaling.yarn_attn_factor", 1.0)? * weighted,
                _ => 1.0,
            },
        beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
        beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
        truncate: keys.bool("rope.scaling.yarn_truncate")?.unwrap_or(true),
    })
}

#[cfg(test)]
mod tests;
