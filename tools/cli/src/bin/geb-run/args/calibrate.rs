//! The command that collects an importance matrix.

use std::path::PathBuf;

use clap::Args;

use super::{CpuArgs, ModelArgs, OutputArgs};

const IMATRIX_EXAMPLES: &str = "\
Examples:
  geb-run imatrix -m model-f32.gguf -f text.txt -o model.imatrix.gguf
  geb-run imatrix -m model-f32.gguf -f text.txt -o model.imatrix.gguf --covariance
  geb-run imatrix -m model-f32.gguf -f text.txt -o model.imatrix.gguf --resume
  geb-quantize model-f32.gguf model-q4_k.gguf --type q4_k --imatrix model.imatrix.gguf --search best

Ctrl-C ends after the chunk at hand and keeps what is there; --resume goes on from it. The file is
the same for any number of threads, and is read by llama.cpp's tools too.";

/// `geb-run imatrix`.
#[derive(Debug, Args)]
#[command(after_help = IMATRIX_EXAMPLES)]
pub struct ImatrixArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to run the model on, like what it will be used for (`-`: stdin)
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// GGUF file to write
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace a file of another kind
    #[arg(long)]
    pub force: bool,
    /// Chunks to use [default: all complete ones of the text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Also keep the products of columns, which `geb-quantize --search best` needs; the file then
    /// takes 4 bytes per pair of columns
    #[arg(long)]
    pub covariance: bool,
    /// Go on from the chunks that the file already has
    #[arg(long)]
    pub resume: bool,
    /// `--ctx` is the length of a chunk [default: 512]
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
