//! Choosing the next token from logits.
//!
//! The steps, always in this order, which is that of llama.cpp's default chain. What is off is left out.
//!
//! | step | option | looks at |
//! |---|---|---|
//! | bias, repetition penalty, counts | `logit_bias`, `repeat_penalty`, `presence_penalty`, `frequency_penalty` | logits, tokens so far |
//! | repetitions | `dry` | logits, tokens so far |
//! | filters of others | [`Sampler::add_filter`] | logits, tokens so far |
//! | top-nσ | `top_n_sigma` | logits |
//! | top-k | `top_k` | candidates: those that the steps before left |
//! | locally typical | `typical_p` | probabilities of the candidates |
//! | top-p | `top_p` | the same |
//! | min-p | `min_p` | the same |
//! | exclude top choices | `xtc` | the same, and a random number |
//! | temperature, fixed or by entropy | `temperature`, `dynatemp` | the same |
//! | draw | `seed` | probabilities after the temperature |
//!
//! So only the draw sees what the temperature changes. Mirostat takes the place of the steps from top-nσ to exclude
//! top choices, and stands behind the temperature. Formulas and their sources are in the files of the steps.
//!
//! A sampler is a pure function of its options, the seed, and the calls so far: the same inputs give the same
//! tokens. It is called once for each token that is chosen, never for a guess, so what it remembers (random
//! numbers, counts, mirostat's μ) does not depend on guesses.

mod candidates;
mod dry;
mod filters;
mod options;
mod random;
mod steps;

use crate::error::{Error, Result};
use candidates::{Candidates, Step};
use dry::{DryPenalty, TokenBytes};
pub use filters::{CountPenalty, LogitBias, LogitsFilter, RepetitionPenalty};
pub use options::{Dry, Dynatemp, Mirostat, SamplerOptions, Xtc};
use random::Random;

/// Chooses tokens; holds the state of the random numbers.
pub struct Sampler<'t> {
    options: SamplerOptions,
    filters: Vec<Box<dyn LogitsFilter + 't>>,
    steps: Vec<Box<dyn Step>>,
    random: Random,
    candidates: Candidates,
}

impl<'t> Sampler<'t> {
    /// A sampler with checked options, which does not know what tokens say.
    ///
    /// # Errors
    /// [`Error::Request`] names the first option out of its range, or breakers of [`Dry`] if that is on.
    pub fn new(options: SamplerOptions) -> Result<Sampler<'t>> {
        Sampler::make(options, None)
    }

    /// A sampler with checked options. `bytes`: the bytes of a token, as [`Tokenizer::token_bytes`] gives them;
    /// asked for tokens of the text alone.
    ///
    /// # Errors
    /// [`Error::Request`] names the first option out of its range.
    ///
    /// [`Tokenizer::token_bytes`]: crate::tokenizer::Tokenizer::token_bytes
    pub fn with_token_bytes(
        options: SamplerOptions,
        bytes: impl Fn(u32) -> Vec<u8> + Send + 't,
    ) -> Result<Sampler<'t>> {
        Sampler::make(options, Some(Box::new(bytes)))
    }

    fn make(options: SamplerOptions, bytes: Option<TokenBytes<'t>>) -> Result<Sampler<'t>> {
        options.check()?;
        Ok(Sampler {
            filters: logits_filters(&options, bytes)?,
            steps: steps::chain(&options),
            random: Random::new(options.seed),
            candidates: Candidates::default(),
            options,
        })
    }

    /// The settings.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Adds a filter behind those of the options.
    pub fn add_filter(&mut self, filter: Box<dyn LogitsFilter + 't>) {
        self.filters.push(filter);
    }

    /// Whether [`Sampler::sample`] chooses from other logits than it is given.
    pub fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Chooses a token. `logits` has one value per token and is changed by the filters; `history` are the
    /// tokens so far, prompt and answer.
    ///
    /// # Errors
    /// As [`Sampler::choose`]; [`Error::Request`] for a token of the history that has no logit.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        for filter in &mut self.filters {
            filter.apply(logits, history)?;
        }
        self.choose(logits)
    }

    /// Chooses a token from logits as they are. Minus infinity forbids its token.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a NaN, plus infinity, or minus infinity everywhere;
    /// [`Error::Request`] for no logits at all.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let best = argmax(logits)?;
        if self.options.takes_best() {
            return Ok(best);
        }
        self.candidates.fill(logits);
        for step in &mut self.steps {
            step.apply(&mut self.candidates, &mut self.random);
        }
        let at = self.draw();
        for step in &mut self.steps {
            step.chosen(&mut self.candidates, at);
        }
        Ok(self.candidates.sorted()[at].0)
    }

    /// The place of one of the candidates, drawn by their weights.
    fn draw(&mut self) -> usize {
        let total: f64 = self.candidates.weights().sum();
        let mut left = self.random.uniform() * total;
        let drawn = self.candidates.weights().position(|w| {
            left -= w;
            left < 0.0
        });
        // Only rounding leads to the last one.
        drawn.unwrap_or(self.candidates.len() - 1)
    }
}

/// What changes logits, in the order in which it does.
fn logits_filters<'t>(
    o: &SamplerOptions,
    bytes: Option<TokenBytes<'t>>,
) -> Result<Vec<Box<dyn LogitsFilter + 't>>> {
    let mut filters: Vec<Box<dyn LogitsFilter + 't>> = Vec::new();
    if !o.logit_bias.is_empty() {
        filters.push(Box::new(LogitBias(o.logit_bias.clone())));
    }
    if o.repeat_penalty != 1.0 && o.repeat_last_n > 0 {
        filters.push(Box::new(RepetitionPenalty {
            factor: o.repeat_penalty,
            last_n: o.repeat_last_n,
        }));
    }
    let (presence, frequency) = (o.presence_penalty, o.frequency_penalty);
    if presence != 0.0 || frequency != 0.0 {
        filters.push(Box::new(CountPenalty::new(presence, frequency)));
    }
    if o.dry.is_on() {
        filters.push(Box::new(DryPenalty::new(o.dry.clone(), bytes)?));
    }
    Ok(filters)
}

/// The id of the largest logit, the lowest one of equals.
pub(crate) fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(Error::NonFinite {
                what: "logit".into(),
                index: i as u64,
                value: logit,
            });
        }
        if logit > best.1 {
            best = (i, logit);
        }
    }
    if logits.is_empty() {
        return Err(Error::Request {
            what: "logits".into(),
            value: "none".into(),
            allowed: "one per token".into(),
        });
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(Error::NonFinite {
            what: "every logit".into(),
            index: 0,
            value: best.1,
        });
    }
    Ok(best.0 as u32)
}

#[cfg(test)]
mod plain;

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplerOptions)) -> Sampler<'static> {
        let mut options = SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            seed: 42,
            ..SamplerOptions::default()
        };
        change(&mut options);
        Sampler::new(options).expect("valid options")
    }

    /// Shares of each id in many draws.
    fn shares(mut sampler: Sampler<'_>, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut counts = vec![0u32; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(&mut logits.to_vec(), &[]).expect("finite") as usize] += 1;
        }
        counts
            .iter()
            .map(|&c| f64::from(c) / draws as f64)
            .collect()
    }

    fn close(shares: &[f64], expected: &[f64]) {
        for (s, e) in shares.iter().zip(expected) {
            assert!((s - e).abs() < 0.02, "{shares:?} {expected:?}");
        }
    }

    // Natural logarithms of 0.5, 0.3, 0.15 and 0.05, in another order.
    const LOGITS: [f32; 4] = [
        -1.203_972_8,
        -std::f32::consts::LN_2,
        -2.995_732_3,
        -1.897_12,
    ];

    #[test]
    fn random_numbers_are_the_published_sequence() {
        // xoshiro256++ from the state 1, 2, 3, 4.
        let mut random = Random([1, 2, 3, 4]);
        let expected = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
        ];
        assert_eq!(expected.map(|_| random.next()), expected);
        // SplitMix64 from 0 begins with this number.
        assert_eq!(Random::new(0).0[0], 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn draws_follow_the_distribution() {
        close(
            &shares(sampler(|_| ()), &LOGITS, 20_000),
            &[0.3, 0.5, 0.05, 0.15],
        );
    }

    #[test]
    fn temperature_sharpens_and_zero_takes_the_best() {
        // Squares: 0.09, 0.25, 0.0025, 0.0225, sum 0.365.
        let cold = shares(sampler(|o| o.temperature = 0.5), &LOGITS, 20_000);
        close(&cold, &[0.2466, 0.6849, 0.0068, 0.0616]);
        let mut greedy = sampler(|o| o.temperature = 0.0);
        assert_eq!(
            greedy
                .sample(&mut [1.0, 3.0, 3.0, 2.0], &[])
                .expect("finite"),
            1
        );
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        close(
            &shares(sampler(|o| o.top_k = 2), &LOGITS, 20_000),
            &[0.375, 0.625, 0.0, 0.0],
        );
        // 0.5 + 0.3 reaches 0.79, not 0.81.
        close(
            &shares(sampler(|o| o.top_p = 0.79), &LOGITS, 20_000),
            &[0.375, 0.625, 0.0, 0.0],
        );
        let kept = [0.3 / 0.95, 0.5 / 0.95, 0.0, 0.15 / 0.95];
        close(&shares(sampler(|o| o.top_p = 0.81), &LOGITS, 20_000), &kept);
        // 0.15 is 30 % of 0.5.
        close(&shares(sampler(|o| o.min_p = 0.29), &LOGITS, 20_000), &kept);
        close(
            &shares(sampler(|o| o.min_p = 0.31), &LOGITS, 20_000),
            &[0.375, 0.625, 0.0, 0.0],
        );
        close(
            &shares(sampler(|o| o.top_p = 1e-6), &LOGITS, 100),
            &[0.0, 1.0, 0.0, 0.0],
        );
    }

    #[test]
    fn top_p_is_taken_before_temperature() {
        let s = sampler(|o| (o.top_p, o.temperature) = (0.79, 100.0));
        close(&shares(s, &LOGITS, 20_000), &[0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn equal_logits_prefer_low_ids() {
        close(
            &shares(sampler(|o| o.top_k = 2), &[1.0; 5], 20_000),
            &[0.5, 0.5, 0.0, 0.0, 0.0],
        );
    }

    #[test]
    fn repetition_is_punished_once_per_token_within_the_window() {
        let mut s = sampler(|o| (o.repeat_penalty, o.repeat_last_n, o.temperature) = (2.0, 3, 0.0));
        let mut logits = [4.0, 3.0, -1.0, 8.0];
        // The token 3 lies outside the window of three.
        assert_eq!(s.sample(&mut logits, &[3, 0, 2, 0]).expect("finite"), 3);
        assert_eq!(logits, [2.0, 3.0, -2.0, 8.0]);
        assert!(matches!(
            s.sample(&mut logits, &[4]),
            Err(Error::Request { .. })
        ));
    }

    #[test]
    fn the_seed_decides() {
        let run = |seed| {
            let mut s = sampler(|o| o.seed = seed);
            (0..32)
                .map(|_| s.sample(&mut [0.0; 50], &[]).expect("finite"))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn top_n_sigma_counts_from_the_best_logit() {
        // Mean 2, deviation 2.04: 0.6 of it lies at 3.78, 2.2 of it at 0.51.
        let logits = [5.0, 0.0, 0.6, 0.5, 3.9];
        let kept = |n| shares(sampler(|o| o.top_n_sigma = n), &logits, 4000);
        let zeros = |s: &[f64]| s.iter().map(|s| *s == 0.0).collect::<Vec<_>>();
        assert_eq!(zeros(&kept(0.6)), [false, true, true, true, false]);
        assert_eq!(zeros(&kept(2.2)), [false, true, false, true, false]);
    }

    #[test]
    fn typical_tokens_say_what_is_expected() {
        // The entropy is 1.142; the tokens say 0.693, 1.204, 1.897 and 2.996: the one of 0.3 is nearest.
        let s = sampler(|o| o.typical_p = 0.29);
        close(&shares(s, &LOGITS, 100), &[1.0, 0.0, 0.0, 0.0]);
        let s = sampler(|o| o.typical_p = 0.31);
        close(&shares(s, &LOGITS, 20_000), &[0.375, 0.625, 0.0, 0.0]);
    }

    #[test]
    fn top_choices_are_excluded_as_often_as_asked() {
        let xtc = |probability, threshold| {
            let xtc = Xtc {
                probability,
                threshold,
            };
            shares(sampler(|o| o.xtc = xtc), &LOGITS, 20_000)
        };
        // Of 0.5, 0.3 and 0.15 the last one stays, beside the 0.05 below the threshold.
        let without = [0.0, 0.0, 0.25, 0.75];
        close(&xtc(1.0, 0.12), &without);
        let mixed = [0.3, 0.5, 0.05, 0.15].iter().zip(without);
        let mixed: Vec<f64> = mixed.map(|(a, b)| 0.75 * a + 0.25 * b).collect();
        close(&xtc(0.25, 0.12), &mixed);
        // A single token over the threshold is no choice.
        close(&xtc(1.0, 0.31), &[0.3, 0.5, 0.05, 0.15]);
    }

    #[test]
    fn the_temperature_follows_the_entropy() {
        let dynatemp = Dynatemp {
            range: 0.5,
            exponent: 1.0,
        };
        let with = |logits: &[f32]| {
            let s = sampler(|o| (o.temperature, o.dynatemp) = (0.5, dynatemp));
            shares(s, logits, 20_000)
        };
        // All are equal: the temperature is 1, and equal they stay.
        close(&with(&[0.0; 4]), &[0.25; 4]);
        // 0.1 and 0.9 have 0.469 of the largest entropy of two: 9^(1 / 0.469) = 108.
        close(&with(&[0.0, 2.197_224_6]), &[1.0 / 109.3, 108.3 / 109.3]);
        // Nothing to choose: a temperature of 0.
        close(&with(&[0.0, 800.0]), &[0.0, 1.0]);
    }

    #[test]
    fn mirostat_gives_texts_of_the_surprise_asked_for() {
        // 1,000 tokens of decreasing probability, 9.5 bits of entropy.
        let logits: Vec<f32> = (0..1000).map(|i| -i as f32 / 500.0).collect();
        for tau in [2.0, 5.0, 8.0] {
            let mirostat = Some(Mirostat { tau, eta: 0.1 });
            let mut s = sampler(|o| o.mirostat = mirostat);
            let mut sum = 0.0;
            for _ in 0..4000 {
                let id = s.choose(&logits).expect("finite");
                let at = s.candidates.sorted().iter().position(|c| c.0 == id);
                let surprise = s.candidates.surprises().nth(at.expect("a candidate"));
                sum += surprise.expect("there") / std::f64::consts::LN_2;
            }
            let mean = sum / 4000.0;
            assert!((mean - f64::from(tau)).abs() < 0.1, "{tau}: {mean}");
        }
    }

    #[test]
    fn mirostat_takes_the_place_of_what_cuts() {
        let cuts = |o: &mut SamplerOptions| {
            (o.top_k, o.top_p, o.min_p, o.typical_p) = (1, 0.1, 0.9, 0.1);
            o.mirostat = Some(Mirostat::default());
        };
        close(
            &shares(sampler(cuts), &LOGITS, 20_000),
            &[0.3, 0.5, 0.05, 0.15],
        );
    }

    #[test]
    fn going_on_with_a_repetition_costs_more_the_longer_it_is() {
        let dry = Dry {
            multiplier: 0.5,
            base: 2.0,
            breakers: Vec::new(),
            ..Dry::default()
        };
        let after = |history: &[u32], dry: &Dry| {
            let mut s = sampler(|o| o.dry = dry.clone());
            let mut logits = [0.0; 6];
            s.sample(&mut logits, history).expect("finite");
            logits
        };
        // "0 1" stood before a 2 and, behind another 5, before a 3.
        let text = [5, 0, 1, 2, 4, 0, 1, 3, 5, 0, 1];
        assert_eq!(after(&text, &dry), [0.0, 0.0, -1.0, -0.5, 0.0, 0.0]);
        let short = Dry {
            last_n: 7,
            ..dry.clone()
        };
        assert_eq!(after(&text, &short), [0.0, 0.0, 0.0, -0.5, 0.0, 0.0]);
        let long = Dry {
            allowed_length: 3,
            ..dry
        };
        assert_eq!(after(&text, &long), [0.0, 0.0, -0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn no_repetition_goes_over_a_breaker() {
        let dry = Dry {
            multiplier: 0.5,
            base: 2.0,
            allowed_length: 1,
            ..Dry::default()
        };
        let texts = ["a", "b", "c", ":", " x:", "d"];
        let bytes = |id: u32| texts[id as usize].as_bytes().to_vec();
        let after = |history: &[u32]| {
            let options = SamplerOptions {
                dry: dry.clone(),
                ..SamplerOptions::greedy()
            };
            let mut s = Sampler::with_token_bytes(options, bytes).expect("valid");
            let mut logits = [0.0; 6];
            s.sample(&mut logits, history).expect("finite");
            logits
        };
        assert_eq!(after(&[0, 5, 1, 2, 0, 5, 1])[2], -2.0);
        assert_eq!(after(&[0, 3, 1, 2, 0, 3, 1])[2], -0.5);
        assert_eq!(after(&[0, 1, 4, 2, 0, 1, 4])[2], 0.0);
        // The breaker itself goes on with whatever it likes.
        assert_eq!(after(&[0, 1, 4, 2, 0, 1]), [0.0; 6]);
        let nobody_knows = Sampler::new(SamplerOptions {
            dry: dry.clone(),
            ..SamplerOptions::default()
        });
        assert!(matches!(nobody_knows, Err(Error::Request { .. })));
    }

    #[test]
    fn a_repetition_without_end_forbids_nothing() {
        let dry = Dry {
            multiplier: 100.0,
            base: 100.0,
            breakers: Vec::new(),
            ..Dry::default()
        };
        let mut s = sampler(|o| (o.temperature, o.dry) = (0.0, dry));
        assert_eq!(s.sample(&mut [1.0], &[0; 5000]).expect("finite"), 0);
        let mut two = [f32::NEG_INFINITY, 0.0];
        assert_eq!(s.sample(&mut two, &[0; 5000]).expect("finite"), 1);
        assert_eq!(two[0], f32::NEG_INFINITY);
    }

    #[test]
    fn bad_logits_are_errors() {
        let mut s = sampler(|_| ());
        for bad in [f32::NAN, f32::INFINITY] {
            let error = s.sample(&mut [0.0, bad, 1.0], &[]);
            assert!(
                matches!(error, Err(Error::NonFinite { index: 1, .. })),
                "{error:?}"
            );
        }
        let nothing = s.sample(&mut [f32::NEG_INFINITY; 3], &[]);
        assert!(matches!(nothing, Err(Error::NonFinite { .. })));
        assert!(matches!(s.sample(&mut [], &[]), Err(Error::Request { .. })));
        assert_eq!(
            s.sample(&mut [f32::NEG_INFINITY, 0.0], &[])
                .expect("one token is left"),
            1
        );
        // A huge range must not overflow into a wrong draw.
        assert_eq!(s.sample(&mut [f32::MIN, f32::MAX], &[]).expect("finite"), 1);
    }

    #[test]
    fn bad_options_are_errors() {
        let bad: [fn(&mut SamplerOptions); 29] = [
            |o| o.temperature = -0.1,
            |o| o.temperature = f32::NAN,
            |o| o.temperature = f32::INFINITY,
            |o| o.top_p = -0.1,
            |o| o.top_p = 1.1,
            |o| o.top_p = f32::NAN,
            |o| o.min_p = -0.1,
            |o| o.min_p = f32::NAN,
            |o| o.repeat_penalty = 0.0,
            |o| o.repeat_penalty = f32::NAN,
            |o| o.frequency_penalty = 2.5,
            |o| o.presence_penalty = f32::NAN,
            |o| o.logit_bias = vec![(1, 101.0)],
            |o| o.logit_bias = vec![(1, 1.0); 1025],
            |o| o.dry.multiplier = -0.1,
            |o| o.dry.base = 0.9,
            |o| o.dry.base = f32::NAN,
            |o| o.dry.breakers = vec![String::new()],
            |o| o.dry.breakers = vec!["x".repeat(257)],
            |o| o.dry.breakers = vec!["x".into(); 129],
            |o| o.top_n_sigma = -1.0,
            |o| o.typical_p = 1.1,
            |o| o.xtc.probability = f32::NAN,
            |o| o.xtc.threshold = 1.1,
            |o| o.dynatemp.range = -0.5,
            |o| o.dynatemp.exponent = f32::INFINITY,
            |o| {
                o.mirostat = Some(Mirostat {
                    tau: -1.0,
                    eta: 0.1,
                })
            },
            |o| {
                o.mirostat = Some(Mirostat {
                    tau: 5.0,
                    eta: f32::NAN,
                })
            },
            |o| {
                o.mirostat = Some(Mirostat {
                    tau: f32::INFINITY,
                    eta: 0.1,
                })
            },
        ];
        for change in bad {
            let mut options = SamplerOptions::default();
            change(&mut options);
            let error = Sampler::new(options.clone());
            assert!(matches!(error, Err(Error::Request { .. })), "{options:?}");
        }
        Sampler::new(SamplerOptions::greedy()).expect("valid");
        Sampler::new(SamplerOptions::default()).expect("valid");
    }
}
