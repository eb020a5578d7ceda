//! The `/commands` of a chat.

use std::path::Path;

use serde_json::{Value, json};

use crate::conversation::Chat;
use crate::load::{self, message};
use crate::model_path::nearest;
use crate::outputs;
use crate::report::{Failure, Outcome, note};

/// What the chat does next.
pub enum Next {
    /// Read the next line.
    Read,
    /// Answer the last user message.
    Answer,
    /// End the chat.
    Leave,
}

const HELP: &str = "\
/help          this list
/reset         forget the conversation
/regen         answer the last message again
/system TEXT   set what the model is told first (without TEXT: show it; `-`: remove it)
/save FILE     write the conversation as JSON (--force FILE: in the place of any file)
/load FILE     continue a saved conversation
/stats         speed, memory, context
/exit          leave (also Ctrl-D)
A line that ends in \\ continues on the next one.";

const NAMES: [&str; 9] = [
    "/help", "/reset", "/regen", "/system", "/save", "/load", "/stats", "/exit", "/quit",
];

/// Largest saved conversation that is read back.
const MAX_SAVED_BYTES: usize = 16 << 20;

/// Carries out a line that starts with `/`. Mistakes are reported and do not end the chat.
pub fn run(chat: &mut Chat, line: &str) -> Next {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match name {
        "/help" | "/?" => note(HELP),
        "/reset" => {
            chat.reset();
            note("(conversation forgotten)");
        }
        "/regen" => return regenerate(chat),
        "/system" => system(chat, rest),
        "/save" => tell(save(chat, rest)),
        "/load" => tell(load_saved(chat, rest)),
        "/stats" => note(chat.stats()),
        "/exit" | "/quit" | "/bye" => return Next::Leave,
        _ => {
            let near = nearest(name, &NAMES)
                .map(|n| format!("did you mean {n}? "))
                .unwrap_or_default();
            note(format_args!(
                "unknown command {name}; {near}/help lists them"
            ));
        }
    }
    Next::Read
}

fn tell(result: Outcome<String>) {
    match result {
        Ok(text) => note(text),
        Err(failure) => _ = failure.print(),
    }
}

/// Drops the last answer, so that it is given again (with another seed).
fn regenerate(chat: &mut Chat) -> Next {
    if chat.messages.last().is_some_and(|m| m.role == "assistant") {
        chat.messages.pop();
    }
    if chat.messages.is_empty() {
        note("(nothing to answer yet)");
        return Next::Read;
    }
    Next::Answer
}

fn system(chat: &mut Chat, text: &str) {
    match text {
        "" => note(chat.system.as_deref().unwrap_or("(no system text)")),
        "-" => {
            chat.system = None;
            note("(system text removed)");
        }
        text => {
            chat.system = Some(text.to_owned());
            note("(system text set; it also holds for the conversation so far)");
        }
    }
}

fn file_name<'a>(command: &str, rest: &'a str) -> Outcome<&'a Path> {
    if rest.is_empty() {
        return Err(Failure::usage(format!("{command} needs a file name")));
    }
    Ok(Path::new(rest))
}

fn save(chat: &Chat, rest: &str) -> Outcome<String> {
    let force = rest.strip_prefix("--force ").map(str::trim);
    let path = file_name("/save", force.unwrap_or(rest))?;
    let messages: Vec<Value> = chat
        .messages
        .iter()
        .map(|m| json!({ "role": m.role.to_string(), "content": m.content }))
        .collect();
    let saved = json!({ "geb_chat": 1, "system": chat.system, "messages": messages });
    let text = format!("{saved:#}\n");
    outputs::write(path, text.as_bytes(), outputs::CHAT.or_any(force.is_some())).map_err(|f| {
        match f.code {
            2 => f.hint("/save --force FILE replaces it"),
            _ => f,
        }
    })?;
    Ok(format!(
        "(saved {} messages to {})",
        chat.messages.len(),
        path.display()
    ))
}

fn load_saved(chat: &mut Chat, rest: &str) -> Outcome<String> {
    let path = file_name("/load", rest)?;
    let text = load::read_text(path, MAX_SAVED_BYTES)?;
    let bad = |what: &str| {
        Failure::new(format!(
            "{}: not a saved conversation: {what}",
            path.display()
        ))
    };
    let saved: Value = serde_json::from_str(&text).map_err(|e| bad(&e.to_string()))?;
    let list = saved
        .get("messages")
        .and_then(Value::as_array)
        .ok_or_else(|| bad("no list `messages`"))?;
    let mut messages = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let expected = if i % 2 == 0 { "user" } else { "assistant" };
        let field = |name: &str| entry.get(name).and_then(Value::as_str);
        match (field("role"), field("content")) {
            (Some(role), Some(content)) if role == expected => {
                messages.push(message(role, content))
            }
            _ => {
                return Err(bad(&format!(
                    "message {i} has no `content` or its `role` is not {expected}"
                )));
            }
        }
    }
    // A question without its answer would make two user messages in a row.
    messages.truncate(messages.len() / 2 * 2);
    chat.reset();
    chat.system = saved
        .get("system")
        .and_then(Value::as_str)
        .map(str::to_owned);
    chat.messages = messages;
    Ok(format!("(loaded {} messages)", chat.messages.len()))
}
