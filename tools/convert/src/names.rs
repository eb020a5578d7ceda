//! From a checkpoint's tensors to those of the file. [`outputs`] walks the table of the family,
//! finds the tensors, checks every shape and reports all problems at once.

use super::aside::aside;
use super::checkpoint::Checkpoint;
use super::family::GEB_PARTIAL;
use super::family::spec::{Dim, Hybrid, Hyper, Line, Rows};
use super::item::{Output, Source};
use super::layout::GebLayout;
use super::made::{How, Made, Piece};
use super::recurrent;
use super::rows::{Part, RowMap};
use super::wrapped::core;
use geb::error::{Error, Result};

/// How names of a further head begin.
const HEAD: &str = "extra_heads.{}";

/// Everything the tables need to know.
struct Walk<'a> {
    checkpoint: &'a Checkpoint,
    hyper: &'a Hyper,
    layout: &'a GebLayout,
    vocab_rows: u64,
    problems: Vec<String>,
    used: Vec<bool>,
    out: Vec<Output>,
    /// Whether the lines of layers are walked for further heads.
    heads: bool,
}

/// Rows of the embedding matrix, which decide the length of the token list.
pub fn vocab_rows(checkpoint: &Checkpoint, hyper: &Hyper) -> Result<usize> {
    let stem = hyper.table.first.first().and_then(|l| l.parts.first());
    let name = match hyper.family.states {
        Some(states) => recurrent::embedding(checkpoint, states),
        None => format!("{}.weight", stem.map_or("", |(stem, _)| stem)),
    };
    let found = checkpoint.find(&name);
    match found.map(|i| &checkpoint.tensors()[i]) {
        Some(t) if t.shape.len() == 2 && t.rows() <= geb::limits::MAX_VOCAB => Ok(t.rows()),
        Some(t) => Err(Error::Tensors(vec![format!(
            "{name}: shape {:?}, expected [vocabulary, {}]",
            t.shape, hyper.width
        )])),
        None => Err(Error::Tensors(vec![format!("{name}: missing")])),
    }
}

/// The output tensors of a checkpoint in file order.
///
/// # Errors
/// [`Error::Tensors`] lists every missing, unknown and misshapen tensor.
pub fn outputs(checkpoint: &Checkpoint, hyper: &Hyper, layout: &GebLayout) -> Result<Vec<Output>> {
    if let Some(states) = hyper.family.states {
        let rows = vocab_rows(checkpoint, hyper)?;
        return recurrent::outputs(checkpoint, hyper, states, rows);
    }
    let table = match hyper.family.open_layout && !layout.rope_full {
        true => &GEB_PARTIAL,
        false => hyper.table,
    };
    let mut walk = Walk {
        checkpoint,
        hyper,
        layout,
        vocab_rows: vocab_rows(checkpoint, hyper)? as u64,
        problems: Vec::new(),
        used: vec![false; checkpoint.tensors().len()],
        out: Vec::new(),
        heads: false,
    };
    for line in table.first {
        walk.line(line, 0);
    }
    for layer in 0..hyper.encoder_layers {
        let ffn = walk.feed_forward(layer, true);
        for line in table.encoder.iter().copied().flatten().chain(ffn) {
            walk.line(line, layer);
        }
    }
    for layer in 0..hyper.layers() {
        let more = walk.feed_forward(layer, false).into_iter();
        let more = more.chain(walk.mixer(layer));
        for line in table.layer.iter().copied().flatten().chain(more) {
            walk.line(line, layer);
        }
    }
    walk.further_heads();
    for line in table.last {
        walk.line(line, 0);
    }
    for (t, used) in checkpoint.tensors().iter().zip(&walk.used) {
        let skip = || table.skip.iter().any(|end| t.name.ends_with(end));
        if !used && aside(&t.name).is_none() && !skip() {
            walk.problems
                .push(format!("{}: not part of this architecture", t.name));
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

/// `-exp(x)` of a small tensor, its numbers in the order of the part.
fn negative(parts: Vec<Part>) -> Made {
    let pieces = parts.iter().map(|p| Piece::Tensor(p.tensor)).collect();
    let order = parts.into_iter().next().map(|p| p.rows);
    Made {
        order,
        ..Made::new(pieces, How::NegExp)
    }
}

impl Walk<'_> {
    fn dim(&self, dim: Dim, layer: usize) -> u64 {
        let h = self.hyper;
        let (d, sizes) = (h.shape.head_dim, h.sizes(layer));
        let (q, kv) = (sizes.heads * d, sizes.kv_heads * d);
        let state = |of: &dyn Fn(&Hybrid) -> usize| h.hybrid.as_ref().map_or(0, of) as u64;
        match dim {
            Dim::Vocab => self.vocab_rows,
            Dim::Width => h.width as u64,
            Dim::Head => d as u64,
            Dim::Ffn => sizes.ffn as u64,
            Dim::Q => q as u64,
            Dim::Kv => kv as u64,
            Dim::Qkv => (q + 2 * kv) as u64,
            Dim::Ffn2 => 2 * sizes.ffn as u64,
            Dim::Experts => h.experts.map_or(0, |x| x.count as u64),
            Dim::ExpertFfn => h.experts.map_or(0, |x| x.width as u64),
            Dim::SharedFfn => h.experts.map_or(0, |x| x.shared as u64),
            Dim::One => 1,
            Dim::Context => h.context,
            Dim::Heads => sizes.heads as u64,
            Dim::Buckets => h.buckets as u64,
            Dim::Q2 => 2 * q as u64,
            Dim::Width3 => 3 * h.width as u64,
            Dim::Taps => state(&|s| s.taps),
            Dim::Channels => state(&|s| 2 * s.keys() + s.values()),
            Dim::Inner => state(&Hybrid::values),
            Dim::ValueHead => state(&|s| s.value),
            Dim::ValueHeads => state(&|s| s.heads),
            Dim::ValueHeads2 => state(&|s| 2 * s.heads),
        }
    }

    /// Rows the source of a part must have.
    fn source_rows(&self, rows: Rows, out_rows: u64, line: &Line, layer: usize) -> u64 {
        match rows {
            Rows::GebKey | Rows::GebValue => 2 * self.dim(Dim::Kv, layer),
            Rows::GebGate | Rows::GebUp => self.dim(Dim::Ffn2, layer),
            Rows::Rotary if line.gguf.ends_with("attn_qkv") => self.dim(Dim::Q, layer),
            Rows::First | Rows::Second => 2 * out_rows,
            Rows::OfEachKey | Rows::GateOfEachKey => {
                self.dim(Dim::Channels, layer) + self.dim(Dim::Inner, layer)
            }
            _ => out_rows,
        }
    }

    /// `n` rows of a source with `matrices` of equal size.
    fn row_map(&self, rows: Rows, n: usize, matrices: usize, layer: usize) -> RowMap {
        let (h, all) = (self.hyper, RowMap::Span(0..n));
        let (d, sizes) = (h.shape.head_dim, h.sizes(layer));
        let (rotary, permute) = match h.family.open_layout {
            true => (self.layout.rope_dims(d), self.layout.rope_half_split),
            false => (d, h.family.permuted),
        };
        let heads = |map: RowMap| {
            if permute {
                map.interleave(d, rotary)
            } else {
                map
            }
        };
        let packed = |part| match self.layout.kv_interleaved {
            true => all.kv_interleaved(d, part),
            false => all.half(part),
        };
        let of_each = |which: &[usize]| match &h.hybrid {
            Some(s) => {
                let values = s.values() / s.key_heads;
                all.of_each(&[s.key, s.key, values, values], which)
            }
            None => all.clone(),
        };
        let in_turn = |skip: fn(&Hybrid) -> usize| match &h.hybrid {
            Some(s) => all.in_turn(skip(s), s.heads, s.key_heads),
            None => all.clone(),
        };
        match rows {
            Rows::All | Rows::Transposed | Rows::ColumnsInTurn | Rows::NegExp => all,
            Rows::OfEachKey => of_each(&[0, 1, 2]),
            Rows::GateOfEachKey => of_each(&[3]),
            Rows::InTurn | Rows::NegExpInTurn => in_turn(|_| 0),
            Rows::BehindKeys => in_turn(|s| 2 * s.keys()),
            Rows::First => all.half_of_each(matrices, 0),
            Rows::Second => all.half_of_each(matrices, 1),
            Rows::Grouped => all.ungroup(d, sizes.heads / sizes.kv_heads),
            Rows::Rotary => heads(all),
            Rows::GebKey => heads(packed(0)),
            Rows::GebValue => packed(1),
            Rows::GebGate => all.half(usize::from(!self.layout.gate_first)),
            Rows::GebUp => all.half(usize::from(self.layout.gate_first)),
        }
    }

    /// The further lines of a layer, of the encoder or not: with experts where it has a router.
    fn feed_forward(&self, layer: usize, encoder: bool) -> Vec<&'static Line> {
        let own = |l: &&Line| l.gguf.starts_with("enc.") == encoder;
        let family = self.hyper.family;
        let router = family.experts.iter().find(own);
        let lines = match router.is_some_and(|r| self.has(r, layer)) {
            true => family.experts,
            false => family.dense,
        };
        lines.iter().filter(own).collect()
    }

    /// The lines of what mixes the tokens, where that is not the same in all layers.
    fn mixer(&self, layer: usize) -> &'static [Line] {
        let mixers = &self.hyper.family.mixers;
        match &self.hyper.hybrid {
            Some(hybrid) if hybrid.layers[layer] => mixers.state,
            _ => mixers.attention,
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.checkpoint.find(name)
    }

    /// Whether the checkpoint has the weights of a line.
    fn has(&self, line: &Line, layer: usize) -> bool {
        let stem = self.spell(line.parts.first().map_or("", |p| p.0), layer);
        self.find(&format!("{stem}.weight")).is_some()
    }

    /// A name of a table, for this layer or head.
    fn spell(&self, name: &str, number: usize) -> String {
        let block = self.hyper.family.heads;
        let name = match self.heads {
            true => name.replace("blk.{}", "mtp.{}").replace(block, HEAD),
            false => name.to_owned(),
        };
        name.replace("{}", &number.to_string())
    }

    /// The layers of further heads: the lines of a layer under other names. A head too few or too many
    /// is one problem, not one for each of its tensors.
    fn further_heads(&mut self) {
        let count = self.hyper.extra_heads;
        if self.hyper.family.heads.is_empty() {
            return;
        }
        let start = HEAD.trim_end_matches("{}");
        let mut there = std::collections::BTreeSet::new();
        for (i, t) in self.checkpoint.tensors().iter().enumerate() {
            let name = core(&t.name);
            let rest = name.strip_prefix(start).and_then(|n| n.split_once('.'));
            let Some(head) = rest.and_then(|(head, _)| head.parse::<usize>().ok()) else {
                continue;
            };
            there.insert(head);
            self.used[i] = head >= count;
        }
        let says = format!("n_future_tokens is {}: {count} further heads", count + 1);
        let wrong = there
            .range(count..)
            .map(|i| format!("{start}{i}: unexpected, {says}"));
        self.problems.extend(wrong);
        self.heads = true;
        for head in 0..count {
            if !there.contains(&head) {
                self.problems
                    .push(format!("{start}{head}: missing, {says}"));
                continue;
            }
            for line in self.hyper.table.layer.iter().copied().flatten() {
                self.line(line, head);
            }
        }
        self.heads = false;
    }

    /// The sources of a line: one for each expert, where its name says so.
    fn sources(&self, line: &Line, layer: usize) -> Vec<(String, Rows)> {
        let experts = self.hyper.experts.map_or(0, |x| x.count);
        let mut sources = Vec::new();
        for &(hf, rows) in line.parts {
            let stem = self.spell(hf, layer);
            if stem.contains("{e}") {
                let one = |e: usize| (stem.replace("{e}", &e.to_string()), rows);
                sources.extend((0..experts).map(one));
            } else {
                sources.push((stem, rows));
            }
        }
        sources
    }

    /// The weight of a line and, when the checkpoint has one, its bias.
    fn line(&mut self, line: &Line, layer: usize) {
        let sources = self.sources(line, layer);
        if line.gguf.ends_with(".bias") || line.gguf.ends_with("ssm_a") {
            return self.tensor(line, &sources, layer, "");
        }
        let has = |walk: &Self, stem: &String, end| walk.find(&format!("{stem}{end}"));
        if line.gguf == "output" {
            let stored = sources.iter().find_map(|s| has(self, &s.0, ".weight"));
            // T5's graph scales what an output matrix takes where that is the embedding.
            let other = self.hyper.buckets > 0 && !self.hyper.tied;
            if self.hyper.tied || (stored.is_none() && !other) {
                // Tied: the runtime uses the embedding. A stored copy is dropped.
                stored.into_iter().for_each(|i| self.used[i] = true);
                return;
            }
        }
        let has_bias = sources.iter().any(|s| has(self, &s.0, ".bias").is_some());
        self.tensor(line, &sources, layer, ".weight");
        if has_bias {
            self.tensor(line, &sources, layer, ".bias");
        }
    }

    /// One tensor of the file; `suffix` ends its name and those of its sources.
    fn tensor(&mut self, line: &Line, sources: &[(String, Rows)], layer: usize, suffix: &str) {
        let mut shape: Vec<u64> = line.shape.iter().map(|&d| self.dim(d, layer)).collect();
        if suffix != ".weight" {
            shape.truncate(1);
        }
        // Experts are matrices of a source each, or all in one.
        let (stack, matrix) = shape.split_at(shape.len().saturating_sub(2));
        let each = line.parts.iter().any(|p| p.0.contains("{e}"));
        let stack = if each { &[] } else { stack };
        let matrices: u64 = stack.iter().product();
        let mut parts = Vec::new();
        for (stem, rows) in sources {
            let name = format!("{stem}{suffix}");
            let Some(i) = self.find(&name) else {
                self.problems.push(format!("{name}: missing"));
                continue;
            };
            self.used[i] = true;
            let n = self.source_rows(*rows, matrix[0], line, layer);
            let source = &self.checkpoint.tensors()[i];
            let linear = source.coded.as_ref().is_some_and(|c| c.linear);
            let transposed = matches!(rows, Rows::Transposed) && matrix.len() > 1 && !linear;
            let mut want = [stack, &[n], &matrix[1..]].concat();
            if let [_, Dim::Taps] = line.shape {
                want.insert(1, 1);
            }
            if transposed {
                want.reverse();
            }
            let found = &source.shape;
            if *found != want {
                self.problems
                    .push(format!("{name}: shape {found:?}, expected {want:?}"));
                continue;
            }
            let n = (n * matrices) as usize;
            let normed = line.gguf.ends_with("norm") && !line.gguf.ends_with("ssm_norm");
            parts.push(Part {
                tensor: i,
                rows: self.row_map(*rows, n, matrices as usize, layer),
                offset: match normed {
                    true => self.hyper.family.norm_offset,
                    false => 0.0,
                },
                transposed,
                scale: 1.0,
                columns: self.columns(*rows, matrix.last()),
            });
        }
        let gguf = self.spell(line.gguf, layer);
        self.out.push(Output {
            name: format!("{gguf}{suffix}"),
            dims: shape.into_iter().rev().collect(),
            source: match line.parts {
                [(_, Rows::NegExp | Rows::NegExpInTurn)] => Source::Made(negative(parts)),
                _ => Source::Rows(parts),
            },
        });
    }

    /// The columns of a source in another order.
    fn columns(&self, rows: Rows, columns: Option<&u64>) -> Option<Vec<u32>> {
        let (Rows::ColumnsInTurn, Some(s)) = (rows, &self.hyper.hybrid) else {
            return None;
        };
        let all = RowMap::Span(0..*columns? as usize);
        match all.in_turn(0, s.heads, s.key_heads) {
            RowMap::List(list) if s.heads > s.key_heads => Some(list),
            _ => None,
        }
    }
}
