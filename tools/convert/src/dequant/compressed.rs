//! compressed-tensors: `weight` (I8, F8) or `weight_packed` (words of codes of 1 to 8 bits, pairs of E2M1, E2M3),
//! `weight_scale`, `weight_zero_point`, `weight_g_idx`, `weight_global_scale`, `weight_shape`.

use fancy_regex::Regex;

use super::floats::{elements, pairs, scale_number};
use super::grid::{Grid, Group};
use super::number::{Number, e2m3};
use super::parts::Parts;
use super::reader::{Config, Found, Reader, unsupported};
use super::table::{Bits, Meaning, Order, Table};
use crate::folder::{Fields, bad};
use crate::tensor::{Elem, SourceTensor};
use geb::error::Result;

/// Ways of storing that are read.
const FORMATS: [&str; 10] = [
    "dense",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp6-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
];

/// How the weights of some modules are quantized.
#[derive(Clone, PartialEq, Debug)]
struct Scheme {
    bits: usize,
    symmetric: bool,
    /// Rows and columns that share a scale, where that is said.
    block: Option<[usize; 2]>,
}

pub(super) struct Compressed {
    groups: Vec<(Vec<Target>, Scheme)>,
}

/// Which modules a scheme is for.
enum Target {
    Name(String),
    Pattern(Box<Regex>),
    /// A class, by name: `Linear`, `Embedding`.
    Class(String),
}

impl Compressed {
    pub fn open(config: &Config<'_>) -> Result<Box<dyn Reader>> {
        let fields = config.fields;
        known(fields)?;
        for key in ["sparsity_config", "transform_config"] {
            let Some(inner) = fields.object(key) else {
                continue;
            };
            let format = inner.str(&["format"])?.unwrap_or("dense");
            let used = inner
                .object("config_groups")
                .and_then(|g| g.value.as_object());
            if format != "dense" || used.is_some_and(|g| !g.is_empty()) {
                return Err(unsupported(format!("compressed-tensors, {key} {format}")));
            }
        }
        let mut groups = Vec::new();
        let list = fields
            .object("config_groups")
            .and_then(|g| g.value.as_object());
        for (name, value) in list.into_iter().flatten() {
            let file = format!("{}: config_groups.{name}", config.file);
            let group = Fields { file: &file, value };
            known(group)?;
            let Some(weights) = group.object("weights") else {
                continue;
            };
            groups.push((targets(group)?, scheme(weights)?));
        }
        Ok(Box::new(Compressed { groups }))
    }

    /// The scheme of a module: by name, by pattern, or by class.
    fn scheme(&self, parts: &Parts<'_>, t: &SourceTensor, base: &str) -> Result<&Scheme> {
        let embedding = ["embed", "wte"].iter().any(|e| base.contains(e));
        let class = if embedding { "Embedding" } else { "Linear" };
        let fits: [fn(&Target, &str, &str) -> bool; 4] = [
            |t, base, _| matches!(t, Target::Name(n) if n == base || base.ends_with(&format!(".{n}"))),
            |t, base, _| matches!(t, Target::Pattern(p) if p.is_match(base).unwrap_or(false)),
            |t, _, class| matches!(t, Target::Class(c) if c == class),
            |t, _, _| matches!(t, Target::Class(_)),
        ];
        for fit in fits {
            let mut found = self
                .groups
                .iter()
                .filter(|g| g.0.iter().any(|t| fit(t, base, class)));
            if let Some(first) = found.next() {
                return Ok(&first.1);
            }
        }
        match &self.groups[..] {
            [(_, one), rest @ ..] if rest.iter().all(|(_, s)| s == one) => Ok(one),
            _ => {
                let field = format!("config_groups: {base}");
                Err(bad(
                    parts.file(t),
                    field,
                    "in no group",
                    "a target that names it",
                ))
            }
        }
    }
}

/// Refuses other formats.
fn known(fields: Fields<'_>) -> Result<()> {
    match fields.str(&["format"])? {
        Some(format) if !FORMATS.contains(&format) => {
            Err(unsupported(format!("compressed-tensors, format {format}")))
        }
        _ => Ok(()),
    }
}

fn targets(group: Fields<'_>) -> Result<Vec<Target>> {
    let list = group.get(&["targets"]).and_then(|t| t.1.as_array());
    let names = list.into_iter().flatten().filter_map(|v| v.as_str());
    let one = |name: &str| match name.strip_prefix("re:") {
        Some(pattern) => {
            let regex = Regex::new(&format!("^(?:{pattern})"));
            let regex =
                regex.map_err(|_| bad(group.file, "targets", pattern, "a regular expression"));
            Ok(Target::Pattern(Box::new(regex?)))
        }
        None if name.contains('.') || name.starts_with(char::is_lowercase) => {
            Ok(Target::Name(name.into()))
        }
        None => Ok(Target::Class(name.into())),
    };
    names.map(one).collect()
}

fn scheme(weights: Fields<'_>) -> Result<Scheme> {
    let bits = weights.uint(&["num_bits"], 1..=16)?.unwrap_or(8) as usize;
    let group = weights.get(&["group_size"]).and_then(|g| g.1.as_i64());
    let structure = weights
        .get(&["block_structure"])
        .and_then(|b| b.1.as_array());
    let sizes = structure.map(|b| b.iter().filter_map(|v| v.as_u64()).collect::<Vec<_>>());
    let size = |n: u64| (n as usize).clamp(1, 1 << 40);
    Ok(Scheme {
        bits,
        symmetric: weights.bool("symmetric")?.unwrap_or(true),
        block: match (sizes.as_deref(), group) {
            (Some(&[a, b]), _) => Some([size(a), size(b)]),
            (_, Some(g)) if g > 0 => Some([1, size(g as u64)]),
            _ => None,
        },
    })
}

impl Reader for Compressed {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let dense = matches!(t.elem, Elem::Float(_));
        if let Some(base) = t.name.strip_suffix(".weight_packed") {
            let scheme = self.scheme(parts, t, base)?;
            let number = Number::of(t.elem);
            return match (number, scheme.bits) {
                (Some(Number::I32), 1..=8) => integers(parts, t, base, scheme),
                (Some(Number::U8), 4) => fours(parts, t, base, scheme),
                (Some(Number::U8), 6) => sixes(parts, t, base, scheme),
                (Some(Number::U8 | Number::I32), bits) => {
                    let what = format!("compressed-tensors, {bits} bits in {}", t.name);
                    Err(unsupported(what))
                }
                _ => Err(parts.wrong_type(t, "I32, U8")),
            }
            .map(Some);
        }
        let Some(base) = t.name.strip_suffix(".weight") else {
            return Ok(None);
        };
        let scale = format!("{}_scale", t.name);
        if dense {
            return match parts.has(&scale) {
                true => Err(parts.wrong_type(t, "I8, F8_E4M3 beside a scale")),
                false => Ok(None),
            };
        }
        let number = Number::of(t.elem);
        if !number.is_some_and(|n| n == Number::I8 || n.is_f8()) {
            return Ok(None);
        }
        let scheme = self.scheme(parts, t, base)?;
        let scale = parts.need(&scale, t)?;
        let grid = Grid::plain(elements(parts, t)?);
        let grid = grid.scaled(parts, &t.shape, scale, scale_number(scale), scheme.block)?;
        let grid = with_zero(parts, t, scheme, base, grid)?;
        Ok(Some(Found::new(t.name.clone(), &t.shape, grid)))
    }
}

/// Codes of some bits in words of 32: one after the other, or (before 2026) as many as fit into each word.
fn integers(parts: &Parts<'_>, t: &SourceTensor, base: &str, scheme: &Scheme) -> Result<Found> {
    let scale = parts.need(&format!("{base}.weight_scale"), t)?;
    let sizes = parts.need(&format!("{base}.weight_shape"), t)?;
    let list = parts.integers(sizes)?;
    let list: Vec<u64> = list.iter().filter_map(|&n| u64::try_from(n).ok()).collect();
    let [outer @ .., words] = &t.shape[..] else {
        return Err(parts.wrong_shape(t, "[.., outputs, words]"));
    };
    let [rows @ .., m] = &list[..] else {
        return Err(parts.wrong_shape(sizes, "the sizes of a matrix"));
    };
    if rows != outer || *m > words.saturating_mul(32) || *m == 0 {
        let value = format!("{list:?}");
        let allowed = format!("{outer:?} and columns for {words} words of {}", t.name);
        return Err(bad(parts.file(sizes), sizes.name.as_str(), value, allowed));
    }
    let (n, m) = (t.rows(), *m as usize);
    let order = order_of(parts, t, scheme.bits, *words as usize, m)?;
    let bits = Bits {
        bits: scheme.bits,
        word: 4,
        inner: true,
        order,
        meaning: Meaning::Less(1 << (scheme.bits - 1)),
    };
    let grid = Grid::plain(Table::codes(parts, t, [n, m], false, bits)?);
    let grid = grid.scaled(parts, &list, scale, None, scheme.block)?;
    let grid = with_zero(parts, t, scheme, base, grid)?;
    Ok(Found::new(format!("{base}.weight"), &list, grid))
}

/// How `m` codes lie in so many words.
fn order_of(
    parts: &Parts<'_>,
    t: &SourceTensor,
    bits: usize,
    words: usize,
    m: usize,
) -> Result<Order> {
    let dense = (m * bits).div_ceil(32);
    let whole = m.div_ceil(32 / bits);
    match (words == dense, words == whole) {
        (true, _) if 32 % bits == 0 || m <= 32 / bits || dense != whole => Ok(Order::Dense),
        (false, true) => Ok(Order::Whole),
        (true, true) => Err(unsupported(format!(
            "compressed-tensors, {m} columns of {bits} bits in {}: two layouts have this size",
            t.name
        ))),
        _ => Err(parts.wrong_shape(t, format!("{dense} words for {m} columns of {bits} bits"))),
    }
}

/// Adds the zero points and the order of the groups.
fn with_zero(
    parts: &Parts<'_>,
    t: &SourceTensor,
    scheme: &Scheme,
    base: &str,
    mut grid: Grid,
) -> Result<Grid> {
    let groups = grid.scale.as_ref().map_or(1, |s| s.cols);
    let (n, m) = (grid.codes.rows, grid.codes.cols);
    let name = format!("{base}.weight_zero_point");
    let zero = if scheme.symmetric {
        None
    } else {
        Some(parts.need(&name, t)?)
    };
    // Without asymmetry they are zeros.
    parts.take(&name);
    match zero {
        Some(zero) if zero.elem == Elem::Other("I32") && t.name.ends_with("_packed") => {
            let bits = Bits {
                bits: scheme.bits,
                word: 4,
                inner: false,
                order: Order::Dense,
                meaning: Meaning::Less(1 << (scheme.bits - 1)),
            };
            let order = order_of(parts, zero, scheme.bits, zero.rows(), n)?;
            let bits = Bits { order, ..bits };
            grid.zero = Some(Table::codes(parts, zero, [n, groups], false, bits)?);
        }
        Some(zero) if zero.shape.iter().product::<u64>() == 1 && grid.scale.is_none() => {
            grid.offset = parts.scalar(zero)?;
        }
        Some(zero) if grid.step == 1 => {
            grid.zero = Some(Table::numbers(parts, zero, [n, groups], false, None)?);
        }
        Some(zero) => return Err(parts.wrong_shape(zero, "zero points of rows")),
        None => {}
    }
    if let Some(list) = parts.take(&format!("{base}.weight_g_idx"))
        && !parts.integers(list)?.contains(&-1)
    {
        grid.group = Group::read(parts, list, m, groups)?;
    }
    Ok(grid)
}

/// NVFP4 and MXFP4: pairs of E2M1 with a scale for each 16 or 32 columns, and one to divide by.
fn fours(parts: &Parts<'_>, t: &SourceTensor, base: &str, scheme: &Scheme) -> Result<Found> {
    let (codes, shape) = pairs(parts, t)?;
    let scale = parts.need(&format!("{base}.weight_scale"), t)?;
    let global = parts.take(&format!("{base}.weight_global_scale"));
    let size = if global.is_some() { 16 } else { 32 };
    let block = scheme.block.unwrap_or([1, size]);
    let grid = Grid::plain(codes).scaled(parts, &shape, scale, scale_number(scale), Some(block))?;
    let grid = Grid {
        factor: match global {
            Some(global) => (grid.factor.0, divisor(parts, global)?),
            None if scale_number(scale).is_none() => {
                parts.need(&format!("{base}.weight_global_scale"), t)?;
                grid.factor
            }
            None => grid.factor,
        },
        ..grid
    };
    Ok(Found::new(format!("{base}.weight"), &shape, grid))
}

fn divisor(parts: &Parts<'_>, t: &SourceTensor) -> Result<f32> {
    match parts.scalar(t)? {
        0.0 => Err(bad(
            parts.file(t),
            t.name.as_str(),
            0,
            "not 0: it is divided by",
        )),
        value => Ok(value),
    }
}

/// MXFP6: four E2M3 in three bytes, a power of two for each 32 columns.
fn sixes(parts: &Parts<'_>, t: &SourceTensor, base: &str, scheme: &Scheme) -> Result<Found> {
    let mut shape = t.shape.clone();
    let m = match shape.last_mut() {
        Some(last) if *last % 3 == 0 => {
            *last = *last / 3 * 4;
            *last as usize
        }
        _ => return Err(parts.wrong_shape(t, "[outputs, 3/4 of the inputs]")),
    };
    let bits = Bits {
        bits: 6,
        word: 1,
        inner: true,
        order: Order::Dense,
        meaning: Meaning::Entry(e2m3()),
    };
    let scale = parts.need(&format!("{base}.weight_scale"), t)?;
    let grid = Grid::plain(Table::codes(parts, t, [t.rows(), m], false, bits)?);
    let block = scheme.block.unwrap_or([1, 32]);
    let grid = grid.scaled(parts, &shape, scale, scale_number(scale), Some(block))?;
    Ok(Found::new(format!("{base}.weight"), &shape, grid))
}
