//! Attention of a group of query heads over one KV head, in blocks with a running softmax.
//!
//! ```text
//! O = 0, M = -inf, L = 0
//! for each piece of SPLIT positions:
//!     s = q k^T                          rows x SPLIT, by blocks of the cache; capped where asked for
//!     m = max s, p = e^(s - m), l = sum p
//!     o = p v                            by blocks again
//!     M' = max(M, m);  O, L = (O, L) e^(M - M') + (o, l) e^(m - M')
//! out = O / L
//! ```
//! (online softmax, arXiv 1805.02867.) All query heads that share the KV head and a tile of tokens
//! form one set of rows, so that a block of the cache is read once for all of them.
//!
//! **A row's result depends on its query and the positions it sees, on nothing else**: pieces and
//! blocks start at fixed positions, every sum runs in the order of the positions (or of the head's
//! elements), and a position outside a row's range has the weight 0. So a token gives the same bits
//! alone, in a small batch, in a prompt, with any number of threads, and in any pages.

use core::ops::Range;

use super::kv::{BLOCK, KvHead, KvShape, KvType};
use super::product::{self, Product, QueryGroup};
use super::{FloatIsa, LANES, exp};
use crate::isa::Isa;
use crate::layout::GROUP;
use crate::mat::MatMut;
use crate::ops::fill::quantize_group;

/// Positions of a piece: what one softmax, and one unit of a long decode attention, covers.
pub const SPLIT: usize = 256;
/// From this many query rows on, a narrow block is widened to F32 once for all of them.
const WIDEN_ROWS: usize = 13;

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
    /// `c`: scaled scores `s` become `c tanh(s / c)`; positive.
    pub softcap: Option<f32>,
}

impl AttnQuery<'_> {
    fn rows(&self) -> usize {
        (self.tokens.1 - self.tokens.0) * self.heads
    }

    /// Positions that token `token` of the batch sees.
    fn sees(&self, token: usize) -> Range<usize> {
        let p = self.first_position + token;
        (p + 1).saturating_sub(self.window).max(self.positions.0)..(p + 1).min(self.positions.1)
    }

    /// Floats of this tile's partial result.
    pub fn partial_len(&self, shape: KvShape) -> usize {
        self.rows() * partial_row(shape)
    }
}

/// A row of a partial result: the unnormalised sums `[width]`, the maximum, the sum of the weights,
/// and padding.
fn partial_row(shape: KvShape) -> usize {
    shape.width() + LANES
}

/// Buffers of one thread; they grow to the largest tile once.
#[derive(Default)]
pub struct AttnScratch {
    floats: Vec<f32>,
    groups: Vec<QueryGroup>,
    pub(crate) total: Vec<f32>,
}

/// The parts of the scratch memory.
struct Work<'a> {
    /// Scaled queries `[rows][width]`.
    q: &'a mut [f32],
    /// The same for Q8_0: `[rows][width / 32]`.
    groups: &'a mut [QueryGroup],
    /// `[rows][SPLIT]`
    scores: &'a mut [f32],
    /// Scores times the scales of a group of values: `[rows][BLOCK]`.
    scaled: &'a mut [f32],
    /// The partial result of a piece.
    piece: &'a mut [f32],
    /// A block of keys or values, widened.
    wide: &'a mut [f32],
}

impl AttnScratch {
    fn parts(&mut self, rows: usize, shape: KvShape) -> Work<'_> {
        let (width, row) = (shape.width(), partial_row(shape));
        let sizes = [rows * width, rows * SPLIT, rows * BLOCK, rows * row];
        let len = sizes.iter().sum::<usize>() + BLOCK * width + LANES;
        if self.floats.len() < len {
            self.floats.resize(len, 0.0);
        }
        let groups = match shape.kv() {
            KvType::Q8_0 => rows * width / GROUP,
            KvType::F32 | KvType::F16 => 0,
        };
        self.groups.resize(groups, QueryGroup::default());
        let skip = self.floats.as_ptr().align_offset(64).min(LANES);
        let (wide, rest) = self.floats[skip..].split_at_mut(BLOCK * width);
        let (q, rest) = rest.split_at_mut(sizes[0]);
        let (scores, rest) = rest.split_at_mut(sizes[1]);
        let (scaled, rest) = rest.split_at_mut(sizes[2]);
        Work {
            q,
            groups: &mut self.groups,
            scores,
            scaled,
            piece: &mut rest[..sizes[3]],
            wide,
        }
    }
}

/// Attends one tile; writes its partial result.
#[inline(always)]
pub(crate) fn attend<I: Isa, F: FloatIsa>(
    isa: I,
    a: &AttnQuery<'_>,
    kv: KvHead<'_>,
    partial: &mut [f32],
    scratch: &mut AttnScratch,
) {
    let shape = kv.shape;
    assert!(
        a.tokens.0 < a.tokens.1 && partial.len() == a.partial_len(shape),
        "attend: shapes differ"
    );
    let (width, row) = (shape.width(), partial_row(shape));
    let mut w = scratch.parts(a.rows(), shape);
    load_queries(isa, a, shape, &mut w);
    clear(partial, row);
    // What the first token of the tile sees from, and the last one up to.
    let (from, to) = (a.sees(a.tokens.0).start, a.sees(a.tokens.1 - 1).end);
    for piece in (from / SPLIT * SPLIT..to).step_by(SPLIT) {
        let (lo, hi) = (from.max(piece), to.min(piece + SPLIT));
        let blocks = (lo / BLOCK * BLOCK..hi).step_by(BLOCK);
        for start in blocks.clone() {
            score(isa, &kv, start, &mut w);
        }
        clear(w.piece, row);
        for (r, s) in w.scores.as_chunks_mut::<SPLIT>().0.iter_mut().enumerate() {
            let sees = a.sees(a.tokens.0 + r / a.heads);
            let seen = sees.start.max(piece)..sees.end.min(hi).max(piece);
            let s = &mut s[..hi.next_multiple_of(BLOCK) - piece];
            let seen = seen.start - piece..seen.end - piece;
            if let Some(c) = a.softcap
                && !seen.is_empty()
            {
                cap::<F>(&mut s[seen.clone()], c);
            }
            let (max, sum) = softmax::<I, F>(isa, s, seen);
            w.piece[r * row + width] = max;
            w.piece[r * row + width + 1] = sum;
        }
        for start in blocks {
            let range = lo.max(start) - start..hi.min(start + BLOCK) - start;
            apply_weights(isa, &kv, start, range, &mut w);
        }
        merge::<F>(shape, partial, w.piece);
    }
}

/// The partial result of having seen nothing.
fn clear(partial: &mut [f32], row: usize) {
    partial.fill(0.0);
    for row in partial.chunks_exact_mut(row) {
        row[row.len() - LANES] = f32::NEG_INFINITY;
    }
}

#[inline(always)]
fn load_queries<I: Isa>(isa: I, a: &AttnQuery<'_>, shape: KvShape, w: &mut Work<'_>) {
    let (d, width) = (shape.head_size(), shape.width());
    for (r, row) in w.q.chunks_exact_mut(width).enumerate() {
        let at = (a.tokens.0 + r / a.heads) * a.stride + a.column + r % a.heads * d;
        for (x, q) in row.iter_mut().zip(&a.q[at..at + d]) {
            *x = q * a.scale;
        }
        row[d..].fill(0.0);
    }
    let groups = w.q.as_chunks::<GROUP>().0;
    for (x, group) in groups.iter().zip(w.groups.iter_mut()) {
        let q = quantize_group(isa, x);
        let sum: i32 = q.sums.iter().sum();
        *group = QueryGroup {
            codes: q.codes,
            scale: q.scale,
            start: if I::UNSIGNED_WEIGHTS { -128 * sum } else { 0 },
        };
    }
}

/// `scores = q k^T` for the block that starts at position `start`.
#[inline(always)]
fn score<I: Isa>(isa: I, kv: &KvHead<'_>, start: usize, w: &mut Work<'_>) {
    let shape = kv.shape;
    let (d, width) = (shape.head_size(), shape.width());
    let rows = w.scores.len() / SPLIT;
    let block = kv.keys(start);
    let scores = &mut w.scores[start % SPLIT..];
    if shape.kv() == KvType::Q8_0 {
        let (scales, codes) = block.split_at(shape.scale_bytes());
        let scales = bytemuck::cast_slice(scales);
        return product::codes(isa, w.groups, scales, codes, scores, SPLIT);
    }
    let p = Product {
        rows,
        a: w.q,
        lda: width,
        k: 0..d,
        c: scores,
        ldc: SPLIT,
        n: BLOCK,
        add: false,
    };
    multiply(isa, shape.kv(), block, BLOCK, w.wide, p);
}

/// `piece += scores v` for the positions `range` of the block that starts at `start`.
#[inline(always)]
fn apply_weights<I: Isa>(
    isa: I,
    kv: &KvHead<'_>,
    start: usize,
    range: Range<usize>,
    w: &mut Work<'_>,
) {
    let shape = kv.shape;
    let (width, row) = (shape.width(), partial_row(shape));
    let rows = w.scores.len() / SPLIT;
    let block = kv.values(start);
    let column = start % SPLIT;
    if shape.kv() != KvType::Q8_0 {
        let p = Product {
            rows,
            a: &w.scores[column..],
            lda: SPLIT,
            k: range,
            c: w.piece,
            ldc: row,
            n: width,
            add: true,
        };
        return multiply(isa, shape.kv(), block, width, w.wide, p);
    }
    let (scales, codes) = block.split_at(shape.scale_bytes());
    let scales: &[f32] = bytemuck::cast_slice(scales);
    let many = rows >= WIDEN_ROWS;
    if many {
        product::widen::<I, product::Codes>(isa, codes, w.wide);
    }
    for (g, scales) in scales.as_chunks::<BLOCK>().0.iter().enumerate() {
        let all = w.scores.chunks_exact(SPLIT);
        for (to, s) in w.scaled.as_chunks_mut::<BLOCK>().0.iter_mut().zip(all) {
            for ((to, s), scale) in to.iter_mut().zip(&s[column..]).zip(scales) {
                *to = s * scale;
            }
        }
        let p = Product {
            rows,
            a: w.scaled,
            lda: BLOCK,
            k: range.clone(),
            c: &mut w.piece[g * GROUP..],
            ldc: row,
            n: GROUP,
            add: true,
        };
        if many {
            let wide: &[u8] = bytemuck::cast_slice(&w.wide[g * GROUP..]);
            product::product::<I, product::Floats>(isa, wide, width, p);
        } else {
            product::product::<I, product::Codes>(isa, &codes[g * GROUP..], width, p);
        }
    }
}

/// A product with a block of floats of either width: `[..][ldb]`.
#[inline(always)]
fn multiply<I: Isa>(
    isa: I,
    kv: KvType,
    block: &[u8],
    ldb: usize,
    wide: &mut [f32],
    p: Product<'_>,
) {
    if kv == KvType::F32 {
        product::product::<I, product::Floats>(isa, block, ldb, p);
    } else if p.rows < WIDEN_ROWS {
        product::product::<I, product::Halves>(isa, block, ldb, p);
    } else {
        product::widen::<I, product::Halves>(isa, block, wide);
        product::product::<I, product::Floats>(isa, bytemuck::cast_slice(wide), ldb, p);
    }
}

/// `c tanh(s / c)` of each score, relative error below 6e-7: for `|s| < c / 4`, as most are, the Taylor polynomial of
/// degree 9, else `c - 2c / (1 + e^(2s / c))`.
#[inline(always)]
fn cap<F: FloatIsa>(scores: &mut [f32], c: f32) {
    let inverse = 1.0 / c;
    for s in scores {
        let z = *s * inverse;
        let w = z * z;
        let mut p = 62.0 / 2835.0;
        for term in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
            p = F::fma(p, w, term);
        }
        let near = F::fma(*s * w, p, *s);
        let far = c - 2.0 * c / (1.0 + exp::<F>(2.0 * z));
        *s = if z.abs() < 0.25 { near } else { far };
    }
}

/// Turns the scores of a row into weights under their maximum; returns it and the sum of the
/// weights. Outside `seen` weights are zero. `s` ends with a whole vector.
#[inline(always)]
fn softmax<I: Isa, F: FloatIsa>(isa: I, s: &mut [f32], seen: Range<usize>) -> (f32, f32) {
    if seen.is_empty() {
        s.fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    let whole = seen.start / LANES * LANES..seen.end.next_multiple_of(LANES);
    s[..whole.start].fill(0.0);
    s[whole.start..seen.start].fill(f32::NEG_INFINITY);
    s[seen.end..whole.end].fill(f32::NEG_INFINITY);
    s[whole.end..].fill(0.0);
    let (chunks, _) = s[whole].as_chunks_mut::<LANES>();
    // SAFETY: every load and store is of an array of 16 floats.
    unsafe {
        let mut most = isa.splat_lanes(&f32::NEG_INFINITY);
        for c in chunks.iter() {
            // Keeps NaN out of the maximum; the sum below carries it to the output.
            most = isa.larger_lanes(most, isa.load_lanes(c.as_ptr()));
        }
        let mut lanes = [0f32; LANES];
        isa.store_lanes(lanes.as_mut_ptr(), most);
        let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let (mut sums, one) = (isa.zero_lanes(), isa.splat_lanes(&1.0));
        for c in chunks {
            // A loop, not `map`: closures are compiled without the features of the level when they are
            // not inlined, and then every multiply-add is a call.
            for x in c.iter_mut() {
                *x = exp::<F>(*x - max);
            }
            sums = isa.fma_lanes(sums, isa.load_lanes(c.as_ptr()), one);
        }
        (max, isa.reduce(sums, isa.zero_eight()))
    }
}

/// Joins the partial result of a later piece to `total`.
#[inline(always)]
pub(crate) fn merge<F: FloatIsa>(shape: KvShape, total: &mut [f32], piece: &[f32]) {
    assert_eq!(total.len(), piece.len(), "merge: shapes differ");
    let (width, row) = (shape.width(), partial_row(shape));
    for (total, piece) in total.chunks_exact_mut(row).zip(piece.chunks_exact(row)) {
        let (old, new) = (total[width], piece[width]);
        let saw_nothing = |m: f32, sum: f32| m == f32::NEG_INFINITY && sum == 0.0;
        if saw_nothing(new, piece[width + 1]) {
            continue;
        }
        if saw_nothing(old, total[width + 1]) {
            total.copy_from_slice(piece);
            continue;
        }
        let max = if new > old { new } else { old };
        let factor = |m: f32| if m == max { 1.0 } else { exp::<F>(m - max) };
        let (a, b) = (factor(old), factor(new));
        for (o, x) in total[..width].iter_mut().zip(&piece[..width]) {
            *o = F::fma(*o, a, x * b);
        }
        total[width] = max;
        total[width + 1] = F::fma(total[width + 1], a, piece[width + 1] * b);
    }
}

/// Normalises a partial result into `out`: `[tokens, heads * head_size]`. A row that saw nothing
/// gets zeros.
pub(crate) fn finish(shape: KvShape, partial: &[f32], mut out: MatMut<'_>) {
    let (d, width, row) = (shape.head_size(), shape.width(), partial_row(shape));
    let heads = out.cols() / d;
    assert!(
        out.cols() == heads * d && partial.len() == out.rows() * heads * row,
        "attend: shapes differ"
    );
    for (r, partial) in partial.chunks_exact(row).enumerate() {
        let sum = partial[width + 1];
        let inverse = if sum > 0.0 { 1.0 / sum } else { sum };
        let at = r % heads * d;
        let to = &mut out.row_mut(r / heads)[at..at + d];
        for (o, x) in to.iter_mut().zip(partial) {
            *o = x * inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fused, Plain};
    use super::*;

    #[test]
    fn capped_scores_match_f64() {
        for c in [0.5f32, 50.0] {
            let s: Vec<f32> = (-4000..4000).map(|i| i as f32 * 1e-3 * c).collect();
            let (mut fused, mut plain) = (s.clone(), s.clone());
            cap::<Fused>(&mut fused, c);
            cap::<Plain>(&mut plain, c);
            for (i, s) in s.iter().enumerate() {
                let want = f64::from(c) * (f64::from(*s) / f64::from(c)).tanh();
                for got in [fused[i], plain[i]] {
                    assert!(
                        (f64::from(got) - want).abs() <= 6e-7 * want.abs(),
                        "{s}: {got} {want}"
                    );
                }
            }
        }
        let mut odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        cap::<Plain>(&mut odd, 50.0);
        assert!(odd[0] == 50.0 && odd[1] == -50.0 && odd[2].is_nan());
    }
}
