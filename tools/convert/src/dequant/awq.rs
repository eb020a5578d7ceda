//! AWQ. `gemm`: `qweight` [m, n/8], `qzeros` [groups, n/8], `scales` [groups, n], eight outputs of a word
//! interleaved. `gemv`: `qweight` [n, m/8], `qzeros` [n, w], `scales` [n, 8·w], the rest of w unused.

use super::grid::{Grid, Group};
use super::parts::Parts;
use super::reader::{Config, Found, Reader, unsupported};
use super::table::{Bits, Meaning, Order, Table};
use crate::tensor::SourceTensor;
use geb::error::Result;

pub(super) struct Awq {
    by_rows: bool,
    group: Option<u64>,
}

impl Awq {
    pub fn open(config: &Config<'_>) -> Result<Box<dyn Reader>> {
        let fields = config.fields;
        let version = fields
            .str(&["version", "format"])?
            .unwrap_or("gemm")
            .to_lowercase();
        let by_rows = match version.as_str() {
            "gemm" => false,
            "gemv" => true,
            other => return Err(unsupported(format!("awq, version {other}"))),
        };
        if let Some(bits) = fields.uint(&["bits", "w_bit"], 1..=16)?.filter(|&b| b != 4) {
            return Err(unsupported(format!("awq, {bits} bits")));
        }
        if fields.str(&["backend"])? == Some("llm-awq") {
            return Err(unsupported("awq, backend llm-awq".into()));
        }
        let group = config.group_size()?;
        Ok(Box::new(Awq { by_rows, group }))
    }
}

impl Reader for Awq {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let Some(base) = t.name.strip_suffix(".qweight") else {
            return Ok(None);
        };
        parts.expect(t, "I32")?;
        let zeros = parts.need(&format!("{base}.qzeros"), t)?;
        parts.expect(zeros, "I32")?;
        let scales = parts.need(&format!("{base}.scales"), t)?;
        let [a, words] = parts.matrix(t)?;
        let [lines, zero_words] = parts.matrix(zeros)?;
        let (n, m) = match self.by_rows {
            true => (a, 8 * words),
            false => (8 * words, a),
        };
        let turned = !self.by_rows;
        let groups = if turned { lines } else { 8 * zero_words };
        let size = match self.group {
            Some(0) => m,
            Some(g) => usize::try_from(g).unwrap_or(m).clamp(1, m),
            None => m.div_ceil(groups),
        };
        let used = m.div_ceil(size);
        if used > groups || turned && used != groups {
            let allowed = format!("{used} groups of {size} for {m} inputs");
            return Err(parts.wrong_shape(zeros, allowed));
        }
        let bits = || Bits {
            bits: 4,
            word: 4,
            inner: true,
            order: if turned {
                Order::Interleaved
            } else {
                Order::Dense
            },
            meaning: Meaning::Less(0),
        };
        let grid = Grid {
            zero: Some(Table::codes(parts, zeros, [n, groups], turned, bits())?),
            scale: Some(Table::numbers(parts, scales, [n, groups], turned, None)?),
            group: Group::Of(size),
            ..Grid::plain(Table::codes(parts, t, [n, m], turned, bits())?)
        };
        let shape = [n as u64, m as u64];
        Ok(Some(
            Found::new(format!("{base}.weight"), &shape, grid).of_linear(),
        ))
    }
}
