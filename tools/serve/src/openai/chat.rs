//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::weights;
use crate::app::App;
use crate::conversation::{Choice, Conversation};
use crate::error::{ApiError, Dialect, Result};
use crate::fields::Fields;
use crate::form::Form;
use crate::keys::Owner;
use crate::models::{Loaded, Speaker};
use crate::reply::{Part, Piece, Reply, Step};
use crate::stream::{Frames, Sending, Writer};
use crate::turn::{Answering, Turn};
use crate::{ask, body, id, limits};

/// When a stream tells how many tokens there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counting {
    /// Never.
    Off,
    /// Once, at the end.
    AtEnd,
    /// In each piece.
    Always,
}

impl Counting {
    /// Puts into a piece what is told with it.
    pub fn tell(self, chunk: &mut Value, reply: &Reply) {
        match self {
            Counting::Off => {}
            Counting::AtEnd => chunk["usage"] = Value::Null,
            Counting::Always => chunk["usage"] = super::usage(&[reply]),
        }
    }
}

/// Reads a body.
///
/// # Errors
/// Names the first field that is malformed, out of its range, or cannot be had.
pub fn read(body: &Map<String, Value>) -> Result<(Turn, Counting)> {
    let f = Fields::of(body);
    let messages = f.required("messages", f.list("messages")?)?;
    let mut options = ask::defaults();
    ask::sampling(&f, &mut options.sampling)?;
    options.stop = ask::stops(&f, "stop")?;
    let most = f.count("max_tokens", 0..=u64::MAX)?;
    let most = f.count("max_completion_tokens", 0..=u64::MAX)?.or(most);
    options.max_tokens = most.unwrap_or(usize::MAX);
    options.log_probs = f.flag("logprobs")?.unwrap_or(false);
    options.top_log_probs = f
        .count("top_logprobs", 0..=limits::TOP_LOG_PROBS as u64)?
        .unwrap_or(0);
    if options.top_log_probs > 0 && !options.log_probs {
        let message = "top_logprobs is set, allowed: together with logprobs: true";
        return Err(ApiError::field("top_logprobs", message));
    }
    options.ignore_eos = f.flag("ignore_eos")?.unwrap_or(false);
    let answers = f.count("n", 1..=limits::ANSWERS as u64)?.unwrap_or(1);
    f.refuse(
        &["audio", "web_search_options", "functions", "function_call"],
        "absent",
    )?;
    if let Some(value) = f.value("modalities").filter(|v| **v != json!(["text"])) {
        return Err(ApiError::wrong("modalities", value, "[\"text\"]"));
    }
    f.accept(&super::WITHOUT_EFFECT);
    let mut conversation = Conversation::read(messages)?;
    tools(&f, &mut conversation)?;
    conversation.format = Form::read(&f)?;
    switches(&f, &mut conversation)?;
    let (sending, counting) = sending(&f)?;
    let turn = Turn {
        model: f.text("model")?.map(str::to_owned),
        conversation,
        answering: Answering {
            options,
            answers,
            sending,
            ignored: f.unknown(),
        },
    };
    Ok((turn, counting))
}

/// `tools`, `tool_choice`, `parallel_tool_calls`.
fn tools(f: &Fields<'_>, conversation: &mut Conversation) -> Result<()> {
    if let Some(tools) = f.list("tools")? {
        conversation.read_tools(tools)?;
    }
    conversation.parallel = f.flag("parallel_tool_calls")?.unwrap_or(true);
    let Some(value) = f.value("tool_choice") else {
        return Ok(());
    };
    conversation.choice = choice(value, &mut conversation.tools)?;
    conversation.check_choice()
}

/// A choice of tools; one of some of them leaves the others out.
fn choice(value: &Value, tools: &mut Vec<Value>) -> Result<Choice> {
    let mode = |v: &Value| match v.as_str() {
        Some("none") => Some(Choice::None),
        Some("auto") => Some(Choice::Auto),
        Some("required" | "any") => Some(Choice::Required),
        _ => None,
    };
    let named = || {
        Some(Choice::Named(
            value["function"]["name"].as_str()?.to_owned(),
        ))
    };
    let found = match value["type"].as_str() {
        None => mode(value),
        Some("function") => named(),
        Some("allowed_tools") => {
            let allowed = &value["allowed_tools"];
            let names = allowed["tools"].as_array();
            names.and_then(|names| {
                tools.retain(|t| {
                    names
                        .iter()
                        .any(|n| n["function"]["name"] == t["function"]["name"])
                });
                mode(&allowed["mode"])
            })
        }
        Some(_) => None,
    };
    let allowed = "none, auto, required, a function, allowed_tools";
    found.ok_or_else(|| ApiError::wrong("tool_choice", value, allowed))
}

/// `reasoning_effort` and `chat_template_kwargs`.
fn switches(f: &Fields<'_>, conversation: &mut Conversation) -> Result<()> {
    if let Some(effort) = f.text("reasoning_effort")? {
        conversation.effort(effort, "reasoning_effort")?;
    }
    if let Some(value) = f.value("chat_template_kwargs") {
        let map = value.as_object();
        let map = map.ok_or_else(|| ApiError::wrong("chat_template_kwargs", value, "an object"))?;
        for (key, value) in map {
            conversation.switch(key, value.clone())?;
        }
    }
    Ok(())
}

/// `stream` and `stream_options`.
pub(super) fn sending(f: &Fields<'_>) -> Result<(Sending, Counting)> {
    let sending = ask::sending(f, Sending::AtOnce)?;
    let Some(options) = f.object("stream_options")? else {
        return Ok((sending, Counting::Off));
    };
    let at_end = options.flag("include_usage")?.unwrap_or(false);
    let always = options.flag("continuous_usage_stats")?.unwrap_or(false);
    options.accept(&["include_obfuscation"]);
    let counting = match (at_end, always) {
        (_, true) => Counting::Always,
        (true, _) => Counting::AtEnd,
        _ => Counting::Off,
    };
    Ok((sending, counting))
}

/// Answers a conversation.
///
/// # Errors
/// [`ApiError`].
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let body = body::object(request).await?;
    let (turn, counting) = read(&body)?;
    let weighed = turn.answering.options.log_probs;
    let writer =
        |loaded: &Loaded, _: &[u32]| ChatWriter::new(loaded.speaker.clone(), counting, weighed);
    turn.answer(&app, &owner, writer).await
}

/// Writes answers to a conversation.
pub struct ChatWriter {
    /// Of the whole request.
    id: String,
    created: u64,
    counting: Counting,
    weighed: bool,
    speaker: Arc<Speaker>,
}

impl ChatWriter {
    /// Of one request; `weighed`: log-probabilities are told.
    pub fn new(speaker: Arc<Speaker>, counting: Counting, weighed: bool) -> ChatWriter {
        ChatWriter {
            id: id::random("chatcmpl-"),
            created: id::now(),
            counting,
            weighed,
            speaker,
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.speaker.name,
            "system_fingerprint": crate::app::FINGERPRINT,
            "choices": choices,
        })
    }

    /// A chunk of one answer.
    fn send(&self, n: usize, reply: &Reply, choice: Value, out: &mut Frames) {
        let mut choice = choice;
        choice["index"] = n.into();
        let mut chunk = self.chunk(json!([choice]));
        self.counting.tell(&mut chunk, reply);
        out.data(&chunk);
    }
}

/// A piece as the difference that it makes; `calls`: how many there are with it.
fn delta(piece: &Piece, calls: usize) -> Value {
    let index = calls.saturating_sub(1);
    match piece {
        Piece::Text(text) => json!({ "content": text }),
        Piece::Reasoning(text) => json!({ "reasoning_content": text }),
        Piece::Call { id, name } => json!({ "tool_calls": [{
            "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": "" },
        }] }),
        Piece::Arguments(text) => {
            json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
        }
    }
}

/// A whole answer as a message.
fn message(reply: &Reply) -> Value {
    let text = reply.text();
    let calls = reply.parts.iter().filter_map(|p| match p {
        Part::Call {
            id,
            name,
            arguments,
        } => Some(json!({
            "id": id, "type": "function", "function": { "name": name, "arguments": arguments },
        })),
        _ => None,
    });
    let calls: Vec<_> = calls.collect();
    let content = match text.is_empty() && !calls.is_empty() {
        true => Value::Null,
        false => text.into(),
    };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if let Some(reasoning) = reply.reasoning() {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

impl Writer for ChatWriter {
    fn started(&mut self, n: usize, reply: &Reply, out: &mut Frames) {
        let choice = json!({
            "delta": { "role": "assistant", "content": "" },
            "logprobs": null,
            "finish_reason": null,
        });
        self.send(n, reply, choice, out);
    }

    fn grown(&mut self, n: usize, reply: &Reply, step: &Step, out: &mut Frames) {
        let Step::Grown { pieces, tokens } = step else {
            return;
        };
        let mut weights = match tokens.is_empty() {
            true => Value::Null,
            false => weights::chat(&self.speaker.tokenizer, tokens),
        };
        // The reply has the calls of these pieces already.
        let new = pieces
            .iter()
            .filter(|p| matches!(p, Piece::Call { .. }))
            .count();
        let mut calls = reply.calls() - new;
        let mut deltas = Vec::with_capacity(pieces.len());
        for piece in pieces {
            calls += usize::from(matches!(piece, Piece::Call { .. }));
            deltas.push(delta(piece, calls));
        }
        if deltas.is_empty() && !tokens.is_empty() {
            deltas.push(json!({ "content": "" }));
        }
        for delta in deltas {
            let choice =
                json!({ "delta": delta, "logprobs": weights.take(), "finish_reason": null });
            self.send(n, reply, choice, out);
        }
    }

    fn done(&mut self, n: usize, reply: &Reply, out: &mut Frames) {
        let finish = reply.finish.map(super::finish_name);
        let choice = json!({ "delta": {}, "logprobs": null, "finish_reason": finish });
        self.send(n, reply, choice, out);
    }

    fn end(&mut self, replies: &[&Reply], out: &mut Frames) {
        if self.counting != Counting::Off {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = total(replies);
            out.data(&chunk);
        }
        out.raw("data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body(Dialect::OpenAi, &self.id));
    }

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        let choices = replies.iter().enumerate().map(|(n, reply)| {
            let weights = || weights::chat(&self.speaker.tokenizer, &reply.tokens);
            json!({
                "index": n,
                "message": message(reply),
                "logprobs": self.weighed.then(weights),
                "finish_reason": reply.finish.map(super::finish_name),
            })
        });
        let choices: Vec<_> = choices.collect();
        let mut whole = self.chunk(choices.into());
        whole["object"] = "chat.completion".into();
        whole["usage"] = total(replies);
        if let [one] = replies {
            whole["timings"] = super::timings(&one.timings);
        }
        whole
    }
}

/// Counts of several answers to one prompt, which was read once.
fn total(replies: &[&Reply]) -> Value {
    let first = replies.first().map(|r| r.timings).unwrap_or_default();
    super::of(first.prompt_tokens, first.reused_tokens, replies)
}
