//! Floats of 8 bits with scales: `fp8`, `mxfp8`, `fbgemm_fp8`; and such floats without any.

use super::grid::{Grid, fits};
use super::number::{Number, e2m1};
use super::parts::Parts;
use super::reader::{Config, Found, Reader};
use super::table::{Bits, Meaning, Order, Table};
use crate::folder::bad;
use crate::tensor::{Elem, SourceTensor};
use geb::error::Result;

/// Ends of the names of scales, after the name of the weight, or in its place.
const AFTER: [&str; 2] = ["_scale_inv", "_scale"];
const INSTEAD: [&str; 3] = ["scale", "qscale_weight", "scale_weight"];

pub(super) struct Floats {
    block: Option<[usize; 2]>,
    /// Modules that stay as they are.
    plain: Vec<String>,
    /// Integers of 8 bits are two floats of 4.
    four: bool,
}

impl Floats {
    pub fn open(config: &Config<'_>) -> Result<Box<dyn Reader>> {
        let block = match config.method {
            "mxfp8" => Some([1, 32]),
            _ => config.pair("weight_block_size")?,
        };
        Ok(Box::new(Floats {
            block,
            plain: config.names(&["modules_to_not_convert", "ignored_layers"])?,
            four: config.fields.str(&["expert_dtype"])? == Some("fp4"),
        }))
    }
}

/// The scale of a weight, if it has one.
pub(super) fn scale_of<'a>(parts: &Parts<'a>, name: &str) -> Option<&'a SourceTensor> {
    let base = name.strip_suffix("weight");
    let after = AFTER.iter().map(|end| format!("{name}{end}"));
    let instead = base
        .into_iter()
        .flat_map(|b| INSTEAD.map(|end| format!("{b}{end}")));
    after
        .chain(instead)
        .find(|n| parts.has(n))
        .and_then(|n| parts.take(&n))
}

/// The type of a scale: bytes are powers of two.
pub(super) fn scale_number(scale: &SourceTensor) -> Option<Number> {
    (scale.elem == Elem::Other("U8")).then_some(Number::E8m0)
}

/// A table of all elements of a tensor; a vector has rows of one.
pub(super) fn elements(parts: &Parts<'_>, t: &SourceTensor) -> Result<Table> {
    let size = match t.shape.len() {
        0 | 1 => [t.cols(), 1],
        _ => [t.rows(), t.cols()],
    };
    Table::numbers(parts, t, size, false, None)
}

/// Pairs of E2M1 in bytes, the low half first, as rows twice as long.
pub(super) fn pairs(parts: &Parts<'_>, t: &SourceTensor) -> Result<(Table, Vec<u64>)> {
    let bits = Bits {
        bits: 4,
        word: 1,
        inner: true,
        order: Order::Dense,
        meaning: Meaning::Entry(e2m1()),
    };
    let mut shape = t.shape.clone();
    match shape.last_mut() {
        Some(last) => *last *= 2,
        None => return Err(parts.wrong_shape(t, "a matrix")),
    }
    let table = Table::codes(parts, t, [t.rows(), 2 * t.cols()], false, bits)?;
    Ok((table, shape))
}

/// Whether a weight's module is in a list of those that are not quantized.
pub(super) fn listed(list: &[String], name: &str) -> bool {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    list.iter().any(|l| {
        module == l || module.starts_with(&format!("{l}.")) || module.ends_with(&format!(".{l}"))
    })
}

impl Reader for Floats {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let f8 = Number::of(t.elem).is_some_and(Number::is_f8);
        let four = self.four && t.elem == Elem::Other("I8");
        if !f8 && !four {
            return Ok(None);
        }
        let Some(scale) = scale_of(parts, &t.name) else {
            if f8 && listed(&self.plain, &t.name) {
                return Plain.read(parts, t);
            }
            let allowed = format!("beside {}", t.name);
            return Err(bad(
                parts.file(t),
                format!("{}_scale_inv", t.name),
                "absent",
                allowed,
            ));
        };
        let (codes, shape) = match four {
            true => pairs(parts, t)?,
            false => (elements(parts, t)?, t.shape.clone()),
        };
        let number = scale_number(scale);
        // Where no size is said it is this one, or what the number of scales tells.
        let common = Some([128, 128]).filter(|&b| fits(&shape, scale, b));
        let block = self.block.or(common).filter(|_| !four);
        let grid = Grid::plain(codes).scaled(parts, &shape, scale, number, block)?;
        Ok(Some(Found::new(t.name.clone(), &shape, grid)))
    }
}

/// Floats of 8 bits that are the values.
pub(super) struct Plain;

impl Reader for Plain {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        if !Number::of(t.elem).is_some_and(Number::is_f8) {
            return Ok(None);
        }
        if let Some(scale) = scale_of(parts, &t.name) {
            let allowed = "absent, or a quantization_config in config.json that says what it is";
            return Err(bad(
                parts.file(scale),
                scale.name.as_str(),
                format!("a scale of {}", t.name),
                allowed,
            ));
        }
        let grid = Grid::plain(elements(parts, t)?);
        Ok(Some(Found::new(t.name.clone(), &t.shape, grid)))
    }
}
