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

    /// The rows behind the first `skip` are those of `heads`, `heads / groups` of each group: of each group the
    /// first, then of each the second, and so on.
    pub fn in_turn(&self, skip: usize, heads: usize, groups: usize) -> RowMap {
        let (run, each) = ((self.len() - skip) / heads, heads / groups);
        let first = move |new: usize| skip + (new % groups * each + new / groups) * run;
        let heads = (0..heads).flat_map(|new| first(new)..first(new) + run);
        self.select((0..skip).chain(heads))
    }

    /// Of groups of parts with so many rows each: these parts, each of all groups before the next.
    pub fn of_each(&self, parts: &[usize], which: &[usize]) -> RowMap {
        let group: usize = parts.iter().sum();
        let starts = 0..self.len() / group.max(1);
        let of = |part: usize| {
            let skip: usize = parts[..part].iter().sum();
            let first = move |g: usize| g * group + skip;
            starts
                .clone()
                .flat_map(move |g| first(g)..first(g) + parts[part])
        };
        self.select(which.iter().flat_map(|part| of(*part)))
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
    /// The columns of the source in output order; `None`: as they are.
    pub columns: Option<Vec<u32>>,
}

impl Part {
    /// Column of the source that an output column is.
    pub fn column(&self, i: usize) -> usize {
        self.columns.as_ref().map_or(i, |c| c[i] as usize)
    }

    /// Whether values change their places in a row.
    pub fn moves(&self) -> bool {
        self.transposed || self.columns.is_some()
    }

    /// Puts the columns of rows into their order.
    pub fn reorder(&self, rows: &mut [f32]) {
        let Some(columns) = &self.columns else {
            return;
        };
        let mut before = Vec::new();
        for row in rows.chunks_exact_mut(columns.len().max(1)) {
            before.clear();
            before.extend_from_slice(row);
            let moved = columns.iter().map(|c| before[*c as usize]);
            row.iter_mut().zip(moved).for_each(|(to, from)| *to = from);
        }
    }
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
    fn parts_of_groups_lie_together() {
        let groups = || RowMap::Span(0..12);
        assert_eq!(
            list(groups().of_each(&[1, 2, 3], &[0, 2])),
            [0, 6, 3, 4, 5, 9, 10, 11]
        );
        assert_eq!(list(groups().of_each(&[1, 2, 3], &[1])), [1, 2, 7, 8]);
    }

    #[test]
    fn heads_of_groups_take_turns() {
        let heads = RowMap::Span(0..6).in_turn(0, 6, 2);
        assert_eq!(list(heads), [0, 3, 1, 4, 2, 5]);
        let behind = RowMap::Span(0..11).in_turn(3, 4, 2);
        assert_eq!(list(behind), [0, 1, 2, 3, 4, 7, 8, 5, 6, 9, 10]);
        assert_eq!(list(RowMap::Span(0..4).in_turn(0, 2, 2)), [0, 1, 2, 3]);
        let part = Part {
            tensor: 0,
            rows: RowMap::Span(0..2),
            offset: 0.0,
            transposed: false,
            scale: 1.0,
            columns: Some(vec![0, 2, 1]),
        };
        let mut rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        part.reorder(&mut rows);
        assert_eq!(rows, [1.0, 3.0, 2.0, 4.0, 6.0, 5.0]);
        assert_eq!((part.column(1), part.moves()), (2, true));
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
