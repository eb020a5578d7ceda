//! The stored tensors of a quantized checkpoint, by name, with errors that say what does not fit.

use std::cell::RefCell;
use std::collections::HashSet;

use super::number::Number;
use crate::checkpoint::Checkpoint;
use crate::folder::bad;
use crate::tensor::{Elem, SourceTensor};
use geb::error::{Error, Result};

/// The tensors, and which of them have been made part of a matrix.
pub(super) struct Parts<'a> {
    pub checkpoint: &'a Checkpoint,
    taken: RefCell<HashSet<usize>>,
}

impl<'a> Parts<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Parts<'a> {
        let taken = RefCell::default();
        Parts { checkpoint, taken }
    }

    /// A tensor that may be there; nothing else will read it.
    pub fn take(&self, name: &str) -> Option<&'a SourceTensor> {
        let i = self.checkpoint.find(name)?;
        self.taken.borrow_mut().insert(i);
        Some(&self.checkpoint.tensors()[i])
    }

    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.find(name).is_some()
    }

    pub fn is_taken(&self, tensor: usize) -> bool {
        self.taken.borrow().contains(&tensor)
    }

    /// A tensor that `of` cannot be read without.
    pub fn need(&self, name: &str, of: &SourceTensor) -> Result<&'a SourceTensor> {
        let missing = || bad(self.file(of), name, "absent", format!("beside {}", of.name));
        self.take(name).ok_or_else(missing)
    }

    /// A single number.
    pub fn scalar(&self, t: &SourceTensor) -> Result<f32> {
        self.scalar_of(t, Number::of(t.elem))
    }

    /// A single number of this type.
    pub fn scalar_of(&self, t: &SourceTensor, number: Option<Number>) -> Result<f32> {
        let number = number.ok_or_else(|| self.wrong_type(t, "a number"))?;
        if t.rows() * t.cols() != 1 {
            return Err(self.wrong_shape(t, "one number"));
        }
        let mut raw = vec![0; t.range.len()];
        self.checkpoint.files().read(t, 0, &mut raw)?;
        let value = number.value(&raw);
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::NonFinite {
                what: format!("tensor {}", t.name),
                index: 0,
                value,
            }),
        }
    }

    /// A vector of integers.
    pub fn integers(&self, t: &SourceTensor) -> Result<Vec<i64>> {
        let raw = self.bytes(t)?;
        match t.elem {
            Elem::Other("I32") => {
                let (words, _) = raw.as_chunks::<4>();
                Ok(words
                    .iter()
                    .map(|b| i64::from(i32::from_le_bytes(*b)))
                    .collect())
            }
            Elem::Other("I64") => {
                let (words, _) = raw.as_chunks::<8>();
                Ok(words.iter().map(|b| i64::from_le_bytes(*b)).collect())
            }
            _ => Err(self.wrong_type(t, "I32, I64")),
        }
    }

    /// The bytes of a small tensor.
    pub fn bytes(&self, t: &SourceTensor) -> Result<Vec<u8>> {
        let mut raw = vec![0; t.range.len()];
        self.checkpoint.files().read(t, 0, &mut raw)?;
        Ok(raw)
    }

    /// The sizes of a matrix.
    pub fn matrix(&self, t: &SourceTensor) -> Result<[usize; 2]> {
        match t.shape[..] {
            [a, b] if a > 0 && b > 0 => Ok([a as usize, b as usize]),
            _ => Err(self.wrong_shape(t, "a matrix")),
        }
    }

    /// Refuses another type of elements.
    pub fn expect(&self, t: &SourceTensor, elem: &'static str) -> Result<()> {
        match t.elem == Elem::Other(elem) {
            true => Ok(()),
            false => Err(self.wrong_type(t, elem)),
        }
    }

    pub fn wrong_type(&self, t: &SourceTensor, allowed: &str) -> Error {
        let field = format!("{}: dtype", t.name);
        bad(self.file(t), field, type_name(t.elem), allowed)
    }

    pub fn wrong_shape(&self, t: &SourceTensor, allowed: impl Into<String>) -> Error {
        let field = format!("{}: shape", t.name);
        bad(self.file(t), field, format!("{:?}", t.shape), allowed)
    }

    pub fn file(&self, t: &SourceTensor) -> &'a str {
        self.checkpoint.file_names().nth(t.file).unwrap_or("")
    }
}

pub(super) fn type_name(elem: Elem) -> String {
    match elem {
        Elem::Float(dtype) => dtype.name().to_owned(),
        Elem::Other(name) => name.to_owned(),
    }
}
