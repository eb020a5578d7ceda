//! The GGUF container: format only, knows no models.
//!
//! `reader` is the cursor, `parse` the rules in file order, `value` the metadata types,
//! `file` an opened file, `writer` the plan and the atomic streaming write.

mod file;
mod parse;
mod reader;
mod value;
pub mod writer;

pub use file::{GgufFile, Load, TensorView};
pub use parse::{Index, TensorInfo};
pub use reader::Reader;
pub use value::{ArrayRef, Value, ValueType};
