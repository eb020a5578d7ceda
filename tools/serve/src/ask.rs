//! What all dialects ask for: how tokens are chosen, when an answer ends, what is told of it.

use geb::generate::GenerateOptions;
use geb::sampler::{Mirostat, Sampler, SamplerOptions};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::stream::Sending;
use crate::{id, limits};

/// Options of an answer before a request says anything: a seed of its own, as long as the context allows.
pub fn defaults() -> GenerateOptions {
    GenerateOptions {
        max_tokens: usize::MAX,
        sampling: SamplerOptions {
            // A number that every client's language can hold exactly.
            seed: id::number() >> 11,
            ..SamplerOptions::default()
        },
        ..GenerateOptions::default()
    }
}

/// Reads the fields about how tokens are chosen, by the names that most clients give them.
///
/// # Errors
/// For a value of another type or out of its range.
pub fn sampling(f: &Fields<'_>, s: &mut SamplerOptions) -> Result<()> {
    set(&mut s.temperature, f.number("temperature", 0.0..=2.0)?);
    set(&mut s.top_p, f.number("top_p", 0.0..=1.0)?);
    set(&mut s.min_p, f.number("min_p", 0.0..=1.0)?);
    set(
        &mut s.frequency_penalty,
        f.number("frequency_penalty", -2.0..=2.0)?,
    );
    set(
        &mut s.presence_penalty,
        f.number("presence_penalty", -2.0..=2.0)?,
    );
    for name in ["repetition_penalty", "repeat_penalty"] {
        set(&mut s.repeat_penalty, f.number(name, 0.01..=100.0)?);
    }
    if let Some(k) = f.count("top_k", 0..=u64::from(u32::MAX))? {
        s.top_k = k;
    }
    if let Some(n) = last_n(f, "repeat_last_n")? {
        s.repeat_last_n = n;
    }
    if let Some(seed) = seed(f)? {
        s.seed = seed;
    }
    if let Some(bias) = f.value("logit_bias") {
        s.logit_bias = logit_bias(bias)?;
    }
    steps(f, s)
}

/// Puts a number in its place, if there is one.
fn set(place: &mut f32, found: Option<f64>) {
    if let Some(n) = found {
        *place = n as f32;
    }
}

/// Steps of sampling beyond OpenAI's, by the names of llama.cpp's server. Their ranges are the sampler's own.
fn steps(f: &Fields<'_>, s: &mut SamplerOptions) -> Result<()> {
    const ANY: std::ops::RangeInclusive<f64> = -1e9..=1e9;
    set(&mut s.typical_p, f.number("typical_p", 0.0..=1.0)?);
    set(
        &mut s.top_n_sigma,
        f.number("top_n_sigma", ANY)?.map(|n| n.max(0.0)),
    );
    set(
        &mut s.xtc.probability,
        f.number("xtc_probability", 0.0..=1.0)?,
    );
    set(&mut s.xtc.threshold, f.number("xtc_threshold", 0.0..=1.0)?);
    set(&mut s.dynatemp.range, f.number("dynatemp_range", ANY)?);
    set(
        &mut s.dynatemp.exponent,
        f.number("dynatemp_exponent", ANY)?,
    );
    set(&mut s.dry.multiplier, f.number("dry_multiplier", ANY)?);
    set(&mut s.dry.base, f.number("dry_base", ANY)?);
    if let Some(n) = f.count("dry_allowed_length", 0..=u64::from(u32::MAX))? {
        s.dry.allowed_length = n;
    }
    if let Some(n) = last_n(f, "dry_penalty_last_n")? {
        s.dry.last_n = n;
    }
    if f.value("dry_sequence_breakers").is_some() {
        s.dry.breakers = stops(f, "dry_sequence_breakers")?;
    }
    if let Some(2) = f.count("mirostat", 0..=2)? {
        let mut mirostat = Mirostat::default();
        set(&mut mirostat.tau, f.number("mirostat_tau", ANY)?);
        set(&mut mirostat.eta, f.number("mirostat_eta", ANY)?);
        s.mirostat = Some(mirostat);
    } else if f.value("mirostat").is_some_and(|v| v == 1) {
        return Err(ApiError::wrong("mirostat", &1.into(), "0 (off), 2"));
    } else {
        f.accept(&["mirostat_tau", "mirostat_eta"]);
    }
    // What is out of a step's own range is said before anything waits for it.
    Sampler::new(s.clone())
        .map(drop)
        .map_err(|e| ApiError::of("options", &e))
}

/// A number of tokens, -1 for all of them.
fn last_n<'a>(f: &Fields<'a>, key: &'a str) -> Result<Option<usize>> {
    match f.value(key) {
        Some(v) if v.as_i64() == Some(-1) => Ok(Some(usize::MAX)),
        _ => f.count(key, 0..=u64::from(u32::MAX)),
    }
}

/// A seed; negative ones, which llama.cpp's clients send for "any", are none.
fn seed(f: &Fields<'_>) -> Result<Option<u64>> {
    match f.value("seed") {
        None => Ok(None),
        Some(v) if v.as_i64().is_some_and(|n| n < 0) => Ok(None),
        Some(v) => match v.as_u64() {
            Some(n) => Ok(Some(n)),
            None => Err(ApiError::wrong("seed", v, "a whole number")),
        },
    }
}

fn logit_bias(value: &Value) -> Result<Vec<(u32, f32)>> {
    let most = geb::limits::MAX_LOGIT_BIASES;
    let map = value.as_object().filter(|m| m.len() <= most);
    let map = map.ok_or_else(|| {
        ApiError::wrong(
            "logit_bias",
            value,
            &format!("an object of at most {most} token ids"),
        )
    })?;
    let one = |(id, bias): (&String, &Value)| {
        let name = format!("logit_bias.{id}");
        let id = id
            .parse()
            .map_err(|_| ApiError::field(&name, "a key is a token id"))?;
        let bias = bias.as_f64().filter(|b| (-100.0..=100.0).contains(b));
        let bias =
            bias.ok_or_else(|| ApiError::field(&name, format!("{name}: allowed: -100 to 100")))?;
        Ok((id, bias as f32))
    };
    map.iter().map(one).collect()
}

/// Stop texts: one, or a list.
///
/// # Errors
/// For another type, too many, an empty one.
pub fn stops<'a>(f: &Fields<'a>, key: &'a str) -> Result<Vec<String>> {
    let Some(value) = f.value(key) else {
        return Ok(Vec::new());
    };
    let texts = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(all) => all.iter().map(|v| Some(v.as_str()?.to_owned())).collect(),
        _ => None,
    };
    let good = |t: &Vec<String>| t.len() <= limits::STOPS && !t.iter().any(String::is_empty);
    let allowed = format!("a text, or at most {} of them, none empty", limits::STOPS);
    let texts = texts.filter(good);
    texts.ok_or_else(|| ApiError::wrong(&f.name(key), value, &allowed))
}

/// Refuses fields that are not known.
///
/// # Errors
/// For the first of them.
pub fn strict(unknown: &[String]) -> Result<()> {
    match unknown.first() {
        Some(name) => {
            let message = format!("unknown field {name}: it would have no effect");
            Err(ApiError::field(name, message))
        }
        None => Ok(()),
    }
}

/// Numbers of answers and of the context.
///
/// # Errors
/// [`Fault::TooLong`](crate::error::Fault::TooLong), for a prompt without tokens.
pub fn check_prompt(ids: &[u32], ctx: usize, param: &str) -> Result<()> {
    if ids.is_empty() {
        return Err(ApiError::field(
            param,
            format!("{param} has no tokens, allowed: at least one"),
        ));
    }
    match ids.len() > ctx {
        true => Err(ApiError::too_long(param, ids.len(), ctx)),
        false => Ok(()),
    }
}

/// `stream`: without it, what the dialect does.
///
/// # Errors
/// For a value of another type.
pub fn sending(f: &Fields<'_>, otherwise: Sending) -> Result<Sending> {
    Ok(match f.flag("stream")? {
        None => otherwise,
        Some(true) => Sending::Streaming,
        Some(false) => Sending::AtOnce,
    })
}
