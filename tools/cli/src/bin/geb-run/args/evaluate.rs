//! The commands that judge a model by its probabilities.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ChoiceArgs, CpuArgs, ModelArgs, NeedleArgs, OutputArgs};
use super::{ClashArgs, LabelsArgs, QuotesArgs, RowsArgs};

const EVAL_EXAMPLES: &str = "\
Examples:
  geb-run eval perplexity -m model.gguf -f text.txt
  geb-run eval choice --format mmlu -m model.gguf path/to/mmlu/data
  geb-run eval needle -m model.gguf
  geb-run eval rows -m model.gguf iris.csv
  geb-run eval labels -m model.gguf emotions.jsonl --lengths 512,1024
  geb-run eval clash -m model.gguf clashes.jsonl
  geb-run eval quotes answers.jsonl --corpus book.txt";

/// `geb-run eval`.
#[derive(Debug, Args)]
#[command(after_help = EVAL_EXAMPLES)]
pub struct EvalArgs {
    #[command(subcommand)]
    pub what: EvalCommand,
}

/// What is evaluated.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Perplexity on a text
    Perplexity(PerplexityArgs),
    /// Multiple choice: MMLU, C-Eval, CMMLU, HellaSwag, ARC, WinoGrande, your own questions
    Choice(ChoiceArgs),
    /// Find a planted fact again, by depth and length of the context
    Needle(NeedleArgs),
    /// Does it know a table by heart: exact rows against changed ones
    Rows(RowsArgs),
    /// Labels learned from examples, by length of the prompt
    Labels(LabelsArgs),
    /// What it knows against what its prompt says
    Clash(ClashArgs),
    /// Share of n-grams of answers that are in a corpus
    Quotes(QuotesArgs),
}

const PERPLEXITY_EXAMPLES: &str = "\
Examples:
  geb-run eval perplexity -m model.gguf -f wiki.test.raw
  geb-run eval perplexity -m model.gguf -f text.txt --ctx 2048 --windows 20 --json
  geb-run eval perplexity -m model.gguf -f text.txt --stride 128
  geb-run eval perplexity -m model-q8_0.gguf --base model-f32.gguf -f text.txt

By default windows and counting are those of llama.cpp's llama-perplexity: the text is cut into
windows of --ctx tokens, the tokens above the middle of each count, and the model's start token
takes the place of the first one if the model adds one. The error is over windows.";

/// `geb-run eval perplexity`.
#[derive(Debug, Args)]
#[command(after_help = PERPLEXITY_EXAMPLES)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text file, UTF-8 (`-`: standard input)
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Compare with this model on the same tokens, window by window
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Tokens from one window to the next; the last N tokens of a window count [default: no overlap]
    #[arg(long, value_name = "N", conflicts_with = "count",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub stride: Option<u32>,
    /// Which tokens of a window count
    #[arg(long, value_name = "HOW", default_value = "llama")]
    pub count: CountHow,
    /// Evaluate the first N windows only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `--count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CountHow {
    /// As llama-perplexity: positions above the middle, start token first if the model adds one
    Llama,
    /// The second half, the text as it is (the numbers of `geb-run demo`)
    Half,
}

const SCORES_EXAMPLES: &str = "\
Examples:
  geb-run scores -m model.gguf -f text.txt --json
  geb-run scores -m model.gguf -f text.txt --csv > scores.csv
  echo 'The capital of France is Paris.' | geb-run scores -m model.gguf -f - --json --top-k 5

One line per token but the first: position, id, text, logprob (natural logarithm), rank (1: the most
probable), and with --top-k the most probable tokens. Lines appear while the text is evaluated.
Of a text longer than the context each token has at least half a context before it.";

/// `geb-run scores`.
#[derive(Debug, Args)]
#[command(after_help = SCORES_EXAMPLES, group = clap::ArgGroup::new("form").required(true))]
pub struct ScoresArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text file, UTF-8 (`-`: standard input)
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// One JSON object per line
    #[arg(long, group = "form")]
    pub json: bool,
    /// Comma-separated values with a header
    #[arg(long, group = "form")]
    pub csv: bool,
    /// Also the K most probable tokens
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub top_k: u32,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
