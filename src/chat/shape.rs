//! In which form a template wants messages.
//!
//! Templates of models that see pictures read a content as a list of parts and print nothing of a
//! plain text; some read parts from users and texts from others. Some refuse the role `system` or
//! leave it out. A template is foreign code, so the answer is found by rendering marked
//! conversations and looking for the marks.

use serde_json::{Value, json};

use super::Message;
use super::jinja::Fail;

/// The roles that a template may treat apart.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// What has been found out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shape {
    /// By [`ROLES`]: whether a content is a list of parts.
    parts: [bool; 3],
    /// Whether system messages are taken.
    pub system: bool,
}

/// Renders messages.
type Render<'a> = &'a dyn Fn(&[Value]) -> Result<String, Fail>;

/// The template has used up a budget, and would again.
#[derive(Debug)]
struct Exhausted;

impl Shape {
    /// Finds the form that prints the most of a conversation, plain texts where both do.
    pub fn of(source: &str, render: Render<'_>) -> Shape {
        let plain = Shape {
            parts: [false; 3],
            system: true,
        };
        Shape::found(source, render).unwrap_or(plain)
    }

    fn found(source: &str, render: Render<'_>) -> Result<Shape, Exhausted> {
        let mark = |name: &&str| {
            let mut mark = format!("qz{name}mark");
            while source.contains(&mark) {
                mark.push('q');
            }
            mark
        };
        let marks: Vec<String> = ["zero", "one", "two", "three"].iter().map(mark).collect();
        let all = [("system", 0), ("user", 1), ("assistant", 2), ("user", 3)];
        let mut parts = None;
        for roles in [&all[..], &all[1..], &all[1..2]] {
            let marked = |&(role, i): &(&'static str, usize)| (role, marks[i].as_str());
            let messages: Vec<(&str, &str)> = roles.iter().map(marked).collect();
            if parts.is_none() {
                parts = best(&messages, render)?;
            }
        }
        let shape = Shape {
            parts: parts.unwrap_or_default(),
            system: true,
        };
        let (system, user) = (("system", marks[0].as_str()), ("user", marks[1].as_str()));
        // Where nothing can be rendered, the error of the real conversation says why.
        let lost = shape
            .shown(&[system, user], render)?
            .is_none_or(|all| !all[0]);
        let refused = lost && shape.shown(&[user], render)?.is_some();
        Ok(Shape {
            system: !refused,
            ..shape
        })
    }

    /// Whether the contents of a role are lists; other roles (tools, say) speak as users do.
    fn in_parts(&self, role: &str) -> bool {
        self.parts[ROLES.iter().position(|r| *r == role).unwrap_or(1)]
    }

    /// A message in this form.
    pub fn message(&self, role: &str, content: &str) -> Value {
        if self.in_parts(role) {
            json!({ "role": role, "content": [{ "type": "text", "text": content }] })
        } else {
            json!({ "role": role, "content": content })
        }
    }

    /// Which contents are printed as they are; `None` when the template fails.
    fn shown(
        &self,
        messages: &[(&str, &str)],
        render: Render<'_>,
    ) -> Result<Option<Vec<bool>>, Exhausted> {
        let message = |(role, content): &(&str, &str)| self.message(role, content);
        let list: Vec<Value> = messages.iter().map(message).collect();
        let text = match render(&list) {
            Ok(text) => text,
            Err(fail) if fail.exhausted => return Err(Exhausted),
            Err(_) => return Ok(None),
        };
        // A list that is printed as one has its texts in quotes.
        let whole = |&(role, mark): &(&str, &str)| {
            let quoted = ['\'', '"']
                .iter()
                .any(|q| text.contains(&format!("{q}{mark}{q}")));
            text.contains(mark) && !(quoted && self.in_parts(role))
        };
        Ok(Some(messages.iter().map(whole).collect()))
    }
}

/// The roles whose contents have to be parts; `None` when the template fails on all forms.
fn best(messages: &[(&str, &str)], render: Render<'_>) -> Result<Option<[bool; 3]>, Exhausted> {
    let mut best: Option<(usize, [bool; 3])> = None;
    // By the number of roles that need parts.
    for bits in [0b000, 0b010, 0b100, 0b001, 0b110, 0b011, 0b101, 0b111] {
        let parts = std::array::from_fn(|i| bits & 1 << i != 0);
        let shape = Shape {
            parts,
            system: true,
        };
        let Some(shown) = shape.shown(messages, render)? else {
            continue;
        };
        let count = shown.iter().filter(|s| **s).count();
        if best.is_none_or(|(most, _)| count > most) {
            best = Some((count, parts));
        }
        if count == messages.len() {
            break;
        }
    }
    let best = best.filter(|(count, _)| *count > 0);
    Ok(best.map(|(_, parts)| parts))
}

/// The messages after a system text, with it before the first user's.
pub(super) fn folded(system: &str, messages: &[Message]) -> Vec<Message> {
    let mut out = messages.to_vec();
    match out.iter_mut().find(|m| m.role == "user") {
        Some(_) if system.is_empty() => {}
        Some(user) => user.content = format!("{system}\n\n{}", user.content),
        None => out.insert(0, Message::new("user", system)),
    }
    out
}
