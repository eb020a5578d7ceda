//! Sixteen groups side by side: lane `g` of every vector belongs to group `g`.
//!
//! No operation mixes lanes (but sums over the groups of a block), none is fused: every level
//! writes the same bytes, and each operation is one or two instructions of its vectors.

use core::ops::{Add, Div, Mul, Sub};

use super::super::encode::{from_f16, to_f16};

/// Groups in a vector.
pub(in super::super) const LANES: usize = 16;

/// A number of each group.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in super::super) struct Lanes(pub [f32; LANES]);

/// A choice for each group: all bits or none.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in super::super) struct Mask([u32; LANES]);

macro_rules! operator {
    ($name:ident $method:ident $sign:tt) => {
        impl $name for Lanes {
            type Output = Lanes;

            #[inline(always)]
            fn $method(mut self, other: Lanes) -> Lanes {
                for j in 0..LANES {
                    self.0[j] = self.0[j] $sign other.0[j];
                }
                self
            }
        }
    };
}

operator!(Add add +);
operator!(Sub sub -);
operator!(Mul mul *);
operator!(Div div /);

impl Lanes {
    pub(in super::super) const ZERO: Lanes = Lanes::all(0.0);

    /// The same number for every group.
    #[inline(always)]
    pub(in super::super) const fn all(v: f32) -> Lanes {
        Lanes([v; LANES])
    }

    #[inline(always)]
    pub(in super::super) fn map(mut self, f: impl Fn(f32) -> f32) -> Lanes {
        for v in &mut self.0 {
            *v = f(*v);
        }
        self
    }

    /// The larger one; `other` if either is NaN.
    #[inline(always)]
    pub(in super::super) fn max(mut self, other: Lanes) -> Lanes {
        for j in 0..LANES {
            let (a, b) = (self.0[j], other.0[j]);
            self.0[j] = if a > b { a } else { b };
        }
        self
    }

    /// The smaller one; `other` if either is NaN.
    #[inline(always)]
    pub(in super::super) fn min(mut self, other: Lanes) -> Lanes {
        for j in 0..LANES {
            let (a, b) = (self.0[j], other.0[j]);
            self.0[j] = if a < b { a } else { b };
        }
        self
    }

    /// Within `low..=high`; NaN becomes `low`.
    #[inline(always)]
    pub(in super::super) fn clamp(self, low: f32, high: f32) -> Lanes {
        self.max(Lanes::all(low)).min(Lanes::all(high))
    }

    /// Rounds to an integer, ties to even; for magnitudes below 2^22.
    #[inline(always)]
    pub(in super::super) fn round(self) -> Lanes {
        let magic = Lanes::all(12_582_912.0);
        (self + magic) - magic
    }

    #[inline(always)]
    pub(in super::super) fn abs(self) -> Lanes {
        self.map(|v| f32::from_bits(v.to_bits() & 0x7fff_ffff))
    }

    #[inline(always)]
    pub(in super::super) fn less(self, other: Lanes) -> Mask {
        let mut mask = Mask([0; LANES]);
        for j in 0..LANES {
            mask.0[j] = u32::from(self.0[j] < other.0[j]).wrapping_neg();
        }
        mask
    }

    /// The inverse, or 0 if there is none: all codes then stand for zero, or nearly.
    #[inline(always)]
    pub(in super::super) fn invert(self) -> Lanes {
        let inverse = Lanes::all(1.0) / self;
        let finite = inverse.abs().less(Lanes::all(f32::INFINITY));
        finite.pick(inverse, Lanes::ZERO)
    }

    /// Rounded to what an F16 holds; what is too large becomes its largest finite number.
    #[inline(always)]
    pub(in super::super) fn half(self) -> Lanes {
        self.clamp(-65504.0, 65504.0).map(|v| from_f16(to_f16(v)))
    }

    /// The sum over each run of `G` groups, in all of its lanes.
    #[inline(always)]
    pub(in super::super) fn sum<const G: usize>(self) -> Lanes {
        self.combine::<G>(|a, b| a + b)
    }

    /// The number of largest magnitude of each run of `G` groups, in all of its lanes.
    #[inline(always)]
    pub(in super::super) fn extreme<const G: usize>(self) -> Lanes {
        self.combine::<G>(Lanes::larger)
    }

    /// The number of larger magnitude; the positive one of two opposite ones.
    #[inline(always)]
    pub(in super::super) fn larger(self, other: Lanes) -> Lanes {
        let (a, b) = (self.abs(), other.abs());
        a.less(b).pick(other, b.less(a).pick(self, self.max(other)))
    }

    /// Joins lanes that are `G / 2`, ... 2, 1 apart; `f` must not depend on the order.
    #[inline(always)]
    fn combine<const G: usize>(self, f: impl Fn(Lanes, Lanes) -> Lanes) -> Lanes {
        let (mut all, mut step) = (self, G / 2);
        while step > 0 {
            let mut other = all;
            for j in 0..LANES {
                other.0[j] = all.0[j ^ step];
            }
            all = f(all, other);
            step /= 2;
        }
        all
    }
}

impl Mask {
    /// `yes` where chosen, else `no`.
    #[inline(always)]
    pub(in super::super) fn pick(self, yes: Lanes, no: Lanes) -> Lanes {
        let mut out = no;
        for j in 0..LANES {
            let bits = yes.0[j].to_bits() & self.0[j] | no.0[j].to_bits() & !self.0[j];
            out.0[j] = f32::from_bits(bits);
        }
        out
    }

    /// Chosen in both.
    #[inline(always)]
    pub(in super::super) fn and(mut self, other: Mask) -> Mask {
        for j in 0..LANES {
            self.0[j] &= other.0[j];
        }
        self
    }
}

/// Values of sixteen groups of `N` and the weights of their squared errors.
pub(in super::super) struct Batch<const N: usize> {
    pub x: [Lanes; N],
    pub w: [Lanes; N],
}

impl<const N: usize> Batch<N> {
    /// The values of groups that follow each other, and their weights. Missing groups are zero.
    #[inline(always)]
    pub(in super::super) fn new(x: &[f32], w: Option<&[f32]>, first: usize) -> Batch<N> {
        let mut batch = Batch {
            x: [Lanes::ZERO; N],
            w: [Lanes::all(1.0); N],
        };
        put(&mut batch.x, x.as_chunks::<N>().0.iter());
        if let Some(w) = w {
            let groups = w.as_chunks::<N>().0;
            put(
                &mut batch.w,
                groups.iter().cycle().skip(first / N % groups.len()),
            );
        }
        batch
    }
}

/// Transposes at most sixteen groups.
#[inline(always)]
fn put<'a, const N: usize>(to: &mut [Lanes; N], groups: impl Iterator<Item = &'a [f32; N]>) {
    for (j, group) in groups.take(LANES).enumerate() {
        for (to, v) in to.iter_mut().zip(group) {
            to.0[j] = *v;
        }
    }
}

/// Codes of sixteen groups, one after the other, from those of each place: integers below 256.
#[inline(always)]
pub(in super::super) fn codes<const N: usize>(at: &[Lanes; N], out: &mut [[u8; N]; LANES]) {
    for (i, v) in at.iter().enumerate() {
        // The low bits of the sum hold the integer.
        let v = *v + Lanes::all(12_582_912.0);
        for j in 0..LANES {
            out[j][i] = v.0[j].to_bits() as u8;
        }
    }
}
