//! Products of weights of which most are zero: each unit is expanded, then everything is as for Q8_0, so
//! results are the same bits.

use super::decode::{ROWS, add_lanes, unit};
use super::{AHEAD, unroll};
use crate::format::QuantFormat;
use crate::format::sparse::{HEAD, PLANE, PLANES, Planes, SCALE_BYTES, SCALES, runs};
use crate::isa::Isa;
use crate::layout::{GROUP, INT_LANES, INT_SEGMENT, RowUnit, UNIT};

/// Packed rows.
#[derive(Clone, Copy)]
pub(crate) struct SparseRows {
    /// Of all rows; [`PLANE`] more bytes are readable.
    pub bytes: *const u8,
    /// Where the rows begin, from the first row of the job on.
    pub starts: *const usize,
    pub rows: usize,
    pub cols: usize,
}

/// Few tokens.
pub(crate) struct SparseJob {
    pub weights: SparseRows,
    /// One tile per token, *rows* layout.
    pub acts: *const u8,
    pub tile_bytes: usize,
    /// `[tokens][stride]`, of which `rows` columns are written.
    pub out: *mut f32,
    pub stride: usize,
}

/// Rows as Q8_0.
pub(crate) struct ExpandJob {
    pub weights: SparseRows,
    /// `[rows][cols / 32 blocks]`
    pub out: *mut u8,
}

/// A unit as [`Planes`].
#[repr(C, align(64))]
struct Expanded([u8; Planes::UNIT_BYTES]);

impl Expanded {
    fn new() -> Self {
        Self([0; Planes::UNIT_BYTES])
    }

    /// Expands the unit whose head and codes these are; returns where the next one's codes are.
    ///
    /// # Safety
    /// The head must be whole, and [`PLANE`] bytes readable after the last code.
    #[inline(always)]
    unsafe fn fill<I: Isa>(&mut self, isa: I, head: *const u8, codes: *const u8) -> *const u8 {
        let to = self.0.as_mut_ptr();
        let mut from = codes;
        // SAFETY: `SparseMatrix::pack` writes whole heads, and `PLANE` bytes after the last code; the
        // scales follow the planes.
        unsafe {
            core::ptr::copy_nonoverlapping(head.add(SCALES), to.add(UNIT), SCALE_BYTES);
            unroll!(k < PLANES, max 4, {
                let mask = u64::from_le_bytes(head.add(8 * k).cast::<[u8; 8]>().read());
                isa.store_bytes(to.add(k * PLANE), isa.expand(mask, from));
                from = from.add(mask.count_ones() as usize);
            });
        }
        from
    }
}

/// Running sums of one segment of a row, which has its heads from `head` and its codes from `codes` on.
/// Returns where the next segment's codes are.
///
/// # Safety
/// See [`SparseJob`]; `cols` columns are there, `x` are the activations of the first.
#[inline(always)]
unsafe fn segment<I: Isa, const T: usize>(
    isa: I,
    head: *const u8,
    codes: *const u8,
    cols: usize,
    x: *const u8,
    tile_bytes: usize,
) -> ([I::Eight; T], *const u8) {
    let (mut codes, mut expanded) = (codes, Expanded::new());
    let mut acc = [isa.zero_eight(); T];
    for u in 0..cols.div_ceil(UNIT) {
        let groups = ((cols - u * UNIT) / GROUP).min(8);
        // SAFETY: the row has this unit; the activations are padded to whole units.
        unsafe {
            let (head, x) = (head.add(u * HEAD), x.add(u * RowUnit::BYTES));
            let next = expanded.fill(isa, head, codes);
            isa.prefetch(head.wrapping_add(AHEAD), HEAD);
            isa.prefetch(codes.wrapping_add(AHEAD), next.offset_from_unsigned(codes));
            codes = next;
            acc = unit::<Planes, I, T>(isa, expanded.0.as_ptr(), x, tile_bytes, groups, acc);
        }
    }
    (acc, codes)
}

/// The whole job.
///
/// # Safety
/// See [`SparseJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn decode<I: Isa, const T: usize>(isa: I, job: &SparseJob) {
    let mut lanes = [[0f32; ROWS * INT_LANES]; T];
    let mut turned = [[0f32; ROWS]; INT_LANES];
    let w = &job.weights;
    for row in (0..w.rows).step_by(ROWS) {
        let rows = (w.rows - row).min(ROWS);
        let mut heads = [core::ptr::null(); ROWS];
        let mut codes = [core::ptr::null(); ROWS];
        // SAFETY: `row + r < rows`; the buffers have room for `ROWS` rows; `MatMut::new` asserts
        // the `T` rows of outputs.
        unsafe {
            for r in 0..rows {
                heads[r] = w.bytes.add(*w.starts.add(row + r));
                codes[r] = heads[r].add(w.cols.div_ceil(UNIT) * HEAD);
            }
            for first in (0..w.cols).step_by(INT_SEGMENT) {
                let cols = (w.cols - first).min(INT_SEGMENT);
                let x = job.acts.add(first / UNIT * RowUnit::BYTES);
                for r in 0..rows {
                    let head = heads[r].add(first / UNIT * HEAD);
                    let (acc, next) = segment::<I, T>(isa, head, codes[r], cols, x, job.tile_bytes);
                    codes[r] = next;
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

/// The whole job.
///
/// # Safety
/// See [`ExpandJob`]; the features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn expand<I: Isa>(isa: I, job: &ExpandJob) {
    let (w, mut expanded, mut to) = (&job.weights, Expanded::new(), job.out);
    for r in 0..w.rows {
        // SAFETY: `SparseMatrix::part` asserts that the row exists, `Kernels::expand` its outputs.
        unsafe {
            let heads = w.bytes.add(*w.starts.add(r));
            let mut codes = heads.add(w.cols.div_ceil(UNIT) * HEAD);
            for first in (0..w.cols).step_by(UNIT) {
                codes = expanded.fill(isa, heads.add(first / UNIT * HEAD), codes);
                let unit = expanded.0.as_ptr();
                for g in 0..((w.cols - first) / GROUP).min(8) {
                    core::ptr::copy_nonoverlapping(unit.add(UNIT + 2 * g), to, 2);
                    for (i, (plane, at)) in runs(g).into_iter().enumerate() {
                        let from = unit.add(plane * PLANE + at);
                        core::ptr::copy_nonoverlapping(from, to.add(2 + 16 * i), 16);
                    }
                    to = to.add(2 + GROUP);
                }
            }
        }
    }
}
