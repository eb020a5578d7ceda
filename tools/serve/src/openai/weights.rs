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
    /// Bytes of a character that is not whole yet.
    begun: Vec<u8>,
}

/// Takes the characters that are whole; their number. What can be none counts as the one that stands for it.
fn take_chars(bytes: &mut Vec<u8>) -> usize {
    let mut count = 0;
    loop {
        let (good, bad) = match std::str::from_utf8(bytes) {
            Ok(_) => (bytes.len(), None),
            Err(e) => (e.valid_up_to(), e.error_len()),
        };
        count +=
            String::from_utf8_lossy(&bytes[..good]).chars().count() + usize::from(bad.is_some());
        bytes.drain(..good + bad.unwrap_or(0));
        if bad.is_none() {
            return count;
        }
    }
}

impl TextWeights {
    /// A token, with none of the numbers for the first one of a text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, weighed: Option<&Weighed>) {
        let piece = tokenizer.piece(id);
        self.offsets.push(self.at);
        // What the token adds to the text: the first one's leading space may be no part of it.
        let text = tokenizer.continuation(self.last, &[id]);
        match text.contains(char::REPLACEMENT_CHARACTER) {
            true => self.begun.extend(tokenizer.token_bytes(id)),
            false => self.begun.extend(text.bytes()),
        }
        self.at += take_chars(&mut self.begun);
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
            begun: std::mem::take(&mut self.begun),
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

#[cfg(test)]
mod tests {
    use super::take_chars;

    #[test]
    fn characters_are_counted_when_they_are_whole() {
        let mut bytes = Vec::new();
        let mut counts = Vec::new();
        for byte in "é🙂a".bytes() {
            bytes.push(byte);
            counts.push(take_chars(&mut bytes));
        }
        assert_eq!(counts, [0, 1, 0, 0, 0, 1, 1]);
        // A byte that no character begins with, and one that is not gone on with.
        let mut bytes = b"\xffa\xc3b\xf0\x9f".to_vec();
        assert_eq!(take_chars(&mut bytes), 4);
        assert_eq!(bytes, b"\xf0\x9f");
    }
}
