//! Types whose codes index a grid of 4 or 8 weights: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS
//! and IQ3_S. Read only: choosing good grid points is a search of its own.
//!
//! Grid entries are magnitudes; signs are stored beside them, eight to a byte, or seven, the
//! eighth being their parity. In IQ1 types the grid is -1, 0, 1 and a bit per 8 or 32 weights
//! moves all of them by an eighth, up or down: nine steps of an eighth to each side of zero.
//!
//! `grids/` holds the grids packed, as PyPI `gguf` 0.19 does: 2 bits per weight (4 in IQ3).

use super::{Blocks, Codes, QuantFormat, both};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::numeric::from_f16;

/// Unpacks a grid: words of eight entries of `bits` each (or of four, in the low half), that index `values`.
const fn grid<const N: usize>(packed: &[u8], width: usize, bits: usize, values: &[u8]) -> [u64; N] {
    assert!(packed.len() * 8 == N * width * bits);
    let (mut out, mut k) = ([0; N], 0);
    while k < N * width {
        let byte = packed[k * bits / 8];
        let index = byte >> (k * bits % 8) & ((1 << bits) - 1);
        out[k / width] |= (values[index as usize] as u64) << (8 * (k % width));
        k += 1;
    }
    out
}

const TWO: [u8; 3] = [8, 25, 43];
static XXS2: [u64; 256] = grid(include_bytes!("grids/iq2_xxs.bin"), 8, 2, &TWO);
static XS2: [u64; 512] = grid(include_bytes!("grids/iq2_xs.bin"), 8, 2, &TWO);
static S2: [u64; 1024] = grid(include_bytes!("grids/iq2_s.bin"), 8, 2, &TWO);
static XXS3: [u64; 256] = grid(
    include_bytes!("grids/iq3_xxs.bin"),
    4,
    4,
    &[4, 12, 20, 28, 36, 44, 52, 62],
);
static S3: [u64; 512] = grid(
    include_bytes!("grids/iq3_s.bin"),
    4,
    4,
    &[1, 3, 5, 7, 9, 11, 13, 15],
);
/// -1, 0, 1 as eighths, plus 15.
static S1: [u64; 2048] = grid(include_bytes!("grids/iq1_s.bin"), 8, 2, &[7, 15, 23]);

/// The number 1 in every byte.
const ONES: u64 = u64::MAX / 255;

/// Eight times seven signs, in the bytes of a word, with their parities as the eighth.
#[inline(always)]
fn with_parity(sevens: u64) -> u64 {
    // Bits of a neighbour come in from above, but never as far as the lowest bit.
    let mut folded = sevens ^ sevens >> 4;
    folded ^= folded >> 2;
    folded ^= folded >> 1;
    sevens | (folded & ONES) << 7
}

/// Two words of four times seven bits, apart in the bytes of one.
#[inline(always)]
fn sevens(a: u32, b: u32) -> u64 {
    let x = u64::from(a) | u64::from(b) << 32;
    let each = 0x0000_007f_0000_007f;
    (x & each) | (x & each << 7) << 1 | (x & each << 14) << 2 | (x & each << 21) << 3
}

/// The low bytes of four 16-bit numbers each.
#[inline(always)]
fn narrow(a: u64, b: u64) -> u64 {
    let four = |x: u64| {
        let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
        (x | x >> 16) & 0xffff_ffff
    };
    four(a) | four(b) << 32
}

/// Of 128 bits in the order of the weights, those of the first and of the last 16 of each 32.
#[inline(always)]
fn in_runs([a, b]: [u64; 2]) -> [u64; 2] {
    let first = |x: u64| (x & 0xffff) | (x >> 16 & 0xffff_0000);
    [
        first(a) | first(b) << 32,
        first(a >> 16) | first(b >> 16) << 32,
    ]
}

/// The number at byte `at`, little-endian.
#[inline(always)]
fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

#[inline(always)]
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) | u32::from(u16_at(b, at + 2)) << 16
}

#[inline(always)]
fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// The low and the high halves of eight bytes.
#[inline(always)]
fn nibbles(x: u64) -> ([u8; 8], [u8; 8]) {
    let low = 15 * ONES;
    ((x & low).to_le_bytes(), (x >> 4 & low).to_le_bytes())
}

/// Declares a format: its block as an array, the grid words of the eight weights `8 * i ..`, the signs of
/// the 128 weights of half `h`, and scales: those of the first and of the last 16 weights of each group as
/// small numbers `n`, for `(base + step * n) * d`, which is exact in any order.
macro_rules! format {
    ($(#[$doc:meta])* $name:ident, $dtype:ident, $bytes:literal, offset $offset:literal,
     group $group:literal, |$b:ident, $i:ident| $word:expr, $(signs |$h:ident| $signs:expr,)?
     scales $scales:expr, $base:literal + $step:literal x $d:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        const _: () = assert!($bytes == Dtype::$dtype.block_bytes());

        impl Blocks for $name {
            const DTYPE: Dtype = Dtype::$dtype;
            const WRITES: bool = false;
        }

        impl QuantFormat for $name {
            const CODES: Codes = Codes::Small { offset: $offset };
            const GROUP: usize = $group;

            #[inline(always)]
            unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
                // SAFETY: a unit is one block, of the length asserted above; a byte array has no alignment.
                let $b: &[u8; $bytes] = unsafe { &*p.cast() };
                // The first, or the last, two of every four eights.
                let words: [[u64; 8]; 2] = array!(2, of => array!(8, k => {
                    let $i = 16 * HALF + k / 2 * 4 + 2 * of + k % 2;
                    $word
                }));
                let (low, high) = (isa.words(words[0]), isa.words(words[1]));
                $(
                    let $h = HALF;
                    let signs = in_runs($signs);
                    let (low, high) = (isa.negate(low, signs[0]), isa.negate(high, signs[1]));
                    let (low, high) = (isa.add_bytes(low, $offset), isa.add_bytes(high, $offset));
                )?
                (low, high)
            }

            #[inline(always)]
            unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
                // SAFETY: as above.
                let $b: &[u8; $bytes] = unsafe { &*p.cast() };
                let (base, step) = (isa.splat_eight($base), isa.splat_eight($step));
                let (low, high): ([u8; 8], [u8; 8]) = $scales;
                let low = isa.fma_eight(base, isa.widen(low), step);
                let high = isa.fma_eight(base, isa.widen(high), step);
                let d = isa.splat_eight($d);
                (isa.mul_eight(low, d), isa.mul_eight(high, d))
            }
        }
    };
}

format!(
    /// Scale, then per 32 weights four grid bytes and a word with 4 x 7 signs and a 4-bit scale.
    Iq2Xxs, IQ2_XXS, 66, offset 64, group 32,
    |b, i| XXS2[usize::from(b[2 + i / 4 * 8 + i % 4])],
    signs |h| array!(2, k => {
        let word = |g: usize| u32_at(b, 6 + 8 * (4 * h + 2 * k + g));
        with_parity(sevens(word(0), word(1)))
    }),
    scales both(array!(8, g => b[9 + 8 * g] >> 4)),
    0.125 + 0.25 x from_f16(u16_at(b, 0))
);

format!(
    /// Scale, 32 words of 9 bits of grid and 7 signs, 16 scales of 4 bits.
    Iq2Xs, IQ2_XS, 74, offset 64, group 16,
    |b, i| XS2[usize::from(u16_at(b, 2 + 2 * i) & 511)],
    signs |h| array!(2, k => {
        let four = |n: usize| u64_at(b, 2 + 32 * h + 16 * k + 8 * n) >> 9 & 0x007f_007f_007f_007f;
        with_parity(narrow(four(0), four(1)))
    }),
    scales nibbles(u64_at(b, 66)),
    0.125 + 0.25 x from_f16(u16_at(b, 0))
);

format!(
    /// Scale, 32 low bytes of grid, 32 bytes of signs, 2 high bits of grid each, 4-bit scales.
    Iq2S, IQ2_S, 82, offset 64, group 16,
    |b, i| {
        let high = usize::from(b[66 + i / 4]) << (8 - 2 * (i % 4)) & 0x300;
        S2[usize::from(b[2 + i]) | high]
    },
    signs |h| array!(2, k => u64_at(b, 34 + 16 * h + 8 * k)),
    scales nibbles(u64_at(b, 74)),
    0.125 + 0.25 x from_f16(u16_at(b, 0))
);

format!(
    /// Scale, 64 grid bytes, per 32 weights a word with 4 x 7 signs and a 4-bit scale.
    Iq3Xxs, IQ3_XXS, 98, offset 64, group 32,
    |b, i| XXS3[usize::from(b[2 + 2 * i])] | XXS3[usize::from(b[3 + 2 * i])] << 32,
    signs |h| array!(2, k => {
        let word = |g: usize| u32_at(b, 66 + 4 * (4 * h + 2 * k + g));
        with_parity(sevens(word(0), word(1)))
    }),
    scales both(array!(8, g => b[69 + 4 * g] >> 4)),
    0.25 + 0.5 x from_f16(u16_at(b, 0))
);

format!(
    /// Scale, 64 low bytes of grid, a high bit each, 32 bytes of signs, eight scales of 4 bits.
    Iq3S, IQ3_S, 110, offset 16, group 32,
    |b, i| {
        let four = |k: usize| {
            let high = usize::from(b[66 + i / 4] >> (2 * (i % 4) + k) & 1);
            S3[usize::from(b[2 + 2 * i + k]) | high << 8]
        };
        four(0) | four(1) << 32
    },
    signs |h| array!(2, k => u64_at(b, 74 + 16 * h + 8 * k)),
    scales both(array!(8, g => b[106 + g / 2] >> (4 * (g % 2)) & 15)),
    1.0 + 2.0 x from_f16(u16_at(b, 0))
);

format!(
    /// Scale, 32 low bytes of grid, per 32 weights a word: 4 x 3 high bits, scale, direction.
    Iq1S, IQ1_S, 50, offset 16, group 32,
    |b, i| {
        let word = u16_at(b, 34 + i / 4 * 2);
        let high = usize::from(word >> (3 * (i % 4)) & 7);
        moved(usize::from(b[2 + i]) | high << 8, word >> 15)
    },
    scales both(array!(8, g => b[35 + 2 * g] >> 4 & 7)),
    0.125 + 0.25 x from_f16(u16_at(b, 0))
);

/// Grid entry `index` of an IQ1 type, an eighth up, or down if `down` is 1.
#[inline(always)]
fn moved(index: usize, down: u16) -> u64 {
    S1[index] + (2 - 2 * u64::from(down)) * ONES
}

/// The F16 scale of an IQ1_M block: the highest nibbles of its four words of scales.
#[inline(always)]
fn scattered(b: &[u8]) -> f32 {
    let word = |k: usize| u16_at(b, 48 + 2 * k);
    from_f16(word(0) >> 12 | word(1) >> 8 & 0xf0 | word(2) >> 4 & 0xf00 | word(3) & 0xf000)
}

format!(
    /// 32 low bytes of grid, nibbles of 3 high bits and a direction, four words of 4 x 3 bits of
    /// scale, whose highest nibbles together are the F16 scale of the block.
    Iq1M, IQ1_M, 56, offset 16, group 16,
    |b, i| {
        let high = u16::from(b[32 + i / 2] >> (4 * (i % 2)));
        moved(usize::from(b[i]) | usize::from(high & 7) << 8, high >> 3 & 1)
    },
    scales {
        let scale = |s: usize| (u16_at(b, 48 + s / 4 * 2) >> (3 * (s % 4)) & 7) as u8;
        (array!(8, g => scale(2 * g)), array!(8, g => scale(2 * g + 1)))
    },
    0.125 + 0.25 x scattered(b)
);
