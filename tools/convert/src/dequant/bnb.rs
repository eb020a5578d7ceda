//! bitsandbytes: codes of 4 bits with a scale for each block of the flattened matrix, and 8-bit integers.

use std::sync::Arc;

use serde_json::Value;

use super::grid::Grid;
use super::number::Number;
use super::parts::Parts;
use super::reader::{Config, Found, Reader, unsupported};
use super::table::Table;
use crate::folder::{Fields, bad};
use crate::tensor::{Decode, Elem, Files, SourceTensor, byte_count};
use geb::error::{Error, Result};

/// The states that describe a 4-bit tensor, by the ends of their names.
const STATES: [&str; 2] = ["nf4", "fp4"];

pub(super) struct Bnb;

impl Bnb {
    pub fn open(_: &Config<'_>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Bnb))
    }
}

impl Reader for Bnb {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let state = |kind| parts.take(&format!("{}.quant_state.bitsandbytes__{kind}", t.name));
        if let Some(state) = STATES.into_iter().find_map(state) {
            return four_bits(parts, t, state).map(Some);
        }
        let base = t.name.strip_suffix(".weight");
        match (t.elem, base) {
            (Elem::Other("I8"), Some(base)) => eight_bits(parts, t, base).map(Some),
            _ => Ok(None),
        }
    }
}

/// `w · SCB / 127`, a scale for each row.
fn eight_bits(parts: &Parts<'_>, t: &SourceTensor, base: &str) -> Result<Found> {
    let [rows, cols] = parts.matrix(t)?;
    if let Some(format) = parts.take(&format!("{base}.weight_format"))
        && parts.scalar(format)? != 0.0
    {
        return Err(unsupported(format!(
            "bitsandbytes, {base}.weight_format of another order than rows"
        )));
    }
    let scale = parts.need(&format!("{base}.SCB"), t)?;
    let codes = Table::numbers(parts, t, [rows, cols], false, None)?;
    let grid = Grid::plain(codes).scaled(parts, &t.shape, scale, None, None)?;
    let grid = Grid {
        factor: (grid.factor.0, 127.0),
        ..grid
    };
    Ok(Found::new(t.name.clone(), &t.shape, grid).of_linear())
}

/// Codes of 4 bits, the high half of a byte first, of a matrix row by row without gaps.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    codes: SourceTensor,
    /// Values in the matrix and in a row.
    len: usize,
    cols: usize,
    map: [f32; 16],
    block: usize,
    scale: Scale,
}

/// A scale for each block: a float, or a code of 8 bits.
#[derive(Clone, Debug)]
struct Scale {
    codes: Table,
    double: Option<Double>,
}

/// What codes of scales mean: `map[code] · scale + offset`, a scale for each block of blocks.
#[derive(Clone, Debug)]
struct Double {
    map: Vec<f32>,
    scale: Table,
    block: usize,
    offset: f32,
}

fn four_bits(parts: &Parts<'_>, t: &SourceTensor, state: &SourceTensor) -> Result<Found> {
    let json: Value = serde_json::from_slice(&parts.bytes(state)?).map_err(|e| {
        let value = format!("malformed ({e})");
        bad(parts.file(state), state.name.as_str(), value, "JSON")
    })?;
    let fields = Fields {
        file: &state.name,
        value: &json,
    };
    let shape = shape_of(fields, &t.name)?;
    let len = shape.iter().product::<u64>() as usize;
    let cols = shape.last().map_or(1, |&d| d as usize);
    if t.range.len() != len.div_ceil(2) {
        let bytes = len.div_ceil(2);
        return Err(parts.wrong_shape(t, format!("{bytes} bytes for {shape:?} of 4 bits")));
    }
    let block = fields.need_uint(&["blocksize"], 1..=1 << 20)? as usize;
    let blocks = len.div_ceil(block);
    let part = |end: &str| parts.need(&format!("{}.{end}", t.name), t);
    let vector = |t: &SourceTensor, n| Table::numbers(parts, t, [1, n], false, None);
    let list = |t: &SourceTensor, n: usize| {
        let mut out = vec![0.0; n];
        let table = vector(t, n)?;
        table.read(parts.checkpoint.files(), &[0], &mut out)?;
        finite(&t.name, 0, &out)?;
        Ok::<_, Error>(out)
    };
    let mut map = [0.0; 16];
    map.copy_from_slice(&list(part("quant_map")?, 16)?);
    let absmax = part("absmax")?;
    let nested = format!("{}.nested_absmax", t.name);
    let double = match Number::of(absmax.elem) {
        Some(Number::U8) => {
            let outer = fields.need_uint(&["nested_blocksize"], 1..=1 << 20)? as usize;
            let offset = fields.float(&["nested_offset"], -1e30..=1e30)?;
            Some(Double {
                map: list(part("nested_quant_map")?, 256)?,
                scale: vector(parts.need(&nested, t)?, blocks.div_ceil(outer))?,
                block: outer,
                offset: offset.unwrap_or(0.0) as f32,
            })
        }
        _ if parts.has(&nested) => return Err(parts.wrong_type(absmax, "U8")),
        _ => None,
    };
    let scale = Scale {
        codes: vector(absmax, blocks)?,
        double,
    };
    let blocks = Blocks {
        codes: t.clone(),
        len,
        cols,
        map,
        block,
        scale,
    };
    let found = Found::of(t.name.clone(), &shape, Arc::new(blocks), cols);
    Ok(found.of_linear())
}

fn shape_of(fields: Fields<'_>, name: &str) -> Result<Vec<u64>> {
    let list = fields.get(&["shape"]).and_then(|v| v.1.as_array());
    let sizes = list.and_then(|l| l.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>());
    let allowed = "1 to 8 sizes from 1 to 2^40";
    let ok =
        |s: &Vec<u64>| (1..=8).contains(&s.len()) && s.iter().all(|d| (1..=1 << 40).contains(d));
    let found = fields
        .get(&["shape"])
        .map_or("absent".into(), |v| v.1.to_string());
    let cut: String = found.chars().take(60).collect();
    let sizes = sizes
        .filter(ok)
        .ok_or_else(|| bad(fields.file, "shape", cut, allowed))?;
    byte_count(fields.file, name, &sizes, 4)?;
    Ok(sizes)
}

fn finite(name: &str, first: usize, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::NonFinite {
            what: format!("tensor {name}"),
            index: (first + at) as u64,
            value: values[at],
        }),
    }
}

impl Decode for Blocks {
    fn rows(&self, files: &Files, rows: &[usize], out: &mut [f32]) -> Result<()> {
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(self.cols.max(1))) {
            let start = row * self.cols;
            let end = start + out.len();
            if end > self.len {
                return Err(Error::Verify(format!(
                    "rows beyond the end of {}",
                    self.codes.name
                )));
            }
            let mut bytes = vec![0; end.div_ceil(2) - start / 2];
            files.read(&self.codes, start / 2, &mut bytes)?;
            let first = start / self.block;
            let scales = self
                .scale
                .values(files, first, (end - 1) / self.block + 1)?;
            for (i, out) in (start..end).zip(out) {
                let byte = bytes[i / 2 - start / 2];
                let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                *out = self.map[usize::from(code)] * scales[i / self.block - first];
            }
        }
        Ok(())
    }

    fn stored(&self) -> u64 {
        let double = self.scale.double.as_ref().map_or(0, |d| d.scale.stored());
        let scales = self.scale.codes.stored() + double;
        self.codes.range.len() as u64 + scales
    }
}

impl Scale {
    /// Those of the blocks `first..end`.
    fn values(&self, files: &Files, first: usize, end: usize) -> Result<Vec<f32>> {
        let mut out = self.codes.some(files, first, end)?;
        if let Some(d) = &self.double {
            let from = first / d.block;
            let outer = d.scale.some(files, from, (end - 1) / d.block + 1)?;
            finite(d.scale.name(), from, &outer)?;
            for (i, x) in (first..end).zip(&mut out) {
                *x = d.map[*x as usize] * outer[i / d.block - from] + d.offset;
            }
        }
        finite(self.codes.name(), first, &out)?;
        Ok(out)
    }
}
