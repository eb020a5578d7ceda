//! Weight formats: where codes, scales and minimums lie in a block, and how blocks are made. No
//! intrinsics; a format is written in terms of [`Isa`] operations.
//!
//! A quantized weight is `scale * (code - OFFSET)`, plus a minimum in some formats. Kernels walk
//! rows in *units* of 256 weights: eight blocks of 32, or one K-quant super-block. A unit has
//! eight groups of 32; if every 16 weights have a scale, a group has two.
//!
//! Layouts are facts of the GGUF format (`ggml-common.h`, PyPI `gguf` 0.19 `quants.py`).

use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::from_f16;
use search::Search;

/// An array of a value for each index. Unlike `core::array::from_fn` always inlined, so that the code is
/// compiled with the features of the level.
macro_rules! array {
    ($n:literal, $k:ident => $value:expr) => {{
        let mut out = [Default::default(); $n];
        for $k in 0..$n {
            out[$k] = $value;
        }
        out
    }};
}

pub(crate) mod encode;
pub(crate) mod float;
pub(crate) mod grid;
pub(crate) mod k23;
pub(crate) mod k45;
pub(crate) mod k6;
pub(crate) mod q4;
pub(crate) mod q5;
pub(crate) mod q8;
pub(crate) mod search;
pub(crate) mod single;
pub(crate) mod small;
pub(crate) mod sparse;
pub(crate) mod table;

/// What every format has.
pub(crate) trait Blocks: Copy + 'static {
    const DTYPE: Dtype;
    /// Whether `quantize` is there.
    const WRITES: bool = true;

    /// Encodes whole blocks. The importance, if given, is that of a row of whole blocks, and `x` are
    /// whole rows. Lengths agree.
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        let _ = (x, search, out);
        unreachable!("{} has no encoder", Self::DTYPE);
    }
}

/// How the stored codes are to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Two's complement, -128..=127.
    Signed,
    /// 0..=127; the weight is `scale * (code - offset)`.
    Small { offset: u8 },
}

impl Codes {
    /// The stored code of weight zero.
    pub const fn offset(self) -> u8 {
        match self {
            Self::Signed => 0,
            Self::Small { offset } => offset,
        }
    }
}

/// Where the codes of half a unit lie in the two vectors that [`QuantFormat::vector`] gives for it: what
/// four neighbouring bytes of a vector are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first vector has the first 16 weights of each of the four groups, the second the last 16.
    Halves,
    /// The first vector has groups 0 and 2, the second groups 1 and 3.
    EveryOther,
    /// The first vector has groups 0 and 1, the second groups 2 and 3.
    Whole,
}

impl Order {
    /// Group of the four, and column of the eight of four weights each, of bytes `4i..4i + 4` of `vector`.
    #[inline(always)]
    pub const fn column(self, vector: usize, i: usize) -> (usize, usize) {
        match self {
            Self::Halves => (i / 4, 4 * vector + i % 4),
            Self::EveryOther => (i / 8 * 2 + vector, i % 8),
            Self::Whole => (2 * vector + i / 8, i % 8),
        }
    }
}

/// A format of integer codes with a scale per group of weights.
pub(crate) trait QuantFormat: Blocks {
    /// Bytes of a unit of 256 weights.
    const UNIT_BYTES: usize = 256 / Self::DTYPE.block_len() * Self::DTYPE.block_bytes();
    const CODES: Codes;
    /// Weights per scale: 32, or 16 (then `CODES` must be small).
    const GROUP: usize = 32;
    /// Whether each group has a minimum that is added to its weights.
    const MINS: bool = false;

    /// Codes of groups `4 * HALF ..` of the unit at `p`: the first 16 weights of each of the four
    /// groups, and the last 16 of each.
    ///
    /// # Safety
    /// `p` must be valid for `UNIT_BYTES`.
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes);

    /// How [`vector`](Self::vector) orders codes.
    const ORDER: Order = Order::Halves;
    /// Whether each byte holds two codes: then there is only the first `vector`, and
    /// [`split`](Self::split) makes two of it. Rows are transposed in between, which is half the work.
    const PACKED: bool = false;

    /// The codes of half a unit as two vectors, in the order that costs least.
    ///
    /// # Safety
    /// As for `codes`.
    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        // SAFETY: as for this method.
        let (low, high) = unsafe { Self::codes::<I, HALF>(isa, p) };
        if VECTOR == 0 { low } else { high }
    }

    /// The two codes of each byte.
    #[inline(always)]
    fn split<I: Isa>(isa: I, packed: I::Bytes) -> [I::Bytes; 2] {
        let _ = isa;
        [packed; 2]
    }

    /// Scales of the unit at `p`: those of the first 16 weights of each group, and of the last 16.
    ///
    /// # Safety
    /// As for `codes`.
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight);

    /// The minimums of the unit at `p`, like `scales`; only called if `MINS`.
    ///
    /// # Safety
    /// As for `codes`.
    unsafe fn mins<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        let _ = p;
        (isa.zero_eight(), isa.zero_eight())
    }
}

/// A format of plain numbers.
pub(crate) trait FloatFormat: Blocks {
    const BYTES: usize = Self::DTYPE.block_bytes();

    /// 16 numbers as F32.
    ///
    /// # Safety
    /// `p` must be valid for `16 * BYTES`.
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes;

    /// Decodes numbers. Lengths agree.
    fn dequantize(bytes: &[u8], out: &mut [f32]);
}

/// `N` bytes at `p`.
///
/// # Safety
/// `p` must be valid for `N` bytes.
#[inline(always)]
unsafe fn read<const N: usize>(p: *const u8) -> [u8; N] {
    // SAFETY: byte arrays have no alignment; a format reads inside its unit.
    unsafe { p.cast::<[u8; N]>().read() }
}

/// The F16 at `p`, widened.
///
/// # Safety
/// `p` must be valid for two bytes.
#[inline(always)]
unsafe fn half_at(p: *const u8) -> f32 {
    // SAFETY: as for `read`.
    from_f16(u16::from_le_bytes(unsafe { read(p) }))
}

/// Bytes `AT..AT + 16` of blocks `4 * HALF ..` of a unit of eight blocks of `BLOCK` bytes.
///
/// # Safety
/// `p` must be valid for `F::UNIT_BYTES`.
#[inline(always)]
unsafe fn runs<F: QuantFormat, I: Isa, const BLOCK: usize, const AT: usize, const HALF: usize>(
    isa: I,
    p: *const u8,
) -> I::Bytes {
    const { assert!(8 * BLOCK == F::UNIT_BYTES && AT + 16 <= BLOCK && HALF < 2) };
    // SAFETY: the assertion shows that these bytes are in the unit.
    unsafe { isa.load_runs::<BLOCK, AT, HALF>(p) }
}

/// The F16 at byte `AT` of each of the eight blocks of a unit, widened.
///
/// # Safety
/// `p` must be valid for `F::UNIT_BYTES`.
#[inline(always)]
unsafe fn gather<F: QuantFormat, I: Isa, const BLOCK: usize, const AT: usize>(
    isa: I,
    p: *const u8,
) -> I::Eight {
    const { assert!(8 * BLOCK == F::UNIT_BYTES && AT + 2 <= BLOCK) };
    // SAFETY: the assertion shows that these bytes are in the unit.
    unsafe { isa.gather_f16::<BLOCK, AT>(p) }
}

/// The same scales for the first and the last 16 weights of each group.
#[inline(always)]
fn both<T: Copy>(eight: T) -> (T, T) {
    (eight, eight)
}

/// `sixteen` numbers, one for every 16 weights in the order of the weights.
#[inline(always)]
fn sixteen<I: Isa>(isa: I, v: [f32; 16]) -> (I::Eight, I::Eight) {
    let even: [f32; 8] = array!(8, g => v[2 * g]);
    let odd: [f32; 8] = array!(8, g => v[2 * g + 1]);
    // SAFETY: eight values each.
    unsafe { (isa.load_eight(even.as_ptr()), isa.load_eight(odd.as_ptr())) }
}

/// Eight numbers, one for every group of 32.
#[inline(always)]
fn eight<I: Isa>(isa: I, v: [f32; 8]) -> (I::Eight, I::Eight) {
    // SAFETY: eight values.
    both(unsafe { isa.load_eight(v.as_ptr()) })
}

/// 128 codes in the order of the weights, as `QuantFormat::codes` wants them.
#[inline(always)]
fn in_order<I: Isa>(isa: I, codes: &[u8; 128]) -> (I::Bytes, I::Bytes) {
    let p = codes.as_ptr();
    // SAFETY: the last byte read is byte 16 + 96 + 15 of 128.
    unsafe {
        (
            isa.load_at(p, [0, 32, 64, 96]),
            isa.load_at(p.add(16), [0, 32, 64, 96]),
        )
    }
}
