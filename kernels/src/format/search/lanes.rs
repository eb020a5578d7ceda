//! Sixteen groups side by side: lane `g` of every vector belongs to group `g`.
//!
//! Lanes are only mixed by sums over the groups of a block, and nothing is fused: every level writes
//! the same bytes. No closures on vectors: they would be compiled without the features of the level.

use crate::isa::wide::{LANES, Row, Vector};
use crate::numeric::{from_f16, to_f16};

/// What the search needs beside arithmetic.
pub(in super::super) trait Lanes: Vector {
    #[inline(always)]
    fn zero() -> Self {
        Self::all(0.0)
    }

    /// Within `low..=high`; NaN becomes `low`.
    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> Self {
        self.max(Self::all(low)).min(Self::all(high))
    }

    /// Rounds to an integer, ties to even; for magnitudes below 2^22.
    #[inline(always)]
    fn round(self) -> Self {
        (self + Self::all(MAGIC)) - Self::all(MAGIC)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.max(Self::zero() - self)
    }

    /// Takes `other` where it is better.
    #[inline(always)]
    fn replace(&mut self, better: Self::Mask, other: Self) {
        *self = Self::pick(better, other, *self);
    }

    /// The inverse, or 0 if there is none: all codes then stand for zero, or nearly.
    #[inline(always)]
    fn invert(self) -> Self {
        let inverse = Self::all(1.0) / self;
        let finite = inverse.abs().less(Self::all(f32::INFINITY));
        Self::pick(finite, inverse, Self::zero())
    }

    /// Rounded to what an F16 holds; what is too large becomes its largest finite number.
    #[inline(always)]
    fn half(self) -> Self {
        let mut row = self.clamp(-65504.0, 65504.0).store();
        for v in &mut row.0 {
            *v = from_f16(to_f16(*v));
        }
        Self::load(&row)
    }

    /// The sum over each run of `G` groups, in all of its lanes.
    #[inline(always)]
    fn sum<const G: usize>(self) -> Self {
        let mut row = self.store();
        for run in row.0.chunks_exact_mut(G) {
            let mut sum = run[0];
            for v in &run[1..] {
                sum += *v;
            }
            run.fill(sum);
        }
        Self::load(&row)
    }

    /// The number of largest magnitude of each run of `G` groups, in all of its lanes.
    #[inline(always)]
    fn extreme<const G: usize>(self) -> Self {
        let mut row = self.store();
        for run in row.0.chunks_exact_mut(G) {
            let mut most = run[0];
            for v in &run[1..] {
                most = if v.abs() > most.abs() { *v } else { most };
            }
            run.fill(most);
        }
        Self::load(&row)
    }
}

impl<V: Vector> Lanes for V {}

/// 1.5 * 2^23: the low bits of a sum with it are the other number as an integer.
const MAGIC: f32 = 12_582_912.0;

/// The least weight, 2^-53: a group of no importance is encoded like any other.
const LEAST: f32 = f32::EPSILON * f32::EPSILON / 128.0;

/// Values of sixteen groups of `N` and the weights of their squared errors.
pub(in super::super) struct Batch<const N: usize> {
    pub x: [Row; N],
    pub w: [Row; N],
}

impl<const N: usize> Batch<N> {
    /// The values of groups that follow each other, and their weights: `x` is at `first` in whole
    /// rows of these. Missing groups are zero.
    #[inline(always)]
    pub(in super::super) fn new(x: &[f32], w: Option<&[f32]>, first: usize) -> Batch<N> {
        let mut batch = Batch {
            x: [Row([0.0; LANES]); N],
            w: [Row([1.0; LANES]); N],
        };
        put(&mut batch.x, x.as_chunks::<N>().0.iter());
        if let Some(w) = w {
            let groups = w.as_chunks::<N>().0;
            let groups = groups.iter().cycle().skip(first / N % groups.len());
            put(&mut batch.w, groups);
            for v in batch.w.iter_mut().flat_map(|row| &mut row.0) {
                *v = if *v > LEAST { *v } else { LEAST };
            }
        }
        batch
    }
}

/// Transposes at most sixteen groups.
#[inline(always)]
fn put<'a, const N: usize>(to: &mut [Row; N], groups: impl Iterator<Item = &'a [f32; N]>) {
    for (j, group) in groups.take(LANES).enumerate() {
        for (to, v) in to.iter_mut().zip(group) {
            to.0[j] = *v;
        }
    }
}

/// Sets code `i` of sixteen groups: integers below 256.
#[inline(always)]
pub(in super::super) fn put_codes<V: Vector, const N: usize>(
    v: V,
    i: usize,
    out: &mut [[u8; N]; LANES],
) {
    let row = (v + V::all(MAGIC)).store();
    for (out, v) in out.iter_mut().zip(row.0) {
        out[i] = v.to_bits() as u8;
    }
}
