//! From a file to an answer: what a program starts with.

use std::path::Path;
use std::sync::Arc;

use crate::chat::{ChatTemplate, Message};
use crate::engine::{Engine, Scope, SessionOptions};
use crate::error::{Error, Result};
use crate::generate::{Events, GenerateOptions, Generated, generate_on};
use crate::gguf::{GgufFile, Load};
use crate::kinds;
use crate::model::Model;
use crate::scheduler::{Scheduler, SchedulerOptions};
use crate::speculate::Speculation;
use crate::tokenizer::{Encode, Tokenizer};

/// A model that can be spoken to: engine, tokenizer and chat template of one file.
pub struct Assistant {
    /// Runs the model.
    pub engine: Engine,
    /// Between text and tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// How the model wants conversations; none if it only continues texts.
    pub template: Option<ChatTemplate>,
    guesses: Speculation,
}

impl Assistant {
    /// Opens a GGUF file, which stays mapped.
    ///
    /// # Errors
    /// Those of opening and checking a file ([`GgufFile::open`], [`Model::load`], [`Tokenizer::from_gguf`],
    /// [`ChatTemplate::from_gguf`]) and of [`Engine::new`].
    pub fn open(path: impl AsRef<Path>, options: &SessionOptions) -> Result<Assistant> {
        Self::new(Arc::new(GgufFile::open(path.as_ref(), Load::Map)?), options)
    }

    /// As [`Assistant::open`], of a file that is open.
    ///
    /// # Errors
    /// As [`Assistant::open`].
    pub fn new(file: Arc<GgufFile>, options: &SessionOptions) -> Result<Assistant> {
        kinds::check_model(&file)?;
        Ok(Assistant {
            tokenizer: Arc::new(Tokenizer::from_gguf(&file)?),
            template: ChatTemplate::from_gguf(&file)?,
            engine: Engine::new(Model::load(file)?, options)?,
            guesses: Speculation::lookup(),
        })
    }

    /// The prompt of a conversation: through the template, so that an answer follows. Control tokens in the
    /// messages are plain text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a template; those of [`ChatTemplate::encode`].
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            return Err(Error::Unsupported {
                what: "conversation",
                value: "a model without a chat template".into(),
                known: "texts, which it continues".into(),
            });
        };
        let messages = template.fitted(messages);
        template.encode(&self.tokenizer, &messages, true)
    }

    /// The prompt of a text that is to be continued as it is.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        let how = Encode {
            add_special: true,
            parse_special: true,
        };
        self.tokenizer.encode(text, how)
    }

    /// Answers a prompt; `events` get the text as it comes. What earlier answers have read is not read again.
    ///
    /// # Errors
    /// As [`generate_on`].
    pub fn answer(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        events: &mut dyn Events,
    ) -> Result<Generated> {
        let (engine, guesses) = (&mut self.engine, &mut self.guesses);
        let mut seq = engine.sequence()?;
        if engine.model().config().encoder.is_none() {
            engine.begin(&mut seq, &Scope::default(), prompt)?;
        }
        let tokenizer = &self.tokenizer;
        let done = generate_on(
            engine, &mut seq, guesses, tokenizer, prompt, options, events,
        )?;
        engine.keep_state(&seq)?;
        Ok(done)
    }

    /// Lets it answer many at once: [`SessionOptions::streams`] says how many its memory was planned for.
    ///
    /// # Errors
    /// As [`Scheduler::new`].
    pub fn schedule(self, options: SchedulerOptions) -> Result<Scheduler> {
        Scheduler::new(self.engine, self.tokenizer, options)
    }
}
