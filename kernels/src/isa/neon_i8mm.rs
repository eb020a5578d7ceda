//! NEON with the int8 matrix product. A square of 8 rows is four vectors; vector `i` holds rows `2i` and `2i + 1` of
//! the first token, then of the second.

use core::arch::aarch64::*;
use core::arch::asm;

use super::matrix::Matrix;
use super::neon::{NeonI8mm, simd};

/// Adds the products of two tokens (rows of `x`) with two rows of weights. The intrinsic is not stable yet.
///
/// # Safety
/// Needs `i8mm`.
#[inline(always)]
unsafe fn smmla(mut acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: only `NeonI8mm` calls this, and `Level::is_available` has found `i8mm` for it; it touches only its
    // operands.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
            acc = inout(vreg) acc, x = in(vreg) x, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Two F32.
///
/// # Safety
/// Needs NEON; eight bytes must be readable.
#[inline(always)]
unsafe fn two(p: *const u8) -> float32x4_t {
    simd! { vreinterpretq_f32_u64(vdupq_n_u64(p.cast::<u64>().read_unaligned())) }
}

// SAFETY: every method needs at most the features of the token, and stays within documented ranges.
unsafe impl Matrix for NeonI8mm {
    type Eights = [int8x16_t; 4];
    type SquareInts = [int32x4_t; 4];
    type Squares = [float32x4_t; 4];

    #[inline(always)]
    unsafe fn load_eights(self, p: *const u8) -> Self::Eights {
        let mut w = simd! { [vdupq_n_s8(0); 4] };
        for i in 0..4 {
            w[i] = simd! { vreinterpretq_s8_u8(vld1q_u8(p.add(16 * i))) };
        }
        w
    }
    #[inline(always)]
    fn zero_square_ints(self) -> Self::SquareInts {
        simd! { [vdupq_n_s32(0); 4] }
    }
    #[inline(always)]
    unsafe fn dot_squares(
        self,
        mut acc: Self::SquareInts,
        w: Self::Eights,
        x: *const u8,
    ) -> Self::SquareInts {
        simd! {
            let x = vreinterpretq_s8_u8(vld1q_u8(x));
            for i in 0..4 {
                acc[i] = smmla(acc[i], x, w[i]);
            }
        }
        acc
    }

    #[inline(always)]
    fn zero_squares(self) -> Self::Squares {
        simd! { [vdupq_n_f32(0.0); 4] }
    }
    #[inline(always)]
    fn square_floats(self, v: Self::SquareInts) -> Self::Squares {
        v.map(|v| simd! { vcvtq_f32_s32(v) })
    }
    #[inline(always)]
    unsafe fn spread_rows(self, p: *const f32) -> Self::Squares {
        let mut v = self.zero_squares();
        for i in 0..4 {
            v[i] = simd! { two(p.add(2 * i).cast()) };
        }
        v
    }
    #[inline(always)]
    unsafe fn spread_tokens(self, p: *const u8) -> Self::Squares {
        simd! {
            let v = two(p);
            [vzip1q_f32(v, v); 4]
        }
    }
    #[inline(always)]
    fn sub_squares(self, mut a: Self::Squares, b: Self::Squares) -> Self::Squares {
        for i in 0..4 {
            a[i] = simd! { vsubq_f32(a[i], b[i]) };
        }
        a
    }
    #[inline(always)]
    fn mul_squares(self, mut a: Self::Squares, b: Self::Squares) -> Self::Squares {
        for i in 0..4 {
            a[i] = simd! { vmulq_f32(a[i], b[i]) };
        }
        a
    }
    #[inline(always)]
    fn fma_squares(
        self,
        mut acc: Self::Squares,
        a: Self::Squares,
        b: Self::Squares,
    ) -> Self::Squares {
        for i in 0..4 {
            acc[i] = simd! { vfmaq_f32(acc[i], a[i], b[i]) };
        }
        acc
    }
    #[inline(always)]
    fn split_squares(self, v: Self::Squares) -> [[float32x4_t; 2]; 2] {
        simd! {
            let v = v.map(|v| vreinterpretq_u64_f32(v));
            let first = [vzip1q_u64(v[0], v[1]), vzip1q_u64(v[2], v[3])];
            let second = [vzip2q_u64(v[0], v[1]), vzip2q_u64(v[2], v[3])];
            [first, second].map(|rows| rows.map(|r| vreinterpretq_f32_u64(r)))
        }
    }
}
