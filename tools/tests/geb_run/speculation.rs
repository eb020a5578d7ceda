//! Guessing ahead from the command line: flags, reports, and the same answers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::*;

/// geb-nano as a Q8_0 file; made once.
fn nano() -> &'static str {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let path = MODEL.get_or_init(|| {
        let path = scratch().join("nano-q8_0.gguf");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/geb-nano/hf");
        let options = geb::convert::Options {
            policy: geb::Dtype::Q8_0.into(),
            ..Default::default()
        };
        geb::convert::convert(&source, &path, &options, &mut ()).expect("convert");
        path
    });
    path.to_str().expect("path")
}

fn generate(extra: &[&str]) -> Value {
    let passage = "And the children of Israel did so, as the LORD commanded Moses. ";
    let prompt = passage.repeat(3);
    let words = [
        "generate",
        "-m",
        nano(),
        "-p",
        &prompt,
        "--raw",
        "-n",
        "40",
        "--temp",
        "0",
        "--json",
        "--ignore-eos",
    ];
    json(&run(&[&words[..], extra].concat()))
}

#[test]
fn answers_do_not_depend_on_guesses() {
    let plain = generate(&["--lookup", "off"]);
    assert_eq!(plain["speculation"]["drafted"], 0);
    assert_eq!(plain["speculation"]["passes"], 39);
    assert_eq!(plain["speculation"]["tokens_per_pass"], 1.0);
    for extra in [
        &["--lookup", "on"][..],
        &[],
        &["--draft", nano(), "--draft-max", "3"],
        &["--lookup", "off", "--exit-layer", "2"],
    ] {
        let value = generate(extra);
        assert_eq!(value["ids"], plain["ids"], "{extra:?}");
        assert_eq!(value["text"], plain["text"], "{extra:?}");
        let count = |key: &str| value["speculation"][key].as_u64().expect("a number");
        assert_eq!(count("passes") + count("accepted"), 39, "{extra:?}");
        if extra == ["--lookup", "on"] {
            assert!(count("accepted") > 0 && count("accepted") <= count("drafted"));
            assert!(count("verify_batches") > 0);
        }
    }
}

#[test]
fn a_chat_says_how_well_it_guessed() {
    let words = [
        "chat",
        "-m",
        model().to_str().expect("path"),
        "Hello",
        "-n",
        "40",
        "--temp",
        "0",
    ];
    let plain = run(&[&words[..], &["--lookup", "off"]].concat());
    let guessed = run(&[&words[..], &["--lookup", "on"]].concat());
    exits(&plain, 0);
    exits(&guessed, 0);
    assert_eq!(stdout(&plain), stdout(&guessed));
    assert!(!stderr(&plain).contains("per pass"), "{}", stderr(&plain));
    assert!(
        stderr(&guessed).contains("guesses held"),
        "{}",
        stderr(&guessed)
    );
}

#[test]
fn a_draft_model_of_another_language_is_refused() {
    let output = run_on_model(&["generate", "-p", "Hello", "--draft", nano()]);
    exits(&output, 2);
    let err = stderr(&output);
    assert!(
        err.contains("2048 tokens") && err.contains("vocabulary"),
        "{err}"
    );
}

#[test]
fn bench_compares_with_and_without_guesses() {
    let words = [
        "bench",
        "-m",
        nano(),
        "--speculation",
        "-n",
        "24",
        "-r",
        "1",
        "--lookup",
        "on",
    ];
    let value = json(&run(&[&words[..], &["--json"]].concat()));
    assert_eq!(value["sources"], serde_json::json!(["lookup"]));
    assert_eq!(value["same_text"], true);
    let texts = value["texts"].as_array().expect("a list");
    assert_eq!(texts.len(), 2);
    for text in texts {
        assert!(text["ratio"].as_f64().is_some_and(|r| r > 0.0), "{text}");
    }
    assert!(texts[0]["speculation"]["accepted"].as_u64() > Some(0));
    let output = run(&words);
    exits(&output, 0);
    assert!(
        stdout(&output).contains("tokens per pass"),
        "{}",
        stdout(&output)
    );
}
