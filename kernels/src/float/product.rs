//! The small matrix products of attention: a few rows of F32 (or codes) times a block of the cache.

use core::ops::Range;

use super::LANES;
use super::kv::BLOCK;
use crate::isa::Isa;
use crate::layout::GROUP;
use crate::ops::unroll;

/// Rows of `a` that share a load of `b`.
const ROWS: usize = 6;

/// How elements of a block are stored; `load` widens 16 of them, exactly.
pub(crate) trait Source {
    /// Bytes of an element.
    const BYTES: usize;

    /// # Safety
    /// `p` must be valid for 16 elements.
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes;
}

/// F32.
pub(crate) struct Floats;
/// F16.
pub(crate) struct Halves;
/// Signed bytes.
pub(crate) struct Codes;

impl Source for Floats {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: `widen` cuts chunks of 16 elements, the asserts of `product` bound its rows.
        unsafe { isa.load_lanes(p.cast()) }
    }
}

impl Source for Halves {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: as above.
        unsafe { isa.load_lanes_f16(p) }
    }
}

impl Source for Codes {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const u8) -> I::Lanes {
        // SAFETY: as above.
        unsafe { isa.load_lanes_i8(p) }
    }
}

/// Widens a block, element by element; its length is a multiple of 16.
#[inline(always)]
pub(crate) fn widen<I: Isa, S: Source>(isa: I, from: &[u8], to: &mut [f32]) {
    let chunks = from.chunks_exact(LANES * S::BYTES);
    for (from, to) in chunks.zip(to.as_chunks_mut::<LANES>().0) {
        // SAFETY: both hold exactly 16 elements.
        unsafe { isa.store_lanes(to.as_mut_ptr(), S::load(isa, from.as_ptr())) }
    }
}

/// `c = a b`, or `c += a b` if `add`; every sum runs over `k` in order.
pub(crate) struct Product<'a> {
    pub rows: usize,
    /// `[rows][lda]`, of which the columns `k` are used.
    pub a: &'a [f32],
    pub lda: usize,
    /// Columns of `a` and rows of `b`.
    pub k: Range<usize>,
    /// `[rows][ldc]`, of which the first `n` columns are written; the last row may be shorter.
    pub c: &'a mut [f32],
    pub ldc: usize,
    /// A multiple of 16.
    pub n: usize,
    pub add: bool,
}

/// The product with `b`: `[..][ldb]` elements, the last row may be shorter.
#[inline(always)]
pub(crate) fn product<I: Isa, S: Source>(isa: I, b: &[u8], ldb: usize, p: Product<'_>) {
    let rows = p.rows;
    assert!(rows > 0 && p.k.start < p.k.end && p.n.is_multiple_of(LANES));
    assert!(p.k.end <= p.lda && p.a.len() >= (rows - 1) * p.lda + p.k.end);
    assert!(p.n <= ldb && b.len() >= ((p.k.end - 1) * ldb + p.n) * S::BYTES);
    assert!(p.n <= p.ldc && p.c.len() >= (rows - 1) * p.ldc + p.n);
    let mut job = Job {
        a: p.a.as_ptr().wrapping_add(p.k.start),
        lda: p.lda,
        b: b.as_ptr().wrapping_add(p.k.start * ldb * S::BYTES),
        step: ldb * S::BYTES,
        k: p.k.len(),
        c: p.c.as_mut_ptr(),
        ldc: p.ldc,
        add: p.add,
    };
    for row in (0..rows).step_by(ROWS) {
        // SAFETY: the asserts bound every row of `a`, `b` and `c`; rows `row..row + R` exist.
        unsafe {
            match rows - row {
                1 => strip::<I, S, 1>(isa, &job, p.n),
                2 => strip::<I, S, 2>(isa, &job, p.n),
                3 => strip::<I, S, 3>(isa, &job, p.n),
                4 => strip::<I, S, 4>(isa, &job, p.n),
                5 => strip::<I, S, 5>(isa, &job, p.n),
                _ => strip::<I, S, ROWS>(isa, &job, p.n),
            }
        }
        job.a = job.a.wrapping_add(ROWS * p.lda);
        job.c = job.c.wrapping_add(ROWS * p.ldc);
    }
}

/// A [`Product`] of some rows as checked raw parts; `step`: bytes from a row of `b` to the next.
struct Job {
    a: *const f32,
    lda: usize,
    b: *const u8,
    step: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
}

/// `R` rows times all `n` columns.
///
/// # Safety
/// `a` must hold `R` rows of `k` values, `b` `k` rows of `n` elements and `c` `R` rows of `n` values.
#[inline(always)]
unsafe fn strip<I: Isa, S: Source, const R: usize>(isa: I, job: &Job, n: usize) {
    let mut col = 0;
    // SAFETY: `col` plus the width of the tile is at most `n`.
    unsafe {
        // 16 vectors of 8 lanes hold one vector of 16 columns for six rows, 32 of 16 lanes hold four.
        if I::ROWS == LANES {
            while col + 4 * LANES <= n {
                tile::<I, S, R, 4>(isa, job, col);
                col += 4 * LANES;
            }
            if col + 2 * LANES <= n {
                tile::<I, S, R, 2>(isa, job, col);
                col += 2 * LANES;
            }
        }
        while col < n {
            tile::<I, S, R, 1>(isa, job, col);
            col += LANES;
        }
    }
}

/// `R` rows times `C` vectors of 16 columns from `col` on.
///
/// # Safety
/// As for [`strip`], with `n >= col + 16 C`.
#[inline(always)]
unsafe fn tile<I: Isa, S: Source, const R: usize, const C: usize>(isa: I, job: &Job, col: usize) {
    // SAFETY: `product` asserts where `a`, `b` and `c` end; `strip` keeps `col + 16 C` within `n`.
    unsafe {
        let c = job.c.add(col);
        let mut acc = [[isa.zero_lanes(); C]; R];
        if job.add {
            unroll!(r < R, max 8, {
                unroll!(v < C, max 4, {
                    acc[r][v] = isa.load_lanes(c.add(r * job.ldc + v * LANES));
                });
            });
        }
        let mut b = job.b.add(col * S::BYTES);
        for i in 0..job.k {
            let mut wide = [isa.zero_lanes(); C];
            unroll!(v < C, max 4, {
                wide[v] = S::load(isa, b.add(v * LANES * S::BYTES));
            });
            unroll!(r < R, max 8, {
                let x = isa.splat_lanes(job.a.add(r * job.lda + i));
                unroll!(v < C, max 4, {
                    acc[r][v] = isa.fma_lanes(acc[r][v], wide[v], x);
                });
            });
            b = b.wrapping_add(job.step);
        }
        unroll!(r < R, max 8, {
            unroll!(v < C, max 4, {
                isa.store_lanes(c.add(r * job.ldc + v * LANES), acc[r][v]);
            });
        });
    }
}

/// 32 elements of a query, quantized.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct QueryGroup {
    pub codes: [i8; GROUP],
    pub scale: f32,
    /// What the integer sum starts with.
    pub start: i32,
}

/// Scores of quantized queries `[rows][groups]` with a block of quantized keys: `scales`
/// `[groups][BLOCK]`, `codes` `[groups][8][BLOCK][4]`; `out`: `[rows]` of `BLOCK` values, `ldc` apart. The integer sums of
/// a group are exact; groups are added in order.
#[inline(always)]
pub(crate) fn codes<I: Isa>(
    isa: I,
    q: &[QueryGroup],
    scales: &[f32],
    codes: &[u8],
    out: &mut [f32],
    ldc: usize,
) {
    let groups = scales.len() / BLOCK;
    let rows = q.len() / groups;
    assert!(q.len() == rows * groups && codes.len() == groups * GROUP * BLOCK);
    assert!(ldc >= BLOCK && out.len() >= (rows - 1) * ldc + BLOCK);
    for row in (0..rows).step_by(ROWS) {
        let q = &q[row * groups..];
        let out = out[row * ldc..].as_mut_ptr();
        let job = CodeJob {
            q: q.as_ptr(),
            groups,
            steps: core::hint::black_box(GROUP / 4),
            scales: scales.as_ptr(),
            codes: codes.as_ptr(),
            out,
            ldc,
        };
        // SAFETY: the asserts bound all rows; rows `row..row + R` exist.
        unsafe {
            match rows - row {
                1 => code_strip::<I, 1>(isa, &job),
                2 => code_strip::<I, 2>(isa, &job),
                3 => code_strip::<I, 3>(isa, &job),
                4 => code_strip::<I, 4>(isa, &job),
                5 => code_strip::<I, 5>(isa, &job),
                _ => code_strip::<I, ROWS>(isa, &job),
            }
        }
    }
}

/// Some rows of [`codes`] as checked raw parts.
struct CodeJob {
    q: *const QueryGroup,
    groups: usize,
    /// Dot products per group: 8. A number the compiler cannot see, because it unrolls the loop
    /// otherwise and moves all weights of the group to the stack.
    steps: usize,
    scales: *const f32,
    codes: *const u8,
    out: *mut f32,
    ldc: usize,
}

/// `R` rows of [`codes`].
///
/// # Safety
/// `q` must hold `R` rows of `groups` groups, `out` `R` rows of `BLOCK` values, `codes` and `scales`
/// a block of `groups` groups.
#[inline(always)]
unsafe fn code_strip<I: Isa, const R: usize>(isa: I, job: &CodeJob) {
    for g in 0..job.groups {
        // SAFETY: group `g` exists in all three; `col` plus the tile's columns is at most `BLOCK`.
        unsafe {
            if I::ROWS == LANES {
                code_tile::<I, R, 4>(isa, job, g, 0);
            } else {
                for col in (0..BLOCK).step_by(I::ROWS) {
                    code_tile::<I, R, 1>(isa, job, g, col);
                }
            }
        }
    }
}

/// Group `g` of [`code_strip`] for `C` vectors of positions from `col` on.
///
/// # Safety
/// As for [`code_strip`]; `col + C * I::ROWS <= BLOCK`.
#[inline(always)]
unsafe fn code_tile<I: Isa, const R: usize, const C: usize>(
    isa: I,
    job: &CodeJob,
    g: usize,
    col: usize,
) {
    let (groups, ldc) = (job.groups, job.ldc);
    // SAFETY: `codes` asserts where all four end; `code_strip` keeps the columns within `BLOCK`.
    unsafe {
        let q = job.q.add(g);
        let codes = job.codes.add((g * GROUP / 4 * BLOCK + col) * 4);
        let scales = job.scales.add(g * BLOCK + col);
        let out = job.out.add(col);
        let mut ints = [[isa.zero_row_ints(); C]; R];
        if I::UNSIGNED_WEIGHTS {
            unroll!(r < R, max 8, {
                let start = isa.splat_int((&raw const (*q.add(r * groups)).start).cast());
                unroll!(v < C, max 4, { ints[r][v] = start; });
            });
        }
        for k in 0..job.steps {
            unroll!(v < C, max 4, {
                let w = isa.load_weights(codes.add((k * BLOCK + v * I::ROWS) * 4));
                unroll!(r < R, max 8, {
                    let x: *const u8 = q.add(r * groups).cast();
                    ints[r][v] = isa.dot_rows(ints[r][v], w, x.add(4 * k));
                });
            });
        }
        unroll!(r < R, max 8, {
            let scale = isa.splat_row((&raw const (*q.add(r * groups)).scale).cast());
            unroll!(v < C, max 4, {
                let to = out.add(r * ldc + v * I::ROWS);
                let sum = if g == 0 { isa.zero_rows() } else { isa.load_rows(to) };
                let x = isa.mul_rows(isa.to_floats(ints[r][v]), scale);
                let s = isa.load_rows(scales.add(v * I::ROWS));
                isa.store_rows(to, isa.fma_rows(sum, x, s));
            });
        });
    }
}
