//! Requests with random faults: a refusal, an answer or a closed connection, and a server that lives.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Connection, request};
use super::{Server, until};
use crate::common::dice::Dice;

/// What a fault is made of.
const PARTS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"\xc3\xa9",
    b"{",
    b"[[[[[[[[",
    b"}",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"null",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: localhost\r\n",
    b"HTTP/1.0",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

/// Valid requests of all kinds; each answers soon.
fn valid() -> Vec<Vec<u8>> {
    let json = [("Content-Type", "application/json")];
    let chunked = [json[0], ("Transfer-Encoding", "chunked")];
    let post = |path: &str, body: Value| request("POST", path, &json, body.to_string().as_bytes());
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": [{ "type": "text", "text": "In the" }] }]);
    let mut in_chunks = request("POST", "/v1/completions", &chunked, b"");
    in_chunks.extend(b"b\r\n{\"prompt\":\"\r\n13\r\nIn\",\"max_tokens\":1}\r\n0\r\n\r\n");
    vec![
        request("GET", "/health", &[], b""),
        request("GET", "/v1/models/m", &[("Authorization", "Bearer x")], b""),
        request(
            "OPTIONS",
            "/v1/completions",
            &[("Origin", "http://localhost")],
            b"",
        ),
        in_chunks,
        post(
            "/v1/chat/completions",
            json!({ "model": "m", "messages": messages, "max_tokens": 2, "stop": ["a", "bc"], "seed": 3, "temperature": 0.5 }),
        ),
        post(
            "/v1/chat/completions",
            json!({ "messages": messages, "max_tokens": 2, "stream": true, "stream_options": { "include_usage": true }, "logprobs": true, "top_logprobs": 2 }),
        ),
        post(
            "/v1/completions",
            json!({ "prompt": [[5, 6, 7], [300, 301]], "max_tokens": 1, "logprobs": 1, "echo": true, "n": 2 }),
        ),
        post(
            "/v1/completions",
            json!({ "prompt": "In the beginning", "max_tokens": 2, "logit_bias": { "77": -3.5 }, "stream": true }),
        ),
        post(
            "/v1/embeddings",
            json!({ "input": ["a", "b"], "encoding_format": "base64" }),
        ),
        post(
            "/tokenize",
            json!({ "content": "In the beginning", "with_pieces": true }),
        ),
        post("/detokenize", json!({ "tokens": [1, 2, 300, 2047] })),
        post(
            "/v1/logprobs",
            json!({ "prompt": "In the beginning", "top_logprobs": 1 }),
        ),
        post("/apply-template", json!({ "messages": messages })),
    ]
}

/// One with 1 to 4 faults.
fn mutant(all: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = all[dice.below(all.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + dice.below(12)).min(bytes.len());
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            3 | 4 => drop(bytes.splice(
                at..end.min(at + dice.below(3)),
                PARTS[dice.below(PARTS.len())].to_vec(),
            )),
            5 => bytes.truncate(at),
            _ => {
                // The head of one, the rest of another.
                let other = &all[dice.below(all.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.below(other.len())..]);
            }
        }
    }
    bytes
}

/// Sends a mutant: the statuses that come back.
fn statuses(address: &str, bytes: &[u8]) -> Vec<u16> {
    let mut connection = Connection::open(address);
    // It may be closed before all of it is sent.
    _ = connection.send(bytes);
    let mut all = Vec::new();
    let method = if bytes.starts_with(b"HEAD") {
        "HEAD"
    } else {
        "POST"
    };
    let mut waited = false;
    loop {
        connection.patience(Duration::from_millis(if waited { 20_000 } else { 60 }));
        match connection.response(method) {
            Ok(response) => {
                let known = [400, 401, 403, 404, 405, 408, 413, 414, 415, 431, 501, 505];
                assert!(
                    response.status < 300 || known.contains(&response.status),
                    "{response:?}"
                );
                let has_body = method != "HEAD" && !response.body.is_empty();
                if response.status >= 400 && has_body {
                    response.error();
                }
                all.push(response.status);
            }
            // It waits for more, or computes: then it is told that nothing follows.
            Err(e)
                if !waited && matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                connection.finish();
                waited = true;
            }
            Err(e) => {
                assert!(
                    !matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::WouldBlock),
                    "{e}"
                );
                return all;
            }
        }
    }
}

#[test]
fn faults_are_refused_and_nothing_else_happens() {
    const MUTANTS: usize = 4000;
    let server = Server::start(|_| {});
    let all = valid();
    for bytes in &all {
        let found = statuses(&server.address, bytes);
        assert!(
            found.len() == 1 && (found[0] < 300 || found[0] == 405),
            "{found:?}"
        );
    }
    let (next, counts) = (AtomicUsize::new(0), Mutex::new([0; 6]));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= MUTANTS {
                        break;
                    }
                    let mut dice = Dice((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    let bytes = mutant(&all, &mut dice);
                    let found = std::panic::catch_unwind(|| statuses(&server.address, &bytes));
                    let shown = || String::from_utf8_lossy(&bytes).into_owned();
                    let found = found.unwrap_or_else(|_| panic!("mutant {i}: {:?}", shown()));
                    let first = found.first().map_or(0, |s| usize::from(*s) / 100);
                    counts.lock().expect("no panic")[first] += 1;
                }
            });
        }
    });
    let counts = counts.into_inner().expect("no panic");
    println!("closed without a word, then by hundreds: {counts:?}");
    // Faults of all kinds: some harmless, most refused.
    assert!(counts[2] > MUTANTS / 50 && counts[4] > MUTANTS / 4);
    until("mutants are forgotten", || server.load() == [0.0, 0.0]);
    server.is_well();
}
