//! Decoding quantized weights: to a panel, the form every format shares, and to F32.

use super::{UnpackJob, unroll};
use crate::format::QuantFormat;
use crate::isa::{Isa, UNPACKED};
use crate::layout::{Deal, GROUP, INT_LANES, UNIT};
use crate::panel::IntPanel;

const ROWS: usize = crate::layout::INT_ROWS;
/// Bytes of the buffer for an incomplete unit: the largest unit of any format.
pub(crate) const TAIL: usize = 512;

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

/// A panel that is being filled.
struct Places {
    /// Where the eight groups of a unit go; those that the row does not have go to a place apart.
    groups: [*mut u8; 8],
    /// What to add to a stored code so that the panel holds the weight that its kernel multiplies.
    bias: u8,
    /// Whether eight columns of a row lie side by side, not four.
    eights: bool,
}

impl Places {
    /// Stores what bytes `4i..4i + 8` of `vector` of half `HALF` were in each of the sixteen rows; `i` is even.
    ///
    /// # Safety
    /// Every place must have room for a group.
    #[inline(always)]
    unsafe fn put<F: QuantFormat, I: Isa, const HALF: usize>(
        &self,
        isa: I,
        vector: usize,
        i: usize,
        codes: [I::Bytes; 2],
    ) {
        let (group, column) = F::ORDER.column(vector, i);
        let [mut a, mut b] = codes;
        if I::EIGHTS && self.eights {
            [a, b] = isa.zip_fours(a, b);
        }
        // SAFETY: a group has eight columns of the sixteen rows.
        unsafe {
            let slot = self.groups[4 * HALF + group].add(column * 4 * ROWS);
            isa.store_bytes(slot, isa.add_bytes(a, self.bias));
            isa.store_bytes(slot.add(4 * ROWS), isa.add_bytes(b, self.bias));
        }
    }
}

/// Vector `VECTOR` of half `HALF` of the units of sixteen rows, transposed to the panel.
///
/// # Safety
/// The pointers must be valid for a unit each, and every place must have room for a group.
#[inline(always)]
unsafe fn vector<F: QuantFormat, I: Isa, const HALF: usize, const VECTOR: usize>(
    isa: I,
    rows: &[*const u8; ROWS],
    places: &Places,
) {
    // SAFETY: as for this function.
    unsafe {
        let mut parts = [F::vector::<I, HALF, VECTOR>(isa, rows[0]); ROWS];
        // All parts fit registers where a row is one; elsewhere loops make a third of the code.
        if I::ROWS == ROWS {
            unroll!(i < 4, max 4, { quarter::<F, I, HALF, VECTOR>(isa, rows, i, &mut parts) });
            unroll!(h < 2, max 2, { columns::<F, I, HALF, VECTOR>(isa, &parts, h, places) });
        } else {
            for i in 0..4 {
                quarter::<F, I, HALF, VECTOR>(isa, rows, i, &mut parts);
            }
            for h in 0..2 {
                columns::<F, I, HALF, VECTOR>(isa, &parts, h, places);
            }
        }
    }
}

/// Four of the rows, transposed in runs: part `4i + j` has columns `j` of all runs.
///
/// # Safety
/// As for [`vector`].
#[inline(always)]
unsafe fn quarter<F: QuantFormat, I: Isa, const HALF: usize, const VECTOR: usize>(
    isa: I,
    rows: &[*const u8; ROWS],
    i: usize,
    parts: &mut [I::Bytes; ROWS],
) {
    // SAFETY: as for this function.
    let four = unsafe {
        isa.transpose_in_runs([
            F::vector::<I, HALF, VECTOR>(isa, rows[4 * i]),
            F::vector::<I, HALF, VECTOR>(isa, rows[4 * i + 1]),
            F::vector::<I, HALF, VECTOR>(isa, rows[4 * i + 2]),
            F::vector::<I, HALF, VECTOR>(isa, rows[4 * i + 3]),
        ])
    };
    unroll!(j < 4, max 4, { parts[4 * i + j] = four[j] });
}

/// Columns `2h` and `2h + 1` of all runs, to the panel.
///
/// # Safety
/// As for [`vector`].
#[inline(always)]
unsafe fn columns<F: QuantFormat, I: Isa, const HALF: usize, const VECTOR: usize>(
    isa: I,
    parts: &[I::Bytes; ROWS],
    h: usize,
    places: &Places,
) {
    let (j, k) = (2 * h, 2 * h + 1);
    let even = isa.transpose_runs([parts[j], parts[4 + j], parts[8 + j], parts[12 + j]]);
    let odd = isa.transpose_runs([parts[k], parts[4 + k], parts[8 + k], parts[12 + k]]);
    unroll!(q < 4, max 4, {
        let i = 4 * q + j;
        // SAFETY: as for this function.
        unsafe {
            if F::PACKED {
                let [a, b] = F::split(isa, even[q]);
                let [c, d] = F::split(isa, odd[q]);
                places.put::<F, I, HALF>(isa, 0, i, [a, c]);
                places.put::<F, I, HALF>(isa, 1, i, [b, d]);
            } else {
                places.put::<F, I, HALF>(isa, VECTOR, i, [even[q], odd[q]]);
            }
        }
    });
}

/// Half `HALF` of the units of sixteen rows.
///
/// # Safety
/// As for [`vector`].
#[inline(always)]
unsafe fn half<F: QuantFormat, I: Isa, const HALF: usize>(
    isa: I,
    rows: &[*const u8; ROWS],
    places: &Places,
) {
    // SAFETY: as for this function.
    unsafe {
        vector::<F, I, HALF, 0>(isa, rows, places);
        if !F::PACKED {
            vector::<F, I, HALF, 1>(isa, rows, places);
        }
    }
}

/// Decodes `rows` x `cols` weights to interleaved codes, scales and minimums. Rows beyond
/// `job.rows` are copies of the last one: their results are never stored.
///
/// # Safety
/// See [`UnpackJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn unpack<F: QuantFormat, I: Isa>(isa: I, job: &UnpackJob) {
    const { assert!(F::UNIT_BYTES <= TAIL) };
    let (mut scales, mut mins) = (Rows::new(), Rows::new());
    let all_groups = job.cols / GROUP;
    let deal = Deal::<INT_LANES>::new(all_groups);
    let mut rows = [job.weights; ROWS];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = row.wrapping_add(r.min(job.rows - 1) * job.row_bytes);
    }
    for first in (0..all_groups).step_by(8) {
        let groups = (all_groups - first).min(8);
        let at = &deal.places(first / INT_LANES);
        // SAFETY: every row has `all_groups` groups here, and `groups` of them from `first`; an incomplete
        // unit is copied so that nothing past the row is read: `job.tails` has room for sixteen, and after
        // them for a group. The panel has room for `all_groups`, and `at` are places among them.
        unsafe {
            let mut places = Places {
                groups: at.map(|at| job.codes.wrapping_add(at * GROUP * ROWS)),
                bias: job.panel.shift().wrapping_sub(F::CODES.offset()),
                eights: job.panel == IntPanel::Eights,
            };
            if groups < 8 {
                places.groups[groups..].fill(job.tails.add(ROWS * TAIL));
                for (r, row) in rows.iter_mut().enumerate() {
                    let tail = job.tails.add(r * TAIL);
                    core::ptr::copy_nonoverlapping(*row, tail, groups * F::UNIT_BYTES / 8);
                    *row = tail;
                }
            }
            half::<F, I, 0>(isa, &rows, &places);
            if groups > 4 {
                half::<F, I, 1>(isa, &rows, &places);
            }
            for (r, row) in rows.iter_mut().enumerate() {
                let (low, high) = F::scales(isa, *row);
                scales.put::<F, I>(isa, r, low, high);
                if F::MINS {
                    let (low, high) = F::mins(isa, *row);
                    mins.put::<F, I>(isa, r, low, high);
                }
                *row = row.wrapping_add(F::UNIT_BYTES);
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
