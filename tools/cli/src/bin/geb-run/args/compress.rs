//! `geb-run compress` and `geb-run decompress`.

use std::path::PathBuf;

use clap::Args;

use super::{CpuArgs, ModelArgs, OutputArgs};

const COMPRESS_EXAMPLES: &str = "\
Examples:
  geb-run compress -m model.gguf text.txt              writes text.txt.geb
  geb-run compress -m smollm2 book.txt -o book.geb --ctx 1024
  geb-run decompress -m model.gguf text.txt.geb        writes text.txt

The model predicts, an arithmetic coder stores what it did not expect. The same model file is needed to
read the text again; it takes as long as generating it. Any bytes go in, but only text that the
model knows gets smaller.";

/// `geb-run compress`.
#[derive(Debug, Args)]
#[command(after_help = COMPRESS_EXAMPLES)]
pub struct CompressArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// File to compress (`-`: standard input)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// File to write (`-`: standard output) [default: FILE.geb]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// Sizes as a JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const DECOMPRESS_EXAMPLES: &str = "\
Examples:
  geb-run decompress -m model.gguf text.txt.geb        writes text.txt
  geb-run decompress -m smollm2 book.geb -o - | less

Context, cache type and instruction level are those that the text was compressed with. A text that
does not come out as it went in is an error (exit code 3), and no file is written.";

/// `geb-run decompress`.
#[derive(Debug, Args)]
#[command(after_help = DECOMPRESS_EXAMPLES)]
pub struct DecompressArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// File written by `geb-run compress` (`-`: standard input)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// File to write (`-`: standard output) [default: FILE without .geb]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(short, long, value_name = "N", env = "GEB_THREADS", hide_env_values = true,
          value_parser = super::number::threads)]
    pub threads: Option<u32>,
    #[command(flatten)]
    pub output: OutputArgs,
}
