//! `/v1/models`, in the form of OpenAI and of Anthropic.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, Fault, Result};
use crate::id::date;

/// A model as OpenAI tells it.
fn openai(app: &App, name: &str, created: u64) -> Value {
    let mut model = json!({ "id": name, "object": "model", "created": created, "owned_by": "geb" });
    if let Some(loaded) = app.models.loaded().iter().find(|l| l.speaker.name == name) {
        let info = &loaded.info;
        model["meta"] = json!({
            "n_ctx_train": info.trained,
            "n_ctx": loaded.speaker.ctx,
            "n_vocab": info.vocab,
            "n_embd": info.width,
            "n_params": info.params,
            "size": info.bytes,
        });
        model["max_model_len"] = loaded.speaker.ctx.into();
    }
    model
}

/// A model as Anthropic tells it.
fn anthropic(name: &str, created: u64) -> Value {
    let created = date(created);
    json!({ "type": "model", "id": name, "display_name": name, "created_at": created, "lifecycle": "active" })
}

fn is_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// All models.
pub async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let names: Vec<_> = app.models.names().collect();
    let all = match is_anthropic(&headers) {
        true => json!({
            "data": names.iter().map(|(n, c)| anthropic(n, *c)).collect::<Vec<_>>(),
            "has_more": false,
            "first_id": names.first().map(|(n, _)| n),
            "last_id": names.last().map(|(n, _)| n),
        }),
        false => json!({
            "object": "list",
            "data": names.iter().map(|(n, c)| openai(&app, n, *c)).collect::<Vec<_>>(),
        }),
    };
    axum::Json(all).into_response()
}

/// One of them.
///
/// # Errors
/// For a name that is not served.
pub async fn one(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response> {
    let name = name.map_err(|e| ApiError::new(Fault::Path, e.body_text()))?;
    let (name, created) = app.models.name(&name)?;
    let model = match is_anthropic(&headers) {
        true => anthropic(name, created),
        false => openai(&app, name, created),
    };
    Ok(axum::Json(model).into_response())
}
