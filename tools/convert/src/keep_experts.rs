//! Dropping experts: the matrices and router rows of those that are not kept are left out.
//!
//! The others keep their order. The router's softmax then runs over those that are left, as if it
//! had never known more (expert pruning of Z-code, arXiv 2109.10465).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::item::{Item, Source};
use super::rows::Part;
use geb::error::{Error, Result};
use geb::gguf::writer::MetaValue;
use geb::limits;

/// Which experts stay: `0,2,5-7` in every layer, `3:0,1,4` in layer 3 (of encoder and decoder, where there are
/// two); several are joined by spaces.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeepExperts {
    all: Vec<usize>,
    layers: BTreeMap<usize, Vec<usize>>,
}

fn wrong<T>(value: impl ToString, allowed: impl Into<String>) -> Result<T> {
    Err(Error::Request {
        what: "keep_experts".into(),
        value: value.to_string(),
        allowed: allowed.into(),
    })
}

impl FromStr for KeepExperts {
    type Err = Error;

    fn from_str(text: &str) -> Result<KeepExperts> {
        let mut keep = KeepExperts::default();
        for word in text.split_whitespace() {
            let bad = || {
                wrong(
                    word,
                    "numbers and ranges such as 0,2,5-7, or 3:0,1 for layer 3",
                )
            };
            let (layer, list) = match word.split_once(':') {
                Some((layer, list)) => (Some(layer), list),
                None => (None, word),
            };
            let mut experts = Vec::new();
            for range in list.split(',') {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                match (first.parse::<usize>(), last.parse::<usize>()) {
                    (Ok(a), Ok(b)) if a <= b && (b as u64) < limits::MAX_EXPERTS => {
                        experts.extend(a..=b);
                    }
                    _ => return bad(),
                }
            }
            experts.sort_unstable();
            experts.dedup();
            match layer.map(str::parse::<usize>) {
                None => keep.all = experts,
                Some(Ok(layer)) => _ = keep.layers.insert(layer, experts),
                Some(Err(_)) => return bad(),
            }
        }
        Ok(keep)
    }
}

/// As it is typed, for the record in the file.
impl fmt::Display for KeepExperts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |experts: &[usize]| {
            let numbers: Vec<String> = experts.iter().map(usize::to_string).collect();
            numbers.join(",")
        };
        let mut words = Vec::new();
        if !self.all.is_empty() {
            words.push(list(&self.all));
        }
        let layers = self.layers.iter();
        words.extend(layers.map(|(l, experts)| format!("{l}:{}", list(experts))));
        f.write_str(&words.join(" "))
    }
}

impl KeepExperts {
    /// Leaves the other experts out of `items` and of the counts in `metadata`.
    ///
    /// # Errors
    /// [`Error::Request`] for a source without experts, an expert or layer that it has not, and layers
    /// that would keep different numbers.
    pub(super) fn apply(
        &self,
        items: &mut [Item],
        metadata: &mut [(String, MetaValue)],
    ) -> Result<()> {
        let find = |key: &str| metadata.iter().find(|m| m.0 == key).map(|m| &m.1);
        let arch = match find("general.architecture") {
            Some(MetaValue::Str(arch)) => arch.clone(),
            _ => String::new(),
        };
        let number = |suffix: &str| match find(&format!("{arch}.{suffix}")) {
            Some(MetaValue::U32(n)) => *n as usize,
            _ => 0,
        };
        let (count, used) = (number("expert_count"), number("expert_used_count"));
        if count == 0 {
            return wrong(self, "none: the source has no experts");
        }
        let mut kept = None;
        let mut unknown = self.layers.clone();
        for item in items {
            let Some((layer, each)) = experts_of(item, count)? else {
                continue;
            };
            unknown.remove(&layer);
            let experts = self.layers.get(&layer).unwrap_or(&self.all);
            if let Some(x) = experts.iter().find(|x| **x >= count) {
                return wrong(x, format!("0..{count}, the experts of a layer"));
            }
            let n = *kept.get_or_insert(experts.len());
            if experts.len() != n || n == 0 {
                let allowed = format!("{} as in the other layers, at least 1", n.max(1));
                return wrong(format!("{} in layer {layer}", experts.len()), allowed);
            }
            item.keep(experts, each);
        }
        if let Some(layer) = unknown.keys().next() {
            return wrong(format!("layer {layer}"), "a layer with experts");
        }
        let kept = kept.unwrap_or(count);
        for (key, value) in metadata {
            if *key == format!("{arch}.expert_count") {
                *value = MetaValue::U32(kept as u32);
            } else if *key == format!("{arch}.expert_used_count") {
                *value = MetaValue::U32(used.min(kept) as u32);
            }
        }
        Ok(())
    }
}

/// Layer of a tensor that has something of each expert, and how many rows.
fn experts_of(item: &Item, count: usize) -> Result<Option<(usize, usize)>> {
    let stacks = ["blk.", "enc.blk.", "dec.blk."];
    let name = stacks.iter().find_map(|s| item.name.strip_prefix(s));
    let Some((layer, role)) = name
        .and_then(|n| n.split_once('.'))
        .and_then(|(layer, role)| Some((layer.parse().ok()?, role)))
    else {
        return Ok(None);
    };
    let each = match item.dims[..] {
        [_, rows, x] if role.ends_with("_exps.weight") && x == count as u64 => rows as usize,
        [_, x] if role.ends_with("_gate_inp.weight") && x == count as u64 => 1,
        _ if role.contains("_exps.") || role.starts_with("ffn_gate.0.") => {
            return wrong(&item.name, "experts as one tensor of three dimensions");
        }
        _ => return Ok(None),
    };
    Ok(Some((layer, each)))
}

impl Item {
    /// Keeps `each` rows of each of `experts`.
    fn keep(&mut self, experts: &[usize], each: usize) {
        if let Some(last) = self.dims.last_mut() {
            *last = experts.len() as u64;
        }
        let Source::Rows(parts) = &mut self.source else {
            return;
        };
        let mut out = Vec::new();
        for x in experts {
            let (start, end) = (x * each, (x + 1) * each);
            let mut first = 0;
            for part in parts.iter() {
                let n = part.rows.len();
                let (a, b) = (start.max(first), end.min(first + n));
                if a < b {
                    out.push(Part {
                        rows: part.rows.slice(a - first..b - first),
                        ..part.clone()
                    });
                }
                first += n;
            }
        }
        *parts = out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        let keep: KeepExperts = "5,0-2,1 3:7".parse().expect("a list");
        assert_eq!(keep.to_string(), "0,1,2,5 3:7");
        assert_eq!(
            keep.to_string().parse::<KeepExperts>().expect("a list"),
            keep
        );
        for bad in ["a", "1,", "3-1", "x:1", "1:", "5000", "1-99999999999"] {
            assert!(bad.parse::<KeepExperts>().is_err(), "{bad}");
        }
    }
}
