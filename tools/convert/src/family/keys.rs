//! Keys and tokens of single families.

use serde_json::Value;

use super::spec::Hyper;
use crate::config::{Config, FILE};
use crate::folder::{bad, short};
use crate::known::{FULL, SLIDING};
use crate::positions::window;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;

/// The special tokens of GEB, numbered after the pieces (the ChatGLM3 set).
pub(super) const GEB_TOKENS: &[&str] = &[
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<eod>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

pub(super) fn float(c: &Config<'_>, name: &'static str) -> Result<Option<f64>> {
    c.float(&[name], 1e-6..=1e6)
}

impl Hyper {
    pub(super) fn put(&mut self, key: &'static str, value: f64) {
        self.more.push((key, MetaValue::F32(value as f32)));
    }
}

/// Heads for the tokens behind the next one (arXiv 2404.19737).
pub(super) fn extra_heads(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let tokens = c.uint(&["n_future_tokens"], 1..=limits::MAX_LAYERS)?;
    h.extra_heads = tokens.map_or(0, |n| n as usize - 1);
    if h.extra_heads > 0 {
        let count = MetaValue::U32(h.extra_heads as u32);
        h.more.push(("mtp_head_count", count));
    }
    Ok(())
}

/// Factors of embeddings, residual branches and logits.
pub(super) fn minicpm(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let (width, layers) = (h.width as f64, h.layers() as f64);
    let denominator = float(c, "mup_denominator")?;
    if let Some(n) = denominator.filter(|n| *n != layers) {
        return Err(bad(
            FILE,
            "mup_denominator",
            n,
            format!("{layers}, the layers"),
        ));
    }
    h.put("embedding_scale", float(c, "scale_emb")?.unwrap_or(1.0));
    let depth = float(c, "scale_depth")?;
    h.put("residual_scale", depth.map_or(1.0, |d| d / layers.sqrt()));
    let base = float(c, "dim_model_base")?;
    h.put("logit_scale", base.map_or(1.0, |b| width / b));
    Ok(())
}

/// Clamped queries, keys and values.
pub(super) fn olmo(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    if let Some(clamp) = float(c, "clip_qkv")? {
        h.put("attention.clamp_kqv", clamp);
    }
    Ok(())
}

/// Windows in some of the layers with a base of their own, and two scales.
pub(super) fn gemma3(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    if let Some(window) = h.ropes.as_ref().and_then(|r| r.window.as_ref()) {
        let base = window.base;
        h.put("rope.freq_base_swa", base);
    }
    let scalar = float(c, "query_pre_attn_scalar")?;
    if let Some(scalar) = scalar.filter(|s| *s != h.shape.head_dim as f64) {
        h.put("attention.scale", 1.0 / scalar.sqrt());
    }
    if let Some(cap) = float(c, "final_logit_softcapping")? {
        h.put("final_logit_softcapping", cap);
    }
    let slides = layer_types(c, h.layers())?;
    // The list holds where there are both.
    let every = c.uint(&["sliding_window_pattern"], 1..=limits::MAX_LAYERS)?;
    c.note(&["_sliding_window_pattern"]);
    let every = every.unwrap_or(GEMMA_FULL_EVERY as u64) as usize;
    let slides = slides.unwrap_or_else(|| pattern(h.layers(), every));
    if slides.contains(&true) {
        need_window_rope(h)?;
    }
    if slides != pattern(h.layers(), GEMMA_FULL_EVERY) {
        let key = "attention.sliding_window_pattern";
        h.more.push((key, MetaValue::Bools(slides)));
    }
    Ok(())
}

/// The layer of Gemma 3 that sees all is one of so many, and that is what runtimes take without a key.
const GEMMA_FULL_EVERY: usize = 6;

/// All layers but every n-th have a window.
pub(super) fn pattern(layers: usize, every: usize) -> Vec<bool> {
    (1..=layers).map(|l| !l.is_multiple_of(every)).collect()
}

/// Refuses layers with a window whose rotation nothing tells.
fn need_window_rope(h: &Hyper) -> Result<()> {
    match &h.ropes {
        Some(ropes) if ropes.window.is_none() => {
            let name = format!("rope_parameters.{SLIDING}.rope_theta");
            Err(bad(FILE, name, "absent", "a number"))
        }
        _ => Ok(()),
    }
}

/// Qwen: a window in the layers from `max_window_layers` on, if it is used at all.
pub(super) fn qwen(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    c.note(&["sliding_window", "max_window_layers"]);
    if c.bool("use_sliding_window")? != Some(true) {
        return Ok(());
    }
    let first = c.uint(&["max_window_layers"], 0..=limits::MAX_LAYERS)?;
    let first = first.unwrap_or(0) as usize;
    windowed(c, h, |l| l >= first)
}

/// Qwen 3 with experts: a window in all layers, if it is used.
pub(super) fn qwen3_moe(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    c.note(&["sliding_window", "max_window_layers"]);
    if c.bool("use_sliding_window")? == Some(true) {
        h.window = window(c)?;
    }
    Ok(())
}

/// OLMo 3: a window in three of four layers, which rotate as before the context was stretched.
pub(super) fn olmo3(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    windowed(c, h, |l| l % 4 < 3)?;
    if h.window.is_none() {
        return Ok(());
    }
    need_window_rope(h)?;
    let base = h.ropes.as_ref().and_then(|r| Some(r.window.as_ref()?.base));
    if let Some(base) = base.filter(|b| *b as f32 != h.rope_base) {
        h.put("rope.freq_base_swa", base);
    }
    Ok(())
}

/// A window in the layers that `layer_types` names or, without it, in the `usual` ones.
fn windowed(c: &Config<'_>, h: &mut Hyper, usual: impl Fn(usize) -> bool) -> Result<()> {
    let usual = (0..h.layers()).map(usual).collect();
    let slides = layer_types(c, h.layers())?.unwrap_or(usual);
    h.window = window(c)?.filter(|_| slides.contains(&true));
    if h.window.is_some() {
        let pattern = MetaValue::Bools(slides);
        h.more.push(("attention.sliding_window_pattern", pattern));
    }
    Ok(())
}

/// `layer_types`: which of the layers have a window.
pub(super) fn layer_types(c: &Config<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some((name, types)) = c.get(&["layer_types"]) else {
        return Ok(None);
    };
    let one = |t: &Value| match t.as_str() {
        Some(SLIDING) => Some(true),
        Some(FULL) => Some(false),
        _ => None,
    };
    let list = types.as_array().map(|l| l.iter().map(one).collect());
    let list: Option<Vec<bool>> = list.flatten();
    match list.filter(|l| l.len() == layers) {
        Some(list) => Ok(Some(list)),
        None => {
            let allowed =
                format!("sliding_attention or full_attention for each of {layers} layers");
            Err(bad(FILE, name, short(types), allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::GebLayout;

    /// The keys that say which layers have a window.
    fn windows(class: &str, more: serde_json::Value) -> Result<Vec<(String, MetaValue)>> {
        let mut config = json!({
            "architectures": [class], "num_hidden_layers": 4, "hidden_size": 64,
            "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64,
            "vocab_size": 100, "sliding_window": 8,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let keys = Hyper::read(&config)?.metadata(&GebLayout::default(), 100);
        Ok((keys.into_iter())
            .filter(|(key, _)| key.contains("sliding_window"))
            .collect())
    }

    #[test]
    fn windows_are_in_the_layers_that_the_configuration_says() {
        let of = |arch: &str, slides: [bool; 4]| {
            let key = format!("{arch}.attention.sliding_window");
            let pattern = (format!("{key}_pattern"), MetaValue::Bools(slides.to_vec()));
            vec![(key, MetaValue::U32(8)), pattern]
        };
        let qwen = |more| windows("Qwen2ForCausalLM", more).unwrap();
        let used = json!({"use_sliding_window": true, "max_window_layers": 2});
        assert_eq!(qwen(used), of("qwen2", [false, false, true, true]));
        assert_eq!(qwen(json!({"max_window_layers": 2})), []);
        let none = json!({"use_sliding_window": true, "max_window_layers": 4});
        assert_eq!(qwen(none), []);
        let olmo = |more| windows("Olmo3ForCausalLM", more);
        let usual = of("olmo2", [true, true, true, false]);
        assert_eq!(olmo(json!({})).unwrap(), usual);
        let [s, f] = ["sliding_attention", "full_attention"];
        let types = json!({"layer_types": [s, f, f, s]});
        assert_eq!(
            olmo(types).unwrap(),
            of("olmo2", [true, false, false, true])
        );
        assert!(olmo(json!({"layer_types": [s, f]})).is_err());
        assert!(olmo(json!({"layer_types": [s, f, f, "chunked"]})).is_err());
    }
}
