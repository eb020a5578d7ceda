//! Keys and tokens of single families.

use serde_json::Value;

use crate::convert::folder::Fields;
use crate::convert::hyper::Hyper;
use crate::error::Result;
use crate::gguf::writer::MetaValue;
use crate::limits;

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

fn float(c: &Fields<'_>, name: &'static str) -> Result<Option<f64>> {
    c.float(&[name], 1e-6..=1e6)
}

impl Hyper {
    pub(super) fn put(&mut self, key: &'static str, value: f64) {
        self.more.push((key, MetaValue::F32(value as f32)));
    }
}

/// Factors of embeddings, residual branches and logits.
pub(super) fn minicpm(c: &Fields<'_>, h: &mut Hyper) -> Result<()> {
    let (width, layers) = (h.width as f64, h.layers() as f64);
    h.put("embedding_scale", float(c, "scale_emb")?.unwrap_or(1.0));
    let depth = float(c, "scale_depth")?;
    h.put("residual_scale", depth.map_or(1.0, |d| d / layers.sqrt()));
    let base = float(c, "dim_model_base")?;
    h.put("logit_scale", base.map_or(1.0, |b| width / b));
    Ok(())
}

/// Clamped queries, keys and values.
pub(super) fn olmo(c: &Fields<'_>, h: &mut Hyper) -> Result<()> {
    if let Some(clamp) = float(c, "clip_qkv")? {
        h.put("attention.clamp_kqv", clamp);
    }
    Ok(())
}

/// Windows in some of the layers with a base of their own, and two scales.
pub(super) fn gemma3(c: &Fields<'_>, h: &mut Hyper) -> Result<()> {
    if let Some(base) = c.float(&["rope_local_base_freq"], 1.0..=1e12)? {
        h.put("rope.freq_base_swa", base);
    }
    let scalar = float(c, "query_pre_attn_scalar")?;
    if let Some(scalar) = scalar.filter(|s| *s != h.shape.head_dim as f64) {
        h.put("attention.scale", 1.0 / scalar.sqrt());
    }
    if let Some(cap) = float(c, "final_logit_softcapping")? {
        h.put("final_logit_softcapping", cap);
    }
    h.more.extend(slides(c)?);
    Ok(())
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
