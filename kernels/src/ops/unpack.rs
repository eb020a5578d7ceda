//! Decoding a block of quantized weights into a panel, the form every format shares.

use super::UnpackJob;
use crate::acts::{Deal, GROUP, INT_LANES};
use crate::format::QuantFormat;
use crate::isa::{Isa, UNPACKED};

const ROWS: usize = crate::kernels::INT_ROWS;
/// Bytes of the buffer for an incomplete unit.
const TAIL: usize = 512;

/// Decodes `rows` x `cols` weights to interleaved codes, scales and minimums. Rows beyond
/// `job.rows` keep whatever the panel held: their results are never stored.
///
/// # Safety
/// See [`UnpackJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn unpack<F: QuantFormat, I: Isa>(isa: I, job: &UnpackJob) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    let mut codes = [0u8; ROWS * UNPACKED];
    let mut scales = [0f32; ROWS * 8];
    let mut mins = [0f32; ROWS * 8];
    let mut tail = [0u8; TAIL];
    let all_groups = job.cols / GROUP;
    let deal = Deal::<INT_LANES>::new(all_groups);
    for first in (0..all_groups).step_by(8) {
        let groups = (all_groups - first).min(8);
        let at = &deal.places(first / INT_LANES);
        for r in 0..job.rows {
            // SAFETY: row `r` has `all_groups` groups here, and `groups` of them from `first`; an
            // incomplete unit is copied so that nothing past the row is read. Buffers have room
            // for 16 rows, and the panel for `all_groups`.
            unsafe {
                let mut p = job
                    .weights
                    .add(r * job.row_bytes + first / 8 * F::UNIT_BYTES);
                // The same place of the next panel, which comes next in memory.
                isa.prefetch(p.wrapping_add(ROWS * job.row_bytes), F::UNIT_BYTES);
                if groups < 8 {
                    let bytes = groups * (F::UNIT_BYTES / 8);
                    core::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), bytes);
                    p = tail.as_ptr();
                }
                for (half, (low, high)) in [F::codes::<I, 0>(isa, p), F::codes::<I, 1>(isa, p)]
                    .into_iter()
                    .enumerate()
                {
                    let to = codes.as_mut_ptr().add(r * UNPACKED + half * 128);
                    isa.store_bytes(to, isa.add_bytes(low, bias::<F, I>()));
                    isa.store_bytes(to.add(64), isa.add_bytes(high, bias::<F, I>()));
                }
                isa.store_eight(scales.as_mut_ptr().add(r * 8), F::scales(isa, p));
                if F::MINS {
                    isa.store_eight(mins.as_mut_ptr().add(r * 8), F::mins(isa, p));
                }
            }
        }
        // SAFETY: the panel has room for all groups, and `at` are places among them.
        unsafe {
            isa.interleave(codes.as_ptr(), job.codes, groups, at);
            isa.turn(scales.as_ptr(), job.scales, groups, at);
            if F::MINS {
                isa.turn(mins.as_ptr(), job.mins, groups, at);
            }
        }
    }
}

/// What to add to a stored code so that the panel holds the true weight, plus 128 where the
/// instruction set wants unsigned weights.
const fn bias<F: QuantFormat, I: Isa>() -> u8 {
    let shift: u8 = if I::UNSIGNED_WEIGHTS { 128 } else { 0 };
    shift.wrapping_sub(F::CODES.offset())
}
