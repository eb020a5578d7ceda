//! The safe interface: every operation checks its slices once, then calls one kernel.

mod float;
mod peak;
mod product;
mod sparse;
mod trial;

use std::sync::OnceLock;

use crate::dispatch;
use crate::dtype::Dtype;
use crate::format::search::Search;
use crate::layout::{ActKind, INT_ROWS};
use crate::level::Level;
use crate::table::{FormatOps, Kernels};

impl Kernels {
    /// The kernels of a level, with whatever this machine has beyond it that is faster, or `None` if this machine or
    /// build does not have the level. They are put together at the first call and stay as they are.
    pub fn for_level(level: Level) -> Option<&'static Kernels> {
        static COMPOSED: [OnceLock<Option<Kernels>>; Level::ALL.len()] =
            [const { OnceLock::new() }; Level::ALL.len()];
        let compose = || Self::compose(level);
        COMPOSED[level as usize].get_or_init(compose).as_ref()
    }

    fn compose(level: Level) -> Option<Kernels> {
        let mut kernels = Self::plain(level)?;
        dispatch::extend(&mut kernels);
        if let Some(tile) = dispatch::on_trial(level)
            && trial::passes(tile, level)
        {
            kernels.take_tile(tile);
        }
        Some(kernels)
    }

    /// The kernels of a level without what some of its machines have beyond it, or `None` if this machine or build does
    /// not have the level. Their results are the same bits on every machine that has.
    pub fn plain(level: Level) -> Option<Kernels> {
        let table = level.is_available().then(|| dispatch::table(level))?;
        table.map(Kernels::new)
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
        self.format(dtype).name
    }

    /// What weights of this type multiply with.
    pub fn act_kind(&self, dtype: Dtype) -> ActKind {
        self.format(dtype).act
    }

    /// The most tokens for which a product reads weights straight from the file instead of
    /// decoding panels.
    pub fn decode_tokens(&self) -> usize {
        self.tile_shape.decode_tokens
    }

    /// Rows that should stay together when a product is split over threads.
    pub fn row_multiple(&self, dtype: Dtype) -> usize {
        match self.format(dtype).act {
            ActKind::F32 | ActKind::Bf16 => self.tile_shape.float_rows,
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
}
