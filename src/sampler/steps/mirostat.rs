//! Mirostat 2.0: Basu and others, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls
//! Perplexity", arXiv 2007.14966.

use std::f64::consts::LN_2;

use crate::sampler::candidates::{Candidates, Made, Step};
use crate::sampler::options::Mirostat;
use crate::sampler::random::Random;

/// ```text
/// μ = 2 τ                                    at the beginning
/// keep the tokens with -log2 p <= μ          at least the best one
/// draw x; S = -log2 p(x)                     among those that were kept
/// μ = μ - η (S - τ)
/// ```
/// It stands behind the temperature, as in llama.cpp.
struct MaxSurprise {
    options: Mirostat,
    /// μ, in bits.
    most: f64,
}

pub(super) fn new(options: Mirostat) -> Made {
    let most = 2.0 * f64::from(options.tau);
    Some(Box::new(MaxSurprise { options, most }))
}

impl Step for MaxSurprise {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut Random) {
        let most = self.most * LN_2;
        let keep = candidates.surprises().take_while(|s| *s <= most).count();
        candidates.truncate(keep);
    }

    fn chosen(&mut self, candidates: &mut Candidates, at: usize) {
        let surprise = candidates.surprises().nth(at).map(|s| s / LN_2);
        // A token of no weight is drawn by rounding only; it says nothing.
        if let Some(surprise) = surprise.filter(|s| s.is_finite()) {
            self.most -= f64::from(self.options.eta) * (surprise - f64::from(self.options.tau));
        }
    }
}
