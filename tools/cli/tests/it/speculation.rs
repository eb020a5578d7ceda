//! Guessing ahead from the command line: flags, reports, and the same answers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use geb::gguf::writer::MetaValue;
use geb::gguf::{GgufFile, Load};
use serde_json::Value;

use crate::changed::Changed;
use crate::support::*;

/// geb-nano as a Q8_0 file; made once.
fn nano() -> &'static str {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let path = MODEL.get_or_init(|| {
        let path = scratch().join("nano-q8_0.gguf");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/geb-nano/hf");
        let options = geb_convert::Options {
            policy: geb::Dtype::Q8_0.into(),
            ..Default::default()
        };
        geb_convert::convert(&source, &path, &options, &mut ()).expect("convert");
        path
    });
    path.to_str().expect("path")
}

/// The same with further heads: its last layer once more.
fn with_heads() -> &'static str {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let path = MODEL.get_or_init(|| {
        let file = GgufFile::open(Path::new(nano()), Load::Map).expect("own file");
        let mut changed = Changed::of(&file);
        let names = file.tensors().map(|t| t.info().name.clone());
        let number = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse().ok();
        let last: u32 = names.filter_map(|n| number(&n)).max().expect("layers");
        for t in file.tensors() {
            if let Some(role) = t.info().name.strip_prefix(&format!("blk.{last}.")) {
                changed.push(&format!("mtp.0.{role}"), &t);
            }
        }
        changed
            .plan
            .push_meta("llama.mtp_head_count", MetaValue::U32(1));
        let path = scratch().join("nano-heads.gguf");
        std::fs::write(&path, changed.bytes()).expect("writes");
        path
    });
    path.to_str().expect("path")
}

fn generate(extra: &[&str]) -> Value {
    generate_with(nano(), extra)
}

fn generate_with(model: &str, extra: &[&str]) -> Value {
    let passage = "And the children of Israel did so, as the LORD commanded Moses. ";
    let prompt = passage.repeat(3);
    let words = [
        "generate",
        "-m",
        model,
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

#[test]
fn a_model_with_heads_guesses_with_them() {
    let plain = generate(&["--lookup", "off"]);
    let count = |value: &Value, key: &str| value["speculation"][key].as_u64().expect("a number");
    for how in ["on", "auto", "off"] {
        let value = generate_with(with_heads(), &["--lookup", "off", "--heads", how]);
        assert_eq!(value["ids"], plain["ids"], "{how}");
        match how {
            "on" => assert!(count(&value, "drafted") >= 20),
            "off" => assert_eq!(count(&value, "drafted"), 0),
            _ => {}
        }
    }
    let refused = run(&[
        "generate",
        "-m",
        nano(),
        "-p",
        "x",
        "--raw",
        "--heads",
        "on",
    ]);
    exits(&refused, 2);
    assert!(stderr(&refused).contains("has no further heads"));
}
