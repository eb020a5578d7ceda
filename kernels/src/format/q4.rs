//! Q4_0 and Q4_1: 16 bytes hold weights 0..16 in their low and 16..32 in their high nibbles.

use super::encode::{from_f16, most, to_f16, truncate};
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

/// Low and high nibbles of bytes `AT..AT + 16` of blocks `4 * HALF ..` of the eight at `p`.
///
/// # Safety
/// `p` must be valid for eight blocks of `BYTES`.
#[inline(always)]
unsafe fn nibbles<I: Isa, const BYTES: usize, const AT: usize, const HALF: usize>(
    isa: I,
    p: *const u8,
) -> (I::Bytes, I::Bytes) {
    // SAFETY: the caller vouches for the blocks.
    let packed = unsafe { isa.load_runs::<BYTES, AT, HALF>(p) };
    (isa.low_nibbles(packed), isa.high_nibbles(packed))
}

/// Truncates to a code of 0..=15.
#[inline(always)]
fn code(v: f32) -> u8 {
    truncate(v).clamp(0, 15) as u8
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
            let d = from_f16(u16::from_le_bytes([b[0], b[1]]));
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
            let max = largest(x);
            let d = max / -8.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
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
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: the caller vouches for the unit's eight blocks.
        unsafe { nibbles::<I, Q4_0_BYTES, 2, HALF>(isa, p) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        // SAFETY: the caller vouches for the unit's eight blocks.
        unsafe { isa.gather_f16::<Q4_0_BYTES, 0>(p) }
    }
}

/// The first value that fits. Rarely needed; kept out of the vectorised loops.
#[cold]
#[inline(never)]
fn first(x: &[f32; BLOCK], fits: impl Fn(f32) -> bool) -> f32 {
    x.iter().copied().find(|&v| fits(v)).unwrap_or(0.0)
}

/// The value of the largest magnitude, with its sign; of several, the first, as in the reference.
#[inline(always)]
fn largest(x: &[f32; BLOCK]) -> f32 {
    let most = most(x, |v| v.to_bits() & 0x7fff_ffff);
    let (mut positive, mut negative) = (0, 0);
    for v in x {
        positive |= u32::from(v.to_bits() == most);
        negative |= u32::from(v.to_bits() == most | 1 << 31);
    }
    let max = f32::from_bits(most);
    // An all-zero block has scale -0, whatever the signs of its zeros.
    if negative == 0 || most == 0 {
        max
    } else if positive == 0 {
        -max
    } else {
        first(x, |v| v.abs() == max)
    }
}

/// The smallest and the largest value. If the smallest is a zero, it has the sign of the first
/// zero, as in the reference.
#[inline(always)]
fn range(x: &[f32; BLOCK]) -> (f32, f32) {
    // With negative numbers inverted and the sign bit flipped, floats order like unsigned
    // integers, whose maximum needs no care for NaN and vectorises (so the minimum is a maximum).
    let key = |v: f32| v.to_bits() ^ ((v.to_bits() as i32 >> 31) as u32 | 1 << 31);
    let value = |key: u32| f32::from_bits(key ^ ((!key as i32 >> 31) as u32 | 1 << 31));
    let (mut min, max) = (value(!most(x, |v| !key(v))), value(most(x, key)));
    if min == 0.0 {
        min = first(x, |v| v == 0.0);
    }
    (min, max)
}

impl Blocks for Q4_1 {
    const DTYPE: Dtype = Dtype::Q4_1;

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.as_chunks::<Q4_1_BYTES>().0;
        for (b, out) in blocks.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let d = from_f16(u16::from_le_bytes([b[0], b[1]]));
            let m = from_f16(u16::from_le_bytes([b[2], b[3]]));
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
            let (min, max) = range(x);
            let d = (max - min) / 15.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            b[2..4].copy_from_slice(&to_f16(min).to_le_bytes());
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
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: the caller vouches for the unit's eight blocks.
        unsafe { nibbles::<I, Q4_1_BYTES, 4, HALF>(isa, p) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        // SAFETY: the caller vouches for the unit's eight blocks.
        unsafe { isa.gather_f16::<Q4_1_BYTES, 0>(p) }
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        // SAFETY: the caller vouches for the unit's eight blocks.
        unsafe { isa.gather_f16::<Q4_1_BYTES, 2>(p) }
    }
}
