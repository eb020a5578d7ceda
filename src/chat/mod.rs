//! Chat templates: Jinja source from the file, rendered the way Hugging Face renders it.
//!
//! A template is foreign code. It sees message data and a closed list of functions: no
//! loader, no files, no host objects. Source size, steps, nesting and output are bounded
//! (`limits`); `guard` and `bounds` see to what minijinja does not bound. `python` holds what makes minijinja behave like Python's Jinja, `spans`
//! finds out which part of a rendered text came from messages, so that a message can never
//! be tokenized into control tokens.

mod bounds;
mod guard;
mod python;
mod spans;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};

use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value as Meta};
use crate::limits;
use crate::tokenizer::{self, Tokenizer};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or another name of letters, digits, `_` and `-`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
}

const NAME: &str = "chat";
const KEY: &str = "tokenizer.chat_template";

/// Names of the templates of a file besides the default one.
pub fn template_names(file: &GgufFile) -> Vec<&str> {
    let prefix =
        |key: &'_ str| key.len() > KEY.len() + 1 && key.starts_with("tokenizer.chat_template.");
    file.metadata()
        .filter(|(key, value)| prefix(key) && matches!(value, Meta::Str(_)))
        .map(|(key, _)| &key[KEY.len() + 1..])
        .collect()
}

impl ChatTemplate {
    /// The default template of a file: `tokenizer.chat_template`, else the one named
    /// `default`, else the first named one. `None` when the file has none.
    pub fn from_gguf(file: &GgufFile) -> Result<Option<ChatTemplate>> {
        let named = template_names(file);
        let name = named.iter().find(|n| **n == "default").or(named.first());
        let source = match (file.str(KEY)?, name) {
            (Some(source), _) => source,
            (None, Some(name)) => return Self::from_gguf_named(file, name).map(Some),
            (None, None) => return Ok(None),
        };
        Self::compile(source, special_texts(file)?).map(Some)
    }

    /// The template `tokenizer.chat_template.NAME` of a file.
    pub fn from_gguf_named(file: &GgufFile, name: &str) -> Result<ChatTemplate> {
        let key = format!("{KEY}.{name}");
        let source = GgufFile::require(&key, file.str(&key)?)?;
        Self::compile(source, special_texts(file)?)
    }

    /// A template from its source, with the texts of the start and end tokens.
    ///
    /// # Errors
    /// [`Error::Template`] for a source that is too long or no valid Jinja.
    pub fn from_source(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        Self::compile(
            source,
            vec![("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())],
        )
    }

    fn compile(source: &str, specials: Vec<(&'static str, String)>) -> Result<ChatTemplate> {
        if source.len() > limits::MAX_TEMPLATE_BYTES {
            let max = limits::MAX_TEMPLATE_BYTES;
            return Err(Error::Template(format!(
                "source of {} bytes, allowed: at most {max}",
                source.len()
            )));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        let source_in_bounds = syntax
            .and_then(|syntax| guard::rewrite(&python::without_generation_tags(source), syntax))
            .map_err(template_error)?;
        let verbatim = SyntaxConfig::builder().keep_trailing_newline(true).build();
        env.set_syntax(verbatim.map_err(template_error)?);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_fuel(Some(limits::TEMPLATE_FUEL));
        env.set_recursion_limit(limits::MAX_TEMPLATE_RECURSION);
        python::install(&mut env);
        for (name, text) in specials {
            env.add_global(name, text);
        }
        // Hugging Face always passes these.
        env.add_global("add_generation_prompt", false);
        env.add_global("tools", Value::from(()));
        env.add_global("documents", Value::from(()));
        env.add_template_owned(NAME, source_in_bounds)
            .map_err(template_error)?;
        Ok(ChatTemplate {
            env,
            source: source.to_owned(),
        })
    }

    /// The source as stored.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`Error::Request`] for too many messages or a malformed role; [`Error::Template`]
    /// when the template refuses the conversation, fails, or exceeds a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        check(messages)?;
        let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        self.render_with(messages, &contents, add_generation_prompt)
    }

    /// Renders with other contents in place of the messages' own.
    fn render_with<C: AsRef<str>>(
        &self,
        messages: &[Message],
        contents: &[C],
        prompt: bool,
    ) -> Result<String> {
        let message = |(m, content): (&Message, &C)| {
            minijinja::context! { role => m.role.as_str(), content => content.as_ref() }
        };
        let list: Vec<Value> = messages.iter().zip(contents).map(message).collect();
        self.run(minijinja::context! { messages => list, add_generation_prompt => prompt })
    }

    /// Renders a conversation given as an object of what the template may look at, as Hugging
    /// Face's `apply_chat_template` takes it: `messages` (with tool calls, parts, reasoning),
    /// `tools`, `documents`, `add_generation_prompt`, switches of the family.
    ///
    /// # Errors
    /// [`Error::Request`] for something else than an object, or more than
    /// [`limits::MAX_PROMPT_BYTES`] of it; those of [`ChatTemplate::render`].
    pub fn render_json(&self, context: &serde_json::Value) -> Result<String> {
        let bytes = context.to_string().len();
        if !context.is_object() || bytes > limits::MAX_PROMPT_BYTES {
            return Err(Error::Request {
                what: "conversation".into(),
                value: format!("{bytes} bytes of JSON"),
                allowed: format!("an object of at most {} bytes", limits::MAX_PROMPT_BYTES),
            });
        }
        self.run(python::value(context))
    }

    fn run(&self, context: Value) -> Result<String> {
        let template = self.env.get_template(NAME).map_err(template_error)?;
        let mut out = python::Bounded::default();
        bounds::start();
        let done = template.render_captured_to(context, &mut out);
        if out.overflown {
            let max = limits::MAX_RENDERED_BYTES;
            return Err(Error::Template(format!("output of more than {max} bytes")));
        }
        done.map_err(template_error)?;
        String::from_utf8(out.bytes).map_err(|e| Error::Template(e.to_string()))
    }

    /// Renders and tokenizes a conversation: control tokens of the template's own text are
    /// recognised, those in message contents are plain text. Nothing is added; a start
    /// token is there if the template writes one.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let rendered = self.render(messages, add_generation_prompt)?;
        let render = |contents: &[String]| {
            self.render_with(messages, contents, add_generation_prompt)
                .ok()
        };
        let parse = spans::template_ranges(tokenizer, messages, &rendered, &self.source, &render);
        let mut out = Vec::new();
        tokenizer.encode_parts(&rendered, &parse, &mut out)?;
        Ok(out)
    }
}

/// `bos_token`, `eos_token` and the like, as Hugging Face passes them.
fn special_texts(file: &GgufFile) -> Result<Vec<(&'static str, String)>> {
    tokenizer::special_texts(file)
}

fn check(messages: &[Message]) -> Result<()> {
    let request = |what: &str, value: String, allowed: String| {
        Err(Error::Request {
            what: what.to_owned(),
            value,
            allowed,
        })
    };
    if messages.len() > limits::MAX_MESSAGES {
        let allowed = format!("at most {}", limits::MAX_MESSAGES);
        return request("number of messages", messages.len().to_string(), allowed);
    }
    let bytes: usize = messages.iter().map(|m| m.content.len()).sum();
    if bytes > limits::MAX_PROMPT_BYTES {
        let allowed = format!("at most {} bytes", limits::MAX_PROMPT_BYTES);
        return request("conversation length", format!("{bytes} bytes"), allowed);
    }
    for m in messages {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        let fits = (1..=limits::MAX_ROLE_BYTES).contains(&m.role.len());
        if !fits || !m.role.bytes().all(plain) {
            let allowed = format!(
                "1 to {} letters, digits, `_` or `-`",
                limits::MAX_ROLE_BYTES
            );
            return request("role of a message", format!("{:?}", m.role), allowed);
        }
    }
    Ok(())
}

fn template_error(error: minijinja::Error) -> Error {
    let mut text = error.to_string();
    // What a template itself says through raise_exception is the innermost error.
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    Error::Template(text)
}
