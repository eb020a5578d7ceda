//! `/v1/models`, in the form of OpenAI and of Anthropic.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::Result;

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
    json!({ "type": "model", "id": name, "display_name": name, "created_at": date(created) })
}

/// A moment as RFC 3339 writes it, from seconds since 1970 (Hinnant's `civil_from_days`).
pub(crate) fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let (name, created) = app.models.name(&name)?;
    let model = match is_anthropic(&headers) {
        true => anthropic(name, created),
        false => openai(&app, name, created),
    };
    Ok(axum::Json(model).into_response())
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_796_083_200), "2026-12-01T00:00:00Z");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
