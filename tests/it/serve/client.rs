//! A client of HTTP/1.1: bytes out, responses in. What is framed wrongly is an error, never guessed at.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a response may take: more than any that is expected, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(k, _)| k == name);
        let value = found.next().map(|(_, v)| &**v);
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The body as JSON, which the response says it is.
    pub fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The server-sent events of the body, which the response says it has.
    pub fn events(&self) -> Vec<Event> {
        let kind = self.header("content-type").expect("a type");
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        events(self.text())
    }

    /// The lines of JSON of the body, which the response says it has.
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("application/x-ndjson"));
        let text = self.text();
        assert!(text.ends_with('\n'), "{text:?}");
        let parse = |line: &str| serde_json::from_str(line).expect("JSON");
        text.lines().map(parse).collect()
    }

    /// The error in the form of OpenAI: type, code, param.
    pub fn error(&self) -> [Option<String>; 3] {
        let body = self.json();
        let error = &body["error"];
        let message = error["message"].as_str().expect("a message");
        assert!(!message.is_empty() && body.as_object().is_some_and(|o| o.len() == 1));
        ["type", "code", "param"].map(|key| error[key].as_str().map(str::to_owned))
    }
}

/// A server-sent event.
#[derive(Debug)]
pub struct Event {
    /// Empty if it has none.
    pub name: String,
    pub data: String,
}

impl Event {
    /// Its data as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Server-sent events that all end properly; comments are passed over.
pub fn events(text: &str) -> Vec<Event> {
    let mut all = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (event, after) = rest.split_once("\n\n").expect("an event ends");
        rest = after;
        if event.starts_with(": ") {
            continue;
        }
        let (name, data) = match event.strip_prefix("event: ") {
            Some(named) => named.split_once('\n').expect("data"),
            None => ("", event),
        };
        let data = data.strip_prefix("data: ").expect("data");
        assert!(!data.contains('\n'), "{event:?}");
        let (name, data) = (name.to_owned(), data.to_owned());
        all.push(Event { name, data });
    }
    all
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// How the length of a body is told.
enum Length {
    Bytes(usize),
    Chunked,
    /// Until the connection is closed.
    Open,
}

/// A connection to a server.
pub struct Connection {
    stream: TcpStream,
    /// Bytes that have come and belong to nothing yet.
    held: Vec<u8>,
}

impl Connection {
    pub fn open(address: &str) -> Connection {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        let held = Vec::new();
        Connection { stream, held }
    }

    /// Waits for so long, and no longer.
    pub fn patience(&self, time: Duration) {
        self.stream.set_read_timeout(Some(time)).expect("a socket");
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        // It may be closed already.
        _ = self.stream.shutdown(Shutdown::Write);
    }

    /// More bytes; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 << 10];
        let n = self.stream.read(&mut bytes)?;
        self.held.extend_from_slice(&bytes[..n]);
        Ok(n > 0)
    }

    /// Takes bytes up to the end of `mark`.
    fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            let found = self.held[from..]
                .windows(mark.len())
                .position(|w| w == mark);
            if let Some(at) = found {
                return Ok(self.held.drain(..from + at + mark.len()).collect());
            }
            from = self.held.len().saturating_sub(mark.len() - 1);
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < n {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.held.drain(..n).collect())
    }

    /// The head of a response.
    pub fn head(&mut self) -> io::Result<Response> {
        let bytes = self.until(b"\r\n\r\n")?;
        let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| status.strip_prefix("HTTP/1.0 "));
        let code = code.and_then(|c| c.get(..3)).and_then(|c| c.parse().ok());
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers: Option<Vec<_>> = lines.map(field).collect();
        Ok(Response {
            status: code.ok_or_else(|| wrong(status))?,
            headers: headers.ok_or_else(|| wrong(&*text))?,
            body: Vec::new(),
        })
    }

    /// A response to a request of this method; interim ones are passed over.
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.head()?;
        while response.status == 100 {
            response = self.head()?;
        }
        let bodiless = method == "HEAD" || response.status == 204 || response.status == 304;
        if bodiless {
            return Ok(response);
        }
        match length(&response)? {
            Length::Bytes(n) => response.body = self.exactly(n)?,
            Length::Chunked => {
                while let Some(chunk) = self.chunk()? {
                    response.body.extend(chunk);
                }
            }
            Length::Open => {
                while self.more()? {}
                response.body = std::mem::take(&mut self.held);
            }
        }
        Ok(response)
    }

    /// The next chunk of a body; none at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.until(b"\r\n")?;
        let digits = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| wrong("a size"))?;
        let n = usize::from_str_radix(digits, 16).map_err(|_| wrong(digits))?;
        let mut bytes = self.exactly(n + 2)?;
        if bytes.split_off(n) != b"\r\n" {
            return Err(wrong("a chunk without an end"));
        }
        Ok((n > 0).then_some(bytes))
    }

    /// Whether the server has closed it, after whatever else came.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.more() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(e) => return e.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// How the length of the body is told; once.
fn length(response: &Response) -> io::Result<Length> {
    let coding = response.header("transfer-encoding");
    let bytes = response.header("content-length").map(str::parse);
    match (coding, bytes) {
        (Some("chunked"), None) => Ok(Length::Chunked),
        (None, Some(Ok(n))) => Ok(Length::Bytes(n)),
        (None, None) => Ok(Length::Open),
        other => Err(wrong(format!("{other:?}"))),
    }
}

/// The bytes of a request, with `Host` and, if there is a body, its length.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    let has = |name: &str| headers.iter().any(|(k, _)| k.eq_ignore_ascii_case(name));
    if !has("host") {
        text += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() && !has("content-length") && !has("transfer-encoding") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends these bytes on a connection of their own, and reads the response.
pub fn ask(address: &str, method: &str, bytes: &[u8]) -> io::Result<Response> {
    let mut connection = Connection::open(address);
    connection.send(bytes)?;
    connection.response(method)
}

/// A response without a body to send.
pub fn get(address: &str, path: &str) -> Response {
    ask(address, "GET", &request("GET", path, &[], b"")).expect("a response")
}

/// The response to a body of JSON.
pub fn post(address: &str, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    let headers = [("Content-Type", "application/json")];
    let bytes = request("POST", path, &headers, body.as_bytes());
    ask(address, "POST", &bytes).expect("a response")
}
