//! The API of OpenAI.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod responses;
pub(crate) mod weights;

use geb::generate::Timings;
use serde_json::{Value, json};

use crate::reply::{Finish, Reply};

/// Fields that are known and change nothing here.
pub(crate) const WITHOUT_EFFECT: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "verbosity",
    "prediction",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Tokens read and chosen, of one or several answers to a prompt.
pub(crate) fn usage(replies: &[&Reply]) -> Value {
    let prompts = replies.iter().map(|r| r.timings.prompt_tokens).sum();
    let cached = replies.iter().map(|r| r.timings.reused_tokens).sum();
    of(prompts, cached, replies)
}

/// Tokens chosen so far.
pub(crate) fn chosen(reply: &Reply) -> usize {
    match reply.finish {
        Some(_) => reply.timings.sampled_tokens,
        None => reply.sampled,
    }
}

/// The object of these counts.
pub(crate) fn of(prompt: usize, cached: usize, replies: &[&Reply]) -> Value {
    let sampled: usize = replies.iter().map(|r| chosen(r)).sum();
    let reasoning: usize = replies.iter().map(|r| r.reasoning_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": { "cached_tokens": cached },
        "completion_tokens_details": { "reasoning_tokens": reasoning },
    })
}

/// The name of an end.
pub(crate) fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::End | Finish::Stop => "stop",
        Finish::Calls => "tool_calls",
        Finish::Length => "length",
    }
}

/// Times, as llama.cpp's clients read them.
pub(crate) fn timings(t: &Timings) -> Value {
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    json!({
        "prompt_n": t.prompt_tokens - t.reused_tokens,
        "prompt_ms": ms(t.prefill),
        "prompt_per_second": t.prefill_tok_s(),
        "predicted_n": t.sampled_tokens,
        "predicted_ms": ms(t.decode),
        "predicted_per_second": t.decode_tok_s(),
    })
}

/// A number as it was typed: 0.8, not the nearest of twice as many digits.
pub(crate) fn short(n: f32) -> Value {
    n.to_string().parse::<f64>().unwrap_or(f64::from(n)).into()
}
