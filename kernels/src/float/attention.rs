//! Attention of a group of query heads over one KV head, in blocks with a running softmax.
//!
//! ```text
//! for each block of BLOCK positions:
//!     s = q k^T                      rows x BLOCK
//!     m' = max(m, max s)             running maximum per row
//!     p = e^(s - m'), c = e^(m - m')
//!     l = l c + sum p,  o = o c + p v
//! out = o / l
//! ```
//! (online softmax, arXiv 1805.02867.) Differences: all query heads that share the KV head and a
//! tile of tokens form one set of rows, so that a block of the cache is read and widened once;
//! with many rows the keys are transposed and both products are small matrix products.

use half::f16;

use super::{FloatIsa, LANES, Plain, exp};
use crate::isa::Isa;
use crate::mat::MatMut;
use crate::ops::unroll;

/// Positions per block; blocks start at multiples of it, whatever the batch.
const BLOCK: usize = 64;
/// From this many query rows on, keys are transposed and multiplied as a matrix.
const MATRIX_ROWS: usize = 6;

/// Element type of the KV cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvType {
    /// 4 bytes per element.
    F32,
    /// 2 bytes per element.
    F16,
}

/// Keys or values of one KV head: `[positions, head_size]`.
#[derive(Clone, Copy)]
pub enum KvView<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
}

impl KvView<'_> {
    /// Widens positions `from..to` into `out`, rows padded with zeros to `stride`.
    #[inline(always)]
    fn widen<I: Isa>(
        &self,
        isa: I,
        from: usize,
        to: usize,
        size: usize,
        stride: usize,
        out: &mut [f32],
    ) {
        for (j, row) in (from..to).zip(out.chunks_exact_mut(stride)) {
            let range = j * size..(j + 1) * size;
            match self {
                KvView::F32(v) => row[..size].copy_from_slice(&v[range]),
                KvView::F16(v) => {
                    let (wide, tail) = v[range].as_chunks::<LANES>();
                    let (to, rest) = row.as_chunks_mut::<LANES>();
                    for (o, x) in to.iter_mut().zip(wide) {
                        // SAFETY: both are arrays of 16 elements.
                        unsafe {
                            let lanes = isa.load_lanes_f16(x.as_ptr().cast());
                            isa.store_lanes(o.as_mut_ptr(), lanes);
                        }
                    }
                    let rest = to[wide.len()..].as_flattened_mut().iter_mut().chain(rest);
                    for (o, x) in rest.zip(tail) {
                        *o = x.to_f32();
                    }
                }
            }
            row[size..].fill(0.0);
        }
    }
}

/// What a call of [`crate::Kernels::attend`] computes.
#[derive(Clone, Copy)]
pub struct AttnQuery<'a> {
    /// Queries of the batch, `[tokens, stride]`.
    pub q: &'a [f32],
    /// Floats from one token's queries to the next one's.
    pub stride: usize,
    /// First column of the group inside a token's queries.
    pub column: usize,
    /// Query heads of the group.
    pub heads: usize,
    /// Elements of a head.
    pub head_size: usize,
    /// First token of the tile and one past its last.
    pub tokens: (usize, usize),
    /// Position of token 0 of the batch.
    pub first_position: usize,
    /// Cached positions to look at; each token still sees none after its own.
    pub positions: (usize, usize),
    /// A token sees its own and the `window - 1` positions before.
    pub window: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// Buffers of one thread; they grow to the largest tile once.
#[derive(Default)]
pub struct AttnScratch {
    floats: Vec<f32>,
    /// `(max, sum)` of the last tile's softmax per row, in the order token, head.
    pub stats: Vec<(f32, f32)>,
}

/// Attends one tile. `out`: `[tokens, heads * head_size]`; the softmax's `(max, sum)` per row stay in
/// `scratch.stats`. A row that sees no position gets zeros and a sum of zero.
#[inline(always)]
pub(crate) fn attend<I: Isa, F: FloatIsa>(
    isa: I,
    a: AttnQuery<'_>,
    k: KvView<'_>,
    v: KvView<'_>,
    mut out: MatMut<'_>,
    scratch: &mut AttnScratch,
) {
    let (d, dp) = (a.head_size, a.head_size.next_multiple_of(LANES));
    let n_tokens = a.tokens.1 - a.tokens.0;
    let rows = n_tokens * a.heads;
    assert!(
        out.rows() == n_tokens && out.cols() == a.heads * d,
        "attend: shapes differ"
    );
    let sizes = [
        rows * dp,
        rows * dp,
        rows * BLOCK,
        BLOCK * dp,
        BLOCK * dp,
        rows,
    ];
    let AttnScratch { floats, stats } = scratch;
    floats.resize(sizes.iter().sum::<usize>().max(floats.len()), 0.0);
    stats.clear();
    stats.resize(rows, (f32::NEG_INFINITY, 0.0));
    let (qs, rest) = floats.split_at_mut(sizes[0]);
    let (acc, rest) = rest.split_at_mut(sizes[1]);
    let (scores, rest) = rest.split_at_mut(sizes[2]);
    let (kv, rest) = rest.split_at_mut(sizes[3]);
    let (kt, rest) = rest.split_at_mut(sizes[4]);
    let factor = &mut rest[..sizes[5]];
    for (r, row) in qs.chunks_exact_mut(dp).enumerate() {
        let at = (a.tokens.0 + r / a.heads) * a.stride + a.column + r % a.heads * d;
        for (x, q) in row.iter_mut().zip(&a.q[at..at + d]) {
            *x = q * a.scale;
        }
        row[d..].fill(0.0);
    }
    acc.fill(0.0);

    // What the first token of the tile sees from, and the last one up to.
    let sees = |token: usize| {
        let p = a.first_position + token;
        (
            (p + 1).saturating_sub(a.window).max(a.positions.0),
            (p + 1).min(a.positions.1),
        )
    };
    let (from, to) = (sees(a.tokens.0).0, sees(a.tokens.1 - 1).1);
    let mut start = from / BLOCK * BLOCK;
    while start < to {
        let (lo, hi) = (start.max(from), (start + BLOCK).min(to));
        let n = hi - lo;
        k.widen(isa, lo, hi, d, dp, kv);
        if rows >= MATRIX_ROWS {
            transpose(kv, n, dp, kt);
            scores.fill(0.0);
            product(isa, qs, dp, kt, BLOCK, scores, BLOCK);
        } else {
            for (q, s) in qs.chunks_exact(dp).zip(scores.chunks_exact_mut(BLOCK)) {
                for (key, s) in kv.chunks_exact(dp).zip(&mut s[..n]) {
                    *s = dot(isa, q, key);
                }
            }
        }
        for r in 0..rows {
            let (first, end) = sees(a.tokens.0 + r / a.heads);
            let s = &mut scores[r * BLOCK..(r + 1) * BLOCK];
            for (j, s) in s.iter_mut().enumerate() {
                if j >= n || lo + j < first || lo + j >= end {
                    *s = f32::NEG_INFINITY;
                }
            }
            factor[r] = soften::<F>(s, &mut stats[r]);
        }
        for (row, c) in acc.chunks_exact_mut(dp).zip(factor.iter()) {
            if *c != 1.0 {
                row.iter_mut().for_each(|x| *x *= c);
            }
        }
        v.widen(isa, lo, hi, d, dp, kv);
        product(isa, scores, BLOCK, &kv[..n * dp], dp, acc, dp);
        start += BLOCK;
    }
    for (r, row) in acc.chunks_exact(dp).enumerate() {
        let inverse = if stats[r].1 > 0.0 {
            1.0 / stats[r].1
        } else {
            stats[r].1
        };
        let at = r % a.heads * d;
        for (o, x) in out.row_mut(r / a.heads)[at..at + d].iter_mut().zip(row) {
            *o = x * inverse;
        }
    }
}

/// Turns scores into weights under the new running maximum; returns the factor for what was summed before.
#[inline(always)]
fn soften<F: FloatIsa>(s: &mut [f32], stat: &mut (f32, f32)) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for c in s.chunks_exact(LANES) {
        for i in 0..LANES {
            // Keeps NaN out of the maximum; the sum below carries it to the output.
            lanes[i] = if c[i] > lanes[i] { c[i] } else { lanes[i] };
        }
    }
    let mut max = stat.0;
    for l in lanes {
        max = if l > max { l } else { max };
    }
    if max == f32::NEG_INFINITY && !s.iter().any(|x| x.is_nan()) {
        s.fill(0.0);
        return 1.0;
    }
    let mut sums = [0f32; LANES];
    for c in s.chunks_exact_mut(LANES) {
        for i in 0..LANES {
            c[i] = exp::<F>(c[i] - max);
            sums[i] += c[i];
        }
    }
    let factor = if stat.0 == f32::NEG_INFINITY {
        0.0
    } else {
        exp::<F>(stat.0 - max)
    };
    *stat = (max, stat.1 * factor + super::reduce(sums));
    factor
}

/// `[n, d]` to `[d, BLOCK]`; columns past `n` are zero.
#[inline(always)]
fn transpose(x: &[f32], n: usize, d: usize, out: &mut [f32]) {
    for (c, column) in out.chunks_exact_mut(BLOCK).enumerate().take(d) {
        for (j, o) in column[..n].iter_mut().enumerate() {
            *o = x[j * d + c];
        }
        column[n..].fill(0.0);
    }
}

/// Dot product of two rows, a multiple of `LANES` long.
#[inline(always)]
fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = isa.zero_lanes();
    for (x, y) in a
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(b.as_chunks::<LANES>().0)
    {
        // SAFETY: both are arrays of 16 floats.
        unsafe {
            acc = isa.fma_lanes(acc, isa.load_lanes(x.as_ptr()), isa.load_lanes(y.as_ptr()));
        }
    }
    isa.reduce(acc, isa.zero_eight())
}

/// `c += a b`: a `[rows, lda]`, b `[k, n]` with n a multiple of `LANES`, c `[rows, ldc]`; k is the
/// number of rows of b.
#[inline(always)]
fn product<I: Isa>(isa: I, a: &[f32], lda: usize, b: &[f32], n: usize, c: &mut [f32], ldc: usize) {
    let mut tiles = a.chunks_exact(6 * lda).zip(c.chunks_exact_mut(6 * ldc));
    for (a, c) in tiles.by_ref() {
        tile::<I, 6>(isa, a, lda, b, n, c, ldc);
    }
    let done = a.len() / (6 * lda) * 6;
    let (a, c) = (&a[done * lda..], &mut c[done * ldc..]);
    match a.len() / lda {
        1 => tile::<I, 1>(isa, a, lda, b, n, c, ldc),
        2 => tile::<I, 2>(isa, a, lda, b, n, c, ldc),
        3 => tile::<I, 3>(isa, a, lda, b, n, c, ldc),
        4 => tile::<I, 4>(isa, a, lda, b, n, c, ldc),
        5 => tile::<I, 5>(isa, a, lda, b, n, c, ldc),
        _ => {}
    }
}

#[inline(always)]
fn tile<I: Isa, const R: usize>(
    isa: I,
    a: &[f32],
    lda: usize,
    b: &[f32],
    n: usize,
    c: &mut [f32],
    ldc: usize,
) {
    let k = b.len() / n;
    assert!(n.is_multiple_of(LANES) && LANES.is_multiple_of(I::ROWS) && k <= lda && n <= ldc);
    assert!(a.len() >= (R - 1) * lda + k && c.len() >= (R - 1) * ldc + n);
    for col in (0..n).step_by(I::ROWS) {
        // SAFETY: `col + ROWS <= n`; rows of `b` are `n` long and there are `k` of them; the asserts
        // bound row `R - 1` of `a` and of `c`.
        unsafe {
            let mut acc = [isa.zero_rows(); R];
            unroll!(r < R, max 8, {
                acc[r] = isa.load_rows(c.as_ptr().add(r * ldc + col));
            });
            let mut row = b.as_ptr().add(col);
            for i in 0..k {
                let v = isa.load_rows(row);
                unroll!(r < R, max 8, {
                    let x = isa.splat_row(a.as_ptr().add(r * lda + i).cast());
                    acc[r] = isa.fma_rows(acc[r], v, x);
                });
                row = row.wrapping_add(n);
            }
            unroll!(r < R, max 8, {
                isa.store_rows(c.as_mut_ptr().add(r * ldc + col), acc[r]);
            });
        }
    }
}

/// Joins what the pieces of a split position range gave for one head.
///
/// `pieces`: for each piece its normalised output `[head_size]` and its `(max, sum)`.
pub fn merge_partials<'a>(
    pieces: impl Iterator<Item = (&'a [f32], (f32, f32))> + Clone,
    out: &mut [f32],
) {
    let max = pieces
        .clone()
        .fold(f32::NEG_INFINITY, |m, (_, s)| if s.0 > m { s.0 } else { m });
    let mut total = 0.0;
    out.fill(0.0);
    for (x, (m, sum)) in pieces {
        let w = if m == f32::NEG_INFINITY {
            sum
        } else {
            sum * exp::<Plain>(m - max)
        };
        total += w;
        for (o, v) in out.iter_mut().zip(x) {
            *o += w * v;
        }
    }
    let inverse = 1.0 / total;
    out.iter_mut().for_each(|o| *o *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernels, Level};

    /// Attention in f64, from the definition.
    fn reference(a: &AttnQuery<'_>, k: &[f32], v: &[f32], token: usize, head: usize) -> Vec<f64> {
        let d = a.head_size;
        let p = a.first_position + token;
        let q = &a.q[token * a.stride + a.column + head * d..][..d];
        let seen: Vec<usize> = (a.positions.0..a.positions.1.min(p + 1))
            .filter(|j| p - j < a.window)
            .collect();
        let dot = |j: usize| {
            (0..d)
                .map(|i| f64::from(q[i] * a.scale) * f64::from(k[j * d + i]))
                .sum::<f64>()
        };
        let scores: Vec<f64> = seen.iter().map(|j| dot(*j)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..d)
            .map(|i| {
                seen.iter()
                    .zip(&weights)
                    .map(|(j, w)| w * f64::from(v[j * d + i]))
                    .sum::<f64>()
                    / total
            })
            .collect()
    }

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// One case at every level and both cache types; returns the largest error.
    fn worst_error(d: usize, heads: usize, tokens: usize, first: usize, window: usize) -> f64 {
        let end = first + tokens;
        let (k, v) = (numbers(end * d, 1), numbers(end * d, 2));
        let (k16, v16): (Vec<f16>, Vec<f16>) = (
            k.iter().map(|x| f16::from_f32(*x)).collect(),
            v.iter().map(|x| f16::from_f32(*x)).collect(),
        );
        let stride = heads * d + 5;
        let q = numbers(tokens * stride, 3);
        let a = AttnQuery {
            q: &q,
            stride,
            column: 3,
            heads,
            head_size: d,
            tokens: (0, tokens),
            first_position: first,
            positions: (0, end),
            window,
            scale: 2.0,
        };
        let mut worst = 0f64;
        for half in [false, true] {
            let (kv, vv) = if half {
                (KvView::F16(&k16), KvView::F16(&v16))
            } else {
                (KvView::F32(&k), KvView::F32(&v))
            };
            let mut scratch = AttnScratch::default();
            for kernels in Level::available()
                .iter()
                .filter_map(|l| Kernels::for_level(*l))
            {
                let mut out = vec![0f32; tokens * heads * d];
                let view = MatMut::new(&mut out, tokens, heads * d, heads * d);
                kernels.attend(a, kv, vv, view, &mut scratch);
                let rounded = |x: &[f32]| -> Vec<f32> {
                    x.iter().map(|x| f16::from_f32(*x).to_f32()).collect()
                };
                let (kr, vr) = if half {
                    (rounded(&k), rounded(&v))
                } else {
                    (k.clone(), v.clone())
                };
                for t in 0..tokens {
                    for h in 0..heads {
                        let want = reference(&a, &kr, &vr, t, h);
                        for i in 0..d {
                            worst = worst
                                .max((want[i] - f64::from(out[(t * heads + h) * d + i])).abs());
                        }
                    }
                }
            }
        }
        worst
    }

    #[test]
    fn equals_the_definition() {
        for (d, heads, tokens, first, window) in [
            (16, 1, 1, 0, usize::MAX),
            (16, 3, 1, 200, usize::MAX),
            (20, 2, 7, 60, 9),
            (64, 3, 33, 100, usize::MAX),
            (40, 4, 16, 500, 70),
            (80, 8, 5, 63, 1),
            (128, 1, 130, 0, usize::MAX),
        ] {
            let worst = worst_error(d, heads, tokens, first, window);
            assert!(
                worst < 1e-5,
                "d {d} heads {heads} tokens {tokens} first {first} window {window}: {worst}"
            );
        }
    }

    #[test]
    fn pieces_merge_to_the_whole() {
        let (d, heads, end) = (32, 2, 700);
        let (k, v, q) = (
            numbers(end * d, 4),
            numbers(end * d, 5),
            numbers(heads * d, 6),
        );
        let a = AttnQuery {
            q: &q,
            stride: heads * d,
            column: 0,
            heads,
            head_size: d,
            tokens: (0, 1),
            first_position: end - 1,
            positions: (0, end),
            window: usize::MAX,
            scale: 1.0,
        };
        let mut scratch = AttnScratch::default();
        let mut run = |positions| {
            let mut out = vec![0f32; heads * d];
            let view = MatMut::new(&mut out, 1, heads * d, heads * d);
            let kernels = Kernels::best().expect("a level");
            kernels.attend(
                AttnQuery { positions, ..a },
                KvView::F32(&k),
                KvView::F32(&v),
                view,
                &mut scratch,
            );
            (out, scratch.stats.clone())
        };
        let (whole, _) = run((0, end));
        let pieces = [run((0, 256)), run((256, 512)), run((512, end))];
        for h in 0..heads {
            let mut merged = vec![0f32; d];
            merge_partials(
                pieces
                    .iter()
                    .map(|(out, stats)| (&out[h * d..(h + 1) * d], stats[h])),
                &mut merged,
            );
            for (m, w) in merged.iter().zip(&whole[h * d..]) {
                assert!((m - w).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn nan_reaches_the_output() {
        let (d, n) = (16, 3);
        let mut k = numbers(n * d, 7);
        k[d + 2] = f32::NAN;
        let (v, q) = (numbers(n * d, 8), numbers(d, 9));
        let a = AttnQuery {
            q: &q,
            stride: d,
            column: 0,
            heads: 1,
            head_size: d,
            tokens: (0, 1),
            first_position: n - 1,
            positions: (0, n),
            window: usize::MAX,
            scale: 1.0,
        };
        let mut out = vec![0f32; d];
        let view = MatMut::new(&mut out, 1, d, d);
        let kernels = Kernels::best().expect("a level");
        kernels.attend(
            a,
            KvView::F32(&k),
            KvView::F32(&v),
            view,
            &mut AttnScratch::default(),
        );
        assert!(out.iter().all(|x| x.is_nan()));
    }
}
