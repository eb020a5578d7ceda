//! Matrices as they are multiplied.

use geb_kernels::{Activations, Kernels, MatMut, Scratch, SparseMatrix};

use super::Model;
use super::packed::Packed;
use super::weights::QMatrix;

/// A matrix as it is multiplied: its blocks in the file, or what they were packed to.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    matrix: &'a QMatrix,
    blocks: &'a [u8],
    packed: Option<(&'a SparseMatrix, usize)>,
}

impl<'a> Operand<'a> {
    pub fn new(model: &'a Model, packed: Option<&'a Packed>, matrix: &'a QMatrix) -> Self {
        Operand {
            matrix,
            blocks: model.bytes(matrix),
            packed: packed.and_then(|p| p.find(matrix)),
        }
    }

    /// `out = W x` for the rows from `first` on, as many as `out` has columns.
    pub fn multiply(
        &self,
        kernels: &Kernels,
        first: usize,
        acts: &Activations,
        out: MatMut<'_>,
        panel: &mut Scratch,
    ) {
        let n = out.cols();
        if let Some((packed, start)) = self.packed {
            let rows = start + first..start + first + n;
            return kernels.mat_mul_sparse(packed, rows, acts, out, panel);
        }
        let row_bytes = self.blocks.len() / self.matrix.rows;
        let blocks = &self.blocks[first * row_bytes..(first + n) * row_bytes];
        kernels.mat_mul(
            self.matrix.dtype,
            blocks,
            self.matrix.cols,
            acts,
            out,
            panel,
        );
    }
}
