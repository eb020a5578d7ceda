//! The safe interface: every operation checks its slices once, then calls one kernel.

use crate::acts::{ActKind, ActShape, Activations, FLOAT_SEGMENT, INT_SEGMENT, Layout, UNIT};
use crate::aligned::AlignedBuf;
use crate::dispatch;
use crate::dtype::Dtype;
use crate::format::search::Search;
use crate::level::Level;
use crate::mat::MatMut;
use crate::ops::{DecodeJob, FillJob, MultiplyJob, UnpackJob};
use crate::sparse::SparseOps;

/// Sizes that depend on the instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most tokens the decode kernels take; more go through panels.
    pub decode_tokens: usize,
    /// Most tokens in an integer panel tile.
    pub int_tile: usize,
    /// Most tokens in a float panel tile.
    pub float_tile: usize,
    /// Rows of a float panel.
    pub float_rows: usize,
    /// Whether the 8-bit dot product wants unsigned weights.
    pub unsigned_weights: bool,
}

/// Rows of an integer panel, on every level.
pub(crate) const INT_ROWS: usize = 16;

/// The kernels of one format. All function pointers require the features of their level.
pub(crate) struct FormatOps {
    pub dtype: Dtype,
    pub act: ActKind,
    /// Numbers in a column of a float product.
    pub columns: usize,
    /// Weights per scale in a panel.
    pub group: usize,
    /// Whether there is an encoder.
    pub writes: bool,
    pub dequantize: unsafe fn(&[u8], &mut [f32]),
    pub quantize: unsafe fn(&[f32], Search, &mut [u8]),
    /// By number of tokens, minus one; with more tokens, several passes.
    pub decode: &'static [unsafe fn(&DecodeJob)],
    pub unpack: unsafe fn(&UnpackJob),
    pub multiply: unsafe fn(&MultiplyJob),
}

/// The kernels of one instruction set level. Only [`for_level`](Self::for_level) hands them out,
/// after it has checked the machine: holding a reference proves that they can run.
pub struct Kernels {
    pub(crate) level: Level,
    pub(crate) limits: Limits,
    pub(crate) formats: &'static [FormatOps],
    pub(crate) fill: unsafe fn(&mut FillJob),
    pub(crate) sparse: SparseOps,
    pub(crate) float: crate::float::FloatOps,
    pub(crate) peak: crate::peak::PeakOps,
}

/// Working memory of one thread: a decoded panel of weights. Grows once.
#[derive(Default)]
pub struct Scratch {
    panel: AlignedBuf,
    /// Expanded rows.
    pub(crate) rows: Vec<u8>,
}

impl Scratch {
    /// Empty scratch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held, for memory reports.
    pub fn memory_bytes(&self) -> usize {
        self.panel.bytes().len() + self.rows.capacity()
    }
}

impl Kernels {
    /// The kernels of a level, or `None` if this machine or build does not have it.
    pub fn for_level(level: Level) -> Option<&'static Kernels> {
        if level.is_available() {
            dispatch::table(level)
        } else {
            None
        }
    }

    /// The best kernels of this machine, lowered by `GEB_ISA` if that is set.
    pub fn best() -> Result<&'static Kernels, String> {
        let level = match std::env::var("GEB_ISA") {
            Err(std::env::VarError::NotPresent) => {
                let best = Level::available()
                    .into_iter()
                    .rev()
                    .find_map(Self::for_level);
                return best.ok_or_else(|| "no kernels for this machine".into());
            }
            Err(e) => return Err(format!("GEB_ISA: {e}")),
            Ok(name) => {
                let list = || {
                    let names: Vec<_> = Level::available().iter().map(|l| l.name()).collect();
                    names.join(", ")
                };
                let level = Level::from_name(&name)
                    .ok_or_else(|| format!("GEB_ISA: '{name}' is not one of: {}", list()))?;
                if !level.is_available() {
                    return Err(format!(
                        "GEB_ISA: this machine has no '{name}', it can run: {}",
                        list()
                    ));
                }
                level
            }
        };
        Self::for_level(level).ok_or_else(|| format!("no kernels for level {level}"))
    }

    /// The level these kernels are for.
    pub fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn find(&self, dtype: Dtype) -> Option<&FormatOps> {
        dispatch::better(self.level, dtype)
            .or_else(|| self.formats.iter().find(|f| f.dtype == dtype))
    }

    fn format(&self, dtype: Dtype) -> &FormatOps {
        self.find(dtype)
            .unwrap_or_else(|| panic!("no kernels for {dtype}: ask supports() first"))
    }

    /// Whether there are kernels for this type.
    pub fn supports(&self, dtype: Dtype) -> bool {
        self.find(dtype).is_some()
    }

    /// Name of the product kernel that this type uses, for logs: arithmetic and level.
    pub fn name(&self, dtype: Dtype) -> &'static str {
        dispatch::kernel_name(self.level, self.format(dtype).act)
    }

    /// What weights of this type multiply with.
    pub fn act_kind(&self, dtype: Dtype) -> ActKind {
        self.format(dtype).act
    }

    /// The most tokens for which a product reads weights straight from the file instead of
    /// decoding panels.
    pub fn decode_tokens(&self) -> usize {
        self.limits.decode_tokens
    }

    /// Rows that should stay together when a product is split over threads.
    pub fn row_multiple(&self, dtype: Dtype) -> usize {
        match self.format(dtype).act {
            ActKind::F32 | ActKind::Bf16 => self.limits.float_rows,
            ActKind::Q8 => INT_ROWS,
        }
    }

    /// Turns whole blocks into F32.
    ///
    /// # Panics
    /// If `out.len()` is no whole number of blocks or `bytes` does not hold exactly those.
    pub fn dequantize(&self, dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
        let f = self.format(dtype);
        let need = dtype.row_bytes(out.len());
        assert_eq!(
            need,
            Some(bytes.len()),
            "{dtype}: bytes for {} weights",
            out.len()
        );
        // SAFETY: `self` proves the features; the lengths agree, which is all the kernel asks.
        unsafe { (f.dequantize)(bytes, out) }
    }

    /// Whether this type can be written: types whose codes index a grid are read only.
    pub fn writes(&self, dtype: Dtype) -> bool {
        self.find(dtype).is_some_and(|f| f.writes)
    }

    /// Turns F32 into whole blocks. Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0, MXFP4 and plain
    /// numbers come out bit for bit as ggml's reference makes them for finite input; the other
    /// types are searched for the least squared error.
    ///
    /// # Panics
    /// If `x.len()` is no whole number of blocks, `out` does not hold exactly those, or the type
    /// cannot be written.
    pub fn quantize(&self, dtype: Dtype, x: &[f32], out: &mut [u8]) {
        self.quantize_with(dtype, x, Search::default(), out);
    }

    /// Like [`quantize`](Self::quantize), choosing scales and codes as `search` says: the sum of
    /// `importance[c] * (x[r][c] - decoded[r][c])^2` is to be least. Plain numbers have no choice.
    ///
    /// # Panics
    /// As `quantize`, and if `importance` is not of whole blocks, or `x` not of whole rows of it.
    pub fn quantize_with(&self, dtype: Dtype, x: &[f32], search: Search, out: &mut [u8]) {
        let f = self.format(dtype);
        assert!(f.writes, "{dtype} cannot be written: ask writes() first");
        let need = dtype.row_bytes(x.len());
        assert_eq!(
            need,
            Some(out.len()),
            "{dtype}: bytes for {} weights",
            x.len()
        );
        if let Some(importance) = search.importance {
            let cols = importance.len();
            let blocks = cols > 0 && cols.is_multiple_of(dtype.block_len());
            assert!(blocks, "{dtype}: importance of {cols} columns");
            assert!(x.len().is_multiple_of(cols), "importance of {cols} columns");
        }
        // SAFETY: `self` proves the features; the lengths agree, which is all the kernel asks.
        unsafe { (f.quantize)(x, search, out) }
    }

    /// Quantizes and packs tile `index` of `x`, the whole batch as `[tokens, cols]`.
    ///
    /// # Panics
    /// If the shape is of another level or a slice has the wrong length.
    pub fn fill_tile(&self, shape: ActShape, index: usize, x: &[f32], tile: &mut [u8]) {
        assert_eq!(
            x.len(),
            shape.tokens * shape.cols,
            "activations: values of the batch"
        );
        assert_eq!(tile.len(), shape.tile_bytes, "activations: bytes of a tile");
        assert_eq!(
            shape.unsigned_weights, self.limits.unsigned_weights,
            "shape of another level"
        );
        assert!(
            tile.as_ptr().addr().is_multiple_of(64),
            "activations: tile not aligned"
        );
        let n = shape.tokens_in(index);
        assert!(n > 0, "activations: no tile {index}");
        let first = index * shape.tile_tokens * shape.cols;
        let x = &x[first..first + n * shape.cols];
        // SAFETY: `self` proves the features; the kernel itself is safe code on checked slices.
        unsafe {
            (self.fill)(&mut FillJob {
                shape,
                tokens: n,
                x,
                tile,
            })
        }
    }

    /// `out[t][r] = sum over c of weights[r][c] * acts[t][c]`.
    ///
    /// `weights` holds `out.cols()` rows of `cols` weights, as in the file; no alignment is
    /// needed. Results are the same bits however rows are divided between calls, whatever other
    /// tokens are in the batch, and on every level, except for BF16 weights: where the processor
    /// multiplies pairs of BF16, activations are rounded to BF16.
    ///
    /// # Panics
    /// If any dimension disagrees, or the activations are of another kind or level.
    pub fn mat_mul(
        &self,
        dtype: Dtype,
        weights: &[u8],
        cols: usize,
        acts: &Activations,
        mut out: MatMut<'_>,
        scratch: &mut Scratch,
    ) {
        let f = self.format(dtype);
        let shape = acts.shape();
        let row_bytes = dtype.row_bytes(cols).expect("columns are whole blocks");
        assert_eq!(shape.cols, cols, "product: columns of the activations");
        assert_eq!(shape.tokens, out.rows(), "product: tokens");
        assert_eq!(
            shape.kind, f.act,
            "product: kind of activations for {dtype}"
        );
        assert_eq!(
            shape.unsigned_weights, self.limits.unsigned_weights,
            "shape of another level"
        );
        assert_eq!(
            Some(weights.len()),
            out.cols().checked_mul(row_bytes),
            "product: bytes of {} rows of {cols} {dtype} weights",
            out.cols()
        );
        match shape.layout {
            Layout::Rows => {
                // If a kernel takes fewer tokens, rows stay in the cache for the next ones.
                let most = f.decode.len();
                let step = if shape.tokens > most {
                    INT_ROWS
                } else {
                    out.cols().max(1)
                };
                for row in (0..out.cols()).step_by(step) {
                    for first in (0..shape.tokens).step_by(most) {
                        let job = DecodeJob {
                            weights: weights[row * row_bytes..].as_ptr(),
                            row_bytes,
                            rows: step.min(out.cols() - row),
                            cols: cols.div_ceil(f.columns),
                            acts: acts.bytes()[first * shape.tile_bytes..].as_ptr(),
                            tile_bytes: shape.tile_bytes,
                            out: out.as_mut_ptr().wrapping_add(first * out.stride() + row),
                            stride: out.stride(),
                        };
                        let kernel = f.decode[most.min(shape.tokens - first) - 1];
                        // SAFETY: `self` proves the features. The asserts above show that
                        // `weights` has `row_bytes` bytes per row, `acts` one tile per token in the
                        // layout of this kind, and `out` a `[tokens, rows]` view that we hold
                        // exclusively; rows from `row` and tokens from `first` on lie in them.
                        unsafe { kernel(&job) }
                    }
                }
            }
            Layout::Panel => self.mat_mul_panels(f, weights, row_bytes, acts, out, scratch),
        }
    }

    /// The path for many tokens: decode a panel of rows, multiply it with every tile.
    fn mat_mul_panels(
        &self,
        f: &FormatOps,
        weights: &[u8],
        row_bytes: usize,
        acts: &Activations,
        mut out: MatMut<'_>,
        scratch: &mut Scratch,
    ) {
        let shape = acts.shape();
        let int = f.act == ActKind::Q8;
        let (panel_rows, most_cols, code_bytes) = if int {
            (INT_ROWS, INT_SEGMENT, 1)
        } else {
            (self.limits.float_rows, FLOAT_SEGMENT, 4)
        };
        let acts_cols = shape.cols.div_ceil(f.columns);
        let most_cols = most_cols.min(acts_cols.next_multiple_of(UNIT));
        let codes_len = panel_rows * most_cols * code_bytes;
        let scales_len = if int {
            panel_rows * (most_cols / f.group) * 4
        } else {
            0
        };
        scratch.panel.reserve(codes_len + 2 * scales_len);
        let panel = scratch.panel.bytes_mut().as_mut_ptr();
        // SAFETY: the buffer has just been made this long.
        let (scales, mins) = unsafe {
            (
                panel.add(codes_len).cast(),
                panel.add(codes_len + scales_len).cast(),
            )
        };
        let stride = out.stride();
        let cols = out.cols();
        for row in (0..cols).step_by(panel_rows) {
            let rows = panel_rows.min(cols - row);
            for col in (0..acts_cols).step_by(most_cols) {
                let block_cols = most_cols.min(acts_cols - col);
                let first_byte = col * f.columns / f.dtype.block_len() * f.dtype.block_bytes();
                let skip = row * row_bytes + first_byte;
                let unpack = UnpackJob {
                    weights: weights[skip..].as_ptr(),
                    row_bytes,
                    first_byte,
                    rows,
                    cols: block_cols,
                    codes: panel,
                    scales,
                    mins,
                };
                let multiply = MultiplyJob {
                    codes: panel,
                    scales,
                    mins,
                    rows,
                    cols: block_cols,
                    first_col: col,
                    acts: acts.bytes().as_ptr(),
                    tile_bytes: shape.tile_bytes,
                    tile_tokens: shape.tile_tokens,
                    tokens: shape.tokens,
                    out: out.as_mut_ptr().wrapping_add(row),
                    stride,
                };
                // SAFETY: `self` proves the features. `weights` holds `row + rows` rows and each
                // has these columns (checked by the caller), so the block of `rows` x
                // `block_cols` lies inside it; the panel was made large enough for any such
                // block; `out` has columns `row..row + rows` and is ours alone; the activations
                // have this layout. `most_cols` is a multiple of every block length.
                unsafe {
                    (f.unpack)(&unpack);
                    (f.multiply)(&multiply);
                }
            }
        }
    }
}
