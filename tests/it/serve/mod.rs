//! The server, asked over sockets as its clients ask it.
//!
//! ```text
//! client   bytes out, responses in, nothing forgiven
//! shape    what an answer must have, by an example
//! replay   requests that real clients have sent
//! limits   every bound at -1, 0, +1
//! refusals statuses and bodies of what is refused
//! wire     framing, connections, hosts, keys
//! mutants  requests with random faults
//! dialects one answer in all of them, at once and as it comes
//! exact    texts, as the library gives them alone
//! calls    calls of tools, beside others and alone
//! leave    clients that go away; the end of the server
//! scores   log-probabilities, as lm-eval asks for them
//! ```

mod calls;
mod client;
mod dialects;
mod exact;
mod forms;
mod leave;
mod limits;
mod mutants;
mod refusals;
mod replay;
mod scores;
mod shape;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use geb::Dtype;
use geb::engine::SessionOptions;
use geb::gguf::Load;
use geb::scheduler::SchedulerOptions;
use geb_serve::{
    Address, CacheScope, Keys, LogForm, ServeError, ServeOptions, Source, serve as run,
};
use serde_json::Value;

use crate::common::nano::nano;

/// How conversations become texts: the model was trained on plain ones.
pub const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
/// The context of the model.
pub const CTX: usize = 512;
/// Tokens of its vocabulary.
pub const VOCAB: usize = 2048;
/// Width of its hidden states.
pub const WIDTH: usize = 256;

/// How the model runs, in the server and alone.
pub fn session() -> SessionOptions {
    SessionOptions {
        threads: 1,
        ctx: Some(CTX),
        ..SessionOptions::default()
    }
}

/// Options of a server that says nothing.
fn options() -> ServeOptions {
    ServeOptions {
        address: Address::Tcp("127.0.0.1".into(), 0),
        aliases: Vec::new(),
        keys: Keys::default(),
        no_auth: false,
        allowed_hosts: Vec::new(),
        cors_origins: Vec::new(),
        session: session(),
        threads: |_| None,
        load: Load::Map,
        scheduler: SchedulerOptions::default(),
        max_ram: None,
        cache_disk: None,
        cache_scope: CacheScope::default(),
        drain: Duration::from_secs(30),
        strict: false,
        log: LogForm::Off,
    }
}

/// geb-nano as `m`.
fn source() -> Source {
    Source {
        name: "m".into(),
        path: nano(Dtype::Q8_0),
        adapters: Vec::new(),
        template: Some(TEMPLATE.into()),
        system: None,
    }
}

/// Panics of threads of servers.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics that a runtime would swallow.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if name == "served" || name.starts_with("tokio") {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(info);
        }));
    });
}

/// A server on a thread of its own.
pub struct Server {
    /// Host and port.
    pub address: String,
    /// What opens `/metrics`.
    key: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    /// Starts one and waits until it has its model.
    pub fn start(change: impl FnOnce(&mut ServeOptions)) -> Server {
        count_panics();
        let mut options = options();
        change(&mut options);
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, (tell, told)) = (stop.clone(), channel());
        let thread = std::thread::Builder::new().name("served".into());
        let thread = thread.spawn(move || {
            let mut ready = |address: &str| _ = tell.send(address.to_owned());
            run(options, vec![source()], &theirs, &mut ready)
        });
        let address = told.recv().expect("it listens");
        let server = Server {
            address: address.trim_start_matches("http://").into(),
            key: String::new(),
            stop,
            thread: Some(thread.expect("a thread")),
        };
        until("the model is there", || {
            client::get(&server.address, "/health").status == 200
        });
        server
    }

    /// As [`Server::start`], with keys; the first one is its own.
    pub fn with_keys(keys: &str, change: impl FnOnce(&mut ServeOptions)) -> Server {
        let mut server = Server::start(|o| {
            o.keys = Keys::parse(keys).expect("keys");
            change(o);
        });
        let first = keys.lines().next().and_then(|l| l.split_once(':'));
        let key = first.expect("a key").1.to_owned();
        server.key = key;
        server
    }

    fn get(&self, path: &str) -> client::Response {
        let bytes = client::request("GET", path, &[("X-Api-Key", &self.key)], b"");
        client::ask(&self.address, "GET", &bytes).expect("a response")
    }

    /// Asks it to end, as a signal does.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> Result<(), ServeError> {
        let thread = self.thread.take().expect("it has not ended");
        thread.join().expect("no panic")
    }

    /// The sum of the samples of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let all = self.get("/metrics");
        let lines = all.text().lines().filter(|l| !l.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let key = key.split('{').next().unwrap_or(key);
            (key == name).then(|| value.parse::<f64>().expect("a number"))
        });
        let values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "no metric {name}:\n{}", all.text());
        values.iter().sum()
    }

    /// Requests that run and that wait.
    pub fn load(&self) -> [f64; 2] {
        ["running", "waiting"].map(|what| self.metric(&format!("geb_num_requests_{what}")))
    }

    /// It lives, answers nobody, and nothing in it has panicked.
    pub fn is_well(&self) {
        assert_eq!(self.get("/health").status, 200);
        until("nobody is answered", || self.load() == [0.0, 0.0]);
        assert_eq!(self.metric("geb_panics"), 0.0);
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "a panic in a server");
        let slots = self.get("/slots").json();
        let busy = |slot: &Value| slot["is_processing"] != Value::Bool(false);
        assert!(!slots.as_array().expect("slots").iter().any(busy));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// One that most tests share.
pub fn shared() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(|_| {}));
    &SERVER
}

/// Waits until it is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed().as_secs() < 30, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}
