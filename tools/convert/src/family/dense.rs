//! Dense families of 2024 and 2025: the layer of Llama with switches.

use super::keys::{float, layer_types, pattern};
use super::spec::{Family, Hyper, Table};
use super::tables::*;
use crate::config::Config;
use geb::error::Result;
use geb::gguf::writer::MetaValue;

/// Gemma 1. Its first configurations call GELU in its tanh form `gelu`.
pub(super) const GEMMA: Family = Family {
    classes: &["GemmaForCausalLM"],
    types: &["gemma"],
    architecture: "gemma",
    permuted: false,
    norm_offset: 1.0,
    tied: true,
    activation: (
        &["hidden_activation", "hidden_act"],
        &["gelu_pytorch_tanh", "gelu"],
    ),
    ..LIKE_LLAMA
};

/// Gemma 2.
pub(super) const GEMMA2: Family = Family {
    classes: &["Gemma2ForCausalLM"],
    types: &["gemma2"],
    architecture: "gemma2",
    activation: (&["hidden_activation", "hidden_act"], &["gelu_pytorch_tanh"]),
    windowed: true,
    more: gemma2,
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            ATTN_OUTPUT,
            POST_ATTENTION_NORM,
            PRE_FFN_NORM,
            FFN,
            POST_FFN_NORM,
        ],
        ..LLAMA
    },
    ..GEMMA
};

/// A scale, two caps and a window in every other layer. Runtimes have usual values of all of them, so that what the
/// configuration says is written even where it is none.
fn gemma2(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let scalar = float(c, "query_pre_attn_scalar")?.unwrap_or(h.shape.head_dim as f64);
    h.put("attention.scale", 1.0 / scalar.sqrt());
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        h.put(key, float(c, key)?.unwrap_or(0.0));
    }
    if h.window.is_none() {
        h.more.push(("attention.sliding_window", MetaValue::U32(0)));
    }
    let usual = pattern(h.layers(), 2);
    let slides = layer_types(c, h.layers())?.unwrap_or_else(|| usual.clone());
    slide(h, slides, usual);
    Ok(())
}

/// Writes which layers have a window, unless it is what runtimes take where a file does not say.
fn slide(h: &mut Hyper, slides: Vec<bool>, usual: Vec<bool>) {
    if slides != usual {
        let key = "attention.sliding_window_pattern";
        h.more.push((key, MetaValue::Bools(slides)));
    }
}
