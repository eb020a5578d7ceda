//! Commands that generate text: `generate` and `chat`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::*;

#[test]
fn greedy_generation_gives_the_reference_tokens() {
    let prompt = expected("llama")["prompt_text"]
        .as_str()
        .expect("prompt")
        .to_owned();
    let words = [
        "generate",
        "-p",
        &prompt,
        "--raw",
        "-n",
        "16",
        "--temp",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let value = json(&run_on_model(&words));
    let file = std::fs::read(fixture("llama").join("expected.safetensors")).expect("tensors");
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
    let greedy = tensors.tensor("greedy_ids").expect("greedy_ids");
    let wanted: Vec<u64> = greedy
        .data()
        .chunks_exact(8)
        .map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect();
    assert_eq!(ids(&value["ids"]), wanted);
    assert_eq!(value["stop_reason"], "length");
    assert!(
        value["timings"]["decode_tok_s"]
            .as_f64()
            .is_some_and(|r| r > 0.0)
    );
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let words = [
        "generate",
        "-p",
        "The weather",
        "-n",
        "24",
        "--temp",
        "1.5",
        "--ignore-eos",
        "--json",
        "--seed",
    ];
    let with_seed = |seed: &str| json(&run_on_model(&[&words[..], &[seed]].concat()));
    let (a, b, c) = (with_seed("7"), with_seed("7"), with_seed("8"));
    assert_eq!(a["ids"], b["ids"]);
    assert_eq!(a["text"], b["text"]);
    assert_ne!(a["ids"], c["ids"]);
    assert_eq!(a["seed"], 7);
    let threads = json(&run_on_model(&[&words[..], &["7", "-t", "3"]].concat()));
    assert_eq!(
        a["ids"], threads["ids"],
        "the number of threads changes nothing"
    );
}

#[test]
fn text_goes_to_stdout_and_timings_to_stderr() {
    let output = run_on_model(&[
        "generate",
        "-p",
        "Hello",
        "-n",
        "8",
        "--raw",
        "--seed",
        "1",
        "--ignore-eos",
    ]);
    exits(&output, 0);
    let value = json(&run_on_model(&[
        "generate",
        "-p",
        "Hello",
        "-n",
        "8",
        "--raw",
        "--seed",
        "1",
        "--ignore-eos",
        "--json",
    ]));
    let text = value["text"].as_str().expect("text");
    assert_eq!(
        stdout(&output).trim_end_matches('\n'),
        text.trim_end_matches('\n')
    );
    assert!(
        stderr(&output).contains("first token") && stderr(&output).contains("decode"),
        "{}",
        stderr(&output)
    );
    let quiet = run_on_model(&["generate", "-p", "Hello", "-n", "2", "--raw", "-q"]);
    exits(&quiet, 0);
    assert_eq!(stderr(&quiet), "");
}

#[test]
fn a_stop_string_ends_the_text() {
    let words = [
        "generate",
        "-p",
        "Hello",
        "-n",
        "24",
        "--raw",
        "--temp",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let whole = json(&run_on_model(&words));
    let text = whole["text"].as_str().expect("text");
    // A stop string out of the middle of the text, at character borders.
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..(chars.len() / 2 + 3).min(chars.len())]
        .iter()
        .collect();
    let stopped = json(&run_on_model(&[&words[..], &["--stop", &stop]].concat()));
    assert_eq!(stopped["text"].as_str(), text.split(stop.as_str()).next());
    assert_eq!(stopped["stop_reason"], "stop");
}

#[test]
fn a_model_without_template_says_so() {
    let value = json(&run(&[
        "inspect",
        model().to_str().expect("path"),
        "--json",
    ]));
    assert!(
        value["metadata"]["tokenizer.chat_template"].is_string(),
        "the fixture has a template"
    );
    // The key gets another name of the same length.
    let mut bytes = std::fs::read(model()).expect("model");
    let key = b"tokenizer.chat_template";
    let at = bytes
        .windows(key.len())
        .position(|w| w == key)
        .expect("key");
    bytes[at..at + key.len()].copy_from_slice(b"tokenizer.chat_templatX");
    let path = scratch().join("no-template.gguf");
    std::fs::write(&path, bytes).expect("write");
    let path = path.to_str().expect("path");
    let output = run(&["chat", path]);
    exits(&output, 4);
    assert!(
        stderr(&output).contains("--raw") && stderr(&output).contains("--chat-template"),
        "{}",
        stderr(&output)
    );
    let output = run(&["generate", "-m", path, "-p", "Hello", "-n", "2"]);
    exits(&output, 0);
    assert!(
        stderr(&output).contains("no chat template"),
        "{}",
        stderr(&output)
    );
    let template = scratch().join("template.jinja");
    std::fs::write(
        &template,
        "{% for m in messages %}[{{ m.content }}]{% endfor %}",
    )
    .expect("write");
    let template = template.to_str().expect("path");
    let output = run(&[
        "generate",
        "-m",
        path,
        "-p",
        "Hello",
        "-n",
        "2",
        "--chat-template",
        template,
        "--json",
    ]);
    let with_template = json(&output);
    let plain = json(&run(&[
        "tokenize",
        "-m",
        path,
        "[Hello]",
        "--no-special",
        "--json",
    ]));
    assert_eq!(with_template["prompt_ids"], plain["ids"]);
    std::fs::write(template, "{% for %}").expect("write");
    exits(
        &run(&[
            "generate",
            "-m",
            path,
            "-p",
            "Hello",
            "--chat-template",
            template,
        ]),
        4,
    );
}

/// Chats with lines on stdin.
fn chat(lines: &str, extra: &[&str]) -> Output {
    let mut child = geb_run()
        .args([
            "chat",
            "-m",
            model().to_str().expect("path"),
            "-n",
            "8",
            "--seed",
            "3",
        ])
        .args(extra)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(lines.as_bytes())
        .expect("write");
    child.wait_with_output().expect("ends")
}

#[test]
fn chat_works_with_piped_lines() {
    let output = chat("Hello\n\nAnd again?\n/stats\n", &[]);
    exits(&output, 0);
    let err = stderr(&output);
    assert_eq!(err.matches("first token").count(), 2, "{err}");
    assert!(
        err.contains("reused"),
        "the second turn reuses the cache: {err}"
    );
    assert!(err.contains("2 answers"), "{err}");
    assert!(!stdout(&output).contains("first token") && !stdout(&output).contains("> "));
    let again = chat("Hello\n\nAnd again?\n", &[]);
    assert_eq!(
        stdout(&output),
        stdout(&again),
        "same seed, same conversation"
    );
    exits(&chat("/exit\nHello\n", &[]), 0);
}

#[test]
fn chat_commands_work() {
    let dir = tempfile::tempdir_in(scratch()).expect("folder");
    let file = dir.path().join("saved.json");
    let name = file.to_str().expect("path");
    let saved = chat(
        &format!("/system Be brief.\nHello\n/save {name}\n/reset\n/regen\n/hlep\n"),
        &[],
    );
    exits(&saved, 0);
    assert!(
        stderr(&saved).contains("nothing to answer") && stderr(&saved).contains("/help"),
        "{}",
        stderr(&saved)
    );
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
    assert!(
        stderr(&bad).contains("not a saved conversation"),
        "{}",
        stderr(&bad)
    );
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

/// A chat that waits for the user uses no CPU: its threads sleep between answers.
#[cfg(target_os = "linux")]
#[test]
fn a_waiting_chat_uses_no_cpu() {
    let model = model().to_str().expect("path");
    let mut child = geb_run()
        .args(["chat", "-m", model, "-n", "8", "--seed", "3", "-t", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(b"Hello\n").expect("write");
    // The line of timings says that the answer is complete.
    let lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let timings = lines
        .map_while(Result::ok)
        .find(|l| l.contains("first token"));
    assert!(timings.is_some());
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("stat");
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        // User and system time: fields 14 and 15, two of which stand before the `)`.
        let times = fields.skip(11).take(2);
        times.map(|t| t.parse::<u64>().expect("ticks")).sum()
    };
    // Workers look for work a little longer before they sleep.
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks() - before;
    drop(stdin);
    assert!(child.wait().expect("ends").success());
    assert!(used <= 2, "{used} hundredths of a second in one second");
}

/// What a model thinks before it answers: shown between its markers, hidden, or folded, which is nothing where
/// nobody watches.
#[test]
fn reasoning_is_shown_hidden_or_folded() {
    let dir = tempfile::tempdir().expect("folder");
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("path").to_owned()
    };
    // The model continues what the prompt has opened, and never closes it.
    let thinks = format!("{plain}{{% if add_generation_prompt %}}<think>\n{{% endif %}}");
    let (plain, thinks) = (write("plain", plain.into()), write("thinks", thinks));
    let chat = |template: &str, how: &[&str]| {
        let mut words = vec!["chat", "Hello", "-n", "8", "--seed", "1", "--ignore-eos"];
        words.extend(["--chat-template", template]);
        words.extend(how);
        let output = run_on_model(&words);
        exits(&output, 0);
        assert!(
            !stderr(&output).contains("thought for"),
            "{}",
            stderr(&output)
        );
        stdout(&output)
    };
    let shown = chat(&thinks, &["--reasoning", "show"]);
    assert!(
        shown.starts_with("<think>\n") && shown.ends_with("\n</think>\n\n"),
        "{shown:?}"
    );
    assert!(shown.len() > "<think>\n\n</think>\n\n".len(), "{shown:?}");
    for how in [&["--reasoning", "hide"][..], &["--reasoning", "fold"], &[]] {
        assert_eq!(chat(&thinks, how), "", "{how:?}");
    }
    let answer = chat(&plain, &[]);
    assert!(!answer.trim().is_empty());
    for how in ["show", "hide", "fold"] {
        assert_eq!(chat(&plain, &["--reasoning", how]), answer, "{how}");
    }
    let help = run(&["chat", "-h"]);
    assert!(stdout(&help).contains("--reasoning"), "{}", stdout(&help));
    assert!(stdout(&help).lines().count() <= 40, "{}", stdout(&help));
    let wrong = run_on_model(&["chat", "Hello", "--reasoning", "loud"]);
    exits(&wrong, 2);
    assert!(
        stderr(&wrong).contains("show, hide, fold"),
        "{}",
        stderr(&wrong)
    );
}
