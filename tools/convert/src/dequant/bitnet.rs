//! BitNet: `weight` U8 [n/4, m], the rows of a quarter of the matrix in each pair of bits, 0 for −1;
//! `weight_scale` is divided by, or multiplied with (`linear_class` autobitlinear).

use super::grid::Grid;
use super::parts::Parts;
use super::reader::{Config, Found, Reader, unsupported};
use super::table::{Bits, Meaning, Order, Table};
use crate::folder::bad;
use crate::tensor::{Elem, SourceTensor};
use geb::error::Result;

pub(super) struct Bitnet {
    multiplied: bool,
}

impl Bitnet {
    pub fn open(config: &Config<'_>) -> Result<Box<dyn Reader>> {
        let fields = config.fields;
        let class = fields.str(&["linear_class"])?.unwrap_or("bitlinear");
        let multiplied = match class {
            "bitlinear" => false,
            "autobitlinear" => true,
            other => return Err(unsupported(format!("bitnet, linear_class {other}"))),
        };
        // Weights that are quantized while the model runs; norms inside the Linears.
        let mode = fields.str(&["quantization_mode"])?.unwrap_or("offline");
        if mode != "offline" {
            return Err(unsupported(format!("bitnet, quantization_mode {mode}")));
        }
        if fields.bool("use_rms_norm")? == Some(true) {
            return Err(unsupported("bitnet, use_rms_norm".into()));
        }
        Ok(Box::new(Bitnet { multiplied }))
    }
}

impl Reader for Bitnet {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        if t.elem != Elem::Other("U8") || !t.name.ends_with(".weight") {
            return Ok(None);
        }
        let [quarter, cols] = parts.matrix(t)?;
        let scale_name = format!("{}_scale", t.name);
        let scale = parts.need(&scale_name, t)?;
        let value = parts.scalar(scale)?;
        if !self.multiplied && value == 0.0 {
            return Err(bad(
                parts.file(scale),
                scale_name,
                value,
                "not 0: it is divided by",
            ));
        }
        let bits = Bits {
            bits: 2,
            word: 1,
            inner: false,
            order: Order::Planes,
            meaning: Meaning::Less(1),
        };
        let shape = [4 * quarter as u64, cols as u64];
        let codes = Table::codes(parts, t, [4 * quarter, cols], false, bits)?;
        let grid = Grid {
            factor: if self.multiplied {
                (value, 1.0)
            } else {
                (1.0, value)
            },
            ..Grid::plain(codes)
        };
        Ok(Some(Found::new(t.name.clone(), &shape, grid)))
    }
}
