//! The ways in which models write tool calls and reasoning: one row is one place.
//!
//! Rows are tried in this order. Sources: published chat templates (those that llama.cpp 0.3.36's Python package
//! carries, transformers' documentation for LFM2, vLLM's and SGLang's readers for Phi-4-mini and GLM-4).

use super::harmony;
use super::named::{Naming, Trim};
use super::notation::Notation;
use super::object::{Keys, Place, Written};
use super::tagged::{Frame, Tags};

/// A way to write tool calls.
#[derive(Debug)]
pub(super) struct Row {
    pub name: &'static str,
    /// All of these occur in the source of a template of the family …
    pub detect: &'static [&'static str],
    /// … and none of these.
    pub not: &'static [&'static str],
    /// Texts or control tokens at which calls begin; the first is the family's own, others are what models make
    /// of it. Empty where a reply begins as a call.
    pub open: &'static [&'static str],
    /// Ends the calls; empty where nothing does.
    pub close: &'static str,
    /// What stands between the two.
    pub calls: Calls,
    pub names: Names,
    pub ids: IdStyle,
    /// The family's reasoning; rows without one take the first pair that the template's source holds.
    pub reasoning: Option<&'static Pair>,
}

/// How calls are written.
#[derive(Debug)]
pub(super) enum Calls {
    /// Objects that hold the name.
    Objects(&'static Keys, Place),
    /// The name before a JSON object.
    Named(&'static Naming),
    /// Arguments as text between tags.
    Tagged(&'static Tags),
    /// A notation that is no JSON.
    Noted(Notation),
    /// Messages with channels.
    Harmony,
}

/// Which names are calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// All: the opening says that this is a call.
    Any,
    /// Those of the request's tools.
    Known,
    /// A first line that is the name of a tool of the request is the opening.
    Line,
}

/// How the ids of calls look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum IdStyle {
    /// The caller's prefix and a number.
    Counted,
    /// Nine letters and digits: Mistral's templates refuse others.
    Nine,
    /// `functions.NAME:NUMBER`: Kimi's templates print the id.
    Kimi,
}

/// What stands around reasoning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub open: &'static str,
    pub close: &'static str,
    pub at: Where,
}

/// Where reasoning begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// At the beginning of a reply or behind a call: elsewhere the text means itself.
    Start,
    /// Wherever the control token stands.
    Anywhere,
}

/// How a reply begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Beginning {
    #[default]
    Text,
    /// The prompt has opened reasoning.
    Reasoning,
    /// The prompt has opened a call.
    Call,
}

const fn pair(open: &'static str, close: &'static str, at: Where) -> Pair {
    Pair { open, close, at }
}

static THINK: Pair = pair("<think>", "</think>", Where::Start);
static MISTRAL: Pair = pair("[THINK]", "[/THINK]", Where::Start);
static COHERE: Pair = pair("<|START_THINKING|>", "<|END_THINKING|>", Where::Anywhere);
static GEMMA: Pair = pair("<|channel>thought\n", "<channel|>", Where::Anywhere);
static SEED: Pair = pair("<seed:think>", "</seed:think>", Where::Start);

/// Pairs for rows without one, in the order in which they are looked for.
pub(super) static PAIRS: [&Pair; 5] = [&SEED, &COHERE, &GEMMA, &MISTRAL, &THINK];

static ARGUMENTS: Keys = Keys {
    name: "name",
    arguments: &["arguments", "parameters"],
    inside: &["function"],
    answer: None,
    written: Written::Lines,
};
static LISTED: Keys = Keys {
    written: Written::List,
    ..ARGUMENTS
};
static PARAMETERS: Keys = Keys {
    arguments: &["parameters", "arguments"],
    ..ARGUMENTS
};
static COHERE_KEYS: Keys = Keys {
    name: "tool_name",
    arguments: &["parameters"],
    inside: &[],
    answer: None,
    written: Written::Block,
};
static GENERIC: Keys = Keys {
    name: "name",
    arguments: &["arguments", "parameters"],
    inside: &["tool_call"],
    answer: Some("response"),
    written: Written::Lines,
};

const BLANK: Row = Row {
    name: "",
    detect: &[],
    not: &[],
    open: &[],
    close: "",
    calls: Calls::Harmony,
    names: Names::Any,
    ids: IdStyle::Counted,
    reasoning: None,
};

const NAMED: Naming = Naming {
    begin: "",
    separator: "",
    end: "",
    trim: Trim::None,
    text: "",
};

static KIMI: Naming = Naming {
    begin: "<|tool_call_begin|>",
    separator: "<|tool_call_argument_begin|>",
    end: "<|tool_call_end|>",
    trim: Trim::Kimi,
    ..NAMED
};
static DEEPSEEK_V31: Naming = Naming {
    begin: "<｜tool▁call▁begin｜>",
    separator: "<｜tool▁sep｜>",
    end: "<｜tool▁call▁end｜>",
    ..NAMED
};
static DEEPSEEK_R1: Naming = Naming {
    begin: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    separator: "\n```json\n",
    end: "\n```<｜tool▁call▁end｜>",
    ..NAMED
};
static MISTRAL_ARGS: Naming = Naming {
    separator: "[ARGS]",
    trim: Trim::From("[CALL_ID]"),
    ..NAMED
};
static FUNCTIONARY: Naming = Naming {
    separator: "\n",
    text: "all",
    ..NAMED
};
static FUNCTIONARY_31: Naming = Naming {
    begin: "<function=",
    separator: ">",
    end: "</function>",
    ..NAMED
};
static GLM4: Naming = Naming {
    separator: "\n",
    ..NAMED
};

static QWEN_CODER: Tags = Tags {
    call: "<function=",
    name_end: ">",
    key: "<parameter=",
    key_end: ">",
    value: "",
    value_end: "</parameter>",
    end: "</function>",
    frame: Frame::Lines,
};
static SEED_TAGS: Tags = Tags {
    frame: Frame::None,
    ..QWEN_CODER
};
static GLM45: Tags = Tags {
    call: "",
    name_end: "",
    key: "<arg_key>",
    key_end: "</arg_key>",
    value: "<arg_value>",
    value_end: "</arg_value>",
    end: "</tool_call>",
    frame: Frame::None,
};
static MINIMAX_M2: Tags = Tags {
    call: "<invoke name=\"",
    name_end: "\">",
    key: "<parameter name=\"",
    key_end: "\">",
    value: "",
    value_end: "</parameter>",
    end: "</invoke>",
    frame: Frame::None,
};
static DSML: Tags = Tags {
    call: "<｜DSML｜invoke name=\"",
    key: "<｜DSML｜parameter name=\"",
    value_end: "</｜DSML｜parameter>",
    end: "</｜DSML｜invoke>",
    ..MINIMAX_M2
};

/// What DeepSeek's models make of their opening.
const DEEPSEEK_OPEN: &[&str] = &[
    "<｜tool▁calls▁begin｜>",
    "<｜tool_calls_begin｜>",
    "<｜tool calls begin｜>",
    "<｜tool\\_calls\\_begin｜>",
    "<｜tool▁calls｜>",
];

/// The table.
pub(super) static ROWS: [Row; 26] = [
    Row {
        name: "harmony", // gpt-oss
        detect: &["<|channel|>", "functions."],
        calls: Calls::Harmony,
        ..BLANK
    },
    Row {
        name: "gemma4", // Gemma 4
        detect: &["<|tool_call>call:"],
        open: &["<|tool_call>"],
        close: "<tool_call|>",
        calls: Calls::Noted(Notation::Gemma),
        reasoning: Some(&GEMMA),
        ..BLANK
    },
    Row {
        name: "seed-oss", // Seed-OSS
        detect: &["<seed:tool_call>", "<function="],
        open: &["<seed:tool_call>"],
        close: "</seed:tool_call>",
        calls: Calls::Tagged(&SEED_TAGS),
        reasoning: Some(&SEED),
        ..BLANK
    },
    Row {
        name: "functionary-3.1", // Functionary v3.1
        detect: &["<function=", "</function>"],
        not: &["<tool_call>", "<parameter="],
        open: &["<function="],
        calls: Calls::Named(&FUNCTIONARY_31),
        ..BLANK
    },
    Row {
        name: "qwen-coder", // Qwen3-Coder, Qwen3.5, Nemotron 3
        detect: &["<function="],
        open: &["<tool_call>"],
        close: "</tool_call>",
        calls: Calls::Tagged(&QWEN_CODER),
        ..BLANK
    },
    Row {
        name: "glm45", // GLM-4.5, 4.6, 4.7
        detect: &["<arg_key>"],
        open: &["<tool_call>"],
        calls: Calls::Tagged(&GLM45),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "minimax-m2", // MiniMax M2
        detect: &["<invoke name="],
        not: &["｜DSML｜"],
        open: &["<minimax:tool_call>"],
        close: "</minimax:tool_call>",
        calls: Calls::Tagged(&MINIMAX_M2),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "deepseek-v32", // DeepSeek V3.2
        detect: &["｜DSML｜", "function_calls>"],
        open: &["<｜DSML｜function_calls>"],
        close: "</｜DSML｜function_calls>",
        calls: Calls::Tagged(&DSML),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "deepseek-v4", // DeepSeek V4
        detect: &["｜DSML｜"],
        open: &["<｜DSML｜tool_calls>"],
        close: "</｜DSML｜tool_calls>",
        calls: Calls::Tagged(&DSML),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "hermes", // Qwen2.5, Qwen3, Hermes 2 and 3, Granite 4, SmolLM3 (xml_tools)
        detect: &["<tool_call>", "arguments"],
        open: &["<tool_call>"],
        close: "</tool_call>",
        calls: Calls::Objects(&ARGUMENTS, Place::Marked),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "nemotron-v2", // Nemotron Nano v2
        detect: &["<TOOLCALL>"],
        open: &["<TOOLCALL>"],
        close: "</TOOLCALL>",
        calls: Calls::Objects(&LISTED, Place::Marked),
        ..BLANK
    },
    Row {
        name: "tool-calls", // Apriel, MiniMax M1
        detect: &["<tool_calls>", "arguments"],
        open: &["<tool_calls>"],
        close: "</tool_calls>",
        calls: Calls::Objects(&LISTED, Place::Marked),
        ..BLANK
    },
    Row {
        name: "kimi", // Kimi K2
        detect: &["<|tool_call_argument_begin|>"],
        open: &["<|tool_calls_section_begin|>"],
        close: "<|tool_calls_section_end|>",
        calls: Calls::Named(&KIMI),
        ids: IdStyle::Kimi,
        ..BLANK
    },
    Row {
        name: "deepseek-v31", // DeepSeek V3.1
        detect: &["<｜tool▁sep｜>"],
        not: &["```json"],
        open: DEEPSEEK_OPEN,
        close: "<｜tool▁calls▁end｜>",
        calls: Calls::Named(&DEEPSEEK_V31),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "deepseek-r1", // DeepSeek V3, R1 and its distills of Qwen and Llama
        detect: &["<｜tool▁sep｜>", "```json"],
        open: DEEPSEEK_OPEN,
        close: "<｜tool▁calls▁end｜>",
        calls: Calls::Named(&DEEPSEEK_R1),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "mistral-args", // Mistral Small 3.2, Devstral, Magistral, Ministral 3
        detect: &["[TOOL_CALLS]", "[ARGS]"],
        open: &["[TOOL_CALLS]"],
        calls: Calls::Named(&MISTRAL_ARGS),
        ids: IdStyle::Nine,
        reasoning: Some(&MISTRAL),
        ..BLANK
    },
    Row {
        name: "mistral-list", // Mistral 7B v0.3, Nemo, Mixtral
        detect: &["[TOOL_CALLS]"],
        open: &["[TOOL_CALLS]"],
        calls: Calls::Objects(&LISTED, Place::Marked),
        ids: IdStyle::Nine,
        ..BLANK
    },
    Row {
        name: "command-r7b", // Command R7B, A
        detect: &["<|START_ACTION|>"],
        open: &["<|START_ACTION|>"],
        close: "<|END_ACTION|>",
        calls: Calls::Objects(&COHERE_KEYS, Place::Marked),
        reasoning: Some(&COHERE),
        ..BLANK
    },
    Row {
        name: "lfm2", // LFM2, LFM2.5
        detect: &["<|tool_list_start|>"],
        open: &["<|tool_call_start|>"],
        close: "<|tool_call_end|>",
        calls: Calls::Noted(Notation::Python),
        ..BLANK
    },
    Row {
        name: "lfm2.5", // LFM2.5
        detect: &["<|tool_call_start|>"],
        open: &["<|tool_call_start|>"],
        close: "<|tool_call_end|>",
        calls: Calls::Noted(Notation::Python),
        ..BLANK
    },
    Row {
        name: "phi4-mini", // Phi-4-mini; no published template that was read renders calls
        detect: &["<|/tool|>"],
        open: &["<|tool_call|>"],
        close: "<|/tool_call|>",
        calls: Calls::Objects(&LISTED, Place::Marked),
        ..BLANK
    },
    Row {
        name: "granite3", // Granite 3.x
        detect: &["<|tool_call|>"],
        open: &["<|tool_call|>"],
        calls: Calls::Objects(&LISTED, Place::Marked),
        reasoning: Some(&THINK),
        ..BLANK
    },
    Row {
        name: "functionary", // Functionary v3.2
        detect: &[">>>"],
        open: &[">>>"],
        calls: Calls::Named(&FUNCTIONARY),
        names: Names::Known,
        ..BLANK
    },
    Row {
        name: "llama3", // Llama 3.1, 3.2, 3.3
        detect: &["\"parameters\"", "ipython"],
        open: &["<|python_tag|>"],
        calls: Calls::Objects(&PARAMETERS, Place::Whole),
        names: Names::Known,
        ..BLANK
    },
    Row {
        name: "glm4", // GLM-4 0414, ChatGLM3 and 4; no published template that was read renders calls
        detect: &["<|observation|>"],
        calls: Calls::Named(&GLM4),
        names: Names::Line,
        ..BLANK
    },
    Row {
        // Every other template; ours: tools as JSON behind the system text, the reply one of two objects.
        name: "generic",
        calls: Calls::Objects(&GENERIC, Place::Whole),
        names: Names::Known,
        ..BLANK
    },
];

impl Row {
    /// The row for every other template.
    pub fn generic() -> &'static Row {
        &ROWS[ROWS.len() - 1]
    }

    /// The rows whose markers the source of a template has, in order; the generic one is always the last.
    pub fn of(source: &str) -> impl Iterator<Item = &'static Row> {
        let has = |texts: &[&str]| texts.iter().filter(|t| source.contains(*t)).count();
        let fits = move |row: &&Row| has(row.detect) == row.detect.len() && has(row.not) == 0;
        ROWS.iter().filter(fits)
    }

    /// The family's reasoning, or the first pair that the source of a template has.
    pub fn pair(&self, source: &str) -> Option<&'static Pair> {
        let known = |p: &&Pair| source.contains(p.close) || source.contains(p.open.trim_end());
        let own = self.reasoning.filter(known);
        own.or_else(|| PAIRS.into_iter().find(known))
    }

    /// How a reply begins behind a prompt that ends with `opened`.
    pub fn beginning(&self, pair: Option<&Pair>, opened: &str) -> Beginning {
        let reasons = |p: &Pair| match opened.rfind(p.open.trim_end()) {
            Some(at) => !opened[at..].contains(p.close),
            None => false,
        };
        let opened = opened.trim_end();
        if pair.is_some_and(reasons) {
            Beginning::Reasoning
        } else if self.open.iter().any(|o| opened.ends_with(o)) {
            Beginning::Call
        } else {
            Beginning::Text
        }
    }

    /// The text before each call, where calls may come without an opening.
    pub fn begin(&self) -> Option<&'static str> {
        let begin = match &self.calls {
            Calls::Named(naming) => naming.begin,
            Calls::Tagged(tags) => tags.call,
            _ => "",
        };
        (!begin.is_empty() && !self.open.contains(&begin)).then_some(begin)
    }

    /// All texts of the format that may be control tokens.
    pub fn markers(&self) -> Vec<&'static str> {
        let mut all = self.open.to_vec();
        all.push(self.close);
        match &self.calls {
            Calls::Named(n) => {
                all.extend([n.begin, n.separator, n.end]);
                if let Trim::From(text) = n.trim {
                    all.push(text);
                }
            }
            Calls::Tagged(t) => {
                all.extend([t.call, t.name_end, t.key, t.key_end]);
                all.extend([t.value, t.value_end, t.end]);
            }
            Calls::Noted(Notation::Gemma) => all.push("<|\"|>"),
            Calls::Harmony => all.extend(harmony::MARKERS),
            Calls::Objects(..) | Calls::Noted(Notation::Python) => {}
        }
        all.retain(|text| !text.is_empty());
        all
    }
}
