//! Answers that are held to a form, over HTTP: schemas, expressions and grammars in every dialect, calls that must
//! come, and what is refused.

use serde_json::{Value, json};

use super::Server;
use super::client::{Response, ask, request};

fn post(server: &Server, path: &str, body: &Value) -> Response {
    let kind = [("Content-Type", "application/json")];
    let bytes = request("POST", path, &kind, body.to_string().as_bytes());
    ask(&server.address, "POST", &bytes).expect("a response")
}

/// The answer to a conversation of one message, with these fields.
fn chat(server: &Server, fields: &Value) -> Response {
    let mut body = json!({
        "messages": [{ "role": "user", "content": "In the beginning" }],
        "max_tokens": 200,
        "seed": 3,
    });
    for (key, value) in fields.as_object().expect("fields") {
        body[key] = value.clone();
    }
    post(server, "/v1/chat/completions", &body)
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "city": { "type": "string", "maxLength": 8 }, "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["city", "days"],
        "additionalProperties": false,
    })
}

fn fits(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let city = value["city"].as_str().expect("a city");
    assert!(city.chars().count() <= 8, "{value}");
    assert!(matches!(value["days"].as_u64(), Some(1..=9)), "{value}");
    assert_eq!(value.as_object().expect("an object").len(), 2, "{value}");
}

/// A short schema: descriptions of tools take most of the context.
fn days() -> Value {
    json!({ "type": "object", "properties": { "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
            "required": ["days"], "additionalProperties": false })
}

fn counts(arguments: &str) {
    let value: Value = serde_json::from_str(arguments).expect("JSON");
    assert!(matches!(value["days"].as_u64(), Some(1..=9)), "{value}");
    assert_eq!(value.as_object().expect("an object").len(), 1, "{value}");
}

fn tools() -> Value {
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": days() } });
    json!([tool("go"), tool("stay")])
}

/// The one call of an answer.
fn call(response: &Response) -> (String, String) {
    assert_eq!(response.status, 200, "{}", response.text());
    let body = response.json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{body}");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 1, "{body}");
    let function = &calls[0]["function"];
    let text = |key: &str| function[key].as_str().expect("a text").to_owned();
    (text("name"), text("arguments"))
}

#[test]
fn every_dialect_holds_an_answer_to_a_schema() {
    let server = Server::start(|_| {});
    let named = json!({ "name": "trip", "schema": schema(), "strict": true });
    let format = json!({ "type": "json_schema", "json_schema": named });
    let body = chat(&server, &json!({ "response_format": format })).json();
    fits(
        body["choices"][0]["message"]["content"]
            .as_str()
            .expect("a text"),
    );
    let format = json!({ "type": "json_object", "schema": schema() });
    let body = chat(&server, &json!({ "response_format": format })).json();
    fits(
        body["choices"][0]["message"]["content"]
            .as_str()
            .expect("a text"),
    );
    let user = json!([{ "role": "user", "content": "In the beginning" }]);
    let body = json!({
        "model": "m", "messages": user, "max_tokens": 200,
        "output_config": { "format": { "type": "json_schema", "schema": schema() } },
    });
    let message = post(&server, "/v1/messages", &body).json();
    fits(message["content"][0]["text"].as_str().expect("a text"));
    let body = json!({ "model": "m", "messages": user, "format": schema(), "stream": false });
    let message = post(&server, "/api/chat", &body).json();
    fits(message["message"]["content"].as_str().expect("a text"));
    for raw in [true, false] {
        let body = json!({ "model": "m", "prompt": "In", "format": schema(), "stream": false, "raw": raw });
        let answer = post(&server, "/api/generate", &body).json();
        fits(answer["response"].as_str().expect("a text"));
    }
    let format =
        json!({ "type": "json_schema", "name": "trip", "schema": schema(), "strict": true });
    let body = json!({ "model": "m", "input": "In the beginning", "text": { "format": format } });
    let item = post(&server, "/v1/responses", &body).json();
    fits(
        item["output"][0]["content"][0]["text"]
            .as_str()
            .expect("a text"),
    );
    server.is_well();
}

#[test]
fn expressions_and_grammars_hold_chats_and_texts() {
    let server = Server::start(|_| {});
    let regex = json!({ "regex": "[A-Z]{2}-[0-9]{3}" });
    let lark = json!({ "grammar": "start: \"yes\" | \"no\"" });
    let object = json!({ "response_format": { "type": "json_object" }, "max_tokens": 300 });
    let content = |fields: &Value| {
        let body = chat(&server, fields).json();
        let choice = body["choices"][0].clone();
        assert!(choice["message"]["content"].is_string(), "{body}");
        (
            choice["message"]["content"]
                .as_str()
                .expect("a text")
                .to_owned(),
            choice,
        )
    };
    let (code, choice) = content(&regex);
    assert!(code.len() == 6 && code.as_bytes()[2] == b'-', "{code}");
    assert_eq!(choice["finish_reason"], "stop");
    let (word, _) = content(&lark);
    assert!(["yes", "no"].contains(&&*word), "{word}");
    let (text, choice) = content(&object);
    if choice["finish_reason"] == "stop" {
        assert!(
            serde_json::from_str::<Value>(&text)
                .expect("JSON")
                .is_object()
        );
    }
    let mut body = json!({ "prompt": ["In", "And the"], "max_tokens": 40, "logprobs": 1 });
    body["regex"] = regex["regex"].clone();
    let body = post(&server, "/v1/completions", &body).json();
    for choice in body["choices"].as_array().expect("choices") {
        let text = choice["text"].as_str().expect("a text");
        assert!(text.len() == 6 && text.as_bytes()[2] == b'-', "{text}");
        let weights = choice["logprobs"]["token_logprobs"]
            .as_array()
            .expect("a list");
        assert!(weights.iter().all(|p| p.as_f64().is_some_and(|p| p <= 0.0)));
    }
}

#[test]
fn calls_come_where_they_must_and_are_those_of_the_tools() {
    let server = Server::start(|_| {});
    for seed in 0..4 {
        let asked = json!({ "tools": tools(), "tool_choice": "required", "seed": seed, "parallel_tool_calls": false });
        let (name, arguments) = call(&chat(&server, &asked));
        assert!(["go", "stay"].contains(&&*name), "{name}");
        counts(&arguments);
        let named = json!({ "type": "function", "function": { "name": "stay" } });
        let asked = json!({ "tools": tools(), "tool_choice": named, "seed": seed });
        let (name, arguments) = call(&chat(&server, &asked));
        assert_eq!(name, "stay");
        counts(&arguments);
    }
    let tools = json!([{ "name": "go", "input_schema": days() }]);
    let body = json!({
        "model": "m", "max_tokens": 200, "tools": tools, "tool_choice": { "type": "any" },
        "messages": [{ "role": "user", "content": "In the beginning" }],
    });
    let message = post(&server, "/v1/messages", &body).json();
    assert_eq!(message["stop_reason"], "tool_use", "{message}");
    let last = message["content"]
        .as_array()
        .and_then(|c| c.last())
        .expect("a block");
    assert_eq!(
        (&last["type"], &last["name"]),
        (&json!("tool_use"), &json!("go"))
    );
    counts(&last["input"].to_string());
    server.is_well();
}

#[test]
fn an_answer_is_of_its_form_or_calls() {
    let server = Server::start(|_| {});
    let (mut texts, mut calls) = (0, 0);
    for seed in 0..8 {
        let format = json!({ "type": "json_object", "schema": schema() });
        let asked = json!({ "tools": tools(), "response_format": format, "seed": seed, "temperature": 1.5 });
        let response = chat(&server, &asked);
        assert_eq!(response.status, 200, "{}", response.text());
        let body = response.json();
        let message = &body["choices"][0]["message"];
        match message["tool_calls"].as_array() {
            Some(all) => {
                calls += 1;
                all.iter()
                    .for_each(|c| counts(c["function"]["arguments"].as_str().expect("a text")));
            }
            None if body["choices"][0]["finish_reason"] == "stop" => {
                texts += 1;
                fits(message["content"].as_str().expect("a text"));
            }
            None => {}
        }
    }
    assert!(
        texts + calls >= 4,
        "{texts} texts, {calls} answers of calls"
    );
}

#[test]
fn what_cannot_be_held_is_refused_by_its_field() {
    let server = Server::start(|_| {});
    let strict = |schema: Value| json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } } });
    let refused = [
        (json!({ "regex": "(a" }), "regex"),
        (json!({ "grammar": "start: x" }), "grammar"),
        (strict(json!({ "uniqueItems": true })), "response_format"),
        (strict(json!({ "oneOf": [{}, {}] })), "response_format"),
        (
            strict(json!({ "$ref": "https://example.org/x" })),
            "response_format",
        ),
        (strict(json!(5)), "response_format"),
        (json!({ "regex": "a", "tools": tools() }), "regex"),
        (
            json!({ "regex": "a", "grammar": "start: \"a\"" }),
            "response_format",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice"),
    ];
    for (fields, param) in refused {
        let response = chat(&server, &fields);
        let body = response.json();
        assert_eq!(response.status, 400, "{fields}: {body}");
        assert_eq!(body["error"]["param"], param, "{fields}: {body}");
    }
    let response = chat(&server, &json!({ "regex": "(a?){4000}a{4000}" }));
    assert_eq!(response.status, 400, "{}", response.text());
    assert_eq!(response.json()["error"]["param"], "regex");
    // What is left out of a schema is named; a client's own switches do nothing.
    let schema = json!({ "type": "array", "uniqueItems": true, "x-guidance": { "lenient": false }, "maxItems": 1 });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let response = chat(&server, &json!({ "response_format": format }));
    assert_eq!(response.status, 200, "{}", response.text());
    let ignored = response.header("x-geb-ignored").unwrap_or_default();
    assert!(
        ignored.contains("response_format") && ignored.contains("uniqueItems"),
        "{ignored}"
    );
    server.is_well();
}
