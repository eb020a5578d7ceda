//! Keys of a mixture of experts.

use super::keys::Keys;
use crate::error::Result;
use crate::limits;

/// What makes weights of a router's logits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function of each.
    Sigmoid,
}

/// How layers with experts choose among them.
#[derive(Clone, Debug)]
pub struct Routing {
    /// Experts of a layer, X.
    pub count: usize,
    /// Experts that work on one token, k; at most X.
    pub used: usize,
    /// Width of one expert, Fx.
    pub width: usize,
    /// Width of the expert that works on every token, where there is one.
    pub shared_width: usize,
    /// From logits to weights.
    pub gating: Gating,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub renormalise: bool,
    /// Factor of the weights.
    pub scale: f32,
}

impl Routing {
    /// Reads the `expert_*` keys; `None` without experts. `dense` is the width of layers without.
    pub(super) fn read(keys: &Keys<'_>, dense: usize) -> Result<Option<Routing>> {
        let most = limits::MAX_EXPERTS;
        let Some(count) = keys.count("expert_count", most)?.filter(|n| *n > 0) else {
            return Ok(None);
        };
        let used = keys.required("expert_used_count", most)?;
        if used > count {
            let allowed = format!("at most {count}, the experts of a layer");
            return keys.bad("expert_used_count", used, allowed);
        }
        let width = |suffix| keys.int(suffix, limits::MAX_WIDTH);
        let gating = match keys.count("expert_gating_func", u64::from(u32::MAX))? {
            None | Some(1) => Gating::Softmax,
            Some(2) => Gating::Sigmoid,
            Some(other) => {
                return keys.bad("expert_gating_func", other, "1 (softmax), 2 (sigmoid)");
            }
        };
        Ok(Some(Routing {
            count,
            used,
            width: width("expert_feed_forward_length")?.unwrap_or(dense),
            shared_width: width("expert_shared_feed_forward_length")?.unwrap_or(dense),
            gating,
            renormalise: keys
                .bool("expert_weights_norm")?
                .unwrap_or(keys.arch.renormalise),
            scale: keys
                .float("expert_weights_scale", 0.0..=1e6)?
                .filter(|s| *s > 0.0)
                .unwrap_or(1.0),
        }))
    }
}
