//! Shapes of tensors: dimensions, whole blocks and the bytes they take (rules 7 and 8).
//!
//! The one place that computes the size of a tensor, for files read and files planned.

use std::ops::Range;

use geb_kernels::dtype::Dtype;

use super::reader::{Reader, bad};
use crate::error::{Error, Result};
use crate::limits;
use crate::shown::Shown;

/// One tensor of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// GGUF name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Type of the weights.
    pub dtype: Dtype,
    /// Dimensions as stored: the first one is contiguous (`ne[0]`, the row length).
    pub dims: Vec<u64>,
    /// Byte range in the file.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Weights in the tensor.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Row length: the contiguous dimension.
    pub fn cols(&self) -> usize {
        self.dims[0] as usize
    }

    /// Number of rows: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }
}

/// Rules 7 and 8 for what follows the name: (type, dimensions, bytes, offset).
pub(super) fn tensor_entry(r: &mut Reader<'_>, name: &str) -> Result<(Dtype, Vec<u64>, u64, u64)> {
    let n = Shown::name(name);
    let at = r.pos();
    let n_dims = r.u32(7, format_args!("tensor {n}: dimension count"))?;
    check_dim_count(name, n_dims as usize, at)?;
    let mut dims = Vec::with_capacity(n_dims as usize);
    let at = r.pos();
    for _ in 0..n_dims {
        dims.push(r.u64(7, format_args!("tensor {n}: dimension"))?);
    }
    let elements = elements(name, &dims, at)?;
    let at = r.pos();
    let id = r.u32(8, format_args!("tensor {n}: type"))?;
    let dtype = Dtype::from_id(id).map_err(|source| Error::Type {
        tensor: n.to_string(),
        source,
    })?;
    let bytes = byte_size(name, dtype, dims[0], elements, at)?;
    let offset = r.u64(9, format_args!("tensor {n}: offset"))?;
    Ok((dtype, dims, bytes, offset))
}

/// Rules 7 and 8 for a tensor that is only planned: its size in bytes.
pub(super) fn tensor_bytes(name: &str, dtype: Dtype, dims: &[u64], at: usize) -> Result<u64> {
    check_dim_count(name, dims.len(), at)?;
    byte_size(name, dtype, dims[0], elements(name, dims, at)?, at)
}

fn check_dim_count(name: &str, n: usize, at: usize) -> Result<()> {
    if !(1..=limits::MAX_DIMS as usize).contains(&n) {
        return Err(bad(
            7,
            format_args!("tensor {}: dimension count", Shown::name(name)),
            n,
            "1..=4",
            at,
        ));
    }
    Ok(())
}

/// Rule 7: each dimension and their product.
fn elements(name: &str, dims: &[u64], at: usize) -> Result<u64> {
    let mut elements = 1u64;
    for (d, &dim) in dims.iter().enumerate() {
        let at = at + 8 * d;
        if !(1..=limits::MAX_DIM).contains(&dim) {
            return Err(bad(
                7,
                format_args!("tensor {}: dimension {d}", Shown::name(name)),
                dim,
                "1..=2^40",
                at,
            ));
        }
        elements = elements
            .checked_mul(dim)
            .filter(|&n| n <= limits::MAX_ELEMENTS)
            .ok_or_else(|| {
                bad(
                    7,
                    format_args!("tensor {}: element count", Shown::name(name)),
                    "more than 2^48",
                    "at most 2^48",
                    at,
                )
            })?;
    }
    Ok(elements)
}

/// Rule 8: whole blocks, and the size they take. The one place that computes a tensor's size.
fn byte_size(name: &str, dtype: Dtype, row: u64, elements: u64, at: usize) -> Result<u64> {
    let block = dtype.block_len() as u64;
    if !row.is_multiple_of(block) {
        let allowed =
            format_args!("a multiple of {block}, the block length of {dtype}").to_string();
        return Err(bad(
            8,
            format_args!("tensor {}: row length", Shown::name(name)),
            row,
            allowed,
            at,
        ));
    }
    (elements / block)
        .checked_mul(dtype.block_bytes() as u64)
        .ok_or_else(|| {
            bad(
                8,
                format_args!("tensor {}: size", Shown::name(name)),
                "overflow",
                "a size that fits 64 bits",
                at,
            )
        })
}
