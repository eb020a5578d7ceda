//! Quantizing and packing activations. Portable code; the compiler vectorises it per level.

use super::FillJob;
use crate::acts::{ActKind, GROUP, Layout, PanelGroup, RowUnit, UNIT};

/// One quantized group.
pub(crate) struct Group {
    pub codes: [i8; GROUP],
    pub scale: f32,
}

/// Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even; the low bits of the sum
/// then hold that integer in two's complement.
const ROUND: f32 = 12_582_912.0;

/// Groups below this magnitude (2^-100) are zero: it keeps `127 / max` finite.
const TINY: f32 = 7.888_609e-31;

/// Quantizes 32 values; see [`crate::acts`] for the rules.
#[inline(always)]
pub(crate) fn quantize_group(x: &[f32; GROUP]) -> Group {
    // As integers the magnitudes order like the floats, with infinity and NaN on top.
    let mut most = 0u32;
    for v in x {
        most = most.max(v.to_bits() & 0x7fff_ffff);
    }
    let max = f32::from_bits(most);
    let (scale, inverse) = if max.is_nan() || max.is_infinite() {
        (f32::NAN, 0.0)
    } else if max < TINY {
        (0.0, 0.0)
    } else {
        (max / 127.0, 127.0 / max)
    };
    let mut codes = [0i8; GROUP];
    if inverse != 0.0 {
        for (c, v) in codes.iter_mut().zip(x) {
            *c = (v * inverse + ROUND).to_bits() as u8 as i8;
        }
    }
    Group { codes, scale }
}

#[inline(always)]
fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&c| i32::from(c)).sum()
}

#[inline(always)]
fn put(tile: &mut [u8], at: usize, bytes: [u8; 4]) {
    tile[at..at + 4].copy_from_slice(&bytes);
}

/// Fills one tile.
#[inline(always)]
pub(crate) fn fill(job: &mut FillJob<'_>) {
    match (job.shape.kind, job.shape.layout) {
        (ActKind::F32, Layout::Rows) => {
            let bytes = bytemuck::cast_slice(job.x);
            job.tile[..bytes.len()].copy_from_slice(bytes);
            job.tile[bytes.len()..].fill(0);
        }
        (ActKind::F32, Layout::Panel) => fill_float_panel(job),
        (ActKind::Q8, Layout::Rows) => fill_rows(job),
        (ActKind::Q8, Layout::Panel) => fill_panel(job),
    }
}

/// `[cols][tokens]`
#[inline(always)]
fn fill_float_panel(job: &mut FillJob<'_>) {
    let (n, cols) = (job.tokens, job.shape.cols);
    let tile: &mut [f32] = bytemuck::cast_slice_mut(job.tile);
    for (t, row) in job.x.chunks_exact(cols).enumerate() {
        for (v, slot) in row.iter().zip(tile[t..].iter_mut().step_by(n)) {
            *slot = *v;
        }
    }
}

#[inline(always)]
fn fill_rows(job: &mut FillJob<'_>) {
    let unsigned = job.shape.unsigned_weights;
    let units = job.tile.chunks_exact_mut(RowUnit::bytes(unsigned));
    for (x, unit) in job.x.chunks(UNIT).zip(units) {
        if x.len() < UNIT {
            unit.fill(0);
        }
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let q = quantize_group(x);
            let codes: &[u8; GROUP] = bytemuck::cast_ref(&q.codes);
            let (half, slot) = (g / 4, g % 4 * 16);
            let at = RowUnit::CODES + half * 128 + slot;
            unit[at..at + 16].copy_from_slice(&codes[..16]);
            unit[at + 64..at + 80].copy_from_slice(&codes[16..]);
            let low = sum(&q.codes[..16]);
            let total = low + sum(&q.codes[16..]);
            put(unit, RowUnit::SCALE + 4 * g, q.scale.to_ne_bytes());
            put(unit, RowUnit::SUM + 4 * g, (total as f32).to_ne_bytes());
            put(unit, RowUnit::SUM_LOW + 4 * g, (low as f32).to_ne_bytes());
            if unsigned {
                for lane in 0..4 {
                    let c = 4 * lane;
                    let s = sum(&q.codes[c..c + 4]) + sum(&q.codes[16 + c..20 + c]);
                    let at = RowUnit::START + half * 64 + slot + 4 * lane;
                    put(unit, at, (-128 * s).to_ne_bytes());
                }
            }
        }
    }
}

#[inline(always)]
fn fill_panel(job: &mut FillJob<'_>) {
    let (n, cols) = (job.tokens, job.shape.cols);
    let offset = if job.shape.unsigned_weights { -128 } else { 0 };
    for (t, row) in job.x.chunks_exact(cols).enumerate() {
        let groups = job.tile.chunks_exact_mut(PanelGroup::bytes(n));
        for (x, group) in row.as_chunks::<GROUP>().0.iter().zip(groups) {
            let q = quantize_group(x);
            let codes: &[u8; GROUP] = bytemuck::cast_ref(&q.codes);
            for (k, four) in codes.as_chunks::<4>().0.iter().enumerate() {
                put(group, (k * n + t) * 4, *four);
            }
            let low = sum(&q.codes[..16]);
            let total = low + sum(&q.codes[16..]);
            put(
                group,
                PanelGroup::start(n) + 4 * t,
                (offset * total).to_ne_bytes(),
            );
            put(
                group,
                PanelGroup::start_low(n) + 4 * t,
                (offset * low).to_ne_bytes(),
            );
            put(group, PanelGroup::scale(n) + 4 * t, q.scale.to_ne_bytes());
            put(
                group,
                PanelGroup::sum(n) + 4 * t,
                (q.scale * total as f32).to_ne_bytes(),
            );
            put(
                group,
                PanelGroup::sum_low(n) + 4 * t,
                (q.scale * low as f32).to_ne_bytes(),
            );
        }
    }
}
