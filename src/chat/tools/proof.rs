//! Whether a row is a template's: two calls that the template renders must be read back as they were.

use serde_json::{Map, Value, json};

use super::events::{Delivery, Reply, ToolCall};
use super::forms::{ArgumentsAs, Forms, NoContent, Preamble, Several};
use super::ids::CallIds;
use super::object::Place;
use super::reply::{ReplyParser, Style};
use super::table::{Beginning, Calls, Names, Pair, Row};
use super::tool::Tool;

/// Renders a context, or says why not.
pub(in crate::chat) type Render<'a> = &'a dyn Fn(&Value) -> Result<String, String>;

/// What rendering has shown of the row that a template's markers name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Two calls were rendered and read back as they were.
    Proved,
    /// The template renders no calls: its markers decide.
    Unrendered,
    /// The template has no markers: the generic row.
    Unmarked,
    /// Calls were rendered and not read back: the generic row. Which row it was not, and what was seen.
    Failed {
        /// The row that its markers name.
        row: &'static str,
        /// What happened instead.
        why: String,
    },
}

/// Everything that is needed to try.
pub(super) struct Trial<'a> {
    pub row: &'static Row,
    pub pair: Option<&'static Pair>,
    pub render: Render<'a>,
    /// A user's message in the template's form.
    pub user: &'a Value,
    /// Texts that end a turn.
    pub ends: &'a dyn Fn(&str) -> bool,
}

const NAMES: [&str; 2] = ["probe_first", "probe_second"];
const PREAMBLE: &str = "qzpreambleqz";

/// What one attempt has shown.
enum Seen {
    Equal,
    /// No call in the text, or the template refused.
    Nothing,
    Other(String),
}

impl Trial<'_> {
    /// Tries the forms in which calls may be given.
    pub fn run(&self) -> (Proof, Forms) {
        let (mut why, mut equal) = (None, None);
        for several in [Several::Together, Several::Apart] {
            for content in [NoContent::Empty, NoContent::Null, NoContent::Absent] {
                for arguments in [ArgumentsAs::Object, ArgumentsAs::Text] {
                    let forms = Forms {
                        content,
                        arguments,
                        several,
                        ..Forms::USUAL
                    };
                    match self.attempt(&forms, None) {
                        Seen::Equal if self.goes_on(&forms) => {
                            return (Proof::Proved, self.with_preamble(forms));
                        }
                        Seen::Equal => _ = equal.get_or_insert(forms),
                        Seen::Nothing => {}
                        Seen::Other(seen) => _ = why.get_or_insert(seen),
                    }
                }
            }
        }
        if let Some(forms) = equal {
            return (Proof::Proved, self.with_preamble(forms));
        }
        match why {
            None => (Proof::Unrendered, Forms::USUAL),
            Some(why) => {
                let proof = Proof::Failed {
                    row: self.row.name,
                    why,
                };
                (proof, Forms::USUAL)
            }
        }
    }

    /// Whether a conversation can go on behind calls.
    fn goes_on(&self, forms: &Forms) -> bool {
        let all = arguments();
        let probes: Vec<Probe<'_>> = NAMES.into_iter().zip(&all).collect();
        let mut messages = vec![self.user.clone()];
        let size = match forms.several {
            Several::Together => probes.len(),
            Several::Apart => 1,
        };
        for calls in probes.chunks(size) {
            let message = self.message(forms, calls, None);
            let made = message["tool_calls"].as_array().into_iter().flatten();
            let result = |call: &Value| {
                let name = &call["function"]["name"];
                json!({ "role": "tool", "tool_call_id": call["id"], "name": name, "content": "42" })
            };
            let results: Vec<Value> = made.map(result).collect();
            messages.push(message);
            messages.extend(results);
        }
        messages.push(json!({ "role": "assistant", "content": PREAMBLE }));
        messages.push(self.user.clone());
        let context = json!({
            "messages": messages, "tools": tools(), "add_generation_prompt": true,
        });
        (self.render)(&context).is_ok()
    }

    fn with_preamble(&self, forms: Forms) -> Forms {
        let kept = matches!(self.attempt(&forms, Some(PREAMBLE)), Seen::Equal);
        let preamble = if kept { Preamble::Kept } else { Preamble::Lost };
        Forms { preamble, ..forms }
    }

    fn attempt(&self, forms: &Forms, content: Option<&str>) -> Seen {
        let all = arguments();
        let groups: Vec<&[Map<String, Value>]> = match forms.several {
            Several::Together => vec![&all[..]],
            Several::Apart => all.chunks(1).collect(),
        };
        for (first, group) in groups.into_iter().enumerate() {
            let calls: Vec<Probe<'_>> = (first..).zip(group).map(|(i, a)| (NAMES[i], a)).collect();
            match self.rendered(forms, &calls, content) {
                Seen::Equal => {}
                other => return other,
            }
        }
        Seen::Equal
    }

    fn rendered(&self, forms: &Forms, calls: &[Probe<'_>], content: Option<&str>) -> Seen {
        let tools = tools();
        let render = |messages: &[&Value], prompt: bool| {
            (self.render)(&json!({
                "messages": messages, "tools": tools, "add_generation_prompt": prompt,
            }))
        };
        let message = self.message(forms, calls, content);
        let Ok(text) = render(&[self.user, &message], false) else {
            return Seen::Nothing;
        };
        let prompt = render(&[self.user], true).unwrap_or_default();
        let asked = render(&[self.user], false).unwrap_or_default();
        let behind = behind(&asked, &text);
        let opened = self::behind(&asked, &prompt);
        let seen = calls.iter().filter(|(name, _)| behind.contains(name));
        if seen.count() == 0 {
            return Seen::Nothing;
        }
        let replies = [
            text.strip_prefix(&prompt)
                .map(|r| (r, self.row.beginning(self.pair, opened))),
            Some((behind, Beginning::Text)),
        ];
        let mut other = String::new();
        for (reply, beginning) in replies.into_iter().flatten() {
            let found = self.read(self.without_end(reply), beginning);
            if equal(&found, calls, content) {
                return Seen::Equal;
            }
            other = difference(&found, calls, reply);
        }
        Seen::Other(other)
    }

    fn message(&self, forms: &Forms, calls: &[Probe<'_>], content: Option<&str>) -> Value {
        let ids = CallIds::default();
        let call = |(i, (name, arguments)): (usize, &Probe<'_>)| {
            let arguments = match forms.arguments {
                ArgumentsAs::Object => json!(arguments),
                ArgumentsAs::Text => json!(json!(arguments).to_string()),
            };
            json!({
                "id": ids.id(self.row.ids, i, name), "type": "function",
                "function": { "name": name, "arguments": arguments },
            })
        };
        let calls: Vec<Value> = calls.iter().enumerate().map(call).collect();
        let mut message = json!({ "role": "assistant", "content": content, "tool_calls": calls });
        match (forms.content, content) {
            (_, Some(_)) | (NoContent::Null, _) => {}
            (NoContent::Empty, _) => message["content"] = json!(""),
            (NoContent::Absent, _) => {
                message.as_object_mut().map(|m| m.shift_remove("content"));
            }
        }
        message
    }

    fn read(&self, reply: &str, beginning: Beginning) -> Reply {
        let style = Style {
            row: self.row,
            pair: self.pair,
            beginning,
            delivery: Delivery::Whole,
        };
        let tools = Tool::list(&tools()).unwrap_or_default();
        let mut parser = ReplyParser::new(style, tools, CallIds::default());
        let mut found = Reply::default();
        let events = parser.push(reply).into_iter().chain(parser.finish());
        events.for_each(|e| found.add(e));
        found
    }

    /// A reply that is one call as a whole has no end of a turn behind it.
    fn without_end<'r>(&self, reply: &'r str) -> &'r str {
        let whole = matches!(self.row.calls, Calls::Objects(_, Place::Whole));
        if !whole && self.row.names != Names::Line {
            return reply;
        }
        let mut reply = reply.trim_end();
        while let Some(at) = reply.rfind(['<', '['])
            && (self.ends)(&reply[at..])
        {
            reply = reply[..at].trim_end();
        }
        reply
    }
}

/// What stands in `text` behind what it has in common with `before`.
fn behind<'t>(before: &str, text: &'t str) -> &'t str {
    let common = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b);
    let mut common = common.count();
    while !text.is_char_boundary(common) {
        common -= 1;
    }
    &text[common..]
}

/// What was read instead, in short.
fn difference(found: &Reply, calls: &[Probe<'_>], reply: &str) -> String {
    let pairs = found.calls.iter().zip(calls);
    let mut other = pairs.filter(|(call, probe)| !same(call, probe));
    match other.next() {
        Some((call, _)) => format!("{}({}) was read", call.name, call.arguments),
        None => {
            let start: String = reply.chars().take(200).collect();
            format!("{} calls were read of {start:?}", found.calls.len())
        }
    }
}

/// A call: name and arguments.
type Probe<'a> = (&'static str, &'a Map<String, Value>);

fn same(call: &ToolCall, probe: &Probe<'_>) -> bool {
    let read: Option<Map<String, Value>> = serde_json::from_str(&call.arguments).ok();
    call.name == probe.0 && read.as_ref() == Some(probe.1)
}

fn equal(found: &Reply, calls: &[Probe<'_>], content: Option<&str>) -> bool {
    let all = |(call, probe): (&ToolCall, &Probe<'_>)| same(call, probe);
    let said = &found.content;
    // What Python prints of a content that is none.
    let clean = !said.contains("None") && !NAMES.iter().any(|n| said.contains(n));
    let told = content.is_none_or(|c| said.contains(c) || found.reasoning.contains(c));
    found.calls.len() == calls.len() && found.calls.iter().zip(calls).all(all) && clean && told
}

/// Arguments with quotes, other scripts and nesting.
fn arguments() -> [Map<String, Value>; 2] {
    let first = json!({
        "city": "Zürich \"中\" {b}, it's <i> & more",
        "days": 2,
        "exact": true,
    });
    let second = json!({
        "ratio": 1.5,
        "lines": "one\ntwo",
        "list": [1, "two", {"three": "3 \"x\""}],
        "more": {"inner": {"deep": "é"}, "other": []},
    });
    [first, second].map(|v| match v {
        Value::Object(map) => map,
        _ => Map::new(),
    })
}

fn tools() -> Value {
    let tool = |name: &str, properties: Value| {
        json!({ "type": "function", "function": {
            "name": name, "description": "A probe.",
            "parameters": { "type": "object", "properties": properties, "required": [] },
        }})
    };
    let of = |kind: &str| json!({ "type": kind, "description": "A part." });
    json!([
        tool(
            NAMES[0],
            json!({ "city": of("string"), "days": of("integer"), "exact": of("boolean") })
        ),
        tool(
            NAMES[1],
            json!({
                "ratio": of("number"), "lines": of("string"),
                "list": { "type": "array", "description": "A part.", "items": {} },
                "more": { "type": "object", "description": "A part.", "properties": {} },
            })
        ),
    ])
}
