//! Every bound on what a client may send, at -1, 0 and +1.

use std::time::Duration;

use geb_serve::limits;
use serde_json::{Map, Value, json};

use super::client::{Connection, Response, ask, post, request};
use super::{CTX, Server, VOCAB, shared};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const TEXTS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A short answer to a text, with these fields.
fn text(fields: Value) -> Response {
    let mut body = json!({ "prompt": "In the beginning", "max_tokens": 1 });
    extend(&mut body, fields);
    post(&shared().address, TEXTS, &body)
}

/// A short answer in a chat, with these fields.
fn chat(fields: Value) -> Response {
    let messages = json!([{ "role": "user", "content": "In the beginning" }]);
    let mut body = json!({ "messages": messages, "max_tokens": 1 });
    extend(&mut body, fields);
    post(&shared().address, CHAT, &body)
}

fn extend(body: &mut Value, fields: Value) {
    let (body, Value::Object(fields)) = (body.as_object_mut().expect("an object"), fields) else {
        panic!("an object");
    };
    body.extend(fields);
}

fn is_good(what: &str, response: &Response) {
    assert_eq!(response.status, 200, "{what}: {}", response.text());
}

/// Refused, because of a field.
fn is_bad(what: &str, response: &Response, param: &str) {
    assert_eq!(response.status, 400, "{what}");
    let expected = [
        Some("invalid_request_error".into()),
        None,
        Some(param.into()),
    ];
    assert_eq!(response.error(), expected, "{what}: {}", response.text());
}

/// Too many tokens for the context.
fn is_long(what: &str, response: &Response) {
    assert_eq!(response.status, 400, "{what}");
    let [_, code, _] = response.error();
    let code = code.as_deref();
    assert_eq!(
        code,
        Some("context_length_exceeded"),
        "{what}: {}",
        response.text()
    );
}

/// A body of exactly so many bytes.
fn padded(n: usize) -> Vec<u8> {
    let mut body = br#"{"prompt":"a","max_tokens":1}"#.to_vec();
    body.resize(n, b' ');
    body
}

#[test]
fn bytes_of_a_body() {
    let most = limits::BODY_BYTES;
    for (n, status) in [(most - 1, 200), (most, 200), (most + 1, 413)] {
        let bytes = request("POST", TEXTS, &[JSON], &padded(n));
        let response = ask(&shared().address, "POST", &bytes).expect("a response");
        assert_eq!(response.status, status, "{n} bytes");
        // In chunks its length is known only when it has come.
        let mut bytes = request(
            "POST",
            TEXTS,
            &[JSON, ("Transfer-Encoding", "chunked")],
            b"",
        );
        for chunk in padded(n).chunks(1 << 20) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        let response = ask(&shared().address, "POST", &bytes).expect("a response");
        assert_eq!(response.status, status, "{n} bytes in chunks");
    }
}

/// A length that lies is refused before anything of it has come.
#[test]
fn told_lengths_of_a_body() {
    let huge = [("Content-Length", "18446744073709551615"), JSON];
    let response = ask(
        &shared().address,
        "POST",
        &request("POST", TEXTS, &huge, b""),
    );
    let status = response.expect("a response").status;
    assert!([400, 413, 431].contains(&status), "{status}");
    let more = (limits::BODY_BYTES + 1).to_string();
    let long = [("Content-Length", &*more), JSON];
    let response = ask(
        &shared().address,
        "POST",
        &request("POST", TEXTS, &long, b""),
    );
    let response = response.expect("a response");
    assert_eq!(response.status, 413);
    assert_eq!(
        response.error()[0].as_deref(),
        Some("invalid_request_error")
    );
}

#[test]
fn fields_of_a_head() {
    for (n, status) in [(63, 200), (64, 200), (65, 431)] {
        assert_eq!(limits::HEADERS, 64);
        let mut head = String::from("GET /health HTTP/1.1\r\nHost: localhost\r\n");
        (1..n).for_each(|i| head += &format!("X-{i}: 1\r\n"));
        let response = ask(&shared().address, "GET", (head + "\r\n").as_bytes());
        assert_eq!(response.expect("a response").status, status, "{n} fields");
    }
}

#[test]
fn bytes_of_a_head() {
    let most = limits::HEADER_BYTES;
    // Each field counts with its colon, space and end; the target counts.
    let rest = "/health".len() + "hostlocalhost".len() + 4 + "x-long".len() + 4;
    for (n, status) in [(most - 1, 200), (most, 200), (most + 1, 431)] {
        let value = "v".repeat(n - rest);
        let bytes = request("GET", "/health", &[("X-Long", &value)], b"");
        let response = ask(&shared().address, "GET", &bytes).expect("a response");
        assert_eq!(response.status, status, "{n} bytes");
        // As a target.
        let target = format!("/health?{}", "q".repeat(n - rest + 9));
        let bytes = request("GET", &target, &[], b"");
        let response = ask(&shared().address, "GET", &bytes).expect("a response");
        assert_eq!(response.status, status, "{n} bytes with the target");
    }
    for n in [64 << 10, 1 << 20] {
        // The parser itself gives up.
        let value = "v".repeat(n);
        let mut connection = Connection::open(&shared().address);
        _ = connection.send(&request("GET", "/health", &[("X-Long", &value)], b""));
        if let Ok(response) = connection.response("GET") {
            assert!([431, 414].contains(&response.status), "{response:?}");
        }
    }
}

#[test]
fn depth_of_json() {
    for (n, good) in [
        (limits::JSON_DEPTH - 1, true),
        (limits::JSON_DEPTH, true),
        (limits::JSON_DEPTH + 1, false),
        (10_000, false),
    ] {
        let deep = format!("{}{}", "[".repeat(n - 1), "]".repeat(n - 1));
        let body = format!(r#"{{"prompt":"a","max_tokens":1,"metadata":{deep}}}"#);
        let bytes = request("POST", TEXTS, &[JSON], body.as_bytes());
        let response = ask(&shared().address, "POST", &bytes).expect("a response");
        let status = if good { 200 } else { 400 };
        assert_eq!(response.status, status, "{n} deep: {}", response.text());
    }
}

#[test]
fn counts_of_fields() {
    let stops = |n| json!({ "stop": (0..n).map(|i| format!("~{i}~")).collect::<Vec<_>>() });
    is_good("15 stops", &text(stops(limits::STOPS - 1)));
    is_good("16 stops", &chat(stops(limits::STOPS)));
    is_bad("17 stops", &text(stops(limits::STOPS + 1)), "stop");
    is_bad("17 stops", &chat(stops(limits::STOPS + 1)), "stop");
    is_good("no stops", &text(json!({ "stop": [] })));
    is_good("null", &text(json!({ "stop": null })));
    is_bad("an empty one", &text(json!({ "stop": ["a", ""] })), "stop");

    let most = geb::limits::MAX_LOGIT_BIASES;
    let bias = |n: usize| {
        let all = (0..n).map(|id| (id.to_string(), json!(1)));
        json!({ "logit_bias": all.collect::<Map<_, _>>() })
    };
    assert!(most < VOCAB);
    is_good("1023 biases", &text(bias(most - 1)));
    is_good("1024 biases", &chat(bias(most)));
    is_bad("1025 biases", &text(bias(most + 1)), "logit_bias");
    for value in [-100.0, 100.0] {
        is_good("a bias", &text(json!({ "logit_bias": { "5": value } })));
        let more = json!({ "logit_bias": { "5": value * 1.001 } });
        is_bad("a larger bias", &text(more), "logit_bias.5");
    }

    let top = limits::TOP_LOG_PROBS;
    for (n, good) in [(top - 1, true), (top, true), (top + 1, false)] {
        let both = [
            (text(json!({ "logprobs": n })), "logprobs"),
            (
                chat(json!({ "logprobs": true, "top_logprobs": n })),
                "top_logprobs",
            ),
        ];
        for (response, param) in both {
            match good {
                true => is_good(param, &response),
                false => is_bad(param, &response, param),
            }
        }
    }
}

#[test]
fn answers_and_prompts() {
    let most = limits::ANSWERS;
    for (n, good) in [
        (0, false),
        (1, true),
        (most - 1, true),
        (most, true),
        (most + 1, false),
    ] {
        for response in [text(json!({ "n": n })), chat(json!({ "n": n }))] {
            match good {
                true => {
                    is_good("n", &response);
                    let choices = response.json()["choices"].as_array().map(Vec::len);
                    assert_eq!(choices, Some(n));
                }
                false => is_bad("n", &response, "n"),
            }
        }
    }
    let most = limits::PROMPTS;
    for (n, good) in [(most - 1, true), (most, true), (most + 1, false)] {
        let response = text(json!({ "prompt": vec!["In"; n] }));
        match good {
            true => {
                is_good("prompts", &response);
                let choices = response.json()["choices"].as_array().map(Vec::len);
                assert_eq!(choices, Some(n));
            }
            false => is_bad("prompts", &response, "prompt"),
        }
    }
    is_bad("no prompt", &text(json!({ "prompt": [] })), "prompt");
    // All that a request may ask for at once.
    let all = text(json!({ "prompt": vec!["In"; most], "n": limits::ANSWERS }));
    is_good("prompts and answers", &all);
}

#[test]
fn messages_of_a_conversation() {
    let most = geb::limits::MAX_MESSAGES;
    let messages = |n: usize| {
        let one = |_| json!({ "role": "user", "content": "" });
        json!({ "messages": (0..n).map(one).collect::<Vec<_>>() })
    };
    // Each message is a line of the prompt at least.
    is_long("1023 messages", &chat(messages(most - 1)));
    is_long("1024 messages", &chat(messages(most)));
    is_bad("1025 messages", &chat(messages(most + 1)), "messages");
    is_bad("no messages", &chat(messages(0)), "messages");
}

#[test]
fn bytes_of_a_text() {
    let most = limits::TEXT_BYTES;
    for (n, long) in [(most - 1, true), (most, true), (most + 1, false)] {
        let words = "word ".repeat(n / 5 + 1)[..n].to_owned();
        // What stands around it counts, too.
        let content = if long { &words[1_000..] } else { &words };
        let messages = json!({ "messages": [{ "role": "user", "content": content }] });
        let tokens = post(&shared().address, "/tokenize", &json!({ "prompt": words }));
        let (text, chat) = (text(json!({ "prompt": words })), chat(messages));
        match long {
            // They are read, and are longer than the context.
            true => {
                is_long("a text", &text);
                is_long("a message", &chat);
                is_good("tokens", &tokens);
            }
            false => {
                is_bad("a text", &text, "prompt");
                is_bad("a message", &chat, "messages");
                is_bad("tokens", &tokens, "prompt");
            }
        }
    }
}

#[test]
fn tokens_of_the_context() {
    let ids = |n: usize| (0..n).map(|i| 300 + i % 1000).collect::<Vec<_>>();
    for (n, good) in [(CTX - 1, true), (CTX, true), (CTX + 1, false)] {
        let response = text(json!({ "prompt": ids(n), "max_tokens": 5, "ignore_eos": true }));
        if !good {
            is_long("a prompt", &response);
            let message = "This model's maximum context length is 512 tokens. However, your messages resulted in 513 tokens.";
            assert_eq!(response.json()["error"]["message"], message);
            continue;
        }
        is_good("a prompt", &response);
        // The last token of an answer is never read.
        let body = response.json();
        assert_eq!(body["usage"]["completion_tokens"], CTX + 1 - n, "{n}");
        assert_eq!(body["choices"][0]["finish_reason"], "length");
    }
    is_bad("no tokens", &text(json!({ "prompt": "" })), "prompt");
    is_bad("an id", &text(json!({ "prompt": [VOCAB] })), "prompt");
    is_good("an id", &text(json!({ "prompt": [VOCAB - 1] })));
}

#[test]
fn ranges_of_numbers() {
    for (name, least, most) in [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("min_p", 0.0, 1.0),
        ("frequency_penalty", -2.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
        ("repetition_penalty", 0.01, 100.0),
    ] {
        for value in [least, most] {
            is_good(name, &text(json!({ name: value })));
        }
        for value in [least - 0.001, most + 0.001] {
            is_bad(name, &text(json!({ name: value })), name);
        }
        for value in [json!("0.5"), json!([0.5]), json!(true)] {
            is_bad(name, &chat(json!({ name: value })), name);
        }
        is_good(name, &chat(json!({ name: null })));
    }
    for name in ["max_tokens", "max_completion_tokens"] {
        is_good(name, &chat(json!({ name: 1.0 })));
        for value in [json!(-1), json!(1.5), json!("1"), json!(1e300)] {
            is_bad(name, &chat(json!({ name: value })), name);
        }
    }
    is_good("seed", &text(json!({ "seed": u64::MAX })));
    is_good("seed", &text(json!({ "seed": -1 })));
    is_bad("seed", &text(json!({ "seed": 0.5 })), "seed");
}

#[test]
fn keys_are_short() {
    let parse = |n: usize| geb_serve::Keys::parse(&format!("a:{}", "k".repeat(n)));
    let most = limits::KEY_BYTES;
    assert!(parse(most - 1).is_ok() && parse(most).is_ok() && parse(most + 1).is_err());
}

/// Those that wait for nothing make room for those that ask.
#[test]
fn connections_at_once() {
    let server = Server::start(|_| {});
    let most = limits::CONNECTIONS;
    let mut silent: Vec<_> = (0..most - 1)
        .map(|_| Connection::open(&server.address))
        .collect();
    for _ in 0..3 {
        let ask = request("GET", "/health", &[], b"");
        let mut connection = Connection::open(&server.address);
        connection.send(&ask).expect("sent");
        assert_eq!(connection.response("GET").expect("a response").status, 200);
        silent.push(connection);
    }
    // Bodies that do not come keep nobody out either.
    let head = request("POST", TEXTS, &[JSON, ("Content-Length", "100")], b"");
    let mut slow: Vec<_> = (0..most)
        .map(|_| Connection::open(&server.address))
        .collect();
    for connection in &mut slow {
        connection.send(&head).expect("sent");
    }
    std::thread::sleep(Duration::from_millis(500));
    let response = ask(&server.address, "GET", &request("GET", "/health", &[], b""));
    assert_eq!(response.expect("a response").status, 200);
    drop((silent, slow));
    server.is_well();
}

/// What no template is given is said of the field that it comes from.
#[test]
fn a_conversation_of_too_many_bytes_is_a_fault_of_its_messages() {
    let message = json!({ "role": "user", "content": "a".repeat(limits::TEXT_BYTES - 9) });
    let response = chat(json!({ "messages": [message] }));
    assert_eq!(response.status, 400, "{}", response.text());
    assert_eq!(response.error()[2].as_deref(), Some("messages"));
}

/// As few of the oldest messages are left out as it takes.
#[test]
fn an_old_conversation_loses_no_more_than_it_must() {
    let message = |i: usize| {
        let role = ["user", "assistant"][i % 2];
        json!({ "role": role, "content": format!("{i} in the beginning") })
    };
    let system = json!({ "role": "system", "content": "Go on." });
    let all: Vec<_> = (0..301).map(message).collect();
    let ask = |dropped: usize, truncate: bool| {
        let messages = [std::slice::from_ref(&system), &all[dropped..]].concat();
        let body = json!({
            "model": "m", "messages": messages, "stream": false, "truncate": truncate,
            "options": { "num_predict": 1, "temperature": 0 },
        });
        post(&shared().address, "/api/chat", &body)
    };
    let cut = ask(0, true);
    is_good("some are left out", &cut);
    let dropped = cut.json()["dropped_messages"].as_u64().expect("a number");
    let dropped = usize::try_from(dropped).expect("few");
    let same = ask(dropped, false);
    is_good("what is left", &same);
    let count = |r: &Response| r.json()["prompt_eval_count"].clone();
    assert_eq!(count(&cut), count(&same));
    assert_eq!(ask(dropped - 1, false).status, 400);
    assert_eq!(ask(0, false).status, 400);
}
