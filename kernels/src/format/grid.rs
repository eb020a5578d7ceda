//! Types whose codes index a grid of 4 or 8 weights: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS
//! and IQ3_S. Read only: choosing good grid points is a search of its own.
//!
//! Grid entries are magnitudes; signs are stored beside them, eight to a byte, or seven, the
//! eighth being their parity. In IQ1 types the grid is -1, 0, 1 and a bit per 8 or 32 weights
//! moves all of them by an eighth, up or down: nine steps of an eighth to each side of zero.
//!
//! `grids/` holds the grids packed, as PyPI `gguf` 0.19 does: 2 bits per weight (4 in IQ3).

use super::{Blocks, Codes, QuantFormat, both, eight};
use crate::dtype::Dtype;
use crate::isa::{EVERY_16, Fours, Isa};

/// Unpacks a grid: words of eight entries of two bits each, that index `values`.
const fn grid<const N: usize>(packed: &[u8], values: &[u8; 3]) -> [u64; N] {
    assert!(packed.len() == 2 * N);
    let (mut out, mut k) = ([0; N], 0);
    while k < N * 8 {
        let index = packed[k / 4] >> (k % 4 * 2) & 3;
        out[k / 8] |= (values[index as usize] as u64) << (8 * (k % 8));
        k += 1;
    }
    out
}

/// The code of weight zero, but for IQ1 and IQ3_S types.
const ZERO: u8 = 64;
/// That of IQ1 and IQ3_S.
const SMALL_ZERO: u8 = 16;

const TWO: [u8; 3] = [ZERO + 8, ZERO + 25, ZERO + 43];
static XXS2: [u64; 256] = grid(include_bytes!("grids/iq2_xxs.bin"), &TWO);
static XS2: [u64; 512] = grid(include_bytes!("grids/iq2_xs.bin"), &TWO);
static S2: [u64; 1024] = grid(include_bytes!("grids/iq2_s.bin"), &TWO);
/// -1, 0, 1 as eighths, an eighth up.
static S1: [u64; 2048] = grid(
    include_bytes!("grids/iq1_s.bin"),
    &[SMALL_ZERO - 7, SMALL_ZERO + 1, SMALL_ZERO + 9],
);
static XXS3: Fours<256> = Fours::new(
    include_bytes!("grids/iq3_xxs.bin"),
    plus([4, 12, 20, 28, 36, 44, 52, 62], ZERO),
);
static S3: Fours<512> = Fours::new(
    include_bytes!("grids/iq3_s.bin"),
    plus([1, 3, 5, 7, 9, 11, 13, 15], SMALL_ZERO),
);

/// Each of `values` plus `offset`.
const fn plus(mut values: [u8; 8], offset: u8) -> [u8; 8] {
    let mut k = 0;
    while k < 8 {
        values[k] += offset;
        k += 1;
    }
    values
}

/// Takes a quarter away from codes that are eighths: down instead of up.
const DOWN: u8 = 0u8.wrapping_sub(2);

/// Where the places in a grid begin in blocks of IQ3 types.
const FOURS_AT: usize = 2;

/// `N` bytes from `at` on.
#[inline(always)]
fn at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    *b[at..].first_chunk().expect("inside a block")
}

/// The number at byte `at`, little-endian, like those below.
#[inline(always)]
fn u16_at(b: &[u8], from: usize) -> u16 {
    u16::from_le_bytes(at(b, from))
}

#[inline(always)]
fn u32_at(b: &[u8], from: usize) -> u32 {
    u32::from_le_bytes(at(b, from))
}

#[inline(always)]
fn u64_at(b: &[u8], from: usize) -> u64 {
    u64::from_le_bytes(at(b, from))
}

/// The low bytes of four 16-bit numbers.
#[inline(always)]
fn narrow(x: u64) -> u64 {
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) & 0xffff_ffff
}

/// Nibbles: 16, in the order of the weights.
#[inline(always)]
fn nibbles<I: Isa>(isa: I, x: u64) -> (I::Eight, I::Eight) {
    let low = u64::MAX / 255 * 15;
    (
        isa.widen((x & low).to_le_bytes()),
        isa.widen((x >> 4 & low).to_le_bytes()),
    )
}

/// Declares a format: its block as an array, the codes of half `h` without signs, the signs of the first and of
/// the last 16 weights of its groups as masks, and the scales of the first and of the last 16 weights of each group
/// as small numbers `n`, for `(base + step * n) * d`, which is exact in any order.
macro_rules! format {
    ($(#[$doc:meta])* $name:ident, $dtype:ident, $bytes:literal, offset $offset:ident,
     group $group:literal, codes |$isa:ident, $b:ident, $h:ident| $codes:expr, $(signs $signs:expr,)?
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
            unsafe fn codes<I: Isa, const HALF: usize>($isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
                // SAFETY: a unit is one block, of the length asserted above; a byte array has no alignment.
                let $b: &[u8; $bytes] = unsafe { &*p.cast() };
                let $h = HALF;
                let (low, high) = $codes;
                $(
                    let signs = $signs;
                    let low = $isa.mirror(low, signs[0], 2 * $offset);
                    let high = $isa.mirror(high, signs[1], 2 * $offset);
                )?
                (low, high)
            }

            #[inline(always)]
            unsafe fn scales<I: Isa>($isa: I, p: *const u8) -> (I::Eight, I::Eight) {
                // SAFETY: as above.
                let $b: &[u8; $bytes] = unsafe { &*p.cast() };
                let (base, step) = ($isa.splat_eight($base), $isa.splat_eight($step));
                let (low, high): (I::Eight, I::Eight) = $scales;
                let (low, high) = ($isa.fma_eight(base, low, step), $isa.fma_eight(base, high, step));
                // SAFETY: two bytes.
                let d = unsafe { $isa.splat_f16($d.as_ptr()) };
                ($isa.mul_eight(low, d), $isa.mul_eight(high, d))
            }
        }
    };
}

/// Four times seven signs, at the top of the 16-bit parts of a word.
#[inline(always)]
fn sevens<I: Isa>(isa: I, x: u32) -> u64 {
    isa.spread_fields::<7, 16>(x.into()) << 9
}

/// The four bytes at `at`, as the low bytes of the 16-bit parts of a word.
#[inline(always)]
fn four<I: Isa>(isa: I, b: &[u8], at: usize) -> u64 {
    isa.spread_fields::<8, 16>(u32_at(b, at).into())
}

/// See [`Isa::fours`], with the places from byte [`FOURS_AT`] of a block on.
#[inline(always)]
fn fours<I: Isa, const N: usize, const HALF: usize, const BYTES: usize>(
    isa: I,
    grid: &Fours<N>,
    b: &[u8; BYTES],
    ninth: u64,
) -> (I::Bytes, I::Bytes) {
    const { assert!(FOURS_AT + 64 <= BYTES) };
    // SAFETY: the assertion.
    unsafe { isa.fours::<N, HALF>(grid, b.as_ptr().add(FOURS_AT), ninth) }
}

format!(
    /// Scale, then per 32 weights four grid bytes and a word with 4 x 7 signs and a 4-bit scale.
    Iq2Xxs, IQ2_XXS, 66, offset ZERO, group 32,
    codes |isa, b, h| isa.eights(&XXS2, array!(4, g => four(isa, b, 2 + 32 * h + 8 * g))),
    signs isa.with_parity(array!(4, g => sevens(isa, u32_at(b, 6 + 32 * h + 8 * g)))),
    scales eight(isa, array!(8, g => (u64_at(b, 2 + 8 * g) >> 60) as i32 as f32)),
    0.125 + 0.25 x at::<2>(b, 0)
);

format!(
    /// Scale, 32 words of 9 bits of grid and 7 signs, 16 scales of 4 bits.
    Iq2Xs, IQ2_XS, 74, offset ZERO, group 16,
    codes |isa, b, h| isa.eights(&XS2, array!(4, g => u64_at(b, 2 + 32 * h + 8 * g))),
    signs isa.with_parity(array!(4, g => u64_at(b, 2 + 32 * h + 8 * g))),
    scales nibbles(isa, u64_at(b, 66)),
    0.125 + 0.25 x at::<2>(b, 0)
);

format!(
    /// Scale, 32 low bytes of grid, 32 bytes of signs, 2 high bits of grid each, 4-bit scales.
    Iq2S, IQ2_S, 82, offset ZERO, group 16,
    codes |isa, b, h| isa.eights(&S2, array!(4, g => {
        let high = isa.spread_fields::<2, 16>(b[66 + 4 * h + g].into());
        four(isa, b, 2 + 16 * h + 4 * g) | high << 8
    })),
    signs isa.bits_in_runs(array!(2, k => u64_at(b, 34 + 16 * h + 8 * k))),
    scales nibbles(isa, u64_at(b, 74)),
    0.125 + 0.25 x at::<2>(b, 0)
);

format!(
    /// Scale, 64 grid bytes, per 32 weights a word with 4 x 7 signs and a 4-bit scale.
    Iq3Xxs, IQ3_XXS, 98, offset ZERO, group 32,
    codes |isa, b, h| fours::<I, 256, HALF, 98>(isa, &XXS3, b, 0),
    signs isa.with_parity(array!(4, g => sevens(isa, u32_at(b, 66 + 16 * h + 4 * g)))),
    scales eight(isa, array!(8, g => (u32_at(b, 66 + 4 * g) >> 28) as i32 as f32)),
    0.25 + 0.5 x at::<2>(b, 0)
);

format!(
    /// Scale, 64 low bytes of grid, a high bit each, 32 bytes of signs, eight scales of 4 bits.
    Iq3S, IQ3_S, 110, offset SMALL_ZERO, group 32,
    codes |isa, b, h| fours::<I, 512, HALF, 110>(isa, &S3, b, u64_at(b, 66)),
    signs isa.bits_in_runs(array!(2, k => u64_at(b, 74 + 16 * h + 8 * k))),
    scales both(isa.widen(isa.spread_fields::<4, 8>(u32_at(b, 106).into()).to_le_bytes())),
    1.0 + 2.0 x at::<2>(b, 0)
);

format!(
    /// Scale, 32 low bytes of grid, per 32 weights a word: 4 x 3 high bits, scale, direction.
    Iq1S, IQ1_S, 50, offset SMALL_ZERO, group 32,
    codes |isa, b, h| {
        let (low, high) = isa.eights(&S1, array!(4, g => {
            let high = isa.spread_fields::<3, 16>(u16_at(b, 34 + 8 * h + 2 * g).into());
            four(isa, b, 2 + 16 * h + 4 * g) | high << 8
        }));
        let down = (u64_at(b, 34 + 8 * h) >> 15 & EVERY_16) * 0xffff;
        (isa.add_where(low, down, DOWN), isa.add_where(high, down, DOWN))
    },
    scales {
        let four = |k: usize| narrow(u64_at(b, 34 + 8 * k) >> 12 & (7 * EVERY_16));
        both(isa.widen((four(0) | four(1) << 32).to_le_bytes()))
    },
    0.125 + 0.25 x at::<2>(b, 0)
);

/// The F16 scale of an IQ1_M block: the highest nibbles of its four words of scales.
#[inline(always)]
fn scattered(b: &[u8]) -> [u8; 2] {
    let x = u64_at(b, 48);
    let d = x >> 12 & 0xf | x >> 24 & 0xf0 | x >> 36 & 0xf00 | x >> 48 & 0xf000;
    (d as u16).to_le_bytes()
}

format!(
    /// 32 low bytes of grid, nibbles of 3 high bits and a direction, four words of 4 x 3 bits of
    /// scale, whose highest nibbles together are the F16 scale of the block.
    Iq1M, IQ1_M, 56, offset SMALL_ZERO, group 16,
    codes |isa, b, h| {
        let (low, high) = isa.eights(&S1, array!(4, g => {
            // Without directions.
            let high = isa.spread_fields::<4, 16>(u16_at(b, 32 + 8 * h + 2 * g).into()) & (7 * EVERY_16);
            four(isa, b, 16 * h + 4 * g) | high << 8
        }));
        let down = isa.top_bits(u64_at(b, 32 + 8 * h));
        (isa.add_where(low, down[0], DOWN), isa.add_where(high, down[1], DOWN))
    },
    scales {
        // Four times three bits in a word: the first and the third are for the first 16 weights of a group.
        let x = u64_at(b, 48);
        let pairs = |x: u64| x & (7 * EVERY_16) | x << 2 & (0x700 * EVERY_16);
        (isa.widen(pairs(x).to_le_bytes()), isa.widen(pairs(x >> 3).to_le_bytes()))
    },
    0.125 + 0.25 x scattered(b)
);
