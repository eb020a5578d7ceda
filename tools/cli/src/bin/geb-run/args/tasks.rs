//! `geb-run eval choice` and `geb-run eval needle`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use geb_eval::choice::Format;

use super::{CpuArgs, ModelArgs, OutputArgs};

const CHOICE_EXAMPLES: &str = "\
Examples:
  geb-run eval choice --format mmlu -m model.gguf path/to/mmlu/data
  geb-run eval choice --format cmmlu -m model.gguf cmmlu --subjects 'chinese_*' --shots 0
  geb-run eval choice --format hellaswag -m model.gguf hellaswag/data --limit 1000
  geb-run eval choice --format jsonl -m model.gguf my-questions --json > answers.json

Files expected in DIR:
  mmlu        test/SUBJECT_test.csv, dev/SUBJECT_dev.csv
  ceval       val/SUBJECT_val.csv, dev/SUBJECT_dev.csv
  cmmlu       test/SUBJECT.csv, dev/SUBJECT.csv
  hellaswag   hellaswag_val.jsonl, hellaswag_train.jsonl
  arc         ARC-Easy/ARC-Easy-Test.jsonl, ARC-Challenge/ARC-Challenge-Test.jsonl, *-Train.jsonl
  winogrande  dev.jsonl, train_xl.jsonl
  jsonl       SUBJECT.jsonl, dev/SUBJECT.jsonl; a line is
              {\"question\": ..., \"choices\": [...], \"answer\": 0}, answered by letter, or
              {\"context\": ..., \"endings\": [...], \"answer\": 0}, by likelihood
The second file of each holds the examples and is not needed with --shots 0.";

/// `geb-run eval choice`.
#[derive(Debug, Args)]
#[command(after_help = CHOICE_EXAMPLES)]
pub struct ChoiceArgs {
    /// Folder with the questions
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Whose files and prompts they are
    #[arg(short, long, value_name = "FORMAT", value_parser = format_parser())]
    pub format: Format,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Solved examples before each question [default: 5 for mmlu, ceval, cmmlu, else 0]
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
    /// At most N questions of each subject
    #[arg(long, value_name = "N", value_parser = super::measure::at_least_one)]
    pub limit: Option<usize>,
    /// Only subjects that match, with * and ?
    #[arg(long, value_name = "GLOB")]
    pub subjects: Option<String>,
    /// One JSON object on stdout, every question with its log-probabilities
    #[arg(long)]
    pub json: bool,
    /// One line per question on stdout
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

fn format_parser() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
        .try_map(|name| Format::from_name(&name).ok_or("unknown format"))
}

const NEEDLE_EXAMPLES: &str = "\
Examples:
  geb-run eval needle -m model.gguf
  geb-run eval needle -m model.gguf --lengths 1024,4096,16384 --ctx 16384
  geb-run eval needle -m model.gguf --depths 0,50,100 --needles 5 --text novel.txt --json

A sentence with a number is planted into filler text at some depth (0: at the start, 100: right
before the question), and the end of the prompt asks for it. Shown is how often greedy decoding
answers it, and the log-likelihood of the right answer.";

/// `geb-run eval needle`.
#[derive(Debug, Args)]
#[command(after_help = NEEDLE_EXAMPLES)]
pub struct NeedleArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens of the prompts [default: 512, 1024, 2048, ... up to the context]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = super::number::some_tokens)]
    pub lengths: Vec<usize>,
    /// Where the needle is, in per cent of the filler
    #[arg(long, value_name = "P,...", value_delimiter = ',', default_value = "0,25,50,75,100",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub depths: Vec<u8>,
    /// Needles tried one after another in each cell
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = super::number::few)]
    pub needles: usize,
    /// Filler text instead of made-up sentences
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// One JSON object on stdout, every prompt with its answer
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
