//! The tile kernel of whole groups: up to 16 tokens x 32 columns times 32 columns x 16 rows, in tile registers.
//!
//! ```text
//! for four products (groups, or their halves with two scales) at a time: ints = codes[tokens][32] x weights[32][16]
//!     for each of them, each token: acc[t] += float(ints[t]) * token scale * row scales, and so on
//! ```

use super::fours::sum;
use super::tile::{Int8Tile, Run};
use super::unroll;
use crate::isa::Isa;
use crate::isa::amx::{Config, PRODUCT, PRODUCTS, TileUnit};
use crate::layout::{GROUP, INT_ROWS, PanelGroup};
use crate::panel::IntPanel;

/// The registers of a unit, and what it writes.
pub(crate) struct Groups<U: TileUnit> {
    unit: U,
    /// What the registers are configured for.
    config: Option<Config>,
    sums: Sums,
}

/// `[PRODUCTS][16 tokens][16 rows]`
#[repr(C, align(64))]
struct Sums([i32; PRODUCTS * PRODUCT]);

impl<I: Isa, U: TileUnit> Int8Tile<I> for Groups<U> {
    const PANEL: IntPanel = IntPanel::Groups;
    const TOKENS: usize = 16;

    #[inline(always)]
    fn new() -> Self {
        Self {
            unit: U::new(),
            config: None,
            sums: Sums([0; PRODUCTS * PRODUCT]),
        }
    }

    #[inline(always)]
    unsafe fn run<const T: usize, const SCALED: usize, const MINS: bool>(
        &mut self,
        isa: I,
        run: &Run,
    ) -> [I::RowFloats; T] {
        let mut acc = [isa.zero_rows(); T];
        let products = run.groups * (GROUP / SCALED);
        // SAFETY: the features of the kernel are enabled.
        unsafe { self.configure::<T, SCALED>() }
        for first in (0..products).step_by(PRODUCTS) {
            // SAFETY: `multiply::tile` gives every lane the groups that belong to it; none is behind the last product.
            unsafe {
                self.multiply::<T, SCALED>(run, first, products - 1);
                for i in 0..PRODUCTS.min(products - first) {
                    let (group, part) = place::<SCALED>(first + i);
                    if part == 0 {
                        run.fetch(isa, group);
                    }
                    let x = run.acts.add(group * PanelGroup::bytes(T));
                    let at = group * INT_ROWS + part * run.plane;
                    let sums = self.sums.0.as_ptr().add(i * PRODUCT + run.row);
                    let s = isa.load_rows(run.scales.add(at));
                    unroll!(t < T, max 16, {
                        let ints = isa.load_row_ints(sums.add(t * 16));
                        let dx = isa.splat_row(x.add(PanelGroup::scale(T) + 4 * t));
                        acc[t] = isa.fma_rows(acc[t], isa.mul_rows(isa.to_floats(ints), dx), s);
                    });
                    if MINS {
                        let m = isa.load_rows(run.mins.add(at));
                        unroll!(t < T, max 16, {
                            let sum = sum::<I, SCALED>(isa, x.add(4 * t), T, part);
                            acc[t] = isa.fma_rows(acc[t], m, sum);
                        });
                    }
                }
            }
        }
        acc
    }
}

impl<U: TileUnit> Groups<U> {
    /// Products `first..` of a run; past the last one that one again.
    ///
    /// # Safety
    /// As for [`Int8Tile::run`].
    #[inline(always)]
    unsafe fn multiply<const T: usize, const SCALED: usize>(
        &mut self,
        run: &Run,
        first: usize,
        last: usize,
    ) {
        let places: [_; PRODUCTS] =
            core::array::from_fn(|i| place::<SCALED>((first + i).min(last)));
        let a = places.map(|(group, part)| {
            let at = group * PanelGroup::bytes(T) + part * SCALED;
            run.acts.wrapping_add(at)
        });
        let b = places.map(|(group, part)| {
            let at = (group * GROUP + part * SCALED) * INT_ROWS;
            run.codes.wrapping_add(at)
        });
        // SAFETY: places up to the last one lie in the run, whose groups have the codes of `T` tokens, 32 bytes each, and
        // of 16 rows; the sums have room for all products.
        unsafe { self.unit.multiply(a, b, self.sums.0.as_mut_ptr()) }
    }

    /// Configures the registers for products of `T` tokens, unless they are.
    ///
    /// # Safety
    /// As for [`TileUnit::configure`].
    #[inline(always)]
    unsafe fn configure<const T: usize, const SCALED: usize>(&mut self) {
        let config = const { Config::new(T, SCALED) };
        if self.config != Some(config) {
            // SAFETY: `extension::int8_tiles` has asked for the unit before `dispatch` gives kernels that use it.
            unsafe { self.unit.configure(&config) }
            self.config = Some(config);
        }
    }
}

/// The group of a product, and which part of it.
#[inline(always)]
fn place<const SCALED: usize>(product: usize) -> (usize, usize) {
    (product / (GROUP / SCALED), product % (GROUP / SCALED))
}

impl<U: TileUnit> Drop for Groups<U> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.config.is_some() {
            // SAFETY: it has been configured.
            unsafe { self.unit.release() }
        }
    }
}
