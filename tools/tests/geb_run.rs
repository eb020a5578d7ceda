//! `geb-run` as a user meets it: exit codes, streams, files, on tiny models made from fixtures.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A folder of this test run; removed by `cargo clean`.
fn scratch() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("geb-run");
    std::fs::create_dir_all(&dir).expect("folder for tests");
    dir
}

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(case)
}

fn expected(case: &str) -> Value {
    let text = std::fs::read_to_string(fixture(case).join("expected.json")).expect("expected.json");
    serde_json::from_str(&text).expect("JSON")
}

/// The fixture `llama` as an F32 GGUF file; made once.
fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = scratch().join("llama-f32.gguf");
        let options = geb::convert::Options { dtype: geb::Dtype::F32, ..Default::default() };
        geb::convert::convert(&fixture("llama").join("hf"), &path, &options, &mut ()).expect("convert");
        path
    })
}

/// The program with a clean environment and an empty cache folder.
fn geb_run() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_geb-run"));
    for name in ["GEB_MODEL", "GEB_THREADS", "GEB_CTX", "GEB_ISA", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("GEB_CACHE_DIR", scratch().join("empty-cache")).env("NO_COLOR", "1").env("XDG_STATE_HOME", scratch());
    command.stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    geb_run().args(words).output().expect("geb-run starts")
}

fn run_on_model(words: &[&str]) -> Output {
    let mut all = vec![words[0], "-m", model().to_str().expect("path")];
    all.extend(&words[1..]);
    run(&all)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8 on stdout")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks the exit code; a panic is never right.
#[track_caller]
fn exits(output: &Output, code: i32) {
    let err = stderr(output);
    assert_eq!(output.status.code(), Some(code), "stderr: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

#[track_caller]
fn json(output: &Output) -> Value {
    exits(output, 0);
    serde_json::from_slice(&output.stdout).expect("one JSON value on stdout")
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("array").iter().map(|v| v.as_u64().expect("id")).collect()
}

#[test]
fn help_fits_one_screen_and_has_examples() {
    let help = run(&["-h"]);
    exits(&help, 0);
    assert!(stdout(&help).lines().count() <= 40, "{}", stdout(&help));
    for command in ["", "chat", "generate", "tokenize", "inspect", "logits", "bench", "pull", "demo"] {
        for flag in ["-h", "--help"] {
            let words: Vec<&str> = [command, flag].into_iter().filter(|w| !w.is_empty()).collect();
            let help = run(&words);
            exits(&help, 0);
            assert!(stdout(&help).contains("Examples:"), "{command} {flag}");
        }
    }
    let version = run(&["--version"]);
    exits(&version, 0);
    let level = geb::kernels::Kernels::best().expect("kernels").level().name();
    assert!(stdout(&version).contains(level), "{}", stdout(&version));
}

#[test]
fn unknown_flags_and_commands_are_answered_with_suggestions() {
    let flag = run(&["generate", "--promt", "x"]);
    exits(&flag, 2);
    assert!(stderr(&flag).contains("--prompt"), "{}", stderr(&flag));
    let command = run(&["chta"]);
    exits(&command, 1);
    assert!(stderr(&command).contains("geb-run chat"), "{}", stderr(&command));
}

#[test]
fn without_a_model_the_way_on_is_shown() {
    let none = run(&[]);
    exits(&none, 2);
    for word in ["GEB_MODEL", "geb-run demo", "geb-run pull smollm2"] {
        assert!(stderr(&none).contains(word), "{}", stderr(&none));
    }
    let known = run(&["chat", "smollm2"]);
    exits(&known, 1);
    assert!(stderr(&known).contains("geb-run pull smollm2"), "{}", stderr(&known));
}

#[test]
fn bad_files_have_their_exit_codes() {
    let missing = run(&["inspect", "no/such/file.gguf"]);
    exits(&missing, 1);
    assert!(stderr(&missing).contains("no/such/file.gguf"));

    let bytes = std::fs::read(model()).expect("model");
    let truncated = scratch().join("truncated.gguf");
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).expect("write");
    for command in ["inspect", "chat"] {
        let output = run(&[command, truncated.to_str().expect("path")]);
        exits(&output, 3);
        assert!(stderr(&output).contains("truncated.gguf") && stdout(&output).is_empty(), "{}", stderr(&output));
    }

    // The same length, so that nothing else changes: `llama` becomes an unknown architecture.
    let key = b"general.architecture\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00llama";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("architecture key");
    let mut unknown = bytes.clone();
    unknown[at + key.len() - 5..at + key.len()].copy_from_slice(b"lamma");
    let path = scratch().join("unknown.gguf");
    std::fs::write(&path, unknown).expect("write");
    let output = run(&["generate", "-m", path.to_str().expect("path"), "-p", "x", "--raw"]);
    exits(&output, 4);
    assert!(stderr(&output).contains("lamma"), "{}", stderr(&output));

    let folder = run(&["chat", fixture("llama").join("hf").to_str().expect("path")]);
    exits(&folder, 1);
    assert!(stderr(&folder).contains("geb-quantize"), "{}", stderr(&folder));
}

#[test]
fn tokenize_gives_the_reference_ids() {
    for case in expected("llama")["tokenizer_cases"].as_array().expect("cases") {
        let text = case["text"].as_str().expect("text");
        for (flag, key) in [("", "ids"), ("--no-special", "ids_no_special"), ("--plain", "ids_plain")] {
            let mut words = vec!["tokenize", "--json", text];
            words.extend((!flag.is_empty()).then_some(flag));
            let value = json(&run_on_model(&words));
            assert_eq!(value["ids"], case[key], "{text:?} {flag}");
            assert_eq!(value["pieces"].as_array().map(Vec::len), value["ids"].as_array().map(Vec::len));
        }
    }
}

#[test]
fn tokenize_reads_stdin() {
    let mut child = geb_run()
        .args(["tokenize", "-m", model().to_str().expect("path"), "--ids", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("stdin").write_all(b"Hello").expect("write");
    let piped = child.wait_with_output().expect("ends");
    exits(&piped, 0);
    let direct = run_on_model(&["tokenize", "--ids", "Hello"]);
    assert_eq!(stdout(&piped), stdout(&direct));
}

#[test]
fn greedy_generation_gives_the_reference_tokens() {
    let prompt = expected("llama")["prompt_text"].as_str().expect("prompt").to_owned();
    let words = ["generate", "-p", &prompt, "--raw", "-n", "16", "--temp", "0", "--ignore-eos", "--json"];
    let value = json(&run_on_model(&words));
    let file = std::fs::read(fixture("llama").join("expected.safetensors")).expect("tensors");
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
    let greedy = tensors.tensor("greedy_ids").expect("greedy_ids");
    let wanted: Vec<u64> =
        greedy.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect();
    assert_eq!(ids(&value["ids"]), wanted);
    assert_eq!(value["stop_reason"], "length");
    assert!(value["timings"]["decode_tok_s"].as_f64().is_some_and(|r| r > 0.0));
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let words = ["generate", "-p", "The weather", "-n", "24", "--temp", "1.5", "--ignore-eos", "--json", "--seed"];
    let with_seed = |seed: &str| json(&run_on_model(&[&words[..], &[seed]].concat()));
    let (a, b, c) = (with_seed("7"), with_seed("7"), with_seed("8"));
    assert_eq!(a["ids"], b["ids"]);
    assert_eq!(a["text"], b["text"]);
    assert_ne!(a["ids"], c["ids"]);
    assert_eq!(a["seed"], 7);
    let threads = json(&run_on_model(&[&words[..], &["7", "-t", "3"]].concat()));
    assert_eq!(a["ids"], threads["ids"], "the number of threads changes nothing");
}

#[test]
fn text_goes_to_stdout_and_timings_to_stderr() {
    let output = run_on_model(&["generate", "-p", "Hello", "-n", "8", "--raw", "--seed", "1", "--ignore-eos"]);
    exits(&output, 0);
    let value =
        json(&run_on_model(&["generate", "-p", "Hello", "-n", "8", "--raw", "--seed", "1", "--ignore-eos", "--json"]));
    let text = value["text"].as_str().expect("text");
    assert_eq!(stdout(&output).trim_end_matches('\n'), text.trim_end_matches('\n'));
    assert!(stderr(&output).contains("first token") && stderr(&output).contains("decode"), "{}", stderr(&output));
    let quiet = run_on_model(&["generate", "-p", "Hello", "-n", "2", "--raw", "-q"]);
    exits(&quiet, 0);
    assert_eq!(stderr(&quiet), "");
}

#[test]
fn a_stop_string_ends_the_text() {
    let words = ["generate", "-p", "Hello", "-n", "24", "--raw", "--temp", "0", "--ignore-eos", "--json"];
    let whole = json(&run_on_model(&words));
    let text = whole["text"].as_str().expect("text");
    // A stop string out of the middle of the text, at character borders.
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..(chars.len() / 2 + 3).min(chars.len())].iter().collect();
    let stopped = json(&run_on_model(&[&words[..], &["--stop", &stop]].concat()));
    assert_eq!(stopped["text"].as_str(), text.split(stop.as_str()).next());
    assert_eq!(stopped["stop_reason"], "stop");
}

#[test]
fn bad_requests_are_usage_errors() {
    for words in [
        &["generate", "-p", "x", "--temp", "-1"][..],
        &["generate", "-p", "x", "--top-p", "2"],
        &["generate", "-p", "", "--raw", "--ctx", "99999999"],
        &["generate", "-p", "x", "--isa", "mmx"],
        &["generate", "-f", "x", "-p", "x"],
        &["generate", "-p", "x", "--raw", "--system", "y"],
        &["logits", "--tokens", "1,99999999", "--out", "never.safetensors"],
        &["bench", "-p", "0", "-n", "0"],
    ] {
        let output = run_on_model(words);
        exits(&output, 2);
        assert!(stderr(&output).starts_with("error: "), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn logits_are_those_of_the_reference() {
    let out = scratch().join("logits.safetensors");
    let file = std::fs::read(fixture("llama").join("expected.safetensors")).expect("tensors");
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
    let input = tensors.tensor("input_ids").expect("input_ids");
    let tokens: Vec<String> = input
        .data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")).to_string())
        .collect();
    let output =
        run_on_model(&["logits", "--tokens", &tokens.join(","), "--out", out.to_str().expect("path"), "--kv", "f32"]);
    exits(&output, 0);
    let written = std::fs::read(&out).expect("written");
    let written = safetensors::SafeTensors::deserialize(&written).expect("safetensors");
    let (got, want) = (written.tensor("logits").expect("logits"), tensors.tensor("logits").expect("logits"));
    assert_eq!(got.dtype(), safetensors::Dtype::F32);
    assert_eq!(got.shape(), want.shape());
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    };
    let worst = floats(got.data()).iter().zip(floats(want.data())).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-3, "largest difference {worst}");
}

#[test]
fn inspect_describes_the_file() {
    let text = run_on_model(&["inspect", "--verify"]);
    exits(&text, 0);
    for word in ["general.architecture = \"llama\"", "token_embd.weight", "runs here: yes", "finite"] {
        assert!(stdout(&text).contains(word), "{word} in {}", stdout(&text));
    }
    let value = json(&run_on_model(&["inspect", "--json"]));
    assert_eq!(value["metadata"]["general.architecture"], "llama");
    assert_eq!(value["bits_per_weight"], 32.0);
    assert_eq!(value["runs"], true);
    let sum: u64 = value["tensors"].as_array().expect("list").iter().filter_map(|t| t["bytes"].as_u64()).sum();
    assert_eq!(Some(sum), value["types"]["F32"]["bytes"].as_u64());
}

#[test]
fn inspect_finds_broken_numbers() {
    let value = json(&run_on_model(&["inspect", "--json"]));
    let offset = value["tensors"][0]["offset"].as_u64().expect("offset") as usize;
    let mut bytes = std::fs::read(model()).expect("model");
    bytes[offset..offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = scratch().join("nan.gguf");
    std::fs::write(&path, bytes).expect("write");
    let output = run(&["inspect", path.to_str().expect("path"), "--verify"]);
    exits(&output, 3);
    assert!(stdout(&output).contains("1 bad blocks"), "{}", stdout(&output));
    // Without --verify nothing is scanned.
    exits(&run(&["inspect", path.to_str().expect("path")]), 0);
}

/// Chats with lines on stdin.
fn chat(lines: &str, extra: &[&str]) -> Output {
    let mut child = geb_run()
        .args(["chat", "-m", model().to_str().expect("path"), "-n", "8", "--seed", "3"])
        .args(extra)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("write");
    child.wait_with_output().expect("ends")
}

#[test]
fn chat_works_with_piped_lines() {
    let output = chat("Hello\n\nAnd again?\n/stats\n", &[]);
    exits(&output, 0);
    let err = stderr(&output);
    assert_eq!(err.matches("first token").count(), 2, "{err}");
    assert!(err.contains("reused"), "the second turn reuses the cache: {err}");
    assert!(err.contains("2 answers"), "{err}");
    assert!(!stdout(&output).contains("first token") && !stdout(&output).contains("> "));
    let again = chat("Hello\n\nAnd again?\n", &[]);
    assert_eq!(stdout(&output), stdout(&again), "same seed, same conversation");
    exits(&chat("/exit\nHello\n", &[]), 0);
}

#[test]
fn chat_commands_work() {
    let file = scratch().join("saved.json");
    let name = file.to_str().expect("path");
    let saved = chat(&format!("/system Be brief.\nHello\n/save {name}\n/reset\n/regen\n/hlep\n"), &[]);
    exits(&saved, 0);
    assert!(stderr(&saved).contains("nothing to answer") && stderr(&saved).contains("/help"), "{}", stderr(&saved));
    let value: Value = serde_json::from_slice(&std::fs::read(&file).expect("saved")).expect("JSON");
    assert_eq!(value["system"], "Be brief.");
    assert_eq!(value["messages"].as_array().map(Vec::len), Some(2));
    let loaded = chat(&format!("/load {name}\n/system\n/regen\n"), &[]);
    exits(&loaded, 0);
    assert!(stderr(&loaded).contains("loaded 2 messages") && stderr(&loaded).contains("Be brief."));
    assert_eq!(stderr(&loaded).matches("first token").count(), 1);
    std::fs::write(&file, "{}").expect("write");
    let bad = chat(&format!("/load {name}\n"), &[]);
    exits(&bad, 0);
    assert!(stderr(&bad).contains("not a saved conversation"), "{}", stderr(&bad));
}

#[test]
fn one_prompt_on_the_command_line_gives_one_answer() {
    let path = model().to_str().expect("path");
    let output = run(&[path, "Hello", "-n", "4", "--seed", "3"]);
    exits(&output, 0);
    assert_eq!(stderr(&output).matches("first token").count(), 1);
    let with_flag = run(&["chat", "-m", path, "Hello", "-n", "4", "--seed", "3"]);
    assert_eq!(stdout(&output), stdout(&with_flag));
}

#[test]
fn a_model_without_template_says_so() {
    let value = json(&run(&["inspect", model().to_str().expect("path"), "--json"]));
    assert!(value["metadata"]["tokenizer.chat_template"].is_string(), "the fixture has a template");
    // The key gets another name of the same length.
    let mut bytes = std::fs::read(model()).expect("model");
    let key = b"tokenizer.chat_template";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("key");
    bytes[at..at + key.len()].copy_from_slice(b"tokenizer.chat_templatX");
    let path = scratch().join("no-template.gguf");
    std::fs::write(&path, bytes).expect("write");
    let path = path.to_str().expect("path");
    let output = run(&["chat", path]);
    exits(&output, 4);
    assert!(stderr(&output).contains("--raw") && stderr(&output).contains("--chat-template"), "{}", stderr(&output));
    let output = run(&["generate", "-m", path, "-p", "Hello", "-n", "2"]);
    exits(&output, 0);
    assert!(stderr(&output).contains("no chat template"), "{}", stderr(&output));
    let template = scratch().join("template.jinja");
    std::fs::write(&template, "{% for m in messages %}[{{ m.content }}]{% endfor %}").expect("write");
    let template = template.to_str().expect("path");
    let output = run(&["generate", "-m", path, "-p", "Hello", "-n", "2", "--chat-template", template, "--json"]);
    let with_template = json(&output);
    let plain = json(&run(&["tokenize", "-m", path, "[Hello]", "--no-special", "--json"]));
    assert_eq!(with_template["prompt_ids"], plain["ids"]);
    std::fs::write(template, "{% for %}").expect("write");
    exits(&run(&["generate", "-m", path, "-p", "Hello", "--chat-template", template]), 4);
}

#[test]
fn a_closed_stdout_is_no_accident() {
    let path = model().to_str().expect("path").to_owned();
    for words in [
        vec!["generate", "-m", &path, "-p", "Hello", "--raw", "-n", "400", "--ignore-eos"],
        vec!["inspect", &path, "--full"],
        vec!["--help"],
    ] {
        let mut child =
            geb_run().args(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut out = child.stdout.take().expect("stdout");
        _ = out.read(&mut [0; 1]);
        drop(out);
        let output = child.wait_with_output().expect("ends");
        exits(&output, 0);
        assert!(!stderr(&output).contains("error"), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn bench_reports_medians() {
    let value = json(&run_on_model(&["bench", "-p", "8", "-n", "4", "-r", "3", "--json"]));
    for key in ["prefill_tok_s", "decode_tok_s", "decode_gb_s"] {
        assert!(value[key].as_f64().is_some_and(|v| v > 0.0), "{key} in {value}");
    }
    assert_eq!(value["prefill_all"].as_array().map(Vec::len), Some(3));
    let text = run_on_model(&["bench", "-p", "8", "-n", "4", "-r", "1"]);
    exits(&text, 0);
    assert!(stdout(&text).contains("tok/s"), "{}", stdout(&text));
}

#[test]
fn demo_measures_what_quantization_costs() {
    let value = json(&run(&["demo", "--quick", "--json"]));
    let rows = value["rows"].as_array().expect("rows");
    let types: Vec<&str> = rows.iter().filter_map(|r| r["type"].as_str()).collect();
    assert_eq!(types, ["F32", "Q8_0", "Q4_0"]);
    let number = |row: usize, language: &str, key: &str| rows[row][language][key].as_f64().expect("number");
    for language in ["en", "zh"] {
        assert_eq!(number(0, language, "mean_kl"), 0.0);
        assert_eq!(number(0, language, "top1_agreement"), 1.0);
        assert!(number(1, language, "mean_kl") < number(2, language, "mean_kl"));
        assert!(number(1, language, "mean_kl") < 0.01, "Q8_0 stays near F32");
        assert!(number(2, language, "top1_agreement") > 0.7);
        assert!(!rows[2][language]["sample"]["text"].as_str().expect("text").is_empty());
    }
    assert!(rows[0]["file_bytes"].as_u64() > rows[1]["file_bytes"].as_u64());
}
