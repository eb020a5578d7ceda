//! `/v1/responses`: stateless.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::chat::effort_of;
use super::weights;
use crate::app::App;
use crate::conversation::{Choice, Conversation, Format};
use crate::error::{ApiError, Dialect, Result};
use crate::fields::Fields;
use crate::keys::Owner;
use crate::models::{Loaded, Speaker};
use crate::reply::{Finish, Part, Piece, Reply, Step};
use crate::stream::{Frames, Sending, Writer};
use crate::turn::{Answering, Turn};
use crate::{ask, body, id, limits};

/// Reads a body; what is told of it in the response.
fn read(body: &Map<String, Value>) -> Result<(Turn, Value)> {
    let f = Fields::of(body);
    let mut options = ask::defaults();
    ask::sampling(&f, &mut options.sampling)?;
    options.max_tokens = f
        .count("max_output_tokens", 1..=u64::MAX)?
        .unwrap_or(usize::MAX);
    f.refuse(
        &[
            "previous_response_id",
            "conversation",
            "background",
            "prompt",
        ],
        "absent: nothing is kept of earlier responses",
    )?;
    let include = f.list("include")?.unwrap_or_default();
    let top = f
        .count("top_logprobs", 0..=limits::TOP_LOG_PROBS as u64)?
        .unwrap_or(0);
    options.log_probs = top > 0 || include.iter().any(|i| i == "message.output_text.logprobs");
    options.top_log_probs = top;
    let mut conversation = conversation(&f)?;
    tools(&f, &mut conversation)?;
    if let Some(text) = f.object("text")? {
        text.accept(&["verbosity"]);
        if let Some(format) = text.object("format")? {
            conversation.format = self::format(&format)?;
        }
    }
    if let Some(reasoning) = f.object("reasoning")? {
        reasoning.accept(&["summary", "generate_summary"]);
        if let Some(effort) = reasoning.text("effort")? {
            effort_of(effort, "reasoning.effort", &mut conversation)?;
        }
    }
    let sending = match f.flag("stream")?.unwrap_or(false) {
        true => Sending::Streaming,
        false => Sending::AtOnce,
    };
    f.accept(&super::WITHOUT_EFFECT);
    f.accept(&["stream_options", "truncation", "max_tool_calls"]);
    let told = |key: &str, default: Value| {
        body.get(key)
            .filter(|v| !v.is_null())
            .cloned()
            .unwrap_or(default)
    };
    let told = json!({
        "instructions": told("instructions", Value::Null),
        "max_output_tokens": told("max_output_tokens", Value::Null),
        "metadata": told("metadata", json!({})),
        "parallel_tool_calls": conversation.parallel,
        "reasoning": told("reasoning", json!({ "effort": null, "summary": null })),
        "temperature": told("temperature", super::short(options.sampling.temperature)),
        "text": told("text", json!({ "format": { "type": "text" } })),
        "tool_choice": told("tool_choice", json!("auto")),
        "tools": told("tools", json!([])),
        "top_p": told("top_p", super::short(options.sampling.top_p)),
        "truncation": "disabled",
        "previous_response_id": null,
        "store": false,
    });
    let turn = Turn {
        model: f.text("model")?.map(str::to_owned),
        conversation,
        answering: Answering {
            options,
            answers: 1,
            sending,
            ignored: f.unknown(),
        },
    };
    Ok((turn, told))
}

/// `instructions` and `input`, in the form of chat.
fn conversation(f: &Fields<'_>) -> Result<Conversation> {
    let mut messages = Vec::new();
    if let Some(text) = f.text("instructions")? {
        messages.push(json!({ "role": "system", "content": text }));
    }
    let input = f.required("input", f.value("input"))?;
    match input {
        Value::String(text) => messages.push(json!({ "role": "user", "content": text })),
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                item(value, &format!("input[{i}]"), &mut messages)?;
            }
        }
        _ => {
            return Err(ApiError::wrong(
                "input",
                input,
                "a text, or a list of items",
            ));
        }
    }
    Conversation::read(&messages)
}

/// An item of the input; calls and reasoning belong to the assistant's message that they stand beside.
fn item(value: &Value, at: &str, messages: &mut Vec<Value>) -> Result<()> {
    let f = Fields::inside(value, at)?;
    let kind = f.text("type")?.unwrap_or("message");
    match kind {
        "message" => {
            let role = f.required("role", f.text("role")?)?;
            let content = f.required("content", f.value("content"))?;
            let message = json!({ "role": role, "content": content });
            match messages
                .last_mut()
                .filter(|m| role == "assistant" && m["role"] == role && m["content"].is_null())
            {
                Some(open) => open["content"] = content.clone(),
                None => messages.push(message),
            }
        }
        "function_call" => {
            let name = f.required("name", f.text("name")?)?;
            let call = json!({
                "id": f.required("call_id", f.text("call_id")?)?,
                "type": "function",
                "function": { "name": name, "arguments": f.text("arguments")?.unwrap_or("{}") },
            });
            let open = assistant(messages);
            match open["tool_calls"].as_array_mut() {
                Some(calls) => calls.push(call),
                None => open["tool_calls"] = json!([call]),
            }
        }
        "function_call_output" => {
            let output = f.required("output", f.value("output"))?;
            let id = f.required("call_id", f.text("call_id")?)?;
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
        }
        "reasoning" => {
            let parts = f.list("content")?.unwrap_or_default();
            let texts = parts.iter().filter_map(|p| p["text"].as_str());
            let text: String = texts.collect();
            if !text.is_empty() {
                assistant(messages)["reasoning_content"] = text.into();
            }
        }
        _ => {
            let allowed = "message, function_call, function_call_output, reasoning";
            return Err(ApiError::wrong(&f.name("type"), &json!(kind), allowed));
        }
    }
    Ok(())
}

/// The message of the assistant that is open at the end.
fn assistant(messages: &mut Vec<Value>) -> &mut Value {
    let open = messages.last().is_some_and(|m| m["role"] == "assistant");
    if !open {
        messages.push(json!({ "role": "assistant", "content": null }));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

/// Tools of type function, which have their fields beside the type here.
fn tools(f: &Fields<'_>, conversation: &mut Conversation) -> Result<()> {
    let mut tools = Vec::new();
    for (i, tool) in f.list("tools")?.unwrap_or_default().iter().enumerate() {
        let t = Fields::inside(tool, &format!("tools[{i}]"))?;
        if t.text("type")? != Some("function") {
            return Err(ApiError::wrong(&t.name("type"), &tool["type"], "function"));
        }
        let name = t.required("name", t.text("name")?)?;
        let mut function = json!({ "name": name });
        for key in ["description", "parameters", "strict"] {
            if let Some(value) = t.value(key) {
                function[key] = value.clone();
            }
        }
        tools.push(json!({ "type": "function", "function": function }));
    }
    conversation.read_tools(&tools)?;
    conversation.parallel = f.flag("parallel_tool_calls")?.unwrap_or(true);
    if let Some(value) = f.value("tool_choice") {
        let named = || Some(Choice::Named(value["name"].as_str()?.to_owned()));
        let found = match (value.as_str(), value["type"].as_str()) {
            (Some("none"), _) => Some(Choice::None),
            (Some("auto"), _) => Some(Choice::Auto),
            (Some("required"), _) => Some(Choice::Required),
            (_, Some("function")) => named(),
            _ => None,
        };
        let allowed = "none, auto, required, a function";
        conversation.choice =
            found.ok_or_else(|| ApiError::wrong("tool_choice", value, allowed))?;
        conversation.check_choice()?;
    }
    Ok(())
}

/// `text.format`.
fn format(f: &Fields<'_>) -> Result<Format> {
    let kind = f.required("type", f.text("type")?)?;
    match kind {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::Json),
        "json_schema" => Ok(Format::Schema {
            schema: f.required("schema", f.value("schema"))?.clone(),
            strict: f.flag("strict")?.unwrap_or(false),
        }),
        _ => Err(ApiError::wrong(
            &f.name("type"),
            &json!(kind),
            "text, json_object, json_schema",
        )),
    }
}

/// Answers.
///
/// # Errors
/// [`ApiError`].
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let body = body::object(request).await?;
    let (turn, told) = read(&body)?;
    let writer = |loaded: &Loaded, _: &[u32]| ResponseWriter {
        id: id::random("resp_"),
        created: id::now(),
        told,
        number: 0,
        items: Vec::new(),
        speaker: loaded.speaker.clone(),
    };
    turn.answer(&app, &owner, writer).await
}

/// Writes answers item by item.
struct ResponseWriter {
    id: String,
    created: u64,
    /// What the request said, given back.
    told: Value,
    /// Of the next event.
    number: u64,
    /// Names of the items that were begun; the last one grows.
    items: Vec<String>,
    speaker: Arc<Speaker>,
}

/// An item of the output.
fn output(part: &Part, id: &str, status: &str, log_probs: Value) -> Value {
    match part {
        Part::Text(text) => json!({
            "id": id, "type": "message", "status": status, "role": "assistant",
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": log_probs }],
        }),
        Part::Reasoning(text) => json!({
            "id": id, "type": "reasoning", "status": status, "summary": [],
            "content": [{ "type": "reasoning_text", "text": text }],
        }),
        Part::Call {
            id: call,
            name,
            arguments,
        } => json!({
            "id": id, "type": "function_call", "status": status, "call_id": call, "name": name, "arguments": arguments,
        }),
    }
}

/// The beginning of an item's name.
fn prefix(part: &Part) -> &'static str {
    match part {
        Part::Text(_) => "msg_",
        Part::Reasoning(_) => "rs_",
        Part::Call { .. } => "fc_",
    }
}

impl ResponseWriter {
    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.speaker.name,
            "output": output,
            "error": null,
            "incomplete_details": null,
            "usage": usage,
        });
        if let (Value::Object(all), Value::Object(told)) = (&mut response, &self.told) {
            all.extend(told.clone());
        }
        response
    }

    /// The response when it is whole.
    fn finished(&mut self, reply: &Reply) -> Value {
        while self.items.len() < reply.parts.len() {
            self.items
                .push(id::random(prefix(&reply.parts[self.items.len()])));
        }
        let (status, details) = match reply.finish {
            Some(Finish::Length) => ("incomplete", json!({ "reason": "max_output_tokens" })),
            _ => ("completed", Value::Null),
        };
        let log_probs = self.weights(reply);
        let parts = reply.parts.iter().zip(&self.items);
        let items = parts.map(|(part, id)| output(part, id, status, log_probs.clone()));
        let t = &reply.timings;
        let usage = json!({
            "input_tokens": t.prompt_tokens,
            "input_tokens_details": { "cached_tokens": t.reused_tokens },
            "output_tokens": t.sampled_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": t.prompt_tokens + t.sampled_tokens,
        });
        let mut response = self.response(status, items.collect(), usage);
        response["incomplete_details"] = details;
        response
    }

    fn weights(&self, reply: &Reply) -> Value {
        match reply.tokens.is_empty() {
            true => json!([]),
            false => weights::chat(&self.speaker.tokenizer, &reply.tokens)["content"].take(),
        }
    }

    /// Sends an event with its type and number.
    fn send(&mut self, kind: &str, mut event: Value, out: &mut Frames) {
        event["type"] = kind.into();
        event["sequence_number"] = self.number.into();
        self.number += 1;
        out.event(kind, &event);
    }

    /// Where the item that grows is, and its name.
    fn at(&self) -> (usize, String) {
        let index = self.items.len() - 1;
        (index, self.items[index].clone())
    }

    /// Begins an item.
    fn open(&mut self, part: &Part, out: &mut Frames) {
        self.items.push(id::random(prefix(part)));
        let (index, id) = self.at();
        let mut item = output(part, &id, "in_progress", json!([]));
        if !matches!(part, Part::Call { .. }) {
            item["content"] = json!([]);
        }
        self.send(
            "response.output_item.added",
            json!({ "output_index": index, "item": item }),
            out,
        );
        if let Some(content) = empty(part) {
            let event = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": content });
            self.send("response.content_part.added", event, out);
        }
    }

    /// Ends the item that grows.
    fn close(&mut self, part: &Part, status: &str, log_probs: Value, out: &mut Frames) {
        let (index, id) = self.at();
        let item = output(part, &id, status, log_probs.clone());
        let place = json!({ "item_id": id, "output_index": index, "content_index": 0 });
        let with = |key: &str, value: Value| {
            let mut event = place.clone();
            event[key] = value;
            event
        };
        match part {
            Part::Text(text) => {
                let mut event = with("text", text.as_str().into());
                event["logprobs"] = log_probs;
                self.send("response.output_text.done", event, out);
            }
            Part::Reasoning(text) => self.send(
                "response.reasoning_text.done",
                with("text", text.as_str().into()),
                out,
            ),
            Part::Call {
                name, arguments, ..
            } => {
                let event = json!({ "item_id": id, "output_index": index, "name": name, "arguments": arguments });
                self.send("response.function_call_arguments.done", event, out);
            }
        }
        if let Some(content) = item["content"].get(0) {
            self.send(
                "response.content_part.done",
                with("part", content.clone()),
                out,
            );
        }
        self.send(
            "response.output_item.done",
            json!({ "output_index": index, "item": item }),
            out,
        );
    }

    /// Begins and ends items so that the one of the last `parts` grows.
    fn advance(&mut self, reply: &Reply, parts: usize, out: &mut Frames) {
        while self.items.len() < parts {
            let n = self.items.len();
            if n > 0 {
                self.close(&reply.parts[n - 1], "completed", json!([]), out);
            }
            let begun = match &reply.parts[n] {
                Part::Text(_) => Part::Text(String::new()),
                Part::Reasoning(_) => Part::Reasoning(String::new()),
                Part::Call { id, name, .. } => Part::Call {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                },
            };
            self.open(&begun, out);
        }
    }
}

/// The content that an item begins with; a call has none.
fn empty(part: &Part) -> Option<Value> {
    match part {
        Part::Text(_) => {
            Some(json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] }))
        }
        Part::Reasoning(_) => Some(json!({ "type": "reasoning_text", "text": "" })),
        Part::Call { .. } => None,
    }
}

/// Parts that a reply had before these pieces, and for each piece the parts that there are with it.
fn growth(reply: &Reply, pieces: &[Piece]) -> Vec<usize> {
    // From the end: a piece is of the last part, and the part before it begins where the kind changes.
    let mut at = reply.parts.len();
    let mut counts = vec![0; pieces.len()];
    for (i, piece) in pieces.iter().enumerate().rev() {
        counts[i] = at;
        let begins = match (piece, i.checked_sub(1).map(|n| &pieces[n])) {
            (Piece::Call { .. }, _) => true,
            (_, None) => false,
            (Piece::Text(_), Some(before)) => !matches!(before, Piece::Text(_)),
            (Piece::Reasoning(_), Some(before)) => !matches!(before, Piece::Reasoning(_)),
            (Piece::Arguments(_), _) => false,
        };
        at -= usize::from(begins);
    }
    counts
}

impl Writer for ResponseWriter {
    fn started(&mut self, _n: usize, _reply: &Reply, out: &mut Frames) {
        let response = self.response("in_progress", json!([]), Value::Null);
        for kind in ["response.created", "response.in_progress"] {
            self.send(kind, json!({ "response": response }), out);
        }
    }

    fn grown(&mut self, _n: usize, reply: &Reply, step: &Step, out: &mut Frames) {
        let Step::Grown { pieces, tokens } = step else {
            return;
        };
        let log_probs = match tokens.is_empty() {
            true => json!([]),
            false => weights::chat(&self.speaker.tokenizer, tokens)["content"].take(),
        };
        for (piece, parts) in pieces.iter().zip(growth(reply, pieces)) {
            self.advance(reply, parts, out);
            let (index, id) = self.at();
            let place = json!({ "item_id": id, "output_index": index });
            let with = |text: &str, content: bool| {
                let mut event = place.clone();
                event["delta"] = text.into();
                if content {
                    event["content_index"] = 0.into();
                }
                event
            };
            match piece {
                Piece::Text(text) => {
                    let mut event = with(text, true);
                    event["logprobs"] = log_probs.clone();
                    self.send("response.output_text.delta", event, out);
                }
                Piece::Reasoning(text) => {
                    self.send("response.reasoning_text.delta", with(text, true), out)
                }
                Piece::Call { .. } => {}
                Piece::Arguments(text) => {
                    self.send(
                        "response.function_call_arguments.delta",
                        with(text, false),
                        out,
                    );
                }
            }
        }
    }

    fn done(&mut self, _n: usize, reply: &Reply, out: &mut Frames) {
        self.advance(reply, reply.parts.len(), out);
        let cut = reply.finish == Some(Finish::Length);
        if let Some(last) = reply.parts.last() {
            let log_probs = self.weights(reply);
            self.close(
                last,
                if cut { "incomplete" } else { "completed" },
                log_probs,
                out,
            );
        }
        let response = self.finished(reply);
        let kind = if cut {
            "response.incomplete"
        } else {
            "response.completed"
        };
        self.send(kind, json!({ "response": response }), out);
    }

    fn end(&mut self, _replies: &[&Reply], _out: &mut Frames) {}

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        let mut response = self.response("failed", json!([]), Value::Null);
        let said = error.body(Dialect::OpenAi, &self.id);
        response["error"] = json!({ "code": said["error"]["type"], "message": error.message });
        self.send("response.failed", json!({ "response": response }), out);
    }

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        replies
            .first()
            .map_or(Value::Null, |reply| self.finished(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let body = json!({ "instructions": "Be brief.", "input": [
            { "role": "user", "content": "Weather?" },
            { "type": "reasoning", "content": [{ "type": "reasoning_text", "text": "Hm." }] },
            { "type": "function_call", "call_id": "c1", "name": "w", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "c1", "output": "12 C" },
        ] });
        let f = Fields::of(body.as_object().unwrap());
        let all = conversation(&f).unwrap().messages;
        let roles: Vec<_> = all.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!(all[2]["reasoning_content"], "Hm.");
        assert_eq!(all[2]["tool_calls"][0]["id"], "c1");
        assert_eq!(all[3]["content"], "12 C");
    }

    #[test]
    fn pieces_find_their_parts() {
        let call = |n: &str| Piece::Call {
            id: n.into(),
            name: n.into(),
        };
        let pieces = [
            Piece::Reasoning("a".into()),
            Piece::Text("b".into()),
            Piece::Text("c".into()),
            call("d"),
            Piece::Arguments("{".into()),
            call("e"),
        ];
        let part = |n: &str| Part::Call {
            id: n.into(),
            name: n.into(),
            arguments: String::new(),
        };
        let reply = Reply {
            parts: vec![
                Part::Reasoning("a".into()),
                Part::Text("bc".into()),
                part("d"),
                part("e"),
            ],
            ..Reply::default()
        };
        assert_eq!(growth(&reply, &pieces), [1, 2, 2, 3, 3, 4]);
    }
}
