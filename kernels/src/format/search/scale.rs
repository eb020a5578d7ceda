//! Weights `scale * level`.

use core::ops::RangeInclusive;

use super::lanes::{Batch, Lanes, put_codes};
use crate::isa::wide::{LANES, Vector};

/// The values codes stand for.
pub(in super::super) trait Levels: Copy {
    /// The least and the greatest value.
    fn ends(self) -> (f32, f32);
    /// The values nearest to `v`.
    fn nearest<V: Vector>(self, v: V) -> V;
    /// The codes of the values nearest to `v`.
    fn code<V: Vector>(self, v: V) -> V;
    /// How far candidates for the inverse scale are apart, in levels at the end of the range.
    fn step(self) -> f32;
}

/// All integers of a range, at least -128..=127; code 0 is the lowest.
#[derive(Clone, Copy)]
pub(in super::super) struct Integers {
    pub low: i8,
    pub high: i8,
}

impl Levels for Integers {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (f32::from(self.low), f32::from(self.high))
    }

    #[inline(always)]
    fn nearest<V: Vector>(self, v: V) -> V {
        let (low, high) = self.ends();
        v.clamp(low, high).round()
    }

    #[inline(always)]
    fn code<V: Vector>(self, v: V) -> V {
        self.nearest(v) - V::all(self.ends().0)
    }

    #[inline(always)]
    fn step(self) -> f32 {
        if self.high < 3 { 0.3 } else { 0.1 }
    }
}

/// Sixteen rising values.
pub(in super::super) struct Curve {
    values: [f32; 16],
    /// Between value `k` and the next.
    middles: [f32; 15],
}

impl Curve {
    pub(in super::super) const fn new(values: &[i8; 16]) -> Self {
        let mut curve = Curve {
            values: [0.0; 16],
            middles: [0.0; 15],
        };
        let mut k = 0;
        while k < 16 {
            curve.values[k] = values[k] as f32;
            if k > 0 {
                curve.middles[k - 1] = (curve.values[k - 1] + curve.values[k]) * 0.5;
            }
            k += 1;
        }
        curve
    }
}

impl Levels for &Curve {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (self.values[0], self.values[15])
    }

    #[inline(always)]
    fn nearest<V: Vector>(self, v: V) -> V {
        let mut out = V::all(self.values[0]);
        for k in 0..15 {
            out.replace(V::all(self.middles[k]).less(v), V::all(self.values[k + 1]));
        }
        out
    }

    #[inline(always)]
    fn code<V: Vector>(self, v: V) -> V {
        let mut out = V::zero();
        for k in 0..15 {
            out.replace(V::all(self.middles[k]).less(v), V::all((k + 1) as f32));
        }
        out
    }

    #[inline(always)]
    fn step(self) -> f32 {
        self.ends().1 / 140.0
    }
}

/// `sum(w x l)` and `sum(w l l)` with the levels `l` nearest to `x * inverse`.
#[inline(always)]
fn correlate<V: Vector, L: Levels, const N: usize>(b: &Batch<N>, inverse: V, levels: L) -> (V, V) {
    let (mut xl, mut ll) = (V::zero(), V::zero());
    for i in 0..N {
        let x = V::load(&b.x[i]);
        let l = levels.nearest(x * inverse);
        let wl = V::load(&b.w[i]) * l;
        xl = xl + wl * x;
        ll = ll + wl * l;
    }
    (xl, ll)
}

/// `sum(w (x - scale l)^2)` with the nearest levels.
#[inline(always)]
fn error<V: Vector, L: Levels, const N: usize>(b: &Batch<N>, scale: V, levels: L) -> V {
    let (inverse, mut sum) = (scale.invert(), V::zero());
    for i in 0..N {
        let x = V::load(&b.x[i]);
        let e = x - scale * levels.nearest(x * inverse);
        sum = sum + V::load(&b.w[i]) * e * e;
    }
    sum
}

/// The value of largest magnitude of each group; of several the first.
#[inline(always)]
pub(in super::super) fn extreme<V: Vector, const N: usize>(b: &Batch<N>) -> V {
    let mut max = V::zero();
    for x in &b.x {
        let x = V::load(x);
        max.replace(max.abs().less(x.abs()), x);
    }
    max
}

/// Numbers of least error so far.
#[derive(Clone, Copy)]
struct Least<V> {
    number: V,
    error: V,
}

impl<V: Vector> Least<V> {
    #[inline(always)]
    fn none() -> Self {
        Least {
            number: V::zero(),
            error: V::all(f32::INFINITY),
        }
    }

    #[inline(always)]
    fn keep(&mut self, number: V, error: V) {
        let better = error.less(self.error);
        self.number.replace(better, number);
        self.error.replace(better, error);
    }

    /// The scale that suits the codes of an inverse scale.
    #[inline(always)]
    fn suit<L: Levels, const N: usize>(&mut self, b: &Batch<N>, inverse: V, levels: L) {
        let (xl, ll) = correlate(b, inverse, levels);
        let scale = xl / ll;
        // Without its constant part sum(w x x).
        self.keep(scale, V::zero() - scale * xl);
    }
}

/// The scale of least error for each group.
#[inline(always)]
fn free<V: Vector, L: Levels, const N: usize>(b: &Batch<N>, levels: L, best: bool) -> V {
    let unit = extreme::<V, N>(b).invert();
    let (low, high) = levels.ends();
    let mut least = Least::none();
    // Around the scales that map the extreme value to an end of the levels.
    let (first, last, by) = if best { (-40, 60, 1) } else { (-9, 9, 2) };
    for k in (first..=last).step_by(by) {
        let shift = levels.step() * k as f32;
        least.suit(b, unit * V::all(low - shift), levels);
        least.suit(b, unit * V::all(high + shift), levels);
    }
    // The extreme value may be of no importance.
    for part in [0.08, 0.16, 0.25, 0.37, 0.5] {
        least.suit(b, unit * V::all(low * (1.0 + part)), levels);
        least.suit(b, unit * V::all(high * (1.0 + part)), levels);
    }
    for _ in 0..if best { 4 } else { 2 } {
        least.suit(b, least.number.invert(), levels);
    }
    least.number
}

/// An F16 scale for each group, as good as that of the formula or better.
#[inline(always)]
pub(in super::super) fn single<V: Vector, L: Levels, const N: usize>(
    b: &Batch<N>,
    levels: L,
    formula: V,
    best: bool,
) -> V {
    let mut least = Least::none();
    let scale = formula.half();
    least.keep(scale, error(b, scale, levels));
    for round in 0..=i32::from(best) {
        let found: V = free(b, levels, round > 0);
        for k in -2 * round..=2 * round {
            // Neighbours are at most 2^-10 apart.
            let scale = (found * V::all(1.0 + k as f32 / 1024.0)).half();
            least.keep(scale, error(b, scale, levels));
        }
    }
    least.number
}

/// Scales that are stored as integers of `0..=most`.
#[derive(Clone, Copy)]
pub(in super::super) struct Stored {
    pub most: f32,
    /// What an integer stands for.
    pub scale: fn(u8) -> f32,
}

/// Of the stored integers those of least error, and their scales. Tries those `around` the `first`.
#[inline(always)]
pub(in super::super) fn choose<V: Vector, L: Levels, const N: usize>(
    b: &Batch<N>,
    levels: L,
    first: V,
    around: RangeInclusive<i8>,
    stored: Stored,
) -> (V, V) {
    let mut least = Least::none();
    for k in around {
        let number = (first + V::all(f32::from(k))).clamp(0.0, stored.most);
        least.keep(number, error(b, scales(number, stored.scale), levels));
    }
    (least.number, scales(least.number, stored.scale))
}

/// What integers stand for.
#[inline(always)]
fn scales<V: Vector>(numbers: V, scale: fn(u8) -> f32) -> V {
    let mut row = numbers.store();
    for v in &mut row.0 {
        *v = scale(*v as u8);
    }
    V::load(&row)
}

/// Codes for a scale of each group.
#[inline(always)]
pub(in super::super) fn encode<V: Vector, L: Levels, const N: usize>(
    b: &Batch<N>,
    scale: V,
    levels: L,
) -> [[u8; N]; LANES] {
    let mut out = [[0; N]; LANES];
    let inverse = scale.invert();
    for i in 0..N {
        put_codes(levels.code(V::load(&b.x[i]) * inverse), i, &mut out);
    }
    out
}

/// Scales of super-blocks: an F16 and an integer per group.
#[derive(Clone, Copy)]
pub(in super::super) struct Symmetric<V> {
    pub d: V,
    pub scales: V,
}

/// Blocks of `G` groups, of weights `scale * level`, scales being integers in `-limit..limit` times
/// an F16.
#[inline(always)]
pub(in super::super) fn symmetric<V: Vector, L: Levels, const G: usize, const N: usize>(
    b: &Batch<N>,
    levels: L,
    limit: f32,
    best: bool,
) -> Symmetric<V> {
    let mut fit = Symmetric {
        d: V::zero(),
        scales: V::zero(),
    };
    let mut least = V::all(f32::INFINITY);
    for best in [false, true].into_iter().take(1 + usize::from(best)) {
        let free: V = free(b, levels, best);
        let most = free.extreme::<G>();
        let (starts, rounds) = if best { (6, 4) } else { (1, 2) };
        for start in 0..2 * starts {
            let k = (start / 2) as f32;
            let end = if start % 2 == 0 {
                k - limit
            } else {
                limit - 1.0 - k
            };
            let mut d = (most / V::all(end)).half();
            for _ in 0..rounds {
                let (scales, e) = nearest_scale(b, free, d, levels, limit);
                let sum = e.sum::<G>();
                let better = sum.less(least);
                least.replace(better, sum);
                fit.d.replace(better, d);
                fit.scales.replace(better, scales);
                let (xl, ll) = correlate(b, (d * scales).invert(), levels);
                let top = (scales * xl).sum::<G>();
                let bottom = (scales * scales * ll).sum::<G>();
                d = (top * bottom.invert()).half();
            }
        }
    }
    fit
}

/// Of the integer scales around `free` those of least error, and the errors.
#[inline(always)]
fn nearest_scale<V: Vector, L: Levels, const N: usize>(
    b: &Batch<N>,
    free: V,
    d: V,
    levels: L,
    limit: f32,
) -> (V, V) {
    let middle = (free * d.invert()).clamp(-limit, limit).round();
    let mut least = Least::none();
    for k in -1..=1 {
        let s = (middle + V::all(k as f32)).clamp(-limit, limit - 1.0);
        least.keep(s, error(b, d * s, levels));
    }
    (least.number, least.error)
}
