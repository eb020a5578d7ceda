//! What a session is asked for, checked before anything is allocated.

use geb_kernels::float::KvType;
use geb_kernels::level::Level;
use geb_kernels::{ActKind, Kernels};

use super::KvChoice;
use crate::error::{Error, Result};
use crate::limits;
use crate::model::arch::Positions;
use crate::model::weights::{Layer, Weights};
use crate::model::{Config, Model};

/// A context ends with the trained length unless more was asked for and there are positions for it.
pub(crate) fn check_ctx(c: &Config, ctx: usize, beyond: bool) -> Result<()> {
    let trained = c.context_length;
    let (most, why) = match (beyond, c.arch.positions) {
        (true, Positions::Learned) => (trained, "the length of its table of positions"),
        (true, _) => (limits::MAX_CONTEXT as usize, "whatever was trained"),
        (false, _) => (trained, "the trained length; more must be asked for"),
    };
    if (1..=most).contains(&ctx) {
        return Ok(());
    }
    Err(Error::Request {
        what: "context".into(),
        value: ctx.to_string(),
        allowed: format!("1..={most}, {why}"),
    })
}

/// The kernels of the level asked for, else the best of the host (or `GEB_ISA`).
pub(super) fn choose_kernels(level: Option<Level>) -> Result<&'static Kernels> {
    match level {
        Some(level) => Kernels::for_level(level).ok_or_else(|| Error::Request {
            what: "instruction level".into(),
            value: level.name().into(),
            allowed: Level::available()
                .iter()
                .map(|l| l.name())
                .collect::<Vec<_>>()
                .join(", "),
        }),
        None => Kernels::best().map_err(|allowed| Error::Request {
            what: "GEB_ISA".into(),
            value: std::env::var("GEB_ISA").unwrap_or_default(),
            allowed,
        }),
    }
}

/// Whether [`KvChoice::Auto`] is [`KvChoice::F32`] for this model on this machine.
///
/// # Errors
/// [`Error::Request`] when `GEB_ISA` asks for a level that is not there.
pub fn auto_is_f32(model: &Model) -> Result<bool> {
    let kv = choose_kv(KvChoice::Auto, model.weights(), choose_kernels(None)?)?;
    Ok(kv == KvType::F32)
}

/// The type of the cache: attention with a bias has rows of floats, and a model whose matrices are all floats
/// is run for reference.
pub(super) fn choose_kv(choice: KvChoice, weights: &Weights, kernels: &Kernels) -> Result<KvType> {
    let floats = || {
        let mut all = weights.layers.iter().flat_map(Layer::linears).flatten();
        all.all(|w| kernels.act_kind(w.weight.dtype) != ActKind::Q8)
    };
    match choice {
        KvChoice::F16 | KvChoice::Q8_0 if weights.bias.is_some() => Err(Error::Request {
            what: "KV cache type".into(),
            value: format!("{choice:?}"),
            allowed: "F32, for attention with a bias".into(),
        }),
        KvChoice::Auto if weights.bias.is_some() || floats() => Ok(KvType::F32),
        KvChoice::F32 => Ok(KvType::F32),
        KvChoice::F16 | KvChoice::Auto => Ok(KvType::F16),
        KvChoice::Q8_0 => Ok(KvType::Q8_0),
    }
}
