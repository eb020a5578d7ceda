//! F32, F16 and BF16: plain numbers, little-endian as in the file.

use super::search::Search;
use super::{Blocks, FloatFormat};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::{from_bf16, from_f16, to_bf16, to_f16};

/// 32-bit numbers.
#[derive(Clone, Copy)]
pub(crate) struct F32;

/// IEEE half precision.
#[derive(Clone, Copy)]
pub(crate) struct F16;

/// The upper half of an F32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

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
        // SAFETY: 16 numbers; `ops::float` copies what is less to a buffer.
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
        // SAFETY: as for F32.
        unsafe { isa.load_lanes_f16(p) }
    }
}

impl FloatFormat for Bf16 {
    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        for (b, v) in bytes.as_chunks::<2>().0.iter().zip(out) {
            *v = from_bf16(u16::from_le_bytes(*b));
        }
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: as for F32.
        unsafe { isa.load_lanes_bf16(p) }
    }
}
