//! Positions in `config.json`: base and stretching of the rotation, sliding windows.

use serde_json::Value;

use super::folder::{Fields, bad, short};
use crate::error::{Error, Result};
use crate::limits;

const FILE: &str = "config.json";

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
    /// YaRN, left to the runtime.
    Yarn {
        /// The divisor.
        factor: f32,
        /// Context before stretching.
        original: u32,
    },
}

pub(super) fn rope_base(c: &Fields<'_>) -> Result<f32> {
    let range = 1.0..=1e12;
    let nested = c
        .object("rope_parameters")
        .map(|p| p.float(&["rope_theta"], range.clone()));
    let base = match nested.transpose()?.flatten() {
        Some(base) => Some(base),
        None => c.float(&["rope_theta"], range)?,
    };
    Ok(base.unwrap_or(10000.0) as f32)
}

pub(super) fn rope_scaling(c: &Fields<'_>, context: u64) -> Result<Option<RopeScaling>> {
    let Some(s) = c
        .object("rope_scaling")
        .or_else(|| c.object("rope_parameters"))
    else {
        return Ok(None);
    };
    let factor = || {
        s.float(&["factor"], 1e-3..=1e6)?
            .ok_or_else(|| bad(FILE, "rope_scaling.factor", "absent", "a number"))
    };
    let original = || match s.uint(
        &["original_max_position_embeddings"],
        1..=limits::MAX_CONTEXT,
    )? {
        Some(n) => Ok(n),
        None => c.need_uint(
            &["original_max_position_embeddings"],
            1..=limits::MAX_CONTEXT,
        ),
    };
    match s.str(&["rope_type", "type"])? {
        None | Some("default" | "none") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear {
            factor: factor()? as f32,
        })),
        Some("llama3") => {
            let need = |name| {
                s.float(&[name], 1e-3..=1e6)?
                    .ok_or_else(|| bad(FILE, name, "absent", "a number"))
            };
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if low >= high {
                return Err(bad(
                    FILE,
                    "rope_scaling.low_freq_factor",
                    low,
                    format!("below high_freq_factor {high}"),
                ));
            }
            Ok(Some(RopeScaling::Llama3 {
                factor: factor()?,
                low,
                high,
                original: original()? as f64,
            }))
        }
        Some(kind @ ("longrope" | "su")) => {
            let factors = |name: &'static str| {
                let values = s.value.get(name).and_then(Value::as_array);
                let values =
                    values.map(|v| v.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
                let good = |v: &Vec<f64>| v.iter().all(|f| (1e-3..=1e6).contains(f));
                match values.flatten().filter(good) {
                    Some(v) => Ok(v.into_iter().map(|f| f as f32).collect()),
                    None => Err(bad(FILE, name, kind, "an array of numbers")),
                }
            };
            let original = original()?;
            let stretch = context as f64 / original as f64;
            let usual = match stretch > 1.0 {
                true => (1.0 + stretch.ln() / (original as f64).ln()).sqrt(),
                false => 1.0,
            };
            let given = s.float(&["attention_factor"], 1e-3..=1e3)?;
            Ok(Some(RopeScaling::Long {
                long: factors("long_factor")?,
                short: factors("short_factor")?,
                original: original as u32,
                attn_factor: given.unwrap_or(usual) as f32,
            }))
        }
        Some("yarn") => Ok(Some(RopeScaling::Yarn {
            factor: factor()? as f32,
            original: original()? as u32,
        })),
        Some(other) => Err(Error::Unsupported {
            what: "rope scaling",
            value: other.chars().take(80).collect(),
            known: "linear, llama3, longrope, yarn".into(),
        }),
    }
}

/// The window; the llama class of Hugging Face ignores the key.
pub(super) fn window(c: &Fields<'_>) -> Result<Option<u32>> {
    let class = c
        .value
        .get("architectures")
        .and_then(|a| a.get(0))
        .and_then(Value::as_str);
    let llama = class == Some("LlamaForCausalLM")
        || (class.is_none() && c.str(&["model_type"])? == Some("llama"));
    if llama || c.bool("use_sliding_window")? == Some(false) {
        return Ok(None);
    }
    if let Some((_, v)) = c.get(&["sliding_window"])
        && v.as_u64().is_none()
    {
        return Err(bad(FILE, "sliding_window", short(v), "an integer or null"));
    }
    Ok(c.uint(&["sliding_window"], 0..=limits::MAX_CONTEXT)?
        .filter(|&w| w > 0)
        .map(|w| w as u32))
}
