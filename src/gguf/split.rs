//! Files in parts: `NAME-00001-of-00003.gguf`. Naming and keys are those of llama.cpp's
//! `gguf-split`: all metadata in the first part, `split.no`, `split.count` and
//! `split.tensors.count` in each. Names of parts come from the name of the file that was opened,
//! never from metadata.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::checksums::SET_HASH;
use super::writer::{MetaValue, Plan};
use super::{GgufFile, Load, shape};
use crate::error::{Error, Result};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// The count is stored in 16 bits and named with five digits.
const MAX_PARTS: u64 = 65_535;
/// Room for the header of a part that has no metadata but the split keys.
const HEAD_BYTES: u64 = 512;

/// `model.gguf` → `model-00002-of-00003.gguf`.
pub fn part_path(path: &Path, part: usize, count: usize) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", part + 1))
}

/// The name before the numbers, with `.gguf`, and how many parts the name speaks of.
fn whole_path(path: &Path) -> Option<(PathBuf, usize)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse::<usize>().ok()).flatten();
    let (_, count) = (number(no)?, number(count)?);
    Some((path.with_file_name(format!("{stem}.gguf")), count))
}

/// Cuts a plan into parts of at most `max` bytes each, in order.
///
/// # Errors
/// [`Error::Request`] when a tensor (or the metadata) does not fit a part, or there are too many.
pub fn cut(plan: &Plan, max: u64) -> Result<Vec<Plan>> {
    let refuse = |value: String, least: u64| Error::Request {
        what: "split_max".into(),
        value,
        allowed: format!("at least {least} bytes"),
    };
    let head = |tensors: Vec<_>| Plan {
        metadata: plan.metadata.clone(),
        tensors,
    };
    let first = head(Vec::new()).layout()?.header.len() as u64 + HEAD_BYTES;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let (mut start, mut used) = (0, first);
    for (i, t) in plan.tensors.iter().enumerate() {
        let bytes = shape::tensor_bytes(&t.name, t.dtype, &t.dims, 0)?;
        // Table entry, stored hash, padding to any alignment that is usual.
        let cost = bytes + t.name.len() as u64 + 8 * t.dims.len() as u64 + 256;
        if i > start && used + cost > max {
            ranges.push(start..i);
            (start, used) = (i, HEAD_BYTES);
        }
        used += cost;
        if used > max {
            let value = format!("{max} bytes ({} needs more)", t.name);
            return Err(refuse(value, used));
        }
    }
    ranges.push(start..plan.tensors.len());
    let count = ranges.len() as u64;
    if count > MAX_PARTS {
        let all: u64 = plan.layout()?.file_bytes;
        return Err(refuse(
            format!("{max} bytes ({count} parts)"),
            all / MAX_PARTS * 2,
        ));
    }
    let total = plan.tensors.len() as i32;
    let part = |(no, range): (usize, Range<usize>)| {
        let mut out = head(plan.tensors[range].to_vec());
        if no > 0 {
            out.metadata
                .retain(|(k, _)| k == super::parse::ALIGNMENT_KEY);
        }
        out.set_meta(NO, MetaValue::U16(no as u16));
        out.set_meta(COUNT, MetaValue::U16(count as u16));
        out.set_meta(TENSORS, MetaValue::I32(total));
        out
    };
    Ok(ranges.into_iter().enumerate().map(part).collect())
}

impl GgufFile {
    /// Opens and validates a regular file, with the other parts when it is one of several.
    ///
    /// # Errors
    /// Rules 1 to 10 of docs/format.md; a missing part is named.
    pub fn open(path: &Path, load: Load) -> Result<GgufFile> {
        gather(Self::open_single(path, load)?, path, load)
    }
}

/// Opens the other parts of a split file. `file` may be any of them; the first is returned with
/// the others joined to it.
fn gather(file: GgufFile, path: &Path, load: Load) -> Result<GgufFile> {
    let count = file.int(COUNT, 0..=MAX_PARTS)?.unwrap_or(1) as usize;
    if count <= 1 {
        return Ok(file);
    }
    let named = whole_path(path).filter(|w| w.1 == count);
    let (whole, _) = named.ok_or_else(|| Error::Key {
        key: COUNT.into(),
        value: format!("{count}, but the file is named {}", path.display()),
        allowed: format!("a name that ends in -00001-of-{count:05}.gguf"),
    })?;
    let opened = file.int(NO, 0..=MAX_PARTS)?.unwrap_or(0) as usize;
    let mut given = Some(file);
    let mut open = |no: usize| -> Result<GgufFile> {
        let path = part_path(&whole, no, count);
        let part = match given.take_if(|_| no == opened) {
            Some(file) => file,
            None => GgufFile::open_single(&path, load).map_err(|e| missing(e, &path, no, count))?,
        };
        expect(&part, NO, no, &path)?;
        expect(&part, COUNT, count, &path)?;
        Ok(part)
    };
    let mut first = open(0)?;
    for no in 1..count {
        let part = open(no)?;
        let path = part_path(&whole, no, count);
        if part.str(SET_HASH)? != first.str(SET_HASH)? {
            return Err(Error::Key {
                key: SET_HASH.into(),
                value: format!("another one in {}", path.display()),
                allowed: "parts that were written together".into(),
            });
        }
        first.join(part)?;
    }
    let total = first.index().tensors.len();
    if first.get(TENSORS).is_some() {
        expect(&first, TENSORS, total, path)?;
    }
    Ok(first)
}

/// A part that is not there is named as one.
fn missing(error: Error, path: &Path, no: usize, count: usize) -> Error {
    match error {
        Error::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("part {} of {count} is missing", no + 1);
            let source = std::io::Error::new(source.kind(), text);
            Error::Io { path, source }
        }
        Error::Io { .. } => error,
        other => Error::Verify(format!("{}: {other}", path.display())),
    }
}

fn expect(file: &GgufFile, key: &str, want: usize, path: &Path) -> Result<()> {
    let found = file.int(key, 0..=u32::MAX.into())?;
    if found == Some(want as u64) {
        return Ok(());
    }
    Err(Error::Key {
        key: format!("{key} of {}", path.display()),
        value: found.map_or("absent".into(), |v| v.to_string()),
        allowed: want.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use geb_kernels::dtype::Dtype;

    #[test]
    fn names() {
        let path = Path::new("dir/model.q8.gguf");
        let part = part_path(path, 1, 12);
        assert_eq!(part, Path::new("dir/model.q8-00002-of-00012.gguf"));
        assert_eq!(whole_path(&part), Some((path.to_owned(), 12)));
        for other in [
            "a.gguf",
            "a-1-of-2.gguf",
            "a-00001-of-00002.bin",
            "-of-.gguf",
        ] {
            assert_eq!(whole_path(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn every_part_keeps_the_limit_and_nothing_is_lost() {
        let mut plan = Plan::default();
        plan.push_meta("general.architecture", "probe");
        for i in 0..50u64 {
            plan.push_tensor(format!("t{i}"), Dtype::Q8_0, [32, 1 + i * 7 % 40]);
        }
        let largest = 40 * 34;
        for max in [3 * largest, 10_000, 100_000] {
            let parts = cut(&plan, max).unwrap();
            for p in &parts {
                let mut p = p.clone();
                p.reserve_hashes(parts.len());
                assert!(p.layout().unwrap().file_bytes <= max, "{max}");
            }
            let names: Vec<_> = parts.iter().flat_map(|p| &p.tensors).collect();
            assert!(names.into_iter().eq(&plan.tensors));
        }
        let error = cut(&plan, 1000).unwrap_err().to_string();
        assert!(error.contains("split_max is 1000 bytes (t"), "{error}");
    }
}
