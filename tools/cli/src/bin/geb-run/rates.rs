//! Speeds, in tokens per second.

use std::time::{Duration, Instant};

/// Measurements of one kind, in tokens per second.
#[derive(Clone, Debug, Default)]
pub struct Rates(Vec<f64>);

impl Rates {
    /// Adds a measured value.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// All values, in the order measured.
    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// Adds the values of others.
    pub fn extend(&mut self, others: &Rates) {
        self.0.extend(&others.0);
    }

    /// Adds a measurement.
    pub fn push(&mut self, tokens: usize, start: Instant) {
        self.push_elapsed(tokens, start.elapsed());
    }

    /// Adds a measurement that has ended.
    pub fn push_elapsed(&mut self, tokens: usize, elapsed: Duration) {
        self.0.push(tokens as f64 / elapsed.as_secs_f64().max(1e-9));
    }

    /// Middle value; `None` without measurements.
    pub fn median(&self) -> Option<f64> {
        median(self.0.clone())
    }

    /// The least.
    pub fn min(&self) -> Option<f64> {
        self.0.iter().copied().min_by(f64::total_cmp)
    }

    /// The greatest.
    pub fn max(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }
}

/// Middle value (mean of the two middle ones); `None` without values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| (values[(n - 1) / 2] + values[n / 2]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread() {
        let rates = Rates(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!(
            (rates.median(), rates.min(), rates.max()),
            (Some(2.5), Some(1.0), Some(10.0))
        );
        assert_eq!(Rates::default().median(), None);
    }
}
