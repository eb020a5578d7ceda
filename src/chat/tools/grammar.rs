//! Grammars that a reply with tool calls has to follow, in the Lark dialect of llguidance 1.9 (its `docs/syntax.md`):
//! `"…"` are texts, `<[7]>` is the token 7, `%json {…}` is a value of a schema.
//!
//! Texts are those of the table, so what follows a grammar is what the reader reads. There is none for notations
//! that are no JSON (`gemma4`, `lfm2`), and none for `auto` where a first line is the opening (`glm4`).

use std::fmt::Write;
use std::ops::Range;

use serde_json::Value;

use super::named::{Naming, Trim};
use super::object::{Keys, Place, Written};
use super::schema;
use super::table::{Beginning, Calls, IdStyle, Row};
use super::tagged::{Frame, Tags};
use super::tool::Tool;
use super::typed::takes_text_only;

/// Which calls a reply has to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// Any number of them, or none.
    Auto,
    /// At least one.
    Required,
    /// One of this function.
    Function(String),
}

/// How many calls a reply may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// One.
    One,
    /// As many as there are.
    Any,
}

/// A grammar, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallGrammar {
    /// The grammar.
    pub lark: String,
    /// Where it begins.
    pub from: From,
}

/// Where a grammar begins to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first token of the reply or, where there is reasoning, behind it.
    Start,
    /// Behind each of these texts, which a reply may hold or not. Where the grammar ends, the reply is free again.
    Behind(Vec<&'static str>),
}

/// Finds control tokens in a text: where, and their ids.
pub(super) type Controls<'a> = &'a dyn Fn(&str) -> Vec<(Range<usize>, u32)>;

/// What a grammar is written for.
pub(super) struct Wanted<'a> {
    pub row: &'static Row,
    pub tools: &'a [Tool],
    pub auto: bool,
    pub most: Most,
    pub beginning: Beginning,
    pub controls: Controls<'a>,
}

/// Writes the grammar; none where the row has none.
pub(super) fn written(wanted: &Wanted<'_>) -> Option<CallGrammar> {
    let mut writer = Writer {
        wanted,
        rules: String::new(),
    };
    let (start, from) = writer.start()?;
    let lark = format!("start: {start}\n{}", writer.rules);
    Some(CallGrammar { lark, from })
}

/// Everything, and nothing.
const ANY: &str = "/(.|\\n)*/";

struct Writer<'a> {
    wanted: &'a Wanted<'a>,
    rules: String,
}

impl Writer<'_> {
    fn start(&mut self) -> Option<(String, From)> {
        let row = self.wanted.row;
        let (auto, several) = (self.wanted.auto, self.wanted.most == Most::Any);
        let behind = || From::Behind(row.open.to_vec());
        match &row.calls {
            Calls::Objects(keys, Place::Whole) => Some((self.whole(keys), From::Start)),
            Calls::Objects(keys, Place::Marked) => {
                let call = self.calls(|w, i, tool| w.object(keys, i, tool));
                let close = self.text(row.close);
                let [first, next, last] = match keys.written {
                    Written::Lines => ["\n", "", "\n"],
                    Written::List => ["[", ", ", "]"],
                    Written::Block => ["[\n    ", ",\n    ", "\n]"],
                };
                let more = match several && !next.is_empty() {
                    true => format!(" ({} {call})*", quoted(next)),
                    false => String::new(),
                };
                let body = format!("{} {call}{more} {} {close}", quoted(first), quoted(last));
                Some(self.opened(body, keys.written == Written::Lines))
            }
            Calls::Named(naming) if row.open.is_empty() => {
                let call = self.calls(|w, i, tool| w.named(naming, i, tool));
                (!auto).then_some((call, From::Start))
            }
            Calls::Named(naming) => {
                let call = self.calls(|w, i, tool| w.named(naming, i, tool));
                Some(self.named_section(naming, &call))
            }
            Calls::Tagged(tags) => {
                let call = self.calls(|w, i, tool| w.tagged(tags, i, tool));
                let close = self.text(row.close);
                // Each call has its opening, or several stand in one section.
                let apart = tags.frame == Frame::Lines || tags.call.is_empty();
                let more = if several && !apart {
                    " (\"\\n\" call)*"
                } else {
                    ""
                };
                let body = match tags.call {
                    "" => call,
                    _ => format!("\"\\n\" {call}{more} \"\\n\" {close}"),
                };
                Some(self.opened(body, apart))
            }
            Calls::Noted(_) => None,
            Calls::Harmony if auto => {
                let call = self.calls(|w, i, tool| w.harmony(i, tool));
                let before = vec!["to=functions."];
                Some((call, From::Behind(before)))
            }
            Calls::Harmony => {
                let call = self.calls(|w, i, tool| w.harmony(i, tool));
                let think = self.text("<|channel|>analysis<|message|>");
                let next = self.text("<|end|><|start|>assistant");
                let open = self.text("<|channel|>commentary to=functions.");
                let start = format!("({think} any {next})? {open} {call}");
                _ = writeln!(self.rules, "any: {ANY}");
                Some((start, From::Start))
            }
        }
        .map(|(start, from)| match from {
            From::Behind(all) if all.is_empty() => (start, behind()),
            from => (start, from),
        })
    }

    /// A section behind its opening; `repeats`: several calls are several sections.
    fn opened(&self, body: String, repeats: bool) -> (String, From) {
        if self.wanted.auto {
            return (body, From::Behind(Vec::new()));
        }
        let open = self.wanted.row.open.first().copied().unwrap_or_default();
        let open = match self.wanted.beginning {
            Beginning::Call => String::new(),
            _ => format!("{} ", self.text(open)),
        };
        let one = format!("{open}{body}");
        let start = match repeats && self.wanted.most == Most::Any {
            true => format!("{one} (\"\\n\" {one})*"),
            false => one,
        };
        (start, From::Start)
    }

    fn named_section(&self, naming: &Naming, call: &str) -> (String, From) {
        let row = self.wanted.row;
        let several = self.wanted.most == Most::Any;
        if !row.close.is_empty() {
            let close = self.text(row.close);
            // Endings that hold a line end have one between calls, too.
            let line = if naming.end.contains('\n') {
                "\"\\n\" "
            } else {
                ""
            };
            let body = match several {
                true => format!("{call} ({line}{call})* {close}"),
                false => format!("{call} {close}"),
            };
            return self.opened(body, false);
        }
        // The opening of one call is that of the next.
        let open = row.open.first().copied().unwrap_or_default();
        let open = self.text(open);
        let text = match naming.text {
            "" => String::new(),
            name => format!(" | {} {ANY}", quoted(&format!("{name}\n"))),
        };
        if self.wanted.auto {
            return (format!("{call}{text}"), From::Behind(Vec::new()));
        }
        let first = match self.wanted.beginning {
            Beginning::Call => call.to_owned(),
            _ => format!("{open} {call}"),
        };
        let start = match several {
            true => format!("{first} ({open} {call})*"),
            false => first,
        };
        (start, From::Start)
    }

    /// The whole reply is a call or, for `auto`, something that cannot be one.
    fn whole(&mut self, keys: &'static Keys) -> String {
        let call = self.calls(|w, i, tool| w.object(keys, i, tool));
        if !self.wanted.auto {
            return call;
        }
        match keys.answer {
            Some(answer) => {
                let key = quoted(&format!("{{\"{answer}\": "));
                _ = writeln!(self.rules, "said: %json {{\"type\": \"string\"}}");
                format!("{call} | {key} said \"}}\"")
            }
            None => {
                _ = writeln!(self.rules, "said: /([^{{](.|\\n)*)?/");
                format!("{call} | said")
            }
        }
    }

    /// A rule for each tool; the rule for one of them.
    fn calls(&mut self, one: impl Fn(&mut Self, usize, &Tool) -> String) -> String {
        let mut names = Vec::new();
        for (i, tool) in self.wanted.tools.iter().enumerate() {
            let body = one(self, i, tool);
            _ = writeln!(self.rules, "call_{i}: {body}");
            names.push(format!("call_{i}"));
        }
        _ = writeln!(self.rules, "call: {}", names.join(" | "));
        "call".to_owned()
    }

    /// A rule for the arguments of a tool.
    fn arguments(&mut self, at: usize, tool: &Tool) -> String {
        let schema = schema::arguments(tool);
        _ = writeln!(self.rules, "args_{at}: %json {schema}");
        format!("args_{at}")
    }

    fn object(&mut self, keys: &Keys, at: usize, tool: &Tool) -> String {
        let name = Value::from(tool.name.as_str());
        let argument = keys.arguments.first().copied().unwrap_or_default();
        let args = self.arguments(at, tool);
        let middle = format!("\"{}\": {name}, \"{argument}\": ", keys.name);
        let (before, end) = match (keys.answer, keys.inside.first()) {
            (Some(_), Some(inside)) => (format!("{{\"{inside}\": {{{middle}"), "}}"),
            _ => (format!("{{{middle}"), "}"),
        };
        // Cohere numbers its calls.
        if keys.name == "tool_name" {
            let before = format!("\", {middle}");
            return format!(
                "\"{{\\\"tool_call_id\\\": \\\"\" /[0-9]{{1,3}}/ {} {args} \"}}\"",
                quoted(&before)
            );
        }
        // Mistral's models like to name their calls.
        let id = match self.wanted.row.ids {
            IdStyle::Nine => " (\", \\\"id\\\": \\\"\" /[a-zA-Z0-9]{9}/ \"\\\"\")?",
            _ => "",
        };
        format!("{} {args}{id} {}", quoted(&before), quoted(end))
    }

    fn named(&mut self, naming: &Naming, at: usize, tool: &Tool) -> String {
        let args = self.arguments(at, tool);
        let begin = match naming.trim {
            Trim::Kimi => format!("{}functions.{}:", naming.begin, tool.name),
            _ => format!("{}{}", naming.begin, tool.name),
        };
        let number = if naming.trim == Trim::Kimi {
            " /[0-9]{1,3}/"
        } else {
            ""
        };
        let (begin, separator) = (self.text(&begin), self.text(naming.separator));
        let end = self.text(naming.end);
        format!("{begin}{number} {separator} {args} {end}")
            .trim_end()
            .to_owned()
    }

    /// Behind `to=functions.`: the channel may stand before or behind the recipient.
    fn harmony(&mut self, at: usize, tool: &Tool) -> String {
        let args = self.arguments(at, tool);
        let name = quoted(&tool.name);
        let channel = self.text("<|channel|>commentary");
        let (json, message) = (self.text("<|constrain|>json"), self.text("<|message|>"));
        format!("{name} ({channel})? (\" \" {json} | \" json\")? {message} {args}")
    }

    fn tagged(&mut self, tags: &Tags, at: usize, tool: &Tool) -> String {
        let mut out = self.text(&format!("{}{}{}", tags.call, tool.name, tags.name_end));
        let properties = tool.parameters["properties"].as_object();
        let required = tool.parameters["required"].as_array();
        let line = if tags.frame == Frame::Lines { "\n" } else { "" };
        for (j, name) in properties.into_iter().flat_map(|p| p.keys()).enumerate() {
            let begin = match tags.value {
                "" => format!(
                    "\n{}{name}{}{line}",
                    tags.key,
                    self.key_end(tags, tool, name)
                ),
                value => format!("\n{}{name}{}\n{value}{line}", tags.key, tags.key_end),
            };
            let (begin, end) = (
                self.text(&begin),
                self.text(&format!("{line}{}", tags.value_end)),
            );
            let value = self.value(at, j, tool, name, &end);
            let one = format!("{begin} {value}");
            let needed = required.is_some_and(|r| r.iter().any(|r| r == name.as_str()));
            _ = match needed {
                true => write!(out, " {one}"),
                false => write!(out, " ({one})?"),
            };
        }
        let end = self.text(&format!("\n{}", tags.end));
        format!("{out} {end}")
    }

    /// What stands behind a key; DeepSeek says there whether the value is a string.
    fn key_end(&self, tags: &Tags, tool: &Tool, name: &str) -> String {
        if !tags.key.contains("DSML") {
            return tags.key_end.to_owned();
        }
        let text = takes_text_only(tool, name);
        format!("\" string=\"{text}{}", tags.key_end)
    }

    /// A value and its end.
    fn value(&mut self, at: usize, place: usize, tool: &Tool, name: &str, end: &str) -> String {
        let rule = format!("value_{at}_{place}");
        let schema = schema::parameter(tool, name);
        let choices = schema["enum"]
            .as_array()
            .filter(|all| all.iter().all(Value::is_string));
        if !takes_text_only(tool, name) {
            _ = writeln!(self.rules, "{rule}: %json {schema}");
        } else if let Some(choices) = choices {
            let texts = choices.iter().filter_map(Value::as_str).map(quoted);
            let texts: Vec<String> = texts.collect();
            _ = writeln!(self.rules, "{rule}: {}", texts.join(" | "));
        } else if !end.contains("<[") {
            // The shortest text that has the end behind it.
            _ = writeln!(self.rules, "{rule}[suffix={end}]: {ANY}");
            return rule;
        } else {
            _ = writeln!(self.rules, "{rule}: {ANY}");
        }
        format!("{rule} {end}")
    }

    /// A text of the format: control tokens by their ids.
    fn text(&self, text: &str) -> String {
        let mut parts = Vec::new();
        let mut from = 0;
        for (range, id) in (self.wanted.controls)(text) {
            if from < range.start {
                parts.push(quoted(&text[from..range.start]));
            }
            parts.push(format!("<[{id}]>"));
            from = range.end;
        }
        if from < text.len() {
            parts.push(quoted(&text[from..]));
        }
        parts.join(" ")
    }
}

/// A text as the dialect writes it: a JSON string without the one character that it does not take.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::table::ROWS;
    use super::*;

    fn tools() -> Vec<Tool> {
        Tool::list(&json!([
            {"function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}},
            {"function": {"name": "add\"\\", "parameters": {"type": "object", "x-guidance": {"lenient": false}}}},
        ]))
        .expect("valid")
    }

    /// `<…|…>` and `[UPPER]` are control tokens, numbered from 7 in the order in which they come.
    fn controls(text: &str) -> Vec<(Range<usize>, u32)> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = text[from..].find(['<', '[']).map(|at| from + at) {
            let close = if text[at..].starts_with('<') {
                '>'
            } else {
                ']'
            };
            let Some(end) = text[at..].find(close).map(|e| at + e + 1) else {
                break;
            };
            let part = text[at..end].contains("DSML");
            if text[at..end].contains(['|', '｜', ']']) && !part {
                found.push((at..end, 7 + found.len() as u32));
            }
            from = end;
        }
        found
    }

    fn grammar(name: &str, auto: bool, most: Most, tools: &[Tool]) -> Option<CallGrammar> {
        let row = ROWS.iter().find(|r| r.name == name).expect("a row");
        written(&Wanted {
            row,
            tools,
            auto,
            most,
            beginning: Beginning::Text,
            controls: &controls,
        })
    }

    #[test]
    fn objects_are_written_as_the_family_writes_them() {
        let found = grammar("hermes", false, Most::Any, &tools()).expect("one");
        assert_eq!(found.from, From::Start);
        let wanted = r#"start: "<tool_call>" "\n" call "\n" "</tool_call>" ("\n" "<tool_call>" "\n" call "\n" "</tool_call>")*
args_0: %json {"properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"],"type":"object","additionalProperties":false,"x-guidance":{"lenient":true,"coerce_one_of":true,"whitespace_pattern":"[ ]|\\n[ ]{0,20}"}}
call_0: "{\"name\": \"get_weather\", \"arguments\": " args_0 "}"
args_1: %json {"type":"object","x-guidance":{"lenient":true,"coerce_one_of":true,"whitespace_pattern":"[ ]|\\n[ ]{0,20}"}}
call_1: "{\"name\": \"add\\\"\\\\\", \"arguments\": " args_1 "}"
call: call_0 | call_1
"#;
        assert_eq!(found.lark, wanted);
        let found = grammar("hermes", true, Most::One, &tools()[..1]).expect("one");
        assert_eq!(found.from, From::Behind(vec!["<tool_call>"]));
        assert!(
            found
                .lark
                .starts_with("start: \"\\n\" call \"\\n\" \"</tool_call>\"\n"),
            "{}",
            found.lark
        );
    }

    #[test]
    fn starts_are_those_of_the_table() {
        for (name, auto, most, start) in [
            (
                "mistral-list",
                false,
                Most::Any,
                r#"<[7]> "[" call (", " call)* "]" "#,
            ),
            (
                "command-r7b",
                false,
                Most::One,
                r#"<[7]> "[\n    " call "\n]" <[7]>"#,
            ),
            ("mistral-args", false, Most::Any, "<[7]> call (<[7]> call)*"),
            ("mistral-args", true, Most::Any, "call"),
            ("kimi", false, Most::Any, "<[7]> call (call)* <[7]>"),
            (
                "deepseek-r1",
                false,
                Most::Any,
                r#"<[7]> call ("\n" call)* <[7]>"#,
            ),
            (
                "functionary",
                true,
                Most::Any,
                r#"call | "all\n" /(.|\n)*/"#,
            ),
            ("llama3", true, Most::One, "call | said"),
            ("llama3", false, Most::One, "call"),
            (
                "generic",
                true,
                Most::One,
                r#"call | "{\"response\": " said "}""#,
            ),
            ("glm4", false, Most::One, "call"),
            ("harmony", true, Most::One, "call"),
            (
                "qwen-coder",
                false,
                Most::One,
                r#""<tool_call>" "\n" call "\n" "</tool_call>""#,
            ),
            (
                "glm45",
                false,
                Most::Any,
                r#""<tool_call>" call ("\n" "<tool_call>" call)*"#,
            ),
            (
                "minimax-m2",
                false,
                Most::Any,
                r#""<minimax:tool_call>" "\n" call ("\n" call)* "\n" "</minimax:tool_call>""#,
            ),
        ] {
            let found = grammar(name, auto, most, &tools()[..1]).expect("one");
            let line = found.lark.lines().next().expect("a line");
            assert_eq!(
                line.trim_end(),
                format!("start: {start}").trim_end(),
                "{name}"
            );
        }
    }

    #[test]
    fn some_rows_have_no_grammar() {
        for (name, auto) in [("gemma4", false), ("lfm2", true), ("glm4", true)] {
            assert_eq!(grammar(name, auto, Most::One, &tools()), None, "{name}");
        }
        let harmony = grammar("harmony", true, Most::One, &tools()).expect("one");
        assert_eq!(harmony.from, From::Behind(vec!["to=functions."]));
    }

    #[test]
    fn calls_hold_control_tokens_by_their_ids() {
        let call = |name: &str| {
            let found = grammar(name, false, Most::One, &tools()[..1]).expect("one");
            let line = found
                .lark
                .lines()
                .find_map(|l| l.strip_prefix("call_0: ").map(str::to_owned));
            line.expect("a rule")
        };
        assert_eq!(
            call("kimi"),
            r#"<[7]> "functions.get_weather:" /[0-9]{1,3}/ <[7]> args_0 <[7]>"#
        );
        assert_eq!(call("mistral-args"), r#""get_weather" <[7]> args_0"#);
        assert_eq!(
            call("deepseek-r1"),
            r#"<[7]> "function" <[8]> "get_weather" "\n```json\n" args_0 "\n```" <[7]>"#
        );
        assert_eq!(
            call("command-r7b"),
            r#""{\"tool_call_id\": \"" /[0-9]{1,3}/ "\", \"tool_name\": \"get_weather\", \"parameters\": " args_0 "}""#
        );
        assert_eq!(
            call("generic"),
            r#""{\"tool_call\": {\"name\": \"get_weather\", \"arguments\": " args_0 "}}""#
        );
        assert_eq!(
            call("harmony"),
            r#""get_weather" (<[7]> "commentary")? (" " <[7]> "json" | " json")? <[7]> args_0"#
        );
        assert_eq!(
            call("qwen-coder"),
            r#""<function=get_weather>" "\n<parameter=city>\n" value_0_0 ("\n<parameter=days>\n" value_0_1 "\n</parameter>")? "\n</function>""#
        );
        let coder = grammar("qwen-coder", false, Most::One, &tools()[..1])
            .expect("one")
            .lark;
        assert!(
            coder.contains("value_0_0[suffix=\"\\n</parameter>\"]: /(.|\\n)*/\n"),
            "{coder}"
        );
        assert!(
            coder.contains("value_0_1: %json {\"type\":\"integer\""),
            "{coder}"
        );
        let dsml = grammar("deepseek-v32", false, Most::One, &tools()[..1])
            .expect("one")
            .lark;
        assert!(dsml.contains("string=\\\"false"), "{dsml}");
    }
}
