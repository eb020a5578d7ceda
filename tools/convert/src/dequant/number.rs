//! Types of stored numbers, floats of 8 bits and fewer among them.

use std::sync::Arc;

use geb_kernels::dtype::Dtype;

use crate::tensor::Elem;

/// A type of stored numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Number {
    F64,
    F32,
    F16,
    Bf16,
    /// Sign, 4 bits of exponent (bias 7), 3 bits; no infinities, 0x7F is NaN.
    E4m3,
    /// The upper half of an F16.
    E5m2,
    /// A power of two (bias 127); 0xFF is NaN.
    E8m0,
    I8,
    U8,
    I32,
    I64,
}

impl Number {
    /// The numbers of a stored tensor.
    pub fn of(elem: Elem) -> Option<Number> {
        Some(match elem {
            Elem::Float(Dtype::F64) => Number::F64,
            Elem::Float(Dtype::F32) => Number::F32,
            Elem::Float(Dtype::F16) => Number::F16,
            Elem::Float(Dtype::BF16) => Number::Bf16,
            Elem::Other("F8_E4M3") => Number::E4m3,
            Elem::Other("F8_E5M2") => Number::E5m2,
            Elem::Other("F8_E8M0") => Number::E8m0,
            Elem::Other("I8") => Number::I8,
            Elem::Other("U8") => Number::U8,
            Elem::Other("I32") => Number::I32,
            Elem::Other("I64") => Number::I64,
            _ => return None,
        })
    }

    /// Whether it is a float of 8 bits.
    pub fn is_f8(self) -> bool {
        matches!(self, Number::E4m3 | Number::E5m2)
    }

    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Number::F64 | Number::I64 => 8,
            Number::F32 | Number::I32 => 4,
            Number::F16 | Number::Bf16 => 2,
            _ => 1,
        }
    }

    /// The value of little-endian bytes.
    pub fn value(self, b: &[u8]) -> f32 {
        let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let long = |b: &[u8]| u64::from(word(b)) | u64::from(word(&b[4..])) << 32;
        match self {
            Number::F64 => f64::from_bits(long(b)) as f32,
            Number::F32 => f32::from_bits(word(b)),
            Number::F16 => half::f16::from_bits(half(b)).to_f32(),
            Number::Bf16 => f32::from_bits(u32::from(half(b)) << 16),
            Number::E4m3 => e4m3(b[0]),
            Number::E5m2 => half::f16::from_bits(u16::from(b[0]) << 8).to_f32(),
            Number::E8m0 => e8m0(b[0]),
            Number::I8 => f32::from(b[0] as i8),
            Number::U8 => f32::from(b[0]),
            Number::I32 => word(b) as i32 as f32,
            Number::I64 => long(b) as i64 as f32,
        }
    }
}

fn e4m3(b: u8) -> f32 {
    let (sign, exponent, rest) = (u32::from(b >> 7), u32::from(b >> 3 & 15), u32::from(b & 7));
    let size = match (exponent, rest) {
        (15, 7) => f32::NAN,
        (0, m) => m as f32 / 512.0,
        (e, m) => f32::from_bits((e + 120) << 23 | m << 20),
    };
    if sign == 1 { -size } else { size }
}

fn e8m0(b: u8) -> f32 {
    match b {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// The values of E2M1: sign, 2 bits of exponent (bias 1), 1 bit.
pub(super) fn e2m1() -> Arc<[f32]> {
    let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    size.iter().copied().chain(size.map(|v| -v)).collect()
}

/// The values of E2M3: sign, 2 bits of exponent (bias 1), 3 bits.
pub(super) fn e2m3() -> Arc<[f32]> {
    let size = |c: u8| match (c >> 3, f32::from(c & 7) / 8.0) {
        (0, m) => m,
        (e, m) => (1.0 + m) * f32::from(1u8 << (e - 1)),
    };
    (0..32).map(size).chain((0..32).map(|c| -size(c))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits() {
        let cases = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 / 512.0),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7E, 448.0),
            (0xFE, -448.0),
            (0xB9, -1.125),
        ];
        for (code, value) in cases {
            assert_eq!(Number::E4m3.value(&[code]), value, "{code:#x}");
        }
        let nan = |number: Number, code: u8| number.value(&[code]).is_nan();
        assert!(nan(Number::E4m3, 0x7F) && nan(Number::E4m3, 0xFF) && nan(Number::E8m0, 255));
        assert_eq!(Number::E5m2.value(&[0x3C]), 1.0);
        assert_eq!(Number::E5m2.value(&[0x7B]), 57344.0);
        assert_eq!(Number::E5m2.value(&[0x7C]), f32::INFINITY);
        assert_eq!(Number::E8m0.value(&[127]), 1.0);
        assert_eq!(Number::E8m0.value(&[0]), 2f32.powi(-127));
        assert_eq!(Number::E8m0.value(&[254]), 2f32.powi(127));
        let (four, six) = (e2m1(), e2m3());
        assert_eq!(four[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(four[15], -6.0);
        assert_eq!((six[1], six[8], six[31], six[63]), (0.125, 1.0, 7.5, -7.5));
    }
}
