//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use geb::generate::GenerateOptions;
use serde_json::{Map, Value, json};

use super::weights;
use crate::app::{App, ignored_header};
use crate::conversation::Conversation;
use crate::error::{ApiError, Dialect, Result};
use crate::fields::Fields;
use crate::keys::Owner;
use crate::options::ServeOptions;
use crate::reply::{Piece, Replies, Reply, Step};
use crate::stream::{Frames, Sending, Writer, respond};
use crate::{ask, body, id, limits};

/// What a body asks for.
#[derive(Debug)]
pub struct Asked {
    /// The model's name.
    pub model: Option<String>,
    /// What is said before the answer.
    pub conversation: Conversation,
    /// How to answer.
    pub options: GenerateOptions,
    /// How many answers.
    pub answers: usize,
    /// At once, or as they come.
    pub sending: Sending,
    /// What a stream tells of counts.
    pub counting: Counting,
    /// Fields that have no effect.
    pub ignored: Vec<String>,
}

/// When a stream tells how many tokens there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counting {
    /// Never.
    Off,
    /// Once, at the end.
    AtEnd,
    /// In each piece.
    Always,
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// Names the first field that is malformed, out of its range, or cannot be had.
    pub fn read(body: &Map<String, Value>, serve: &ServeOptions) -> Result<Asked> {
        let f = Fields::of(body);
        let messages = f.required("messages", f.list("messages")?)?;
        let mut options = ask::defaults();
        ask::sampling(&f, &mut options.sampling)?;
        options.stop = ask::stops(&f, "stop")?;
        let most = f.count("max_tokens", 0..=u64::MAX)?;
        let most = f.count("max_completion_tokens", 0..=u64::MAX)?.or(most);
        options.max_tokens = most.unwrap_or(usize::MAX);
        options.log_probs = f.flag("logprobs")?.unwrap_or(false);
        options.top_log_probs = f
            .count("top_logprobs", 0..=limits::TOP_LOG_PROBS as u64)?
            .unwrap_or(0);
        if options.top_log_probs > 0 && !options.log_probs {
            let message = "top_logprobs is set, allowed: together with logprobs: true";
            return Err(ApiError::field("top_logprobs", message));
        }
        options.ignore_eos = f.flag("ignore_eos")?.unwrap_or(false);
        let answers = f.count("n", 1..=limits::ANSWERS as u64)?.unwrap_or(1);
        f.refuse(
            &["audio", "web_search_options", "functions", "function_call"],
            "absent",
        )?;
        if let Some(value) = f.value("modalities").filter(|v| **v != json!(["text"])) {
            return Err(ApiError::wrong("modalities", value, "[\"text\"]"));
        }
        f.accept(&super::WITHOUT_EFFECT);
        let (sending, counting) = sending(&f)?;
        Ok(Asked {
            model: f.text("model")?.map(str::to_owned),
            conversation: Conversation::read(messages)?,
            options,
            answers,
            sending,
            counting,
            ignored: super::ignored(&f, serve)?,
        })
    }
}

/// `stream` and `stream_options`.
pub(super) fn sending(f: &Fields<'_>) -> Result<(Sending, Counting)> {
    let sending = match f.flag("stream")?.unwrap_or(false) {
        true => Sending::Streaming,
        false => Sending::AtOnce,
    };
    let Some(options) = f.object("stream_options")? else {
        return Ok((sending, Counting::Off));
    };
    let at_end = options.flag("include_usage")?.unwrap_or(false);
    let always = options.flag("continuous_usage_stats")?.unwrap_or(false);
    options.accept(&["include_obfuscation"]);
    let counting = match (at_end, always) {
        (_, true) => Counting::Always,
        (true, _) => Counting::AtEnd,
        _ => Counting::Off,
    };
    Ok((sending, counting))
}

/// Answers a conversation.
///
/// # Errors
/// [`ApiError`].
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let body = body::object(request).await?;
    let asked = Asked::read(&body, &app.options)?;
    let loaded = app.models.get(asked.model.as_deref()).await?;
    let prompt = app.prompt(&loaded, asked.conversation).await?;
    let owner = app.owner(&owner);
    let seed = asked.options.sampling.seed;
    let metrics = app.metrics.clone();
    let replies = Replies::start(
        loaded.clone(),
        metrics,
        &owner,
        &[prompt],
        asked.answers,
        &asked.options,
    )?;
    let writer = ChatWriter {
        id: id::random("chatcmpl-"),
        created: id::now(),
        counting: asked.counting,
        weighed: asked.options.log_probs,
        loaded,
    };
    let response = respond(replies, writer, asked.sending).await?;
    Ok(ignored_header(response, &asked.ignored, seed))
}

/// Writes answers to a conversation.
pub struct ChatWriter {
    /// Of the whole request.
    id: String,
    created: u64,
    counting: Counting,
    weighed: bool,
    loaded: Arc<crate::models::Loaded>,
}

impl ChatWriter {
    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.loaded.speaker.name,
            "system_fingerprint": crate::app::FINGERPRINT,
            "choices": choices,
        })
    }

    /// A chunk of one answer.
    fn send(&self, n: usize, reply: &Reply, choice: Value, out: &mut Frames) {
        let mut choice = choice;
        choice["index"] = n.into();
        let mut chunk = self.chunk(json!([choice]));
        match self.counting {
            Counting::Off => {}
            Counting::AtEnd => chunk["usage"] = Value::Null,
            Counting::Always => chunk["usage"] = super::usage(&[reply]),
        }
        out.data(&chunk);
    }
}

impl Writer for ChatWriter {
    fn started(&mut self, n: usize, reply: &Reply, out: &mut Frames) {
        let choice = json!({
            "delta": { "role": "assistant", "content": "" },
            "logprobs": null,
            "finish_reason": null,
        });
        self.send(n, reply, choice, out);
    }

    fn grown(&mut self, n: usize, reply: &Reply, step: &Step, out: &mut Frames) {
        let Step::Grown { pieces, tokens } = step else {
            return;
        };
        let mut weights = match tokens.is_empty() {
            true => Value::Null,
            false => weights::chat(&self.loaded.speaker.tokenizer, tokens),
        };
        let mut deltas: Vec<_> = pieces
            .iter()
            .map(|Piece::Text(text)| json!({ "content": text }))
            .collect();
        if deltas.is_empty() && !tokens.is_empty() {
            deltas.push(json!({ "content": "" }));
        }
        for delta in deltas {
            let choice =
                json!({ "delta": delta, "logprobs": weights.take(), "finish_reason": null });
            self.send(n, reply, choice, out);
        }
    }

    fn done(&mut self, n: usize, reply: &Reply, out: &mut Frames) {
        let finish = reply.finish.map(super::finish_name);
        let choice = json!({ "delta": {}, "logprobs": null, "finish_reason": finish });
        self.send(n, reply, choice, out);
    }

    fn end(&mut self, replies: &[&Reply], out: &mut Frames) {
        if self.counting != Counting::Off {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = total(replies);
            out.data(&chunk);
        }
        out.raw("data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body(Dialect::OpenAi, &self.id));
    }

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        let choices = replies.iter().enumerate().map(|(n, reply)| {
            let weights = || weights::chat(&self.loaded.speaker.tokenizer, &reply.tokens);
            json!({
                "index": n,
                "message": { "role": "assistant", "content": reply.text, "refusal": null },
                "logprobs": self.weighed.then(weights),
                "finish_reason": reply.finish.map(super::finish_name),
            })
        });
        let choices: Vec<_> = choices.collect();
        let mut whole = self.chunk(choices.into());
        whole["object"] = "chat.completion".into();
        whole["usage"] = total(replies);
        if let [one] = replies {
            whole["timings"] = super::timings(&one.timings);
        }
        whole
    }
}

/// Counts of several answers to one prompt, which was read once.
fn total(replies: &[&Reply]) -> Value {
    let sampled = replies.iter().map(|r| r.timings.sampled_tokens).sum();
    let first = replies.first().map(|r| r.timings).unwrap_or_default();
    super::of(first.prompt_tokens, sampled, first.reused_tokens)
}
