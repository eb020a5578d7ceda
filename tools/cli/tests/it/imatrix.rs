//! `geb-run imatrix` as a user meets it.

use crate::support::*;

#[test]
fn a_text_becomes_a_matrix_and_the_work_goes_on() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("path").to_owned();
    let text = "It was the best of times, it was the worst of times. ".repeat(40);
    std::fs::write(path("text.txt"), text).expect("writes");
    let words = |out: &str, more: &[&str]| {
        let (text, out) = (path("text.txt"), path(out));
        let mut all = vec!["imatrix", "-f", &text, "-o", &out, "--ctx", "64"];
        all.extend(more);
        exits(&run_on_model(&all), 0);
        std::fs::read(path(out.rsplit('/').next().expect("name"))).expect("the file")
    };
    let whole = words("whole.gguf", &["--covariance", "-t", "1"]);
    words("part.gguf", &["--covariance", "--chunks", "1"]);
    assert_ne!(std::fs::read(path("part.gguf")).expect("the file"), whole);
    assert_eq!(
        words("part.gguf", &["--covariance", "--resume", "-t", "2"]),
        whole
    );
    assert_eq!(words("part.gguf", &["--covariance", "--resume"]), whole);
}

#[test]
fn what_does_not_fit_is_one_clear_error() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("path").to_owned();
    let (text, out) = (path("text.txt"), path("m.gguf"));
    std::fs::write(&text, "too short").expect("writes");
    let short = run_on_model(&["imatrix", "-f", &text, "-o", &out, "--ctx", "64"]);
    exits(&short, 2);
    assert!(
        stderr(&short).contains("at least one complete chunk"),
        "{}",
        stderr(&short)
    );
    assert!(!std::path::Path::new(&out).exists());
    std::fs::write(&text, "long enough ".repeat(200)).expect("writes");
    std::fs::copy(model(), &out).expect("copies");
    let other = run_on_model(&[
        "imatrix", "-f", &text, "-o", &out, "--ctx", "64", "--resume",
    ]);
    exits(&other, 3);
    assert!(
        stderr(&other).contains("general.type is model"),
        "{}",
        stderr(&other)
    );
}

/// Another model of the same shapes is not gone on from.
#[test]
fn the_work_goes_on_with_the_same_model_only() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("path").to_owned();
    let (text, out, other) = (path("text.txt"), path("m.gguf"), path("other.gguf"));
    std::fs::write(&text, "It was the best of times. ".repeat(60)).expect("writes");
    let mut bytes = std::fs::read(model()).expect("reads");
    // The lowest bit of the last weight.
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    std::fs::write(&other, bytes).expect("writes");
    let words = ["imatrix", "-f", &text, "-o", &out, "--ctx", "64"];
    exits(&run_on_model(&[&words[..], &["--chunks", "1"]].concat()), 0);
    let begun = std::fs::read(&out).expect("the file");
    let mut with_other = vec![words[0], "-m", &other];
    with_other.extend(&words[1..]);
    with_other.push("--resume");
    let refused = run(&with_other);
    exits(&refused, 3);
    assert!(
        stderr(&refused).contains("geb.imatrix.model"),
        "{}",
        stderr(&refused)
    );
    assert!(std::fs::read(&out).expect("the file") == begun);
    exits(&run_on_model(&[&words[..], &["--resume"]].concat()), 0);
}
