//! Products with few tokens: weights are read once, straight from the file.
//!
//! ```text
//! for each R rows:
//!     for each unit of 256 weights, for each of the R rows:
//!         scales = row scales (8)                      once per row
//!         for each half, for each token:
//!             ints  = dot of 64 + 64 codes             16 lanes, exact
//!             acc  += ints * (row scale * token scale of the lane's group)
//!         offsets += (minimum or -offset * scale) * token scale * token sum
//!     out = fixed tree over acc and offsets
//! ```
//!
//! The rows share each load of activations and give the memory system R streams. The last,
//! incomplete unit of a row is copied into a zeroed buffer, so nothing is read past the row.

use super::{DecodeJob, ahead, unroll};
use crate::acts::{GROUP, RowUnit, UNIT};
use crate::format::{Codes, QuantFormat};
use crate::isa::Isa;

/// Bytes of the buffer for an incomplete unit: the largest unit of any format (F32 has none).
const TAIL: usize = 512;

/// Accumulators of one row for `T` tokens.
struct Row<I: Isa, const T: usize> {
    acc: [I::Lanes; T],
    offsets: [I::Eight; T],
}

impl<I: Isa, const T: usize> Clone for Row<I, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<I: Isa, const T: usize> Copy for Row<I, T> {}

/// Adds the products of one unit (or of `halves` of it) to a row.
///
/// # Safety
/// `w` must hold a unit, `x` a *rows*-layout unit of each token, `tile_bytes` apart.
#[inline(always)]
unsafe fn unit<F: QuantFormat, I: Isa, const T: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    tile_bytes: usize,
    halves: usize,
    mut row: Row<I, T>,
) -> Row<I, T> {
    // SAFETY: the caller vouches for the unit and the activations; offsets are those of RowUnit.
    unsafe {
        let scales = F::scales(isa, w);
        let mins = match F::CODES {
            _ if F::MINS => F::mins(isa, w),
            Codes::Small { offset } => {
                isa.mul_eight(scales, isa.splat_eight(-f32::from(offset)))
            }
            Codes::Signed => isa.zero_eight(),
        };
        let mut token_scales = [isa.zero_eight(); T];
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let token = isa.load_eight(x.add(RowUnit::SCALE).cast());
            token_scales[t] = isa.mul_eight(scales, token);
            if F::CODES != Codes::Signed {
                let sums = isa.mul_eight(token, isa.load_eight(x.add(RowUnit::SUM).cast()));
                row.offsets[t] = isa.fma_eight(row.offsets[t], mins, sums);
            }
        });
        row = half_unit::<F, I, T, 0>(isa, w, x, tile_bytes, &token_scales, row);
        if halves > 1 {
            row = half_unit::<F, I, T, 1>(isa, w, x, tile_bytes, &token_scales, row);
        }
        row
    }
}

/// Adds the products of four groups.
///
/// # Safety
/// As for [`unit`].
#[inline(always)]
unsafe fn half_unit<F: QuantFormat, I: Isa, const T: usize, const HALF: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    tile_bytes: usize,
    scales: &[I::Eight; T],
    mut row: Row<I, T>,
) -> Row<I, T> {
    // SAFETY: see `unit`.
    unsafe {
        let (low, high) = F::codes(isa, w, HALF);
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let codes = x.add(RowUnit::CODES + HALF * 128);
            let ints = match F::CODES {
                Codes::Signed => {
                    let start = if I::UNSIGNED_WEIGHTS {
                        isa.load_ints(x.add(RowUnit::START + HALF * 64))
                    } else {
                        isa.zero_ints()
                    };
                    let ints = isa.dot_signed(start, low, codes);
                    isa.dot_signed(ints, high, codes.add(64))
                }
                Codes::Small { .. } => {
                    let ints = isa.dot_small(isa.zero_ints(), low, codes);
                    isa.dot_small(ints, high, codes.add(64))
                }
            };
            row.acc[t] = isa.add_scaled::<HALF>(row.acc[t], ints, scales[t]);
        });
        row
    }
}

/// Multiplies `R` rows with `T` tokens.
///
/// # Safety
/// See [`DecodeJob`]; `first + R <= job.rows`.
#[inline(always)]
unsafe fn rows<F: QuantFormat, I: Isa, const T: usize, const R: usize>(
    isa: I,
    job: &DecodeJob,
    first: usize,
) {
    let record = RowUnit::bytes(I::UNSIGNED_WEIGHTS);
    let units = job.cols / UNIT;
    let tail_groups = job.cols % UNIT / GROUP;
    // SAFETY: rows `first..first + R` exist; each has `units` whole units followed by
    // `tail_groups` groups; the activations are padded to whole units.
    unsafe {
        let base = job.weights.add(first * job.row_bytes);
        let empty = Row { acc: [isa.zero_lanes(); T], offsets: [isa.zero_eight(); T] };
        let mut state: [Row<I, T>; R] = [empty; R];
        for u in 0..units {
            let x = job.acts.add(u * record);
            let w = base.add(u * F::UNIT_BYTES);
            let ahead = ahead(u * F::UNIT_BYTES, job.row_bytes, R);
            unroll!(r < R, max 4, {
                let w = w.add(r * job.row_bytes);
                for line in 0..F::UNIT_BYTES.div_ceil(64) {
                    isa.prefetch(w.wrapping_add(ahead + line * 64));
                }
                state[r] = unit::<F, I, T>(isa, w, x, job.tile_bytes, 2, state[r]);
            });
        }
        if tail_groups > 0 {
            let x = job.acts.add(units * record);
            let bytes = tail_groups * (F::UNIT_BYTES / 8);
            unroll!(r < R, max 4, {
                let mut buf = [0u8; TAIL];
                let w = base.add(r * job.row_bytes + units * F::UNIT_BYTES);
                core::ptr::copy_nonoverlapping(w, buf.as_mut_ptr(), bytes);
                let halves = tail_groups.div_ceil(4);
                state[r] = unit::<F, I, T>(isa, buf.as_ptr(), x, job.tile_bytes, halves, state[r]);
            });
        }
        unroll!(r < R, max 4, {
            unroll!(t < T, max 4, {
                *job.out.add(t * job.stride + first + r) =
                    isa.reduce(state[r].acc[t], state[r].offsets[t]);
            });
        });
    }
}

/// The whole job, `R` rows at a time.
///
/// # Safety
/// See [`DecodeJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn decode<F: QuantFormat, I: Isa, const T: usize, const R: usize>(
    isa: I,
    job: &DecodeJob,
) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    let whole = job.rows / R * R;
    // SAFETY: all rows are below `job.rows`; the rest is the caller's promise.
    unsafe {
        for first in (0..whole).step_by(R) {
            rows::<F, I, T, R>(isa, job, first);
        }
        for first in whole..job.rows {
            rows::<F, I, T, 1>(isa, job, first);
        }
    }
}
