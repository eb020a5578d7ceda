//! The library's error: every variant names the field, its value and what was allowed.

use std::path::PathBuf;

use geb_kernels::dtype::TypeIdError;

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. [`Error::exit_code`] maps it to the documented exit codes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file breaks a rule of its format. `rule` is the number in docs/format.md.
    #[error("bad file: {field} is {value}, allowed: {allowed} (rule {rule}, byte {offset})")]
    Format {
        /// Number of the acceptance rule (docs/format.md).
        rule: u8,
        /// The field, for example `general.alignment` or `tensor blk.0.attn_q.weight: offset`.
        field: String,
        /// What the file says.
        value: String,
        /// What would have been accepted.
        allowed: String,
        /// Where in the file.
        offset: u64,
    },
    /// A tensor type id that cannot be read.
    #[error("bad file: tensor {tensor}: {source}")]
    Type {
        /// Name of the tensor.
        tensor: String,
        /// Why the id is refused.
        source: TypeIdError,
    },
    /// A metadata key is missing, of the wrong type or out of range.
    #[error("bad file: key {key} is {value}, allowed: {allowed}")]
    Key {
        /// The GGUF key.
        key: String,
        /// What the file says (`absent` when the key is missing).
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// The tensors of a file do not fit its architecture; all problems at once.
    #[error("bad file: tensors do not fit the architecture:\n{}", .0.join("\n"))]
    Tensors(Vec<String>),
    /// A checkpoint (safetensors, pickle, JSON) is malformed.
    #[error("bad checkpoint: {file}: {field} is {value}, allowed: {allowed}")]
    Checkpoint {
        /// File inside the checkpoint folder.
        file: String,
        /// The field.
        field: String,
        /// What the file says.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// An importance matrix is malformed or of another model.
    #[error("bad importance matrix: {file}: {field} is {value}, allowed: {allowed}")]
    Imatrix {
        /// Name of the file.
        file: String,
        /// The key or tensor.
        field: String,
        /// What the file says.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// A file of a data set is malformed.
    #[error("bad data: {path}: line {line}: {field} is {value}, allowed: {allowed}", path = .path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// The field.
        field: String,
        /// What the file says.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// A compressed text is malformed, or was not given back as it was.
    #[error("bad compressed text: {field} is {value}, allowed: {allowed}")]
    Compressed {
        /// The field.
        field: String,
        /// What the file says.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// A valid file that this program cannot run or convert.
    #[error("unsupported {what}: {value}; known: {known}")]
    Unsupported {
        /// Kind of thing, for example `architecture`.
        what: &'static str,
        /// The value found.
        value: String,
        /// What is known.
        known: String,
    },
    /// A weight or logit is NaN or infinite.
    #[error("not a finite number: {what} at index {index} is {value}")]
    NonFinite {
        /// Tensor or step.
        what: String,
        /// Element index in row-major order.
        index: u64,
        /// The value.
        value: f32,
    },
    /// A weight that the type it is written as cannot hold.
    #[error("weight out of range: {what} at index {index} is {value:e}, allowed: {allowed}")]
    OutOfRange {
        /// Tensor and type.
        what: String,
        /// Element index in row-major order.
        index: u64,
        /// The value.
        value: f32,
        /// What the type holds.
        allowed: String,
    },
    /// A request outside its range (prompt too long, bad token id, bad option).
    #[error("{what} is {value}, allowed: {allowed}")]
    Request {
        /// What was asked.
        what: String,
        /// Its value.
        value: String,
        /// The range.
        allowed: String,
    },
    /// Does not fit into memory.
    #[error("out of memory budget: {what} needs {needed} bytes, available: {available}")]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// What was written does not read back as planned.
    #[error("verification failed: {0}")]
    Verify(String),
    /// A chat template failed.
    #[error("chat template: {0}")]
    Template(String),
    /// The user stopped the work.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Exit code of the programs (docs: README "Exit codes").
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Format { .. }
            | Self::Type {
                source: TypeIdError::Unknown(_),
                ..
            }
            | Self::Key { .. }
            | Self::Tensors(_)
            | Self::Checkpoint { .. }
            | Self::Imatrix { .. }
            | Self::Data { .. }
            | Self::Compressed { .. }
            | Self::NonFinite { .. }
            | Self::OutOfRange { .. } => 3,
            Self::Type { .. } | Self::Unsupported { .. } | Self::Template(_) => 4,
            Self::Memory { .. } => 5,
            Self::Request { .. } => 2,
            Self::Interrupted => 130,
            Self::Io { .. } | Self::Verify(_) => 1,
        }
    }

    /// Adapter for `map_err`: an I/O error with its path.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
