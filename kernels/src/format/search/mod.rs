//! The search for scales and codes.
//!
//! The file format fixes how a weight is decoded, not how codes and scales are chosen. Here they
//! minimise the squared error, each value's weighted by its importance:
//!
//! ```text
//! for each group:
//!     for each candidate scale: codes = nearest levels; the best scale for *those* codes follows
//!         by least squares; keep the candidate whose error is least; repeat from its scale
//! for the super-block, from the largest group scale:
//!     for each group: of the integer scale and its neighbours take the one of least error
//!     refit the F16 scale (and minimum) to all codes by least squares; repeat while it helps
//! ```
//!
//! Sixteen groups are searched at once, each in a lane of its own (`lanes`).

use crate::isa::wide::{LANES, Vector};

mod lanes;
mod line;
mod scale;

pub(super) use lanes::{Batch, Lanes, put_codes};
pub(super) use line::{Affine, affine, line};
pub(super) use scale::{Curve, Integers, Stored, choose, encode, extreme, single, symmetric};

/// How hard an encoder looks for scales and codes. The format is the same, only the choice of
/// numbers in it differs.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Types that are a formula in ggml come out bit for bit as there, unless importance is given;
    /// all others as with `Fast`.
    #[default]
    Reference,
    /// A quick search, for every type.
    Fast,
    /// A thorough search, several times slower. No block has a larger error than with `Fast`, and
    /// none than with `Reference`.
    Best,
}

/// What an encoder is to minimise, and how hard it tries.
#[derive(Clone, Copy, Default, Debug)]
pub struct Search<'a> {
    /// How hard.
    pub effort: Effort,
    /// The weight of the squared error of each column of a row; all are equal if there is none.
    pub importance: Option<&'a [f32]>,
}

impl Search<'_> {
    /// Whether the formula is asked for where there is one.
    pub(super) fn is_formula(&self) -> bool {
        self.effort == Effort::Reference && self.importance.is_none()
    }

    pub(super) fn is_best(&self) -> bool {
        self.effort == Effort::Best
    }
}

/// A format whose scales are searched for; a group of `N` weights has one.
pub(super) trait Encode<const N: usize, const BYTES: usize> {
    /// Groups in a block: 1, 2, 4, 8 or 16.
    const GROUPS: usize;

    /// Encodes the `16 / GROUPS` blocks of a batch, or fewer.
    fn encode<V: Vector>(batch: &Batch<N>, best: bool, blocks: &mut [[u8; BYTES]]);
}

/// Encodes whole blocks. Rows have as many values as there are numbers of importance.
#[inline(always)]
pub(super) fn blocks<F: Encode<N, BYTES>, V: Vector, const N: usize, const BYTES: usize>(
    x: &[f32],
    search: Search,
    out: &mut [u8],
) {
    let blocks = out.as_chunks_mut::<BYTES>().0;
    let batches = blocks.chunks_mut(LANES / F::GROUPS);
    for (i, (x, blocks)) in x.chunks(LANES * N).zip(batches).enumerate() {
        let batch = Batch::new(x, search.importance, i * LANES * N);
        F::encode::<V>(&batch, search.is_best(), blocks);
    }
}
