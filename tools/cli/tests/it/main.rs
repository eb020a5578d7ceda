//! The programs as a user meets them: exit codes, streams, files, on tiny models made from fixtures.

mod adapters;
mod batch;
#[path = "../../../../tests/common/changed.rs"]
#[allow(dead_code)]
mod changed;
mod compare;
mod compress;
mod encoder;
mod evaluate;
mod files;
mod form;
#[path = "../../../../tests/common/gguf.rs"]
#[allow(dead_code)]
mod gguf;
mod hostile;
mod imatrix;
mod known;
mod mistakes;
mod probe;
mod quantize;
mod serve;
mod several;
mod speculation;
mod support;
mod tasks;
mod text;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use serde_json::Value;
use support::*;

#[test]
fn help_fits_one_screen_and_has_examples() {
    let help = run(&["-h"]);
    exits(&help, 0);
    assert!(stdout(&help).lines().count() <= 40, "{}", stdout(&help));
    for command in [
        "",
        "chat",
        "generate",
        "tokenize",
        "inspect",
        "logits",
        "eval",
        "scores",
        "bench",
        "batch",
        "compare",
        "tune",
        "probe",
        "compress",
        "decompress",
        "imatrix",
        "pull",
        "demo",
    ] {
        for flag in ["-h", "--help"] {
            let words: Vec<&str> = [command, flag]
                .into_iter()
                .filter(|w| !w.is_empty())
                .collect();
            let help = run(&words);
            exits(&help, 0);
            assert!(stdout(&help).contains("Examples:"), "{command} {flag}");
        }
    }
    let version = run(&["--version"]);
    exits(&version, 0);
    let level = geb::kernels::Kernels::best()
        .expect("kernels")
        .level()
        .name();
    assert!(stdout(&version).contains(level), "{}", stdout(&version));
}

#[test]
fn the_tuned_number_of_threads_is_the_default() {
    let cache = tempfile::tempdir().expect("a folder");
    let model = model().to_str().expect("path");
    let run = |words: &[&str], env: Option<(&str, &str)>| {
        let mut command = geb_run();
        command.env_remove("RAYON_NUM_THREADS");
        command.env("GEB_CACHE_DIR", cache.path()).envs(env);
        command.args(words).args(["-m", model, "--json"]);
        json(&command.output().expect("geb-run starts"))
    };
    let bench = ["bench", "-p", "4", "-n", "2", "-r", "1"];
    let tune = ["tune", "-p", "4", "-n", "2", "-r", "1", "--most", "3"];
    let measured = run(&tune, None);
    let rows = measured["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|r| r["decode_tok_s"].as_f64() > Some(0.0)));
    let best = &measured["recommended"];
    assert_eq!(&run(&bench, None)["threads"], best);
    // Another choice than chance could make.
    let store = cache.path().join("threads.json");
    let text = std::fs::read_to_string(&store).expect("the store");
    let changed = text.replace(&format!("\": {best}"), "\": 5");
    assert_ne!(changed, text);
    std::fs::write(&store, changed).expect("written");
    assert_eq!(run(&bench, None)["threads"], 5);
    // What the user says comes first.
    for (words, env, threads) in [
        (["-t", "2"].as_slice(), None, 2),
        (&[], Some(("GEB_THREADS", "3")), 3),
        (&[], Some(("RAYON_NUM_THREADS", "4")), 4),
    ] {
        assert_eq!(run(&[&bench, words].concat(), env)["threads"], threads);
    }
    // A broken store is no reason to stop.
    std::fs::write(&store, "{").expect("written");
    run(&bench, None);
}

#[test]
fn unknown_flags_and_commands_are_answered_with_suggestions() {
    let flag = run(&["generate", "--promt", "x"]);
    exits(&flag, 2);
    assert!(stderr(&flag).contains("--prompt"), "{}", stderr(&flag));
    let command = run(&["chta"]);
    exits(&command, 1);
    assert!(
        stderr(&command).contains("geb-run chat"),
        "{}",
        stderr(&command)
    );
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
    assert!(
        stderr(&known).contains("geb-run pull smollm2"),
        "{}",
        stderr(&known)
    );
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
        assert!(
            stderr(&output).contains("truncated.gguf") && stdout(&output).is_empty(),
            "{}",
            stderr(&output)
        );
    }

    // The same length, so that nothing else changes: `llama` becomes an unknown architecture.
    let key = b"general.architecture\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00llama";
    let at = bytes
        .windows(key.len())
        .position(|w| w == key)
        .expect("architecture key");
    let mut unknown = bytes.clone();
    unknown[at + key.len() - 5..at + key.len()].copy_from_slice(b"lamma");
    let path = scratch().join("unknown.gguf");
    std::fs::write(&path, unknown).expect("write");
    let output = run(&[
        "generate",
        "-m",
        path.to_str().expect("path"),
        "-p",
        "x",
        "--raw",
    ]);
    exits(&output, 4);
    assert!(stderr(&output).contains("lamma"), "{}", stderr(&output));

    let folder = run(&["chat", fixture("llama").join("hf").to_str().expect("path")]);
    exits(&folder, 1);
    assert!(
        stderr(&folder).contains("geb-quantize"),
        "{}",
        stderr(&folder)
    );
}

#[test]
fn tokenize_gives_the_reference_ids() {
    for case in expected("llama")["tokenizer_cases"]
        .as_array()
        .expect("cases")
    {
        let text = case["text"].as_str().expect("text");
        for (flag, key) in [
            ("", "ids"),
            ("--no-special", "ids_no_special"),
            ("--plain", "ids_plain"),
        ] {
            let mut words = vec!["tokenize", "--json", text];
            words.extend((!flag.is_empty()).then_some(flag));
            let value = json(&run_on_model(&words));
            assert_eq!(value["ids"], case[key], "{text:?} {flag}");
            assert_eq!(
                value["pieces"].as_array().map(Vec::len),
                value["ids"].as_array().map(Vec::len)
            );
        }
    }
}

#[test]
fn tokenize_reads_stdin() {
    let mut child = geb_run()
        .args([
            "tokenize",
            "-m",
            model().to_str().expect("path"),
            "--ids",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(b"Hello")
        .expect("write");
    let piped = child.wait_with_output().expect("ends");
    exits(&piped, 0);
    let direct = run_on_model(&["tokenize", "--ids", "Hello"]);
    assert_eq!(stdout(&piped), stdout(&direct));
}

#[test]
fn bad_requests_are_usage_errors() {
    for words in [
        &["generate", "-p", "x", "--temp", "nan"][..],
        &["generate", "-p", "x", "--top-p", "2"],
        &["generate", "-p", "", "--raw", "--ctx", "99999999"],
        &["generate", "-p", "x", "--isa", "mmx"],
        &["generate", "-f", "x", "-p", "x"],
        &["generate", "-p", "x", "--raw", "--system", "y"],
        &[
            "logits",
            "--tokens",
            "1,99999999",
            "--out",
            "never.safetensors",
        ],
        &["bench", "-p", "0", "-n", "0"],
        &["bench", "--speculation", "-n", "1"],
        &["generate", "-p", "x", "--draft", "y", "--exit-layer", "1"],
        &["generate", "-p", "x", "--exit-layer", "99"],
        &["generate", "-p", "x", "--draft-max", "0"],
    ] {
        let output = run_on_model(words);
        exits(&output, 2);
        assert!(
            stderr(&output).starts_with("error: "),
            "{words:?}: {}",
            stderr(&output)
        );
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
    let output = run_on_model(&[
        "logits",
        "--tokens",
        &tokens.join(","),
        "--out",
        out.to_str().expect("path"),
        "--kv",
        "f32",
    ]);
    exits(&output, 0);
    let written = std::fs::read(&out).expect("written");
    let written = safetensors::SafeTensors::deserialize(&written).expect("safetensors");
    let (got, want) = (
        written.tensor("logits").expect("logits"),
        tensors.tensor("logits").expect("logits"),
    );
    assert_eq!(got.dtype(), safetensors::Dtype::F32);
    assert_eq!(got.shape(), want.shape());
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
            .collect()
    };
    let worst = floats(got.data())
        .iter()
        .zip(floats(want.data()))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 2e-3, "largest difference {worst}");
}

#[test]
fn inspect_describes_the_file() {
    let text = run_on_model(&["inspect", "--verify"]);
    exits(&text, 0);
    for word in [
        "general.architecture = \"llama\"",
        "token_embd.weight",
        "runs here: yes",
        "finite",
    ] {
        assert!(stdout(&text).contains(word), "{word} in {}", stdout(&text));
    }
    let value = json(&run_on_model(&["inspect", "--json"]));
    assert_eq!(value["metadata"]["general.architecture"], "llama");
    assert_eq!(value["bits_per_weight"], 32.0);
    assert_eq!(value["runs"], true);
    let sum: u64 = value["tensors"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|t| t["bytes"].as_u64())
        .sum();
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
    assert!(
        stdout(&output).contains("1 bad blocks"),
        "{}",
        stdout(&output)
    );
    // Without --verify nothing is scanned.
    exits(&run(&["inspect", path.to_str().expect("path")]), 0);
}

#[test]
fn a_closed_stdout_is_no_accident() {
    let path = model().to_str().expect("path").to_owned();
    for words in [
        vec![
            "generate",
            "-m",
            &path,
            "-p",
            "Hello",
            "--raw",
            "-n",
            "400",
            "--ignore-eos",
        ],
        vec!["inspect", &path, "--full"],
        vec!["--help"],
    ] {
        let mut child = geb_run()
            .args(&words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut out = child.stdout.take().expect("stdout");
        _ = out.read(&mut [0; 1]);
        drop(out);
        let output = child.wait_with_output().expect("ends");
        exits(&output, 0);
        assert!(
            !stderr(&output).contains("error"),
            "{words:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn bench_reports_medians() {
    let value = json(&run_on_model(&[
        "bench", "-p", "8", "-n", "4", "-r", "3", "--json",
    ]));
    for key in ["prefill_tok_s", "decode_tok_s", "decode_gb_s"] {
        assert!(
            value[key].as_f64().is_some_and(|v| v > 0.0),
            "{key} in {value}"
        );
    }
    assert_eq!(value["prefill_all"].as_array().map(Vec::len), Some(3));
    let text = run_on_model(&["bench", "-p", "8", "-n", "4", "-r", "1"]);
    exits(&text, 0);
    let deep = |kv: &str| {
        let words = [
            "bench", "-p", "8", "-n", "4", "-r", "1", "-d", "20", "--kv", kv, "--json",
        ];
        json(&run_on_model(&words))
    };
    let (half, code) = (deep("f16"), deep("q8_0"));
    assert_eq!(half["depth_tokens"], 20);
    assert_eq!(code["kv_type"], "q8_0");
    let read = |v: &serde_json::Value| v["decode_bytes_per_token"].as_u64().expect("bytes");
    assert!(read(&half) > read(&value));
    assert_ne!(half["kv_bytes_per_position"], code["kv_bytes_per_position"]);
    assert!(stdout(&text).contains("tok/s"), "{}", stdout(&text));
}

#[test]
fn shares_are_of_the_limits_that_are_kept() {
    let cache = tempfile::tempdir().expect("a folder");
    let model = model().to_str().expect("path");
    let run = |words: &[&str]| {
        let mut command = geb_run();
        command.env("GEB_CACHE_DIR", cache.path()).args(words);
        command.args(["-m", model, "-p", "8", "-n", "1", "-r", "1"]);
        command.output().expect("geb-run starts")
    };
    // How this machine is called.
    let tuned = json(&run(&["tune", "--most", "1", "--json"]));
    let measured = json(&run(&["bench", "-t", "2", "--json"]));
    assert!(measured["limits_kept_unix"].is_null(), "{measured}");
    let text = stdout(&run(&["bench", "-t", "2"]));
    assert!(text.contains("between the rounds"), "{text}");
    let mut limits = serde_json::json!({
        "int8_gops": 1e9, "bf16_gflops": 1e9, "f32_gflops": 1e9, "read_gb_s": 1e9, "limits_kept_unix": 86_400,
    });
    let level = measured["isa"].as_str().expect("a level");
    let keep = |limits: &serde_json::Value| {
        let machine = tuned["machine"].as_str().expect("a name");
        let all = serde_json::json!({ machine: { format!("{level}, 2 threads"): limits } });
        std::fs::write(cache.path().join("limits.json"), all.to_string()).expect("written");
    };
    keep(&limits);
    let kept = json(&run(&["bench", "-t", "2", "--json"]));
    assert_eq!(kept["f32_gflops"], 1e9);
    assert!(kept["prefill_share"].as_f64() < Some(1e-3), "{kept}");
    let text = stdout(&run(&["bench", "-t", "2"]));
    assert!(text.contains("days ago"), "{text}");
    // Limits of other threads, and broken ones, are not used.
    assert_ne!(
        json(&run(&["bench", "-t", "1", "--json"]))["f32_gflops"],
        1e9
    );
    limits["read_gb_s"] = 0.into();
    keep(&limits);
    assert_ne!(
        json(&run(&["bench", "-t", "2", "--json"]))["f32_gflops"],
        1e9
    );
}

/// Ctrl-C while a random model is written: exit code 130, and nothing is left behind.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let cache = scratch().join("interrupted-cache");
    let mut child = geb_run()
        .args(["bench", "--shape", "geb-1.3b", "--type", "q8_0"])
        .env("GEB_CACHE_DIR", &cache)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut err = BufReader::new(child.stderr.take().expect("stderr"));
    let mut line = String::new();
    err.read_line(&mut line).expect("a note");
    assert!(line.contains("making a model"), "{line}");
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .expect("kill")
            .success()
    );
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(&cache)
        .map(|d| d.flatten().collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn demo_measures_what_quantization_costs() {
    let value = json(&run(&["demo", "--quick", "--json"]));
    let rows = value["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["f32", "q8_0", "q4_0"]);
    for text in 0..2 {
        let number = |row: usize, path: &str| {
            let all = &rows[row]["texts"][text]["against_base"];
            all.pointer(path).and_then(Value::as_f64).expect("number")
        };
        assert!(rows[0]["texts"][text]["against_base"].is_null());
        assert!(number(1, "/kl/mean/value") < number(2, "/kl/mean/value"));
        assert!(number(1, "/kl/mean/value") < 0.01, "Q8_0 stays near F32");
        assert!(number(2, "/top1/value") > 0.7);
        let sample = &rows[2]["samples"][text]["text"];
        assert!(!sample.as_str().expect("text").is_empty());
    }
    assert!(rows[0]["bytes"].as_u64() > rows[1]["bytes"].as_u64());
}
