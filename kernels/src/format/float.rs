//! F32, F16 and BF16: plain numbers, little-endian as in the file.

use super::encode::{from_f16, to_f16};
use super::search::Search;
use super::{Blocks, FloatFormat};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::scalar::bf16_bits;
use crate::isa::wide::Vector;

/// 32-bit numbers.
#[derive(Clone, Copy)]
pub(crate) struct F32;

/// IEEE half precision.
#[derive(Clone, Copy)]
pub(crate) struct F16;

/// The upper half of an F32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

/// F32 to BF16, ties to even; NaNs stay NaNs and become quiet (as ggml does).
#[inline(always)]
pub(crate) fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // ggml's NumPy code sets the quiet bit, then rounds all the same; the sum cannot carry out
    // of the kept bits because the lower half has been cleared.
    if nan {
        (bits >> 16 | 64) as u16
    } else {
        rounded as u16
    }
}

impl Blocks for F32 {
    const DTYPE: Dtype = Dtype::F32;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], _: Search, out: &mut [u8]) {
        for (v, b) in x.iter().zip(out.as_chunks_mut::<4>().0) {
            *b = v.to_le_bytes();
        }
    }
}

impl Blocks for F16 {
    const DTYPE: Dtype = Dtype::F16;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], _: Search, out: &mut [u8]) {
        for (v, b) in x.iter().zip(out.as_chunks_mut::<2>().0) {
            *b = to_f16(*v).to_le_bytes();
        }
    }
}

impl Blocks for Bf16 {
    const DTYPE: Dtype = Dtype::BF16;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], _: Search, out: &mut [u8]) {
        for (v, b) in x.iter().zip(out.as_chunks_mut::<2>().0) {
            *b = to_bf16(*v).to_le_bytes();
        }
    }
}

impl FloatFormat for F32 {
    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        for (b, v) in bytes.as_chunks::<4>().0.iter().zip(out) {
            *v = f32::from_le_bytes(*b);
        }
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { isa.load_lanes(p.cast()) }
    }
}

impl FloatFormat for F16 {
    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        for (b, v) in bytes.as_chunks::<2>().0.iter().zip(out) {
            *v = from_f16(u16::from_le_bytes(*b));
        }
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { isa.load_lanes_f16(p) }
    }
}

impl FloatFormat for Bf16 {
    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        for (b, v) in bytes.as_chunks::<2>().0.iter().zip(out) {
            *v = f32::from_bits(bf16_bits(u16::from_le_bytes(*b)));
        }
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { isa.load_lanes_bf16(p) }
    }
}
