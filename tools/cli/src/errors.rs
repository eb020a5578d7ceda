//! What an error of the libraries means to who typed the command: an exit code, and flags for the options that it names.

use std::io::ErrorKind;

use geb::Error;
use geb::kernels::dtype::TypeIdError;

/// Options that a library names, and how they are called here.
const OPTIONS: &[(&str, &str)] = &[
    ("allow_requantize", "--allow-requantize"),
    ("embedding", "--embedding-type"),
    ("keep_experts", "experts to keep (--keep-experts)"),
    ("keep_f32", "--keep-f32"),
    ("max_ram", "memory limit (--max-ram)"),
    ("output", "--output-type"),
    ("overrides", "--tensor-type"),
    ("split_max", "--split-max-size"),
];

/// Exit code of the programs (README, "Exit codes").
pub fn exit_code(e: &Error) -> i32 {
    match e {
        Error::Format { .. }
        | Error::Type {
            source: TypeIdError::Unknown(_),
            ..
        }
        | Error::Key { .. }
        | Error::Tensors(_)
        | Error::Checkpoint { .. }
        | Error::Imatrix { .. }
        | Error::Data { .. }
        | Error::Compressed { .. }
        | Error::NonFinite { .. }
        | Error::OutOfRange { .. } => 3,
        Error::Kind { kind, .. } if !kind.good => 3,
        Error::Kind { .. } => 4,
        Error::Type { .. } | Error::Unsupported { .. } | Error::Template(_) => 4,
        Error::Memory { .. } | Error::Pages { .. } => 5,
        Error::Io { source, .. } if source.kind() == ErrorKind::OutOfMemory => 5,
        Error::Request { .. }
        | Error::Occupied { .. }
        | Error::Constraint(_)
        | Error::Slow { .. } => 2,
        Error::NoChecksums { .. } => 8,
        Error::Interrupted => 130,
        Error::Io { .. } | Error::Verify(_) | Error::Threads { .. } | Error::Panic(_) => 1,
    }
}

/// The error as a text, with flags in place of the options.
pub fn message(e: &Error) -> String {
    let Error::Request {
        what,
        value,
        allowed,
    } = e
    else {
        return e.to_string();
    };
    let named = OPTIONS.iter().find(|(option, _)| option == what);
    // In a sentence only names that are no ordinary words.
    let in_text = OPTIONS.iter().filter(|(option, _)| option.contains('_'));
    Error::Request {
        what: named.map_or(what.as_str(), |(_, flag)| flag).to_owned(),
        value: value.clone(),
        allowed: in_text.fold(allowed.clone(), |text, (option, flag)| {
            text.replace(option, flag)
        }),
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_values_stay() {
        let request = |what: &str, allowed: &str| {
            message(&Error::Request {
                what: what.into(),
                value: "split_max".into(),
                allowed: allowed.into(),
            })
        };
        assert_eq!(
            request("split_max", "output of some size"),
            "--split-max-size is split_max, allowed: output of some size"
        );
        assert_eq!(
            request("type of output", "F32 (allow_requantize converts all)"),
            "type of output is split_max, allowed: F32 (--allow-requantize converts all)"
        );
    }
}
