//! How good a model is on a text, and how near it stays to a reference: perplexity,
//! Kullback-Leibler divergence and top-1 agreement, several models in lockstep.
//!
//! Method (the same as geb-nano's card): the text is encoded once; the ids are cut into
//! non-overlapping windows of 512, an incomplete last one is dropped; every window is evaluated on
//! its own from position 0; the tokens at positions 256..=511 count, token `p` predicted by the
//! logits of position `p - 1`; perplexity = exp(mean negative log-likelihood). Logits are F32, the
//! softmax is F64.
//!
//! In lockstep all models see the same few positions at a time, so that no logits of a whole window
//! are kept: `KL(P || Q) = Σ p (log p - log q)` with P the first model.

pub mod choice;
pub mod weights;

use crate::error::{Error, Result};
use crate::session::{Session, Want};

/// Rows of logits evaluated at a time.
const ROWS: usize = 64;

/// Which tokens of a text are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Method {
    /// Tokens of a window.
    pub window: usize,
    /// First counted position of a window.
    pub count_from: usize,
    /// Stop after so many windows; `None`: all.
    pub max_windows: Option<usize>,
}

impl Default for Method {
    fn default() -> Self {
        Self {
            window: 512,
            count_from: 256,
            max_windows: None,
        }
    }
}

impl Method {
    /// Windows that will be evaluated for a text of `tokens` ids.
    pub fn windows(&self, tokens: usize) -> usize {
        (tokens / self.window.max(1)).min(self.max_windows.unwrap_or(usize::MAX))
    }
}

/// Sums over the counted tokens for one model.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Score {
    /// Counted tokens.
    pub tokens: u64,
    /// Σ negative log-likelihood, nats.
    pub nll: f64,
    /// Σ of its square, for the standard error.
    pub nll_squared: f64,
    /// Σ KL divergence from the first model, nats (0 for the first).
    pub kl: f64,
    /// Largest KL divergence of one token.
    pub kl_max: f64,
    /// Tokens whose most probable next token is that of the first model.
    pub top1_same: u64,
}

impl Score {
    /// exp of the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// Mean negative log-likelihood in nats per token.
    pub fn mean_nll(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Standard error of the perplexity (delta method, tokens taken as independent).
    pub fn perplexity_error(&self) -> f64 {
        let n = self.tokens as f64;
        let variance = (self.nll_squared / n - self.mean_nll().powi(2)).max(0.0);
        self.perplexity() * (variance / n).sqrt()
    }

    /// Mean KL divergence from the first model, nats per token.
    pub fn mean_kl(&self) -> f64 {
        self.kl / self.tokens as f64
    }

    /// Share of tokens with the same most probable next token as the first model, 0..=1.
    pub fn top1_agreement(&self) -> f64 {
        self.top1_same as f64 / self.tokens as f64
    }

    /// Adds the sums of another text.
    pub fn add(&mut self, other: &Score) {
        self.tokens += other.tokens;
        self.nll += other.nll;
        self.nll_squared += other.nll_squared;
        self.kl += other.kl;
        self.kl_max = self.kl_max.max(other.kl_max);
        self.top1_same += other.top1_same;
    }
}

/// Evaluates `ids` with every session; the first one is the reference of the others.
///
/// `progress(done, total)` is called after every window; its `false` ends with
/// [`Error::Interrupted`].
///
/// # Errors
/// [`Error::Request`] when there is no complete window, a window exceeds a context, or the
/// vocabularies differ; [`Error::NonFinite`] for NaN logits.
pub fn evaluate(
    sessions: &mut [Session],
    ids: &[u32],
    method: &Method,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Score>> {
    check(sessions, ids, method)?;
    let total = method.windows(ids.len());
    let mut scores = vec![Score::default(); sessions.len()];
    for (done, window) in ids.chunks_exact(method.window).take(total).enumerate() {
        one_window(sessions, window, method, &mut scores)?;
        if !progress(done + 1, total) {
            return Err(Error::Interrupted);
        }
    }
    sessions.iter_mut().for_each(Session::reset);
    Ok(scores)
}

fn check(sessions: &[Session], ids: &[u32], method: &Method) -> Result<()> {
    let refuse = |what: &str, value: String, allowed: String| {
        Err(Error::Request {
            what: what.into(),
            value,
            allowed,
        })
    };
    if method.count_from == 0 || method.count_from >= method.window {
        let allowed = format!("1..{}", method.window);
        return refuse(
            "first counted position",
            method.count_from.to_string(),
            allowed,
        );
    }
    if method.windows(ids.len()) == 0 {
        let allowed = format!("at least one window of {}", method.window);
        return refuse("evaluation text", format!("{} tokens", ids.len()), allowed);
    }
    if let Some(s) = sessions.iter().find(|s| s.ctx() < method.window) {
        let allowed = format!("at least one window of {}", method.window);
        return refuse("context", s.ctx().to_string(), allowed);
    }
    Ok(())
}

/// Adds one window to the scores.
fn one_window(
    sessions: &mut [Session],
    window: &[u32],
    method: &Method,
    scores: &mut [Score],
) -> Result<()> {
    // Logits of position p predict token p + 1: the first counted row is `count_from - 1`.
    let (context, counted) = (
        &window[..method.count_from - 1],
        &window[method.count_from - 1..],
    );
    for session in sessions.iter_mut() {
        session.reset();
        if !context.is_empty() {
            session.forward(context, Want::None)?;
        }
    }
    let inputs = &counted[..counted.len() - 1];
    for (rows, targets) in inputs.chunks(ROWS).zip(counted[1..].chunks(ROWS)) {
        let Some((first, others)) = sessions.split_first_mut() else {
            return Ok(());
        };
        let threads = first.threads();
        let reference = Logits::new(first.forward(rows, Want::All)?, targets)?;
        score(&reference, &reference, threads, &mut scores[0])?;
        for (session, score_of) in others.iter_mut().zip(&mut scores[1..]) {
            let logits = Logits::new(session.forward(rows, Want::All)?, targets)?;
            score(&reference, &logits, threads, score_of)?;
        }
    }
    Ok(())
}

/// Logits of some positions and the tokens that really follow.
#[derive(Clone, Copy)]
struct Logits<'a> {
    /// `[targets.len(), vocab]`
    rows: &'a [f32],
    vocab: usize,
    targets: &'a [u32],
}

impl<'a> Logits<'a> {
    fn new(rows: &'a [f32], targets: &'a [u32]) -> Result<Self> {
        let vocab = rows.len() / targets.len().max(1);
        match targets.iter().find(|&&t| t as usize >= vocab) {
            None => Ok(Self {
                rows,
                vocab,
                targets,
            }),
            Some(t) => Err(Error::Request {
                what: "token id".into(),
                value: t.to_string(),
                allowed: format!("below the vocabulary of {vocab}"),
            }),
        }
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.rows[i * self.vocab..(i + 1) * self.vocab]
    }
}

/// What one position contributes.
#[derive(Clone, Copy, Default)]
struct Point {
    nll: f64,
    kl: f64,
    same: bool,
}

/// Scores all rows of `logits` against `reference` on `threads` threads. The sums are formed in
/// the order of the rows, so the result does not depend on the number of threads.
fn score(
    reference: &Logits<'_>,
    logits: &Logits<'_>,
    threads: usize,
    score: &mut Score,
) -> Result<()> {
    if logits.vocab != reference.vocab {
        return Err(Error::Request {
            what: "vocabulary".into(),
            value: logits.vocab.to_string(),
            allowed: format!("{}, that of the first model", reference.vocab),
        });
    }
    let n = logits.targets.len();
    let mut points = vec![Point::default(); n];
    let share = n.div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        for (part, out) in points.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (k, point) in out.iter_mut().enumerate() {
                    let i = part * share + k;
                    *point = compare(reference.row(i), logits.row(i), logits.targets[i] as usize);
                }
            });
        }
    });
    for (i, point) in points.iter().enumerate() {
        if !(point.nll.is_finite() && point.kl.is_finite()) {
            let value = point.nll as f32;
            return Err(Error::NonFinite {
                what: "log-probability of a row of logits".into(),
                index: i as u64,
                value,
            });
        }
        score.tokens += 1;
        score.nll += point.nll;
        score.nll_squared += point.nll * point.nll;
        score.kl += point.kl;
        score.kl_max = score.kl_max.max(point.kl);
        score.top1_same += u64::from(point.same);
    }
    Ok(())
}

/// One row: with `l` the reference and `m` the model,
/// `KL = Σ p (l - m) - log Σ e^l + log Σ e^m`, both sums shifted by their maximum.
fn compare(l: &[f32], m: &[f32], target: usize) -> Point {
    let (l_top, l_max) = argmax(l);
    let itself = std::ptr::eq(l, m);
    let (m_top, m_max) = if itself { (l_top, l_max) } else { argmax(m) };
    let m_sum: f64 = m.iter().map(|&x| (f64::from(x) - m_max).exp()).sum();
    let m_log = m_max + m_sum.ln();
    let nll = m_log - f64::from(m[target]);
    if itself {
        return Point {
            nll,
            kl: 0.0,
            same: true,
        };
    }
    let (mut l_sum, mut weighted) = (0.0f64, 0.0f64);
    for (&x, &y) in l.iter().zip(m) {
        let e = (f64::from(x) - l_max).exp();
        l_sum += e;
        weighted += e * (f64::from(x) - f64::from(y));
    }
    let kl = weighted / l_sum - (l_max + l_sum.ln()) + m_log;
    // Rounding can give -1e-16 for equal rows.
    Point {
        nll,
        kl: kl.max(0.0),
        same: l_top == m_top,
    }
}

/// Index and value of the largest element; the first one of equals. NaN gives NaN.
fn argmax(x: &[f32]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, &v) in x.iter().enumerate() {
        if v.is_nan() {
            return (i, f64::NAN);
        }
        if f64::from(v) > best.1 {
            best = (i, f64::from(v));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihood_and_divergence_of_known_rows() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4)
        let ln = |x: f32| x.ln();
        let l = [ln(2.0), ln(1.0), ln(1.0)];
        let m = [ln(1.0) + 3.0, ln(2.0) + 3.0, ln(1.0) + 3.0];
        let point = compare(&l, &m, 1);
        assert!((point.nll - 2f64.ln()).abs() < 1e-6);
        assert!((point.kl - 0.25 * 2f64.ln()).abs() < 1e-6);
        assert!(!point.same);
        let own = compare(&l, &l, 0);
        assert!((own.nll - 2f64.ln()).abs() < 1e-6 && own.kl == 0.0 && own.same);
    }

    #[test]
    fn scores_do_not_depend_on_threads() {
        let rows: Vec<f32> = (0..7 * 5).map(|i| ((i * 37) % 11) as f32 * 0.3).collect();
        let other: Vec<f32> = rows.iter().map(|x| x * 0.9).collect();
        let targets = [0u32, 1, 2, 3, 4, 0, 1];
        let (a, b) = (
            Logits::new(&rows, &targets).unwrap(),
            Logits::new(&other, &targets).unwrap(),
        );
        let run = |threads| {
            let mut s = Score::default();
            score(&a, &b, threads, &mut s).unwrap();
            s
        };
        assert_eq!(run(1), run(3));
        assert_eq!(run(1).tokens, 7);
        assert!(run(1).mean_kl() > 0.0 && run(1).top1_agreement() == 1.0);
    }

    #[test]
    fn nan_logits_and_foreign_targets_are_refused() {
        let rows = [0.0, f32::NAN, 1.0, 2.0];
        let a = Logits::new(&rows, &[0, 1]).unwrap();
        assert!(matches!(
            score(&a, &a, 1, &mut Score::default()),
            Err(Error::NonFinite { .. })
        ));
        assert!(Logits::new(&rows, &[0, 2]).is_err());
    }

    #[test]
    fn incomplete_windows_are_dropped() {
        assert_eq!(Method::default().windows(62_013), 121);
        assert_eq!(
            Method {
                max_windows: Some(8),
                ..Method::default()
            }
            .windows(62_013),
            8
        );
        assert_eq!(Method::default().windows(511), 0);
    }
}
