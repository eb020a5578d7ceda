//! Q5_0 and Q5_1: like Q4_0 and Q4_1, with the fifth bits of the 32 weights as a word before the
//! nibbles.

use super::encode::{code, largest, range};
use super::q4::{nibbles, pack};
use super::search::{self, Batch, Encode, Integers, Search};
use super::{Blocks, Codes, QuantFormat, both, gather, read};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::to_f16;

const BLOCK: usize = 32;
const Q5_0_BYTES: usize = 2 + 4 + BLOCK / 2;
const Q5_1_BYTES: usize = 4 + 4 + BLOCK / 2;
const _: () = assert!(Q5_0_BYTES == Dtype::Q5_0.block_bytes());
const _: () = assert!(Q5_1_BYTES == Dtype::Q5_1.block_bytes());

/// 5 bits, one scale, codes minus 16.
#[derive(Clone, Copy)]
pub(crate) struct Q5_0;

/// 5 bits, a scale and a minimum.
#[derive(Clone, Copy)]
pub(crate) struct Q5_1;

/// Codes of blocks `4 * HALF ..` of the eight at `p`, whose words of fifth bits are at byte `AT`,
/// the nibbles at byte `NEXT`.
///
/// # Safety
/// `p` must be valid for `F::UNIT_BYTES`.
#[inline(always)]
unsafe fn codes<
    F: QuantFormat,
    I: Isa,
    const BYTES: usize,
    const AT: usize,
    const NEXT: usize,
    const HALF: usize,
>(
    isa: I,
    p: *const u8,
) -> (I::Bytes, I::Bytes) {
    const { assert!(NEXT == AT + 4) };
    // SAFETY: `p` is valid for a unit; `nibbles` asserts that its blocks have bytes after `NEXT`.
    unsafe {
        let (low, high) = nibbles::<F, I, BYTES, NEXT, HALF>(isa, p);
        let (mut first, mut last) = (0, 0);
        for i in 0..4 {
            let bits = u32::from_le_bytes(read(p.add((4 * HALF + i) * BYTES + AT)));
            first |= u64::from(bits & 0xffff) << (16 * i);
            last |= u64::from(bits >> 16) << (16 * i);
        }
        (
            isa.or_bytes(low, isa.spread_bits(first, 16)),
            isa.or_bytes(high, isa.spread_bits(last, 16)),
        )
    }
}

/// Writes fifth bits and nibbles.
#[inline(always)]
fn put(codes: &[u8; BLOCK], out: &mut [u8]) {
    for (codes, byte) in codes.as_chunks::<8>().0.iter().zip(&mut out[..4]) {
        *byte = (0..8).fold(0, |bits, k| bits | codes[k] >> 4 << k);
    }
    pack(codes, &mut out[4..]);
}

impl Blocks for Q5_0 {
    const DTYPE: Dtype = Dtype::Q5_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        if !search.is_formula() {
            return search::blocks::<Self, V, BLOCK, Q5_0_BYTES>(x, search, out);
        }
        let blocks = out.as_chunks_mut::<Q5_0_BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let d = largest(x) / -16.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            put(
                &array!(32, k => code(x[k] * inverse + 16.5, 31)),
                &mut b[2..],
            );
        }
    }
}

impl Encode<BLOCK, Q5_0_BYTES> for Q5_0 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<BLOCK>, best: bool, blocks: &mut [[u8; Q5_0_BYTES]]) {
        let levels = Integers { low: -16, high: 15 };
        let formula = search::extreme::<V, _>(batch) * V::all(-1.0 / 16.0);
        let d = search::single(batch, levels, formula, best);
        let codes = search::encode(batch, d, levels);
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            put(codes, &mut b[2..]);
        }
    }
}

impl QuantFormat for Q5_0 {
    const CODES: Codes = Codes::Small { offset: 16 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `p` is valid for a unit.
        unsafe { codes::<Self, I, Q5_0_BYTES, 2, 6, HALF>(isa, p) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, Q5_0_BYTES, 0>(isa, p) })
    }
}

impl Blocks for Q5_1 {
    const DTYPE: Dtype = Dtype::Q5_1;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        if !search.is_formula() {
            return search::blocks::<Self, V, BLOCK, Q5_1_BYTES>(x, search, out);
        }
        let blocks = out.as_chunks_mut::<Q5_1_BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let (min, max) = range(x);
            let d = (max - min) / 31.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            b[2..4].copy_from_slice(&to_f16(min).to_le_bytes());
            put(
                &array!(32, k => code((x[k] - min) * inverse + 0.5, 31)),
                &mut b[4..],
            );
        }
    }
}

impl Encode<BLOCK, Q5_1_BYTES> for Q5_1 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<BLOCK>, best: bool, blocks: &mut [[u8; Q5_1_BYTES]]) {
        let line = search::line::<V, BLOCK>(batch, 31.0, best);
        let codes = line.encode(batch, 31.0);
        let (d, min) = (line.scale.store().0, line.min.store().0);
        for (i, (b, codes)) in blocks.iter_mut().zip(&codes).enumerate() {
            b[..2].copy_from_slice(&to_f16(d[i]).to_le_bytes());
            b[2..4].copy_from_slice(&to_f16(-min[i]).to_le_bytes());
            put(codes, &mut b[4..]);
        }
    }
}

impl QuantFormat for Q5_1 {
    const CODES: Codes = Codes::Small { offset: 0 };
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `p` is valid for a unit.
        unsafe { codes::<Self, I, Q5_1_BYTES, 4, 8, HALF>(isa, p) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, Q5_1_BYTES, 0>(isa, p) })
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, Q5_1_BYTES, 2>(isa, p) })
    }
}
