//! Q6_K: 16 groups of 16 with signed 8-bit scales.
//!
//! Per 128 weights 64 bytes with the low four bits (weights 0..64 in the low, 64..128 in the high
//! nibbles) and, after all of those, 32 bytes with the high two bits (weights `32 i ..` at bit
//! `2 i`); then 16 scales, then an F16 scale of the scales.

use super::search::{self, Batch, Encode, Integers, Search};
use super::{Blocks, Codes, QuantFormat, read};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::to_f16;

const BITS: usize = 128;
const SCALES: usize = 192;
const SCALE: usize = 208;
const _: () = assert!(SCALE + 2 == Dtype::Q6_K.block_bytes());

const LEVELS: Integers = Integers { low: -32, high: 31 };

/// 6 bits, a scale per 16.
#[derive(Clone, Copy)]
pub(crate) struct Q6K;

impl Blocks for Q6K {
    const DTYPE: Dtype = Dtype::Q6_K;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 16, 210>(x, search, out);
    }
}

impl Encode<16, 210> for Q6K {
    const GROUPS: usize = 16;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<16>, best: bool, blocks: &mut [[u8; 210]]) {
        let fit = search::symmetric::<V, _, 16, 16>(batch, LEVELS, 128.0, best);
        let codes = search::encode(batch, fit.d * fit.scales, LEVELS);
        for b in blocks {
            for (half, codes) in codes.as_flattened().as_chunks::<128>().0.iter().enumerate() {
                for j in 0..64 {
                    b[64 * half + j] = codes[j] & 15 | codes[j + 64] << 4;
                }
                for j in 0..32 {
                    let bits = |i: usize| codes[32 * i + j] >> 4 << (2 * i);
                    b[BITS + 32 * half + j] = bits(0) | bits(1) | bits(2) | bits(3);
                }
            }
            for (b, s) in b[SCALES..SCALE].iter_mut().zip(fit.scales.store().0) {
                *b = s as i8 as u8;
            }
            b[SCALE..].copy_from_slice(&to_f16(fit.d.store().0[0]).to_le_bytes());
        }
    }
}

/// Codes of 16 weights of each of four groups, from their nibbles and high bits.
#[inline(always)]
fn join<I: Isa>(isa: I, nibbles: I::Bytes, bits: I::Bytes) -> I::Bytes {
    isa.or_bytes(
        isa.shift_runs(nibbles, [0, 0, -4, -4], 0x0f),
        isa.shift_runs(bits, [4, 2, 0, -2], 0x30),
    )
}

impl QuantFormat for Q6K {
    const CODES: Codes = Codes::Small { offset: 32 };
    const GROUP: usize = 16;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: 64 of the first 128 bytes, 32 of the next 64.
        unsafe {
            let bits = p.add(BITS + 32 * HALF);
            let nibbles = isa.load_at(p.add(64 * HALF), [0, 16, 32, 48]);
            (
                join(
                    isa,
                    isa.pick_runs(nibbles, [0, 2, 0, 2]),
                    isa.load_at(bits, [0; 4]),
                ),
                join(
                    isa,
                    isa.pick_runs(nibbles, [1, 3, 1, 3]),
                    isa.load_at(bits, [16; 4]),
                ),
            )
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the last 18 bytes of the block.
        unsafe {
            let d = isa.splat_f16(p.add(SCALE));
            let (low, high) = isa.widen_pairs(read(p.add(SCALES)));
            (isa.mul_eight(low, d), isa.mul_eight(high, d))
        }
    }
}
