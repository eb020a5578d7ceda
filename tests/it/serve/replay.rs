//! Requests that real clients have sent, as they sent them, and what their own types read from the answers.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::{Event, Response, ask, events, request};
use super::shape::{self, differences, recorded};
use super::{Server, WIDTH};

/// Clients whose requests were recorded.
const CLIENTS: [&str; 15] = [
    "ai-sdk",
    "aider",
    "anthropic-js",
    "anthropic-py",
    "guidellm",
    "instructor",
    "langchain-openai",
    "litellm",
    "llama-index",
    "lm-eval",
    "ollama-js",
    "ollama-py",
    "openai-js",
    "openai-py",
    "pydantic-ai",
];

/// Fields that have no effect, and are named in the answer: what they ask for is done anyway.
const WITHOUT_EFFECT: [&str; 2] = ["add_generation_prompt", "continue_final_message"];

/// Requests that are refused, with status and field at fault.
const REFUSED: [(&str, u16, &str); 10] = [
    (
        "openai-py.chat.image_part",
        400,
        "messages[0].content[1].type",
    ),
    ("openai-py.completions.suffix", 400, "suffix"),
    ("openai-py.embeddings.float_list", 400, "dimensions"),
    ("openai-py.responses.tools", 400, "previous_response_id"),
    ("ollama-py.chat.stream", 400, "options.num_ctx"),
    ("ollama-py.generate.suffix", 400, "suffix"),
    ("ollama-py.embed", 400, "dimensions"),
    ("ollama-py.copy", 501, "the models are those"),
    ("ollama-py.delete", 501, "the models are those"),
    ("ollama-py.create", 501, "the models are those"),
];

/// A recorded request.
struct Recorded {
    case: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Recorded {
    fn of(value: &Value) -> Recorded {
        let text = |key: &str| value[key].as_str().expect("a text").to_owned();
        let headers = value["headers"].as_object().expect("headers");
        let header =
            |(k, v): (&String, &Value)| (k.clone(), v.as_str().expect("a text").to_owned());
        Recorded {
            case: text("case"),
            method: text("method"),
            path: text("path"),
            headers: headers.iter().map(header).collect(),
            body: value["body"].clone(),
        }
    }

    /// Its bytes.
    fn bytes(&self) -> Vec<u8> {
        let headers = self.headers.iter().map(|(k, v)| (&**k, &**v));
        let body = match &self.body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let headers: Vec<_> = headers.collect();
        request(&self.method, &self.path, &headers, body.as_bytes())
    }

    fn streams(&self) -> bool {
        let default = self.path.starts_with("/api/");
        self.body["stream"].as_bool().unwrap_or(default)
    }

    fn answers(&self) -> usize {
        self.body["n"].as_u64().unwrap_or(1) as usize
    }

    fn has_tools(&self) -> bool {
        let tools = self.body["tools"].as_array();
        tools.is_some_and(|t| !t.is_empty()) || self.case.contains("tool_result")
    }
}

fn all() -> Vec<Recorded> {
    let of = |client| recorded(&format!("requests/{client}.json"));
    let all = CLIENTS.into_iter().flat_map(of);
    all.map(|v| Recorded::of(&v)).collect()
}

/// Calls `each` for all of them, on so many threads.
fn in_parallel<T: Sync>(threads: usize, all: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(one);
                }
            });
        }
    });
}

/// What an error says, in whatever dialect.
fn said(response: &Response) -> String {
    let body = response.json();
    let text = body["error"]["message"].as_str().or(body["error"].as_str());
    text.expect("a message").to_owned()
}

#[test]
fn recorded_requests_are_answered_in_full() {
    // A context that ends answers soon: most ask for all of it. Descriptions of tools do not fit it.
    let server = Server::start(|o| o.session.ctx = Some(128));
    let larger = Server::start(|_| {});
    let seen = Mutex::new(BTreeSet::new());
    let all = all();
    assert_eq!(all.len(), 165);
    in_parallel(16, &all, |r| {
        let server = if r.has_tools() { &larger } else { &server };
        let response = ask(&server.address, &r.method, &r.bytes());
        let response = response.unwrap_or_else(|e| panic!("{}: {e}", r.case));
        assert!(response.header("x-request-id").is_some(), "{}", r.case);
        if let Some((_, status, what)) = REFUSED.iter().find(|(case, ..)| *case == r.case) {
            assert_eq!(response.status, *status, "{}: {}", r.case, response.text());
            assert!(
                said(&response).starts_with(what),
                "{}: {}",
                r.case,
                said(&response)
            );
            return;
        }
        assert_eq!(response.status, 200, "{}: {}", r.case, response.text());
        let names = response.header("x-geb-ignored").unwrap_or_default();
        let names = names.split(", ").filter(|n| !n.is_empty());
        seen.lock()
            .expect("no panic")
            .extend(names.map(str::to_owned));
        read(r, &response);
    });
    let seen: Vec<_> = seen.into_inner().expect("no panic").into_iter().collect();
    assert_eq!(seen, WITHOUT_EFFECT, "fields without effect");
    server.is_well();
    larger.is_well();
}

/// What the client's types read.
fn read(r: &Recorded, response: &Response) {
    match &*r.path {
        "/v1/chat/completions" => chat(r, response),
        "/v1/completions" => completion(r, response),
        "/v1/embeddings" => embedding(r, response),
        "/v1/models" | "/v1/models/m" => models(r, response),
        "/v1/messages" => message(r, response),
        "/v1/messages/count_tokens" => {
            assert!(response.json()["input_tokens"].as_u64() > Some(0));
        }
        "/v1/responses" => item(r, response),
        path if path.starts_with("/api/") => ollama(r, response),
        "/tokenize" => {
            let body = response.json();
            let tokens = body["tokens"].as_array().expect("ids");
            assert!(tokens.iter().all(Value::is_u64));
            assert_eq!(body["count"], tokens.len());
            assert_eq!(body["max_model_len"], 128);
        }
        "/detokenize" => assert!(response.json()["prompt"].is_string()),
        "/tokenizer_info" => has_form("tokenizer_info", &response.json()),
        "/health" => assert_eq!(response.json()["status"], "ok"),
        other => panic!("{}: {other}", r.case),
    }
}

/// The form of an answer is that of the example.
fn has_form(case: &str, found: &Value) {
    let all = recorded("answers.json");
    let example = all.iter().find(|e| e["case"] == case).expect("an example");
    let wrong = differences(&example["answer"], found);
    assert!(wrong.is_empty(), "{case}: {wrong:?}\n{found}");
}

/// The form of each event or line is that of one of the example's.
fn have_forms(case: &str, found: &[Value]) {
    let all = recorded("answers.json");
    let example = all.iter().find(|e| e["case"] == case).expect("an example");
    let text = example["answer"].as_str().expect("a stream");
    let examples: Vec<_> = match example["content_type"] == "application/x-ndjson" {
        true => text
            .lines()
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect(),
        false => events(text)
            .iter()
            .filter(|e| e.data != "[DONE]")
            .map(Event::json)
            .collect(),
    };
    for found in found {
        let kind = |v: &Value| {
            v["type"]
                .as_str()
                .map(|t| t.replace("incomplete", "completed"))
        };
        let same = examples.iter().filter(|e| kind(e) == kind(found));
        let best = same.map(|e| differences(e, found)).min_by_key(Vec::len);
        let best = best.unwrap_or_else(|| panic!("{case}: {found}"));
        assert!(best.is_empty(), "{case}: {best:?}\n{found}");
    }
}

/// Counts add up, and are those of as many tokens as asked for at most.
fn usage(r: &Recorded, usage: &Value) {
    let n = |key: &str| usage[key].as_u64().expect("a count");
    assert_eq!(
        n("prompt_tokens") + n("completion_tokens"),
        n("total_tokens")
    );
    assert!(n("prompt_tokens") > 0);
    let most = r
        .body
        .get("max_completion_tokens")
        .or(r.body.get("max_tokens"));
    let prompts = r.body["prompt"].as_array().map_or(1, Vec::len) as u64;
    if let Some(most) = most.and_then(Value::as_u64) {
        assert!(n("completion_tokens") <= most * r.answers() as u64 * prompts);
    }
    let cached = &usage["prompt_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64().expect("a count") <= n("prompt_tokens"));
}

/// Chunks of a stream, with counts where they were asked for.
fn chunks(r: &Recorded, response: &Response, object: &str, answers: usize) -> Vec<Value> {
    let chunks = shape::stream(&response.events(), object, answers);
    let options = &r.body["stream_options"];
    let (last, others) = chunks.split_last().expect("chunks");
    let at_end = options["include_usage"] == true;
    assert_eq!(last["choices"] == json!([]), at_end, "{}", r.case);
    if at_end {
        usage(r, &last["usage"]);
    }
    for chunk in others {
        match options["continuous_usage_stats"] == true {
            true => assert!(chunk["usage"]["prompt_tokens"].is_u64()),
            false => assert!(chunk["usage"].is_null()),
        }
    }
    chunks
}

fn chat(r: &Recorded, response: &Response) {
    let weighed = r.body["logprobs"] == true;
    if r.streams() {
        let chunks = chunks(r, response, "chat.completion.chunk", r.answers());
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        have_forms("chat.stream.usage", &chunks);
        return;
    }
    let body = response.json();
    assert_eq!(body["object"], "chat.completion");
    has_form("chat", &body);
    usage(r, &body["usage"]);
    let choices = body["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), r.answers());
    for (n, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], n);
        assert!(choice["message"]["content"].is_string());
        let finish = choice["finish_reason"].as_str().expect("an end");
        assert!(["stop", "length"].contains(&finish));
        let content = &choice["logprobs"]["content"];
        assert_eq!(content.is_array(), weighed, "{}", r.case);
        for token in content.as_array().into_iter().flatten() {
            assert!(token["token"].is_string() && token["bytes"].is_array());
            assert!(token["logprob"].as_f64().is_some_and(|p| p <= 0.0));
            let top = token["top_logprobs"].as_array().expect("alternatives");
            assert_eq!(
                top.len() as u64,
                r.body["top_logprobs"].as_u64().unwrap_or(0)
            );
        }
    }
}

fn completion(r: &Recorded, response: &Response) {
    let prompts = match &r.body["prompt"] {
        Value::Array(all) if !all[0].is_u64() => all.len(),
        _ => 1,
    };
    let answers = prompts * r.answers();
    if r.streams() {
        have_forms(
            "completions.stream",
            &chunks(r, response, "text_completion", answers),
        );
        return;
    }
    let body = response.json();
    assert_eq!(body["object"], "text_completion");
    has_form("completions.echo.ids", &body);
    usage(r, &body["usage"]);
    let choices = body["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), answers);
    for (n, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], n);
        assert!(choice["text"].is_string());
        let weights = &choice["logprobs"];
        let weighed = r.body["logprobs"].is_u64();
        assert_eq!(weights.is_object(), weighed, "{}", r.case);
        let lists = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
        let lengths = lists.map(|key| weights[key].as_array().map(Vec::len));
        assert!(lengths.iter().all(|n| *n == lengths[0]), "{lengths:?}");
    }
}

fn embedding(r: &Recorded, response: &Response) {
    let body = response.json();
    let inputs = r.body["input"].as_array().map_or(1, Vec::len);
    let data = body["data"].as_array().expect("vectors");
    assert_eq!(data.len(), inputs, "{}", r.case);
    for (i, one) in data.iter().enumerate() {
        assert_eq!(
            (&one["index"], &one["object"]),
            (&json!(i), &json!("embedding"))
        );
        match r.body["encoding_format"] == "base64" {
            true => {
                let text = one["embedding"].as_str().expect("base64");
                assert_eq!(STANDARD.decode(text).expect("base64").len(), 4 * WIDTH);
                has_form("embeddings.base64", &body);
            }
            false => assert_eq!(one["embedding"].as_array().expect("numbers").len(), WIDTH),
        }
    }
    assert!(body["usage"]["prompt_tokens"].as_u64() > Some(0));
}

fn models(r: &Recorded, response: &Response) {
    let body = response.json();
    if r.headers.iter().any(|(k, _)| k == "anthropic-version") {
        let model = &body["data"][0];
        assert_eq!(
            (&model["type"], &model["id"]),
            (&json!("model"), &json!("m"))
        );
        assert!(model["display_name"].is_string() && model["created_at"].is_string());
        assert_eq!(
            (&body["has_more"], &body["first_id"], &body["last_id"]),
            (&json!(false), &json!("m"), &json!("m"))
        );
        return;
    }
    let model = match r.path.ends_with("/m") {
        true => &body,
        false => &body["data"][0],
    };
    assert_eq!(
        (&model["object"], &model["id"]),
        (&json!("model"), &json!("m"))
    );
    assert!(model["created"].is_u64() && model["owned_by"].is_string());
}

fn message(r: &Recorded, response: &Response) {
    let message = match r.streams() {
        true => {
            let events = response.events();
            let all: Vec<_> = events.iter().map(Event::json).collect();
            have_forms("messages.stream", &all);
            shape::messages(&events)
        }
        false => response.json(),
    };
    has_form("messages", &message);
    let reason = message["stop_reason"].as_str().expect("an end");
    assert!(["end_turn", "max_tokens", "stop_sequence"].contains(&reason));
    let out = message["usage"]["output_tokens"].as_u64().expect("a count");
    assert!(out > 0 && Some(out) <= r.body["max_tokens"].as_u64());
    // Of the tokens of the prompt, those found are counted apart.
    let read = &message["usage"]["cache_read_input_tokens"];
    assert!(read.is_u64());
}

fn item(r: &Recorded, response: &Response) {
    let body = match r.streams() {
        true => {
            let events = response.events();
            let all: Vec<_> = events.iter().map(Event::json).collect();
            have_forms("responses.stream", &all);
            shape::responses(&events)
        }
        false => response.json(),
    };
    has_form("responses", &body);
    assert_eq!(body["store"], false);
    let usage = &body["usage"];
    let n = |key: &str| usage[key].as_u64().expect("a count");
    assert_eq!(n("input_tokens") + n("output_tokens"), n("total_tokens"));
}

fn ollama(r: &Recorded, response: &Response) {
    match r.path.trim_start_matches("/api/") {
        "chat" | "generate"
            if r.body["messages"] == json!([])
                || r.body["prompt"].is_null() && r.body["messages"].is_null() =>
        {
            let zero = r.body["keep_alive"] == 0.0;
            let reason = if zero { "unload" } else { "load" };
            let body = response.json();
            assert_eq!(
                (&body["done"], &body["done_reason"]),
                (&json!(true), &json!(reason))
            );
        }
        "chat" | "generate" => {
            let last = match r.streams() {
                true => {
                    let lines = response.lines();
                    if r.path == "/api/chat" {
                        have_forms("ollama.chat.stream", &lines);
                    }
                    shape::lines(&lines).1
                }
                false => response.json(),
            };
            if r.path == "/api/generate" {
                has_form("ollama.generate", &last);
            }
            for key in [
                "total_duration",
                "load_duration",
                "prompt_eval_count",
                "prompt_eval_duration",
                "eval_count",
                "eval_duration",
            ] {
                assert!(last[key].is_u64(), "{}: {key} of {last}", r.case);
            }
        }
        "tags" => has_form("ollama.tags", &response.json()),
        "ps" => has_form("ollama.ps", &response.json()),
        "show" => {
            let body = response.json();
            let keys = body["model_info"].as_object().expect("keys");
            assert!(keys.contains_key("general.architecture"));
            assert!(keys.values().all(|v| !v.is_array() && !v.is_object()));
            assert!(
                body["capabilities"]
                    .as_array()
                    .expect("a list")
                    .contains(&json!("completion"))
            );
            assert_eq!(body["template"], super::TEMPLATE);
        }
        "version" => assert!(response.json()["version"].is_string()),
        "embeddings" => {
            let vector = response.json()["embedding"].as_array().map(Vec::len);
            assert_eq!(vector, Some(WIDTH));
        }
        "pull" => {
            let lines = response.lines();
            let of = |l: &Value| l["status"].as_str().expect("a text").to_owned();
            let all: Vec<_> = lines.iter().map(of).collect();
            assert_eq!(all, ["pulling manifest", "success"]);
        }
        other => panic!("{}: {other}", r.case),
    }
}
