//! Hyperparameters: read once, range-checked, then plain numbers (rule 11).

use super::arch::{Arch, NormKind, REGISTRY, Scalars};
use super::rope::{RopeScaling, ScalingKind};
use super::routing::Routing;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value, ValueType};
use crate::limits;

/// The numbers of a model.
#[derive(Clone, Debug)]
pub struct Config {
    /// The architecture's answers.
    pub arch: &'static Arch,
    /// Layers.
    pub block_count: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Width of the residual stream, E.
    pub embedding_length: usize,
    /// Width of the feed-forward layers, F.
    pub feed_forward_length: usize,
    /// Where layers have experts: how they choose among them.
    pub experts: Option<Routing>,
    /// Query heads, H.
    pub head_count: usize,
    /// Key/value heads, K; divides H.
    pub head_count_kv: usize,
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
    /// Per layer: a token sees itself and `window - 1` before it; `usize::MAX` means all.
    pub windows: Vec<usize>,
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
    /// Factor of the attention scores.
    pub attention_scale: f32,
    /// Vocabulary: rows of the embedding table, set when tensors are bound.
    pub vocab: usize,
}

/// Keys of one architecture in one file.
pub(super) struct Keys<'a> {
    file: &'a GgufFile,
    pub(super) arch: &'static Arch,
}

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch.name)
    }

    pub(super) fn int(&self, suffix: &str, max: u64) -> Result<Option<usize>> {
        Ok(self
            .file
            .int(&self.key(suffix), 1..=max)?
            .map(|v| v as usize))
    }

    /// As [`Keys::int`], and 0.
    pub(super) fn count(&self, suffix: &str, max: u64) -> Result<Option<usize>> {
        let v = self.file.int(&self.key(suffix), 0..=max)?;
        Ok(v.map(|v| v as usize))
    }

    pub(super) fn bool(&self, suffix: &str) -> Result<Option<bool>> {
        self.file.bool(&self.key(suffix))
    }

    pub(super) fn required(&self, suffix: &str, max: u64) -> Result<usize> {
        GgufFile::require(&self.key(suffix), self.int(suffix, max)?)
    }

    pub(super) fn float(
        &self,
        suffix: &str,
        range: std::ops::RangeInclusive<f32>,
    ) -> Result<Option<f32>> {
        let key = self.key(suffix);
        match self.file.float(&key)? {
            Some(v) if !range.contains(&v) => Err(Error::Key {
                key,
                value: v.to_string(),
                allowed: format!("{}..={}", range.start(), range.end()),
            }),
            v => Ok(v),
        }
    }

    pub(super) fn bad<T>(
        &self,
        suffix: &str,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Result<T> {
        Err(Error::Key {
            key: self.key(suffix),
            value: value.to_string(),
            allowed: allowed.into(),
        })
    }
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
        let head_count = keys.required("attention.head_count", limits::MAX_HEADS)?;
        let head_count_kv = keys
            .int("attention.head_count_kv", limits::MAX_HEADS)?
            .unwrap_or(head_count);
        if !head_count.is_multiple_of(head_count_kv) {
            return keys.bad(
                "attention.head_count_kv",
                head_count_kv,
                format!("a divisor of {head_count} heads"),
            );
        }
        let head_size = match keys.int("attention.key_length", limits::MAX_WIDTH)? {
            Some(d) => d,
            None if embedding_length.is_multiple_of(head_count) => embedding_length / head_count,
            None => {
                return keys.bad(
                    "attention.head_count",
                    head_count,
                    format!("a divisor of width {embedding_length}"),
                );
            }
        };
        if (head_count * head_size) as u64 > limits::MAX_WIDTH {
            return keys.bad(
                "attention.key_length",
                head_size,
                "heads together at most 2^20 wide",
            );
        }
        if keys
            .int("attention.value_length", limits::MAX_WIDTH)?
            .is_some_and(|v| v != head_size)
        {
            return keys.bad(
                "attention.value_length",
                "not the key length",
                format!("{head_size}"),
            );
        }
        let rope_dimension_count = keys
            .int("rope.dimension_count", limits::MAX_WIDTH)?
            .unwrap_or(head_size / arch.rope_divisor);
        if rope_dimension_count > head_size || !rope_dimension_count.is_multiple_of(2) {
            let allowed = format!("an even number up to the head size {head_size}");
            return keys.bad("rope.dimension_count", rope_dimension_count, allowed);
        }
        let feed_forward_length = keys.required("feed_forward_length", limits::MAX_WIDTH)?;
        let context_length = keys.required("context_length", limits::MAX_CONTEXT)?;
        let block_count = keys.required("block_count", limits::MAX_LAYERS)?;
        let epsilon = match arch.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer | NormKind::BareLayer => "attention.layer_norm_epsilon",
        };
        let norm_epsilon = GgufFile::require(&keys.key(epsilon), keys.float(epsilon, 0.0..=1.0)?)?;
        let [embedding_scale, residual_scale, logit_scale] =
            scalars(&keys, embedding_length, block_count)?;
        let optional = |suffix| {
            keys.float(suffix, 0.0..=1e6)
                .map(|v| v.filter(|v| *v > 0.0))
        };
        let base_window = keys.float("rope.freq_base_swa", 1.0..=1e12)?;
        Ok(Config {
            arch,
            block_count,
            context_length,
            embedding_length,
            feed_forward_length,
            experts: Routing::read(&keys, feed_forward_length)?,
            head_count,
            head_count_kv,
            head_size,
            norm_epsilon,
            output_norm_epsilon: keys
                .float("output_norm_epsilon", 0.0..=1.0)?
                .unwrap_or(norm_epsilon),
            rope_dimension_count,
            rope_freq_base: keys
                .float("rope.freq_base", 1.0..=1e12)?
                .unwrap_or(10_000.0),
            rope_scaling: rope_scaling(&keys, context_length)?,
            rope_freq_base_window: base_window.or(arch.window_base),
            windows: windows(&keys, block_count)?,
            clamp: optional("attention.clamp_kqv")?,
            embedding_scale,
            residual_scale,
            logit_scale,
            logit_softcap: optional("final_logit_softcapping")?,
            attention_scale: keys
                .float("attention.scale", 1e-6..=1e6)?
                .unwrap_or(1.0 / (head_size as f32).sqrt()),
            vocab: 0,
        })
    }

    /// The most positions a token of any layer sees.
    pub fn widest_window(&self) -> usize {
        self.windows.iter().copied().max().unwrap_or(usize::MAX)
    }

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

/// Factors of embeddings, residual branches and logits.
fn scalars(keys: &Keys<'_>, width: usize, layers: usize) -> Result<[f32; 3]> {
    let (width, layers) = (width as f32, layers as f32);
    let default = match keys.arch.scalars {
        Scalars::Ones => [1.0; 3],
        Scalars::RootWidth => [width.sqrt(), 1.0, 1.0],
        Scalars::MiniCpm => [12.0, 1.4 / layers.sqrt(), 256.0 / width],
    };
    let range = 1e-6..=1e6;
    let of = |suffix| keys.float(suffix, range.clone());
    Ok([
        of("embedding_scale")?.unwrap_or(default[0]),
        of("residual_scale")?.unwrap_or(default[1]),
        of("logit_scale")?.map_or(default[2], |s| 1.0 / s),
    ])
}

/// What the tokens of each layer see.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<usize>> {
    let file = keys.file;
    let key = keys.key("attention.sliding_window");
    let window = file.int(&key, 0..=limits::MAX_CONTEXT)?.unwrap_or(0) as usize;
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
    Ok(RopeScaling {
        kind,
        factor: factor.unwrap_or(1.0),
        original_context: keys
            .int("rope.scaling.original_context_length", limits::MAX_CONTEXT)?
            .unwrap_or(context_length) as f32,
        attn_factor: keys
            .float("rope.scaling.attn_factor", 1e-6..=1e6)?
            .unwrap_or(1.0),
        beta_fast: keys
            .float("rope.scaling.yarn_beta_fast", 1e-6..=1e6)?
            .unwrap_or(32.0),
        beta_slow: keys
            .float("rope.scaling.yarn_beta_slow", 1e-6..=1e6)?
            .unwrap_or(1.0),
    })
}
