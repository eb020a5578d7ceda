//! The way in which the model of a template writes: found by markers, proved by rendering.

use serde_json::Value;

use super::events::Delivery;
use super::forms::{CallsAs, Forms, Several};
use super::grammar::{CallGrammar, Most, ToolChoice, Wanted, written};
use super::ids::CallIds;
use super::proof::{Proof, Render, Trial};
use super::reply::{ReplyParser, Style};
use super::table::{Beginning, Calls, IdStyle, Pair, Row};
use super::tool::Tool;
use crate::constraint::Reasoning;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// How a model writes tool calls and reasoning.
#[derive(Clone, Debug)]
pub struct ReplyFormat {
    row: &'static Row,
    pair: Option<&'static Pair>,
    proof: Proof,
    forms: Forms,
}

/// What is known of a template.
pub(in crate::chat) struct Seen<'a> {
    pub source: &'a str,
    pub render: Render<'a>,
    /// A user's message in the template's form.
    pub user: Value,
    /// Whether a text ends a turn.
    pub ends: &'a dyn Fn(&str) -> bool,
}

/// What calls are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The tools of the request.
    pub tools: &'a [Tool],
    /// Which of them have to be called.
    pub choice: &'a ToolChoice,
    /// How many calls a reply may hold, where the format takes several.
    pub most: Most,
    /// What the prompt ends with.
    pub opened: &'a str,
}

fn refused(value: &str, allowed: String) -> Error {
    Error::Request {
        what: "tool_choice".into(),
        value: value.into(),
        allowed,
    }
}

impl ReplyFormat {
    pub(in crate::chat) fn of(seen: Seen<'_>) -> ReplyFormat {
        let generic = Row::generic();
        let mut first = None;
        for row in Row::of(seen.source).filter(|r| !std::ptr::eq(*r, generic)) {
            let pair = row.pair(seen.source);
            let trial = Trial {
                row,
                pair,
                render: seen.render,
                user: &seen.user,
                ends: seen.ends,
            };
            let (proof, forms) = trial.run();
            let format = ReplyFormat {
                row,
                pair,
                proof,
                forms,
            };
            if format.proof == Proof::Proved {
                return format;
            }
            first.get_or_insert(format);
        }
        let proof = match first {
            Some(format) if format.proof == Proof::Unrendered => return format,
            Some(format) => format.proof,
            None => Proof::Unmarked,
        };
        let calls = CallsAs::Text;
        ReplyFormat {
            row: generic,
            pair: generic.pair(seen.source),
            proof,
            forms: Forms {
                calls,
                ..Forms::USUAL
            },
        }
    }

    /// The name of the row: `hermes`, `mistral-args`, …, `generic`.
    pub fn name(&self) -> &'static str {
        self.row.name
    }

    /// What rendering two calls has shown.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// A line for a log: the format, and why it was taken.
    pub fn describe(&self) -> String {
        let name = self.name();
        match &self.proof {
            Proof::Proved => format!("tool calls: {name} (two calls rendered and read back)"),
            Proof::Unrendered => {
                format!("tool calls: {name} (by its markers; the template renders no calls)")
            }
            Proof::Unmarked => format!("tool calls: {name} (the template has no markers of calls)"),
            Proof::Failed { row, why } => format!(
                "tool calls: {name} (the template has the markers of {row}, but its calls are not read back: {why})"
            ),
        }
    }

    /// Texts that stand around reasoning, if the template knows some.
    pub fn reasoning(&self) -> Option<(&'static str, &'static str)> {
        self.pair.map(|p| (p.open, p.close))
    }

    /// Reasoning in front of an answer to a prompt that ends with `opened`.
    pub fn reasoning_before(&self, tokenizer: &Tokenizer, opened: &str) -> Reasoning {
        let Some(pair) = self.pair else {
            return Reasoning::None;
        };
        let close = pair.close.to_owned();
        if self.row.beginning(self.pair, opened) == Beginning::Reasoning {
            return Reasoning::Open { close };
        }
        let open = pair.open.trim_end();
        // What the prompt has opened and closed is over; what begins with several tokens is not waited for.
        match tokenizer.control_tokens(open)[..] {
            [(ref range, id)] if *range == (0..open.len()) && !opened.contains(open) => {
                Reasoning::Possible { open: id, close }
            }
            _ => Reasoning::None,
        }
    }

    /// What stands before the text of an answer, if an answer has parts.
    pub fn before_text(&self) -> Option<&'static str> {
        matches!(self.row.calls, Calls::Harmony).then_some("<|channel|>final<|message|>")
    }

    /// Whether a prompt that ends with `opened` has begun a call.
    pub fn has_begun_call(&self, opened: &str) -> bool {
        self.row.beginning(self.pair, opened) == Beginning::Call
    }

    /// All texts that a reader must see although they may be control tokens.
    pub fn markers(&self) -> Vec<&'static str> {
        let mut all = self.row.markers();
        all.extend(self.pair.iter().flat_map(|p| [p.open, p.close]));
        all
    }

    /// Whether one answer may hold several calls.
    pub fn parallel(&self) -> bool {
        self.forms.several == Several::Together && self.forms.calls == CallsAs::Calls
    }

    /// A reader of the reply to a prompt. `opened`: what the prompt ends with, or, where an answer is continued,
    /// what it has said so far. Without `tools` no calls are looked for.
    pub fn parser(
        &self,
        opened: &str,
        tools: Vec<Tool>,
        ids: CallIds,
        delivery: Delivery,
    ) -> ReplyParser {
        let style = Style {
            row: self.row,
            pair: self.pair,
            beginning: self.row.beginning(self.pair, opened),
            delivery,
        };
        ReplyParser::new(style, tools, ids)
    }

    /// The ids of control tokens that a reader must see as text ([`ReplyFormat::markers`]), in increasing order.
    pub fn shown(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let markers = self.markers();
        let found = markers.iter().flat_map(|m| tokenizer.control_tokens(m));
        let mut ids: Vec<u32> = found.map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The grammar that a reply has to follow, so that its calls are calls of the tools. None where this format has
    /// none: notations that are no JSON, and `auto` where only a first line opens a call.
    ///
    /// # Errors
    /// [`Error::Request`] for a choice that the tools do not hold.
    pub fn grammar(&self, tokenizer: &Tokenizer, asked: &Asked<'_>) -> Result<Option<CallGrammar>> {
        let one;
        let tools = match asked.choice {
            ToolChoice::Function(name) => {
                let Some(tool) = asked.tools.iter().find(|t| t.name == *name) else {
                    let names: Vec<&str> = asked.tools.iter().map(|t| t.name.as_str()).collect();
                    return Err(refused(name, names.join(", ")));
                };
                one = [tool.clone()];
                &one[..]
            }
            ToolChoice::Required if asked.tools.is_empty() => {
                return Err(refused("required", "none or auto without tools".to_owned()));
            }
            ToolChoice::Auto if asked.tools.is_empty() => return Ok(None),
            _ => asked.tools,
        };
        let alone = matches!(asked.choice, ToolChoice::Function(_)) || !self.parallel();
        Ok(written(&Wanted {
            row: self.row,
            tools,
            auto: *asked.choice == ToolChoice::Auto,
            most: if alone { Most::One } else { asked.most },
            beginning: self.row.beginning(self.pair, asked.opened),
            controls: &|text| tokenizer.control_tokens(text),
        }))
    }

    pub(in crate::chat) fn forms(&self) -> Forms {
        self.forms
    }

    pub(in crate::chat) fn id_style(&self) -> IdStyle {
        self.row.ids
    }
}
