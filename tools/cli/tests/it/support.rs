//! The program under test, and a tiny model for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A folder of this test run; removed by `cargo clean`.
pub fn scratch() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("geb-run");
    std::fs::create_dir_all(&dir).expect("folder for tests");
    dir
}

pub fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(case)
}

pub fn expected(case: &str) -> Value {
    let text = std::fs::read_to_string(fixture(case).join("expected.json")).expect("expected.json");
    serde_json::from_str(&text).expect("JSON")
}

/// The fixture `llama` as an F32 GGUF file; made once.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = scratch().join("llama-f32.gguf");
        let options = geb_convert::Options {
            policy: geb::Dtype::F32.into(),
            ..Default::default()
        };
        geb_convert::convert(&fixture("llama").join("hf"), &path, &options, &mut ())
            .expect("convert");
        path
    })
}

/// The program with a clean environment and an empty cache folder.
pub fn geb_run() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_geb-run"));
    for name in [
        "GEB_MODEL",
        "GEB_THREADS",
        "GEB_CTX",
        "GEB_ISA",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command
        .env("GEB_CACHE_DIR", scratch().join("empty-cache"))
        .env("NO_COLOR", "1")
        .env("XDG_STATE_HOME", scratch());
    command.stdin(Stdio::null());
    command
}

pub fn run(words: &[&str]) -> Output {
    geb_run().args(words).output().expect("geb-run starts")
}

pub fn run_on_model(words: &[&str]) -> Output {
    let mut all = vec![words[0], "-m", model().to_str().expect("path")];
    all.extend(&words[1..]);
    run(&all)
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8 on stdout")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks the exit code; a panic is never right.
#[track_caller]
pub fn exits(output: &Output, code: i32) {
    let err = stderr(output);
    assert_eq!(output.status.code(), Some(code), "stderr: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

#[track_caller]
pub fn json(output: &Output) -> Value {
    exits(output, 0);
    serde_json::from_slice(&output.stdout).expect("one JSON value on stdout")
}

pub fn ids(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .expect("array")
        .iter()
        .map(|v| v.as_u64().expect("id"))
        .collect()
}
