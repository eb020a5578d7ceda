//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::app::App;
use crate::error::{ApiError, Fault};
use crate::guard::guard;
use crate::{anthropic, ollama, openai, page, routes, status, tokens};

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
        .merge(page::routes())
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
