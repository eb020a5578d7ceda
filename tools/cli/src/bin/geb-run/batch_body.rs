//! A line of a batch: from its body to a request, and from an answer to the body of a response. The forms are
//! OpenAI's; a field that is not known is refused by its name, since ignoring it would change the answer.

use std::time::{SystemTime, UNIX_EPOCH};

use geb::chat::{ChatTemplate, Message};
use geb::generate::{GenerateOptions, Progress, StopReason, Timings};
use geb::limits;
use geb::sampler::SamplerOptions;
use geb::scheduler::Request;
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What answers: texts to tokens and back.
pub struct Speaker<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: Option<&'a ChatTemplate>,
    /// The name in responses.
    pub model: &'a str,
}

/// Which of the two forms a body has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Chat,
    Completion,
}

impl Form {
    /// The form of the bodies for this URL.
    pub fn of(url: &str) -> Result<Form, Refused> {
        match url {
            "/v1/chat/completions" => Ok(Form::Chat),
            "/v1/completions" => Ok(Form::Completion),
            _ => Err(refused(
                "url",
                format!("url is {url}, allowed: /v1/chat/completions, /v1/completions"),
            )),
        }
    }
}

/// What is wrong with a body, and with which field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    pub param: String,
    pub message: String,
}

fn refused(param: &str, message: impl Into<String>) -> Refused {
    Refused {
        param: param.into(),
        message: message.into(),
    }
}

fn wrong(param: &str, value: &Value, allowed: &str) -> Refused {
    refused(param, format!("{param} is {value}, allowed: {allowed}"))
}

/// A number in a range.
fn number(key: &str, value: &Value, least: f64, most: f64) -> Result<f64, Refused> {
    let n = value.as_f64().filter(|n| (least..=most).contains(n));
    n.ok_or_else(|| wrong(key, value, &format!("{least} to {most}")))
}

fn count(key: &str, value: &Value, most: u64) -> Result<usize, Refused> {
    let n = value.as_u64().filter(|n| *n <= most);
    n.map(|n| n as usize)
        .ok_or_else(|| wrong(key, value, &format!("a whole number up to {most}")))
}

/// The request of a body. Without a seed it has one of its `custom_id`: a batch that is run again, or resumed,
/// gives the same answers.
pub fn request(
    form: Form,
    custom_id: &str,
    body: &Map<String, Value>,
    speaker: &Speaker<'_>,
) -> Result<Request, Refused> {
    let digest = Sha256::digest(custom_id.as_bytes());
    let mut seed = [0; 8];
    seed.copy_from_slice(&digest[..8]);
    let mut options = GenerateOptions {
        max_tokens: if form == Form::Chat { usize::MAX } else { 16 },
        sampling: SamplerOptions {
            seed: u64::from_le_bytes(seed) >> 11,
            ..SamplerOptions::default()
        },
        ..GenerateOptions::default()
    };
    let mut prompt = None;
    for (key, value) in body.iter().filter(|(_, v)| !v.is_null()) {
        match (form, key.as_str()) {
            (Form::Chat, "messages") => prompt = Some(conversation(value, speaker)?),
            (Form::Completion, "prompt") => prompt = Some(text(value, speaker)?),
            (Form::Chat, "logprobs") => {
                options.log_probs = value
                    .as_bool()
                    .ok_or_else(|| wrong(key, value, "true, false"))?;
            }
            (Form::Chat, "top_logprobs") => options.top_log_probs = count(key, value, 20)?,
            (Form::Completion, "logprobs") => {
                options.log_probs = true;
                options.top_log_probs = count(key, value, 20)?;
            }
            (Form::Chat, "max_completion_tokens") | (_, "max_tokens") => {
                options.max_tokens = count(key, value, u64::from(u32::MAX))?;
            }
            (_, "model") if value.is_string() => {}
            (_, "user" | "metadata" | "store" | "service_tier") => {}
            (_, "stop") => options.stop = stops(value)?,
            (_, "ignore_eos") => {
                options.ignore_eos = value
                    .as_bool()
                    .ok_or_else(|| wrong(key, value, "true, false"))?;
            }
            (_, "n") if value == 1 => {}
            (_, "n") => return Err(wrong(key, value, "1: one answer for each line")),
            (_, "stream" | "echo") if value == false => {}
            (_, "stream" | "echo") => return Err(wrong(key, value, "false")),
            _ => sampling(&mut options.sampling, key, value)?,
        }
    }
    let field = if form == Form::Chat {
        "messages"
    } else {
        "prompt"
    };
    let prompt = prompt.ok_or_else(|| refused(field, format!("{field} is absent")))?;
    Ok(Request {
        prompt,
        options,
        ..Request::default()
    })
}

/// A field about how tokens are chosen; any other one is not known.
fn sampling(s: &mut SamplerOptions, key: &str, value: &Value) -> Result<(), Refused> {
    match key {
        "temperature" => s.temperature = number(key, value, 0.0, 2.0)? as f32,
        "top_p" => s.top_p = number(key, value, 0.0, 1.0)? as f32,
        "min_p" => s.min_p = number(key, value, 0.0, 1.0)? as f32,
        "top_k" => s.top_k = count(key, value, u64::from(u32::MAX))?,
        "seed" => {
            let seed = value.as_i64().map(|n| n as u64).or(value.as_u64());
            s.seed = seed.ok_or_else(|| wrong(key, value, "a whole number"))?;
        }
        "frequency_penalty" => s.frequency_penalty = number(key, value, -2.0, 2.0)? as f32,
        "presence_penalty" => s.presence_penalty = number(key, value, -2.0, 2.0)? as f32,
        "repetition_penalty" => s.repeat_penalty = number(key, value, 0.01, 100.0)? as f32,
        "logit_bias" => {
            let map = value
                .as_object()
                .filter(|m| m.len() <= limits::MAX_LOGIT_BIASES);
            let map = map.ok_or_else(|| wrong(key, value, "an object of at most 1024 ids"))?;
            for (id, bias) in map {
                let name = format!("logit_bias.{id}");
                let id = id
                    .parse()
                    .map_err(|_| refused(&name, "a key is a token id"))?;
                s.logit_bias
                    .push((id, number(&name, bias, -100.0, 100.0)? as f32));
            }
        }
        _ => {
            let message = format!("unknown field {key}: it would have no effect");
            return Err(refused(key, message));
        }
    }
    Ok(())
}

fn stops(value: &Value) -> Result<Vec<String>, Refused> {
    let allowed = "a text, or at most 16 of them, none empty";
    let texts = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(all) => all.iter().map(|v| Some(v.as_str()?.to_owned())).collect(),
        _ => None,
    };
    texts
        .filter(|t| t.len() <= 16 && !t.iter().any(String::is_empty))
        .ok_or_else(|| wrong("stop", value, allowed))
}

/// The ids of `messages`, through the chat template.
fn conversation(value: &Value, speaker: &Speaker<'_>) -> Result<Vec<u32>, Refused> {
    let list = value.as_array();
    let list = list.ok_or_else(|| refused("messages", "messages is no list"))?;
    let mut messages = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let at = |name: &str| format!("messages[{i}].{name}");
        let all = message.as_object();
        let all = all.ok_or_else(|| refused(&format!("messages[{i}]"), "no object"))?;
        let known = ["role", "content", "name"];
        if let Some(key) = all.keys().find(|k| !known.contains(&k.as_str())) {
            return Err(refused(&at(key), format!("unknown field {}", at(key))));
        }
        let role = message["role"].as_str();
        let role = role.ok_or_else(|| wrong(&at("role"), &message["role"], "a text"))?;
        // The newer name of the same thing.
        let role = if role == "developer" { "system" } else { role };
        messages.push(Message::new(
            role,
            content(&at("content"), &message["content"])?,
        ));
    }
    let Some(template) = speaker.template else {
        let message = "the model has no chat template: ask /v1/completions";
        return Err(refused("messages", message));
    };
    let messages = template.fitted(&messages);
    let ids = template.encode(speaker.tokenizer, &messages, true);
    ids.map_err(|e| refused("messages", e.to_string()))
}

/// A text, or parts that are texts.
fn content(at: &str, value: &Value) -> Result<String, Refused> {
    let part = |part: &Value| {
        let text = (part["type"] == "text").then(|| part["text"].as_str());
        text.flatten().map(str::to_owned)
    };
    let text = match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some(String::new()),
        Value::Array(parts) => parts.iter().map(part).collect::<Option<String>>(),
        _ => None,
    };
    text.ok_or_else(|| refused(at, format!("{at}: allowed: a text, or parts of type text")))
}

/// The ids of `prompt`.
fn text(value: &Value, speaker: &Speaker<'_>) -> Result<Vec<u32>, Refused> {
    let how = Encode {
        add_special: true,
        parse_special: true,
    };
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::String(text) => {
            let ids = speaker.tokenizer.encode(text, how);
            ids.map_err(|e| refused("prompt", e.to_string()))
        }
        Value::Array(ids) => {
            let ids: Option<_> = ids.iter().map(id).collect();
            ids.ok_or_else(|| refused("prompt", "prompt: allowed: a text, or a list of token ids"))
        }
        _ => Err(wrong("prompt", value, "a text, or a list of token ids")),
    }
}

/// An answer as it came.
#[derive(Default)]
pub struct Answer {
    pub text: String,
    pub tokens: Vec<Progress>,
}

/// The body of the response to a line.
pub fn response(
    form: Form,
    speaker: &Speaker<'_>,
    answer: &Answer,
    reason: StopReason,
    timings: &Timings,
) -> Value {
    let created = SystemTime::now().duration_since(UNIX_EPOCH);
    let finish = match reason {
        StopReason::Length => "length",
        _ => "stop",
    };
    let weighed = answer.tokens.iter().any(|t| t.log_prob.is_some());
    let (object, mut choice) = match form {
        Form::Chat => (
            "chat.completion",
            json!({
                "index": 0,
                "message": { "role": "assistant", "content": answer.text },
                "logprobs": weighed.then(|| json!({ "content": chat_log_probs(speaker, answer) })),
            }),
        ),
        Form::Completion => (
            "text_completion",
            json!({
                "index": 0,
                "text": answer.text,
                "logprobs": weighed.then(|| text_log_probs(speaker, answer)),
            }),
        ),
    };
    choice["finish_reason"] = finish.into();
    let (prompt, sampled) = (timings.prompt_tokens, timings.sampled_tokens);
    json!({
        "object": object,
        "created": created.map_or(0, |d| d.as_secs()),
        "model": speaker.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": sampled,
            "total_tokens": prompt + sampled,
            "prompt_tokens_details": { "cached_tokens": timings.reused_tokens },
        },
    })
}

fn chat_log_probs(speaker: &Speaker<'_>, answer: &Answer) -> Vec<Value> {
    let one = |id: u32, log_prob: f64| {
        json!({
            "token": speaker.tokenizer.piece(id),
            "logprob": log_prob,
            "bytes": speaker.tokenizer.token_bytes(id),
        })
    };
    let tokens = answer.tokens.iter();
    let known = tokens.filter_map(|t| Some((t, t.id?, t.log_prob?)));
    let all = known.map(|(t, id, log_prob)| {
        let mut value = one(id, log_prob);
        value["top_logprobs"] = t.top.iter().map(|(id, p)| one(*id, *p)).collect();
        value
    });
    all.collect()
}

fn text_log_probs(speaker: &Speaker<'_>, answer: &Answer) -> Value {
    let piece = |id: u32| speaker.tokenizer.piece(id);
    let tokens = answer.tokens.iter();
    let known: Vec<_> = tokens
        .filter_map(|t| Some((t, t.id?, t.log_prob?)))
        .collect();
    let mut at = 0;
    let offsets = known.iter().map(|(_, id, _)| {
        let here = at;
        at += piece(*id).chars().count();
        here
    });
    let offsets: Vec<_> = offsets.collect();
    let tops = known.iter().map(|(t, ..)| {
        let all = t.top.iter().map(|(id, p)| (piece(*id), json!(p)));
        Value::Object(all.collect())
    });
    json!({
        "tokens": known.iter().map(|(_, id, _)| piece(*id)).collect::<Vec<_>>(),
        "token_logprobs": known.iter().map(|(.., p)| *p).collect::<Vec<_>>(),
        "top_logprobs": tops.collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
