//! Min-p: Nguyen and others, "Turning Up the Heat: Min-p Sampling", arXiv 2407.01082.

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::random::Random;

/// Keeps tokens of at least `p` times the probability of the best one.
struct MinP(f64);

/// 0 is off.
pub(super) fn new(p: f32) -> Made {
    (p > 0.0).then(|| Box::new(MinP(f64::from(p))) as _)
}

impl Step for MinP {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        let keep = candidates.count_while(|w| w >= self.0);
        candidates.truncate(keep);
    }
}
