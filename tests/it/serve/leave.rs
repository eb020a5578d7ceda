//! Clients that go away: what was held for them is free at once. And the end of the server.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Connection, ask, get, post, request};
use super::shape::stream;
use super::{CTX, Server, until};

const TEXTS: &str = "/v1/completions";

/// A long answer.
fn long(stream: bool) -> Value {
    json!({ "prompt": "In the beginning", "max_tokens": CTX, "ignore_eos": true, "stream": stream, "seed": 1 })
}

fn send(server: &Server, body: &Value) -> Connection {
    let mut connection = Connection::open(&server.address);
    let kind = [("Content-Type", "application/json")];
    let bytes = request("POST", TEXTS, &kind, body.to_string().as_bytes());
    connection.send(&bytes).expect("sent");
    connection
}

/// Pages for one context, and two places: whoever leaves something behind is in the way of the rest.
fn narrow() -> Server {
    let library = super::exact::Library::open();
    let one = geb::engine::Engine::kv_bytes_for(library.session.model(), &super::session());
    let bytes = one.expect("known");
    Server::start(|o| {
        o.scheduler.streams = 2;
        o.session.kv_memory = Some(bytes);
        // A guess that does not hold may leave a page in the tree of beginnings that is then copied: one more than
        // a context has.
        o.scheduler.guess = false;
    })
}

#[test]
fn whoever_leaves_leaves_nothing_behind() {
    let server = narrow();
    let mut body = long(false);
    body["prompt"] = json!([(0..400).map(|i| 300 + i).collect::<Vec<_>>()]);
    let first = post(&server.address, TEXTS, &body);
    assert_eq!(first.status, 200, "{}", first.text());
    let expected = first.json()["choices"][0]["text"].clone();
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        // Some that are answered, at once or as it comes, and more that wait.
        let mut streams: Vec<_> = (0..6).map(|i| send(&server, &long(i % 2 == 0))).collect();
        if round % 3 == 0 {
            assert_eq!(streams[0].head().expect("a response").status, 200);
            streams[0].chunk().expect("a chunk");
        }
        // One that ends meanwhile is no longer there.
        until("they run and wait", || {
            server.load()[0] > 0.0 && server.load()[1] > 0.0
        });
        if round % 2 == 0 {
            // Those that wait leave first.
            streams.truncate(2);
            until("the queue is empty", || server.load()[1] == 0.0);
        }
        drop(streams);
        slowest = slowest.max(until("nobody is there", || server.load() == [0.0, 0.0]));
    }
    println!("free after {slowest:?} at most");
    assert!(server.metric("geb_requests_cancelled") >= 100.0);
    // All pages are there for one that needs all of them.
    let again = post(&server.address, TEXTS, &body);
    assert_eq!(again.status, 200, "{}", again.text());
    let again = again.json();
    assert_eq!(again["choices"][0]["text"], expected);
    assert_eq!(again["choices"][0]["finish_reason"], "length");
    server.is_well();
}

/// One of several requests is cancelled; the others of its connection's neighbours go on.
#[test]
fn only_its_own_request_ends_with_a_connection() {
    let server = narrow();
    let body = long(false);
    let expected = post(&server.address, TEXTS, &body).json()["choices"].clone();
    std::thread::scope(|scope| {
        let stay = scope.spawn(|| post(&server.address, TEXTS, &body).json()["choices"].clone());
        for _ in 0..10 {
            let leaver = send(&server, &body);
            until("both run", || server.load()[0] > 0.0);
            drop(leaver);
        }
        assert_eq!(stay.join().expect("no panic"), expected);
    });
    // Several answers of one request, several prompts: all of them end.
    let mut many = long(true);
    (many["n"], many["prompt"]) = (4.into(), json!(["In the", "And it"]));
    let connection = send(&server, &many);
    until("they run and wait", || {
        server.load().iter().sum::<f64>() == 8.0
    });
    drop(connection);
    until("nobody is there", || server.load() == [0.0, 0.0]);
    server.is_well();
}

/// Asked to end, the server takes nothing new, says so, and lets answers end.
#[test]
fn the_end_waits_for_answers() {
    let mut server = Server::start(|o| o.scheduler.streams = 4);
    let body = long(true);
    let whole = post(&server.address, TEXTS, &long(false)).json();
    let expected = whole["choices"][0]["text"]
        .as_str()
        .expect("a text")
        .to_owned();
    let mut all: Vec<_> = (0..8).map(|_| send(&server, &body)).collect();
    for connection in &mut all {
        assert_eq!(connection.head().expect("a response").status, 200);
    }
    let mut idle = Connection::open(&server.address);
    until("they run", || server.load()[0] == 4.0);
    server.end();
    until("it says so", || {
        get(&server.address, "/health").status == 503
    });
    let new =
        ask(&server.address, "POST", &request("POST", TEXTS, &[], b"{}")).expect("a response");
    assert_eq!(new.status, 503);
    assert_eq!(new.error()[0].as_deref(), Some("unavailable_error"));
    assert!(new.header("retry-after").is_some());
    for mut connection in all {
        let mut bytes = Vec::new();
        while let Some(chunk) = connection.chunk().expect("a chunk") {
            bytes.extend(chunk);
        }
        let events = super::client::events(std::str::from_utf8(&bytes).expect("UTF-8"));
        let chunks = stream(&events, "text_completion", 1);
        let text = |chunk: &Value| chunk["choices"][0]["text"].as_str().map(str::to_owned);
        assert_eq!(chunks.iter().filter_map(text).collect::<String>(), expected);
    }
    server.ended().expect("it ends well");
    assert!(idle.is_closed());
    // Its address is free.
    let again = Server::start(|o| {
        let (host, port) = server.address.split_once(':').expect("an address");
        o.address = geb_serve::Address::Tcp(host.into(), port.parse().expect("a port"));
    });
    again.is_well();
}

/// Answers that take longer than the server is told to wait end without their last word.
#[test]
fn the_end_does_not_wait_for_ever() {
    let mut server = Server::start(|o| o.drain = Duration::ZERO);
    let mut connection = send(&server, &long(true));
    assert_eq!(connection.head().expect("a response").status, 200);
    server.end();
    server.ended().expect("it ends well");
    let mut last = Ok(Some(Vec::new()));
    while matches!(last, Ok(Some(_))) {
        last = connection.chunk();
    }
    assert!(last.is_err(), "it was cut");
}

#[cfg(unix)]
#[test]
fn sockets_of_the_machine() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    // One that a server has left behind is in the way of nobody.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (theirs, place) = (stop.clone(), path.clone());
    let thread = std::thread::spawn(move || {
        let mut options = super::options();
        options.address = geb_serve::Address::Socket(place);
        let source = super::source();
        geb_serve::serve(options, vec![source], &theirs, &mut |_| {})
    });
    let ask = || {
        let mut stream = UnixStream::connect(&path).ok()?;
        // Names mean nothing here.
        stream
            .write_all(b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    until("it is ready", || {
        ask().is_some_and(|t| t.starts_with("HTTP/1.0 200"))
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    thread.join().expect("no panic").expect("it ends well");
    assert!(!path.exists());
}
