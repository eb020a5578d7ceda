//! Statuses and bodies of what is refused.

use serde_json::{Value, json};

use super::client::{Response, ask, get, post, request};
use super::{Server, shared};

const CHAT: &str = "/v1/chat/completions";
const TEXTS: &str = "/v1/completions";

/// Status, type, code and field of a refusal.
fn refused(response: &Response) -> (u16, [Option<String>; 3]) {
    (response.status, response.error())
}

fn expected(status: u16, kind: &str, code: &str, param: &str) -> (u16, [Option<String>; 3]) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (status, [some(kind), some(code), some(param)])
}

const INVALID: &str = "invalid_request_error";

/// Each body is refused for this field of it.
fn refuses(all: &[(&str, Value, &str)]) {
    for (path, body, param) in all {
        let response = post(&shared().address, path, body);
        assert_eq!(
            refused(&response),
            expected(400, INVALID, "", param),
            "{body}"
        );
        let message = response.json()["error"]["message"].to_string();
        assert!(
            message.contains("allowed:") || message.contains("token id"),
            "{message}"
        );
    }
}

#[test]
fn messages_that_mean_nothing() {
    let hello = json!([{ "role": "user", "content": "Hello" }]);
    refuses(&[
        (CHAT, json!({}), "messages"),
        (CHAT, json!({ "messages": "Hello" }), "messages"),
        (CHAT, json!({ "messages": ["Hello"] }), "messages[0]"),
        (
            CHAT,
            json!({ "messages": [{ "content": "x" }] }),
            "messages[0].role",
        ),
        (
            CHAT,
            json!({ "messages": [{ "role": "bard", "content": "x" }] }),
            "messages[0].role",
        ),
        (
            CHAT,
            json!({ "messages": [{ "role": "user", "content": 1 }] }),
            "messages[0].content",
        ),
        (
            CHAT,
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0].type",
        ),
        (
            CHAT,
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text" }] }] }),
            "messages[0].content[0].text",
        ),
        (CHAT, json!({ "messages": hello, "model": 3 }), "model"),
    ]);
}

#[test]
fn fields_that_mean_nothing() {
    let hello = json!([{ "role": "user", "content": "Hello" }]);
    refuses(&[
        (
            CHAT,
            json!({ "messages": hello, "stream": "yes" }),
            "stream",
        ),
        (
            CHAT,
            json!({ "messages": hello, "stream_options": [] }),
            "stream_options",
        ),
        (
            CHAT,
            json!({ "messages": hello, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage",
        ),
        (
            CHAT,
            json!({ "messages": hello, "top_logprobs": 2 }),
            "top_logprobs",
        ),
        (
            CHAT,
            json!({ "messages": hello, "functions": [{}] }),
            "functions",
        ),
        (CHAT, json!({ "messages": hello, "audio": {} }), "audio"),
        (
            CHAT,
            json!({ "messages": hello, "modalities": ["audio"] }),
            "modalities",
        ),
        (
            CHAT,
            json!({ "messages": hello, "web_search_options": {} }),
            "web_search_options",
        ),
        (
            CHAT,
            json!({ "messages": hello, "logit_bias": { "x": 1 } }),
            "logit_bias.x",
        ),
        (TEXTS, json!({}), "prompt"),
        (TEXTS, json!({ "prompt": 1 }), "prompt"),
        (TEXTS, json!({ "prompt": [1, "a"] }), "prompt"),
        (TEXTS, json!({ "prompt": "a", "best_of": 3 }), "best_of"),
        (
            "/v1/embeddings",
            json!({ "input": "a", "encoding_format": "hex" }),
            "encoding_format",
        ),
        ("/detokenize", json!({ "tokens": [1_000_000] }), "tokens"),
    ]);
}

#[test]
fn bodies_that_are_no_json() {
    let send = |kind: &[(&str, &str)], body: &[u8]| {
        let bytes = request("POST", CHAT, kind, body);
        refused(&ask(&shared().address, "POST", &bytes).expect("a response"))
    };
    let json = [("Content-Type", "application/json")];
    for body in [
        &b"{"[..],
        b"[]",
        b"null",
        b"{\"a\":1}x",
        b"\xff\xfe",
        b"{\"messages\":NaN}",
        b"",
    ] {
        assert_eq!(
            send(&json, body),
            expected(400, INVALID, "", ""),
            "{body:?}"
        );
    }
    for kind in [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/xml",
        "",
    ] {
        let kind = [("Content-Type", kind)];
        assert_eq!(
            send(&kind, b"{}"),
            expected(415, INVALID, "", ""),
            "{kind:?}"
        );
    }
    for coding in ["gzip", "br", "identity, gzip"] {
        let coding = [("Content-Encoding", coding), json[0]];
        assert_eq!(
            send(&coding, b"{}"),
            expected(415, INVALID, "", ""),
            "{coding:?}"
        );
    }
}

#[test]
fn paths_and_methods_that_are_not_there() {
    let address = &shared().address;
    for (method, path) in [
        ("GET", CHAT),
        ("PUT", CHAT),
        ("DELETE", "/v1/models"),
        ("POST", "/health"),
        ("PATCH", "/tokenize"),
        ("BREW", "/v1/models"),
    ] {
        let response = ask(address, method, &request(method, path, &[], b"")).expect("a response");
        assert_eq!(
            refused(&response),
            expected(405, INVALID, "", ""),
            "{method} {path}"
        );
        let allow = response.header("allow").expect("what is allowed");
        assert!(!allow.contains(method), "{allow}");
    }
    for path in [
        "/v2/models",
        "/v1",
        "/v1/chat",
        "/v1/models/",
        "//v1/models",
        "/v1/models/a/b",
    ] {
        let response = get(address, path);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.error()[0].as_deref(), Some("not_found_error"));
    }
    let model = expected(404, "not_found_error", "model_not_found", "model");
    assert_eq!(refused(&get(address, "/v1/models/x")), model);
    let bad = json!({ "model": "x", "prompt": "a", "messages": [{ "role": "user", "content": "a" }], "input": "a", "tokens": [1] });
    for path in [
        CHAT,
        TEXTS,
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/v1/logprobs",
        "/apply-template",
    ] {
        let response = post(address, path, &bad);
        assert_eq!(refused(&response), model, "{path}");
        // What there is, and how to have more.
        let message = response.json()["error"]["message"].to_string();
        assert!(
            message.contains("allowed: m") && message.contains("--alias"),
            "{message}"
        );
    }
    // A name that is no text at all.
    let odd = get(address, "/v1/models/%ff");
    assert!([400, 404].contains(&odd.status));
    odd.error();
}

#[test]
fn head_and_options() {
    let address = &shared().address;
    for path in ["/health", "/v1/models", "/metrics", "/nothing"] {
        let bytes = request("HEAD", path, &[], b"");
        let head = ask(address, "HEAD", &bytes).expect("a response");
        let get = get(address, path);
        assert_eq!(head.status, get.status, "{path}");
        let kind = |r: &Response| r.header("content-type").map(str::to_owned);
        assert_eq!(kind(&head), kind(&get), "{path}");
    }
    for path in ["/v1/chat/completions", "/nothing", "*"] {
        let bytes = request("OPTIONS", path, &[("Origin", "http://localhost")], b"");
        let options = ask(address, "OPTIONS", &bytes).expect("a response");
        assert!(
            [200, 204, 405].contains(&options.status),
            "{path}: {options:?}"
        );
        // No page of another origin is told that it may ask.
        assert_eq!(options.header("access-control-allow-origin"), None);
    }
}

#[test]
fn pages_of_named_origins_may_ask() {
    let server = Server::with_keys("a:secret", |o| {
        o.cors_origins = vec!["https://chat.example".into()];
    });
    let preflight = |origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            (
                "Access-Control-Request-Headers",
                "authorization,content-type",
            ),
        ];
        let bytes = request("OPTIONS", CHAT, &headers, b"");
        ask(&server.address, "OPTIONS", &bytes).expect("a response")
    };
    let good = preflight("https://chat.example");
    assert!(good.status < 300, "{good:?}");
    let allowed = good.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://chat.example"));
    let headers = good.header("access-control-allow-headers").unwrap_or("");
    assert!(headers.contains("authorization"), "{headers}");
    let bad = preflight("https://evil.example");
    assert_eq!(bad.header("access-control-allow-origin"), None);
    // Also of refusals, or a page cannot tell why.
    let headers = [("Origin", "https://chat.example")];
    let bytes = request("GET", "/v1/models", &headers, b"");
    let refused = ask(&server.address, "GET", &bytes).expect("a response");
    assert_eq!(refused.status, 401);
    let allowed = refused.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://chat.example"));
    for (name, value) in &refused.headers {
        assert!(name != "access-control-allow-credentials", "{value}");
    }
}

#[test]
fn fields_that_are_not_known() {
    let body = json!({ "prompt": "a", "max_tokens": 1, "mood": "good", "n": 1, "odd\r\nname": 1, "none": null });
    let response = post(&shared().address, TEXTS, &body);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-geb-ignored"), Some("mood, oddname"));
    let strict = Server::start(|o| o.strict = true);
    let response = post(&strict.address, TEXTS, &body);
    assert_eq!(refused(&response), expected(400, INVALID, "", "mood"));
    let known = json!({ "prompt": "a", "max_tokens": 1, "user": "ada" });
    assert_eq!(post(&strict.address, TEXTS, &known).status, 200);
}

/// More than may wait are told so at once, and those that wait are answered.
#[test]
fn a_full_queue() {
    let server = Server::start(|o| {
        o.scheduler.streams = 1;
        o.scheduler.queue = 2;
    });
    let body = json!({ "prompt": "In the beginning", "max_tokens": 100, "ignore_eos": true });
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || post(&server.address, TEXTS, &body);
        let all: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        all.into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    let (good, full): (Vec<_>, Vec<_>) = answers.iter().partition(|r| r.status == 200);
    assert!(good.len() >= 2 && !full.is_empty(), "{} of 12", good.len());
    for response in good {
        assert_eq!(response.json()["usage"]["completion_tokens"], 100);
    }
    for response in full {
        assert_eq!(refused(response), expected(503, "overloaded_error", "", ""));
        assert!(response.header("retry-after").is_some());
    }
    server.is_well();
}

/// Every response has a number of its own, for the log.
#[test]
fn numbers_of_responses_differ() {
    let one = get(&shared().address, "/health");
    let two = get(&shared().address, "/nothing");
    let number = |r: &Response| r.header("x-request-id").expect("a number").to_owned();
    assert!(number(&one) != number(&two) && number(&one).starts_with("req_"));
    assert_eq!(one.header("x-content-type-options"), Some("nosniff"));
}
