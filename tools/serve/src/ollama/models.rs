//! What ollama's clients ask of models: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`, `/api/pull`,
//! `/api/embed`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use geb::gguf::Value as Meta;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::now;
use crate::app::App;
use crate::error::{ApiError, Fault, Result};
use crate::fields::Fields;
use crate::id::date;
use crate::models::{Info, Loaded};
use crate::openai::completions::{Prompt, prompts};
use crate::openai::embeddings::vectors;
use crate::{body, limits};

/// As many weights as people say.
fn size(params: u64) -> String {
    match params {
        0..1_000_000 => format!("{:.1}K", params as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", params as f64 / 1e6),
        _ => format!("{:.1}B", params as f64 / 1e9),
    }
}

fn details(info: &Info) -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": info.arch,
        "families": [info.arch],
        "parameter_size": size(info.params),
        "quantization_level": info.dtype,
    })
}

/// A model as it is listed; what is not in memory tells less.
fn listed(app: &App, name: &str, created: u64) -> Value {
    let loaded = app.models.loaded();
    let info = loaded
        .iter()
        .find(|l| l.speaker.name == name)
        .map(|l| &l.info);
    let digest: String = Sha256::digest(name.as_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    json!({
        "name": format!("{name}:latest"),
        "model": format!("{name}:latest"),
        "modified_at": date(created),
        "size": info.map_or_else(|| app.models.file_bytes(name), |i| i.bytes),
        "digest": digest,
        "details": info.map_or_else(|| json!({ "format": "gguf", "family": "", "families": [], "parameter_size": "", "quantization_level": "", "parent_model": "" }), details),
    })
}

/// All models.
pub async fn tags(State(app): State<Arc<App>>) -> Response {
    let all: Vec<_> = app
        .models
        .names()
        .map(|(n, c)| listed(&app, n, c))
        .collect();
    axum::Json(json!({ "models": all })).into_response()
}

/// Those in memory.
pub async fn ps(State(app): State<Arc<App>>) -> Response {
    let loaded = app.models.loaded();
    let all = app.models.names().filter_map(|(name, created)| {
        let l = loaded.iter().find(|l| l.speaker.name == name)?;
        let mut model = listed(&app, name, created);
        // It stays until memory is needed.
        model["expires_at"] = "9999-12-31T23:59:59Z".into();
        model["size_vram"] = 0.into();
        model["size"] = l.bytes.into();
        model["context_length"] = l.speaker.ctx.into();
        Some(model)
    });
    axum::Json(json!({ "models": all.collect::<Vec<_>>() })).into_response()
}

/// The version. Clients compare it with those of ollama: of these it is one that has what is served here.
pub async fn version() -> Response {
    axum::Json(json!({ "version": "0.12.0", "geb": env!("CARGO_PKG_VERSION") })).into_response()
}

/// A model's settings and the keys of its file.
///
/// # Errors
/// [`ApiError`].
pub async fn show(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let name = f.text("model")?.or(f.text("name")?);
    let name = f.required("model", name)?;
    let loaded = app.models.get(Some(name)).await?;
    let created = app.models.name(name)?.1;
    Ok(axum::Json(json!({
        "modelfile": "",
        "parameters": "",
        "template": loaded.speaker.template.as_ref().map_or("", |t| t.source()),
        "details": details(&loaded.info),
        "model_info": keys(&loaded),
        "capabilities": capabilities(&loaded),
        "modified_at": date(created),
    }))
    .into_response())
}

/// The keys of a file whose values are numbers, texts, true or false.
fn keys(loaded: &Loaded) -> Map<String, Value> {
    let scalar = |value: Meta<'_>| {
        Some(match value {
            Meta::U8(n) => n.into(),
            Meta::I8(n) => n.into(),
            Meta::U16(n) => n.into(),
            Meta::I16(n) => n.into(),
            Meta::U32(n) => n.into(),
            Meta::I32(n) => n.into(),
            Meta::U64(n) => n.into(),
            Meta::I64(n) => n.into(),
            Meta::F32(n) => n.into(),
            Meta::F64(n) => n.into(),
            Meta::Bool(b) => b.into(),
            Meta::Str(text) if text.len() <= 1_024 => text.into(),
            _ => return None,
        })
    };
    let all = loaded.file().metadata();
    let all = all.filter_map(|(key, value)| Some((key.to_owned(), scalar(value)?)));
    let mut map: Map<String, Value> = all.collect();
    map.insert("general.parameter_count".into(), loaded.info.params.into());
    map
}

fn capabilities(loaded: &Loaded) -> Vec<&'static str> {
    let mut all = vec!["completion"];
    if loaded.speaker.has_tools() {
        all.push("tools");
    }
    if loaded.speaker.reasons() {
        all.push("thinking");
    }
    all
}

/// A model that is served is there already.
///
/// # Errors
/// For another one.
pub async fn pull(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let name = f.text("model")?.or(f.text("name")?);
    let name = f.required("model", name)?;
    if app.models.name(name).is_err() {
        let message =
            format!("model {name:?} cannot be pulled, allowed: the models that are served");
        return Err(ApiError::field("model", message));
    }
    if f.flag("stream")? == Some(false) {
        return Ok(axum::Json(json!({ "status": "success" })).into_response());
    }
    let lines = format!(
        "{}\n{}\n",
        json!({ "status": "pulling manifest" }),
        json!({ "status": "success" })
    );
    let mut response = lines.into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// What changes the models of a server: they are those that it was started with.
///
/// # Errors
/// Always.
pub async fn fixed() -> Result<Response> {
    let message = "the models are those that the server was started with: geb-run serve -m MODEL, --models DIR";
    Err(ApiError::new(Fault::NotSupported, message))
}

/// Texts as vectors.
///
/// # Errors
/// [`ApiError`].
pub async fn embed(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let begun = Instant::now();
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let loaded = app
        .models
        .get(Some(f.required("model", f.text("model")?)?))
        .await?;
    let input = f.required("input", f.value("input"))?;
    let texts = match input {
        Value::Array(list) if list.is_empty() => Vec::new(),
        _ => texts(input, "input")?,
    };
    if let Some(n) = f
        .count("dimensions", 1..=u64::from(u32::MAX))?
        .filter(|n| *n != loaded.info.width)
    {
        let allowed = format!("{}, the width of the model", loaded.info.width);
        return Err(ApiError::wrong("dimensions", &json!(n), &allowed));
    }
    let (vectors, tokens) = vectors(&app, &loaded, texts).await?;
    app.json(move || {
        Ok(json!({
            "model": loaded.speaker.name,
            "created_at": now(),
            "embeddings": vectors,
            "total_duration": begun.elapsed().as_nanos() as u64,
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }))
    })
    .await
}

/// A text as a vector, as older clients ask.
///
/// # Errors
/// [`ApiError`].
pub async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let loaded = app
        .models
        .get(Some(f.required("model", f.text("model")?)?))
        .await?;
    let text = texts(f.required("prompt", f.value("prompt"))?, "prompt")?;
    let (mut vectors, _) = vectors(&app, &loaded, text).await?;
    Ok(axum::Json(json!({ "embedding": vectors.pop() })).into_response())
}

/// A text or texts.
fn texts(value: &Value, at: &str) -> Result<Vec<Prompt>> {
    let found = prompts(value)
        .ok()
        .filter(|all| all.iter().all(|p| matches!(p, Prompt::Text(_))));
    let allowed = format!("a text, or at most {} of them", limits::PROMPTS);
    found.ok_or_else(|| ApiError::wrong(at, value, &allowed))
}
