//! Weights `scale * level`.

use super::lanes::{Batch, LANES, Lanes, codes};

/// The values codes stand for.
pub(in super::super) trait Levels: Copy {
    /// The least and the greatest value.
    fn ends(self) -> (f32, f32);
    /// The values nearest to `v`.
    fn nearest(self, v: Lanes) -> Lanes;
    /// The codes of the values nearest to `v`.
    fn code(self, v: Lanes) -> Lanes;
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
    fn nearest(self, v: Lanes) -> Lanes {
        let (low, high) = self.ends();
        v.clamp(low, high).round()
    }

    #[inline(always)]
    fn code(self, v: Lanes) -> Lanes {
        self.nearest(v) - Lanes::all(self.ends().0)
    }

    #[inline(always)]
    fn step(self) -> f32 {
        if self.high < 3 { 0.3 } else { 0.1 }
    }
}

/// Sixteen rising values.
#[derive(Clone, Copy)]
pub(in super::super) struct Curve<'a>(pub &'a [i8; 16]);

impl Curve<'_> {
    /// `of(0)`, or `of(k)` for the greatest `k` with `v` above the middle of values `k - 1` and `k`.
    #[inline(always)]
    fn pick(self, v: Lanes, of: impl Fn(usize) -> f32) -> Lanes {
        let mut out = Lanes::all(of(0));
        for k in 1..16 {
            let middle = (f32::from(self.0[k - 1]) + f32::from(self.0[k])) * 0.5;
            out = Lanes::all(middle).less(v).pick(Lanes::all(of(k)), out);
        }
        out
    }
}

impl Levels for Curve<'_> {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (f32::from(self.0[0]), f32::from(self.0[15]))
    }

    #[inline(always)]
    fn nearest(self, v: Lanes) -> Lanes {
        self.pick(v, |k| f32::from(self.0[k]))
    }

    #[inline(always)]
    fn code(self, v: Lanes) -> Lanes {
        self.pick(v, |k| k as f32)
    }

    #[inline(always)]
    fn step(self) -> f32 {
        self.ends().1 / 140.0
    }
}

/// `sum(w x l)` and `sum(w l l)` with the levels `l` nearest to `x * inverse`.
#[inline(always)]
fn correlate<L: Levels, const N: usize>(b: &Batch<N>, inverse: Lanes, levels: L) -> (Lanes, Lanes) {
    let (mut xl, mut ll) = (Lanes::ZERO, Lanes::ZERO);
    for (x, w) in b.x.iter().zip(&b.w) {
        let l = levels.nearest(*x * inverse);
        let wl = *w * l;
        xl = xl + wl * *x;
        ll = ll + wl * l;
    }
    (xl, ll)
}

/// `sum(w (x - scale l)^2)` with the nearest levels.
#[inline(always)]
fn error<L: Levels, const N: usize>(b: &Batch<N>, scale: Lanes, levels: L) -> Lanes {
    let (inverse, mut sum) = (scale.invert(), Lanes::ZERO);
    for (x, w) in b.x.iter().zip(&b.w) {
        let e = *x - scale * levels.nearest(*x * inverse);
        sum = sum + *w * e * e;
    }
    sum
}

/// The value of largest magnitude of each group; of several the first.
#[inline(always)]
pub(in super::super) fn extreme<const N: usize>(b: &Batch<N>) -> Lanes {
    let further = |max: Lanes, x: &Lanes| max.abs().less(x.abs()).pick(*x, max);
    b.x.iter().fold(Lanes::ZERO, further)
}

/// Scales around the one that maps the extreme value to an end of the levels.
const STEPS: i32 = 19;

/// The scale of least error for each group.
#[inline(always)]
fn free<L: Levels, const N: usize>(b: &Batch<N>, levels: L, best: bool) -> Lanes {
    let unit = extreme(b).invert();
    let (low, high) = levels.ends();
    let (mut scale, mut score) = (Lanes::ZERO, Lanes::ZERO);
    let mut attempt = |inverse: Lanes, scale: &mut Lanes| {
        let (xl, ll) = correlate(b, inverse, levels);
        // The error is sum(w x x) - xl^2 / ll.
        let gain = xl * xl / ll;
        let better = score.less(gain);
        *scale = better.pick(xl / ll, *scale);
        score = better.pick(gain, score);
    };
    let (first, last) = if best {
        (-40, 60)
    } else {
        (-(STEPS / 2), STEPS / 2)
    };
    for k in first..=last {
        let shift = levels.step() * k as f32;
        attempt(unit * Lanes::all(low - shift), &mut scale);
        attempt(unit * Lanes::all(high + shift), &mut scale);
    }
    for _ in 0..if best { 4 } else { 2 } {
        attempt(scale.invert(), &mut scale);
    }
    scale
}

/// An F16 scale for each group. `start` is one to be as good as.
#[inline(always)]
pub(in super::super) fn single<L: Levels, const N: usize>(
    b: &Batch<N>,
    levels: L,
    start: Lanes,
    best: bool,
) -> Lanes {
    let found = free(b, levels, best);
    let mut scale = start.half();
    let mut least = error(b, scale, levels);
    let around = if best { 2 } else { 0 };
    for k in -around..=around {
        // Neighbours are at most 2^-10 apart.
        let next = (found * Lanes::all(1.0 + k as f32 / 1024.0)).half();
        let e = error(b, next, levels);
        let better = e.less(least);
        scale = better.pick(next, scale);
        least = better.pick(e, least);
    }
    scale
}

/// Of some numbers that stand for scales those of least error.
#[inline(always)]
pub(in super::super) fn choose<L: Levels, const N: usize>(
    b: &Batch<N>,
    levels: L,
    numbers: impl Iterator<Item = Lanes>,
    scale: impl Fn(f32) -> f32,
) -> Lanes {
    let (mut number, mut least) = (Lanes::ZERO, Lanes::all(f32::INFINITY));
    for next in numbers {
        let e = error(b, next.map(&scale), levels);
        let better = e.less(least);
        number = better.pick(next, number);
        least = better.pick(e, least);
    }
    number
}

/// Codes for a scale of each group.
#[inline(always)]
pub(in super::super) fn encode<L: Levels, const N: usize>(
    b: &Batch<N>,
    scale: Lanes,
    levels: L,
    out: &mut [[u8; N]; LANES],
) {
    let inverse = scale.invert();
    let mut at = b.x;
    for v in &mut at {
        *v = levels.code(*v * inverse);
    }
    codes(&at, out);
}

/// Scales of super-blocks: an F16 and an integer per group.
#[derive(Clone, Copy)]
pub(in super::super) struct Symmetric {
    pub d: Lanes,
    pub scales: Lanes,
}

/// Blocks of `G` groups, of weights `scale * level`, scales being integers in `-limit..limit` times
/// an F16.
#[inline(always)]
pub(in super::super) fn symmetric<const G: usize, const N: usize, L: Levels>(
    b: &Batch<N>,
    levels: L,
    limit: f32,
    best: bool,
) -> Symmetric {
    let free = free(b, levels, best);
    let most = free.extreme::<G>();
    let mut fit = Symmetric {
        d: Lanes::ZERO,
        scales: Lanes::ZERO,
    };
    let mut least = Lanes::all(f32::INFINITY);
    let (starts, rounds) = if best { (6, 4) } else { (1, 2) };
    for start in 0..2 * starts {
        let k = (start / 2) as f32;
        let end = if start % 2 == 0 {
            k - limit
        } else {
            limit - 1.0 - k
        };
        let mut d = (most / Lanes::all(end)).half();
        for _ in 0..rounds {
            let (scales, e) = nearest_scale(b, free, d, levels, limit);
            let sum = e.sum::<G>();
            let better = sum.less(least);
            least = better.pick(sum, least);
            fit.d = better.pick(d, fit.d);
            fit.scales = better.pick(scales, fit.scales);
            let (xl, ll) = correlate(b, (d * scales).invert(), levels);
            let top = (scales * xl).sum::<G>();
            let bottom = (scales * scales * ll).sum::<G>();
            d = (top * bottom.invert()).half();
        }
    }
    fit
}

/// Of the integer scales around `free` those of least error, and the errors.
#[inline(always)]
fn nearest_scale<L: Levels, const N: usize>(
    b: &Batch<N>,
    free: Lanes,
    d: Lanes,
    levels: L,
    limit: f32,
) -> (Lanes, Lanes) {
    let middle = (free * d.invert()).clamp(-limit, limit).round();
    let (mut scales, mut least) = (Lanes::ZERO, Lanes::all(f32::INFINITY));
    for k in [0.0, -1.0, 1.0] {
        let s = (middle + Lanes::all(k)).clamp(-limit, limit - 1.0);
        let e = error(b, d * s, levels);
        let better = e.less(least);
        scales = better.pick(s, scales);
        least = better.pick(e, least);
    }
    (scales, least)
}

impl Symmetric {
    /// Codes of the groups.
    #[inline(always)]
    pub(in super::super) fn encode<L: Levels, const N: usize>(
        &self,
        b: &Batch<N>,
        levels: L,
        out: &mut [[u8; N]; LANES],
    ) {
        encode(b, self.d * self.scales, levels, out);
    }
}
