//! A panel of integer weights times all tiles: one micro-kernel for every format.
//!
//! ```text
//! for each lane of groups, for each of its groups of 32 columns:
//!     ints[t] = -128 * sum of the token's codes        (or 0 if weights are signed)
//!     for each 4 columns: ints[t] += weights[rows][4] . codes[t][4]
//!     acc[t] += float(ints[t]) * token scale * row scales
//!     acc[t] += (token scale * token sum) * row minimums
//! out[t] = sum of the lanes, first to last
//! ```

use super::{MultiplyJob, unroll};
use crate::isa::Isa;
use crate::layout::INT_ROWS;
use crate::layout::{Deal, GROUP, INT_LANES, PanelGroup};

/// Calls `$body` with the constant `$t` equal to `$n`, for `$n` in `1..=$max`.
macro_rules! by_tokens {
    ($n:expr, $max:expr, $t:ident => $body:expr) => {
        crate::ops::multiply::by_tokens!(@ $n, $max, $t, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $n:expr, $max:expr, $t:ident, $body:expr, $($k:literal)*) => {
        match $n {
            $($k if const { $k <= $max } => { const $t: usize = $k; $body })*
            n => unreachable!("tile of {n} tokens"),
        }
    };
}
pub(crate) use by_tokens;

/// A place for the results of a tile when fewer rows exist than a panel has.
pub(crate) struct Room {
    values: [f32; 14 * 32],
    rows: usize,
    width: usize,
}

impl Room {
    #[inline(always)]
    pub fn new(rows: usize, width: usize) -> Self {
        Self {
            values: [0.0; 14 * 32],
            rows,
            width,
        }
    }

    /// Where a tile of `n` tokens is to be written, and its stride: the output itself, or a copy
    /// of it if the output has too few columns.
    ///
    /// # Safety
    /// `out` must be valid for `n <= 14` rows of `rows` values, `stride` apart.
    #[inline(always)]
    pub unsafe fn enter(&mut self, out: *mut f32, stride: usize, n: usize) -> (*mut f32, usize) {
        if self.rows == self.width {
            return (out, stride);
        }
        for t in 0..n {
            let to = &mut self.values[t * self.width..][..self.rows];
            // SAFETY: `MatMut::new` asserts the columns of every token, the slice is `rows` long.
            unsafe {
                core::ptr::copy_nonoverlapping(out.add(t * stride), to.as_mut_ptr(), self.rows)
            }
        }
        (self.values.as_mut_ptr(), self.width)
    }

    /// Copies the results back.
    ///
    /// # Safety
    /// As for `enter`.
    #[inline(always)]
    pub unsafe fn leave(&self, out: *mut f32, stride: usize, n: usize) {
        if self.rows == self.width {
            return;
        }
        for t in 0..n {
            let from = &self.values[t * self.width..][..self.rows];
            // SAFETY: `MatMut::new` asserts the columns of every token, the slice is `rows` long.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), out.add(t * stride), self.rows) }
        }
    }
}

/// A panel times one tile of `T` tokens.
///
/// # Safety
/// See [`MultiplyJob`]. `x` is the tile at the panel's first column; `out` has room for 16 values
/// per token, `stride` apart, and holds sums if the panel is not the first. With each group `fetched`
/// more bytes are asked for.
#[inline(always)]
unsafe fn tile<I: Isa, const T: usize, const SCALED: usize, const MINS: bool>(
    isa: I,
    job: &MultiplyJob,
    x: *const u8,
    out: *mut f32,
    stride: usize,
    fetched: usize,
) {
    let mut next = job.next;
    let deal = Deal::<INT_LANES>::new(job.cols / GROUP);
    for part in 0..INT_ROWS / I::ROWS {
        let row = part * I::ROWS;
        // SAFETY: `Panel::new` has made room for 16 rows of `cols` columns, `Room::enter` for 16
        // outputs of every token; the counts of all lanes add up to the groups of the tile.
        unsafe {
            let out = out.add(row);
            let mut x = x;
            let mut w = job.codes.add(row * 4);
            let mut scales = job.scales.add(row);
            let mut mins = job.mins.wrapping_add(row);
            // With 16 weights to a scale, those of the last 16 lie in a second plane.
            let plane = job.cols / GROUP * INT_ROWS;
            let mut totals = Totals::<I, T>::new(isa, job.first_col > 0, out, stride);
            for lane in 0..INT_LANES {
                let mut acc = [isa.zero_rows(); T];
                for _ in 0..deal.count(lane) {
                    isa.prefetch(next, fetched);
                    next = next.wrapping_add(fetched);
                    unroll!(part < 2, max 4, {
                        if part < GROUP / SCALED {
                            let ints = dots::<I, T, SCALED>(isa, w.add(part * 4 * 64), x, part);
                            let s = isa.load_rows(scales.add(part * plane));
                            unroll!(t < T, max 14, {
                                let dx = isa.splat_row(x.add(PanelGroup::scale(T) + 4 * t));
                                let v = isa.mul_rows(isa.to_floats(ints[t]), dx);
                                acc[t] = isa.fma_rows(acc[t], v, s);
                            });
                            if MINS {
                                let m = isa.load_rows(mins.add(part * plane));
                                unroll!(t < T, max 14, {
                                    let sum = sum::<I, SCALED>(isa, x.add(4 * t), T, part);
                                    acc[t] = isa.fma_rows(acc[t], m, sum);
                                });
                            }
                        }
                    });
                    scales = scales.add(INT_ROWS);
                    mins = mins.wrapping_add(INT_ROWS);
                    w = w.add(GROUP * INT_ROWS);
                    x = x.add(PanelGroup::bytes(T));
                }
                totals.add(isa, acc);
            }
            unroll!(t < T, max 14, { isa.store_rows(out.add(t * stride), totals.sums[t]); });
        }
    }
}

/// Sums over lanes: kept beside each other, because the rows of the output often lie a multiple of
/// 4096 bytes apart and would push each other out of the cache.
pub(crate) struct Totals<I: Isa, const T: usize> {
    pub sums: [I::RowFloats; T],
    begun: bool,
}

impl<I: Isa, const T: usize> Totals<I, T> {
    /// Begins with nothing, or with the sums at `out` if they are of earlier segments.
    ///
    /// # Safety
    /// `out` must be valid for a vector of rows of each token, `stride` apart.
    #[inline(always)]
    pub unsafe fn new(isa: I, begun: bool, out: *const f32, stride: usize) -> Self {
        let mut sums = [isa.zero_rows(); T];
        if begun {
            // SAFETY: `Room::enter` gives every token a whole panel of rows.
            unroll!(t < T, max 14, { sums[t] = unsafe { isa.load_rows(out.add(t * stride)) } });
        }
        Self { sums, begun }
    }

    /// Adds the sums of the next lane.
    #[inline(always)]
    pub fn add(&mut self, isa: I, lane: [I::RowFloats; T]) {
        if self.begun {
            unroll!(t < T, max 14, { self.sums[t] = isa.add_rows(self.sums[t], lane[t]) });
        } else {
            self.sums = lane;
            self.begun = true;
        }
    }
}

/// Scale times sum of the `SCALED` codes of part `part` of a group, of the token at `x`.
///
/// # Safety
/// As for [`tile`], for one group.
#[inline(always)]
unsafe fn sum<I: Isa, const SCALED: usize>(
    isa: I,
    x: *const u8,
    tokens: usize,
    part: usize,
) -> I::RowFloats {
    // SAFETY: `x` stays below `PanelGroup::bytes` of the group that the loop of `tile` is at.
    unsafe {
        let whole = isa.splat_row(x.add(PanelGroup::sum(tokens)));
        let low = isa.splat_row(x.add(PanelGroup::sum_low(tokens)));
        if SCALED == GROUP {
            whole
        } else if part == 0 {
            low
        } else {
            isa.sub_rows(whole, low)
        }
    }
}

/// Exact dot products of `SCALED` columns, part `part` of a group.
///
/// # Safety
/// As for [`tile`], for one group.
#[inline(always)]
unsafe fn dots<I: Isa, const T: usize, const SCALED: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    part: usize,
) -> [I::RowInts; T] {
    // SAFETY: `w` and `x` stay inside the group that the loop of `tile` is at.
    unsafe {
        let mut ints = [isa.zero_row_ints(); T];
        if I::UNSIGNED_WEIGHTS {
            unroll!(t < T, max 14, {
                let whole = x.add(PanelGroup::start(T) + 4 * t);
                let low = x.add(PanelGroup::start_low(T) + 4 * t);
                ints[t] = if SCALED == GROUP {
                    isa.splat_int(whole)
                } else if part == 0 {
                    isa.splat_int(low)
                } else {
                    isa.sub_row_ints(isa.splat_int(whole), isa.splat_int(low))
                };
            });
        }
        unroll!(k < 8, max 8, {
            if k < SCALED / 4 {
                let weights = isa.load_weights(w.add(k * 4 * INT_ROWS));
                let x = x.add((part * (SCALED / 4) + k) * 4 * T);
                unroll!(t < T, max 14, {
                    ints[t] = isa.dot_rows(ints[t], weights, x.add(4 * t));
                });
            }
        });
        ints
    }
}

/// A panel times all tiles of up to `MAX` tokens.
///
/// # Safety
/// See [`MultiplyJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn multiply<I: Isa, const MAX: usize, const SCALED: usize, const MINS: bool>(
    isa: I,
    job: &MultiplyJob,
) {
    let mut room = Room::new(job.rows, INT_ROWS);
    // The next panel comes into the cache while the last tile is multiplied, some lines with each group.
    let each = job
        .next_bytes
        .div_ceil(job.cols / GROUP * (INT_ROWS / I::ROWS))
        .next_multiple_of(64);
    for (i, first) in (0..job.tokens).step_by(job.tile_tokens).enumerate() {
        let n = job.tile_tokens.min(job.tokens - first);
        // SAFETY: tile `i` exists and has `n` tokens, stored without gaps; output rows
        // `first..first + n` exist.
        unsafe {
            let x = job
                .acts
                .add(i * job.tile_bytes + job.first_col / GROUP * PanelGroup::bytes(n));
            let out = job.out.add(first * job.stride);
            let (to, stride) = room.enter(out, job.stride, n);
            let fetched = if first + n == job.tokens { each } else { 0 };
            by_tokens!(n, MAX, T => tile::<I, T, SCALED, MINS>(isa, job, x, to, stride, fetched));
            room.leave(out, job.stride, n);
        }
    }
}
