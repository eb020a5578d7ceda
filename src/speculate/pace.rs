//! How many guesses are worth verifying, from what was measured: the time of a pass by its number of
//! tokens, and how often guesses come true.
//!
//! A pass over the last token and `k` guesses yields one token more than the guesses that hold:
//!
//! ```text
//! gain(k) = (1 + p1 + p1 p2 + … + p1 … pk) / (cost(k + 1) + k draft)
//! ```
//! in units of a plain step, whose gain is 1. `p` is the share of guesses of that class that held so
//! far (of the i-th of a draft: one class further), `cost(n)` the time of a pass of `n` tokens over that of
//! one. Nothing here decides what is generated, only how.

/// First classes of the groups that are counted together.
const GROUPS: [usize; 12] = [0, 1, 2, 3, 4, 5, 6, 8, 11, 15, 20, 27];
/// A gain below this is noise.
const WORTH: f64 = 1.08;
/// Cost of each further token of a pass while nothing is known.
const FURTHER: f64 = 0.2;

/// The group of a class.
fn group(class: usize) -> usize {
    GROUPS.partition_point(|first| *first <= class) - 1
}

/// Share of guesses that came true, by groups of classes.
#[derive(Clone, Debug)]
pub(super) struct Odds {
    share: [f64; GROUPS.len()],
    seen: [u32; GROUPS.len()],
}

impl Odds {
    /// What is expected before anything is seen.
    pub(super) fn new(prior: impl Fn(usize) -> f64) -> Odds {
        Odds {
            share: GROUPS.map(prior),
            seen: [0; GROUPS.len()],
        }
    }

    /// A guess of this class was right or wrong.
    pub(super) fn observe(&mut self, class: usize, held: bool) {
        let i = group(class);
        // The prior counts as four guesses; the last 32 count most.
        let weight = (1.0 / (f64::from(self.seen[i]) + 5.0)).max(1.0 / 32.0);
        self.seen[i] = self.seen[i].saturating_add(1);
        self.share[i] += (f64::from(u8::from(held)) - self.share[i]) * weight;
    }

    /// The share of a class.
    pub(super) fn of(&self, class: usize) -> f64 {
        self.share[group(class)]
    }
}

/// A number of guesses and what it promises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// Guesses; 0 is a plain step.
    pub(super) guesses: usize,
    /// Tokens per time, relative to plain steps.
    pub(super) gain: f64,
}

/// Measured times of passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a pass of one token.
    single: Option<f64>,
    /// By tokens of a pass: its time over that of one.
    ratio: Vec<Option<f64>>,
}

impl Pace {
    /// A pass of `tokens` took `seconds`.
    pub(super) fn record(&mut self, tokens: usize, seconds: f64) {
        if tokens == 1 {
            self.single = Some(follow(self.single, seconds, 1.0 / 8.0));
            // Old measurements fade, so that one bad moment is tried again some day.
            for (i, ratio) in self.ratio.iter_mut().enumerate() {
                if let Some(r) = ratio {
                    *r += (1.0 + FURTHER * i.saturating_sub(1) as f64 - *r) * 0.002;
                }
            }
            return;
        }
        let Some(single) = self.single else { return };
        if self.ratio.len() <= tokens {
            self.ratio.resize(tokens + 1, None);
        }
        let ratio = (seconds / single).clamp(1.0, tokens as f64);
        self.ratio[tokens] = Some(follow(self.ratio[tokens], ratio, 1.0 / 4.0));
    }

    /// Seconds over those of a plain step; `None` before the first one.
    pub(super) fn in_steps(&self, seconds: f64) -> Option<f64> {
        Some(seconds / self.single?)
    }

    /// Cost of a pass of `tokens`, in plain steps: measured, or along the line to the nearest measured.
    fn cost(&self, tokens: usize) -> f64 {
        let known = self.ratio.iter().enumerate();
        let nearest = known
            .filter_map(|(n, r)| Some((n, (*r)?)))
            .min_by_key(|(n, _)| n.abs_diff(tokens));
        let further = nearest.map_or(FURTHER, |(n, r)| (r - 1.0) / (n - 1) as f64);
        1.0 + further * (tokens - 1) as f64
    }

    /// The best number of guesses up to `max`, of which the first is of `class`; `draft` is the cost
    /// of making one, in plain steps.
    pub(super) fn choose(&self, odds: &Odds, class: usize, max: usize, draft: f64) -> Choice {
        let mut best = Choice {
            guesses: 0,
            gain: 1.0,
        };
        if self.single.is_none() {
            return best;
        }
        let (mut all_hold, mut tokens) = (1.0, 1.0);
        for guesses in 1..=max {
            all_hold *= odds.of(class + guesses - 1);
            tokens += all_hold;
            let gain = tokens / (self.cost(guesses + 1) + draft * guesses as f64);
            if gain > best.gain.max(WORTH) {
                best = Choice { guesses, gain };
            }
        }
        best
    }
}

/// A running mean. A value above twice the mean counts as twice the mean: the machine was busy elsewhere.
pub(super) fn follow(mean: Option<f64>, value: f64, weight: f64) -> f64 {
    mean.map_or(value, |m| m + (value.min(2.0 * m) - m) * weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace that has seen passes of up to 16 tokens, the n-th token costing `further`.
    fn pace(further: f64) -> Pace {
        let mut pace = Pace::default();
        for n in 1..=16 {
            (0..4).for_each(|_| pace.record(n, 0.01 * (1.0 + further * (n - 1) as f64)));
        }
        pace
    }

    fn odds(share: f64) -> Odds {
        let mut odds = Odds::new(|_| 0.5);
        for class in GROUPS {
            for i in 0..400 {
                odds.observe(class, f64::from(i * 37 % 100) < 100.0 * share);
            }
        }
        odds
    }

    #[test]
    fn sure_guesses_are_all_taken_and_poor_ones_are_not() {
        assert_eq!(pace(0.05).choose(&odds(1.0), 0, 15, 0.0).guesses, 15);
        assert_eq!(pace(0.3).choose(&odds(0.1), 0, 15, 0.0).guesses, 0);
        // As dear as plain steps: never worth it.
        assert_eq!(pace(1.0).choose(&odds(1.0), 0, 15, 0.0).guesses, 0);
        let some = pace(0.2).choose(&odds(0.7), 0, 15, 0.0);
        assert!((1..8).contains(&some.guesses), "{some:?}");
        // The same with a draft as dear as a step.
        assert_eq!(pace(0.2).choose(&odds(0.7), 0, 15, 1.0).guesses, 0);
    }

    #[test]
    fn nothing_is_tried_before_a_plain_step_is_measured() {
        let mut pace = Pace::default();
        assert_eq!(pace.choose(&odds(1.0), 0, 15, 0.0).guesses, 0);
        pace.record(4, 0.01);
        assert_eq!(pace.choose(&odds(1.0), 0, 15, 0.0).guesses, 0);
        pace.record(1, 0.01);
        assert!(pace.choose(&odds(1.0), 0, 15, 0.0).guesses > 0);
    }

    #[test]
    fn a_bad_moment_is_forgotten() {
        let mut pace = pace(0.05);
        let before = pace.cost(4);
        pace.record(4, 10.0);
        assert!(pace.cost(4) < 1.3 * before);
        for _ in 0..40 {
            pace.record(4, 4.0);
        }
        let dear = pace.cost(4);
        assert!(dear > 3.0, "it is dear indeed");
        (0..2000).for_each(|_| pace.record(1, 0.01));
        assert!(pace.cost(4) < 1.7, "and is given another chance");
    }

    #[test]
    fn unknown_sizes_follow_the_nearest_known_one() {
        let mut pace = Pace::default();
        pace.record(1, 1.0);
        assert!((pace.cost(3) - 1.4).abs() < 1e-12);
        pace.record(3, 2.0);
        assert!((pace.cost(3) - 2.0).abs() < 1e-12);
        assert!((pace.cost(2) - 1.5).abs() < 1e-12);
        assert!((pace.cost(9) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn odds_follow_what_happens() {
        let mut odds = Odds::new(|class| class as f64 / 100.0);
        assert_eq!((odds.of(2), odds.of(10)), (0.02, 0.08));
        assert_eq!(odds.of(1000), 0.27);
        (0..100).for_each(|_| odds.observe(2, true));
        assert!(odds.of(2) > 0.95);
        (0..100).for_each(|_| odds.observe(2, false));
        assert!(odds.of(2) < 0.05);
    }
}
