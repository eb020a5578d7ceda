//! Locally typical sampling: Meister and others, "Locally Typical Sampling", arXiv 2202.00666.

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::random::Random;

/// Keeps the fewest tokens whose probabilities reach `p`, taken in the order of `|-ln p(token) - H|`, the
/// smallest first, of equals the more probable one; `H = -Σ p ln p` is the entropy.
struct Typical(f64);

/// 1 is off.
pub(super) fn new(p: f32) -> Made {
    (p < 1.0).then(|| Box::new(Typical(f64::from(p))) as _)
}

impl Step for Typical {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        let entropy = candidates.entropy();
        let distances = candidates.surprises().map(|s| (s - entropy).abs());
        let mut places: Vec<(f64, usize)> = distances.zip(0..).collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        let weights: Vec<f64> = candidates.weights().collect();
        let wanted = self.0 * weights.iter().sum::<f64>();
        let mut kept = vec![false; weights.len()];
        let mut sum = 0.0;
        for (_, place) in places {
            kept[place] = true;
            sum += weights[place];
            if sum >= wanted {
                break;
            }
        }
        let mut kept = kept.into_iter();
        candidates.retain(|_| kept.next() == Some(true));
    }
}
