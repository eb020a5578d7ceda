//! Counting: accuracy with its error, per subject and in all, and two models question by question.

use serde::Serialize;

use super::Metric;
use super::run::Record;

/// Right answers among questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Questions answered.
    pub questions: u64,
    /// Right answers.
    pub correct: u64,
}

/// 97.5 % quantile of the normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

impl Score {
    /// Counts one answer.
    pub fn add(&mut self, right: bool) {
        self.questions += 1;
        self.correct += u64::from(right);
    }

    /// Share of right answers, 0..=1; NaN without questions.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.questions as f64
    }

    /// Standard error of the accuracy: √(p (1 - p) / (n - 1)), 0 for a single question.
    pub fn standard_error(&self) -> f64 {
        let p = self.accuracy();
        (p * (1.0 - p) / self.questions.saturating_sub(1).max(1) as f64).sqrt()
    }

    /// Wilson's interval that holds the true accuracy with 95 % confidence.
    pub fn wilson95(&self) -> (f64, f64) {
        let (n, p) = (self.questions as f64, self.accuracy());
        let zz = Z95 * Z95 / n;
        let middle = (p + zz / 2.0) / (1.0 + zz);
        let half = Z95 * (p * (1.0 - p) / n + zz / (4.0 * n)).sqrt() / (1.0 + zz);
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }
}

/// Scores of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// All questions.
    pub total: Score,
    /// By subject, in the order of the records.
    pub subjects: Vec<(String, Score)>,
    /// Questions too long for the context even without examples; they count nowhere else.
    pub skipped: u64,
    /// Questions with fewer examples than asked for, because of the context.
    pub shortened: u64,
}

impl Summary {
    /// Counts the answers of model number `model`.
    pub fn of(records: &[Record], model: usize, metric: Metric) -> Summary {
        let mut summary = Summary::default();
        for record in records {
            let Some(verdict) = record.verdicts.get(model) else {
                summary.skipped += 1;
                continue;
            };
            let right = verdict.chosen_by(metric) == record.answer;
            summary.total.add(right);
            summary.shortened += u64::from(record.shortened);
            match summary.subjects.last_mut() {
                Some((name, score)) if *name == record.subject => score.add(right),
                _ => {
                    let mut score = Score::default();
                    score.add(right);
                    summary.subjects.push((record.subject.clone(), score));
                }
            }
        }
        summary
    }

    /// Mean of the accuracies of the subjects.
    pub fn subject_mean(&self) -> f64 {
        let sum: f64 = self.subjects.iter().map(|(_, s)| s.accuracy()).sum();
        sum / self.subjects.len() as f64
    }

    /// Standard error of [`Summary::subject_mean`].
    pub fn subject_mean_error(&self) -> f64 {
        let errors = self.subjects.iter().map(|(_, s)| s.standard_error());
        let variance: f64 = errors.map(|e| e * e).sum();
        variance.sqrt() / self.subjects.len() as f64
    }
}

/// Two models, question by question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paired {
    /// The first model.
    pub first: Score,
    /// The second one.
    pub second: Score,
    /// Right by the first, wrong by the second.
    pub lost: u64,
    /// Wrong by the first, right by the second.
    pub won: u64,
    /// Wrong by both, but another answer.
    pub moved: u64,
}

impl Paired {
    /// Compares models number `first` and `second` on the questions that both answered.
    pub fn of(records: &[Record], first: usize, second: usize, metric: Metric) -> Paired {
        let mut paired = Paired::default();
        for record in records {
            let verdict = |i: usize| record.verdicts.get(i).map(|v| v.chosen_by(metric));
            let (Some(a), Some(b)) = (verdict(first), verdict(second)) else {
                continue;
            };
            let (a_right, b_right) = (a == record.answer, b == record.answer);
            paired.first.add(a_right);
            paired.second.add(b_right);
            paired.lost += u64::from(a_right && !b_right);
            paired.won += u64::from(b_right && !a_right);
            paired.moved += u64::from(!a_right && !b_right && a != b);
        }
        paired
    }

    /// Questions with another answer.
    pub fn flips(&self) -> u64 {
        self.lost + self.won + self.moved
    }

    /// McNemar's exact test: [`sign_test`] of `lost` and `won`.
    pub fn mcnemar_p(&self) -> f64 {
        sign_test(self.lost, self.won)
    }
}

impl FromIterator<bool> for Score {
    fn from_iter<I: IntoIterator<Item = bool>>(answers: I) -> Score {
        let mut score = Score::default();
        answers.into_iter().for_each(|right| score.add(right));
        score
    }
}

/// The probability, if both cases were equally likely, of numbers at least as far apart as these
/// (two-sided binomial test with p = 1/2).
pub fn sign_test(first: u64, second: u64) -> f64 {
    let (n, least) = (first + second, first.min(second));
    // ln of C(n, k) / 2^n, built up from k = 0.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=least {
        sum += ln_term.exp();
        ln_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::super::run::Verdict;
    use super::*;

    fn record(subject: &str, answer: usize, chosen: &[usize]) -> Record {
        let verdict = |c: &usize| Verdict {
            log_probs: Vec::new(),
            chosen: *c,
            chosen_norm: 0,
        };
        Record {
            subject: subject.into(),
            index: 0,
            answer,
            shots: 5,
            shortened: answer == 3,
            verdicts: chosen.iter().map(verdict).collect(),
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn means_over_questions_and_over_subjects() {
        let records = [
            record("a", 1, &[1]),
            record("a", 2, &[1]),
            record("a", 3, &[3]),
            record("b", 0, &[1]),
            record("b", 0, &[]),
        ];
        let s = Summary::of(&records, 0, Metric::Acc);
        let score = |questions, correct| Score { questions, correct };
        assert_eq!(s.total, score(4, 2));
        assert_eq!(
            s.subjects,
            [("a".into(), score(3, 2)), ("b".into(), score(1, 0))]
        );
        assert_eq!((s.skipped, s.shortened), (1, 1));
        assert!(near(s.subject_mean(), 1.0 / 3.0));
        assert!(near(
            s.subject_mean_error(),
            (2.0f64 / 9.0 / 2.0).sqrt() / 2.0
        ));
        assert_eq!(Summary::of(&records, 0, Metric::AccNorm).total, score(4, 1));
    }

    /// Intervals as printed in tables of Wilson's method (Newcombe 1998: 81 of 263, 15 of 148).
    #[test]
    fn intervals_of_known_proportions() {
        for (correct, questions, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
        ] {
            let (l, h) = Score { questions, correct }.wilson95();
            assert!(near(l, low) && near(h, high), "{l} {h}");
        }
    }

    #[test]
    fn pairs_and_their_test() {
        let records = [
            record("a", 0, &[0, 1]),
            record("a", 0, &[1, 0]),
            record("a", 0, &[0, 0]),
            record("a", 0, &[1, 2]),
            record("a", 0, &[1, 1]),
            record("a", 0, &[]),
        ];
        let p = Paired::of(&records, 0, 1, Metric::Acc);
        assert_eq!((p.lost, p.won, p.moved, p.flips()), (1, 1, 1, 3));
        assert_eq!((p.first.questions, p.second.correct), (5, 2));
        let test = |lost, won| Paired { lost, won, ..p }.mcnemar_p();
        // 2 (1 + 10 + 45) / 1024; 2 / 2^6; no difference; none seen.
        assert!(near(test(2, 8), 112.0 / 1024.0));
        assert!(near(test(6, 0), 0.03125));
        assert_eq!((test(5, 5), test(0, 0)), (1.0, 1.0));
        assert!(test(2000, 1000) < 1e-70 && test(3100, 2900) > 0.009);
    }
}
