//! Row maps: which source row each output row is. Splitting, joining and permuting matrices is
//! done here, on row numbers, while rows are streamed; no tensor is ever copied as a whole.

use std::ops::Range;

/// Rows of one source tensor, in output order.
#[derive(Clone, Debug, PartialEq)]
pub enum RowMap {
    /// Consecutive rows.
    Span(Range<usize>),
    /// Any rows.
    List(Vec<u32>),
}

impl RowMap {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            RowMap::Span(r) => r.len(),
            RowMap::List(l) => l.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Source row of output row `i`.
    pub fn at(&self, i: usize) -> usize {
        match self {
            RowMap::Span(r) => r.start + i,
            RowMap::List(l) => l[i] as usize,
        }
    }

    /// The map followed by a reordering of its result.
    fn select(&self, order: impl Iterator<Item = usize>) -> RowMap {
        RowMap::List(order.map(|i| self.at(i) as u32).collect())
    }

    /// Reorders each head's first `rotary` rows from half-split to interleaved pairs:
    /// new row 2i = old row i, new row 2i+1 = old row i + rotary/2; the other rows stay.
    ///
    /// Interleaved rotation of the result equals half-split rotation of the source, and the
    /// scores do not change because queries and keys are reordered alike.
    pub fn interleave(&self, head_dim: usize, rotary: usize) -> RowMap {
        let within = |j: usize| match j {
            j if j >= rotary => j,
            j if j % 2 == 0 => j / 2,
            j => j / 2 + rotary / 2,
        };
        self.select((0..self.len()).map(|i| i / head_dim * head_dim + within(i % head_dim)))
    }

    /// Part `part` of every head of a matrix of rows [kv heads, 2, head_dim].
    pub fn kv_interleaved(&self, head_dim: usize, part: usize) -> RowMap {
        let n = self.len() / 2;
        self.select((0..n).map(|i| i / head_dim * 2 * head_dim + part * head_dim + i % head_dim))
    }

    /// Half `part` of the rows of each of `matrices` of equal size.
    pub fn half_of_each(&self, matrices: usize, part: usize) -> RowMap {
        if matrices <= 1 {
            return self.half(part);
        }
        let n = self.len() / matrices / 2;
        let first = |m: usize| (2 * m + part) * n;
        self.select((0..matrices).flat_map(|m| first(m)..first(m) + n))
    }

    /// Some of the rows.
    pub fn slice(&self, rows: Range<usize>) -> RowMap {
        match self {
            RowMap::Span(r) => RowMap::Span(r.start + rows.start..r.start + rows.end),
            RowMap::List(l) => RowMap::List(l[rows].to_vec()),
        }
    }

    /// Queries, then keys, then values of a matrix of rows [kv heads, `queries` + 2, head_dim].
    pub fn ungroup(&self, head_dim: usize, queries: usize) -> RowMap {
        let group = (queries + 2) * head_dim;
        let starts = move |n: usize| (0..n).step_by(group);
        let n = self.len();
        let part = |skip: usize, heads: usize| {
            starts(n).flat_map(move |g| g + skip * head_dim..g + (skip + heads) * head_dim)
        };
        self.select(
            part(0, queries)
                .chain(part(queries, 1))
                .chain(part(queries + 1, 1)),
        )
    }

    /// Half `part` of the rows.
    pub fn half(&self, part: usize) -> RowMap {
        let n = self.len() / 2;
        match self {
            RowMap::Span(r) => RowMap::Span(r.start + part * n..r.start + (part + 1) * n),
            RowMap::List(l) => RowMap::List(l[part * n..(part + 1) * n].to_vec()),
        }
    }
}

/// Rows of one source tensor that become part of an output tensor.
#[derive(Clone, Debug)]
pub struct Part {
    /// Position in the checkpoint's list.
    pub tensor: usize,
    /// Its rows, in output order; its columns where it is transposed.
    pub rows: RowMap,
    /// Added to every value.
    pub offset: f32,
    /// The source holds inputs by outputs: its columns are the rows.
    pub transposed: bool,
    /// Every value is multiplied with it first.
    pub scale: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(map: RowMap) -> Vec<usize> {
        (0..map.len()).map(|i| map.at(i)).collect()
    }

    #[test]
    fn full_interleave_is_the_published_permutation() {
        assert_eq!(list(RowMap::Span(0..4).interleave(4, 4)), [0, 2, 1, 3]);
        assert_eq!(
            list(RowMap::Span(0..8).interleave(4, 4)),
            [0, 2, 1, 3, 4, 6, 5, 7]
        );
    }

    #[test]
    fn partial_interleave_leaves_the_rest() {
        assert_eq!(
            list(RowMap::Span(0..8).interleave(8, 4)),
            [0, 2, 1, 3, 4, 5, 6, 7]
        );
    }

    #[test]
    fn packed_keys_and_values() {
        assert_eq!(list(RowMap::Span(0..8).kv_interleaved(2, 0)), [0, 1, 4, 5]);
        assert_eq!(list(RowMap::Span(0..8).kv_interleaved(2, 1)), [2, 3, 6, 7]);
        assert_eq!(list(RowMap::Span(0..8).half(1)), [4, 5, 6, 7]);
        assert_eq!(list(RowMap::Span(0..8).half_of_each(2, 1)), [2, 3, 6, 7]);
        let half = RowMap::Span(0..8).half_of_each(2, 0);
        assert_eq!(list(half.slice(1..3)), [1, 4]);
        assert_eq!(
            list(RowMap::Span(0..8).kv_interleaved(2, 1).interleave(4, 4)),
            [2, 6, 3, 7]
        );
    }

    #[test]
    fn groups_become_queries_keys_and_values() {
        let grouped = RowMap::Span(0..16).ungroup(2, 2);
        assert_eq!(
            list(grouped),
            [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
        );
        assert_eq!(list(RowMap::Span(0..6).ungroup(1, 1)), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn every_map_is_a_permutation_of_its_half() {
        for rotary in [16, 8] {
            let k = RowMap::Span(0..128)
                .kv_interleaved(16, 0)
                .interleave(16, rotary);
            let v = RowMap::Span(0..128).kv_interleaved(16, 1);
            let mut all: Vec<_> = list(k).into_iter().chain(list(v)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..128).collect::<Vec<_>>());
        }
    }
}
