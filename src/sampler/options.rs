//! What is asked of a sampler.

use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::limits;

/// Settings of a [`Sampler`](super::Sampler). What is not said to be on is off.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 always takes the best token.
    pub temperature: f32,
    /// Keep this many of the best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest best tokens whose probabilities reach this sum, at least one; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens of at least this share of the best probability; 0 keeps all.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by this, negative ones multiplied; 1 is off.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at; 0 is off.
    pub repeat_last_n: usize,
    /// Taken from the logit of a token for each time that the answer has it; 0 is off.
    pub frequency_penalty: f32,
    /// Taken from the logit of a token that the answer has; 0 is off.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens; at most [`limits::MAX_LOGIT_BIASES`].
    pub logit_bias: Vec<(u32, f32)>,
    /// Penalty for going on with a repetition.
    pub dry: Dry,
    /// Keep tokens whose logit is at most so many standard deviations below the best one; 0 is off.
    pub top_n_sigma: f32,
    /// Keep the tokens that say about as much as is expected, until their probabilities reach this sum; 1 keeps
    /// all.
    pub typical_p: f32,
    /// Sometimes drop the most probable tokens.
    pub xtc: Xtc,
    /// Let the temperature follow the entropy.
    pub dynatemp: Dynatemp,
    /// Keep tokens so that the text has a given surprise. Then `top_n_sigma`, `top_k`, `typical_p`, `top_p`,
    /// `min_p` and `xtc` have no effect.
    pub mirostat: Option<Mirostat>,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            dry: Dry::default(),
            top_n_sigma: 0.0,
            typical_p: 1.0,
            xtc: Xtc::default(),
            dynatemp: Dynatemp::default(),
            mirostat: None,
            seed: 0,
        }
    }
}

/// Don't repeat yourself: the settings, off by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// Penalty for a repetition of the allowed length; 0 is off.
    pub multiplier: f32,
    /// The penalty grows by this factor with each further token; at least 1.
    pub base: f32,
    /// Tokens that may be repeated without penalty.
    pub allowed_length: usize,
    /// How many recent tokens are looked at, those of the prompt among them; 0 is off.
    pub last_n: usize,
    /// Texts over which no repetition goes, none empty. They need to know what tokens say:
    /// [`Sampler::with_token_bytes`](super::Sampler::with_token_bytes).
    pub breakers: Vec<String>,
}

impl Default for Dry {
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            last_n: usize::MAX,
            breakers: ["\n", ":", "\"", "*"].map(str::to_owned).into(),
        }
    }
}

impl Dry {
    /// Whether it changes anything.
    pub fn is_on(&self) -> bool {
        self.multiplier > 0.0 && self.last_n > 0
    }
}

/// Exclude top choices: the settings, off by default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// How often it happens; 0 is off.
    pub probability: f32,
    /// Of all tokens with at least this probability, only the least probable one is kept.
    pub threshold: f32,
}

impl Default for Xtc {
    fn default() -> Self {
        Self {
            probability: 0.0,
            threshold: 0.1,
        }
    }
}

/// Temperature by entropy: the settings, off by default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dynatemp {
    /// The temperature is at most so far from the given one; 0 is off.
    pub range: f32,
    /// Exponent of the entropy's share of the largest one.
    pub exponent: f32,
}

impl Default for Dynatemp {
    fn default() -> Self {
        Self {
            range: 0.0,
            exponent: 1.0,
        }
    }
}

/// Mirostat 2.0: the settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The surprise aimed at, in bits per token.
    pub tau: f32,
    /// How fast it follows.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1 }
    }
}

fn bad(what: &str, value: impl ToString, allowed: String) -> Error {
    Error::Request {
        what: what.into(),
        value: value.to_string(),
        allowed,
    }
}

fn within(what: &str, value: f32, range: RangeInclusive<f32>) -> Result<()> {
    // A NaN is in no range.
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!("{} to {}", range.start(), range.end());
    Err(bad(what, value, allowed))
}

impl SamplerOptions {
    /// Always the best token, no penalty.
    pub fn greedy() -> Self {
        SamplerOptions {
            temperature: 0.0,
            repeat_penalty: 1.0,
            ..Self::default()
        }
    }

    /// Whether the best token is always taken.
    pub(super) fn takes_best(&self) -> bool {
        self.temperature == 0.0 || (self.top_k == 1 && self.mirostat.is_none())
    }

    /// That every option is in its range.
    ///
    /// # Errors
    /// [`Error::Request`] names the first one that is not.
    pub(super) fn check(&self) -> Result<()> {
        let mirostat = self.mirostat.unwrap_or_default();
        let numbers = [
            ("temperature", self.temperature, limits::TEMPERATURE),
            ("top-p", self.top_p, limits::PROBABILITY),
            ("min-p", self.min_p, limits::PROBABILITY),
            (
                "repeat penalty",
                self.repeat_penalty,
                limits::REPEAT_PENALTY,
            ),
            (
                "frequency penalty",
                self.frequency_penalty,
                limits::COUNT_PENALTY,
            ),
            (
                "presence penalty",
                self.presence_penalty,
                limits::COUNT_PENALTY,
            ),
            (
                "dry multiplier",
                self.dry.multiplier,
                limits::DRY_MULTIPLIER,
            ),
            ("dry base", self.dry.base, limits::DRY_BASE),
            ("top-n-sigma", self.top_n_sigma, limits::TOP_N_SIGMA),
            ("typical-p", self.typical_p, limits::PROBABILITY),
            ("xtc probability", self.xtc.probability, limits::PROBABILITY),
            ("xtc threshold", self.xtc.threshold, limits::PROBABILITY),
            (
                "dynatemp range",
                self.dynatemp.range,
                limits::DYNATEMP_RANGE,
            ),
            (
                "dynatemp exponent",
                self.dynatemp.exponent,
                limits::DYNATEMP_EXPONENT,
            ),
            ("mirostat tau", mirostat.tau, limits::MIROSTAT_TAU),
            ("mirostat eta", mirostat.eta, limits::MIROSTAT_ETA),
        ];
        for (what, value, range) in numbers {
            within(what, value, range)?;
        }
        for (_, bias) in &self.logit_bias {
            within("logit bias", *bias, limits::LOGIT_BIAS)?;
        }
        let (count, most) = (self.logit_bias.len(), limits::MAX_LOGIT_BIASES);
        if count > most {
            return Err(bad("logit biases", count, format!("at most {most}")));
        }
        self.check_breakers()
    }

    fn check_breakers(&self) -> Result<()> {
        let (count, most) = (self.dry.breakers.len(), limits::MAX_DRY_BREAKERS);
        if count > most {
            return Err(bad(
                "dry sequence breakers",
                count,
                format!("at most {most}"),
            ));
        }
        let most = limits::MAX_DRY_BREAKER_BYTES;
        let allowed = || format!("1 to {most} bytes");
        for breaker in &self.dry.breakers {
            let bytes = breaker.len();
            if !(1..=most).contains(&bytes) {
                return Err(bad(
                    "dry sequence breaker",
                    format!("{bytes} bytes"),
                    allowed(),
                ));
            }
        }
        Ok(())
    }
}
