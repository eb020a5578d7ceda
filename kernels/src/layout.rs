//! How activations and weight panels are laid out, and in which order products are added.
//!
//! Activations have two number kinds (F32, and 8-bit codes with a scale per 32 columns) times two layouts:
//!
//! * *rows*, for few tokens: one token per tile, in the order the decode kernel reads weights;
//! * *panel*, for many: up to 14 tokens per tile, interleaved for broadcasts.
//!
//! Quantization of a group of 32: `scale = max|x| / 127`, `code = round_half_even(x * 127 / max|x|)`,
//! so codes lie in `-127..=127` and never are -128: that is what keeps the AVX2 path from
//! saturating. A group whose largest magnitude is below 2^-100 becomes zero with scale zero. A
//! group with a NaN or an infinity gets the scale NaN and zero codes: every output that depends
//! on it is NaN, which the caller's check of the logits reports; nothing is hidden.

use crate::panel::IntPanel;

/// Columns that share one activation scale.
pub const GROUP: usize = 32;

/// Columns in one step of the decode kernel: eight groups.
pub(crate) const UNIT: usize = 256;

/// Columns of a row whose products are added up together: longer rows are the sum of such segments,
/// first to last. Within a segment columns are dealt to lanes ([`Deal`]), each lane is summed from
/// its first column to its last, then the lanes from the first to the last. Every kernel adds in this
/// order, so results are the same bits for one token and for many, and on every level.
pub(crate) const INT_SEGMENT: usize = 16384;
/// Lanes of groups of 32 columns in a segment of an integer product.
pub(crate) const INT_LANES: usize = 8;
/// Columns of a segment of a float product, sized so that a panel stays in the L2 cache.
pub(crate) const FLOAT_SEGMENT: usize = 2048;
/// Lanes of columns in a segment of a float product.
pub(crate) const FLOAT_LANES: usize = 16;

/// Items dealt to `N` lanes in turn and stored lane by lane.
#[derive(Clone, Copy)]
pub(crate) struct Deal<const N: usize> {
    starts: [usize; N],
    items: usize,
}

impl<const N: usize> Deal<N> {
    #[inline(always)]
    pub fn new(items: usize) -> Self {
        let starts = core::array::from_fn(|lane| lane * (items / N) + lane.min(items % N));
        Self { starts, items }
    }

    /// Items of a lane.
    #[inline(always)]
    pub fn count(&self, lane: usize) -> usize {
        self.items / N + usize::from(lane < self.items % N)
    }

    /// Where items `N * turn ..` of the `N` lanes are stored.
    #[inline(always)]
    pub fn places(&self, turn: usize) -> [usize; N] {
        self.starts.map(|start| start + turn)
    }

    /// Where item `i` is stored.
    #[inline(always)]
    pub fn place(&self, i: usize) -> usize {
        self.starts[i % N] + i / N
    }
}

/// What the activations are stored as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActKind {
    /// Plain F32, for F32, F16 and BF16 weights.
    F32,
    /// BF16, rounded to nearest even, for BF16 weights where the processor multiplies them in pairs.
    Bf16,
    /// Codes in -127..=127 with an F32 scale and the sum of the codes, per 32 columns.
    Q8,
}

/// How the tiles are laid out, and so which kernels read them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    Rows,
    Panel,
}

/// Sizes that depend on the instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileShape {
    /// Most tokens the decode kernels take; more go through panels.
    pub decode_tokens: usize,
    /// The same for plain numbers.
    pub float_decode_tokens: usize,
    /// Most tokens in an integer panel tile.
    pub int_tile: usize,
    /// Most tokens in a float panel tile.
    pub float_tile: usize,
    /// Rows of a float panel.
    pub float_rows: usize,
    /// The layout that the integer tile kernels read.
    pub panel: IntPanel,
}

/// Rows of an integer panel, on every level.
pub(crate) const INT_ROWS: usize = 16;

/// Dimensions and layout of an [`Activations`](crate::Activations); enough to fill its tiles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActShape {
    pub(crate) kind: ActKind,
    pub(crate) layout: Layout,
    /// The layout that the integer tile kernels read.
    pub(crate) panel: IntPanel,
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    pub(crate) tile_tokens: usize,
    pub(crate) tile_bytes: usize,
}

impl ActShape {
    /// The shape of `tokens` rows of `cols` values.
    ///
    /// # Panics
    /// If `tokens` or `cols` is zero, or `cols` is no multiple of 32 for [`ActKind::Q8`].
    pub(crate) fn new(level: &TileShape, kind: ActKind, tokens: usize, cols: usize) -> ActShape {
        assert!(tokens > 0 && cols > 0, "activations of {tokens} x {cols}");
        assert!(
            kind != ActKind::Q8 || cols.is_multiple_of(GROUP),
            "{cols} columns for Q8"
        );
        let (most, widest) = match kind {
            ActKind::F32 | ActKind::Bf16 => (level.float_decode_tokens, level.float_tile),
            ActKind::Q8 => (level.decode_tokens, level.int_tile),
        };
        let few = tokens <= most;
        // As even as possible: 16 tokens are two tiles of 8 rather than 14 + 2.
        let tile_tokens = if few {
            1
        } else {
            tokens.div_ceil(tokens.div_ceil(widest))
        };
        let bytes = match (kind, few) {
            (ActKind::F32, true) => cols.next_multiple_of(16) * 4,
            (ActKind::F32, false) => cols * tile_tokens * 4,
            (ActKind::Bf16, true) => cols.next_multiple_of(32) * 2,
            (ActKind::Bf16, false) => cols.div_ceil(2) * tile_tokens * 4,
            (ActKind::Q8, true) => cols.div_ceil(UNIT) * RowUnit::BYTES,
            (ActKind::Q8, false) => {
                cols / GROUP * PanelGroup::bytes(level.panel.slots(tile_tokens))
            }
        };
        ActShape {
            kind,
            layout: if few { Layout::Rows } else { Layout::Panel },
            panel: level.panel,
            tokens,
            cols,
            tile_tokens,
            tile_bytes: bytes.next_multiple_of(64),
        }
    }

    /// Tokens in tile `index`; the last one may have fewer than `tile_tokens`.
    pub fn tokens_in(&self, index: usize) -> usize {
        self.tokens
            .saturating_sub(index * self.tile_tokens)
            .min(self.tile_tokens)
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.tokens.div_ceil(self.tile_tokens)
    }

    /// Bytes of each tile.
    pub fn tile_bytes(&self) -> usize {
        self.tile_bytes
    }
}

/// Byte offsets in the *rows* layout of one 256-column unit of one token.
///
/// Codes come as two halves of four groups; a half is the first 16 codes of each of its groups,
/// then the last 16 of each, because that is how 4-bit formats store them.
pub(crate) struct RowUnit;

impl RowUnit {
    pub const CODES: usize = 0;
    /// Eight F32 scales.
    pub const SCALE: usize = 256;
    /// Eight sums of 32 codes times their scale, as F32.
    pub const SUM: usize = 288;
    /// The same for the first 16 codes of each group (for formats with groups of 16).
    pub const SUM_LOW: usize = 320;
    /// Eight sums of 32 codes, as I32: what an offset of the weights is multiplied with.
    pub const CODE_SUM: usize = 352;
    /// The same for the first 16 codes of each group.
    pub const CODE_SUM_LOW: usize = 384;
    /// And for the last 16.
    pub const CODE_SUM_HIGH: usize = 416;
    pub const BYTES: usize = 448;
}

/// Byte offsets in the *panel* layout of one 32-column group of `n` tokens:
/// the codes ([`IntPanel`]), then five arrays of `n` four-byte values. Groups are dealt to lanes.
pub(crate) struct PanelGroup;

impl PanelGroup {
    /// -128 times the sum of the 32 codes, I32 (zero for signed-weight levels).
    pub const fn start(n: usize) -> usize {
        32 * n
    }
    /// The same for the first 16 codes.
    pub const fn start_low(n: usize) -> usize {
        36 * n
    }
    /// Scales, F32.
    pub const fn scale(n: usize) -> usize {
        40 * n
    }
    /// Scale times sum of the 32 codes, F32.
    pub const fn sum(n: usize) -> usize {
        44 * n
    }
    /// Scale times sum of the first 16 codes, F32.
    pub const fn sum_low(n: usize) -> usize {
        48 * n
    }
    pub const fn bytes(n: usize) -> usize {
        52 * n
    }
}
