//! What a core can do at most at a level: loops of nothing but the operation in question. They are
//! the limits that speeds of products are compared with.

use core::hint::black_box;

use super::AHEAD;
use crate::isa::Isa;

/// Independent chains of operations, enough to hide the latency of every dot product.
const CHAINS: usize = 12;

/// Dot products of 8-bit integers; returns the operations done (a product and a sum are two).
///
/// # Safety
/// The features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn int8<I: Isa>(isa: I, steps: usize) -> u64 {
    let bytes = black_box([1u8; 128]);
    // SAFETY: 64 bytes are a weights vector; broadcasts read four bytes each, below 4 * 28.
    unsafe {
        let weights = isa.load_weights(bytes.as_ptr());
        let mut acc = [isa.zero_row_ints(); CHAINS];
        for step in 0..steps {
            // Other activations in every step and chain: otherwise a level without a dot
            // instruction would multiply only once.
            let x = bytes.as_ptr().add(4 * (step % 16));
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = isa.dot_rows(*acc, weights, x.add(4 * i));
            }
        }
        black_box(&acc);
    }
    (steps * CHAINS * I::ROWS * 8) as u64
}

/// F32 multiply-adds; returns the operations done (a multiply-add is two).
///
/// # Safety
/// The features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn f32<I: Isa>(isa: I, steps: usize) -> u64 {
    let ones = black_box([1f32; 16]);
    // SAFETY: 16 values are at least a vector of rows.
    unsafe {
        let one = isa.load_rows(ones.as_ptr());
        let mut acc = [isa.zero_rows(); CHAINS];
        for _ in 0..steps {
            for acc in &mut acc {
                *acc = isa.fma_rows(*acc, one, one);
            }
        }
        black_box(&acc);
    }
    (steps * CHAINS * I::ROWS * 2) as u64
}

/// Reads every byte once.
///
/// # Safety
/// The features of `I` must be enabled in the caller.
#[inline(always)]
pub(crate) unsafe fn read<I: Isa>(isa: I, bytes: &[u8]) {
    let mut acc = [isa.zero_lanes(); 4];
    for lines in bytes.as_chunks::<256>().0 {
        let p = lines.as_ptr();
        isa.prefetch(p.wrapping_add(AHEAD), lines.len());
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: four times 64 bytes are the 256 of the chunk.
            unsafe {
                let v = isa.load_lanes(p.add(64 * i).cast());
                *acc = isa.fma_lanes(*acc, v, v);
            }
        }
    }
    black_box(&acc);
}

/// BF16 dot products; returns the operations done.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn bf16(steps: usize) -> u64 {
    use core::arch::x86_64::*;
    let one = black_box(_mm512_set1_epi32(0x3f80_3f80));
    // SAFETY: any 64 bytes are 32 BF16 values.
    let one = unsafe { core::mem::transmute::<__m512i, __m512bh>(one) };
    let mut acc = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..steps {
        for acc in &mut acc {
            *acc = _mm512_dpbf16_ps(*acc, one, one);
        }
    }
    black_box(acc);
    (steps * CHAINS * 64) as u64
}
