//! Conversations, from the messages of a request to the tokens of a prompt. All dialects come here in OpenAI's form.

use geb::chat::tools::{Tool, ToolChoice};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Fault, Result};
use crate::fields::Fields;
use crate::form::{self, Form};
use crate::models::Speaker;
use crate::reply::{Prompt, Reading};
use crate::{ask, limits};

/// What is said before an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Messages with a role and a text, and what else templates read: tool calls, names, reasoning.
    pub messages: Vec<Value>,
    /// Tools that may be called, in OpenAI's form.
    pub tools: Vec<Value>,
    /// Which of them.
    pub choice: Choice,
    /// Whether one answer may call several.
    pub parallel: bool,
    /// Switches of the template, as far as they are known.
    pub switches: Map<String, Value>,
    /// What form the answer must have; none: any.
    pub format: Option<Form>,
}

/// Which tools an answer calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// None.
    None,
    /// What the model wants.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Switches of templates that requests may set; others would reach what the template keeps for itself.
const SWITCHES: [&str; 3] = ["enable_thinking", "thinking", "reasoning_effort"];

/// Fields of a message that reach the template as they are.
const PASSED: [&str; 3] = ["name", "tool_call_id", "tool_calls"];

impl Conversation {
    /// Reads `messages`.
    ///
    /// # Errors
    /// Names the first field that is malformed or cannot be had.
    pub fn read(list: &[Value]) -> Result<Conversation> {
        let most = geb::limits::MAX_MESSAGES;
        if list.is_empty() || list.len() > most {
            let message = format!("messages has {} messages, allowed: 1 to {most}", list.len());
            return Err(ApiError::field("messages", message));
        }
        let messages = list.iter().enumerate();
        let messages = messages.map(|(i, m)| message(m, &format!("messages[{i}]")));
        Ok(Conversation {
            messages: messages.collect::<Result<_>>()?,
            parallel: true,
            ..Conversation::default()
        })
    }

    /// Reads `tools`, each of type function.
    ///
    /// # Errors
    /// Names the first field that is malformed.
    pub fn read_tools(&mut self, list: &[Value]) -> Result<()> {
        if list.len() > limits::TOOLS {
            let message = format!(
                "tools has {} tools, allowed: at most {}",
                list.len(),
                limits::TOOLS
            );
            return Err(ApiError::field("tools", message));
        }
        for (i, tool) in list.iter().enumerate() {
            let f = Fields::inside(tool, &format!("tools[{i}]"))?;
            if f.text("type")? != Some("function") {
                return Err(ApiError::wrong(&f.name("type"), &tool["type"], "function"));
            }
            let function = f.required("function", f.object("function")?)?;
            let name = function.required("name", function.text("name")?)?;
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
            {
                let allowed = "letters, digits, _, - and .";
                return Err(ApiError::wrong(
                    &function.name("name"),
                    &json!(name),
                    allowed,
                ));
            }
            function.object("parameters")?;
            self.tools.push(tool.clone());
        }
        Ok(())
    }

    /// The tool of a choice is there.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_choice(&self) -> Result<()> {
        let named = |name: &str| self.tools.iter().any(|t| t["function"]["name"] == name);
        match &self.choice {
            Choice::Required if self.tools.is_empty() => Err(ApiError::field(
                "tool_choice",
                "tool_choice asks for a call, and there are no tools",
            )),
            Choice::Named(name) if !named(name) => {
                let message = format!("tool_choice is {name:?}, allowed: the name of one of tools");
                Err(ApiError::field("tool_choice", message))
            }
            _ => Ok(()),
        }
    }

    /// Sets a switch of the template.
    ///
    /// # Errors
    /// For one that is not known.
    pub fn switch(&mut self, key: &str, value: Value) -> Result<()> {
        if !SWITCHES.contains(&key) {
            let message = format!(
                "chat_template_kwargs.{key} is not known, allowed: {}",
                SWITCHES.join(", ")
            );
            return Err(ApiError::field("chat_template_kwargs", message));
        }
        self.switches.insert(key.to_owned(), value);
        Ok(())
    }

    /// Whether the answer goes on with the last message.
    pub fn is_continued(&self) -> bool {
        self.messages
            .last()
            .is_some_and(|m| m["role"] == "assistant")
    }

    /// How long to reason; `none`: not at all.
    ///
    /// # Errors
    /// For another word, with `at` as its place.
    pub fn effort(&mut self, effort: &str, at: &str) -> Result<()> {
        let known = ["none", "minimal", "low", "medium", "high", "xhigh"];
        if !known.contains(&effort) {
            return Err(ApiError::wrong(at, &json!(effort), &known.join(", ")));
        }
        self.switch("enable_thinking", (effort != "none").into())?;
        self.switch("reasoning_effort", effort.into())
    }

    /// The tokens after which the answer comes, and how to read it. Takes as long as the template takes: not for a
    /// task.
    ///
    /// # Errors
    /// For a model without a template, a conversation that its template refuses, one that is longer than the
    /// context, a form that no answer can be held to.
    pub fn prompt(&self, speaker: &Speaker) -> Result<Prompt> {
        let tools = match self.choice {
            Choice::None => Vec::new(),
            _ => self.tools.clone(),
        };
        let Some(template) = speaker.template_of(!tools.is_empty()) else {
            let message = "the model has no chat template: /v1/completions continues texts";
            return Err(ApiError::new(Fault::NotSupported, message));
        };
        self.check_length()?;
        let named = |e: geb::Error| match &e {
            // All that the template is given, most of which are the messages.
            geb::Error::Request { what, .. } if what != "conversation" => {
                ApiError::of(&what.clone(), &e)
            }
            _ => ApiError::of("messages", &e),
        };
        let request = self.request(speaker, &tools);
        let prompt = template
            .encode_json(&speaker.tokenizer, &request)
            .map_err(named)?;
        ask::check_prompt(&prompt.ids, speaker.ctx, "messages")?;
        let reading = Reading {
            format: template.reply_format().clone(),
            opened: prompt.opened,
            tools: Tool::list(&tools.into()).map_err(named)?,
            parallel: self.parallel,
        };
        let asked = form::Asked {
            form: self.format.as_ref(),
            choice: self.tool_choice(),
            tools: &reading.tools,
            parallel: reading.parallel,
            format: &reading.format,
            opened: &reading.opened,
        };
        Ok(Prompt {
            held: asked.hold(speaker)?,
            reading: Some(reading),
            ..Prompt::of(prompt.ids)
        })
    }

    /// Which tools the answer calls; none where there are none for it.
    fn tool_choice(&self) -> Option<ToolChoice> {
        match &self.choice {
            Choice::None => None,
            Choice::Auto if self.tools.is_empty() => None,
            Choice::Auto => Some(ToolChoice::Auto),
            Choice::Required => Some(ToolChoice::Required),
            Choice::Named(name) => Some(ToolChoice::Function(name.clone())),
        }
    }

    /// What the template is given.
    fn request(&self, speaker: &Speaker, tools: &[Value]) -> Value {
        let mut messages = self.messages.clone();
        let has_system = messages.iter().any(|m| m["role"] == "system");
        if let Some(text) = speaker.system.as_deref().filter(|_| !has_system) {
            messages.insert(0, json!({ "role": "system", "content": text }));
        }
        let mut request = json!({
            "messages": messages,
            "add_generation_prompt": !self.is_continued(),
            "continue_final_message": self.is_continued(),
            "chat_template_kwargs": self.switches,
        });
        if !tools.is_empty() {
            request["tools"] = tools.into();
        }
        request
    }

    /// What is longer than any text that is read is refused before the template sees it.
    fn check_length(&self) -> Result<()> {
        let texts = self.messages.iter().filter_map(|m| m["content"].as_str());
        let (bytes, most) = (texts.map(str::len).sum::<usize>(), limits::TEXT_BYTES);
        if bytes > most {
            let message = format!("messages have {bytes} bytes of text, allowed: at most {most}");
            return Err(ApiError::field("messages", message));
        }
        Ok(())
    }
}

/// A message in the form that templates expect.
fn message(value: &Value, at: &str) -> Result<Value> {
    let f = Fields::inside(value, at)?;
    let role = f.required("role", f.text("role")?)?;
    // The newer name of the same thing.
    let role = if role == "developer" { "system" } else { role };
    if !["system", "user", "assistant", "tool"].contains(&role) {
        let allowed = "system, developer, user, assistant, tool";
        return Err(ApiError::wrong(&f.name("role"), &value["role"], allowed));
    }
    let text = match f.value("content") {
        None => String::new(),
        Some(content) => content_text(content, &f.name("content"))?,
    };
    let mut message = json!({ "role": role, "content": text });
    for key in PASSED {
        if let Some(found) = f.value(key) {
            message[key] = found.clone();
        }
    }
    for key in ["reasoning_content", "reasoning"] {
        if let Some(found) = f.text(key)? {
            message["reasoning_content"] = found.into();
        }
    }
    if let Some(refusal) = f.text("refusal")? {
        message["content"] = refusal.into();
    }
    f.refuse(&["audio", "function_call"], "absent")?;
    f.accept(&["annotations"]);
    match f.unknown().first() {
        // A field of a message that is not known would change what was said.
        Some(name) => Err(ApiError::field(
            name,
            format!(
                "{name} is not known, allowed: role, content, {}",
                PASSED.join(", ")
            ),
        )),
        None => Ok(message),
    }
}

/// A text, or parts of type text.
fn content_text(value: &Value, at: &str) -> Result<String> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err(ApiError::wrong(at, value, "a text, or parts of type text")),
    };
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let f = Fields::inside(part, &at)?;
        let kind = f.required("type", f.text("type")?)?;
        let key = match kind {
            "text" | "input_text" | "output_text" => "text",
            "refusal" => "refusal",
            _ => {
                return Err(ApiError::wrong(
                    &f.name("type"),
                    &part["type"],
                    "text: the model reads nothing else",
                ));
            }
        };
        text.push_str(f.required(key, f.text(key)?)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_roles_and_texts() {
        let list = [
            json!({ "role": "developer", "content": "Be brief." }),
            json!({ "role": "user", "content": [{ "type": "text", "text": "Name " }, { "type": "text", "text": "a river." }], "name": "ada" }),
            json!({ "role": "assistant", "content": null, "tool_calls": [{}] }),
        ];
        let c = Conversation::read(&list).unwrap();
        assert_eq!(
            c.messages[0],
            json!({ "role": "system", "content": "Be brief." })
        );
        assert_eq!(c.messages[1]["content"], "Name a river.");
        assert_eq!(c.messages[2]["content"], "");
        assert!(c.is_continued());
    }

    #[test]
    fn what_is_not_text_is_refused_by_its_place() {
        let param = |m: Value| Conversation::read(&[m]).unwrap_err().param.unwrap();
        assert_eq!(
            param(json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] })),
            "messages[0].content[0].type"
        );
        assert_eq!(
            param(json!({ "role": "bard", "content": "x" })),
            "messages[0].role"
        );
        assert_eq!(param(json!({ "content": "x" })), "messages[0].role");
        assert_eq!(
            param(json!({ "role": "user", "content": 3 })),
            "messages[0].content"
        );
        assert_eq!(
            param(json!({ "role": "user", "content": "x", "mood": "good" })),
            "messages[0].mood"
        );
        assert!(Conversation::read(&[]).is_err());
    }
}
