//! `geb-run eval rows`, `labels`, `clash` and `quotes`.

use std::path::PathBuf;

use clap::Args;

use super::measure::at_least_one;
use super::{CpuArgs, ModelArgs, OutputArgs};

const ROWS_EXAMPLES: &str = "\
Examples:
  geb-run eval rows -m model.gguf iris.csv
  geb-run eval rows -m model.gguf iris.csv --column species --limit 100 --json

Does the model know this table by heart? Each row, given the header and the rows before it, stands
against the same row with one value from another row; and greedy decoding completes the row from its
first fields. A preference alone proves nothing: common values, and those of the rows before, are more
probable anyway. Compare with a table of the same kind that the model cannot have seen.";

/// `geb-run eval rows`.
#[derive(Debug, Args)]
#[command(after_help = ROWS_EXAMPLES)]
pub struct RowsArgs {
    /// CSV file with a header
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows before the one in question
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = super::number::tokens)]
    pub before: usize,
    /// Fields given to complete a row [default: half of them]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub given: Option<usize>,
    /// Swap values of this column only [default: one chosen for each row]
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// At most N rows
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Of the choice of columns and values (-1: random)
    #[arg(long, value_name = "N", default_value = "1", value_parser = super::number::seed)]
    pub seed: u64,
    /// One JSON object on stdout, every row with its log-probabilities
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const LABELS_EXAMPLES: &str = "\
Examples:
  geb-run eval labels -m model.gguf emotions.jsonl
  geb-run eval labels -m model.gguf emotions.jsonl --lengths 512,1024,2048 --ctx 2048 --json

A line is {\"text\": ..., \"label\": ...}. The last lines are asked; those before them are examples, as
many as fit a prompt of each length. The label of the highest log-likelihood is the answer.";

/// `geb-run eval labels`.
#[derive(Debug, Args)]
#[command(after_help = LABELS_EXAMPLES)]
pub struct LabelsArgs {
    /// JSON lines with texts and labels
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens of the prompts [default: 512, 1024, 2048, ... up to the context]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = super::number::some_tokens)]
    pub lengths: Vec<usize>,
    /// Lines that are asked, at most half of the file
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    pub questions: usize,
    /// One JSON object on stdout, every question with its log-probabilities
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const CLASH_EXAMPLES: &str = "\
Examples:
  geb-run eval clash -m model.gguf clashes.jsonl
  geb-run eval clash -m model.gguf clashes.jsonl --json > clashes-answers.json

A line is {\"question\": ..., \"answer\": ..., \"context\": ..., \"changed_answer\": ...,
\"changed_context\": ...}. Which of the two answers is more probable without a context, behind the
context, and behind the changed one?";

/// `geb-run eval clash`.
#[derive(Debug, Args)]
#[command(after_help = CLASH_EXAMPLES)]
pub struct ClashArgs {
    /// JSON lines with questions, answers and contexts
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    /// One JSON object on stdout, every question with its log-probabilities
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const QUOTES_EXAMPLES: &str = "\
Examples:
  geb-run eval quotes answers.jsonl --corpus wikipedia.txt
  geb-run eval quotes answers.jsonl --corpus a.txt --corpus b.txt --grams 4,8 --json
  geb-run eval quotes batch.jsonl --field response/body/choices/0/text --corpus book.txt

Which share of the n-grams of each answer is in the corpus? Units are words in small letters and single
Chinese or Japanese characters. No model is needed.";

/// `geb-run eval quotes`.
#[derive(Debug, Args)]
#[command(after_help = QUOTES_EXAMPLES)]
pub struct QuotesArgs {
    /// JSON lines with answers
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Text that may be quoted; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub corpus: Vec<PathBuf>,
    /// Where the answer is in a line
    #[arg(long, value_name = "NAME", default_value = "answer")]
    pub field: String,
    /// Units of an n-gram
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2,4,8",
          value_parser = super::number::few)]
    pub grams: Vec<usize>,
    /// One JSON object on stdout, every answer with its counts
    #[arg(long)]
    pub json: bool,
}
