//! Planning and writing a GGUF file: plan, then temporary file, fsync, verify, rename.

use geb_kernels::dtype::Dtype;

/// An owned metadata value to be written.
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
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
}

/// A tensor to be written: name, type, dimensions with the contiguous one first.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTensor {
    /// GGUF name.
    pub name: String,
    /// Type on disk.
    pub dtype: Dtype,
    /// Dimensions in GGUF order.
    pub dims: Vec<u64>,
}
