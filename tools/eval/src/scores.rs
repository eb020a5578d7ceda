//! Log-probabilities of the single tokens of a text.

use geb::error::Result;
use geb::logits::{log_sum, top_k};
use geb::session::{Session, Want};
use geb::threads;

/// Tokens evaluated at a time.
const ROWS: usize = 128;

/// One token, as predicted from those before it.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenScore {
    /// Position in the text.
    pub position: usize,
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// 1 for the most probable token; tokens of equal probability share a rank.
    pub rank: usize,
    /// The most probable tokens and their log-probabilities, best first.
    pub top: Vec<(u32, f64)>,
}

/// Scores a text in pieces, so that it can be longer than the context and results appear early.
///
/// A text that fits the context is one window. Of a longer one every further window repeats the last
/// half of the context, so that each token has at least that much before it.
pub struct Scores<'a> {
    session: &'a mut Session,
    ids: &'a [u32],
    top: usize,
    /// Next token to be given; the first has nothing before it.
    next: usize,
    /// Start of the window in the session.
    start: usize,
}

impl<'a> Scores<'a> {
    /// Scores of `ids[1..]`, each with the `top` most probable tokens.
    pub fn new(session: &'a mut Session, ids: &'a [u32], top: usize) -> Self {
        session.reset();
        Scores {
            session,
            ids,
            top,
            next: 1,
            start: 0,
        }
    }

    /// The next few scores, in order; empty at the end.
    ///
    /// # Errors
    /// Those of [`Session::forward`].
    pub fn advance(&mut self) -> Result<Vec<TokenScore>> {
        let ctx = self.session.ctx();
        if self.next - self.start > ctx.max(1) {
            // The window is full: the next one starts half a context later.
            self.start += (ctx / 2).max(1);
            self.session.reset();
            let context = &self.ids[self.start..self.next - 1];
            self.session.forward(context, Want::None)?;
        }
        let room = self.start + ctx + 1 - self.next;
        let n = ROWS.min(room).min(self.ids.len().saturating_sub(self.next));
        if n == 0 {
            return Ok(Vec::new());
        }
        let inputs = &self.ids[self.next - 1..self.next - 1 + n];
        self.session.forward(inputs, Want::All)?;
        let scores = score(self.session, self.ids, self.next..self.next + n, self.top);
        self.next += n;
        Ok(scores)
    }
}

/// Scores of `ids[range]` from the session's logits, on its threads.
fn score(
    session: &Session,
    ids: &[u32],
    range: std::ops::Range<usize>,
    top: usize,
) -> Vec<TokenScore> {
    let vocab = session.model().config().vocab;
    let (kernels, logits) = (session.kernels(), session.logits());
    let one = |position: usize, row: &[f32]| {
        let id = ids[position];
        let own = row[id as usize];
        let best = top_k(row, top.max(1));
        let sum = log_sum(kernels, row, best.first().map_or(0.0, |(_, v)| *v));
        TokenScore {
            position,
            id,
            logprob: f64::from(own) - sum,
            rank: 1 + row.iter().filter(|v| **v > own).count(),
            top: best
                .iter()
                .take(top)
                .map(|(id, v)| (*id, f64::from(*v) - sum))
                .collect(),
        }
    };
    let share = range.len().div_ceil(session.threads()).max(1);
    let parts = logits.chunks(share * vocab).enumerate().collect();
    let scores = threads::each(parts, |(i, rows)| {
        let rows = rows.chunks_exact(vocab).enumerate();
        let first = range.start + i * share;
        rows.map(|(k, row)| one(first + k, row)).collect::<Vec<_>>()
    });
    scores.concat()
}
