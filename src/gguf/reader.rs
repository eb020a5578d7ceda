//! A bounds-checked cursor over file bytes: the only code that turns them into integers.
//!
//! Field names are taken as `impl Display` and formatted only when a read fails, so that
//! reading a good file allocates nothing for error texts.

use std::fmt::Display;

use crate::error::{Error, Result};

/// Reads little-endian values front to back; every read is checked against the end.
#[derive(Clone)]
pub struct Reader<'a> {
    data: &'a [u8],
    pos: usize,
}

/// Builds the error of a broken rule.
pub(super) fn bad(
    rule: u8,
    field: impl Display,
    value: impl Display,
    allowed: impl Display,
    offset: usize,
) -> Error {
    Error::Format {
        rule,
        field: field.to_string(),
        value: value.to_string(),
        allowed: allowed.to_string(),
        offset: offset as u64,
    }
}

impl<'a> Reader<'a> {
    /// A cursor at byte `pos` of `data`.
    pub fn at(data: &'a [u8], pos: usize) -> Self {
        Self {
            data,
            pos: pos.min(data.len()),
        }
    }

    /// Byte offset of the next read.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Bytes left.
    pub fn remaining(&self) -> u64 {
        (self.data.len() - self.pos) as u64
    }

    /// The next `n` bytes. `field` names them in the error.
    pub fn bytes(&mut self, n: u64, rule: u8, field: impl Display) -> Result<&'a [u8]> {
        if n > self.remaining() {
            let allowed =
                format_args!("at most the {} bytes left in the file", self.remaining()).to_string();
            return Err(bad(
                rule,
                field,
                format_args!("{n} bytes"),
                allowed,
                self.pos,
            ));
        }
        // `n` fits usize: it is at most the length of a slice.
        let end = self.pos + n as usize;
        let out = &self.data[self.pos..end];
        self.pos = end;
        Ok(out)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, rule: u8, field: impl Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N as u64, rule, field)?);
        Ok(out)
    }

    /// A `u32`.
    pub fn u32(&mut self, rule: u8, field: impl Display) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(rule, field)?))
    }

    /// A `u64`.
    pub fn u64(&mut self, rule: u8, field: impl Display) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(rule, field)?))
    }

    /// A string: `u64` length, then UTF-8 bytes; at most `max` bytes.
    pub fn string(&mut self, max: u64, rule: u8, field: impl Display) -> Result<&'a str> {
        let offset = self.pos;
        let len = self.u64(rule, &field)?;
        if len > max {
            return Err(bad(
                rule,
                format_args!("{field}: length"),
                len,
                format_args!("0..={max}"),
                offset,
            ));
        }
        let bytes = self.bytes(len, rule, &field)?;
        std::str::from_utf8(bytes).map_err(|e| {
            let value = format_args!("invalid UTF-8 after {} bytes", e.valid_up_to()).to_string();
            bad(rule, &field, value, "UTF-8", offset)
        })
    }
}
