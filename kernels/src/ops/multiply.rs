//! A panel of integer weights times all tiles: one loop for every format and every tile kernel.
//!
//! ```text
//! for each tile, for each lane of groups: acc = sums of the lane (`tile::Int8Tile::run`)
//! out[t] = sum of the lanes, first to last
//! ```

use super::tile::{Int8Tile, Run};
use super::{MultiplyJob, unroll};
use crate::isa::Isa;
use crate::layout::{Deal, GROUP, INT_LANES, INT_ROWS, PanelGroup};

/// Calls `$body` with the constant `$t` equal to `$n`, for `$n` in `1..=$max`.
macro_rules! by_tokens {
    ($n:expr, $max:expr, $t:ident => $body:expr) => {
        crate::ops::multiply::by_tokens!(@ $n, $max, $t, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
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
    values: [f32; 16 * 32],
    rows: usize,
    width: usize,
}

impl Room {
    #[inline(always)]
    pub fn new(rows: usize, width: usize) -> Self {
        Self {
            values: [0.0; 16 * 32],
            rows,
            width,
        }
    }

    /// Where a tile of `n` tokens is to be written, and its stride: the output itself, or a copy
    /// of it if the output has too few columns.
    ///
    /// # Safety
    /// `out` must be valid for `n <= 16` rows of `rows` values, `stride` apart.
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
unsafe fn tile<I: Isa, K: Int8Tile<I>, const T: usize, const SCALED: usize, const MINS: bool>(
    isa: I,
    kernel: &mut K,
    job: &MultiplyJob,
    x: *const u8,
    out: *mut f32,
    stride: usize,
    fetched: usize,
) {
    let deal = Deal::<INT_LANES>::new(job.cols / GROUP);
    let bytes = PanelGroup::bytes(K::PANEL.slots(T));
    for part in 0..INT_ROWS / I::ROWS {
        let row = part * I::ROWS;
        // SAFETY: `Panel::new` has made room for 16 rows of `cols` columns, `Room::enter` for 16
        // outputs of every token; the counts of all lanes add up to the groups of the tile.
        unsafe {
            let out = out.add(row);
            let mut run = Run {
                codes: job.codes,
                scales: job.scales.add(row),
                mins: job.mins.wrapping_add(row),
                plane: job.cols / GROUP * INT_ROWS,
                row,
                acts: x,
                groups: 0,
                next: job.next.wrapping_add(part * (job.cols / GROUP) * fetched),
                fetched,
            };
            let mut totals = Totals::<I, T>::new(isa, job.first_col > 0, out, stride);
            for lane in 0..INT_LANES {
                run.groups = deal.count(lane);
                totals.add(isa, kernel.run::<T, SCALED, MINS>(isa, &run));
                run = run.behind(bytes);
            }
            unroll!(t < T, max 16, { isa.store_rows(out.add(t * stride), totals.sums[t]); });
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
            unroll!(t < T, max 16, { sums[t] = unsafe { isa.load_rows(out.add(t * stride)) } });
        }
        Self { sums, begun }
    }

    /// Adds the sums of the next lane.
    #[inline(always)]
    pub fn add(&mut self, isa: I, lane: [I::RowFloats; T]) {
        if self.begun {
            unroll!(t < T, max 16, { self.sums[t] = isa.add_rows(self.sums[t], lane[t]) });
        } else {
            self.sums = lane;
            self.begun = true;
        }
    }
}

/// A panel times all tiles.
///
/// # Safety
/// See [`MultiplyJob`]; the features of `I` and of the kernel must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn multiply<I: Isa, K: Int8Tile<I>, const SCALED: usize, const MINS: bool>(
    isa: I,
    job: &MultiplyJob,
) {
    let mut room = Room::new(job.rows, INT_ROWS);
    // The next panel comes into the cache while the last tile is multiplied, some lines with each group.
    let each = job
        .next_bytes
        .div_ceil(job.cols / GROUP * (INT_ROWS / I::ROWS))
        .next_multiple_of(64);
    let mut kernel = K::new();
    for (i, first) in (0..job.tokens).step_by(job.tile_tokens).enumerate() {
        let n = job.tile_tokens.min(job.tokens - first);
        let bytes = PanelGroup::bytes(K::PANEL.slots(n));
        // SAFETY: tile `i` exists and has `n` tokens, stored without gaps; output rows
        // `first..first + n` exist.
        unsafe {
            let x = job
                .acts
                .add(i * job.tile_bytes + job.first_col / GROUP * bytes);
            let out = job.out.add(first * job.stride);
            let (to, stride) = room.enter(out, job.stride, n);
            let fetched = if first + n == job.tokens { each } else { 0 };
            by_tokens!(n, K::TOKENS, T => tile::<I, K, T, SCALED, MINS>(isa, &mut kernel, job, x, to, stride, fetched));
            room.leave(out, job.stride, n);
        }
    }
}
