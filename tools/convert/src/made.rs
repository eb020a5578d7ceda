//! Small tensors that are computed from whole checkpoint tensors: stacked, turned, mapped.

use super::checkpoint::{Checkpoint, float_type};
use super::rows::RowMap;
use geb::error::{Error, Result};

/// What is done with the values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// They stay.
    Same,
    /// `[.., a, b]` becomes `[.., b, a]`.
    Turned,
    /// `1 - x`.
    Rest,
    /// `-exp(x)`.
    NegExp,
}

/// A piece of such a tensor.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    /// All of a checkpoint tensor.
    Tensor(usize),
    /// So many zeros.
    Zeros(usize),
}

/// Pieces, one after the other.
#[derive(Clone, Debug)]
pub struct Made {
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// Applied to each piece but zeros.
    pub how: How,
    /// Which of the values each one is, after that; `None`: as they are.
    pub order: Option<RowMap>,
}

impl Made {
    /// Pieces as they are.
    pub fn new(pieces: Vec<Piece>, how: How) -> Made {
        let order = None;
        Made { pieces, how, order }
    }

    /// All values, row-major.
    ///
    /// # Errors
    /// Those of reading; [`Error::Unsupported`] for tensors that are not floats.
    pub(super) fn values(&self, checkpoint: &Checkpoint) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match *piece {
                Piece::Zeros(n) => out.resize(out.len() + n, 0.0),
                Piece::Tensor(i) => {
                    let t = &checkpoint.tensors()[i];
                    let x = floats(checkpoint, i)?;
                    match self.how {
                        How::Same => out.extend(x),
                        How::Rest => out.extend(x.iter().map(|v| 1.0 - v)),
                        How::NegExp => out.extend(x.iter().map(|v| -v.exp())),
                        How::Turned => {
                            let cols = t.cols();
                            let rows = t.shape.iter().rev().nth(1).map_or(1, |&n| n as usize);
                            for matrix in x.chunks_exact((rows * cols).max(1)) {
                                let at = |i: usize| matrix[i % rows * cols + i / rows];
                                out.extend((0..matrix.len()).map(at));
                            }
                        }
                    }
                }
            }
        }
        match &self.order {
            Some(order) => Ok((0..order.len()).map(|i| out[order.at(i)]).collect()),
            None => Ok(out),
        }
    }

    /// The tensors it is made of.
    pub(super) fn tensors(&self) -> impl Iterator<Item = usize> {
        self.pieces.iter().filter_map(|p| match *p {
            Piece::Tensor(i) => Some(i),
            Piece::Zeros(_) => None,
        })
    }

    /// Bytes of the source that are read.
    pub(super) fn source_bytes(&self, checkpoint: &Checkpoint) -> u64 {
        let bytes = |i: usize| checkpoint.tensors()[i].stored();
        self.tensors().map(bytes).sum()
    }
}

/// A whole tensor as floats.
fn floats(checkpoint: &Checkpoint, i: usize) -> Result<Vec<f32>> {
    let t = &checkpoint.tensors()[i];
    let from = float_type(t)?;
    let mut raw = vec![0; t.range.len()];
    checkpoint.read(i, 0, &mut raw)?;
    let mut out = vec![0.0; t.rows() * t.cols()];
    if from == geb_kernels::dtype::Dtype::F64 {
        let (values, _) = raw.as_chunks::<8>();
        let values = values.iter().map(|b| f64::from_le_bytes(*b) as f32);
        out.iter_mut().zip(values).for_each(|(o, v)| *o = v);
    } else {
        super::machine::kernels()?.dequantize(from, &raw, &mut out);
    }
    match out.iter().position(|v| !v.is_finite()) {
        None => Ok(out),
        Some(at) => Err(Error::NonFinite {
            what: format!("tensor {}", t.name),
            index: at as u64,
            value: out[at],
        }),
    }
}
