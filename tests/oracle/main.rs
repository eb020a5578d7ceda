//! Tests that need what a machine may not have: other programs to compare with, published files, instruction levels.
//! What they need decides when they start whether they are ignored (`tests/common/needs.rs`).

#[path = "../common/mod.rs"]
mod common;
mod convert_pypi;
mod levels;
mod pypi;
mod templates;
mod vocabs;

fn main() -> std::process::ExitCode {
    let mut trials = levels::trials();
    trials.extend(pypi::trials());
    trials.extend(convert_pypi::trials());
    trials.extend(vocabs::trials());
    trials.extend(templates::trials());
    common::needs::run(libtest_mimic::Arguments::from_args(), trials)
}
