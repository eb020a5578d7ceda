//! The tokens that may still be chosen, and what a step of the chain is.

use super::random::Random;

/// A step between the logits and the draw: drops candidates, or changes their weights. It depends on its
/// settings, the candidates, and what was chosen so far.
pub(super) trait Step: Send {
    /// Called once per token. At least one candidate stays.
    fn apply(&mut self, candidates: &mut Candidates, random: &mut Random);

    /// The candidate at `at` was drawn from what all steps left.
    fn chosen(&mut self, candidates: &mut Candidates, at: usize) {
        _ = (candidates, at);
    }
}

/// A step, unless its settings switch it off.
pub(super) type Made = Option<Box<dyn Step>>;

/// Tokens with their logits, never none. They are sorted when somebody asks for an order: where few of them
/// are kept first, only those are.
#[derive(Default)]
pub(super) struct Candidates {
    /// (id, logit); kept to reuse the memory.
    all: Vec<(u32, f32)>,
    /// Best first, ties by id.
    sorted: bool,
    /// What differences of logits are divided by; 1 until a step sets it.
    temperature: f64,
}

fn order(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

impl Candidates {
    /// Takes all tokens but forbidden ones. `logits`: `[vocab]`, not all of them minus infinity, no NaN.
    pub(super) fn fill(&mut self, logits: &[f32]) {
        self.all.clear();
        self.all.extend(
            (0u32..)
                .zip(logits.iter().copied())
                .filter(|c| c.1 > f32::NEG_INFINITY),
        );
        (self.sorted, self.temperature) = (false, 1.0);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Ids and logits in any order.
    pub(super) fn unsorted(&self) -> &[(u32, f32)] {
        &self.all
    }

    /// Ids and logits, best first, ties by id.
    pub(super) fn sorted(&mut self) -> &[(u32, f32)] {
        if !self.sorted {
            self.all.sort_unstable_by(order);
            self.sorted = true;
        }
        &self.all
    }

    /// Keeps the best `n`, at least one.
    pub(super) fn truncate(&mut self, n: usize) {
        let n = n.max(1);
        if !self.sorted && n < self.all.len() {
            self.all.select_nth_unstable_by(n - 1, order);
        }
        self.all.truncate(n);
    }

    /// Drops the best `n`, but never the last one.
    pub(super) fn drop_best(&mut self, n: usize) {
        let n = n.min(self.sorted().len() - 1);
        self.all.drain(..n);
    }

    /// Keeps those that `keep` says yes to, which must be one at least.
    pub(super) fn retain(&mut self, keep: impl FnMut(&(u32, f32)) -> bool) {
        self.all.retain(keep);
    }

    /// Divides differences of logits by this, above 0.
    pub(super) fn set_temperature(&mut self, temperature: f64) {
        self.temperature = temperature;
    }

    /// Weights in the order of [`Candidates::sorted`], in proportion to the probabilities; that of the best
    /// one is 1.
    pub(super) fn weights(&mut self) -> impl Iterator<Item = f64> + Clone + '_ {
        let best = self.sorted()[0].1;
        let t = self.temperature;
        self.all
            .iter()
            .map(move |c| (f64::from(c.1 - best) / t).exp())
    }

    /// How many of the best have a weight that `holds` says yes to, as it does for those before the first no.
    pub(super) fn count_while(&mut self, holds: impl Fn(f64) -> bool) -> usize {
        let best = self.sorted()[0].1;
        let t = self.temperature;
        self.all
            .partition_point(|c| holds((f64::from(c.1 - best) / t).exp()))
    }

    /// Natural logarithms of the candidates' probabilities, negated, in the order of [`Candidates::sorted`].
    pub(super) fn surprises(&mut self) -> impl Iterator<Item = f64> + Clone + '_ {
        let log_total = self.weights().sum::<f64>().ln();
        let (best, t) = (self.all[0].1, self.temperature);
        self.all
            .iter()
            .map(move |c| log_total - f64::from(c.1 - best) / t)
    }

    /// Shannon entropy of the candidates' probabilities, in nats.
    pub(super) fn entropy(&mut self) -> f64 {
        let total: f64 = self.weights().sum();
        let surprises: Vec<f64> = self.surprises().collect();
        let terms = self.weights().zip(surprises).map(|(w, s)| match w > 0.0 {
            true => w / total * s,
            false => 0.0,
        });
        terms.sum()
    }
}
