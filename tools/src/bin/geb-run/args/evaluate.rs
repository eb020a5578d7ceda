//! `geb-run eval`.

use clap::{Args, Subcommand};

use super::{ChoiceArgs, NeedleArgs};

const EVAL_EXAMPLES: &str = "\
Examples:
  geb-run eval choice --format mmlu -m model.gguf path/to/mmlu/data
  geb-run eval needle -m model.gguf";

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
    /// Multiple choice: MMLU, C-Eval, CMMLU, HellaSwag, ARC, WinoGrande, your own questions
    Choice(ChoiceArgs),
    /// Find a planted fact again, by depth and length of the context
    Needle(NeedleArgs),
}
