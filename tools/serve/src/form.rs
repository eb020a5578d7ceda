//! What an answer is held to: response formats, and calls of tools.

use geb::chat::tools::{self, CallGrammar, From, Most, ReplyFormat, Tool, ToolChoice};
use geb::constraint::{Constraint, Reasoning, for_grammar};
use geb_constrain::{Compiled, Source};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Fault, Result};
use crate::fields::Fields;
use crate::models::Speaker;

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

/// What an answer to a conversation is asked to be.
pub struct Asked<'a> {
    /// Its form; none: any.
    pub form: Option<&'a Form>,
    /// Which of the tools it calls; none: there are none.
    pub choice: Option<ToolChoice>,
    /// The tools.
    pub tools: &'a [Tool],
    /// Whether it may call several.
    pub parallel: bool,
    /// How the model writes reasoning and calls.
    pub format: &'a ReplyFormat,
    /// What the prompt ends with.
    pub opened: &'a str,
}

impl Asked<'_> {
    /// Holds the answer. Takes as long as the grammar takes to be made: not for a task.
    ///
    /// # Errors
    /// For a form that no answer can be held to, calls that the model's way to write them has no grammar for.
    pub fn hold(&self, speaker: &Speaker) -> Result<Held> {
        match (self.form, &self.choice) {
            (None, None) => Ok(Held::default()),
            (Some(form), None) => self.whole(form, speaker),
            (Some(form), Some(ToolChoice::Auto)) => self.either(form, speaker),
            (None, Some(ToolChoice::Auto)) => self.called_or_not(speaker),
            (_, Some(choice)) => self.called(choice, speaker),
        }
    }

    /// The whole answer has a form.
    fn whole(&self, form: &Form, speaker: &Speaker) -> Result<Held> {
        let compiled = compile(&form.source, form.at, speaker)?;
        let before = self.format.before_text();
        let openings = before.map(str::to_owned).into_iter().collect();
        Ok(held(compiled, form.at, self.reasoning(speaker), openings))
    }

    /// The answer is calls.
    fn called(&self, choice: &ToolChoice, speaker: &Speaker) -> Result<Held> {
        let grammar = self.grammar(choice, speaker)?;
        let grammar = grammar.ok_or_else(|| no_grammar("tool_choice", "none, auto"))?;
        let compiled = compile(&Source::Lark(grammar.lark), "tools", speaker)?;
        Ok(held(compiled, "tools", self.reasoning(speaker), Vec::new()))
    }

    /// What the answer calls are calls of the tools; where no grammar can be made for them it is free.
    fn called_or_not(&self, speaker: &Speaker) -> Result<Held> {
        let choice = match self.format.has_begun_call(self.opened) {
            true => ToolChoice::Required,
            false => ToolChoice::Auto,
        };
        let Some(grammar) = self.grammar(&choice, speaker)? else {
            return Ok(Held::default());
        };
        let openings = match grammar.from {
            From::Start => Vec::new(),
            From::Behind(texts) => texts.into_iter().map(str::to_owned).collect(),
        };
        let compiled = compile(&Source::Lark(grammar.lark), "tools", speaker);
        Ok(match compiled {
            Ok(compiled) => held(compiled, "tools", self.reasoning(speaker), openings),
            Err(error) => Held {
                constraint: None,
                unenforced: vec![error.message],
            },
        })
    }

    /// The answer has a form, or is calls.
    fn either(&self, form: &Form, speaker: &Speaker) -> Result<Held> {
        let schema = match &form.source {
            Source::Json => Map::from_iter([("type".to_owned(), json!("object"))]),
            Source::Schema { schema, .. } => schema.as_object().cloned().unwrap_or_default(),
            Source::Regex(_) | Source::Lark(_) => {
                let message = format!("{} is set, allowed: without tools", form.at);
                return Err(ApiError::field(form.at, message));
            }
        };
        // A schema that cannot be enforced is told of as it would be alone.
        let alone = compile(&form.source, form.at, speaker)?;
        let grammar = self.grammar(&ToolChoice::Required, speaker)?;
        let lark = grammar.map(|g| g.lark).unwrap_or_default();
        let Some(calls) = lark.strip_prefix("start: ") else {
            return Err(no_grammar(form.at, "without tools"));
        };
        let schema = for_grammar(&schema, true);
        let lark = format!("start: formed | called\nformed: %json {schema}\ncalled: {calls}");
        let compiled = Compiled {
            grammar: compile(&Source::Lark(lark), form.at, speaker)?.grammar,
            ..alone
        };
        Ok(held(compiled, form.at, self.reasoning(speaker), Vec::new()))
    }

    fn reasoning(&self, speaker: &Speaker) -> Reasoning {
        self.format
            .reasoning_before(&speaker.tokenizer, self.opened)
    }

    fn grammar(&self, choice: &ToolChoice, speaker: &Speaker) -> Result<Option<CallGrammar>> {
        let asked = tools::Asked {
            tools: self.tools,
            choice,
            most: if self.parallel { Most::Any } else { Most::One },
            opened: self.opened,
        };
        let grammar = self.format.grammar(&speaker.tokenizer, &asked);
        grammar.map_err(|e| ApiError::of("tool_choice", &e))
    }
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

fn no_grammar(param: &str, allowed: &str) -> ApiError {
    let message = format!(
        "{param}: there is no grammar of the way in which this model writes calls, allowed: {allowed}"
    );
    ApiError {
        param: Some(param.into()),
        ..ApiError::new(Fault::NotSupported, message)
    }
}
