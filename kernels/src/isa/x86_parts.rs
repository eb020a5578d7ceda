//! Pieces of 256 bits that the x86 tokens share.

use core::arch::x86_64::*;

use super::{Fours, SPREAD};
use crate::layout::GROUP;

/// Runs intrinsics in a method of a token, or in what only those call.
macro_rules! simd {
    ($($body:tt)*) => {{
        // SAFETY: `Level::is_available` has found the features of a token before `dispatch` makes one. Loads
        // and stores stay in the ranges that `Isa` documents: `format` keeps them inside a unit, `ops`
        // inside a job, whose lengths `api` asserts.
        unsafe { $($body)* }
    }};
}
pub(super) use simd;

/// Two bytes as an integer.
///
/// # Safety
/// Two bytes must be readable at `p + at`.
#[inline(always)]
unsafe fn half_at(p: *const u8, at: usize) -> i32 {
    i32::from(simd! { p.add(at).cast::<u16>().read_unaligned() })
}

/// Eight F16 of a strided array, as one vector.
///
/// # Safety
/// Two bytes at each multiple of `stride` below 8 must be readable.
#[inline(always)]
pub(super) unsafe fn gather8(p: *const u8, stride: usize) -> __m128i {
    // SSE2 is part of x86-64.
    simd! {
        let mut v = _mm_cvtsi32_si128(half_at(p, 0));
        v = _mm_insert_epi16::<1>(v, half_at(p, stride));
        v = _mm_insert_epi16::<2>(v, half_at(p, 2 * stride));
        v = _mm_insert_epi16::<3>(v, half_at(p, 3 * stride));
        v = _mm_insert_epi16::<4>(v, half_at(p, 4 * stride));
        v = _mm_insert_epi16::<5>(v, half_at(p, 5 * stride));
        v = _mm_insert_epi16::<6>(v, half_at(p, 6 * stride));
        _mm_insert_epi16::<7>(v, half_at(p, 7 * stride))
    }
}

/// The F16 at `p` in every lane, widened.
///
/// # Safety
/// Needs AVX and F16C; two bytes must be readable.
#[inline(always)]
pub(super) unsafe fn splat_half8(p: *const u8) -> __m256 {
    simd! { _mm256_cvtph_ps(_mm_set1_epi16(half_at(p, 0) as i16)) }
}

/// See [`Isa::widen`].
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn widen8(v: [u8; 8]) -> __m256 {
    simd! {
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(v));
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
    }
}

/// See [`Isa::widen_pairs`].
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn widen_pairs16(v: [u8; 16]) -> (__m256, __m256) {
    // The load covers the array.
    simd! {
        let v = _mm_loadu_si128(v.as_ptr().cast());
        let even = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
        let odd = _mm_setr_epi8(1, 3, 5, 7, 9, 11, 13, 15, -1, -1, -1, -1, -1, -1, -1, -1);
        (
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_shuffle_epi8(v, even))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_shuffle_epi8(v, odd))),
        )
    }
}

/// Runs of 16 bytes `a` and `b` of four, side by side.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn run_pair(v: [__m256i; 2], a: usize, b: usize) -> __m256i {
    simd! {
        let runs = [
            _mm256_castsi256_si128(v[0]),
            _mm256_extracti128_si256::<1>(v[0]),
            _mm256_castsi256_si128(v[1]),
            _mm256_extracti128_si256::<1>(v[1]),
        ];
        _mm256_set_m128i(runs[b], runs[a])
    }
}

/// Entries of `grid` whose places modulo `N` are the 16-bit parts of `word` at bit `at` and after it.
///
/// # Safety
/// Needs SSE2, which is part of x86-64.
#[inline(always)]
unsafe fn eights2<const N: usize>(grid: &[u64; N], word: u64, at: u32) -> __m128i {
    const { assert!(N.is_power_of_two()) };
    let places = (word >> at) as u32 as usize;
    let first = &raw const grid[places & (N - 1)];
    let second = &raw const grid[places >> 16 & (N - 1)];
    // Eight bytes each.
    simd! { _mm_castpd_si128(_mm_loadh_pd(_mm_load_sd(first.cast()), second.cast())) }
}

/// See [`Isa::eights`], for two words.
///
/// # Safety
/// Needs AVX.
#[inline(always)]
pub(super) unsafe fn eights4<const N: usize>(grid: &[u64; N], words: [u64; 2], at: u32) -> __m256i {
    simd! { _mm256_set_m128i(eights2(grid, words[1], at), eights2(grid, words[0], at)) }
}

/// See [`Isa::fours`], for the places at `p .. p + 4`.
///
/// # Safety
/// Needs SSE4.1; the four bytes must be readable.
#[inline(always)]
unsafe fn fours4<const N: usize>(grid: &Fours<N>, p: *const u8, ninth: u64) -> __m128i {
    let mut entries = [0; 4];
    for (k, entry) in entries.iter_mut().enumerate() {
        let low = usize::from(simd! { *p.add(k) });
        *entry = grid.entry(low | ((ninth >> k & 1) << 8) as usize) as i32;
    }
    let [a, b, c, d] = entries;
    simd! { _mm_setr_epi32(a, b, c, d) }
}

/// The same for the places at `p .. p + 4` and `p + 8 .. p + 12`.
///
/// # Safety
/// Needs AVX2; the bytes must be readable.
#[inline(always)]
pub(super) unsafe fn fours8<const N: usize>(grid: &Fours<N>, p: *const u8, ninth: u64) -> __m256i {
    simd! { _mm256_set_m128i(fours4(grid, p.add(8), ninth >> 8), fours4(grid, p, ninth)) }
}

/// Two times eight bytes, the first at `p`, spread over the bits of two masks; what comes next.
///
/// # Safety
/// Needs SSSE3; eight bytes must be readable after those of the first mask.
#[inline(always)]
unsafe fn spread16(p: *const u8, masks: [u8; 2]) -> (__m128i, *const u8) {
    let [first, last] = masks;
    // A row of the table has eight bytes.
    simd! {
        let after = p.add(first.count_ones() as usize);
        let bytes = _mm_castsi128_pd(_mm_loadl_epi64(p.cast()));
        let bytes = _mm_loadh_pd(bytes, after.cast());
        let low = SPREAD[0][usize::from(first)].as_ptr();
        let places = _mm_castsi128_pd(_mm_loadl_epi64(low.cast()));
        let places = _mm_loadh_pd(places, SPREAD[1][usize::from(last)].as_ptr().cast());
        let spread = _mm_shuffle_epi8(_mm_castpd_si128(bytes), _mm_castpd_si128(places));
        (spread, after.add(last.count_ones() as usize))
    }
}

/// See [`Isa::expand`].
///
/// # Safety
/// Needs AVX; 64 bytes must be readable.
#[inline(always)]
pub(super) unsafe fn expand2(mask: u64, mut p: *const u8) -> [__m256i; 2] {
    let masks = mask.to_le_bytes();
    // What the masks have taken is below 64 bytes.
    simd! {
        let mut runs = [_mm_setzero_si128(); 4];
        for q in 0..4 {
            (runs[q], p) = spread16(p, [masks[2 * q], masks[2 * q + 1]]);
        }
        [
            _mm256_set_m128i(runs[1], runs[0]),
            _mm256_set_m128i(runs[3], runs[2]),
        ]
    }
}

/// 64 bytes as two vectors.
///
/// # Safety
/// Needs AVX; 64 bytes must be readable.
#[inline(always)]
pub(super) unsafe fn load2(p: *const u8) -> [__m256i; 2] {
    simd! {
        [
            _mm256_loadu_si256(p.cast()),
            _mm256_loadu_si256(p.add(32).cast()),
        ]
    }
}

/// Eight sums minus those at the `offset` pointer shifted left, as F32.
///
/// # Safety
/// Needs AVX2; eight I32 must be readable at the pointer.
#[inline(always)]
pub(super) unsafe fn subtract8(mut v: __m256i, offset: Option<(*const i32, u32)>) -> __m256 {
    simd! {
        if let Some((p, by)) = offset {
            let k = _mm256_loadu_si256(p.cast());
            v = _mm256_sub_epi32(v, _mm256_sll_epi32(k, _mm_cvtsi32_si128(by as i32)));
        }
        _mm256_cvtepi32_ps(v)
    }
}

/// Prefetches the lines of `n` bytes into the second-level cache.
///
/// # Safety
/// None beyond SSE, which is part of x86-64; prefetching never faults.
#[inline(always)]
pub(super) unsafe fn fetch(p: *const u8, n: usize) {
    for at in (0..n).step_by(64) {
        // SAFETY: see above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(at).cast()) }
    }
}

/// The first `n` of eight values, zeros in place of the others.
///
/// # Safety
/// Needs AVX.
#[inline(always)]
pub(super) unsafe fn keep8(v: __m256, n: usize) -> __m256 {
    const MASK: [u32; 16] = [!0, !0, !0, !0, !0, !0, !0, !0, 0, 0, 0, 0, 0, 0, 0, 0];
    let from = &MASK[8 - n.min(8)..];
    // At least eight numbers from there.
    simd! { _mm256_and_ps(v, _mm256_loadu_ps(from.as_ptr().cast())) }
}

/// Four 16-byte runs, `STRIDE` bytes apart.
///
/// # Safety
/// 16 bytes must be readable at each.
#[inline(always)]
pub(super) unsafe fn runs<const STRIDE: usize>(p: *const u8) -> [__m128i; 4] {
    // SSE2 is part of x86-64.
    simd! {
        [
            _mm_loadu_si128(p.cast()),
            _mm_loadu_si128(p.add(STRIDE).cast()),
            _mm_loadu_si128(p.add(2 * STRIDE).cast()),
            _mm_loadu_si128(p.add(3 * STRIDE).cast()),
        ]
    }
}

/// Shifts the bytes of two runs left, or right by negative amounts. Bits of neighbouring bytes
/// come in.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn shift2(v: __m256i, a: i32, b: i32) -> __m256i {
    simd! {
        let (p, q) = ((-a).max(0), (-b).max(0));
        let right = _mm256_srlv_epi32(v, _mm256_setr_epi32(p, p, p, p, q, q, q, q));
        let (p, q) = (a.max(0), b.max(0));
        _mm256_sllv_epi32(right, _mm256_setr_epi32(p, p, p, p, q, q, q, q))
    }
}

/// See [`Isa::spread_bits`], for 32 bits.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn spread32(bits: u32, value: u8) -> __m256i {
    simd! {
        let (zero, one) = (0, 0x0101_0101_0101_0101);
        let place = _mm256_setr_epi64x(zero, one, 2 * one, 3 * one);
        let copies = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), place);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(copies, bit), bit);
        _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
    }
}

/// Two 16-byte runs side by side.
///
/// # Safety
/// Needs AVX2; 16 bytes must be readable at each pointer.
#[inline(always)]
pub(super) unsafe fn pair(low: *const u8, high: *const u8) -> __m256i {
    simd! { _mm256_set_m128i(_mm_loadu_si128(high.cast()), _mm_loadu_si128(low.cast())) }
}

/// Sum over the fixed tree, from the eight partial sums on.
///
/// # Safety
/// Needs AVX.
#[inline(always)]
pub(super) unsafe fn reduce8(v: __m256) -> f32 {
    simd! {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Sums of four products of signed bytes without saturation: |w| <= 128 and |x| <= 127, so a pair
/// is at most 2 * 128 * 127 = 32,512 < 32,768.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn dot_sign(acc: __m256i, size: __m256i, w: __m256i, x: __m256i) -> __m256i {
    simd! {
        let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Transposes eight rows of eight 32-bit values; row `r` is at `from + r * stride`.
///
/// # Safety
/// Needs AVX2; the rows must be readable.
#[inline(always)]
pub(super) unsafe fn transpose8(from: *const f32, stride: usize) -> [__m256; 8] {
    simd! {
        // Row r and row r + 4 side by side: 128-bit halves of columns 0..4 and 4..8.
        let mut low = [_mm256_setzero_ps(); 4];
        let mut high = low;
        for r in 0..4 {
            let (a, b) = (from.add(r * stride), from.add((r + 4) * stride));
            low[r] = _mm256_set_m128(_mm_loadu_ps(b), _mm_loadu_ps(a));
            high[r] = _mm256_set_m128(_mm_loadu_ps(b.add(4)), _mm_loadu_ps(a.add(4)));
        }
        let mut out = [_mm256_setzero_ps(); 8];
        for (i, v) in [low, high].into_iter().enumerate() {
            let (a, b) = (
                _mm256_unpacklo_ps(v[0], v[1]),
                _mm256_unpackhi_ps(v[0], v[1]),
            );
            let (c, d) = (
                _mm256_unpacklo_ps(v[2], v[3]),
                _mm256_unpackhi_ps(v[2], v[3]),
            );
            out[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
            out[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            out[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            out[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        out
    }
}

/// See [`Isa::transpose_eights`].
///
/// # Safety
/// Needs AVX2, and as for the method.
#[inline(always)]
pub(super) unsafe fn transpose_eights16(
    from: *const f32,
    to: *mut f32,
    groups: usize,
    at: &[usize; 8],
) {
    simd! {
        for part in 0..2 {
            let turned = transpose8(from.add(part * 64), 8);
            for g in 0..8 {
                if g < groups {
                    _mm256_storeu_ps(to.add(at[g] * 16 + part * 8), turned[g]);
                }
            }
        }
    }
}

/// See [`Isa::transpose_in_runs`], for two runs.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn transpose_in_lanes([p, q, r, s]: [__m256i; 4]) -> [__m256i; 4] {
    simd! {
        let (a, b) = (_mm256_unpacklo_epi32(p, q), _mm256_unpackhi_epi32(p, q));
        let (c, d) = (_mm256_unpacklo_epi32(r, s), _mm256_unpackhi_epi32(r, s));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    }
}

/// See [`Isa::max_abs`].
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn max_abs32(x: &[f32; GROUP]) -> u32 {
    // The loads cover the 32 values.
    simd! {
        let p: *const __m256i = x.as_ptr().cast();
        let a = _mm256_slli_epi32::<1>(_mm256_loadu_si256(p));
        let b = _mm256_slli_epi32::<1>(_mm256_loadu_si256(p.add(1)));
        let c = _mm256_slli_epi32::<1>(_mm256_loadu_si256(p.add(2)));
        let d = _mm256_slli_epi32::<1>(_mm256_loadu_si256(p.add(3)));
        let m = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
        let m = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
        let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b1110>(m));
        let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b01>(m));
        _mm_cvtsi128_si32(m) as u32 >> 1
    }
}

/// See [`Isa::codes`].
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn codes32(x: &[f32; GROUP], inverse: f32) -> [i8; GROUP] {
    let mut out = [0; GROUP];
    // Loads and store cover 32 elements.
    simd! {
        let (p, k) = (x.as_ptr(), _mm256_set1_ps(inverse));
        let a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p), k));
        let b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p.add(8)), k));
        let c = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p.add(16)), k));
        let d = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p.add(24)), k));
        // Packing works within 128-bit halves: a0 b0 c0 d0 | a1 b1 c1 d1.
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        _mm256_storeu_si256(out.as_mut_ptr().cast(), packed);
    }
    out
}

/// See [`Isa::sums`].
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn sums32(codes: &[i8; GROUP]) -> [i32; 8] {
    let mut out = [0; 8];
    // Load and store cover 32 bytes.
    simd! {
        let c = _mm256_loadu_si256(codes.as_ptr().cast());
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), c);
        let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
    }
    out
}
