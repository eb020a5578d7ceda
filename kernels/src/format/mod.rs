//! Weight formats: where codes, scales and minimums lie in a block, and the scalar definitions of
//! encoding and decoding. No intrinsics; a format is written in terms of [`Isa`] operations.
//!
//! A quantized weight is `scale * (code - OFFSET)`, plus a minimum in some formats. Kernels walk
//! rows in *units* of 256 weights: eight blocks of 32, or one K-quant super-block.

use crate::dtype::Dtype;
use crate::isa::Isa;

pub(crate) mod encode;
pub(crate) mod float;
pub(crate) mod q4;
pub(crate) mod q8;

/// Blocks as slices: the part of a format that quantizing and dequantizing need.
pub(crate) trait Blocks: Copy + 'static {
    const DTYPE: Dtype;

    /// Decodes whole blocks. Lengths agree.
    fn dequantize(bytes: &[u8], out: &mut [f32]);
    /// Encodes whole blocks, as ggml's reference does. Lengths agree.
    fn quantize(x: &[f32], out: &mut [u8]);
}

/// How the stored codes are to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Two's complement, -128..=127.
    Signed,
    /// 0..=127; the weight is `scale * (code - offset)`.
    Small { offset: u8 },
}

impl Codes {
    /// The stored code of weight zero.
    pub const fn offset(self) -> u8 {
        match self {
            Self::Signed => 0,
            Self::Small { offset } => offset,
        }
    }
}

/// A format of integer codes with a scale per group of 32 weights.
pub(crate) trait QuantFormat: Blocks {
    /// Bytes of a unit of 256 weights.
    const UNIT_BYTES: usize = 256 / Self::DTYPE.block_len() * Self::DTYPE.block_bytes();
    const CODES: Codes;
    /// Whether each group has a minimum that is added to its weights.
    const MINS: bool;

    /// Codes of groups `4 * HALF ..` of the unit at `p`: the first 16 weights of each of the four
    /// groups, and the last 16 of each.
    ///
    /// # Safety
    /// `p` must be valid for `UNIT_BYTES`.
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes);

    /// The eight scales of the unit at `p`.
    ///
    /// # Safety
    /// As for `codes`.
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> I::Eight;

    /// The eight minimums of the unit at `p`; only called if `MINS`.
    ///
    /// # Safety
    /// As for `codes`.
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> I::Eight {
        let _ = p;
        isa.zero_eight()
    }
}

/// A format of plain numbers.
pub(crate) trait FloatFormat: Blocks {
    const BYTES: usize = Self::DTYPE.block_bytes();

    /// 16 numbers as F32.
    ///
    /// # Safety
    /// `p` must be valid for `16 * BYTES`.
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes;
}
