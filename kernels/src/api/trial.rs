//! A tile kernel is tried before it is used: it must give the bits of the one whose place it takes.

use crate::acts::Activations;
use crate::dtype::Dtype;
use crate::level::Level;
use crate::mat::MatMut;
use crate::reference::sample_blocks;
use crate::scratch::Scratch;
use crate::table::{Kernels, TileOps};

/// A type for each product of a tile kernel: 32 weights to a scale and 16, without minimums and with them.
const TYPES: [Dtype; 4] = [Dtype::Q8_0, Dtype::Q4_K, Dtype::Q6_K, Dtype::Q2_K];

/// Whether a tile kernel gives the bits of the level's own. The machine must have the features of both.
pub(super) fn passes(tile: &TileOps, level: Level) -> bool {
    let (Some(plain), Some(mut tried)) = (Kernels::plain(level), Kernels::plain(level)) else {
        return false;
    };
    tried.take_tile(tile);
    TYPES.iter().all(|&dtype| {
        [5, 16, 33].iter().all(|&tokens| {
            let problem = Problem::new(dtype, 19, 1280, tokens);
            problem.bits(&tried) == problem.bits(&plain)
        })
    })
}

/// A product of arbitrary numbers.
struct Problem {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    tokens: usize,
    /// `[rows][cols]`
    weights: Vec<u8>,
    /// `[tokens][cols]`
    x: Vec<f32>,
}

impl Problem {
    fn new(dtype: Dtype, rows: usize, cols: usize, tokens: usize) -> Self {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        Self {
            dtype,
            rows,
            cols,
            tokens,
            weights: sample_blocks(dtype, rows * cols, &mut next),
            x: (0..tokens * cols)
                .map(|_| next() as f32 / (1 << 23) as f32 - 1.0)
                .collect(),
        }
    }

    /// Of the results, `[tokens][rows]`.
    fn bits(&self, k: &Kernels) -> Vec<u32> {
        let mut acts = Activations::new();
        acts.reshape(k, k.act_kind(self.dtype), self.tokens, self.cols);
        acts.fill(k, &self.x);
        let mut out = vec![0f32; self.tokens * self.rows];
        let view = MatMut::new(&mut out, self.tokens, self.rows, self.rows);
        let mut scratch = Scratch::new();
        k.mat_mul(
            self.dtype,
            &self.weights,
            self.cols,
            &acts,
            view,
            &mut scratch,
        );
        out.iter().map(|v| v.to_bits()).collect()
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::dispatch::emulated;

    fn scalar() -> Kernels {
        Kernels::plain(Level::Scalar).expect("every build has it")
    }

    #[test]
    fn a_right_kernel_passes_and_a_wrong_one_does_not() {
        assert!(emulated::tiles().all(|tile| passes(&tile, Level::Scalar)));
        assert!(!passes(&emulated::WRONG, Level::Scalar));
    }

    /// Every format, tiles of all sizes, rows of several segments.
    #[test]
    fn emulated_tiles_give_the_bits_of_the_level() {
        let plain = scalar();
        for tile in emulated::tiles() {
            let mut tiled = scalar();
            tiled.take_tile(&tile);
            let all = Dtype::ALL.iter().copied();
            for dtype in all.filter(|t| plain.supports(*t)) {
                let block = dtype.block_len();
                let short = 96usize.next_multiple_of(block);
                let shapes = (2..=17).map(|tokens| (7, short, tokens));
                let shapes = shapes.chain([(16, 7 * short, 31), (1, short, 241), (18, 16640, 5)]);
                for (rows, cols, tokens) in shapes {
                    let problem = Problem::new(dtype, rows, cols, tokens);
                    let same = problem.bits(&tiled) == problem.bits(&plain);
                    assert!(same, "{dtype} {rows} x {cols}, {tokens} tokens");
                }
            }
        }
    }
}
