//! What a pass will take, from what passes took.

use std::time::Duration;

/// Rows where a new group of passes begins that are averaged together.
const GROUPS: [usize; 25] = [
    1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256, 320, 384,
    448,
];
/// Weight of a new pass in its group's mean.
const WEIGHT: f64 = 1.0 / 8.0;
/// Rows of prompts that a step has room for at least, whatever it takes.
pub(super) const LEAST: usize = 16;

/// Running means of the passes of a group.
#[derive(Clone, Copy, Debug)]
struct Mean {
    rows: f64,
    seconds: f64,
}

/// Measured times of passes by their rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Cost {
    groups: [Option<Mean>; GROUPS.len()],
}

impl Cost {
    /// A pass of so many rows took `time`.
    pub(super) fn record(&mut self, rows: usize, time: Duration) {
        let (rows, seconds) = (rows as f64, time.as_secs_f64());
        let group = GROUPS.partition_point(|first| *first as f64 <= rows);
        let mean = self.groups[group.max(1) - 1].get_or_insert(Mean { rows, seconds });
        mean.rows += (rows - mean.rows) * WEIGHT;
        // A pass far above the mean tells of other work on the machine.
        mean.seconds += (seconds.min(2.0 * mean.seconds) - mean.seconds) * WEIGHT;
    }

    /// Seconds of a pass of so many rows: along the line between the nearest measured groups, never less than
    /// one of fewer rows; `None` while nothing is measured.
    pub(super) fn predict(&self, rows: usize) -> Option<f64> {
        let rows = rows as f64;
        let mut below: Option<Mean> = None;
        for mean in self.groups.iter().flatten() {
            let least = below.map_or(0.0, |b| b.seconds);
            let mean = Mean {
                seconds: mean.seconds.max(least),
                ..*mean
            };
            if mean.rows >= rows {
                return Some(match below {
                    // Fewer rows than were ever measured take no longer.
                    None => mean.seconds,
                    Some(b) => {
                        let share = (rows - b.rows) / (mean.rows - b.rows).max(1e-9);
                        b.seconds + (mean.seconds - b.seconds) * share.clamp(0.0, 1.0)
                    }
                });
            }
            below = Some(mean);
        }
        below.map(|b| b.seconds * rows / b.rows)
    }

    /// Most rows of prompts, of at most `most`, beside `decoding` rows in a step that lasts no longer than `limit`
    /// or twice those rows alone, whatever is more; [`LEAST`] always.
    pub(super) fn prompt_rows(&self, decoding: usize, most: usize, limit: Duration) -> usize {
        let alone = self.predict(decoding).unwrap_or(f64::INFINITY);
        let limit = limit.as_secs_f64().max(2.0 * alone);
        let fits = |n: &usize| self.predict(decoding + n).is_some_and(|s| s <= limit);
        let (mut fit, mut over) = (LEAST.min(most), most + 1);
        while over - fit > 1 {
            let middle = fit + (over - fit) / 2;
            if fits(&middle) {
                fit = middle;
            } else {
                over = middle;
            }
        }
        fit
    }

    /// How many guesses each sequence of a step gets, of those whose chances to hold are `chances[sequence][guess]`:
    /// one more row pays if its chance times the present time per token is more than what the row takes.
    pub(super) fn guesses(&self, decoding: usize, most: usize, chances: &[Vec<f64>]) -> Vec<usize> {
        let mut guesses = vec![0; chances.len()];
        let (mut rows, mut tokens) = (decoding, decoding as f64);
        while rows < decoding + most {
            let next = |i: usize| chances[i].get(guesses[i]).copied().unwrap_or(0.0);
            let best = (0..chances.len()).max_by(|a, b| next(*a).total_cmp(&next(*b)));
            let (Some(best), Some(now), Some(then)) =
                (best, self.predict(rows), self.predict(rows + 1))
            else {
                break;
            };
            let chance = next(best);
            if chance <= 0.0 || chance * now / tokens <= then - now {
                break;
            }
            guesses[best] += 1;
            tokens += chance;
            rows += 1;
        }
        guesses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of all sizes, each `seconds(rows)`.
    fn measured(seconds: impl Fn(usize) -> f64) -> Cost {
        let mut cost = Cost::default();
        for rows in GROUPS.into_iter().chain([512]) {
            (0..40).for_each(|_| cost.record(rows, Duration::from_secs_f64(seconds(rows))));
        }
        cost
    }

    #[test]
    fn a_step_keeps_its_limit_and_reads_at_least_a_little() {
        let cost = measured(|n| 0.020 + 0.004 * n as f64);
        let limit = Duration::from_millis(100);
        // 4 rows alone take 36 ms: 100 ms are more than twice that, and hold 20 rows.
        assert_eq!(cost.prompt_rows(4, 508, limit), 16);
        // 20 rows alone take 100 ms: twice that holds 45 rows.
        let rows = cost.prompt_rows(20, 492, limit);
        assert!((24..=25).contains(&rows), "{rows}");
        // Where rows cost nothing all of them are read.
        assert_eq!(measured(|_| 0.01).prompt_rows(4, 508, limit), 508);
        // Nothing measured, nothing risked; no more than there is room for.
        assert_eq!(Cost::default().prompt_rows(4, 508, limit), LEAST);
        assert_eq!(cost.prompt_rows(4, 5, limit), 5);
        assert_eq!(cost.prompt_rows(4, 0, limit), 0);
    }

    #[test]
    fn more_rows_never_take_less() {
        let mut cost = measured(|n| 0.01 + 0.001 * n as f64);
        (0..100).for_each(|_| cost.record(8, Duration::from_secs(1)));
        let times: Vec<f64> = (1..600).filter_map(|n| cost.predict(n)).collect();
        assert_eq!(times.len(), 599);
        assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn guesses_end_where_a_row_costs_more_than_it_brings() {
        let chances = [vec![0.9, 0.8, 0.1], vec![], vec![0.5]];
        // Rows are free: all that have any chance.
        let free = measured(|_| 0.01).guesses(3, 100, &chances);
        assert_eq!(free, [3, 0, 1]);
        assert_eq!(measured(|_| 0.01).guesses(3, 2, &chances), [2, 0, 0]);
        // A row costs what it brings alone: none.
        assert_eq!(
            measured(|n| 0.01 * n as f64).guesses(3, 100, &chances),
            [0; 3]
        );
        assert_eq!(Cost::default().guesses(3, 100, &chances), [0; 3]);
    }
}
