//! The operations, each written once: generic over the format and the instruction set.
//!
//! Kernels receive their arguments as a job of checked raw parts, because a product writes a
//! strided column range of its output. `api` builds every job and does the checking.

pub(crate) mod decode;
#[cfg(target_arch = "aarch64")]
pub(crate) mod eights;
pub(crate) mod fill;
pub(crate) mod float;
pub(crate) mod fours;
#[cfg(target_arch = "x86_64")]
pub(crate) mod groups;
pub(crate) mod multiply;
pub(crate) mod peak;
pub(crate) mod sparse;
pub(crate) mod tile;
pub(crate) mod unpack;

use crate::layout::ActShape;
use crate::panel::IntPanel;

/// How far ahead of the weights being multiplied memory is asked for: two pages, because hardware
/// prefetchers stop at the end of a page (measured on Zen 4: cold Q4_0 decode 20.7 instead of
/// 15.6 GB/s on one thread; nearer, or into the first-level cache, is no better than nothing).
pub(crate) const AHEAD: usize = 8192;

/// Few tokens: rows straight from the file.
pub(crate) struct DecodeJob {
    /// `[rows][row_bytes]`
    pub weights: *const u8,
    pub row_bytes: usize,
    pub rows: usize,
    pub cols: usize,
    /// One tile per token, *rows* layout.
    pub acts: *const u8,
    pub tile_bytes: usize,
    /// `[tokens][stride]`, of which `rows` columns are written.
    pub out: *mut f32,
    pub stride: usize,
}

/// Decode a block of `rows` x `cols` weights into a panel.
pub(crate) struct UnpackJob {
    /// First weight of the block; rows are `row_bytes` apart.
    pub weights: *const u8,
    pub row_bytes: usize,
    /// Where in its row the block begins.
    pub first_byte: usize,
    pub rows: usize,
    pub cols: usize,
    /// The layout of `codes`, if the format is an integer one.
    pub panel: IntPanel,
    /// Integer formats: `[cols / 32]` groups of 16 rows, dealt to lanes. Float formats: `[cols][rows]` F32,
    /// columns dealt to lanes.
    pub codes: *mut u8,
    /// `[cols / group][16 rows]`
    pub scales: *mut f32,
    /// Like `scales`, for formats that have minimums.
    pub mins: *mut f32,
    /// Integer formats: room for an incomplete unit of each of 16 rows, [`unpack::TAIL`] bytes apart, and
    /// for a group of them.
    pub tails: *mut u8,
}

/// Multiply a panel with all tiles.
pub(crate) struct MultiplyJob {
    pub codes: *const u8,
    pub scales: *const f32,
    pub mins: *const f32,
    pub rows: usize,
    pub cols: usize,
    /// Column of the activations where the panel starts. If it is not 0, results are added.
    pub first_col: usize,
    pub acts: *const u8,
    pub tile_bytes: usize,
    pub tile_tokens: usize,
    pub tokens: usize,
    /// `[tokens][stride]`, of which `rows` columns are written.
    pub out: *mut f32,
    pub stride: usize,
    /// Bytes to bring into the cache meanwhile: the next panel's weights. Any address is allowed.
    pub next: *const u8,
    pub next_bytes: usize,
}

/// Quantize and pack one tile.
pub(crate) struct FillJob<'a> {
    pub shape: ActShape,
    pub tokens: usize,
    /// `[tokens][cols]`
    pub x: &'a [f32],
    pub tile: &'a mut [u8],
}

/// Repeats a block with `$i` = 0, 1, ... as constants, so that arrays indexed by it live in
/// registers. `$n` must be at most the literal bound.
macro_rules! unroll {
    ($i:ident < $n:expr, max 2, $body:block) => {
        crate::ops::unroll!(@ $i, $n, $body, 0 1)
    };
    ($i:ident < $n:expr, max 4, $body:block) => {
        crate::ops::unroll!(@ $i, $n, $body, 0 1 2 3)
    };
    ($i:ident < $n:expr, max 8, $body:block) => {
        crate::ops::unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7)
    };
    ($i:ident < $n:expr, max 16, $body:block) => {
        crate::ops::unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident, $n:expr, $body:block, $($k:literal)*) => {
        $( { if const { $k < $n } { let $i: usize = $k; $body } } )*
    };
}
pub(crate) use unroll;
