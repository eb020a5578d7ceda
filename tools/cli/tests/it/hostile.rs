//! What files say reaches the terminal escaped and cut, whatever the command; and what `inspect` says
//! about a file is what `generate` does with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use geb::gguf::{GgufFile, Load};
use serde_json::json;

use crate::gguf::{ARRAY, File, STR, U32, Val};
use crate::support::*;

/// Escape sequences, C1, a bell, line ends, a change of direction, a tag.
const ESC: &str =
    "\x1b[2J\x1b]0;owned\x07\u{9b}31m\r\nforged: line\u{202e}\u{2066}\u{2028}\u{e0041}\x7f";

fn base() -> File {
    File::decode(&GgufFile::open(model(), Load::Copy).expect("a model"))
}

fn quantize(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_geb-quantize"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("geb-quantize starts")
}

/// Nothing in both streams steers a terminal, forges a line, or is long.
#[track_caller]
fn harmless(case: &str, output: &Output) {
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let text = String::from_utf8(bytes.clone()).expect("UTF-8");
        let bad = |c: char| geb::shown::steers(c) && c != '\n' && c != '\t';
        let at = text.find(bad);
        let near = at.map(|at| text[..at].chars().rev().take(80).collect::<String>());
        assert_eq!(
            near, None,
            "{case}: {name}: a raw character after this (reversed)"
        );
        assert!(
            !text.lines().any(|l| l.starts_with("forged")),
            "{case}: {name}: {text}"
        );
        assert!(text.len() < 100_000, "{case}: {name}: {} bytes", text.len());
        assert!(!text.contains("panicked"), "{case}: {name}: {text}");
    }
}

fn strings(n: usize, text: &str) -> Val {
    let items = (0..n).map(|_| Val::Str(text.into())).collect();
    Val::Array {
        elem: STR,
        count: None,
        items,
    }
}

/// Files with `text` in one place each.
fn hostile_files(text: &str) -> Vec<(String, File)> {
    let long_name: String = text.chars().take(20).collect();
    let mut all = Vec::new();
    for key in [
        "general.architecture",
        "general.name",
        "general.type",
        "llama.rope.scaling.type",
        "llama.block_count",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.chat_template",
        "split.count",
        "geb.tensors.sha256",
    ] {
        all.push((key.to_owned(), base().with(key, STR, Val::Str(text.into()))));
    }
    let raise = |quoted: &str| format!("{{{{ raise_exception({quoted}) }}}}");
    let quoted = json!(text).to_string();
    for (name, template) in [
        ("raises", raise(&quoted)),
        ("syntax", format!("{{% {text} %}}")),
        (
            "unknown filter",
            format!("{{{{ 'a' | f{} }}}}", "x".repeat(60_000)),
        ),
        (
            "renders",
            format!(
                "{{{{ messages[0].content }}}}{}",
                text.chars().take(1_000).collect::<String>()
            ),
        ),
    ] {
        let template = Val::Str(template.as_str().into());
        all.push((
            format!("template {name}"),
            base().with("tokenizer.chat_template", STR, template),
        ));
    }
    let rename = |i: usize| base().edit(|f| f.tensors[i].name = long_name.as_str().into());
    all.push(("tensor name".into(), rename(3)));
    let typed = rename(3).edit(|f| f.tensors[3].ty = 99);
    all.push(("tensor type".into(), typed));
    let integer = rename(3).edit(|f| {
        let bytes: usize = f.tensors[3].dims.iter().product::<u64>() as usize;
        f.tensors[3].ty = geb::Dtype::I8.id();
        f.tensors[3].data.truncate(bytes);
    });
    all.push(("tensor of integers".into(), integer));
    let misfit = rename(3).edit(|f| f.tensors[3].dims[0] += 1);
    all.push(("tensor size".into(), misfit));
    let key: String = text.chars().take(15_000).collect();
    all.push(("key".into(), base().str(&key, text)));
    all.push(("key twice".into(), base().str(&key, "a").str(&key, "b")));
    all.push(("array".into(), base().with("x.y", ARRAY, strings(3, text))));
    let hashes = strings(base().tensors.len(), text);
    all.push((
        "hashes".into(),
        base().with("geb.tensors.sha256", ARRAY, hashes),
    ));
    let tokens = base().edit(|f| {
        for key in &mut f.keys {
            if key.name.bytes == b"tokenizer.ggml.tokens" {
                let Val::Array { items, .. } = &mut key.val else {
                    return;
                };
                let short: String = text.chars().take(300).collect();
                for i in 300..310 {
                    items[i] = Val::Str(format!("{i}{short}").as_str().into());
                }
                items[311] = items[300].clone();
            }
        }
    });
    all.push(("tokens".into(), tokens));
    all
}

#[test]
fn files_cannot_steer_the_terminal() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out.gguf");
    let out = out.to_str().expect("path");
    let long = ESC.repeat(1 + (1 << 20) / ESC.len());
    for text in [ESC, &long] {
        for (case, file) in hostile_files(text) {
            let path = dir.path().join(format!("a{}b.gguf", "\x1b[31m\n"));
            std::fs::write(&path, file.encode()).expect("written");
            let m = path.to_str().expect("path");
            harmless(&case, &run(&["inspect", m]));
            harmless(
                &case,
                &run(&["generate", "-m", m, "-p", "a", "-n", "1", "--json"]),
            );
            harmless(&case, &run(&["tokenize", "-m", m, "a \u{1b}[2J b"]));
            harmless(&case, &quantize(&["verify", m]));
            harmless(&case, &quantize(&["--dry-run", "--type", "q8_0", m]));
            harmless(&case, &quantize(&["--type", "q8_0", m, out]));
            _ = std::fs::remove_file(out);
        }
    }
}

#[test]
fn checkpoints_cannot_steer_the_terminal() {
    let source = fixture("qwen2").join("hf");
    let long = ESC.repeat(1 + (1 << 20) / ESC.len());
    let read = |file: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(source.join(file)).expect("JSON");
        serde_json::from_str(&text).expect("JSON")
    };
    for text in [ESC, &long] {
        let mut cases: Vec<(&str, String, String)> = Vec::new();
        for key in [
            "model_type",
            "hidden_act",
            "hidden_size",
            "rope_scaling",
            "torch_dtype",
            "architectures",
        ] {
            let mut config = read("config.json");
            config[key] = json!(text);
            cases.push((key, "config.json".into(), config.to_string()));
        }
        let mut config = read("config.json");
        config[text] = json!({ text: text });
        cases.push(("unknown key", "config.json".into(), config.to_string()));
        cases.push(("no JSON", "config.json".into(), format!("{{\"a\": {text}")));
        for key in ["normalizer", "pre_tokenizer", "model", "decoder"] {
            let mut tokenizer = read("tokenizer.json");
            tokenizer[key] = json!({ "type": text, "vocab": { text: 1 }, "merges": [text] });
            cases.push((key, "tokenizer.json".into(), tokenizer.to_string()));
        }
        let index = json!({ "weight_map": { text: text } }).to_string();
        cases.push(("index", "model.safetensors.index.json".into(), index));
        let mut template = read("tokenizer_config.json");
        template["chat_template"] = json!(format!("{{% {text} %}}"));
        cases.push((
            "template",
            "tokenizer_config.json".into(),
            template.to_string(),
        ));
        for (case, file, content) in cases {
            let dir = copy(&source);
            if case == "index" {
                std::fs::remove_file(dir.path().join("model.safetensors")).expect("removed");
            }
            std::fs::write(dir.path().join(file), content).expect("written");
            let path = dir.path().to_str().expect("path");
            harmless(case, &quantize(&["--dry-run", "--type", "q8_0", path]));
        }
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
    }
    dir
}

fn write(dir: &Path, name: &str, file: &File) -> PathBuf {
    let path = dir.join(format!("{name}.gguf"));
    std::fs::write(&path, file.encode()).expect("written");
    path
}

#[test]
fn inspect_says_what_generate_does() {
    let dir = tempfile::tempdir().expect("folder");
    let number = |n: u32| Val::Raw(n.to_le_bytes().into());
    let text = |s: &str| Val::Str(s.into());
    let cases: Vec<(&str, File)> = vec![
        ("right", base()),
        ("no tokenizer", base().without("tokenizer.ggml.model")),
        (
            "unknown tokenizer",
            base().with("tokenizer.ggml.model", STR, text("magic")),
        ),
        ("no scores", base().without("tokenizer.ggml.scores")),
        (
            "end outside",
            base().with("tokenizer.ggml.eos_token_id", U32, number(1 << 30)),
        ),
        (
            "bad template",
            base().with("tokenizer.chat_template", STR, text("{% if %}")),
        ),
        ("no tensor", base().edit(|f| drop(f.tensors.remove(2)))),
        (
            "unknown architecture",
            base().with("general.architecture", STR, text("magic")),
        ),
        (
            "not causal",
            base().with("llama.attention.causal", 7, Val::Raw(vec![0])),
        ),
        (
            "shape",
            base().with("llama.attention.head_count", U32, number(3)),
        ),
        (
            "huge context",
            base().with("llama.context_length", U32, number(1 << 24)),
        ),
    ];
    for (case, file) in cases {
        let path = write(dir.path(), &case.replace(' ', "-"), &file);
        let m = path.to_str().expect("path");
        let facts = json(&run(&["inspect", "--json", m]));
        let done = run(&["generate", "-m", m, "-p", "a b", "-n", "1"]);
        let runs = facts["runs"].as_bool().expect("a bool");
        assert_eq!(
            runs,
            done.status.success(),
            "{case}: {facts}: {}",
            stderr(&done)
        );
        if case != "end outside" {
            assert_eq!(runs, matches!(case, "right" | "huge context"), "{case}");
        }
        let said = stdout(&run(&["inspect", m]));
        let line = said
            .lines()
            .find(|l| l.contains("runs here:"))
            .expect("a verdict");
        assert_eq!(line.contains("runs here: yes"), runs, "{case}: {line}");
        if let Some(why) = facts["refused"].as_str().filter(|_| case != "not causal") {
            let first = why.lines().next().expect("a line");
            assert!(
                stderr(&done).contains(first),
                "{case}: {first}: {}",
                stderr(&done)
            );
        }
    }
}

#[test]
fn files_of_other_programs_are_not_called_bad() {
    let dir = tempfile::tempdir().expect("folder");
    let own = base();
    let n = own.tensors.len();
    let hash = "0".repeat(64);
    let cases: Vec<(&str, File, i32, &str)> = vec![
        ("own", own.clone(), 0, "as written"),
        (
            "other",
            own.clone().without("geb.tensors.sha256"),
            8,
            "no checksums stored for",
        ),
        (
            "other",
            own.clone().without("geb.tensors.sha256"),
            8,
            "structure ok",
        ),
        (
            "fewer",
            own.clone().edit(|f| drop(f.tensors.pop())),
            1,
            "checksums, and there are",
        ),
        (
            "unfinished",
            own.clone()
                .with("geb.tensors.sha256", ARRAY, strings(n, &hash)),
            1,
            "are not what was written",
        ),
        (
            "not hashes",
            own.clone()
                .with("geb.tensors.sha256", ARRAY, strings(n, "x")),
            3,
            "64 hex digits",
        ),
        (
            "no list",
            own.clone()
                .with("geb.tensors.sha256", STR, Val::Str("x".into())),
            3,
            "geb.tensors.sha256",
        ),
        (
            "no tensors",
            File::new().str("general.architecture", "x"),
            8,
            "0 of 0",
        ),
    ];
    for (case, file, code, text) in cases {
        let path = write(dir.path(), "m", &file);
        let done = quantize(&["verify", path.to_str().expect("path")]);
        let said = stdout(&done) + &stderr(&done);
        assert_eq!(done.status.code(), Some(code), "{case}: {said}");
        assert!(said.contains(text), "{case}: {said}");
    }
    sets(dir.path(), &own);
}

/// Parts of which some hold checksums, and parts of different sets.
fn sets(dir: &Path, own: &File) {
    let out = dir.join("set.gguf");
    let options = geb_convert::Options {
        policy: geb::Dtype::F32.into(),
        split_max: Some(400_000),
        ..Default::default()
    };
    let made = geb_convert::convert(&fixture("llama").join("hf"), &out, &options, &mut ());
    let files = made.expect("a set").files;
    let first = files[0].to_str().expect("path");
    assert_eq!(quantize(&["verify", first]).status.code(), Some(0));
    let last = files.last().expect("parts");
    let part = std::fs::read(last).expect("a part");
    let strip = |keys: &[&str]| {
        let file = File::decode(&GgufFile::from_bytes(part.clone()).expect("a part"));
        let file = keys.iter().fold(file, |f, k| f.without(k));
        std::fs::write(last, file.encode()).expect("written");
    };
    strip(&["geb.tensors.sha256"]);
    let done = quantize(&["verify", first]);
    assert_eq!(done.status.code(), Some(8), "{}", stderr(&done));
    assert!(stderr(&done).contains(&format!("of {} tensors", own.tensors.len())));
    strip(&["geb.split.sha256"]);
    let done = quantize(&["verify", first]);
    assert_eq!(done.status.code(), Some(3), "{}", stderr(&done));
    assert!(stderr(&done).contains("parts that were written together"));
}
