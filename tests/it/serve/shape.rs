//! What an answer must have, by an example that clients have accepted: the same keys with values of the same types.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::client::Event;

/// Keys that we send beside those of the examples.
const FURTHER: [&str; 20] = [
    "system_fingerprint",
    "timings",
    "refusal",
    "prompt_tokens_details",
    "logprobs",
    "usage",
    "max_model_len",
    // Of tokenizers.
    "tokenizer_class",
    "vocab_size",
    // Of messages.
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    // Of responses.
    "max_output_tokens",
    "reasoning",
    "text",
    "truncation",
    "previous_response_id",
    "store",
    "completion_tokens_details",
    "cache_write_tokens",
];
/// Keys whose value may be absent or null where the example has one.
const NULLABLE: [&str; 3] = ["content", "usage", "logprobs"];

/// A file of recorded requests or answers: a list.
pub fn recorded(name: &str) -> Vec<Value> {
    let path = PathBuf::from(crate::common::ROOT)
        .join("tests/data/server")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("our own file");
    serde_json::from_str(&text).expect("a list")
}

/// What of `example` is not in `found`, and what is in it that nobody expects.
pub fn differences(example: &Value, found: &Value) -> Vec<String> {
    let mut out = Vec::new();
    compare(example, found, "", &mut out);
    out
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

fn compare(example: &Value, found: &Value, at: &str, out: &mut Vec<String>) {
    match (example, found) {
        // An example without a value says nothing of its type.
        (Value::Null, _) => {}
        // Alternatives by their texts, or a bias: the keys are data.
        (Value::Object(a), Value::Object(b)) if at.contains("top_logprobs[") => {
            let (a, b) = (a.values().next(), b.values());
            b.for_each(|b| compare(a.unwrap_or(&Value::Null), b, &format!("{at}.*"), out));
        }
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let at = format!("{at}.{key}");
                match b.get(key) {
                    None if value.is_null() || NULLABLE.contains(&&**key) => {}
                    None => out.push(format!("{at} is absent")),
                    Some(Value::Null) if NULLABLE.contains(&&**key) => {}
                    Some(found) => compare(value, found, &at, out),
                }
            }
            let new = b.keys().filter(|k| !a.contains_key(*k));
            let new = new.filter(|k| !FURTHER.contains(&&***k));
            out.extend(new.map(|k| format!("{at}.{k} is new")));
        }
        (Value::Array(a), Value::Array(b)) => {
            let Some(example) = a.last() else { return };
            for (i, found) in b.iter().enumerate() {
                // The first token of a prompt has no numbers.
                if !(found.is_null() && a[0].is_null()) {
                    compare(example, found, &format!("{at}[{i}]"), out);
                }
            }
        }
        _ if kind(example) == kind(found) => {}
        // A number that need not be whole may be.
        (Value::Number(a), Value::Number(_)) if a.is_f64() => {}
        _ => out.push(format!(
            "{at} is {found}, expected: {} as {example}",
            kind(example)
        )),
    }
}

/// A stream of OpenAI's: one id, time and model; for each answer one end, behind all of its pieces; `[DONE]` last.
/// Gives the chunks.
pub fn stream(events: &[Event], object: &str, answers: usize) -> Vec<Value> {
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!(last.data, "[DONE]");
    assert!(events.iter().all(|e| e.name.is_empty()));
    let chunks: Vec<_> = chunks.iter().map(Event::json).collect();
    let mut ended = vec![false; answers];
    let mut counted = false;
    for chunk in &chunks {
        assert_eq!(chunk["object"], object);
        for key in ["id", "created", "model"] {
            assert!(!chunk[key].is_null() && chunk[key] == chunks[0][key]);
        }
        let choices = chunk["choices"].as_array().expect("choices");
        assert!(!counted, "the counts of the whole come last");
        counted = choices.is_empty();
        for choice in choices {
            let n = choice["index"].as_u64().expect("an index") as usize;
            assert!(!ended[n], "answer {n} goes on behind its end");
            let finish = choice.get("finish_reason").expect("there, if null");
            let names = ["stop", "length", "tool_calls"];
            match finish.as_str() {
                Some(name) => assert!(names.contains(&name), "{name}"),
                None => assert!(finish.is_null(), "{finish}"),
            }
            ended[n] = finish.is_string();
        }
    }
    assert!(ended.iter().all(|e| *e), "{events:?}");
    chunks
}

/// A stream of Anthropic's: blocks one after the other, each begun, grown and ended. Gives the message as the
/// client puts it together.
pub fn messages(events: &[Event]) -> Value {
    let mut message = Value::Null;
    let mut open = None;
    for (i, event) in events.iter().enumerate() {
        let data = event.json();
        assert_eq!(data["type"], event.name);
        let index = data["index"].as_u64().map(|n| n as usize);
        match &*event.name {
            "ping" => {}
            "message_start" => {
                assert_eq!(i, 0);
                message = data["message"].clone();
                assert_eq!(message["content"], json!([]));
            }
            "content_block_start" => {
                assert!(open.is_none(), "{events:?}");
                let content = message["content"].as_array_mut().expect("blocks");
                assert_eq!(index, Some(content.len()));
                content.push(data["content_block"].clone());
                open = index;
            }
            "content_block_delta" => {
                assert!(index.is_some() && index == open, "{events:?}");
                grow(&mut message["content"][index.unwrap_or(0)], &data["delta"]);
            }
            "content_block_stop" => {
                assert!(index.is_some() && index == open, "{events:?}");
                open = None;
            }
            "message_delta" => {
                assert!(open.is_none(), "{events:?}");
                let delta = data["delta"].as_object().expect("an object");
                for (key, value) in delta
                    .iter()
                    .chain(data["usage"].as_object().expect("counts"))
                {
                    match message.get(key).is_some() {
                        true => message[key] = value.clone(),
                        false => message["usage"][key] = value.clone(),
                    }
                }
            }
            "message_stop" => assert_eq!(i + 1, events.len()),
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().map(|e| &*e.name), Some("message_stop"));
    message
}

/// Adds a delta to a block.
fn grow(block: &mut Value, delta: &Value) {
    for (kind, from, to) in [
        ("text_delta", "text", "text"),
        ("thinking_delta", "thinking", "thinking"),
        ("signature_delta", "signature", "signature"),
        ("input_json_delta", "partial_json", "json"),
    ] {
        if delta["type"] == kind {
            let old = block[to].as_str().unwrap_or_default().to_owned();
            block[to] = (old + delta[from].as_str().expect("a text")).into();
            return;
        }
    }
    panic!("{delta}");
}

/// A stream of OpenAI's responses: numbered, its items the ones of the response at its end. Gives that one.
pub fn responses(events: &[Event]) -> Value {
    let mut text = String::new();
    for (i, event) in events.iter().enumerate() {
        let data = event.json();
        assert_eq!(
            (&data["type"], &data["sequence_number"]),
            (&json!(event.name), &json!(i))
        );
        if event.name == "response.output_text.delta" {
            text += data["delta"].as_str().expect("a text");
        }
    }
    let name = |i: usize| events[i].name.trim_start_matches("response.");
    assert_eq!((name(0), name(1)), ("created", "in_progress"));
    assert!(["completed", "incomplete"].contains(&name(events.len() - 1)));
    let response = events[events.len() - 1].json()["response"].clone();
    assert_eq!(response["status"], name(events.len() - 1));
    let done = events
        .iter()
        .filter(|e| e.name == "response.output_item.done");
    let items: Vec<_> = done.map(|e| e.json()["item"].clone()).collect();
    assert_eq!(response["output"], Value::Array(items));
    let parts = response["output"].as_array().expect("items").iter();
    let parts = parts.filter_map(|item| item["content"][0]["text"].as_str());
    assert_eq!(parts.collect::<String>(), text);
    response
}

/// A stream of ollama's: only the last line is the end. Gives the answer as the client puts it together, and that
/// line.
pub fn lines(lines: &[Value]) -> (String, Value) {
    let (last, others) = lines.split_last().expect("lines");
    assert!(others.iter().all(|l| l["done"] == false), "{lines:?}");
    assert_eq!(last["done"], true);
    let text = |line: &Value| {
        let content = line["message"]["content"]
            .as_str()
            .or(line["response"].as_str());
        content.expect("a text").to_owned()
    };
    (lines.iter().map(text).collect(), last.clone())
}

#[test]
fn differences_are_seen() {
    let example = json!({ "a": 1, "b": [{ "c": "x" }], "d": null });
    let same = |found: Value| differences(&example, &found);
    let good = json!({ "a": 2, "b": [{ "c": "y" }, { "c": "z" }], "d": 1 });
    assert_eq!(same(good), Vec::<String>::new());
    let absent = same(json!({ "b": [] }));
    assert_eq!(absent, [".a is absent"]);
    let other = same(json!({ "a": 1.5, "b": [{ "c": 1, "e": 1 }] }));
    assert_eq!(other.len(), 3, "{other:?}");
}
