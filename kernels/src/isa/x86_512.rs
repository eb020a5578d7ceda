//! AVX-512 with VNNI, VBMI and VBMI2, and BMI2: 512-bit vectors.

use core::arch::x86_64::*;

use super::product::Product;
use super::x86_grid::{ODD, each_bit, fields, pairs_of, run_bits};
use super::x86_parts::{
    codes32, eights4, fetch, gather8, keep8, max_abs32, pair, reduce8, runs, simd, splat_half8,
    subtract8, sums32, transpose_eights16, widen_pairs16, widen8,
};
use super::{Fours, Isa};
use crate::layout::GROUP;

/// The token of AVX-512 F, BW, VL, DQ, VBMI, VBMI2 and VNNI, and of BMI2.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Pairs of BF16 in every 32-bit lane: two products are added at once (AVX512_BF16).
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

impl Product<Avx512> for Pairs {
    #[inline(always)]
    fn lanes(_: Avx512, acc: __m512, w: __m512, x: __m512) -> __m512 {
        simd! {
            // Only the type changes.
            let pairs = |v| core::mem::transmute::<__m512, __m512bh>(v);
            _mm512_dpbf16_ps(acc, pairs(w), pairs(x))
        }
    }
    #[inline(always)]
    fn rows(isa: Avx512, acc: __m512, w: __m512, x: __m512) -> __m512 {
        Self::lanes(isa, acc, w, x)
    }
}

/// Whether eight blocks are read with three loads, the last of which ends with the blocks, and
/// taken apart by permutations: a third of the loads, and most of them would cross cache lines.
const fn thirds(block: usize) -> bool {
    16 <= block && block <= 24 && block.is_multiple_of(2)
}

/// Where bytes `AT..AT + 16` of blocks `4 * HALF ..` lie in loads `HALF` and `HALF + 1`.
const fn picks<const BLOCK: usize, const AT: usize, const HALF: usize>() -> [u8; 64] {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 64 && thirds(BLOCK) {
        let from = (4 * HALF + i / 16) * BLOCK + AT + i % 16 - 64 * HALF;
        let second = if HALF == 0 {
            from
        } else {
            from + 64 + 64 - (8 * BLOCK - 64)
        };
        index[i] = if from < 64 { from } else { second } as u8;
        i += 1;
    }
    index
}

/// Where the F16 at byte `AT` of each block lie in the first two loads, and in the last.
const fn words<const BLOCK: usize, const AT: usize>() -> [[u16; 32]; 2] {
    const { assert!(AT.is_multiple_of(2)) };
    let mut index = [[0; 32]; 2];
    let mut i = 0;
    while i < 8 && thirds(BLOCK) {
        let from = i * BLOCK + AT;
        if from < 128 {
            index[0][i] = (from / 2) as u16;
        } else {
            index[1][i] = ((from - (8 * BLOCK - 64)) / 2) as u16;
        }
        i += 1;
    }
    index
}

/// The blocks whose F16 at byte `AT` is only in the last load.
const fn beyond<const BLOCK: usize, const AT: usize>() -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < 8 {
        if i * BLOCK + AT >= 128 {
            mask |= 1 << i;
        }
        i += 1;
    }
    mask
}

/// How far [`Isa::shift_runs`] shifts in the direction of `sign`.
///
/// # Safety
/// Needs AVX-512 F.
#[inline(always)]
unsafe fn counts([p, q, r, s]: [i32; 4], sign: i32) -> __m512i {
    let (p, q) = ((sign * p).max(0), (sign * q).max(0));
    let (r, s) = ((sign * r).max(0), (sign * s).max(0));
    simd! { _mm512_setr_epi32(p, p, p, p, q, q, q, q, r, r, r, r, s, s, s, s) }
}

// SAFETY: every method needs at most AVX-512 F, BW, VL, DQ, VBMI, VBMI2, VNNI, BMI2 and F16C, and stays
// within documented ranges.
unsafe impl Isa for Avx512 {
    const UNSIGNED_WEIGHTS: bool = true;
    const ROWS: usize = 16;

    type Bytes = __m512i;
    type Ints = __m512i;
    type Lanes = __m512;
    type Eight = __m256;

    #[inline(always)]
    fn prefetch(self, p: *const u8, n: usize) {
        simd! { fetch(p, n) }
    }
    #[inline(always)]
    unsafe fn load_runs<const BLOCK: usize, const AT: usize, const HALF: usize>(
        self,
        p: *const u8,
    ) -> __m512i {
        if const { thirds(BLOCK) } {
            let index = const { &picks::<BLOCK, AT, HALF>() };
            simd! {
                let index = _mm512_loadu_si512(index.as_ptr().cast());
                let low = _mm512_loadu_si512(p.add(64 * HALF).cast());
                let high = _mm512_loadu_si512(p.add(if HALF == 0 { 64 } else { 8 * BLOCK - 64 }).cast());
                return _mm512_permutex2var_epi8(low, index, high);
            }
        }
        simd! {
            let [a, b, c, d] = runs::<BLOCK>(p.add(4 * HALF * BLOCK + AT));
            let low = _mm512_castsi256_si512(_mm256_set_m128i(b, a));
            _mm512_inserti64x4::<1>(low, _mm256_set_m128i(d, c))
        }
    }
    #[inline(always)]
    unsafe fn load_at(self, p: *const u8, [a, b, c, d]: [usize; 4]) -> __m512i {
        simd! {
            // Offsets are constants where this is inlined.
            if b == a && c == a && d == a {
                return _mm512_broadcast_i32x4(_mm_loadu_si128(p.add(a).cast()));
            }
            if b == a + 16 && c == a + 32 && d == a + 48 {
                return _mm512_loadu_si512(p.add(a).cast());
            }
            let low = _mm512_castsi256_si512(pair(p.add(a), p.add(b)));
            _mm512_inserti64x4::<1>(low, pair(p.add(c), p.add(d)))
        }
    }
    #[inline(always)]
    fn pick_runs(self, v: __m512i, [a, b, c, d]: [usize; 4]) -> __m512i {
        let [a, b, c, d] = [2 * a as i64, 2 * b as i64, 2 * c as i64, 2 * d as i64];
        simd! {
            let from = _mm512_setr_epi64(a, a + 1, b, b + 1, c, c + 1, d, d + 1);
            _mm512_permutexvar_epi64(from, v)
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: __m512i) {
        simd! { _mm512_storeu_si512(p.cast(), b) }
    }
    #[inline(always)]
    fn shift_runs(self, b: __m512i, by: [i32; 4], mask: u8) -> __m512i {
        simd! {
            let shifted = _mm512_srlv_epi32(b, counts(by, -1));
            let shifted = _mm512_sllv_epi32(shifted, counts(by, 1));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
    }
    #[inline(always)]
    fn or_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        simd! { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], b: __m512i) -> __m512i {
        simd! {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, b)
        }
    }
    #[inline(always)]
    fn spread_bits(self, bits: u64, value: u8) -> __m512i {
        simd! { _mm512_maskz_set1_epi8(bits, value as i8) }
    }
    #[inline(always)]
    fn eights<const N: usize>(self, grid: &[u64; N], [a, b, c, d]: [u64; 4]) -> (__m512i, __m512i) {
        simd! {
            let low = _mm512_castsi256_si512(eights4(grid, [a, b], 0));
            let high = _mm512_castsi256_si512(eights4(grid, [a, b], 32));
            (
                _mm512_inserti64x4::<1>(low, eights4(grid, [c, d], 0)),
                _mm512_inserti64x4::<1>(high, eights4(grid, [c, d], 32)),
            )
        }
    }
    #[inline(always)]
    unsafe fn fours<const N: usize, const HALF: usize>(
        self,
        grid: &Fours<N>,
        p: *const u8,
        ninth: u64,
    ) -> (__m512i, __m512i) {
        simd! {
            // All 64 places, for both halves: the second call finds them done.
            let places = _mm512_loadu_si512(p.cast());
            let low = fields(&grid.fields[0], places, ninth);
            let high = fields(&grid.fields[1], places, ninth);
            let order = const { &pairs_of::<HALF>() };
            let pairs = _mm512_permutex2var_epi8(low, _mm512_loadu_si512(order.as_ptr().cast()), high);
            let values = _mm512_set1_epi64(i64::from_le_bytes(grid.values));
            // Of a byte with the wanted field and others above, six bits are looked at.
            let first = _mm512_set1_epi64(0x1916_1310_0906_0300);
            let last = _mm512_set1_epi64(0x3936_3330_2926_2320);
            (
                _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(first, pairs), values),
                _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(last, pairs), values),
            )
        }
    }
    #[inline(always)]
    fn spread_fields<const BITS: u32, const PART: u32>(self, x: u64) -> u64 {
        const { assert!(BITS <= 8 && (PART == 8 || PART == 16)) };
        let mask = const { u64::MAX / ((1 << PART) - 1) * ((1 << BITS) - 1) };
        simd! { _pdep_u64(x, mask) }
    }
    #[inline(always)]
    fn bits_in_runs(self, [a, b]: [u64; 2]) -> [u64; 2] {
        simd! {
            let all = _mm512_castsi128_si512(_mm_set_epi64x(b as i64, a as i64));
            let bits = each_bit();
            [run_bits::<4, 1, 0>(all, bits), run_bits::<4, 1, 1>(all, bits)]
        }
    }
    #[inline(always)]
    fn top_bits(self, nibbles: u64) -> [u64; 2] {
        simd! {
            let all = _mm512_castsi128_si512(_mm_cvtsi64_si128(nibbles as i64));
            // A byte is two nibbles, of which each counts eight times.
            let (low, high) = (0x0808_0808_0808_0808, 0x8080_8080_8080_8080_u64 as i64);
            let bits = _mm512_setr_epi64(low, high, low, high, low, high, low, high);
            [run_bits::<2, 0, 0>(all, bits), run_bits::<2, 0, 1>(all, bits)]
        }
    }
    #[inline(always)]
    fn with_parity(self, [a, b, c, d]: [u64; 4]) -> [u64; 2] {
        simd! {
            let words = _mm256_set_epi64x(d as i64, c as i64, b as i64, a as i64);
            let sevens = _mm256_srli_epi16::<9>(words);
            // Of 16 numbers those with an odd number of bits have an eighth.
            let odd = _mm256_broadcastsi128_si256(_mm_loadu_si128(ODD.as_ptr().cast()));
            let folded = _mm256_xor_si256(sevens, _mm256_srli_epi16::<4>(sevens));
            let signs = _mm256_or_si256(sevens, _mm256_shuffle_epi8(odd, folded));
            let all = _mm512_castsi256_si512(signs);
            let bits = each_bit();
            [run_bits::<8, 2, 0>(all, bits), run_bits::<8, 2, 1>(all, bits)]
        }
    }
    #[inline(always)]
    fn mirror(self, b: __m512i, bits: u64, sum: u8) -> __m512i {
        simd! { _mm512_mask_sub_epi8(b, bits, _mm512_set1_epi8(sum as i8), b) }
    }
    #[inline(always)]
    fn add_where(self, b: __m512i, bits: u64, k: u8) -> __m512i {
        simd! { _mm512_mask_add_epi8(b, bits, b, _mm512_set1_epi8(k as i8)) }
    }
    #[inline(always)]
    fn add_bytes(self, b: __m512i, k: u8) -> __m512i {
        simd! { _mm512_add_epi8(b, _mm512_set1_epi8(k as i8)) }
    }
    #[inline(always)]
    unsafe fn expand(self, mask: u64, p: *const u8) -> __m512i {
        simd! { _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(p.cast())) }
    }

    #[inline(always)]
    fn zero_ints(self) -> __m512i {
        simd! { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn sum_fours(self, a: __m512i, b: __m512i, offset: Option<(*const i32, u32)>) -> __m256 {
        simd! {
            // Lanes 0 and 2 of every group, then 1 and 3: their sum holds both halves of all groups.
            let even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 2, 6, 10, 14, 18, 22, 26, 30);
            let odd = _mm512_setr_epi32(1, 5, 9, 13, 17, 21, 25, 29, 3, 7, 11, 15, 19, 23, 27, 31);
            let even = _mm512_permutex2var_epi32(a, even, b);
            let odd = _mm512_permutex2var_epi32(a, odd, b);
            let sum = _mm512_add_epi32(even, odd);
            let high = _mm512_extracti64x4_epi64::<1>(sum);
            subtract8(_mm256_add_epi32(_mm512_castsi512_si256(sum), high), offset)
        }
    }
    #[inline(always)]
    unsafe fn dot_small(self, acc: __m512i, w: __m512i, x: *const u8) -> __m512i {
        simd! { _mm512_dpbusd_epi32(acc, w, _mm512_loadu_si512(x.cast())) }
    }
    #[inline(always)]
    unsafe fn dot_signed(self, acc: __m512i, w: __m512i, x: *const u8) -> __m512i {
        simd! { self.dot_small(acc, self.add_bytes(w, 128), x) }
    }

    #[inline(always)]
    fn zero_lanes(self) -> __m512 {
        simd! { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load_lanes(self, p: *const f32) -> __m512 {
        simd! { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_lanes_f16(self, p: *const u8) -> __m512 {
        simd! { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_lanes_bf16(self, p: *const u8) -> __m512 {
        simd! {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_lanes_i8(self, p: *const u8) -> __m512 {
        simd! { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn splat_lanes(self, p: *const f32) -> __m512 {
        simd! { _mm512_set1_ps(p.read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn store_lanes(self, p: *mut f32, v: __m512) {
        simd! { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn larger_lanes(self, a: __m512, b: __m512) -> __m512 {
        simd! { _mm512_max_ps(b, a) }
    }
    #[inline(always)]
    fn fma_lanes(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        simd! { _mm512_fmadd_ps(a, b, acc) }
    }
    #[inline(always)]
    fn reduce(self, v: __m512, e: __m256) -> f32 {
        simd! {
            let sum = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            reduce8(_mm256_add_ps(e, sum))
        }
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
        if const { thirds(BLOCK) } {
            let index = const { &words::<BLOCK, AT>() };
            simd! {
                let low = _mm512_loadu_si512(p.cast());
                let high = _mm512_loadu_si512(p.add(64).cast());
                let first = _mm512_loadu_si512(index[0].as_ptr().cast());
                let mut picked = _mm512_permutex2var_epi16(low, first, high);
                if const { 7 * BLOCK + AT >= 128 } {
                    let last = _mm512_loadu_si512(p.add(8 * BLOCK - 64).cast());
                    let rest = _mm512_loadu_si512(index[1].as_ptr().cast());
                    let mask = const { beyond::<BLOCK, AT>() };
                    picked = _mm512_mask_permutexvar_epi16(picked, mask, rest, last);
                }
                return _mm256_cvtph_ps(_mm512_castsi512_si128(picked));
            }
        }
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

    type Weights = __m512i;
    type RowInts = __m512i;
    type RowFloats = __m512;

    #[inline(always)]
    unsafe fn load_weights(self, p: *const u8) -> __m512i {
        simd! { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn zero_row_ints(self) -> __m512i {
        simd! { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn splat_int(self, p: *const u8) -> __m512i {
        simd! { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_row_ints(self, p: *const i32) -> __m512i {
        simd! { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn sub_row_ints(self, a: __m512i, b: __m512i) -> __m512i {
        simd! { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn dot_rows(self, acc: __m512i, w: __m512i, x: *const u8) -> __m512i {
        simd! { _mm512_dpbusd_epi32(acc, w, self.splat_int(x)) }
    }
    #[inline(always)]
    fn to_floats(self, v: __m512i) -> __m512 {
        simd! { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn zero_rows(self) -> __m512 {
        simd! { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load_rows(self, p: *const f32) -> __m512 {
        simd! { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_rows(self, p: *mut f32, v: __m512) {
        simd! { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat_row(self, p: *const u8) -> __m512 {
        simd! { _mm512_set1_ps(p.cast::<f32>().read_unaligned()) }
    }
    #[inline(always)]
    fn sub_rows(self, a: __m512, b: __m512) -> __m512 {
        simd! { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn add_rows(self, a: __m512, b: __m512) -> __m512 {
        simd! { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul_rows(self, a: __m512, b: __m512) -> __m512 {
        simd! { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma_rows(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        simd! { _mm512_fmadd_ps(a, b, acc) }
    }

    #[inline(always)]
    fn transpose_in_runs(self, [p, q, r, s]: [__m512i; 4]) -> [__m512i; 4] {
        simd! {
            let (a, b) = (_mm512_unpacklo_epi32(p, q), _mm512_unpackhi_epi32(p, q));
            let (c, d) = (_mm512_unpacklo_epi32(r, s), _mm512_unpackhi_epi32(r, s));
            [
                _mm512_unpacklo_epi64(a, c),
                _mm512_unpackhi_epi64(a, c),
                _mm512_unpacklo_epi64(b, d),
                _mm512_unpackhi_epi64(b, d),
            ]
        }
    }
    #[inline(always)]
    fn transpose_runs(self, [p, q, r, s]: [__m512i; 4]) -> [__m512i; 4] {
        simd! {
            // Runs 0 and 2 of two rows, and runs 1 and 3.
            let (a, b) = (_mm512_shuffle_i32x4::<0x88>(p, q), _mm512_shuffle_i32x4::<0xdd>(p, q));
            let (c, d) = (_mm512_shuffle_i32x4::<0x88>(r, s), _mm512_shuffle_i32x4::<0xdd>(r, s));
            [
                _mm512_shuffle_i32x4::<0x88>(a, c),
                _mm512_shuffle_i32x4::<0x88>(b, d),
                _mm512_shuffle_i32x4::<0xdd>(a, c),
                _mm512_shuffle_i32x4::<0xdd>(b, d),
            ]
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, to: *mut f32) {
        let mut part = [self.zero_ints(); 16];
        for i in 0..4 {
            let row = |r: usize| simd! { _mm512_loadu_si512(from.add((4 * i + r) * 16).cast()) };
            let four = self.transpose_in_runs([row(0), row(1), row(2), row(3)]);
            part[4 * i..][..4].copy_from_slice(&four);
        }
        for j in 0..4 {
            let four = self.transpose_runs([part[j], part[4 + j], part[8 + j], part[12 + j]]);
            for (q, column) in four.into_iter().enumerate() {
                simd! { _mm512_storeu_si512(to.add((4 * q + j) * 16).cast(), column) }
            }
        }
    }
}
