//! The tile kernel of dot products of four columns: a vector of rows times four broadcast bytes of a token.
//!
//! ```text
//! for each group:
//!     ints[t] = -128 * sum of the token's codes        (or 0 if weights are signed)
//!     for each 4 columns: ints[t] += weights[rows][4] . codes[t][4]
//! ```

use super::tile::{Int8Tile, Run};
use super::unroll;
use crate::isa::Isa;
use crate::layout::{GROUP, INT_ROWS, PanelGroup};
use crate::panel::IntPanel;

/// Tiles of up to `MAX` tokens.
pub(crate) struct Fours<const MAX: usize>;

impl<I: Isa, const MAX: usize> Int8Tile<I> for Fours<MAX> {
    const PANEL: IntPanel = IntPanel::Fours {
        unsigned: I::UNSIGNED_WEIGHTS,
    };
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
        let mut x = run.acts;
        let (mut scales, mut mins) = (run.scales, run.mins);
        let mut acc = [isa.zero_rows(); T];
        // SAFETY: `multiply::tile` gives every lane the groups that belong to it, and no more.
        unsafe {
            let mut w = run.codes.add(run.row * 4);
            for i in 0..run.groups {
                run.fetch(isa, i);
                unroll!(part < 2, max 4, {
                    if part < GROUP / SCALED {
                        let ints = dots::<I, T, SCALED>(isa, w.add(part * 4 * 64), x, part);
                        let s = isa.load_rows(scales.add(part * run.plane));
                        unroll!(t < T, max 16, {
                            let dx = isa.splat_row(x.add(PanelGroup::scale(T) + 4 * t));
                            let v = isa.mul_rows(isa.to_floats(ints[t]), dx);
                            acc[t] = isa.fma_rows(acc[t], v, s);
                        });
                        if MINS {
                            let m = isa.load_rows(mins.add(part * run.plane));
                            unroll!(t < T, max 16, {
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
        }
        acc
    }
}

/// Scale times sum of the `SCALED` codes of part `part` of a group, of the token at `x`.
///
/// # Safety
/// As for [`Int8Tile::run`], for one group.
#[inline(always)]
pub(super) unsafe fn sum<I: Isa, const SCALED: usize>(
    isa: I,
    x: *const u8,
    tokens: usize,
    part: usize,
) -> I::RowFloats {
    // SAFETY: `x` stays below `PanelGroup::bytes` of the group that the loop of `run` is at.
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
/// As for [`Int8Tile::run`], for one group.
#[inline(always)]
unsafe fn dots<I: Isa, const T: usize, const SCALED: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    part: usize,
) -> [I::RowInts; T] {
    // SAFETY: `w` and `x` stay inside the group that the loop of `run` is at.
    unsafe {
        let mut ints = [isa.zero_row_ints(); T];
        if I::UNSIGNED_WEIGHTS {
            unroll!(t < T, max 16, {
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
                unroll!(t < T, max 16, {
                    ints[t] = isa.dot_rows(ints[t], weights, x.add(4 * t));
                });
            }
        });
        ints
    }
}
