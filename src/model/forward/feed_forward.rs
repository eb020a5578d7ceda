//! Feed-forward layers.

use geb_kernels::Kernels;

use super::{Buffers, Pass};
use crate::model::arch::Gate;
use crate::model::weights::{GateUp, Linear};

impl Pass<'_, '_> {
    /// `down(act(gate x) * up x)` of each token of `b.h`, in place: `[n, E]`.
    pub(super) fn gated(&mut self, b: &mut Buffers, weights: (&GateUp, &Linear), n: usize) {
        let (e, f) = (self.model.config().embedding_length, weights.1.weight.cols);
        let h = &mut b.h[..n * e];
        let gate_up = &mut b.gate_up[..2 * n * f];
        match weights.0 {
            GateUp::Split([w_gate, w_up]) => {
                let (g, u) = gate_up.split_at_mut(n * f);
                self.project(&mut b.acts, h, n, [(w_gate, &mut *g), (w_up, &mut *u)]);
                self.gate(g, u, f);
            }
            GateUp::Fused(fused) => {
                self.project(&mut b.acts, h, n, [(fused, &mut *gate_up)]);
                let act = self.act();
                self.rows(gate_up, 2 * f, |_, row| {
                    let (g, u) = row.split_at_mut(f);
                    act(g, u);
                });
                for t in 1..n {
                    gate_up.copy_within(2 * t * f..(2 * t + 1) * f, t * f);
                }
            }
        }
        self.project(&mut b.acts, &gate_up[..n * f], n, [(weights.1, &mut *h)]);
    }

    /// `g = act(g) * u` for rows of `f`.
    pub(super) fn gate(&mut self, g: &mut [f32], u: &[f32], f: usize) {
        let act = self.act();
        self.rows(g, f, |t, g| act(g, &u[t * f..(t + 1) * f]));
    }

    /// The activation of the gate, times up.
    fn act(&self) -> impl Fn(&mut [f32], &[f32]) + Sync + use<> {
        let (kernels, kind) = (self.kernels, self.model.config().arch.gate);
        move |g, u| match kind {
            Gate::Silu => kernels.silu_mul(g, u),
            Gate::Gelu => kernels.gelu_mul(g, u),
            Gate::Relu => g.iter_mut().zip(u).for_each(|(g, u)| *g = g.max(0.0) * u),
            Gate::ReluSquared => {
                let square = |(g, u): (&mut f32, &f32)| *g = g.max(0.0) * g.max(0.0) * u;
                g.iter_mut().zip(u).for_each(square);
            }
        }
    }

    /// `down(act(up x))` of each token of `b.h`, in place: `[n, E]`.
    pub(super) fn plain(&mut self, b: &mut Buffers, (up, down): (&Linear, &Linear), n: usize) {
        let (e, f) = (self.model.config().embedding_length, down.weight.cols);
        let h = &mut b.h[..n * e];
        let wide = &mut b.gate_up[..n * f];
        self.project(&mut b.acts, h, n, [(up, &mut *wide)]);
        self.activate(wide, f);
        self.project(&mut b.acts, wide, n, [(down, &mut *h)]);
    }

    /// `x = act(x)` for rows of `f`, with the activation of layers without a gate.
    pub(super) fn activate(&mut self, x: &mut [f32], f: usize) {
        let (kernels, arch) = (self.kernels, self.model.config().arch);
        let gate = arch.plain.unwrap_or(arch.gate);
        self.rows(x, f, |_, row| activate(kernels, gate, row));
    }
}

/// An activation alone: the kernels multiply it with what they are given, here with ones.
fn activate(kernels: &Kernels, gate: Gate, row: &mut [f32]) {
    const ONES: [f32; 256] = [1.0; 256];
    for piece in row.chunks_mut(ONES.len()) {
        let ones = &ONES[..piece.len()];
        match gate {
            Gate::Silu => kernels.silu_mul(piece, ones),
            Gate::Gelu => kernels.gelu_mul(piece, ones),
            Gate::Relu => piece.iter_mut().for_each(|v| *v = v.max(0.0)),
            Gate::ReluSquared => piece.iter_mut().for_each(|v| *v = v.max(0.0) * v.max(0.0)),
        }
    }
}
