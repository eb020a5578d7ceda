//! A stored tensor of a quantized checkpoint as a matrix of numbers: plain ones, or codes of a few bits.

use std::ops::Range;
use std::sync::Arc;

use super::number::Number;
use super::parts::Parts;
use crate::tensor::{Files, SourceTensor};
use geb::error::Result;

/// How far apart rows may lie that are read together, of a matrix that stores columns.
const SPREAD: usize = 512;

/// What a code stands for.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// Itself, less a number.
    Less(i32),
    /// A number in two's complement.
    Signed,
    /// An entry of a table.
    Entry(Arc<[f32]>),
}

/// Where the codes of a line lie in its words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// One after the other, across the ends of words.
    Dense,
    /// As many as fit whole into each word.
    Whole,
    /// Eight to a word: 0, 2, 4, 6, 1, 3, 5, 7.
    Interleaved,
    /// The first of each word, then the second of each.
    Planes,
}

/// Codes of a few bits.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    /// Of a code.
    pub bits: usize,
    /// Bytes of a word: 1 or 4.
    pub word: usize,
    /// Words hold codes of one stored line; otherwise of one position in several lines.
    pub inner: bool,
    pub order: Order,
    pub meaning: Meaning,
}

impl Bits {
    fn per_word(&self) -> usize {
        self.word * 8 / self.bits
    }

    /// Words for `n` codes.
    pub fn words(&self, n: usize) -> usize {
        match self.order {
            Order::Dense => (n * self.bits).div_ceil(self.word * 8),
            _ => n.div_ceil(self.per_word()),
        }
    }

    /// Word and bit of code `i` of `n`.
    fn place(&self, i: usize, n: usize) -> (usize, usize) {
        let per = self.per_word();
        match self.order {
            Order::Dense => {
                let (at, word) = (i * self.bits, self.word * 8);
                (at >> word.trailing_zeros(), at & (word - 1))
            }
            Order::Whole => (i / per, i % per * self.bits),
            Order::Interleaved => (i / 8, [0, 4, 1, 5, 2, 6, 3, 7][i % 8] * self.bits),
            Order::Planes => (i % self.words(n), i / self.words(n) * self.bits),
        }
    }

    fn value(&self, code: u32) -> f32 {
        match &self.meaning {
            Meaning::Less(n) => (code as i32 - n) as f32,
            Meaning::Signed => {
                let unused = 32 - self.bits as u32;
                ((code << unused) as i32 >> unused) as f32
            }
            Meaning::Entry(table) => table[code as usize],
        }
    }
}

#[derive(Clone, Debug)]
enum Cell {
    Number(Number),
    Code(Bits),
}

/// A matrix of numbers in a stored tensor.
#[derive(Clone, Debug)]
pub(super) struct Table {
    part: SourceTensor,
    pub rows: usize,
    pub cols: usize,
    /// Its columns are stored one after the other.
    turned: bool,
    cell: Cell,
}

impl Table {
    /// Plain numbers of any type, or of this one.
    ///
    /// # Errors
    /// [`geb::Error::Checkpoint`] naming tensor and sizes.
    pub fn numbers(
        parts: &Parts<'_>,
        part: &SourceTensor,
        [rows, cols]: [usize; 2],
        turned: bool,
        number: Option<Number>,
    ) -> Result<Table> {
        let number = number.or(Number::of(part.elem));
        let number = number.ok_or_else(|| parts.wrong_type(part, "numbers"))?;
        let cell = Cell::Number(number);
        Table::new(parts, part, [rows, cols], turned, cell, number.bytes())
    }

    /// Codes of a few bits.
    ///
    /// # Errors
    /// As [`Table::numbers`].
    pub fn codes(
        parts: &Parts<'_>,
        part: &SourceTensor,
        size: [usize; 2],
        turned: bool,
        bits: Bits,
    ) -> Result<Table> {
        let bytes = bits.word;
        Table::new(parts, part, size, turned, Cell::Code(bits), bytes)
    }

    fn new(
        parts: &Parts<'_>,
        part: &SourceTensor,
        [rows, cols]: [usize; 2],
        turned: bool,
        cell: Cell,
        bytes: usize,
    ) -> Result<Table> {
        let part = part.clone();
        let table = Table {
            part,
            rows,
            cols,
            turned,
            cell,
        };
        let (lines, words) = table.lines();
        let needed = lines.checked_mul(words).and_then(|n| n.checked_mul(bytes));
        let stored = table.part.range.len();
        if needed != Some(stored) {
            let allowed = format!("{lines} × {words} of {bytes} bytes, for [{rows}, {cols}]");
            return Err(parts.wrong_shape(&table.part, allowed));
        }
        Ok(table)
    }

    /// Bytes it is stored in.
    pub fn stored(&self) -> u64 {
        self.part.range.len() as u64
    }

    /// Name of the stored tensor.
    pub fn name(&self) -> &str {
        &self.part.name
    }

    /// Columns and rows, as they are stored.
    fn sides(&self) -> (usize, usize) {
        match self.turned {
            true => (self.cols, self.rows),
            false => (self.rows, self.cols),
        }
    }

    /// Stored lines, and the words of each.
    fn lines(&self) -> (usize, usize) {
        let (outer, inner) = self.sides();
        match &self.cell {
            Cell::Code(bits) if bits.inner => (outer, bits.words(inner)),
            Cell::Code(bits) => (bits.words(outer), inner),
            Cell::Number(_) => (outer, inner),
        }
    }

    /// Some rows, one after the other.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(&self, files: &Files, rows: &[usize], out: &mut [f32]) -> Result<()> {
        if rows.is_empty() || self.cols == 0 {
            return Ok(());
        }
        let first = rows.iter().copied().min().unwrap_or(0);
        let last = rows.iter().copied().max().unwrap_or(0);
        let apart = match (self.turned, &self.cell) {
            (true, _) => last - first > SPREAD,
            (false, Cell::Code(bits)) if !bits.inner => rows.len() > 1,
            (false, _) => last - first >= rows.len(),
        };
        if apart && rows.len() > 1 {
            let (before, after) = rows.split_at(rows.len() / 2);
            let (low, high) = out.split_at_mut(before.len() * self.cols);
            self.read(files, before, low)?;
            return self.read(files, after, high);
        }
        let slab = self.load(files, first, last)?;
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(self.cols)) {
            for (col, out) in out.iter_mut().enumerate() {
                *out = match self.turned {
                    true => self.value(&slab, col, *row),
                    false => self.value(&slab, *row, col),
                };
            }
        }
        Ok(())
    }

    /// Numbers of a vector that is one row.
    ///
    /// # Errors
    /// Those of reading.
    pub fn some(&self, files: &Files, first: usize, end: usize) -> Result<Vec<f32>> {
        let Cell::Number(number) = self.cell else {
            return Ok(Vec::new());
        };
        let size = number.bytes();
        let mut raw = vec![0; (end - first) * size];
        files.read(&self.part, first * size, &mut raw)?;
        Ok(raw.chunks_exact(size).map(|b| number.value(b)).collect())
    }

    /// What is stored of these rows.
    fn load(&self, files: &Files, first: usize, last: usize) -> Result<Slab> {
        let (all_lines, all_words) = self.lines();
        let (outer, inner) = self.sides();
        // Words that hold the codes first..=last of n.
        let span = |bits: &Bits, n: usize, all: usize| {
            let (start, end) = (bits.place(first, n), bits.place(last, n));
            let over = usize::from(end.1 + bits.bits > bits.word * 8);
            start.0..(end.0 + over + 1).min(all)
        };
        let (lines, words) = match (&self.cell, self.turned) {
            (Cell::Number(_), true) => (0..all_lines, first..last + 1),
            (Cell::Number(_), false) => (first..last + 1, 0..all_words),
            (Cell::Code(b), true) if b.inner => (0..all_lines, span(b, inner, all_words)),
            (Cell::Code(_), true) => (0..all_lines, first..last + 1),
            (Cell::Code(b), false) if b.inner => (first..last + 1, 0..all_words),
            (Cell::Code(b), false) => (span(b, outer, all_lines), 0..all_words),
        };
        let bytes = match &self.cell {
            Cell::Number(number) => number.bytes(),
            Cell::Code(bits) => bits.word,
        };
        let mut slab = Slab {
            data: vec![0; lines.len() * words.len() * bytes],
            lines,
            words,
            bytes,
        };
        let whole = slab.words.len() == all_words;
        let step = match whole {
            true => slab.data.len(),
            false => slab.words.len() * bytes,
        };
        for (i, piece) in slab.data.chunks_mut(step.max(1)).enumerate() {
            let line = slab.lines.start + if whole { 0 } else { i };
            let at = (line * all_words + slab.words.start) * bytes;
            files.read(&self.part, at, piece)?;
        }
        Ok(slab)
    }

    fn value(&self, slab: &Slab, outer: usize, inner: usize) -> f32 {
        let bits = match &self.cell {
            Cell::Number(number) => return number.value(slab.at(outer, inner)),
            Cell::Code(bits) => bits,
        };
        let sides = self.sides();
        let (word, shift) = match bits.inner {
            true => bits.place(inner, sides.1),
            false => bits.place(outer, sides.0),
        };
        let get = |word: usize| match bits.inner {
            true => slab.word(outer, word),
            false => slab.word(word, inner),
        };
        let mut code = u64::from(get(word)) >> shift;
        let have = bits.word * 8 - shift;
        if have < bits.bits {
            code |= u64::from(get(word + 1)) << have;
        }
        bits.value(code as u32 & ((1 << bits.bits) - 1))
    }
}

/// A piece of a stored matrix.
struct Slab {
    data: Vec<u8>,
    lines: Range<usize>,
    words: Range<usize>,
    bytes: usize,
}

impl Slab {
    fn at(&self, line: usize, word: usize) -> &[u8] {
        let at = (line - self.lines.start) * self.words.len() + word - self.words.start;
        &self.data[at * self.bytes..(at + 1) * self.bytes]
    }

    fn word(&self, line: usize, word: usize) -> u32 {
        let b = self.at(line, word);
        b.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_places() {
        let bits = |bits, order| Bits {
            bits,
            word: 4,
            inner: true,
            order,
            meaning: Meaning::Signed,
        };
        let three = bits(3, Order::Dense);
        assert_eq!((three.words(32), three.words(33)), (3, 4));
        assert_eq!(
            (three.place(10, 32), three.place(11, 32)),
            ((0, 30), (1, 1))
        );
        assert_eq!(bits(3, Order::Whole).place(10, 32), (1, 0));
        assert_eq!(bits(4, Order::Interleaved).place(9, 16), (1, 16));
        assert_eq!(bits(4, Order::Dense).value(0xF), -1.0);
        let planes = Bits {
            word: 1,
            ..bits(2, Order::Planes)
        };
        assert_eq!((planes.words(12), planes.place(7, 12)), (3, (1, 4)));
    }
}
