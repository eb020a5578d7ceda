//! NVIDIA ModelOpt: FP8, INT8, NVFP4 and INT4 weights, which the types of a Linear's tensors tell apart;
//! `pre_quant_scale` is a factor of each input.

use super::floats::{elements, pairs, scale_number};
use super::grid::{Grid, fits};
use super::number::Number;
use super::parts::Parts;
use super::reader::{Config, Found, Reader, unsupported};
use super::table::{Bits, Meaning, Order, Table};
use crate::tensor::{Elem, SourceTensor};
use geb::error::Result;

/// What `quant_algo` may say.
const ALGORITHMS: [&str; 13] = [
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "MXFP8",
    "NVFP4",
    "NVFP4_AWQ",
    "W4A16_NVFP4",
    "MXFP4",
    "W4A16_AWQ",
    "W8A16",
    "W8A8_SQ_PER_CHANNEL",
    "MIXED_PRECISION",
    "NO_QUANT",
];

pub(super) struct ModelOpt {
    group: Option<u64>,
}

impl ModelOpt {
    pub fn open(config: &Config<'_>) -> Result<Box<dyn Reader>> {
        let algorithm = config
            .fields
            .str(&["quant_algo"])?
            .unwrap_or("MIXED_PRECISION");
        if !ALGORITHMS.contains(&algorithm.to_uppercase().as_str()) {
            return Err(unsupported(format!("modelopt, quant_algo {algorithm}")));
        }
        let group = config.group_size()?;
        Ok(Box::new(ModelOpt { group }))
    }
}

impl Reader for ModelOpt {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let number = Number::of(t.elem);
        let plain = number.is_none_or(|n| n != Number::U8 && n != Number::I8 && !n.is_f8());
        if plain || !(t.name.ends_with(".weight") || t.name.ends_with("_proj")) {
            return Ok(None);
        }
        let scale = parts.need(&format!("{}_scale", t.name), t)?;
        let second = parts.take(&format!("{}_scale_2", t.name));
        let (grid, shape) = match t.elem {
            Elem::Other("U8") if scale.shape.first() == t.shape.first() => {
                let (codes, shape) = pairs(parts, t)?;
                let block = Some([1, self.group.unwrap_or(16).max(1) as usize]);
                let number = scale_number(scale);
                // Blocks of 32 with powers of two.
                let block = if number.is_some() { None } else { block };
                let grid = Grid::plain(codes).scaled(parts, &shape, scale, number, block)?;
                (grid, shape)
            }
            Elem::Other("U8") => four_bits(parts, t, scale)?,
            _ => {
                let number = scale_number(scale);
                let size = self.group.unwrap_or(128).max(1) as usize;
                let block = Some([size, size]).filter(|&b| fits(&t.shape, scale, b));
                let grid = Grid::plain(elements(parts, t)?);
                let grid = grid.scaled(parts, &t.shape, scale, number, block)?;
                (grid, t.shape.clone())
            }
        };
        self.finish(parts, t, grid, second, &shape).map(Some)
    }
}

impl ModelOpt {
    fn finish(
        &self,
        parts: &Parts<'_>,
        t: &SourceTensor,
        mut grid: Grid,
        second: Option<&SourceTensor>,
        shape: &[u64],
    ) -> Result<Found> {
        if let Some(second) = second {
            grid.factor.0 *= parts.scalar(second)?;
        }
        let base = t.name.strip_suffix(".weight").unwrap_or(&t.name);
        if let Some(columns) = parts.take(&format!("{base}.pre_quant_scale")) {
            let size = [1, grid.codes.cols];
            grid.columns = Some(Table::numbers(parts, columns, size, false, None)?);
        }
        Ok(Found::new(t.name.clone(), shape, grid))
    }
}

/// Two rows of integers of 4 bits in one of bytes, the even one in the low half.
fn four_bits(
    parts: &Parts<'_>,
    t: &SourceTensor,
    scale: &SourceTensor,
) -> Result<(Grid, Vec<u64>)> {
    let [half, m] = parts.matrix(t)?;
    let bits = Bits {
        bits: 4,
        word: 1,
        inner: false,
        order: Order::Dense,
        meaning: Meaning::Signed,
    };
    let shape = vec![2 * half as u64, m as u64];
    let codes = Table::codes(parts, t, [2 * half, m], false, bits)?;
    let grid = Grid::plain(codes).scaled(parts, &shape, scale, None, None)?;
    Ok((grid, shape))
}
