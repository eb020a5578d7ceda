//! How keys and values lie in memory, for every type of the KV cache.
//!
//! A head's keys are blocks of [`BLOCK`] positions, and so are its values. A block is a matrix
//! that attention multiplies as it is, so nothing is transposed when it is read:
//!
//! ```text
//!          keys                                values
//! F32/F16  [width][BLOCK]                      [BLOCK][width]
//! Q8_0     scales F32 [width / 32][BLOCK]      the same
//!          codes [width / 4][BLOCK][4]         codes [BLOCK][width]
//! ```
//! `width` is the head size rounded up to 16 (F32, F16) or 32 (Q8_0); the columns past the head
//! size are zero. Blocks lie in pages, which sequences share: the block of position `p` is in page
//! `pages[p / BLOCK]`, at the same place in every page. Codes of keys are stored as the level's dot
//! product wants them (plus 128 where weights are unsigned), so a cache is read by the level that wrote it.

use crate::isa::Isa;
use crate::layout::GROUP;
use crate::numeric::to_f16;
use crate::ops::fill::quantize_group;

use super::LANES;

/// Positions per block; blocks start at multiples of it, whatever the batch.
pub const BLOCK: usize = 64;

/// Element type of the KV cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvType {
    /// 4 bytes per element.
    F32,
    /// 2 bytes per element.
    F16,
    /// 8-bit codes with an F32 scale per 32 elements of a head: 1.125 bytes per element. Codes
    /// are those of activations (`layout.rs`); a group with a NaN or an infinity reads as NaN.
    Q8_0,
}

impl KvType {
    /// The name used on command lines.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }
}

/// Type and head size: all that the layout of a block depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    kv: KvType,
    head_size: usize,
}

impl KvShape {
    /// Blocks of heads of `head_size` elements.
    pub fn new(kv: KvType, head_size: usize) -> KvShape {
        KvShape { kv, head_size }
    }

    /// Element type.
    pub fn kv(&self) -> KvType {
        self.kv
    }

    /// Elements of a head.
    pub fn head_size(&self) -> usize {
        self.head_size
    }

    /// Elements of a head as stored.
    pub fn width(&self) -> usize {
        self.head_size.next_multiple_of(match self.kv {
            KvType::F32 | KvType::F16 => LANES,
            KvType::Q8_0 => GROUP,
        })
    }

    /// Bytes of the scales of a block.
    pub(crate) fn scale_bytes(&self) -> usize {
        match self.kv {
            KvType::F32 | KvType::F16 => 0,
            KvType::Q8_0 => self.width() / GROUP * BLOCK * 4,
        }
    }

    /// Bytes of one element, scales aside.
    pub(crate) fn element_bytes(&self) -> usize {
        match self.kv {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        }
    }

    /// Bytes of the keys, or of the values, of one block; a multiple of 64.
    pub fn block_bytes(&self) -> usize {
        self.scale_bytes() + BLOCK * self.width() * self.element_bytes()
    }
}

/// Keys and values of one KV head of one sequence.
#[derive(Clone, Copy)]
pub struct KvHead<'a> {
    pub(crate) shape: KvShape,
    slab: &'a [u8],
    pages: &'a [u32],
    page_bytes: usize,
    at: usize,
}

impl<'a> KvHead<'a> {
    /// The head whose keys lie `at` bytes into each page of `page_bytes`, its values behind them. `slab`: all
    /// pages; `pages`: for each block of positions the number of its page.
    ///
    /// # Panics
    /// If its blocks are not inside a page: a bug of the caller.
    pub fn new(
        shape: KvShape,
        slab: &'a [u8],
        pages: &'a [u32],
        page_bytes: usize,
        at: usize,
    ) -> KvHead<'a> {
        assert!(
            at + 2 * shape.block_bytes() <= page_bytes,
            "KV head: outside of its page"
        );
        KvHead {
            shape,
            slab,
            pages,
            page_bytes,
            at,
        }
    }

    /// The block of keys that holds position `position`.
    #[inline(always)]
    pub(crate) fn keys(&self, position: usize) -> &'a [u8] {
        self.block(position, 0)
    }

    /// The block of values that holds position `position`.
    #[inline(always)]
    pub(crate) fn values(&self, position: usize) -> &'a [u8] {
        self.block(position, self.shape.block_bytes())
    }

    /// Panics where a page is none of the slab.
    #[inline(always)]
    fn block(&self, position: usize, behind: usize) -> &'a [u8] {
        let page = self.pages[position / BLOCK] as usize;
        &self.slab[page * self.page_bytes + self.at + behind..][..self.shape.block_bytes()]
    }
}

/// Keys are stored by column, values by row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvSide {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// Rows of one head on their way into the cache.
#[derive(Clone, Copy)]
pub struct KvRows<'a> {
    /// One row per token, `stride` apart, starting at the head's first element.
    pub x: &'a [f32],
    /// Floats from one token's row to the next one's.
    pub stride: usize,
    /// Tokens.
    pub tokens: usize,
    /// Slot of the first token in the block: its position modulo [`BLOCK`].
    pub slot: usize,
}

/// Stores rows of one head. `block`: [`KvShape::block_bytes`], aligned to four bytes.
#[inline(always)]
pub(crate) fn store<I: Isa>(
    isa: I,
    shape: KvShape,
    side: KvSide,
    rows: KvRows<'_>,
    block: &mut [u8],
) {
    let (d, width) = (shape.head_size, shape.width());
    for t in 0..rows.tokens {
        let row = &rows.x[t * rows.stride..][..d];
        let j = rows.slot + t;
        match shape.kv {
            KvType::F32 => put(bytemuck::cast_slice_mut(block), side, j, width, row, |v| v),
            KvType::F16 => put(bytemuck::cast_slice_mut(block), side, j, width, row, to_f16),
            KvType::Q8_0 => {
                let (scales, codes) = block.split_at_mut(shape.scale_bytes());
                put_codes(isa, side, j, row, bytemuck::cast_slice_mut(scales), codes);
            }
        }
    }
}

#[inline(always)]
fn put<T>(
    block: &mut [T],
    side: KvSide,
    j: usize,
    width: usize,
    row: &[f32],
    narrow: impl Fn(f32) -> T,
) {
    match side {
        KvSide::Keys => {
            for (o, v) in block[j..].iter_mut().step_by(BLOCK).zip(row) {
                *o = narrow(*v);
            }
        }
        KvSide::Values => {
            for (o, v) in block[j * width..].iter_mut().zip(row) {
                *o = narrow(*v);
            }
        }
    }
}

#[inline(always)]
fn put_codes<I: Isa>(
    isa: I,
    side: KvSide,
    j: usize,
    row: &[f32],
    scales: &mut [f32],
    codes: &mut [u8],
) {
    let width = scales.len() / BLOCK * GROUP;
    let bias = if I::UNSIGNED_WEIGHTS { 128u8 } else { 0 };
    for (g, x) in row.chunks(GROUP).enumerate() {
        let mut padded = [0f32; GROUP];
        padded[..x.len()].copy_from_slice(x);
        let q = quantize_group(isa, &padded);
        scales[g * BLOCK + j] = q.scale;
        let bytes: &[u8; GROUP] = bytemuck::cast_ref(&q.codes);
        match side {
            KvSide::Keys => {
                for (k, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
                    let at = ((g * GROUP / 4 + k) * BLOCK + j) * 4;
                    codes[at..at + 4].copy_from_slice(&four.map(|c| c.wrapping_add(bias)));
                }
            }
            KvSide::Values => {
                let at = j * width + g * GROUP;
                codes[at..at + GROUP].copy_from_slice(bytes);
            }
        }
    }
}
