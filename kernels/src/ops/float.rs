//! Products of float weights with float activations, for few and for many tokens. A column is a number,
//! or, where the machine multiplies BF16 in pairs, a pair of them.

use super::decode::{ROWS, add_lanes};
use super::multiply::{Room, Totals, by_tokens};
use super::{AHEAD, DecodeJob, MultiplyJob, UnpackJob, unroll};
use crate::format::FloatFormat;
use crate::isa::Isa;
use crate::isa::product::Product;
use crate::layout::{Deal, FLOAT_LANES, FLOAT_SEGMENT};

/// The weights of the `bytes` bytes at `p`; the others are zero.
///
/// # Safety
/// `p` must be valid for `bytes`, at most 64.
#[inline(always)]
unsafe fn load_part<F: FloatFormat, I: Isa>(isa: I, p: *const u8, bytes: usize) -> I::Lanes {
    let mut buf = [0u8; 64];
    // SAFETY: at most 64 bytes fit the buffer.
    unsafe {
        core::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), bytes);
        F::load(isa, buf.as_ptr())
    }
}

/// Sixteen running sums of one segment of row `r`, which begins at column `first`.
///
/// # Safety
/// See [`DecodeJob`]; `r < job.rows`.
#[inline(always)]
unsafe fn segment<F: FloatFormat, I: Isa, P: Product<I>, const T: usize>(
    isa: I,
    job: &DecodeJob,
    r: usize,
    first: usize,
) -> [I::Lanes; T] {
    let cols = (job.cols - first).min(FLOAT_SEGMENT);
    // Half of the last pair may be missing.
    let all_there = (job.row_bytes / F::BYTES - first).min(cols);
    let (whole, rest) = (all_there / 16, cols - all_there / 16 * 16);
    // SAFETY: row `r` exists and has `cols` numbers from `first` on; activations are padded with
    // zeros to a multiple of 16.
    unsafe {
        let row = job.weights.add(r * job.row_bytes + first * F::BYTES);
        let acts = job.acts.add(first * 4);
        let mut acc = [isa.zero_lanes(); T];
        for k in 0..whole {
            let p = row.add(k * 16 * F::BYTES);
            if k % 4 == 0 {
                isa.prefetch(p.wrapping_add(AHEAD), 64 * F::BYTES);
            }
            let w = F::load(isa, p);
            unroll!(t < T, max 8, {
                let x = isa.load_lanes(acts.add(t * job.tile_bytes + k * 64).cast());
                acc[t] = P::lanes(isa, acc[t], w, x);
            });
        }
        if rest > 0 {
            let at = first * F::BYTES + whole * 16 * F::BYTES;
            let bytes = (rest * F::BYTES).min(job.row_bytes - at);
            let w = load_part::<F, I>(isa, row.add(whole * 16 * F::BYTES), bytes);
            unroll!(t < T, max 8, {
                let x = isa.load_lanes(acts.add(t * job.tile_bytes + whole * 64).cast());
                acc[t] = P::lanes(isa, acc[t], w, x);
            });
        }
        acc
    }
}

/// The whole job for few tokens.
///
/// # Safety
/// See [`DecodeJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn decode<F: FloatFormat, I: Isa, P: Product<I>, const T: usize>(
    isa: I,
    job: &DecodeJob,
) {
    // Segments of a row are read one after the other, as they lie in memory.
    const SEGMENTS: usize = 4;
    let mut lanes = [[[0f32; ROWS * FLOAT_LANES]; SEGMENTS]; T];
    let mut turned = [[0f32; ROWS]; FLOAT_LANES];
    for row in (0..job.rows).step_by(ROWS) {
        let rows = (job.rows - row).min(ROWS);
        for block in (0..job.cols).step_by(SEGMENTS * FLOAT_SEGMENT) {
            let segments = (block..job.cols).step_by(FLOAT_SEGMENT).take(SEGMENTS);
            // SAFETY: `row + r < job.rows`; the buffers have room for `ROWS` rows; `MatMut::new`
            // asserts the `T` rows of outputs.
            unsafe {
                for r in 0..rows {
                    for (s, first) in segments.clone().enumerate() {
                        let acc = segment::<F, I, P, T>(isa, job, row + r, first);
                        unroll!(t < T, max 8, {
                            let to = lanes[t][s].as_mut_ptr().add(r * FLOAT_LANES);
                            isa.store_lanes(to, acc[t]);
                        });
                    }
                }
                for (t, lanes) in lanes.iter().enumerate() {
                    let out = job.out.add(t * job.stride + row);
                    for (lanes, first) in lanes.iter().zip(segments.clone()) {
                        isa.transpose(lanes.as_ptr(), turned.as_mut_ptr().cast());
                        add_lanes(isa, &turned, first > 0, out, rows);
                    }
                }
            }
        }
    }
}

/// Widens and transposes a block of rows to `[cols][2 * ROWS]` F32, columns dealt to lanes.
///
/// # Safety
/// See [`UnpackJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn unpack<F: FloatFormat, I: Isa>(isa: I, job: &UnpackJob) {
    let width = 2 * I::ROWS;
    let panel: *mut f32 = job.codes.cast();
    let deal = Deal::<FLOAT_LANES>::new(job.cols);
    let mut buf = [0f32; 16 * 16];
    let mut turned = [0f32; 16 * 16];
    for k in (0..job.cols).step_by(16) {
        let n = (job.cols - k).min(16);
        let places = deal.places(k / 16);
        for part in (0..width).step_by(16) {
            let rows = job.rows.saturating_sub(part).min(16);
            // SAFETY: rows below `job.rows`, columns below `job.cols`; a partial chunk is read
            // through a buffer. The panel has room for `cols * width` numbers.
            unsafe {
                for r in 0..rows {
                    let p = job.weights.add((part + r) * job.row_bytes + k * F::BYTES);
                    let left = job.row_bytes - job.first_byte - k * F::BYTES;
                    let v = if n == 16 && left >= 16 * F::BYTES {
                        F::load(isa, p)
                    } else {
                        load_part::<F, I>(isa, p, (n * F::BYTES).min(left))
                    };
                    isa.store_lanes(buf.as_mut_ptr().add(r * 16), v);
                }
                isa.transpose(buf.as_ptr(), turned.as_mut_ptr());
                for (column, place) in turned.as_chunks::<16>().0.iter().zip(places).take(n) {
                    let v = isa.load_lanes(column.as_ptr());
                    isa.store_lanes(panel.add(place * width + part), v);
                }
            }
        }
    }
}

/// A panel times one tile of `T` tokens.
///
/// # Safety
/// See [`MultiplyJob`]. `x` is the tile at the panel's first column; `out` has room for
/// `2 * ROWS` values per token, `stride` apart, and holds sums if the panel is not the first.
#[inline(always)]
unsafe fn tile<I: Isa, P: Product<I>, const T: usize>(
    isa: I,
    job: &MultiplyJob,
    x: *const u8,
    out: *mut f32,
    stride: usize,
) {
    let deal = Deal::<FLOAT_LANES>::new(job.cols);
    // SAFETY: `Panel::new` has made room for `2 * ROWS` rows of `cols` columns, `Room::enter` for as
    // many outputs of every token; the counts of all lanes add up to the columns of the tile.
    unsafe {
        let mut w: *const f32 = job.codes.cast();
        let mut x = x;
        let begun = job.first_col > 0;
        let mut first = Totals::<I, T>::new(isa, begun, out, stride);
        let mut second = Totals::<I, T>::new(isa, begun, out.add(I::ROWS), stride);
        for lane in 0..FLOAT_LANES {
            let mut acc = [[isa.zero_rows(); 2]; T];
            for _ in 0..deal.count(lane) {
                let (w0, w1) = (isa.load_rows(w), isa.load_rows(w.add(I::ROWS)));
                unroll!(t < T, max 16, {
                    let v = isa.splat_row(x.add(4 * t));
                    acc[t][0] = P::rows(isa, acc[t][0], w0, v);
                    acc[t][1] = P::rows(isa, acc[t][1], w1, v);
                });
                w = w.add(2 * I::ROWS);
                x = x.add(4 * T);
            }
            first.add(isa, acc.map(|a| a[0]));
            second.add(isa, acc.map(|a| a[1]));
        }
        unroll!(t < T, max 16, {
            isa.store_rows(out.add(t * stride), first.sums[t]);
            isa.store_rows(out.add(t * stride + I::ROWS), second.sums[t]);
        });
    }
}

/// A panel times all tiles of up to `MAX` tokens.
///
/// # Safety
/// See [`MultiplyJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn multiply<I: Isa, P: Product<I>, const MAX: usize>(isa: I, job: &MultiplyJob) {
    let width = 2 * I::ROWS;
    let mut room = Room::new(job.rows, width);
    for (i, first) in (0..job.tokens).step_by(job.tile_tokens).enumerate() {
        let n = job.tile_tokens.min(job.tokens - first);
        // SAFETY: tile `i` exists and has `n` tokens, stored without gaps; output rows
        // `first..first + n` exist.
        unsafe {
            let x = job.acts.add(i * job.tile_bytes + job.first_col * n * 4);
            let out = job.out.add(first * job.stride);
            let (to, stride) = room.enter(out, job.stride, n);
            by_tokens!(n, MAX, T => tile::<I, P, T>(isa, job, x, to, stride));
            room.leave(out, job.stride, n);
        }
    }
}
