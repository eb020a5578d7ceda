//! Flags that hold answers to a form.

use std::path::PathBuf;

use clap::Args;

/// What an answer is held to.
#[derive(Debug, Args, Clone)]
pub struct ConstraintArgs {
    /// Hold the answer to a JSON schema (a file, `-`, or the schema itself)
    #[arg(long, value_name = "FILE", help_heading = "Form", hide_short_help = true,
          conflicts_with_all = ["regex", "grammar"])]
    pub json_schema: Option<String>,
    /// Hold the answer to a regular expression
    #[arg(
        long,
        value_name = "R",
        help_heading = "Form",
        hide_short_help = true,
        conflicts_with = "grammar",
        allow_hyphen_values = true
    )]
    pub regex: Option<String>,
    /// Hold the answer to a grammar (Lark, in the form of llguidance)
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Form",
        hide_short_help = true
    )]
    pub grammar: Option<PathBuf>,
}
