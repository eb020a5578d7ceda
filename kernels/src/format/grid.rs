//! Types whose codes index a grid of 4 or 8 weights: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS
//! and IQ3_S. Read only: choosing good grid points is a search of its own.
//!
//! Grid entries are magnitudes; signs are stored beside them, eight to a byte, or seven, the
//! eighth being their parity. In IQ1 types the grid is -1, 0, 1 and a bit per 8 or 32 weights
//! moves all of them by an eighth, up or down: nine steps of an eighth to each side of zero.
//!
//! `grids/` holds the grids packed, as PyPI `gguf` 0.19 does: 2 bits per weight (4 in IQ3).

use super::encode::from_f16;
use super::{Blocks, Codes, QuantFormat, eight, in_order, read, sixteen};
use crate::dtype::Dtype;
use crate::isa::Isa;

/// Unpacks a grid: entries of `W` weights, `bits` each, that index `values`.
const fn grid<const N: usize, const W: usize>(
    packed: &[u8],
    bits: usize,
    values: &[u8],
) -> [[u8; W]; N] {
    assert!(packed.len() * 8 == N * W * bits);
    let (mut out, mut k) = ([[0; W]; N], 0);
    while k < N * W {
        let byte = packed[k * bits / 8];
        let index = byte >> (k * bits % 8) & ((1 << bits) - 1);
        out[k / W][k % W] = values[index as usize];
        k += 1;
    }
    out
}

const TWO: [u8; 3] = [8, 25, 43];
static XXS2: [[u8; 8]; 256] = grid(include_bytes!("grids/iq2_xxs.bin"), 2, &TWO);
static XS2: [[u8; 8]; 512] = grid(include_bytes!("grids/iq2_xs.bin"), 2, &TWO);
static S2: [[u8; 8]; 1024] = grid(include_bytes!("grids/iq2_s.bin"), 2, &TWO);
static XXS3: [[u8; 4]; 256] = grid(
    include_bytes!("grids/iq3_xxs.bin"),
    4,
    &[4, 12, 20, 28, 36, 44, 52, 62],
);
static S3: [[u8; 4]; 512] = grid(
    include_bytes!("grids/iq3_s.bin"),
    4,
    &[1, 3, 5, 7, 9, 11, 13, 15],
);
/// -1, 0, 1 as eighths, plus 15.
static S1: [[u8; 8]; 2048] = grid(include_bytes!("grids/iq1_s.bin"), 2, &[7, 15, 23]);

/// Magnitudes with signs (a set bit is minus), as codes around `offset`.
#[inline(always)]
fn signed(grid: [u8; 8], signs: u8, offset: u8) -> [u8; 8] {
    array!(8, k => {
        // All ones for minus: the complement plus one.
        let minus = 0u8.wrapping_sub(signs >> k & 1);
        (grid[k] ^ minus).wrapping_sub(minus).wrapping_add(offset)
    })
}

/// Seven signs and their parity.
#[inline(always)]
fn with_parity(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// Two entries of four weights.
#[inline(always)]
fn join(a: [u8; 4], b: [u8; 4]) -> [u8; 8] {
    let [a0, a1, a2, a3] = a;
    let [b0, b1, b2, b3] = b;
    [a0, a1, a2, a3, b0, b1, b2, b3]
}

/// The `i`-th number of a little-endian array.
#[inline(always)]
fn u16_at(b: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([b[2 * i], b[2 * i + 1]])
}

#[inline(always)]
fn u32_at(b: &[u8], i: usize) -> u32 {
    u32::from(u16_at(b, 2 * i)) | u32::from(u16_at(b, 2 * i + 1)) << 16
}

/// The nibble `i` of an array.
#[inline(always)]
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (4 * (i % 2)) & 15
}

/// Declares a format: its block as an array, codes of the eight weights `8 * i ..`, and scales.
macro_rules! format {
    ($(#[$doc:meta])* $name:ident, $dtype:ident, $bytes:literal, offset $offset:literal,
     group $group:literal, |$b:ident, $i:ident| $codes:expr, $spread:ident $count:literal |$s:ident| $scale:expr) => {
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
                // SAFETY: the caller vouches for the block.
                let $b: [u8; $bytes] = unsafe { read(p) };
                let mut codes = [0; 128];
                for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let $i = 16 * HALF + k;
                    *codes = $codes;
                }
                in_order(isa, &codes)
            }

            #[inline(always)]
            unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
                // SAFETY: the caller vouches for the block.
                let $b: [u8; $bytes] = unsafe { read(p) };
                $spread(isa, array!($count, $s => $scale))
            }
        }
    };
}

format!(
    /// Scale, then per 32 weights four grid bytes and a word with 4 x 7 signs and a 4-bit scale.
    Iq2Xxs, IQ2_XXS, 66, offset 64, group 32,
    |b, i| {
        let signs = with_parity(u32_at(&b[2..], i / 4 * 2 + 1) >> (7 * (i % 4)));
        signed(XXS2[usize::from(b[2 + i / 4 * 8 + i % 4])], signs, 64)
    },
    eight 8 |g| {
        let scale = (u32_at(&b[2..], 2 * g + 1) >> 28) as f32;
        from_f16(u16_at(&b, 0)) * (0.5 + scale) * 0.25
    }
);

format!(
    /// Scale, 32 words of 9 bits of grid and 7 signs, 16 scales of 4 bits.
    Iq2Xs, IQ2_XS, 74, offset 64, group 16,
    |b, i| {
        let word = u16_at(&b[2..], i);
        signed(XS2[usize::from(word & 511)], with_parity(u32::from(word >> 9)), 64)
    },
    sixteen 16 |s| from_f16(u16_at(&b, 0)) * (0.5 + f32::from(nibble(&b[66..], s))) * 0.25
);

format!(
    /// Scale, 32 low bytes of grid, 32 bytes of signs, 2 high bits of grid each, 4-bit scales.
    Iq2S, IQ2_S, 82, offset 64, group 16,
    |b, i| {
        let high = usize::from(b[66 + i / 4] >> (2 * (i % 4)) & 3);
        signed(S2[usize::from(b[2 + i]) | high << 8], b[34 + i], 64)
    },
    sixteen 16 |s| from_f16(u16_at(&b, 0)) * (0.5 + f32::from(nibble(&b[74..], s))) * 0.25
);

format!(
    /// Scale, 64 grid bytes, per 32 weights a word with 4 x 7 signs and a 4-bit scale.
    Iq3Xxs, IQ3_XXS, 98, offset 64, group 32,
    |b, i| {
        let four = |k: usize| XXS3[usize::from(b[2 + 2 * i + k])];
        let signs = with_parity(u32_at(&b[66..], i / 4) >> (7 * (i % 4)));
        signed(join(four(0), four(1)), signs, 64)
    },
    eight 8 |g| {
        let scale = (u32_at(&b[66..], g) >> 28) as f32;
        from_f16(u16_at(&b, 0)) * (0.5 + scale) * 0.5
    }
);

format!(
    /// Scale, 64 low bytes of grid, a high bit each, 32 bytes of signs, eight scales of 4 bits.
    Iq3S, IQ3_S, 110, offset 16, group 32,
    |b, i| {
        let four = |k: usize| {
            let high = usize::from(b[66 + i / 4] >> (2 * (i % 4) + k) & 1);
            S3[usize::from(b[2 + 2 * i + k]) | high << 8]
        };
        signed(join(four(0), four(1)), b[74 + i], 16)
    },
    eight 8 |g| from_f16(u16_at(&b, 0)) * f32::from(1 + 2 * nibble(&b[106..], g))
);

/// Grid entry `index` of an IQ1 type, an eighth up or down.
#[inline(always)]
fn moved(index: usize, down: bool) -> [u8; 8] {
    let (entry, up) = (S1[index], if down { 0 } else { 2 });
    array!(8, k => entry[k] + up)
}

format!(
    /// Scale, 32 low bytes of grid, per 32 weights a word: 4 x 3 high bits, scale, direction.
    Iq1S, IQ1_S, 50, offset 16, group 32,
    |b, i| {
        let word = u16_at(&b[34..], i / 4);
        let high = usize::from(word >> (3 * (i % 4)) & 7);
        moved(usize::from(b[2 + i]) | high << 8, word & 0x8000 != 0)
    },
    eight 8 |g| {
        let scale = u16_at(&b[34..], g) >> 12 & 7;
        from_f16(u16_at(&b, 0)) * f32::from(2 * scale + 1) * 0.125
    }
);

format!(
    /// 32 low bytes of grid, nibbles of 3 high bits and a direction, four words of 4 x 3 bits of
    /// scale, whose highest nibbles together are the F16 scale of the block.
    Iq1M, IQ1_M, 56, offset 16, group 16,
    |b, i| {
        let high = nibble(&b[32..], i);
        moved(usize::from(b[i]) | usize::from(high & 7) << 8, high & 8 != 0)
    },
    sixteen 16 |s| {
        let word = |k: usize| u16_at(&b[48..], k);
        let d = word(0) >> 12 | word(1) >> 8 & 0xf0 | word(2) >> 4 & 0xf00 | word(3) & 0xf000;
        let scale = word(s / 4) >> (3 * (s % 4)) & 7;
        from_f16(d) * f32::from(2 * scale + 1) * 0.125
    }
);
