//! Where the numbers inside a block can be NaN or infinite.
//!
//! Quantized weights are integers; only the scales (and minimums) of a block are floats. Offsets
//! are those of the block layouts of ggml (`ggml-common.h`).

use crate::dtype::Dtype;

/// A float inside a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Number {
    /// IEEE half precision, little-endian.
    F16,
    /// The upper half of an F32.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// A power of two, one byte; 255 is NaN (OCP microscaling formats).
    E8M0,
}

impl Number {
    /// Bytes of the number.
    pub fn bytes(self) -> usize {
        match self {
            Self::E8M0 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// True for NaN and infinities: all exponent bits are set. `bytes` are those of the number.
    pub fn is_bad(self, bytes: &[u8]) -> bool {
        match (self, bytes) {
            (Self::E8M0, [b]) => *b == 255,
            (Self::F16, [_, hi]) => hi & 0x7c == 0x7c,
            (Self::BF16, [lo, hi]) | (Self::F32, [_, _, lo, hi]) => {
                hi & 0x7f == 0x7f && lo & 0x80 == 0x80
            }
            (Self::F64, [.., lo, hi]) => hi & 0x7f == 0x7f && lo & 0xf0 == 0xf0,
            _ => true,
        }
    }
}

use Number::{BF16, E8M0, F16, F32, F64};

/// Type, and (offset in the block, number) of its floats. The first one scales the integers, the
/// second one, if any, is the offset or minimum.
pub const FIELDS: &[(Dtype, &[(usize, Number)])] = &[
    (Dtype::F32, &[(0, F32)]),
    (Dtype::F16, &[(0, F16)]),
    (Dtype::BF16, &[(0, BF16)]),
    (Dtype::F64, &[(0, F64)]),
    (Dtype::Q4_0, &[(0, F16)]),
    (Dtype::Q4_1, &[(0, F16), (2, F16)]),
    (Dtype::Q5_0, &[(0, F16)]),
    (Dtype::Q5_1, &[(0, F16), (2, F16)]),
    (Dtype::Q8_0, &[(0, F16)]),
    (Dtype::Q8_1, &[(0, F16), (2, F16)]),
    (Dtype::Q2_K, &[(80, F16), (82, F16)]),
    (Dtype::Q3_K, &[(108, F16)]),
    (Dtype::Q4_K, &[(0, F16), (2, F16)]),
    (Dtype::Q5_K, &[(0, F16), (2, F16)]),
    (Dtype::Q6_K, &[(208, F16)]),
    (Dtype::Q8_K, &[(0, F32)]),
    (Dtype::IQ2_XXS, &[(0, F16)]),
    (Dtype::IQ2_XS, &[(0, F16)]),
    (Dtype::IQ2_S, &[(0, F16)]),
    (Dtype::IQ3_XXS, &[(0, F16)]),
    (Dtype::IQ3_S, &[(0, F16)]),
    (Dtype::IQ1_S, &[(0, F16)]),
    (Dtype::IQ4_NL, &[(0, F16)]),
    (Dtype::IQ4_XS, &[(0, F16)]),
    (Dtype::TQ1_0, &[(52, F16)]),
    (Dtype::TQ2_0, &[(64, F16)]),
    (Dtype::MXFP4, &[(0, E8M0)]),
    (Dtype::NVFP4, &[]), // its 8-bit floats have no NaN and no infinity
    (Dtype::Q1_0, &[(0, F16)]),
    (Dtype::Q2_0, &[(0, F16)]),
    (Dtype::I8, &[]),
    (Dtype::I16, &[]),
    (Dtype::I32, &[]),
    (Dtype::I64, &[]),
];

/// The floats of a block of this type, `None` when they are not plain numbers (IQ1_M spreads its
/// scale over four fields).
pub fn fields(dtype: Dtype) -> Option<&'static [(usize, Number)]> {
    FIELDS.iter().find(|(t, _)| *t == dtype).map(|(_, f)| *f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_inside_their_blocks() {
        for (dtype, fields) in FIELDS {
            for (at, number) in *fields {
                assert!(at + number.bytes() <= dtype.block_bytes(), "{dtype}");
            }
        }
    }

    #[test]
    fn infinities_count_and_large_numbers_do_not() {
        let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
        assert!(F16.is_bad(&half(f32::INFINITY)) && !F16.is_bad(&half(65504.0)));
        assert!(
            F32.is_bad(&f32::NEG_INFINITY.to_le_bytes()) && !F32.is_bad(&f32::MAX.to_le_bytes())
        );
        assert!(F64.is_bad(&f64::NAN.to_le_bytes()) && !F64.is_bad(&f64::MAX.to_le_bytes()));
        let brain = |x: f32| half::bf16::from_f32(x).to_le_bytes();
        assert!(BF16.is_bad(&brain(f32::INFINITY)) && !BF16.is_bad(&brain(3e38)));
        assert!(E8M0.is_bad(&[255]) && !E8M0.is_bad(&[254]));
    }
}
