//! Adapters, embeddings and counts of zeros from the command line.

use std::path::PathBuf;

use geb::Dtype;
use geb::gguf::writer::{Plan, write_file};

use super::support::*;

/// An adapter of one matrix of the fixture `llama`, rank 2.
fn adapter(name: &str, architecture: &str) -> PathBuf {
    let path = scratch().join(name);
    let mut plan = Plan::default();
    plan.push_meta("general.type", "adapter")
        .push_meta("general.architecture", architecture)
        .push_meta("adapter.type", "lora")
        .push_meta("adapter.lora.alpha", 2.0f32)
        .push_tensor("blk.1.ffn_down.weight.lora_a", Dtype::F32, [160, 2])
        .push_tensor("blk.1.ffn_down.weight.lora_b", Dtype::F32, [2, 64]);
    let values = |i: usize| (0..[320, 128][i]).map(|v| ((v * 37 % 101) as f32 - 50.0) / 60.0);
    write_file(&path, &plan, &mut |i, out| {
        let bytes: Vec<u8> = values(i).flat_map(f32::to_le_bytes).collect();
        out.write_all(&bytes).map_err(geb::Error::io("adapter"))
    })
    .expect("written");
    path
}

#[test]
fn adapters_change_what_is_generated() {
    let path = adapter("adapter.gguf", "llama");
    let path = path.to_str().expect("path");
    let scores = |lora: &[&str]| {
        let text = scratch().join("adapter.txt");
        std::fs::write(&text, "some words to be scored").expect("written");
        let mut words = vec!["scores", "--json", "-f", text.to_str().expect("path")];
        words.extend(lora.iter().flat_map(|l| ["--lora", l]));
        let out = run_on_model(&words);
        exits(&out, 0);
        stdout(&out)
    };
    let plain = scores(&[]);
    let half = format!("{path}=0.5");
    assert_eq!(scores(&[&format!("{path}=0")]), plain);
    assert_ne!(scores(&[path]), plain);
    assert_eq!(scores(&[path]), scores(&[path]));
    assert_ne!(scores(&[&half]), scores(&[path]));
    assert_ne!(scores(&[&half, &half]), plain);
    let other = adapter("adapter-qwen2.gguf", "qwen2");
    let out = run_on_model(&[
        "generate",
        "-p",
        "a",
        "--lora",
        other.to_str().expect("path"),
    ]);
    exits(&out, 3);
    assert!(stderr(&out).contains("general.architecture is qwen2"));
    let out = run_on_model(&["generate", "-p", "a", "--lora", "no-such-file"]);
    exits(&out, 1);
}

#[test]
fn texts_become_vectors() {
    let file = scratch().join("lines.txt");
    std::fs::write(&file, "a first text\n\na second, longer text\n").expect("written");
    let file = file.to_str().expect("path");
    let mut seen = Vec::new();
    for flags in [
        &[][..],
        &["--non-causal"],
        &["--pooling", "last"],
        &["--pooling", "cls"],
        &["--instruction", "find:"],
    ] {
        let out = json(&run_on_model(&[&["embed", "-f", file][..], flags].concat()));
        assert_eq!(out["dimensions"], 64);
        let data = out["data"].as_array().expect("array");
        assert_eq!(data.len(), 2);
        for entry in data {
            let vector = entry["embedding"].as_array().expect("array");
            let numbers = vector.iter().map(|v| v.as_f64().expect("number"));
            let length: f64 = numbers.map(|v| v * v).sum();
            assert!(
                vector.len() == 64 && (length - 1.0).abs() < 1e-4,
                "{length}"
            );
        }
        seen.push(data[0]["embedding"].to_string());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5, "each flag has an effect");
    let one = json(&run_on_model(&["embed", "a first text"]));
    let two = json(&run_on_model(&["embed", "-f", file]));
    assert_eq!(one["data"][0], two["data"][0]);
    exits(&run_on_model(&["embed"]), 2);
    exits(&run_on_model(&["embed", "--pooling", "rank", "x"]), 2);
}

#[test]
fn zeros_are_counted() {
    let out = json(&run_on_model(&["inspect", "--sparsity", "--json"]));
    let attention = &out["groups"]["attention"];
    assert!(attention["zero_percent"].as_f64().expect("number") < 1.0);
    assert!(out["tensors"][0]["zeros"].is_u64());
    let text = stdout(&run_on_model(&["inspect", "--sparsity"]));
    assert!(text.contains("% zeros"), "{text}");
}
