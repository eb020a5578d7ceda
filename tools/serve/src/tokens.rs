//! Texts and tokens: `/tokenize`, `/detokenize`, `/tokenizer_info`, `/apply-template`, `/v1/logprobs`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::conversation::Conversation;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::keys::Owner;
use crate::models::Loaded;
use crate::openai::completions::{Control, Prompt, encode, prompts};
use crate::reply::{self, Replies};
use crate::{ask, body, limits};

/// A text's ids, in the forms of vLLM (`prompt`, or `messages`) and llama.cpp (`content`).
///
/// # Errors
/// [`ApiError`].
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let loaded = app.models.get(f.text("model")?).await?;
    let tokenizer = loaded.speaker.tokenizer.clone();
    let ids = if let Some(messages) = f.list("messages")? {
        app.prompt(&loaded, Conversation::read(messages)?)
            .await?
            .ids
    } else {
        let llama = f.text("content")?;
        let text = f.text("prompt")?.or(llama);
        let text = f.required("prompt", text)?.to_owned();
        let asked = match llama {
            // Each has the default of its server.
            Some(_) => f.flag("add_special")?.unwrap_or(false),
            None => f.flag("add_special_tokens")?.unwrap_or(true),
        };
        let how = Encode {
            add_special: asked,
            parse_special: f.flag("parse_special")?.unwrap_or(true),
        };
        check_length(&text)?;
        let tokenizer = tokenizer.clone();
        app.blocking(move || {
            tokenizer
                .encode(&text, how)
                .map_err(|e| ApiError::of("prompt", &e))
        })
        .await?
    };
    let pieces = f
        .flag("with_pieces")?
        .or(f.flag("return_token_strs")?)
        .unwrap_or(false);
    let (with_pieces, ctx) = (pieces && f.value("content").is_some(), loaded.speaker.ctx);
    app.json(move || {
        let mut whole = json!({ "count": ids.len(), "max_model_len": ctx });
        whole["tokens"] = match with_pieces {
            true => ids
                .iter()
                .map(|id| json!({ "id": id, "piece": piece(&tokenizer, *id) }))
                .collect(),
            false => json!(ids),
        };
        if pieces {
            whole["token_strs"] = ids
                .iter()
                .map(|id| Value::from(tokenizer.piece(*id)))
                .collect();
        }
        Ok(whole)
    })
    .await
}

/// A piece as llama.cpp gives it: a text, or its bytes if they are no text alone.
fn piece(tokenizer: &Tokenizer, id: u32) -> Value {
    let bytes = tokenizer.token_bytes(id);
    match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(e) => json!(e.into_bytes()),
    }
}

fn check_length(text: &str) -> Result<()> {
    let (found, most) = (text.len(), limits::TEXT_BYTES);
    match found > most {
        true => Err(ApiError::field(
            "prompt",
            format!("the text has {found} bytes, allowed: at most {most}"),
        )),
        false => Ok(()),
    }
}

/// The text of ids, as `prompt` and `content`.
///
/// # Errors
/// [`ApiError`].
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let loaded = app.models.get(Fields::of(&body).text("model")?).await?;
    app.json(move || {
        let f = Fields::of(&body);
        let list = f.required("tokens", f.list("tokens")?)?;
        let most = loaded.info.vocab;
        let id = |v: &Value| v.as_u64().filter(|n| *n < most as u64).map(|n| n as u32);
        let ids: Option<Vec<u32>> = list.iter().map(id).collect();
        let allowed = format!("a list of ids below {most}");
        let ids = ids.ok_or_else(|| ApiError::wrong("tokens", &body["tokens"], &allowed))?;
        let text = loaded.speaker.tokenizer.decode_with_control(&ids);
        Ok(json!({ "prompt": text, "content": text }))
    })
    .await
}

/// What a client needs to know of the tokenizer.
///
/// # Errors
/// [`ApiError`].
pub async fn info(State(app): State<Arc<App>>) -> Result<Response> {
    let loaded = app.models.get(None).await?;
    let t = &loaded.speaker.tokenizer;
    let piece = |id: Option<u32>| id.map(|id| t.piece(id));
    Ok(axum::Json(json!({
        "tokenizer_class": "geb",
        "eos_token": piece(t.eos()),
        "bos_token": piece(t.bos()),
        "pad_token": piece(t.padding()),
        "chat_template": loaded.speaker.template.as_ref().map(|t| t.source()),
        "vocab_size": t.vocab_len(),
        "max_model_len": loaded.speaker.ctx,
    }))
    .into_response())
}

/// The text that a conversation becomes.
///
/// # Errors
/// [`ApiError`].
pub async fn apply_template(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let messages = Conversation::read(f.required("messages", f.list("messages")?)?)?;
    let loaded = app.models.get(f.text("model")?).await?;
    let tokenizer = loaded.speaker.tokenizer.clone();
    let ids = app.prompt(&loaded, messages).await?.ids;
    app.json(move || Ok(json!({ "prompt": tokenizer.decode_with_control(&ids) })))
        .await
}

/// Log-probabilities of texts or ids; nothing is generated.
///
/// # Errors
/// [`ApiError`].
pub async fn log_probs(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let texts = prompts(f.required("prompt", f.value("prompt"))?)?;
    let top = f
        .count("top_logprobs", 0..=limits::TOP_LOG_PROBS as u64)?
        .unwrap_or(0);
    let loaded = app.models.get(f.text("model")?).await?;
    let (tokenizer, ctx) = (loaded.speaker.tokenizer.clone(), loaded.speaker.ctx);
    let encoded = app.blocking(move || {
        let one = |prompt: Prompt| {
            let ids = encode(&tokenizer, &prompt, Control::Read)?;
            ask::check_prompt(&ids, ctx, "prompt")?;
            Ok(ids)
        };
        texts.into_iter().map(one).collect::<Result<Vec<_>>>()
    });
    let prompts = encoded.await?;
    let mut options = ask::defaults();
    options.max_tokens = 0;
    options.prompt_log_probs = true;
    options.top_log_probs = top;
    let owner = app.owner(&owner);
    // Log-probabilities need every row: nothing is looked up.
    let asked: Vec<_> = prompts.iter().cloned().map(reply::Prompt::of).collect();
    let mut replies = Replies::start(
        loaded.clone(),
        app.metrics.clone(),
        &owner,
        &asked,
        1,
        &options,
    )?;
    replies.whole().await?;
    app.json(move || {
        let all = prompts.iter().zip(replies.all());
        let all: Vec<_> = all
            .map(|(ids, reply)| scores(&loaded, ids, reply))
            .collect();
        Ok(json!({ "model": loaded.speaker.name, "data": all }))
    })
    .await
}

/// The log-probabilities of a text's tokens; the first has none.
fn scores(loaded: &Loaded, ids: &[u32], reply: &crate::reply::Reply) -> Value {
    let tokenizer = &loaded.speaker.tokenizer;
    let known = reply.prompt.iter().map(|w| Some(w.log_prob));
    let top = reply.prompt.iter().map(|w| {
        let all = w.top.iter().map(|(id, p)| (id.to_string(), json!(p)));
        Some(all.collect::<Map<_, _>>())
    });
    json!({
        "ids": ids,
        "tokens": ids.iter().map(|id| tokenizer.piece(*id)).collect::<Vec<_>>(),
        "logprobs": std::iter::once(None).chain(known).collect::<Vec<_>>(),
        "top_logprobs": std::iter::once(None).chain(top).collect::<Vec<_>>(),
        "sum": reply.prompt.iter().map(|w| w.log_prob).sum::<f64>(),
    })
}
