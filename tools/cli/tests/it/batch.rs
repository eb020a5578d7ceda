//! Files of requests: each row once, whenever the program was killed; what is not known is refused in its row.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

fn folder(name: &str) -> PathBuf {
    let dir = scratch().join(name);
    _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("folder");
    dir
}

fn line(id: &str, url: &str, body: Value) -> String {
    json!({ "custom_id": id, "method": "POST", "url": url, "body": body }).to_string()
}

fn write(path: &Path, lines: &[String]) {
    std::fs::write(path, lines.join("\n") + "\n").expect("written");
}

fn batch(input: &Path, out: &Path, extra: &[&str]) -> std::process::Output {
    let (input, out) = (input.to_str().expect("path"), out.to_str().expect("path"));
    let words = ["batch", "-t", "1", input, "-o", out, "-q"];
    run_on_model(&[&words[..], extra].concat())
}

/// The rows by their id; none is there twice.
fn rows(path: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(path).expect("rows");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).expect("a whole row");
        let id = row["custom_id"].as_str().expect("an id").to_owned();
        assert!(rows.insert(id, row).is_none(), "{line}");
    }
    rows
}

fn prompts(n: usize) -> Vec<String> {
    let one = |i: usize| {
        let body = json!({ "prompt": format!("ab {i}"), "max_tokens": 24, "ignore_eos": true });
        line(&format!("row-{i}"), "/v1/completions", body)
    };
    (0..n).map(one).collect()
}

/// Requests by name: path and body.
fn asked() -> Vec<(&'static str, (&'static str, Value))> {
    let text = |body: Value| ("/v1/completions", body);
    vec![
        (
            "plain",
            text(json!({ "model": "any", "prompt": "ab", "max_tokens": 5, "temperature": 0 })),
        ),
        (
            "ids",
            text(
                json!({ "prompt": [1, 5, 6], "max_tokens": 4, "logprobs": 2, "ignore_eos": true, "seed": -3 }),
            ),
        ),
        (
            "bias",
            text(
                json!({ "prompt": "ab", "max_tokens": 3, "temperature": 0, "ignore_eos": true, "logit_bias": { "9": 100 } }),
            ),
        ),
        ("unknown", text(json!({ "prompt": "ab", "best_off": 3 }))),
        ("range", text(json!({ "prompt": "ab", "temperature": 3 }))),
        ("many", text(json!({ "prompt": "ab", "n": 2 }))),
        ("long", text(json!({ "prompt": vec![5; 4000] }))),
        ("absent", text(json!({ "max_tokens": 3 }))),
        ("url", ("/v1/embeddings", json!({ "input": "ab" }))),
        (
            "chat",
            (
                "/v1/chat/completions",
                json!({
                    "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a" }] }],
                    "max_completion_tokens": 3, "logprobs": true, "top_logprobs": 1, "ignore_eos": true,
                }),
            ),
        ),
        (
            "image",
            (
                "/v1/chat/completions",
                json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            ),
        ),
    ]
}

/// Fields of llama.cpp's server are its flags of `generate`.
#[test]
fn samplers_are_those_of_the_command_line() {
    let dir = folder("batch-samplers");
    let (input, out) = (dir.join("in.jsonl"), dir.join("out.jsonl"));
    let cases = [
        (
            "dry",
            json!({ "dry_multiplier": 30, "dry_allowed_length": 0, "dry_sequence_breakers": [] }),
            "--dry-multiplier 30 --dry-allowed-length 0 --dry-sequence-breaker none",
        ),
        (
            "cut",
            json!({ "typical_p": 0.3, "top_n_sigma": 1, "xtc_probability": 0.5, "xtc_threshold": 0.01 }),
            "--typical 0.3 --top-nsigma 1 --xtc-probability 0.5 --xtc-threshold 0.01",
        ),
        (
            "mirostat",
            json!({ "mirostat_tau": 2, "mirostat": 2, "mirostat_eta": 0.3, "dynatemp_range": 0.5 }),
            "--mirostat 2 --mirostat-ent 2 --mirostat-lr 0.3 --dynatemp-range 0.5",
        ),
    ];
    let all = cases.iter().map(|(id, fields, _)| {
        let mut body = json!({ "prompt": "ab", "max_tokens": 24, "seed": 5, "ignore_eos": true });
        let own = body.as_object_mut().expect("an object");
        own.extend(fields.as_object().expect("an object").clone());
        line(id, "/v1/completions", body)
    });
    let refused = json!({ "prompt": "ab", "mirostat": 1 });
    let refused = line("refused", "/v1/completions", refused);
    write(&input, &all.chain([refused]).collect::<Vec<_>>());
    exits(&batch(&input, &out, &[]), 0);
    let rows = rows(&out);
    assert_eq!(rows["refused"]["error"]["param"], "mirostat");
    for (id, _, flags) in cases {
        let base = "generate --raw -p ab -n 24 --seed 5 --ignore-eos -q --json";
        let words: Vec<&str> = base.split(' ').chain(flags.split(' ')).collect();
        let one = json(&run_on_model(&words));
        let text = &rows[id]["response"]["body"]["choices"][0]["text"];
        assert_eq!(*text, one["text"], "{id}");
    }
}

#[test]
fn each_line_has_its_row() {
    let dir = folder("batch-rows");
    let (input, out) = (dir.join("in.jsonl"), dir.join("out.jsonl"));
    let asked = asked();
    let lines = asked
        .iter()
        .map(|(id, (url, body))| line(id, url, body.clone()));
    write(&input, &lines.collect::<Vec<_>>());
    exits(&batch(&input, &out, &[]), 0);
    let rows = rows(&out);
    assert_eq!(rows.len(), asked.len());
    let refused = |id: &str, param: &str, said: &str| {
        let error = &rows[id]["error"];
        assert_eq!(error["code"], "invalid_request_error", "{error}");
        assert_eq!(error["param"], param, "{error}");
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains(said), "{message}");
        assert!(rows[id]["response"].is_null());
    };
    refused("unknown", "best_off", "unknown field best_off");
    refused("range", "temperature", "temperature is 3, allowed: 0 to 2");
    refused("many", "n", "allowed: 1");
    refused("long", "prompt", "4000 tokens");
    refused("absent", "prompt", "absent");
    refused("url", "url", "/v1/embeddings");
    refused("image", "messages[0].content[0].type", "allowed: text");
    let body = |id: &str| {
        assert!(rows[id]["error"].is_null(), "{}", rows[id]);
        assert_eq!(rows[id]["response"]["status_code"], 200);
        rows[id]["response"]["body"].clone()
    };
    // What the command for one prompt says.
    let words = [
        "generate", "--raw", "-p", "ab", "-n", "5", "--temp", "0", "-q", "--json",
    ];
    let one = json(&run_on_model(&words));
    assert_eq!(body("plain")["choices"][0]["text"], one["text"]);
    let ids = body("ids");
    assert_eq!(ids["usage"]["prompt_tokens"], 3);
    assert_eq!(ids["usage"]["completion_tokens"], 4);
    assert_eq!(ids["choices"][0]["finish_reason"], "length");
    let log_probs = &ids["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(log_probs[list].as_array().map(Vec::len), Some(4), "{list}");
    }
    let chat = body("chat");
    assert_eq!(chat["choices"][0]["message"]["role"], "assistant");
    let tokens = chat["choices"][0]["logprobs"]["content"].as_array();
    assert_eq!(tokens.map(Vec::len), Some(3));
    // A bias of 100 chooses its token.
    let tokens = body("bias")["usage"]["completion_tokens"].clone();
    assert_eq!(tokens, 3);
}

#[test]
fn a_killed_batch_goes_on_and_each_row_is_there_once() {
    let dir = folder("batch-killed");
    let input = dir.join("in.jsonl");
    write(&input, &prompts(40));
    let whole = dir.join("whole.jsonl");
    exits(&batch(&input, &whole, &["--streams", "4"]), 0);
    let text = |row: &Value| row["response"]["body"]["choices"][0]["text"].clone();
    let expected: BTreeMap<_, _> = rows(&whole)
        .iter()
        .map(|(id, row)| (id.clone(), text(row)))
        .collect();
    let mut cut = 0;
    for (round, after) in [0u64, 1, 7, 23].into_iter().enumerate() {
        let out = dir.join(format!("out-{round}.jsonl"));
        let mut child = geb_run()
            .args(["batch", "-t", "1", "-q", "--streams", "3", "-m"])
            .args([model(), &input])
            .arg("-o")
            .arg(&out)
            .spawn()
            .expect("starts");
        let lines =
            || std::fs::read(&out).map_or(0, |b| b.iter().filter(|c| **c == b'\n').count() as u64);
        while lines() < after && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        cut += usize::from(lines() < 40);
        // As a kill in the middle of a row leaves it.
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&out)
            .expect("rows");
        let torn = &prompts(40)[39][..30 + round];
        file.write_all(torn.as_bytes()).expect("torn");
        drop(file);
        let refused = batch(&input, &out, &[]);
        exits(&refused, 2);
        assert!(
            stderr(&refused).contains("--resume"),
            "{}",
            stderr(&refused)
        );
        exits(&batch(&input, &out, &["--resume", "--streams", "5"]), 0);
        let got: BTreeMap<_, _> = rows(&out)
            .iter()
            .map(|(id, row)| (id.clone(), text(row)))
            .collect();
        assert_eq!(got, expected, "killed after {after} rows");
        // Nothing is left to do, and nothing is done.
        let before = std::fs::read(&out).expect("rows");
        exits(&batch(&input, &out, &["--resume"]), 0);
        assert_eq!(std::fs::read(&out).expect("rows"), before);
    }
    assert!(cut > 0, "none was killed before its end");
}

#[test]
fn files_that_are_no_batch_are_refused_with_the_line() {
    let dir = folder("batch-refused");
    let (input, out) = (dir.join("in.jsonl"), dir.join("out.jsonl"));
    let twice = [prompts(2), prompts(1)].concat();
    for (lines, said) in [
        (twice, "line 3: custom_id is row-0"),
        (vec![prompts(1)[0].clone(), "{".into()], "line 2"),
        (vec!["{\"url\": 1}".into()], "line 1: custom_id"),
    ] {
        write(&input, &lines);
        let refused = batch(&input, &out, &[]);
        exits(&refused, 3);
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
        assert!(!out.exists(), "nothing was begun");
    }
    // The rows of another batch, and a file that holds no rows at all, stay as they are.
    write(&input, &prompts(1));
    for (held, code) in [("{\"custom_id\": \"other\"}\n", 2), ("a diary\n", 3)] {
        std::fs::write(&out, held).expect("written");
        exits(&batch(&input, &out, &["--resume"]), code);
        assert_eq!(std::fs::read_to_string(&out).expect("held"), held);
    }
}

#[test]
fn streams_are_measured_through_the_scheduler() {
    let words = [
        "bench",
        "--streams",
        "1,3",
        "-p",
        "20",
        "-n",
        "6",
        "-r",
        "2",
        "-t",
        "1",
        "-q",
    ];
    let value = json(&run_on_model(&[&words[..], &["--json"]].concat()));
    let all = value["streams"].as_array().expect("rows");
    assert_eq!(all.len(), 2);
    for (row, streams) in all.iter().zip([1.0, 3.0]) {
        let number = |name: &str| row[name].as_f64().expect("a number");
        assert_eq!(number("streams"), streams);
        assert!(number("total_tok_s") > 0.0 && number("stream_tok_s") > 0.0);
        assert!(row["first_token_s"]["p50"].as_f64() <= row["first_token_s"]["p99"].as_f64());
        // All tokens of all rounds: 20 rows to read and five more for each answer.
        assert_eq!(number("rows"), 3.0 * streams * 25.0);
    }
    let text = run_on_model(&words);
    exits(&text, 0);
    assert!(stdout(&text).contains("rows/pass"), "{}", stdout(&text));
    let refused = run_on_model(&["bench", "--streams", "0,1"]);
    exits(&refused, 2);
    assert!(
        stderr(&refused).contains("1 to 256"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn passes_of_many_rows_are_measured() {
    let words = [
        "bench", "--rows", "1,3,2", "-d", "5", "-r", "2", "-t", "1", "-q",
    ];
    let value = json(&run_on_model(&[&words[..], &["--json"]].concat()));
    let all = value["rows"].as_array().expect("rows");
    let rows: Vec<_> = all.iter().map(|r| r["rows"].as_u64()).collect();
    assert_eq!(rows, [Some(1), Some(3), Some(2)]);
    for row in all {
        let number = |name: &str| row[name].as_f64().expect("a number");
        assert_eq!(row["ms_all"].as_array().map(Vec::len), Some(2));
        let rate = 1e3 * number("rows") / number("ms");
        assert!((number("tok_s") / rate - 1.0).abs() < 1e-9);
        // Caches hold this model, so no memory bounds it.
        assert!(row["roofline_share"].is_null());
    }
    assert!(value["limits_kept_unix"].is_null());
    let text = run_on_model(&words);
    exits(&text, 0);
    assert!(stdout(&text).contains("bound ms"), "{}", stdout(&text));
    for wrong in [
        ["--rows", "0,1"],
        ["--rows", "257"],
        ["--streams", "1"],
        ["--prompt", "3"],
    ] {
        let output = run_on_model(&[&["bench", "--rows", "1"][..], &wrong].concat());
        exits(&output, 2);
    }
}
