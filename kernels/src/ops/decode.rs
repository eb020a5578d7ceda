//! Products with few tokens: weights are read once, straight from the file.
//!
//! ```text
//! for each row, for each unit of 256 weights:
//!     scales = row scales (8, or twice 8 if every 16 weights have one)
//!     for each half, for each token:
//!         ints  = dot of 64 + 64 codes             16 lanes, exact
//!         acc  += ints * (row scale * token scale of the lane's group)
//!         (with 16 weights to a scale: the two 64s one after the other)
//!     offsets += (minimum or -offset * scale) * (token scale * token sum)
//! out = fixed tree over acc and offsets
//! ```
//!
//! One row at a time: the weights are then one sequential stream, which hardware prefetchers
//! follow at full bandwidth. Two or four rows side by side share loads of activations but were
//! measured at less than half the speed from memory, software prefetch or not. The last,
//! incomplete unit of a row is copied into a zeroed buffer, so nothing is read past the row.

use super::unpack::TAIL;
use super::{DecodeJob, unroll};
use crate::acts::{GROUP, RowUnit, UNIT};
use crate::format::{Codes, QuantFormat};
use crate::isa::Isa;

/// Running sums of one row with `T` tokens.
#[derive(Clone, Copy)]
struct Sums<I: Isa, const T: usize> {
    acc: [I::Lanes; T],
    offsets: [I::Eight; T],
}

/// Adds the products of one unit (or of its first half) to the sums.
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
    mut sums: Sums<I, T>,
) -> Sums<I, T> {
    // SAFETY: the caller vouches for the unit and the activations; offsets are those of RowUnit.
    unsafe {
        let scales = F::scales(isa, w);
        let mins = match F::CODES {
            _ if F::MINS => F::mins(isa, w),
            Codes::Small { offset } => {
                let k = isa.splat_eight(-f32::from(offset));
                (isa.mul_eight(scales.0, k), isa.mul_eight(scales.1, k))
            }
            Codes::Signed => (isa.zero_eight(), isa.zero_eight()),
        };
        let mut token_scales = [(isa.zero_eight(), isa.zero_eight()); T];
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let token = isa.load_eight(x.add(RowUnit::SCALE).cast());
            token_scales[t] = (isa.mul_eight(scales.0, token), isa.mul_eight(scales.1, token));
            if F::CODES != Codes::Signed && F::GROUP == GROUP {
                let sum = isa.mul_eight(token, isa.load_eight(x.add(RowUnit::SUM).cast()));
                sums.offsets[t] = isa.fma_eight(sums.offsets[t], mins.0, sum);
            } else if F::CODES != Codes::Signed {
                let low = isa.load_eight(x.add(RowUnit::SUM_LOW).cast());
                let high = isa.load_eight(x.add(RowUnit::SUM_HIGH).cast());
                let (low, high) = (isa.mul_eight(token, low), isa.mul_eight(token, high));
                sums.offsets[t] = isa.fma_eight(sums.offsets[t], mins.0, low);
                sums.offsets[t] = isa.fma_eight(sums.offsets[t], mins.1, high);
            }
        });
        sums = half_unit::<F, I, T, 0>(isa, w, x, tile_bytes, &token_scales, sums);
        if halves > 1 {
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
    scales: &[(I::Eight, I::Eight); T],
    mut sums: Sums<I, T>,
) -> Sums<I, T> {
    // SAFETY: see `unit`.
    unsafe {
        let (low, high) = F::codes(isa, w, HALF);
        unroll!(t < T, max 4, {
            let x = x.add(t * tile_bytes);
            let codes = x.add(RowUnit::CODES + HALF * 128);
            if F::GROUP < GROUP {
                const { assert!(F::GROUP == GROUP || !matches!(F::CODES, Codes::Signed)) };
                let ints = isa.dot_small(isa.zero_ints(), low, codes);
                sums.acc[t] = isa.add_scaled::<HALF>(sums.acc[t], ints, scales[t].0);
            }
            let ints = match F::CODES {
                _ if F::GROUP < GROUP => isa.dot_small(isa.zero_ints(), high, codes.add(64)),
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
            sums.acc[t] = isa.add_scaled::<HALF>(sums.acc[t], ints, scales[t].1);
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
            state = unit::<F, I, T>(isa, w, x, job.tile_bytes, 2, state);
        }
        if tail_groups > 0 {
            let mut buf = [0u8; TAIL];
            let bytes = tail_groups * F::UNIT_BYTES / 8;
            core::ptr::copy_nonoverlapping(w.add(units * F::UNIT_BYTES), buf.as_mut_ptr(), bytes);
            let x = job.acts.add(units * record);
            let halves = tail_groups.div_ceil(4);
            state = unit::<F, I, T>(isa, buf.as_ptr(), x, job.tile_bytes, halves, state);
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
