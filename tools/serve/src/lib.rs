//! Serves models over HTTP, in the words that clients of OpenAI, Anthropic and ollama speak.
//!
//! ```text
//! net     connections, with limits on silence and stalls
//! guard   head, host, origin, key; errors in the client's dialect; the log
//! router  which path leads where; `app` is what all requests share
//! openai  a body -> what is asked -> `reply`: events of the scheduler as pieces -> `stream`: written by a dialect
//! page    what a browser gets: the page to chat in
//! models  loaded when first asked, given up when memory is needed
//! ```
//! The engine's thread never waits for anything here: tokenizing and templates run beside it, and a client that
//! is slow pauses itself alone. A connection that closes drops its answer, and with it the request.

#![forbid(unsafe_code)]

mod anthropic;
mod app;
mod ask;
pub mod batch;
mod beside;
mod body;
mod conversation;
mod error;
mod fields;
mod form;
mod guard;
mod id;
mod keys;
pub mod limits;
mod log;
mod metrics;
mod models;
mod net;
mod ollama;
mod openai;
mod options;
mod page;
mod reply;
mod router;
mod routes;
mod status;
mod stream;
mod tokens;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geb::engine::DiskCache;
use tokio::net::TcpListener;
use tokio::sync::watch;

use app::App;
pub use error::{ApiError, Fault};
pub use keys::Keys;
use models::Models;
pub use models::{Info, Loaded, Speaker};
use net::Listener;
pub use options::{Address, CacheScope, LogForm, ServeOptions, Source};
pub use reply::Reply;

/// Why a server could not serve.
#[derive(Debug)]
pub enum ServeError {
    /// Something that it was told, in one sentence.
    Option(String),
    /// The system refuses, with what was asked of it.
    System(String, std::io::Error),
    /// The folder of beginnings cannot be used.
    Cache(geb::Error),
    /// The first model cannot be loaded.
    Model(geb::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Option(text) => f.write_str(text),
            Self::System(what, e) => write!(f, "{what}: {e}"),
            Self::Cache(e) | Self::Model(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}

/// Serves until `stop` is set, then for as long as answers take and [`ServeOptions::drain`] allows. `ready` gets the
/// address once connections are taken.
///
/// # Errors
/// [`ServeError`], before anything is served; that of loading the first model later too.
pub fn serve(
    options: ServeOptions,
    sources: Vec<Source>,
    stop: &AtomicBool,
    ready: &mut dyn FnMut(&str),
) -> Result<(), ServeError> {
    check(&options, &sources)?;
    // Threads of grammars and texts come and go.
    geb::mmap::limit_heaps(2);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Texts, and a model that is being loaded.
        .max_blocking_threads(limits::BLOCKING + 2)
        .build()
        .map_err(|e| ServeError::System("threads".into(), e))?;
    let options = Arc::new(options);
    let disk = match &options.cache_disk {
        Some((folder, bytes)) => Some(Arc::new(
            DiskCache::open(folder, *bytes).map_err(ServeError::Cache)?,
        )),
        None => None,
    };
    let models = Arc::new(Models::new(sources, options.clone(), disk));
    let app = Arc::new(App::new(options.clone(), models));
    let served = runtime.block_on(run(app, stop, ready));
    // What is being tokenized or loaded for nobody is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// Refuses what would be unsafe or empty.
fn check(options: &ServeOptions, sources: &[Source]) -> Result<(), ServeError> {
    let bad = |text: &str| Err(ServeError::Option(text.to_owned()));
    if sources.is_empty() {
        return bad("no model to serve");
    }
    for (i, source) in sources.iter().enumerate() {
        if sources[..i].iter().any(|s| s.name == source.name) {
            return bad(&format!("two models are called {}", source.name));
        }
    }
    if let Address::Tcp(host, _) = &options.address {
        let loopback = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        if !loopback && options.keys.is_empty() && !options.no_auth {
            return bad(&format!(
                "--host {host} can be reached from other machines and there are no keys, allowed: --api-key-file FILE, or --no-auth"
            ));
        }
    }
    if let Some(bad_origin) = options
        .cors_origins
        .iter()
        .find(|o| !o.contains("://") || o.ends_with('/'))
    {
        return bad(&format!(
            "--cors-origin is {bad_origin}, allowed: scheme://host[:port]"
        ));
    }
    Ok(())
}

/// Listens, loads the first model, serves.
async fn run(
    app: Arc<App>,
    stop: &AtomicBool,
    ready: &mut dyn FnMut(&str),
) -> Result<(), ServeError> {
    let (listener, address) = listen(&app.options.address).await?;
    ready(&address);
    let (drain, drained) = watch::channel(false);
    let router = router::router(app.clone());
    let connections = net::serve(listener, router, drained, app.options.drain);
    let connections = tokio::spawn(connections);
    let loading = {
        let app = app.clone();
        tokio::spawn(async move { app.models.preload().await.map(|()| app.is_ready()) })
    };
    let mut loading = Some(loading);
    while !stop.load(Ordering::Relaxed) {
        if loading.as_ref().is_some_and(|l| l.is_finished())
            && let Some(done) = loading.take()
        {
            let done = done.await.map_err(|e| ServeError::Option(e.to_string()))?;
            done.map_err(ServeError::Model)?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    app.ends();
    _ = drain.send(true);
    _ = connections.await;
    if let Address::Socket(path) = &app.options.address {
        _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// A listener and its address.
async fn listen(address: &Address) -> Result<(Listener, String), ServeError> {
    match address {
        Address::Tcp(host, port) => {
            let at = |e| ServeError::System(format!("{host}:{port}"), e);
            let listener = TcpListener::bind((host.as_str(), *port))
                .await
                .map_err(at)?;
            let local = listener.local_addr().map_err(at)?;
            Ok((Listener::Tcp(listener), format!("http://{local}")))
        }
        #[cfg(unix)]
        Address::Socket(path) => {
            let at = |e| ServeError::System(path.display().to_string(), e);
            // What an ended server has left behind is in the way; a living one answers.
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                use std::os::unix::fs::FileTypeExt;
                let is_socket =
                    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
                if is_socket {
                    std::fs::remove_file(path).map_err(at)?;
                }
            }
            let listener = tokio::net::UnixListener::bind(path).map_err(at)?;
            Ok((Listener::Unix(listener), format!("unix:{}", path.display())))
        }
        #[cfg(not(unix))]
        Address::Socket(_) => Err(ServeError::Option(
            "sockets by path: not on this system".into(),
        )),
    }
}
