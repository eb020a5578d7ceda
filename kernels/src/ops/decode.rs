//! Products with few tokens: weights are read once, straight from the file.
//!
//! ```text
//! for each row, for each unit of 256 weights, for each token:
//!     ints = dot of codes, one exact sum per group of 32      (8 lanes)
//!     acc += (ints * token scales) * row scales
//!     acc += row minimums * (token scales * token sums)
//!     (with 16 weights to a scale: the same for the first 16 of every group, then for the last)
//! out = sum of the lanes, first to last
//! ```
//!
//! One row at a time: the weights are then one sequential stream, which hardware prefetchers
//! follow at full bandwidth. Two or four rows side by side share loads of activations but were
//! measured at less than half the speed from memory, software prefetch or not. The last,
//! incomplete unit of a row is read with the beginning of the next row, whose groups are masked;
//! only in the last rows it is copied first, so nothing is read past the matrix.

use super::unpack::TAIL;
use super::{AHEAD, DecodeJob, unroll};
use crate::format::{Codes, QuantFormat};
use crate::isa::Isa;
use crate::layout::{GROUP, INT_LANES, INT_SEGMENT, RowUnit, UNIT};

/// The power of two that is the offset of the codes the dot product sees, if they have one.
const fn offset<F: QuantFormat, I: Isa>() -> Option<u32> {
    match F::CODES {
        Codes::Signed if I::UNSIGNED_WEIGHTS => Some(7),
        Codes::Signed | Codes::Small { offset: 0 } => None,
        Codes::Small { offset } => {
            assert!(offset.is_power_of_two());
            Some(offset.ilog2())
        }
    }
}

/// Sums of the first and the last 16 weights of four groups; if those have one scale, the second
/// is the sum of all, and the first nothing.
type Parts<I> = (<I as Isa>::Ints, <I as Isa>::Ints);

/// Exact sums over four groups, of `T` tokens, offset not yet undone: lanes `4g..4g + 4` belong to group `g`.
///
/// # Safety
/// As for [`unit`].
#[inline(always)]
unsafe fn half<F: QuantFormat, I: Isa, const T: usize, const HALF: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    tile_bytes: usize,
) -> [Parts<I>; T] {
    const { assert!(F::GROUP == GROUP || !matches!(F::CODES, Codes::Signed)) };
    // SAFETY: see `unit`.
    unsafe {
        let (low, high) = F::codes::<I, HALF>(isa, w);
        let mut sums = [(isa.zero_ints(), isa.zero_ints()); T];
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let codes = x.add(RowUnit::CODES + HALF * 128);
            let ints = isa.zero_ints();
            sums[t].1 = match F::CODES {
                Codes::Signed => {
                    let ints = isa.dot_signed(ints, low, codes);
                    isa.dot_signed(ints, high, codes.add(64))
                }
                Codes::Small { .. } if F::GROUP == GROUP => {
                    let ints = isa.dot_small(ints, low, codes);
                    isa.dot_small(ints, high, codes.add(64))
                }
                Codes::Small { .. } => {
                    sums[t].0 = isa.dot_small(ints, low, codes);
                    isa.dot_small(ints, high, codes.add(64))
                }
            };
        });
        sums
    }
}

/// What [`Isa::sum_fours`] has to take away to undo the offset of the codes: `at` are their sums.
#[inline(always)]
fn code_sums<F: QuantFormat, I: Isa>(at: *const i32) -> Option<(*const i32, u32)> {
    const { offset::<F, I>() }.map(|by| (at, by))
}

/// The first `groups` of each eight, zeros in place of the others.
#[inline(always)]
fn keep<I: Isa>(isa: I, low: I::Eight, high: I::Eight, groups: usize) -> (I::Eight, I::Eight) {
    if groups < 8 {
        (isa.keep_eight(low, groups), isa.keep_eight(high, groups))
    } else {
        (low, high)
    }
}

/// Adds the products of the first `groups` groups of a unit to the running sums. What the others
/// hold does not matter: their scales count as zero.
///
/// # Safety
/// `w` must hold a unit, `x` a *rows*-layout unit of each token, `tile_bytes` apart.
#[inline(always)]
pub(super) unsafe fn unit<F: QuantFormat, I: Isa, const T: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    tile_bytes: usize,
    groups: usize,
    mut acc: [I::Eight; T],
) -> [I::Eight; T] {
    // SAFETY: `segment` copies a unit that would end after the matrix to `TAIL` bytes, and
    // `ActShape::new` pads activations to whole units; offsets are those of `RowUnit`.
    unsafe {
        let first = half::<F, I, T, 0>(isa, w, x, tile_bytes);
        let second = if groups > 4 {
            half::<F, I, T, 1>(isa, w, x, tile_bytes)
        } else {
            [(isa.zero_ints(), isa.zero_ints()); T]
        };
        let (low, high) = F::scales(isa, w);
        let scales = keep(isa, low, high, groups);
        let mins = if F::MINS {
            let (low, high) = F::mins(isa, w);
            keep(isa, low, high, groups)
        } else {
            scales
        };
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let token = isa.load_eight(x.add(RowUnit::SCALE).cast());
            let whole = isa.load_eight(x.add(RowUnit::SUM).cast());
            if F::GROUP == GROUP {
                let at = x.add(RowUnit::CODE_SUM).cast();
                let sums = isa.sum_fours(first[t].1, second[t].1, code_sums::<F, I>(at));
                acc[t] = isa.fma_eight(acc[t], isa.mul_eight(sums, token), scales.0);
                if F::MINS {
                    acc[t] = isa.fma_eight(acc[t], mins.0, whole);
                }
            } else {
                let low = isa.load_eight(x.add(RowUnit::SUM_LOW).cast());
                let at = x.add(RowUnit::CODE_SUM_LOW).cast();
                let sums = isa.sum_fours(first[t].0, second[t].0, code_sums::<F, I>(at));
                acc[t] = isa.fma_eight(acc[t], isa.mul_eight(sums, token), scales.0);
                if F::MINS {
                    acc[t] = isa.fma_eight(acc[t], mins.0, low);
                }
                let at = x.add(RowUnit::CODE_SUM_HIGH).cast();
                let sums = isa.sum_fours(first[t].1, second[t].1, code_sums::<F, I>(at));
                acc[t] = isa.fma_eight(acc[t], isa.mul_eight(sums, token), scales.1);
                if F::MINS {
                    let high = isa.fma_eight(whole, low, isa.splat_eight(-1.0));
                    acc[t] = isa.fma_eight(acc[t], mins.1, high);
                }
            }
        });
        acc
    }
}

/// Running sums of one segment of row `r`, which begins at column `first`.
///
/// # Safety
/// See [`DecodeJob`]; `r < job.rows`.
#[inline(always)]
unsafe fn segment<F: QuantFormat, I: Isa, const T: usize>(
    isa: I,
    job: &DecodeJob,
    r: usize,
    first: usize,
) -> [I::Eight; T] {
    let cols = (job.cols - first).min(INT_SEGMENT);
    let (units, tail_groups) = (cols / UNIT, cols % UNIT / GROUP);
    // SAFETY: row `r` exists; from `first` on it has `units` whole units followed by `tail_groups`
    // groups. The activations are padded to whole units.
    unsafe {
        let w = job
            .weights
            .add(r * job.row_bytes + first / UNIT * F::UNIT_BYTES);
        let x = job.acts.add(first / UNIT * RowUnit::BYTES);
        let mut acc = [isa.zero_eight(); T];
        for u in 0..units {
            let (w, x) = (w.add(u * F::UNIT_BYTES), x.add(u * RowUnit::BYTES));
            isa.prefetch(w.wrapping_add(AHEAD), F::UNIT_BYTES);
            acc = unit::<F, I, T>(isa, w, x, job.tile_bytes, 8, acc);
        }
        if tail_groups > 0 {
            let mut buf = [0u8; TAIL];
            let mut w = w.add(units * F::UNIT_BYTES);
            let bytes = tail_groups * F::UNIT_BYTES / 8;
            isa.prefetch(w.wrapping_add(AHEAD), bytes);
            if (job.rows - r - 1) * job.row_bytes + bytes < F::UNIT_BYTES {
                core::ptr::copy_nonoverlapping(w, buf.as_mut_ptr(), bytes);
                w = buf.as_ptr();
            }
            let x = x.add(units * RowUnit::BYTES);
            acc = unit::<F, I, T>(isa, w, x, job.tile_bytes, tail_groups, acc);
        }
        acc
    }
}

/// Rows whose lanes are added up together.
pub(super) const ROWS: usize = 16;

/// Outputs of up to [`ROWS`] rows: adds the lanes of each row, `[lanes][ROWS]`, first to last, and to
/// what earlier segments have left in `out` if there were any `before`.
///
/// # Safety
/// `out` must be valid for `rows` values.
#[inline(always)]
pub(super) unsafe fn add_lanes<I: Isa>(
    isa: I,
    lanes: &[[f32; ROWS]],
    before: bool,
    out: *mut f32,
    rows: usize,
) {
    let mut sums = [0f32; ROWS];
    let (first, rest) = lanes.split_at(1);
    // SAFETY: `sums` has `ROWS` values, as every lane has; `out` has `rows`.
    unsafe {
        if before {
            core::ptr::copy_nonoverlapping(out, sums.as_mut_ptr(), rows);
        }
        for part in (0..ROWS).step_by(I::ROWS) {
            let lane = |lane: &[f32; ROWS]| isa.load_rows(lane.as_ptr().add(part));
            let mut sum = lane(&first[0]);
            if before {
                sum = isa.add_rows(isa.load_rows(sums.as_ptr().add(part)), sum);
            }
            for next in rest {
                sum = isa.add_rows(sum, lane(next));
            }
            isa.store_rows(sums.as_mut_ptr().add(part), sum);
        }
        core::ptr::copy_nonoverlapping(sums.as_ptr(), out, rows);
    }
}

/// The whole job.
///
/// # Safety
/// See [`DecodeJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn decode<F: QuantFormat, I: Isa, const T: usize>(isa: I, job: &DecodeJob) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    let mut lanes = [[0f32; ROWS * INT_LANES]; T];
    let mut turned = [[0f32; ROWS]; INT_LANES];
    for row in (0..job.rows).step_by(ROWS) {
        let rows = (job.rows - row).min(ROWS);
        for first in (0..job.cols).step_by(INT_SEGMENT) {
            // SAFETY: `row + r < job.rows`; the buffers have room for `ROWS` rows; `MatMut::new`
            // asserts the `T` rows of outputs.
            unsafe {
                for r in 0..rows {
                    let acc = segment::<F, I, T>(isa, job, row + r, first);
                    unroll!(t < T, max 4, {
                        isa.store_eight(lanes[t].as_mut_ptr().add(r * INT_LANES), acc[t]);
                    });
                }
                for (t, lanes) in lanes.iter().enumerate() {
                    let to = turned.as_mut_ptr().cast();
                    isa.transpose_eights(lanes.as_ptr(), to, INT_LANES, &[0, 1, 2, 3, 4, 5, 6, 7]);
                    let out = job.out.add(t * job.stride + row);
                    add_lanes(isa, &turned, first > 0, out, rows);
                }
            }
        }
    }
}
