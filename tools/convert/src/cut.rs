//! Leaving layers out (Inheritune, arXiv 2404.08634): the kept ones are numbered anew, and what the
//! metadata says layer by layer goes with them.

use super::about::{RECIPE, size_label};
use super::item::Item;
use super::options::Options;
use super::plan::Prepared;
use geb::error::{Error, Result};
use geb::gguf::writer::MetaValue;
use geb::model::arch::{Arch, FULL_EVERY, REGISTRY, Scalars, StateLayers, Unrotated};

impl Prepared {
    /// Leaves further heads out.
    pub(super) fn drop_heads(&mut self) {
        self.items.retain(|i| !i.name.starts_with("mtp."));
        self.metadata
            .retain(|(key, _)| !key.ends_with(".mtp_head_count"));
    }

    /// Leaves the layers out that `keep` does not name.
    ///
    /// # Errors
    /// [`Error::Request`] for numbers that do not rise or that the model has not, and beside an importance
    /// matrix or adapters; [`Error::Unsupported`] for models whose layers depend on their number.
    pub(super) fn keep_layers(&mut self, keep: &[usize], options: &Options) -> Result<()> {
        if options.imatrix.is_some() || !options.adapters.is_empty() {
            return Err(Error::Request {
                what: "layers to keep".into(),
                value: "with an importance matrix or adapters".into(),
                allowed: "alone: both know the layers by their old numbers".into(),
            });
        }
        let (metadata, items) = (&mut self.metadata, &mut self.items);
        keep_layers(keep, &self.architecture, metadata, items)?;
        let elements = items.iter().map(|i| i.dims.iter().product::<u64>()).sum();
        for (key, value) in metadata {
            match key.as_str() {
                "general.size_label" => *value = size_label(elements).into(),
                RECIPE => {
                    let MetaValue::Str(recipe) = value else {
                        continue;
                    };
                    recipe.push_str(&format!("; layers {keep:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Keeps the layers with these numbers, which must rise.
fn keep_layers(
    keep: &[usize],
    architecture: &str,
    metadata: &mut Vec<(String, MetaValue)>,
    items: &mut Vec<Item>,
) -> Result<()> {
    let key = |end: &str| format!("{architecture}.{end}");
    let get = |metadata: &[(String, MetaValue)], end: &str| {
        let mut pairs = metadata.iter();
        pairs.find(|(k, _)| *k == key(end)).map(|(_, v)| v.clone())
    };
    let int = |end: &str| get(metadata, end).as_ref().and_then(int);
    let layers = int("block_count").unwrap_or(0);
    let rise = keep.windows(2).all(|w| w[0] < w[1]);
    if !rise || keep.last().is_none_or(|last| *last >= layers) {
        return Err(Error::Request {
            what: "layers to keep".into(),
            value: format!("{keep:?}"),
            allowed: format!("rising numbers from 0 to {}", layers.saturating_sub(1)),
        });
    }
    let halves = items
        .iter()
        .any(|i| i.name.starts_with("enc.") || i.name.starts_with("dec."));
    // Nothing is implied in a llama file, so that one is what others are taken for.
    let arch = Arch::by_name(architecture).unwrap_or(REGISTRY[0]);
    let counts = ["rescale_every_n_layers", "nextn_predict_layers"];
    let counted = matches!(arch.unrotated, Unrotated::Every(_))
        || counts.iter().any(|key| int(key).is_some_and(|n| n > 0));
    if halves || counted {
        return Err(Error::Unsupported {
            what: "leaving layers out of",
            value: architecture.into(),
            known: "models of one stack of layers that do not depend on their number".into(),
        });
    }
    let mut more = implied(arch, layers, |end| get(metadata, end));
    more.push(("block_count", MetaValue::U32(keep.len() as u32)));
    for (end, value) in more {
        metadata.retain(|(k, _)| *k != key(end));
        metadata.push((key(end), value));
    }
    let (own, rope) = (key(""), key("rope."));
    for (name, value) in metadata.iter_mut() {
        if name.starts_with(&own) && !name.starts_with(&rope) {
            select(value, keep, layers);
        }
    }
    let number = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok();
    let new = |name: &str| number(name).map(|n: usize| (n, keep.iter().position(|k| *k == n)));
    items.retain(|i| !matches!(new(&i.name), Some((_, None))));
    for item in items.iter_mut() {
        if let Some((old, Some(new))) = new(&item.name) {
            item.name = item
                .name
                .replacen(&format!("blk.{old}."), &format!("blk.{new}."), 1);
        }
    }
    Ok(())
}

/// What follows from the number of a layer, or of layers, where the file does not say it: it is written down.
fn implied(
    arch: &Arch,
    layers: usize,
    get: impl Fn(&str) -> Option<MetaValue>,
) -> Vec<(&'static str, MetaValue)> {
    let number = |end: &str| get(end).as_ref().and_then(int);
    let but_every = |n: usize| {
        let is = |l: usize| n <= 1 || !l.is_multiple_of(n);
        MetaValue::Bools((1..=layers).map(is).collect())
    };
    let mut more = Vec::new();
    let pattern = get("attention.sliding_window_pattern");
    let window = number("attention.sliding_window").unwrap_or(arch.window);
    if window > 0 && !pattern.as_ref().is_some_and(is_array) {
        let every = pattern.as_ref().and_then(int).unwrap_or(arch.full_every);
        more.push(("attention.sliding_window_pattern", but_every(every)));
    }
    let states = "attention.recurrent_layers";
    if arch.state_layers == StateLayers::Listed && get(states).is_none() {
        let every = number("full_attention_interval").unwrap_or(FULL_EVERY);
        let every = every.max(1);
        let keeps = |l: usize| !l.is_multiple_of(every);
        more.push((states, MetaValue::Bools((1..=layers).map(keeps).collect())));
    }
    if arch.scalars == Scalars::MiniCpm && get("residual_scale").is_none() {
        let scale = 1.4 / (layers as f32).sqrt();
        more.push(("residual_scale", MetaValue::F32(scale)));
    }
    let sizes = [number("embedding_length"), number("attention.head_count")];
    if let ([Some(width), Some(heads)], true) = (sizes, arch.wide_scale_layers == Some(layers))
        && get("attention.scale").is_none()
    {
        let scale = 1.0 / ((width / heads.max(1)) as f32).sqrt();
        more.push(("attention.scale", MetaValue::F32(scale)));
    }
    more
}

fn int(value: &MetaValue) -> Option<usize> {
    match value {
        MetaValue::U8(v) => Some((*v).into()),
        MetaValue::U16(v) => Some((*v).into()),
        MetaValue::U32(v) => Some(*v as usize),
        MetaValue::U64(v) => usize::try_from(*v).ok(),
        MetaValue::I32(v) => usize::try_from(*v).ok(),
        MetaValue::I64(v) => usize::try_from(*v).ok(),
        _ => None,
    }
}

fn is_array(value: &MetaValue) -> bool {
    value.ty().1.is_some()
}

/// Keeps the elements of a list that has one for each layer.
fn select(value: &mut MetaValue, keep: &[usize], layers: usize) {
    fn pick<T: Clone>(list: &mut Vec<T>, keep: &[usize], layers: usize) {
        if list.len() == layers {
            *list = keep.iter().filter_map(|k| list.get(*k).cloned()).collect();
        }
    }
    match value {
        MetaValue::U32s(list) => pick(list, keep, layers),
        MetaValue::I32s(list) => pick(list, keep, layers),
        MetaValue::U64s(list) => pick(list, keep, layers),
        MetaValue::F32s(list) => pick(list, keep, layers),
        MetaValue::Bools(list) => pick(list, keep, layers),
        _ => {}
    }
}
