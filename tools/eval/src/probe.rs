//! Looking into a model: states behind each layer, attention weights, heads switched off.
//!
//! A [`Probe`] is an [`Observer`]: [`Session::forward_observed`](geb::session::Session::forward_observed)
//! tells it what it computes. Which heads copy from a long context is answered by
//! [`crate::retrieval`].

use std::collections::BTreeSet;

use geb::error::{Error, Result};
use geb::model::Model;
use geb::model::observer::{Heads, Observer};
use geb::model::weights::Mixer;
use geb::ram;

/// What to record and what to change.
#[derive(Clone, Debug, Default)]
pub struct ProbeOptions {
    /// Positions whose states and attention are recorded.
    pub positions: Vec<usize>,
    /// Record the residual stream behind each layer.
    pub states: bool,
    /// Record what the heads look at.
    pub attention: bool,
    /// Layers and heads whose output becomes zero, for every token.
    pub ablate: Vec<(usize, usize)>,
}

/// What a head looks at from one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Attended {
    /// Layer, from 0.
    pub layer: usize,
    /// Query head of the layer, from 0.
    pub head: usize,
    /// From where it looks.
    pub position: usize,
    /// The first position that it sees.
    pub first: usize,
    /// Softmax weights of the positions from `first` to `position`.
    pub weights: Vec<f32>,
}

impl Attended {
    /// The position with the greatest weight, the first of equals.
    pub fn strongest(&self) -> usize {
        self.first + strongest(&self.weights)
    }
}

/// Where the greatest weight is, the first of equals.
pub(crate) fn strongest(weights: &[f32]) -> usize {
    let better = |best: usize, i: usize| if weights[i] > weights[best] { i } else { best };
    (0..weights.len()).reduce(better).unwrap_or(0)
}

/// Records while a session runs.
pub struct Probe {
    positions: BTreeSet<usize>,
    states_of: Option<usize>,
    attention_of: bool,
    ablate: Vec<(usize, usize)>,
    /// Residual stream behind 0, 1, … layers: `[positions, E]` each, positions in increasing order.
    pub states: Vec<Vec<f32>>,
    /// By layer, position, head, in this order within a batch.
    pub attention: Vec<Attended>,
}

/// Query heads of each layer that a probe can look at: none where tokens are mixed by a recurrence or by a
/// mixture of heads.
pub fn heads(model: &Model) -> Vec<usize> {
    let (layers, sizes) = (&model.weights().layers, &model.config().layers);
    let one = |(l, s): (&geb::model::weights::Layer, &geb::model::LayerSizes)| match l.mixer.body {
        Mixer::Attention(_) => s.head_count,
        _ => 0,
    };
    layers.iter().zip(sizes).map(one).collect()
}

impl Probe {
    /// Nothing is recorded yet.
    ///
    /// # Errors
    /// [`Error::Request`] for a head that the model has not or a position beyond its context;
    /// [`Error::Memory`] if the records would not fit.
    pub fn new(model: &Model, options: &ProbeOptions) -> Result<Probe> {
        let (heads, c) = (heads(model), model.config());
        for &(layer, head) in &options.ablate {
            let count = heads.get(layer).copied().unwrap_or(0);
            if head >= count {
                return Err(Error::Request {
                    what: "head to switch off".into(),
                    value: format!("{layer}.{head}"),
                    allowed: format!(
                        "LAYER.HEAD of {} layers, {count} heads in this one",
                        heads.len()
                    ),
                });
            }
        }
        let positions: BTreeSet<usize> = options.positions.iter().copied().collect();
        let rows: u64 = heads.iter().map(|n| *n as u64).sum();
        let seen = |p: &usize| 4 * rows.saturating_mul(*p as u64 + 1);
        let attention = positions.iter().map(seen).fold(0, u64::saturating_add);
        let states = 4 * (positions.len() * c.embedding_length * (heads.len() + 1)) as u64;
        let needed = [(options.attention, attention), (options.states, states)];
        let needed = needed.iter().filter(|(on, _)| *on).map(|(_, n)| n).sum();
        ram::check(
            || format!("records of {} positions", positions.len()),
            needed,
        )?;
        Ok(Probe {
            positions,
            states_of: options.states.then_some(c.embedding_length),
            attention_of: options.attention,
            ablate: options.ablate.clone(),
            states: vec![Vec::new(); if options.states { heads.len() + 1 } else { 0 }],
            attention: Vec::new(),
        })
    }
}

impl Observer for Probe {
    fn heads(&mut self, heads: &mut Heads<'_>) {
        for &(layer, head) in &self.ablate {
            if layer == heads.layer {
                heads.silence(head);
            }
        }
        let batch = heads.first..heads.first + heads.tokens();
        let recorded = self.positions.range(batch).filter(|_| self.attention_of);
        for &position in recorded {
            let token = position - heads.first;
            self.attention.extend((0..heads.count).map(|head| Attended {
                layer: heads.layer,
                head,
                position,
                first: heads.seen(token).start,
                weights: heads.weights(head, token),
            }));
        }
    }

    fn residual(&mut self, depth: usize, first: usize, x: &[f32]) {
        let Some(e) = self.states_of else {
            return;
        };
        for position in self.positions.range(first..first + x.len() / e) {
            let row = &x[(position - first) * e..][..e];
            self.states[depth].extend_from_slice(row);
        }
    }
}
