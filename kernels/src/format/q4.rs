//! Q4_0 and Q4_1: 16 bytes hold weights 0..16 in their low and 16..32 in their high nibbles.

use super::encode::{code, largest, range};
use super::search::{self, Batch, Encode, Integers, Search};
use super::{Blocks, Codes, QuantFormat, both, gather, runs};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::to_f16;

const BLOCK: usize = 32;
const Q4_0_BYTES: usize = 2 + BLOCK / 2;
const Q4_1_BYTES: usize = 4 + BLOCK / 2;
const _: () = assert!(Q4_0_BYTES == Dtype::Q4_0.block_bytes());
const _: () = assert!(Q4_1_BYTES == Dtype::Q4_1.block_bytes());

/// 4 bits, one scale, codes minus 8.
#[derive(Clone, Copy)]
pub(crate) struct Q4_0;

/// 4 bits, a scale and a minimum.
#[derive(Clone, Copy)]
pub(crate) struct Q4_1;

/// Low and high nibbles of bytes `AT..AT + 16` of blocks `4 * HALF ..` of the unit at `p`.
///
/// # Safety
/// `p` must be valid for `F::UNIT_BYTES`.
#[inline(always)]
pub(super) unsafe fn nibbles<
    F: QuantFormat,
    I: Isa,
    const BYTES: usize,
    const AT: usize,
    const HALF: usize,
>(
    isa: I,
    p: *const u8,
) -> (I::Bytes, I::Bytes) {
    // SAFETY: `p` is valid for a unit.
    let packed = unsafe { runs::<F, I, BYTES, AT, HALF>(isa, p) };
    split(isa, packed).into()
}

/// Low and high nibbles.
#[inline(always)]
pub(super) fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
    [
        isa.shift_runs(packed, [0; 4], 15),
        isa.shift_runs(packed, [-4; 4], 15),
    ]
}

/// Writes the low nibbles of the codes.
#[inline(always)]
pub(super) fn pack(codes: &[u8; BLOCK], out: &mut [u8]) {
    for (k, byte) in out.iter_mut().enumerate() {
        *byte = codes[k] & 15 | codes[k + BLOCK / 2] << 4;
    }
}

impl Blocks for Q4_0 {
    const DTYPE: Dtype = Dtype::Q4_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        if !search.is_formula() {
            return search::blocks::<Self, V, BLOCK, Q4_0_BYTES>(x, search, out);
        }
        let blocks = out.as_chunks_mut::<Q4_0_BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let max = largest(x);
            let d = max / -8.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            let mut codes = [0; BLOCK];
            for (c, v) in codes.iter_mut().zip(x) {
                *c = code(v * inverse + 8.5, 15);
            }
            pack(&codes, &mut b[2..]);
        }
    }
}

impl Encode<BLOCK, Q4_0_BYTES> for Q4_0 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<BLOCK>, best: bool, blocks: &mut [[u8; Q4_0_BYTES]]) {
        let levels = Integers { low: -8, high: 7 };
        let formula = search::extreme::<V, _>(batch) * V::all(-1.0 / 8.0);
        let d = search::single(batch, levels, formula, best);
        let codes = search::encode(batch, d, levels);
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            pack(codes, &mut b[2..]);
        }
    }
}

impl QuantFormat for Q4_0 {
    const CODES: Codes = Codes::Small { offset: 8 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `p` is valid for a unit.
        unsafe { nibbles::<Self, I, Q4_0_BYTES, 2, HALF>(isa, p) }
    }

    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        // SAFETY: `p` is valid for a unit.
        unsafe { runs::<Self, I, Q4_0_BYTES, 2, HALF>(isa, p) }
    }

    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        split(isa, packed)
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, Q4_0_BYTES, 0>(isa, p) })
    }
}

impl Blocks for Q4_1 {
    const DTYPE: Dtype = Dtype::Q4_1;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        if !search.is_formula() {
            return search::blocks::<Self, V, BLOCK, Q4_1_BYTES>(x, search, out);
        }
        let blocks = out.as_chunks_mut::<Q4_1_BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let (min, max) = range(x);
            let d = (max - min) / 15.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            b[2..4].copy_from_slice(&to_f16(min).to_le_bytes());
            let mut codes = [0; BLOCK];
            for (c, v) in codes.iter_mut().zip(x) {
                *c = code((v - min) * inverse + 0.5, 15);
            }
            pack(&codes, &mut b[4..]);
        }
    }
}

impl Encode<BLOCK, Q4_1_BYTES> for Q4_1 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<BLOCK>, best: bool, blocks: &mut [[u8; Q4_1_BYTES]]) {
        let line = search::line::<V, BLOCK>(batch, 15.0, best);
        let codes = line.encode(batch, 15.0);
        let (d, min) = (line.scale.store().0, line.min.store().0);
        for (i, (b, codes)) in blocks.iter_mut().zip(&codes).enumerate() {
            b[..2].copy_from_slice(&to_f16(d[i]).to_le_bytes());
            b[2..4].copy_from_slice(&to_f16(-min[i]).to_le_bytes());
            pack(codes, &mut b[4..]);
        }
    }
}

impl QuantFormat for Q4_1 {
    const CODES: Codes = Codes::Small { offset: 0 };
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `p` is valid for a unit.
        unsafe { nibbles::<Self, I, Q4_1_BYTES, 4, HALF>(isa, p) }
    }

    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        // SAFETY: `p` is valid for a unit.
        unsafe { runs::<Self, I, Q4_1_BYTES, 4, HALF>(isa, p) }
    }

    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        split(isa, packed)
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, Q4_1_BYTES, 0>(isa, p) })
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, Q4_1_BYTES, 2>(isa, p) })
    }
}
