//! What all dialects ask for: how tokens are chosen, when an answer ends, what is told of it.

use geb::generate::GenerateOptions;
use geb::limits::{
    COUNT_PENALTY, DRY_BASE, DRY_MULTIPLIER, DYNATEMP_EXPONENT, DYNATEMP_RANGE, MAX_CONTEXT,
    MAX_DRY_BREAKER_BYTES, MAX_DRY_BREAKERS, MIROSTAT_ETA, MIROSTAT_TAU, PROBABILITY,
    REPEAT_PENALTY, TOP_N_SIGMA,
};
use geb::sampler::{Mirostat, SamplerOptions};
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
    set(&mut s.temperature, f.real("temperature", 0.0..=2.0)?);
    set(&mut s.top_p, f.real("top_p", PROBABILITY)?);
    set(&mut s.min_p, f.real("min_p", PROBABILITY)?);
    set(
        &mut s.frequency_penalty,
        f.real("frequency_penalty", COUNT_PENALTY)?,
    );
    set(
        &mut s.presence_penalty,
        f.real("presence_penalty", COUNT_PENALTY)?,
    );
    for name in ["repetition_penalty", "repeat_penalty"] {
        set(&mut s.repeat_penalty, f.real(name, REPEAT_PENALTY)?);
    }
    if let Some(k) = last_n(f, "top_k")? {
        // All of them have another number there.
        s.top_k = if k == usize::MAX { 0 } else { k };
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
fn set(place: &mut f32, found: Option<f32>) {
    if let Some(n) = found {
        *place = n;
    }
}

/// Steps of sampling beyond OpenAI's, by the names of llama.cpp's server.
fn steps(f: &Fields<'_>, s: &mut SamplerOptions) -> Result<()> {
    set(&mut s.typical_p, f.real("typical_p", PROBABILITY)?);
    set(
        &mut s.xtc.probability,
        f.real("xtc_probability", PROBABILITY)?,
    );
    set(&mut s.xtc.threshold, f.real("xtc_threshold", PROBABILITY)?);
    set(
        &mut s.dynatemp.range,
        f.real("dynatemp_range", DYNATEMP_RANGE)?,
    );
    set(
        &mut s.dynatemp.exponent,
        f.real("dynatemp_exponent", DYNATEMP_EXPONENT)?,
    );
    // llama.cpp's own default is -1.
    match f
        .value("top_n_sigma")
        .is_some_and(|v| v.as_f64() == Some(-1.0))
    {
        true => s.top_n_sigma = 0.0,
        false => set(&mut s.top_n_sigma, f.real("top_n_sigma", TOP_N_SIGMA)?),
    }
    dry(f, s)?;
    let mut mirostat = Mirostat::default();
    set(&mut mirostat.tau, f.real("mirostat_tau", MIROSTAT_TAU)?);
    set(&mut mirostat.eta, f.real("mirostat_eta", MIROSTAT_ETA)?);
    match f.value("mirostat").map(|v| (v, v.as_u64())) {
        None => {}
        Some((_, Some(0))) => s.mirostat = None,
        Some((_, Some(2))) => s.mirostat = Some(mirostat),
        Some((value, _)) => return Err(ApiError::wrong("mirostat", value, "0 (off), 2")),
    }
    Ok(())
}

/// Don't repeat yourself.
fn dry(f: &Fields<'_>, s: &mut SamplerOptions) -> Result<()> {
    set(
        &mut s.dry.multiplier,
        f.real("dry_multiplier", DRY_MULTIPLIER)?,
    );
    set(&mut s.dry.base, f.real("dry_base", DRY_BASE)?);
    if let Some(n) = f.count("dry_allowed_length", 0..=MAX_CONTEXT)? {
        s.dry.allowed_length = n;
    }
    if let Some(n) = last_n(f, "dry_penalty_last_n")? {
        s.dry.last_n = n;
    }
    if let Some(list) = f.list("dry_sequence_breakers")? {
        let text = |v: &Value| {
            let text = v
                .as_str()
                .filter(|t| (1..=MAX_DRY_BREAKER_BYTES).contains(&t.len()));
            text.map(str::to_owned)
        };
        let texts: Option<Vec<_>> = list.iter().map(text).collect();
        let allowed =
            format!("at most {MAX_DRY_BREAKERS} texts of 1 to {MAX_DRY_BREAKER_BYTES} bytes");
        let texts = texts.filter(|t| t.len() <= MAX_DRY_BREAKERS);
        s.dry.breakers = texts
            .ok_or_else(|| ApiError::wrong("dry_sequence_breakers", &list.into(), &allowed))?;
    }
    Ok(())
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
