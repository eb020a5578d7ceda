//! The GGUF container: format only, knows no models.
//!
//! `reader` is the cursor, `parse` and `shape` the rules in file order, `value` the metadata types,
//! `file` an opened file, `split` one in parts; `meta` and `writer` plan and stream, `atomic` replaces
//! a file whole, `swap` a whole set, `output` a set of files with a `journal` of what is finished, `checksums` stores and
//! checks hashes, `flush` keeps the disk busy.

mod atomic;
pub mod checksums;
mod file;
mod flush;
pub mod journal;
mod meta;
mod output;
mod parse;
mod process;
mod reader;
mod shape;
pub mod split;
mod swap;
mod value;
pub mod writer;

pub use crate::mmap::Load;
pub use file::{GgufFile, TensorView};
pub use output::{Output, Resume};
pub use parse::Index;
pub use reader::Reader;
pub use shape::TensorInfo;
pub use value::{ArrayRef, Value, ValueType};
