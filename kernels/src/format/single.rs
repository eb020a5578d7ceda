//! One weight of a block at a time, under the scales that the block has: what a quantizer with
//! error feedback needs, which learns the value of a weight only when those before it are fixed.

use super::k23::unpack as six_bits_q3;
use super::k45::unpack as six_bits;
use super::table::CURVE;
use crate::dtype::Dtype;
use crate::numeric::from_f16;

/// Most weights of a block.
const MOST: usize = 256;

/// Where a part of a code lies: byte, bit, its lowest bit in the code, number of bits.
type Field = (usize, u32, u32, u32);

/// The values that the weights of a block can take, and those they have: weight `j` is
/// `scale * level(code) + min` of its group.
#[derive(Clone)]
pub struct Grid {
    dtype: Dtype,
    /// Weights per scale.
    group: usize,
    /// Scale, its inverse (0 if there is none) and minimum of each group.
    lines: [(f32, f32, f32); 16],
    /// The least and the greatest level; `None`: the sixteen of the IQ4 curve.
    range: Option<(f32, f32)>,
    codes: [u8; MOST],
}

impl Grid {
    /// Whether blocks of this type can be set weight by weight.
    pub fn has(dtype: Dtype) -> bool {
        levels(dtype).is_some()
    }

    /// The grid of a block; `None` if the type has none or this is not one block of it.
    pub fn of(dtype: Dtype, block: &[u8]) -> Option<Grid> {
        let (group, range) = levels(dtype)?;
        (block.len() == dtype.block_bytes()).then(|| Grid {
            dtype,
            group,
            lines: lines(dtype, block),
            range,
            codes: [0; MOST],
        })
    }

    /// Sets weight `j` to the value nearest to `x` and returns that.
    ///
    /// # Panics
    /// If the block has no weight `j`.
    #[inline]
    pub fn quantize_one(&mut self, j: usize, x: f32) -> f32 {
        let (scale, inverse, min) = self.lines[j / self.group];
        let v = (x - min) * inverse;
        let level = match self.range {
            Some((low, high)) => {
                let level = v.clamp(low, high).round_ties_even();
                self.codes[j] = if self.dtype == Dtype::Q8_0 {
                    level as i8 as u8
                } else {
                    (level - low) as u8
                };
                level
            }
            None => {
                let middle = |k: usize| (f32::from(CURVE[k]) + f32::from(CURVE[k + 1])) * 0.5;
                let code = (0..15).fold(0, |code, k| code + u8::from(v > middle(k)));
                self.codes[j] = code;
                f32::from(CURVE[usize::from(code)])
            }
        };
        scale * level + min
    }

    /// Writes the codes of all weights into a block that has these scales.
    ///
    /// # Panics
    /// If `block` is not one block of the type.
    pub fn put(&self, block: &mut [u8]) {
        assert_eq!(block.len(), self.dtype.block_bytes(), "bytes of a block");
        for j in 0..self.dtype.block_len() {
            for (byte, bit, from, bits) in fields(self.dtype, j) {
                let mask = ((1u32 << bits) - 1) as u8;
                let part = self.codes[j] >> from & mask;
                block[byte] = block[byte] & !(mask << bit) | part << bit;
            }
        }
    }
}

/// Weights per scale, and the least and the greatest level.
#[allow(clippy::type_complexity)]
fn levels(dtype: Dtype) -> Option<(usize, Option<(f32, f32)>)> {
    Some(match dtype {
        Dtype::Q4_0 => (32, Some((-8.0, 7.0))),
        Dtype::Q4_1 | Dtype::Q4_K => (32, Some((0.0, 15.0))),
        Dtype::Q5_0 => (32, Some((-16.0, 15.0))),
        Dtype::Q5_1 | Dtype::Q5_K => (32, Some((0.0, 31.0))),
        Dtype::Q8_0 => (32, Some((-127.0, 127.0))),
        Dtype::Q2_K => (16, Some((0.0, 3.0))),
        Dtype::Q3_K => (16, Some((-4.0, 3.0))),
        Dtype::Q6_K => (16, Some((-32.0, 31.0))),
        Dtype::IQ4_NL | Dtype::IQ4_XS => (32, None),
        _ => return None,
    })
}

/// Where the code of weight `j` lies.
fn fields(dtype: Dtype, j: usize) -> impl Iterator<Item = Field> {
    let nibble = |at: usize, half: usize| {
        let (run, i) = (j / (2 * half), j % (2 * half));
        (at + half * run + i % half, 4 * (i / half) as u32, 0, 4)
    };
    let pair = |at: usize, from: u32| {
        let (run, i) = (j / 128, j % 128);
        (at + 32 * run + i % 32, 2 * (i / 32) as u32, from, 2)
    };
    let by_group = |at: usize, from: u32| (at + j % 32, (j / 32) as u32, from, 1);
    let by_weight = |at: usize| (at + j / 8, (j % 8) as u32, 4, 1);
    let (first, second) = match dtype {
        Dtype::Q4_0 | Dtype::IQ4_NL => (nibble(2, 16), None),
        Dtype::Q4_1 => (nibble(4, 16), None),
        Dtype::Q5_0 => (nibble(6, 16), Some(by_weight(2))),
        Dtype::Q5_1 => (nibble(8, 16), Some(by_weight(4))),
        Dtype::Q2_K => (pair(16, 0), None),
        Dtype::Q3_K => (pair(32, 0), Some(by_group(0, 2))),
        Dtype::Q4_K => (nibble(16, 32), None),
        Dtype::Q5_K => (nibble(48, 32), Some(by_group(16, 4))),
        Dtype::Q6_K => (nibble(0, 64), Some(pair(128, 4))),
        Dtype::IQ4_XS => (nibble(8, 16), None),
        _ => ((2 + j, 0, 0, 8), None),
    };
    [Some(first), second].into_iter().flatten()
}

/// Scale, inverse and minimum of each group of a block.
fn lines(dtype: Dtype, b: &[u8]) -> [(f32, f32, f32); 16] {
    let half = |at: usize| from_f16(u16::from_le_bytes([b[at], b[at + 1]]));
    let twelve = |at: usize| core::array::from_fn(|i| b[at + i]);
    core::array::from_fn(|g| {
        let (scale, min) = match dtype {
            Dtype::Q4_1 | Dtype::Q5_1 => (half(0), half(2)),
            Dtype::Q2_K => (
                half(80) * f32::from(b[g] & 15),
                -(half(82) * f32::from(b[g] >> 4)),
            ),
            Dtype::Q3_K => (half(108) * f32::from(six_bits_q3(twelve(96))[g] as i8), 0.0),
            Dtype::Q4_K | Dtype::Q5_K => {
                let (scales, mins) = six_bits(twelve(4));
                (
                    half(0) * f32::from(scales[g % 8]),
                    -(half(2) * f32::from(mins[g % 8])),
                )
            }
            Dtype::Q6_K => (half(208) * f32::from(b[192 + g] as i8), 0.0),
            Dtype::IQ4_XS => {
                let g = g % 8;
                let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * g) & 3;
                let low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
                (
                    half(0) * f32::from((low | (high << 4) as u8) as i8 - 32),
                    0.0,
                )
            }
            _ => (half(0), 0.0),
        };
        let inverse = 1.0 / scale;
        (scale, if inverse.is_finite() { inverse } else { 0.0 }, min)
    })
}
