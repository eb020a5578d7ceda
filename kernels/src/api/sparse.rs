//! Products with packed weights.

use std::ops::Range;

use crate::acts::Activations;
use crate::dtype::Dtype;
use crate::layout::{ActKind, GROUP, INT_ROWS, Layout};
use crate::level::Level;
use crate::mat::MatMut;
use crate::ops::sparse::{ExpandJob, SparseJob};
use crate::scratch::Scratch;
use crate::sparse::{BLOCK, SparseMatrix};
use crate::table::Kernels;

impl Kernels {
    /// Whether bytes are expanded by an instruction here, so that packed weights are multiplied faster
    /// than Q8_0 from about 62 % zeros on.
    pub fn expands(&self) -> bool {
        self.level() == Level::Avx512Vnni
    }

    /// `out[t][r] = sum over c of weights[rows.start + r][c] * acts[t][c]`: the bits that
    /// [`mat_mul`](Self::mat_mul) gives for the weights that were packed.
    ///
    /// # Panics
    /// If any dimension disagrees, or the activations are of another kind or level.
    pub fn mat_mul_sparse(
        &self,
        weights: &SparseMatrix,
        rows: Range<usize>,
        acts: &Activations,
        mut out: MatMut<'_>,
        scratch: &mut Scratch,
    ) {
        let shape = acts.shape();
        assert_eq!(shape.cols, weights.cols(), "product: columns");
        assert_eq!(shape.tokens, out.rows(), "product: tokens");
        assert_eq!(rows.len(), out.cols(), "product: rows");
        assert_eq!(shape.kind, ActKind::Q8, "product: kind of activations");
        assert_eq!(shape.panel, self.tile_shape.panel, "shape of another level");
        if shape.layout == Layout::Panel {
            return self.mat_mul_expanded(weights, rows, acts, out, scratch);
        }
        let part = weights.part(rows);
        let most = self.sparse.decode.len();
        for first in (0..shape.tokens).step_by(most) {
            let job = SparseJob {
                weights: part,
                acts: acts.bytes()[first * shape.tile_bytes..].as_ptr(),
                tile_bytes: shape.tile_bytes,
                out: out.as_mut_ptr().wrapping_add(first * out.stride()),
                stride: out.stride(),
            };
            let kernel = self.sparse.decode[most.min(shape.tokens - first) - 1];
            // SAFETY: `self` proves the features. The rows exist and are as `pack` made them, which
            // nothing changes; `acts` has one tile per token in the layout of this kind, and `out` is a
            // `[tokens, rows]` view that we hold exclusively.
            unsafe { kernel(&job) }
        }
    }

    /// The path for many tokens: the rows of a panel as Q8_0, then their product.
    fn mat_mul_expanded(
        &self,
        weights: &SparseMatrix,
        rows: Range<usize>,
        acts: &Activations,
        mut out: MatMut<'_>,
        scratch: &mut Scratch,
    ) {
        let row_bytes = weights.cols() / GROUP * BLOCK;
        let mut expanded = core::mem::take(&mut scratch.rows);
        expanded.resize(INT_ROWS * row_bytes, 0);
        for first in rows.clone().step_by(INT_ROWS) {
            let n = INT_ROWS.min(rows.end - first);
            let (now, later) = out.split_cols(n);
            out = later;
            let bytes = &mut expanded[..n * row_bytes];
            self.expand(weights, first..first + n, bytes);
            self.mat_mul(Dtype::Q8_0, bytes, weights.cols(), acts, now, scratch);
        }
        scratch.rows = expanded;
    }

    /// Turns packed rows into Q8_0 blocks.
    ///
    /// # Panics
    /// If there are no such rows, or `out` does not hold exactly their blocks.
    pub fn expand(&self, weights: &SparseMatrix, rows: Range<usize>, out: &mut [u8]) {
        let part = weights.part(rows);
        let bytes = part.rows * (part.cols / GROUP) * BLOCK;
        assert_eq!(bytes, out.len(), "expand: bytes of {} rows", part.rows);
        let job = ExpandJob {
            weights: part,
            out: out.as_mut_ptr(),
        };
        // SAFETY: `self` proves the features; the rows exist and are as `pack` made them; `out` has a
        // place for every block.
        unsafe { (self.sparse.expand)(&job) }
    }
}
