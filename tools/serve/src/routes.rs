//! The paths of the server, once: what is counted by its name, and what `/openapi.json` tells.

use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::page;

/// A path with its method and what it is for.
pub struct Route {
    /// As a pattern: `{name}` is any part.
    pub path: &'static str,
    /// In small letters.
    pub method: &'static str,
    /// One line.
    pub about: &'static str,
}

const fn route(method: &'static str, path: &'static str, about: &'static str) -> Route {
    Route {
        path,
        method,
        about,
    }
}

/// All of them; OpenAI's are known without `/v1` too.
pub const ROUTES: &[Route] = &[
    route(
        "post",
        "/v1/chat/completions",
        "Answer a conversation (OpenAI)",
    ),
    route("post", "/v1/completions", "Continue texts (OpenAI)"),
    route(
        "post",
        "/v1/responses",
        "Answer a conversation, item by item (OpenAI)",
    ),
    route("post", "/v1/embeddings", "Texts as vectors (OpenAI)"),
    route("get", "/v1/models", "The models (OpenAI, Anthropic)"),
    route("get", "/v1/models/{id}", "A model (OpenAI, Anthropic)"),
    route("post", "/v1/messages", "Answer a conversation (Anthropic)"),
    route(
        "post",
        "/v1/messages/count_tokens",
        "Count the tokens of a conversation (Anthropic)",
    ),
    route("post", "/v1/logprobs", "Log-probabilities of texts"),
    route("post", "/api/chat", "Answer a conversation (ollama)"),
    route(
        "post",
        "/api/generate",
        "Answer or continue a text (ollama)",
    ),
    route("post", "/api/embed", "Texts as vectors (ollama)"),
    route(
        "post",
        "/api/embeddings",
        "A text as a vector (ollama, older)",
    ),
    route("post", "/api/show", "A model's settings and keys (ollama)"),
    route(
        "post",
        "/api/pull",
        "A model that is served is there already (ollama)",
    ),
    route("get", "/api/tags", "The models (ollama)"),
    route("get", "/api/ps", "The models in memory (ollama)"),
    route("get", "/api/version", "The version (ollama)"),
    route("post", "/tokenize", "A text's tokens"),
    route("post", "/detokenize", "The text of tokens"),
    route("get", "/tokenizer_info", "The tokenizer"),
    route(
        "post",
        "/apply-template",
        "The text that a conversation becomes",
    ),
    route("get", "/health", "Whether requests are taken; needs no key"),
    route("get", "/metrics", "Counters for Prometheus"),
    route("get", "/props", "Settings of the first model (llama.cpp)"),
    route("get", "/slots", "Requests that run (llama.cpp)"),
    route("get", "/openapi.json", "This description"),
    route(
        "get",
        "/",
        "The page to chat in, and its files; a heartbeat for others than browsers",
    ),
];

/// A path as it is counted: one of the table, so that clients cannot make more.
pub fn counted(path: &str) -> &'static str {
    let fits = |route: &&Route| match route.path.split_once("{id}") {
        Some((before, _)) => path.strip_prefix(before).is_some_and(|id| !id.is_empty()),
        None => route.path == path || route.path.strip_prefix("/v1") == Some(path),
    };
    if page::has(path) {
        return "/";
    }
    ROUTES.iter().find(fits).map_or("other", |r| r.path)
}

/// A description for programs that read OpenAPI.
pub async fn openapi() -> Response {
    let mut paths = Map::new();
    for r in ROUTES {
        let mut operation = json!({
            "summary": r.about,
            "responses": {
                "200": { "description": "An answer" },
                "default": { "description": "An error", "content": { "application/json": {} } },
            },
        });
        if r.method == "post" {
            let schema = json!({ "schema": { "type": "object" } });
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": schema } });
        }
        if r.path.contains("{id}") {
            let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
            operation["parameters"] = json!([id]);
        }
        let path = paths.entry(r.path).or_insert_with(|| json!({}));
        path[r.method] = operation;
    }
    let bearer = json!({ "type": "http", "scheme": "bearer" });
    let key = json!({ "type": "apiKey", "in": "header", "name": "x-api-key" });
    let all = json!({
        "openapi": "3.1.0",
        "info": { "title": "geb-run serve", "version": env!("CARGO_PKG_VERSION") },
        "paths": Value::Object(paths),
        "components": { "securitySchemes": { "bearer": bearer, "key": key } },
        "security": [{ "bearer": [] }, { "key": [] }, {}],
    });
    axum::Json(all).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_by_the_table() {
        for (path, name) in [
            ("/v1/models", "/v1/models"),
            ("/v1/models/a", "/v1/models/{id}"),
            ("/chat/completions", "/v1/chat/completions"),
            ("/v1/models/a/b", "/v1/models/{id}"),
            ("/v1/nothing", "other"),
            ("", "other"),
            ("/", "/"),
            ("/app.js", "/"),
        ] {
            assert_eq!(counted(path), name, "{path}");
        }
    }
}
