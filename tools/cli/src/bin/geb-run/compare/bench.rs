//! The files of a comparison, ready to be measured.

use geb::tokenizer::Tokenizer;

use super::rounds::Lane;
use crate::args::KvHow;
use crate::load::Opened;

/// The files of a plan, opened.
pub struct Bench {
    pub opened: Vec<Opened>,
    /// One per file; none where nothing is read.
    pub tokenizers: Vec<Tokenizer>,
    /// File and cache type of every row, the base first.
    pub rows: Vec<(usize, KvHow)>,
    /// One per number of threads.
    pub lanes: Vec<Lane>,
    /// The one used for accuracy.
    pub widest: usize,
}

/// `--kv` as typed.
pub fn kv_name(kv: KvHow) -> &'static str {
    match kv {
        KvHow::Auto => "auto",
        KvHow::F16 => "f16",
        KvHow::F32 => "f32",
        KvHow::Q8_0 => "q8_0",
    }
}
