//! The most frequent mistakes and what they are answered with: what was typed, a fragment of the message, the
//! exit code. `GEB_TABLE=1 cargo test -p geb-cli --test it mistakes -- --nocapture` prints the tables.

mod files;
mod numbers;
mod resources;
mod words;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// One of the two programs with a clean environment, in the folder of this test run.
fn program(name: &str) -> Command {
    let path = match name {
        "geb-run" => env!("CARGO_BIN_EXE_geb-run"),
        _ => env!("CARGO_BIN_EXE_geb-quantize"),
    };
    let mut command = Command::new(path);
    for name in [
        "GEB_MODEL",
        "GEB_THREADS",
        "GEB_CTX",
        "GEB_ISA",
        "CLICOLOR_FORCE",
        "RUST_BACKTRACE",
    ] {
        command.env_remove(name);
    }
    command
        .env("GEB_CACHE_DIR", scratch().join("cache"))
        .env("XDG_STATE_HOME", scratch())
        .env("NO_COLOR", "1")
        .current_dir(scratch())
        .stdin(Stdio::null());
    command
}

/// A folder of this test run, with a model in it: `m.gguf`.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mistakes");
        _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("cache")).expect("a folder");
        let options = geb_convert::Options {
            policy: geb::Dtype::F32.into(),
            ..Default::default()
        };
        geb_convert::convert(&fixture("llama"), &folder.join("m.gguf"), &options, &mut ())
            .expect("a model");
        folder
    })
}

fn fixture(case: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    fixtures
        .join(case)
        .join("hf")
        .canonicalize()
        .expect("a fixture")
}

/// What was typed, fragments of what is said, the exit code.
struct Case<'a>(&'a str, &'a [&'a str], i32);

/// Words of a line; `'…'` keeps spaces.
fn words_of(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let split = |(i, part): (usize, &str)| match i % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    };
    parts.flat_map(split).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs every case and checks it: the code, the fragments, one line of error, no panic, no temporary name.
#[track_caller]
fn all(title: &str, cases: &[Case<'_>]) {
    let table = std::env::var_os("GEB_TABLE").is_some();
    if table {
        println!("\n## {title}\n\n| typed | said | exit code |\n|---|---|---|");
    }
    for Case(line, fragments, code) in cases {
        let words = words_of(line);
        let output = program(&words[0])
            .args(&words[1..])
            .output()
            .expect("it starts");
        let (err, out) = (said(&output), String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(*code), "{line}\n{err}");
        for fragment in *fragments {
            assert!(
                err.contains(fragment) || out.contains(fragment),
                "{line}\nwithout `{fragment}`: {err}{out}"
            );
        }
        let not_said = ["panicked", "geb-partial", "internal fault"];
        assert!(not_said.iter().all(|n| !err.contains(n)), "{line}\n{err}");
        let errors = err.lines().filter(|l| l.starts_with("error:")).count();
        assert!(
            errors <= 1 && (*code == 0 || errors == 1 || words[0] == "geb-quantize"),
            "{line}\n{err}"
        );
        if table {
            let root = scratch().display().to_string();
            let shown: Vec<&str> = err.lines().filter(|l| !l.is_empty()).take(3).collect();
            println!(
                "| `{line}` | {} | {code} |",
                shown.join(" ⏎ ").replace(&root, ".").replace('|', "\\|")
            );
        }
    }
}
