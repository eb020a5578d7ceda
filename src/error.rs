//! The library's error: every variant names the field, its value and what was allowed. All texts are shown
//! through [`Shown`]: what comes from a file stays on its line and cannot steer a terminal.

use std::path::{Path, PathBuf};

use geb_kernels::dtype::TypeIdError;

use crate::kinds::Kind;
use crate::shown::Shown;

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file breaks a rule of its format. `rule` is the number in docs/format.md.
    #[error("bad file: {}, allowed: {} (rule {rule}, byte {offset})", is(.field, .value), Shown::list(.allowed))]
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
    /// A file is something else than what was asked for.
    #[error("{} is {}, not {wanted}", Shown::list(.file), .kind.name)]
    Kind {
        /// The file.
        file: String,
        /// What it is; with what to do next.
        kind: &'static Kind,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A tensor type id that cannot be read.
    #[error("bad file: tensor {}: {source}", Shown::list(.tensor))]
    Type {
        /// Name of the tensor.
        tensor: String,
        /// Why the id is refused.
        source: TypeIdError,
    },
    /// A metadata key is missing, of the wrong type or out of range.
    #[error("bad file: key {}, allowed: {}", is(.key, .value), Shown::list(.allowed))]
    Key {
        /// The GGUF key.
        key: String,
        /// What the file says (`absent` when the key is missing).
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// The tensors of a file do not fit its architecture; all problems at once.
    #[error("bad file: tensors do not fit the architecture:\n{}", lines(.0))]
    Tensors(Vec<String>),
    /// A checkpoint (safetensors, pickle, JSON) is malformed.
    #[error("bad checkpoint: {}: {}, allowed: {}", Shown::value(.file), is(.field, .value), Shown::list(.allowed))]
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
    #[error("bad importance matrix: {}: {}, allowed: {}", Shown::value(.file), is(.field, .value), Shown::list(.allowed))]
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
    #[error("bad data: {}: line {line}: {}, allowed: {}", shown(.path), is(.field, .value), Shown::list(.allowed))]
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
    #[error("bad compressed text: {}, allowed: {}", is(.field, .value), Shown::list(.allowed))]
    Compressed {
        /// The field.
        field: String,
        /// What the file says.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// A valid file that this program cannot run or convert.
    #[error("unsupported {what}: {}; known: {}", Shown::value(.value), Shown::list(.known))]
    Unsupported {
        /// Kind of thing, for example `architecture`.
        what: &'static str,
        /// The value found.
        value: String,
        /// What is known.
        known: String,
    },
    /// A weight or logit is NaN or infinite.
    #[error("not a finite number: {} at index {index} is {value}", Shown::value(.what))]
    NonFinite {
        /// Tensor or step.
        what: String,
        /// Element index in row-major order.
        index: u64,
        /// The value.
        value: f32,
    },
    /// A weight that the type it is written as cannot hold.
    #[error("weight out of range: {} at index {index} is {value:e}, allowed: {allowed}", Shown::list(.what))]
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
    #[error("{}, allowed: {}", is(.what, .value), Shown::list(.allowed))]
    Request {
        /// What was asked.
        what: String,
        /// Its value.
        value: String,
        /// The range.
        allowed: String,
    },
    /// A file that stands where one is to be written, and is not of the kind that is replaced.
    #[error("{}: there is {}, allowed: a new name or {allowed}", shown(.path), Shown::value(.found))]
    Occupied {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What is replaced.
        allowed: &'static str,
    },
    /// Does not fit into memory.
    #[error("out of memory budget: {} needs {needed} bytes, available: {available}", Shown::value(.what))]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// No pages of the KV cache are left for a sequence; others still hold them.
    #[error(
        "KV cache is full: {needed} more tokens, allowed: as many as its {positions} positions leave"
    )]
    Pages {
        /// Tokens that were to be added.
        needed: usize,
        /// Positions of the whole cache.
        positions: usize,
    },
    /// The system starts no more threads.
    #[error("cannot start {wanted} threads: {reason}")]
    Threads {
        /// How many were wanted.
        wanted: usize,
        /// What the system says.
        reason: String,
    },
    /// The operating system refused.
    #[error("{}: {}", shown(.path), Shown::list(&.source.to_string()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// What was written does not read back as planned.
    #[error("verification failed: {}", Shown::list(.0))]
    Verify(String),
    /// A file without checksums, as other programs write them; its structure is right.
    #[error("{}: no checksums stored for {unsealed} of {tensors} tensors (a file of another program); structure ok", shown(.path))]
    NoChecksums {
        /// The file.
        path: PathBuf,
        /// Tensors without one.
        unsealed: usize,
        /// All tensors.
        tensors: usize,
    },
    /// A chat template failed.
    #[error("chat template: {}", Shown::value(.0))]
    Template(String),
    /// A grammar, schema or regular expression that an answer cannot be held to.
    #[error("constraint: {}", Shown::value(.0))]
    Constraint(String),
    /// A grammar that takes too long to say what may follow.
    #[error("constraint: too complex: a step took more than {limit_ms} ms")]
    Slow {
        /// Milliseconds that a step may take.
        limit_ms: u64,
    },
    /// A part of the program broke its own rules; what it worked on is given up.
    #[error("internal error: {}", Shown::list(.0))]
    Panic(String),
    /// The user stopped the work.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Adapter for `map_err`: an I/O error with its path.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

/// `field is value`.
fn is(field: &str, value: &str) -> String {
    format!("{} is {}", Shown::value(field), Shown::value(value))
}

fn shown(path: &Path) -> String {
    Shown::list(&path.to_string_lossy()).to_string()
}

fn lines(lines: &[String]) -> String {
    let shown = |l: &String| Shown::value(l).to_string();
    lines.iter().map(shown).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shown::steers;

    /// Escape sequences, C1, a bell, line ends, directions, invisible characters, ten megabytes.
    fn hostile() -> String {
        let text =
            "\x1b[2J\x1b]0;owned\x07\u{9b}31m\r\n\t\u{202e}\u{2066}\u{200f}\u{2028}\u{e0041}\0\x7f";
        text.repeat((10 << 20) / text.len())
    }

    /// Every kind of error with `text` in every field; a new kind does not compile until it is here.
    fn every_kind(text: &str) -> Vec<Error> {
        let t = || text.to_owned();
        let (source, path) = (TypeIdError::Unknown(99), PathBuf::from(text));
        let io = std::io::Error::other(t());
        let all = vec![
            Error::Format {
                rule: 1,
                field: t(),
                value: t(),
                allowed: t(),
                offset: 0,
            },
            Error::Type {
                tensor: t(),
                source,
            },
            Error::Key {
                key: t(),
                value: t(),
                allowed: t(),
            },
            Error::Tensors(vec![t(), t()]),
            Error::Checkpoint {
                file: t(),
                field: t(),
                value: t(),
                allowed: t(),
            },
            Error::Imatrix {
                file: t(),
                field: t(),
                value: t(),
                allowed: t(),
            },
            Error::Data {
                path: path.clone(),
                line: 1,
                field: t(),
                value: t(),
                allowed: t(),
            },
            Error::Compressed {
                field: t(),
                value: t(),
                allowed: t(),
            },
            Error::Unsupported {
                what: "thing",
                value: t(),
                known: t(),
            },
            Error::NonFinite {
                what: t(),
                index: 0,
                value: f32::NAN,
            },
            Error::OutOfRange {
                what: t(),
                index: 0,
                value: 1e12,
                allowed: "a range".into(),
            },
            Error::Request {
                what: t(),
                value: t(),
                allowed: t(),
            },
            Error::Memory {
                what: t(),
                needed: 1,
                available: 0,
            },
            Error::Pages {
                needed: 1,
                positions: 64,
            },
            Error::Io {
                path: path.clone(),
                source: io,
            },
            Error::Occupied {
                path: path.clone(),
                found: t(),
                allowed: "a thing",
            },
            Error::NoChecksums {
                path,
                unsealed: 1,
                tensors: 1,
            },
        ];
        let all: Vec<_> = all.into_iter().chain(short_kinds(text)).collect();
        all.iter().for_each(is_listed);
        all
    }

    /// Those with one field or none.
    fn short_kinds(text: &str) -> Vec<Error> {
        let t = || text.to_owned();
        vec![
            Error::Verify(t()),
            Error::Template(t()),
            Error::Constraint(t()),
            Error::Slow { limit_ms: 250 },
            Error::Panic(t()),
            Error::Interrupted,
        ]
    }

    /// A new kind does not compile until it is here, and then belongs into [`every_kind`].
    fn is_listed(e: &Error) {
        match e {
            Error::Format { .. } | Error::Type { .. } | Error::Key { .. } => {}
            Error::Tensors(_) | Error::Checkpoint { .. } | Error::Imatrix { .. } => {}
            Error::Data { .. } | Error::Compressed { .. } | Error::Unsupported { .. } => {}
            Error::NonFinite { .. } | Error::Request { .. } | Error::Memory { .. } => {}
            Error::Io { .. } | Error::Verify(_) | Error::NoChecksums { .. } => {}
            Error::Kind { .. } | Error::Threads { .. } => {}
            Error::Occupied { .. } | Error::Template(_) | Error::Interrupted => {}
            Error::OutOfRange { .. } | Error::Panic(_) | Error::Pages { .. } => {}
            Error::Constraint(_) | Error::Slow { .. } => {}
        }
    }

    #[test]
    fn no_error_steers_a_terminal_or_fills_a_screen() {
        for error in every_kind(&hostile()) {
            let message = error.to_string();
            let start: String = message.chars().take(200).collect();
            assert!(message.len() < 100_000, "{} bytes: {start}", message.len());
            let lines = matches!(error, Error::Tensors(_));
            let bad = |c: char| steers(c) && !(lines && c == '\n');
            assert!(!message.contains(bad), "{start}");
            assert!(
                message.lines().count() <= if lines { 3 } else { 1 },
                "{start}"
            );
        }
    }
}
