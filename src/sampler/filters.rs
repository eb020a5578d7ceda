//! What changes logits before a token is chosen from them: penalties and biases.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Changes the logits of the next token. Its answer depends on its settings and the tokens so far alone.
pub trait LogitsFilter: Send {
    /// `logits`: `[vocab]`; `history`: prompt and answer so far. Its first call is that of an answer's first
    /// token, so `history` is the prompt then.
    ///
    /// # Errors
    /// [`Error::Request`] for a token that has no logit.
    fn apply(&mut self, logits: &mut [f32], history: &[u32]) -> Result<()>;
}

/// The logit of a token.
fn logit<'a>(logits: &'a mut [f32], id: u32, what: &str) -> Result<&'a mut f32> {
    let len = logits.len();
    logits.get_mut(id as usize).ok_or_else(|| Error::Request {
        what: what.into(),
        value: id.to_string(),
        allowed: format!("an id below {len}"),
    })
}

/// Positive logits of recent tokens, those of the prompt among them, are divided by a factor, negative ones
/// multiplied.
pub struct RepetitionPenalty {
    pub(super) factor: f32,
    /// Recent tokens that count.
    pub(super) last_n: usize,
}

impl LogitsFilter for RepetitionPenalty {
    fn apply(&mut self, logits: &mut [f32], history: &[u32]) -> Result<()> {
        let mut seen = history[history.len().saturating_sub(self.last_n)..].to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let logit = logit(logits, id, "recent token")?;
            *logit = if *logit > 0.0 {
                *logit / self.factor
            } else {
                *logit * self.factor
            };
        }
        Ok(())
    }
}

/// Lowers the logits of the answer's own tokens: once for being there, and once for each time.
#[derive(Default)]
pub struct CountPenalty {
    pub(super) presence: f32,
    pub(super) frequency: f32,
    /// How often each token of the answer was chosen.
    counts: BTreeMap<u32, u32>,
    /// Tokens of the history that are counted or of the prompt.
    seen: Option<usize>,
}

impl CountPenalty {
    pub(super) fn new(presence: f32, frequency: f32) -> Self {
        Self {
            presence,
            frequency,
            ..Self::default()
        }
    }
}

impl LogitsFilter for CountPenalty {
    fn apply(&mut self, logits: &mut [f32], history: &[u32]) -> Result<()> {
        let seen = *self.seen.get_or_insert(history.len());
        for id in history.iter().skip(seen) {
            *self.counts.entry(*id).or_default() += 1;
        }
        self.seen = Some(history.len());
        for (id, count) in &self.counts {
            let less = self.presence + self.frequency * *count as f32;
            *logit(logits, *id, "token of the answer")? -= less;
        }
        Ok(())
    }
}

/// Adds numbers to the logits of some tokens.
pub struct LogitBias(pub(super) Vec<(u32, f32)>);

impl LogitsFilter for LogitBias {
    fn apply(&mut self, logits: &mut [f32], _: &[u32]) -> Result<()> {
        for (id, bias) in &self.0 {
            *logit(logits, *id, "token with a bias")? += bias;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_answer() {
        let mut penalty = CountPenalty::new(0.5, 0.25);
        let mut after = |history: &[u32]| {
            let mut logits = [1.0; 4];
            penalty.apply(&mut logits, history).expect("in range");
            logits
        };
        assert_eq!(after(&[0, 0, 1]), [1.0; 4]);
        assert_eq!(after(&[0, 0, 1, 2]), [1.0, 1.0, 0.25, 1.0]);
        assert_eq!(after(&[0, 0, 1, 2, 2, 0]), [0.25, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn a_bias_moves_its_tokens_and_must_have_a_logit() {
        let mut logits = [1.0; 3];
        let mut bias = LogitBias(vec![(1, -2.0), (2, 0.5)]);
        bias.apply(&mut logits, &[]).expect("in range");
        assert_eq!(logits, [1.0, -1.0, 1.5]);
        let error = LogitBias(vec![(3, 1.0)]).apply(&mut logits, &[]);
        let message = error.expect_err("no such token").to_string();
        assert!(message.contains("an id below 3"), "{message}");
    }
}
