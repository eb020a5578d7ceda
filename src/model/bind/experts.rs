//! Experts of a layer: stacked in one tensor per role, or in one tensor each (old files).

use super::{Binder, Place};
use crate::model::Config;
use crate::model::routing::Routing;
use crate::model::weights::{
    Expert, ExpertAttention, Experts, Ffn, Layer, Linear, QMatrix, Shared,
};

fn plain(weight: QMatrix) -> Linear {
    Linear { weight, bias: None }
}

/// Rows `first..first + rows` of a matrix.
fn rows_of(m: &QMatrix, first: usize, rows: usize) -> QMatrix {
    let row_bytes = m.range.len() / m.rows.max(1);
    let start = m.range.start + first * row_bytes;
    QMatrix {
        rows,
        range: start..start + rows * row_bytes,
        ..m.clone()
    }
}

impl Binder<'_> {
    /// The feed-forward layer of a layer that has a router.
    pub(super) fn experts(&mut self, c: &Config, at: &Place) -> Ffn {
        let name = |role: &str| at.name(role);
        let router = name("ffn_gate_inp");
        let Some(r) = &c.experts else {
            let key = format!("{}.expert_count", c.arch.name);
            self.problem(|| format!("  {router}.weight: there is no {key}"));
            self.used.insert(format!("{router}.weight"));
            let down = plain(Self::placeholder());
            return Ffn::Experts(Experts {
                router: down,
                experts: Vec::new(),
                shared: None,
                bias: None,
            });
        };
        let (e, f) = (c.embedding_length, r.width);
        let gates = ["ffn_gate_exps.weight", "ffn_gate.0.weight"].map(|role| self.has(&name(role)));
        let inner: Vec<Vec<QMatrix>> = if self.has(&name("ffn_gate_up_exps.weight")) {
            let both = self.stack(c, r, name("ffn_gate_up"), [2 * f, e]);
            let half = |first| both.iter().map(move |m| rows_of(m, first, f)).collect();
            vec![half(0), half(f)]
        } else if c.arch.plain.is_some() && !gates.contains(&true) {
            vec![self.stack(c, r, name("ffn_up"), [f, e])]
        } else {
            let roles = ["ffn_gate", "ffn_up"];
            roles
                .map(|role| self.stack(c, r, name(role), [f, e]))
                .into()
        };
        let down = self.stack(c, r, name("ffn_down"), [e, f]);
        let of = |x: usize| inner.iter().filter_map(move |all| all.get(x).cloned());
        let experts = down.into_iter().enumerate().map(|(x, down)| Expert {
            inner: of(x).map(plain).collect(),
            down: plain(down),
        });
        Ffn::Experts(Experts {
            router: self.linear(&router, r.count, e),
            experts: experts.collect(),
            shared: self.shared(c, r, at),
            bias: self.bias(name("ffn_down.bias"), e),
        })
    }

    /// Numbers about experts that no layer has would only take memory.
    pub(super) fn experts_used(&mut self, c: &mut Config, layers: &[&Layer]) {
        let arch = c.arch.name;
        let Some(r) = &mut c.experts else { return };
        let of = |l: &Layer| match &l.ffn.body {
            Ffn::Experts(e) => Some(e.shared.is_some()),
            _ => None,
        };
        if layers.iter().all(|l| of(l).is_none()) {
            let count = r.count;
            return self
                .problem(|| format!("  {arch}.expert_count is {count}: no layer has experts"));
        }
        if !layers.iter().any(|l| of(l) == Some(true)) {
            r.shared_width = 0;
        }
        if layers.iter().all(|l| of(l).is_some()) {
            // No layer has the width of dense ones.
            c.layers.iter_mut().for_each(|l| l.feed_forward_length = 0);
        }
    }

    fn bias(&mut self, name: String, len: usize) -> Option<Vec<f32>> {
        self.has(&name).then(|| self.vector(name, len))
    }

    /// The attention of a layer that has a router for it; `None` without.
    pub(super) fn expert_attention(&mut self, c: &Config, at: &Place) -> Option<ExpertAttention> {
        let name = |role: &str| at.name(role);
        let router = name("attn_gate_inp");
        let r = c
            .experts
            .as_ref()
            .filter(|_| self.has(&format!("{router}.weight")))?;
        let sizes = c.layers[at.n];
        if sizes.group() != r.used {
            self.problem(|| format!(
                "  {router}.weight: {} query heads for each key head, expected {}, one of each expert of a token",
                sizes.group(), r.used
            ));
        }
        let (e, kv) = (c.embedding_length, sizes.kv_width());
        let plain = |all: Vec<QMatrix>| all.into_iter().map(plain).collect();
        Some(ExpertAttention {
            router: self.linear(&router, r.count, e),
            queries: plain(self.stack(c, r, name("attn_q"), [kv, e])),
            keys_values: ["attn_k", "attn_v"].map(|role| self.linear(&name(role), kv, e)),
            outputs: plain(self.stack(c, r, name("attn_output"), [e, kv])),
            bias: self.bias(name("attn_output.bias"), e),
        })
    }

    /// The expert of every token, where the layer has one.
    fn shared(&mut self, c: &Config, r: &Routing, at: &Place) -> Option<Shared> {
        let (e, f) = (c.embedding_length, r.shared_width);
        let name = |role: &str| at.name(role);
        self.has(&name("ffn_gate_inp_shexp.weight"))
            .then(|| Shared {
                // One row, which some files store as a vector.
                router: self.linear(&name("ffn_gate_inp_shexp"), 1, e),
                gate_up: self.gate_up(&name("ffn_gate_shexp"), &name("ffn_up_shexp"), f, e),
                down: self.linear(&name("ffn_down_shexp"), e, f),
            })
    }

    /// A matrix `[rows, cols]` of each expert: `NAME_exps.weight` or `NAME.X.weight`.
    fn stack(
        &mut self,
        c: &Config,
        r: &Routing,
        name: String,
        [rows, cols]: [usize; 2],
    ) -> Vec<QMatrix> {
        let single = |x: usize| format!("{name}.{x}.weight");
        if self.has(&single(0)) {
            let missing = (0..r.count).find(|x| !self.has(&single(*x)));
            let all = 0..missing.map_or(r.count, |x| x + 1);
            return all.map(|x| self.matrix(single(x), rows, cols)).collect();
        }
        let name = format!("{name}_exps.weight");
        let Some(t) = self.file.tensor(&name) else {
            let expected = format!("expected [{}, {rows}, {cols}]", r.count);
            self.problem(|| format!("  {name}: missing, {expected}"));
            return Vec::new();
        };
        let info = t.info();
        self.used.insert(name.clone());
        let expected = [cols, rows, r.count].map(|d| d as u64);
        if info.dims != expected {
            let found: Vec<_> = info.dims.iter().rev().collect();
            self.problem(|| format!(
                "  {name}: shape {found:?}, expected [{}, {rows}, {cols}] ({} experts, {}.expert_count)",
                r.count, r.count, c.arch.name
            ));
            return Vec::new();
        }
        self.check_type(info);
        let all = QMatrix {
            dtype: info.dtype,
            rows: rows * r.count,
            cols,
            range: info.range.clone(),
        };
        let each = |x| rows_of(&all, x * rows, rows);
        (0..r.count).map(each).collect()
    }
}
