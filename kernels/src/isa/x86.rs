//! AVX2 and AVX-VNNI: 256-bit vectors. The two differ only in the 8-bit dot product.

use core::arch::x86_64::*;

use super::x86_parts::*;
use super::{Fours, Isa};
use crate::layout::GROUP;

/// The token of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// The token of AVX2 and AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

/// The methods that both tokens share.
macro_rules! common {
    () => {
        const ROWS: usize = 8;

        type Bytes = [__m256i; 2];
        type Ints = [__m256i; 2];
        type Lanes = [__m256; 2];
        type Eight = __m256;

        #[inline(always)]
        fn prefetch(self, p: *const u8, n: usize) {
            simd! { fetch(p, n) }
        }
        #[inline(always)]
        unsafe fn load_runs<const BLOCK: usize, const AT: usize, const HALF: usize>(
            self,
            p: *const u8,
        ) -> Self::Bytes {
            simd! {
                let [a, b, c, d] = runs::<BLOCK>(p.add(4 * HALF * BLOCK + AT));
                [_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)]
            }
        }
        #[inline(always)]
        unsafe fn load_at(self, p: *const u8, [a, b, c, d]: [usize; 4]) -> Self::Bytes {
            simd! { [pair(p.add(a), p.add(b)), pair(p.add(c), p.add(d))] }
        }
        #[inline(always)]
        fn pick_runs(self, v: Self::Bytes, [a, b, c, d]: [usize; 4]) -> Self::Bytes {
            simd! { [run_pair(v, a, b), run_pair(v, c, d)] }
        }
        #[inline(always)]
        unsafe fn store_bytes(self, p: *mut u8, b: Self::Bytes) {
            simd! {
                _mm256_storeu_si256(p.cast(), b[0]);
                _mm256_storeu_si256(p.add(32).cast(), b[1]);
            }
        }
        #[inline(always)]
        fn shift_runs(self, b: Self::Bytes, by: [i32; 4], mask: u8) -> Self::Bytes {
            simd! {
                let mask = _mm256_set1_epi8(mask as i8);
                [
                    _mm256_and_si256(shift2(b[0], by[0], by[1]), mask),
                    _mm256_and_si256(shift2(b[1], by[2], by[3]), mask),
                ]
            }
        }
        #[inline(always)]
        fn or_bytes(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            simd! { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        }
        #[inline(always)]
        fn lookup(self, table: &[u8; 16], b: Self::Bytes) -> Self::Bytes {
            simd! {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                [_mm256_shuffle_epi8(table, b[0]), _mm256_shuffle_epi8(table, b[1])]
            }
        }
        #[inline(always)]
        fn spread_bits(self, bits: u64, value: u8) -> Self::Bytes {
            simd! { [spread32(bits as u32, value), spread32((bits >> 32) as u32, value)] }
        }
        #[inline(always)]
        fn eights<const N: usize>(
            self,
            grid: &[u64; N],
            index: [u64; 4],
        ) -> (Self::Bytes, Self::Bytes) {
            let [a, b, c, d] = index;
            simd! {
                (
                    [eights4(grid, [a, b], 0), eights4(grid, [c, d], 0)],
                    [eights4(grid, [a, b], 32), eights4(grid, [c, d], 32)],
                )
            }
        }
        #[inline(always)]
        unsafe fn fours<const N: usize, const HALF: usize>(
            self,
            grid: &Fours<N>,
            p: *const u8,
            ninth: u64,
        ) -> (Self::Bytes, Self::Bytes) {
            simd! {
                let (p, ninth) = (p.add(32 * HALF), ninth >> (32 * HALF));
                (
                    [fours8(grid, p, ninth), fours8(grid, p.add(16), ninth >> 16)],
                    [fours8(grid, p.add(4), ninth >> 4), fours8(grid, p.add(20), ninth >> 20)],
                )
            }
        }
        #[inline(always)]
        fn mirror(self, b: Self::Bytes, bits: u64, sum: u8) -> Self::Bytes {
            // Where all bits are set: the complement plus one, plus the sum.
            let [m, n] = self.spread_bits(bits, 255);
            simd! {
                let more = _mm256_set1_epi8(sum.wrapping_add(1) as i8);
                [
                    _mm256_add_epi8(_mm256_xor_si256(b[0], m), _mm256_and_si256(m, more)),
                    _mm256_add_epi8(_mm256_xor_si256(b[1], n), _mm256_and_si256(n, more)),
                ]
            }
        }
        #[inline(always)]
        fn add_where(self, b: Self::Bytes, bits: u64, k: u8) -> Self::Bytes {
            let [m, n] = self.spread_bits(bits, k);
            simd! { [_mm256_add_epi8(b[0], m), _mm256_add_epi8(b[1], n)] }
        }
        #[inline(always)]
        fn add_bytes(self, b: Self::Bytes, k: u8) -> Self::Bytes {
            simd! {
                let k = _mm256_set1_epi8(k as i8);
                [_mm256_add_epi8(b[0], k), _mm256_add_epi8(b[1], k)]
            }
        }
        #[inline(always)]
        unsafe fn expand(self, mask: u64, p: *const u8) -> Self::Bytes {
            simd! { expand2(mask, p) }
        }

        #[inline(always)]
        fn zero_ints(self) -> Self::Ints {
            simd! { [_mm256_setzero_si256(); 2] }
        }
        #[inline(always)]
        unsafe fn sum_fours(
            self,
            a: Self::Ints,
            b: Self::Ints,
            offset: Option<(*const i32, u32)>,
        ) -> __m256 {
            simd! {
                // Groups 0 2 4 6 | 1 3 5 7.
                let pairs = [_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(b[0], b[1])];
                let sums = _mm256_hadd_epi32(pairs[0], pairs[1]);
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                subtract8(_mm256_permutevar8x32_epi32(sums, order), offset)
            }
        }

        #[inline(always)]
        fn zero_lanes(self) -> Self::Lanes {
            simd! { [_mm256_setzero_ps(); 2] }
        }
        #[inline(always)]
        unsafe fn load_lanes(self, p: *const f32) -> Self::Lanes {
            simd! { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        }
        #[inline(always)]
        unsafe fn load_lanes_f16(self, p: *const u8) -> Self::Lanes {
            simd! {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast())),
                ]
            }
        }
        #[inline(always)]
        unsafe fn load_lanes_bf16(self, p: *const u8) -> Self::Lanes {
            simd! {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn load_lanes_i8(self, p: *const u8) -> Self::Lanes {
            simd! {
                let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
                let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()));
                [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
            }
        }
        #[inline(always)]
        unsafe fn splat_lanes(self, p: *const f32) -> Self::Lanes {
            simd! { [_mm256_set1_ps(p.read_unaligned()); 2] }
        }
        #[inline(always)]
        unsafe fn store_lanes(self, p: *mut f32, v: Self::Lanes) {
            simd! {
                _mm256_storeu_ps(p, v[0]);
                _mm256_storeu_ps(p.add(8), v[1]);
            }
        }
        #[inline(always)]
        fn larger_lanes(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
            simd! { [_mm256_max_ps(b[0], a[0]), _mm256_max_ps(b[1], a[1])] }
        }
        #[inline(always)]
        fn fma_lanes(self, acc: Self::Lanes, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
            simd! { [_mm256_fmadd_ps(a[0], b[0], acc[0]), _mm256_fmadd_ps(a[1], b[1], acc[1])] }
        }
        #[inline(always)]
        fn reduce(self, v: Self::Lanes, e: __m256) -> f32 {
            simd! { reduce8(_mm256_add_ps(e, _mm256_add_ps(v[0], v[1]))) }
        }

        #[inline(always)]
        fn zero_eight(self) -> __m256 {
            simd! { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_eight(self, p: *const f32) -> __m256 {
            simd! { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store_eight(self, p: *mut f32, v: __m256) {
            simd! { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn gather_f16<const BLOCK: usize, const AT: usize>(self, p: *const u8) -> __m256 {
            simd! { _mm256_cvtph_ps(gather8(p.add(AT), BLOCK)) }
        }
        #[inline(always)]
        fn keep_eight(self, v: __m256, n: usize) -> __m256 {
            simd! { keep8(v, n) }
        }
        #[inline(always)]
        fn splat_eight(self, v: f32) -> __m256 {
            simd! { _mm256_set1_ps(v) }
        }
        #[inline(always)]
        unsafe fn splat_f16(self, p: *const u8) -> __m256 {
            simd! { splat_half8(p) }
        }
        #[inline(always)]
        fn widen(self, v: [u8; 8]) -> __m256 {
            simd! { widen8(v) }
        }
        #[inline(always)]
        fn widen_pairs(self, v: [u8; 16]) -> (__m256, __m256) {
            simd! { widen_pairs16(v) }
        }
        #[inline(always)]
        fn mul_eight(self, a: __m256, b: __m256) -> __m256 {
            simd! { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn fma_eight(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
            simd! { _mm256_fmadd_ps(a, b, acc) }
        }

        #[inline(always)]
        unsafe fn transpose_eights(
            self,
            from: *const f32,
            to: *mut f32,
            groups: usize,
            at: &[usize; 8],
        ) {
            simd! { transpose_eights16(from, to, groups, at) }
        }
        #[inline(always)]
        fn transpose_in_runs(self, [p, q, r, s]: [Self::Bytes; 4]) -> [Self::Bytes; 4] {
            simd! {
                let low = transpose_in_lanes([p[0], q[0], r[0], s[0]]);
                let high = transpose_in_lanes([p[1], q[1], r[1], s[1]]);
                [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
            }
        }
        #[inline(always)]
        fn transpose_runs(self, [p, q, r, s]: [Self::Bytes; 4]) -> [Self::Bytes; 4] {
            simd! {
                let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
                let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
                [
                    [low(p[0], q[0]), low(r[0], s[0])],
                    [high(p[0], q[0]), high(r[0], s[0])],
                    [low(p[1], q[1]), low(r[1], s[1])],
                    [high(p[1], q[1]), high(r[1], s[1])],
                ]
            }
        }
        #[inline(always)]
        unsafe fn transpose(self, from: *const f32, to: *mut f32) {
            for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                simd! {
                    let turned = transpose8(from.add(row * 16 + column), 16);
                    for i in 0..8 {
                        _mm256_storeu_ps(to.add((column + i) * 16 + row), turned[i]);
                    }
                }
            }
        }
        #[inline(always)]
        fn max_abs(self, x: &[f32; GROUP]) -> u32 {
            simd! { max_abs32(x) }
        }
        #[inline(always)]
        fn codes(self, x: &[f32; GROUP], inverse: f32) -> [i8; GROUP] {
            simd! { codes32(x, inverse) }
        }
        #[inline(always)]
        fn sums(self, codes: &[i8; GROUP]) -> [i32; 8] {
            simd! { sums32(codes) }
        }

        type RowInts = __m256i;
        type RowFloats = __m256;

        #[inline(always)]
        fn zero_row_ints(self) -> __m256i {
            simd! { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn splat_int(self, p: *const u8) -> __m256i {
            simd! { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn load_row_ints(self, p: *const i32) -> __m256i {
            simd! { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        fn sub_row_ints(self, a: __m256i, b: __m256i) -> __m256i {
            simd! { _mm256_sub_epi32(a, b) }
        }
        #[inline(always)]
        fn to_floats(self, v: __m256i) -> __m256 {
            simd! { _mm256_cvtepi32_ps(v) }
        }
        #[inline(always)]
        fn zero_rows(self) -> __m256 {
            simd! { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_rows(self, p: *const f32) -> __m256 {
            simd! { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store_rows(self, p: *mut f32, v: __m256) {
            simd! { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn splat_row(self, p: *const u8) -> __m256 {
            simd! { _mm256_set1_ps(p.cast::<f32>().read_unaligned()) }
        }
        #[inline(always)]
        fn sub_rows(self, a: __m256, b: __m256) -> __m256 {
            simd! { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn add_rows(self, a: __m256, b: __m256) -> __m256 {
            simd! { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn mul_rows(self, a: __m256, b: __m256) -> __m256 {
            simd! { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn fma_rows(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
            simd! { _mm256_fmadd_ps(a, b, acc) }
        }
    };
}

// SAFETY: every method needs at most AVX2, FMA and F16C, and stays within documented ranges.
unsafe impl Isa for Avx2 {
    const UNSIGNED_WEIGHTS: bool = false;
    common!();

    #[inline(always)]
    unsafe fn dot_small(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints {
        simd! {
            let x = load2(x);
            let one = _mm256_set1_epi16(1);
            let low = _mm256_madd_epi16(_mm256_maddubs_epi16(w[0], x[0]), one);
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(w[1], x[1]), one);
            [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)]
        }
    }
    #[inline(always)]
    unsafe fn dot_signed(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints {
        simd! {
            let x = load2(x);
            [
                dot_sign(acc[0], _mm256_abs_epi8(w[0]), w[0], x[0]),
                dot_sign(acc[1], _mm256_abs_epi8(w[1]), w[1], x[1]),
            ]
        }
    }

    /// The weights and their magnitudes.
    type Weights = [__m256i; 2];

    #[inline(always)]
    unsafe fn load_weights(self, p: *const u8) -> [__m256i; 2] {
        simd! {
            let w = _mm256_loadu_si256(p.cast());
            [w, _mm256_abs_epi8(w)]
        }
    }
    #[inline(always)]
    unsafe fn dot_rows(self, acc: __m256i, w: [__m256i; 2], x: *const u8) -> __m256i {
        simd! { dot_sign(acc, w[1], w[0], self.splat_int(x)) }
    }
}

/// The dot product of AVX-VNNI: four unsigned by signed products added to each lane.
#[cfg(not(feature = "evex"))]
#[inline(always)]
unsafe fn dot_vnni(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    simd! { _mm256_dpbusd_avx_epi32(acc, w, x) }
}

/// The same operation in the encoding of AVX-512-VNNI with VL, for processors that lack the other one.
/// Written out, because the intrinsic would need the features of AVX-512 and with them the compiler
/// would use twice as many registers: only the encoding may differ from the level that is measured.
#[cfg(feature = "evex")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_vnni(mut acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: `Level::is_available` asks for AVX-512-VNNI and VL in such a build; registers only.
    unsafe {
        core::arch::asm!(
            "{{evex}} vpdpbusd {acc}, {w}, {x}",
            acc = inout(ymm_reg) acc,
            w = in(ymm_reg) w,
            x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

// SAFETY: every method needs at most AVX2, FMA, F16C and AVX-VNNI, and stays within documented
// ranges.
unsafe impl Isa for AvxVnni {
    const UNSIGNED_WEIGHTS: bool = true;
    common!();

    #[inline(always)]
    unsafe fn dot_small(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints {
        simd! {
            let x = load2(x);
            [
                dot_vnni(acc[0], w[0], x[0]),
                dot_vnni(acc[1], w[1], x[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dot_signed(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints {
        simd! { self.dot_small(acc, self.add_bytes(w, 128), x) }
    }

    type Weights = __m256i;

    #[inline(always)]
    unsafe fn load_weights(self, p: *const u8) -> __m256i {
        simd! { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot_rows(self, acc: __m256i, w: __m256i, x: *const u8) -> __m256i {
        simd! { dot_vnni(acc, w, self.splat_int(x)) }
    }
}
