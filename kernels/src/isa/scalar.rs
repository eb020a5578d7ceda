//! The definition: the same lanes and orders as the vector code, in arrays.

use super::Isa;
use crate::numeric::{from_bf16, from_f16};

/// The token of portable code.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Reads `N` bytes.
///
/// # Safety
/// `p` must be valid for `N` bytes.
#[inline(always)]
unsafe fn read<const N: usize>(p: *const u8) -> [u8; N] {
    // SAFETY: byte arrays have no alignment; `memory!` says who keeps the range.
    unsafe { p.cast::<[u8; N]>().read() }
}

/// Reads or writes memory in a method of the token.
macro_rules! memory {
    ($($body:tt)*) => {{
        // SAFETY: the range is what `Isa` documents for the method: `format` keeps it inside a unit, `ops`
        // inside a job, whose lengths `api` asserts. Nothing here needs an alignment or a feature.
        unsafe { $($body)* }
    }};
}

#[inline(always)]
fn map<const N: usize>(b: [u8; N], f: impl Fn(u8) -> u8) -> [u8; N] {
    b.map(f)
}

/// The definition of [`Isa::transpose_in_runs`] and [`Isa::transpose_runs`]: in each place the value of four bytes
/// that lies at vector, run and place `from(vector, run, place)`. One function for all formats.
#[inline(never)]
fn rearrange(
    rows: &[[u8; 64]; 4],
    from: fn(usize, usize, usize) -> (usize, usize, usize),
) -> [[u8; 64]; 4] {
    let mut out = [[0; 64]; 4];
    for i in 0..256 {
        let (v, q, k) = from(i / 64, i / 16 % 4, i / 4 % 4);
        out[i / 64][i % 64] = rows[v][16 * q + 4 * k + i % 4];
    }
    out
}

// SAFETY: needs no features; every pointer access stays within the documented range.
unsafe impl Isa for Scalar {
    const UNSIGNED_WEIGHTS: bool = false;
    const ROWS: usize = 8;

    type Bytes = [u8; 64];
    type Ints = [i32; 16];
    type Lanes = [f32; 16];
    type Eight = [f32; 8];

    #[inline(always)]
    unsafe fn load_runs<const BLOCK: usize, const AT: usize, const HALF: usize>(
        self,
        p: *const u8,
    ) -> [u8; 64] {
        let mut out = [0; 64];
        for (i, run) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            *run = memory! { read(p.add((4 * HALF + i) * BLOCK + AT)) };
        }
        out
    }

    #[inline(always)]
    unsafe fn load_at(self, p: *const u8, offsets: [usize; 4]) -> [u8; 64] {
        let mut out = [0; 64];
        for (run, offset) in out.as_chunks_mut::<16>().0.iter_mut().zip(offsets) {
            *run = memory! { read(p.add(offset)) };
        }
        out
    }

    #[inline(always)]
    fn pick_runs(self, b: [u8; 64], from: [usize; 4]) -> [u8; 64] {
        let mut out = [0; 64];
        for (run, from) in out.as_chunks_mut::<16>().0.iter_mut().zip(from) {
            *run = b.as_chunks().0[from];
        }
        out
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: [u8; 64]) {
        memory! { p.cast::<[u8; 64]>().write(b) }
    }

    #[inline(always)]
    fn shift_runs(self, mut b: [u8; 64], by: [i32; 4], mask: u8) -> [u8; 64] {
        for (run, by) in b.as_chunks_mut::<16>().0.iter_mut().zip(by) {
            *run = map(*run, |v| {
                let wide = u32::from(v) << 8;
                ((if by < 0 { wide >> -by } else { wide << by }) >> 8) as u8 & mask
            });
        }
        b
    }

    #[inline(always)]
    fn or_bytes(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        core::array::from_fn(|k| a[k] | b[k])
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], b: [u8; 64]) -> [u8; 64] {
        map(b, |v| table[usize::from(v & 15)])
    }

    #[inline(always)]
    fn spread_bits(self, bits: u64, value: u8) -> [u8; 64] {
        core::array::from_fn(|k| if bits >> k & 1 == 1 { value } else { 0 })
    }

    #[inline(always)]
    fn mirror(self, b: [u8; 64], bits: u64, sum: u8) -> [u8; 64] {
        core::array::from_fn(|k| match bits >> k & 1 {
            1 => sum.wrapping_sub(b[k]),
            _ => b[k],
        })
    }

    #[inline(always)]
    fn add_where(self, b: [u8; 64], bits: u64, value: u8) -> [u8; 64] {
        let more = self.spread_bits(bits, value);
        core::array::from_fn(|k| b[k].wrapping_add(more[k]))
    }

    #[inline(always)]
    fn add_bytes(self, b: [u8; 64], k: u8) -> [u8; 64] {
        map(b, |v| v.wrapping_add(k))
    }

    #[inline(always)]
    fn zero_ints(self) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn sum_fours(
        self,
        a: [i32; 16],
        b: [i32; 16],
        offset: Option<(*const i32, u32)>,
    ) -> [f32; 8] {
        core::array::from_fn(|g| {
            let four = if g < 4 { &a[4 * g..] } else { &b[4 * g - 16..] };
            let sum: i32 = four[..4].iter().sum();
            let less = offset.map_or(0, |(p, by)| memory! { p.add(g).read_unaligned() } << by);
            (sum - less) as f32
        })
    }

    #[inline(always)]
    unsafe fn dot_small(self, acc: [i32; 16], w: [u8; 64], x: *const u8) -> [i32; 16] {
        // Weights up to 127 are the same signed.
        memory! { self.dot_signed(acc, w, x) }
    }

    #[inline(always)]
    unsafe fn dot_signed(self, mut acc: [i32; 16], w: [u8; 64], x: *const u8) -> [i32; 16] {
        let x: [u8; 64] = memory! { read(x) };
        for l in 0..16 {
            for k in 4 * l..4 * l + 4 {
                acc[l] += i32::from(w[k] as i8) * i32::from(x[k] as i8);
            }
        }
        acc
    }

    #[inline(always)]
    fn zero_lanes(self) -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    unsafe fn load_lanes(self, p: *const f32) -> [f32; 16] {
        memory! { p.cast::<[f32; 16]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_lanes_f16(self, p: *const u8) -> [f32; 16] {
        let bits = memory! { p.cast::<[u16; 16]>().read_unaligned() };
        bits.map(from_f16)
    }

    #[inline(always)]
    unsafe fn load_lanes_bf16(self, p: *const u8) -> [f32; 16] {
        let bits = memory! { p.cast::<[u16; 16]>().read_unaligned() };
        bits.map(from_bf16)
    }

    #[inline(always)]
    unsafe fn load_lanes_i8(self, p: *const u8) -> [f32; 16] {
        let bytes: [u8; 16] = memory! { read(p) };
        bytes.map(|b| f32::from(b as i8))
    }

    #[inline(always)]
    unsafe fn splat_lanes(self, p: *const f32) -> [f32; 16] {
        [memory! { p.read_unaligned() }; 16]
    }

    #[inline(always)]
    unsafe fn store_lanes(self, p: *mut f32, v: [f32; 16]) {
        memory! { p.cast::<[f32; 16]>().write_unaligned(v) }
    }

    #[inline(always)]
    fn larger_lanes(self, mut a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        for l in 0..16 {
            a[l] = if b[l] > a[l] { b[l] } else { a[l] };
        }
        a
    }

    #[inline(always)]
    fn fma_lanes(self, mut acc: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        for l in 0..16 {
            acc[l] = a[l].mul_add(b[l], acc[l]);
        }
        acc
    }

    #[inline(always)]
    fn reduce(self, v: [f32; 16], mut e: [f32; 8]) -> f32 {
        for j in 0..8 {
            e[j] += v[j] + v[j + 8];
        }
        let four = [e[0] + e[4], e[1] + e[5], e[2] + e[6], e[3] + e[7]];
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    fn zero_eight(self) -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load_eight(self, p: *const f32) -> [f32; 8] {
        memory! { p.cast::<[f32; 8]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_eight(self, p: *mut f32, v: [f32; 8]) {
        memory! { p.cast::<[f32; 8]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn gather_f16<const BLOCK: usize, const AT: usize>(self, p: *const u8) -> [f32; 8] {
        let mut out = [0.0; 8];
        for (j, v) in out.iter_mut().enumerate() {
            *v = from_f16(u16::from_le_bytes(memory! { read(p.add(j * BLOCK + AT)) }));
        }
        out
    }

    #[inline(always)]
    fn splat_eight(self, v: f32) -> [f32; 8] {
        [v; 8]
    }

    #[inline(always)]
    fn mul_eight(self, mut a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        for j in 0..8 {
            a[j] *= b[j];
        }
        a
    }

    #[inline(always)]
    fn fma_eight(self, mut acc: [f32; 8], a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        for j in 0..8 {
            acc[j] = a[j].mul_add(b[j], acc[j]);
        }
        acc
    }

    #[inline(always)]
    fn transpose_in_runs(self, rows: [[u8; 64]; 4]) -> [[u8; 64]; 4] {
        rearrange(&rows, |j, q, r| (r, q, j))
    }

    #[inline(always)]
    fn transpose_runs(self, rows: [[u8; 64]; 4]) -> [[u8; 64]; 4] {
        rearrange(&rows, |q, r, k| (r, q, k))
    }

    type Weights = [u8; 32];
    type RowInts = [i32; 8];
    type RowFloats = [f32; 8];

    #[inline(always)]
    unsafe fn load_weights(self, p: *const u8) -> [u8; 32] {
        memory! { read(p) }
    }

    #[inline(always)]
    fn zero_row_ints(self) -> [i32; 8] {
        [0; 8]
    }

    #[inline(always)]
    unsafe fn splat_int(self, p: *const u8) -> [i32; 8] {
        [i32::from_ne_bytes(memory! { read(p) }); 8]
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_row_ints(self, p: *const i32) -> [i32; 8] {
        memory! { p.cast::<[i32; 8]>().read_unaligned() }
    }

    #[inline(always)]
    fn sub_row_ints(self, mut a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        for r in 0..8 {
            a[r] -= b[r];
        }
        a
    }

    #[inline(always)]
    unsafe fn dot_rows(self, mut acc: [i32; 8], w: [u8; 32], x: *const u8) -> [i32; 8] {
        let x: [u8; 4] = memory! { read(x) };
        for r in 0..8 {
            for k in 0..4 {
                acc[r] += i32::from(w[4 * r + k] as i8) * i32::from(x[k] as i8);
            }
        }
        acc
    }

    #[inline(always)]
    fn to_floats(self, v: [i32; 8]) -> [f32; 8] {
        v.map(|i| i as f32)
    }

    #[inline(always)]
    fn zero_rows(self) -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load_rows(self, p: *const f32) -> [f32; 8] {
        memory! { self.load_eight(p) }
    }

    #[inline(always)]
    unsafe fn store_rows(self, p: *mut f32, v: [f32; 8]) {
        memory! { self.store_eight(p, v) }
    }

    #[inline(always)]
    unsafe fn splat_row(self, p: *const u8) -> [f32; 8] {
        [f32::from_ne_bytes(memory! { read(p) }); 8]
    }

    #[inline(always)]
    fn sub_rows(self, mut a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        for r in 0..8 {
            a[r] -= b[r];
        }
        a
    }

    #[inline(always)]
    fn add_rows(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|j| a[j] + b[j])
    }

    #[inline(always)]
    fn mul_rows(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        self.mul_eight(a, b)
    }

    #[inline(always)]
    fn fma_rows(self, acc: [f32; 8], a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        self.fma_eight(acc, a, b)
    }
}
