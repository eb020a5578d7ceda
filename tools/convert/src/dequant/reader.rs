//! What a method of quantized checkpoints is asked for: a matrix for the tensors that hold it.

use std::sync::Arc;

use serde_json::Value;

use super::grid::Grid;
use super::parts::Parts;
use crate::folder::{Fields, bad, short};
use crate::tensor::{Coded, Decode, SourceTensor};
use geb::error::{Error, Result};

/// The methods that are read.
pub(super) const KNOWN: &str =
    "fp8, compressed-tensors, modelopt, gptq, awq, bitsandbytes, mxfp4, bitnet";

/// A quantized checkpoint that this program cannot read.
pub(super) fn unsupported(what: String) -> Error {
    Error::Unsupported {
        what: "quantized checkpoint",
        value: format!("method {what}"),
        known: KNOWN.into(),
    }
}

/// How a checkpoint says that it is quantized.
pub(super) struct Config<'a> {
    pub file: &'a str,
    pub method: &'a str,
    pub fields: Fields<'a>,
}

impl Config<'_> {
    /// Columns that share a scale; 0 for all.
    pub fn group_size(&self) -> Result<Option<u64>> {
        const NAMES: &[&str] = &["group_size", "q_group_size"];
        match self.fields.get(NAMES) {
            Some((_, v)) if v.as_i64() == Some(-1) => Ok(Some(0)),
            _ => self.fields.uint(NAMES, 1..=1 << 40),
        }
    }

    /// Rows and columns of a block.
    pub fn pair(&self, name: &'static str) -> Result<Option<[usize; 2]>> {
        let Some((_, value)) = self.fields.get(&[name]) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .map(|l| l.iter().map(Value::as_u64).collect::<Vec<_>>());
        match list.as_deref() {
            Some(&[Some(a @ 1..=0xFF_FFFF), Some(b @ 1..=0xFF_FFFF)]) => {
                Ok(Some([a as usize, b as usize]))
            }
            _ => Err(bad(self.file, name, short(value), "two sizes")),
        }
    }

    /// A list of names.
    pub fn names(&self, keys: &[&'static str]) -> Result<Vec<String>> {
        let Some((key, value)) = self.fields.get(keys) else {
            return Ok(Vec::new());
        };
        let list = value
            .as_array()
            .and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        list.ok_or_else(|| bad(self.file, key, short(value), "a list of names"))
    }
}

/// Makes matrices of the tensors of one method.
pub(super) trait Reader {
    /// The matrix that a stored tensor holds the codes of, if it does.
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>>;
}

/// A matrix that was found.
pub(super) struct Found {
    pub name: String,
    pub shape: Vec<u64>,
    pub coded: Coded,
}

impl Found {
    pub fn new(name: String, shape: &[u64], grid: Grid) -> Found {
        let cols = grid.codes.cols;
        Found::of(name, shape, Arc::new(grid), cols)
    }

    /// A matrix of rows of so many columns.
    pub fn of(name: String, shape: &[u64], decode: Arc<dyn Decode>, cols: usize) -> Found {
        let coded = Coded {
            decode,
            cols,
            linear: false,
        };
        let shape = shape.to_vec();
        Found { name, shape, coded }
    }

    /// Rows are outputs, whatever the family's own modules store.
    pub fn of_linear(mut self) -> Found {
        self.coded.linear = true;
        self
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_methods_that_errors_name_are_those_that_are_read() {
        let names: Vec<_> = super::super::METHODS.iter().map(|m| m.0[0]).collect();
        assert_eq!(names.join(", "), super::KNOWN);
    }
}
