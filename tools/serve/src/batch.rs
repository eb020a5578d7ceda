//! Requests of OpenAI's batches: bodies that come from a file, answers that go into one.

use std::sync::Arc;

use geb::generate::GenerateOptions;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};
use crate::models::Speaker;
use crate::openai::chat::{self, ChatWriter, Counting};
use crate::openai::completions::{self, TextWriter};
use crate::reply::{Prompt, Reply};
use crate::stream::{Sending, Writer};
use crate::{ask, turn::Answering};

/// A body that was read: what to ask, and how to write the answer.
pub struct Asked {
    /// Its tokens, and how to read the answer.
    pub prompt: Prompt,
    /// How to answer.
    pub options: GenerateOptions,
    writer: Box<dyn Writer>,
}

impl Asked {
    /// Reads the body of a request to `url`; `seed`: that of a body without one. Unknown fields are refused, since
    /// nobody would see that they were ignored.
    ///
    /// # Errors
    /// Names the field that is malformed, out of its range, unknown or cannot be had.
    pub fn read(
        url: &str,
        body: &Map<String, Value>,
        speaker: &Arc<Speaker>,
        seed: u64,
    ) -> Result<Asked> {
        let mut seeded = body.clone();
        if body.get("seed").is_none_or(Value::is_null) {
            seeded.insert("seed".into(), seed.into());
        }
        match url {
            "/v1/chat/completions" => Self::chat(&seeded, speaker),
            "/v1/completions" => Self::completion(&seeded, speaker),
            _ => {
                let allowed = "/v1/chat/completions, /v1/completions";
                Err(ApiError::wrong("url", &url.into(), allowed))
            }
        }
    }

    fn chat(body: &Map<String, Value>, speaker: &Arc<Speaker>) -> Result<Asked> {
        let (turn, _) = chat::read(body)?;
        plain(&turn.answering)?;
        let mut options = turn.answering.options;
        options.shown.clone_from(&speaker.shown);
        let prompt = turn.conversation.prompt(speaker)?;
        ask::strict(&prompt.held.unenforced)?;
        options.constraint.clone_from(&prompt.held.constraint);
        Ok(Asked {
            prompt,
            writer: Box::new(ChatWriter::new(
                speaker.clone(),
                Counting::Off,
                options.log_probs,
            )),
            options,
        })
    }

    fn completion(body: &Map<String, Value>, speaker: &Arc<Speaker>) -> Result<Asked> {
        let asked = completions::Asked::read(body)?;
        plain(&asked.answering)?;
        let prompts = asked.encode(speaker)?;
        let writer = Box::new(TextWriter::new(speaker.clone(), &asked, &prompts));
        let [prompt] = <[Prompt; 1]>::try_from(prompts)
            .map_err(|all| ApiError::wrong("prompt", &all.len().into(), "one for each line"))?;
        ask::strict(&prompt.held.unenforced)?;
        let mut options = asked.answering.options;
        options.constraint.clone_from(&prompt.held.constraint);
        Ok(Asked {
            writer,
            options,
            prompt,
        })
    }

    /// The body of the response.
    pub fn response(&mut self, reply: &Reply) -> Value {
        let mut body = self.writer.whole(&[reply]);
        if let Some(body) = body.as_object_mut() {
            // Of a request among others they say nothing.
            body.remove("timings");
        }
        body
    }
}

/// Refuses what a line cannot have.
fn plain(asked: &Answering) -> Result<()> {
    if asked.answers != 1 {
        return Err(ApiError::wrong(
            "n",
            &asked.answers.into(),
            "1: one answer for each line",
        ));
    }
    if asked.sending == Sending::Streaming {
        return Err(ApiError::wrong("stream", &true.into(), "false"));
    }
    ask::strict(&asked.ignored)
}
