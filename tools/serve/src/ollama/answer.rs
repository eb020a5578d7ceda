//! `/api/chat` and `/api/generate`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use geb::tokenizer::Encode;
use serde_json::{Map, Value, json};

use super::fitting::Fitting;
use super::{counts, format, leaves, log_probs, now, options, think};
use crate::app::App;
use crate::conversation::Conversation;
use crate::error::{ApiError, Dialect, Result};
use crate::fields::Fields;
use crate::form;
use crate::keys::Owner;
use crate::models::{Loaded, Speaker};
use crate::openai::weights;
use crate::reply::{Finish, Part, Piece, Prompt, Reply, Step};
use crate::stream::{Frames, Framing, Sending, Writer};
use crate::turn::{Answering, answer};
use crate::{ask, body};

/// Which of the two forms an answer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Chat,
    Generate,
}

/// The model of a request, in memory; the response if nothing else is asked for.
async fn model(
    app: &App,
    f: &Fields<'_>,
    form: Form,
    is_empty: bool,
) -> Result<Result<Arc<Loaded>, Response>> {
    let name = f.required("model", f.text("model")?)?;
    if is_empty && leaves(f)? {
        app.models.give_up(name)?;
        return Ok(Err(nothing(app.models.name(name)?.0, form, "unload")));
    }
    let loaded = app.models.get(Some(name)).await?;
    match is_empty {
        true => Ok(Err(nothing(&loaded.speaker.name, form, "load"))),
        false => Ok(Ok(loaded)),
    }
}

/// The answer to a request that says nothing.
fn nothing(model: &str, form: Form, reason: &str) -> Response {
    let mut value =
        json!({ "model": model, "created_at": now(), "done": true, "done_reason": reason });
    match form {
        Form::Chat => value["message"] = json!({ "role": "assistant", "content": "" }),
        Form::Generate => value["response"] = "".into(),
    }
    axum::Json(value).into_response()
}

/// Messages in OpenAI's form: arguments are texts there, and results name their call.
fn message(value: &Value, at: &str) -> Result<Value> {
    let f = Fields::inside(value, at)?;
    f.refuse(&["images"], "absent: the model reads texts")?;
    let mut message = json!({
        "role": f.required("role", f.text("role")?)?,
        "content": f.text("content")?.unwrap_or_default(),
    });
    if let Some(thinking) = f.text("thinking")? {
        message["reasoning_content"] = thinking.into();
    }
    if let Some(name) = f.text("tool_name")?.or(f.text("name")?) {
        message["name"] = name.into();
    }
    if let Some(id) = f.text("tool_call_id")? {
        message["tool_call_id"] = id.into();
    }
    if let Some(calls) = f.list("tool_calls")? {
        let calls = calls.iter().enumerate().map(|(i, call)| {
            let function = &call["function"];
            json!({
                "id": call["id"].as_str().map_or_else(|| format!("call_{i}"), str::to_owned),
                "type": "function",
                "function": { "name": function["name"], "arguments": function["arguments"].to_string() },
            })
        });
        message["tool_calls"] = calls.collect();
    }
    match f.unknown().first() {
        Some(name) => Err(ApiError::field(name, format!("{name} is not known"))),
        None => Ok(message),
    }
}

/// Answers a conversation.
///
/// # Errors
/// [`ApiError`].
pub async fn chat(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let begun = Instant::now();
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let list = f.list("messages")?.unwrap_or_default();
    let loaded = match model(&app, &f, Form::Chat, list.is_empty()).await? {
        Ok(loaded) => loaded,
        Err(response) => return Ok(response),
    };
    let (mut options, ctx, unknown) = options(&f, loaded.speaker.ctx)?;
    log_probs(&f, &mut options)?;
    let list = list.iter().enumerate();
    let list = list.map(|(i, m)| message(m, &format!("messages[{i}]")));
    let mut conversation = Conversation::read(&list.collect::<Result<Vec<_>>>()?)?;
    conversation.read_tools(f.list("tools")?.unwrap_or_default())?;
    conversation.format = format(&f)?;
    think(&f, &mut conversation)?;
    let (sending, truncate) = (
        ask::sending(&f, Sending::Streaming)?,
        f.flag("truncate")?.unwrap_or(false),
    );
    f.accept(&["keep_alive", "shift"]);
    let mut ignored = f.unknown();
    ignored.extend(unknown);
    let asked = Fitting::new(&app, &loaded, conversation, ctx);
    let (prompt, dropped) = asked.prompt(truncate).await?;
    // What the context that was asked for leaves.
    options.max_tokens = options
        .max_tokens
        .min((ctx + 1).saturating_sub(prompt.ids.len()));
    let writer = OllamaWriter {
        form: Form::Chat,
        dropped,
        context: Vec::new(),
        begun,
        speaker: loaded.speaker.clone(),
    };
    let answering = Answering::one(options, sending, ignored);
    answer(&app, &owner, loaded, vec![prompt], answering, writer).await
}

/// Continues a text, or answers it.
///
/// # Errors
/// [`ApiError`].
pub async fn generate(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let begun = Instant::now();
    let body = body::object(request).await?;
    let f = Fields::of(&body);
    let text = f.text("prompt")?.unwrap_or_default().to_owned();
    let loaded = match model(&app, &f, Form::Generate, text.is_empty()).await? {
        Ok(loaded) => loaded,
        Err(response) => return Ok(response),
    };
    let (mut options, ctx, unknown) = options(&f, loaded.speaker.ctx)?;
    log_probs(&f, &mut options)?;
    f.refuse(&["images"], "absent: the model reads texts")?;
    for key in ["suffix", "template"] {
        if let Some(value) = f.text(key)?.filter(|t| !t.is_empty()) {
            return Err(ApiError::wrong(key, &json!(value), "absent"));
        }
    }
    let context = context(&f, loaded.info.vocab)?;
    let conversation = asked(&f, &text, &loaded)?;
    let sending = ask::sending(&f, Sending::Streaming)?;
    f.accept(&["keep_alive", "shift", "truncate"]);
    let mut ignored = f.unknown();
    ignored.extend(unknown);
    let new = match conversation {
        Some(conversation) => app.prompt(&loaded, conversation).await?,
        None => encode(&app, &loaded, text, context.is_empty(), format(&f)?).await?,
    };
    let prompt = Prompt {
        ids: [context, new.ids].concat(),
        ..new
    };
    ask::check_prompt(&prompt.ids, ctx, "prompt")?;
    options.max_tokens = options
        .max_tokens
        .min((ctx + 1).saturating_sub(prompt.ids.len()));
    let writer = OllamaWriter {
        form: Form::Generate,
        dropped: 0,
        context: prompt.ids.clone(),
        begun,
        speaker: loaded.speaker.clone(),
    };
    let answering = Answering::one(options, sending, ignored);
    answer(&app, &owner, loaded, vec![prompt], answering, writer).await
}

/// The conversation that a prompt is asked in; none if it is continued as it is.
fn asked(f: &Fields<'_>, text: &str, loaded: &Loaded) -> Result<Option<Conversation>> {
    let (system, raw) = (f.text("system")?, f.flag("raw")?.unwrap_or(false));
    if raw || loaded.speaker.template.is_none() {
        return Ok(None);
    }
    let mut messages = Vec::with_capacity(2);
    if let Some(system) = system.filter(|s| !s.is_empty()) {
        messages.push(json!({ "role": "system", "content": system }));
    }
    messages.push(json!({ "role": "user", "content": text }));
    let mut conversation = Conversation::read(&messages)?;
    conversation.format = format(f)?;
    think(f, &mut conversation)?;
    Ok(Some(conversation))
}

/// Tokens of an earlier answer, with which the prompt goes on.
fn context(f: &Fields<'_>, vocab: usize) -> Result<Vec<u32>> {
    let Some(list) = f.list("context")? else {
        return Ok(Vec::new());
    };
    let id = |v: &Value| v.as_u64().filter(|n| *n < vocab as u64).map(|n| n as u32);
    let ids: Option<_> = list.iter().map(id).collect();
    ids.ok_or_else(|| {
        ApiError::field(
            "context",
            format!("context, allowed: a list of ids below {vocab}"),
        )
    })
}

/// A text that is continued, and whether it is the first of a context.
async fn encode(
    app: &App,
    loaded: &Arc<Loaded>,
    text: String,
    begins: bool,
    format: Option<form::Form>,
) -> Result<Prompt> {
    let speaker = loaded.speaker.clone();
    let how = Encode {
        add_special: begins,
        parse_special: true,
    };
    app.blocking(move || {
        let ids = speaker.tokenizer.encode(&text, how);
        let ids = ids.map_err(|e| ApiError::of("prompt", &e))?;
        Ok(Prompt {
            held: form::hold_text(format.as_ref(), &speaker)?,
            ..Prompt::of(ids)
        })
    })
    .await
}

/// Writes answers a line at a time.
struct OllamaWriter {
    form: Form,
    /// Messages that were left out.
    dropped: usize,
    /// Tokens before the answer.
    context: Vec<u32>,
    begun: Instant,
    speaker: Arc<Speaker>,
}

impl OllamaWriter {
    fn line(&self, text: &str, reasoning: &str, calls: Vec<Value>) -> Value {
        let mut line = json!({ "model": self.speaker.name, "created_at": now() });
        match self.form {
            Form::Chat => {
                let mut message = json!({ "role": "assistant", "content": text });
                if !reasoning.is_empty() {
                    message["thinking"] = reasoning.into();
                }
                if !calls.is_empty() {
                    message["tool_calls"] = calls.into();
                }
                line["message"] = message;
            }
            Form::Generate => {
                line["response"] = text.into();
                if !reasoning.is_empty() {
                    line["thinking"] = reasoning.into();
                }
            }
        }
        line["done"] = false.into();
        line
    }

    /// What the last line says besides.
    fn finish(&self, line: &mut Value, reply: &Reply) {
        line["done"] = true.into();
        line["done_reason"] = match reply.finish {
            Some(Finish::Length) => "length".into(),
            _ => "stop".into(),
        };
        if self.form == Form::Generate {
            let all = self.context.iter().chain(&reply.ids);
            line["context"] = all.copied().collect();
        }
        if self.dropped > 0 {
            line["dropped_messages"] = self.dropped.into();
        }
        if let (Value::Object(line), Value::Object(counts)) =
            (line, counts(&reply.timings, self.begun.elapsed()))
        {
            line.extend(counts);
        }
    }

    fn weights(&self, tokens: &[crate::reply::Weighed]) -> Value {
        weights::list(&self.speaker.tokenizer, tokens)
    }
}

/// The calls of an answer; ollama's arguments are objects.
fn calls(reply: &Reply) -> Vec<Value> {
    let calls = reply.parts.iter().filter_map(|part| match part {
        Part::Call {
            id,
            name,
            arguments,
        } => {
            let arguments: Map<String, Value> = serde_json::from_str(arguments).unwrap_or_default();
            Some(json!({ "id": id, "function": { "name": name, "arguments": arguments } }))
        }
        _ => None,
    });
    calls.collect()
}

impl Writer for OllamaWriter {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn grown(&mut self, _n: usize, _reply: &Reply, step: &Step, out: &mut Frames) {
        let Step::Grown { pieces, tokens } = step else {
            return;
        };
        let (mut text, mut reasoning) = (String::new(), String::new());
        for piece in pieces {
            match piece {
                Piece::Text(new) => text.push_str(new),
                Piece::Reasoning(new) => reasoning.push_str(new),
                // Calls are told when they are whole.
                Piece::Call { .. } | Piece::Arguments(_) => {}
            }
        }
        if text.is_empty() && reasoning.is_empty() && tokens.is_empty() {
            return;
        }
        let mut line = self.line(&text, &reasoning, Vec::new());
        if !tokens.is_empty() {
            line["logprobs"] = self.weights(tokens);
        }
        out.line(&line);
    }

    fn done(&mut self, _n: usize, reply: &Reply, out: &mut Frames) {
        let calls = calls(reply);
        if !calls.is_empty() {
            out.line(&self.line("", "", calls));
        }
        let mut last = self.line("", "", Vec::new());
        self.finish(&mut last, reply);
        out.line(&last);
    }

    fn end(&mut self, _replies: &[&Reply], _out: &mut Frames) {}

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.line(&error.body(Dialect::Ollama, ""));
    }

    // A line that says nothing would be an answer to its reader.
    fn ping(&mut self, _out: &mut Frames) {}

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        let Some(reply) = replies.first() else {
            return Value::Null;
        };
        let reasoning = reply.reasoning().unwrap_or_default();
        let mut line = self.line(&reply.text(), &reasoning, calls(reply));
        if !reply.tokens.is_empty() {
            line["logprobs"] = self.weights(&reply.tokens);
        }
        self.finish(&mut line, reply);
        line
    }
}
