//! Answers that go round in circles.

/// Longest repeated part that is looked for, in tokens.
const LONGEST: usize = 512;

/// Finds out that a sequence repeats itself: its last tokens each equal the one a period before, for
/// one period of at most 512 tokens.
///
/// Every token costs a comparison per period, a few hundred in all.
#[derive(Clone, Debug)]
pub struct RepeatDetector {
    /// Repeated tokens that are too many.
    limit: usize,
    /// The last tokens, oldest first; at most [`LONGEST`].
    recent: Vec<u32>,
    /// By period less one: how many tokens in a row have repeated the one a period before.
    runs: Vec<usize>,
}

impl RepeatDetector {
    /// A detector that speaks up after `limit` repeated tokens; 0 never does.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            recent: Vec::new(),
            runs: vec![0; LONGEST],
        }
    }

    /// Takes the next token; returns the period once `limit` tokens have repeated it.
    pub fn push(&mut self, id: u32) -> Option<usize> {
        if self.limit == 0 {
            return None;
        }
        for (run, before) in self.runs.iter_mut().zip(self.recent.iter().rev()) {
            *run = if *before == id { *run + 1 } else { 0 };
        }
        if self.recent.len() == LONGEST {
            self.recent.remove(0);
        }
        self.recent.push(id);
        self.runs
            .iter()
            .position(|run| *run >= self.limit)
            .map(|at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a sequence is caught, and with which period.
    fn caught(limit: usize, ids: impl IntoIterator<Item = u32>) -> Option<(usize, usize)> {
        let mut detector = RepeatDetector::new(limit);
        let mut pushed = ids.into_iter().enumerate();
        pushed.find_map(|(i, id)| Some((i + 1, detector.push(id)?)))
    }

    #[test]
    fn every_period_is_found_after_the_limit() {
        for period in [1, 2, 3, 7, 64, 511, 512] {
            let text = (0..5000).map(|i| i % period);
            let expected = Some((1024 + period as usize, period as usize));
            assert_eq!(caught(1024, text), expected, "period {period}");
        }
        assert_eq!(caught(1024, (0..5000).map(|i| i % 513)), None);
    }

    #[test]
    fn what_changes_is_no_loop() {
        assert_eq!(caught(1024, 0..10_000), None);
        // A list whose numbers go up.
        let list = (0..3000).flat_map(|i| [5, 6, 1000 + i, 7]);
        assert_eq!(caught(1024, list), None);
        // One repeated token short of the limit, then something else.
        let near = (0..1024).map(|_| 3).chain([4]).chain((0..1024).map(|_| 3));
        assert_eq!(caught(1024, near), None);
        let just = (0..1025).map(|_| 3);
        assert_eq!(caught(1024, just), Some((1025, 1)));
    }

    #[test]
    fn a_beginning_of_its_own_does_not_matter() {
        let text = (0..700).chain((0..4000).map(|i| [8, 9, 8, 8][i % 4]));
        assert_eq!(caught(100, text), Some((700 + 4 + 100, 4)));
        assert_eq!(caught(0, (0..5000).map(|_| 1)), None);
    }
}
