//! One- and two-bit types: TQ1_0 and TQ2_0 (weights -1, 0, 1 times a scale per 256), Q1_0 (-1 and
//! 1, scale per 128) and Q2_0 (-1, 0, 1, 2, scale per 64).
//!
//! TQ2_0 packs like Q2_K. TQ1_0 has five weights in a byte, as a fraction of 256 in base 3: after
//! multiplying with 3^k, the digit is what a further multiplication by 3 carries out of the byte.
//! Q1_0 is a scale and one bit per weight, Q2_0 a scale and four consecutive weights per byte
//! (both as ggml decodes them; PyPI `gguf` 0.19 only knows their sizes).

use super::encode::truncate;
use super::k23::{pairs, put_pairs};
use super::search::{self, Batch, Encode, Integers, Lanes, Search};
use super::{Blocks, Codes, QuantFormat, both, eight, half_at, in_order, read};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::{LANES, Vector};
use crate::numeric::{max_key, to_f16};

const TQ1_0_LAST: usize = 48;
const TQ1_0_SCALE: usize = 52;
const TQ2_0_SCALE: usize = 64;
const BYTES: usize = 18;
const _: () = assert!(TQ1_0_SCALE + 2 == Dtype::TQ1_0.block_bytes());
const _: () = assert!(TQ2_0_SCALE + 2 == Dtype::TQ2_0.block_bytes());
const _: () = assert!(BYTES == Dtype::Q1_0.block_bytes() && BYTES == Dtype::Q2_0.block_bytes());

/// Three values, five to a byte.
#[derive(Clone, Copy)]
pub(crate) struct Tq1;

/// Three values in 2 bits.
#[derive(Clone, Copy)]
pub(crate) struct Tq2;

/// Two values, 1 bit.
#[derive(Clone, Copy)]
pub(crate) struct Q1;

/// Four values, 2 bits.
#[derive(Clone, Copy)]
pub(crate) struct Q2;

/// Weights 0..=2 of the `5 * n` that `n` bytes hold: weight `n * k + j` is digit `k` of byte `j`.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// One digit of every byte.
#[inline(always)]
fn digits(bytes: &[u8], k: usize, out: &mut [u8]) {
    for (b, out) in bytes.iter().zip(out) {
        *out = ((u16::from(b.wrapping_mul(POWERS[k])) * 3) >> 8) as u8;
    }
}

/// Codes 0..=2 and the F16 scale of a block, as PyPI `gguf` makes them: the scale is the largest
/// magnitude, codes are rounded half away from zero.
#[inline(always)]
fn ternary(x: &[f32; 256]) -> ([u8; 256], u16) {
    let largest = |part: &[f32; 32]| max_key(part, |v| v.to_bits() & 0x7fff_ffff);
    let max = x.as_chunks().0.iter().map(largest).fold(0, u32::max);
    let d = f32::from_bits(max);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let code = |v: f32| {
        let v = v * inverse;
        (truncate(v + 0.499_999_97f32.copysign(v)) + 1) as u8
    };
    (array!(256, k => code(x[k])), to_f16(d))
}

/// A format of codes 0..=2 and one scale per 256.
trait Ternary<const BYTES: usize> {
    fn put(codes: &[u8; 256], d: u16, b: &mut [u8; BYTES]);
}

impl<F: Ternary<BYTES>, const BYTES: usize> Encode<256, BYTES> for F {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<256>, best: bool, blocks: &mut [[u8; BYTES]]) {
        let levels = Integers { low: -1, high: 1 };
        let formula = search::extreme::<V, _>(batch).abs();
        let d = search::single(batch, levels, formula, best);
        let codes = search::encode(batch, d, levels);
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            F::put(codes, to_f16(d), b);
        }
    }
}

/// Encodes by the formula, or searches.
#[inline(always)]
fn ternary_blocks<F: Ternary<BYTES>, V: Vector, const BYTES: usize>(
    x: &[f32],
    search: Search,
    out: &mut [u8],
) {
    if !search.is_formula() {
        return search::blocks::<F, V, 256, BYTES>(x, search, out);
    }
    let blocks = out.as_chunks_mut::<BYTES>().0;
    for (x, b) in x.as_chunks::<256>().0.iter().zip(blocks) {
        let (codes, d) = ternary(x);
        F::put(&codes, d, b);
    }
}

impl Blocks for Tq1 {
    const DTYPE: Dtype = Dtype::TQ1_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        ternary_blocks::<Self, V, 54>(x, search, out);
    }
}

impl Ternary<54> for Tq1 {
    #[inline(always)]
    fn put(codes: &[u8; 256], d: u16, b: &mut [u8; 54]) {
        // (bytes, first weight, digits)
        for (bytes, first, count) in [(0..32, 0, 5), (32..48, 160, 5), (48..52, 240, 4)] {
            let n = bytes.len();
            for (j, byte) in b[bytes].iter_mut().enumerate() {
                let digit = |k: usize| u16::from(codes[first + n * k + j]);
                let value = (0..5).fold(0, |v, k| 3 * v + if k < count { digit(k) } else { 0 });
                *byte = (value * 256).div_ceil(243) as u8;
            }
        }
        b[TQ1_0_SCALE..].copy_from_slice(&d.to_le_bytes());
    }
}

impl QuantFormat for Tq1 {
    const CODES: Codes = Codes::Small { offset: 1 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: the first 52 bytes of the block.
        let b: [u8; 52] = unsafe { read(p) };
        let (first, rest) = b.split_at(32);
        let mut codes = [0; 128];
        let part = |k: usize| 32 * k..32 * k + 32;
        if HALF == 0 {
            for k in 0..4 {
                digits(first, k, &mut codes[part(k)]);
            }
        } else {
            digits(first, 4, &mut codes[part(0)]);
            for k in 0..5 {
                digits(&rest[..16], k, &mut codes[32 + 16 * k..48 + 16 * k]);
            }
            for k in 0..4 {
                digits(&b[TQ1_0_LAST..], k, &mut codes[112 + 4 * k..116 + 4 * k]);
            }
        }
        in_order(isa, &codes)
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the last two bytes of the block.
        both(unsafe { isa.splat_f16(p.add(TQ1_0_SCALE)) })
    }
}

impl Blocks for Tq2 {
    const DTYPE: Dtype = Dtype::TQ2_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        ternary_blocks::<Self, V, 66>(x, search, out);
    }
}

impl Ternary<66> for Tq2 {
    #[inline(always)]
    fn put(codes: &[u8; 256], d: u16, b: &mut [u8; 66]) {
        put_pairs(codes, &mut b[..TQ2_0_SCALE]);
        b[TQ2_0_SCALE..].copy_from_slice(&d.to_le_bytes());
    }
}

impl QuantFormat for Tq2 {
    const CODES: Codes = Codes::Small { offset: 1 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: the first 64 bytes of the block.
        unsafe { pairs::<I, HALF>(isa, p) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the last two bytes of the block.
        both(unsafe { isa.splat_f16(p.add(TQ2_0_SCALE)) })
    }
}

impl Blocks for Q1 {
    const DTYPE: Dtype = Dtype::Q1_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 128, BYTES>(x, search, out);
    }
}

impl Encode<128, BYTES> for Q1 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<128>, _: bool, blocks: &mut [[u8; BYTES]]) {
        // Signs are the best codes for any scale, and this the best scale for them.
        let (mut sum, mut weight, mut codes) = (V::zero(), V::zero(), [[0; 128]; LANES]);
        for i in 0..128 {
            let (x, w) = (V::load(&batch.x[i]), V::load(&batch.w[i]));
            sum = sum + x.abs() * w;
            weight = weight + w;
            let sign = V::pick(x.less(V::zero()), V::zero(), V::all(1.0));
            search::put_codes(sign, i, &mut codes);
        }
        let d = sum * weight.invert();
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            for (codes, b) in codes.as_chunks::<8>().0.iter().zip(&mut b[2..]) {
                *b = (0..8).fold(0, |byte, k| byte | codes[k] << k);
            }
        }
    }
}

impl QuantFormat for Q1 {
    const CODES: Codes = Codes::Small { offset: 1 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: bytes 2..18 of block `HALF` of the unit's two.
        let bits = u128::from_le_bytes(unsafe { read(p.add(BYTES * HALF + 2)) });
        let every_other = |v: u128| {
            let run = |i: usize| (v >> (32 * i) & 0xffff) as u64;
            run(0) | run(1) << 16 | run(2) << 32 | run(3) << 48
        };
        (
            isa.spread_bits(every_other(bits), 2),
            isa.spread_bits(every_other(bits >> 16), 2),
        )
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first two bytes of each of the unit's two blocks.
        let (a, b) = unsafe { (half_at(p), half_at(p.add(BYTES))) };
        eight(isa, [a, a, a, a, b, b, b, b])
    }
}

impl Blocks for Q2 {
    const DTYPE: Dtype = Dtype::Q2_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 64, BYTES>(x, search, out);
    }
}

impl Encode<64, BYTES> for Q2 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<64>, best: bool, blocks: &mut [[u8; BYTES]]) {
        let levels = Integers { low: -1, high: 2 };
        let d = search::single(batch, levels, V::zero(), best);
        let codes = search::encode(batch, d, levels);
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            for (c, b) in codes.as_chunks::<4>().0.iter().zip(&mut b[2..]) {
                *b = c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6;
            }
        }
    }
}

impl QuantFormat for Q2 {
    const CODES: Codes = Codes::Small { offset: 1 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let mut codes = [0; 128];
        for (i, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            // SAFETY: bytes 2..18 of block `2 * HALF + i` of the unit's four.
            let b: [u8; 16] = unsafe { read(p.add(BYTES * (2 * HALF + i) + 2)) };
            for (k, c) in codes.iter_mut().enumerate() {
                *c = b[k / 4] >> (2 * (k % 4)) & 3;
            }
        }
        in_order(isa, &codes)
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first two bytes of each of the unit's four blocks.
        let d: [f32; 4] = unsafe { array!(4, i => half_at(p.add(BYTES * i))) };
        eight(isa, array!(8, g => d[g / 2]))
    }
}
