//! Exclude top choices: p-e-w, pull request 6335 of text-generation-webui.

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::options::Xtc;
use crate::sampler::random::Random;

/// With its probability, and if two tokens or more have at least the threshold's probability, drops all of
/// these but the least probable one. It takes one random number for each token of the text, before the draw.
impl Step for Xtc {
    fn apply(&mut self, candidates: &mut Candidates, random: &mut Random) {
        if random.uniform() >= f64::from(self.probability) {
            return;
        }
        let total: f64 = candidates.weights().sum();
        let least = f64::from(self.threshold) * total;
        let viable = candidates.count_while(|w| w >= least);
        candidates.drop_best(viable.saturating_sub(1));
    }
}

/// A probability of 0 is off.
pub(super) fn new(xtc: Xtc) -> Made {
    (xtc.probability > 0.0).then(|| Box::new(xtc) as _)
}
