//! Flags that several commands have.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::number;
use super::samplers::SamplersArgs;

/// Which model, and how it is brought into memory.
#[derive(Debug, Args, Clone)]
pub struct ModelArgs {
    /// GGUF file, or the name of a pulled model [env: GEB_MODEL]
    #[arg(short, long, value_name = "MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// How the file comes into memory
    #[arg(
        long,
        value_name = "HOW",
        default_value = "map",
        help_heading = "Model",
        hide_short_help = true
    )]
    pub load: LoadHow,
    /// GGUF adapter (LoRA, DoRA), with a scale if not 1; may be repeated
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = scaled, help_heading = "Model")]
    pub lora: Vec<(PathBuf, f32)>,
}

/// `FILE` or `FILE=SCALE`.
pub fn scaled(text: &str) -> Result<(PathBuf, f32), std::convert::Infallible> {
    let scale = |(file, scale): (&str, &str)| Some((file.into(), scale.parse().ok()?));
    let found = text.rsplit_once('=').and_then(scale);
    Ok(found.unwrap_or((text.into(), 1.0)))
}

/// `--load`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadHow {
    /// Map the file; pages are read when first touched
    Map,
    /// Read it whole; safe when the file may change meanwhile
    Read,
}

/// `--kv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvHow {
    /// The runtime decides
    Auto,
    /// 32-bit floats
    F32,
    /// 16-bit floats, half the memory
    F16,
    /// 8 bits and a scale per 32 values, a quarter of the memory
    #[value(name = "q8_0")]
    Q8_0,
}

/// `--sparse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SparseHow {
    /// Pack what the file marks, where that is faster
    Auto,
    /// Look at every Q8_0 matrix, and pack on any machine: less memory
    Scan,
    /// Multiply the file as it is
    Off,
}

/// Threads, context, instruction set.
#[derive(Debug, Args, Clone)]
pub struct CpuArgs {
    /// Worker threads [default: one per core this process may use]
    #[arg(short, long, value_name = "N", env = "GEB_THREADS", hide_env_values = true, help_heading = "CPU",
          value_parser = number::threads)]
    threads: Option<u32>,
    /// Tokens of context (0: the model's own length) [default: the model's own length, at most 4096]
    #[arg(short, long, value_name = "N", env = "GEB_CTX", hide_env_values = true, help_heading = "CPU",
          value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub ctx: Option<u32>,
    /// Let --ctx exceed the length the model was trained for; answers get worse out there
    #[arg(long, requires = "ctx", help_heading = "CPU", hide_short_help = true)]
    pub ctx_beyond: bool,
    /// Type of the KV cache
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "auto",
        help_heading = "CPU",
        hide_short_help = true
    )]
    pub kv: KvHow,
    /// Matrices of which most weights are zero; changes speed and memory, never results
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "auto",
        help_heading = "CPU",
        hide_short_help = true
    )]
    pub sparse: SparseHow,
    /// Memory for weights, cache and buffers (800M, 2G): experts of a model that are not in use leave it
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "CPU",
        hide_short_help = true,
        value_parser = size
    )]
    pub max_ram: Option<u64>,
    /// Use at most this instruction set (scalar, avx2, ...) [env: GEB_ISA]
    #[arg(
        long,
        value_name = "LEVEL",
        help_heading = "CPU",
        hide_short_help = true
    )]
    pub isa: Option<String>,
}

impl CpuArgs {
    /// The number of threads, when one was asked for.
    pub fn threads(&self) -> Option<usize> {
        asked(self.threads)
    }
}

/// A number of threads, unless it is left to the program.
pub fn asked(threads: Option<u32>) -> Option<usize> {
    threads.filter(|n| *n > 0).map(|n| n as usize)
}

/// `800M`, `2G`, or bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let units = [("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
    let found = units
        .iter()
        .find_map(|(unit, n)| Some((text.strip_suffix(unit)?, *n)));
    let (digits, unit) = found.unwrap_or((text, 1));
    let n = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    n.filter(|&n| n > 0)
        .ok_or_else(|| "expected a number of bytes, or one with K, M or G, such as 2G".into())
}

/// How the next token is chosen.
#[derive(Debug, Args, Clone)]
pub struct SamplingArgs {
    /// 0 always takes the most probable token; higher is more varied
    #[arg(
        long,
        alias = "temperature",
        value_name = "T",
        default_value_t = 0.8,
        value_parser = number::temperature,
        help_heading = "Sampling"
    )]
    pub temp: f32,
    /// Choose among the K most probable tokens (0: all)
    #[arg(
        long,
        value_name = "K",
        default_value_t = 40,
        value_parser = number::top_k,
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub top_k: usize,
    /// Choose among the fewest tokens that reach this probability (1: all)
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.95,
        value_parser = number::between(0.0..=1.0),
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub top_p: f32,
    /// Drop tokens below this share of the most probable one (0: none)
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.05,
        value_parser = number::between(0.0..=1.0),
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub min_p: f32,
    /// Divide the logits of recent tokens by this (1: off)
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1.0,
        value_parser = number::between(0.01..=100.0),
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub repeat_penalty: f32,
    /// How many recent tokens count for the penalty (-1: all)
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = number::whole_context,
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub repeat_last_n: usize,
    #[command(flatten)]
    pub samplers: SamplersArgs,
    /// Seed of the choices; the same one gives the same text [default: random]
    #[arg(short, long, value_name = "S", value_parser = number::seed, help_heading = "Sampling")]
    pub seed: Option<u64>,
    /// Stop when this text appears (may be repeated)
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub stop: Vec<String>,
    /// Do not stop at the end-of-text token
    #[arg(long, help_heading = "Sampling", hide_short_help = true)]
    pub ignore_eos: bool,
}

/// `--lookup`, `--heads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuessWhen {
    /// Where measured times promise a gain
    Auto,
    /// Whenever there is something to offer
    On,
    /// Never
    Off,
}

/// Guessing tokens ahead; what is generated stays the same.
#[derive(Debug, Args, Clone)]
pub struct SpeculateArgs {
    /// Guess the next tokens from earlier text; changes the speed, never the text
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Speed",
        hide_short_help = true
    )]
    pub lookup: GuessWhen,
    /// Guess with this smaller model of the same vocabulary
    #[arg(
        long,
        value_name = "MODEL",
        help_heading = "Speed",
        hide_short_help = true
    )]
    pub draft: Option<String>,
    /// Guess with the further heads of a model that has some (multi-token prediction)
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Speed",
        hide_short_help = true
    )]
    pub heads: GuessWhen,
    /// Most tokens that --heads, --draft or --exit-layer guesses at once
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Speed", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub draft_max: u32,
    /// Guess with the first E layers of the model (for models trained for early exit)
    #[arg(
        long,
        value_name = "E",
        conflicts_with = "draft",
        help_heading = "Speed",
        hide_short_help = true
    )]
    pub exit_layer: Option<usize>,
}

/// `--chat-template`.
#[derive(Debug, Args, Clone)]
pub struct TemplateArgs {
    /// Use this chat template (Jinja) instead of the one in the file
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Chat",
        hide_short_help = true
    )]
    pub chat_template: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", help_heading = "Chat")]
    pub system: Option<String>,
}

/// `--reasoning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReasoningHow {
    /// All of it, between its markers
    Show,
    /// Nothing
    Hide,
    /// On a terminal one line that says how long it took, elsewhere nothing
    Fold,
}

/// What goes to stderr.
#[derive(Debug, Args, Clone)]
pub struct OutputArgs {
    /// No timings and notes on stderr
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// No progress bars
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    pub no_progress: bool,
}
