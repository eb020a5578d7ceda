//! Hashes inside the file: one SHA-256 per tensor, stored when it is written, checked later. Beside them
//! how many weights of each tensor are zero.
//!
//! The metadata precedes the data, so the keys are written as zeros of the right length first
//! and filled in when the data is there.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::value::ValueType;
use super::writer::{MetaValue, Plan};
use super::{GgufFile, Value};
use crate::error::{Error, Result};
use crate::sparsity::{ZERO_PERCENT, worth_packing};
use crate::threads;

/// SHA-256 of each tensor's bytes as hex digits, in file order.
pub const TENSOR_HASHES: &str = "geb.tensors.sha256";
/// SHA-256 over the hashes of all tensors of all parts of a split file, the same in every part.
pub const SET_HASH: &str = "geb.split.sha256";

/// Bytes read at a time.
const PIECE: usize = 1 << 18;
/// Bytes of a piece of a whole file.
const LONG: u64 = 16 << 20;
/// Bytes from which on several threads hash.
const PARALLEL: u64 = 16 << 20;

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// 64 hex digits.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

impl Plan {
    /// Makes room for the hash of every tensor, and of the set when there is more than one part; of files
    /// with Q8_0 matrices also for the zeros of every tensor.
    pub fn reserve_hashes(&mut self, parts: usize) {
        let zeros = hex(&[0; 32]);
        let all = vec![zeros.clone(); self.tensors.len()];
        self.set_meta(TENSOR_HASHES, MetaValue::Strs(all));
        if parts > 1 {
            self.set_meta(SET_HASH, zeros);
        }
        let matrices = self.tensors.iter();
        match matrices.filter(|t| worth_packing(t.dtype, &t.dims)).count() {
            0 => self.metadata.retain(|(k, _)| k != ZERO_PERCENT),
            _ => _ = self.set_meta(ZERO_PERCENT, vec![0u8; self.tensors.len()]),
        }
    }

    /// Fills in the zeros of every tensor in per cent, if there is room for them.
    pub fn set_zeros(&mut self, percents: &[u8]) {
        if self.metadata.iter().any(|(k, _)| k == ZERO_PERCENT) {
            self.set_meta(ZERO_PERCENT, percents.to_vec());
        }
    }

    /// Fills in what was reserved. Returns whether there was anything.
    pub fn set_checksums(&mut self, tensors: &[[u8; 32]], set: &[u8; 32]) -> bool {
        let mut any = false;
        for (key, value) in &mut self.metadata {
            match key.as_str() {
                TENSOR_HASHES => *value = MetaValue::Strs(tensors.iter().map(|s| hex(s)).collect()),
                SET_HASH => *value = MetaValue::Str(hex(set)),
                _ => continue,
            }
            any = true;
        }
        any
    }
}

/// SHA-256 over hashes.
pub fn hash_of<'a>(sums: impl Iterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    let mut sha = Sha256::new();
    sums.for_each(|s| sha.update(s));
    sha.finalize().into()
}

/// SHA-256 of ranges of a file. The file is read, not mapped: what has been hashed
/// does not stay in the memory of this process, and a file cut meanwhile is an error.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn hash_ranges(path: &Path, ranges: &[Range<u64>]) -> Result<Vec<[u8; 32]>> {
    let one = |range: &Range<u64>| -> std::io::Result<[u8; 32]> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut sha = Sha256::new();
        let mut buffer = vec![0; PIECE];
        let mut left = range.end - range.start;
        while left > 0 {
            let n = left.min(PIECE as u64) as usize;
            file.read_exact(&mut buffer[..n])?;
            sha.update(&buffer[..n]);
            left -= n as u64;
        }
        Ok(sha.finalize().into())
    };
    // Threads are not worth starting for a small file.
    let bytes: u64 = ranges.iter().map(|r| r.end - r.start).sum();
    let sums: std::io::Result<Vec<_>> = match bytes {
        ..PARALLEL => ranges.iter().map(one).collect(),
        _ => threads::spread(threads::here(), ranges, one)
            .into_iter()
            .collect(),
    };
    sums.map_err(Error::io(path))
}

/// SHA-256 over those of the pieces of all parts of these files.
///
/// # Errors
/// [`Error::Io`].
pub fn hash_files<'a>(files: impl IntoIterator<Item = &'a GgufFile>) -> Result<[u8; 32]> {
    let mut sums = Vec::new();
    for (part, path) in files.into_iter().flat_map(GgufFile::parts) {
        let length = part.data().len() as u64;
        let starts = (0..length).step_by(LONG as usize);
        let ranges: Vec<_> = starts.map(|at| at..length.min(at + LONG)).collect();
        sums.extend(hash_ranges(path, &ranges)?);
    }
    Ok(hash_of(sums.iter()))
}

/// What a check of the stored hashes found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Tensors.
    pub tensors: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Those whose bytes are not the ones that were written.
    pub damaged: Vec<String>,
    /// Tensors of parts without checksums, as other programs write them.
    pub unsealed: usize,
}

/// Compares the tensors of a file, or of all parts of a split file, with the hashes stored in it.
///
/// # Errors
/// Those of opening; [`Error::Key`] for checksums that are none, [`Error::Verify`] for those of other tensors.
pub fn check_hashes(path: &Path) -> Result<Checked> {
    let file = GgufFile::open(path, super::Load::Map)?;
    let mut out = Checked {
        tensors: 0,
        bytes: 0,
        damaged: Vec::new(),
        unsealed: 0,
    };
    let mut all = Vec::new();
    for (part, path) in file.parts() {
        let tensors = part.own_tensors();
        let Some(stored) = stored(part)? else {
            out.tensors += tensors.len();
            out.unsealed += tensors.len();
            continue;
        };
        let range = |t: &super::TensorInfo| t.range.start as u64..t.range.end as u64;
        let ranges: Vec<_> = tensors.iter().map(range).collect();
        let sums = hash_ranges(path, &ranges)?;
        for ((t, sum), stored) in tensors.iter().zip(sums).zip(stored) {
            out.tensors += 1;
            out.bytes += t.range.len() as u64;
            if sum != stored {
                out.damaged.push(t.name.clone());
            }
            all.push(stored);
        }
    }
    let set = file.str(SET_HASH)?.filter(|_| out.unsealed == 0);
    if set.is_some_and(|set| !set.eq_ignore_ascii_case(&hex(&hash_of(all.iter())))) {
        return Err(Error::Verify(format!(
            "{SET_HASH} is not that of these parts"
        )));
    }
    Ok(out)
}

/// The hashes of one part, as many as it has tensors; `None` for a file of another program.
fn stored(part: &GgufFile) -> Result<Option<Vec<[u8; 32]>>> {
    let n = part.own_tensors().len();
    let Some(list) = part.array(TENSOR_HASHES, ValueType::Str)? else {
        return Ok(None);
    };
    if list.len != n {
        return Err(Error::Verify(format!(
            "{TENSOR_HASHES} holds {} checksums, and there are {n} tensors: not the file that was written",
            list.len
        )));
    }
    let hash = |v: Value<'_>| match v {
        Value::Str(s) => unhex(s).ok_or_else(|| Error::Key {
            key: TENSOR_HASHES.into(),
            value: s.chars().take(80).collect(),
            allowed: "64 hex digits each".into(),
        }),
        // An array of strings holds strings.
        _ => Ok([0; 32]),
    };
    list.iter().map(hash).collect::<Result<_>>().map(Some)
}
