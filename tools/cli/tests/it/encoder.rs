//! Models with an encoder: their speed is measured, texts are not scored with them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::*;

/// The fixture `t5-relu` as a file; made once.
fn t5() -> &'static str {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let path = MODEL.get_or_init(|| {
        let path = scratch().join("t5-f32.gguf");
        let options = geb_convert::Options {
            policy: geb::Dtype::F32.into(),
            ..Default::default()
        };
        let source = fixture("t5-relu").join("hf");
        geb_convert::convert(&source, &path, &options, &mut ()).expect("convert");
        path
    });
    path.to_str().expect("path")
}

#[test]
fn bench_reads_a_text_and_decodes() {
    let words = ["bench", "-m", t5(), "-p", "12", "-n", "3", "--reps", "2"];
    let value = json(&run(&[&words[..], &["--json"]].concat()));
    for key in ["prefill_all", "decode_all"] {
        let rates = value[key].as_array().expect("a list");
        assert_eq!(rates.len(), 2, "{key}");
        assert!(rates.iter().all(|r| r.as_f64().is_some_and(|r| r > 0.0)));
    }
    // A decoded token meets the decoder alone.
    let bytes = |key: &str| value[key].as_u64().expect("a number");
    assert!(bytes("decode_bytes_per_token") < bytes("file_bytes") * 7 / 10);
    let text = run(&words);
    exits(&text, 0);
    assert!(stdout(&text).contains("encode  12"), "{}", stdout(&text));
    // Without a prompt there is still something for the decoder to look at.
    let decode = [
        "bench",
        "-m",
        t5(),
        "-p",
        "0",
        "-n",
        "3",
        "--reps",
        "1",
        "--json",
    ];
    let value = json(&run(&decode));
    assert!(value["decode_tok_s"].as_f64().is_some_and(|r| r > 0.0));
}

#[test]
fn texts_are_not_scored() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/geb-nano/eval-en.txt");
    let text = text.to_str().expect("path");
    let out = scratch().join("t5-logits.safetensors");
    let out = out.to_str().expect("path");
    let other = scratch().join("t5-again.gguf");
    std::fs::copy(t5(), &other).expect("copies");
    let other = other.to_str().expect("path");
    for words in [
        &["eval", "perplexity", "-m", t5(), "-f", text, "--ctx", "32"][..],
        &["eval", "needle", "-m", t5(), "--lengths", "64"],
        &["scores", "-m", t5(), "-f", text, "--json"],
        &["logits", "-m", t5(), "--tokens", "1,2", "--out", out],
        &["compare", t5(), other, "--text", text, "--rounds", "0"],
    ] {
        let output = run(words);
        exits(&output, 4);
        let message = stderr(&output);
        assert!(
            message.contains("t5 has an encoder"),
            "{words:?}: {message}"
        );
        assert!(message.contains("geb-run generate"), "{words:?}: {message}");
        assert!(!message.contains("Session::"), "{words:?}: {message}");
    }
}
