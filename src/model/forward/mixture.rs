//! Which experts work on which tokens of a batch.

use std::ops::Range;

use super::packing::Acts;
use crate::model::Config;
use crate::model::routing::Routing;

/// Rows that a wave of several experts has at most: few rows of many experts make one step of the
/// team; an expert with more rows is a wave of its own.
pub(super) const WAVE_ROWS: usize = 64;

/// An expert that a token goes to, and the weight of what comes back.
#[derive(Clone, Copy, Default)]
pub(super) struct Choice {
    pub expert: usize,
    pub weight: f32,
}

/// An expert and its rows, in the order of the pairs.
pub(super) struct Group {
    pub expert: usize,
    pub rows: Range<usize>,
}

/// Which experts work on which tokens of a batch, and their rows.
#[derive(Default)]
pub(super) struct Mixture {
    /// `[n, X]`
    pub logits: Vec<f32>,
    /// `[n, k]`, largest weight first.
    pub choices: Vec<Choice>,
    /// For each place the pair (token k + choice) that is there.
    pub pairs: Vec<usize>,
    /// For each pair its place.
    pub places: Vec<usize>,
    pub groups: Vec<Group>,
    /// What goes into and comes out of the experts, `[n k, E]`, by place.
    pub rows: Vec<f32>,
    /// Of the experts of a wave.
    pub acts: Vec<Acts>,
}

/// Sizes of a [`Mixture`]; zeros for a model without experts.
#[derive(Default)]
pub(super) struct MixtureSizes {
    logits: usize,
    choices: usize,
    rows: usize,
    /// Bytes of activations of the experts in their packed form, at most.
    packed: u64,
}

impl MixtureSizes {
    /// For batches of at most `batch` rows.
    pub fn new(c: &Config, batch: usize) -> MixtureSizes {
        let Some(r) = &c.experts else {
            return MixtureSizes::default();
        };
        let widest = c.embedding_length.max(r.width);
        MixtureSizes {
            logits: batch * r.count,
            choices: batch * r.used,
            rows: batch * r.used * c.embedding_length,
            // Sizes of the experts of a wave, largest first, fall at least like 1/i.
            packed: (4 * widest * (batch + 4 * WAVE_ROWS)) as u64,
        }
    }

    /// Bytes of all; of a choice also those of its pair, its place and its group.
    pub fn bytes(&self) -> u64 {
        (4 * self.logits + 32 * self.choices + 4 * self.rows) as u64 + self.packed
    }
}

impl Mixture {
    pub fn new(sizes: &MixtureSizes) -> Mixture {
        Mixture {
            logits: vec![0.0; sizes.logits],
            choices: vec![Choice::default(); sizes.choices],
            rows: vec![0.0; sizes.rows],
            ..Mixture::default()
        }
    }

    /// Sorts the pairs of the first `n` tokens by expert.
    pub fn sort(&mut self, r: &Routing, n: usize) {
        let choices = &self.choices[..n * r.used];
        let mut ends = vec![0; r.count + 1];
        for choice in choices {
            ends[choice.expert + 1] += 1;
        }
        self.groups.clear();
        for expert in 0..r.count {
            let rows = ends[expert]..ends[expert] + ends[expert + 1];
            ends[expert + 1] = rows.end;
            if !rows.is_empty() {
                self.groups.push(Group { expert, rows });
            }
        }
        self.pairs.resize(choices.len(), 0);
        self.places.resize(choices.len(), 0);
        for (pair, choice) in choices.iter().enumerate() {
            let place = ends[choice.expert];
            (self.places[pair], self.pairs[place]) = (place, pair);
            ends[choice.expert] += 1;
        }
    }
}
