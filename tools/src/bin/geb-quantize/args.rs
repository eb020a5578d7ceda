//! What is typed: flags and their help. What they mean is decided in `work`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use geb::Dtype;
use geb::convert::policy::TARGETS;

const EXAMPLES: &str = "\
Examples:
  geb-quantize ./geb-1.3b geb-q8_0.gguf --type q8_0
  geb-quantize ./geb-1.3b geb-q4_0.gguf --type q4_0 --threads 8
  geb-quantize ./geb-1.3b --type q4_0 --dry-run
  geb-quantize model-f16.gguf model-q8_0.gguf --type q8_0
  geb-quantize model-f16.gguf model-q4_k.gguf --type q4_k --imatrix model.imatrix.gguf --search best
  geb-quantize probe ./geb-1.3b --text sample.txt

Exit codes: 0 ok, 1 failure, 2 usage, 3 bad source, 4 unsupported source, 130 interrupted.";

/// Converts a checkpoint folder (or a GGUF file) to a GGUF file.
#[derive(Parser, Debug)]
#[command(
    name = "geb-quantize",
    version,
    about = "Converts a Hugging Face checkpoint folder, or a GGUF file, to a quantized GGUF file.",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "geb-quantize [OPTIONS] --type <TYPE> <SOURCE> <OUT>\n       geb-quantize probe [OPTIONS] <SOURCE> --text <FILE>"
)]
pub struct Cli {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// A conversion.
    #[command(flatten)]
    pub convert: Option<Convert>,
}

/// Other work.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Find the layout of a GEB checkpoint: all 16 are run over a text, the least loss is right.
    Probe(Probe),
}

/// One of [`TARGETS`], in small or capital letters.
fn target() -> impl TypedValueParser<Value = Dtype> {
    PossibleValuesParser::new(TARGETS.iter().map(|t| t.0.name()))
        .try_map(|name| Dtype::from_name(&name).ok_or("not a type"))
}

/// Packing of GEB's key_value matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kv {
    /// [kv heads, k then v, head size]
    Interleaved,
    /// all keys, then all values
    Blocked,
}

/// Rotary positions of GEB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Rope {
    /// whole heads, pairs (i, i + d/2)
    FullHalf,
    /// whole heads, pairs (2i, 2i+1)
    FullInterleaved,
    /// first half of each head, pairs (i, i + d/4)
    PartHalf,
    /// first half of each head, pairs (2i, 2i+1)
    PartInterleaved,
}

/// Order in GEB's dense_h_to_4h matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mlp {
    /// gate rows first
    GateUp,
    /// up rows first
    UpGate,
}

/// `--search`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Search {
    /// as the reference quantizers where they are a formula
    Reference,
    /// search scales, block by block
    Fast,
    /// search longer; with an importance matrix made with --covariance the error of each column is
    /// made up for by those after it
    Best,
}

/// A conversion.
#[derive(Args, Debug)]
pub struct Convert {
    /// Checkpoint folder (config.json, weights, tokenizer) or GGUF file
    pub source: PathBuf,
    /// File to write; replaced only when the new one is complete and verified
    #[arg(required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
    /// Type of the weights
    #[arg(short = 't', long = "type", ignore_case = true, value_name = "TYPE", value_parser = target())]
    pub dtype: Dtype,
    /// Say what would be written, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Threads [default: all that are available]
    #[arg(long, value_name = "N", env = "GEB_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Use the type for every matrix, also the output matrix of 4-bit files
    #[arg(long)]
    pub pure: bool,
    /// Importance matrix (geb-run imatrix, or llama.cpp's): errors of columns count by what they meet
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// How hard to search for scales and codes [default: fast with --imatrix, else reference]
    #[arg(long, value_enum, value_name = "HOW")]
    pub search: Option<Search>,
    /// Accept a GGUF source that is quantized already (a loss on top of a loss)
    #[arg(long)]
    pub allow_requantize: bool,
    /// Warn about NaN and infinite weights instead of failing (f32, f16, bf16 output only)
    #[arg(long)]
    pub allow_nonfinite: bool,
    /// Jinja chat template to store instead of the source's
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Record the SHA-256 of the weight files as well
    #[arg(long)]
    pub hash_source: bool,
    /// Report as JSON on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// No progress bar
    #[arg(long, help_heading = "Output")]
    pub no_progress: bool,
    /// Rows of key_value
    #[arg(
        long,
        value_enum,
        default_value = "interleaved",
        help_heading = "GEB checkpoints (see probe)"
    )]
    pub geb_kv: Kv,
    /// Rotary positions
    #[arg(
        long,
        value_enum,
        default_value = "full-half",
        help_heading = "GEB checkpoints (see probe)"
    )]
    pub geb_rope: Rope,
    /// Order of gate and up
    #[arg(
        long,
        value_enum,
        default_value = "gate-up",
        help_heading = "GEB checkpoints (see probe)"
    )]
    pub geb_mlp: Mlp,
}

/// A probe.
#[derive(Args, Debug)]
pub struct Probe {
    /// Checkpoint folder
    pub source: PathBuf,
    /// Plain text in a language of the model, some 200 words
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of the text to use
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub tokens: u32,
    /// Threads [default: all that are available]
    #[arg(long, value_name = "N", env = "GEB_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// No progress bar
    #[arg(long)]
    pub no_progress: bool,
}
