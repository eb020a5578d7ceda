//! The API of Anthropic: `/v1/messages`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::conversation::{Choice, Conversation};
use crate::error::{ApiError, Dialect, Result};
use crate::fields::Fields;
use crate::form::Form;
use crate::keys::Owner;
use crate::models::{Loaded, Speaker};
use crate::reply::{Finish, Part, Piece, Reply, Step};
use crate::stream::{Frames, Sending, Writer};
use crate::turn::{Answering, Turn};
use crate::{ask, body, id, openai};

/// Reads a body; `most`: whether it must say how long an answer may be.
fn read(body: &Map<String, Value>, most: Most) -> Result<Turn> {
    let f = Fields::of(body);
    let mut options = ask::defaults();
    ask::sampling(&f, &mut options.sampling)?;
    options.stop = ask::stops(&f, "stop_sequences")?;
    let tokens = f.count("max_tokens", 1..=u64::MAX)?;
    options.max_tokens = match most {
        Most::Required => f.required("max_tokens", tokens)?,
        Most::Absent => 0,
    };
    let list = f.required("messages", f.list("messages")?)?;
    let mut conversation = conversation(&f, list)?;
    tools(&f, &mut conversation)?;
    thinking(&f, &mut conversation)?;
    let sending = ask::sending(&f, Sending::AtOnce)?;
    f.accept(&["metadata", "service_tier", "betas", "cache_control"]);
    f.refuse(
        &["container", "mcp_servers", "context_management"],
        "absent",
    )?;
    Ok(Turn {
        model: f.text("model")?.map(str::to_owned),
        conversation,
        answering: Answering::one(options, sending, f.unknown()),
    })
}

/// Whether `max_tokens` must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Most {
    Required,
    Absent,
}

/// System text and messages in OpenAI's form.
fn conversation(f: &Fields<'_>, list: &[Value]) -> Result<Conversation> {
    let mut messages = Vec::with_capacity(list.len() + 1);
    if let Some(system) = f.value("system") {
        let blocks = blocks(system, "system")?;
        messages.push(json!({ "role": "system", "content": texts(&blocks)? }));
    }
    for (i, message) in list.iter().enumerate() {
        let m = Fields::inside(message, &format!("messages[{i}]"))?;
        let role = m.required("role", m.text("role")?)?;
        let content = m.required("content", m.value("content"))?;
        let blocks = blocks(content, &m.name("content"))?;
        match role {
            "user" => user(&blocks, &mut messages)?,
            "assistant" => messages.push(assistant(&blocks)?),
            "system" => messages.push(json!({ "role": "system", "content": texts(&blocks)? })),
            _ => {
                return Err(ApiError::wrong(
                    &m.name("role"),
                    &json!(role),
                    "user, assistant, system",
                ));
            }
        }
        if let Some(name) = m.unknown().first() {
            return Err(ApiError::field(
                name,
                format!("{name} is not known, allowed: role, content"),
            ));
        }
    }
    Conversation::read(&messages)
}

/// The blocks of a content; a text is one.
fn blocks<'a>(value: &'a Value, at: &str) -> Result<Vec<Block<'a>>> {
    match value {
        Value::String(text) => Ok(vec![Block::Text(text)]),
        Value::Array(list) => {
            let list = list.iter().enumerate();
            list.map(|(i, b)| block(b, &format!("{at}[{i}]"))).collect()
        }
        _ => Err(ApiError::wrong(at, value, "a text, or a list of blocks")),
    }
}

/// A block of a content.
enum Block<'a> {
    Text(&'a str),
    Thinking(&'a str),
    /// Reasoning of another model, coded: nothing that this one could read.
    Hidden,
    Use {
        id: &'a str,
        name: &'a str,
        input: &'a Value,
    },
    Result {
        id: &'a str,
        text: String,
    },
}

fn block<'a>(value: &'a Value, at: &str) -> Result<Block<'a>> {
    let f = Fields::inside(value, at)?;
    let kind = f.required("type", f.text("type")?)?;
    match kind {
        "text" => Ok(Block::Text(f.required("text", f.text("text")?)?)),
        "thinking" => Ok(Block::Thinking(
            f.required("thinking", f.text("thinking")?)?,
        )),
        "redacted_thinking" => Ok(Block::Hidden),
        "tool_use" => Ok(Block::Use {
            id: f.required("id", f.text("id")?)?,
            name: f.required("name", f.text("name")?)?,
            input: f.required("input", f.value("input"))?,
        }),
        "tool_result" => {
            let inner = match f.value("content") {
                None => Vec::new(),
                Some(content) => blocks(content, &f.name("content"))?,
            };
            let mut text = texts(&inner)?;
            if f.flag("is_error")?.unwrap_or(false) {
                text.insert_str(0, "Error: ");
            }
            let id = f.required("tool_use_id", f.text("tool_use_id")?)?;
            Ok(Block::Result { id, text })
        }
        _ => {
            let allowed = "text, tool_use, tool_result, thinking: the model reads nothing else";
            Err(ApiError::wrong(&f.name("type"), &json!(kind), allowed))
        }
    }
}

/// The text of blocks that are all texts.
fn texts(blocks: &[Block<'_>]) -> Result<String> {
    let mut all = String::new();
    for block in blocks {
        match block {
            Block::Text(text) => all.push_str(text),
            _ => {
                return Err(ApiError::field(
                    "messages",
                    "a block of another type where a text is expected",
                ));
            }
        }
    }
    Ok(all)
}

/// What a user says, and what tools have said to the calls before.
fn user(blocks: &[Block<'_>], messages: &mut Vec<Value>) -> Result<()> {
    let mut said = String::new();
    let mut has_text = blocks.is_empty();
    for block in blocks {
        match block {
            Block::Text(text) => {
                has_text = true;
                said.push_str(text);
            }
            Block::Result { id, text } => {
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": text }));
            }
            _ => {
                return Err(ApiError::field(
                    "messages",
                    "a user's block of type thinking or tool_use",
                ));
            }
        }
    }
    if has_text {
        messages.push(json!({ "role": "user", "content": said }));
    }
    Ok(())
}

/// What the model has said, reasoned and called.
fn assistant(blocks: &[Block<'_>]) -> Result<Value> {
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    for block in blocks {
        match block {
            Block::Text(text) => said.push_str(text),
            Block::Thinking(text) => thought.push_str(text),
            Block::Hidden => {}
            Block::Use { id, name, input } => calls.push(json!({
                "id": id, "type": "function", "function": { "name": name, "arguments": input.to_string() },
            })),
            Block::Result { .. } => {
                return Err(ApiError::field("messages", "a tool_result of the assistant, allowed: of the user"));
            }
        }
    }
    let mut message = json!({ "role": "assistant", "content": said });
    if !thought.is_empty() {
        message["reasoning_content"] = thought.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

/// `tools` and `tool_choice`.
fn tools(f: &Fields<'_>, conversation: &mut Conversation) -> Result<()> {
    let mut tools = Vec::new();
    for (i, tool) in f.list("tools")?.unwrap_or_default().iter().enumerate() {
        let t = Fields::inside(tool, &format!("tools[{i}]"))?;
        if let Some(kind) = t.text("type")?.filter(|k| *k != "custom") {
            return Err(ApiError::wrong(
                &t.name("type"),
                &json!(kind),
                "custom: tools of the client",
            ));
        }
        let name = t.required("name", t.text("name")?)?;
        let schema = t.required("input_schema", t.value("input_schema"))?;
        tools.push(json!({ "type": "function", "function": {
            "name": name, "description": t.text("description")?, "parameters": schema,
        } }));
    }
    conversation.read_tools(&tools)?;
    let Some(choice) = f.object("tool_choice")? else {
        return Ok(());
    };
    let kind = choice.required("type", choice.text("type")?)?;
    conversation.choice = match kind {
        "auto" => Choice::Auto,
        "any" => Choice::Required,
        "none" => Choice::None,
        "tool" => Choice::Named(choice.required("name", choice.text("name")?)?.to_owned()),
        _ => {
            return Err(ApiError::wrong(
                "tool_choice.type",
                &json!(kind),
                "auto, any, tool, none",
            ));
        }
    };
    conversation.parallel = !choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    conversation.check_choice()
}

/// `thinking` and `output_config`.
fn thinking(f: &Fields<'_>, conversation: &mut Conversation) -> Result<()> {
    if let Some(thinking) = f.object("thinking")? {
        let kind = thinking.required("type", thinking.text("type")?)?;
        let on = match kind {
            "enabled" | "adaptive" => true,
            "disabled" => false,
            _ => {
                return Err(ApiError::wrong(
                    "thinking.type",
                    &json!(kind),
                    "enabled, adaptive, disabled",
                ));
            }
        };
        // Nothing ends a chain of thought but the model itself.
        thinking.accept(&["budget_tokens", "display"]);
        conversation.switch("enable_thinking", on.into())?;
    }
    for key in ["output_config", "output_format"] {
        let Some(config) = f.value(key) else {
            continue;
        };
        let config = Fields::inside(config, key)?;
        if let Some(effort) = config.text("effort")? {
            conversation.effort(
                if effort == "max" { "xhigh" } else { effort },
                "output_config.effort",
            )?;
        }
        let inner = config.value("format");
        let format = if key == "output_format" {
            f.value(key)
        } else {
            inner
        };
        if let Some(format) = format {
            let format = Fields::inside(format, &config.name("format"))?;
            let kind = format.required("type", format.text("type")?)?;
            if kind != "json_schema" {
                return Err(ApiError::wrong(
                    &format.name("type"),
                    &json!(kind),
                    "json_schema",
                ));
            }
            let schema = format.required("schema", format.value("schema"))?;
            conversation.format = Some(Form::schema(schema, false, "output_config.format"));
        }
    }
    Ok(())
}

/// Answers a conversation.
///
/// # Errors
/// [`ApiError`].
pub async fn messages(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let body = body::object(request).await?;
    let turn = read(&body, Most::Required)?;
    let writer = |loaded: &Loaded, prompt: &[u32]| MessageWriter {
        id: id::random("msg_"),
        prompt: prompt.len(),
        open: None,
        blocks: 0,
        speaker: loaded.speaker.clone(),
    };
    turn.answer(&app, &owner, writer).await
}

/// Counts the tokens of a prompt, exactly.
///
/// # Errors
/// [`ApiError`].
pub async fn count_tokens(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let body = body::object(request).await?;
    let turn = read(&body, Most::Absent)?;
    let loaded = app.models.get(turn.model.as_deref()).await?;
    let prompt = app.prompt(&loaded, turn.conversation).await?;
    Ok(axum::Json(json!({ "input_tokens": prompt.ids.len() })).into_response())
}

/// Kinds of blocks of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Thinking,
    Call,
}

/// Writes answers block by block.
struct MessageWriter {
    id: String,
    /// Tokens of the prompt.
    prompt: usize,
    /// The block that grows.
    open: Option<Kind>,
    /// Blocks that were begun.
    blocks: usize,
    speaker: Arc<Speaker>,
}

impl MessageWriter {
    fn message(&self, content: Value, reply: &Reply) -> Value {
        let (reason, sequence) = stop(reply);
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.speaker.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self.usage(reply),
        })
    }

    /// What was found in the cache is not among the tokens of the input.
    fn usage(&self, reply: &Reply) -> Value {
        let cached = reply.timings.reused_tokens;
        json!({
            "input_tokens": self.prompt - cached.min(self.prompt),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": openai::chosen(reply),
        })
    }

    /// Ends the block that grows.
    fn close(&mut self, out: &mut Frames) {
        let Some(kind) = self.open.take() else {
            return;
        };
        let index = self.blocks - 1;
        if kind == Kind::Thinking {
            // Clients send it back with the block; there is nothing to sign.
            let delta = json!({ "type": "signature_delta", "signature": "" });
            out.event(
                "content_block_delta",
                &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
            );
        }
        out.event(
            "content_block_stop",
            &json!({ "type": "content_block_stop", "index": index }),
        );
    }

    /// Begins a block of this kind, unless one grows.
    fn open(&mut self, kind: Kind, block: Value, out: &mut Frames) {
        if kind != Kind::Call && self.open == Some(kind) {
            return;
        }
        self.close(out);
        let event =
            json!({ "type": "content_block_start", "index": self.blocks, "content_block": block });
        out.event("content_block_start", &event);
        self.open = Some(kind);
        self.blocks += 1;
    }

    fn piece(&mut self, piece: &Piece, out: &mut Frames) {
        let delta = match piece {
            Piece::Text(text) => {
                self.open(Kind::Text, json!({ "type": "text", "text": "" }), out);
                json!({ "type": "text_delta", "text": text })
            }
            Piece::Reasoning(text) => {
                let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                self.open(Kind::Thinking, block, out);
                json!({ "type": "thinking_delta", "thinking": text })
            }
            Piece::Call { id, name } => {
                let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.open(Kind::Call, block, out);
                return;
            }
            Piece::Arguments(text) => json!({ "type": "input_json_delta", "partial_json": text }),
        };
        let index = self.blocks.saturating_sub(1);
        out.event(
            "content_block_delta",
            &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
        );
    }
}

/// Why an answer ended, and the text that ended it.
fn stop(reply: &Reply) -> (Option<&'static str>, Option<&str>) {
    let reason = reply.finish.map(|f| match f {
        Finish::End => "end_turn",
        Finish::Stop => "stop_sequence",
        Finish::Calls => "tool_use",
        Finish::Length => "max_tokens",
    });
    let sequence = reply
        .stop
        .as_deref()
        .filter(|_| reply.finish == Some(Finish::Stop));
    (reason, sequence)
}

impl Writer for MessageWriter {
    fn started(&mut self, _n: usize, reply: &Reply, out: &mut Frames) {
        let message = self.message(json!([]), reply);
        out.event(
            "message_start",
            &json!({ "type": "message_start", "message": message }),
        );
        self.ping(out);
    }

    fn grown(&mut self, _n: usize, _reply: &Reply, step: &Step, out: &mut Frames) {
        if let Step::Grown { pieces, .. } = step {
            pieces.iter().for_each(|p| self.piece(p, out));
        }
    }

    fn done(&mut self, _n: usize, reply: &Reply, out: &mut Frames) {
        self.close(out);
        let (reason, sequence) = stop(reply);
        let event = json!({
            "type": "message_delta",
            "delta": { "stop_reason": reason, "stop_sequence": sequence },
            "usage": self.usage(reply),
        });
        out.event("message_delta", &event);
    }

    fn end(&mut self, _replies: &[&Reply], out: &mut Frames) {
        out.event("message_stop", &json!({ "type": "message_stop" }));
    }

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.event("error", &error.body(Dialect::Anthropic, &self.id));
    }

    fn ping(&mut self, out: &mut Frames) {
        out.event("ping", &json!({ "type": "ping" }));
    }

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        let Some(reply) = replies.first() else {
            return Value::Null;
        };
        let blocks = reply.parts.iter().map(|part| match part {
            Part::Text(text) => json!({ "type": "text", "text": text }),
            Part::Reasoning(text) => {
                json!({ "type": "thinking", "thinking": text, "signature": "" })
            }
            Part::Call {
                id,
                name,
                arguments,
            } => {
                let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        });
        self.message(blocks.collect(), reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(body: Value) -> Result<Vec<Value>> {
        let map = body.as_object().unwrap();
        let f = Fields::of(map);
        let list = f.list("messages").unwrap().unwrap();
        conversation(&f, list).map(|c| c.messages)
    }

    #[test]
    fn blocks_become_messages() {
        let body = json!({ "system": [{ "type": "text", "text": "Be brief.", "cache_control": {} }], "messages": [
            { "role": "user", "content": "Weather?" },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "Hm.", "signature": "x" },
                { "type": "text", "text": "Let me look." },
                { "type": "tool_use", "id": "t1", "name": "w", "input": { "city": "Paris" } },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "12 C" }] },
                { "type": "text", "text": "And?" },
            ] },
        ] });
        let all = messages(body).unwrap();
        let roles: Vec<_> = all.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!(all[2]["reasoning_content"], "Hm.");
        assert_eq!(
            all[2]["tool_calls"][0]["function"]["arguments"],
            r#"{"city":"Paris"}"#
        );
        assert_eq!(all[3]["content"], "12 C");
    }

    #[test]
    fn images_are_refused_by_their_place() {
        let body = json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }] });
        assert_eq!(
            messages(body).unwrap_err().param.as_deref(),
            Some("messages[0].content[0].type")
        );
    }
}
