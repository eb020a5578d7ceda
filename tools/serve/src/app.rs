//! The server as a whole: what all requests share, and which path leads where.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::sync::Semaphore;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::conversation::Conversation;
use crate::error::{ApiError, Fault, Result};
use crate::guard::guard;
use crate::keys::Owner;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::models::{Loaded, Models};
use crate::options::{CacheScope, ServeOptions};
use crate::reply::Prompt;
use crate::{anthropic, limits, ollama, openai, routes, status, tokens};

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
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        let done = done.await;
        done.map_err(|e| ApiError::new(Fault::Server, e.to_string()))?
    }

    /// The tokens of a conversation.
    ///
    /// # Errors
    /// As [`Conversation::prompt`].
    pub async fn prompt(
        &self,
        loaded: &Arc<Loaded>,
        conversation: Conversation,
    ) -> Result<Vec<u32>> {
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
        prompts: &[Vec<u32>],
    ) -> Result<Vec<Prompt>> {
        let (loaded, scope, prompts) = (loaded.clone(), owner.scope, prompts.to_vec());
        let find = move || {
            let one = |ids: Vec<u32>| Prompt {
                stored: loaded.stored(&scope, &ids),
                ids,
            };
            Ok(prompts.into_iter().map(one).collect())
        };
        match self.options.cache_disk.is_some() {
            true => self.blocking(find).await,
            false => find(),
        }
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

/// Every path of the server.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    // OpenAI's are known without `/v1`, too: some clients are given the address alone.
    for base in ["/v1", ""] {
        let at = |path: &str| format!("{base}{path}");
        router = router
            .route(&at("/chat/completions"), post(openai::chat::handle))
            .route(&at("/completions"), post(openai::completions::handle))
            .route(&at("/responses"), post(openai::responses::handle))
            .route(&at("/embeddings"), post(openai::embeddings::handle))
            .route(&at("/models"), get(openai::models::list))
            .route(&at("/models/{id}"), get(openai::models::one))
            .route(&at("/logprobs"), post(tokens::log_probs))
            .route(&at("/health"), get(status::health));
    }
    let router = router
        .route("/api/chat", post(ollama::answer::chat))
        .route("/api/generate", post(ollama::answer::generate))
        .route("/api/embed", post(ollama::models::embed))
        .route("/api/embeddings", post(ollama::models::embeddings))
        .route("/api/show", post(ollama::models::show))
        .route("/api/pull", post(ollama::models::pull))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/ps", get(ollama::models::ps))
        .route("/api/version", get(ollama::models::version))
        .route("/api/create", post(ollama::models::fixed))
        .route("/api/copy", post(ollama::models::fixed))
        .route("/api/push", post(ollama::models::fixed))
        .route("/api/delete", delete(ollama::models::fixed))
        .route("/api/blobs/{digest}", post(ollama::models::fixed))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/apply-template", post(tokens::apply_template))
        .route("/openapi.json", get(routes::openapi))
        .route("/metrics", get(status::metrics))
        .route("/props", get(status::props))
        .route("/slots", get(status::slots))
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(app.clone(), guard));
    let origins: Vec<HeaderValue> = app
        .options
        .cors_origins
        .iter()
        .filter_map(|o| o.parse().ok())
        .collect();
    let router = match origins.is_empty() {
        true => router,
        false => router.layer(
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(origins))
                .allow_methods([Method::GET, Method::POST])
                .allow_headers(AllowHeaders::mirror_request()),
        ),
    };
    router.with_state(app)
}

/// No such path.
async fn nothing(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let message = format!(
        "no such path: {} {}",
        request.method(),
        request.uri().path()
    );
    ApiError::new(Fault::Path, message).into_response()
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
