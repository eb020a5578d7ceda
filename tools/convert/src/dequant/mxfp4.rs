//! MXFP4 as gpt-oss stores its experts: `X_blocks` U8 [.., n, blocks, 16], `X_scales` U8 [.., n, blocks]. A block
//! is 32 values of E2M1, the low half of a byte first, times a power of two.

use super::floats::pairs;
use super::grid::{Grid, Group};
use super::number::Number;
use super::parts::Parts;
use super::reader::{Config, Found, Reader};
use super::table::Table;
use crate::tensor::SourceTensor;
use geb::error::Result;

pub(super) struct Mxfp4;

impl Mxfp4 {
    pub fn open(_: &Config<'_>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Mxfp4))
    }
}

impl Reader for Mxfp4 {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let base = ["_blocks", ".blocks"]
            .iter()
            .find_map(|end| t.name.strip_suffix(end));
        let Some(base) = base else { return Ok(None) };
        parts.expect(t, "U8")?;
        let (outer, blocks) = match t.shape[..] {
            [ref outer @ .., blocks, 16] if !outer.is_empty() => (outer, blocks),
            _ => return Err(parts.wrong_shape(t, "[.., outputs, blocks, 16]")),
        };
        let separator = &t.name[base.len()..base.len() + 1];
        let scales = parts.need(&format!("{base}{separator}scales"), t)?;
        parts.expect(scales, "U8")?;
        if scales.shape != t.shape[..t.shape.len() - 1] {
            let allowed = format!("{:?}", &t.shape[..t.shape.len() - 1]);
            return Err(parts.wrong_shape(scales, allowed));
        }
        let rows = outer.iter().product::<u64>();
        let flat = SourceTensor {
            shape: vec![rows, blocks * 16],
            ..t.clone()
        };
        let (codes, _) = pairs(parts, &flat)?;
        let size = [rows as usize, blocks as usize];
        let grid = Grid {
            scale: Some(Table::numbers(
                parts,
                scales,
                size,
                false,
                Some(Number::E8m0),
            )?),
            group: Group::Of(32),
            ..Grid::plain(codes)
        };
        let shape: Vec<u64> = outer.iter().copied().chain([blocks * 32]).collect();
        Ok(Some(Found::new(base.to_owned(), &shape, grid).of_linear()))
    }
}
