//! Q4_0 and Q4_1: 16 bytes hold weights 0..16 in their low and 16..32 in their high nibbles.

use half::f16;

use super::{Blocks, Codes, QuantFormat};
use crate::dtype::Dtype;
use crate::isa::Isa;

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

/// Both 16-byte halves of the codes of four blocks whose nibbles start at `p`.
///
/// # Safety
/// `p` must be valid for 16 bytes at each of `0, stride, 2 * stride, 3 * stride`.
#[inline(always)]
unsafe fn nibbles<I: Isa>(isa: I, p: *const u8, stride: usize) -> (I::Bytes, I::Bytes) {
    // SAFETY: exactly the ranges the caller vouches for.
    let packed = unsafe { isa.load_runs(p, [0, stride, 2 * stride, 3 * stride]) };
    (isa.low_nibbles(packed), isa.high_nibbles(packed))
}

/// Truncates to a code of 0..=15; what does not fit (only when the inverse scale overflowed)
/// becomes 0, as the conversion does in the reference.
#[inline(always)]
fn code(v: f32) -> u8 {
    if v.abs() < 1024.0 {
        (v as i32).clamp(0, 15) as u8
    } else {
        0
    }
}

#[inline(always)]
fn pack(codes: &[u8; BLOCK], out: &mut [u8]) {
    for (k, byte) in out.iter_mut().enumerate() {
        *byte = codes[k] | codes[k + BLOCK / 2] << 4;
    }
}

impl Blocks for Q4_0 {
    const DTYPE: Dtype = Dtype::Q4_0;

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.as_chunks::<Q4_0_BYTES>().0;
        for (b, out) in blocks.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let d = f16::from_le_bytes([b[0], b[1]]).to_f32();
            for k in 0..BLOCK / 2 {
                out[k] = d * f32::from((b[2 + k] & 15) as i8 - 8);
                out[k + BLOCK / 2] = d * f32::from((b[2 + k] >> 4) as i8 - 8);
            }
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<Q4_0_BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            // The first value of the largest magnitude keeps its sign and becomes code 0.
            let mut most = 0u32;
            for v in x {
                most = most.max(v.to_bits() & 0x7fff_ffff);
            }
            let mut max = f32::from_bits(most);
            if most != 0 {
                let first = x.iter().find(|v| v.to_bits() & 0x7fff_ffff == most);
                max = first.copied().unwrap_or(max);
            }
            let d = max / -8.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            let mut codes = [0; BLOCK];
            for (c, v) in codes.iter_mut().zip(x) {
                *c = code(v * inverse + 8.5);
            }
            pack(&codes, &mut b[2..]);
        }
    }
}

impl QuantFormat for Q4_0 {
    const CODES: Codes = Codes::Small { offset: 8 };
    const MINS: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(isa: I, p: *const u8, half: usize) -> (I::Bytes, I::Bytes) {
        // SAFETY: bytes 2..18 of blocks `4 * half ..` of the unit's eight.
        unsafe { nibbles(isa, p.add(4 * half * Q4_0_BYTES + 2), Q4_0_BYTES) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        // SAFETY: the first two bytes of each of the unit's eight blocks.
        unsafe { isa.gather_f16(p, Q4_0_BYTES) }
    }
}

/// The smallest (`SIGN` = 1) or largest (`SIGN` = -1) value; among equal ones (only +0 and -0
/// differ in bits) the first, as in the reference.
#[inline(always)]
fn extreme<const SIGN: i32>(x: &[f32; BLOCK]) -> f32 {
    let mut best = x[0];
    for v in x {
        let better = if SIGN > 0 { *v < best } else { *v > best };
        best = if better { *v } else { best };
    }
    best
}

impl Blocks for Q4_1 {
    const DTYPE: Dtype = Dtype::Q4_1;

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.as_chunks::<Q4_1_BYTES>().0;
        for (b, out) in blocks.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let d = f16::from_le_bytes([b[0], b[1]]).to_f32();
            let m = f16::from_le_bytes([b[2], b[3]]).to_f32();
            for k in 0..BLOCK / 2 {
                out[k] = d * f32::from(b[4 + k] & 15) + m;
                out[k + BLOCK / 2] = d * f32::from(b[4 + k] >> 4) + m;
            }
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<Q4_1_BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let (min, max) = (extreme::<1>(x), extreme::<-1>(x));
            let d = (max - min) / 15.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            b[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
            let mut codes = [0; BLOCK];
            for (c, v) in codes.iter_mut().zip(x) {
                *c = code((v - min) * inverse + 0.5);
            }
            pack(&codes, &mut b[4..]);
        }
    }
}

impl QuantFormat for Q4_1 {
    const CODES: Codes = Codes::Small { offset: 0 };
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa>(isa: I, p: *const u8, half: usize) -> (I::Bytes, I::Bytes) {
        // SAFETY: bytes 4..20 of blocks `4 * half ..` of the unit's eight.
        unsafe { nibbles(isa, p.add(4 * half * Q4_1_BYTES + 4), Q4_1_BYTES) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        // SAFETY: the first two bytes of each of the unit's eight blocks.
        unsafe { isa.gather_f16(p, Q4_1_BYTES) }
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        // SAFETY: bytes 2..4 of each of the unit's eight blocks.
        unsafe { isa.gather_f16(p.add(2), Q4_1_BYTES) }
    }
}
