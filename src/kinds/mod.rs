//! What a file is that is not what was asked for: by its bytes first, by its name second. One table for both
//! programs; what a person would say to do next stands beside each kind.

mod model;
mod table;

use std::path::Path;

pub use model::*;
pub use table::*;

use crate::error::Error;

/// The error for a file whose bytes are something else than `wanted`.
pub fn instead(path: &Path, data: &[u8], wanted: &'static str) -> Option<Error> {
    look(path, data).map(|kind| error(path, kind, wanted))
}

/// The error for a file in whose place a pointer, a page or nothing was saved. Such bytes are no file of a
/// checkpoint.
pub fn answer(path: &Path, data: &[u8], wanted: &'static str) -> Option<Error> {
    table::answer(data).map(|kind| error(path, kind, wanted))
}

/// The error for a file that ends too early because its download has not ended.
pub fn unfinished(path: &Path, wanted: &'static str) -> Option<Error> {
    table::unfinished(path).map(|kind| error(path, kind, wanted))
}

/// The error for the folder of an adapter in the place of a checkpoint.
pub fn adapter(dir: &Path) -> Error {
    error(dir, &table::ADAPTER, "a checkpoint")
}

fn error(path: &Path, kind: &'static Kind, wanted: &'static str) -> Error {
    Error::Kind {
        file: path.display().to_string(),
        kind,
        wanted,
    }
}
