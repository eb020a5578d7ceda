//! Top-k: Fan and others, "Hierarchical Neural Story Generation", arXiv 1805.04833.

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::random::Random;

/// Keeps the `k` best tokens; of equals those with low ids.
struct TopK(usize);

/// 0 is off.
pub(super) fn new(k: usize) -> Made {
    (k > 0).then(|| Box::new(TopK(k)) as _)
}

impl Step for TopK {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        candidates.truncate(self.0);
    }
}
