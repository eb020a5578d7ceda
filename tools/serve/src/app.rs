//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::http::HeaderValue;
use axum::response::Response;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::beside::{beside, json, written};
use crate::conversation::Conversation;
use crate::error::Result;
use crate::keys::Owner;
use crate::limits;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::models::{Loaded, Models};
use crate::options::{CacheScope, ServeOptions};
use crate::reply::Prompt;

/// The program and its version, as clients read it.
pub const FINGERPRINT: &str = concat!("geb-", env!("CARGO_PKG_VERSION"));

/// What all requests share.
pub struct App {
    /// What the server was told.
    pub options: Arc<ServeOptions>,
    /// The models.
    pub models: Arc<Models>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// A line per request.
    pub log: Log,
    /// Texts that are worked on at once.
    texts: Arc<Semaphore>,
    state: AtomicU8,
}

/// The state of a server that takes no requests any more.
pub(crate) const ENDS: &str = "the server ends";
const STATES: [&str; 3] = ["loading model", "ok", ENDS];

impl App {
    /// A server of these models, none of which is loaded.
    pub fn new(options: Arc<ServeOptions>, models: Arc<Models>) -> App {
        App {
            log: Log(options.log),
            options,
            models,
            metrics: Arc::default(),
            texts: Arc::new(Semaphore::new(limits::BLOCKING)),
            state: AtomicU8::new(0),
        }
    }

    /// `ok`, or why no requests are taken.
    pub fn status(&self) -> &'static str {
        STATES[usize::from(self.state.load(Ordering::Relaxed))]
    }

    /// The first model is loaded.
    pub(crate) fn is_ready(&self) {
        self.state.fetch_max(1, Ordering::Relaxed);
    }

    /// No requests are taken any more.
    pub(crate) fn ends(&self) {
        self.state.store(2, Ordering::Relaxed);
    }

    /// Does what takes a while beside the task that waits for it, so many at once as there is room for.
    ///
    /// # Errors
    /// Those of `work`; a panic in it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.texts.clone().acquire_owned().await;
        beside(move || {
            let _place = place;
            work()
        })
        .await
    }

    /// A response of JSON that is made as [`App::blocking`] works.
    ///
    /// # Errors
    /// As [`App::blocking`].
    pub async fn json(
        &self,
        make: impl FnOnce() -> Result<Value> + Send + 'static,
    ) -> Result<Response> {
        let text = self.blocking(move || written(&make()?)).await?;
        Ok(json(text))
    }

    /// The tokens of a conversation.
    ///
    /// # Errors
    /// As [`Conversation::prompt`].
    pub async fn prompt(&self, loaded: &Arc<Loaded>, conversation: Conversation) -> Result<Prompt> {
        let loaded = loaded.clone();
        self.blocking(move || conversation.prompt(&loaded.speaker))
            .await
    }

    /// Prompts with what is on disk of their beginnings.
    ///
    /// # Errors
    /// A panic in reading them.
    pub async fn stored(
        &self,
        loaded: &Arc<Loaded>,
        owner: &Owner,
        mut prompts: Vec<Prompt>,
    ) -> Result<Vec<Prompt>> {
        if self.options.cache_disk.is_none() {
            return Ok(prompts);
        }
        let (loaded, scope) = (loaded.clone(), owner.scope);
        self.blocking(move || {
            for prompt in &mut prompts {
                prompt.stored = loaded.stored(&scope, &prompt.ids);
            }
            Ok(prompts)
        })
        .await
    }

    /// An owner with the scope that it shares what was computed in.
    pub fn owner(&self, owner: &Owner) -> Owner {
        match self.options.cache_scope {
            CacheScope::Key => owner.clone(),
            CacheScope::All => Owner {
                scope: geb::engine::Scope::default(),
                ..owner.clone()
            },
        }
    }
}

/// A response that names the fields that had no effect, and the seed that was used.
pub(crate) fn ignored_header(mut response: Response, ignored: &[String], seed: u64) -> Response {
    let headers = response.headers_mut();
    let mut names = ignored.join(", ");
    names.retain(|c| c.is_ascii_graphic() || c == ' ');
    if let Ok(value) = HeaderValue::from_str(&names)
        && !names.is_empty()
    {
        headers.insert("x-geb-ignored", value);
    }
    headers.insert("x-geb-seed", seed.into());
    response
}
