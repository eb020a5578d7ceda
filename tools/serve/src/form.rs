//! What an answer is held to: response formats, and calls of tools.

use geb::chat::tools::{Asked, CallGrammar, From, Most, ToolChoice};
use geb::constraint::{Constraint, Reasoning};
use geb_constrain::{Compiled, Source};
use serde_json::{Value, json};

use crate::conversation::{Choice, Conversation};
use crate::error::{ApiError, Fault, Result};
use crate::fields::Fields;
use crate::models::Speaker;
use crate::reply::Reading;

/// The form that an answer must have, and the field that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// The form.
    pub source: Source,
    /// The field.
    pub at: &'static str,
}

impl Form {
    /// JSON of a schema.
    pub fn schema(schema: &Value, strict: bool, at: &'static str) -> Form {
        let schema = schema.clone();
        Form {
            source: Source::Schema { schema, strict },
            at,
        }
    }

    /// Any JSON object.
    pub fn json(at: &'static str) -> Form {
        Form {
            source: Source::Json,
            at,
        }
    }

    /// Reads `response_format`, and the extensions `regex` and `grammar`.
    ///
    /// # Errors
    /// For a field that is malformed, and for two forms.
    pub fn read(f: &Fields<'_>) -> Result<Option<Form>> {
        let of = |text: &str, at, source: fn(String) -> Source| Form {
            source: source(text.to_owned()),
            at,
        };
        let regex = f.text("regex")?.map(|r| of(r, "regex", Source::Regex));
        let grammar = f.text("grammar")?.map(|g| of(g, "grammar", Source::Lark));
        let asked = f.object("response_format")?;
        let asked = asked.map(|o| response_format(&o)).transpose()?.flatten();
        let mut all = [regex, grammar, asked].into_iter().flatten();
        let first = all.next();
        match all.next() {
            None => Ok(first),
            Some(_) => Err(ApiError::field(
                "response_format",
                "allowed: one of response_format, regex, grammar",
            )),
        }
    }
}

fn response_format(o: &Fields<'_>) -> Result<Option<Form>> {
    const AT: &str = "response_format";
    let kind = o.required("type", o.text("type")?)?;
    match kind {
        "text" => Ok(None),
        // llama.cpp's clients put a schema beside it.
        "json_object" => Ok(Some(match o.value("schema") {
            Some(schema) => Form::schema(schema, false, AT),
            None => Form::json(AT),
        })),
        "json_schema" => {
            let inner = o.required("json_schema", o.object("json_schema")?)?;
            let schema = inner.required("schema", inner.value("schema"))?;
            let strict = inner.flag("strict")?.unwrap_or(false);
            Ok(Some(Form::schema(schema, strict, AT)))
        }
        _ => Err(ApiError::wrong(
            "response_format.type",
            &json!(kind),
            "text, json_object, json_schema",
        )),
    }
}

/// What holds an answer, and what of that has no effect.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// What holds it; none if it is free.
    pub constraint: Option<Constraint>,
    /// What was asked for and is not enforced.
    pub unenforced: Vec<String>,
}

/// Holds a text that is continued. Takes as long as the grammar takes to be made: not for a task.
///
/// # Errors
/// For a form that no text can be held to.
pub fn hold_text(form: Option<&Form>, speaker: &Speaker) -> Result<Held> {
    let Some(form) = form else {
        return Ok(Held::default());
    };
    let compiled = compile(&form.source, form.at, speaker)?;
    Ok(held(compiled, form.at, Reasoning::None, Vec::new()))
}

/// Holds the answer to a conversation. Takes as long as the grammar takes to be made: not for a task.
///
/// # Errors
/// For a form that no answer can be held to, calls that the model's way to write them has no grammar for.
pub fn hold(conversation: &Conversation, speaker: &Speaker, reading: &Reading) -> Result<Held> {
    let choice = match &conversation.choice {
        Choice::None => None,
        Choice::Auto if reading.tools.is_empty() => None,
        Choice::Auto => Some(ToolChoice::Auto),
        Choice::Required => Some(ToolChoice::Required),
        Choice::Named(name) => Some(ToolChoice::Function(name.clone())),
    };
    match (&conversation.format, choice) {
        (None, None) => Ok(Held::default()),
        (Some(form), None) => whole(form, speaker, reading),
        (Some(form), Some(ToolChoice::Auto)) => either(form, speaker, reading),
        (None, Some(ToolChoice::Auto)) => Ok(called_or_not(speaker, reading)?),
        (_, Some(choice)) => called(&choice, speaker, reading),
    }
}

/// The whole answer has a form.
fn whole(form: &Form, speaker: &Speaker, reading: &Reading) -> Result<Held> {
    let compiled = compile(&form.source, form.at, speaker)?;
    let before = reading.format.before_text();
    let openings = before.map(str::to_owned).into_iter().collect();
    Ok(held(
        compiled,
        form.at,
        reasoning(speaker, reading),
        openings,
    ))
}

/// The answer is calls.
fn called(choice: &ToolChoice, speaker: &Speaker, reading: &Reading) -> Result<Held> {
    let grammar = grammar(choice, speaker, reading)?;
    let grammar = grammar.ok_or_else(|| no_grammar("tool_choice", "none, auto"))?;
    let compiled = compile(&Source::Lark(grammar.lark), "tools", speaker)?;
    Ok(held(
        compiled,
        "tools",
        reasoning(speaker, reading),
        Vec::new(),
    ))
}

/// What the answer calls are calls of the tools; where no grammar can be made for them it is free.
fn called_or_not(speaker: &Speaker, reading: &Reading) -> Result<Held> {
    let choice = match reading.has_begun_call() {
        true => ToolChoice::Required,
        false => ToolChoice::Auto,
    };
    let Some(grammar) = grammar(&choice, speaker, reading)? else {
        return Ok(Held::default());
    };
    let openings = match grammar.from {
        From::Start => Vec::new(),
        From::Behind(texts) => texts.into_iter().map(str::to_owned).collect(),
    };
    Ok(
        match compile(&Source::Lark(grammar.lark), "tools", speaker) {
            Ok(compiled) => held(compiled, "tools", reasoning(speaker, reading), openings),
            Err(error) => Held {
                constraint: None,
                unenforced: vec![error.message],
            },
        },
    )
}

/// The answer has a form, or is calls.
fn either(form: &Form, speaker: &Speaker, reading: &Reading) -> Result<Held> {
    let schema = match &form.source {
        Source::Json => json!({ "type": "object" }),
        Source::Schema { schema, .. } => schema.clone(),
        Source::Regex(_) | Source::Lark(_) => {
            let message = format!("{} is set, allowed: without tools", form.at);
            return Err(ApiError::field(form.at, message));
        }
    };
    // A schema that cannot be enforced is told of as it would be alone.
    let alone = compile(&form.source, form.at, speaker)?;
    let grammar = grammar(&ToolChoice::Required, speaker, reading)?;
    let grammar = grammar.ok_or_else(|| no_grammar(form.at, "without tools"))?;
    let Some(calls) = grammar.lark.strip_prefix("start: ") else {
        return Err(no_grammar(form.at, "without tools"));
    };
    let schema = geb_constrain::embedded(schema);
    let lark = format!("start: formed | called\nformed: %json {schema}\ncalled: {calls}");
    let compiled = Compiled {
        grammar: compile(&Source::Lark(lark), form.at, speaker)?.grammar,
        ..alone
    };
    Ok(held(
        compiled,
        form.at,
        reasoning(speaker, reading),
        Vec::new(),
    ))
}

fn held(compiled: Compiled, at: &str, reasoning: Reasoning, openings: Vec<String>) -> Held {
    Held {
        constraint: Some(Constraint {
            grammar: compiled.grammar,
            reasoning,
            openings,
        }),
        unenforced: compiled
            .unenforced
            .iter()
            .map(|what| format!("{at}: {what}"))
            .collect(),
    }
}

fn compile(source: &Source, at: &str, speaker: &Speaker) -> Result<Compiled> {
    let compiled = speaker.grammars.compile(source);
    compiled.map_err(|e| ApiError::of(at, &e))
}

fn reasoning(speaker: &Speaker, reading: &Reading) -> Reasoning {
    reading
        .format
        .reasoning_before(&speaker.tokenizer, &reading.opened)
}

fn grammar(
    choice: &ToolChoice,
    speaker: &Speaker,
    reading: &Reading,
) -> Result<Option<CallGrammar>> {
    let asked = Asked {
        tools: &reading.tools,
        choice,
        most: if reading.parallel {
            Most::Any
        } else {
            Most::One
        },
        opened: &reading.opened,
    };
    let grammar = reading.format.grammar(&speaker.tokenizer, &asked);
    grammar.map_err(|e| ApiError::of("tool_choice", &e))
}

fn no_grammar(param: &str, allowed: &str) -> ApiError {
    let message = format!(
        "{param}: there is no grammar of the way in which this model writes calls, allowed: {allowed}"
    );
    ApiError {
        param: Some(param.into()),
        ..ApiError::new(Fault::NotSupported, message)
    }
}
