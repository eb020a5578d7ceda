//! NEON, with and without `sdot` and the int8 matrix product: 128-bit vectors. They differ only in the 8-bit products.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{Isa, SPREAD};

/// The token of base NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// The token of NEON with `sdot`.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

/// The token of NEON with `sdot` and the int8 matrix product.
#[derive(Clone, Copy)]
pub(crate) struct NeonI8mm;

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

/// Sums of four products of signed bytes, exact: |w| <= 128 and |x| <= 127, so a pair of products
/// is at most 32,512 and fits 16 bits.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn dot_base(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    simd! {
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let high = vmull_high_s8(w, x);
        vpadalq_s16(acc, vpaddq_s16(low, high))
    }
}

/// Sums of four products of signed bytes. The intrinsic is not stable yet.
///
/// # Safety
/// Needs `dotprod`.
#[inline(always)]
unsafe fn dot_sdot(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: only `NeonDot` and `NeonI8mm` call this, and `Level::is_available` has found `dotprod` for them;
    // it touches only its operands.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Four F16 to F32. The intrinsic is not stable yet; the instruction is base NEON.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn widen_f16(v: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    // SAFETY: base NEON; it touches only its operands.
    unsafe {
        asm!(
            "fcvtl {o:v}.4s, {i:v}.4h",
            o = lateout(vreg) out, i = in(vreg) v,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// Eight bytes at `p` spread over the bits of `mask`, and what comes next.
///
/// # Safety
/// Needs NEON; eight bytes must be readable.
#[inline(always)]
unsafe fn spread8(p: *const u8, mask: u8) -> (uint8x8_t, *const u8) {
    simd! {
        // A row of the table has eight bytes.
        let places = vld1_u8(SPREAD[0][usize::from(mask)].as_ptr());
        (
            vtbl1_u8(vld1_u8(p), places),
            p.add(mask.count_ones() as usize),
        )
    }
}

/// Transposes four rows of four 32-bit values.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn transpose4([p, q, r, s]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    simd! {
        let words = |v| vreinterpretq_u32_u8(v);
        let pairs = |v| vreinterpretq_u64_u32(v);
        let bytes = |v| vreinterpretq_u8_u64(v);
        let (a, b) = (vtrn1q_u32(words(p), words(q)), vtrn2q_u32(words(p), words(q)));
        let (c, d) = (vtrn1q_u32(words(r), words(s)), vtrn2q_u32(words(r), words(s)));
        [
            bytes(vtrn1q_u64(pairs(a), pairs(c))),
            bytes(vtrn1q_u64(pairs(b), pairs(d))),
            bytes(vtrn2q_u64(pairs(a), pairs(c))),
            bytes(vtrn2q_u64(pairs(b), pairs(d))),
        ]
    }
}

macro_rules! token {
    ($token:ident, $dot:ident) => {
        // SAFETY: every method needs at most the features of the token, and stays within
        // documented ranges.
        unsafe impl Isa for $token {
            const UNSIGNED_WEIGHTS: bool = false;
            const ROWS: usize = 8;
            const EIGHTS: bool = true;

            type Bytes = [uint8x16_t; 4];
            type Ints = [int32x4_t; 4];
            type Lanes = [float32x4_t; 4];
            type Eight = [float32x4_t; 2];

            #[inline(always)]
            unsafe fn load_runs<const BLOCK: usize, const AT: usize, const HALF: usize>(
                self,
                p: *const u8,
            ) -> Self::Bytes {
                simd! {
                    [
                        vld1q_u8(p.add(4 * HALF * BLOCK + AT)),
                        vld1q_u8(p.add(4 * HALF * BLOCK + AT + BLOCK)),
                        vld1q_u8(p.add(4 * HALF * BLOCK + AT + 2 * BLOCK)),
                        vld1q_u8(p.add(4 * HALF * BLOCK + AT + 3 * BLOCK)),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn load_at(self, p: *const u8, offsets: [usize; 4]) -> Self::Bytes {
                let mut out = simd! { [vdupq_n_u8(0); 4] };
                for q in 0..4 {
                    out[q] = simd! { vld1q_u8(p.add(offsets[q])) };
                }
                out
            }
            #[inline(always)]
            fn pick_runs(self, b: Self::Bytes, [p, q, r, s]: [usize; 4]) -> Self::Bytes {
                [b[p], b[q], b[r], b[s]]
            }
            #[inline(always)]
            unsafe fn store_bytes(self, p: *mut u8, b: Self::Bytes) {
                for q in 0..4 {
                    simd! { vst1q_u8(p.add(16 * q), b[q]) }
                }
            }
            #[inline(always)]
            fn shift_runs(self, mut b: Self::Bytes, by: [i32; 4], mask: u8) -> Self::Bytes {
                for q in 0..4 {
                    b[q] = simd! {
                        vandq_u8(vshlq_u8(b[q], vdupq_n_s8(by[q] as i8)), vdupq_n_u8(mask))
                    };
                }
                b
            }
            #[inline(always)]
            fn or_bytes(self, mut a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
                for q in 0..4 {
                    a[q] = simd! { vorrq_u8(a[q], b[q]) };
                }
                a
            }
            #[inline(always)]
            fn lookup(self, table: &[u8; 16], mut b: Self::Bytes) -> Self::Bytes {
                for q in 0..4 {
                    b[q] = simd! { vqtbl1q_u8(vld1q_u8(table.as_ptr()), b[q]) };
                }
                b
            }
            #[inline(always)]
            fn spread_bits(self, bits: u64, value: u8) -> Self::Bytes {
                let (b, mut out) = (bits.to_le_bytes(), simd! { [vdupq_n_u8(0); 4] });
                for q in 0..4 {
                    out[q] = simd! {
                        let copies = vcombine_u8(vdup_n_u8(b[2 * q]), vdup_n_u8(b[2 * q + 1]));
                        let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
                        vandq_u8(vtstq_u8(copies, bit), vdupq_n_u8(value))
                    };
                }
                out
            }
            #[inline(always)]
            fn mirror(self, mut b: Self::Bytes, bits: u64, sum: u8) -> Self::Bytes {
                // Where all bits are set: the complement plus one, plus the sum.
                let minus = self.spread_bits(bits, 255);
                for q in 0..4 {
                    b[q] = simd! {
                        let more = vandq_u8(minus[q], vdupq_n_u8(sum.wrapping_add(1)));
                        vaddq_u8(veorq_u8(b[q], minus[q]), more)
                    };
                }
                b
            }
            #[inline(always)]
            fn add_where(self, mut b: Self::Bytes, bits: u64, k: u8) -> Self::Bytes {
                let more = self.spread_bits(bits, k);
                for q in 0..4 {
                    b[q] = simd! { vaddq_u8(b[q], more[q]) };
                }
                b
            }
            #[inline(always)]
            fn add_bytes(self, mut b: Self::Bytes, k: u8) -> Self::Bytes {
                for q in 0..4 {
                    b[q] = simd! { vaddq_u8(b[q], vdupq_n_u8(k)) };
                }
                b
            }
            #[inline(always)]
            unsafe fn expand(self, mask: u64, p: *const u8) -> Self::Bytes {
                let (masks, mut from) = (mask.to_le_bytes(), p);
                let mut out = simd! { [vdupq_n_u8(0); 4] };
                for q in 0..4 {
                    out[q] = simd! {
                        let (low, next) = spread8(from, masks[2 * q]);
                        let (high, next) = spread8(next, masks[2 * q + 1]);
                        from = next;
                        vcombine_u8(low, high)
                    };
                }
                out
            }

            #[inline(always)]
            fn zero_ints(self) -> Self::Ints {
                simd! { [vdupq_n_s32(0); 4] }
            }
            #[inline(always)]
            unsafe fn sum_fours(
                self,
                a: Self::Ints,
                b: Self::Ints,
                offset: Option<(*const i32, u32)>,
            ) -> Self::Eight {
                let mut out = self.zero_eight();
                for (q, v) in [a, b].into_iter().enumerate() {
                    out[q] = simd! {
                        let (low, high) = (vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
                        let mut sums = vpaddq_s32(low, high);
                        if let Some((p, by)) = offset {
                            let k = vreinterpretq_s32_u8(vld1q_u8(p.add(4 * q).cast()));
                            sums = vsubq_s32(sums, vshlq_s32(k, vdupq_n_s32(by as i32)));
                        }
                        vcvtq_f32_s32(sums)
                    };
                }
                out
            }
            #[inline(always)]
            unsafe fn dot_small(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints {
                // Weights up to 127 are the same signed.
                simd! { self.dot_signed(acc, w, x) }
            }
            #[inline(always)]
            unsafe fn dot_signed(
                self,
                mut acc: Self::Ints,
                w: Self::Bytes,
                x: *const u8,
            ) -> Self::Ints {
                for q in 0..4 {
                    acc[q] = simd! {
                        let x = vreinterpretq_s8_u8(vld1q_u8(x.add(16 * q)));
                        $dot(acc[q], vreinterpretq_s8_u8(w[q]), x)
                    };
                }
                acc
            }

            #[inline(always)]
            fn zero_lanes(self) -> Self::Lanes {
                simd! { [vdupq_n_f32(0.0); 4] }
            }
            #[inline(always)]
            unsafe fn load_lanes(self, p: *const f32) -> Self::Lanes {
                let p: *const u8 = p.cast();
                let mut v = self.zero_lanes();
                for q in 0..4 {
                    v[q] = simd! { vreinterpretq_f32_u8(vld1q_u8(p.add(16 * q))) };
                }
                v
            }
            #[inline(always)]
            unsafe fn load_lanes_f16(self, p: *const u8) -> Self::Lanes {
                let mut v = self.zero_lanes();
                for q in 0..4 {
                    v[q] = simd! { widen_f16(vreinterpret_u16_u8(vld1_u8(p.add(8 * q)))) };
                }
                v
            }
            #[inline(always)]
            unsafe fn load_lanes_bf16(self, p: *const u8) -> Self::Lanes {
                let mut v = self.zero_lanes();
                for q in 0..4 {
                    v[q] = simd! {
                        let bits = vreinterpret_u16_u8(vld1_u8(p.add(8 * q)));
                        vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
                    };
                }
                v
            }
            #[inline(always)]
            unsafe fn load_lanes_i8(self, p: *const u8) -> Self::Lanes {
                simd! {
                    let b = vreinterpretq_s8_u8(vld1q_u8(p));
                    let (low, high) = (vmovl_s8(vget_low_s8(b)), vmovl_high_s8(b));
                    [
                        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                        vcvtq_f32_s32(vmovl_high_s16(low)),
                        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                        vcvtq_f32_s32(vmovl_high_s16(high)),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn splat_lanes(self, p: *const f32) -> Self::Lanes {
                simd! { [vdupq_n_f32(p.read_unaligned()); 4] }
            }
            #[inline(always)]
            unsafe fn store_lanes(self, p: *mut f32, v: Self::Lanes) {
                for q in 0..4 {
                    simd! { vst1q_u8(p.add(4 * q).cast(), vreinterpretq_u8_f32(v[q])) }
                }
            }
            #[inline(always)]
            fn larger_lanes(self, mut a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
                for q in 0..4 {
                    a[q] = simd! { vbslq_f32(vcgtq_f32(b[q], a[q]), b[q], a[q]) };
                }
                a
            }
            #[inline(always)]
            fn fma_lanes(
                self,
                mut acc: Self::Lanes,
                a: Self::Lanes,
                b: Self::Lanes,
            ) -> Self::Lanes {
                for q in 0..4 {
                    acc[q] = simd! { vfmaq_f32(acc[q], a[q], b[q]) };
                }
                acc
            }
            #[inline(always)]
            fn reduce(self, v: Self::Lanes, e: Self::Eight) -> f32 {
                simd! {
                    let low = vaddq_f32(e[0], vaddq_f32(v[0], v[2]));
                    let high = vaddq_f32(e[1], vaddq_f32(v[1], v[3]));
                    let four = vaddq_f32(low, high);
                    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
                    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
                }
            }

            #[inline(always)]
            fn zero_eight(self) -> Self::Eight {
                simd! { [vdupq_n_f32(0.0); 2] }
            }
            #[inline(always)]
            unsafe fn load_eight(self, p: *const f32) -> Self::Eight {
                let p: *const u8 = p.cast();
                simd! {
                    [
                        vreinterpretq_f32_u8(vld1q_u8(p)),
                        vreinterpretq_f32_u8(vld1q_u8(p.add(16))),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn store_eight(self, p: *mut f32, v: Self::Eight) {
                simd! {
                    vst1q_u8(p.cast(), vreinterpretq_u8_f32(v[0]));
                    vst1q_u8(p.add(4).cast(), vreinterpretq_u8_f32(v[1]));
                }
            }
            #[inline(always)]
            unsafe fn gather_f16<const BLOCK: usize, const AT: usize>(
                self,
                p: *const u8,
            ) -> Self::Eight {
                simd! {
                    let mut bits = [0u16; 8];
                    for (j, b) in bits.iter_mut().enumerate() {
                        *b = p.add(j * BLOCK + AT).cast::<u16>().read_unaligned();
                    }
                    [
                        widen_f16(vld1_u16(bits.as_ptr())),
                        widen_f16(vld1_u16(bits.as_ptr().add(4))),
                    ]
                }
            }
            #[inline(always)]
            fn splat_eight(self, v: f32) -> Self::Eight {
                simd! { [vdupq_n_f32(v); 2] }
            }
            #[inline(always)]
            fn mul_eight(self, a: Self::Eight, b: Self::Eight) -> Self::Eight {
                simd! { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
            }
            #[inline(always)]
            fn fma_eight(self, acc: Self::Eight, a: Self::Eight, b: Self::Eight) -> Self::Eight {
                simd! { [vfmaq_f32(acc[0], a[0], b[0]), vfmaq_f32(acc[1], a[1], b[1])] }
            }

            type Weights = [int8x16_t; 2];
            type RowInts = [int32x4_t; 2];
            type RowFloats = [float32x4_t; 2];

            #[inline(always)]
            unsafe fn load_weights(self, p: *const u8) -> Self::Weights {
                simd! {
                    [
                        vreinterpretq_s8_u8(vld1q_u8(p)),
                        vreinterpretq_s8_u8(vld1q_u8(p.add(16))),
                    ]
                }
            }
            #[inline(always)]
            fn zero_row_ints(self) -> Self::RowInts {
                simd! { [vdupq_n_s32(0); 2] }
            }
            #[inline(always)]
            unsafe fn splat_int(self, p: *const u8) -> Self::RowInts {
                simd! { [vdupq_n_s32(p.cast::<i32>().read_unaligned()); 2] }
            }
            #[inline(always)]
            fn sub_row_ints(self, a: Self::RowInts, b: Self::RowInts) -> Self::RowInts {
                simd! { [vsubq_s32(a[0], b[0]), vsubq_s32(a[1], b[1])] }
            }
            #[inline(always)]
            unsafe fn dot_rows(
                self,
                acc: Self::RowInts,
                w: Self::Weights,
                x: *const u8,
            ) -> Self::RowInts {
                simd! {
                    let x = vreinterpretq_s8_s32(self.splat_int(x)[0]);
                    [$dot(acc[0], w[0], x), $dot(acc[1], w[1], x)]
                }
            }
            #[inline(always)]
            fn transpose_in_runs(self, rows: [Self::Bytes; 4]) -> [Self::Bytes; 4] {
                let mut out = rows;
                for q in 0..4 {
                    let four =
                        simd! { transpose4([rows[0][q], rows[1][q], rows[2][q], rows[3][q]]) };
                    for j in 0..4 {
                        out[j][q] = four[j];
                    }
                }
                out
            }
            #[inline(always)]
            fn transpose_runs(self, [p, q, r, s]: [Self::Bytes; 4]) -> [Self::Bytes; 4] {
                [
                    [p[0], q[0], r[0], s[0]],
                    [p[1], q[1], r[1], s[1]],
                    [p[2], q[2], r[2], s[2]],
                    [p[3], q[3], r[3], s[3]],
                ]
            }
            #[inline(always)]
            fn to_floats(self, v: Self::RowInts) -> Self::RowFloats {
                simd! { [vcvtq_f32_s32(v[0]), vcvtq_f32_s32(v[1])] }
            }
            #[inline(always)]
            fn zero_rows(self) -> Self::RowFloats {
                self.zero_eight()
            }
            #[inline(always)]
            unsafe fn load_rows(self, p: *const f32) -> Self::RowFloats {
                simd! { self.load_eight(p) }
            }
            #[inline(always)]
            unsafe fn store_rows(self, p: *mut f32, v: Self::RowFloats) {
                simd! { self.store_eight(p, v) }
            }
            #[inline(always)]
            unsafe fn splat_row(self, p: *const u8) -> Self::RowFloats {
                simd! { [vdupq_n_f32(p.cast::<f32>().read_unaligned()); 2] }
            }
            #[inline(always)]
            fn sub_rows(self, a: Self::RowFloats, b: Self::RowFloats) -> Self::RowFloats {
                simd! { [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1])] }
            }
            #[inline(always)]
            fn add_rows(self, a: Self::RowFloats, b: Self::RowFloats) -> Self::RowFloats {
                simd! { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
            }
            #[inline(always)]
            fn mul_rows(self, a: Self::RowFloats, b: Self::RowFloats) -> Self::RowFloats {
                self.mul_eight(a, b)
            }
            #[inline(always)]
            fn fma_rows(
                self,
                acc: Self::RowFloats,
                a: Self::RowFloats,
                b: Self::RowFloats,
            ) -> Self::RowFloats {
                self.fma_eight(acc, a, b)
            }

            #[inline(always)]
            fn zip_fours(self, a: Self::Bytes, b: Self::Bytes) -> [Self::Bytes; 2] {
                let (mut first, mut last) = (a, b);
                for q in 0..2 {
                    simd! {
                        let words = |v| vreinterpretq_u32_u8(v);
                        let bytes = |v| vreinterpretq_u8_u32(v);
                        first[2 * q] = bytes(vzip1q_u32(words(a[q]), words(b[q])));
                        first[2 * q + 1] = bytes(vzip2q_u32(words(a[q]), words(b[q])));
                        last[2 * q] = bytes(vzip1q_u32(words(a[q + 2]), words(b[q + 2])));
                        last[2 * q + 1] = bytes(vzip2q_u32(words(a[q + 2]), words(b[q + 2])));
                    }
                }
                [first, last]
            }
        }
    };
}

token!(Neon, dot_base);
token!(NeonDot, dot_sdot);
token!(NeonI8mm, dot_sdot);
