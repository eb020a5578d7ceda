//! The journal of a long write: which tensors are finished, so that a killed run can continue.
//!
//! ```text
//! geb-journal 2
//! = version "0.1.0"          what the files are made from, one line per fact
//! = plan "5f2c…"
//!                            an empty line
//! 0 <sha256> <note>          tensor 0 is in the temporary file; the note belongs to the caller
//! ```
//! A line cut by a kill does not end with a line break and is dropped. The entries are claims:
//! who continues compares the SHA-256 with the bytes of the file before he believes one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::checksums::{hex, unhex};
use super::process::{alive, no_link};
use crate::error::{Error, Result};

/// What the name of a journal adds to that of the temporary file.
pub(super) const SUFFIX: &str = ".journal";
const MAGIC: &str = "geb-journal 2\n";
/// Longest journal that is read: 65,536 tensors of some 300 bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Facts that must agree for a run to be continued: what, and its value.
pub type Identity = Vec<(&'static str, String)>;

/// A finished tensor.
pub(super) struct Entry {
    pub sum: [u8; 32],
    pub note: String,
}

/// An open, locked journal; removed when dropped unless it is kept.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    pub keep: bool,
}

/// What a journal that was found is.
pub(super) enum Found {
    /// Of the same run, with these finished tensors.
    Same(Journal, BTreeMap<usize, Entry>),
    /// Of a run that differs in this.
    Other(String),
    /// In use, or not readable.
    InUse,
}

impl Journal {
    pub fn create(path: PathBuf, identity: &Identity) -> Result<Journal> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        let mut file = options.open(&path).map_err(Error::io(&path))?;
        let _ = file.try_lock();
        let text = head(identity);
        let keep = false;
        let written = file.write_all(text.as_bytes());
        let journal = Journal { path, file, keep };
        written.map_err(Error::io(&journal.path))?;
        Ok(journal)
    }

    /// Opens what process `pid` left, if it does not use it any more.
    pub fn reopen(path: &Path, pid: u32, identity: &Identity) -> Found {
        let mut options = OpenOptions::new();
        let Ok(mut file) = no_link(options.read(true).write(true)).open(path) else {
            return Found::InUse;
        };
        match file.try_lock() {
            Ok(()) => {}
            // Without locks, a process that lives may be the one.
            Err(TryLockError::Error(_)) if !alive(pid) => {}
            Err(_) => return Found::InUse,
        }
        let mut bytes = Vec::new();
        if (&mut file).take(MAX_BYTES).read_to_end(&mut bytes).is_err() {
            return Found::InUse;
        }
        let text = String::from_utf8_lossy(&bytes);
        let want = head(identity);
        let Some(body) = text.strip_prefix(&want) else {
            return Found::Other(difference(&text, identity));
        };
        let (entries, length) = entries(body);
        let end = (want.len() + length) as u64;
        // What follows the last whole line is dropped, so that new lines start at a line.
        if file.set_len(end).is_err() || file.seek(SeekFrom::Start(end)).is_err() {
            return Found::InUse;
        }
        let path = path.to_owned();
        let keep = true;
        Found::Same(Journal { path, file, keep }, entries)
    }

    pub fn record(&mut self, tensor: usize, sum: &[u8; 32], note: &str) -> Result<()> {
        let line = format!("{tensor} {} {note}\n", hex(sum));
        let written = self.file.write_all(line.as_bytes());
        written.map_err(Error::io(&self.path))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn head(identity: &Identity) -> String {
    let mut out = MAGIC.to_owned();
    for (what, value) in identity {
        // Quoted, so that no value can look like the end of the head.
        let _ = writeln!(out, "= {what} {value:?}");
    }
    out + "\n"
}

/// The first fact in which a journal differs.
fn difference(text: &str, identity: &Identity) -> String {
    let differs = |(what, value): &&(&str, String)| {
        let line = format!("= {what} {value:?}");
        !text.lines().any(|l| l == line)
    };
    let found = identity.iter().find(differs);
    found.map_or("form", |f| f.0).to_owned()
}

/// The whole lines of a journal, and how many bytes they take.
fn entries(body: &str) -> (BTreeMap<usize, Entry>, usize) {
    let mut out = BTreeMap::new();
    let mut length = 0;
    for line in body.split_inclusive('\n') {
        let mut fields = line.trim_end_matches('\n').splitn(3, ' ');
        let index = fields.next().and_then(|f| f.parse().ok());
        let sum = fields.next().and_then(unhex);
        let (Some(index), Some(sum), Some(note), true) =
            (index, sum, fields.next(), line.ends_with('\n'))
        else {
            break;
        };
        let note = note.to_owned();
        out.insert(index, Entry { sum, note });
        length += line.len();
    }
    (out, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(version: &str) -> Identity {
        vec![("version", version.into()), ("plan", "a\nb".into())]
    }

    fn found(path: &Path, version: &str) -> Found {
        Journal::reopen(path, u32::MAX, &identity(version))
    }

    #[test]
    fn lines_cut_anywhere_lose_only_the_last_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::create(path.clone(), &identity("1")).unwrap();
        for i in 0..3u8 {
            journal.record(i.into(), &[i; 32], "note of it").unwrap();
        }
        journal.keep = true;
        drop(journal);
        let whole = fs::read(&path).unwrap();
        let start = head(&identity("1")).len();
        let line = (whole.len() - start) / 3;
        for cut in start..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let Found::Same(mut journal, entries) = found(&path, "1") else {
                panic!("cut at {cut}");
            };
            assert_eq!(entries.len(), (cut - start) / line);
            assert!(entries.values().all(|e| e.note == "note of it"));
            journal.record(9, &[9; 32], "more").unwrap();
            drop(journal);
            let Found::Same(_, after) = found(&path, "1") else {
                panic!("after cut at {cut}");
            };
            assert_eq!(after.len(), entries.len() + 1);
        }
        for cut in 0..start {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(found(&path, "1"), Found::Other(_)));
        }
    }

    #[test]
    fn another_run_is_told_by_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::create(path.clone(), &identity("1")).unwrap();
        assert!(matches!(found(&path, "1"), Found::InUse), "locked");
        journal.keep = true;
        drop(journal);
        match found(&path, "2") {
            Found::Other(what) => assert_eq!(what, "version"),
            _ => panic!("another version"),
        }
        fs::write(&path, b"\xff\xfe rubbish").unwrap();
        assert!(matches!(found(&path, "1"), Found::Other(_)));
    }
}
