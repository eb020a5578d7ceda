//! `geb-run serve` as a user meets it: how it starts, what it answers, how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;

/// A server of the built-in model that is killed when its test ends.
struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`
    url: String,
}

impl Server {
    fn start(flags: &[&str]) -> Server {
        let mut command = geb_run();
        command
            .args(["serve", "--demo", "--port", "0", "--log", "off"])
            .args(flags);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("a server");
        let mut lines = BufReader::new(child.stderr.take().expect("its standard error"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        let (_, url) = line
            .trim()
            .rsplit_once(" at ")
            .unwrap_or_else(|| panic!("{line}"));
        let url = url.to_owned();
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let server = Server { child, url };
        let begun = Instant::now();
        while !server.get("/health").starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < Duration::from_secs(60), "never ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn connect(&self) -> TcpStream {
        let address = self.url.strip_prefix("http://").expect("an address");
        let stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a limit");
        stream
    }

    /// The whole answer to a request without a body.
    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    #[cfg(unix)]
    fn terminate(&mut self) -> i32 {
        let status = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(status.expect("kill").success());
        self.child.wait().expect("its end").code().expect("a code")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Whether curl is here; where tests must not be skipped it has to be.
fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "curl is absent");
        eprintln!("skipped: curl is absent");
    }
    found
}

/// Every `curl` of docs/server.md gets an answer with status 200.
#[test]
fn the_examples_of_the_documentation_work() {
    if !has_curl() {
        return;
    }
    let server = Server::start(&[]);
    let docs = include_str!("../../../../docs/server.md");
    let blocks = docs
        .split("```sh\n")
        .skip(1)
        .filter_map(|b| b.split("```").next());
    let curls: Vec<_> = blocks.filter(|b| b.starts_with("curl ")).collect();
    assert!(curls.len() >= 20, "{}", curls.len());
    for curl in curls {
        let command = curl.replacen("curl ", "curl --fail-with-body ", 1);
        let mut shell = Command::new("sh");
        let output = shell
            .arg("-c")
            .arg(&command)
            .env("GEB", &server.url)
            .output()
            .expect("sh");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command}\n{text}");
        assert!(!text.is_empty(), "{command}");
    }
}

/// What `/openapi.json` lists is there, by the method that it says.
#[test]
fn every_path_of_the_description_is_served() {
    let server = Server::start(&[]);
    let told = server.get("/openapi.json");
    let (_, body) = told.split_once("\r\n\r\n").expect("a body");
    let all: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let paths = all["paths"].as_object().expect("paths");
    assert!(paths.len() > 20);
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let (verb, path) = (method.to_uppercase(), path.replace("{id}", "geb-nano"));
            let mut stream = server.connect();
            let head = format!("{verb} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close");
            write!(stream, "{head}\r\ncontent-length: 2\r\n\r\n{{}}").expect("sent");
            let mut status = String::new();
            BufReader::new(stream)
                .read_line(&mut status)
                .expect("a line");
            assert!(
                !status.contains(" 404 ") && !status.contains(" 405 "),
                "{head}: {status}"
            );
        }
    }
}

#[test]
#[cfg(unix)]
fn an_answer_ends_before_the_server_does() {
    let mut server = Server::start(&[]);
    let mut stream = server.connect();
    let body =
        r#"{"prompt": "In the beginning", "max_tokens": 300, "ignore_eos": true, "stream": true}"#;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close";
    write!(
        stream,
        "{head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut first = [0; 200];
    stream.read_exact(&mut first).expect("the beginning");
    assert_eq!(server.terminate(), 0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the rest");
    let text = String::from_utf8_lossy(&rest);
    assert!(text.contains("data: [DONE]"), "{text}");
}

#[test]
fn what_is_unsafe_or_empty_is_refused_before_anything_is_served() {
    let refused = |flags: &[&str], code: i32, said: &str| {
        let mut args = vec!["serve"];
        args.extend(flags);
        let output = run(&args);
        exits(&output, code);
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    };
    refused(&["--demo", "--host", "0.0.0.0"], 2, "--api-key-file");
    refused(
        &["--demo", "--cors-origin", "chat.example"],
        2,
        "scheme://host",
    );
    refused(
        &["--demo", "--api-key-file", "no-such-file"],
        2,
        "no-such-file",
    );
    refused(&["-m", "no-such-model"], 1, "no-such-model");
    refused(&["no-such-model"], 1, "no-such-model");
    let known = model().to_str().expect("a path");
    refused(&[known, "-m", "no-such-model"], 1, "no-such-model");
    refused(&["x.gguf", "--demo"], 2, "--demo");
    refused(&["--models", "."], 2, "no GGUF file");
    refused(&["--demo", "--streams", "0"], 2, "1 to 256");
    refused(&["--demo", "-m", "x.gguf"], 2, "--demo");
    let server = Server::start(&[]);
    let (_, port) = server.url.rsplit_once(':').expect("a port");
    refused(&["--demo", "--port", port], 1, port);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let keys = scratch().join("keys-that-all-can-read");
        std::fs::write(&keys, "ada:secret\n").expect("keys");
        std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o644)).expect("a mode");
        let path = keys.to_str().expect("a path");
        refused(&["--demo", "--api-key-file", path], 2, "chmod 600");
    }
}
