//! What recurrent mixers remember instead of keys and values: a state of fixed size per layer.
//!
//! A state cannot be cut to fewer tokens. So a copy is kept, of the state before the last prompt, and
//! going back means to go back to it, or to the beginning ([`State::keeps`]).

use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::weights::Layer;
use crate::ram;

/// The states of all layers, of the part that mixes tokens and of the feed-forward part.
pub struct State {
    now: Vec<f32>,
    /// Where the two states of each layer start, and the end.
    starts: Vec<usize>,
    /// The copy, and how many tokens it has seen.
    mark: Vec<f32>,
    marked: usize,
}

impl State {
    /// Bytes of the states of `layers`, copy included.
    pub fn bytes(c: &Config, layers: &[Layer]) -> u64 {
        let floats: usize = layers.iter().flat_map(|l| l.state_len(c)).sum();
        8 * floats as u64
    }

    /// States that have seen nothing: zeros. A model of attention alone has none.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(c: &Config, layers: &[Layer]) -> Result<State> {
        let mut starts = vec![0];
        let mut end = 0;
        for len in layers.iter().flat_map(|l| l.state_len(c)) {
            end += len;
            starts.push(end);
        }
        let zeros = || {
            let refused = |()| ram::refused("recurrent state", Self::bytes(c, layers));
            bytemuck::allocation::try_zeroed_vec(end).map_err(refused)
        };
        Ok(State {
            now: zeros()?,
            mark: zeros()?,
            marked: 0,
            starts,
        })
    }

    /// Whether the model keeps no state.
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// The state of what mixes tokens in `layer`.
    pub fn mixer_mut(&mut self, layer: usize) -> &mut [f32] {
        &mut self.now[self.starts[2 * layer]..self.starts[2 * layer + 1]]
    }

    /// The state of the feed-forward part of `layer`.
    pub fn ffn_mut(&mut self, layer: usize) -> &mut [f32] {
        &mut self.now[self.starts[2 * layer + 1]..self.starts[2 * layer + 2]]
    }

    /// Keeps a copy of the state, which has seen `tokens` tokens.
    pub fn mark(&mut self, tokens: usize) {
        if tokens != self.marked {
            self.mark.copy_from_slice(&self.now);
            self.marked = tokens;
        }
    }

    /// How many of the first `n` of `held` tokens are left when the later ones are given up: as many as
    /// the copy has seen, else none. All are left if none is given up.
    pub fn keeps(&mut self, held: usize, n: usize) -> usize {
        if self.is_empty() || (n == held && n > 0) {
            return n;
        }
        if self.marked > n {
            self.mark.fill(0.0);
            self.marked = 0;
        }
        self.restore()
    }

    /// The state of the first `at` of `held` tokens, which starts again from there; `None` for as many as it
    /// cannot go back to.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(crate) fn fork(&self, held: usize, at: usize) -> Result<Option<State>> {
        let zeros = || {
            let refused = |()| ram::refused("recurrent state", 4 * self.now.len() as u64);
            bytemuck::allocation::try_zeroed_vec(self.now.len()).map_err(refused)
        };
        let (mut now, mut mark) = (zeros()?, zeros()?);
        let from = match at {
            _ if at == held => &self.now,
            0 => &mark,
            _ if at == self.marked => &self.mark,
            _ => {
                return Ok(self.is_empty().then_some(State {
                    now,
                    mark,
                    marked: 0,
                    starts: self.starts.clone(),
                }));
            }
        };
        now.copy_from_slice(from);
        mark.copy_from_slice(&now);
        Ok(Some(State {
            now,
            mark,
            marked: at,
            starts: self.starts.clone(),
        }))
    }

    /// Goes back to the copy; returns how many tokens it has seen.
    pub fn restore(&mut self) -> usize {
        self.now.copy_from_slice(&self.mark);
        self.marked
    }

    /// All values, layer after layer.
    pub fn values(&self) -> &[f32] {
        &self.now
    }

    /// Becomes a state that has seen `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Request`] for another number of values, or one that is not finite.
    pub fn set(&mut self, values: &[f32], tokens: usize) -> Result<()> {
        let bad = |value: String, allowed: String| Error::Request {
            what: "saved state".into(),
            value,
            allowed,
        };
        if values.len() != self.now.len() {
            let allowed = format!("{}, as the model has", self.now.len());
            return Err(bad(format!("{} values", values.len()), allowed));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let value = format!("{} at {i}", values[i]);
            return Err(bad(value, "finite values".into()));
        }
        self.now.copy_from_slice(values);
        self.mark.copy_from_slice(values);
        self.marked = tokens;
        Ok(())
    }
}
