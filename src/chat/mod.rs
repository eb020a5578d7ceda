//! Chat templates: Jinja source from the file, rendered the way Hugging Face renders it.
//!
//! A template is foreign code. It sees message data and a closed list of functions: no
//! loader, no files, no host objects. Source size, steps, nesting, memory and output are bounded
//! (`limits`). `jinja` reads and runs templates, `clock` is the time they may ask for, `shape` finds
//! out in which form a template wants messages, `spans` which part of a rendered text came from
//! a request, so that nothing in it can ever be tokenized into control tokens. `request` reads a conversation
//! in JSON, `conversation` puts it into the form that a template wants, `prompt` is what comes of it; `tools` reads
//! what a model answers.

mod clock;
mod conversation;
mod jinja;
mod message;
mod prompt;
mod request;
mod shape;
mod spans;
pub mod tools;

use std::sync::OnceLock;

pub use message::Message;
pub use prompt::Prompt;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value as Meta};
use crate::limits;
use crate::tokenizer::{self, Tokenizer};
use conversation::{Conversation, Form};
use request::Request;
use spans::{End, Rendering, free_marks};
use tools::{ReplyFormat, Seen};

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    template: jinja::Template,
    source: String,
    /// What every rendering sees.
    defaults: Vec<(String, Value)>,
    shape: OnceLock<shape::Shape>,
    format: OnceLock<ReplyFormat>,
}

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

    /// The template of a file for conversations with tools, where it has one of its own: the one named `tool_use`,
    /// which Hugging Face's `apply_chat_template` takes for them.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`].
    pub fn for_tools(file: &GgufFile) -> Result<Option<ChatTemplate>> {
        let named = template_names(file);
        let found = named.iter().find(|name| **name == "tool_use");
        found.map(|n| Self::from_gguf_named(file, n)).transpose()
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
        let template = jinja::Template::new(source).map_err(template_error)?;
        // Hugging Face always passes these.
        let always = [
            ("add_generation_prompt", Value::Bool(false)),
            ("tools", Value::Null),
            ("documents", Value::Null),
        ];
        let specials = specials
            .into_iter()
            .map(|(name, text)| (name, Value::String(text)));
        let defaults = specials
            .chain(always)
            .map(|(name, value)| (name.to_owned(), value));
        Ok(ChatTemplate {
            template,
            source: source.to_owned(),
            defaults: defaults.collect(),
            shape: OnceLock::new(),
            format: OnceLock::new(),
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
        self.run(&self.context(messages, add_generation_prompt))
    }

    /// What the template is given of messages.
    fn context(&self, messages: &[Message], prompt: bool) -> Value {
        let message = |m: &Message| self.shape().message(&m.role, &m.content);
        let list: Vec<Value> = messages.iter().map(message).collect();
        json!({ "messages": list, "add_generation_prompt": prompt })
    }

    fn shape(&self) -> &shape::Shape {
        self.shape.get_or_init(|| {
            shape::Shape::of(&self.source, &|messages| {
                let context = json!({ "messages": messages, "add_generation_prompt": true });
                self.template.render(&self.defaults, &context)
            })
        })
    }

    /// Whether a system message reaches the model: some templates refuse or leave out the role.
    pub fn takes_system(&self) -> bool {
        self.shape().system
    }

    /// A conversation that this template takes: where [`ChatTemplate::takes_system`] is false, a
    /// system message at its beginning stands before the text of the first user message.
    pub fn fitted(&self, messages: &[Message]) -> Vec<Message> {
        match messages {
            [system, rest @ ..] if system.role == "system" && !self.takes_system() => {
                shape::folded(&system.content, rest)
            }
            all => all.to_vec(),
        }
    }

    /// Renders a conversation given as an object of what the template may look at, as Hugging
    /// Face's `apply_chat_template` takes it: `messages` (with tool calls, parts, reasoning),
    /// `tools`, `documents`, `add_generation_prompt`, switches of the family.
    ///
    /// # Errors
    /// [`Error::Request`] for something else than an object, or more than
    /// [`limits::MAX_PROMPT_BYTES`] of it; those of [`ChatTemplate::render`].
    pub fn render_json(&self, context: &Value) -> Result<String> {
        let bytes = context.to_string().len();
        if !context.is_object() || bytes > limits::MAX_PROMPT_BYTES {
            return Err(Error::Request {
                what: "conversation".into(),
                value: format!("{bytes} bytes of JSON"),
                allowed: format!("an object of at most {} bytes", limits::MAX_PROMPT_BYTES),
            });
        }
        self.run(context)
    }

    fn run(&self, context: &Value) -> Result<String> {
        self.template
            .render(&self.defaults, context)
            .map_err(template_error)
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
        let prompt = self.prompt(tokenizer, messages, add_generation_prompt)?;
        Ok(prompt.ids)
    }

    /// As [`ChatTemplate::encode`], with the text and what a reader of the reply has to know.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::encode`].
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Prompt> {
        check(messages)?;
        let context = self.context(messages, add_generation_prompt);
        let rendered = self.run(&context)?;
        let rendering = Rendering {
            context: &context,
            text: &rendered,
            source: &self.source,
            end: End::Template,
            render: &|context| self.run(context).ok(),
        };
        rendering.prompt(tokenizer)
    }

    /// Renders and tokenizes a conversation that is given as OpenAI's clients send it: an object with `messages`
    /// (tool calls, results, parts, reasoning), `tools`, `add_generation_prompt`, `continue_final_message`,
    /// `documents` and `chat_template_kwargs`. What the template wants otherwise is given to it otherwise: the
    /// arguments of calls as objects, several calls of an answer apart, ids in the family's form; where it
    /// knows no calls, calls and tools are text.
    ///
    /// Control tokens are recognised in the template's own text only: no string and no key of the request is read
    /// as one.
    ///
    /// # Errors
    /// [`Error::Request`] names the first field that is wrong; those of [`ChatTemplate::render`] and
    /// [`Tokenizer::encode`].
    pub fn encode_json(&self, tokenizer: &Tokenizer, request: &Value) -> Result<Prompt> {
        let read = Request::read(request)?;
        let [cut] = free_marks(&[&self.source, &request.to_string()], &Value::Null);
        let format = self.reply_format();
        let form = Form {
            shape: self.shape(),
            forms: format.forms(),
            ids: format.id_style(),
            source: &self.source,
            cut,
        };
        let conversation = Conversation::of(&read, &form)?;
        let goes_on = conversation.continued.is_some();
        let render = |context: &Value| {
            let mut text = self.run(context)?;
            if goes_on {
                let end = text.rfind(cut).ok_or_else(|| {
                    let what = "it does not print the answer that is to be continued";
                    Error::Template(what.to_owned())
                })?;
                text.truncate(end);
            }
            Ok(text)
        };
        let text = render(&conversation.context)?;
        let rendering = Rendering {
            context: &conversation.context,
            text: &text,
            source: &self.source,
            end: if goes_on { End::Foreign } else { End::Template },
            render: &|context| render(context).ok(),
        };
        let mut prompt = rendering.prompt(tokenizer)?;
        if let Some(said) = conversation.continued {
            prompt.opened = said;
        }
        prompt.ignored = read.ignored;
        Ok(prompt)
    }

    /// How the model of this template writes tool calls and reasoning. Found at the first use, by rendering a few
    /// conversations.
    pub fn reply_format(&self) -> &ReplyFormat {
        self.format.get_or_init(|| {
            let eos = self.defaults.iter().find(|(name, _)| name == "eos_token");
            let eos = eos.and_then(|(_, text)| text.as_str()).unwrap_or_default();
            ReplyFormat::of(Seen {
                source: &self.source,
                render: &|context| {
                    let rendered = self.template.render(&self.defaults, context);
                    rendered.map_err(|fail| fail.to_string())
                },
                user: self.shape().message("user", "qzuserqz"),
                ends: &|text| text == eos || tokenizer::special::is_stop_text(text),
            })
        })
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

fn template_error(error: jinja::Fail) -> Error {
    Error::Template(error.to_string())
}
