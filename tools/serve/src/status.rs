//! What a server tells of itself: `/health`, `/metrics`, `/props`, `/slots`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::app::App;
use crate::error::{ApiError, Fault, Result};

/// Whether requests are taken; asks no model, so that it answers during a long step.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let status = app.status();
    let code = match status {
        "ok" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, axum::Json(json!({ "status": status }))).into_response()
}

/// Counters for Prometheus.
///
/// # Errors
/// [`ApiError`].
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response> {
    let text = app.metrics.text(&app.models.loaded());
    let text = text.map_err(|e| ApiError::new(Fault::Server, e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The first model's settings, as llama.cpp tells them.
///
/// # Errors
/// [`ApiError`].
pub async fn props(State(app): State<Arc<App>>) -> Result<Response> {
    let loaded = app.models.get(None).await?;
    let s = geb::sampler::SamplerOptions::default();
    Ok(axum::Json(json!({
        "default_generation_settings": {
            "n_ctx": loaded.speaker.ctx,
            "params": {
                "temperature": s.temperature, "top_k": s.top_k, "top_p": s.top_p, "min_p": s.min_p,
                "repeat_penalty": s.repeat_penalty, "repeat_last_n": s.repeat_last_n,
            },
        },
        "total_slots": app.options.scheduler.streams,
        "model_alias": loaded.speaker.name,
        "chat_template": loaded.speaker.template.as_ref().map(|t| t.source()),
        "bos_token": loaded.speaker.tokenizer.bos().map(|id| loaded.speaker.tokenizer.piece(id)),
        "eos_token": loaded.speaker.tokenizer.eos().map(|id| loaded.speaker.tokenizer.piece(id)),
        "modalities": { "vision": false, "audio": false },
        "build_info": crate::app::FINGERPRINT,
    }))
    .into_response())
}

/// How many requests run and wait, by model.
pub async fn slots(State(app): State<Arc<App>>) -> Response {
    let models = app.models.loaded();
    let all = models.iter().flat_map(|l| {
        let stats = l.scheduler.stats();
        let streams = app.options.scheduler.streams;
        (0..streams).map(move |id| {
            json!({
                "id": id,
                "model": l.speaker.name,
                "n_ctx": l.speaker.ctx,
                "is_processing": id < stats.running,
            })
        })
    });
    axum::Json(all.collect::<Vec<_>>()).into_response()
}
