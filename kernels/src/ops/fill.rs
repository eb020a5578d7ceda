//! Quantizing and packing activations.

use super::FillJob;
use crate::isa::Isa;
use crate::layout::{
    ActKind, Deal, FLOAT_LANES, FLOAT_SEGMENT, GROUP, INT_LANES, INT_SEGMENT, Layout, PanelGroup,
    RowUnit, UNIT,
};
use crate::numeric::to_bf16;

/// One quantized group.
pub(crate) struct Group {
    pub codes: [i8; GROUP],
    pub scale: f32,
    /// Sums of four neighbouring codes each.
    pub sums: [i32; 8],
}

impl Group {
    /// Sum of the first 16 codes, and of all.
    #[inline(always)]
    fn totals(&self) -> (i32, i32) {
        let [a, b, c, d, e, f, g, h] = self.sums;
        let low = (a + b) + (c + d);
        (low, low + (e + f) + (g + h))
    }
}

/// Groups below this magnitude (2^-100) are zero: it keeps `127 / max` finite.
const TINY: f32 = 7.888_609e-31;

/// Quantizes 32 values; see [`crate::layout`] for the rules.
#[inline(always)]
pub(crate) fn quantize_group<I: Isa>(isa: I, x: &[f32; GROUP]) -> Group {
    // As integers the magnitudes order like the floats, with infinity and NaN on top.
    let max = f32::from_bits(isa.max_abs(x));
    if (TINY..f32::INFINITY).contains(&max) {
        let codes = isa.codes(x, 127.0 / max);
        return Group {
            codes,
            scale: max / 127.0,
            sums: isa.sums(&codes),
        };
    }
    let scale = if max < TINY { 0.0 } else { f32::NAN };
    Group {
        codes: [0; GROUP],
        scale,
        sums: [0; 8],
    }
}

#[inline(always)]
fn put(tile: &mut [u8], at: usize, bytes: [u8; 4]) {
    tile[at..at + 4].copy_from_slice(&bytes);
}

/// Fills one tile.
#[inline(always)]
pub(crate) fn fill<I: Isa>(isa: I, job: &mut FillJob<'_>) {
    match (job.shape.kind, job.shape.layout) {
        (ActKind::F32, Layout::Rows) => {
            let bytes = bytemuck::cast_slice(job.x);
            job.tile[..bytes.len()].copy_from_slice(bytes);
            job.tile[bytes.len()..].fill(0);
        }
        (ActKind::F32, Layout::Panel) => {
            let cols = job.shape.cols;
            fill_float_panel(job, cols, |row, c| row[c].to_bits());
        }
        (ActKind::Bf16, Layout::Rows) => {
            let tile: &mut [u16] = bytemuck::cast_slice_mut(job.tile);
            for (v, slot) in job.x.iter().zip(&mut *tile) {
                *slot = to_bf16(*v);
            }
            tile[job.x.len()..].fill(0);
        }
        (ActKind::Bf16, Layout::Panel) => {
            let pairs = job.shape.cols.div_ceil(2);
            fill_float_panel(job, pairs, |row, c| {
                let second = row.get(2 * c + 1).map_or(0, |v| to_bf16(*v));
                u32::from(to_bf16(row[2 * c])) | u32::from(second) << 16
            });
        }
        (ActKind::Q8, Layout::Rows) => fill_rows(isa, job),
        (ActKind::Q8, Layout::Panel) => fill_panel(isa, job),
    }
}

/// Per segment `[cols][tokens]`, columns dealt to lanes; `column` makes one from a token's row.
#[inline(always)]
fn fill_float_panel(job: &mut FillJob<'_>, cols: usize, column: impl Fn(&[f32], usize) -> u32) {
    let n = job.tokens;
    let tile: &mut [u32] = bytemuck::cast_slice_mut(job.tile);
    for (t, row) in job.x.chunks_exact(job.shape.cols).enumerate() {
        for first in (0..cols).step_by(FLOAT_SEGMENT) {
            let length = (cols - first).min(FLOAT_SEGMENT);
            let deal = Deal::<FLOAT_LANES>::new(length);
            let segment = &mut tile[first * n..][..length * n];
            for turn in 0..length.div_ceil(FLOAT_LANES) {
                let columns = turn * FLOAT_LANES..length.min((turn + 1) * FLOAT_LANES);
                for (c, place) in columns.zip(deal.places(turn)) {
                    segment[place * n + t] = column(row, first + c);
                }
            }
        }
    }
}

#[inline(always)]
fn fill_rows<I: Isa>(isa: I, job: &mut FillJob<'_>) {
    let units = job.tile.chunks_exact_mut(RowUnit::BYTES);
    for (x, unit) in job.x.chunks(UNIT).zip(units) {
        if x.len() < UNIT {
            unit.fill(0);
        }
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let q = quantize_group(isa, x);
            let codes: &[u8; GROUP] = bytemuck::cast_ref(&q.codes);
            let (half, slot) = (g / 4, g % 4 * 16);
            let at = RowUnit::CODES + half * 128 + slot;
            unit[at..at + 16].copy_from_slice(&codes[..16]);
            unit[at + 64..at + 80].copy_from_slice(&codes[16..]);
            let (low, total) = q.totals();
            put(unit, RowUnit::SCALE + 4 * g, q.scale.to_ne_bytes());
            put(unit, RowUnit::CODE_SUM + 4 * g, total.to_ne_bytes());
            put(unit, RowUnit::CODE_SUM_LOW + 4 * g, low.to_ne_bytes());
            put(
                unit,
                RowUnit::CODE_SUM_HIGH + 4 * g,
                (total - low).to_ne_bytes(),
            );
            let (low, total) = (q.scale * low as f32, q.scale * total as f32);
            put(unit, RowUnit::SUM + 4 * g, total.to_ne_bytes());
            put(unit, RowUnit::SUM_LOW + 4 * g, low.to_ne_bytes());
        }
    }
}

/// The place of group `i` of `groups` in a panel tile.
#[inline(always)]
fn panel_group(tile: &mut [u8], i: usize, groups: usize, bytes: usize) -> &mut [u8] {
    const SEGMENT: usize = INT_SEGMENT / GROUP;
    let first = i / SEGMENT * SEGMENT;
    let deal = Deal::<INT_LANES>::new((groups - first).min(SEGMENT));
    let place = first + deal.place(i - first);
    &mut tile[place * bytes..][..bytes]
}

#[inline(always)]
fn fill_panel<I: Isa>(isa: I, job: &mut FillJob<'_>) {
    let (panel, cols) = (job.shape.panel, job.shape.cols);
    let (n, offset) = (panel.slots(job.tokens), -i32::from(panel.shift()));
    for (t, row) in job.x.chunks_exact(cols).enumerate() {
        for (i, x) in row.as_chunks::<GROUP>().0.iter().enumerate() {
            let group = panel_group(job.tile, i, cols / GROUP, PanelGroup::bytes(n));
            let q = quantize_group(isa, x);
            let codes: &[u8; GROUP] = bytemuck::cast_ref(&q.codes);
            panel.put(group, n, t, codes);
            let (low, total) = q.totals();
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
