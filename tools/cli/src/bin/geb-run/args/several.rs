//! Several answers to one prompt.

use clap::Args;

/// Beam search and the best of several samples.
#[derive(Debug, Args, Clone)]
pub struct SeveralArgs {
    /// Beam search: follow the K most probable texts side by side
    #[arg(
        long,
        value_name = "K",
        alias = "num-beams",
        help_heading = "Several answers",
        value_parser = clap::value_parser!(u32).range(1..=geb::limits::MAX_SEQUENCES as i64),
        group = "way",
        conflicts_with_all = [
            "lookup", "draft", "exit_layer", "temp", "top_k", "top_p", "min_p",
            "repeat_penalty", "seed", "stop", "save_state",
        ]
    )]
    pub beams: Option<u32>,
    /// Sample N answers with seeds S, S+1, ... and take the most probable one
    #[arg(
        long,
        value_name = "N",
        help_heading = "Several answers",
        value_parser = clap::value_parser!(u32).range(1..=geb::limits::MAX_SEQUENCES as i64),
        group = "way",
        conflicts_with = "save_state"
    )]
    pub best_of: Option<u32>,
    /// Rank by log-probability / tokens^L: more than 0 favours long answers
    #[arg(
        long,
        value_name = "L",
        default_value_t = 1.0,
        value_parser = super::number::finite,
        requires = "way",
        help_heading = "Several answers",
        hide_short_help = true
    )]
    pub length_penalty: f64,
    /// Print the N best answers instead of one
    #[arg(
        long,
        value_name = "N",
        alias = "num-return-sequences",
        default_value_t = 1,
        requires = "way",
        help_heading = "Several answers",
        hide_short_help = true,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub keep: u32,
}

impl SeveralArgs {
    /// Whether any is asked for.
    pub fn wanted(&self) -> bool {
        self.beams.is_some() || self.best_of.is_some()
    }
}
