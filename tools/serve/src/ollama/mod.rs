//! The API of ollama.

pub mod answer;
mod fitting;
pub mod models;

use geb::generate::{GenerateOptions, Timings};
use serde_json::{Value, json};

use crate::conversation::Conversation;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::form::Form;
use crate::id::{self, date};
use crate::{ask, limits};

/// Options of ollama's own engine, which change nothing here.
const WITHOUT_EFFECT: [&str; 13] = [
    "num_keep",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "numa",
    "low_vram",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "f16_kv",
    "logits_all",
    "penalize_newline",
];

/// This moment.
fn now() -> String {
    date(id::now())
}

/// `options`: how tokens are chosen, and the most positions that a request takes.
fn options(f: &Fields<'_>, ctx: usize) -> Result<(GenerateOptions, usize, Vec<String>)> {
    let mut options = ask::defaults();
    let Some(o) = f.object("options")? else {
        return Ok((options, ctx, Vec::new()));
    };
    ask::sampling(&o, &mut options.sampling)?;
    options.stop = ask::stops(&o, "stop")?;
    if let Some(value) = o.value("num_predict") {
        options.max_tokens = match value.as_i64() {
            // Without end, and as much as the context takes.
            Some(-1 | -2) => usize::MAX,
            Some(n @ 0..) => usize::try_from(n).unwrap_or(usize::MAX),
            _ => {
                return Err(ApiError::wrong(
                    "options.num_predict",
                    value,
                    "a number of tokens, -1, -2",
                ));
            }
        };
    }
    let asked = o.count("num_ctx", 1..=u64::from(u32::MAX))?.unwrap_or(ctx);
    if asked > ctx {
        let allowed =
            format!("at most {ctx}, the context that the server was started with (--ctx)");
        return Err(ApiError::wrong("options.num_ctx", &json!(asked), &allowed));
    }
    o.accept(&WITHOUT_EFFECT);
    Ok((options, asked, o.unknown()))
}

/// `logprobs` and `top_logprobs`.
fn log_probs(f: &Fields<'_>, options: &mut GenerateOptions) -> Result<()> {
    options.log_probs = f.flag("logprobs")?.unwrap_or(false);
    options.top_log_probs = f
        .count("top_logprobs", 0..=limits::TOP_LOG_PROBS as u64)?
        .unwrap_or(0);
    Ok(())
}

/// `format`: `json`, or a schema.
fn format(f: &Fields<'_>) -> Result<Option<Form>> {
    match f.value("format") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(Some(Form::json("format"))),
        Some(schema @ Value::Object(_)) => Ok(Some(Form::schema(schema, false, "format"))),
        Some(other) => Err(ApiError::wrong("format", other, "json, a JSON schema")),
    }
}

/// `think`: whether, or how long.
fn think(f: &Fields<'_>, conversation: &mut Conversation) -> Result<()> {
    match f.value("think") {
        None => Ok(()),
        Some(Value::Bool(on)) => conversation.switch("enable_thinking", (*on).into()),
        Some(Value::String(level)) => conversation.effort(level, "think"),
        Some(other) => Err(ApiError::wrong(
            "think",
            other,
            "true, false, low, medium, high",
        )),
    }
}

/// Whether `keep_alive` asks for the model to leave.
fn leaves(f: &Fields<'_>) -> Result<bool> {
    match f.value("keep_alive") {
        None => Ok(false),
        Some(Value::Number(n)) => Ok(n.as_f64() == Some(0.0)),
        Some(Value::String(text)) => {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let number: f64 = digits.parse().map_err(|_| {
                ApiError::wrong("keep_alive", &json!(text), "seconds, or a text such as 5m")
            })?;
            Ok(number == 0.0)
        }
        Some(other) => Err(ApiError::wrong(
            "keep_alive",
            other,
            "seconds, or a text such as 5m",
        )),
    }
}

/// Counts and durations, in nanoseconds, of an answer.
fn counts(t: &Timings, total: std::time::Duration) -> Value {
    let ns = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "total_duration": ns(total),
        "load_duration": 0,
        "prompt_eval_count": t.prompt_tokens,
        "prompt_eval_duration": ns(t.prefill),
        "eval_count": t.sampled_tokens,
        "eval_duration": ns(t.decode),
    })
}
