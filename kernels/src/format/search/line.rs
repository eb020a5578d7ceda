//! Weights `scale * code - min`.

use super::lanes::{Batch, Lanes, put_codes};
use crate::isa::wide::{LANES, Vector};

/// A line for each group.
#[derive(Clone, Copy)]
pub(in super::super) struct Line<V> {
    pub scale: V,
    pub min: V,
}

/// Sums over a group for codes `l`: `w l`, `w l l`, `w x l`.
#[derive(Clone, Copy)]
struct Moments<V> {
    l: V,
    ll: V,
    xl: V,
}

impl<V: Vector> Line<V> {
    /// The codes nearest to `x`; `inverse` is that of the scale.
    #[inline(always)]
    fn code(self, x: V, inverse: V, most: f32) -> V {
        ((x + self.min) * inverse).clamp(0.0, most).round()
    }

    #[inline(always)]
    fn moments<const N: usize>(self, b: &Batch<N>, most: f32) -> Moments<V> {
        let inverse = self.scale.invert();
        let (mut l1, mut ll, mut xl) = (V::zero(), V::zero(), V::zero());
        for i in 0..N {
            let x = V::load(&b.x[i]);
            let l = self.code(x, inverse, most);
            let wl = V::load(&b.w[i]) * l;
            l1 = l1 + wl;
            ll = ll + wl * l;
            xl = xl + wl * x;
        }
        Moments { l: l1, ll, xl }
    }

    /// `sum(w (x - (scale l - min))^2)` with the nearest codes.
    #[inline(always)]
    fn error<const N: usize>(self, b: &Batch<N>, most: f32) -> V {
        let (inverse, mut sum) = (self.scale.invert(), V::zero());
        for i in 0..N {
            let x = V::load(&b.x[i]);
            let e = (x + self.min) - self.scale * self.code(x, inverse, most);
            sum = sum + V::load(&b.w[i]) * e * e;
        }
        sum
    }

    #[inline(always)]
    fn replace(&mut self, better: V::Mask, other: Self) {
        self.scale.replace(better, other.scale);
        self.min.replace(better, other.min);
    }

    /// Codes of the groups.
    #[inline(always)]
    pub(in super::super) fn encode<const N: usize>(
        self,
        b: &Batch<N>,
        most: f32,
    ) -> [[u8; N]; LANES] {
        let mut out = [[0; N]; LANES];
        let inverse = self.scale.invert();
        for i in 0..N {
            put_codes(self.code(V::load(&b.x[i]), inverse, most), i, &mut out);
        }
        out
    }
}

/// What does not depend on the codes: `sum(w)`, `sum(w x)`, the least and the greatest value.
#[derive(Clone, Copy)]
struct Constants<V> {
    w1: V,
    wx: V,
    low: V,
    high: V,
}

impl<V: Vector> Constants<V> {
    #[inline(always)]
    fn new<const N: usize>(b: &Batch<N>) -> Self {
        let first = V::load(&b.x[0]);
        let mut c = Constants {
            w1: V::zero(),
            wx: V::zero(),
            low: first,
            high: first,
        };
        for i in 0..N {
            let (x, w) = (V::load(&b.x[i]), V::load(&b.w[i]));
            c.w1 = c.w1 + w;
            c.wx = c.wx + w * x;
            c.low = x.min(c.low);
            c.high = x.max(c.high);
        }
        c
    }

    /// The line of least error for codes of these moments, and the error without its constant
    /// part `sum(w x x)`. If not `SIGNED`, the minimum is not negative.
    #[inline(always)]
    fn solve<const SIGNED: bool>(&self, m: Moments<V>) -> (Line<V>, V) {
        let (w1, wx, zero) = (self.w1, self.wx, V::zero());
        let det = w1 * m.ll - m.l * m.l;
        let inverse = V::all(1.0) / det;
        let mut line = Line {
            scale: m.xl / m.ll,
            min: zero,
        };
        let free = Line {
            scale: (w1 * m.xl - wx * m.l) * inverse,
            min: (m.l * m.xl - m.ll * wx) * inverse,
        };
        // Both conditions at once; NaN is none.
        let valid = if SIGNED { det } else { free.min.min(det) };
        line.replace(zero.less(valid), free);
        let Line { scale, min } = line;
        let mixed = min * wx - scale * m.xl - scale * min * m.l;
        let e = scale * scale * m.ll + min * min * w1 + (mixed + mixed);
        (line, V::pick(zero.less(scale), e, V::all(f32::INFINITY)))
    }
}

/// The best line so far.
struct Found<V> {
    line: Line<V>,
    least: V,
}

impl<V: Vector> Found<V> {
    /// Tries the line that suits the codes of another; returns it.
    #[inline(always)]
    fn suit<const SIGNED: bool, const N: usize>(
        &mut self,
        b: &Batch<N>,
        c: &Constants<V>,
        most: f32,
        from: Line<V>,
    ) -> Line<V> {
        let (next, e) = c.solve::<SIGNED>(from.moments(b, most));
        let better = e.less(self.least);
        self.line.replace(better, next);
        self.least.replace(better, e);
        next
    }
}

/// The line of least error for each group, codes being `0..=most`.
#[inline(always)]
fn fit<V: Vector, const SIGNED: bool, const N: usize>(
    b: &Batch<N>,
    c: &Constants<V>,
    most: f32,
    best: bool,
) -> Line<V> {
    let (mut low, mut high) = (c.low, c.high);
    if !SIGNED {
        (low, high) = (low.min(V::zero()), high.max(V::zero()));
    }
    let width = high - low;
    let whole = Line {
        scale: V::zero(),
        min: V::zero() - low,
    };
    let mut found = Found {
        line: whole,
        least: V::all(f32::INFINITY),
    };
    for k in (-10..=10).step_by(if best { 1 } else { 2 }) {
        let scale = width / V::all(most + 0.1 * k as f32);
        found.suit::<SIGNED, N>(b, c, most, Line { scale, ..whole });
    }
    // Ranges that leave out a part at either end.
    let n = if best { 5 } else { 3 };
    for k in 1..n * n {
        let part = if best { 0.08 } else { 0.12 };
        let (below, above) = (part * (k % n) as f32, part * (k / n) as f32);
        let mut from = Line {
            scale: width * V::all((1.0 - below - above) / most),
            min: whole.min - width * V::all(below),
        };
        for _ in 0..if best { 3 } else { 1 } {
            from = found.suit::<SIGNED, N>(b, c, most, from);
        }
    }
    for _ in 0..if best { 4 } else { 2 } {
        let line = found.line;
        found.suit::<SIGNED, N>(b, c, most, line);
    }
    found.line
}

/// Factors to an F16 and its neighbours, which are at most 2^-10 apart.
const NEAR: [f32; 3] = [1.0, 1.0 - 1.0 / 1024.0, 1.0 + 1.0 / 1024.0];

/// An F16 scale and minimum for each group, as good as those of the formula or better.
#[inline(always)]
pub(in super::super) fn line<V: Vector, const N: usize>(
    b: &Batch<N>,
    most: f32,
    best: bool,
) -> Line<V> {
    let c = Constants::<V>::new(b);
    // The formula: from the least to the greatest value.
    let mut line = Line {
        scale: ((c.high - c.low) / V::all(most)).half(),
        min: V::zero() - c.low.half(),
    };
    let mut least = line.error(b, most);
    for round in 0..=i32::from(best) {
        let found = fit::<V, true, N>(b, &c, most, round > 0);
        for k in 0..if round > 0 { 9 } else { 1 } {
            let next = Line {
                scale: (found.scale * V::all(NEAR[k % 3])).half(),
                min: (found.min * V::all(NEAR[k / 3])).half(),
            };
            let e = next.error(b, most);
            let better = e.less(least);
            line.replace(better, next);
            least.replace(better, e);
        }
    }
    line
}

/// Scales and minimums of super-blocks: two F16 and two integers per group.
#[derive(Clone, Copy)]
pub(in super::super) struct Affine<V> {
    pub d: V,
    pub dmin: V,
    pub scales: V,
    pub mins: V,
}

impl<V: Vector> Affine<V> {
    /// The line of each group.
    #[inline(always)]
    pub(in super::super) fn line(&self) -> Line<V> {
        Line {
            scale: self.d * self.scales,
            min: self.dmin * self.mins,
        }
    }
}

/// Blocks of `G` groups with a scale and a minimum each; codes are `0..=most`, both numbers
/// `0..=limit` times an F16.
#[inline(always)]
pub(in super::super) fn affine<V: Vector, const G: usize, const N: usize>(
    b: &Batch<N>,
    most: f32,
    limit: f32,
    best: bool,
) -> Affine<V> {
    let c = Constants::<V>::new(b);
    let zero = V::zero();
    let mut fit = Affine {
        d: zero,
        dmin: zero,
        scales: zero,
        mins: zero,
    };
    let mut least = V::all(f32::INFINITY);
    for best in [false, true].into_iter().take(1 + usize::from(best)) {
        let free = self::fit::<V, false, N>(b, &c, most, best);
        let (top, bottom) = (free.scale.extreme::<G>(), free.min.extreme::<G>());
        let (starts, rounds) = if best { (9, 4) } else { (1, 3) };
        for start in 0..starts {
            let (s, m) = (limit - (start % 3) as f32, limit - (start / 3) as f32);
            let mut next = Affine {
                d: (top / V::all(s)).half(),
                dmin: (bottom / V::all(m)).half(),
                ..fit
            };
            for _ in 0..rounds {
                let sum = nearest_line(b, free, &mut next, most, limit).sum::<G>();
                let better = sum.less(least);
                least.replace(better, sum);
                fit.d.replace(better, next.d);
                fit.dmin.replace(better, next.dmin);
                fit.scales.replace(better, next.scales);
                fit.mins.replace(better, next.mins);
                refit::<V, G>(&c, next.line().moments(b, most), &mut next);
            }
        }
    }
    fit
}

/// Sets the integer scales and minimums around `free` to those of least error; the errors.
#[inline(always)]
fn nearest_line<V: Vector, const N: usize>(
    b: &Batch<N>,
    free: Line<V>,
    fit: &mut Affine<V>,
    most: f32,
    limit: f32,
) -> V {
    let s0 = (free.scale * fit.d.invert()).clamp(0.0, limit).round();
    let m0 = (free.min * fit.dmin.invert()).clamp(0.0, limit).round();
    let mut least = V::all(f32::INFINITY);
    for k in 0..9 {
        let next = Affine {
            scales: (s0 + V::all((k / 3 - 1) as f32)).clamp(0.0, limit),
            mins: (m0 + V::all((k % 3 - 1) as f32)).clamp(0.0, limit),
            ..*fit
        };
        let e = next.line().error(b, most);
        let better = e.less(least);
        fit.scales.replace(better, next.scales);
        fit.mins.replace(better, next.mins);
        least.replace(better, e);
    }
    least
}

/// Sets the two F16 to those of least error for given codes, by the normal equations of
/// `x ~ d (s l) - dmin m`; neither is negative.
#[inline(always)]
fn refit<V: Vector, const G: usize>(c: &Constants<V>, sums: Moments<V>, fit: &mut Affine<V>) {
    let (s, m) = (fit.scales, fit.mins);
    let aa = (s * s * sums.ll).sum::<G>();
    let ab = (s * m * sums.l).sum::<G>();
    let bb = (m * m * c.w1).sum::<G>();
    let ax = (s * sums.xl).sum::<G>();
    let bx = (m * c.wx).sum::<G>();
    let det = aa * bb - ab * ab;
    let d = (ax * bb - bx * ab) / det;
    let dmin = (ab * ax - aa * bx) / det;
    let valid = V::zero().less(det.min(d).min(dmin));
    fit.d = V::pick(valid, d, ax * aa.invert())
        .clamp(0.0, 65504.0)
        .half();
    fit.dmin = V::pick(valid, dmin, V::zero()).half();
}
