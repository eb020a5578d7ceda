//! Top-p: Holtzman and others, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751.

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::random::Random;

/// Keeps the fewest best tokens whose probabilities reach `p`, at least one.
struct TopP(f64);

/// 1 is off.
pub(super) fn new(p: f32) -> Made {
    (p < 1.0).then(|| Box::new(TopP(f64::from(p))) as _)
}

impl Step for TopP {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        let wanted = self.0 * candidates.weights().sum::<f64>();
        let mut sum = 0.0;
        let last = candidates.weights().position(|w| {
            sum += w;
            sum >= wanted
        });
        if let Some(last) = last {
            candidates.truncate(last + 1);
        }
    }
}
