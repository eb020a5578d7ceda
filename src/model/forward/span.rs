//! What a pass works on: spans, each a run of consecutive tokens of one sequence. Their rows lie one behind the
//! other in the batch; products see all rows at once, attention and recurrence see each span with its own memory.

use std::ops::Range;

use crate::cache::{OwnPages, PageTable};
use crate::model::adapters::Adapters;
use crate::state::State;

/// What goes into a pass.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// Token ids, of which the rows of the embedding table are taken.
    Tokens(&'a [u32]),
    /// What stands in the place of those rows, `[positions, E]`; no factor of the embeddings applies.
    Vectors(&'a [f32]),
}

impl Segment<'_> {
    /// Positions it takes in a model of width `e`.
    pub(crate) fn len(&self, e: usize) -> usize {
        match self {
            Segment::Tokens(ids) => ids.len(),
            Segment::Vectors(x) => x.len() / e,
        }
    }

    /// The positions of this range.
    pub(crate) fn part(&self, e: usize, range: std::ops::Range<usize>) -> Self {
        match *self {
            Segment::Tokens(ids) => Segment::Tokens(&ids[range]),
            Segment::Vectors(x) => Segment::Vectors(&x[range.start * e..range.end * e]),
        }
    }
}

/// Consecutive tokens of one sequence.
pub(crate) struct SpanView<'a> {
    pub(crate) input: Segment<'a>,
    /// Its rows of the batch.
    pub(crate) rows: Range<usize>,
    /// Its rows of what is multiplied: `rows`, or where those whose logits are wanted were put.
    pub(crate) part: Range<usize>,
    /// Position of the first row.
    pub(crate) first: usize,
    /// Rows whose logits are wanted, counted from its first.
    pub(crate) wanted: Range<usize>,
    /// Where its keys and values lie; those of its positions are its own.
    pub(crate) table: &'a PageTable,
    pub(crate) state: &'a mut State,
    /// Keys and values of what an encoder has read.
    pub(crate) text: Option<&'a OwnPages>,
    /// Changes of the matrices.
    pub(crate) adapters: Option<&'a mut Adapters>,
    /// Takes what goes into the last layer, for further heads: `[context, E]`.
    pub(crate) trunk: Option<&'a mut [f32]>,
}

impl SpanView<'_> {
    /// One past its last position.
    pub(super) fn end(&self) -> usize {
        self.first + self.rows.len()
    }

    /// Keeps what goes into the last layer, `x` of the batch: `[rows, E]`.
    pub(super) fn keep_trunk(&mut self, x: &[f32], e: usize) {
        let (rows, at) = (self.rows.clone(), self.first * e);
        if let Some(trunk) = self.trunk.as_deref_mut() {
            let x = &x[rows.start * e..rows.end * e];
            trunk[at..at + x.len()].copy_from_slice(x);
        }
    }
}

/// Where the rows of a batch stand in their sequences.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Position of row 0.
    first: usize,
    /// First row and its position, of every span; empty for one span.
    spans: &'a [(usize, usize)],
}

impl<'a> Places<'a> {
    /// The rows of one span, from position `first` on.
    pub(crate) fn one(first: usize) -> Places<'a> {
        Places { first, spans: &[] }
    }

    /// The rows of spans, by first row and its position, in ascending order.
    pub(crate) fn many(spans: &'a [(usize, usize)]) -> Places<'a> {
        match spans {
            [(_, first)] => Places::one(*first),
            _ => Places { first: 0, spans },
        }
    }

    /// Position of a row.
    pub(crate) fn at(&self, row: usize) -> usize {
        match self.spans.partition_point(|(start, _)| *start <= row) {
            0 => self.first + row,
            n => self.spans[n - 1].1 + (row - self.spans[n - 1].0),
        }
    }

    /// Which span begins with this row.
    pub(super) fn begins(&self, row: usize) -> Option<usize> {
        match self.spans {
            [] => (row == 0).then_some(0),
            spans => spans.binary_search_by_key(&row, |s| s.0).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_their_positions() {
        let spans = [(0, 7), (1, 0), (4, 100)];
        let many = Places::many(&spans);
        let found: Vec<_> = (0..6).map(|t| (many.at(t), many.begins(t))).collect();
        let begins = [Some(0), Some(1), None, None, Some(2), None];
        let expected = [7, 0, 1, 2, 100, 101].into_iter().zip(begins);
        assert_eq!(found, expected.collect::<Vec<_>>());
        let one = Places::many(&spans[2..]);
        assert_eq!((one.at(0), one.at(3)), (100, 103));
        assert_eq!((one.begins(0), one.begins(1)), (Some(0), None));
    }
}
