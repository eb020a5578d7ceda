//! F32 caches looked into: keys in blocks or, for attention with a bias, as rows.

use std::ops::Range;

use geb_kernels::float::{BLOCK, KvShape};

use super::pool::PagePool;
use super::table::PageTable;

/// Keys and values of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct KvView<'a> {
    pool: &'a PagePool,
    table: &'a PageTable,
}

impl PagePool {
    /// What a table names.
    pub(crate) fn view<'a>(&'a self, table: &'a PageTable) -> KvView<'a> {
        KvView { pool: self, table }
    }
}

impl<'a> KvView<'a> {
    /// One head of one layer of an F32 cache.
    pub(crate) fn rows(&self, layer: usize, head: usize) -> HeadRows<'a> {
        let (place, (slab, page_bytes)) = (self.pool.place(layer), self.pool.slab(layer));
        let block = place.shape.block_bytes() / 4;
        let keys = place.at / 4 + 2 * head * block;
        let whole = slab.len() / 4 * 4;
        HeadRows {
            slab: bytemuck::cast_slice(&slab[..whole]),
            pages: self.pool.pages(self.table, layer),
            page: page_bytes / 4,
            keys,
            values: keys + block,
            shape: place.shape,
        }
    }
}

/// Keys and values of a head: blocks of `[positions, width]` each.
pub(crate) struct HeadRows<'a> {
    slab: &'a [f32],
    pages: &'a [u32],
    /// Floats of a page.
    page: usize,
    /// Where keys and values of the head start in a page.
    keys: usize,
    values: usize,
    shape: KvShape,
}

impl<'a> HeadRows<'a> {
    /// The block at `at` of the page that holds a position.
    fn block(&self, at: usize, position: usize) -> &'a [f32] {
        let start = self.pages[position / BLOCK] as usize * self.page + at;
        &self.slab[start..start + BLOCK * self.shape.width()]
    }

    fn row(&self, at: usize, position: usize) -> &'a [f32] {
        let start = position % BLOCK * self.shape.width();
        &self.block(at, position)[start..start + self.shape.head_size()]
    }

    /// Products of `q` with the keys of positions `seen`, where keys lie in blocks as the kernels want them.
    pub(crate) fn products(&self, q: &[f32], seen: Range<usize>) -> impl Iterator<Item = f32> {
        let mut out = Vec::with_capacity(seen.len());
        for block in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
            let first = block * BLOCK;
            let keys = self.block(self.keys, first);
            let mut sums = [0f32; BLOCK];
            for (q, column) in q.iter().zip(keys.chunks_exact(BLOCK)) {
                for (sum, k) in sums.iter_mut().zip(column) {
                    *sum += q * k;
                }
            }
            let inside = seen.start.max(first) - first..seen.end.min(first + BLOCK) - first;
            out.extend_from_slice(&sums[inside]);
        }
        out.into_iter()
    }

    /// The key at a position, where keys are stored as rows.
    pub(crate) fn key(&self, position: usize) -> &'a [f32] {
        self.row(self.keys, position)
    }

    /// The value at a position.
    pub(crate) fn value(&self, position: usize) -> &'a [f32] {
        self.row(self.values, position)
    }
}

/// Writes keys and values of the positions from `first` on as rows: for each side the first token's heads and
/// the distance to the next token's.
pub(crate) fn put_rows(
    pool: &mut PagePool,
    table: &PageTable,
    layer: usize,
    positions: Range<usize>,
    sides: [(&[f32], usize); 2],
) {
    let shape = pool.shape(layer);
    let (d, width) = (shape.head_size(), shape.width());
    for written in pool.written(layer, &[(table, positions.clone())]) {
        let layer: &mut [f32] = bytemuck::cast_slice_mut(written.layer);
        for (i, part) in layer.chunks_exact_mut(BLOCK * width).enumerate() {
            let ((from, stride), head) = (sides[i % 2], i / 2);
            for p in written.positions.clone() {
                let (to, t) = (p % BLOCK * width, p - positions.start);
                part[to..to + d].copy_from_slice(&from[t * stride + head * d..][..d]);
            }
        }
    }
}
