//! Family end of families whose layers keep a state: hyperparameters, keys, tensors.

use serde_json::{Value, json};

use super::aside::aside;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::family::recurrent::{Dialect, Entry, Kind, Make, Size, States, spell};
use super::family::spec::{Family, Hyper, LayerSizes, Shape, StateSizes};
use super::folder::bad;
use super::item::{Output, Source};
use super::made::{How, Made, Piece};
use super::rows::{Part, RowMap};
use super::wrapped::core;
use geb::error::{Error, Result};
use geb::gguf::writer::MetaValue;
use geb::limits;

const FILE: &str = "config.json";
/// Context of models that were trained without one: a state has none.
const CONTEXT: u64 = 1 << 20;

/// Epsilon of the norm of a head after the division. `norm(x / d)` with it is `norm(x)` with `d²` times it.
const HEAD_EPSILON: f32 = 1e-5;
/// The usual divisor, which files do not state.
const DIVISOR: f32 = 8.0;

/// Reads the configuration.
pub(super) fn hyper(c: &Config<'_>, family: &'static Family, states: &States) -> Result<Hyper> {
    let width = 1..=limits::MAX_WIDTH;
    let need = |names: &[&'static str]| Ok(c.need_uint(names, width.clone())? as usize);
    let e: usize = need(&["hidden_size", "d_model"])?;
    let layers = c.need_uint(&["num_hidden_layers", "n_layer"], 1..=limits::MAX_LAYERS)?;
    let same = |name: &'static str, wanted: usize| match c.uint(&[name], 0..=u64::MAX)? {
        Some(n) if n != wanted as u64 => Err(bad(FILE, name, n, wanted.to_string())),
        _ => Ok(()),
    };
    let ffn = c.uint(&["intermediate_size"], width.clone())?;
    let epsilon = ["layer_norm_epsilon", "norm_eps"];
    let mut s = StateSizes {
        kind: states.kind,
        layers: layers as usize,
        ffn: 0,
        heads: 1,
        state: 0,
        inner: e,
        taps: 1,
        rank: 0,
        groups: 1,
        rescale: 0,
        divisor: DIVISOR,
        mixer_epsilon: 0.0,
    };
    match s.kind {
        Kind::Rwkv5 | Kind::Rwkv6 | Kind::Rwkv7 => {
            s.state = c.uint(&["head_dim", "head_size"], 1..=4096)?.unwrap_or(64) as usize;
            s.heads = divides("head_size", s.state, e)?;
            same("attention_hidden_size", e)?;
            if s.kind == Kind::Rwkv7 {
                same("num_heads", s.heads)?;
            } else {
                let divisor = c.float(&["head_size_divisor"], 1e-3..=1e3)?;
                s.divisor = divisor.map_or(DIVISOR, |d| d as f32);
            }
            let rescale = c.uint(&["rescale_every"], 0..=limits::MAX_LAYERS)?;
            s.rescale = rescale.unwrap_or(0) as usize;
            s.ffn = ffn.map_or_else(|| usual_ffn(s.kind, e), |f| f as usize);
        }
        _ => {
            let expanded = e * c.uint(&["expand"], 1..=64)?.unwrap_or(2) as usize;
            s.inner = match s.kind {
                Kind::Mamba2 => None,
                _ => ffn.map(|f| f as usize),
            }
            .unwrap_or(expanded);
            if s.kind == Kind::FalconMamba {
                let epsilon = c.float(&["mixer_rms_eps"], 0.0..=1.0)?;
                s.mixer_epsilon = epsilon.unwrap_or(1e-6) as f32;
            }
            s.state = need(&["state_size"])?;
            s.taps = c.need_uint(&["conv_kernel"], 1..=limits::MAX_CONV)? as usize;
        }
    }
    match s.kind {
        Kind::Mamba | Kind::FalconMamba => s.rank = need(&["time_step_rank"])?,
        Kind::Mamba2 => {
            s.heads = need(&["num_heads"])?;
            divides("num_heads", s.heads, s.inner)?;
            same("head_dim", s.inner / s.heads)?;
            c.note(&["time_step_rank"]);
            s.groups = need(&["n_groups"])?;
            divides("n_groups", s.groups, s.heads)?;
        }
        _ => {}
    }
    let sizes = LayerSizes {
        ffn: s.ffn,
        ..LayerSizes::default()
    };
    Ok(Hyper {
        family,
        table: family.table,
        width: e,
        shape: Shape {
            layers: vec![sizes; s.layers],
            head_dim: 0,
        },
        vocab: c.need_uint(&["vocab_size"], 1..=limits::MAX_VOCAB as u64)? as usize,
        context: CONTEXT,
        eps: c.float(&epsilon, 0.0..=1.0)?.unwrap_or(1e-5) as f32,
        rope_base: 0.0,
        scaling: None,
        window: None,
        tied: c.bool("tie_word_embeddings")?.unwrap_or(family.tied),
        encoder_layers: 0,
        extra_heads: 0,
        buckets: 0,
        experts: None,
        rotary: 0,
        ropes: None,
        states: Some(s),
        hybrid: None,
        more: Vec::new(),
    })
}

/// Widths of the feed-forward part where the configuration has `null`.
fn usual_ffn(kind: Kind, e: usize) -> usize {
    match kind {
        Kind::Rwkv7 => 4 * e,
        _ => e * 7 / 2 / 32 * 32,
    }
}

fn divides(field: &str, n: usize, whole: usize) -> Result<usize> {
    match n > 0 && whole.is_multiple_of(n) {
        true => Ok(whole / n),
        false => Err(bad(FILE, field, n, format!("a divisor of {whole}"))),
    }
}

/// The keys of the architecture, but those of ranks.
pub(super) fn metadata(h: &Hyper, s: &StateSizes, rows: usize) -> Vec<(String, MetaValue)> {
    let arch = h.family.architecture;
    let u = |v: usize| MetaValue::U32(v as u32);
    let mut out = Vec::new();
    let mut key = |name: &str, value: MetaValue| out.push((format!("{arch}.{name}"), value));
    key("block_count", u(s.layers));
    key("context_length", MetaValue::U32(h.context as u32));
    key("embedding_length", u(h.width));
    key("feed_forward_length", u(s.ffn));
    key("attention.head_count", u(0));
    match s.kind {
        kind if kind.is_mamba() => {
            key("attention.layer_norm_rms_epsilon", MetaValue::F32(h.eps));
            key("ssm.conv_kernel", u(s.taps));
            key("ssm.inner_size", u(s.inner));
            key("ssm.state_size", u(s.state));
            key("ssm.time_step_rank", u(s.rank.max(s.heads)));
            if s.kind == Kind::Mamba2 {
                key("ssm.group_count", u(s.groups));
            } else {
                let normed = s.kind == Kind::FalconMamba;
                key("ssm.dt_b_c_rms", MetaValue::Bool(normed));
                if normed && s.mixer_epsilon != h.eps {
                    let epsilon = MetaValue::F32(s.mixer_epsilon);
                    key("ssm.dt_b_c_rms_epsilon", epsilon);
                }
            }
        }
        _ => {
            key("attention.layer_norm_epsilon", MetaValue::F32(h.eps));
            key("wkv.head_size", u(s.state));
            if s.divisor != DIVISOR {
                let epsilon = HEAD_EPSILON * s.divisor * s.divisor;
                key("wkv.head_norm_epsilon", MetaValue::F32(epsilon));
            }
            key("token_shift_count", u(2));
            if s.kind != Kind::Rwkv7 {
                key("rescale_every_n_layers", u(s.rescale));
            }
        }
    }
    key("vocab_size", u(rows));
    out
}

/// The keys that say how wide the low-rank matrices are.
pub(super) fn ranks(h: &Hyper, outputs: &[Output]) -> Vec<(String, MetaValue)> {
    let Some(s) = &h.states else {
        return Vec::new();
    };
    let keys: &[(&str, &str, u64)] = match s.kind {
        Kind::Rwkv5 | Kind::Rwkv6 => &[
            ("time_mix_extra_dim", "time_mix_w1", 5),
            ("time_decay_extra_dim", "time_mix_decay_w1", 1),
        ],
        Kind::Rwkv7 => &[
            ("attention.decay_lora_rank", "time_mix_w1", 1),
            ("attention.iclr_lora_rank", "time_mix_a1", 1),
            ("attention.value_residual_mix_lora_rank", "time_mix_v1", 1),
            ("attention.gate_lora_rank", "time_mix_g1", 1),
        ],
        _ => &[],
    };
    let last = s.layers - 1;
    let of = |&(key, tensor, parts): &(&str, &str, u64)| {
        let name = format!("blk.{last}.{tensor}.weight");
        let found = outputs.iter().find(|o| o.name == name)?;
        let rank = found.dims.get(1)? / parts;
        let key = format!("{}.{key}", h.family.architecture);
        Some((key, MetaValue::U32(rank as u32)))
    };
    keys.iter().filter_map(of).collect()
}

/// Which names a checkpoint uses.
fn dialect(checkpoint: &Checkpoint) -> Dialect {
    let has = |name| checkpoint.find(name).is_some();
    match () {
        () if has("rwkv.blocks.0.pre_ln.weight") => Dialect::Hub,
        () if has("model.layers.0.pre_norm.weight") => Dialect::Fla,
        () => Dialect::Native,
    }
}

/// Name of the embedding matrix.
pub(super) fn embedding(checkpoint: &Checkpoint, states: &States) -> String {
    spell(dialect(checkpoint), states.first[0].from[0])
}

/// The output tensors of a checkpoint in file order.
pub(super) fn outputs(
    checkpoint: &Checkpoint,
    hyper: &Hyper,
    states: &States,
    vocab: usize,
) -> Result<Vec<Output>> {
    let Some(sizes) = hyper.states else {
        return Ok(Vec::new());
    };
    let mut walk = Walk {
        checkpoint,
        hyper,
        sizes,
        dialect: dialect(checkpoint),
        vocab,
        problems: Vec::new(),
        used: vec![false; checkpoint.tensors().len()],
        out: Vec::new(),
    };
    states.first.iter().for_each(|e| walk.entry(e, 0));
    for layer in 0..sizes.layers {
        for entry in states.layer.iter().copied().flatten() {
            walk.entry(entry, layer);
        }
    }
    states.last.iter().for_each(|e| walk.entry(e, 0));
    for (t, used) in checkpoint.tensors().iter().zip(&walk.used) {
        // The first layer mixes no values of a layer before it.
        let name = core(&t.name);
        let first_values = name.starts_with("blocks.0.att.v") && name.len() == 15;
        if !used && !first_values && aside(&t.name).is_none() {
            let problem = format!("{}: not part of this architecture", t.name);
            walk.problems.push(problem);
        }
    }
    if walk.problems.is_empty() {
        return Ok(walk.out);
    }
    let more = walk.problems.len().saturating_sub(20);
    walk.problems.truncate(20);
    if more > 0 {
        walk.problems.push(format!("and {more} more"));
    }
    Err(Error::Tensors(walk.problems))
}

struct Walk<'a> {
    checkpoint: &'a Checkpoint,
    hyper: &'a Hyper,
    sizes: StateSizes,
    dialect: Dialect,
    vocab: usize,
    problems: Vec<String>,
    used: Vec<bool>,
    out: Vec<Output>,
}

impl Walk<'_> {
    /// A dimension; `None` for any.
    fn size(&self, size: Size) -> Option<u64> {
        let (h, s) = (self.hyper, &self.sizes);
        let channels = match s.kind {
            Kind::Mamba2 => s.inner + 2 * s.groups * s.state,
            _ => s.inner,
        };
        let n = match size {
            Size::V => self.vocab,
            Size::E => h.width,
            Size::F => s.ffn,
            Size::H => s.heads,
            Size::N => s.state,
            Size::D => s.inner,
            Size::DD => 2 * s.inner,
            Size::C => channels,
            Size::T => s.taps,
            Size::In => s.inner + channels + s.heads,
            Size::X => s.rank + 2 * s.state,
            Size::R => s.rank,
            Size::Five => 5,
            Size::Any => return None,
        };
        Some(n as u64)
    }

    /// Finds a source and compares its shape, dimensions of 1 left out.
    fn find(&mut self, entry: &Entry, from: &str, layer: usize) -> Option<usize> {
        let mut native = from.replace("{}", &layer.to_string());
        if layer == 0 && native.starts_with("blocks.0.att.v") && native.len() == 15 {
            // Runtimes want something there; it is not used.
            native = native.replace(".att.v", ".att.a");
        }
        let name = spell(self.dialect, &native);
        let Some(i) = self.checkpoint.find(&name) else {
            if !entry.gguf.ends_with('?') {
                self.problems.push(format!("{name}: missing"));
            }
            return None;
        };
        self.used[i] = true;
        let mut want: Vec<Option<u64>> = entry.shape.iter().map(|&s| self.size(s)).collect();
        if self.turned(entry) {
            want.reverse();
        }
        let found = &self.checkpoint.tensors()[i].shape;
        let squeeze = |d: &&u64| **d != 1;
        let real: Vec<u64> = found.iter().filter(squeeze).copied().collect();
        let wide: Vec<Option<u64>> = want.iter().copied().filter(|d| *d != Some(1)).collect();
        let fits = |(want, found): (&Option<u64>, &u64)| want.is_none_or(|w| w == *found);
        if real.len() != wide.len() || !wide.iter().zip(&real).all(fits) {
            let show = |d: &Option<u64>| d.map_or("any".into(), |d| d.to_string());
            let want: Vec<String> = want.iter().map(show).collect();
            let problem = format!("{name}: shape {found:?}, expected [{}]", want.join(", "));
            self.problems.push(problem);
            return None;
        }
        Some(i)
    }

    /// Low-rank matrices that this dialect stores the other way round than the authors.
    fn turned(&self, entry: &Entry) -> bool {
        entry.make == Make::One(How::Turned) && self.dialect == Dialect::Fla
    }

    fn entry(&mut self, entry: &Entry, layer: usize) {
        let name = entry.gguf.trim_end_matches('?');
        let name = name.replace("{}", &layer.to_string());
        if name == "output.weight" && self.hyper.tied {
            // The runtime uses the embedding; a stored copy is dropped.
            if let Some(i) = self.checkpoint.find(entry.from[0]) {
                self.used[i] = true;
            }
            return;
        }
        // Dimensions of the output, outermost first; any: 1.
        let known: Vec<u64> = entry
            .shape
            .iter()
            .map(|&s| self.size(s).unwrap_or(1))
            .collect();
        if entry.make == Make::Zeros {
            let pieces = vec![Piece::Zeros(known.iter().product::<u64>() as usize)];
            let how = How::Same;
            return self.push(name, known, Source::Made(Made::new(pieces, how)));
        }
        let width = self.hyper.width;
        let mut pieces = Vec::new();
        for from in entry.from {
            match (*from, self.find_unless_zero(entry, from, layer)) {
                ("0", _) => pieces.push(Piece::Zeros(width)),
                (_, Some(i)) => pieces.push(Piece::Tensor(i)),
                (_, None) => return,
            }
        }
        let Some(&Piece::Tensor(first)) = pieces.iter().find(|p| matches!(p, Piece::Tensor(_)))
        else {
            return;
        };
        let (dims, source) = match entry.make {
            Make::Rows | Make::Halved => (known.clone(), self.rows(entry, layer, first, &known)),
            Make::Stack(how) => {
                let dims = vec![pieces.len() as u64, 1, 1, width as u64];
                (dims, Source::Made(Made::new(pieces, how)))
            }
            Make::One(mut how) => {
                let shape = &self.checkpoint.tensors()[first].shape;
                let mut dims: Vec<u64> = shape.iter().copied().filter(|d| *d != 1).collect();
                let n = dims.len();
                if how == How::Turned && self.turned(entry) {
                    how = How::Same;
                } else if how == How::Turned && n > 1 {
                    dims.swap(n - 1, n - 2);
                }
                (
                    shaped(entry, dims, &self.sizes),
                    Source::Made(Made::new(pieces, how)),
                )
            }
            Make::Zeros => return,
        };
        self.push(name, dims, source);
    }

    fn find_unless_zero(&mut self, entry: &Entry, from: &str, layer: usize) -> Option<usize> {
        if from == "0" {
            None
        } else {
            self.find(entry, from, layer)
        }
    }

    /// A tensor that stays as it is, or is divided.
    fn rows(&self, entry: &Entry, layer: usize, tensor: usize, dims: &[u64]) -> Source {
        let n = match dims {
            [n] => *n,
            [rest @ .., _] => rest.iter().product(),
            [] => 1,
        };
        let halvings = match (entry.make, self.sizes.rescale) {
            (Make::Halved, every @ 1..) => layer / every,
            _ => 0,
        };
        Source::Rows(vec![Part {
            tensor,
            rows: RowMap::Span(0..n as usize),
            offset: 0.0,
            transposed: false,
            scale: 0.5f32.powi(halvings as i32),
            columns: None,
        }])
    }

    /// `dims` outermost first.
    fn push(&mut self, name: String, dims: Vec<u64>, source: Source) {
        let dims = dims.into_iter().rev().collect();
        self.out.push(Output { name, dims, source });
    }
}

/// Shapes that files have by convention.
fn shaped(entry: &Entry, dims: Vec<u64>, s: &StateSizes) -> Vec<u64> {
    let elements = dims.iter().product();
    match entry.gguf.rsplit("}.").next() {
        // Flat vectors.
        Some("time_mix_decay.weight" | "time_mix_r_k.weight") => vec![elements],
        Some("ssm_a" | "ssm_d") if dims.len() < 2 && s.heads > 1 => vec![elements, 1],
        Some("ssm_norm.weight") => vec![s.groups as u64, elements / s.groups as u64],
        _ => dims,
    }
}

/// The configuration of a checkpoint without one: a `.pth` file of RWKV's authors; `None` for other files.
///
/// # Errors
/// [`Error::Unsupported`] for versions before 5.2, by their number.
pub(super) fn native_config(checkpoint: &Checkpoint) -> Result<Option<Value>> {
    let shape = |name: &str| {
        let i = checkpoint.find(name)?;
        Some(&checkpoint.tensors()[i].shape[..])
    };
    let att = |leaf: &str| shape(&format!("blocks.0.att.{leaf}"));
    let has = |leaf: &str| att(leaf).is_some();
    // 5.0 and 5.1 have one decay for a head, 5.2 one for each of its channels.
    let channels = att("time_decay").is_some_and(|d| d.get(1).is_some_and(|n| *n > 1));
    let old = |version: &str| {
        Err(Error::Unsupported {
            what: "RWKV version",
            value: version.into(),
            known: "RWKV 5.2, 6 and 7".into(),
        })
    };
    let (kind, heads) = match () {
        () if has("x_r") => ("rwkv7", "r_k"),
        () if has("time_maa_x") => ("rwkv6", "time_faaaa"),
        () if has("time_mix_g") && channels => ("rwkv5", "time_faaaa"),
        () if has("time_mix_g") || has("gate.weight") => return old("5.1"),
        () if has("time_decay") && has("ln_x.weight") => return old("5.0"),
        () if has("time_decay") => return old("4"),
        () => return Ok(None),
    };
    let config = || {
        let [vocab, width] = *shape("emb.weight")? else {
            return None;
        };
        let ffn = *shape("blocks.0.ffn.key.weight")?.first()?;
        let head = *att(heads)?.last()?;
        let layers = (0..).find(|n| shape(&format!("blocks.{n}.ln1.weight")).is_none())?;
        Some(json!({
            "model_type": kind,
            "hidden_size": width,
            "intermediate_size": ffn,
            "head_size": head,
            "num_hidden_layers": layers,
            "vocab_size": vocab,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }))
    };
    Ok(config())
}
