//! Calibration: what the columns of each weight matrix are multiplied with on a text.
//!
//! ```text
//! ids of the text -> chunks of `chunk` tokens, an incomplete last one dropped
//! each chunk from an empty cache through the layers: sums of squares (and products) of every input
//! sums -> an importance matrix file that llama.cpp's tools read as well
//! ```
//! A file after some of the chunks is a complete file of those; it can be continued, and then ends
//! as the same bytes.

mod entry;
mod imatrix;
mod legacy;

use std::path::Path;

pub use imatrix::unit_power;
pub use imatrix::{Covariance, Imatrix, Origin, write};

use crate::error::{Error, Result};
use crate::model::inputs::InputStats;
use crate::session::Session;

/// The chunks that a text is cut into.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    /// Ids of the whole text.
    pub ids: &'a [u32],
    /// Tokens of a chunk.
    pub size: usize,
    /// Chunks to use.
    pub count: usize,
    /// Replaces the first token of each chunk (models that want a bos).
    pub bos: Option<u32>,
}

impl<'a> Chunks<'a> {
    /// Cuts `ids`; `most` limits the number of chunks.
    ///
    /// # Errors
    /// [`Error::Request`] for a size of 0 or a text shorter than a chunk.
    pub fn new(
        ids: &'a [u32],
        size: usize,
        most: Option<usize>,
        bos: Option<u32>,
    ) -> Result<Chunks<'a>> {
        let count = ids.len().checked_div(size).unwrap_or(0);
        if count == 0 {
            return Err(Error::Request {
                what: "calibration text".into(),
                value: format!("{} tokens in chunks of {size}", ids.len()),
                allowed: "at least one complete chunk".into(),
            });
        }
        let count = count.min(most.unwrap_or(usize::MAX));
        Ok(Chunks {
            ids,
            size,
            count,
            bos,
        })
    }
}

/// Adds the chunks from `first` on to `stats`. `keep_on(done)` is called after each; its `false`
/// ends the work. Returns the number of chunks in the sums.
///
/// # Errors
/// As [`Session::observe`]; [`Error::NonFinite`] naming the tensor.
pub fn collect(
    session: &mut Session,
    chunks: &Chunks<'_>,
    first: usize,
    stats: &mut InputStats,
    keep_on: &mut dyn FnMut(usize, &InputStats) -> Result<bool>,
) -> Result<usize> {
    let parts = chunks.ids.chunks_exact(chunks.size).take(chunks.count);
    for (done, part) in parts.enumerate().skip(first) {
        let mut part = part.to_vec();
        if let (Some(bos), Some(id)) = (chunks.bos, part.first_mut()) {
            *id = bos;
        }
        session.observe(&part, stats)?;
        stats.end_chunk()?;
        if !keep_on(done + 1, stats)? {
            return Ok(done + 1);
        }
    }
    Ok(chunks.count)
}

/// Continues `stats` from an unfinished file of the same text, model and chunks; returns the chunks
/// that are in it.
///
/// # Errors
/// [`Error::Imatrix`] naming what differs.
pub fn resume(file: &Path, origin: &Origin, stats: &mut InputStats) -> Result<usize> {
    let old = Imatrix::open(file)?;
    old.restore(origin, stats)
}
