//! The keys of one architecture in one file.

use std::ops::RangeInclusive;

use super::arch::Arch;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value};

/// Reads keys that begin with the name of the architecture.
pub(super) struct Keys<'a> {
    pub file: &'a GgufFile,
    pub arch: &'static Arch,
}

impl Keys<'_> {
    /// Its whole name.
    pub fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch.name)
    }

    pub fn int(&self, suffix: &str, max: u64) -> Result<Option<usize>> {
        Ok(self
            .file
            .int(&self.key(suffix), 1..=max)?
            .map(|v| v as usize))
    }

    /// As [`Keys::int`], and 0.
    pub fn count(&self, suffix: &str, max: u64) -> Result<Option<usize>> {
        let v = self.file.int(&self.key(suffix), 0..=max)?;
        Ok(v.map(|v| v as usize))
    }

    pub fn bool(&self, suffix: &str) -> Result<Option<bool>> {
        self.file.bool(&self.key(suffix))
    }

    pub fn required(&self, suffix: &str, max: u64) -> Result<usize> {
        GgufFile::require(&self.key(suffix), self.int(suffix, max)?)
    }

    /// A number of each of `layers` layers: an array, or one number for all.
    pub fn each(&self, suffix: &str, max: u64, layers: usize) -> Result<Option<Vec<usize>>> {
        self.numbers(suffix, 1..=max, layers)
    }

    /// As [`Keys::each`], and 0.
    pub fn each_or_0(&self, suffix: &str, max: u64, layers: usize) -> Result<Option<Vec<usize>>> {
        self.numbers(suffix, 0..=max, layers)
    }

    fn numbers(
        &self,
        suffix: &str,
        range: RangeInclusive<u64>,
        layers: usize,
    ) -> Result<Option<Vec<usize>>> {
        let key = self.key(suffix);
        let Some(Value::Array(array)) = self.file.get(&key) else {
            let one = self.file.int(&key, range)?;
            return Ok(one.map(|v| vec![v as usize; layers]));
        };
        let number = |v: Value<'_>| {
            u64::try_from(v.as_int()?)
                .ok()
                .filter(|v| range.contains(v))
        };
        let list: Option<Vec<usize>> = (array.iter().take(layers))
            .map(|v| number(v).map(|v| v as usize))
            .collect();
        match list.filter(|l| l.len() == layers) {
            Some(list) => Ok(Some(list)),
            None => Err(Error::Key {
                key,
                value: "an array".into(),
                allowed: format!("for each of {layers} layers an integer in {range:?}"),
            }),
        }
    }

    pub fn float(&self, suffix: &str, range: std::ops::RangeInclusive<f32>) -> Result<Option<f32>> {
        let key = self.key(suffix);
        match self.file.float(&key)? {
            Some(v) if !range.contains(&v) => Err(Error::Key {
                key,
                value: v.to_string(),
                allowed: format!("{}..={}", range.start(), range.end()),
            }),
            v => Ok(v),
        }
    }

    pub fn bad<T>(
        &self,
        suffix: &str,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Result<T> {
        Err(Error::Key {
            key: self.key(suffix),
            value: value.to_string(),
            allowed: allowed.into(),
        })
    }
}
