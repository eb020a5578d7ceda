//! GPTQ: `qweight` [m·b/32, n], `qzeros` [groups, n·b/32], `scales` [groups, n], `g_idx` [m] of a Linear of
//! n outputs and m inputs.

use super::grid::{Grid, Group};
use super::parts::Parts;
use super::reader::{Config, Found, Reader, unsupported};
use super::table::{Bits, Meaning, Order, Table};
use crate::folder::bad;
use crate::tensor::SourceTensor;
use geb::error::Result;

pub(super) struct Gptq {
    /// As the configuration says; `None` where modules have their own.
    bits: Option<u64>,
    group: Option<u64>,
    /// Added to the stored zeros.
    add: i32,
    /// Columns are in the order of their activations.
    reordered: Option<bool>,
}

impl Gptq {
    pub fn open(config: &Config<'_>) -> Result<Box<dyn Reader>> {
        let fields = config.fields;
        let format = fields
            .str(&["checkpoint_format", "format"])?
            .unwrap_or("gptq");
        let marlin = fields.bool("is_marlin_format")? == Some(true);
        let format = if marlin { "marlin" } else { format };
        let add = match format {
            "gptq" => 1,
            "gptq_v2" => 0,
            other => return Err(unsupported(format!("gptq, checkpoint_format {other}"))),
        };
        let own = ["dynamic", "extra_config"].into_iter();
        let own = own
            .filter_map(|k| fields.object(k))
            .any(|f| f.value.as_object().is_some_and(|o| !o.is_empty()));
        Ok(Box::new(Gptq {
            bits: fields.uint(&["bits"], 1..=8)?.filter(|_| !own),
            group: config.group_size()?.filter(|_| !own),
            add,
            reordered: fields.bool("desc_act")?,
        }))
    }
}

impl Reader for Gptq {
    fn read(&self, parts: &Parts<'_>, t: &SourceTensor) -> Result<Option<Found>> {
        let Some(base) = t.name.strip_suffix(".qweight") else {
            return Ok(None);
        };
        parts.expect(t, "I32")?;
        let [words, n] = parts.matrix(t)?;
        let zeros = parts.need(&format!("{base}.qzeros"), t)?;
        parts.expect(zeros, "I32")?;
        let scales = parts.need(&format!("{base}.scales"), t)?;
        let [groups, zero_words] = parts.matrix(zeros)?;
        let bits = self.bits_of(parts, zeros, zero_words, n)?;
        if words * 32 % bits != 0 {
            return Err(parts.wrong_shape(t, format!("rows of 32 numbers of {bits} bits")));
        }
        let m = words * 32 / bits;
        let packed = |inner, add: i32| Bits {
            bits,
            word: 4,
            inner,
            order: Order::Dense,
            meaning: Meaning::Less(-add),
        };
        let group = self.group_of(parts, base, t, (m, groups))?;
        let grid = Grid {
            zero: Some(Table::codes(
                parts,
                zeros,
                [n, groups],
                true,
                packed(true, self.add),
            )?),
            scale: Some(Table::numbers(parts, scales, [n, groups], true, None)?),
            group,
            ..Grid::plain(Table::codes(parts, t, [n, m], true, packed(false, 0))?)
        };
        let shape = [n as u64, m as u64];
        Ok(Some(
            Found::new(format!("{base}.weight"), &shape, grid).of_linear(),
        ))
    }
}

impl Gptq {
    /// Bits of a code: what the zeros take.
    fn bits_of(
        &self,
        parts: &Parts<'_>,
        zeros: &SourceTensor,
        words: usize,
        n: usize,
    ) -> Result<usize> {
        let bits = words * 32 / n;
        let fits = (words * 32).is_multiple_of(n) && [2, 3, 4, 8].contains(&bits);
        match fits && self.bits.is_none_or(|b| b == bits as u64) {
            true => Ok(bits),
            false => {
                let said = self.bits.map_or("2, 3, 4 or 8".into(), |b| b.to_string());
                Err(parts.wrong_shape(zeros, format!("[groups, {n}·b/32] with {said} bits")))
            }
        }
    }

    fn group_of(
        &self,
        parts: &Parts<'_>,
        base: &str,
        t: &SourceTensor,
        (m, groups): (usize, usize),
    ) -> Result<Group> {
        let size = self.group.map_or(
            m.div_ceil(groups) as u64,
            |g| if g == 0 { m as u64 } else { g },
        );
        let size = usize::try_from(size).unwrap_or(m).clamp(1, m);
        let neighbours = m.div_ceil(size) == groups;
        let Some(list) = parts.take(&format!("{base}.g_idx")) else {
            if neighbours && self.reordered != Some(true) {
                return Ok(Group::Of(size));
            }
            if self.reordered == Some(true) {
                parts.need(&format!("{base}.g_idx"), t)?;
            }
            let allowed = format!("{groups} groups of {m} columns");
            return Err(bad(
                parts.file(t),
                format!("{base}: group_size"),
                size,
                allowed,
            ));
        };
        let group = Group::read(parts, list, m, groups)?;
        let Group::At(of) = &group else {
            return Ok(group);
        };
        let in_order = neighbours && of.iter().enumerate().all(|(i, &g)| i / size == g as usize);
        // Written but never filled by some programs.
        let unset = groups > 1 && of.iter().all(|&g| g == 0);
        match (in_order, unset) {
            (true, _) => Ok(Group::Of(size)),
            (_, true) if neighbours && self.reordered == Some(false) => Ok(Group::Of(size)),
            (_, true) => {
                let allowed = format!("groups 0..{groups}, each used");
                Err(bad(
                    parts.file(t),
                    list.name.as_str(),
                    "zero for every column",
                    allowed,
                ))
            }
            _ => Ok(group),
        }
    }
}
