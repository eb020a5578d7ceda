//! Tests that need what a machine may not have. The standard harness decides before it runs what is ignored; here
//! it is decided when they start: without what it needs a test is listed and counted as ignored, with the reason,
//! and where `CI` is `true` it fails.

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// A test: its name, what it does, and what is missing here.
pub type Test = (&'static str, fn(), Option<String>);

/// The tests, without those whose needs are missing.
pub fn trials(tests: Vec<Test>) -> Vec<Trial> {
    let in_gate = std::env::var("CI").as_deref() == Ok("true");
    let trial = |(name, test, missing): Test| match missing {
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
        Some(what) if in_gate => Trial::test(name, move || {
            Err(format!("needs {what}, and CI is true").into())
        }),
        Some(what) => {
            let why = format!("needs {what}");
            let trial = Trial::test(name, || Err("it was asked for all the same".into()));
            trial.with_kind(why).with_ignored_flag(true)
        }
    };
    tests.into_iter().map(trial).collect()
}

/// Runs those that the command line asks for. A file of such tests has `harness = false`.
pub fn run(args: Arguments, trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&args, trials).exit_code()
}

/// The interpreter with PyPI `gguf`: `GEB_PYTHON`, else `python3`.
pub fn python() -> String {
    std::env::var("GEB_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// What is missing for PyPI `gguf`.
pub fn no_gguf() -> Option<String> {
    let mut command = Command::new(python());
    let out = command.args(["-c", "import gguf, numpy"]).output();
    let there = out.is_ok_and(|o| o.status.success());
    (!there).then(|| format!("PyPI gguf in {} (GEB_PYTHON)", python()))
}

/// What is missing to trace a process.
pub fn no_strace() -> Option<String> {
    let mut command = Command::new("strace");
    let out = command
        .args(["-f", "-qq", "-o", "/dev/null", "true"])
        .output();
    (!out.is_ok_and(|o| o.status.success())).then(|| "strace that may trace".into())
}
