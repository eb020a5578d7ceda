//! Q8_0: an F16 scale and 32 signed bytes.

use super::encode::truncate;
use super::search::{self, Batch, Encode, Integers, Lanes, Search};
use super::{Blocks, Codes, Order, QuantFormat, both, gather, runs};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::isa::wide::Vector;
use crate::numeric::{max_key, to_f16};

const BLOCK: usize = 32;
const BYTES: usize = 2 + BLOCK;
const _: () = assert!(BYTES == Dtype::Q8_0.block_bytes() && BLOCK == Dtype::Q8_0.block_len());

/// 8 bits, one scale.
#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

/// Rounds half away from zero, as C's `roundf`. Adding the number just below one half keeps
/// 0.49999997 from becoming 1.
#[inline(always)]
fn round_away(v: f32) -> i8 {
    truncate(v + 0.499_999_97f32.copysign(v)) as i8
}

impl Blocks for Q8_0 {
    const DTYPE: Dtype = Dtype::Q8_0;

    #[inline(always)]
    fn quantize<V: Vector>(x: &[f32], search: Search, out: &mut [u8]) {
        if !search.is_formula() {
            return search::blocks::<Self, V, BLOCK, BYTES>(x, search, out);
        }
        let blocks = out.as_chunks_mut::<BYTES>().0;
        for (x, b) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let most = max_key(x, |v| v.to_bits() & 0x7fff_ffff);
            let d = f32::from_bits(most) / 127.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            for (c, v) in b[2..].iter_mut().zip(x) {
                *c = round_away(v * inverse) as u8;
            }
        }
    }
}

impl Encode<BLOCK, BYTES> for Q8_0 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn encode<V: Vector>(batch: &Batch<BLOCK>, best: bool, blocks: &mut [[u8; BYTES]]) {
        let levels = Integers {
            low: -127,
            high: 127,
        };
        let formula = search::extreme::<V, _>(batch).abs() / V::all(127.0);
        let d = search::single(batch, levels, formula, best);
        let codes = search::encode(batch, d, levels);
        for ((b, codes), d) in blocks.iter_mut().zip(&codes).zip(d.store().0) {
            b[..2].copy_from_slice(&to_f16(d).to_le_bytes());
            for (b, c) in b[2..].iter_mut().zip(codes) {
                *b = c.wrapping_sub(127);
            }
        }
    }
}

impl QuantFormat for Q8_0 {
    const CODES: Codes = Codes::Signed;

    #[inline(always)]
    unsafe fn codes<I: Isa, const HALF: usize>(isa: I, p: *const u8) -> (I::Bytes, I::Bytes) {
        // SAFETY: `p` is valid for a unit.
        unsafe {
            (
                runs::<Self, I, BYTES, 2, HALF>(isa, p),
                runs::<Self, I, BYTES, 18, HALF>(isa, p),
            )
        }
    }

    const ORDER: Order = Order::Whole;

    #[inline(always)]
    unsafe fn vector<I: Isa, const HALF: usize, const VECTOR: usize>(
        isa: I,
        p: *const u8,
    ) -> I::Bytes {
        let at = (4 * HALF + 2 * VECTOR) * BYTES + 2;
        // SAFETY: the codes of two blocks of the unit.
        unsafe { isa.load_at(p, [at, at + 16, at + BYTES, at + BYTES + 16]) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(isa: I, p: *const u8) -> (I::Eight, I::Eight) {
        // SAFETY: `p` is valid for a unit.
        both(unsafe { gather::<Self, I, BYTES, 0>(isa, p) })
    }
}
