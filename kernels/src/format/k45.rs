//! Q4_K and Q5_K: super-blocks of eight groups of 32 with 6-bit scales and minimums.
//!
//! Q4_K is F16 scale of the scales, F16 scale of the minimums, 12 bytes of 6-bit numbers, then 32
//! bytes for every two groups: the first in the low, the second in the high nibbles. Q5_K has the
//! fifth bits before the nibbles: bit `g` of byte `j` belongs to weight `j` of group `g`.

use super::q4::split;
use super::search::{self, Affine, Batch, Encode, Search};
use super::{Blocks, Codes, Order, QuantFormat, both, read};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::to_f16;

const NUMBERS: usize = 4;
const Q4_K_CODES: usize = 16;
const Q5_K_BITS: usize = 16;
const Q5_K_CODES: usize = 48;
const _: () = assert!(Q4_K_CODES + 128 == Dtype::Q4_K.block_bytes());
const _: () = assert!(Q5_K_CODES + 128 == Dtype::Q5_K.block_bytes());

/// 4 bits, a scale and a minimum per 32.
#[derive(Clone, Copy)]
pub(crate) struct Q4K;

/// 5 bits, a scale and a minimum per 32.
#[derive(Clone, Copy)]
pub(crate) struct Q5K;

/// The 6-bit numbers as bytes: eight scales, eight minimums. Scales 0..4 and minimums 0..4 are the
/// low six bits of bytes 0..8; the others are split between the nibbles of bytes 8..12 and the
/// high two bits of bytes 0..8.
#[inline(always)]
pub(super) fn unpack(b: [u8; 12]) -> ([u8; 8], [u8; 8]) {
    let [b0, b1, b2, b3, b4, b5, b6, b7, n0, n1, n2, n3] = b;
    let first = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    let nibbles = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
    let low = first & 0x3f3f_3f3f_3f3f_3f3f;
    let high = first >> 2 & 0x3030_3030_3030_3030;
    let scales = low & 0xffff_ffff | (nibbles & 0x0f0f_0f0f | high & 0xffff_ffff) << 32;
    let mins = low >> 32 | (nibbles >> 4 & 0x0f0f_0f0f | high >> 32) << 32;
    (scales.to_le_bytes(), mins.to_le_bytes())
}

/// The inverse of [`unpack`].
#[inline(always)]
fn pack(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    core::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | mins[i - 4] << 4,
    })
}

/// # Safety
/// `p` must be valid for 16 bytes.
#[inline(always)]
unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
    // SAFETY: the first 16 bytes of the block.
    unsafe {
        let (scales, _) = unpack(read(p.add(NUMBERS)));
        both(isa.mul_eight(isa.widen(scales), isa.splat_f16(p)))
    }
}

/// # Safety
/// `p` must be valid for 16 bytes.
#[inline(always)]
unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
    // SAFETY: the first 16 bytes of the block.
    unsafe {
        let (_, mins) = unpack(read(p.add(NUMBERS)));
        let less = isa.mul_eight(isa.splat_f16(p.add(2)), isa.splat_eight(-1.0));
        both(isa.mul_eight(isa.widen(mins), less))
    }
}

/// Low four bits of the codes of half a block; `p` is where all nibbles start.
///
/// # Safety
/// `p` must be valid for 128 bytes.
#[inline(always)]
unsafe fn nibbles<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
    const BY: [i32; 4] = [0, -4, 0, -4];
    // SAFETY: 64 of the 128 bytes.
    unsafe {
        let packed = isa.load_at(p.add(64 * HALF), [0, 16, 32, 48]);
        let low = isa.pick_runs(packed, [0, 0, 2, 2]);
        let high = isa.pick_runs(packed, [1, 1, 3, 3]);
        (isa.shift_runs(low, BY, 15), isa.shift_runs(high, BY, 15))
    }
}

/// Writes the two F16 and the 6-bit numbers of the block whose groups start at lane `first`.
#[inline(always)]
fn put_numbers<V: Vector>(fit: &Affine<V>, first: usize, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_f16(fit.d.store().0[first]).to_le_bytes());
    b[2..4].copy_from_slice(&to_f16(fit.dmin.store().0[first]).to_le_bytes());
    let (scales, mins) = (fit.scales.store().0, fit.mins.store().0);
    let scales = array!(8, g => scales[first + g] as u8);
    let mins = array!(8, g => mins[first + g] as u8);
    b[4..16].copy_from_slice(&pack(scales, mins));
}

/// Writes the low nibbles of 256 codes.
#[inline(always)]
fn put_nibbles(codes: &[[u8; 32]], out: &mut [u8]) {
    for (two, out) in codes
        .as_chunks::<2>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<32>().0)
    {
        for j in 0..32 {
            out[j] = two[0][j] & 15 | two[1][j] << 4;
        }
    }
}

impl Blocks for Q4K {
    const DTYPE: Dtype = Dtype::Q4_K;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 32, 144>(x, search, out);
    }
}

impl Encode<32, 144> for Q4K {
    const GROUPS: usize = 8;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<32>, best: bool, blocks: &mut [[u8; 144]]) {
        let fit = search::affine::<V, 8, 32>(batch, 15.0, 63.0, best);
        let codes = fit.line().encode(batch, 15.0);
        for (i, b) in blocks.iter_mut().enumerate() {
            put_numbers(&fit, 8 * i, b);
            put_nibbles(&codes[8 * i..8 * i + 8], &mut b[Q4_K_CODES..]);
        }
    }
}

impl QuantFormat for Q4K {
    const CODES: Codes = Codes::Small { offset: 0 };
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: the last 128 bytes of the block.
        unsafe { nibbles::<I, HALF>(isa, p.add(Q4_K_CODES)) }
    }

    const ORDER: Order = Order::EveryOther;
    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        let at = Q4_K_CODES + 64 * HALF;
        // SAFETY: 64 of the last 128 bytes of the block.
        unsafe { isa.load_at(p, [at, at + 16, at + 32, at + 48]) }
    }

    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        split(isa, packed)
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first 16 bytes of the block.
        unsafe { scales(isa, p) }
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first 16 bytes of the block.
        unsafe { mins(isa, p) }
    }
}

impl Blocks for Q5K {
    const DTYPE: Dtype = Dtype::Q5_K;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 32, 176>(x, search, out);
    }
}

impl Encode<32, 176> for Q5K {
    const GROUPS: usize = 8;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<32>, best: bool, blocks: &mut [[u8; 176]]) {
        let fit = search::affine::<V, 8, 32>(batch, 31.0, 63.0, best);
        let codes = fit.line().encode(batch, 31.0);
        for (i, b) in blocks.iter_mut().enumerate() {
            let codes = &codes[8 * i..8 * i + 8];
            put_numbers(&fit, 8 * i, b);
            for j in 0..32 {
                let bit = |g: usize| codes[g][j] >> 4 << g;
                b[Q5_K_BITS + j] = (0..8).fold(0, |byte, g| byte | bit(g));
            }
            put_nibbles(codes, &mut b[Q5_K_CODES..]);
        }
    }
}

impl QuantFormat for Q5K {
    const CODES: Codes = Codes::Small { offset: 0 };
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let by = if HALF == 0 {
            [4, 3, 2, 1]
        } else {
            [0, -1, -2, -3]
        };
        // SAFETY: bytes 16..48 and 48..176 of the block.
        unsafe {
            let (low, high) = nibbles::<I, HALF>(isa, p.add(Q5_K_CODES));
            let bits = p.add(Q5_K_BITS);
            let low_bits = isa.shift_runs(isa.load_at(bits, [0; 4]), by, 16);
            let high_bits = isa.shift_runs(isa.load_at(bits, [16; 4]), by, 16);
            (isa.or_bytes(low, low_bits), isa.or_bytes(high, high_bits))
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first 16 bytes of the block.
        unsafe { scales(isa, p) }
    }

    #[inline(always)]
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first 16 bytes of the block.
        unsafe { mins(isa, p) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bit_numbers_survive_packing() {
        for k in 0..64 {
            let scales = core::array::from_fn(|j| (k + 11 * j) as u8 & 63);
            let mins = core::array::from_fn(|j| (5 * k + 7 * j) as u8 & 63);
            assert_eq!(unpack(pack(scales, mins)), (scales, mins));
        }
    }
}
