//! Q2_K and Q3_K: 16 groups of 16; 2-bit codes, of which four share a byte: the weights `32 i ..`
//! of each 128 at bit `2 i`.
//!
//! Q2_K: 16 bytes with a scale (low nibble) and a minimum (high nibble), the codes, then F16
//! scales of both. Q3_K: third bits (bit `g` of byte `j`: weight `j` of group `g`), the codes, 16
//! scales of 6 bits, an F16 scale of the scales.

use super::search::{self, Batch, Encode, Integers, Search};
use super::{Blocks, Codes, QuantFormat, read};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::to_f16;

const Q2_K_CODES: usize = 16;
const Q2_K_NUMBERS: usize = 80;
const Q3_K_CODES: usize = 32;
const Q3_K_SCALES: usize = 96;
const Q3_K_SCALE: usize = 108;
const _: () = assert!(Q2_K_NUMBERS + 4 == Dtype::Q2_K.block_bytes());
const _: () = assert!(Q3_K_SCALE + 2 == Dtype::Q3_K.block_bytes());

/// The low half of each of 16 bytes.
const LOW_NIBBLES: u128 = u128::MAX / 255 * 15;

const LEVELS: Integers = Integers { low: -4, high: 3 };

/// 2 bits, a scale and a minimum per 16.
#[derive(Clone, Copy)]
pub(crate) struct Q2K;

/// 3 bits, a scale per 16.
#[derive(Clone, Copy)]
pub(crate) struct Q3K;

/// 2-bit codes of half a block; `p` is where all codes start.
///
/// # Safety
/// `p` must be valid for 64 bytes.
#[inline(always)]
pub(super) unsafe fn pairs<I: Isa, const HALF: usize>(
    isa: I,
    p: *const u8,
) -> (I::Bytes, I::Bytes) {
    const BY: [i32; 4] = [0, -2, -4, -6];
    // SAFETY: 32 of the 64 bytes.
    unsafe {
        let p = p.add(32 * HALF);
        let (low, high) = (isa.load_at(p, [0; 4]), isa.load_at(p, [16; 4]));
        (isa.shift_runs(low, BY, 3), isa.shift_runs(high, BY, 3))
    }
}

/// Writes the low two bits of 256 codes.
#[inline(always)]
pub(super) fn put_pairs(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes
        .as_chunks::<128>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<32>().0)
    {
        for j in 0..32 {
            let bits = |i: usize| (codes[32 * i + j] & 3) << (2 * i);
            out[j] = bits(0) | bits(1) | bits(2) | bits(3);
        }
    }
}

impl Blocks for Q2K {
    const DTYPE: Dtype = Dtype::Q2_K;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 16, 84>(x, search, out);
    }
}

impl Encode<16, 84> for Q2K {
    const GROUPS: usize = 16;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<16>, best: bool, blocks: &mut [[u8; 84]]) {
        let fit = search::affine::<V, 16, 16>(batch, 3.0, 15.0, best);
        let codes = fit.line().encode(batch, 3.0);
        let (scales, mins) = (fit.scales.store().0, fit.mins.store().0);
        for b in blocks {
            for j in 0..16 {
                b[j] = scales[j] as u8 | (mins[j] as u8) << 4;
            }
            put_pairs(codes.as_flattened(), &mut b[Q2_K_CODES..Q2_K_NUMBERS]);
            b[80..82].copy_from_slice(&to_f16(fit.d.store().0[0]).to_le_bytes());
            b[82..84].copy_from_slice(&to_f16(fit.dmin.store().0[0]).to_le_bytes());
        }
    }
}

impl QuantFormat for Q2K {
    const CODES: Codes = Codes::Small { offset: 0 };
    const GROUP: usize = 16;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: bytes 16..80 of the block.
        unsafe { pairs::<I, HALF>(isa, p.add(Q2_K_CODES)) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: bytes 0..16 and 80..82 of the block.
        unsafe {
            let d = isa.splat_f16(p.add(Q2_K_NUMBERS));
            let scales = u128::from_le_bytes(read(p)) & LOW_NIBBLES;
            let (low, high) = isa.widen_pairs(scales.to_le_bytes());
            (isa.mul_eight(low, d), isa.mul_eight(high, d))
        }
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: bytes 0..16 and 82..84 of the block.
        unsafe {
            let d = isa.mul_eight(
                isa.splat_f16(p.add(Q2_K_NUMBERS + 2)),
                isa.splat_eight(-1.0),
            );
            let mins = u128::from_le_bytes(read(p)) >> 4 & LOW_NIBBLES;
            let (low, high) = isa.widen_pairs(mins.to_le_bytes());
            (isa.mul_eight(low, d), isa.mul_eight(high, d))
        }
    }
}

/// The scales of a Q3_K block as signed bytes. Their low four bits are the nibbles of bytes 0..8
/// (all low ones first), their high two bits come from bytes 8..12; 32 stands for zero.
#[inline(always)]
pub(super) fn unpack(b: [u8; 12]) -> [u8; 16] {
    let all = u128::from_le_bytes([
        b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], 0, 0, 0, 0,
    ]);
    let (nibbles, pairs) = (all & u128::from(u64::MAX), all >> 64);
    let low = (nibbles | nibbles << 60) & LOW_NIBBLES;
    let pairs = pairs | pairs << 30 | pairs << 60 | pairs << 90;
    let high = (pairs & (LOW_NIBBLES / 5)) << 4;
    // Minus 32: the sixth bit becomes the sign.
    let sign = !high & (LOW_NIBBLES / 15) << 5;
    (low | high & (LOW_NIBBLES / 15) << 4 | sign | sign << 1 | sign << 2).to_le_bytes()
}

/// The inverse of [`unpack`].
#[inline(always)]
fn pack(scales: [i32; 16]) -> [u8; 12] {
    let v = scales.map(|s| (s + 32) as u8);
    core::array::from_fn(|i| match i {
        0..8 => v[i] & 15 | v[i + 8] << 4,
        _ => (0..4).fold(0, |byte, k| byte | v[i - 8 + 4 * k] >> 4 << (2 * k)),
    })
}

impl Blocks for Q3K {
    const DTYPE: Dtype = Dtype::Q3_K;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 16, 110>(x, search, out);
    }
}

impl Encode<16, 110> for Q3K {
    const GROUPS: usize = 16;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<16>, best: bool, blocks: &mut [[u8; 110]]) {
        let fit = search::symmetric::<V, _, 16, 16>(batch, LEVELS, 32.0, best);
        let codes = search::encode(batch, fit.d * fit.scales, LEVELS);
        let codes = codes.as_flattened();
        for b in blocks {
            for j in 0..32 {
                let bit = |g: usize| codes[32 * g + j] >> 2 << g;
                b[j] = (0..8).fold(0, |byte, g| byte | bit(g));
            }
            put_pairs(codes, &mut b[Q3_K_CODES..Q3_K_SCALES]);
            let scales = fit.scales.store().0;
            let scales = array!(16, g => scales[g] as i32);
            b[Q3_K_SCALES..Q3_K_SCALE].copy_from_slice(&pack(scales));
            b[Q3_K_SCALE..].copy_from_slice(&to_f16(fit.d.store().0[0]).to_le_bytes());
        }
    }
}

impl QuantFormat for Q3K {
    const CODES: Codes = Codes::Small { offset: 4 };
    const GROUP: usize = 16;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let by = if HALF == 0 {
            [2, 1, 0, -1]
        } else {
            [-2, -3, -4, -5]
        };
        // SAFETY: bytes 0..96 of the block.
        unsafe {
            let (low, high) = pairs::<I, HALF>(isa, p.add(Q3_K_CODES));
            let low_bits = isa.shift_runs(isa.load_at(p, [0; 4]), by, 4);
            let high_bits = isa.shift_runs(isa.load_at(p, [16; 4]), by, 4);
            (isa.or_bytes(low, low_bits), isa.or_bytes(high, high_bits))
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: bytes 96..110 of the block.
        unsafe {
            let d = isa.splat_f16(p.add(Q3_K_SCALE));
            let (low, high) = isa.widen_pairs(unpack(read(p.add(Q3_K_SCALES))));
            (isa.mul_eight(low, d), isa.mul_eight(high, d))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bit_scales_survive_packing() {
        for k in 0..64 {
            let scales = core::array::from_fn(|j| (k + 11 * j as i32) % 64 - 32);
            assert_eq!(unpack(pack(scales)).map(|b| i32::from(b as i8)), scales);
        }
    }
}
