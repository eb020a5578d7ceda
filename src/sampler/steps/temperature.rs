//! Temperature, fixed or by entropy: kalomaze, pull request 4972 of llama.cpp (and 600 of koboldcpp).

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::options::Dynatemp;
use crate::sampler::random::Random;

/// Divides logits by the temperature. With a range it is
///
/// ```text
/// least + (most - least) * (H / ln n)^exponent          n candidates of entropy H = -Σ p ln p
/// least = max(0, temperature - range)                   most = temperature + range
/// ```
struct Temperature {
    temperature: f64,
    dynatemp: Dynatemp,
}

pub(super) fn new(temperature: f32, dynatemp: Dynatemp) -> Made {
    let temperature = f64::from(temperature);
    Some(Box::new(Temperature {
        temperature,
        dynatemp,
    }))
}

impl Temperature {
    fn of(&self, candidates: &mut Candidates) -> f64 {
        let (range, n) = (f64::from(self.dynatemp.range), candidates.len());
        if range == 0.0 || n < 2 {
            return self.temperature;
        }
        let least = (self.temperature - range).max(0.0);
        let most = self.temperature + range;
        // Rounding may leave a hair more than the largest entropy.
        let share = (candidates.entropy() / (n as f64).ln()).clamp(0.0, 1.0);
        least + (most - least) * share.powf(f64::from(self.dynatemp.exponent))
    }
}

impl Step for Temperature {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        let t = self.of(candidates);
        if t > 0.0 {
            candidates.set_temperature(t);
        } else {
            candidates.truncate(1);
        }
    }
}
