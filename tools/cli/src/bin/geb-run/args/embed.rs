//! `geb-run embed`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use geb::embed::Pooling;

use super::{CpuArgs, ModelArgs, OutputArgs};

const EMBED_EXAMPLES: &str = "\
Examples:
  geb-run embed -m model.gguf \"a first text\" \"a second text\"
  geb-run embed -m model.gguf --non-causal --pooling mean -f lines.txt
  geb-run embed -m model.gguf --instruction \"Retrieve passages about:\" \"rivers\"

One JSON object: {\"data\": [{\"index\": 0, \"tokens\": 5, \"embedding\": [...]}, ...], ...}; vectors have length 1.";

/// `geb-run embed`.
#[derive(Debug, Args)]
#[command(after_help = EMBED_EXAMPLES)]
pub struct EmbedArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Texts
    #[arg(
        value_name = "TEXT",
        conflicts_with = "file",
        required_unless_present = "file"
    )]
    pub texts: Vec<String>,
    /// Read texts from a file, one per line (`-`: stdin)
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How the states of a text become one vector [default: what the file says, else mean]
    #[arg(long, value_name = "HOW", value_parser = pooling())]
    pub pooling: Option<Pooling>,
    /// Let every token see the whole text (models made into encoders)
    #[arg(long)]
    pub non_causal: bool,
    /// Put this before each text; it is read but not pooled
    #[arg(long, value_name = "TEXT")]
    pub instruction: Option<String>,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

fn pooling() -> impl TypedValueParser<Value = Pooling> {
    PossibleValuesParser::new(Pooling::ALL.map(Pooling::name)).try_map(|name| {
        let mut all = Pooling::ALL.into_iter();
        all.find(|p| p.name() == name).ok_or("unknown pooling")
    })
}
