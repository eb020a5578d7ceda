//! `/v1/completions`: texts that are continued as they are.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::{Map, Value, json};

use super::chat::{Counting, sending};
use super::weights::TextWeights;
use crate::app::App;
use crate::error::{ApiError, Dialect, Result};
use crate::fields::Fields;
use crate::form::{self, Form};
use crate::keys::Owner;
use crate::models::Speaker;
use crate::reply::{self, Piece, Reply, Step};
use crate::stream::{Frames, Writer};
use crate::turn::{Answering, answer};
use crate::{ask, body, id, limits};

/// Tokens of an answer where none are asked for.
const MAX_TOKENS: usize = 16;

/// What is to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Its tokens, as they are.
    Ids(Vec<u32>),
}

/// Whether a text is read for the texts of control tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// They become control tokens.
    Read,
    /// They are text.
    Plain,
}

/// What a body asks for.
#[derive(Debug)]
pub struct Asked {
    /// The model's name.
    pub model: Option<String>,
    /// What is to be continued, each for itself.
    pub prompts: Vec<Prompt>,
    /// Whether control tokens are read in texts.
    pub control: Control,
    /// Give the prompt back before its continuation.
    pub echo: bool,
    /// What a stream tells of counts.
    pub counting: Counting,
    /// What form each continuation must have; none: any.
    pub form: Option<Form>,
    /// How to answer each.
    pub answering: Answering,
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// Names the first field that is malformed, out of its range, or cannot be had.
    pub fn read(body: &Map<String, Value>) -> Result<Asked> {
        let f = Fields::of(body);
        let prompts = prompts(f.required("prompt", f.value("prompt"))?)?;
        let mut options = ask::defaults();
        ask::sampling(&f, &mut options.sampling)?;
        options.stop = ask::stops(&f, "stop")?;
        options.max_tokens = f.count("max_tokens", 0..=u64::MAX)?.unwrap_or(MAX_TOKENS);
        options.ignore_eos = f.flag("ignore_eos")?.unwrap_or(false);
        let top = f.count("logprobs", 0..=limits::TOP_LOG_PROBS as u64)?;
        let echo = f.flag("echo")?.unwrap_or(false);
        options.log_probs = top.is_some();
        options.top_log_probs = top.unwrap_or(0);
        options.prompt_log_probs = echo && top.is_some();
        let answers = f.count("n", 1..=limits::ANSWERS as u64)?.unwrap_or(1);
        if let Some(best) = f.count("best_of", 1..=limits::ANSWERS as u64)?
            && best != answers
        {
            return Err(ApiError::wrong("best_of", &json!(best), "as many as n"));
        }
        if let Some(suffix) = f.text("suffix")?.filter(|s| !s.is_empty()) {
            return Err(ApiError::wrong("suffix", &json!(suffix), "absent"));
        }
        let control = match f.flag("parse_special")?.unwrap_or(true) {
            true => Control::Read,
            false => Control::Plain,
        };
        f.accept(&super::WITHOUT_EFFECT);
        let (sending, counting) = sending(&f)?;
        Ok(Asked {
            model: f.text("model")?.map(str::to_owned),
            form: Form::read(&f)?,
            prompts,
            control,
            echo,
            counting,
            answering: Answering {
                options,
                answers,
                sending,
                ignored: f.unknown(),
            },
        })
    }

    /// The prompts for the scheduler. Takes a while: not for a task.
    ///
    /// # Errors
    /// As [`encode`]; for a prompt that is longer than the context, a form that no text can be held to.
    pub fn encode(&self, speaker: &Speaker) -> Result<Vec<reply::Prompt>> {
        let held = form::hold_text(self.form.as_ref(), speaker)?;
        let one = |prompt: &Prompt| {
            let ids = encode(&speaker.tokenizer, prompt, self.control)?;
            ask::check_prompt(&ids, speaker.ctx, "prompt")?;
            Ok(reply::Prompt {
                held: held.clone(),
                ..reply::Prompt::of(ids)
            })
        };
        self.prompts.iter().map(one).collect()
    }
}

/// A text, texts, ids, or lists of ids.
pub(crate) fn prompts(value: &Value) -> Result<Vec<Prompt>> {
    let ids = |list: &[Value]| -> Option<Prompt> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        Some(Prompt::Ids(list.iter().map(id).collect::<Option<_>>()?))
    };
    let one = |v: &Value| match v {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(list) => ids(list),
        _ => None,
    };
    let found = match value {
        Value::String(text) => Some(vec![Prompt::Text(text.clone())]),
        Value::Array(list) if list.iter().all(Value::is_u64) && !list.is_empty() => {
            ids(list).map(|p| vec![p])
        }
        Value::Array(list) => list.iter().map(one).collect(),
        _ => None,
    };
    let good = found.filter(|p| (1..=limits::PROMPTS).contains(&p.len()));
    let allowed = format!(
        "a text, a list of token ids, or 1 to {} of these",
        limits::PROMPTS
    );
    good.ok_or_else(|| ApiError::wrong("prompt", value, &allowed))
}

/// The tokens of a prompt.
///
/// # Errors
/// For a text that is too long to be read, an id that is none, more tokens than the context has.
pub(crate) fn encode(tokenizer: &Tokenizer, prompt: &Prompt, control: Control) -> Result<Vec<u32>> {
    match prompt {
        Prompt::Text(text) if text.len() > limits::TEXT_BYTES => {
            let (found, most) = (text.len(), limits::TEXT_BYTES);
            Err(ApiError::field(
                "prompt",
                format!("prompt has {found} bytes, allowed: at most {most}"),
            ))
        }
        Prompt::Text(text) => {
            let how = Encode {
                add_special: true,
                parse_special: control == Control::Read,
            };
            tokenizer
                .encode(text, how)
                .map_err(|e| ApiError::of("prompt", &e))
        }
        Prompt::Ids(ids) => {
            let most = tokenizer.vocab_len();
            match ids.iter().find(|id| **id as usize >= most) {
                Some(id) => {
                    let message = format!("prompt has the id {id}, allowed: below {most}");
                    Err(ApiError::field("prompt", message))
                }
                None => Ok(ids.clone()),
            }
        }
    }
}

/// Continues texts.
///
/// # Errors
/// [`ApiError`].
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(owner): Extension<Owner>,
    request: Request,
) -> Result<Response> {
    let body = body::object(request).await?;
    let asked = Asked::read(&body)?;
    let loaded = app.models.get(asked.model.as_deref()).await?;
    let speaker = loaded.speaker.clone();
    let encoded = app.blocking(move || Ok((asked.encode(&speaker)?, asked)));
    let (prompts, asked) = encoded.await?;
    let writer = TextWriter::new(loaded.speaker.clone(), &asked, &prompts);
    answer(&app, &owner, loaded, prompts, asked.answering, writer).await
}

/// Writes continuations.
pub struct TextWriter {
    id: String,
    created: u64,
    counting: Counting,
    weights: Vec<TextWeights>,
    /// The prompt of each answer, if it is to be given back and was not yet.
    echo: Vec<Option<Vec<u32>>>,
    answers: usize,
    weighed: bool,
    speaker: Arc<Speaker>,
}

impl TextWriter {
    /// Of these prompts.
    pub fn new(speaker: Arc<Speaker>, asked: &Asked, prompts: &[reply::Prompt]) -> TextWriter {
        let answers = asked.answering.answers;
        let count = prompts.len() * answers;
        TextWriter {
            id: id::random("cmpl-"),
            created: id::now(),
            counting: asked.counting,
            weights: vec![TextWeights::default(); count],
            echo: (0..count)
                .map(|n| asked.echo.then(|| prompts[n / answers].ids.clone()))
                .collect(),
            answers,
            weighed: asked.answering.options.log_probs,
            speaker,
        }
    }

    fn object(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.speaker.name,
            "system_fingerprint": crate::app::FINGERPRINT,
            "choices": choices,
        })
    }

    fn tokenizer(&self) -> Arc<Tokenizer> {
        self.speaker.tokenizer.clone()
    }

    /// The text of a prompt that is given back, once, with its tokens among the weights.
    fn echoed(&mut self, n: usize, reply: &Reply) -> String {
        let Some(ids) = self.echo[n].take() else {
            return String::new();
        };
        let tokenizer = self.speaker.tokenizer.clone();
        if self.weighed {
            let weights = &mut self.weights[n];
            weights.push(&tokenizer, ids[0], None);
            weights.extend(&tokenizer, &reply.prompt);
        }
        tokenizer.decode_with_control(&ids)
    }

    fn send(&self, n: usize, reply: &Reply, choice: Value, out: &mut Frames) {
        let mut choice = choice;
        choice["index"] = n.into();
        let mut chunk = self.object(json!([choice]));
        self.counting.tell(&mut chunk, reply);
        out.data(&chunk);
    }

    /// Counts, with the prompts of several answers counted once.
    fn total(&self, replies: &[&Reply]) -> Value {
        let firsts: Vec<_> = replies.iter().step_by(self.answers).copied().collect();
        let prompts = firsts.iter().map(|r| r.timings.prompt_tokens).sum();
        let cached = firsts.iter().map(|r| r.timings.reused_tokens).sum();
        super::of(prompts, cached, replies)
    }
}

impl Writer for TextWriter {
    fn grown(&mut self, n: usize, reply: &Reply, step: &Step, out: &mut Frames) {
        let Step::Grown { pieces, tokens } = step else {
            return;
        };
        if pieces.is_empty() && tokens.is_empty() {
            return;
        }
        let mut text = self.echoed(n, reply);
        let tokenizer = self.tokenizer();
        self.weights[n].extend(&tokenizer, tokens);
        for piece in pieces {
            if let Piece::Text(piece) = piece {
                text.push_str(piece);
            }
        }
        let weights = self.weighed.then(|| self.weights[n].take());
        let choice = json!({ "text": text, "logprobs": weights, "finish_reason": null });
        self.send(n, reply, choice, out);
    }

    fn done(&mut self, n: usize, reply: &Reply, out: &mut Frames) {
        let text = self.echoed(n, reply);
        // An end token has no text, and is an entry all the same: clients count on one for each token.
        let tokenizer = self.tokenizer();
        self.weights[n].extend(&tokenizer, reply.end.as_slice());
        let weights = self.weighed.then(|| self.weights[n].take());
        let finish = reply.finish.map(super::finish_name);
        let choice = json!({ "text": text, "logprobs": weights, "finish_reason": finish });
        self.send(n, reply, choice, out);
    }

    fn end(&mut self, replies: &[&Reply], out: &mut Frames) {
        if self.counting != Counting::Off {
            let mut chunk = self.object(json!([]));
            chunk["usage"] = self.total(replies);
            out.data(&chunk);
        }
        out.raw("data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body(Dialect::OpenAi, &self.id));
    }

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        let mut choices = Vec::with_capacity(replies.len());
        for (n, reply) in replies.iter().enumerate() {
            let text = self.echoed(n, reply) + &reply.text();
            let tokenizer = self.tokenizer();
            self.weights[n].extend(&tokenizer, &reply.tokens);
            self.weights[n].extend(&tokenizer, reply.end.as_slice());
            choices.push(json!({
                "index": n,
                "text": text,
                "logprobs": self.weighed.then(|| self.weights[n].take()),
                "finish_reason": reply.finish.map(super::finish_name),
            }));
        }
        let mut whole = self.object(choices.into());
        whole["usage"] = self.total(replies);
        if let [one] = replies {
            whole["timings"] = super::timings(&one.timings);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_texts_or_ids() {
        let text = |t: &str| Prompt::Text(t.into());
        assert_eq!(prompts(&json!("a")), Ok(vec![text("a")]));
        assert_eq!(prompts(&json!(["a", "b"])), Ok(vec![text("a"), text("b")]));
        assert_eq!(prompts(&json!([1, 2])), Ok(vec![Prompt::Ids(vec![1, 2])]));
        let two = vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])];
        assert_eq!(prompts(&json!([[1], [2, 3]])), Ok(two));
        for bad in [
            json!([]),
            json!(1),
            json!([-1]),
            json!([1.5]),
            json!([[1, "a"]]),
            json!({}),
            json!([u64::MAX]),
        ] {
            assert!(prompts(&bad).is_err(), "{bad}");
        }
    }
}
