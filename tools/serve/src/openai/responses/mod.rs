//! `/v1/responses`: stateless.

mod writer;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use geb::generate::GenerateOptions;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::conversation::{Choice, Conversation};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::form::Form;
use crate::keys::Owner;
use crate::models::Loaded;
use crate::stream::Sending;
use crate::turn::{Answering, Turn};
use crate::{ask, body, limits};
use writer::ResponseWriter;

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
            conversation.effort(effort, "reasoning.effort")?;
        }
    }
    let sending = ask::sending(&f, Sending::AtOnce)?;
    f.accept(&super::WITHOUT_EFFECT);
    f.accept(&["stream_options", "truncation", "max_tool_calls"]);
    let told = told(body, &conversation, &options);
    let turn = Turn {
        model: f.text("model")?.map(str::to_owned),
        conversation,
        answering: Answering::one(options, sending, f.unknown()),
    };
    Ok((turn, told))
}

/// What of a body is given back in the response.
fn told(
    body: &Map<String, Value>,
    conversation: &Conversation,
    options: &GenerateOptions,
) -> Value {
    let told = |key: &str, default: Value| {
        body.get(key)
            .filter(|v| !v.is_null())
            .cloned()
            .unwrap_or(default)
    };
    json!({
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
    })
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
fn format(f: &Fields<'_>) -> Result<Option<Form>> {
    const AT: &str = "text.format";
    let kind = f.required("type", f.text("type")?)?;
    match kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(Form::json(AT))),
        "json_schema" => {
            let schema = f.required("schema", f.value("schema"))?;
            let strict = f.flag("strict")?.unwrap_or(false);
            Ok(Some(Form::schema(schema, strict, AT)))
        }
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
    let writer = |loaded: &Loaded, _: &[u32]| ResponseWriter::new(loaded.speaker.clone(), told);
    turn.answer(&app, &owner, writer).await
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
}
