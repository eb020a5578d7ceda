//! The tile kernel of matrix products: 2 tokens x 8 columns times 8 columns x 2 rows.
//!
//! ```text
//! for each group, for each 8 columns: ints[pair of tokens] += codes[pair][8] x weights[rows][8]
//! ```

use super::tile::{Int8Tile, Run};
use super::unroll;
use crate::isa::matrix::Matrix;
use crate::layout::{GROUP, INT_ROWS, PanelGroup};
use crate::panel::IntPanel;

/// Tiles of up to `MAX` tokens.
pub(crate) struct Eights<const MAX: usize>;

impl<I: Matrix, const MAX: usize> Int8Tile<I> for Eights<MAX> {
    const PANEL: IntPanel = IntPanel::Eights;
    const TOKENS: usize = MAX;

    #[inline(always)]
    fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn run<const T: usize, const SCALED: usize, const MINS: bool>(
        &mut self,
        isa: I,
        run: &Run,
    ) -> [I::RowFloats; T] {
        let slots = IntPanel::Eights.slots(T);
        let mut x = run.acts;
        let (mut scales, mut mins) = (run.scales, run.mins);
        // Of two tokens each, so the second half stays unused.
        let mut acc = [isa.zero_squares(); T];
        // SAFETY: `multiply::tile` gives every lane the groups that belong to it, and no more.
        unsafe {
            let mut w = run.codes.add(run.row * 8);
            for i in 0..run.groups {
                run.fetch(isa, i);
                unroll!(part < 2, max 4, {
                    if part < GROUP / SCALED {
                        let ints = dots::<I, T, SCALED>(isa, w, x, part);
                        let s = isa.spread_rows(scales.add(part * run.plane));
                        unroll!(p < T.div_ceil(2), max 16, {
                            let dx = isa.spread_tokens(x.add(PanelGroup::scale(slots) + 8 * p));
                            let v = isa.mul_squares(isa.square_floats(ints[p]), dx);
                            acc[p] = isa.fma_squares(acc[p], v, s);
                        });
                        if MINS {
                            let m = isa.spread_rows(mins.add(part * run.plane));
                            unroll!(p < T.div_ceil(2), max 16, {
                                let sums = sums::<I, SCALED>(isa, x.add(8 * p), slots, part);
                                acc[p] = isa.fma_squares(acc[p], m, sums);
                            });
                        }
                    }
                });
                scales = scales.add(INT_ROWS);
                mins = mins.wrapping_add(INT_ROWS);
                w = w.add(GROUP * INT_ROWS);
                x = x.add(PanelGroup::bytes(slots));
            }
        }
        let mut out = [isa.zero_rows(); T];
        unroll!(t < T, max 16, { out[t] = isa.split_squares(acc[t / 2])[t % 2]; });
        out
    }
}

/// Exact products of `SCALED` columns, part `part` of a group, for each pair of tokens.
///
/// # Safety
/// As for [`Int8Tile::run`], for one group.
#[inline(always)]
unsafe fn dots<I: Matrix, const T: usize, const SCALED: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    part: usize,
) -> [I::SquareInts; T] {
    let mut ints = [isa.zero_square_ints(); T];
    unroll!(k < 4, max 4, {
        if k < SCALED / 8 {
            let eight = part * (SCALED / 8) + k;
            // SAFETY: `w` and `x` stay inside the group that the loop of `run` is at.
            unsafe {
                let weights = isa.load_eights(w.add(eight * 8 * INT_ROWS));
                let x = x.add(eight * 8 * IntPanel::Eights.slots(T));
                unroll!(p < T.div_ceil(2), max 16, {
                    ints[p] = isa.dot_squares(ints[p], weights, x.add(16 * p));
                });
            }
        }
    });
    ints
}

/// Scale times sum of the `SCALED` codes of part `part` of a group, of the two tokens at `x`.
///
/// # Safety
/// As for [`Int8Tile::run`], for one group.
#[inline(always)]
unsafe fn sums<I: Matrix, const SCALED: usize>(
    isa: I,
    x: *const u8,
    slots: usize,
    part: usize,
) -> I::Squares {
    // SAFETY: `x` stays below `PanelGroup::bytes` of the group that the loop of `run` is at.
    unsafe {
        let whole = isa.spread_tokens(x.add(PanelGroup::sum(slots)));
        let low = isa.spread_tokens(x.add(PanelGroup::sum_low(slots)));
        if SCALED == GROUP {
            whole
        } else if part == 0 {
            low
        } else {
            isa.sub_squares(whole, low)
        }
    }
}
