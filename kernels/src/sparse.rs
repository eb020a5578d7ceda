//! Q8_0 weights of which most are zero, packed in memory, and their products. The results are those of the
//! weights they were made from, bit for bit.
//!
//! At 70 % zeros a row is 0.46 times as long. Whether that is faster depends on what expanding costs:
//! AVX-512 has an instruction for it ([`Kernels::expands`](crate::Kernels::expands)); with shuffles it takes longer than
//! reading the zeros would. Q4_0 is not packed: at half the bytes its products are no longer limited
//! by memory alone, and expanding made them slower.

use std::collections::TryReserveError;
use std::ops::Range;

use crate::dtype::Dtype;
use crate::format::sparse::{HEAD, PLANE, PLANES, SCALES, runs};
use crate::layout::{GROUP, UNIT};
use crate::ops::sparse::SparseRows;

pub(crate) const BLOCK: usize = Dtype::Q8_0.block_bytes();

/// A matrix `[rows, cols]` as masks, scales and the codes that are not zero: 6 bytes for each 32 weights,
/// one for each code.
pub struct SparseMatrix {
    cols: usize,
    /// Where each row begins, and where the last one ends.
    starts: Vec<usize>,
    /// The rows, and [`PLANE`] bytes that are not used.
    bytes: Vec<u8>,
}

impl SparseMatrix {
    /// How many codes of whole Q8_0 blocks are zero.
    pub fn zeros(bytes: &[u8]) -> usize {
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        let zeros = |b: &[u8; BLOCK]| b[2..].iter().filter(|c| **c == 0).count();
        blocks.iter().map(zeros).sum()
    }

    /// Packs rows of `cols` Q8_0 weights.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// If `bytes` are not whole rows of whole blocks.
    pub fn pack(bytes: &[u8], cols: usize) -> Result<SparseMatrix, TryReserveError> {
        let row_bytes = Dtype::Q8_0.row_bytes(cols).filter(|n| *n > 0);
        let row_bytes = row_bytes.expect("columns are whole blocks");
        assert!(bytes.len().is_multiple_of(row_bytes), "whole rows");
        let rows = bytes.len() / row_bytes;
        let heads = cols.div_ceil(UNIT) * HEAD;
        let mut out = SparseMatrix {
            cols,
            starts: Vec::new(),
            bytes: Vec::new(),
        };
        out.starts.try_reserve_exact(rows + 1)?;
        let codes = rows * cols - Self::zeros(bytes);
        out.bytes.try_reserve_exact(rows * heads + codes + PLANE)?;
        for row in bytes.chunks_exact(row_bytes) {
            let start = out.bytes.len();
            out.starts.push(start);
            out.bytes.resize(start + heads, 0);
            for (u, unit) in row.chunks(UNIT / GROUP * BLOCK).enumerate() {
                out.pack_unit(unit, start + u * HEAD);
            }
        }
        out.starts.push(out.bytes.len());
        out.bytes.extend([0; PLANE]);
        Ok(out)
    }

    /// Packs the blocks of a unit; its head is at `head`.
    fn pack_unit(&mut self, unit: &[u8], head: usize) {
        let mut planes = [[0; PLANE]; PLANES];
        for (g, block) in unit.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (scale, codes) = block.split_at(2);
            self.bytes[head + SCALES + 2 * g..][..2].copy_from_slice(scale);
            for ((plane, at), codes) in runs(g).into_iter().zip(codes.chunks(16)) {
                planes[plane][at..][..16].copy_from_slice(codes);
            }
        }
        let (mut kept, mut n) = ([0; UNIT], 0);
        for (k, plane) in planes.iter().enumerate() {
            let mut mask = 0;
            for (bit, &code) in plane.iter().enumerate() {
                let set = code != 0;
                mask |= u64::from(set) << bit;
                kept[n] = code;
                n += usize::from(set);
            }
            self.bytes[head + 8 * k..][..8].copy_from_slice(&mask.to_le_bytes());
        }
        self.bytes.extend(&kept[..n]);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Weights in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that a product with `rows` reads.
    pub fn bytes(&self, rows: Range<usize>) -> usize {
        self.starts[rows.end] - self.starts[rows.start]
    }

    /// Bytes held, for memory reports.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.starts.capacity() * size_of::<usize>()
    }

    /// Rows as kernels take them.
    pub(crate) fn part(&self, rows: Range<usize>) -> SparseRows {
        assert!(rows.start <= rows.end && rows.end <= self.rows(), "rows");
        SparseRows {
            bytes: self.bytes.as_ptr(),
            starts: self.starts[rows.start..].as_ptr(),
            rows: rows.len(),
            cols: self.cols,
        }
    }
}

const _: () = assert!(HEAD == SCALES + 2 * UNIT / GROUP);
