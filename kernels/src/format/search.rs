//! The search for scales and codes that K-quants and table types need.
//!
//! The file format fixes how a weight is decoded, not how codes and scales are chosen. Here they
//! minimise the squared error, each value's weighted by its importance:
//!
//! ```text
//! for each group:
//!     for each candidate scale: codes = nearest levels; the best scale for *those* codes follows
//!         by least squares; keep the candidate whose error is least; repeat from its scale
//! for the super-block, from the largest group scale:
//!     for each group: of the integer scale and its neighbours take the one of least error
//!     refit the F16 scale (and minimum) to all codes by least squares; repeat while it helps
//! ```
//!
//! Sums run in sixteen lanes with a fixed tree and without fused operations: every level writes
//! the same bytes, and the compiler vectorises the loops.

use super::encode::{from_f16, to_f16};

/// How hard an encoder looks for scales and codes. The format is the same, only the choice of
/// numbers in it differs.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Types that are a formula in ggml come out bit for bit as there, unless importance is given;
    /// all others as with `Fast`.
    #[default]
    Reference,
    /// A quick search, for every type.
    Fast,
    /// A thorough search, several times slower. No block has a larger error than with `Fast`, and
    /// none than with `Reference`.
    Best,
}

/// What an encoder is to minimise, and how hard it tries.
#[derive(Clone, Copy, Default, Debug)]
pub struct Search<'a> {
    /// How hard.
    pub effort: Effort,
    /// The weight of the squared error of each column of a row; all are equal if there is none.
    pub importance: Option<&'a [f32]>,
}

/// The values codes stand for.
pub(super) trait Levels: Copy {
    /// The least and the greatest value.
    fn ends(self) -> (f32, f32);
    /// The value nearest to `v`.
    fn nearest(self, v: f32) -> f32;
    /// The code of the value nearest to `v`.
    fn code(self, v: f32) -> u8;
}

/// All integers of a range, at least -128..=127; code 0 is the lowest.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    pub low: i8,
    pub high: i8,
}

/// Rounds to an integer, ties to even; for magnitudes below 2^22.
#[inline(always)]
fn round(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (v + MAGIC) - MAGIC
}

/// `v` within `low..=high`; NaN becomes `low`.
#[inline(always)]
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

impl Levels for Integers {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (f32::from(self.low), f32::from(self.high))
    }

    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let (low, high) = self.ends();
        round(clamp(v, low, high))
    }

    #[inline(always)]
    fn code(self, v: f32) -> u8 {
        (self.nearest(v) - self.ends().0) as u8
    }
}

/// Sixteen rising values.
#[derive(Clone, Copy)]
pub(super) struct Curve<'a>(pub &'a [i8; 16]);

impl Curve<'_> {
    /// The middle between value `k` and the next.
    #[inline(always)]
    fn middle(self, k: usize) -> f32 {
        (f32::from(self.0[k]) + f32::from(self.0[k + 1])) * 0.5
    }
}

impl Levels for Curve<'_> {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (f32::from(self.0[0]), f32::from(self.0[15]))
    }

    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let mut value = f32::from(self.0[0]);
        for k in 0..15 {
            let next = f32::from(self.0[k + 1]);
            value = if v > self.middle(k) { next } else { value };
        }
        value
    }

    #[inline(always)]
    fn code(self, v: f32) -> u8 {
        (0..15).fold(0, |code, k| code + u8::from(v > self.middle(k)))
    }
}

/// A format whose blocks of `N` weights are encoded one by one, each error weighted.
pub(super) trait Encode<const N: usize, const BYTES: usize> {
    fn encode(x: &[f32; N], w: &[f32; N], b: &mut [u8; BYTES]);
}

/// Encodes each block of `N` values with their importance.
#[inline(always)]
pub(super) fn blocks<F: Encode<N, BYTES>, const N: usize, const BYTES: usize>(
    x: &[f32],
    search: Search,
    out: &mut [u8],
) {
    let equal = [1.0; N];
    let mut weights = search
        .importance
        .unwrap_or_default()
        .as_chunks::<N>()
        .0
        .iter();
    for (x, b) in x
        .as_chunks::<N>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<BYTES>().0)
    {
        F::encode(x, weights.next().unwrap_or(&equal), b);
    }
}

const LANES: usize = 16;

/// Sums per lane.
#[derive(Clone, Copy)]
struct Sum([f32; LANES]);

impl Sum {
    #[inline(always)]
    fn new() -> Self {
        Sum([0.0; LANES])
    }

    /// Halves of 8, 4, 2 and 1.
    #[inline(always)]
    fn total(self) -> f32 {
        let v = self.0;
        let eight: [f32; 8] = array!(8, j => v[j] + v[j + 8]);
        let four: [f32; 4] = array!(4, j => eight[j] + eight[j + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

/// `sum(w x l)` and `sum(w l l)` with the levels `l` nearest to `x * inverse`.
#[inline(always)]
fn correlate<L: Levels>(x: &[f32], w: &[f32], inverse: f32, levels: L) -> (f32, f32) {
    let (mut xl, mut ll) = (Sum::new(), Sum::new());
    let weights = w.as_chunks::<LANES>().0;
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(weights) {
        for j in 0..LANES {
            let l = levels.nearest(x[j] * inverse);
            let wl = w[j] * l;
            xl.0[j] += wl * x[j];
            ll.0[j] += wl * l;
        }
    }
    (xl.total(), ll.total())
}

/// `sum(w (x - scale l)^2)` with the nearest levels.
#[inline(always)]
fn error<L: Levels>(x: &[f32], w: &[f32], scale: f32, levels: L) -> f32 {
    let inverse = invert(scale);
    let mut sum = Sum::new();
    let weights = w.as_chunks::<LANES>().0;
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(weights) {
        for j in 0..LANES {
            let e = x[j] - scale * levels.nearest(x[j] * inverse);
            sum.0[j] += w[j] * e * e;
        }
    }
    sum.total()
}

/// The inverse, or 0 if there is none: all codes then stand for zero, or nearly.
#[inline(always)]
fn invert(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// F16 bits of a scale; what is too large becomes the largest finite number.
#[inline(always)]
fn half(scale: f32) -> u16 {
    to_f16(clamp(scale, -65504.0, 65504.0))
}

/// Of several numbers the one of largest magnitude, with its sign.
#[inline(always)]
fn extreme(x: &[f32]) -> f32 {
    x.iter()
        .fold(0.0, |m: f32, v| if v.abs() > m.abs() { *v } else { m })
}

/// Scales around the one that maps the extreme value to an end of the levels.
const STEPS: i32 = 19;

/// The scale of least error for a group.
#[inline(always)]
pub(super) fn scale<L: Levels>(x: &[f32], w: &[f32], levels: L) -> f32 {
    let max = extreme(x);
    let (low, high) = levels.ends();
    let (mut best, mut score) = (0.0, 0.0);
    let unit = invert(max);
    // A tenth of an integer level; on a curve about as much.
    let step = if high > 64.0 { 0.8 } else { 0.1 };
    for attempt in 0..2 * STEPS + 2 {
        let shift = step * (attempt % STEPS - STEPS / 2) as f32;
        let inverse = match attempt / STEPS {
            0 => (low - shift) * unit,
            1 => (high + shift) * unit,
            _ => invert(best),
        };
        let (xl, ll) = correlate(x, w, inverse, levels);
        // The error is sum(w x x) - xl^2 / ll.
        if xl * xl > score * ll {
            (best, score) = (xl / ll, xl * xl / ll);
        }
    }
    best
}

/// Codes of `x` for a scale.
#[inline(always)]
pub(super) fn encode<L: Levels>(x: &[f32], scale: f32, levels: L, codes: &mut [u8]) {
    let inverse = invert(scale);
    for (x, c) in x.iter().zip(codes) {
        *c = levels.code(x * inverse);
    }
}

/// Scales of a super-block: an F16 and an integer per group.
#[derive(Clone, Copy)]
pub(super) struct Symmetric<const G: usize> {
    pub d: u16,
    pub scales: [i32; G],
}

/// `G` groups of `N` weights `scale * level`, scales being integers in `-limit..limit` times an
/// F16.
#[inline(always)]
pub(super) fn symmetric<const G: usize, const N: usize, L: Levels>(
    x: &[f32; 256],
    w: &[f32; 256],
    levels: L,
    limit: i32,
    codes: &mut [u8; 256],
) -> Symmetric<G> {
    let group = |g: usize| (&x[N * g..N * g + N], &w[N * g..N * g + N]);
    let mut free = [0.0; G];
    for (g, free) in free.iter_mut().enumerate() {
        *free = scale(group(g).0, group(g).1, levels);
    }
    let most = extreme(&free);
    let mut best = (
        f32::INFINITY,
        Symmetric {
            d: 0,
            scales: [0; G],
        },
    );
    for end in [-limit, limit - 1] {
        let mut d = half(most / end as f32);
        for _ in 0..2 {
            let (mut sum, mut scales) = (0.0, [0; G]);
            let (mut top, mut bottom) = (0.0, 0.0);
            let step = from_f16(d);
            for g in 0..G {
                let (x, w) = group(g);
                let middle = round(clamp(free[g] * invert(step), -limit as f32, limit as f32));
                let mut least = f32::INFINITY;
                for s in middle as i32 - 1..=middle as i32 + 1 {
                    let s = s.clamp(-limit, limit - 1);
                    let e = error(x, w, step * s as f32, levels);
                    if e < least {
                        (least, scales[g]) = (e, s);
                    }
                }
                let s = scales[g] as f32;
                let (xl, ll) = correlate(x, w, invert(step * s), levels);
                (sum, top, bottom) = (sum + least, top + s * xl, bottom + s * s * ll);
            }
            if sum < best.0 {
                best = (sum, Symmetric { d, scales });
            }
            d = half(top * invert(bottom));
        }
    }
    let fit = best.1;
    for g in 0..G {
        let scale = from_f16(fit.d) * fit.scales[g] as f32;
        encode(group(g).0, scale, levels, &mut codes[N * g..N * g + N]);
    }
    fit
}

/// Scales and minimums of a super-block: two F16 and two integers per group. A weight is
/// `d * scale * code - dmin * min`.
#[derive(Clone, Copy)]
pub(super) struct Affine<const G: usize> {
    pub d: u16,
    pub dmin: u16,
    pub scales: [u8; G],
    pub mins: [u8; G],
}

/// A group's weights as `scale * code - min`.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    min: f32,
}

/// Sums over a group for codes `l`: `w l`, `w l l`, `w x l`.
#[derive(Clone, Copy)]
struct Moments {
    l: f32,
    ll: f32,
    xl: f32,
}

impl Line {
    #[inline(always)]
    fn moments(self, x: &[f32], w: &[f32], most: f32) -> Moments {
        let inverse = invert(self.scale);
        let (mut l1, mut ll, mut xl) = (Sum::new(), Sum::new(), Sum::new());
        let weights = w.as_chunks::<LANES>().0;
        for (x, w) in x.as_chunks::<LANES>().0.iter().zip(weights) {
            for j in 0..LANES {
                let l = round(clamp((x[j] + self.min) * inverse, 0.0, most));
                let wl = w[j] * l;
                l1.0[j] += wl;
                ll.0[j] += wl * l;
                xl.0[j] += wl * x[j];
            }
        }
        Moments {
            l: l1.total(),
            ll: ll.total(),
            xl: xl.total(),
        }
    }

    /// `sum(w (x - (scale l - min))^2)` with the nearest codes.
    #[inline(always)]
    fn error(self, x: &[f32], w: &[f32], most: f32) -> f32 {
        let inverse = invert(self.scale);
        let mut sum = Sum::new();
        let weights = w.as_chunks::<LANES>().0;
        for (x, w) in x.as_chunks::<LANES>().0.iter().zip(weights) {
            for j in 0..LANES {
                let l = round(clamp((x[j] + self.min) * inverse, 0.0, most));
                let e = x[j] - (self.scale * l - self.min);
                sum.0[j] += w[j] * e * e;
            }
        }
        sum.total()
    }

    /// The line of least error for a group, codes being `0..=most`.
    #[inline(always)]
    fn fit(x: &[f32], w: &[f32], most: f32) -> Line {
        let (mut wx, mut w1) = (Sum::new(), Sum::new());
        let (mut low, mut high) = (0.0f32, x[0]);
        for (x, w) in x
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(w.as_chunks::<LANES>().0)
        {
            for j in 0..LANES {
                wx.0[j] += w[j] * x[j];
                w1.0[j] += w[j];
            }
        }
        for v in x {
            low = if *v < low { *v } else { low };
            high = if *v > high { *v } else { high };
        }
        let (wx, w1) = (wx.total(), w1.total());
        let mut best = Line {
            scale: 0.0,
            min: -low,
        };
        // Least squares for given codes; the error without its constant part sum(w x x).
        let mut least = f32::INFINITY;
        for k in 0..23 {
            let range = most + 0.1 * (k - 10) as f32;
            let from = match k {
                0..21 => Line {
                    scale: (high - low) / range,
                    min: -low,
                },
                _ => best,
            };
            let m = from.moments(x, w, most);
            let det = w1 * m.ll - m.l * m.l;
            let mut line = Line {
                scale: (w1 * m.xl - wx * m.l) / det,
                min: (m.l * m.xl - m.ll * wx) / det,
            };
            if !(line.min > 0.0 && det > 0.0) {
                line = Line {
                    scale: m.xl * invert(m.ll),
                    min: 0.0,
                };
            }
            let Line { scale: s, min: n } = line;
            let e = s * s * m.ll + n * n * w1 + 2.0 * (n * wx - s * m.xl - s * n * m.l);
            if e < least && s > 0.0 {
                (least, best) = (e, line);
            }
        }
        best
    }
}

/// `G` groups of `N` weights with a scale and a minimum each; codes are `0..=most`, both numbers
/// `0..=limit` times an F16.
#[inline(always)]
pub(super) fn affine<const G: usize, const N: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    most: u8,
    limit: u8,
    codes: &mut [u8; 256],
) -> Affine<G> {
    let (most, limit) = (f32::from(most), f32::from(limit));
    let group = |g: usize| (&x[N * g..N * g + N], &w[N * g..N * g + N]);
    let free: [Line; G] = core::array::from_fn(|g| Line::fit(group(g).0, group(g).1, most));
    let largest = free.iter().fold((0.0, 0.0), |(s, m): (f32, f32), l| {
        (
            if l.scale > s { l.scale } else { s },
            if l.min > m { l.min } else { m },
        )
    });
    let (mut d, mut dmin) = (half(largest.0 / limit), half(largest.1 / limit));
    let mut best = Affine {
        d,
        dmin,
        scales: [0; G],
        mins: [0; G],
    };
    let mut least = f32::INFINITY;
    for _ in 0..3 {
        let mut sum = 0.0;
        let mut fit = Affine {
            d,
            dmin,
            scales: [0; G],
            mins: [0; G],
        };
        let mut normal = Normal::default();
        for g in 0..G {
            let (x, w) = group(g);
            let ((s, m), line, e) = nearest_line(x, w, free[g], (d, dmin), (most, limit));
            (fit.scales[g], fit.mins[g]) = (s as u8, m as u8);
            sum += e;
            normal.add(x, w, (s, m), line.moments(x, w, most));
        }
        if sum < least {
            (least, best) = (sum, fit);
        }
        (d, dmin) = normal.solve();
    }
    for g in 0..G {
        let (scale, min) = (f32::from(best.scales[g]), f32::from(best.mins[g]));
        let line = Line {
            scale: from_f16(best.d) * scale,
            min: from_f16(best.dmin) * min,
        };
        let inverse = invert(line.scale);
        for (x, c) in group(g).0.iter().zip(&mut codes[N * g..N * g + N]) {
            *c = round(clamp((x + line.min) * inverse, 0.0, most)) as u8;
        }
    }
    best
}

/// Of the integer scales and minimums around `free` those of least error: the integers, the line
/// they stand for, its error.
#[inline(always)]
fn nearest_line(
    x: &[f32],
    w: &[f32],
    free: Line,
    (d, dmin): (u16, u16),
    (most, limit): (f32, f32),
) -> ((f32, f32), Line, f32) {
    let (d, dmin) = (from_f16(d), from_f16(dmin));
    let middle = |v: f32, d: f32| round(clamp(v * invert(d), 0.0, limit));
    let (s0, m0) = (middle(free.scale, d), middle(free.min, dmin));
    let mut best = ((0.0, 0.0), free, f32::INFINITY);
    for ds in [0.0, -1.0, 1.0] {
        for dm in [0.0, -1.0, 1.0] {
            let (s, m) = (clamp(s0 + ds, 0.0, limit), clamp(m0 + dm, 0.0, limit));
            let line = Line {
                scale: d * s,
                min: dmin * m,
            };
            let e = line.error(x, w, most);
            if e < best.2 {
                best = ((s, m), line, e);
            }
        }
    }
    best
}

/// Normal equations of the two F16 of a super-block for given codes: `x ~ d (s l) - dmin m`.
#[derive(Default)]
struct Normal {
    aa: f32,
    ab: f32,
    bb: f32,
    ax: f32,
    bx: f32,
}

impl Normal {
    #[inline(always)]
    fn add(&mut self, x: &[f32], w: &[f32], (s, m): (f32, f32), sums: Moments) {
        let (mut wx, mut w1) = (Sum::new(), Sum::new());
        for (x, w) in x
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(w.as_chunks::<LANES>().0)
        {
            for j in 0..LANES {
                wx.0[j] += w[j] * x[j];
                w1.0[j] += w[j];
            }
        }
        self.aa += s * s * sums.ll;
        self.ab -= s * m * sums.l;
        self.bb += m * m * w1.total();
        self.ax += s * sums.xl;
        self.bx -= m * wx.total();
    }

    /// Scale and scale of the minimums; neither is negative.
    #[inline(always)]
    fn solve(&self) -> (u16, u16) {
        let det = self.aa * self.bb - self.ab * self.ab;
        let d = (self.ax * self.bb - self.bx * self.ab) / det;
        let dmin = (self.aa * self.bx - self.ab * self.ax) / det;
        if det > 0.0 && d > 0.0 && dmin >= 0.0 {
            (half(d), half(dmin))
        } else {
            (half(clamp(self.ax * invert(self.aa), 0.0, 65504.0)), 0)
        }
    }
}
