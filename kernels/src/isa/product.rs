//! The arithmetic of float products.

use super::Isa;

/// What a lane does with a weight and an activation.
pub(crate) trait Product<I: Isa>: Copy + 'static {
    fn lanes(isa: I, acc: I::Lanes, w: I::Lanes, x: I::Lanes) -> I::Lanes;
    fn rows(isa: I, acc: I::RowFloats, w: I::RowFloats, x: I::RowFloats) -> I::RowFloats;
}

/// F32 times F32, rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl<I: Isa> Product<I> for Single {
    #[inline(always)]
    fn lanes(isa: I, acc: I::Lanes, w: I::Lanes, x: I::Lanes) -> I::Lanes {
        isa.fma_lanes(acc, w, x)
    }
    #[inline(always)]
    fn rows(isa: I, acc: I::RowFloats, w: I::RowFloats, x: I::RowFloats) -> I::RowFloats {
        isa.fma_rows(acc, w, x)
    }
}
