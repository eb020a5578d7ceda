//! How much a candidate loses on a text: one function of the numbers.
//!
//! Three measures, each with its 95 % interval, are held against the bounds of `Measure::bounds`; the worst
//! counts. What the lower ends exceed is lost for certain, what the upper ends exceed may be.

use std::cmp::Ordering;

use crate::{Estimate, Report};
use serde::Serialize;

/// How bad: later is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Loss {
    None,
    Small,
    Moderate,
    Heavy,
    Broken,
}

/// What is measured against the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Mean KL divergence, nats per token.
    Kl,
    /// Share of tokens whose most probable next token is another one.
    Differ,
    /// Mean rise of the negative log-probability of the text's token, nats per token; may be negative.
    Nll,
}

/// Windows that an answer needs at least when one says nothing about the error.
const FIRST: usize = 10;
/// A lower end this close to a bound that the interval holds counts as behind it: no number of windows tells
/// a value from a bound that it is equal to.
const NEAR: f64 = 0.75;
/// More windows than this are not counted.
const MOST: usize = 1 << 24;

impl Measure {
    const ALL: [Measure; 3] = [Measure::Kl, Measure::Differ, Measure::Nll];

    /// Where a small, a moderate and a heavy loss begin, and where a model is broken. Half of the text's
    /// perplexity more is 0.4 in the last row.
    fn bounds(self) -> [f64; 4] {
        match self {
            //                  small  moderate heavy broken
            Measure::Kl => [0.001, 0.01, 0.1, 1.0],
            Measure::Differ => [0.02, 0.1, 0.25, 0.5],
            Measure::Nll => [0.002, 0.02, 0.1, 0.5],
        }
    }
}

/// A candidate against the base on one text.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Evaluated windows.
    pub windows: usize,
    /// Counted tokens of all windows.
    pub tokens: usize,
    /// [`Measure::Kl`].
    pub kl: Estimate,
    /// [`Measure::Differ`].
    pub differ: Estimate,
    /// [`Measure::Nll`].
    pub nll: Estimate,
}

/// What the numbers allow to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Lost for certain.
    pub at_least: Loss,
    /// Not excluded.
    pub at_most: Loss,
    /// Windows that make both the same, if the numbers stay what they are; 0 where they are.
    pub more_windows: usize,
}

impl Numbers {
    /// Of a candidate; `None` for the base.
    pub fn of(report: &Report) -> Option<Numbers> {
        let d = report.against_base.as_ref()?;
        let differ = Estimate {
            value: 1.0 - d.top1.value,
            ..d.top1
        };
        Some(Numbers {
            windows: report.windows,
            tokens: report.tokens,
            kl: d.kl.mean,
            differ,
            nll: d.nll_difference,
        })
    }

    fn estimate(&self, measure: Measure) -> Estimate {
        match measure {
            Measure::Kl => self.kl,
            Measure::Differ => self.differ,
            Measure::Nll => self.nll,
        }
    }

    /// The 95 % interval that `windows` windows would give.
    fn interval(&self, measure: Measure, windows: usize) -> [f64; 2] {
        let Estimate { value, error } = self.estimate(measure);
        let growth = windows as f64 / self.windows.max(1) as f64;
        let half = match error {
            Some(error) => student95(windows.saturating_sub(1)) * error / growth.sqrt(),
            None => f64::INFINITY,
        };
        let high = match measure {
            // Of a share that nothing was seen of, windows know no error.
            Measure::Differ => wilson95(value, self.tokens as f64 * growth).max(value + half),
            _ => value + half,
        };
        [value - half, high]
    }

    fn finding_at(&self, windows: usize) -> Finding {
        let mut worst = Finding {
            at_least: Loss::None,
            at_most: Loss::None,
            more_windows: 0,
        };
        for measure in Measure::ALL {
            let [low, high] = self.interval(measure, windows);
            // What is not a number is behind every bound.
            let behind = |x: f64, bound: f64| x.is_nan() || x >= bound;
            let near = |bound: f64| low >= NEAR * bound && high >= bound;
            let bounds = measure.bounds();
            let least = Loss::behind(bounds.map(|b| behind(low, b) || near(b)));
            let most = Loss::behind(bounds.map(|b| behind(high, b)));
            worst.at_least = worst.at_least.max(least);
            worst.at_most = worst.at_most.max(most);
        }
        worst
    }

    /// What these numbers alone say.
    fn finding(&self) -> Finding {
        let now = self.finding_at(self.windows);
        let decided = |windows: usize| {
            let then = self.finding_at(windows);
            then.at_least == then.at_most
        };
        if now.at_least == now.at_most {
            return now;
        }
        let mut needed = (self.windows + 1).max(FIRST);
        if Measure::ALL
            .iter()
            .all(|m| self.estimate(*m).error.is_some())
        {
            let (mut not, mut yes) = (self.windows, self.windows.max(1));
            while yes < MOST && !decided(yes) {
                not = yes;
                yes *= 2;
            }
            while yes - not > 1 {
                let middle = not + (yes - not) / 2;
                *(if decided(middle) { &mut yes } else { &mut not }) = middle;
            }
            needed = yes;
        }
        Finding {
            more_windows: needed - self.windows,
            ..now
        }
    }
}

impl Loss {
    /// The class of which this many bounds are behind.
    fn behind(bounds: [bool; 4]) -> Loss {
        match bounds.iter().filter(|b| **b).count() {
            0 => Loss::None,
            1 => Loss::Small,
            2 => Loss::Moderate,
            3 => Loss::Heavy,
            _ => Loss::Broken,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Loss::None => "no loss",
            Loss::Small => "a small loss",
            Loss::Moderate => "a moderate loss",
            Loss::Heavy => "a heavy loss",
            Loss::Broken => "broken",
        }
    }
}

/// Findings of candidates on one text, in their order. Of two candidates the one with the larger divergence is
/// never called better: it gets what was found for the other, if that is worse.
pub fn findings(candidates: &[Numbers]) -> Vec<Finding> {
    let mut out: Vec<Finding> = candidates.iter().map(Numbers::finding).collect();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| nearer(&candidates[*a], &candidates[*b]));
    for pair in order.windows(2) {
        out[pair[1]] = out[pair[1]].worse(out[pair[0]]);
    }
    out
}

/// By divergence; what is not a number is farther than everything.
pub fn nearer(a: &Numbers, b: &Numbers) -> Ordering {
    let key = |n: &Numbers| (n.kl.value.is_nan(), n.kl.value);
    let ((a_nan, a), (b_nan, b)) = (key(a), key(b));
    a_nan.cmp(&b_nan).then(a.total_cmp(&b))
}

/// Whether the intervals of the divergences of `a` and of the farther `b` do not meet.
pub fn apart(a: &Numbers, b: &Numbers) -> bool {
    a.interval(Measure::Kl, a.windows)[1] < b.interval(Measure::Kl, b.windows)[0]
}

impl Finding {
    /// The worse of two, end by end.
    pub fn worse(self, other: Finding) -> Finding {
        let at_least = self.at_least.max(other.at_least);
        // Windows that would tell only what is known already are not asked for.
        let open = |f: Finding| {
            if f.at_most > at_least {
                f.more_windows
            } else {
                0
            }
        };
        Finding {
            at_least,
            at_most: self.at_most.max(other.at_most),
            more_windows: open(self).max(open(other)),
        }
    }

    /// In words; `base` is its name.
    pub fn words(self, base: &str) -> String {
        let plural = if self.more_windows == 1 { "" } else { "s" };
        let needed = format!("{} more window{plural} needed", self.more_windows);
        match (self.at_least, self.at_most) {
            (Loss::None, Loss::None) => format!("not distinguishable from {base}"),
            (Loss::None, _) => format!("cannot tell yet: {needed}"),
            (a, b) if a == b => a.words().into(),
            (Loss::Heavy, _) => format!("at least a heavy loss, perhaps broken: {needed}"),
            (a, b) => {
                let most = b.words().trim_start_matches("a ");
                format!("at least {}, perhaps {most}: {needed}", a.words())
            }
        }
    }
}

/// Half the width of a 95 % interval in standard errors, by the degrees of freedom of the error: Student's t, from
/// 3 on by its series in 1 / df (Abramowitz and Stegun 26.7.5).
pub fn student95(df: usize) -> f64 {
    const Z: f64 = 1.959_963_984_540_054;
    let n = df as f64;
    match df {
        0 => f64::INFINITY,
        1 => 12.7062,
        2 => 4.3027,
        _ => {
            let z2 = Z * Z;
            let first = (z2 + 1.0) / 4.0;
            let second = ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0;
            let third = (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0;
            Z * (1.0 + (first + (second + third / n) / n) / n)
        }
    }
}

/// Upper end of Wilson's 95 % interval of a share `p` of `n` cases.
fn wilson95(p: f64, n: f64) -> f64 {
    const Z2: f64 = 1.96 * 1.96;
    let half = (Z2 * (p * (1.0 - p) / n + Z2 / (4.0 * n * n))).sqrt();
    (p + Z2 / (2.0 * n) + half) / (1.0 + Z2 / n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn estimate(value: f64, error: f64) -> Estimate {
        Estimate {
            value,
            error: Some(error),
        }
    }

    /// KL, share of other most probable tokens, loss, each with its error, from windows of 255 tokens.
    fn numbers(windows: usize, kl: [f64; 2], differ: [f64; 2], nll: [f64; 2]) -> Numbers {
        let [kl, differ, nll] = [kl, differ, nll].map(|[value, error]| estimate(value, error));
        Numbers {
            windows,
            tokens: 255 * windows,
            kl,
            differ,
            nll,
        }
    }

    /// What `compare --windows 10` measured on geb-nano (English), the nearest first.
    fn nano() -> [(&'static str, Numbers); 7] {
        let n = |kl, differ, nll| numbers(10, kl, differ, nll);
        [
            (
                "q8_0",
                n([0.000131, 0.000004], [0.0118, 0.0018], [0.0002, 0.0003]),
            ),
            (
                "q6_k",
                n([0.000433, 0.000012], [0.022, 0.003], [0.0008, 0.0005]),
            ),
            (
                "q5_k_m",
                n([0.00096, 0.00003], [0.027, 0.004], [0.0013, 0.0008]),
            ),
            (
                "q4_k_m",
                n([0.00296, 0.00016], [0.047, 0.004], [0.0006, 0.0015]),
            ),
            (
                "q4_0",
                n([0.0052, 0.0003], [0.065, 0.003], [-0.0006, 0.0019]),
            ),
            (
                "q3_k_m",
                n([0.0112, 0.0004], [0.082, 0.006], [0.009, 0.002]),
            ),
            ("q2_k", n([0.0496, 0.0013], [0.151, 0.010], [0.050, 0.006])),
        ]
    }

    #[test]
    fn what_ten_windows_of_geb_nano_say() {
        let said = nano().map(|(name, n)| format!("{name}: {}", n.finding().words("f32")));
        let want = [
            "q8_0: not distinguishable from f32",
            "q6_k: a small loss",
            "q5_k_m: a small loss",
            "q4_k_m: a small loss",
            "q4_0: a small loss",
            "q3_k_m: a moderate loss",
            "q2_k: a moderate loss",
        ];
        assert_eq!(said, want);
        let all = findings(&nano().map(|(_, n)| n));
        assert!(all.is_sorted_by_key(|f| (f.at_least, f.at_most)), "{all:?}");
    }

    #[test]
    fn every_measure_counts_alone() {
        let fine = [0.0001, 0.00001];
        let cases = [
            (fine, [0.2, 0.004], [0.0, 0.0002], "a moderate loss"),
            ([0.3, 0.004], [0.005, 0.001], [0.0, 0.0002], "a heavy loss"),
            (fine, [0.005, 0.001], [0.7, 0.01], "broken"),
            (
                fine,
                [0.005, 0.001],
                [-0.7, 0.01],
                "not distinguishable from f32",
            ),
            ([f64::NAN; 2], [0.0; 2], [0.0; 2], "broken"),
            ([-f64::NAN; 2], [0.0; 2], [0.0; 2], "broken"),
            ([f64::INFINITY; 2], [0.0; 2], [0.0; 2], "broken"),
        ];
        for (kl, differ, nll, words) in cases {
            assert_eq!(numbers(40, kl, differ, nll).finding().words("f32"), words);
        }
    }

    #[test]
    fn windows_needed_follow_from_the_error() {
        // 0.0010 ± 0.0014 against 0.002: half the width must shrink from 2.262 * 0.0014 below 0.0010.
        let n = numbers(10, [0.0001, 0.0], [0.01, 0.001], [0.001, 0.0014]);
        let f = n.finding();
        assert_eq!((f.at_least, f.at_most), (Loss::None, Loss::Small));
        let half =
            |windows: f64| student95(windows as usize - 1) * 0.0014 * (10.0 / windows).sqrt();
        let all = 10.0 + f.more_windows as f64;
        assert!(half(all) < 0.001 && half(all - 1.0) >= 0.001, "{f:?}");
        // One window has no error; a few tokens without a difference are no proof.
        let one = Numbers {
            windows: 1,
            kl: Estimate {
                value: 0.0,
                error: None,
            },
            ..n
        };
        assert_eq!(
            one.finding().words("f16"),
            "cannot tell yet: 9 more windows needed"
        );
        let few = Numbers {
            tokens: 8,
            ..numbers(2, [0.0; 2], [0.0; 2], [0.0; 2])
        };
        let f = few.finding();
        assert_eq!(f.at_least, Loss::None);
        assert!(f.at_most > Loss::None && f.more_windows > 10, "{f:?}");
    }

    #[test]
    fn quantiles_of_students_distribution() {
        // Any table: 2.5 % above.
        let table = [
            (1, 12.706),
            (2, 4.303),
            (3, 3.182),
            (4, 2.776),
            (9, 2.262),
            (30, 2.042),
            (1000, 1.962),
        ];
        for (df, want) in table {
            assert!((student95(df) / want - 1.0).abs() < 0.01, "{df}");
        }
    }

    /// Numbers around all bounds, with errors from none to hopeless.
    fn any() -> impl Strategy<Value = Numbers> {
        let log = |low: f64, high: f64| (low.ln()..high.ln()).prop_map(f64::exp);
        let signed = (log(1e-5, 2.0), prop::bool::ANY).prop_map(|(x, up)| if up { x } else { -x });
        let values = (log(1e-6, 3.0), 0f64..1.0, signed);
        let errors = (log(1e-7, 1.0), log(1e-5, 0.3), log(1e-6, 1.0));
        (2usize..200, values, errors)
            .prop_map(|(windows, v, e)| numbers(windows, [v.0, e.0], [v.1, e.1], [v.2, e.2]))
    }

    fn rank(f: Finding) -> (Loss, Loss) {
        (f.at_least, f.at_most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn more_of_any_measure_is_never_better(
            n in any(), kl in 0f64..2.0, differ in 0f64..1.0, nll in 0f64..1.0,
        ) {
            let mut worse = n;
            worse.kl.value += kl;
            worse.differ.value += differ * (1.0 - n.differ.value);
            worse.nll.value += nll;
            let (a, b) = (rank(n.finding()), rank(worse.finding()));
            prop_assert!(b.0 >= a.0 && b.1 >= a.1, "{n:?} {a:?} {b:?}");
        }

        #[test]
        fn wider_intervals_exclude_less(n in any(), times in 1f64..20.0) {
            let mut wide = n;
            for e in [&mut wide.kl, &mut wide.differ, &mut wide.nll] {
                e.error = e.error.map(|e| e * times);
            }
            // For certain is at most what the values themselves are, or are near to.
            let mut exact = n;
            for e in [&mut exact.kl, &mut exact.differ, &mut exact.nll] {
                *e = estimate(e.value / NEAR, 0.0);
            }
            let (a, b) = (rank(n.finding()), rank(wide.finding()));
            prop_assert!(b.1 >= a.1 && b.0 <= exact.finding().at_least, "{n:?} {a:?} {b:?}");
        }

        #[test]
        fn the_windows_asked_for_are_enough(n in any()) {
            let f = n.finding();
            prop_assert!(f.at_least <= f.at_most, "{n:?} {f:?}");
            prop_assert_eq!(f.more_windows == 0, f.at_least == f.at_most);
            let then = n.finding_at(n.windows + f.more_windows);
            prop_assert!(then.at_least == then.at_most || f.more_windows > MOST / 2, "{n:?} {f:?} {then:?}");
        }

        #[test]
        fn the_order_is_that_of_the_divergence(all in prop::collection::vec(any(), 1..8)) {
            let found = findings(&all);
            for (a, x) in all.iter().zip(&found) {
                for (b, y) in all.iter().zip(&found) {
                    if apart(a, b) || a.kl.value < b.kl.value {
                        prop_assert!(x.at_least <= y.at_least && x.at_most <= y.at_most, "{a:?} {x:?} {b:?} {y:?}");
                    }
                }
            }
        }
    }
}
