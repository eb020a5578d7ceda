//! The GGUF container: format only, knows no models.
//!
//! `reader` is the cursor, `parse` and `shape` the rules in file order, `value` the metadata types,
//! `file` an opened file; `meta` and `writer` plan and stream, `atomic` replaces a file whole.

mod atomic;
mod file;
mod meta;
mod parse;
mod reader;
mod shape;
mod value;
pub mod writer;

pub use file::{GgufFile, Load, TensorView};
pub use parse::Index;
pub use reader::Reader;
pub use shape::TensorInfo;
pub use value::{ArrayRef, Value, ValueType};
