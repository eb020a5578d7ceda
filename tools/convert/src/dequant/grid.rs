//! Matrices whose codes have scales in rows and columns of blocks.

use super::number::Number;
use super::parts::Parts;
use super::table::Table;
use crate::folder::bad;
use crate::tensor::{Decode, Files, SourceTensor};
use geb::error::{Error, Result};

/// Which column of scales is for a column of weights.
#[derive(Clone, Debug)]
pub(super) enum Group {
    /// So many neighbours each.
    Of(usize),
    /// As the checkpoint says (activation order).
    At(Vec<u32>),
}

impl Group {
    fn of(&self, col: usize) -> usize {
        match self {
            Group::Of(n) => col / n,
            Group::At(list) => list[col] as usize,
        }
    }

    /// `g_idx`: the group of each of `cols` columns, in `0..groups`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for another length or number.
    pub fn read(parts: &Parts<'_>, t: &SourceTensor, cols: usize, groups: usize) -> Result<Group> {
        let list = parts.integers(t)?;
        if list.len() != cols {
            return Err(parts.wrong_shape(t, format!("[{cols}]")));
        }
        let one = |(i, &g): (usize, &i64)| {
            let found = u32::try_from(g).ok().filter(|g| (*g as usize) < groups);
            let field = format!("{}[{i}]", t.name);
            found.ok_or_else(|| bad(parts.file(t), field, g, format!("0..{groups}")))
        };
        let list: Result<Vec<u32>> = list.iter().enumerate().map(one).collect();
        list.map(Group::At)
    }
}

/// Sizes of a stack of matrices.
struct Stack {
    /// The outer ones, those of one left out.
    outer: Vec<u64>,
    matrices: usize,
    rows: usize,
    cols: usize,
}

fn without_ones(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|&d| d != 1).collect()
}

impl Stack {
    /// A vector is a matrix of rows of one.
    fn of(shape: &[u64]) -> Stack {
        let (outer, rows, cols) = match shape {
            [outer @ .., rows, cols] => (outer, *rows, *cols),
            [rows] => (&[][..], *rows, 1),
            [] => (&[][..], 1, 1),
        };
        Stack {
            outer: without_ones(outer),
            matrices: outer.iter().product::<u64>() as usize,
            rows: rows as usize,
            cols: cols as usize,
        }
    }

    /// The sizes of scales for blocks of so many rows and columns, without those of one.
    fn scales(&self, [a, b]: [usize; 2]) -> Vec<u64> {
        let end = [self.rows.div_ceil(a) as u64, self.cols.div_ceil(b) as u64];
        without_ones(&[&self.outer[..], &end].concat())
    }

    /// The blocks of which `a` × `b` fill a matrix.
    fn evenly(&self, a: u64, b: u64) -> Option<[usize; 2]> {
        let (a, b) = (a as usize, b as usize);
        let some = [a, b, self.rows, self.cols].iter().all(|&n| n > 0);
        let fits = some && self.rows.is_multiple_of(a) && self.cols.is_multiple_of(b);
        fits.then(|| [self.rows / a, self.cols / b])
    }
}

/// Whether scales are for blocks of this size.
pub(super) fn fits(shape: &[u64], scale: &SourceTensor, block: [usize; 2]) -> bool {
    without_ones(&scale.shape) == Stack::of(shape).scales(block)
}

/// `(code − zero) · scale · factor`, and a factor for each column.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub codes: Table,
    /// By row and group.
    pub zero: Option<Table>,
    /// By block of rows and group.
    pub scale: Option<Table>,
    pub group: Group,
    /// Rows that share scales, of each matrix of so many rows.
    pub step: usize,
    pub matrix: usize,
    /// Taken from all codes.
    pub offset: f32,
    /// Multiplied with the scale, and divided by.
    pub factor: (f32, f32),
    pub columns: Option<Table>,
}

impl Grid {
    /// Codes that are the values.
    pub fn plain(codes: Table) -> Grid {
        Grid {
            zero: None,
            scale: None,
            group: Group::Of(codes.cols.max(1)),
            step: 1,
            matrix: codes.rows.max(1),
            offset: 0.0,
            factor: (1.0, 1.0),
            columns: None,
            codes,
        }
    }

    /// Scales of any of the common shapes: one, one for each row, for each matrix of a stack, for each block.
    /// `block`: rows and columns that share one; where nothing says that, the number of scales does.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they fit in none of these ways.
    pub fn scaled(
        mut self,
        parts: &Parts<'_>,
        shape: &[u64],
        scale: &SourceTensor,
        number: Option<Number>,
        block: Option<[usize; 2]>,
    ) -> Result<Grid> {
        let (number, cols) = (number.or(Number::of(scale.elem)), self.codes.cols);
        let stack = Stack::of(shape);
        let n = stack.rows;
        let found = without_ones(&scale.shape);
        let derived = match found[stack.outer.len().min(found.len())..] {
            [a, c] if block.is_none() => stack.evenly(a, c),
            [c] if block.is_none() && n == 1 => stack.evenly(1, c),
            _ => None,
        };
        let block = block.filter(|&b| found == stack.scales(b)).or(derived);
        let (step, group, lines, width) = match block {
            _ if found.is_empty() => {
                self.factor.0 *= parts.scalar_of(scale, number)?;
                return Ok(self);
            }
            Some([a, b]) => (a, b, n.div_ceil(a), cols.div_ceil(b)),
            None if found == stack.scales([1, cols.max(1)]) => (1, cols, n, 1),
            None if stack.matrices > 1 && found == stack.outer => (n, cols, 1, 1),
            None => {
                let allowed = format!("one, one for each row or one for each block of {shape:?}");
                return Err(parts.wrong_shape(scale, allowed));
            }
        };
        let size = [stack.matrices * lines, width];
        self.scale = Some(Table::numbers(parts, scale, size, false, number)?);
        (self.step, self.matrix, self.group) = (step, n.max(1), Group::Of(group.max(1)));
        Ok(self)
    }

    /// The line of scales of a row.
    fn line(&self, row: usize) -> usize {
        let lines = self.matrix.div_ceil(self.step);
        row / self.matrix * lines + row % self.matrix / self.step
    }

    fn numbers(&self, files: &Files, table: Option<&Table>, rows: &[usize]) -> Result<Vec<f32>> {
        let Some(table) = table else {
            return Ok(Vec::new());
        };
        let mut out = vec![0.0; rows.len() * table.cols];
        table.read(files, rows, &mut out)?;
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(out),
            Some(at) => Err(Error::NonFinite {
                what: format!("tensor {}", table.name()),
                index: (rows[at / table.cols] * table.cols + at % table.cols) as u64,
                value: out[at],
            }),
        }
    }
}

impl Decode for Grid {
    fn rows(&self, files: &Files, rows: &[usize], out: &mut [f32]) -> Result<()> {
        self.codes.read(files, rows, out)?;
        let cols = self.codes.cols;
        if cols == 0 {
            return Ok(());
        }
        let lines: Vec<usize> = rows.iter().map(|&r| self.line(r)).collect();
        let scale = self.numbers(files, self.scale.as_ref(), &lines)?;
        let zero = self.numbers(files, self.zero.as_ref(), rows)?;
        let columns = self.numbers(files, self.columns.as_ref(), &[0])?;
        let width = |table: &Option<Table>| table.as_ref().map_or(0, |t| t.cols);
        let (scales, zeros) = (width(&self.scale), width(&self.zero));
        for (i, out) in out.chunks_exact_mut(cols).enumerate() {
            for (col, x) in out.iter_mut().enumerate() {
                let group = self.group.of(col);
                let scale = if scales > 0 {
                    scale[i * scales + group]
                } else {
                    1.0
                };
                let zero = if zeros > 0 {
                    zero[i * zeros + group]
                } else {
                    self.offset
                };
                *x = (*x - zero) * (scale * self.factor.0 / self.factor.1);
            }
            for (x, factor) in out.iter_mut().zip(&columns) {
                *x *= factor;
            }
        }
        Ok(())
    }

    fn stored(&self) -> u64 {
        let others = [&self.zero, &self.scale, &self.columns];
        let others = others.into_iter().flatten().map(Table::stored);
        self.codes.stored() + others.sum::<u64>()
    }
}
