//! Answers item by item.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::error::{ApiError, Dialect};
use crate::id;
use crate::models::Speaker;
use crate::openai::weights;
use crate::reply::{Finish, Part, Piece, Reply, Step};
use crate::stream::{Frames, Writer};

/// Writes answers item by item.
pub struct ResponseWriter {
    id: String,
    created: u64,
    /// What the request said, given back.
    told: Value,
    /// Of the next event.
    number: u64,
    /// Names of the items that were begun; the last one grows.
    items: Vec<String>,
    speaker: Arc<Speaker>,
}

/// An item of the output.
fn output(part: &Part, id: &str, status: &str, log_probs: Value) -> Value {
    match part {
        Part::Text(text) => json!({
            "id": id, "type": "message", "status": status, "role": "assistant",
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": log_probs }],
        }),
        Part::Reasoning(text) => json!({
            "id": id, "type": "reasoning", "status": status, "summary": [],
            "content": [{ "type": "reasoning_text", "text": text }],
        }),
        Part::Call {
            id: call,
            name,
            arguments,
        } => json!({
            "id": id, "type": "function_call", "status": status, "call_id": call, "name": name, "arguments": arguments,
        }),
    }
}

/// The beginning of an item's name.
fn prefix(part: &Part) -> &'static str {
    match part {
        Part::Text(_) => "msg_",
        Part::Reasoning(_) => "rs_",
        Part::Call { .. } => "fc_",
    }
}

impl ResponseWriter {
    /// Of one request; `told`: what of it is given back.
    pub fn new(speaker: Arc<Speaker>, told: Value) -> ResponseWriter {
        ResponseWriter {
            id: id::random("resp_"),
            created: id::now(),
            told,
            number: 0,
            items: Vec::new(),
            speaker,
        }
    }

    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.speaker.name,
            "output": output,
            "error": null,
            "incomplete_details": null,
            "usage": usage,
        });
        if let (Value::Object(all), Value::Object(told)) = (&mut response, &self.told) {
            all.extend(told.clone());
        }
        response
    }

    /// The response when it is whole.
    fn finished(&mut self, reply: &Reply) -> Value {
        while self.items.len() < reply.parts.len() {
            self.items
                .push(id::random(prefix(&reply.parts[self.items.len()])));
        }
        let (status, details) = match reply.finish {
            Some(Finish::Length) => ("incomplete", json!({ "reason": "max_output_tokens" })),
            _ => ("completed", Value::Null),
        };
        let log_probs = self.weights(reply);
        let parts = reply.parts.iter().zip(&self.items);
        let items = parts.map(|(part, id)| output(part, id, status, log_probs.clone()));
        let t = &reply.timings;
        let usage = json!({
            "input_tokens": t.prompt_tokens,
            "input_tokens_details": { "cached_tokens": t.reused_tokens, "cache_write_tokens": 0 },
            "output_tokens": t.sampled_tokens,
            "output_tokens_details": { "reasoning_tokens": reply.reasoning_tokens },
            "total_tokens": t.prompt_tokens + t.sampled_tokens,
        });
        let mut response = self.response(status, items.collect(), usage);
        response["incomplete_details"] = details;
        response
    }

    fn weights(&self, reply: &Reply) -> Value {
        match reply.tokens.is_empty() {
            true => json!([]),
            false => weights::list(&self.speaker.tokenizer, &reply.tokens),
        }
    }

    /// Sends an event with its type and number.
    fn send(&mut self, kind: &str, mut event: Value, out: &mut Frames) {
        event["type"] = kind.into();
        event["sequence_number"] = self.number.into();
        self.number += 1;
        out.event(kind, &event);
    }

    /// Where the item that grows is, and its name.
    fn at(&self) -> (usize, String) {
        let index = self.items.len() - 1;
        (index, self.items[index].clone())
    }

    /// Begins an item.
    fn open(&mut self, part: &Part, out: &mut Frames) {
        self.items.push(id::random(prefix(part)));
        let (index, id) = self.at();
        let mut item = output(part, &id, "in_progress", json!([]));
        if !matches!(part, Part::Call { .. }) {
            item["content"] = json!([]);
        }
        self.send(
            "response.output_item.added",
            json!({ "output_index": index, "item": item }),
            out,
        );
        if let Some(content) = empty(part) {
            let event = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": content });
            self.send("response.content_part.added", event, out);
        }
    }

    /// Ends the item that grows.
    fn close(&mut self, part: &Part, status: &str, log_probs: Value, out: &mut Frames) {
        let (index, id) = self.at();
        let item = output(part, &id, status, log_probs.clone());
        let place = json!({ "item_id": id, "output_index": index, "content_index": 0 });
        let with = |key: &str, value: Value| {
            let mut event = place.clone();
            event[key] = value;
            event
        };
        match part {
            Part::Text(text) => {
                let mut event = with("text", text.as_str().into());
                event["logprobs"] = log_probs;
                self.send("response.output_text.done", event, out);
            }
            Part::Reasoning(text) => self.send(
                "response.reasoning_text.done",
                with("text", text.as_str().into()),
                out,
            ),
            Part::Call {
                name, arguments, ..
            } => {
                let event = json!({ "item_id": id, "output_index": index, "name": name, "arguments": arguments });
                self.send("response.function_call_arguments.done", event, out);
            }
        }
        if let Some(content) = item["content"].get(0) {
            self.send(
                "response.content_part.done",
                with("part", content.clone()),
                out,
            );
        }
        self.send(
            "response.output_item.done",
            json!({ "output_index": index, "item": item }),
            out,
        );
    }

    /// Begins and ends items so that the one of the last `parts` grows.
    fn advance(&mut self, reply: &Reply, parts: usize, out: &mut Frames) {
        while self.items.len() < parts {
            let n = self.items.len();
            if n > 0 {
                self.close(&reply.parts[n - 1], "completed", json!([]), out);
            }
            let begun = match &reply.parts[n] {
                Part::Text(_) => Part::Text(String::new()),
                Part::Reasoning(_) => Part::Reasoning(String::new()),
                Part::Call { id, name, .. } => Part::Call {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                },
            };
            self.open(&begun, out);
        }
    }
}

/// The content that an item begins with; a call has none.
fn empty(part: &Part) -> Option<Value> {
    match part {
        Part::Text(_) => {
            Some(json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] }))
        }
        Part::Reasoning(_) => Some(json!({ "type": "reasoning_text", "text": "" })),
        Part::Call { .. } => None,
    }
}

/// Parts that a reply had before these pieces, and for each piece the parts that there are with it.
fn growth(reply: &Reply, pieces: &[Piece]) -> Vec<usize> {
    // From the end: a piece is of the last part, and the part before it begins where the kind changes.
    let mut at = reply.parts.len();
    let mut counts = vec![0; pieces.len()];
    for (i, piece) in pieces.iter().enumerate().rev() {
        counts[i] = at;
        let begins = match (piece, i.checked_sub(1).map(|n| &pieces[n])) {
            (Piece::Call { .. }, _) => true,
            (_, None) => false,
            (Piece::Text(_), Some(before)) => !matches!(before, Piece::Text(_)),
            (Piece::Reasoning(_), Some(before)) => !matches!(before, Piece::Reasoning(_)),
            (Piece::Arguments(_), _) => false,
        };
        at -= usize::from(begins);
    }
    counts
}

impl Writer for ResponseWriter {
    fn started(&mut self, _n: usize, _reply: &Reply, out: &mut Frames) {
        let response = self.response("in_progress", json!([]), Value::Null);
        for kind in ["response.created", "response.in_progress"] {
            self.send(kind, json!({ "response": response }), out);
        }
    }

    fn grown(&mut self, _n: usize, reply: &Reply, step: &Step, out: &mut Frames) {
        let Step::Grown { pieces, tokens } = step else {
            return;
        };
        let log_probs = match tokens.is_empty() {
            true => json!([]),
            false => weights::list(&self.speaker.tokenizer, tokens),
        };
        for (piece, parts) in pieces.iter().zip(growth(reply, pieces)) {
            self.advance(reply, parts, out);
            let (index, id) = self.at();
            let place = json!({ "item_id": id, "output_index": index });
            let with = |text: &str, content: bool| {
                let mut event = place.clone();
                event["delta"] = text.into();
                if content {
                    event["content_index"] = 0.into();
                }
                event
            };
            match piece {
                Piece::Text(text) => {
                    let mut event = with(text, true);
                    event["logprobs"] = log_probs.clone();
                    self.send("response.output_text.delta", event, out);
                }
                Piece::Reasoning(text) => {
                    self.send("response.reasoning_text.delta", with(text, true), out)
                }
                Piece::Call { .. } => {}
                Piece::Arguments(text) => {
                    self.send(
                        "response.function_call_arguments.delta",
                        with(text, false),
                        out,
                    );
                }
            }
        }
    }

    fn done(&mut self, _n: usize, reply: &Reply, out: &mut Frames) {
        self.advance(reply, reply.parts.len(), out);
        let cut = reply.finish == Some(Finish::Length);
        if let Some(last) = reply.parts.last() {
            let log_probs = self.weights(reply);
            self.close(
                last,
                if cut { "incomplete" } else { "completed" },
                log_probs,
                out,
            );
        }
        let response = self.finished(reply);
        let kind = if cut {
            "response.incomplete"
        } else {
            "response.completed"
        };
        self.send(kind, json!({ "response": response }), out);
    }

    fn end(&mut self, _replies: &[&Reply], _out: &mut Frames) {}

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        let mut response = self.response("failed", json!([]), Value::Null);
        let said = error.body(Dialect::OpenAi, &self.id);
        response["error"] = json!({ "code": said["error"]["type"], "message": error.message });
        self.send("response.failed", json!({ "response": response }), out);
    }

    fn whole(&mut self, replies: &[&Reply]) -> Value {
        replies
            .first()
            .map_or(Value::Null, |reply| self.finished(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_find_their_parts() {
        let call = |n: &str| Piece::Call {
            id: n.into(),
            name: n.into(),
        };
        let pieces = [
            Piece::Reasoning("a".into()),
            Piece::Text("b".into()),
            Piece::Text("c".into()),
            call("d"),
            Piece::Arguments("{".into()),
            call("e"),
        ];
        let part = |n: &str| Part::Call {
            id: n.into(),
            name: n.into(),
            arguments: String::new(),
        };
        let reply = Reply {
            parts: vec![
                Part::Reasoning("a".into()),
                Part::Text("bc".into()),
                part("d"),
                part("e"),
            ],
            ..Reply::default()
        };
        assert_eq!(growth(&reply, &pieces), [1, 2, 2, 3, 3, 4]);
    }
}
