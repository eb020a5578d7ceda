//! Answers of requests with tools, beside others and alone: the same texts and calls.

use serde_json::{Value, json};

use super::client::{ask, request};
use super::shape::stream;
use super::{CTX, Server, until};

/// Requests, alone and at once.
const CASES: usize = 32;

/// What a client puts together of an answer.
#[derive(Debug, PartialEq, Default)]
struct Answer {
    text: String,
    /// Names and arguments, one behind the other.
    calls: Vec<String>,
    finish: String,
}

impl Answer {
    /// Adds a message, whole or a piece.
    fn add(&mut self, message: &Value, finish: &Value) {
        self.text += message["content"].as_str().unwrap_or_default();
        self.finish += finish.as_str().unwrap_or_default();
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"]
                .as_u64()
                .map_or(self.calls.len(), |i| i as usize);
            self.calls
                .resize(self.calls.len().max(at + 1), String::new());
            for key in ["name", "arguments"] {
                self.calls[at] += call["function"][key].as_str().unwrap_or_default();
            }
        }
    }
}

/// The i-th request: calls that must come, that may, that are named, and forms beside them.
fn body(i: usize) -> Value {
    let days = json!({
        "type": "object",
        "properties": { "days": { "type": "integer", "minimum": 1, "maximum": 99 } },
        "required": ["days"],
        "additionalProperties": false,
    });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": days } });
    let words = [
        "In the beginning",
        "And the earth was",
        "Let there be",
        "é, 晴れ and",
    ];
    let (word, heat) = (words[i / 8 % words.len()], [0.0, 1.0, 1.5][i % 3]);
    let mut body = json!({
        "messages": [{ "role": "user", "content": word }],
        "tools": [tool("go"), tool("stay")],
        "max_tokens": 120,
        "seed": i,
        "temperature": heat,
        "stream": i.is_multiple_of(2),
    });
    match i / 2 % 4 {
        0 => body["tool_choice"] = "required".into(),
        1 => body["tool_choice"] = json!({ "type": "function", "function": { "name": "stay" } }),
        2 => body["response_format"] = json!({ "type": "json_object", "schema": days }),
        _ => {}
    }
    body["parallel_tool_calls"] = i.is_multiple_of(3).into();
    body
}

fn asked(server: &Server, i: usize) -> Answer {
    let body = body(i);
    let kind = [("Content-Type", "application/json")];
    let bytes = request(
        "POST",
        "/v1/chat/completions",
        &kind,
        body.to_string().as_bytes(),
    );
    let response = ask(&server.address, "POST", &bytes).expect("a response");
    assert_eq!(response.status, 200, "{}", response.text());
    let mut answer = Answer::default();
    let (chunks, key) = match body["stream"] == true {
        true => (
            stream(&response.events(), "chat.completion.chunk", 1),
            "delta",
        ),
        false => (vec![response.json()], "message"),
    };
    for choice in chunks.iter().filter_map(|c| c["choices"].get(0)) {
        answer.add(&choice[key], &choice["finish_reason"]);
    }
    answer
}

#[test]
fn calls_are_those_of_lone_runs() {
    let quiet = Server::start(|_| {});
    let expected: Vec<_> = (0..CASES).map(|i| asked(&quiet, i)).collect();
    let ended = |end: &str| expected.iter().filter(|a| a.finish == end).count();
    assert!(ended("tool_calls") >= CASES / 4, "{expected:#?}");
    // Fewer places than requests, and pages for few of them.
    let one = geb::engine::Engine::kv_bytes_for(
        super::exact::Library::open().session.model(),
        &super::session(),
    );
    let pages = one.expect("known");
    let server = Server::start(|o| {
        o.scheduler.streams = 12;
        o.session.kv_memory = Some(pages);
        o.session.ctx = Some(CTX);
    });
    std::thread::scope(|scope| {
        for (i, expected) in expected.iter().enumerate() {
            let server = &server;
            scope.spawn(move || assert_eq!(asked(server, i), *expected, "request {i}"));
        }
    });
    until("all have ended", || server.load() == [0.0, 0.0]);
    let [rows, steps] = ["geb_iteration_tokens", "geb_steps"].map(|m| server.metric(m));
    assert!(rows > 2.0 * steps, "{rows} rows in {steps} steps");
    server.is_well();
}
