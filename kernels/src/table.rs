//! The tables of kernels: what is compiled for a level, and what a machine runs.

use crate::dtype::Dtype;
use crate::float::{AttnQuery, AttnScratch, KvHead, KvRows, KvShape, KvSide};
use crate::format::search::Search;
use crate::layout::{ActKind, TileShape};
use crate::level::Level;
use crate::ops::sparse::{ExpandJob, SparseJob};
use crate::ops::{DecodeJob, FillJob, MultiplyJob, UnpackJob};
use crate::panel::IntPanel;

/// What is compiled for one instruction set level. All function pointers require its features.
pub(crate) struct LevelTable {
    pub level: Level,
    pub tile_shape: TileShape,
    pub formats: &'static [FormatOps],
    pub fill: unsafe fn(&mut FillJob),
    pub sparse: SparseOps,
    pub float: FloatOps,
    pub peak: PeakOps,
}

/// One more than the largest id of a type.
const TYPES: usize = Dtype::ALL[Dtype::ALL.len() - 1] as usize + 1;

/// The kernels of one instruction set level, with what this machine has beyond it. Only
/// [`for_level`](Self::for_level) and [`plain`](Self::plain) hand them out, after they have checked the machine:
/// holding a reference proves that they can run.
pub struct Kernels {
    pub(crate) level: Level,
    pub(crate) tile_shape: TileShape,
    /// By id of the type.
    formats: [Option<FormatOps>; TYPES],
    pub(crate) fill: unsafe fn(&mut FillJob),
    pub(crate) sparse: SparseOps,
    pub(crate) float: FloatOps,
    pub(crate) peak: PeakOps,
}

impl Kernels {
    /// Those of a level and nothing else.
    pub(crate) fn new(table: &LevelTable) -> Self {
        let mut kernels = Self {
            level: table.level,
            tile_shape: table.tile_shape,
            formats: [None; TYPES],
            fill: table.fill,
            sparse: table.sparse,
            float: table.float,
            peak: table.peak,
        };
        table.formats.iter().for_each(|f| kernels.put(*f));
        kernels
    }

    /// Takes the kernels of a format, in place of those it had.
    pub(crate) fn put(&mut self, f: FormatOps) {
        self.formats[f.dtype as usize] = Some(f);
    }

    /// Multiplies integers with another tile kernel.
    pub(crate) fn take_tile(&mut self, tile: &TileOps) {
        self.tile_shape.panel = tile.panel;
        self.tile_shape.int_tile = tile.tokens;
        for f in self.formats.iter_mut().flatten() {
            if f.act == ActKind::Q8 {
                f.name = tile.name;
                f.multiply = tile.product(f.group, f.mins);
            }
        }
    }

    pub(crate) fn find(&self, dtype: Dtype) -> Option<&FormatOps> {
        self.formats[dtype as usize].as_ref()
    }
}

/// The kernels of one format. All function pointers require the features of their level.
#[derive(Clone, Copy)]
pub(crate) struct FormatOps {
    pub dtype: Dtype,
    /// Of the products, for logs: arithmetic and level.
    pub name: &'static str,
    pub act: ActKind,
    /// Numbers in a column of a float product.
    pub columns: usize,
    /// Weights per scale in a panel.
    pub group: usize,
    /// Whether there are minimums in a panel.
    pub mins: bool,
    /// Whether there is an encoder.
    pub writes: bool,
    pub dequantize: unsafe fn(&[u8], &mut [f32]),
    pub quantize: unsafe fn(&[f32], Search, &mut [u8]),
    /// By number of tokens, minus one; with more tokens, several passes.
    pub decode: &'static [unsafe fn(&DecodeJob)],
    pub unpack: unsafe fn(&UnpackJob),
    pub multiply: unsafe fn(&MultiplyJob),
}

/// The products of one tile kernel. All function pointers require its features beside those of the level.
pub(crate) struct TileOps {
    /// Of the products, for logs: arithmetic and level.
    pub name: &'static str,
    pub panel: IntPanel,
    /// Most tokens in a tile.
    pub tokens: usize,
    /// With a scale per 32 weights and per 16; each without minimums and with them.
    pub multiply: [[unsafe fn(&MultiplyJob); 2]; 2],
}

impl TileOps {
    /// The product of a format with `group` weights per scale.
    pub const fn product(&self, group: usize, mins: bool) -> unsafe fn(&MultiplyJob) {
        self.multiply[(group == 16) as usize][mins as usize]
    }
}

/// The kernels of packed weights.
#[derive(Clone, Copy)]
pub(crate) struct SparseOps {
    /// By number of tokens, minus one.
    pub decode: &'static [unsafe fn(&SparseJob)],
    pub expand: unsafe fn(&ExpandJob),
}

type LayerNorm = unsafe fn(&[f32], [&[f32]; 2], f32, &mut [f32]);

/// The float kernels of one level. All pointers require its features.
#[derive(Clone, Copy)]
pub(crate) struct FloatOps {
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub rms_norm_each: unsafe fn(&mut [f32], &[f32], f32),
    pub layer_norm: LayerNorm,
    pub add: unsafe fn(&mut [f32], &[f32]),
    pub silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub rope: unsafe fn(&mut [f32], &[f32], &[f32], bool),
    pub attend: unsafe fn(&AttnQuery<'_>, KvHead<'_>, &mut [f32], &mut AttnScratch),
    pub merge: unsafe fn(KvShape, &mut [f32], &[f32]),
    pub store: unsafe fn(KvShape, KvSide, KvRows<'_>, &mut [u8]),
    pub exp_sum: unsafe fn(&[f32], f32) -> f64,
    pub divergence: unsafe fn(&[f32], &[f32], [f64; 2]) -> f64,
}

/// The loops of one level.
#[derive(Clone, Copy)]
pub(crate) struct PeakOps {
    pub int8: unsafe fn(usize) -> u64,
    pub f32: unsafe fn(usize) -> u64,
    pub read: unsafe fn(&[u8]),
}
