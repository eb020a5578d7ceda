//! Sizes of layers as most families state them.

use super::config::{Config, FILE};
use super::family::spec::{Family, LayerSizes, Shape};
use super::folder::bad;
use super::known;
use geb::error::Result;
use geb::limits;

/// The sizes of a family whose layers are alike.
pub(super) fn alike(c: &Config<'_>, family: &Family, layers: usize, width: usize) -> Result<Shape> {
    let kv = c.uint(known::KV_HEADS, 1..=limits::MAX_HEADS)?;
    alike_with(c, family, layers, width, kv)
}

/// As [`alike`], with this number of key heads; `None`: as many as query heads.
pub(super) fn alike_with(
    c: &Config<'_>,
    family: &Family,
    layers: usize,
    width: usize,
    kv: Option<u64>,
) -> Result<Shape> {
    let heads = c.need_uint(known::HEADS, 1..=limits::MAX_HEADS)?;
    let kv = kv.unwrap_or(heads);
    let given = c.uint(known::HEAD_DIM, 1..=4096)?;
    let e = width as u64;
    if given.is_none() && !e.is_multiple_of(heads) {
        let allowed = format!("a divisor of hidden_size {e}");
        return Err(bad(FILE, "num_attention_heads", heads, allowed));
    }
    let head_dim = given.unwrap_or(e / heads);
    if !heads.is_multiple_of(kv) {
        let allowed = format!("a divisor of num_attention_heads {heads}");
        return Err(bad(FILE, "num_key_value_heads", kv, allowed));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(bad(FILE, "head_dim", head_dim, "an even number"));
    }
    if head_dim * heads > limits::MAX_WIDTH {
        let allowed = format!("at most {} in all heads", limits::MAX_WIDTH);
        return Err(bad(FILE, "head_dim", head_dim, allowed));
    }
    let sizes = LayerSizes {
        heads: heads as usize,
        kv_heads: kv as usize,
        ffn: feed_forward(c, family, e)?,
    };
    Ok(Shape {
        layers: vec![sizes; layers],
        head_dim: head_dim as usize,
    })
}

/// Width of the feed-forward layers.
pub(super) fn feed_forward(c: &Config<'_>, family: &Family, width: u64) -> Result<usize> {
    let given = match c.uint(known::FFN, 1..=limits::MAX_WIDTH)? {
        // Where all layers have experts.
        None => c.uint(&["moe_intermediate_size"], 1..=limits::MAX_WIDTH)?,
        given => given,
    };
    let usual = family.ffn_times.map(|n| n * width);
    match given.or(usual.filter(|f| *f <= limits::MAX_WIDTH)) {
        Some(ffn) => Ok(ffn as usize),
        None => Err(bad(FILE, known::FFN[0], "absent", "an integer")),
    }
}
