//! Files of a data set: which there are, their text, their rows and objects, and errors that name
//! file and line.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::csv::{self, Row};
use geb::error::{Error, Result};
use geb::limits;

/// A text file of a data set.
pub(crate) struct DataFile {
    path: PathBuf,
    text: String,
}

impl DataFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] for a file that is too large or not UTF-8.
    pub fn read(path: PathBuf) -> Result<DataFile> {
        let max = limits::MAX_DATA_FILE_BYTES;
        let read = geb::files::read_up_to(&path, max)?;
        let bytes = read.ok_or_else(|| {
            let (value, allowed) = (
                format!("more than {max} bytes"),
                format!("at most {max} bytes"),
            );
            bad(&path, 1, "size", &value, &allowed)
        })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let (at, bytes) = (e.utf8_error().valid_up_to(), e.as_bytes());
            let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
            let value = format!("not UTF-8 (byte {:#04x} at offset {at})", bytes[at]);
            bad(&path, line, "text", &value, "UTF-8")
        })?;
        Ok(DataFile { path, text })
    }

    /// All of it, without a byte order mark.
    pub fn text(&self) -> &str {
        self.text.strip_prefix('\u{feff}').unwrap_or(&self.text)
    }

    /// An error about this file.
    pub fn bad(&self, line: usize, field: &str, value: &str, allowed: &str) -> Error {
        bad(&self.path, line, field, value, allowed)
    }

    /// Rows of a CSV file.
    pub fn rows(&self) -> Result<Vec<Row>> {
        csv::parse(self.text()).map_err(|line| {
            self.bad(
                line,
                "quoted field",
                "without an end",
                "a closing quotation mark",
            )
        })
    }

    /// Whether the first row has all of `names`, in any order and case.
    pub fn has_header<const N: usize>(&self, names: [&str; N]) -> Result<bool> {
        let first = self.rows()?.into_iter().next();
        let fields = first.map_or(Vec::new(), |row| row.fields);
        let has = |name: &str| fields.iter().any(|f| f.trim().eq_ignore_ascii_case(name));
        Ok(names.into_iter().all(has))
    }

    /// Rows of a CSV file with a header: for each the line and the fields `names`, in their order.
    pub fn columns<const N: usize>(&self, names: [&str; N]) -> Result<Vec<(usize, [String; N])>> {
        let mut rows = self.rows()?.into_iter();
        let header = rows.next().map(|r| r.fields).unwrap_or_default();
        let mut at = [0; N];
        for (at, name) in at.iter_mut().zip(names) {
            let same = |h: &String| h.trim().eq_ignore_ascii_case(name);
            *at = header.iter().position(same).ok_or_else(|| {
                let allowed = format!("a header with {}", names.join(", "));
                self.bad(1, &format!("column {name}"), "missing", &allowed)
            })?;
        }
        rows.map(|mut row| {
            if row.fields.len() != header.len() {
                let value = format!("{} fields", row.fields.len());
                let allowed = format!("{}, as in the header", header.len());
                return Err(self.bad(row.line, "row", &value, &allowed));
            }
            Ok((row.line, at.map(|i| std::mem::take(&mut row.fields[i]))))
        })
        .collect()
    }

    /// Objects of a JSON-lines file that has at least `least`.
    pub fn at_least(&self, least: usize) -> Result<Vec<Object<'_>>> {
        let objects = self.objects()?;
        match objects.len() < least {
            true => {
                let (value, allowed) = (objects.len().to_string(), format!("at least {least}"));
                Err(self.bad(1, "number of lines", &value, &allowed))
            }
            false => Ok(objects),
        }
    }

    /// Objects of a JSON-lines file.
    pub fn objects(&self) -> Result<Vec<Object<'_>>> {
        let lines = self.text().lines().enumerate();
        lines
            .filter(|(_, l)| !l.trim().is_empty())
            .map(|(i, text)| {
                let value: Value = serde_json::from_str(text).map_err(|e| {
                    self.bad(i + 1, "line", &format!("no JSON ({e})"), "a JSON object")
                })?;
                if !value.is_object() {
                    return Err(self.bad(i + 1, "line", kind(&value), "a JSON object"));
                }
                Ok(Object {
                    file: self,
                    line: i + 1,
                    value,
                })
            })
            .collect()
    }
}

/// A line of a JSON-lines file.
pub(crate) struct Object<'a> {
    file: &'a DataFile,
    /// Line of the file, from 1.
    pub line: usize,
    value: Value,
}

impl Object<'_> {
    /// An error about a field of this object.
    pub fn bad(&self, field: &str, value: &str, allowed: &str) -> Error {
        self.file.bad(self.line, field, value, allowed)
    }

    /// A value by JSON pointer without its first slash (`question/stem`).
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.value
            .pointer(&format!("/{field}"))
            .filter(|v| !v.is_null())
    }

    fn need(&self, field: &str, allowed: &str) -> Result<&Value> {
        self.get(field)
            .ok_or_else(|| self.bad(&format!("field {field}"), "missing", allowed))
    }

    /// A text.
    pub fn text(&self, field: &str) -> Result<&str> {
        let value = self.need(field, "a text")?;
        value
            .as_str()
            .ok_or_else(|| self.bad(&format!("field {field}"), kind(value), "a text"))
    }

    /// A text with more than spaces in it, without those around it.
    pub fn some_text(&self, field: &str) -> Result<String> {
        match self.text(field)?.trim() {
            "" => Err(self.bad(&format!("field {field}"), "empty", "a text")),
            text => Ok(text.to_owned()),
        }
    }

    /// A text, or an integer written as one.
    pub fn word(&self, field: &str) -> Result<String> {
        match self.need(field, "a text or an integer")? {
            Value::String(s) => Ok(s.trim().to_owned()),
            Value::Number(n) => Ok(n.to_string()),
            other => Err(self.bad(
                &format!("field {field}"),
                kind(other),
                "a text or an integer",
            )),
        }
    }

    /// A list of texts.
    pub fn texts(&self, field: &str) -> Result<Vec<String>> {
        let value = self.need(field, "a list of texts")?;
        let wrong = |v: &Value| self.bad(&format!("field {field}"), kind(v), "a list of texts");
        let list = value.as_array().ok_or_else(|| wrong(value))?;
        let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| wrong(v));
        list.iter().map(text).collect()
    }

    /// `name` of every object in a list.
    pub fn texts_of(&self, field: &str, name: &str) -> Result<Vec<String>> {
        let value = self.need(field, "a list")?;
        let count = value.as_array().map_or(0, Vec::len);
        let text = |i| self.word(&format!("{field}/{i}/{name}"));
        (0..count).map(text).collect()
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn bad(path: &Path, line: usize, field: &str, value: &str, allowed: &str) -> Error {
    Error::Data {
        path: path.to_owned(),
        line,
        field: field.into(),
        value: value.into(),
        allowed: allowed.into(),
    }
}

/// Files of a folder whose names end with `suffix`, as (name without it, path), sorted. A folder
/// that does not exist has none.
pub(super) fn ending_with(dir: &Path, suffix: &str) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(dir)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        if let Some(stem) = name.and_then(|n| n.strip_suffix(suffix))
            && !stem.is_empty()
            && !stem.starts_with('.')
            && path.is_file()
        {
            found.push((stem.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether `name` matches `pattern`, in which `*` stands for any text and `?` for one character.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when a later character does not match: behind the last star, one further.
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (p, n) = (star, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("*", "law", true),
            ("law", "law", true),
            ("law", "laws", false),
            ("college_*", "college_law", true),
            ("*_law*", "international_law", true),
            ("*a*b?", "xaabbbc", true),
            ("*a*b?", "xaabb", true),
            ("*ab", "aab", true),
            ("?", "法", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
