//! Many requests at once, from a file.

use std::path::PathBuf;

use clap::Args;

use super::number::streams;
use super::{CpuArgs, ModelArgs, OutputArgs, TemplateArgs};

const BATCH_EXAMPLES: &str = "\
Examples:
  geb-run batch -m model.gguf requests.jsonl -o answers.jsonl
  geb-run batch -m model.gguf requests.jsonl -o answers.jsonl --resume    goes on where it ended

A line asks as OpenAI's batches do:
  {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",
   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 64}}
or \"/v1/completions\" with a \"prompt\". Rows are written as answers are whole, each exactly once.
A field that is not known is refused in the error of its row.";

/// `geb-run batch`.
#[derive(Debug, Args)]
#[command(after_help = BATCH_EXAMPLES)]
pub struct BatchArgs {
    /// Requests, one per line
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Answers, one per line
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Ask only what has no row in the file of answers
    #[arg(long)]
    pub resume: bool,
    /// Write the file of answers anew
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Most requests at once
    #[arg(long, value_name = "N", default_value = "32", value_parser = streams)]
    pub streams: usize,
    #[command(flatten)]
    pub template: TemplateArgs,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
