//! Top-nσ: Tang and others, "Top-nσ: Not All Logits Are You Need", arXiv 2411.07641.

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::random::Random;

/// Keeps tokens whose logit is at least `max - n * σ`; σ is the standard deviation of all logits that are not
/// minus infinity (over their number, not one less).
struct TopNSigma(f64);

/// 0 is off.
pub(super) fn new(n: f32) -> Made {
    (n > 0.0).then(|| Box::new(TopNSigma(f64::from(n))) as _)
}

impl Step for TopNSigma {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        let all = candidates.unsorted();
        let count = all.len() as f64;
        let mean = all.iter().map(|c| f64::from(c.1)).sum::<f64>() / count;
        let squares = all.iter().map(|c| (f64::from(c.1) - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let max = all.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.1));
        let least = f64::from(max) - self.0 * deviation;
        candidates.retain(|c| f64::from(c.1) >= least);
    }
}
