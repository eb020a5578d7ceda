//! `geb-run probe`.

use std::path::PathBuf;

use clap::Args;

use super::{CpuArgs, ModelArgs, OutputArgs};

const PROBE_EXAMPLES: &str = "\
Examples:
  geb-run probe -m model.gguf -p \"The capital of France is\" --lens
  geb-run probe -m model.gguf -f text.txt --heads --positions 10,20 --json > heads.json
  geb-run probe -m model.gguf -f text.txt --ablate 3.1,7.0,8.*
  geb-run probe -m model.gguf -f text.txt --states states.safetensors
  geb-run probe -m model.gguf --retrieval --lengths 512,1024

Layers and heads are counted from 0. The KV cache is F32 here, so that attention is what is computed.
--retrieval plants numbers into filler text (as `geb-run eval needle` does) and counts how often a
head's strongest attention lies on the very token of the needle that comes next (arXiv 2404.15574).";

/// `geb-run probe`.
#[derive(Debug, Args)]
#[command(
    after_help = PROBE_EXAMPLES,
    group = clap::ArgGroup::new("what").required(true).multiple(true),
    group = clap::ArgGroup::new("text").conflicts_with("retrieval"),
)]
pub struct ProbeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to look at
    #[arg(short, long, value_name = "TEXT", group = "text")]
    pub prompt: Option<String>,
    /// Read it from a file (`-`: stdin)
    #[arg(short, long, value_name = "FILE", group = "text")]
    pub file: Option<PathBuf>,
    /// What the model would say after each layer
    #[arg(long, group = "what", requires = "text")]
    pub lens: bool,
    /// What each head looks at
    #[arg(long, group = "what", requires = "text")]
    pub heads: bool,
    /// Switch heads off and measure the loss: LAYER.HEAD, LAYER.* or all
    #[arg(
        long,
        value_name = "L.H,...",
        value_delimiter = ',',
        group = "what",
        requires = "text"
    )]
    pub ablate: Vec<String>,
    /// Write the states behind each layer, F32 [layers + 1, positions, E]
    #[arg(long, value_name = "FILE", group = "what", requires = "text")]
    pub states: Option<PathBuf>,
    /// Replace a file of another kind (--states)
    #[arg(long, requires = "states")]
    pub force: bool,
    /// Find the heads that copy from far back
    #[arg(long, group = "what", conflicts_with_all = ["lens", "heads", "ablate", "states", "positions"])]
    pub retrieval: bool,
    /// Positions that --lens, --heads and --states show [default: the last, for --states all]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub positions: Vec<usize>,
    /// Tokens, positions or heads of each list
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = super::number::some_tokens)]
    pub top: usize,
    /// Tokens of the prompts of --retrieval
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512",
          value_parser = super::number::some_tokens)]
    pub lengths: Vec<usize>,
    /// Where their needles are, in per cent of the filler
    #[arg(long, value_name = "P,...", value_delimiter = ',', default_value = "10,50,90",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub depths: Vec<u8>,
    /// Needles tried for each length and depth
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = super::number::few)]
    pub needles: usize,
    /// One JSON object on stdout, with whole rows of attention
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
