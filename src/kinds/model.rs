//! What a valid GGUF file is used for.

use std::path::Path;

use super::error;
use super::table::{ADAPTER, CONTROL, IMATRIX, Kind, MMPROJ, VOCAB};
use crate::error::Error;
use crate::gguf::GgufFile;

/// What a valid GGUF file is that is no model.
pub fn of_gguf(file: &GgufFile) -> Option<&'static Kind> {
    let text = |key| file.str(key).ok().flatten().unwrap_or_default();
    match (text("general.type"), text("general.architecture")) {
        ("adapter", _) => Some(&ADAPTER),
        _ if file.get("adapter.type").is_some() => Some(&ADAPTER),
        ("mmproj", _) | (_, "clip") => Some(&MMPROJ),
        ("imatrix", _) | (_, "imatrix") => Some(&IMATRIX),
        (_, "controlvector") => Some(&CONTROL),
        _ if file.tensors().next().is_none() => Some(&VOCAB),
        _ => None,
    }
}

/// Refuses a valid GGUF file that is no model.
///
/// # Errors
/// [`Error::Kind`] says what it is.
pub fn check_model(file: &GgufFile) -> Result<(), Error> {
    let path = file.parts().next().map_or(Path::new(""), |(_, path)| path);
    let path = if path.as_os_str().is_empty() {
        Path::new("the file")
    } else {
        path
    };
    of_gguf(file).map_or(Ok(()), |kind| Err(error(path, kind, "a model")))
}

/// Refuses a valid GGUF file that cannot be quantized.
pub fn check_source(file: &GgufFile) -> Result<(), Error> {
    let model = || of_gguf(file).is_none_or(|k| std::ptr::eq(k, &MMPROJ));
    if model() { Ok(()) } else { check_model(file) }
}
