//! The form of an importance matrix before GGUF (`.dat`), as llama.cpp wrote it until 2025 and still can.
//!
//! ```text
//! i32 entries
//! entry:    i32 length, name; i32 calls; i32 values, F32 each: mean square times calls
//! then, in files from April 2024 on:  i32 chunks; i32 length, name of the text
//! ```
//! All numbers are little-endian. A stack of matrices has the values of all of them, one after the other.

use std::collections::BTreeMap;

use super::entry::Entry;
use crate::limits;

/// What a file holds.
pub(super) struct Legacy {
    pub entries: BTreeMap<String, Entry>,
    pub chunks: u32,
    pub dataset: Option<String>,
}

/// What is wrong: field, value, what is allowed.
pub(super) type Wrong = (String, String, String);

/// Whether the bytes begin like such a file: a count and a name of plausible lengths.
pub(super) fn looks_like(data: &[u8]) -> bool {
    let mut cursor = Cursor { data };
    let entries = cursor.int();
    let name = cursor.int().and_then(|n| cursor.take(n));
    let text = |n: &[u8]| !n.is_empty() && n.iter().all(|b| b.is_ascii_graphic());
    entries.is_some_and(|n| n > 0) && name.is_some_and(text)
}

/// Reads a file; nothing is reserved because a count says so.
pub(super) fn parse(data: &[u8]) -> Result<Legacy, Wrong> {
    let mut cursor = Cursor { data };
    let most = limits::MAX_TENSORS as usize;
    let count = cursor.int().unwrap_or(0);
    if !(1..=most).contains(&count) {
        return Err(wrong("entries", count, format!("1..={most}")));
    }
    let mut entries = BTreeMap::new();
    for i in 0..count {
        let (name, entry) = entry(&mut cursor, i)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(wrong(format!("entry {i}"), name, "each tensor once"));
        }
    }
    if cursor.data.is_empty() {
        return Ok(Legacy {
            entries,
            chunks: 0,
            dataset: None,
        });
    }
    let ends = || wrong("text behind the entries", "cut short", "chunks and a name");
    let chunks = cursor.int().ok_or_else(ends)?;
    let name = cursor.int().and_then(|n| cursor.take(n)).ok_or_else(ends)?;
    if !cursor.data.is_empty() {
        let value = format!("{} bytes", cursor.data.len());
        return Err(wrong("rest of the file", value, "none"));
    }
    Ok(Legacy {
        entries,
        chunks: u32::try_from(chunks).unwrap_or(u32::MAX),
        dataset: Some(String::from_utf8_lossy(name).into_owned()).filter(|n| !n.is_empty()),
    })
}

fn entry(cursor: &mut Cursor<'_>, i: usize) -> Result<(String, Entry), Wrong> {
    let cut = |what: &str| {
        let field = format!("{what} of entry {i}");
        wrong(field, "beyond the end of the file", "a whole file")
    };
    let name = cursor.int().and_then(|n| cursor.take(n));
    let name = name.ok_or_else(|| cut("name"))?;
    let name = std::str::from_utf8(name).map_err(|_| {
        let field = format!("name of entry {i}");
        wrong(field, String::from_utf8_lossy(name), "UTF-8")
    })?;
    let calls = cursor.int().ok_or_else(|| cut("calls"))?;
    let values = cursor.int().ok_or_else(|| cut("values"))?;
    if values == 0 {
        return Err(wrong(format!("values of {name}"), 0, "at least one"));
    }
    let bytes = values.checked_mul(4).and_then(|n| cursor.take(n));
    let bytes = bytes.ok_or_else(|| cut("values"))?.as_chunks::<4>().0;
    let sums: Vec<f32> = bytes.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if let Some(at) = sums.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        let allowed = "finite numbers that are not negative";
        return Err(wrong(format!("{name}[{at}]"), sums[at], allowed));
    }
    let entry = Entry {
        cols: values,
        sums,
        counts: vec![calls as f32],
    };
    Ok((name.to_owned(), entry))
}

fn wrong(field: impl ToString, value: impl ToString, allowed: impl ToString) -> Wrong {
    (field.to_string(), value.to_string(), allowed.to_string())
}

/// What has not been read.
struct Cursor<'a> {
    data: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.data.split_at_checked(n)?;
        self.data = rest;
        Some(taken)
    }

    /// An integer that is not negative.
    fn int(&mut self) -> Option<usize> {
        let le = self.take(4)?.first_chunk::<4>()?;
        usize::try_from(i32::from_le_bytes(*le)).ok()
    }
}
