//! The small files of a checkpoint folder: size-capped reading, and errors that name file and field.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use geb::error::{Error, Result};
use geb::files;
use geb::gguf::checksums::hex;
use geb::kinds;
use geb::limits;

/// Shorthand for [`Error::Checkpoint`].
pub(super) fn bad(
    file: &str,
    field: impl Into<String>,
    value: impl ToString,
    allowed: impl Into<String>,
) -> Error {
    Error::Checkpoint {
        file: file.to_owned(),
        field: field.into(),
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

/// A checkpoint folder. Every file read through it is hashed for the provenance keys.
pub struct Folder {
    dir: PathBuf,
    /// The file that was named by its path; it may be a link to anywhere.
    given: Option<String>,
    read: std::cell::RefCell<Vec<(String, String)>>,
}

impl Folder {
    /// A folder of files; nothing is opened yet.
    pub fn new(dir: &Path) -> Folder {
        Folder {
            dir: dir.to_owned(),
            given: None,
            read: Default::default(),
        }
    }

    /// The same folder, of which the user named this file.
    pub fn naming(mut self, name: Option<&str>) -> Folder {
        self.given = name.map(str::to_owned);
        self
    }

    /// Path of a file inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether the folder holds a regular file (or a link to one) of that name.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// Names of the regular files whose names end so, in order.
    pub fn ending(&self, end: &str) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(Error::io(&self.dir))? {
            let name = entry.map_err(Error::io(&self.dir))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name.ends_with(end) && self.has(&name) {
                out.push(name);
            }
        }
        out.sort();
        Ok(out)
    }

    /// Name of the folder itself, for `general.name`.
    pub fn name(&self) -> String {
        let full = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        full.file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Path of a file inside, links followed. A link that leads out of the folder is refused, but for
    /// those of a Hugging Face cache to its own blobs; `None` when there is no such file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the link and where it leads, [`Error::Io`].
    pub fn inside(&self, name: &str) -> Result<Option<PathBuf>> {
        let path = self.path(name);
        let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(e) if absent(&e) && std::fs::symlink_metadata(&path).is_err() => return Ok(None),
            Err(e) if absent(&e) => return Err(link(name, &path, "a file that is there")),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let dir = self.dir.canonicalize().map_err(Error::io(&self.dir))?;
        let given = self.given.as_deref() == Some(name);
        match given || real.starts_with(&dir) || is_blob(&real, &dir) {
            true => Ok(Some(real)),
            false => {
                let allowed = "a file of the folder, or of the blobs of its Hugging Face cache";
                Err(link(name, &path, allowed))
            }
        }
    }

    /// Bytes of a file of at most [`limits::MAX_JSON_BYTES`]; `None` when absent.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.inside(name)? else {
            return Ok(None);
        };
        let max = limits::MAX_JSON_BYTES;
        let read = files::read_up_to(&path, max).map_err(|e| match e {
            Error::Request { value, allowed, .. } => bad(name, "kind of file", value, allowed),
            other => other,
        })?;
        let (value, allowed) = (
            format!("more than {max} bytes"),
            format!("at most {max} bytes"),
        );
        let bytes = read.ok_or_else(|| bad(name, "size", value, allowed))?;
        let typed = self.path(name);
        let answer = || kinds::answer(&typed, &bytes, "a file of a checkpoint");
        if let Some(e) = (!bytes.is_empty()).then(answer).flatten() {
            return Err(e);
        }
        self.record(name, &bytes);
        Ok(Some(bytes))
    }

    /// Text of a file; `None` when absent.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        match String::from_utf8(without_mark(bytes)) {
            Ok(text) => Ok(Some(text)),
            Err(e) => {
                let at = e.utf8_error().valid_up_to();
                Err(bad(
                    name,
                    "text",
                    format!("invalid UTF-8 after {at} bytes"),
                    "UTF-8",
                ))
            }
        }
    }

    /// A JSON file; `None` when absent. Nesting is limited to 128 levels by the JSON reader.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        let value: Value = serde_json::from_slice(&without_infinities(without_mark(bytes)))
            .map_err(|e| bad(name, "JSON", format!("malformed ({e})"), "a JSON object"))?;
        if !value.is_object() {
            return Err(bad(name, "JSON", kind(&value), "an object"));
        }
        Ok(Some(value))
    }

    fn record(&self, name: &str, bytes: &[u8]) {
        let mut read = self.read.borrow_mut();
        if !read.iter().any(|(n, _)| n == name) {
            read.push((name.to_owned(), hex(&Sha256::digest(bytes))));
        }
    }

    /// SHA-256 of every file read so far, by name.
    pub fn hashes(&self) -> Vec<(String, String)> {
        let mut all = self.read.borrow().clone();
        all.sort();
        all
    }
}

/// A link of the folder that is not followed.
fn link(name: &str, path: &Path, allowed: &str) -> Error {
    let to = std::fs::read_link(path).unwrap_or_default();
    let value = match to.as_os_str().is_empty() {
        true => "through a link that leads out of the folder".into(),
        false => format!("a link to {to:?}"),
    };
    bad(name, "kind of file", value, allowed)
}

/// Whether `real` is what a Hugging Face cache keeps for the folder `dir`, which it fills with links:
/// `models--A--B/snapshots/REV` beside `models--A--B/blobs`, or any folder with links to files named
/// by their hashes in `models--A--B/blobs`.
fn is_blob(real: &Path, dir: &Path) -> bool {
    let snapshots = dir.ancestors().filter(|a| a.ends_with("snapshots"));
    let caches = snapshots
        .filter_map(Path::parent)
        .chain(dir.ancestors().nth(2));
    if caches.map(|c| c.join("blobs")).any(|b| real.starts_with(b)) {
        return true;
    }
    let text = |p: Option<&Path>| p?.file_name()?.to_str().map(str::to_owned);
    let blobs = real.parent();
    let hash = text(Some(real))
        .is_some_and(|n| matches!(n.len(), 40 | 64) && n.bytes().all(|b| b.is_ascii_hexdigit()));
    let cache = text(blobs.and_then(Path::parent)).is_some_and(|n| n.starts_with("models--"));
    hash && cache && text(blobs).as_deref() == Some("blobs")
}

/// The bytes behind a byte order mark.
pub(super) fn without_mark(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    bytes
}

/// Python writes `Infinity` and `NaN` where JSON has no number; `null` takes their place.
fn without_infinities(mut bytes: Vec<u8>) -> Vec<u8> {
    let (mut at, mut quoted) = (0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            b'I' | b'N' | b'-' if !quoted => {
                let word = [&b"Infinity"[..], b"-Infinity", b"NaN"]
                    .into_iter()
                    .find(|w| bytes[at..].starts_with(w));
                if let Some(word) = word {
                    bytes.splice(at..at + word.len(), *b"null");
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes
}

/// What kind of JSON value this is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Typed access to the keys of one JSON object; the first of several names that exists counts.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    /// File the object is from, for messages.
    pub file: &'a str,
    /// The object.
    pub value: &'a Value,
}

impl<'a> Fields<'a> {
    /// The first of `names` that is present and not null.
    pub fn get(&self, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        names
            .iter()
            .find_map(|&n| self.value.get(n).filter(|v| !v.is_null()).map(|v| (n, v)))
    }

    /// The object under `name`, when there is one.
    pub fn object(&self, name: &'static str) -> Option<Fields<'a>> {
        let (_, value) = self.get(&[name])?;
        value.is_object().then_some(Fields {
            file: self.file,
            value,
        })
    }

    /// An unsigned integer in `range`.
    pub fn uint(
        &self,
        names: &[&'static str],
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>> {
        let Some((name, value)) = self.get(names) else {
            return Ok(None);
        };
        // Some configurations write integers as 4096.0.
        let n = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && *f >= 0.0 && *f < 1e15)
                .map(|f| f as u64)
        });
        match n.filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let allowed = format!("an integer in {}..={}", range.start(), range.end());
                Err(bad(self.file, name, short(value), allowed))
            }
        }
    }

    /// A required unsigned integer.
    pub fn need_uint(
        &self,
        names: &[&'static str],
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64> {
        self.uint(names, range)?
            .ok_or_else(|| bad(self.file, names[0], "absent", "an integer"))
    }

    /// A finite float in `range`.
    pub fn float(
        &self,
        names: &[&'static str],
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>> {
        let Some((name, value)) = self.get(names) else {
            return Ok(None);
        };
        match value.as_f64().filter(|v| range.contains(v)) {
            Some(v) => Ok(Some(v)),
            None => {
                let allowed = format!("a number in {:e}..={:e}", range.start(), range.end());
                Err(bad(self.file, name, short(value), allowed))
            }
        }
    }

    /// A bool.
    pub fn bool(&self, name: &'static str) -> Result<Option<bool>> {
        match self.get(&[name]) {
            None => Ok(None),
            Some((_, Value::Bool(b))) => Ok(Some(*b)),
            Some((_, v)) => Err(bad(self.file, name, short(v), "true or false")),
        }
    }

    /// A string.
    pub fn str(&self, names: &[&'static str]) -> Result<Option<&'a str>> {
        match self.get(names) {
            None => Ok(None),
            Some((_, Value::String(s))) => Ok(Some(s)),
            Some((name, v)) => Err(bad(self.file, name, short(v), "a string")),
        }
    }

    /// Token ids under `name`, one integer or a list of them: those below `len`, and the others as
    /// they are written.
    pub fn ids(&self, name: &'static str, len: usize) -> (Vec<u32>, Vec<String>) {
        let (mut ids, mut unfit) = (Vec::new(), Vec::new());
        let Some((_, value)) = self.get(&[name]) else {
            return (ids, unfit);
        };
        let one = std::slice::from_ref(value);
        for value in value.as_array().map_or(one, Vec::as_slice) {
            // Python writes 2.0 where arithmetic has touched an id.
            let whole = value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && *f >= 0.0)
                .map(|f| f as u64);
            let id = value.as_u64().or(whole).filter(|&id| id < len as u64);
            match id {
                Some(id) => ids.push(id as u32),
                // -1 is a common way to say "none".
                None if value.is_null() || value.as_i64() == Some(-1) => {}
                None => unfit.push(short(value)),
            }
        }
        (ids, unfit)
    }
}

/// A JSON value cut to the length of a message.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_only_python_writes_are_null() {
        let text = br#"{"a": [0.0, Infinity, -Infinity, -1], "NaN": NaN, "b": "\"Infinity NaN"}"#;
        let want = br#"{"a": [0.0, null, null, -1], "NaN": null, "b": "\"Infinity NaN"}"#;
        assert_eq!(without_infinities(text.to_vec()), want);
    }
}
