//! Owned metadata values: what the writer puts into a file.

use super::value::{ArrayRef, Value, ValueType};

/// An owned metadata value to be written. Arrays hold one element type, as in the format.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum MetaValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    U64(u64),
    I64(i64),
    F64(f64),
    U8s(Vec<u8>),
    I8s(Vec<i8>),
    U16s(Vec<u16>),
    I16s(Vec<i16>),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
    U64s(Vec<u64>),
    I64s(Vec<i64>),
    F64s(Vec<f64>),
}

macro_rules! from {
    ($($ty:ty => $variant:ident;)*) => {
        $(impl From<$ty> for MetaValue {
            fn from(v: $ty) -> Self {
                Self::$variant(v)
            }
        })*
    };
}

from! {
    u8 => U8; i8 => I8; u16 => U16; i16 => I16; u32 => U32; i32 => I32; f32 => F32; bool => Bool;
    String => Str; u64 => U64; i64 => I64; f64 => F64;
    Vec<u8> => U8s; Vec<i8> => I8s; Vec<u16> => U16s; Vec<i16> => I16s; Vec<u32> => U32s;
    Vec<i32> => I32s; Vec<f32> => F32s; Vec<bool> => Bools; Vec<String> => Strs;
    Vec<u64> => U64s; Vec<i64> => I64s; Vec<f64> => F64s;
}

impl From<&str> for MetaValue {
    fn from(v: &str) -> Self {
        Self::Str(v.to_owned())
    }
}

impl MetaValue {
    /// Copies a value out of an open file.
    pub fn from_value(value: Value<'_>) -> MetaValue {
        match value {
            Value::U8(v) => Self::U8(v),
            Value::I8(v) => Self::I8(v),
            Value::U16(v) => Self::U16(v),
            Value::I16(v) => Self::I16(v),
            Value::U32(v) => Self::U32(v),
            Value::I32(v) => Self::I32(v),
            Value::F32(v) => Self::F32(v),
            Value::Bool(v) => Self::Bool(v),
            Value::Str(v) => Self::Str(v.to_owned()),
            Value::U64(v) => Self::U64(v),
            Value::I64(v) => Self::I64(v),
            Value::F64(v) => Self::F64(v),
            Value::Array(a) => Self::from_array(a),
        }
    }

    fn from_array(a: ArrayRef<'_>) -> MetaValue {
        macro_rules! collect {
            ($variant:ident) => {
                a.iter()
                    .filter_map(|v| {
                        if let Value::$variant(v) = v {
                            Some(v.into())
                        } else {
                            None
                        }
                    })
                    .collect()
            };
        }
        match a.elem {
            ValueType::U8 => Self::U8s(collect!(U8)),
            ValueType::I8 => Self::I8s(collect!(I8)),
            ValueType::U16 => Self::U16s(collect!(U16)),
            ValueType::I16 => Self::I16s(collect!(I16)),
            ValueType::U32 => Self::U32s(collect!(U32)),
            ValueType::I32 => Self::I32s(collect!(I32)),
            ValueType::F32 => Self::F32s(collect!(F32)),
            ValueType::Bool => Self::Bools(collect!(Bool)),
            // The parser accepts no nested arrays.
            ValueType::Str | ValueType::Array => Self::Strs(collect!(Str)),
            ValueType::U64 => Self::U64s(collect!(U64)),
            ValueType::I64 => Self::I64s(collect!(I64)),
            ValueType::F64 => Self::F64s(collect!(F64)),
        }
    }

    /// Type on disk; for arrays also the element type.
    pub fn ty(&self) -> (ValueType, Option<ValueType>) {
        use ValueType as T;
        match self {
            Self::U8(_) => (T::U8, None),
            Self::I8(_) => (T::I8, None),
            Self::U16(_) => (T::U16, None),
            Self::I16(_) => (T::I16, None),
            Self::U32(_) => (T::U32, None),
            Self::I32(_) => (T::I32, None),
            Self::F32(_) => (T::F32, None),
            Self::Bool(_) => (T::Bool, None),
            Self::Str(_) => (T::Str, None),
            Self::U64(_) => (T::U64, None),
            Self::I64(_) => (T::I64, None),
            Self::F64(_) => (T::F64, None),
            Self::U8s(_) => (T::Array, Some(T::U8)),
            Self::I8s(_) => (T::Array, Some(T::I8)),
            Self::U16s(_) => (T::Array, Some(T::U16)),
            Self::I16s(_) => (T::Array, Some(T::I16)),
            Self::U32s(_) => (T::Array, Some(T::U32)),
            Self::I32s(_) => (T::Array, Some(T::I32)),
            Self::F32s(_) => (T::Array, Some(T::F32)),
            Self::Bools(_) => (T::Array, Some(T::Bool)),
            Self::Strs(_) => (T::Array, Some(T::Str)),
            Self::U64s(_) => (T::Array, Some(T::U64)),
            Self::I64s(_) => (T::Array, Some(T::I64)),
            Self::F64s(_) => (T::Array, Some(T::F64)),
        }
    }

    /// Appends type id(s), count and value in the encoding of version 3, little-endian.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (ty, elem) = self.ty();
        out.extend((ty as u32).to_le_bytes());
        if let Some(elem) = elem {
            out.extend((elem as u32).to_le_bytes());
        }
        macro_rules! numbers {
            ($v:expr) => {{
                out.extend(($v.len() as u64).to_le_bytes());
                out.extend($v.iter().flat_map(|x| x.to_le_bytes()));
            }};
        }
        match self {
            Self::U8(v) => out.extend(v.to_le_bytes()),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::Str(v) => string(v, out),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::U8s(v) => numbers!(v),
            Self::I8s(v) => numbers!(v),
            Self::U16s(v) => numbers!(v),
            Self::I16s(v) => numbers!(v),
            Self::U32s(v) => numbers!(v),
            Self::I32s(v) => numbers!(v),
            Self::F32s(v) => numbers!(v),
            Self::Bools(v) => {
                out.extend((v.len() as u64).to_le_bytes());
                out.extend(v.iter().map(|&b| u8::from(b)));
            }
            Self::Strs(v) => {
                out.extend((v.len() as u64).to_le_bytes());
                v.iter().for_each(|s| string(s, out));
            }
            Self::U64s(v) => numbers!(v),
            Self::I64s(v) => numbers!(v),
            Self::F64s(v) => numbers!(v),
        }
    }
}

/// Appends a string: `u64` length, then its bytes.
pub(super) fn string(s: &str, out: &mut Vec<u8>) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}
