//! Sixteen F32 as one value, for the encoders: lane-wise arithmetic, nothing fused, so that results
//! are the same bits on every level.

use core::ops::{Add, Div, Mul, Sub};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Memory for sixteen lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Row(pub [f32; LANES]);

/// Sixteen F32 with the arithmetic of IEEE 754.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// A choice for each lane.
    type Mask: Copy;

    /// The same number in every lane.
    fn all(v: f32) -> Self;
    fn load(from: &Row) -> Self;
    fn store(self) -> Row;
    /// The larger one; `other` if either is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller one; `other` if either is NaN.
    fn min(self, other: Self) -> Self;
    fn less(self, other: Self) -> Self::Mask;
    /// `yes` where chosen, else `no`.
    fn pick(mask: Self::Mask, yes: Self, no: Self) -> Self;
}

/// The registers that a vector consists of.
///
/// # Safety
/// The type may only be used in functions compiled with the features of its instructions.
pub(crate) unsafe trait Part: Copy {
    /// Lanes.
    const N: usize;
    type Mask: Copy;

    fn all(v: f32) -> Self;
    /// `N` F32.
    unsafe fn load(from: *const f32) -> Self;
    /// `N` F32.
    unsafe fn store(self, to: *mut f32);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn less(self, other: Self) -> Self::Mask;
    fn pick(mask: Self::Mask, yes: Self, no: Self) -> Self;
}

/// Sixteen lanes in `K` parts.
#[derive(Clone, Copy)]
pub(crate) struct Wide<P, const K: usize>([P; K]);

macro_rules! operator {
    ($name:ident $method:ident) => {
        impl<P: Part, const K: usize> $name for Wide<P, K> {
            type Output = Self;

            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for k in 0..K {
                    self.0[k] = self.0[k].$method(other.0[k]);
                }
                self
            }
        }
    };
}

operator!(Add add);
operator!(Sub sub);
operator!(Mul mul);
operator!(Div div);

impl<P: Part, const K: usize> Vector for Wide<P, K> {
    type Mask = [P::Mask; K];

    #[inline(always)]
    fn all(v: f32) -> Self {
        const { assert!(K * P::N == LANES) };
        Wide([P::all(v); K])
    }

    #[inline(always)]
    fn load(from: &Row) -> Self {
        let mut out = Self::all(0.0);
        for k in 0..K {
            // SAFETY: `K` parts of `N` lanes are the row.
            out.0[k] = unsafe { P::load(from.0.as_ptr().add(k * P::N)) };
        }
        out
    }

    #[inline(always)]
    fn store(self) -> Row {
        let mut out = Row([0.0; LANES]);
        for k in 0..K {
            // SAFETY: as in `load`.
            unsafe { self.0[k].store(out.0.as_mut_ptr().add(k * P::N)) }
        }
        out
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for k in 0..K {
            self.0[k] = self.0[k].max(other.0[k]);
        }
        self
    }

    #[inline(always)]
    fn min(mut self, other: Self) -> Self {
        for k in 0..K {
            self.0[k] = self.0[k].min(other.0[k]);
        }
        self
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        let mut out = [self.0[0].less(other.0[0]); K];
        for k in 1..K {
            out[k] = self.0[k].less(other.0[k]);
        }
        out
    }

    #[inline(always)]
    fn pick(mask: Self::Mask, yes: Self, mut no: Self) -> Self {
        for k in 0..K {
            no.0[k] = P::pick(mask[k], yes.0[k], no.0[k]);
        }
        no
    }
}

// SAFETY: needs no features.
unsafe impl Part for f32 {
    const N: usize = 1;
    type Mask = bool;

    #[inline(always)]
    fn all(v: f32) -> Self {
        v
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: `Wide` asserts that its parts make up the row that it goes through.
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: `Wide` asserts that its parts make up the row that it goes through.
        unsafe { *to = self }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self / other
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }

    #[inline(always)]
    fn less(self, other: Self) -> bool {
        self < other
    }

    #[inline(always)]
    fn pick(mask: bool, yes: Self, no: Self) -> Self {
        if mask { yes } else { no }
    }
}

/// A part whose operations are one instruction each.
macro_rules! part {
    ($type:ty, $n:literal, mask $mask:ty, $all:ident $load:ident $store:ident $add:ident $sub:ident
     $mul:ident $div:ident, max $max:expr, min $min:expr, less $less:expr, pick $pick:expr) => {
        // SAFETY: the intrinsics need what the user of the type vouches for.
        unsafe impl Part for $type {
            const N: usize = $n;
            type Mask = $mask;

            #[inline(always)]
            fn all(v: f32) -> Self {
                // SAFETY: the trait's contract.
                unsafe { $all(v) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above; `Wide` asserts that its parts make up the row that it goes through.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $sub(self, other) }
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $mul(self, other) }
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $div(self, other) }
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $max(self, other) }
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $min(self, other) }
            }

            #[inline(always)]
            fn less(self, other: Self) -> Self::Mask {
                // SAFETY: as above.
                unsafe { $less(self, other) }
            }

            #[inline(always)]
            fn pick(mask: Self::Mask, yes: Self, no: Self) -> Self {
                // SAFETY: as above.
                unsafe { $pick(mask, yes, no) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Part;
    use core::arch::x86_64::*;

    /// `a < b`.
    #[inline]
    #[target_feature(enable = "avx")]
    fn subtract8(a: __m256, b: __m256) -> __m256 {
        _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn pick8(mask: __m256, yes: __m256, no: __m256) -> __m256 {
        _mm256_blendv_ps(no, yes, mask)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn less16(a: __m512, b: __m512) -> __mmask16 {
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn pick16(mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        _mm512_mask_blend_ps(mask, no, yes)
    }

    part!(__m256, 8, mask __m256, _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_add_ps
        _mm256_sub_ps _mm256_mul_ps _mm256_div_ps, max _mm256_max_ps, min _mm256_min_ps,
        less subtract8, pick pick8);
    part!(__m512, 16, mask __mmask16, _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_add_ps
        _mm512_sub_ps _mm512_mul_ps _mm512_div_ps, max _mm512_max_ps, min _mm512_min_ps,
        less less16, pick pick16);
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Part;
    use core::arch::aarch64::*;

    /// `a > b ? a : b`, which the maximum instruction is not for NaN.
    #[inline]
    #[target_feature(enable = "neon")]
    fn max4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(vcgtq_f32(a, b), a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn min4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(vcltq_f32(a, b), a, b)
    }

    part!(float32x4_t, 4, mask uint32x4_t, vdupq_n_f32 vld1q_f32 vst1q_f32 vaddq_f32 vsubq_f32
        vmulq_f32 vdivq_f32, max max4, min min4, less vcltq_f32, pick vbslq_f32);
}
