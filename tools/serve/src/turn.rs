//! A turn of a conversation, from whatever dialect it came: prompt, answers, response.

use std::sync::Arc;

use axum::response::Response;
use geb::generate::GenerateOptions;

use crate::app::{App, ignored_header};
use crate::ask;
use crate::conversation::Conversation;
use crate::error::Result;
use crate::keys::Owner;
use crate::models::Loaded;
use crate::reply::{Prompt, Replies};
use crate::stream::{Sending, Writer, respond};

/// How a prompt is answered.
#[derive(Debug)]
pub struct Answering {
    /// What to generate.
    pub options: GenerateOptions,
    /// How many answers.
    pub answers: usize,
    /// At once, or as they come.
    pub sending: Sending,
    /// Fields of the request that have no effect.
    pub ignored: Vec<String>,
}

impl Answering {
    /// One answer.
    pub fn one(options: GenerateOptions, sending: Sending, ignored: Vec<String>) -> Answering {
        Answering {
            options,
            answers: 1,
            sending,
            ignored,
        }
    }
}

/// What a request asks for.
#[derive(Debug)]
pub struct Turn {
    /// The model's name.
    pub model: Option<String>,
    /// What is said before the answer.
    pub conversation: Conversation,
    /// How to answer it.
    pub answering: Answering,
}

impl Turn {
    /// Answers it; `writer` gets the model and the tokens of the prompt.
    ///
    /// # Errors
    /// For a model that is not served, a conversation that cannot be a prompt, a full queue; what an answer that is
    /// sent at once fails with.
    pub async fn answer<W: Writer>(
        self,
        app: &App,
        owner: &Owner,
        writer: impl FnOnce(&Loaded, &[u32]) -> W,
    ) -> Result<Response> {
        let loaded = app.models.get(self.model.as_deref()).await?;
        let prompt = app.prompt(&loaded, self.conversation).await?;
        let writer = writer(&loaded, &prompt.ids);
        answer(app, owner, loaded, vec![prompt], self.answering, writer).await
    }
}

/// Answers prompts.
///
/// # Errors
/// As [`Turn::answer`].
pub async fn answer(
    app: &App,
    owner: &Owner,
    loaded: Arc<Loaded>,
    prompts: Vec<Prompt>,
    mut how: Answering,
    writer: impl Writer,
) -> Result<Response> {
    let unenforced = prompts.iter().flat_map(|p| &p.held.unenforced);
    how.ignored.extend(unenforced.cloned());
    if app.options.strict {
        ask::strict(&how.ignored)?;
    }
    if prompts.iter().any(|p| p.reading.is_some()) {
        how.options.shown.clone_from(&loaded.speaker.shown);
    }
    let (metrics, owner) = (app.metrics.clone(), app.owner(owner));
    let prompts = app.stored(&loaded, &owner, prompts).await?;
    let replies = Replies::start(loaded, metrics, &owner, &prompts, how.answers, &how.options)?;
    let response = respond(replies, writer, how.sending).await?;
    Ok(ignored_header(
        response,
        &how.ignored,
        how.options.sampling.seed,
    ))
}
