//! From a validated file to logits: hyperparameters, weights, the layer loop.

pub(crate) mod adapters;
pub mod arch;
mod bind;
mod config;
pub(crate) mod forward;
pub mod inputs;
pub(crate) mod rope;
pub mod weights;

use std::sync::Arc;

pub use config::{Config, LayerSizes};

use crate::error::Result;
use crate::gguf::GgufFile;

/// A model ready to run. Its matrices stay in the file.
pub struct Model {
    file: Arc<GgufFile>,
    config: Config,
    weights: weights::Weights,
}

impl Model {
    /// Reads the hyperparameters and binds the tensors.
    pub fn load(file: Arc<GgufFile>) -> Result<Arc<Model>> {
        let mut config = Config::read(&file)?;
        let weights = bind::bind(&file, &mut config)?;
        Ok(Arc::new(Model {
            file,
            config,
            weights,
        }))
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file.
    pub fn file(&self) -> &Arc<GgufFile> {
        &self.file
    }

    /// The weights.
    pub fn weights(&self) -> &weights::Weights {
        &self.weights
    }

    /// The blocks of a matrix, row after row.
    pub fn bytes(&self, m: &weights::QMatrix) -> &[u8] {
        self.file.slice(&m.range)
    }

    /// Products of a weight and an activation per token in the layers: one per matrix element, the
    /// embedding and output matrices not counted.
    pub fn products_per_token(&self) -> u64 {
        let ends = [
            &self.weights.token_embd.range,
            &self.weights.output.weight.range,
        ];
        let infos = self.file.tensors().map(|t| t.info());
        infos
            .filter(|t| t.dims.len() > 1 && !ends.contains(&&t.range))
            .map(|t| t.elements())
            .sum()
    }

    /// Bytes of weights read to decode one token: everything but the embedding table,
    /// of which one row is read (all of it when it is the output matrix too).
    pub fn bytes_per_token(&self) -> u64 {
        let table = &self.weights.token_embd.range;
        let tied = *table == self.weights.output.weight.range;
        let all: u64 = self.file.tensors().map(|t| t.bytes().len() as u64).sum();
        all - if tied { 0 } else { table.len() as u64 }
    }
}
