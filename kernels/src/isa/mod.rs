//! The few vector operations that the kernels are made of, as a trait over instruction sets.
//!
//! Nothing here knows a weight format. There are two groups of operations, because the two
//! products want different shapes:
//!
//! * *decode* works on 128 weights of one row: 64 + 64 bytes and sixteen 32-bit lanes. Lane `l`
//!   always holds the exact sum over bytes `4l..4l+4`, on every level; `sum_fours` makes one sum per
//!   group of 32 of them.
//! * *panel* works on one vector of rows (16 or 8), each lane an own output.
//!
//! Both add floats in the one order of [`crate::layout`], so results are the same bits everywhere.
//!
//! A value of an `Isa` type is a token: it exists only where the features do.

use crate::layout::{GROUP, UNIT};
use crate::numeric::{from_f16, max_key};

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "aarch64")]
pub(crate) mod matrix;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
pub(crate) mod product;
pub(crate) mod scalar;
pub(crate) mod wide;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_512;
#[cfg(target_arch = "x86_64")]
mod x86_grid;
#[cfg(target_arch = "x86_64")]
mod x86_parts;

/// Bytes that one row of a decoded 256-weight unit takes in the unpacking buffer: per half 64
/// bytes of "first 16 of each group", 64 of "last 16 of each group".
pub(crate) const UNPACKED: usize = UNIT;

/// The number 1 in every 16-bit part of a word.
pub(crate) const EVERY_16: u64 = u64::MAX / 0xffff;

/// `N` entries of four bytes, each one of eight values.
pub(crate) struct Fours<const N: usize> {
    /// Low byte first.
    entries: [u32; N],
    /// The same as fields of three bits, which name `values`: the low eight bits of all, then the high four.
    #[cfg(target_arch = "x86_64")]
    fields: [[u8; N]; 2],
    #[cfg(target_arch = "x86_64")]
    values: [u8; 8],
}

impl<const N: usize> Fours<N> {
    /// Of `N / 2 * 4` bytes with two nibbles each, which name `values`.
    pub(crate) const fn new(packed: &[u8], values: [u8; 8]) -> Self {
        assert!(N.is_power_of_two() && packed.len() == 2 * N);
        let (mut entries, mut fields, mut k) = ([0; N], [[0; N]; 2], 0);
        while k < 4 * N {
            let value = packed[k / 2] >> (4 * (k % 2)) & 15;
            entries[k / 4] |= (values[value as usize] as u32) << (8 * (k % 4));
            let field = (value as u16) << (3 * (k % 4));
            fields[0][k / 4] |= field as u8;
            fields[1][k / 4] |= (field >> 8) as u8;
            k += 1;
        }
        Self {
            entries,
            #[cfg(target_arch = "x86_64")]
            fields,
            #[cfg(target_arch = "x86_64")]
            values,
        }
    }

    /// The entry at `place` modulo `N`.
    #[inline(always)]
    fn entry(&self, place: usize) -> u32 {
        self.entries[place & (N - 1)]
    }
}

/// Where each of eight bytes comes from when as many as a mask has bits are spread over the bits: a
/// shuffle, in which 0x80 makes a zero. The second table is for bytes that lie 8 places later.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static SPREAD: [[[u8; 8]; 256]; 2] = {
    let mut tables = [[[0x80; 8]; 256]; 2];
    let mut mask = 0;
    while mask < 256 {
        let (mut k, mut from) = (0, 0);
        while k < 8 {
            if mask >> k & 1 == 1 {
                tables[0][mask][k] = from;
                tables[1][mask][k] = from + 8;
                from += 1;
            }
            k += 1;
        }
        mask += 1;
    }
    tables
};

/// An instruction set. `load_*` and `store_*` need no alignment.
///
/// # Safety
/// A value may only be made where the features of the instruction set are present, inside a
/// function compiled with them. Pointer arguments must be valid for the stated number of bytes; `format`
/// keeps them inside a unit, `ops` inside a job, whose lengths `api` asserts.
pub(crate) unsafe trait Isa: Copy + 'static {
    /// The dot product multiplies unsigned weights with signed activations, so signed weights
    /// are stored plus 128 and sums start at -128 times the sum of the activations.
    const UNSIGNED_WEIGHTS: bool;
    /// Rows in a panel vector.
    const ROWS: usize;
    /// Whether there is a kernel that reads panels of eights.
    const EIGHTS: bool = false;

    /// Asks for the lines of `n` bytes at `p` to be brought into the second-level cache. Any
    /// address is allowed. Does nothing where it has not been measured to help.
    #[inline(always)]
    fn prefetch(self, p: *const u8, n: usize) {
        let _ = (p, n);
    }

    /// 64 bytes.
    type Bytes: Copy;
    /// 16 I32.
    type Ints: Copy;
    /// 16 F32.
    type Lanes: Copy;
    /// 8 F32.
    type Eight: Copy;

    /// Bytes `AT..AT + 16` of blocks `4 * HALF ..` of the eight blocks of `BLOCK` bytes at `p`. All
    /// bytes of the blocks must be readable.
    unsafe fn load_runs<const BLOCK: usize, const AT: usize, const HALF: usize>(
        self,
        p: *const u8,
    ) -> Self::Bytes;
    /// Four 16-byte runs at the given offsets from `p`.
    unsafe fn load_at(self, p: *const u8, offsets: [usize; 4]) -> Self::Bytes;
    /// Runs of 16 bytes: run `from[i]` becomes run `i`.
    fn pick_runs(self, b: Self::Bytes, from: [usize; 4]) -> Self::Bytes;
    /// Stores 64 bytes.
    unsafe fn store_bytes(self, p: *mut u8, b: Self::Bytes);
    /// Shifts each byte of run `i` left by `by[i]` (right if negative), then keeps the bits of
    /// `mask`, which must be bits that come from the byte itself.
    fn shift_runs(self, b: Self::Bytes, by: [i32; 4], mask: u8) -> Self::Bytes;
    fn or_bytes(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `table[b]` for each byte, all below 16.
    fn lookup(self, table: &[u8; 16], b: Self::Bytes) -> Self::Bytes;
    /// Entries of `grid`, eight bytes each, low ones first, whose places modulo `N` are the 16-bit parts of
    /// `index`: those of the first two parts of every word, and those of the last two.
    #[inline(always)]
    fn eights<const N: usize>(
        self,
        grid: &[u64; N],
        index: [u64; 4],
    ) -> (Self::Bytes, Self::Bytes) {
        const { assert!(N.is_power_of_two()) };
        let mut words = [[0u64; 8]; 2];
        for (part, words) in words.iter_mut().enumerate() {
            for (k, word) in words.iter_mut().enumerate() {
                let place = index[k / 2] >> (32 * part + 16 * (k % 2));
                *word = grid[place as usize & (N - 1)].to_le();
            }
        }
        let (low, high) = (words[0].as_ptr().cast(), words[1].as_ptr().cast());
        let at = [0, 16, 32, 48];
        // SAFETY: 64 bytes each.
        unsafe { (self.load_at(low, at), self.load_at(high, at)) }
    }
    /// Entries of `grid` at places `32 * HALF ..` of 64, of which the byte `k` from `p` on has the low eight
    /// bits, and bit `k` of `ninth` is the ninth (if there are so many entries): those of the first four of
    /// every eight places, and those of the last four. 64 bytes must be readable.
    #[inline(always)]
    unsafe fn fours<const N: usize, const HALF: usize>(
        self,
        grid: &Fours<N>,
        p: *const u8,
        ninth: u64,
    ) -> (Self::Bytes, Self::Bytes) {
        let mut fours = [[0u32; 16]; 2];
        for (part, fours) in fours.iter_mut().enumerate() {
            for (k, four) in fours.iter_mut().enumerate() {
                let at = 32 * HALF + k / 4 * 8 + 4 * part + k % 4;
                // SAFETY: `at < 64`.
                let low = usize::from(unsafe { *p.add(at) });
                *four = grid.entry(low | ((ninth >> at & 1) << 8) as usize).to_le();
            }
        }
        let (low, high) = (fours[0].as_ptr().cast(), fours[1].as_ptr().cast());
        let at = [0, 16, 32, 48];
        // SAFETY: 64 bytes each.
        unsafe { (self.load_at(low, at), self.load_at(high, at)) }
    }
    /// The lowest fields of `BITS` bits each in the parts of `PART` bits, 8 or 16, of a word.
    #[inline(always)]
    fn spread_fields<const BITS: u32, const PART: u32>(self, x: u64) -> u64 {
        const { assert!(BITS <= 8 && (PART == 8 || PART == 16)) };
        // Halves of what lies together go apart, down to single fields.
        let mut fields = 64 / PART;
        let mut x = x & u64::MAX >> (64 - fields * BITS);
        while fields > 1 {
            fields /= 2;
            let every = u64::MAX / ((1 << (fields * PART)) - 1);
            x = (x | x << (fields * (PART - BITS))) & (every * ((1 << (fields * BITS)) - 1));
        }
        x
    }
    /// Of 128 bits, two times sixteen for each of four groups: all first sixteens, and all last ones.
    #[inline(always)]
    fn bits_in_runs(self, [a, b]: [u64; 2]) -> [u64; 2] {
        let [p, q] = [a >> 16, b >> 16];
        [
            a & 0xffff | p & 0xffff_0000 | (b & 0xffff | q & 0xffff_0000) << 32,
            p & 0xffff | p >> 16 & 0xffff_0000 | (q & 0xffff | q >> 16 & 0xffff_0000) << 32,
        ]
    }
    /// The highest bit of each nibble, eight times: those of the first two of every four nibbles, and those of the
    /// last two.
    #[inline(always)]
    fn top_bits(self, nibbles: u64) -> [u64; 2] {
        [nibbles >> 3, nibbles >> 11].map(|x| (x & EVERY_16 | (x & EVERY_16 << 4) << 4) * 0xff)
    }
    /// The upper seven bits of all 16-bit parts of four words, each with its parity as the eighth: those of the
    /// first two parts of every word, and those of the last two.
    #[inline(always)]
    fn with_parity(self, words: [u64; 4]) -> [u64; 2] {
        let mut halves = [0u64; 2];
        for (k, word) in words.into_iter().enumerate() {
            let sevens = word >> 9 & (0x7f * EVERY_16);
            halves[k / 2] |= ((sevens | sevens >> 8) & 0x7f7f_0000_7f7f) << (16 * (k % 2));
        }
        for x in &mut halves {
            // Bits of a neighbour come in from above, but never as far as the lowest bit.
            let mut folded = *x ^ *x >> 4;
            folded ^= folded >> 2;
            folded ^= folded >> 1;
            *x |= (folded & (u64::MAX / 255)) << 7;
        }
        let [p, q] = halves;
        let low = u64::from(u32::MAX);
        [p & low | q << 32, p >> 32 | q & !low]
    }
    /// Byte `k` is `sum` less byte `k`, wrapping, where bit `k` is set.
    fn mirror(self, b: Self::Bytes, bits: u64, sum: u8) -> Self::Bytes;
    /// Adds `k` to each byte whose bit is set, wrapping.
    fn add_where(self, b: Self::Bytes, bits: u64, k: u8) -> Self::Bytes;
    /// Byte `k` is `value` where bit `k` is set, else 0.
    fn spread_bits(self, bits: u64, value: u8) -> Self::Bytes;
    /// Adds `k` to each byte, wrapping.
    fn add_bytes(self, b: Self::Bytes, k: u8) -> Self::Bytes;
    /// The bytes from `p` on, one after the other, where the bits of `mask` are set; zeros elsewhere.
    /// 64 bytes must be readable, whatever the mask.
    #[inline(always)]
    unsafe fn expand(self, mask: u64, p: *const u8) -> Self::Bytes {
        let (mut out, mut from) = ([0u8; 64], 0);
        for (k, out) in out.iter_mut().enumerate() {
            let set = (mask >> k & 1) as u8;
            // SAFETY: at most one more byte than bits before `k`, so within 64; the stores are all of `out`.
            *out = unsafe { *p.add(from) } & 0u8.wrapping_sub(set);
            from += usize::from(set);
        }
        // SAFETY: `out` has 64 bytes.
        unsafe { self.load_at(out.as_ptr(), [0, 16, 32, 48]) }
    }

    fn zero_ints(self) -> Self::Ints;
    /// Sums of four neighbouring lanes each, first `a`'s, then `b`'s, minus the eight I32 at the
    /// `offset` pointer shifted left, as F32. Results must be below 2^24.
    unsafe fn sum_fours(
        self,
        a: Self::Ints,
        b: Self::Ints,
        offset: Option<(*const i32, u32)>,
    ) -> Self::Eight;
    /// Adds products of weights in 0..=127 with the 64 signed bytes at `x`.
    unsafe fn dot_small(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints;
    /// Adds products of signed weights with the 64 signed bytes (-127..=127) at `x`. If
    /// `UNSIGNED_WEIGHTS`, adds products of weights plus 128 instead.
    unsafe fn dot_signed(self, acc: Self::Ints, w: Self::Bytes, x: *const u8) -> Self::Ints;

    fn zero_lanes(self) -> Self::Lanes;
    /// 16 F32.
    unsafe fn load_lanes(self, p: *const f32) -> Self::Lanes;
    /// 16 F16, widened.
    unsafe fn load_lanes_f16(self, p: *const u8) -> Self::Lanes;
    /// 16 BF16, widened.
    unsafe fn load_lanes_bf16(self, p: *const u8) -> Self::Lanes;
    /// 16 signed bytes, widened.
    unsafe fn load_lanes_i8(self, p: *const u8) -> Self::Lanes;
    /// The F32 at `p` in every lane.
    unsafe fn splat_lanes(self, p: *const f32) -> Self::Lanes;
    /// Stores 16 F32.
    unsafe fn store_lanes(self, p: *mut f32, v: Self::Lanes);
    /// `if b > a { b } else { a }`: a NaN in `b` is passed over.
    fn larger_lanes(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `a * b + acc`, rounded once.
    fn fma_lanes(self, acc: Self::Lanes, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Sum of all lanes of both: `e[j] + (v[j] + v[j + 8])`, then halves of 4, 2 and 1.
    fn reduce(self, v: Self::Lanes, e: Self::Eight) -> f32;

    fn zero_eight(self) -> Self::Eight;
    /// 8 F32.
    unsafe fn load_eight(self, p: *const f32) -> Self::Eight;
    /// Stores 8 F32.
    unsafe fn store_eight(self, p: *mut f32, v: Self::Eight);
    /// The F16 at byte `AT` of each of the eight blocks of `BLOCK` bytes at `p`, widened. All
    /// bytes of the blocks must be readable.
    unsafe fn gather_f16<const BLOCK: usize, const AT: usize>(self, p: *const u8) -> Self::Eight;
    /// The first `n` values; zeros, not products with zero, in place of the others.
    #[inline(always)]
    fn keep_eight(self, v: Self::Eight, n: usize) -> Self::Eight {
        let mut values = [0f32; 8];
        // SAFETY: eight values fit.
        unsafe {
            self.store_eight(values.as_mut_ptr(), v);
            values[n..].fill(0.0);
            self.load_eight(values.as_ptr())
        }
    }
    fn splat_eight(self, v: f32) -> Self::Eight;
    /// The F16 at `p`, widened, in every lane.
    #[inline(always)]
    unsafe fn splat_f16(self, p: *const u8) -> Self::Eight {
        // SAFETY: `format` asks for it inside a unit; a byte array has no alignment.
        let half = unsafe { p.cast::<[u8; 2]>().read() };
        self.splat_eight(from_f16(u16::from_le_bytes(half)))
    }
    fn mul_eight(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// `a * b + acc`, rounded once.
    fn fma_eight(self, acc: Self::Eight, a: Self::Eight, b: Self::Eight) -> Self::Eight;

    /// `ROWS` x 4 weight bytes.
    type Weights: Copy;
    /// `ROWS` I32.
    type RowInts: Copy;
    /// `ROWS` F32.
    type RowFloats: Copy;

    unsafe fn load_weights(self, p: *const u8) -> Self::Weights;
    fn zero_row_ints(self) -> Self::RowInts;
    /// The I32 at `p` in every lane.
    unsafe fn splat_int(self, p: *const u8) -> Self::RowInts;
    /// `ROWS` I32.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_row_ints(self, p: *const i32) -> Self::RowInts;
    fn sub_row_ints(self, a: Self::RowInts, b: Self::RowInts) -> Self::RowInts;
    /// Adds to each row the product of its four weights with the four bytes at `x`.
    unsafe fn dot_rows(self, acc: Self::RowInts, w: Self::Weights, x: *const u8) -> Self::RowInts;
    fn to_floats(self, v: Self::RowInts) -> Self::RowFloats;
    fn zero_rows(self) -> Self::RowFloats;
    unsafe fn load_rows(self, p: *const f32) -> Self::RowFloats;
    unsafe fn store_rows(self, p: *mut f32, v: Self::RowFloats);
    /// The F32 at `p` in every lane.
    unsafe fn splat_row(self, p: *const u8) -> Self::RowFloats;
    fn sub_rows(self, a: Self::RowFloats, b: Self::RowFloats) -> Self::RowFloats;
    fn add_rows(self, a: Self::RowFloats, b: Self::RowFloats) -> Self::RowFloats;
    fn mul_rows(self, a: Self::RowFloats, b: Self::RowFloats) -> Self::RowFloats;
    fn fma_rows(
        self,
        acc: Self::RowFloats,
        a: Self::RowFloats,
        b: Self::RowFloats,
    ) -> Self::RowFloats;

    /// Eight signed bytes as F32.
    #[inline(always)]
    fn widen(self, v: [u8; 8]) -> Self::Eight {
        let mut wide = [0.0; 8];
        for j in 0..8 {
            wide[j] = f32::from(v[j] as i8);
        }
        // SAFETY: eight values.
        unsafe { self.load_eight(wide.as_ptr()) }
    }

    /// Sixteen signed bytes as F32: those at even places, those at odd places.
    #[inline(always)]
    fn widen_pairs(self, v: [u8; 16]) -> (Self::Eight, Self::Eight) {
        let (mut even, mut odd) = ([0; 8], [0; 8]);
        for j in 0..8 {
            (even[j], odd[j]) = (v[2 * j], v[2 * j + 1]);
        }
        (self.widen(even), self.widen(odd))
    }

    /// The largest magnitude among 32 values, as bits.
    #[inline(always)]
    fn max_abs(self, x: &[f32; GROUP]) -> u32 {
        max_key(x, |v| v.to_bits() & 0x7fff_ffff)
    }

    /// `x * inverse` rounded to integers, ties to even; the results must fit -127..=127.
    #[inline(always)]
    fn codes(self, x: &[f32; GROUP], inverse: f32) -> [i8; GROUP] {
        // Adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then hold.
        x.map(|v| (v * inverse + 12_582_912.0).to_bits() as i8)
    }

    /// Sums of four neighbouring codes each.
    #[inline(always)]
    fn sums(self, codes: &[i8; GROUP]) -> [i32; 8] {
        let mut sums = [0; 8];
        for (s, c) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
            *s = c.iter().map(|&c| i32::from(c)).sum();
        }
        sums
    }

    /// Transposes four rows of four columns of four bytes in each run of 16 bytes: run `q` of the result `j`
    /// is column `j` of the rows' runs `q`.
    fn transpose_in_runs(self, rows: [Self::Bytes; 4]) -> [Self::Bytes; 4];
    /// Transposes runs of 16 bytes: run `r` of the result `q` is run `q` of row `r`.
    fn transpose_runs(self, rows: [Self::Bytes; 4]) -> [Self::Bytes; 4];
    /// Four bytes of `a`, four of `b`, and so on: the first 64, then the last. Where [`EIGHTS`](Self::EIGHTS).
    #[inline(always)]
    fn zip_fours(self, a: Self::Bytes, b: Self::Bytes) -> [Self::Bytes; 2] {
        [a, b]
    }

    /// Transposes `[16][8]` F32: column `g` below `groups` goes to place `at[g]` of `[..][16]`.
    #[inline(always)]
    unsafe fn transpose_eights(
        self,
        from: *const f32,
        to: *mut f32,
        groups: usize,
        at: &[usize; 8],
    ) {
        for g in 0..groups {
            for r in 0..16 {
                // SAFETY: the buffers of `ops` have 16 rows of eight values; `Deal` gives places
                // below the end of the panel.
                unsafe { *to.add(at[g] * 16 + r) = *from.add(r * 8 + g) }
            }
        }
    }

    /// Transposes 16 rows of 16 F32.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, to: *mut f32) {
        for r in 0..16 {
            for k in 0..16 {
                // SAFETY: both buffers of `ops::float` have 16 rows of 16 values.
                unsafe { *to.add(k * 16 + r) = *from.add(r * 16 + k) }
            }
        }
    }
}
