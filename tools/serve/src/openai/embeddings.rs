//! `/v1/embeddings`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use geb::embed;
use geb::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::completions::{Prompt, prompts};
use crate::app::{App, ignored_header};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::models::Loaded;
use crate::{ask, body, limits};

/// How a vector is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// A list of numbers.
    Floats,
    /// Base64 of F32 numbers, low byte first.
    Base64,
}

impl Form {
    fn write(self, vector: &[f32]) -> Value {
        match self {
            Form::Floats => json!(vector),
            Form::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                STANDARD.encode(bytes).into()
            }
        }
    }
}

/// Texts as vectors.
///
/// # Errors
/// [`ApiError`].
pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let input = f.required("input", f.value("input"))?;
    let texts = prompts(input).map_err(|_| {
        let allowed = format!(
            "a text, a list of token ids, or 1 to {} of these",
            limits::PROMPTS
        );
        ApiError::wrong("input", input, &allowed)
    })?;
    let form = match f.text("encoding_format")? {
        None | Some("float") => Form::Floats,
        Some("base64") => Form::Base64,
        Some(other) => {
            return Err(ApiError::wrong(
                "encoding_format",
                &json!(other),
                "float, base64",
            ));
        }
    };
    let dimensions = f.count("dimensions", 1..=u64::from(u32::MAX))?;
    f.accept(&["user"]);
    let loaded = app.models.get(f.text("model")?).await?;
    if let Some(n) = dimensions.filter(|n| *n != loaded.info.width) {
        let allowed = format!("{}, the width of the model", loaded.info.width);
        return Err(ApiError::wrong("dimensions", &json!(n), &allowed));
    }
    let ignored = f.unknown();
    let (vectors, tokens) = vectors(&app, &loaded, texts).await?;
    let response = app.json(move || {
        let data: Vec<_> = vectors
            .iter()
            .enumerate()
            .map(|(i, v)| json!({ "object": "embedding", "index": i, "embedding": form.write(v) }))
            .collect();
        Ok(json!({
            "object": "list",
            "data": data,
            "model": loaded.speaker.name,
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        }))
    });
    Ok(ignored_header(response.await?, &ignored, 0))
}

/// The vectors of texts, `[texts][width]`, and how many tokens they had.
///
/// # Errors
/// For a text without tokens or with more than the context has; for a model that does not embed.
pub(crate) async fn vectors(
    app: &App,
    loaded: &Arc<Loaded>,
    texts: Vec<Prompt>,
) -> Result<(Vec<Vec<f32>>, usize)> {
    let loaded = loaded.clone();
    app.blocking(move || {
        let (mut vectors, mut tokens) = (Vec::with_capacity(texts.len()), 0);
        for text in texts {
            let ids = ids(&loaded.speaker.tokenizer, text)?;
            ask::check_prompt(&ids, loaded.speaker.ctx, "input")?;
            tokens += ids.len();
            vectors.push(loaded.embed(&ids).map_err(|e| ApiError::of("input", &e))?);
        }
        Ok((vectors, tokens))
    })
    .await
}

fn ids(tokenizer: &Tokenizer, text: Prompt) -> Result<Vec<u32>> {
    match text {
        Prompt::Text(text) if text.len() <= limits::TEXT_BYTES => {
            let encoded = embed::encode(tokenizer, None, &text);
            Ok(encoded.map_err(|e| ApiError::of("input", &e))?.0)
        }
        other => super::completions::encode(tokenizer, &other, super::completions::Control::Plain),
    }
}
