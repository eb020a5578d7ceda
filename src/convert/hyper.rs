//! `config.json` of a checkpoint: hyperparameters read once, range-checked, then plain numbers,
//! and the GGUF keys made from them.

use serde_json::Value;

use super::folder::{Fields, bad};
use super::fronts::{FRONTS, Family, Front};
use super::names::GebLayout;
pub use super::positions::RopeScaling;
use super::positions::{rope_base, rope_scaling, window};
use crate::error::{Error, Result};
use crate::gguf::writer::MetaValue;
use crate::limits;

const FILE: &str = "config.json";
/// Epsilon of the norms inside the layers of JetMoE.
const JETMOE_EPS: f64 = 1e-6;

/// Experts of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many work on one token.
    pub used: usize,
    /// Width of one.
    pub width: usize,
    /// Width of the one that works on every token.
    pub shared: usize,
}

impl Experts {
    fn read(c: &Fields<'_>, ffn: u64) -> Result<Experts> {
        let range = 1..=limits::MAX_EXPERTS;
        let count = &["num_local_experts", "num_experts", "moe_num_experts"];
        let count = c.need_uint(count, range)?;
        let used = c.need_uint(&["num_experts_per_tok", "moe_top_k"], 1..=count)?;
        let width = |name| c.uint(&[name], 1..=limits::MAX_WIDTH);
        Ok(Experts {
            count: count as usize,
            used: used as usize,
            width: width("moe_intermediate_size")?.unwrap_or(ffn) as usize,
            shared: width("shared_expert_intermediate_size")?.unwrap_or(ffn) as usize,
        })
    }
}

/// Hyperparameters of a checkpoint.
#[derive(Clone, Debug)]
pub struct Hyper {
    /// The family.
    pub front: &'static Front,
    /// Layers.
    pub layers: usize,
    /// Width of the model, `embedding_length`.
    pub width: usize,
    /// Width of the feed-forward layers.
    pub ffn: usize,
    /// Experts, where some layers have them.
    pub experts: Option<Experts>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Whether the configuration states the width of a head.
    pub head_dim_given: bool,
    /// Vocabulary size of the configuration (rows of the embedding may be more).
    pub vocab: usize,
    /// Trained context.
    pub context: u64,
    /// Epsilon of the RMS norms.
    pub eps: f32,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Stretching of positions.
    pub scaling: Option<RopeScaling>,
    /// Sliding window; `None` is full attention.
    pub window: Option<u32>,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Rotated elements of a head.
    pub rotary: usize,
    /// Keys that only some families have.
    pub more: Vec<(&'static str, MetaValue)>,
}

impl Hyper {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture, [`Error::Checkpoint`] for a bad value.
    pub fn read(config: &Value) -> Result<Hyper> {
        let config = config
            .get("text_config")
            .filter(|v| v.is_object())
            .unwrap_or(config);
        let c = Fields {
            file: FILE,
            value: config,
        };
        let front = front(&c)?;
        let width = 1..=limits::MAX_WIDTH;
        let layers = c.need_uint(
            &["num_hidden_layers", "n_layer", "num_layers"],
            1..=limits::MAX_LAYERS,
        )?;
        let e = c.need_uint(&["hidden_size", "n_embd", "dim"], width.clone())?;
        let ffn = c.need_uint(
            &[
                "intermediate_size",
                "ffn_hidden_size",
                "hidden_dim",
                "n_inner",
            ],
            width.clone(),
        )?;
        let (heads, kv, head_dim, given) = heads(&c, e)?;
        let context_names = [
            "max_position_embeddings",
            "seq_length",
            "n_ctx",
            "n_positions",
            "max_length",
        ];
        let context = c.need_uint(&context_names, 1..=limits::MAX_CONTEXT)?;
        let share = c
            .float(&["partial_rotary_factor"], 0.01..=1.0)?
            .unwrap_or(1.0);
        let rotary = (share * head_dim as f64) as usize;
        if rotary == 0 || !rotary.is_multiple_of(2) {
            let allowed = format!("a share of {head_dim} that is an even number");
            return Err(bad(FILE, "partial_rotary_factor", share, allowed));
        }
        let hyper = Hyper {
            front,
            layers: layers as usize,
            width: e as usize,
            ffn: ffn as usize,
            experts: match front.family.has_experts() {
                true => Some(Experts::read(&c, ffn)?),
                false => None,
            },
            heads: heads as usize,
            kv_heads: kv as usize,
            head_dim: head_dim as usize,
            head_dim_given: given,
            vocab: c.need_uint(
                &["padded_vocab_size", "vocab_size"],
                1..=limits::MAX_VOCAB as u64,
            )? as usize,
            context,
            eps: eps(&c, front.family)?,
            rope_base: rope_base(&c)?,
            scaling: rope_scaling(&c, context)?,
            window: match front.family {
                Family::Llama | Family::Mixtral | Family::Phi3 | Family::Gemma3 => window(&c)?,
                _ => None,
            },
            tied: c.bool("tie_word_embeddings")?.unwrap_or(front.tied),
            rotary,
            more: more(&c, front.family, [e as f64, head_dim as f64, layers as f64])?,
        };
        hyper.check_graph(&c)?;
        Ok(hyper)
    }

    /// Refuses what the llama graph cannot express.
    fn check_graph(&self, c: &Fields<'_>) -> Result<()> {
        let gemma = self.front.family == Family::Gemma3;
        let names: &[&'static str] = match gemma {
            true => &["hidden_activation", "hidden_act"],
            false => &["hidden_act", "activation_function"],
        };
        let known: &[&str] = match gemma {
            true => &["gelu_pytorch_tanh"],
            false => &["silu", "swish"],
        };
        if let Some(act) = c.str(names)?
            && !known.contains(&act)
        {
            return Err(Error::Unsupported {
                what: "activation",
                value: act.into(),
                known: known[0].into(),
            });
        }
        if matches!(
            self.front.family,
            Family::Qwen2 | Family::Qwen3 | Family::Qwen2Moe | Family::Qwen3Moe
        ) && c.bool("use_sliding_window")? == Some(true)
        {
            let allowed = "false (a window in some of the layers is not supported)";
            return Err(bad(FILE, "use_sliding_window", "true", allowed));
        }
        if self.front.family == Family::Geb
            && c.bool("apply_residual_connection_post_layernorm")? == Some(true)
        {
            let allowed = "false (residual connections around the norms)";
            return Err(bad(
                FILE,
                "apply_residual_connection_post_layernorm",
                "true",
                allowed,
            ));
        }
        if self.front.family == Family::Geb && c.bool("post_layer_norm")? == Some(false) {
            return Err(bad(
                FILE,
                "post_layer_norm",
                "false",
                "true (a norm after the last block)",
            ));
        }
        Ok(())
    }

    /// `general.architecture` of the file.
    pub fn architecture(&self, layout: &GebLayout) -> &'static str {
        match self.front.family {
            Family::Geb => layout.architecture(),
            _ => self.front.architecture,
        }
    }

    /// The keys of the architecture; `rows` of the embedding.
    pub fn metadata(&self, layout: &GebLayout, rows: usize) -> Vec<(String, MetaValue)> {
        let arch = self.architecture(layout);
        let rope_dims = match self.front.family {
            Family::Geb => layout.rope_dims(self.head_dim),
            _ => self.rotary,
        };
        let u = |v: usize| MetaValue::U32(v as u32);
        let mut out = Vec::new();
        let mut key = |name: &str, value: MetaValue| out.push((format!("{arch}.{name}"), value));
        key("block_count", u(self.layers));
        key("context_length", MetaValue::U32(self.context as u32));
        key("embedding_length", u(self.width));
        key("feed_forward_length", u(self.ffn));
        if let Some(x) = self.experts {
            key("expert_count", u(x.count));
            key("expert_used_count", u(x.used));
            key("expert_feed_forward_length", u(x.width));
            if self.front.family == Family::Qwen2Moe {
                key("expert_shared_feed_forward_length", u(x.shared));
            }
        }
        key("attention.head_count", u(self.heads));
        key("attention.head_count_kv", u(self.kv_heads));
        let epsilon = match self.front.layer_norm {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        key(epsilon, MetaValue::F32(self.eps));
        if self.head_dim_given || self.head_dim * self.heads != self.width {
            key("attention.key_length", u(self.head_dim));
            key("attention.value_length", u(self.head_dim));
        }
        if let Some(window) = self.window {
            key("attention.sliding_window", MetaValue::U32(window));
        }
        key("rope.dimension_count", u(rope_dims));
        key("rope.freq_base", MetaValue::F32(self.rope_base));
        match self.scaling {
            Some(RopeScaling::Long {
                original,
                attn_factor,
                ..
            }) => {
                key(
                    "rope.scaling.original_context_length",
                    MetaValue::U32(original),
                );
                key("rope.scaling.attn_factor", MetaValue::F32(attn_factor));
            }
            Some(RopeScaling::Linear { factor }) => {
                key("rope.scaling.type", MetaValue::Str("linear".into()));
                key("rope.scaling.factor", MetaValue::F32(factor));
            }
            Some(RopeScaling::Yarn { factor, original }) => {
                key("rope.scaling.type", MetaValue::Str("yarn".into()));
                key("rope.scaling.factor", MetaValue::F32(factor));
                key(
                    "rope.scaling.original_context_length",
                    MetaValue::U32(original),
                );
            }
            Some(RopeScaling::Llama3 { .. }) | None => {}
        }
        key("vocab_size", u(rows));
        for (name, value) in &self.more {
            key(name, value.clone());
        }
        out
    }

    /// Tensors made from the configuration: divisors of the rotation angles.
    pub fn factors(&self) -> Vec<(&'static str, Vec<f32>)> {
        match &self.scaling {
            Some(RopeScaling::Long { long, short, .. }) => vec![
                ("rope_factors_long.weight", long.clone()),
                ("rope_factors_short.weight", short.clone()),
            ],
            _ => self
                .rope_factors()
                .map(|f| ("rope_freqs.weight", f))
                .into_iter()
                .collect(),
        }
    }

    /// `rope_freqs.weight`: one divisor per pair, for Llama 3 scaling.
    ///
    /// With wavelength λ = 2π·base^(2i/d): 1 when λ < original/high, `factor` when
    /// λ > original/low, and 1/((1−s)/factor + s), s = (original/λ − low)/(high − low) between
    /// (Hugging Face `transformers`, `modeling_rope_utils`).
    fn rope_factors(&self) -> Option<Vec<f32>> {
        let &Some(RopeScaling::Llama3 {
            factor,
            low,
            high,
            original,
        }) = &self.scaling
        else {
            return None;
        };
        let d = self.head_dim;
        let one = |i: usize| {
            let wavelength =
                std::f64::consts::TAU * f64::from(self.rope_base).powf(2.0 * i as f64 / d as f64);
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor as f32
            } else {
                let s = (original / wavelength - low) / (high - low);
                (1.0 / ((1.0 - s) / factor + s)) as f32
            }
        };
        Some((0..d / 2).map(one).collect())
    }
}

/// Epsilon of the norms of the layers.
fn eps(c: &Fields<'_>, family: Family) -> Result<f32> {
    if family == Family::JetMoe {
        return Ok(JETMOE_EPS as f32);
    }
    let names = [
        "rms_norm_eps",
        "norm_eps",
        "layernorm_epsilon",
        "layer_norm_eps",
    ];
    Ok(c.float(&names, 0.0..=1.0)?.unwrap_or(1e-5) as f32)
}

/// Query heads, key heads, width of a head, and whether that width is stated.
fn heads(c: &Fields<'_>, e: u64) -> Result<(u64, u64, u64, bool)> {
    let range = 1..=limits::MAX_HEADS;
    let heads = c.need_uint(&["num_attention_heads", "n_head"], range.clone())?;
    let kv = c
        .uint(
            &["num_key_value_heads", "multi_query_group_num", "n_kv_heads"],
            range,
        )?
        .unwrap_or(heads);
    let given = c.uint(&["head_dim", "kv_channels"], 1..=4096)?;
    if given.is_none() && !e.is_multiple_of(heads) {
        return Err(bad(
            FILE,
            "num_attention_heads",
            heads,
            format!("a divisor of hidden_size {e}"),
        ));
    }
    let head_dim = given.unwrap_or(e / heads);
    if !heads.is_multiple_of(kv) {
        return Err(bad(
            FILE,
            "num_key_value_heads",
            kv,
            format!("a divisor of num_attention_heads {heads}"),
        ));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(bad(FILE, "head_dim", head_dim, "an even number"));
    }
    if head_dim * heads > limits::MAX_WIDTH {
        return Err(bad(
            FILE,
            "head_dim",
            head_dim,
            format!("at most {} in all heads", limits::MAX_WIDTH),
        ));
    }
    Ok((heads, kv, head_dim, given.is_some()))
}

/// Keys of single families. `sizes`: width, head and layers.
fn more(
    c: &Fields<'_>,
    family: Family,
    [width, head, layers]: [f64; 3],
) -> Result<Vec<(&'static str, MetaValue)>> {
    let range = 1e-6..=1e6;
    let float = |names: &[&'static str]| c.float(names, range.clone());
    let mut out = Vec::new();
    let mut put = |key, v: f64| out.push((key, MetaValue::F32(v as f32)));
    match family {
        Family::MiniCpm => {
            put("embedding_scale", float(&["scale_emb"])?.unwrap_or(1.0));
            let depth = float(&["scale_depth"])?;
            put("residual_scale", depth.map_or(1.0, |d| d / layers.sqrt()));
            let base = float(&["dim_model_base"])?;
            put("logit_scale", base.map_or(1.0, |b| width / b));
        }
        Family::Olmo | Family::OlmoE => {
            if let Some(clamp) = float(&["clip_qkv"])? {
                put("attention.clamp_kqv", clamp);
            }
        }
        Family::Gemma3 => {
            if let Some(base) = c.float(&["rope_local_base_freq"], 1.0..=1e12)? {
                put("rope.freq_base_swa", base);
            }
            let scalar = float(&["query_pre_attn_scalar"])?;
            if let Some(scalar) = scalar.filter(|s| *s != head) {
                put("attention.scale", 1.0 / scalar.sqrt());
            }
            if let Some(cap) = float(&["final_logit_softcapping"])? {
                put("final_logit_softcapping", cap);
            }
            out.extend(slides(c)?);
        }
        Family::JetMoe => {
            // The reference has this epsilon in its layers, whatever the configuration says.
            let last = c.float(&["rms_norm_eps"], 0.0..=1.0)?;
            put("output_norm_epsilon", last.unwrap_or(JETMOE_EPS));
        }
        _ => {}
    }
    if matches!(family, Family::Qwen2Moe | Family::Qwen3Moe | Family::OlmoE) {
        let renormalise = c.bool("norm_topk_prob")?.unwrap_or(false);
        if renormalise != (family == Family::Qwen3Moe) {
            out.push(("expert_weights_norm", MetaValue::Bool(renormalise)));
        }
    }
    Ok(out)
}

/// Which layers of Gemma have a window, unless it is five of every six.
fn slides(c: &Fields<'_>) -> Result<Option<(&'static str, MetaValue)>> {
    let Some(types) = c.value.get("layer_types").and_then(Value::as_array) else {
        let every = c.uint(&["sliding_window_pattern"], 1..=limits::MAX_LAYERS)?;
        let key = "attention.sliding_window_pattern";
        return Ok(every
            .filter(|n| *n != 6)
            .map(|n| (key, MetaValue::U32(n as u32))));
    };
    let sliding = |t: &Value| t.as_str() == Some("sliding_attention");
    let slides: Vec<bool> = types.iter().map(sliding).collect();
    let usual = (0..slides.len()).all(|l| slides[l] == (l % 6 < 5));
    let pattern = MetaValue::Bools(slides);
    Ok((!usual).then_some(("attention.sliding_window_pattern", pattern)))
}

/// `architectures[0]`, else `model_type`, else `auto_map`.
fn front(c: &Fields<'_>) -> Result<&'static Front> {
    let class = c
        .value
        .get("architectures")
        .and_then(|a| a.get(0))
        .and_then(Value::as_str);
    let model_type = c.str(&["model_type"])?;
    let auto = c
        .value
        .get("auto_map")
        .map(Value::to_string)
        .unwrap_or_default();
    let known = FRONTS.iter().find(|f| match (class, model_type) {
        (Some(class), _) => f.classes.contains(&class),
        (None, Some(t)) if f.types.contains(&t) => true,
        (None, _) => f.classes.iter().any(|class| auto.contains(class)),
    });
    let all = |names: fn(&Front) -> &'static [&'static str]| {
        let names: Vec<_> = FRONTS.iter().flat_map(names).copied().collect();
        names.join(", ")
    };
    known.ok_or_else(|| Error::Unsupported {
        what: "architecture",
        value: class
            .or(model_type)
            .unwrap_or("absent")
            .chars()
            .take(80)
            .collect(),
        known: format!("{} (model_type {})", all(|f| f.classes), all(|f| f.types)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama31(head_dim: usize, factor: f64) -> Hyper {
        Hyper {
            front: &FRONTS[0],
            layers: 1,
            width: head_dim,
            ffn: 1,
            experts: None,
            heads: 1,
            kv_heads: 1,
            head_dim,
            head_dim_given: false,
            vocab: 1,
            context: 131072,
            eps: 1e-5,
            rope_base: 500000.0,
            scaling: Some(RopeScaling::Llama3 {
                factor,
                low: 1.0,
                high: 4.0,
                original: 8192.0,
            }),
            window: None,
            tied: false,
            rotary: head_dim,
            more: Vec::new(),
        }
    }

    #[test]
    fn llama3_factors_match_the_published_vectors() {
        let close = |a: f32, b: f32| assert!((a - b).abs() < 2e-6 * b, "{a} {b}");
        let f = llama31(128, 8.0).rope_factors().unwrap();
        assert_eq!(f.len(), 64);
        assert!(f[..29].iter().all(|&v| v == 1.0) && f[35..].iter().all(|&v| v == 8.0));
        for (i, want) in [1.207484, 1.553415, 2.026313, 2.69453, 3.684253, 5.257327]
            .into_iter()
            .enumerate()
        {
            close(f[29 + i], want);
        }
        let f = llama31(64, 32.0).rope_factors().unwrap();
        close(f[15], 1.651329);
        close(f[16], 3.292262);
        close(f[17], 9.666729);
        assert_eq!((f[14], f[18]), (1.0, 32.0));
    }
}
