//! KAN layers: a learned function on every edge, summed at the outputs.
//!
//! `φ(x) = w_b silu(x) + w_s Σ_i c_i B_i(x)` with B-splines of order `k` on a uniform grid: `G` intervals over
//! `[low, high]`, extended by `k` knots at both sides, `G + k` basis functions.

use super::silu;

/// B-splines on a uniform grid.
pub struct Splines {
    /// `G + 2k + 1` knots, increasing.
    knots: Vec<f32>,
    order: usize,
}

impl Splines {
    /// `intervals` equal ones over `low..=high`, splines of `order` (3: cubic).
    pub fn new(low: f32, high: f32, intervals: usize, order: usize) -> Splines {
        let step = (high - low) / intervals as f32;
        let knot = |i: usize| low + (i as f32 - order as f32) * step;
        Splines {
            knots: (0..intervals + 2 * order + 1).map(knot).collect(),
            order,
        }
    }

    /// Number of basis functions.
    pub fn len(&self) -> usize {
        self.knots.len() - self.order - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All basis functions at `x`, by Cox's and de Boor's recursion.
    pub fn basis(&self, x: f32) -> Vec<f32> {
        let t = &self.knots;
        let inside = |pair: &[f32]| f32::from(pair[0] <= x && x < pair[1]);
        let mut b: Vec<f32> = t.windows(2).map(inside).collect();
        for k in 1..=self.order {
            b = (0..b.len() - 1)
                .map(|i| {
                    let rise = (x - t[i]) / (t[i + k] - t[i]);
                    let fall = (t[i + k + 1] - x) / (t[i + k + 1] - t[i + 1]);
                    rise * b[i] + fall * b[i + 1]
                })
                .collect();
        }
        b
    }
}

/// A layer from `inputs` to outputs; edges are `[outputs, inputs]`.
pub struct Layer<'a> {
    /// Basis of all edges.
    pub splines: &'a Splines,
    /// `w_b`, `[outputs, inputs]`.
    pub base: &'a [f32],
    /// `w_s`, `[outputs, inputs]`.
    pub scale: &'a [f32],
    /// `c`, `[outputs, inputs, splines.len()]`.
    pub coefficients: &'a [f32],
}

impl Layer<'_> {
    /// `y_o = Σ_i φ_oi(x_i)`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let basis: Vec<Vec<f32>> = x.iter().map(|&x| self.splines.basis(x)).collect();
        let edge = |edge: usize| {
            let (i, n) = (edge % x.len(), self.splines.len());
            let spline = super::dot(&self.coefficients[edge * n..(edge + 1) * n], &basis[i]);
            self.base[edge] * silu(x[i]) + self.scale[edge] * spline
        };
        let outputs = self.base.len() / x.len();
        let output = |o: usize| (0..x.len()).map(|i| edge(o * x.len() + i)).sum();
        (0..outputs).map(output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{near, numbers};

    /// The cubic B-spline over knots 0..=4 in closed form.
    fn cubic(u: f32) -> f32 {
        let v = (u - 2.0).abs();
        match v {
            _ if v < 1.0 => (4.0 - 6.0 * v * v + 3.0 * v * v * v) / 6.0,
            _ if v < 2.0 => (2.0 - v).powi(3) / 6.0,
            _ => 0.0,
        }
    }

    #[test]
    fn splines_are_the_closed_form_and_sum_to_one() {
        let splines = Splines::new(-1.0, 1.0, 5, 3);
        assert_eq!(splines.len(), 8);
        for x in [-1.0, -0.77, -0.2, 0.0, 0.31, 0.6, 0.99] {
            let got = splines.basis(x);
            // Basis i begins at knot i, which is -1 + (i - 3) * 0.4.
            let want = (0..8).map(|i| cubic((x + 1.0) / 0.4 + 3.0 - i as f32));
            near(&got, &want.collect::<Vec<_>>());
            assert!((got.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_layer_sums_functions_of_its_edges() {
        let (inputs, outputs) = (3, 2);
        let splines = Splines::new(-1.0, 1.0, 4, 3);
        let (base, scale) = (numbers(20, 6), numbers(21, 6));
        let coefficients = numbers(22, 6 * splines.len());
        let x = [0.4, -0.9, 0.05];
        let layer = Layer {
            splines: &splines,
            base: &base,
            scale: &scale,
            coefficients: &coefficients,
        };
        let mut want = vec![0.0; outputs];
        for o in 0..outputs {
            for i in 0..inputs {
                let e = o * inputs + i;
                want[o] += base[e] * x[i] / (1.0 + (-x[i]).exp());
                for s in 0..splines.len() {
                    let b = cubic((x[i] + 1.0) / 0.5 + 3.0 - s as f32);
                    want[o] += scale[e] * coefficients[e * splines.len() + s] * b;
                }
            }
        }
        near(&layer.apply(&x), &want);
    }

    /// Coefficients that are the grid's own positions make the identity (on cubic splines).
    #[test]
    fn splines_reproduce_lines() {
        let splines = Splines::new(-1.0, 1.0, 4, 3);
        // Greville abscissae: means of three inner knots.
        let at = |i: usize| -1.0 + (i as f32 - 1.0) * 0.5;
        let coefficients: Vec<f32> = (0..splines.len()).map(at).collect();
        let layer = Layer {
            splines: &splines,
            base: &[0.0],
            scale: &[1.0],
            coefficients: &coefficients,
        };
        for x in [-1.0, -0.3, 0.25, 0.9] {
            near(&layer.apply(&[x]), &[x]);
        }
    }
}
