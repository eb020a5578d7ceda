//! A conversation as clients send it (OpenAI's form), read and checked.

use std::fmt::Display;

use serde_json::{Map, Value};

use super::tools::Tool;
use crate::error::{Error, Result};
use crate::limits;

/// A request that has been read.
#[derive(Debug)]
pub(super) struct Request {
    pub messages: Vec<Said>,
    /// The functions, each as `{"type": "function", "function": {…}}`.
    pub tools: Vec<Value>,
    pub documents: Value,
    pub prompt: bool,
    pub goes_on: bool,
    /// Names that the family's template may ask for.
    pub switches: Map<String, Value>,
    /// Fields without a meaning here, as `messages[0].audio`.
    pub ignored: Vec<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// Its name in templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub role: Role,
    pub content: Option<String>,
    pub reasoning: Option<String>,
    pub calls: Vec<Made>,
    /// The speaker's name; of a result, that of the function.
    pub name: Option<String>,
    /// Which call this is the result of.
    pub call_id: Option<String>,
}

impl Said {
    pub fn new(role: Role, content: String) -> Said {
        Said {
            role,
            content: Some(content),
            reasoning: None,
            calls: Vec::new(),
            name: None,
            call_id: None,
        }
    }
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub id: Option<String>,
    pub name: String,
    pub arguments: Map<String, Value>,
}

const FIELDS: [&str; 6] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
];

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Error::Request`] names the first field that is wrong.
    pub fn read(request: &Value) -> Result<Request> {
        let bytes = request.to_string().len();
        let Some(fields) = request
            .as_object()
            .filter(|_| bytes <= limits::MAX_PROMPT_BYTES)
        else {
            let allowed = format!("an object of at most {} bytes", limits::MAX_PROMPT_BYTES);
            return Err(refused(
                "conversation",
                format!("{bytes} bytes of JSON"),
                allowed,
            ));
        };
        if let Some(other) = fields.keys().find(|k| !FIELDS.contains(&k.as_str())) {
            return Err(refused("field of a conversation", other, FIELDS.join(", ")));
        }
        let mut ignored = Vec::new();
        let request = Request {
            messages: messages(&request["messages"], &mut ignored)?,
            tools: tools(&request["tools"])?,
            documents: request["documents"].clone(),
            prompt: flag(request, "add_generation_prompt")?,
            goes_on: flag(request, "continue_final_message")?,
            switches: switches(&request["chat_template_kwargs"])?,
            ignored,
        };
        if request.goes_on && request.prompt {
            let allowed = "false together with add_generation_prompt";
            return Err(refused("continue_final_message", "true", allowed));
        }
        Ok(request)
    }
}

fn refused(what: impl Into<String>, value: impl Display, allowed: impl Display) -> Error {
    Error::Request {
        what: what.into(),
        value: value.to_string(),
        allowed: allowed.to_string(),
    }
}

/// A value for an error.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        other => other.to_string(),
    }
}

fn flag(of: &Value, name: &str) -> Result<bool> {
    match &of[name] {
        Value::Null => Ok(false),
        Value::Bool(b) => Ok(*b),
        other => Err(refused(name, other, "true or false")),
    }
}

fn switches(value: &Value) -> Result<Map<String, Value>> {
    const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
    let switches = match value {
        Value::Null => return Ok(Map::new()),
        Value::Object(map) => map,
        other => return Err(refused("chat_template_kwargs", other, "an object")),
    };
    let word = |text: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        (1..=limits::MAX_ROLE_BYTES).contains(&text.len()) && text.bytes().all(plain)
    };
    for (name, value) in switches {
        let field = format!("chat_template_kwargs.{name}");
        if RESERVED.contains(&name.as_str()) || name.ends_with("_token") || !word(name) {
            let allowed = "names of a template's switches, not of what a request has fields for";
            return Err(refused(field, value, allowed));
        }
        let plain = match value {
            Value::String(text) => word(text),
            Value::Array(_) | Value::Object(_) => false,
            _ => true,
        };
        if !plain {
            let allowed = "true, false, null, a number, or a word of letters, digits, `_` and `-`";
            return Err(refused(field, value, allowed));
        }
    }
    Ok(switches.clone())
}

/// Checks the tools, and leaves out what is for the server and not for the model.
fn tools(value: &Value) -> Result<Vec<Value>> {
    let known = Tool::list(value)?;
    let given = value.as_array().into_iter().flatten();
    let mut out = Vec::new();
    for (tool, known) in given.zip(known) {
        let mut function = tool["function"].as_object().cloned().unwrap_or_default();
        function.shift_remove("strict");
        // Templates look into it.
        function.insert("parameters".into(), known.parameters);
        out.push(serde_json::json!({ "type": "function", "function": function }));
    }
    Ok(out)
}

fn messages(value: &Value, ignored: &mut Vec<String>) -> Result<Vec<Said>> {
    let Some(list) = value.as_array() else {
        return Err(refused("messages", shown(value), "a list"));
    };
    if !(1..=limits::MAX_MESSAGES).contains(&list.len()) {
        let allowed = format!("1 to {}", limits::MAX_MESSAGES);
        return Err(refused("number of messages", list.len(), allowed));
    }
    let read = list.iter().enumerate();
    read.map(|(i, m)| message(&format!("messages[{i}]"), m, ignored))
        .collect()
}

fn message(at: &str, value: &Value, ignored: &mut Vec<String>) -> Result<Said> {
    const KNOWN: [&str; 8] = [
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
        "reasoning",
        "refusal",
    ];
    let Some(fields) = value.as_object() else {
        return Err(refused(at, shown(value), "an object"));
    };
    let role = match value["role"].as_str() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => {
            let allowed = "system, developer, user, assistant or tool";
            return Err(refused(
                format!("{at}.role"),
                shown(&value["role"]),
                allowed,
            ));
        }
    };
    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    let unknown = fields
        .iter()
        .filter(|(k, v)| !KNOWN.contains(&k.as_str()) && !empty(v));
    ignored.extend(unknown.map(|(k, _)| format!("{at}.{k}")));
    let text = |name: &str| match &value[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        other => Err(refused(format!("{at}.{name}"), other, "a text")),
    };
    let mut content = content(&format!("{at}.content"), &value["content"])?;
    // What a model has refused to say is what it has said.
    let refusal = text("refusal")?.filter(|_| role == Role::Assistant);
    if content.as_deref().is_none_or(str::is_empty) && refusal.is_some() {
        content = refusal;
    }
    let calls = match role {
        Role::Assistant => calls(&format!("{at}.tool_calls"), &value["tool_calls"])?,
        _ => Vec::new(),
    };
    Ok(Said {
        role,
        content,
        reasoning: match role {
            Role::Assistant => text("reasoning_content")?.or(text("reasoning")?),
            _ => None,
        },
        calls,
        name: text("name")?,
        call_id: text("tool_call_id")?,
    })
}

/// A content: a text, nothing, or parts that are texts.
fn content(at: &str, value: &Value) -> Result<Option<String>> {
    let parts = match value {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone())),
        Value::Array(parts) => parts,
        other => return Err(refused(at, other, "a text, null, or a list of parts")),
    };
    let mut texts = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let key = match part["type"].as_str() {
            Some("text" | "input_text" | "output_text") => "text",
            Some("refusal") => "refusal",
            _ => {
                let allowed = "parts of type text or refusal";
                return Err(refused(
                    format!("{at}[{i}].type"),
                    shown(&part["type"]),
                    allowed,
                ));
            }
        };
        match part[key].as_str() {
            Some(text) => texts.push(text),
            None => {
                return Err(refused(
                    format!("{at}[{i}].{key}"),
                    shown(&part[key]),
                    "a text",
                ));
            }
        }
    }
    Ok(Some(texts.join("\n")))
}

fn calls(at: &str, value: &Value) -> Result<Vec<Made>> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) if list.len() <= limits::MAX_TOOLS => list,
        other => {
            let allowed = format!("a list of at most {}", limits::MAX_TOOLS);
            return Err(refused(at, other, allowed));
        }
    };
    list.iter()
        .enumerate()
        .map(|(i, c)| call(&format!("{at}[{i}]"), c))
        .collect()
}

fn call(at: &str, value: &Value) -> Result<Made> {
    if value
        .get("type")
        .is_some_and(|t| t != "function" && !t.is_null())
    {
        return Err(refused(format!("{at}.type"), &value["type"], "function"));
    }
    let function = &value["function"];
    let Some(name) = function["name"].as_str().filter(|n| !n.is_empty()) else {
        let what = format!("{at}.function.name");
        return Err(refused(
            what,
            shown(&function["name"]),
            "the name of a function",
        ));
    };
    let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let arguments = match &function["arguments"] {
        Value::Object(map) => Some(map.clone()),
        Value::Null => Some(Map::new()),
        Value::String(text) if text.trim().is_empty() => Some(Map::new()),
        Value::String(text) => object(text),
        _ => None,
    };
    let Some(arguments) = arguments else {
        let (what, value) = (format!("{at}.function.arguments"), &function["arguments"]);
        return Err(refused(
            what,
            shown(value),
            "a JSON object, or the text of one",
        ));
    };
    Ok(Made {
        id: value["id"].as_str().map(str::to_owned),
        name: name.to_owned(),
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_wrong_are_named() {
        let user = json!({"role": "user", "content": "a"});
        let call = |function: Value| json!({"messages": [{"role": "assistant", "tool_calls": [{"function": function}]}]});
        for (request, field) in [
            (json!([]), "conversation is"),
            (
                json!({"messages": [user], "model": "x"}),
                "field of a conversation is model",
            ),
            (json!({}), "messages is absent"),
            (json!({"messages": []}), "number of messages is 0"),
            (json!({"messages": ["a"]}), "messages[0] is \"a\""),
            (
                json!({"messages": [{"role": "critic"}]}),
                "messages[0].role is \"critic\"",
            ),
            (
                json!({"messages": [user, {"role": "user", "content": 1}]}),
                "messages[1].content is 1",
            ),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content[0].type is \"image_url\"",
            ),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
                "messages[0].content[0].text is absent",
            ),
            (
                json!({"messages": [{"role": "user", "name": 1}]}),
                "messages[0].name is 1",
            ),
            (
                call(json!({"name": ""})),
                "messages[0].tool_calls[0].function.name is \"\"",
            ),
            (
                call(json!({"name": "f", "arguments": "{"})),
                "messages[0].tool_calls[0].function.arguments is \"{\"",
            ),
            (
                call(json!({"name": "f", "arguments": "[]"})),
                "messages[0].tool_calls[0].function.arguments is \"[]\"",
            ),
            (json!({"messages": [user], "tools": {}}), "tools is {}"),
            (
                json!({"messages": [user], "add_generation_prompt": 1}),
                "add_generation_prompt is 1",
            ),
            (
                json!({"messages": [user], "add_generation_prompt": true, "continue_final_message": true}),
                "continue_final_message is true",
            ),
            (
                json!({"messages": [user], "chat_template_kwargs": {"messages": []}}),
                "chat_template_kwargs.messages is []",
            ),
            (
                json!({"messages": [user], "chat_template_kwargs": {"bos_token": "x"}}),
                "chat_template_kwargs.bos_token is \"x\"",
            ),
            (
                json!({"messages": [user], "chat_template_kwargs": {"x": "<|a|>"}}),
                "chat_template_kwargs.x is \"<|a|>\"",
            ),
        ] {
            let error = Request::read(&request).expect_err("refused").to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn what_clients_send_is_read() {
        let request = json!({
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
                {"role": "assistant", "content": null, "refusal": null, "annotations": [], "audio": {"id": 1},
                 "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"a\": [1]}"}}],
                 "reasoning": "why"},
                {"role": "tool", "tool_call_id": "x", "content": "r"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "strict": true}}],
            "chat_template_kwargs": {"enable_thinking": false, "reasoning_effort": "high"},
            "add_generation_prompt": true,
        });
        let read = Request::read(&request).expect("valid");
        assert_eq!(read.messages[0].role, Role::System);
        assert_eq!(read.messages[0].content.as_deref(), Some("a\nb"));
        assert_eq!(read.messages[1].calls[0].arguments["a"], json!([1]));
        assert_eq!(read.messages[1].reasoning.as_deref(), Some("why"));
        assert_eq!(read.messages[2].call_id.as_deref(), Some("x"));
        assert_eq!(read.ignored, ["messages[1].audio"]);
        let function = &read.tools[0]["function"];
        assert_eq!(function["parameters"]["type"], "object");
        assert!(function.get("strict").is_none());
        assert_eq!(read.switches["reasoning_effort"], "high");
    }
}
