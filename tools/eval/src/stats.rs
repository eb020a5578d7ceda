//! Means and quantiles with standard errors. The unit of every error is the window: tokens of one
//! window depend on each other, windows hardly do. Comparisons of two models are paired: the error
//! is that of the differences within windows.

use std::fmt;

use serde::Serialize;

/// A number and its standard error.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error; `None` with fewer than two windows.
    pub error: Option<f64>,
}

impl Estimate {
    /// The mean over windows: `s / sqrt(W)` with `s` the standard deviation of the windows' means.
    pub fn mean(windows: &[f64]) -> Estimate {
        let n = windows.len() as f64;
        let value = windows.iter().sum::<f64>() / n;
        let squares: f64 = windows.iter().map(|w| (w - value).powi(2)).sum();
        Estimate {
            value,
            error: (windows.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
        }
    }

    /// `value = f(self)`, where `slope = |f'|` there (delta method).
    pub(super) fn map(self, value: f64, slope: f64) -> Estimate {
        Estimate {
            value,
            error: self.error.map(|e| e * slope.abs()),
        }
    }
}

/// `value ± error`, both with the precision asked for.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.value, f)?;
        match self.error {
            None => Ok(()),
            Some(error) => {
                f.write_str(" ± ")?;
                fmt::Display::fmt(&error, f)
            }
        }
    }
}

/// Means of the windows: `values` holds `per` values of every window, one window after the other.
pub(super) fn window_means(values: impl Iterator<Item = f64>, per: usize) -> Vec<f64> {
    let mut sums = Vec::new();
    for (i, value) in values.enumerate() {
        if i % per == 0 {
            sums.push(0.0);
        }
        if let Some(sum) = sums.last_mut() {
            *sum += value;
        }
    }
    sums.iter().map(|s| s / per as f64).collect()
}

/// The quantile `p` (0..=1) of values in increasing order, interpolated linearly between the two
/// nearest; NaN for none.
pub fn quantile(sorted: &[f32], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = p.clamp(0.0, 1.0) * last as f64;
    let low = at.floor() as usize;
    let (a, b) = (
        f64::from(sorted[low]),
        f64::from(sorted[(low + 1).min(last)]),
    );
    a + (b - a) * at.fract()
}

/// Values of all windows, ready for quantiles.
pub(super) struct Distribution<'a> {
    /// `per` values of each window.
    values: &'a [f32],
    per: usize,
    sorted: Vec<f32>,
}

impl<'a> Distribution<'a> {
    pub(super) fn new(values: &'a [f32], per: usize) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        Self {
            values,
            per,
            sorted,
        }
    }

    /// The largest value.
    pub(super) fn max(&self) -> f64 {
        quantile(&self.sorted, 1.0)
    }

    /// A quantile. Its error is Woodruff's (J. Am. Stat. Assoc. 47, 1952): the share of values up
    /// to the quantile has a standard error over windows; half the distance of the quantiles that
    /// far to both sides is the error of the quantile.
    pub(super) fn quantile(&self, p: f64) -> Estimate {
        let value = quantile(&self.sorted, p);
        let below = self
            .values
            .iter()
            .map(|v| f64::from(u8::from(f64::from(*v) <= value)));
        let share = Estimate::mean(&window_means(below, self.per));
        let half = |e: f64| (quantile(&self.sorted, p + e) - quantile(&self.sorted, p - e)) / 2.0;
        Estimate {
            value,
            error: share.error.map(half),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn means_and_errors_of_known_windows() {
        // numpy: mean([1, 2, 4]) = 7/3, std(ddof=1) / sqrt(3) = 0.8819171
        let e = Estimate::mean(&[1.0, 2.0, 4.0]);
        assert!((e.value - 7.0 / 3.0).abs() < 1e-15);
        assert!((e.error.unwrap() - 0.881_917_103_688_196_9).abs() < 1e-15);
        assert_eq!(
            Estimate::mean(&[3.0]),
            Estimate {
                value: 3.0,
                error: None
            }
        );
        assert_eq!(
            window_means([1.0, 3.0, 5.0, 6.0].into_iter(), 2),
            [2.0, 5.5]
        );
        assert_eq!(format!("{e:.2}"), "2.33 ± 0.88");
    }

    #[test]
    fn quantiles_of_known_values() {
        // numpy.quantile([0, 1, 4, 9], [0, .25, .5, .9, 1])
        let x = [0.0, 1.0, 4.0, 9.0];
        for (p, want) in [(0.0, 0.0), (0.25, 0.75), (0.5, 2.5), (0.9, 7.5), (1.0, 9.0)] {
            assert!((quantile(&x, p) - want).abs() < 1e-12, "{p}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_error_of_a_median_is_its_spread_over_samples() {
        // Median of 40 windows of 25 uniform numbers; 300 such samples.
        let mut state = 7u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let (mut medians, mut errors) = (Vec::new(), Vec::new());
        for _ in 0..300 {
            // Numbers of a window share a part, as tokens do.
            let x: Vec<f32> = (0..40)
                .flat_map(|_| {
                    let shared = uniform();
                    [(); 25].map(|()| shared + uniform())
                })
                .collect();
            let e = Distribution::new(&x, 25).quantile(0.5);
            medians.push(e.value);
            errors.push(e.error.unwrap());
        }
        let spread = Estimate::mean(&medians).error.unwrap() * 300f64.sqrt();
        let said = errors.iter().sum::<f64>() / 300.0;
        assert!(
            (said / spread - 1.0).abs() < 0.15,
            "said {said}, is {spread}"
        );
    }

    proptest! {
        #[test]
        fn quantiles_lie_between_their_neighbours(
            mut x in prop::collection::vec(-100f32..100.0, 1..60), p in 0f64..=1.0,
        ) {
            x.sort_unstable_by(f32::total_cmp);
            let q = quantile(&x, p);
            let share = |f: &dyn Fn(f64) -> bool| x.iter().filter(|v| f(f64::from(**v))).count() as f64;
            let n = x.len() as f64 - 1.0;
            prop_assert!(share(&|v| v < q) <= (p * n).ceil() + 1e-9);
            prop_assert!(share(&|v| v <= q) >= (p * n).floor() - 1e-9);
        }
    }
}
