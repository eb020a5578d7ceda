//! What a template is given of a request: in the form in which it wants messages and calls.

use serde_json::{Map, Value, json};

use super::request::{Made, Request, Role, Said};
use super::shape::Shape;
use super::tools::forms::{ArgumentsAs, CallsAs, Forms, NoContent, Preamble, Several};
use super::tools::{CallIds, IdStyle, nine};
use crate::error::{Error, Result};

/// The form of one template.
pub(super) struct Form<'a> {
    pub shape: &'a Shape,
    pub forms: Forms,
    pub ids: IdStyle,
    /// Its source, which says what it calls reasoning.
    pub source: &'a str,
    /// Is put behind the content of an answer that is continued.
    pub cut: char,
}

/// A context, and what has been said of an answer that is continued.
pub(super) struct Conversation {
    pub context: Value,
    pub continued: Option<String>,
}

impl Conversation {
    /// The context of a request.
    ///
    /// # Errors
    /// [`Error::Request`] if an answer is to be continued and there is none, or one with calls.
    pub fn of(request: &Request, form: &Form<'_>) -> Result<Conversation> {
        let mut said = request.messages.clone();
        named(&mut said);
        identified(&mut said, form.ids);
        let mut tools = request.tools.clone();
        if form.forms.calls == CallsAs::Text {
            said = as_text(said, &tools);
            tools.clear();
        }
        if form.forms.several == Several::Apart {
            said = apart(said);
        }
        if !form.shape.system {
            said = without_system(said);
        }
        let continued = match request.goes_on {
            true => Some(continued(&mut said, form.cut)?),
            false => None,
        };
        let messages: Vec<Value> = said.iter().map(|s| message(s, form)).collect();
        let mut context = request.switches.clone();
        context.insert("messages".into(), Value::Array(messages));
        if !tools.is_empty() {
            context.insert("tools".into(), Value::Array(tools));
        }
        if !request.documents.is_null() {
            context.insert("documents".into(), request.documents.clone());
        }
        context.insert("add_generation_prompt".into(), json!(request.prompt));
        Ok(Conversation {
            context: Value::Object(context),
            continued,
        })
    }
}

/// Results get the names of their functions.
fn named(said: &mut [Said]) {
    let mut calls: Vec<(String, String)> = Vec::new();
    for s in said {
        for call in &s.calls {
            calls.extend(call.id.clone().map(|id| (id, call.name.clone())));
        }
        if s.role == Role::Tool && s.name.is_none() {
            let call = calls.iter().rfind(|(id, _)| Some(id) == s.call_id.as_ref());
            s.name = call.map(|(_, name)| name.clone());
        }
    }
}

/// Calls and their results get ids of the family's form: templates refuse or print others.
fn identified(said: &mut [Said], style: IdStyle) {
    let (mut count, mut last) = (0, Vec::new());
    for s in said {
        for call in &mut s.calls {
            let own = call.id.take();
            let id = own.clone().unwrap_or_else(|| format!("call_{count}"));
            let new = match style {
                IdStyle::Counted => id,
                IdStyle::Nine if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                    id
                }
                IdStyle::Nine => nine(&id),
                IdStyle::Kimi => {
                    let ids = CallIds {
                        first: count,
                        ..CallIds::default()
                    };
                    ids.id(style, 0, &call.name)
                }
            };
            last.push((own, new.clone()));
            call.id = Some(new);
            count += 1;
        }
        if s.role == Role::Tool {
            let call = last.iter().rfind(|(own, _)| *own == s.call_id);
            s.call_id = match (call, style) {
                (Some((_, new)), _) => Some(new.clone()),
                (None, IdStyle::Nine) => s.call_id.as_deref().map(nine),
                (None, _) => s.call_id.take(),
            };
        }
    }
}

/// Each call in a message of its own, its result behind it.
fn apart(said: Vec<Said>) -> Vec<Said> {
    let mut out = Vec::new();
    let mut rest = said.into_iter().peekable();
    while let Some(mut s) = rest.next() {
        if s.calls.len() < 2 {
            out.push(s);
            continue;
        }
        let mut results = Vec::new();
        while let Some(result) = rest.next_if(|s| s.role == Role::Tool) {
            results.push(result);
        }
        for call in std::mem::take(&mut s.calls) {
            let of_it = |r: &Said| r.call_id == call.id;
            let (own, others): (Vec<Said>, Vec<Said>) = results.into_iter().partition(of_it);
            let (content, reasoning) = (s.content.take(), s.reasoning.take());
            out.push(Said {
                content,
                reasoning,
                calls: vec![call],
                ..s.clone()
            });
            out.extend(own);
            results = others;
        }
        out.extend(results);
    }
    out
}

/// Where a template knows no calls, they are text of ours, and so are the tools.
fn as_text(said: Vec<Said>, tools: &[Value]) -> Vec<Said> {
    let calls = said
        .iter()
        .any(|s| !s.calls.is_empty() || s.role == Role::Tool);
    if tools.is_empty() && !calls {
        return said;
    }
    let mut out: Vec<Said> = Vec::new();
    for mut s in said {
        match s.role {
            Role::Assistant => {
                let answer = s.content.take().filter(|c| !c.is_empty());
                let answer = answer.map(|text| json!({ "response": text }));
                let call =
                    |m: &Made| json!({ "tool_call": { "name": m.name, "arguments": m.arguments } });
                let lines = answer.into_iter().chain(s.calls.iter().map(call));
                let lines: Vec<String> = lines.map(|l| l.to_string()).collect();
                s.content = Some(lines.join("\n"));
                s.calls.clear();
            }
            Role::Tool => {
                let result = json!({ "tool_result": { "name": s.name, "content": s.content } });
                s = Said::new(Role::User, result.to_string());
            }
            Role::System | Role::User => {}
        }
        // Templates want users and assistants in turn.
        match out.last_mut() {
            Some(last) if last.role == Role::User && s.role == Role::User => {
                let text = s.content.unwrap_or_default();
                last.content = Some(format!(
                    "{}\n{text}",
                    last.content.take().unwrap_or_default()
                ));
            }
            _ => out.push(s),
        }
    }
    if !tools.is_empty() {
        let list: Vec<String> = tools.iter().map(|t| t["function"].to_string()).collect();
        let text = format!("{}\n{}", GENERIC, list.join("\n"));
        match out.first_mut() {
            Some(first) if first.role == Role::System => {
                let own = first.content.take().unwrap_or_default();
                first.content = Some(format!("{own}\n\n{text}"));
            }
            _ => out.insert(0, Said::new(Role::System, text)),
        }
    }
    out
}

/// What the model of a template without calls is told.
const GENERIC: &str = "You can call the functions below. Your whole answer is one JSON object: \
{\"tool_call\": {\"name\": \"FUNCTION\", \"arguments\": {…}}} calls one, {\"response\": \"TEXT\"} answers the user. \
Results of calls come as {\"tool_result\": …}. Functions, one per line:";

/// The text of a first system message goes before the first user's.
fn without_system(mut said: Vec<Said>) -> Vec<Said> {
    if said.first().is_none_or(|s| s.role != Role::System) {
        return said;
    }
    let system = said.remove(0).content.unwrap_or_default();
    match said.iter_mut().find(|s| s.role == Role::User) {
        Some(_) if system.is_empty() => {}
        Some(user) => {
            let own = user.content.take().unwrap_or_default();
            user.content = Some(format!("{system}\n\n{own}"));
        }
        None => said.insert(0, Said::new(Role::User, system)),
    }
    said
}

/// Marks where the last answer ends; what it has said.
fn continued(said: &mut [Said], cut: char) -> Result<String> {
    let refused = |value: &str| Error::Request {
        what: "message to continue".into(),
        value: value.into(),
        allowed: "a last message by the assistant without tool calls".into(),
    };
    let last = said.last_mut().ok_or_else(|| refused("absent"))?;
    if last.role != Role::Assistant {
        return Err(refused(last.role.name()));
    }
    if !last.calls.is_empty() {
        return Err(refused("one with tool calls"));
    }
    let text = last.content.take().unwrap_or_default();
    last.content = Some(format!("{text}{cut}"));
    Ok(text)
}

fn message(said: &Said, form: &Form<'_>) -> Value {
    let forms = form.forms;
    let calls = !said.calls.is_empty();
    let content = said.content.as_deref().filter(|c| !calls || !c.is_empty());
    let content = content.filter(|_| !calls || forms.preamble == Preamble::Kept);
    let text = content.unwrap_or_default();
    let Value::Object(mut out) = form.shape.message(said.role.name(), text) else {
        return Value::Null;
    };
    if calls && content.is_none() {
        match forms.content {
            NoContent::Null => _ = out.insert("content".into(), Value::Null),
            NoContent::Empty => _ = out.insert("content".into(), json!("")),
            NoContent::Absent => _ = out.shift_remove("content"),
        }
    }
    if let Some(reasoning) = &said.reasoning {
        reason(reasoning, calls && content.is_some(), form.source, &mut out);
    }
    if calls {
        let list = said.calls.iter().map(|c| call(c, forms.arguments));
        out.insert("tool_calls".into(), list.collect());
    }
    let texts = [("name", &said.name), ("tool_call_id", &said.call_id)];
    for (key, text) in texts {
        if let Some(text) = text {
            out.insert(key.into(), json!(text));
        }
    }
    Value::Object(out)
}

/// Reasoning under the name that the template asks for. Those that call it `thinking` take no content beside it
/// in a message with calls.
fn reason(text: &str, beside: bool, source: &str, out: &mut Map<String, Value>) {
    const NAMES: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let asked = |name: &&&str| {
        let ways = [".", "'", "\""].map(|before| format!("{before}{name}"));
        ways.iter().any(|w| source.contains(w))
    };
    match NAMES.iter().find(asked) {
        Some(&"thinking") if beside => {}
        Some(name) => _ = out.insert((*name).into(), json!(text)),
        None => {}
    }
}

fn call(made: &Made, arguments: ArgumentsAs) -> Value {
    let arguments = match arguments {
        ArgumentsAs::Object => json!(made.arguments),
        ArgumentsAs::Text => json!(json!(made.arguments).to_string()),
    };
    json!({
        "id": made.id, "type": "function",
        "function": { "name": made.name, "arguments": arguments },
    })
}
