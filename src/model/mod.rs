//! From a validated file to logits: hyperparameters, weights, the layer loop.

pub(crate) mod adapters;
pub mod arch;
mod bind;
mod config;
pub(crate) mod forward;
mod identity;
pub mod inputs;
mod keys;
pub mod observer;
pub(crate) mod operand;
pub(crate) mod packed;
mod recurrent;
pub(crate) mod resident;
pub(crate) mod rope;
pub mod routing;
mod scaling;
mod switches;
pub mod weights;

use std::sync::{Arc, OnceLock};

pub use config::{Config, LayerSizes};
use geb_kernels::Kernels;
pub use packed::{PackedSums, SparseChoice};
pub use recurrent::Recurrent;
pub use resident::Streamed;
pub use rope::RopeFreqs;
pub use scaling::{RopeScaling, ScalingKind, Temperature};

use crate::error::Result;
use crate::gguf::{GgufFile, TensorView};
use packed::Packed;

/// A model ready to run. Its matrices stay in the file.
pub struct Model {
    file: Arc<GgufFile>,
    config: Config,
    weights: weights::Weights,
    /// The matrices that the file marks, and all that can be, once they were asked for.
    packed: [OnceLock<Packed>; 2],
}

impl Model {
    /// Reads the hyperparameters and binds the tensors.
    ///
    /// # Errors
    /// [`crate::Error::Kind`] for a file that is no model; whatever does not fit the architecture.
    pub fn load(file: Arc<GgufFile>) -> Result<Arc<Model>> {
        crate::kinds::check_model(&file)?;
        let mut config = Config::read(&file)?;
        let weights = bind::bind(&file, &mut config)?;
        Ok(Arc::new(Model {
            file,
            config,
            weights,
            packed: Default::default(),
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

    /// The matrices that are to be packed for these kernels; packs them the first time.
    pub(crate) fn packed(&self, choice: SparseChoice, kernels: &Kernels) -> Option<&Packed> {
        let all = match choice {
            SparseChoice::Auto if kernels.expands() => false,
            SparseChoice::Scan => true,
            _ => return None,
        };
        Some(
            self.packed[usize::from(all)]
                .get_or_init(|| Packed::new(&self.file, &self.weights, all)),
        )
    }

    /// Of the matrices of experts, what a token does not use, measured by `size`.
    fn idle(&self, size: impl Fn(&weights::QMatrix) -> u64) -> u64 {
        let Some(routing) = &self.config.experts else {
            return 0;
        };
        let idle = (routing.count - routing.used) as u64;
        let inputs = self.weights.layers.iter().flat_map(|l| l.inputs());
        let of_experts = inputs.filter(|groups| groups.len() > 1);
        let matrices = of_experts.flat_map(|groups| groups.concat());
        let all: u64 = matrices.map(|w| size(&w.weight)).sum();
        all / routing.count as u64 * idle
    }

    /// The tensors that a token meets: not those of further heads, nor of what reads a text once.
    fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        let elsewhere = |name: &str| {
            let once = [".cross_attn_k.", ".cross_attn_v."];
            let starts = ["mtp.", "enc."];
            starts.iter().any(|s| name.starts_with(s)) || once.iter().any(|s| name.contains(s))
        };
        let all = self.file.tensors();
        all.filter(move |t| !elsewhere(&t.info().name))
    }

    /// Products of a weight and an activation per token in the layers: one per matrix element, the
    /// embedding and output matrices not counted, nor experts that the token does not use, nor further
    /// heads, nor an encoder.
    pub fn products_per_token(&self) -> u64 {
        let ends = [
            &self.weights.token_embd.range,
            &self.weights.output.weight.range,
        ];
        let infos = self.tensors().map(|t| t.info());
        let all: u64 = infos
            .filter(|t| t.dims.len() > 1 && !ends.contains(&&t.range))
            .map(|t| t.elements())
            .sum();
        all - self.idle(|m| (m.rows * m.cols) as u64)
    }

    /// Bytes of weights read to decode one token: everything but the embedding table,
    /// of which one row is read (all of it when it is the output matrix too), and but the experts
    /// that the token does not use, and but further heads and an encoder.
    pub fn bytes_per_token(&self) -> u64 {
        let table = &self.weights.token_embd.range;
        let tied = *table == self.weights.output.weight.range;
        let all: u64 = self.tensors().map(|t| t.bytes().len() as u64).sum();
        let unread = if tied { 0 } else { table.len() as u64 };
        all - unread - self.idle(|m| m.range.len() as u64)
    }
}
