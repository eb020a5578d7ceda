//! One answer in all dialects, at once and as it comes: the same text, however its characters and stop texts are
//! spread over tokens.

use serde_json::{Value, json};

use super::client::{Response, post};
use super::shape;
use super::shared;

/// What is asked in every dialect.
struct Question {
    text: String,
    seed: u64,
    stop: Vec<String>,
    most: usize,
}

/// A dialect: path, body, and how text and end are read from an answer at once and from a stream.
struct Dialect {
    path: &'static str,
    body: fn(&Question) -> Value,
    whole: fn(&Value) -> (String, String),
    stream: fn(&Response) -> (String, String),
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Anthropic's and OpenAI's words for the same ends.
fn end(value: &Value) -> String {
    match value.as_str().expect("an end") {
        "end_turn" | "stop_sequence" | "completed" => "stop".into(),
        "max_tokens" | "incomplete" => "length".into(),
        other => other.into(),
    }
}

fn messages(q: &Question) -> Value {
    json!([{ "role": "user", "content": q.text }])
}

const CHAT: Dialect = Dialect {
    path: "/v1/chat/completions",
    body: |q| json!({ "messages": messages(q), "seed": q.seed, "stop": q.stop, "max_tokens": q.most, "temperature": 1.5 }),
    whole: |v| {
        let choice = &v["choices"][0];
        (
            text(&choice["message"]["content"]),
            end(&choice["finish_reason"]),
        )
    },
    stream: |r| {
        let chunks = shape::stream(&r.events(), "chat.completion.chunk", 1);
        let all = chunks
            .iter()
            .map(|c| text(&c["choices"][0]["delta"]["content"]));
        let last = &chunks[chunks.len() - 1]["choices"][0]["finish_reason"];
        (all.collect(), end(last))
    },
};

const TEXTS: Dialect = Dialect {
    path: "/v1/completions",
    body: |q| json!({ "prompt": format!("{}\n", q.text), "seed": q.seed, "stop": q.stop, "max_tokens": q.most, "temperature": 1.5 }),
    whole: |v| {
        (
            text(&v["choices"][0]["text"]),
            end(&v["choices"][0]["finish_reason"]),
        )
    },
    stream: |r| {
        let chunks = shape::stream(&r.events(), "text_completion", 1);
        let all = chunks.iter().map(|c| text(&c["choices"][0]["text"]));
        (
            all.collect(),
            end(&chunks[chunks.len() - 1]["choices"][0]["finish_reason"]),
        )
    },
};

const MESSAGES: Dialect = Dialect {
    path: "/v1/messages",
    body: |q| json!({ "messages": messages(q), "seed": q.seed, "stop_sequences": q.stop, "max_tokens": q.most, "temperature": 1.5 }),
    whole: |v| (text(&v["content"][0]["text"]), end(&v["stop_reason"])),
    stream: |r| {
        let message = shape::messages(&r.events());
        (
            text(&message["content"][0]["text"]),
            end(&message["stop_reason"]),
        )
    },
};

/// Has no stop texts.
const RESPONSES: Dialect = Dialect {
    path: "/v1/responses",
    body: |q| json!({ "input": q.text, "seed": q.seed, "max_output_tokens": q.most, "temperature": 1.5 }),
    whole: |v| {
        (
            text(&v["output"][0]["content"][0]["text"]),
            end(&v["status"]),
        )
    },
    stream: |r| {
        let response = shape::responses(&r.events());
        (
            text(&response["output"][0]["content"][0]["text"]),
            end(&response["status"]),
        )
    },
};

const OLLAMA: Dialect = Dialect {
    path: "/api/chat",
    body: |q| {
        let options =
            json!({ "seed": q.seed, "stop": q.stop, "num_predict": q.most, "temperature": 1.5 });
        json!({ "model": "m", "messages": messages(q), "options": options })
    },
    whole: |v| (text(&v["message"]["content"]), end(&v["done_reason"])),
    stream: |r| {
        let (text, last) = shape::lines(&r.lines());
        (text, end(&last["done_reason"]))
    },
};

impl Dialect {
    fn ask(&self, q: &Question, stream: bool) -> (String, String) {
        let mut body = (self.body)(q);
        body["stream"] = stream.into();
        let response = post(&shared().address, self.path, &body);
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        match stream {
            true => (self.stream)(&response),
            false => (self.whole)(&response.json()),
        }
    }
}

#[test]
fn answers_are_the_same_in_all_dialects() {
    let texts = [
        "In the beginning",
        "🙂👩‍👩‍👧 é",
        "晴れ 神说",
        "And it came to pass",
    ];
    let mut stopped = 0;
    for i in 0..24 {
        let mut q = Question {
            text: texts[i % 4].into(),
            seed: i as u64,
            stop: Vec::new(),
            most: 24,
        };
        let (whole, _) = CHAT.ask(&q, false);
        if i % 2 == 0 {
            // Behind one character of one token and before one of another, and one that never comes.
            let chars: Vec<char> = whole.chars().collect();
            let at = chars.len() / 2;
            let stop: String = chars[at..(at + 3).min(chars.len())].iter().collect();
            q.stop = vec![stop, "👩‍👩‍👧‍👦".into()];
            q.stop.retain(|s| !s.is_empty());
        }
        let expected = CHAT.ask(&q, false);
        stopped += usize::from(expected.1 == "stop" && !q.stop.is_empty());
        if let Some(stop) = q.stop.first() {
            assert!(!expected.0.contains(stop.as_str()));
            assert!(whole.starts_with(&expected.0));
        }
        for dialect in [&CHAT, &TEXTS, &MESSAGES, &OLLAMA, &RESPONSES] {
            if dialect.path == RESPONSES.path && !q.stop.is_empty() {
                continue;
            }
            for stream in [false, true] {
                let found = dialect.ask(&q, stream);
                assert_eq!(found, expected, "{} {stream} {i}", dialect.path);
            }
        }
    }
    assert!(stopped >= 9, "{stopped} of 12");
}
