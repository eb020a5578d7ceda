//! Chat templates of a checkpoint folder.
//!
//! Order: the one given by the user, `tokenizer_config.json`, `chat_template.jinja`,
//! `chat_template.json`, and the family's default.

use serde_json::Value;

use super::family::spec::Family;
use super::folder::{Folder, bad, kind, short};
use super::tokens::{Sources, Vocab};
use geb::error::Result;
use geb::limits;

const FILE: &str = "tokenizer_config.json";

/// Reads the chat templates into `vocab`; `given` replaces them.
pub(super) fn read(
    folder: &Folder,
    sources: &Sources,
    family: &Family,
    given: Option<&str>,
    vocab: &mut Vocab,
) -> Result<()> {
    let stored = sources
        .tokenizer_config
        .as_ref()
        .and_then(|c| c.get("chat_template"))
        .filter(|v| !v.is_null());
    let mut out: Vec<(String, String)> = Vec::new();
    if let Some(text) = given {
        out.push(("default".into(), text.to_owned()));
    } else if let Some(Value::String(text)) = stored {
        out.push(("default".into(), text.clone()));
    } else if let Some(Value::Array(list)) = stored {
        for entry in list {
            let part = |k| entry.get(k).and_then(Value::as_str);
            let (Some(name), Some(text)) = (part("name"), part("template")) else {
                return Err(bad(
                    FILE,
                    "chat_template",
                    short(entry),
                    "objects with name and template",
                ));
            };
            out.push((name.to_owned(), text.to_owned()));
        }
    } else if let Some(other) = stored {
        return Err(bad(
            FILE,
            "chat_template",
            kind(other),
            "a string or a list",
        ));
    } else if let Some(text) = folder.text("chat_template.jinja")? {
        out.push(("default".into(), text));
    } else if let Some(json) = folder.json("chat_template.json")? {
        if let Some(text) = json.get("chat_template").and_then(Value::as_str) {
            out.push(("default".into(), text.to_owned()));
        }
    } else if let Some(template) = family.template {
        vocab.notes.push("no chat template in the folder: the form of the family is used (one that is given replaces it)".into());
        out.push(("default".into(), template.into()));
    }
    check(&out)?;
    vocab.templates = out;
    Ok(())
}

/// Names that fit a key, sources of a size the renderer accepts.
fn check(list: &[(String, String)]) -> Result<()> {
    for (name, text) in list {
        let plain = !name.is_empty()
            && name.len() <= 64
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        if !plain || text.len() > limits::MAX_TEMPLATE_BYTES {
            let allowed = format!(
                "a plain name and at most {} bytes",
                limits::MAX_TEMPLATE_BYTES
            );
            return Err(bad(
                FILE,
                "chat_template",
                format!(
                    "{:?} of {} bytes",
                    name.chars().take(64).collect::<String>(),
                    text.len()
                ),
                allowed,
            ));
        }
    }
    Ok(())
}
