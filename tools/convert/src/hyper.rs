//! `config.json` of a checkpoint: hyperparameters read once, range-checked, then plain numbers,
//! and the GGUF keys made from them. What differs between families is data of [`Family`].

use serde_json::Value;

use super::config::{self, Config, FILE};
use super::family::FAMILIES;
pub use super::family::spec::{Experts, Hyper, LayerSizes, RopeScaling, Shape};
use super::family::spec::{Family, Rope};
use super::folder::{bad, short};
use super::known;
use super::layout::GebLayout;
use super::positions::{self, window, yarn_magnitude};
use super::recurrent;
use geb::error::{Error, Result};
use geb::gguf::writer::MetaValue;
use geb::limits;

impl Hyper {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture, [`Error::Checkpoint`] for a bad value.
    pub fn read(config: &Value) -> Result<Hyper> {
        let (mut text, nested) = config::text_model(config)?;
        let family = family(&Config::new(FILE, &text, ""))?;
        let kind = text.get("model_type").and_then(Value::as_str);
        let kind = kind.filter(|k| family.types.contains(k));
        let kind = kind.or(family.types.first().copied()).unwrap_or("llama");
        let kind = kind.to_owned();
        known::fill(&mut text, &kind, nested, family.rotated.is_some());
        let c = Config::new(FILE, &text, "");
        check_graph(&c, family)?;
        let hyper = match family.states {
            Some(states) => recurrent::hyper(&c, family, states)?,
            None => Self::read_layers(&c, family)?,
        };
        if !c.was_read("layer_types") {
            same_layers(&c, &hyper)?;
        }
        c.check_unread(family.architecture)?;
        Ok(hyper)
    }

    /// Reads the numbers of a family whose layers have attention.
    fn read_layers(c: &Config<'_>, family: &'static Family) -> Result<Hyper> {
        let layers = c.need_uint(known::LAYERS, 1..=limits::MAX_LAYERS)? as usize;
        let width = c.need_uint(known::WIDTH, 1..=limits::MAX_WIDTH)? as usize;
        let shape = (family.shape)(c, family, layers, width)?;
        let context = first_uint(c, known::CONTEXT, limits::MAX_CONTEXT)?.or(family.context);
        let context =
            context.ok_or_else(|| bad(FILE, known::CONTEXT[0], "absent", "an integer"))?;
        let vocab = first_uint(c, known::VOCAB, limits::MAX_VOCAB as u64)?;
        let vocab = vocab.ok_or_else(|| bad(FILE, known::VOCAB[0], "absent", "an integer"))?;
        let ropes = match family.rotated {
            Some(_) => Some(positions::ropes(c, family, context)?),
            None => None,
        };
        let rope = ropes.as_ref().map(|r| &r.full);
        let mut hyper = Hyper {
            family,
            table: family.table,
            width,
            vocab: vocab as usize,
            context,
            eps: c.float(known::EPSILON, 0.0..=1.0)?.unwrap_or(1e-5) as f32,
            rope_base: rope.map_or(0.0, |r| r.base as f32),
            scaling: rope.and_then(|r| r.scaling.clone()),
            window: match family.windowed {
                true => window(c)?,
                false => None,
            },
            tied: c.bool("tie_word_embeddings")?.unwrap_or(family.tied),
            rotary: rotary(rope, family, shape.head_dim)?,
            shape,
            ropes,
            experts: None,
            encoder_layers: 0,
            extra_heads: 0,
            buckets: 0,
            states: None,
            hybrid: None,
            more: Vec::new(),
        };
        if c.value.get("use_sliding_window") == Some(&Value::Bool(false)) {
            c.note(&["use_sliding_window", "sliding_window", "max_window_layers"]);
        }
        (family.more)(c, &mut hyper)?;
        Ok(hyper)
    }

    /// Sizes of a layer; those of an encoder are those of the first layer of the decoder.
    pub(super) fn sizes(&self, layer: usize) -> LayerSizes {
        let layers = &self.shape.layers;
        layers[if layer < layers.len() { layer } else { 0 }]
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.shape.layers.len()
    }

    /// `general.architecture` of the file.
    pub fn architecture(&self, layout: &GebLayout) -> &'static str {
        match self.family.open_layout {
            true => layout.architecture(),
            false => self.family.architecture,
        }
    }

    /// The keys of the architecture; `rows` of the embedding.
    pub fn metadata(&self, layout: &GebLayout, rows: usize) -> Vec<(String, MetaValue)> {
        if let Some(sizes) = &self.states {
            return recurrent::metadata(self, sizes, rows);
        }
        let arch = self.architecture(layout);
        let head_dim = self.shape.head_dim;
        let rope_dims = match self.family.open_layout {
            true => layout.rope_dims(head_dim),
            false => self.rotary,
        };
        let u = |v: usize| MetaValue::U32(v as u32);
        let mut out = Vec::new();
        let mut key = |name: &str, value: MetaValue| out.push((format!("{arch}.{name}"), value));
        let blocks = match self.encoder_layers {
            0 => self.layers(),
            encoder => encoder,
        };
        key("block_count", u(blocks));
        key("context_length", MetaValue::U32(self.context as u32));
        key("embedding_length", u(self.width));
        key("feed_forward_length", self.each(|l| l.ffn));
        key("attention.head_count", self.each(|l| l.heads));
        key("attention.head_count_kv", self.each(|l| l.kv_heads));
        let epsilon = match self.family.layer_norm {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        key(epsilon, MetaValue::F32(self.eps));
        let mut heads = self.shape.layers.iter().map(|l| l.heads);
        if heads.any(|h| h > 0 && h * head_dim != self.width) {
            key("attention.key_length", u(head_dim));
            key("attention.value_length", u(head_dim));
        }
        if let Some(window) = self.window {
            key("attention.sliding_window", MetaValue::U32(window));
        }
        if rope_dims > 0 {
            key("rope.dimension_count", u(rope_dims));
            key("rope.freq_base", MetaValue::F32(self.rope_base));
        }
        let f = |v: f64| MetaValue::F32(v as f32);
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
            Some(RopeScaling::Yarn {
                factor,
                original,
                magnitude,
                beta_fast,
                beta_slow,
                truncate,
            }) => {
                key("rope.scaling.type", MetaValue::Str("yarn".into()));
                key("rope.scaling.factor", f(factor));
                key(
                    "rope.scaling.original_context_length",
                    MetaValue::U32(original),
                );
                let usual = yarn_magnitude(factor, 1.0);
                if magnitude != usual {
                    key("rope.scaling.attn_factor", f(magnitude / usual));
                }
                if beta_fast != 32.0 {
                    key("rope.scaling.yarn_beta_fast", f(beta_fast));
                }
                if beta_slow != 1.0 {
                    key("rope.scaling.yarn_beta_slow", f(beta_slow));
                }
                if !truncate {
                    key("rope.scaling.yarn_truncate", MetaValue::Bool(false));
                }
            }
            Some(RopeScaling::Llama3 { .. } | RopeScaling::Alpha(_)) | None => {}
        }
        key("vocab_size", u(rows));
        for (name, value) in &self.more {
            key(name, value.clone());
        }
        out
    }

    /// A number of the layers: an array where they differ.
    fn each(&self, of: impl Fn(&LayerSizes) -> usize) -> MetaValue {
        let all: Vec<u32> = self.shape.layers.iter().map(|l| of(l) as u32).collect();
        match all.windows(2).all(|p| p[0] == p[1]) {
            true => MetaValue::U32(all.first().copied().unwrap_or(0)),
            false => MetaValue::U32s(all),
        }
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
        let d = self.rotary;
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

/// Refuses what the graph of the family cannot express.
fn check_graph(c: &Config<'_>, family: &Family) -> Result<()> {
    let (names, known) = family.activation;
    for &name in names {
        if let Some(act) = c.str(&[name])?
            && !known.contains(&act)
        {
            return Err(Error::Unsupported {
                what: "activation",
                value: act.chars().take(80).collect(),
                known: known.join(", "),
            });
        }
    }
    for &(name, wanted, allowed) in family.fixed {
        if c.bool(name)?.is_some_and(|v| v != wanted) {
            return Err(bad(FILE, name, !wanted, allowed));
        }
    }
    c.note(family.harmless);
    Ok(())
}

/// The number under the first of these names that is there; the others may differ.
fn first_uint(c: &Config<'_>, names: &[&'static str], max: u64) -> Result<Option<u64>> {
    c.note(names);
    let first = names.iter().find(|n| c.get(&[n]).is_some());
    first.map_or(Ok(None), |name| c.uint(&[name], 1..=max))
}

/// `layer_types` in families whose layers are alike: all with the window that there is, or all without.
fn same_layers(c: &Config<'_>, h: &Hyper) -> Result<()> {
    let Some((name, types)) = c.get(&["layer_types"]) else {
        return Ok(());
    };
    let kind = match h.window {
        Some(_) => known::SLIDING,
        None => known::FULL,
    };
    let list = types.as_array().filter(|l| l.len() == h.layers());
    match list.is_some_and(|l| l.iter().all(|t| t.as_str() == Some(kind))) {
        true => Ok(()),
        false => {
            let allowed = format!("{kind} for each of {} layers", h.layers());
            Err(bad(FILE, name, short(types), allowed))
        }
    }
}

/// Rotated elements of a head.
fn rotary(rope: Option<&Rope>, family: &Family, head_dim: usize) -> Result<usize> {
    let (Some(rope), Some(usual)) = (rope, family.rotated) else {
        return Ok(0);
    };
    let share = rope.share.unwrap_or(usual);
    let rotary = (share * head_dim as f64) as usize;
    if rotary == 0 || !rotary.is_multiple_of(2) {
        let allowed = format!("a share of {head_dim} that is an even number");
        return Err(bad(FILE, known::ROPE_SHARE[0], share, allowed));
    }
    Ok(rotary)
}

/// `architectures[0]`, else `model_type`, else `auto_map`.
fn family(c: &Config<'_>) -> Result<&'static Family> {
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
    let known = FAMILIES.iter().find(|f| match (class, model_type) {
        (Some(class), _) => f.classes.contains(&class),
        (None, Some(t)) if f.types.contains(&t) => true,
        (None, _) => f.classes.iter().any(|class| auto.contains(class)),
    });
    let all = |names: fn(&Family) -> &'static [&'static str]| {
        let names: Vec<_> = FAMILIES.iter().flat_map(names).copied().collect();
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
            family: &FAMILIES[0],
            table: FAMILIES[0].table,
            width: head_dim,
            shape: Shape {
                layers: Vec::new(),
                head_dim,
            },
            experts: None,
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
            encoder_layers: 0,
            extra_heads: 0,
            buckets: 0,
            rotary: head_dim,
            ropes: None,
            states: None,
            hybrid: None,
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
