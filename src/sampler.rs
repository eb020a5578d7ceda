//! Choosing the next token from logits.
//!
//! The steps and their order: what changes logits (biases and penalties, [`LogitsFilter`]), top-k, top-p,
//! min-p, temperature, then one draw. It is the usual order of GGUF runtimes; in particular top-p and min-p
//! look at probabilities before the temperature changes them. A sampler is a pure function
//! of its options, the seed, and the calls so far: the same inputs give the same tokens.

mod filters;

use crate::error::{Error, Result};
use crate::limits;
pub use filters::{CountPenalty, LogitBias, LogitsFilter, RepetitionPenalty};

/// Settings of a [`Sampler`].
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
            seed: 0,
        }
    }
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

    fn check(&self) -> Result<()> {
        let bad = |what: &str, value: f32, allowed: &str| {
            Err(Error::Request {
                what: what.into(),
                value: value.to_string(),
                allowed: allowed.into(),
            })
        };
        // A NaN is in no range.
        if !(0.0..=100.0).contains(&self.temperature) {
            return bad("temperature", self.temperature, "0 to 100");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return bad("top-p", self.top_p, "0 to 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min-p", self.min_p, "0 to 1");
        }
        if !(0.01..=100.0).contains(&self.repeat_penalty) {
            return bad("repeat penalty", self.repeat_penalty, "0.01 to 100");
        }
        if !(-2.0..=2.0).contains(&self.frequency_penalty) {
            return bad("frequency penalty", self.frequency_penalty, "-2 to 2");
        }
        if !(-2.0..=2.0).contains(&self.presence_penalty) {
            return bad("presence penalty", self.presence_penalty, "-2 to 2");
        }
        if let Some((_, bias)) = self
            .logit_bias
            .iter()
            .find(|(_, b)| !(-100.0..=100.0).contains(b))
        {
            return bad("logit bias", *bias, "-100 to 100");
        }
        let (count, most) = (self.logit_bias.len(), limits::MAX_LOGIT_BIASES);
        if count > most {
            return Err(Error::Request {
                what: "logit biases".into(),
                value: count.to_string(),
                allowed: format!("at most {most}"),
            });
        }
        Ok(())
    }

    /// What changes logits, in the order in which it does.
    fn filters(&self) -> Vec<Box<dyn LogitsFilter>> {
        let mut filters: Vec<Box<dyn LogitsFilter>> = Vec::new();
        if !self.logit_bias.is_empty() {
            filters.push(Box::new(LogitBias(self.logit_bias.clone())));
        }
        if self.repeat_penalty != 1.0 && self.repeat_last_n > 0 {
            filters.push(Box::new(RepetitionPenalty {
                factor: self.repeat_penalty,
                last_n: self.repeat_last_n,
            }));
        }
        let (presence, frequency) = (self.presence_penalty, self.frequency_penalty);
        if presence != 0.0 || frequency != 0.0 {
            filters.push(Box::new(CountPenalty::new(presence, frequency)));
        }
        filters
    }
}

/// xoshiro256++ by Blackman and Vigna, seeded through SplitMix64 as its authors advise.
#[derive(Clone, Debug)]
struct Random([u64; 4]);

impl Random {
    fn new(seed: u64) -> Random {
        let mut state = seed;
        Random(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Uniform in 0..1, in steps of 2^-53.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Chooses tokens; holds the state of the random numbers.
pub struct Sampler {
    options: SamplerOptions,
    filters: Vec<Box<dyn LogitsFilter>>,
    random: Random,
    /// Candidates (id, logit); kept to reuse the memory.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler with checked options.
    ///
    /// # Errors
    /// [`Error::Request`] names the first option out of its range.
    pub fn new(options: SamplerOptions) -> Result<Sampler> {
        options.check()?;
        let random = Random::new(options.seed);
        Ok(Sampler {
            filters: options.filters(),
            options,
            random,
            candidates: Vec::new(),
        })
    }

    /// The settings.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Adds a filter behind those of the options.
    pub fn add_filter(&mut self, filter: Box<dyn LogitsFilter>) {
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
        if self.options.temperature == 0.0 || self.options.top_k == 1 {
            return Ok(best);
        }
        self.collect(logits);
        self.truncate(logits[best as usize]);
        Ok(self.draw())
    }

    /// Fills the candidates: the best `top_k`, best first, ties by id.
    fn collect(&mut self, logits: &[f32]) {
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let all = &mut self.candidates;
        all.clear();
        all.extend(
            (0u32..)
                .zip(logits.iter().copied())
                .filter(|c| c.1 > f32::NEG_INFINITY),
        );
        let k = self.options.top_k;
        if k > 0 && k < all.len() {
            all.select_nth_unstable_by(k - 1, order);
            all.truncate(k);
        }
        all.sort_unstable_by(order);
    }

    /// Top-p, then min-p. `best` is the largest logit; one candidate always stays.
    fn truncate(&mut self, best: f32) {
        let all = &mut self.candidates;
        let weight = |c: &(u32, f32)| f64::from(c.1 - best).exp();
        if self.options.top_p < 1.0 {
            let wanted = f64::from(self.options.top_p) * all.iter().map(weight).sum::<f64>();
            let mut sum = 0.0;
            let keep = all.iter().position(|c| {
                sum += weight(c);
                sum >= wanted
            });
            all.truncate(keep.map_or(all.len(), |k| k + 1));
        }
        if self.options.min_p > 0.0 {
            let least = f64::from(self.options.min_p);
            let keep = all.partition_point(|c| weight(c) >= least);
            all.truncate(keep.max(1));
        }
    }

    fn draw(&mut self) -> u32 {
        let (first, best) = self.candidates[0];
        let t = f64::from(self.options.temperature);
        let weight = |c: &(u32, f32)| (f64::from(c.1 - best) / t).exp();
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut left = self.random.uniform() * total;
        for c in &self.candidates {
            left -= weight(c);
            if left < 0.0 {
                return c.0;
            }
        }
        // Only rounding leads here.
        self.candidates.last().map_or(first, |c| c.0)
    }
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
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplerOptions)) -> Sampler {
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
    fn shares(mut sampler: Sampler, logits: &[f32], draws: usize) -> Vec<f64> {
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
        let bad: [fn(&mut SamplerOptions); 14] = [
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
