//! What a row of `geb-run systems` says.

/// How far a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Logits, ids or texts of an independent implementation are reproduced.
    Reference,
    /// Checked on generated data against a direct computation; no reference or no weights exist.
    Synthetic,
    /// Missing, wholly or in what the row is about.
    Open,
}

impl State {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            State::Reference => "reference logits",
            State::Synthetic => "synthetic",
            State::Open => "not done",
        }
    }
}

/// Something that `cargo test` runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// A checkpoint in `tests/fixtures` whose logits `tests/it/logits.rs` compares.
    Logits(&'static str),
    /// A test of the file `tests/it/NAME.rs`; a name may have a folder.
    Test(&'static str, &'static str),
    /// A test of the programs, in the file `tools/cli/tests/it/NAME.rs`.
    Cli(&'static str, &'static str),
    /// A test beside the code: its file, its name.
    Unit(&'static str, &'static str),
}

impl Proof {
    /// What runs it.
    pub fn command(self) -> String {
        match self {
            Proof::Logits(_) => "cargo test --test it logits::f32_logits".to_owned(),
            Proof::Test(file, name) => {
                format!("cargo test --test it {}::{name}", file.replace('/', "::"))
            }
            Proof::Cli(file, name) => format!("cargo test -p geb-cli --test it {file}::{name}"),
            Proof::Unit(file, name) if file.starts_with("tools/eval/") => {
                format!("cargo test -p geb-eval {name}")
            }
            Proof::Unit(file, name) if file.starts_with("lab/") => {
                format!("cargo test -p geb-lab {name}")
            }
            Proof::Unit(_, name) => format!("cargo test --lib {name}"),
        }
    }

    /// The checkpoint that it is about.
    pub fn fixture(self) -> Option<&'static str> {
        match self {
            Proof::Logits(case) => Some(case),
            _ => None,
        }
    }
}

/// A system, a technique or an evaluation.
#[derive(Debug)]
pub struct Row {
    pub id: &'static str,
    pub system: &'static str,
    /// `general.architecture`, or what a technique works on.
    pub architecture: &'static str,
    pub state: State,
    pub proofs: &'static [Proof],
    /// What the state leaves out.
    pub note: &'static str,
}
