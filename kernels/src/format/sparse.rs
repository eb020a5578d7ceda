//! Q8_0 of which most codes are zero: masks, and the codes that are not. Made in memory; no type of
//! files.
//!
//! ```text
//! row    = the head of each unit of 256 weights, then the codes of all units that are not zero
//! head   = four masks (u64) and eight scales (F16), both little-endian
//! mask k = bytes of plane k: first (k even) or last (k odd) 16 codes of groups 4 * (k / 2) ..
//! ```
//! Planes are what kernels multiply at a time, so bytes are expanded straight to where they are
//! used. Groups that an incomplete last unit lacks are zeros.

use super::{Blocks, QuantFormat, both};
use crate::dtype::Dtype;
use crate::format::Codes;
use crate::isa::Isa;
use crate::layout::UNIT;

/// Planes of a unit.
pub(crate) const PLANES: usize = 4;
/// Bytes of a plane.
pub(crate) const PLANE: usize = UNIT / PLANES;
/// Where the scales are in a head.
pub(crate) const SCALES: usize = 8 * PLANES;
/// Bytes of a head.
pub(crate) const HEAD: usize = SCALES + SCALE_BYTES;
/// Bytes of the scales of a unit.
pub(crate) const SCALE_BYTES: usize = 16;

/// An expanded unit: its planes, then its scales.
#[derive(Clone, Copy)]
pub(crate) struct Planes;

impl Blocks for Planes {
    const DTYPE: Dtype = Dtype::Q8_0;
    const WRITES: bool = false;
}

impl QuantFormat for Planes {
    const UNIT_BYTES: usize = UNIT + SCALE_BYTES;
    const CODES: Codes = Codes::Signed;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `Expanded` of `ops::sparse` has `UNIT_BYTES`: four planes, then the scales.
        unsafe {
            let p = p.add(2 * PLANE * HALF);
            let runs = [0, 16, 32, 48];
            (isa.load_at(p, runs), isa.load_at(p.add(PLANE), runs))
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: as above; the scales are eight, side by side.
        both(unsafe { isa.gather_f16::<2, 0>(p.add(UNIT)) })
    }
}

/// Plane and byte of the first and of the last 16 codes of group `g` of a unit.
pub(crate) const fn runs(g: usize) -> [(usize, usize); 2] {
    let plane = g / 4 * 2;
    [(plane, g % 4 * 16), (plane + 1, g % 4 * 16)]
}
