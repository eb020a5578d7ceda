//! Pieces of AVX-512 for entries of grids and the masks of their signs.

use core::arch::x86_64::*;

use super::x86_parts::simd;

/// 64 bytes at `p + at`.
///
/// # Safety
/// Needs AVX-512 F; they must be readable.
#[inline(always)]
unsafe fn part(p: *const u8, at: usize) -> __m512i {
    simd! { _mm512_loadu_si512(p.add(at).cast()) }
}

/// Bytes of `table` at 64 places with the given low eight bits, and as ninth bits those of `ninth`.
///
/// # Safety
/// Needs AVX-512 VBMI.
#[inline(always)]
pub(super) unsafe fn fields<const N: usize>(
    table: &[u8; N],
    places: __m512i,
    ninth: u64,
) -> __m512i {
    const { assert!(N == 256 || N == 512) };
    let p = table.as_ptr();
    // A permutation looks at seven bits of a place; 64 bytes at each multiple of 64 below `N` are the table.
    simd! {
        let eighth = _mm512_movepi8_mask(places);
        let a = _mm512_permutex2var_epi8(part(p, 0), places, part(p, 64));
        let b = _mm512_permutex2var_epi8(part(p, 128), places, part(p, 192));
        let low = _mm512_mask_blend_epi8(eighth, a, b);
        if const { N == 256 } {
            return low;
        }
        let a = _mm512_permutex2var_epi8(part(p, 256), places, part(p, 320));
        let b = _mm512_permutex2var_epi8(part(p, 384), places, part(p, 448));
        _mm512_mask_blend_epi8(ninth, low, _mm512_mask_blend_epi8(eighth, a, b))
    }
}

/// The order in which low and high bytes of 64 entries become words of four entries: those of places
/// `32 * HALF ..`, of every eight the first and second, fifth and sixth, then the third and fourth, seventh and
/// eighth. The first two of all words are then those that [`Isa::fours`] gives first.
pub(super) const fn pairs_of<const HALF: usize>() -> [u8; 64] {
    let (mut order, mut k) = ([0; 64], 0);
    while k < 64 {
        let (word, entry) = (k / 8, k / 2 % 4);
        let place = 32 * HALF + word / 2 * 8 + word % 2 * 2 + entry / 2 * 4 + entry % 2;
        order[k] = (place + 64 * (k % 2)) as u8;
        k += 1;
    }
    order
}

/// An eighth bit for those of 16 numbers that have an odd number of bits.
pub(super) static ODD: [u8; 16] = {
    let (mut odd, mut k) = ([0; 16], 0usize);
    while k < 16 {
        odd[k] = (k.count_ones() as u8 & 1) << 7;
        k += 1;
    }
    odd
};

/// Where bits for the first (or the last) 16 bytes of each of four groups of 32 lie: `GROUP` bytes hold those of a
/// group, half of them those of 16 bytes, and `EIGHT` those of eight.
const fn bytes_of_runs<const GROUP: usize, const EIGHT: usize, const LAST: usize>() -> [u8; 64] {
    let (mut from, mut k) = ([0; 64], 0);
    while k < 64 {
        from[k] = (GROUP * (k / 16) + GROUP / 2 * LAST + EIGHT * (k / 8 % 2)) as u8;
        k += 1;
    }
    from
}

/// These bits for each byte, which are places `bits` of what lies there.
///
/// # Safety
/// Needs AVX-512 BW and VBMI.
#[inline(always)]
pub(super) unsafe fn run_bits<const GROUP: usize, const EIGHT: usize, const LAST: usize>(
    all: __m512i,
    bits: __m512i,
) -> u64 {
    let from = const { &bytes_of_runs::<GROUP, EIGHT, LAST>() };
    simd! {
        let copies = _mm512_permutexvar_epi8(_mm512_loadu_si512(from.as_ptr().cast()), all);
        _mm512_test_epi8_mask(copies, bits)
    }
}

/// Every bit of a byte, for one of eight bytes each.
///
/// # Safety
/// Needs AVX-512 F.
#[inline(always)]
pub(super) unsafe fn each_bit() -> __m512i {
    simd! { _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64) }
}
