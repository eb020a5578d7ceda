//! Products with few tokens: weights are read once, straight from the file.
//!
//! ```text
//! for each row, for each unit of 256 weights:
//!     scales = row scales (8)
//!     for each half, for each token:
//!         ints  = dot of 64 + 64 codes             16 lanes, exact
//!         acc  += ints * (row scale * token scale of the lane's group)
//!     offsets += (minimum or -offset * scale) * token scale * token sum
//! out = fixed tree over acc and offsets
//! ```
//!
//! One row at a time: the weights are then one sequential stream, which hardware prefetchers
//! follow at full bandwidth. Two or four rows side by side share loads of activations but were
//! measured at less than half the speed from memory, software prefetch or not. The last,
//! incomplete unit of a row is read with the beginning of the next row, whose groups are masked;
//! only in the last rows it is copied first, so nothing is read past the matrix.

use super::{DecodeJob, unroll};
use crate::acts::{GROUP, RowUnit, UNIT};
use crate::format::{Codes, QuantFormat};
use crate::isa::Isa;

/// How far ahead of the weights being multiplied memory is asked for: two pages, because hardware
/// prefetchers stop at the end of a page (measured on Zen 4: cold Q4_0 decode 20.7 instead of
/// 15.6 GB/s on one thread; nearer, or into the first-level cache, is no better than nothing).
pub(super) const AHEAD: usize = 8192;

/// Bytes of the buffer for an incomplete unit: the largest unit of any format (F32 has none).
const TAIL: usize = 512;

/// Running sums of one row with `T` tokens.
#[derive(Clone, Copy)]
struct Sums<I: Isa, const T: usize> {
    acc: [I::Lanes; T],
    offsets: [I::Eight; T],
}

/// Adds the products of the first `groups` groups of a unit to the sums. What the others hold does
/// not matter: their scales count as zero.
///
/// # Safety
/// `w` must hold a unit, `x` a *rows*-layout unit of each token, `tile_bytes` apart.
#[inline(always)]
unsafe fn unit<F: QuantFormat, I: Isa, const T: usize>(
    isa: I,
    w: *const u8,
    x: *const u8,
    tile_bytes: usize,
    groups: usize,
    mut sums: Sums<I, T>,
) -> Sums<I, T> {
    // SAFETY: the caller vouches for the unit and the activations; offsets are those of RowUnit.
    unsafe {
        let keep = |v| {
            if groups < 8 {
                isa.keep_eight(v, groups)
            } else {
                v
            }
        };
        let scales = keep(F::scales(isa, w));
        let mins = match F::CODES {
            _ if F::MINS => keep(F::mins(isa, w)),
            Codes::Small { offset } => isa.mul_eight(scales, isa.splat_eight(-f32::from(offset))),
            Codes::Signed => isa.zero_eight(),
        };
        let mut token_scales = [isa.zero_eight(); T];
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let token = isa.load_eight(x.add(RowUnit::SCALE).cast());
            token_scales[t] = isa.mul_eight(scales, token);
            if F::CODES != Codes::Signed {
                let sum = isa.mul_eight(token, isa.load_eight(x.add(RowUnit::SUM).cast()));
                sums.offsets[t] = isa.fma_eight(sums.offsets[t], mins, sum);
            }
        });
        sums = half_unit::<F, I, T, 0>(isa, w, x, tile_bytes, &token_scales, sums);
        if groups > 4 {
            sums = half_unit::<F, I, T, 1>(isa, w, x, tile_bytes, &token_scales, sums);
        }
        sums
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
    mut sums: Sums<I, T>,
) -> Sums<I, T> {
    // SAFETY: see `unit`.
    unsafe {
        let (low, high) = F::codes::<I, HALF>(isa, w);
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
            sums.acc[t] = isa.add_scaled::<HALF>(sums.acc[t], ints, scales[t]);
        });
        sums
    }
}

/// Multiplies row `r` with `T` tokens.
///
/// # Safety
/// See [`DecodeJob`]; `r < job.rows`.
#[inline(always)]
unsafe fn row<F: QuantFormat, I: Isa, const T: usize>(isa: I, job: &DecodeJob, r: usize) {
    let record = RowUnit::bytes(I::UNSIGNED_WEIGHTS);
    let units = job.cols / UNIT;
    let tail_groups = job.cols % UNIT / GROUP;
    // SAFETY: row `r` exists and has `units` whole units followed by `tail_groups` groups; the
    // activations are padded to whole units.
    unsafe {
        let w = job.weights.add(r * job.row_bytes);
        let mut state = Sums {
            acc: [isa.zero_lanes(); T],
            offsets: [isa.zero_eight(); T],
        };
        for u in 0..units {
            let (w, x) = (w.add(u * F::UNIT_BYTES), job.acts.add(u * record));
            isa.prefetch(w.wrapping_add(AHEAD), F::UNIT_BYTES);
            state = unit::<F, I, T>(isa, w, x, job.tile_bytes, 8, state);
        }
        if tail_groups > 0 {
            let mut buf = [0u8; TAIL];
            let mut w = w.add(units * F::UNIT_BYTES);
            let bytes = tail_groups * (F::UNIT_BYTES / 8);
            if (job.rows - r - 1) * job.row_bytes + bytes < F::UNIT_BYTES {
                core::ptr::copy_nonoverlapping(w, buf.as_mut_ptr(), bytes);
                w = buf.as_ptr();
            }
            isa.prefetch(w.wrapping_add(AHEAD), bytes);
            let x = job.acts.add(units * record);
            state = unit::<F, I, T>(isa, w, x, job.tile_bytes, tail_groups, state);
        }
        unroll!(t < T, max 4, {
            *job.out.add(t * job.stride + r) = isa.reduce(state.acc[t], state.offsets[t]);
        });
    }
}

/// The whole job.
///
/// # Safety
/// See [`DecodeJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn decode<F: QuantFormat, I: Isa, const T: usize>(isa: I, job: &DecodeJob) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    for r in 0..job.rows {
        // SAFETY: `r < job.rows`; the rest is the caller's promise.
        unsafe { row::<F, I, T>(isa, job, r) }
    }
}
