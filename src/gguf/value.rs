//! Typed metadata values. Arrays stay where they are in the file and are read on demand.

use std::fmt::Display;

use super::reader::{Reader, bad};
use crate::error::Result;
use crate::limits;

/// Type of a metadata value, with the ids of the GGUF specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// All types, in the order of their ids.
    pub const ALL: [ValueType; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Looks an id up.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// Bytes of one element; for strings and arrays the smallest possible encoding.
    pub fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::Str | Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Array => 12,
        }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// A metadata value borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(ArrayRef<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A validated array: element type, count, and its bytes in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArrayRef<'a> {
    /// Type of the elements, never `Array`.
    pub elem: ValueType,
    /// Number of elements.
    pub len: usize,
    /// The encoded elements.
    pub(super) bytes: &'a [u8],
}

impl<'a> ArrayRef<'a> {
    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + 'a {
        let (elem, mut reader) = (self.elem, Reader::at(self.bytes, 0));
        // The parser has walked these bytes once with the same function, so `ok()` cannot end early.
        (0..self.len).map_while(move |_| Value::scalar(&mut reader, elem, "element").ok())
    }

    /// The bytes of the elements of a string array, in order: the quick way through a large
    /// vocabulary. The parser has seen that they are UTF-8; a file that was changed in place
    /// since may hold other bytes, or end early.
    pub fn strings(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let strings = self.elem == ValueType::Str;
        let mut rest = if strings { self.bytes } else { &[] };
        (0..self.len).map_while(move |_| {
            let (len, after) = rest.split_first_chunk::<8>()?;
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            let (string, next) = after.split_at_checked(len)?;
            rest = next;
            Some(string)
        })
    }

    /// The encoded elements, little-endian, for bulk casts of number arrays.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Value<'a> {
    /// Reads one value that is not an array. Checks rule 5.
    pub(super) fn scalar(
        r: &mut Reader<'a>,
        ty: ValueType,
        field: impl Display,
    ) -> Result<Value<'a>> {
        const R: u8 = 5;
        Ok(match ty {
            ValueType::U8 => Value::U8(r.array::<1>(R, field)?[0]),
            ValueType::I8 => Value::I8(i8::from_le_bytes(r.array(R, field)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(r.array(R, field)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(r.array(R, field)?)),
            ValueType::U32 => Value::U32(r.u32(R, field)?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(r.array(R, field)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(r.array(R, field)?)),
            ValueType::U64 => Value::U64(r.u64(R, field)?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(r.array(R, field)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(r.array(R, field)?)),
            ValueType::Str => Value::Str(r.string(limits::MAX_STRING_BYTES, R, field)?),
            ValueType::Bool => {
                let offset = r.pos();
                match r.array::<1>(R, &field)?[0] {
                    0 => Value::Bool(false),
                    1 => Value::Bool(true),
                    b => return Err(bad(R, format_args!("{field}: bool"), b, "0 or 1", offset)),
                }
            }
            ValueType::Array => return Err(bad(R, field, "array", "no nested arrays", r.pos())),
        })
    }

    /// Type of the value.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Any integer as `i128`; integer keys come in all widths.
    pub fn as_int(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}
