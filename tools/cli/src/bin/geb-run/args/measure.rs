//! The commands that look into a model or measure it.

use std::path::PathBuf;

use clap::Args;

use super::number::{some_tokens, streams, tokens};
use super::{CpuArgs, ModelArgs, OutputArgs, SpeculateArgs};

const INSPECT_EXAMPLES: &str = "\
Examples:
  geb-run inspect model.gguf
  geb-run inspect model.gguf --verify           also scan all weights for NaN and infinity
  geb-run inspect smollm2 --json | jq .tensors[0]";

/// `geb-run inspect`.
#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub struct InspectArgs {
    /// GGUF file or model name (or use -m)
    #[arg(value_name = "MODEL")]
    pub path: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Scan all block scales and float weights for NaN and infinity
    #[arg(long)]
    pub verify: bool,
    /// Count the weights that are zero
    #[arg(long)]
    pub sparsity: bool,
    /// Show long values and arrays in full
    #[arg(long)]
    pub full: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

const LOGITS_EXAMPLES: &str = "\
Examples:
  geb-run logits -m model.gguf --tokens 1,450,7483 --out logits.safetensors
  geb-run logits -m model.gguf --tokens \"$(geb-run tokenize -m model.gguf --ids 'Hello')\" --out l.safetensors

The file holds the tensor `logits`, F32 [positions, vocabulary].";

/// `geb-run logits`.
#[derive(Debug, Args)]
#[command(after_help = LOGITS_EXAMPLES)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids, comma-separated
    #[arg(long, value_name = "IDS", value_delimiter = ',', num_args = 1.., required = true)]
    pub tokens: Vec<u32>,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace a file of another kind
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  geb-run bench -m model.gguf
  geb-run bench -m model.gguf -p 512 -n 128 -t 4 -r 5 --json
  geb-run bench --shape geb-1.3b --type q8_0     random weights, no download
  geb-run bench -m model.gguf --streams 1,8,32   many requests at once
  geb-run bench -m model.gguf --rows 1,8,32      passes of so many tokens, of a sequence each
  geb-run bench --limits                         what this machine can do at most
  geb-run bench -m model.gguf --speculation      time with and without guessing ahead";

/// `geb-run bench`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Measure the machine instead: memory bandwidth and arithmetic peaks of every level; kept for later runs
    #[arg(long, conflicts_with_all = ["model", "shape", "prompt", "decode"])]
    pub limits: bool,
    /// Instead of a model: random weights of a known shape, made on the fly
    #[arg(long, value_name = "SHAPE", conflicts_with = "model")]
    pub shape: Option<crate::shape::Shape>,
    /// Type of the random weights
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "q8_0",
        requires = "shape"
    )]
    pub dtype: String,
    /// Keep the random model in this file, for another program to measure
    #[arg(long, value_name = "FILE", requires = "shape")]
    pub save: Option<PathBuf>,
    /// Give it the vocabulary and the template of this model, so that a server can serve it
    #[arg(long, value_name = "MODEL", requires = "save")]
    pub vocab: Option<String>,
    /// Replace a file of another kind (--save)
    #[arg(long, requires = "save")]
    pub force: bool,
    /// Tokens of the prompt (0: no prefill measurement)
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = tokens)]
    pub prompt: usize,
    /// Tokens to decode (0: no decode measurement)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = tokens)]
    pub decode: usize,
    /// Tokens in the cache before each measurement
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = tokens)]
    pub depth: usize,
    /// Instead: generate -n tokens with and without guessing ahead, of a text that repeats itself
    /// and of one that does not
    #[arg(long, conflicts_with_all = ["shape", "prompt"])]
    pub speculation: bool,
    #[command(flatten)]
    pub speculate: SpeculateArgs,
    /// Instead: so many requests at once, each of -p tokens in and -n out; numbers with commas between them
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = streams,
          conflicts_with_all = ["speculation", "depth"])]
    pub streams: Vec<usize>,
    /// Instead: passes of so many sequences with one token each, and their shares of the machine's limits
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = streams,
          conflicts_with_all = ["speculation", "streams", "prompt", "decode"])]
    pub rows: Vec<usize>,
    /// Repetitions after one warm-up
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub reps: u32,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const TUNE_EXAMPLES: &str = "\
Examples:
  geb-run tune -m model.gguf
  geb-run tune -m smollm2 --most 8 --no-save --json

The choice is kept in threads.json of the cache folder, per machine and size of model, and
taken when neither --threads nor GEB_THREADS nor RAYON_NUM_THREADS is given.";

/// `geb-run tune`.
#[derive(Debug, Args)]
#[command(after_help = TUNE_EXAMPLES)]
pub struct TuneArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Measure 1 to N threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub most: Option<u32>,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 256, value_parser = some_tokens)]
    pub prompt: usize,
    /// Tokens to decode
    #[arg(short = 'n', long, value_name = "N", default_value_t = 48, value_parser = some_tokens)]
    pub decode: usize,
    /// Repetitions after one warm-up
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub reps: u32,
    /// Measure only
    #[arg(long)]
    pub no_save: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    let n = text.parse().map_err(|e| format!("{e}"))?;
    if n > 0 {
        Ok(n)
    } else {
        Err("at least 1".into())
    }
}

const DEMO_EXAMPLES: &str = "\
Examples:
  geb-run demo
  geb-run demo --quick
  geb-run demo --json | jq .rows

geb-nano (4.2 M parameters, English and Chinese, trained in FP32) is part of this program.
The demo quantizes it with the same code as geb-quantize and measures what that costs.";

/// `geb-run demo`.
#[derive(Debug, Args)]
#[command(after_help = DEMO_EXAMPLES)]
pub struct DemoArgs {
    /// Measure on a few windows of the held-out text only
    #[arg(long)]
    pub quick: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// Keep the GGUF files in this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(short, long, value_name = "N", env = "GEB_THREADS", hide_env_values = true,
          value_parser = super::number::threads)]
    pub threads: Option<u32>,
    #[command(flatten)]
    pub output: OutputArgs,
}
