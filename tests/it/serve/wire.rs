//! Framing of requests, connections, hosts, origins and keys.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Connection, Response, ask, get, request};
use super::{Server, shared};

const TEXTS: &str = "/v1/completions";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A request for a short answer.
fn asking(fields: Value) -> Vec<u8> {
    let mut body = json!({ "prompt": "In the beginning", "max_tokens": 2, "seed": 1 });
    for (key, value) in fields.as_object().expect("an object") {
        body[key] = value.clone();
    }
    request("POST", TEXTS, &[JSON], body.to_string().as_bytes())
}

/// Sends what is no request of HTTP/1.1: refused, and nothing behind it is read as another request.
fn refuses(what: &str, bytes: &[u8]) {
    let mut connection = Connection::open(&shared().address);
    let behind = request("GET", "/health", &[], b"");
    // It may be closed before all of it is sent.
    _ = connection.send(&[bytes, &behind].concat());
    match connection.response("POST") {
        Ok(response) => assert!(
            [400, 403, 413, 415, 431, 501, 505].contains(&response.status),
            "{what}: {response:?}"
        ),
        Err(e) => assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "{what}: silence"),
    }
    assert!(connection.is_closed(), "{what}");
}

#[test]
fn one_connection_carries_many_requests() {
    let mut connection = Connection::open(&shared().address);
    let stream = asking(json!({ "stream": true }));
    let all: [(&str, Vec<u8>); 6] = [
        ("GET", request("GET", "/health", &[], b"")),
        ("POST", asking(json!({}))),
        ("POST", stream),
        ("HEAD", request("HEAD", "/v1/models", &[], b"")),
        ("POST", asking(json!({ "max_tokens": -1 }))),
        ("GET", request("GET", "/nothing", &[], b"")),
    ];
    let mut expected = Vec::new();
    for (method, bytes) in &all {
        connection.send(bytes).expect("sent");
        expected.push(connection.response(method).expect("a response").status);
    }
    assert_eq!(expected, [200, 200, 200, 200, 400, 404]);
    // All at once: answered one after the other.
    let bytes: Vec<u8> = all.iter().flat_map(|(_, b)| b.clone()).collect();
    connection.send(&bytes).expect("sent");
    for ((method, _), status) in all.iter().zip(expected) {
        let response = connection.response(method).expect("a response");
        assert_eq!(response.status, status);
    }
    // Byte by byte.
    for byte in asking(json!({})) {
        connection.send(&[byte]).expect("sent");
    }
    assert_eq!(connection.response("POST").expect("a response").status, 200);
    // Until one of them asks for the end.
    let last = request("GET", "/health", &[("Connection", "close")], b"");
    connection.send(&last).expect("sent");
    let response = connection.response("GET").expect("a response");
    assert_eq!((response.status, connection.is_closed()), (200, true));
}

#[test]
fn the_older_version() {
    let address = &shared().address;
    let old = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("text");
        text.replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes()
    };
    let body = asking(json!({}));
    let mut connection = Connection::open(address);
    connection.send(&old(body)).expect("sent");
    let whole = connection.response("POST").expect("a response");
    assert!(whole.status == 200 && connection.is_closed());
    // It knows no chunks: a stream ends with the connection.
    let mut connection = Connection::open(address);
    let bytes = old(asking(json!({ "stream": true })));
    connection.send(&bytes).expect("sent");
    let stream = connection.response("POST").expect("a response");
    assert_eq!(stream.header("transfer-encoding"), None);
    assert_eq!(stream.events().last().map(|e| &*e.data), Some("[DONE]"));
    // It need not name a host.
    let mut connection = Connection::open(address);
    connection
        .send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .expect("sent");
    assert_eq!(connection.response("GET").expect("a response").status, 200);
    connection
        .send(b"GET /health HTTP/1.0\r\n\r\n")
        .expect("sent");
    let last = connection.response("GET").expect("a response");
    assert!(last.status == 200 && connection.is_closed());
}

#[test]
fn bodies_that_wait_to_be_asked_for() {
    let server = Server::with_keys("a:secret", |_| {});
    let body = br#"{"prompt":"a","max_tokens":1}"#;
    let send = |key: &str, length: &str| {
        let mut connection = Connection::open(&server.address);
        let headers = [
            JSON,
            ("Authorization", key),
            ("Expect", "100-continue"),
            ("Content-Length", length),
        ];
        connection
            .send(&request("POST", TEXTS, &headers, b""))
            .expect("sent");
        let head = connection.head().expect("a response");
        (connection, head)
    };
    let (mut connection, head) = send("Bearer secret", &body.len().to_string());
    assert_eq!(head.status, 100);
    connection.send(body).expect("sent");
    assert_eq!(connection.response("POST").expect("a response").status, 200);
    // What will be refused is not asked for.
    assert_eq!(send("Bearer wrong", "29").1.status, 401);
    assert_eq!(send("Bearer secret", "9999999").1.status, 413);
    server.is_well();
}

#[test]
fn bodies_in_chunks() {
    let head = request(
        "POST",
        TEXTS,
        &[JSON, ("Transfer-Encoding", "chunked")],
        b"",
    );
    let json = r#"{"prompt":"a","max_tokens":1}"#;
    let (a, b) = json.split_at(11);
    let good = [
        format!("b\r\n{a}\r\n12\r\n{b}\r\n0\r\n\r\n"),
        format!("0b;name=value\r\n{a}\r\n0012\r\n{b}\r\n000\r\n\r\n"),
        format!("B\r\n{a}\r\n12\r\n{b}\r\n0\r\nX-Trailer: 1\r\n\r\n"),
    ];
    for body in good {
        let bytes = [&*head, body.as_bytes()].concat();
        let response = ask(&shared().address, "POST", &bytes).expect("a response");
        assert_eq!(response.status, 200, "{body:?}");
    }
    for bad in [
        format!("x\r\n{json}\r\n0\r\n\r\n"),
        format!("-1\r\n{json}\r\n0\r\n\r\n"),
        format!("0x1d\r\n{json}\r\n0\r\n\r\n"),
        format!("1d\r\n{json}0\r\n\r\n"),
        format!("1c\r\n{json}\r\n0\r\n\r\n"),
        format!("1d\n{json}\n0\n\n"),
        format!("1d \r\r\n{json}\r\n0\r\n\r\n"),
        format!("ffffffffffffffff\r\n{json}"),
        format!("10000000000000000\r\n{json}"),
        format!("\r\n{json}\r\n0\r\n\r\n"),
        format!("1d;{}\r\n{json}\r\n0\r\n\r\n", "x".repeat(64 << 10)),
        format!("1d\r\n{json}\r\n0\r\n{}\r\n", "X: 1\r\n".repeat(10_000)),
    ] {
        let bytes = [&*head, bad.as_bytes()].concat();
        let mut connection = Connection::open(&shared().address);
        _ = connection.send(&bytes);
        connection.finish();
        if let Ok(response) = connection.response("POST") {
            assert!(
                [400, 413, 431].contains(&response.status),
                "{bad:.60}: {response:?}"
            );
        }
        assert!(connection.is_closed(), "{bad:.60}");
    }
}

#[test]
fn nothing_is_smuggled() {
    let body = r#"{"prompt":"a","max_tokens":1}"#;
    let post = |fields: &str, body: &str| {
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        format!("{head}{fields}\r\n{body}").into_bytes()
    };
    for fields in [
        "Content-Length: 29\r\nContent-Length: 30\r\n",
        "Content-Length: 29, 30\r\n",
        "Content-Length: 29, 29\r\n",
        "Content-Length: +29\r\n",
        "Content-Length: -29\r\n",
        "Content-Length: 0x1d\r\n",
        "Content-Length: 29.0\r\n",
        "Content-Length: 2 9\r\n",
        "Content-Length: \r\n",
        "Content-Length : 29\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "X: 1\r\n Content-Length: 29\r\n",
        "X: 1\r\n\tfolded\r\nContent-Length: 29\r\n",
        " X: 1\r\nContent-Length: 29\r\n",
        "X\r\nContent-Length: 29\r\n",
        "X: a\0b\r\nContent-Length: 29\r\n",
        "X: a\rb\r\nContent-Length: 29\r\n",
        "(X): 1\r\nContent-Length: 29\r\n",
    ] {
        refuses(fields, &post(fields, body));
    }
    for bytes in [
        "GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n",
        "GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n",
        "GET /health\r\n\r\n",
        "GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /he alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "G\x7fT /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03",
    ] {
        // The last is what a client of TLS says first.
        refuses(bytes, bytes.as_bytes());
    }
}

/// A request names one host, once: else two readers of it may see two of them.
#[test]
fn a_request_names_one_host() {
    for (head, status) in [
        (
            "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
            400,
        ),
        (
            "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
            400,
        ),
        (
            "GET /health HTTP/1.0\r\nHost: localhost\r\nHost: evil.example",
            400,
        ),
        ("GET /health HTTP/1.1\r\nX: 1", 400),
        ("GET /health HTTP/1.1\r\nHost:", 403),
        (
            "GET http://evil.example/health HTTP/1.1\r\nHost: localhost",
            403,
        ),
        (
            "GET http://localhost/health HTTP/1.1\r\nHost: evil.example",
            200,
        ),
    ] {
        let bytes = format!("{head}\r\n\r\n");
        let response = ask(&shared().address, "GET", bytes.as_bytes());
        assert_eq!(response.expect("a response").status, status, "{head}");
    }
}

/// A body whose length is told in two ways is read in chunks or refused; what follows is nobody's request.
#[test]
fn lengths_that_contradict() {
    let chunks = "1d\r\n{\"prompt\":\"a\",\"max_tokens\":1}\r\n0\r\n\r\n";
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
    ] {
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let bytes =
            format!("{head}{fields}\r\n{chunks}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut connection = Connection::open(&shared().address);
        connection.send(bytes.as_bytes()).expect("sent");
        let response = connection.response("POST").expect("a response");
        assert!([200, 400].contains(&response.status), "{response:?}");
        connection.patience(Duration::from_secs(10));
        let next = connection.response("GET");
        assert!(next.is_err(), "{fields:?}: {next:?}");
    }
}

/// A refusal that comes before the body has been read is read by a client that sends all of it first.
#[test]
fn refusals_reach_those_that_still_send() {
    let server = Server::with_keys("a:secret", |_| {});
    let body = vec![b' '; 3 << 20];
    for (path, key, kind, status) in [
        (TEXTS, "Bearer wrong", "application/json", 401),
        ("/nothing", "Bearer secret", "application/json", 404),
        ("/health", "Bearer secret", "application/json", 405),
        (TEXTS, "Bearer secret", "text/plain", 415),
    ] {
        let headers = [("Content-Type", kind), ("Authorization", key)];
        let bytes = request("POST", path, &headers, &body);
        for _ in 0..5 {
            let response = ask(&server.address, "POST", &bytes);
            assert_eq!(response.expect("a response").status, status, "{path}");
        }
    }
    let long = vec![b' '; 5 << 20];
    let headers = [JSON, ("Authorization", "Bearer secret")];
    for _ in 0..5 {
        let bytes = request("POST", TEXTS, &headers, &long);
        let response = ask(&server.address, "POST", &bytes);
        assert_eq!(response.expect("a response").status, 413);
    }
    server.is_well();
}

fn with(address: &str, headers: &[(&str, &str)]) -> Response {
    let bytes = request("GET", "/v1/models", headers, b"");
    ask(address, "GET", &bytes).expect("a response")
}

#[test]
fn hosts_and_origins() {
    let server = Server::start(|o| {
        o.allowed_hosts = vec!["models.example".into()];
        o.cors_origins = vec!["https://chat.example".into()];
    });
    let own = &*server.address;
    let port = own.rsplit(':').next().expect("a port");
    let local = format!("localhost:{port}");
    for host in [
        own,
        &local,
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.0.0.2:1",
        "[::1]",
        "models.example:80",
    ] {
        let response = with(own, &[("Host", host)]);
        assert_eq!(response.status, 200, "{host}");
    }
    let forbidden = |headers: &[(&str, &str)]| {
        let response = with(own, headers);
        assert_eq!(response.status, 403, "{headers:?}");
        assert_eq!(response.error()[0].as_deref(), Some("permission_error"));
    };
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "models.example.evil.example",
        "0x7f000001.evil.example",
        "192.0.2.1",
        "[::2]",
        "user@localhost@evil.example",
    ] {
        forbidden(&[("Host", host)]);
    }
    let same = format!("http://{local}");
    for origin in [&same, "https://chat.example"] {
        let response = with(own, &[("Host", &local), ("Origin", origin)]);
        assert_eq!(response.status, 200, "{origin}");
    }
    for origin in [
        "http://localhost:1",
        "http://evil.example",
        "http://chat.example",
        "https://chat.example.evil.example",
        "https://chat.example:444",
        "null",
        "file://",
        "",
    ] {
        forbidden(&[("Host", &local), ("Origin", origin)]);
    }
    // `/health` too: nothing is told to other pages.
    let bytes = request("GET", "/health", &[("Host", "evil.example")], b"");
    assert_eq!(ask(own, "GET", &bytes).expect("a response").status, 403);
}

#[test]
fn keys_open_what_they_should() {
    let key = "k".repeat(4 << 10);
    let keys = format!("ada:sk-1\nbob:sk:2\ncarl:{key}");
    let server = Server::with_keys(&keys, |_| {});
    let own = &*server.address;
    let long = format!("Bearer {key}");
    for header in [
        ("Authorization", "Bearer sk-1"),
        ("authorization", "Bearer sk:2"),
        ("X-Api-Key", "sk-1"),
        ("Authorization", &long),
    ] {
        assert_eq!(with(own, &[header]).status, 200, "{header:?}");
    }
    // A client of Anthropic's sends both, one of them empty.
    let both = [("Authorization", "Bearer "), ("X-Api-Key", "sk-1")];
    assert_eq!(with(own, &both).status, 200);
    let (longer, longest) = (
        format!("Bearer {key}k"),
        format!("Bearer {}", "k".repeat(30 << 10)),
    );
    for header in [
        ("X-None", ""),
        ("Authorization", ""),
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer "),
        ("Authorization", "Bearer sk-"),
        ("Authorization", "Bearer sk-11"),
        ("Authorization", "Bearer  sk-1"),
        ("Authorization", "Basic sk-1"),
        ("Authorization", "sk-1"),
        ("X-Api-Key", ""),
        ("X-Api-Key", "Bearer sk-1"),
        ("Authorization", &longer),
        ("Authorization", &longest),
    ] {
        let response = with(own, &[header]);
        assert_eq!(response.status, 401, "{header:?}");
        let [kind, code, _] = response.error();
        assert_eq!(kind.as_deref(), Some("authentication_error"));
        assert_eq!(code.as_deref(), Some("invalid_api_key"));
        assert!(!response.text().contains("sk-"), "no key is told");
    }
    for path in [
        "/metrics",
        "/slots",
        "/props",
        "/v1/models",
        "/tokenizer_info",
        "/nothing",
    ] {
        assert_eq!(get(own, path).status, 401, "{path}");
    }
    assert_eq!(get(own, "/health").status, 200);
    let far = format!("Bearer {}", "k".repeat(64 << 10));
    let bytes = request("GET", "/v1/models", &[("Authorization", &far)], b"");
    let mut connection = Connection::open(own);
    _ = connection.send(&bytes);
    if let Ok(response) = connection.response("GET") {
        assert_eq!(response.status, 431);
    }
    let metrics = request("GET", "/metrics", &[("X-Api-Key", "sk-1")], b"");
    let metrics = ask(own, "GET", &metrics).expect("a response");
    assert!(metrics.status == 200 && !metrics.text().contains("sk-1"));
}
