//! 4-bit codes that index a table: IQ4_NL, IQ4_XS (a fixed curve), MXFP4 and NVFP4 (4-bit floats).
//!
//! Nibbles lie as in Q4_0: weights 0..16 of a group of 32 in the low, 16..32 in the high ones. In
//! NVFP4 the same holds for 8 and 8 of each group of 16.

use super::search::{self, Batch, Curve, Encode, Lanes, Search, Stored};
use super::{Blocks, Codes, QuantFormat, both, eight, gather, in_order, read, runs, sixteen};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::{max_key, to_f16};

const IQ4_NL_BYTES: usize = 18;
const IQ4_XS_SCALES: usize = 4;
const IQ4_XS_CODES: usize = 8;
const MXFP4_BYTES: usize = 17;
const NVFP4_BYTES: usize = 36;
const _: () = assert!(IQ4_NL_BYTES == Dtype::IQ4_NL.block_bytes());
const _: () = assert!(IQ4_XS_CODES + 128 == Dtype::IQ4_XS.block_bytes());
const _: () = assert!(MXFP4_BYTES == Dtype::MXFP4.block_bytes());
const _: () = assert!(NVFP4_BYTES == Dtype::NVFP4.block_bytes());

/// What the codes of IQ4 types stand for.
pub(super) const CURVE: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// What 4-bit floats stand for, times two: sign, two bits of exponent, one of fraction.
const FLOATS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const CURVE_LEVELS: Curve = Curve::new(&CURVE);
const RISING_LEVELS: Curve = Curve::new(&RISING);

/// The values of `FLOATS` in rising order, and their codes.
const RISING: [i8; 16] = [-12, -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12];
const RISING_CODES: [u8; 16] = [15, 15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7];

/// `FLOATS` plus 16.
const SHIFTED: [u8; 16] = shifted();

const fn shifted() -> [u8; 16] {
    let (mut out, mut k) = ([0; 16], 0);
    while k < 16 {
        out[k] = (FLOATS[k] + 16) as u8;
        k += 1;
    }
    out
}

/// 4 bits on a curve, a scale per 32.
#[derive(Clone, Copy)]
pub(crate) struct Iq4Nl;

/// 4 bits on a curve, 6-bit scales.
#[derive(Clone, Copy)]
pub(crate) struct Iq4Xs;

/// 4-bit floats, a power of two per 32.
#[derive(Clone, Copy)]
pub(crate) struct Mxfp4;

/// 4-bit floats, an 8-bit float per 16.
#[derive(Clone, Copy)]
pub(crate) struct Nvfp4;

/// Table values of nibbles.
#[inline(always)]
fn lookup<I: Isa>(isa: I, table: &[u8; 16], packed: I::Bytes) -> (I::Bytes, I::Bytes) {
    (
        isa.lookup(table, isa.shift_runs(packed, [0; 4], 15)),
        isa.lookup(table, isa.shift_runs(packed, [-4; 4], 15)),
    )
}

#[inline(always)]
fn put_nibbles(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low | high << 4;
    }
}

impl Blocks for Iq4Nl {
    const DTYPE: Dtype = Dtype::IQ4_NL;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 32, IQ4_NL_BYTES>(x, search, out);
    }
}

impl Encode<32, IQ4_NL_BYTES> for Iq4Nl {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<32>, best: bool, blocks: &mut [[u8; IQ4_NL_BYTES]]) {
        let levels = &CURVE_LEVELS;
        let d = search::single(batch, levels, V::zero(), best);
        let codes = search::encode(batch, d, levels);
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            put_nibbles(codes, &mut b[2..]);
        }
    }
}

impl QuantFormat for Iq4Nl {
    const CODES: Codes = Codes::Signed;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let table = bytemuck::cast_ref(&CURVE);
        // SAFETY: `p` is valid for a unit.
        lookup(isa, table, unsafe {
            runs::<Self, I, IQ4_NL_BYTES, 2, HALF>(isa, p)
        })
    }

    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        // SAFETY: `p` is valid for a unit.
        unsafe { runs::<Self, I, IQ4_NL_BYTES, 2, HALF>(isa, p) }
    }

    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        lookup(isa, bytemuck::cast_ref(&CURVE), packed).into()
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, IQ4_NL_BYTES, 0>(isa, p) })
    }
}

impl Blocks for Iq4Xs {
    const DTYPE: Dtype = Dtype::IQ4_XS;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 32, 136>(x, search, out);
    }
}

impl Encode<32, 136> for Iq4Xs {
    const GROUPS: usize = 8;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<32>, best: bool, blocks: &mut [[u8; 136]]) {
        let levels = &CURVE_LEVELS;
        let fit = search::symmetric::<V, _, 8, 32>(batch, levels, 32.0, best);
        let (d, scales) = (fit.d.store().0, fit.scales.store().0);
        let codes = search::encode(batch, fit.d * fit.scales, levels);
        for (i, b) in blocks.iter_mut().enumerate() {
            b[..2].copy_from_slice(&to_f16(d[8 * i]).to_le_bytes());
            let v: [u16; 8] = array!(8, g => (scales[8 * i + g] + 32.0) as u16);
            let high = (0..8).fold(0, |bits, g| bits | v[g] >> 4 << (2 * g));
            b[2..4].copy_from_slice(&high.to_le_bytes());
            for k in 0..4 {
                b[IQ4_XS_SCALES + k] = (v[2 * k] & 15 | (v[2 * k + 1] & 15) << 4) as u8;
            }
            let groups = b[IQ4_XS_CODES..].as_chunks_mut::<16>().0;
            for (codes, out) in codes[8 * i..].iter().zip(groups) {
                put_nibbles(codes, out);
            }
        }
    }
}

impl QuantFormat for Iq4Xs {
    const CODES: Codes = Codes::Signed;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let table = bytemuck::cast_ref(&CURVE);
        // SAFETY: 64 of the last 128 bytes of the block.
        let packed = unsafe { isa.load_at(p.add(IQ4_XS_CODES + 64 * HALF), [0, 16, 32, 48]) };
        lookup(isa, table, packed)
    }

    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        // SAFETY: 64 of the last 128 bytes of the block.
        unsafe { isa.load_at(p.add(IQ4_XS_CODES + 64 * HALF), [0, 16, 32, 48]) }
    }

    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        lookup(isa, bytemuck::cast_ref(&CURVE), packed).into()
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first eight bytes of the block.
        unsafe {
            // Nibbles and pairs of bits, spread to a byte each.
            let low = u64::from(u32::from_le_bytes(read(p.add(IQ4_XS_SCALES))));
            let low = (low | low << 16) & 0xffff_0000_ffff;
            let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
            let low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
            let high = u64::from(u16::from_le_bytes(read(p.add(2))));
            let high = (high | high << 24) & 0xff_0000_00ff;
            let high = (high | high << 12) & 0x000f_000f_000f_000f;
            let high = (high | high << 6) & 0x0303_0303_0303_0303;
            // Minus 32: the sixth bit becomes the sign.
            let sign = (!high & 0x0202_0202_0202_0202) << 4;
            let high = (high & 0x0101_0101_0101_0101) << 4;
            let scales = (low | high | sign | sign << 1 | sign << 2).to_le_bytes();
            both(isa.mul_eight(isa.widen(scales), isa.splat_f16(p)))
        }
    }
}

/// Half of the power of two that a byte of MXFP4 stands for (the table holds doubled values).
#[inline(always)]
fn half_power(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e,
        _ => u32::from(e - 1) << 23,
    })
}

impl Blocks for Mxfp4 {
    const DTYPE: Dtype = Dtype::MXFP4;

    /// As PyPI `gguf`: the largest magnitude decides the power of two, each code is the nearest.
    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        if !search.is_formula() {
            return search::blocks::<Self, V, 32, MXFP4_BYTES>(x, search, out);
        }
        let blocks = out.as_chunks_mut::<MXFP4_BYTES>().0;
        for (x, b) in x.as_chunks::<32>().0.iter().zip(blocks) {
            let max = f32::from_bits(max_key(x, |v| v.to_bits() & 0x7fff_ffff));
            let e = if max > 0.0 {
                max.log2().floor() + 125.0
            } else {
                0.0
            };
            b[0] = e as u8;
            let mut codes = [0; 32];
            nearest_floats(x, half_power(b[0]), &mut codes);
            put_nibbles(&codes, &mut b[1..]);
        }
    }
}

/// The code whose value times `d` is nearest to each `x`; of equally near ones the first.
#[inline(always)]
fn nearest_floats(x: &[f32], d: f32, codes: &mut [u8]) {
    for (x, code) in x.iter().zip(codes) {
        let mut best = f32::INFINITY;
        for (k, v) in FLOATS.iter().enumerate() {
            let error = (d * f32::from(*v) - x).abs();
            if error < best {
                (best, *code) = (error, k as u8);
            }
        }
    }
}

impl Encode<32, MXFP4_BYTES> for Mxfp4 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<32>, best: bool, blocks: &mut [[u8; MXFP4_BYTES]]) {
        let levels = &RISING_LEVELS;
        // The formula is the power below the largest magnitude, or that magnitude's own.
        let mut first = search::extreme::<V, _>(batch).store();
        for v in &mut first.0 {
            *v = (v.to_bits() >> 23 & 255) as f32 - 2.0;
        }
        let around = if best { -3..=3 } else { -1..=1 };
        let stored = Stored {
            most: 254.0,
            scale: half_power,
        };
        let (power, scale) = search::choose(batch, levels, V::load(&first), around, stored);
        let codes = search::encode(batch, scale, levels);
        for ((b, codes), power) in blocks.iter_mut().zip(&codes).zip(power.store().0) {
            b[0] = power as u8;
            put_nibbles(&float_codes(codes), &mut b[1..]);
        }
    }
}

/// Codes of places in `RISING`.
#[inline(always)]
fn float_codes<const N: usize>(places: &[u8; N]) -> [u8; N] {
    let mut codes = *places;
    for c in &mut codes {
        *c = RISING_CODES[usize::from(*c & 15)];
    }
    codes
}

impl QuantFormat for Mxfp4 {
    const CODES: Codes = Codes::Small { offset: 16 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `p` is valid for a unit.
        lookup(isa, &SHIFTED, unsafe {
            runs::<Self, I, MXFP4_BYTES, 1, HALF>(isa, p)
        })
    }

    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        // SAFETY: `p` is valid for a unit.
        unsafe { runs::<Self, I, MXFP4_BYTES, 1, HALF>(isa, p) }
    }

    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        lookup(isa, &SHIFTED, packed).into()
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first byte of each of the unit's eight blocks.
        eight(isa, unsafe {
            array!(8, g => half_power(*p.add(g * MXFP4_BYTES)))
        })
    }
}

/// Half of what a scale byte of NVFP4 stands for: four bits of exponent, three of fraction, no
/// sign; 127 counts as zero.
#[inline(always)]
fn half_float(b: u8) -> f32 {
    let (exponent, fraction) = (u32::from(b >> 3 & 15), u32::from(b & 7));
    let normal = f32::from_bits((exponent + 119) << 23 | fraction << 20);
    let tiny = fraction as f32 / 1024.0;
    match (b, exponent) {
        (127, _) => 0.0,
        (_, 0) => tiny,
        _ => normal,
    }
}

/// The byte whose [`half_float`] is `v` or the next below.
#[inline(always)]
fn half_float_below(v: f32) -> f32 {
    let normal = (v.to_bits() >> 20) as f32 - (119 * 8) as f32;
    if normal < 8.0 { v * 1024.0 } else { normal }
        .clamp(0.0, 126.0)
        .floor()
}

impl Blocks for Nvfp4 {
    const DTYPE: Dtype = Dtype::NVFP4;

    /// Tries the scales around the one that maps the largest magnitude to the largest code.
    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, V, 16, NVFP4_BYTES>(x, search, out);
    }
}

impl Encode<16, NVFP4_BYTES> for Nvfp4 {
    const GROUPS: usize = 4;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<16>, best: bool, blocks: &mut [[u8; NVFP4_BYTES]]) {
        let levels = &RISING_LEVELS;
        let mut first = search::extreme::<V, _>(batch).store();
        for v in &mut first.0 {
            *v = half_float_below(v.abs() / 12.0);
        }
        let around = if best { -16..=4 } else { -8..=2 };
        let stored = Stored {
            most: 126.0,
            scale: half_float,
        };
        let (number, scale) = search::choose(batch, levels, V::load(&first), around, stored);
        let number = number.store();
        let codes = search::encode(batch, scale, levels);
        for (i, b) in blocks.iter_mut().enumerate() {
            let (scales, packed) = b.split_at_mut(4);
            for j in 0..4 {
                scales[j] = number.0[4 * i + j] as u8;
                put_nibbles(
                    &float_codes(&codes[4 * i + j]),
                    &mut packed[8 * j..8 * j + 8],
                );
            }
        }
    }
}

impl QuantFormat for Nvfp4 {
    const CODES: Codes = Codes::Small { offset: 16 };
    const GROUP: usize = 16;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let mut codes = [0; 128];
        for (i, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            // SAFETY: bytes 4..36 of block `2 * HALF + i` of the unit's four.
            let b: [u8; 32] = unsafe { read(p.add(NVFP4_BYTES * (2 * HALF + i) + 4)) };
            for (b, codes) in b
                .as_chunks::<8>()
                .0
                .iter()
                .zip(codes.as_chunks_mut::<16>().0)
            {
                for (k, b) in b.iter().enumerate() {
                    (codes[k], codes[k + 8]) = (b & 15, b >> 4);
                }
            }
        }
        let (low, high) = in_order(isa, &codes);
        (isa.lookup(&SHIFTED, low), isa.lookup(&SHIFTED, high))
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first four bytes of each of the unit's four blocks.
        let scales = unsafe { array!(16, s => half_float(*p.add(s / 4 * NVFP4_BYTES + s % 4))) };
        sixteen(isa, scales)
    }
}
