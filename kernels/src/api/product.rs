//! Activations and products.

use crate::acts::Activations;
use crate::dtype::Dtype;
use crate::layout::{
    ActKind, ActShape, FLOAT_SEGMENT, GROUP, INT_ROWS, INT_SEGMENT, Layout, TileShape, UNIT,
};
use crate::mat::MatMut;
use crate::ops::unpack::TAIL;
use crate::ops::{DecodeJob, FillJob, MultiplyJob, UnpackJob};
use crate::scratch::Scratch;
use crate::table::{FormatOps, Kernels};

/// A block of decoded weights in the working memory of a thread.
struct Panel {
    rows: usize,
    /// The most columns; a multiple of every block length.
    cols: usize,
    /// As in [`UnpackJob`].
    codes: *mut u8,
    scales: *mut f32,
    mins: *mut f32,
    tails: *mut u8,
}

impl Panel {
    /// Makes room for any block of a product with `cols` columns.
    fn new(f: &FormatOps, level: &TileShape, cols: usize, scratch: &mut Scratch) -> Panel {
        let int = f.act == ActKind::Q8;
        let (rows, most, code_bytes) = if int {
            (INT_ROWS, INT_SEGMENT, 1)
        } else {
            (level.float_rows, FLOAT_SEGMENT, 4)
        };
        let cols = most.min(cols.next_multiple_of(UNIT));
        let codes_len = rows * cols * code_bytes;
        let scales_len = if int { rows * (cols / f.group) * 4 } else { 0 };
        let tails_len = if int { INT_ROWS * (TAIL + GROUP) } else { 0 };
        scratch
            .panel
            .reserve(codes_len + 2 * scales_len + tails_len);
        let codes = scratch.panel.bytes_mut().as_mut_ptr();
        // SAFETY: the buffer has just been made this long.
        let (scales, mins, tails) = unsafe {
            (
                codes.add(codes_len).cast(),
                codes.add(codes_len + scales_len).cast(),
                codes.add(codes_len + 2 * scales_len),
            )
        };
        Panel {
            rows,
            cols,
            codes,
            scales,
            mins,
            tails,
        }
    }
}

impl Kernels {
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
        assert_eq!(shape.panel, self.tile_shape.panel, "shape of another level");
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
        assert_eq!(shape.panel, self.tile_shape.panel, "shape of another level");
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
        let acts_cols = shape.cols.div_ceil(f.columns);
        let panel = Panel::new(f, &self.tile_shape, acts_cols, scratch);
        let stride = out.stride();
        let cols = out.cols();
        for row in (0..cols).step_by(panel.rows) {
            let rows = panel.rows.min(cols - row);
            for col in (0..acts_cols).step_by(panel.cols) {
                let block_cols = panel.cols.min(acts_cols - col);
                let first_byte = col * f.columns / f.dtype.block_len() * f.dtype.block_bytes();
                let skip = row * row_bytes + first_byte;
                // Only whole rows lie side by side.
                let ahead = if block_cols == acts_cols {
                    panel.rows * row_bytes
                } else {
                    0
                };
                let unpack = UnpackJob {
                    weights: weights[skip..].as_ptr(),
                    row_bytes,
                    first_byte,
                    rows,
                    cols: block_cols,
                    panel: self.tile_shape.panel,
                    codes: panel.codes,
                    scales: panel.scales,
                    mins: panel.mins,
                    tails: panel.tails,
                };
                let multiply = MultiplyJob {
                    codes: panel.codes,
                    scales: panel.scales,
                    mins: panel.mins,
                    rows,
                    cols: block_cols,
                    first_col: col,
                    acts: acts.bytes().as_ptr(),
                    tile_bytes: shape.tile_bytes,
                    tile_tokens: shape.tile_tokens,
                    tokens: shape.tokens,
                    out: out.as_mut_ptr().wrapping_add(row),
                    stride,
                    next: weights.as_ptr().wrapping_add(skip + ahead),
                    next_bytes: ahead,
                };
                // SAFETY: `self` proves the features. `weights` holds `row + rows` rows and each
                // has these columns (checked by the caller), so the block of `rows` x
                // `block_cols` lies inside it; the panel was made large enough for any such
                // block; `out` has columns `row..row + rows` and is ours alone; the activations
                // have this layout. `panel.cols` is a multiple of every block length.
                unsafe {
                    (f.unpack)(&unpack);
                    (f.multiply)(&multiply);
                }
            }
        }
    }
}

impl Activations {
    /// Prepares for `tokens` rows of `cols` values. Contents are undefined until every tile has
    /// been filled.
    ///
    /// # Panics
    /// If `tokens` or `cols` is zero, or `cols` is no multiple of 32 for [`ActKind::Q8`].
    pub fn reshape(&mut self, kernels: &Kernels, kind: ActKind, tokens: usize, cols: usize) {
        self.set_shape(ActShape::new(&kernels.tile_shape, kind, tokens, cols));
    }

    /// Fills every tile on the calling thread. `x` is `[tokens, cols]`.
    pub fn fill(&mut self, kernels: &Kernels, x: &[f32]) {
        let shape = self.shape();
        for (i, tile) in self
            .bytes_mut()
            .chunks_exact_mut(shape.tile_bytes)
            .enumerate()
        {
            kernels.fill_tile(shape, i, x, tile);
        }
    }
}
