//! Decoding quantized weights: to a panel, the form every format shares, and to F32.

use super::UnpackJob;
use crate::format::QuantFormat;
use crate::isa::{Isa, UNPACKED};
use crate::layout::{Deal, GROUP, INT_LANES, UNIT};
use crate::panel::IntPanel;

const ROWS: usize = crate::layout::INT_ROWS;
/// Bytes of the buffer for an incomplete unit: the largest unit of any format.
pub(super) const TAIL: usize = 512;

/// Eights of [`ROWS`] rows, in the two planes of [`Rows::transpose`].
struct Rows([[f32; ROWS * 8]; 2]);

impl Rows {
    fn new() -> Self {
        Self([[0.0; ROWS * 8]; 2])
    }

    /// Keeps those of row `r`.
    #[inline(always)]
    fn put<F: QuantFormat, I: Isa>(&mut self, isa: I, r: usize, low: I::Eight, high: I::Eight) {
        for (plane, eight) in self.0.iter_mut().zip([low, high]).take(GROUP / F::GROUP) {
            let eight_of_row = &mut plane[r * 8..r * 8 + 8];
            // SAFETY: eight values.
            unsafe { isa.store_eight(eight_of_row.as_mut_ptr(), eight) }
        }
    }

    /// Transposes to places `at` of `[groups][ROWS]`; with two scales per 32 weights, those of the last 16 go to
    /// a second such plane, `plane` values further on.
    ///
    /// # Safety
    /// `to` must have room in each plane.
    #[inline(always)]
    unsafe fn transpose<F: QuantFormat, I: Isa>(
        &self,
        isa: I,
        to: *mut f32,
        plane: usize,
        groups: usize,
        at: &[usize; 8],
    ) {
        for (i, rows) in self.0.iter().enumerate().take(GROUP / F::GROUP) {
            // SAFETY: `Panel::new` has made room for both planes; `Deal` gives places below their ends.
            unsafe { isa.transpose_eights(rows.as_ptr(), to.add(i * plane), groups, at) }
        }
    }
}

/// Decodes `rows` x `cols` weights to interleaved codes, scales and minimums. Rows beyond
/// `job.rows` keep whatever the panel held: their results are never stored.
///
/// # Safety
/// See [`UnpackJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn unpack<F: QuantFormat, I: Isa>(isa: I, job: &UnpackJob) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    let mut codes = [0u8; ROWS * UNPACKED];
    let (mut scales, mut mins) = (Rows::new(), Rows::new());
    let mut tail = [0u8; TAIL];
    // What to add to a stored code so that the panel holds the weight that its kernel multiplies.
    let bias = job.panel.shift().wrapping_sub(F::CODES.offset());
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
                    let bytes = groups * F::UNIT_BYTES / 8;
                    core::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), bytes);
                    p = tail.as_ptr();
                }
                for (half, (low, high)) in [F::codes::<I, 0>(isa, p), F::codes::<I, 1>(isa, p)]
                    .into_iter()
                    .enumerate()
                {
                    let to = codes.as_mut_ptr().add(r * UNPACKED + half * 128);
                    isa.store_bytes(to, isa.add_bytes(low, bias));
                    isa.store_bytes(to.add(64), isa.add_bytes(high, bias));
                }
                let (low, high) = F::scales(isa, p);
                scales.put::<F, I>(isa, r, low, high);
                if F::MINS {
                    let (low, high) = F::mins(isa, p);
                    mins.put::<F, I>(isa, r, low, high);
                }
            }
        }
        // SAFETY: the panel has room for all groups, and `at` are places among them.
        unsafe {
            match job.panel {
                IntPanel::Fours { .. } | IntPanel::Groups => {
                    isa.interleave(codes.as_ptr(), job.codes, groups, at);
                }
                IntPanel::Eights => isa.interleave_eights(codes.as_ptr(), job.codes, groups, at),
            }
            let plane = all_groups * ROWS;
            scales.transpose::<F, I>(isa, job.scales, plane, groups, at);
            if F::MINS {
                mins.transpose::<F, I>(isa, job.mins, plane, groups, at);
            }
        }
    }
}

/// Decodes whole blocks to F32: `scale * (code - offset)`, plus the minimum if there is one. The
/// lengths agree.
#[inline(always)]
pub(crate) fn dequantize<F: QuantFormat, I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    for (bytes, out) in bytes.chunks(F::UNIT_BYTES).zip(out.chunks_mut(UNIT)) {
        let mut tail = [0u8; TAIL];
        let mut p = bytes.as_ptr();
        if bytes.len() < F::UNIT_BYTES {
            tail[..bytes.len()].copy_from_slice(bytes);
            p = tail.as_ptr();
        }
        let mut codes = [0u8; UNPACKED];
        let mut scales = [[0f32; 8]; 2];
        let mut mins = [[0f32; 8]; 2];
        // SAFETY: `p` is a unit, or the part of one that exists followed by zeros; the buffers
        // have the sizes of what is stored.
        unsafe {
            let less = 0u8.wrapping_sub(F::CODES.offset());
            for (half, (low, high)) in [F::codes::<I, 0>(isa, p), F::codes::<I, 1>(isa, p)]
                .into_iter()
                .enumerate()
            {
                let to = codes.as_mut_ptr().add(half * 128);
                isa.store_bytes(to, isa.add_bytes(low, less));
                isa.store_bytes(to.add(64), isa.add_bytes(high, less));
            }
            let (low, high) = F::scales(isa, p);
            isa.store_eight(scales[0].as_mut_ptr(), low);
            isa.store_eight(scales[1].as_mut_ptr(), high);
            if F::MINS {
                let (low, high) = F::mins(isa, p);
                isa.store_eight(mins[0].as_mut_ptr(), low);
                isa.store_eight(mins[1].as_mut_ptr(), high);
            }
        }
        for (s, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (g, last) = (s / 2, s % 2);
            let (scale, min) = (scales[last][g], mins[last][g]);
            let at = g / 4 * 128 + last * 64 + g % 4 * 16;
            for (w, c) in out.iter_mut().zip(&codes[at..at + 16]) {
                *w = scale * f32::from(*c as i8);
                if F::MINS {
                    *w += min;
                }
            }
        }
    }
}
