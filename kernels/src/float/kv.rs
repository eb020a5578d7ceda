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
//! size are zero. The position `p` lives at slot `p % positions`: a cache with fewer positions
//! than the context is a ring. Codes of keys are stored as the level's dot product wants them
//! (plus 128 where weights are unsigned), so a cache is read by the level that wrote it.

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
    /// are those of activations ([`crate::layout`]); a group with a NaN or an infinity reads as NaN.
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

/// Type, head size and number of positions: all that the layout depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    kv: KvType,
    head_size: usize,
    positions: usize,
}

impl KvShape {
    /// A cache of at least `positions` (rounded up to whole blocks).
    pub fn new(kv: KvType, head_size: usize, positions: usize) -> KvShape {
        KvShape {
            kv,
            head_size,
            positions: positions.next_multiple_of(BLOCK),
        }
    }

    /// Element type.
    pub fn kv(&self) -> KvType {
        self.kv
    }

    /// Elements of a head.
    pub fn head_size(&self) -> usize {
        self.head_size
    }

    /// Positions held, a multiple of [`BLOCK`].
    pub fn positions(&self) -> usize {
        self.positions
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

    fn block_bytes(&self) -> usize {
        self.scale_bytes() + BLOCK * self.width() * self.element_bytes()
    }

    /// Bytes of the keys, or of the values, of one head; a multiple of 64.
    pub fn head_bytes(&self) -> usize {
        self.positions / BLOCK * self.block_bytes()
    }

    /// Bytes of the block that holds position `position`, inside [`head_bytes`](Self::head_bytes).
    pub(crate) fn block(&self, position: usize) -> core::ops::Range<usize> {
        let at = position % self.positions / BLOCK * self.block_bytes();
        at..at + self.block_bytes()
    }
}

/// Keys and values of one KV head.
#[derive(Clone, Copy)]
pub struct KvHead<'a> {
    pub(crate) shape: KvShape,
    pub(crate) keys: &'a [u8],
    pub(crate) values: &'a [u8],
}

impl<'a> KvHead<'a> {
    /// A view of `keys` and `values`, [`KvShape::head_bytes`] each.
    ///
    /// # Panics
    /// If a length differs: a bug of the caller.
    pub fn new(shape: KvShape, keys: &'a [u8], values: &'a [u8]) -> KvHead<'a> {
        assert!(
            keys.len() == shape.head_bytes() && values.len() == shape.head_bytes(),
            "KV head: bytes differ from its shape"
        );
        KvHead {
            shape,
            keys,
            values,
        }
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
    /// Position of the first token.
    pub first: usize,
}

/// Stores the rows of one head. `out`: [`KvShape::head_bytes`], aligned to four bytes.
#[inline(always)]
pub(crate) fn store<I: Isa>(
    isa: I,
    shape: KvShape,
    side: KvSide,
    rows: KvRows<'_>,
    out: &mut [u8],
) {
    let (d, width) = (shape.head_size, shape.width());
    for t in 0..rows.tokens {
        let row = &rows.x[t * rows.stride..][..d];
        let position = rows.first + t;
        let (block, j) = (&mut out[shape.block(position)], position % BLOCK);
        match shape.kv {
            KvType::F32 => put(bytemuck::cast_slice_mut(block), side, j, width, row, |v| v),
            KvType::F16 => {
                put(bytemuck::cast_slice_mut(block), side, j, width, row, to_f16);
            }
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
