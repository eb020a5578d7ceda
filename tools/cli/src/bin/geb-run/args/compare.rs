//! `geb-run compare`.

use std::path::PathBuf;

use clap::Args;

use super::{KvHow, OutputArgs};

const COMPARE_EXAMPLES: &str = "\
Examples:
  geb-run compare model-f32.gguf q8_0 q4_0 --text wiki.txt
  geb-run compare ./hf-folder q8_0 mine-q4.gguf --text en.txt --text zh.txt --report out.html
  geb-run compare model-f32.gguf q8_0 -t 1,2,4          speed and size only
  geb-run compare model-f32.gguf new.gguf --text ci.txt --max-kld 0.01 --min-top1 97
  geb-run compare model-f32.gguf q8_0 --text long.txt --resume

Candidates that are type names are quantized from BASE into the cache folder. With a gate that a
candidate misses the exit code is 7.";

/// `geb-run compare`.
#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub struct CompareArgs {
    /// What the others are compared with: a GGUF file (F32, BF16, F16) or a checkpoint folder
    #[arg(value_name = "BASE")]
    pub base: String,
    /// GGUF files, or types to quantize BASE to [default: q8_0 q4_0]
    #[arg(value_name = "CANDIDATE")]
    pub candidates: Vec<String>,
    /// Measure accuracy on this text (may be repeated); without one only speed and size
    #[arg(long, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// Evaluate at most N windows of each text [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
    /// Tokens of a window; the second half of each is counted
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub window: u32,
    /// Ask these questions too: mmlu, ceval, cmmlu, hellaswag, arc, winogrande or jsonl and a folder
    /// of its files (may be repeated)
    #[arg(long, value_name = "FORMAT:DIR")]
    pub choice: Vec<String>,
    /// At most N questions of a subject [default: all]
    #[arg(long, value_name = "N", requires = "choice", value_parser = clap::value_parser!(u32).range(1..))]
    pub choice_limit: Option<u32>,
    /// Types of the candidates' KV cache, each a row; BASE keeps its own; auto: all have that of BASE (f32
    /// where BASE is of floats)
    #[arg(
        long,
        value_name = "TYPE",
        value_delimiter = ',',
        default_value = "auto"
    )]
    pub kv: Vec<KvHow>,
    /// Importance matrix (see geb-run imatrix) for the candidates that are quantized here
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Quantize into the cache folder again even if the file is there
    #[arg(long)]
    pub fresh: bool,
    /// Continue a run of the same command that was stopped
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    pub speed: SpeedArgs,
    #[command(flatten)]
    pub gates: GateArgs,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How speed is measured.
#[derive(Debug, Args, Clone)]
pub struct SpeedArgs {
    /// Numbers of threads to measure with [default: one per core this process may use]
    #[arg(short, long, value_name = "N", value_delimiter = ',', env = "GEB_THREADS",
          hide_env_values = true, help_heading = "Speed",
          value_parser = super::number::threads)]
    pub threads: Vec<u32>,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 256, help_heading = "Speed",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub prompt: u32,
    /// Tokens to decode
    #[arg(short = 'n', long, value_name = "N", default_value_t = 48, help_heading = "Speed",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub decode: u32,
    /// Rounds after one warm-up; every round measures BASE and all candidates (0: no speed)
    #[arg(short, long, value_name = "R", default_value_t = 7, help_heading = "Speed",
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub rounds: u32,
}

/// What every candidate must reach.
#[derive(Debug, Args, Clone, Default)]
pub struct GateArgs {
    /// Most mean KL divergence, nats per token
    #[arg(long, value_name = "X", help_heading = "Gates (exit code 7)", value_parser = not_negative)]
    pub max_kld: Option<f64>,
    /// Least agreement of the most probable token, percent
    #[arg(long, value_name = "PERCENT", help_heading = "Gates (exit code 7)", value_parser = not_negative)]
    pub min_top1: Option<f64>,
    /// Most increase of the perplexity, percent
    #[arg(long, value_name = "PERCENT", help_heading = "Gates (exit code 7)", value_parser = not_negative)]
    pub max_ppl_increase: Option<f64>,
    /// Least decoding speed, times that of BASE
    #[arg(long, value_name = "X", help_heading = "Gates (exit code 7)", value_parser = not_negative)]
    pub min_speedup: Option<f64>,
    /// Most difference of a block of 32 weights from BASE, share of its size; more is taken for
    /// damage
    #[arg(long, value_name = "X", default_value_t = 0.8, help_heading = "Gates (exit code 7)", value_parser = not_negative)]
    pub max_block_error: f64,
}

/// Where the result goes.
#[derive(Debug, Args, Clone, Default)]
pub struct WriteArgs {
    /// The result as JSON, to stdout instead of the table or to a file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-", help_heading = "Result")]
    pub json: Option<PathBuf>,
    /// The tables in Markdown
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-", help_heading = "Result")]
    pub md: Option<PathBuf>,
    /// One line of comma-separated values per row
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-", help_heading = "Result")]
    pub csv: Option<PathBuf>,
    /// A page with plots and tables, in one file
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub report: Option<PathBuf>,
    /// Replace files of another kind
    #[arg(long, help_heading = "Result")]
    pub force: bool,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        _ => Err("a number of at least 0".into()),
    }
}
