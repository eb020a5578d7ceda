//! Switches of single architectures that a file sets, or the architecture where it is silent.

use super::arch::{FfnWidth, RopePairing, Unrotated};
use super::keys::Keys;
use super::scaling::Temperature;
use crate::error::Result;
use crate::gguf::GgufFile;
use crate::limits;

/// Widths of the feed-forward layers.
pub(super) fn ffn_widths(keys: &Keys<'_>, count: usize) -> Result<Vec<usize>> {
    let suffix = "feed_forward_length";
    let said = match keys.each(suffix, limits::MAX_WIDTH, count)? {
        // Where all layers have experts.
        None => keys.each("expert_feed_forward_length", limits::MAX_WIDTH, count)?,
        said => said,
    };
    let said = GgufFile::require(&keys.key(suffix), said)?;
    let of = |(l, said): (usize, usize)| {
        let up = keys.file.tensor(&format!("blk.{l}.ffn_up.weight"));
        match (keys.arch.ffn_width, up.map(|t| t.info().rows())) {
            (FfnWidth::Tensors, Some(n)) if (1..=limits::MAX_WIDTH).contains(&(n as u64)) => n,
            _ => said,
        }
    };
    Ok(said.into_iter().enumerate().map(of).collect())
}

/// Caps of the scores and of the logits.
pub(super) fn softcaps(keys: &Keys<'_>) -> Result<[Option<f32>; 2]> {
    let of = |suffix, usual: f32| match keys.float(suffix, 0.0..=1e6)?.unwrap_or(usual) {
        0.0 => Ok(None),
        cap @ 1e-6.. => Ok(Some(cap)),
        cap => keys.bad(suffix, cap, "0 or 1e-6..=1e6"),
    };
    let [scores, logits] = keys.arch.softcaps;
    Ok([
        of("attn_logit_softcapping", scores)?,
        of("final_logit_softcapping", logits)?,
    ])
}

/// What the tokens see of layers with a window; 0: all.
pub(super) fn window(keys: &Keys<'_>) -> Result<usize> {
    let said = keys.count("attention.sliding_window", limits::MAX_CONTEXT)?;
    Ok(said.unwrap_or(keys.arch.window))
}

/// Sections of M-RoPE are positions of text where there is only text, in pairs `(i, i + r/2)`.
pub(super) fn check_sections(keys: &Keys<'_>) -> Result<()> {
    let suffix = "rope.dimension_sections";
    let adjacent = keys.arch.rope == RopePairing::Adjacent;
    match keys.file.get(&keys.key(suffix)) {
        Some(_) if adjacent => keys.bad(suffix, "there", "absent where pairs are (2i, 2i+1)"),
        _ => Ok(()),
    }
}

/// Which layers rotate, by what their tokens see.
pub(super) fn rotated(keys: &Keys<'_>, windows: &[usize]) -> Result<Vec<bool>> {
    let none = window(keys)? == 0;
    let one = |(l, window): (usize, &usize)| match keys.arch.unrotated {
        Unrotated::None => true,
        Unrotated::Every(n) => !(l + 1).is_multiple_of(n),
        Unrotated::Full => *window != usize::MAX,
        Unrotated::FullBesideWindows => none || *window != usize::MAX,
    };
    Ok(windows.iter().enumerate().map(one).collect())
}

/// Growth of the queries, in steps of the context before stretching.
pub(super) fn temperature(keys: &Keys<'_>) -> Result<Option<Temperature>> {
    let scale = keys.float("attention.temperature_scale", 0.0..=1e6)?;
    let Some(scale) = scale.filter(|s| *s > 0.0) else {
        return Ok(None);
    };
    let length = keys.required("rope.scaling.original_context_length", limits::MAX_CONTEXT)?;
    Ok(Some(Temperature { scale, length }))
}
