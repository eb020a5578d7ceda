//! `generate` and `chat` with an answer that is held to a form.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{geb_run, scratch};

/// The built-in model.
fn nano() -> &'static str {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let path = MODEL.get_or_init(|| {
        let path = scratch().join("form-nano.gguf");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/geb-nano/hf");
        let options = geb_convert::Options {
            policy: geb::Dtype::Q8_0.into(),
            ..Default::default()
        };
        geb_convert::convert(&source, &path, &options, &mut ()).expect("convert");
        path
    });
    path.to_str().expect("a name")
}

/// Standard output, standard error and exit code of `generate`.
fn generate(flags: &[&str]) -> (String, String, Option<i32>) {
    let prompt = [
        "generate",
        "-m",
        nano(),
        "--raw",
        "-q",
        "-p",
        "In the",
        "--seed",
        "5",
    ];
    let output = geb_run().args(prompt).args(flags).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

#[test]
fn an_answer_is_of_the_form_that_is_asked_for() {
    let schema = json!({
        "type": "object",
        "properties": { "n": { "type": "integer", "minimum": 10, "maximum": 99 } },
        "required": ["n"],
        "additionalProperties": false,
    });
    let file = scratch().join("form.json");
    std::fs::write(&file, schema.to_string()).expect("written");
    for given in [file.to_str().expect("a name"), &schema.to_string()] {
        let (out, err, code) = generate(&["--json-schema", given]);
        assert_eq!((code, &*err), (Some(0), ""));
        let value: Value = serde_json::from_str(&out).expect("JSON");
        assert!(matches!(value["n"].as_u64(), Some(10..=99)), "{out}");
    }
    let (out, _, _) = generate(&["--regex", "[a-c]{4}!"]);
    assert!(
        out.trim_end().len() == 5 && out.trim_end().ends_with('!'),
        "{out}"
    );
    let grammar = scratch().join("form.lark");
    std::fs::write(&grammar, "start: \"left\" | \"right\"").expect("written");
    let grammar = grammar.to_str().expect("a name");
    let (out, _, _) = generate(&["--grammar", grammar]);
    assert!(["left", "right"].contains(&out.trim_end()), "{out}");
    let (out, _, code) = generate(&["--grammar", grammar, "--best-of", "3"]);
    assert_eq!(code, Some(0));
    assert!(["left", "right"].contains(&out.trim_end()), "{out}");
}

#[test]
fn every_answer_of_a_chat_is_held() {
    let template = scratch().join("form.jinja");
    std::fs::write(
        &template,
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",
    )
    .expect("written");
    let template = template.to_str().expect("a name");
    let flags = [
        "chat",
        "-m",
        nano(),
        "--chat-template",
        template,
        "-q",
        "--regex",
        "[0-9]{3}",
    ];
    let output = geb_run().args(flags).arg("Hello").output().expect("runs");
    let out = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success());
    assert!(
        out.trim_end().len() == 3 && out.trim_end().bytes().all(|b| b.is_ascii_digit()),
        "{out}"
    );
}

#[test]
fn what_is_no_form_is_refused() {
    let cases: [(&[&str], &str); 5] = [
        (&["--regex", "(a"], "--regex: constraint: "),
        (
            &["--json-schema", "{\"type\": \"colour\"}"],
            "--json-schema: constraint: ",
        ),
        (&["--json-schema", "{"], "--json-schema: the schema: "),
        (&["--json-schema", "no-such-file"], "no-such-file"),
        (
            &["--regex", "a", "--json-schema", "{}"],
            "cannot be used with",
        ),
    ];
    let beams = [
        "generate",
        "-m",
        nano(),
        "--raw",
        "-p",
        "In",
        "--beams",
        "2",
        "--regex",
        "a",
    ];
    let output = geb_run().args(beams).output().expect("runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--best-of"));
    for (flags, says) in cases {
        let (out, err, code) = generate(flags);
        assert!(
            matches!(code, Some(1 | 2)) && out.is_empty(),
            "{flags:?}: {code:?} {out}"
        );
        assert!(err.contains(says), "{flags:?}: {err}");
    }
}
