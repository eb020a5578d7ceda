//! Log-probabilities in the two forms that OpenAI gives them.

use geb::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::reply::Weighed;

/// Those of a chat. A control token is no part of the text, so it has no bytes (OpenAI: "can be null").
pub fn chat(tokenizer: &Tokenizer, tokens: &[Weighed]) -> Value {
    let bytes = |id| match tokenizer.is_control(id) {
        true => Value::Null,
        false => tokenizer.token_bytes(id).into(),
    };
    json!({ "content": all(tokenizer, tokens, bytes) })
}

/// Those of dialects whose types have bytes for every token.
pub fn list(tokenizer: &Tokenizer, tokens: &[Weighed]) -> Value {
    all(tokenizer, tokens, |id| tokenizer.token_bytes(id).into())
}

fn all(tokenizer: &Tokenizer, tokens: &[Weighed], bytes: impl Fn(u32) -> Value) -> Value {
    let one = |id: u32, log_prob: f64| json!({ "token": tokenizer.piece(id), "logprob": log_prob, "bytes": bytes(id) });
    let all = tokens.iter().map(|t| {
        let mut value = one(t.id, t.log_prob);
        value["top_logprobs"] = t.top.iter().map(|(id, p)| one(*id, *p)).collect();
        value
    });
    all.collect()
}

/// Those of a completion, which grow; offsets count characters of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextWeights {
    tokens: Vec<String>,
    log_probs: Vec<Option<f64>>,
    top: Vec<Option<Map<String, Value>>>,
    offsets: Vec<usize>,
    at: usize,
    last: Option<u32>,
}

impl TextWeights {
    /// A token, with none of the numbers for the first one of a text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, weighed: Option<&Weighed>) {
        let piece = tokenizer.piece(id);
        self.offsets.push(self.at);
        // What the token adds to the text: the first one's leading space may be no part of it.
        self.at += tokenizer.continuation(self.last, &[id]).chars().count();
        self.last = Some(id);
        self.log_probs.push(weighed.map(|w| w.log_prob));
        let top = weighed.map(|w| {
            // The token itself is always told; of tokens with one text the larger number stays.
            let all = w.top.iter().copied().chain([(w.id, w.log_prob)]);
            let mut map = Map::new();
            for (id, p) in all {
                let place = map.entry(tokenizer.piece(id)).or_insert(json!(p));
                if place.as_f64().is_some_and(|q| q < p) {
                    *place = json!(p);
                }
            }
            map
        });
        self.top.push(top);
        self.tokens.push(piece);
    }

    /// Tokens of an answer.
    pub fn extend(&mut self, tokenizer: &Tokenizer, tokens: &[Weighed]) {
        for token in tokens {
            self.push(tokenizer, token.id, Some(token));
        }
    }

    /// What has come since the last call; offsets go on.
    pub fn take(&mut self) -> Value {
        let new = TextWeights {
            at: self.at,
            last: self.last,
            ..TextWeights::default()
        };
        let old = std::mem::replace(self, new);
        json!({
            "tokens": old.tokens,
            "token_logprobs": old.log_probs,
            "top_logprobs": old.top,
            "text_offset": old.offsets,
        })
    }
}
