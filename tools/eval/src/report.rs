//! The numbers of a finished (or stopped) run.

use serde::Serialize;

use super::rows::{Column, same_top1, same_top5};
use super::stats::{Distribution, Estimate, window_means};

/// Most bins of [`Divergence::kl_by_position`].
const BINS: usize = 32;

/// One model on a text. All errors are over windows ([`Estimate`]).
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Evaluated windows.
    pub windows: usize,
    /// Counted tokens.
    pub tokens: usize,
    /// Mean negative log-likelihood, nats per token.
    pub nll: Estimate,
    /// exp of it.
    pub perplexity: Estimate,
    /// Against the base; `None` for the base itself.
    pub against_base: Option<Divergence>,
}

/// A candidate against the base, on the same tokens.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Divergence {
    /// KL(base || candidate), nats per token.
    pub kl: Kl,
    /// Share of tokens with the same most probable next token, 0..=1.
    pub top1: Estimate,
    /// Mean share of the base's five most probable tokens that are among the candidate's five.
    pub top5: Estimate,
    /// Probability of the token that follows, candidate minus base.
    pub delta_p: DeltaP,
    /// Mean negative log-likelihood of the candidate minus that of the base, nats per token; paired.
    pub nll_difference: Estimate,
    /// Perplexity of the candidate over that of the base: exp of [`Divergence::nll_difference`].
    pub perplexity_ratio: Estimate,
    /// Perplexity of the candidate minus that of the base; paired.
    pub perplexity_difference: Estimate,
    /// Mean KL of each window.
    pub kl_by_window: Vec<f64>,
    /// Mean KL by position in the window.
    pub kl_by_position: Vec<Bin>,
}

/// The distribution of the KL divergence of single tokens.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Kl {
    pub mean: Estimate,
    pub median: Estimate,
    pub q90: Estimate,
    pub q99: Estimate,
    pub q999: Estimate,
    pub max: f64,
}

/// The distribution of a difference of probabilities, -1..=1.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct DeltaP {
    pub mean: Estimate,
    /// Square root of the mean square.
    pub rms: Estimate,
    pub q01: Estimate,
    pub q05: Estimate,
    pub median: Estimate,
    pub q95: Estimate,
    pub q99: Estimate,
}

/// Neighbouring positions of a window.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Bin {
    /// First position.
    pub first: usize,
    /// Last position.
    pub last: usize,
    /// Mean KL there.
    pub kl: Estimate,
}

/// Reports of all models; `per` counted tokens of each window, at positions from `count_from` on.
pub(super) fn reports(columns: &[Column], per: usize, count_from: usize) -> Vec<Report> {
    let Some(base) = columns.first() else {
        return Vec::new();
    };
    let report = |i: usize, column: &Column| {
        let nll = Estimate::mean(&window_means(wide(&column.nll), per));
        let perplexity = nll.value.exp();
        Report {
            windows: column.nll.len() / per,
            tokens: column.nll.len(),
            nll,
            perplexity: nll.map(perplexity, perplexity),
            against_base: (i > 0 && !column.nll.is_empty())
                .then(|| divergence(base, column, per, count_from)),
        }
    };
    columns
        .iter()
        .enumerate()
        .map(|(i, c)| report(i, c))
        .collect()
}

fn wide(values: &[f32]) -> impl Iterator<Item = f64> {
    values.iter().map(|v| f64::from(*v))
}

fn divergence(base: &Column, column: &Column, per: usize, count_from: usize) -> Divergence {
    let kl_by_window = window_means(wide(&column.kl), per);
    let top =
        |f: fn(u8) -> f64| Estimate::mean(&window_means(column.top.iter().map(|t| f(*t)), per));
    let [nll_difference, ratio, difference] = perplexities(base, column, per);
    Divergence {
        kl: kl(&column.kl, &kl_by_window, per),
        top1: top(same_top1),
        top5: top(same_top5),
        delta_p: delta_p(base, column, per),
        nll_difference,
        perplexity_ratio: ratio,
        perplexity_difference: difference,
        kl_by_position: by_position(&column.kl, per, count_from),
        kl_by_window,
    }
}

fn kl(values: &[f32], windows: &[f64], per: usize) -> Kl {
    let spread = Distribution::new(values, per);
    Kl {
        mean: Estimate::mean(windows),
        median: spread.quantile(0.5),
        q90: spread.quantile(0.9),
        q99: spread.quantile(0.99),
        q999: spread.quantile(0.999),
        max: spread.max(),
    }
}

fn delta_p(base: &Column, column: &Column, per: usize) -> DeltaP {
    let p = |nll: &f32| (-f64::from(*nll)).exp();
    let delta = |(b, c): (&f32, &f32)| (p(c) - p(b)) as f32;
    let deltas: Vec<f32> = base.nll.iter().zip(&column.nll).map(delta).collect();
    let spread = Distribution::new(&deltas, per);
    let square = Estimate::mean(&window_means(wide(&deltas).map(|d| d * d), per));
    let rms = square.value.sqrt();
    DeltaP {
        mean: Estimate::mean(&window_means(wide(&deltas), per)),
        // d sqrt(x) = dx / (2 sqrt(x)); nothing differs: no error either.
        rms: square.map(rms, if rms > 0.0 { 0.5 / rms } else { 0.0 }),
        q01: spread.quantile(0.01),
        q05: spread.quantile(0.05),
        median: spread.quantile(0.5),
        q95: spread.quantile(0.95),
        q99: spread.quantile(0.99),
    }
}

/// Difference of the losses, ratio and difference of the perplexities. All follow from the windows' mean losses
/// `b`, `c`: `ratio = exp(mean(c - b))`; `difference = C - B` changes by `C dc - B db`.
fn perplexities(base: &Column, column: &Column, per: usize) -> [Estimate; 3] {
    let [b, c] = [base, column].map(|x| window_means(wide(&x.nll), per));
    let [big_b, big_c] = [&b, &c].map(|x| Estimate::mean(x).value.exp());
    let paired = |f: &dyn Fn(f64, f64) -> f64| {
        let windows: Vec<f64> = b.iter().zip(&c).map(|(b, c)| f(*b, *c)).collect();
        Estimate::mean(&windows)
    };
    let log_ratio = paired(&|b, c| c - b);
    let ratio = log_ratio.value.exp();
    let linear = paired(&|b, c| big_c * c - big_b * b);
    [
        log_ratio,
        log_ratio.map(ratio, ratio),
        linear.map(big_c - big_b, 1.0),
    ]
}

fn by_position(kl: &[f32], per: usize, count_from: usize) -> Vec<Bin> {
    let width = per.div_ceil(BINS).max(1);
    let bin = |from: usize| {
        let to = (from + width).min(per);
        let windows = kl.chunks_exact(per).map(|w| wide(&w[from..to]));
        Bin {
            first: count_from + from,
            last: count_from + to - 1,
            kl: Estimate::mean(&window_means(windows.flatten(), to - from)),
        }
    };
    (0..per).step_by(width).map(bin).collect()
}
