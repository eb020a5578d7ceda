//! Weights `scale * code - min`.

use super::lanes::{Batch, LANES, Lanes, codes};

/// A line for each group.
#[derive(Clone, Copy)]
pub(in super::super) struct Line {
    pub scale: Lanes,
    pub min: Lanes,
}

/// Sums over a group for codes `l`: `w l`, `w l l`, `w x l`.
#[derive(Clone, Copy)]
struct Moments {
    l: Lanes,
    ll: Lanes,
    xl: Lanes,
}

impl Line {
    /// The codes nearest to `x`; `inverse` is that of the scale.
    #[inline(always)]
    fn code(self, x: Lanes, inverse: Lanes, most: f32) -> Lanes {
        ((x + self.min) * inverse).clamp(0.0, most).round()
    }

    #[inline(always)]
    fn moments<const N: usize>(self, b: &Batch<N>, most: f32) -> Moments {
        let inverse = self.scale.invert();
        let (mut l1, mut ll, mut xl) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
        for (x, w) in b.x.iter().zip(&b.w) {
            let l = self.code(*x, inverse, most);
            let wl = *w * l;
            l1 = l1 + wl;
            ll = ll + wl * l;
            xl = xl + wl * *x;
        }
        Moments { l: l1, ll, xl }
    }

    /// `sum(w (x - (scale l - min))^2)` with the nearest codes.
    #[inline(always)]
    fn error<const N: usize>(self, b: &Batch<N>, most: f32) -> Lanes {
        let (inverse, mut sum) = (self.scale.invert(), Lanes::ZERO);
        for (x, w) in b.x.iter().zip(&b.w) {
            let e = (*x + self.min) - self.scale * self.code(*x, inverse, most);
            sum = sum + *w * e * e;
        }
        sum
    }

    /// Codes of the groups.
    #[inline(always)]
    pub(in super::super) fn encode<const N: usize>(
        self,
        b: &Batch<N>,
        most: f32,
        out: &mut [[u8; N]; LANES],
    ) {
        let inverse = self.scale.invert();
        let mut at = b.x;
        for v in &mut at {
            *v = self.code(*v, inverse, most);
        }
        codes(&at, out);
    }
}

/// What does not depend on the codes: `sum(w)`, `sum(w x)`, the least and the greatest value.
#[derive(Clone, Copy)]
struct Constants {
    w1: Lanes,
    wx: Lanes,
    low: Lanes,
    high: Lanes,
}

impl Constants {
    #[inline(always)]
    fn new<const N: usize>(b: &Batch<N>) -> Self {
        let mut c = Constants {
            w1: Lanes::ZERO,
            wx: Lanes::ZERO,
            low: b.x[0],
            high: b.x[0],
        };
        for (x, w) in b.x.iter().zip(&b.w) {
            c.w1 = c.w1 + *w;
            c.wx = c.wx + *w * *x;
            c.low = x.min(c.low);
            c.high = x.max(c.high);
        }
        c
    }

    /// The line of least error for codes of these moments, and the error without its constant
    /// part `sum(w x x)`. If not `SIGNED`, the minimum is not negative.
    #[inline(always)]
    fn solve<const SIGNED: bool>(&self, m: Moments) -> (Line, Lanes) {
        let (w1, wx, zero) = (self.w1, self.wx, Lanes::ZERO);
        let det = w1 * m.ll - m.l * m.l;
        let inverse = Lanes::all(1.0) / det;
        let mut scale = (w1 * m.xl - wx * m.l) * inverse;
        let mut min = (m.l * m.xl - m.ll * wx) * inverse;
        let mut valid = zero.less(det);
        if !SIGNED {
            valid = valid.and(zero.less(min));
        }
        scale = valid.pick(scale, m.xl / m.ll);
        min = valid.pick(min, zero);
        let two = Lanes::all(2.0);
        let e = scale * scale * m.ll
            + min * min * w1
            + two * (min * wx - scale * m.xl - scale * min * m.l);
        let e = zero.less(scale).pick(e, Lanes::all(f32::INFINITY));
        (Line { scale, min }, e)
    }
}

/// The line of least error for each group, codes being `0..=most`.
#[inline(always)]
fn fit<const SIGNED: bool, const N: usize>(
    b: &Batch<N>,
    c: &Constants,
    most: f32,
    best: bool,
) -> Line {
    let (mut low, mut high) = (c.low, c.high);
    if !SIGNED {
        (low, high) = (low.min(Lanes::ZERO), high.max(Lanes::ZERO));
    }
    let mut line = Line {
        scale: Lanes::ZERO,
        min: Lanes::ZERO - low,
    };
    let mut least = Lanes::all(f32::INFINITY);
    let mut attempt = |from: Line, line: &mut Line| {
        let (next, e) = c.solve::<SIGNED>(from.moments(b, most));
        let better = e.less(least);
        line.scale = better.pick(next.scale, line.scale);
        line.min = better.pick(next.min, line.min);
        least = better.pick(e, least);
        next
    };
    for k in -10..=10 {
        let range = most + 0.1 * k as f32;
        let from = Line {
            scale: (high - low) / Lanes::all(range),
            min: Lanes::ZERO - low,
        };
        attempt(from, &mut line);
    }
    if best {
        // Ranges that leave out a part at either end.
        for k in 0..25 {
            let (below, above) = (0.08 * (k % 5) as f32, 0.08 * (k / 5) as f32);
            let start = low + (high - low) * Lanes::all(below);
            let part = (high - low) * Lanes::all((1.0 - below - above) / most);
            let mut from = Line {
                scale: part,
                min: Lanes::ZERO - start,
            };
            for _ in 0..3 {
                from = attempt(from, &mut line);
            }
        }
    }
    for _ in 0..if best { 4 } else { 2 } {
        attempt(line, &mut line);
    }
    line
}

/// An F16 scale and minimum for each group, as good as those of the formula or better.
#[inline(always)]
pub(in super::super) fn line<const N: usize>(b: &Batch<N>, most: f32, best: bool) -> Line {
    let c = Constants::new(b);
    let found = fit::<true, N>(b, &c, most, best);
    // The formula: from the least to the greatest value.
    let mut line = Line {
        scale: ((c.high - c.low) / Lanes::all(most)).half(),
        min: Lanes::ZERO - c.low.half(),
    };
    let mut least = line.error(b, most);
    let around = if best { 1 } else { 0 };
    for ds in -around..=around {
        for dm in -around..=around {
            let near = |v: Lanes, k: i32| (v * Lanes::all(1.0 + k as f32 / 1024.0)).half();
            let next = Line {
                scale: near(found.scale, ds),
                min: near(found.min, dm),
            };
            let e = next.error(b, most);
            let better = e.less(least);
            line.scale = better.pick(next.scale, line.scale);
            line.min = better.pick(next.min, line.min);
            least = better.pick(e, least);
        }
    }
    line
}

/// Scales and minimums of super-blocks: two F16 and two integers per group.
#[derive(Clone, Copy)]
pub(in super::super) struct Affine {
    pub d: Lanes,
    pub dmin: Lanes,
    pub scales: Lanes,
    pub mins: Lanes,
}

impl Affine {
    /// The line of each group.
    #[inline(always)]
    pub(in super::super) fn line(&self) -> Line {
        Line {
            scale: self.d * self.scales,
            min: self.dmin * self.mins,
        }
    }
}

/// Blocks of `G` groups with a scale and a minimum each; codes are `0..=most`, both numbers
/// `0..=limit` times an F16.
#[inline(always)]
pub(in super::super) fn affine<const G: usize, const N: usize>(
    b: &Batch<N>,
    most: f32,
    limit: f32,
    best: bool,
) -> Affine {
    let c = Constants::new(b);
    let free = fit::<false, N>(b, &c, most, best);
    let (top, bottom) = (free.scale.extreme::<G>(), free.min.extreme::<G>());
    let mut fit = Affine {
        d: Lanes::ZERO,
        dmin: Lanes::ZERO,
        scales: Lanes::ZERO,
        mins: Lanes::ZERO,
    };
    let mut least = Lanes::all(f32::INFINITY);
    let (starts, rounds) = if best { (9, 4) } else { (1, 3) };
    for start in 0..starts {
        let (s, m) = (limit - (start % 3) as f32, limit - (start / 3) as f32);
        let mut next = Affine {
            d: (top / Lanes::all(s)).half(),
            dmin: (bottom / Lanes::all(m)).half(),
            ..fit
        };
        for _ in 0..rounds {
            let sum = nearest_line(b, free, &mut next, (most, limit)).sum::<G>();
            let better = sum.less(least);
            least = better.pick(sum, least);
            fit.d = better.pick(next.d, fit.d);
            fit.dmin = better.pick(next.dmin, fit.dmin);
            fit.scales = better.pick(next.scales, fit.scales);
            fit.mins = better.pick(next.mins, fit.mins);
            refit::<G>(&c, next.line().moments(b, most), &mut next);
        }
    }
    fit
}

/// Sets the integer scales and minimums around `free` to those of least error; the errors.
#[inline(always)]
fn nearest_line<const N: usize>(
    b: &Batch<N>,
    free: Line,
    fit: &mut Affine,
    (most, limit): (f32, f32),
) -> Lanes {
    let middle = |v: Lanes, d: Lanes| (v * d.invert()).clamp(0.0, limit).round();
    let (s0, m0) = (middle(free.scale, fit.d), middle(free.min, fit.dmin));
    let mut least = Lanes::all(f32::INFINITY);
    for ds in [0.0, -1.0, 1.0] {
        for dm in [0.0, -1.0, 1.0] {
            let next = Affine {
                scales: (s0 + Lanes::all(ds)).clamp(0.0, limit),
                mins: (m0 + Lanes::all(dm)).clamp(0.0, limit),
                ..*fit
            };
            let e = next.line().error(b, most);
            let better = e.less(least);
            fit.scales = better.pick(next.scales, fit.scales);
            fit.mins = better.pick(next.mins, fit.mins);
            least = better.pick(e, least);
        }
    }
    least
}

/// Sets the two F16 to those of least error for given codes, by the normal equations of
/// `x ~ d (s l) - dmin m`; neither is negative.
#[inline(always)]
fn refit<const G: usize>(c: &Constants, sums: Moments, fit: &mut Affine) {
    let (s, m) = (fit.scales, fit.mins);
    let aa = (s * s * sums.ll).sum::<G>();
    let ab = (s * m * sums.l).sum::<G>();
    let bb = (m * m * c.w1).sum::<G>();
    let ax = (s * sums.xl).sum::<G>();
    let bx = (m * c.wx).sum::<G>();
    let det = aa * bb - ab * ab;
    let d = (ax * bb - bx * ab) / det;
    let dmin = (ab * ax - aa * bx) / det;
    let zero = Lanes::ZERO;
    let valid = zero.less(det).and(zero.less(d)).and(zero.less(dmin));
    fit.d = valid.pick(d, ax * aa.invert()).clamp(0.0, 65504.0).half();
    fit.dmin = valid.pick(dmin, zero).half();
}
