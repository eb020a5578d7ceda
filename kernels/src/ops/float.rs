//! Products of float weights with F32 activations, for few and for many tokens.

use super::multiply::{Room, by_tokens};
use super::{DecodeJob, MultiplyJob, UnpackJob, unroll};
use crate::format::FloatFormat;
use crate::isa::Isa;

/// 16 weights at `p`, of which `n` exist; the others are zero.
///
/// # Safety
/// `p` must be valid for `n * F::BYTES`.
#[inline(always)]
unsafe fn load_part<F: FloatFormat, I: Isa>(isa: I, p: *const u8, n: usize) -> I::Lanes {
    let mut buf = [0u8; 64];
    // SAFETY: `n < 16` numbers of at most four bytes fit the buffer.
    unsafe {
        core::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n * F::BYTES);
        F::load(isa, buf.as_ptr())
    }
}

/// Row `r` times `T` tokens: sixteen running sums each, then the fixed tree.
///
/// # Safety
/// See [`DecodeJob`]; `r < job.rows`.
#[inline(always)]
unsafe fn row<F: FloatFormat, I: Isa, const T: usize>(isa: I, job: &DecodeJob, r: usize) {
    let (whole, rest) = (job.cols / 16, job.cols % 16);
    // SAFETY: row `r` exists and has `cols` numbers; activations are padded with zeros to a
    // multiple of 16.
    unsafe {
        let row = job.weights.add(r * job.row_bytes);
        let mut acc = [isa.zero_lanes(); T];
        for k in 0..whole {
            let w = F::load(isa, row.add(k * 16 * F::BYTES));
            if k % 4 == 0 {
                isa.prefetch(
                    row.wrapping_add(k * 16 * F::BYTES + super::decode::AHEAD),
                    64 * F::BYTES,
                );
            }
            unroll!(t < T, max 4, {
                let x = isa.load_lanes(job.acts.add(t * job.tile_bytes + k * 64).cast());
                acc[t] = isa.fma_lanes(acc[t], w, x);
            });
        }
        if rest > 0 {
            let w = load_part::<F, I>(isa, row.add(whole * 16 * F::BYTES), rest);
            unroll!(t < T, max 4, {
                let x = isa.load_lanes(job.acts.add(t * job.tile_bytes + whole * 64).cast());
                acc[t] = isa.fma_lanes(acc[t], w, x);
            });
        }
        unroll!(t < T, max 4, {
            *job.out.add(t * job.stride + r) = isa.reduce(acc[t], isa.zero_eight());
        });
    }
}

/// The whole job for few tokens.
///
/// # Safety
/// See [`DecodeJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn decode<F: FloatFormat, I: Isa, const T: usize>(isa: I, job: &DecodeJob) {
    for r in 0..job.rows {
        // SAFETY: `r < job.rows`; the rest is the caller's promise.
        unsafe { row::<F, I, T>(isa, job, r) }
    }
}

/// Widens and transposes a block of rows to `[cols][2 * ROWS]` F32.
///
/// # Safety
/// See [`UnpackJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn unpack<F: FloatFormat, I: Isa>(isa: I, job: &UnpackJob) {
    let width = 2 * I::ROWS;
    let panel: *mut f32 = job.codes.cast();
    let mut buf = [0f32; 16 * 16];
    let mut turned = [0f32; 16 * 16];
    for k in (0..job.cols).step_by(16) {
        let n = (job.cols - k).min(16);
        for part in (0..width).step_by(16) {
            let rows = job.rows.saturating_sub(part).min(16);
            // SAFETY: rows below `job.rows`, columns below `job.cols`; a partial chunk is read
            // through a buffer. The panel has room for `cols * width` numbers.
            unsafe {
                for r in 0..rows {
                    let p = job.weights.add((part + r) * job.row_bytes + k * F::BYTES);
                    let v = if n == 16 {
                        F::load(isa, p)
                    } else {
                        load_part::<F, I>(isa, p, n)
                    };
                    isa.store_lanes(buf.as_mut_ptr().add(r * 16), v);
                }
                let to = panel.add(k * width + part);
                if n == 16 {
                    isa.transpose(buf.as_ptr(), 16, to, width);
                } else {
                    isa.transpose(buf.as_ptr(), 16, turned.as_mut_ptr(), 16);
                    for c in 0..n {
                        core::ptr::copy_nonoverlapping(
                            turned.as_ptr().add(c * 16),
                            to.add(c * width),
                            16,
                        );
                    }
                }
            }
        }
    }
}

/// A panel times one tile of `T` tokens.
///
/// # Safety
/// See [`MultiplyJob`]. `x` is the tile at the panel's first column; `out` has room for
/// `2 * ROWS` values per token, `stride` apart, and holds sums if `add`.
#[inline(always)]
unsafe fn tile<I: Isa, const T: usize>(
    isa: I,
    job: &MultiplyJob,
    x: *const u8,
    out: *mut f32,
    stride: usize,
) {
    let add = job.first_col > 0;
    // SAFETY: the caller vouches for the panel of `cols` x `2 * ROWS`, the tile of `cols` x `T`
    // and the output.
    unsafe {
        let mut acc = [[isa.zero_rows(); 2]; T];
        if add {
            unroll!(t < T, max 14, {
                acc[t][0] = isa.load_rows(out.add(t * stride));
                acc[t][1] = isa.load_rows(out.add(t * stride + I::ROWS));
            });
        }
        let mut w: *const f32 = job.codes.cast();
        let mut x = x;
        for _ in 0..job.cols {
            let (w0, w1) = (isa.load_rows(w), isa.load_rows(w.add(I::ROWS)));
            unroll!(t < T, max 14, {
                let v = isa.splat_row(x.add(4 * t));
                acc[t][0] = isa.fma_rows(acc[t][0], w0, v);
                acc[t][1] = isa.fma_rows(acc[t][1], w1, v);
            });
            w = w.add(2 * I::ROWS);
            x = x.add(4 * T);
        }
        unroll!(t < T, max 14, {
            isa.store_rows(out.add(t * stride), acc[t][0]);
            isa.store_rows(out.add(t * stride + I::ROWS), acc[t][1]);
        });
    }
}

/// A panel times all tiles of up to `MAX` tokens.
///
/// # Safety
/// See [`MultiplyJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn multiply<I: Isa, const MAX: usize>(isa: I, job: &MultiplyJob) {
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
            by_tokens!(n, MAX, T => tile::<I, T>(isa, job, x, to, stride));
            room.leave(out, job.stride, n);
        }
    }
}
