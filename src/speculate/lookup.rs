//! Prompt lookup: what followed the longest earlier occurrence of the latest tokens.
//!
//! ```text
//! at each new token i:
//!     if the token is what the current match foretold:  the match goes on, one longer
//!     else: walk the earlier places of the pair (i - 1, i), newest first, at most CANDIDATES;
//!           count equal tokens backwards; keep the longest
//!     enter i under its pair
//! ```
//! Each token is entered once and looked at a bounded number of times, whatever the length of the
//! history. A match of length L is a match of length L - 1 one token earlier, so the longest match
//! that goes on stays the longest.

use std::collections::HashMap;

use super::{Draft, Drafter, Offer, Speculation, Tuning};
use crate::error::Result;

/// Earlier places of a pair that are compared.
const CANDIDATES: usize = 16;
/// Longest match that is told from longer ones.
const LONGEST: usize = 31;
/// No earlier place.
const NONE: u32 = u32::MAX;

/// Guesses by looking earlier tokens up.
#[derive(Debug, Default)]
pub struct Lookup {
    /// Newest place of a pair of tokens: the index of its second one.
    newest: HashMap<(u32, u32), u32>,
    /// The place before that of the same pair, by place; its length is what has been entered.
    before: Vec<u32>,
    /// The index that is foretold to come next, and how many tokens before it are equal.
    found: Option<(usize, usize)>,
}

impl Lookup {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the tokens that are new in `history`.
    fn enter(&mut self, history: &[u32]) {
        for i in self.before.len()..history.len() {
            let goes_on = self
                .found
                .filter(|(next, _)| history[*next] == history[i])
                .map(|(next, len)| (next + 1, (len + 1).min(LONGEST)));
            if i == 0 {
                self.before.push(NONE);
                continue;
            }
            let pair = (history[i - 1], history[i]);
            // An index fits: a context has at most 2^24 positions.
            let last = self.newest.insert(pair, i as u32).unwrap_or(NONE);
            self.before.push(last);
            self.found = goes_on.or_else(|| self.longest(&history[..=i], last));
        }
    }

    /// The longest of the places before the last token of `history`, from `place` on backwards.
    fn longest(&self, history: &[u32], mut place: u32) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for _ in 0..CANDIDATES {
            let Some(&before) = self.before.get(place as usize) else {
                break;
            };
            let end = place as usize + 1;
            let pairs = history[..end].iter().rev().zip(history.iter().rev());
            let len = pairs.take(LONGEST).take_while(|(a, b)| a == b).count();
            if best.is_none_or(|(_, longest)| len > longest) {
                best = Some((end, len));
            }
            place = before;
        }
        best
    }

    /// Appends what follows the match to `out`, which is empty.
    fn extend(&self, history: &[u32], max: usize, out: &mut Vec<u32>) {
        let Some((next, _)) = self.found else {
            return;
        };
        for i in next..next + max {
            // Where the history ends, the guess itself goes on: a short period repeats.
            let known = history.get(i).or_else(|| out.get(i - history.len()));
            out.extend(known.copied());
        }
    }
}

impl Speculation {
    /// What programs use when nobody says otherwise: [`Lookup`] where it pays.
    pub fn lookup() -> Self {
        Self::off().with(Box::new(Lookup::new()), Tuning::Auto, usize::MAX)
    }
}

impl Drafter for Lookup {
    fn name(&self) -> &'static str {
        "lookup"
    }

    fn begin(&mut self) {
        *self = Self::new();
    }

    /// The longer the match, the likelier its continuation.
    fn prior(&self, class: usize) -> f64 {
        class as f64 / (class as f64 + 5.0)
    }

    fn offer(&mut self, history: &[u32]) -> Option<Offer> {
        self.enter(history);
        let (next, len) = self.found?;
        Some(Offer {
            class: len,
            next: history.get(next).copied(),
        })
    }

    fn draft(
        &mut self,
        _: &mut Draft<'_>,
        history: &[u32],
        max: usize,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        self.enter(history);
        self.extend(history, max, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest earlier match by trying everything; the newest of equals.
    fn by_force(history: &[u32]) -> Option<(usize, usize)> {
        let mut best = None;
        for end in (2..history.len()).rev() {
            let pairs = history[..end].iter().rev().zip(history.iter().rev());
            let len = pairs.take_while(|(a, b)| a == b).count().min(LONGEST);
            if len >= 2 && best.is_none_or(|(_, longest)| len > longest) {
                best = Some((end, len));
            }
        }
        best
    }

    fn numbers(n: usize, modulus: u64, seed: u64) -> Vec<u32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                ((state >> 33) % modulus) as u32
            })
            .collect()
    }

    #[test]
    fn finds_a_longest_match() {
        for (modulus, n) in [(12, 150), (40, 400), (3, 20)] {
            let history = numbers(n, modulus, modulus);
            let mut lookup = Lookup::new();
            for end in 1..=n {
                let known = &history[..end];
                let offer = lookup.offer(known);
                let found = lookup.found;
                assert_eq!(
                    found.map(|f| f.1),
                    by_force(known).map(|f| f.1),
                    "{known:?}"
                );
                assert_eq!(offer.and_then(|o| o.next), found.map(|f| known[f.0]));
                // It is a match: the tokens before are the latest ones.
                if let Some((next, len)) = found {
                    assert_eq!(known[next - len..next], known[end - len..]);
                    assert!(next < end);
                }
            }
        }
    }

    #[test]
    fn text_entered_at_once_or_bit_by_bit_is_the_same() {
        let history = numbers(300, 20, 5);
        let (mut slow, mut fast) = (Lookup::new(), Lookup::new());
        for end in 1..=300 {
            slow.offer(&history[..end]);
        }
        fast.offer(&history);
        assert_eq!((slow.found, &slow.before), (fast.found, &fast.before));
        fast.begin();
        assert_eq!(fast.offer(&[1, 2, 3]).map(|o| o.class), None);
    }

    #[test]
    fn a_period_is_continued_past_the_end() {
        let mut lookup = Lookup::new();
        let history = [9, 1, 2, 3, 1, 2, 3, 1, 2];
        lookup.enter(&history);
        let (next, len) = lookup.found.expect("a match");
        assert_eq!((next, len), (6, 5));
        let mut out = Vec::new();
        lookup.extend(&history, 7, &mut out);
        assert_eq!(out, [3, 1, 2, 3, 1, 2, 3]);
    }
}
