//! 4-bit codes that index a table: IQ4_NL, IQ4_XS (a fixed curve), MXFP4 and NVFP4 (4-bit floats).
//!
//! Nibbles lie as in Q4_0: weights 0..16 of a group of 32 in the low, 16..32 in the high ones. In
//! NVFP4 the same holds for 8 and 8 of each group of 16.

use super::encode::{from_f16, most, to_f16};
use super::search::{self, Curve, Encode, Search};
use super::{Blocks, Codes, QuantFormat, both, eight, half_at, in_order, read, sixteen};
use crate::dtype::Dtype;
use crate::isa::Isa;

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

fn put_nibbles(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low | high << 4;
    }
}

impl Blocks for Iq4Nl {
    const DTYPE: Dtype = Dtype::IQ4_NL;

    #[inline(always)]
    fn quantize(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, 32, IQ4_NL_BYTES>(x, search, out);
    }
}

impl Encode<32, IQ4_NL_BYTES> for Iq4Nl {
    #[inline(always)]
    fn encode(x: &[f32; 32], w: &[f32; 32], b: &mut [u8; IQ4_NL_BYTES]) {
        let levels = Curve(&CURVE);
        let d = to_f16(search::scale(x, w, levels));
        b[..2].copy_from_slice(&d.to_le_bytes());
        let mut codes = [0; 32];
        search::encode(x, from_f16(d), levels, &mut codes);
        put_nibbles(&codes, &mut b[2..]);
    }
}

impl QuantFormat for Iq4Nl {
    const CODES: Codes = Codes::Signed;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        let table = bytemuck::cast_ref(&CURVE);
        // SAFETY: the caller vouches for the unit's eight blocks.
        lookup(isa, table, unsafe {
            isa.load_runs::<IQ4_NL_BYTES, 2, HALF>(p)
        })
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first two bytes of each of the unit's eight blocks.
        both(unsafe { isa.gather_f16::<IQ4_NL_BYTES, 0>(p) })
    }
}

impl Blocks for Iq4Xs {
    const DTYPE: Dtype = Dtype::IQ4_XS;

    #[inline(always)]
    fn quantize(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, 256, 136>(x, search, out);
    }
}

impl Encode<256, 136> for Iq4Xs {
    #[inline(always)]
    fn encode(x: &[f32; 256], w: &[f32; 256], b: &mut [u8; 136]) {
        let mut codes = [0; 256];
        let fit = search::symmetric::<8, 32, _>(x, w, Curve(&CURVE), 32, &mut codes);
        b[..2].copy_from_slice(&fit.d.to_le_bytes());
        let v = fit.scales.map(|s| (s + 32) as u16);
        let high = (0..8).fold(0, |bits, g| bits | v[g] >> 4 << (2 * g));
        b[2..4].copy_from_slice(&high.to_le_bytes());
        for i in 0..4 {
            b[IQ4_XS_SCALES + i] = (v[2 * i] & 15 | (v[2 * i + 1] & 15) << 4) as u8;
        }
        let groups = b[IQ4_XS_CODES..].as_chunks_mut::<16>().0;
        for (codes, out) in codes.as_chunks::<32>().0.iter().zip(groups) {
            put_nibbles(codes, out);
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

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: the first eight bytes of the block.
        unsafe {
            let high = u16::from_le_bytes(read(p.add(2)));
            let low = u32::from_le_bytes(read(p.add(IQ4_XS_SCALES)));
            let scale = |g: usize| (low >> (4 * g) & 15) as u8 | ((high >> (2 * g) & 3) << 4) as u8;
            let scales = array!(8, g => scale(g).wrapping_sub(32));
            both(isa.mul_eight(isa.widen(scales), isa.splat_eight(half_at(p))))
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
    fn quantize(x: &[f32], _: Search, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<MXFP4_BYTES>().0;
        for (x, b) in x.as_chunks::<32>().0.iter().zip(blocks) {
            let max = f32::from_bits(most(x, |v| v.to_bits() & 0x7fff_ffff));
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

impl QuantFormat for Mxfp4 {
    const CODES: Codes = Codes::Small { offset: 16 };

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: the caller vouches for the unit's eight blocks.
        lookup(isa, &SHIFTED, unsafe {
            isa.load_runs::<MXFP4_BYTES, 1, HALF>(p)
        })
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

impl Blocks for Nvfp4 {
    const DTYPE: Dtype = Dtype::NVFP4;

    /// Tries the scales around the one that maps the largest magnitude to the largest code.
    #[inline(always)]
    fn quantize(x: &[f32], search: Search, out: &mut [u8]) {
        search::blocks::<Self, 64, NVFP4_BYTES>(x, search, out);
    }
}

impl Encode<64, NVFP4_BYTES> for Nvfp4 {
    #[inline(always)]
    fn encode(x: &[f32; 64], w: &[f32; 64], b: &mut [u8; NVFP4_BYTES]) {
        let (scales, packed) = b.split_at_mut(4);
        for i in 0..4 {
            let (x, w) = (&x[16 * i..][..16], &w[16 * i..][..16]);
            let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let first = (0..126)
                .find(|&b| 12.0 * half_float(b) >= max)
                .unwrap_or(126u8);
            let mut best = f32::INFINITY;
            for scale in first.saturating_sub(8)..=(first + 2).min(126) {
                let (d, mut codes) = (half_float(scale), [0; 16]);
                nearest_floats(x, d, &mut codes);
                let error = (0..16).fold(0.0, |sum, k| {
                    let e = d * f32::from(FLOATS[usize::from(codes[k])]) - x[k];
                    sum + w[k] * e * e
                });
                if error < best {
                    (best, scales[i]) = (error, scale);
                    put_nibbles(&codes, &mut packed[8 * i..8 * i + 8]);
                }
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
