//! What a conversion is asked for, and whom it tells.

use std::path::PathBuf;

use geb_kernels::Effort;
use geb_kernels::dtype::Dtype;

use super::keep_experts::KeepExperts;
use super::layout::GebLayout;
use super::policy::Policy;

/// What to convert to, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which tensor gets which type.
    pub policy: Policy,
    /// Accept a GGUF source whose weights are quantized already.
    pub allow_requantize: bool,
    /// Warn instead of failing about NaN and infinities; only for float output.
    pub allow_nonfinite: bool,
    /// Answers to the layout questions of GEB checkpoints.
    pub layout: GebLayout,
    /// Replaces the chat template of the source.
    pub chat_template: Option<String>,
    /// Record the SHA-256 of the weight files too (reads them once more).
    pub hash_source: bool,
    /// Cut the output into parts of at most so many bytes, `NAME-00001-of-00003.gguf`.
    pub split_max: Option<u64>,
    /// Continue a run that was stopped, and leave this one so that it can be continued.
    pub resume: bool,
    /// Importance matrix that weights the errors of columns.
    pub imatrix: Option<PathBuf>,
    /// How hard to search. With `Best` and second moments in the importance matrix, errors of columns
    /// make up for each other.
    pub search: Effort,
    /// Adapter files to be merged into the weights, each with its scale.
    pub adapters: Vec<(PathBuf, f32)>,
    /// The layers to keep, by rising number; `None` = all.
    pub layers: Option<Vec<usize>>,
    /// Leave the other experts out.
    pub keep_experts: Option<KeepExperts>,
    /// Leave further heads out: a next-token model that other programs read.
    pub no_heads: bool,
    /// Replace a file that is no model in GGUF.
    pub force: bool,
    /// Threads; `None` = all that are available.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policy: Dtype::Q8_0.into(),
            allow_requantize: false,
            allow_nonfinite: false,
            layout: GebLayout::default(),
            chat_template: None,
            hash_source: false,
            split_max: None,
            resume: false,
            imatrix: None,
            search: Effort::Reference,
            adapters: Vec::new(),
            layers: None,
            keep_experts: None,
            no_heads: false,
            force: false,
            threads: None,
        }
    }
}

/// Told what happens; all methods have empty defaults.
pub trait Progress {
    /// Before the first tensor: bytes of source weights to be read, and tensors.
    fn start(&mut self, _source_bytes: u64, _tensors: usize) {}
    /// Before each tensor.
    fn tensor(&mut self, _name: &str, _from: Dtype, _to: Dtype) {}
    /// After each piece: source bytes read.
    fn advance(&mut self, _source_bytes: u64) {}
    /// All tensors are written; the file is being read back.
    fn verifying(&mut self) {}
    /// Asked between pieces; true stops with [`geb::Error::Interrupted`] and leaves nothing behind.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}
