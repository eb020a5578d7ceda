//! What a tile kernel is: a panel of 16 rows times a tile of tokens, as one instruction set multiplies best.

use crate::isa::Isa;
use crate::layout::{GROUP, INT_ROWS};
use crate::panel::IntPanel;

/// Groups of a panel that lie one behind the other, and the activations that belong to them.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// `[groups][32 columns of 16 rows]`, in the layout of the kernel.
    pub codes: *const u8,
    /// `[groups][16 rows]`, from `row` on.
    pub scales: *const f32,
    /// Like `scales`, for formats that have minimums.
    pub mins: *const f32,
    /// With 16 weights to a scale: how many values further on those of the last 16 lie.
    pub plane: usize,
    /// The first row that is asked for.
    pub row: usize,
    /// `[groups]` of the tile's tokens, in the layout of the kernel.
    pub acts: *const u8,
    pub groups: usize,
    /// What to bring into the cache meanwhile, any address: with each group `fetched` bytes more.
    pub next: *const u8,
    pub fetched: usize,
}

impl Run {
    /// Asks for the bytes that come into the cache with group `i`.
    #[inline(always)]
    pub fn fetch<I: Isa>(&self, isa: I, i: usize) {
        isa.prefetch(self.next.wrapping_add(i * self.fetched), self.fetched);
    }

    /// The run behind this one; groups of the tile take `bytes` each.
    #[inline(always)]
    pub fn behind(&self, bytes: usize) -> Self {
        let n = self.groups;
        Self {
            codes: self.codes.wrapping_add(n * GROUP * INT_ROWS),
            scales: self.scales.wrapping_add(n * INT_ROWS),
            mins: self.mins.wrapping_add(n * INT_ROWS),
            acts: self.acts.wrapping_add(n * bytes),
            next: self.next.wrapping_add(n * self.fetched),
            ..*self
        }
    }
}

/// A micro-kernel with the layout that it reads.
///
/// Whatever the layout, sums of codes are exact, and floats are multiplied and added in one order, so results are
/// the same bits from every kernel:
///
/// ```text
/// for each group:
///     for each scale of the group:
///         acc[t] = fma(float(sum of codes) * token scale, row scales, acc[t])
///         acc[t] = fma(row minimums, token scale * token sum, acc[t])
/// ```
pub(crate) trait Int8Tile<I: Isa> {
    /// The layout of weights and activations.
    const PANEL: IntPanel;
    /// Most tokens in a tile.
    const TOKENS: usize;

    fn new() -> Self;

    /// The sums of a run, of `I::ROWS` rows and `T` tokens, with a scale per `SCALED` columns.
    ///
    /// # Safety
    /// The run must be whole: see [`Run`]. The features of `I` and of the kernel must be enabled in the caller.
    unsafe fn run<const T: usize, const SCALED: usize, const MINS: bool>(
        &mut self,
        isa: I,
        run: &Run,
    ) -> [I::RowFloats; T];
}
