//! `geb-run serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::number::{seconds, streams};
use super::shared::{scaled, size};
use super::{CpuArgs, LoadHow};

const SERVE_EXAMPLES: &str = "\
Examples:
  geb-run serve --demo                           the built-in toy model, no download needed
  geb-run serve model.gguf                       http://127.0.0.1:8080
  geb-run serve -m chat.gguf -m embed.gguf --max-ram 8G
  geb-run serve -m model.gguf --host 0.0.0.0 --api-key-file keys
  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

It speaks the APIs of OpenAI, Anthropic and ollama: docs/server.md.";

/// Answer requests of programs and browsers over HTTP.
#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArgs {
    /// GGUF file or model name; may be repeated (or use -m)
    #[arg(value_name = "MODEL")]
    pub named: Vec<String>,
    /// GGUF file, or the name of a pulled model; may be repeated [env: GEB_MODEL]
    #[arg(short, long, value_name = "MODEL", help_heading = "Models")]
    pub model: Vec<String>,
    /// Serve every GGUF file of this folder, each under its name
    #[arg(long, value_name = "DIR", help_heading = "Models")]
    pub models: Option<PathBuf>,
    /// Serve the built-in toy model
    #[arg(long, conflicts_with_all = ["named", "model", "models", "lora"], help_heading = "Models")]
    pub demo: bool,
    /// Further name of the first model; * stands for any letters
    #[arg(
        long,
        value_name = "GLOB",
        env = "GEB_ALIAS",
        hide_env_values = true,
        help_heading = "Models"
    )]
    pub alias: Vec<String>,
    /// GGUF adapter (LoRA, DoRA) beside the first model, with a scale if not 1; may be repeated
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = scaled, help_heading = "Models", hide_short_help = true)]
    pub lora: Vec<(PathBuf, f32)>,
    /// Jinja template in the place of the first model's
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Models",
        hide_short_help = true
    )]
    pub chat_template: Option<PathBuf>,
    /// How files come into memory
    #[arg(
        long,
        value_name = "HOW",
        default_value = "map",
        help_heading = "Models",
        hide_short_help = true
    )]
    pub load: LoadHow,
    /// Address to listen at
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        env = "GEB_HOST",
        hide_env_values = true,
        help_heading = "Network"
    )]
    pub host: String,
    /// Port (0: a free one)
    #[arg(
        long,
        value_name = "N",
        default_value = "8080",
        env = "GEB_PORT",
        hide_env_values = true,
        help_heading = "Network"
    )]
    pub port: u16,
    /// Listen at this socket of the machine, not at an address
    #[arg(
        long,
        value_name = "PATH",
        env = "GEB_SOCKET",
        hide_env_values = true,
        help_heading = "Network"
    )]
    pub socket: Option<PathBuf>,
    /// Keys that clients must send, name:key per line
    #[arg(
        long,
        value_name = "FILE",
        env = "GEB_API_KEY_FILE",
        hide_env_values = true,
        help_heading = "Network"
    )]
    pub api_key_file: Option<PathBuf>,
    /// Be reachable from other machines without keys
    #[arg(long, conflicts_with = "api_key_file", help_heading = "Network")]
    pub no_auth: bool,
    /// Name that requests may call this machine by; may be repeated
    #[arg(
        long,
        value_name = "NAME",
        env = "GEB_ALLOWED_HOST",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Network"
    )]
    pub allowed_host: Vec<String>,
    /// Origin whose pages may ask, scheme://host[:port]; may be repeated
    #[arg(
        long,
        value_name = "URL",
        env = "GEB_CORS_ORIGIN",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Network"
    )]
    pub cors_origin: Vec<String>,
    /// Most requests that are answered at once
    #[arg(long, value_name = "N", default_value = "32", value_parser = streams, env = "GEB_STREAMS", hide_env_values = true, help_heading = "Requests")]
    pub streams: usize,
    /// Most requests that wait
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        env = "GEB_QUEUE",
        hide_env_values = true,
        help_heading = "Requests"
    )]
    pub queue: usize,
    /// Memory for the keys and values of all requests (800M, 2G) [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size, env = "GEB_KV_MEMORY", hide_env_values = true, help_heading = "Requests")]
    pub kv_memory: Option<u64>,
    /// Longest step while somebody is being answered, in milliseconds
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..=60_000), help_heading = "Requests", hide_short_help = true)]
    pub step_ms: u64,
    /// Keep what prompts begin with in this folder, for later runs
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Requests",
        hide_short_help = true
    )]
    pub cache_dir: Option<PathBuf>,
    /// Bytes of that folder
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size, requires = "cache_dir", help_heading = "Requests", hide_short_help = true)]
    pub cache_disk: u64,
    /// Whether clients find what was computed for others
    #[arg(
        long,
        value_name = "WHO",
        default_value = "key",
        help_heading = "Requests",
        hide_short_help = true
    )]
    pub cache_scope: ScopeHow,
    /// How long answers may go on after the end was asked for, in seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds, help_heading = "Requests", hide_short_help = true)]
    pub drain: u64,
    /// Refuse fields that are not known, instead of naming them in a header
    #[arg(long, help_heading = "Requests", hide_short_help = true)]
    pub strict: bool,
    /// Form of the log on standard error
    #[arg(
        long,
        value_name = "FORM",
        default_value = "text",
        help_heading = "Requests",
        hide_short_help = true
    )]
    pub log: LogHow,
    #[command(flatten)]
    pub cpu: CpuArgs,
}

/// `--cache-scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeHow {
    /// Each key, or each address without keys, finds its own
    Key,
    /// All share: how soon an answer begins tells what others have asked
    All,
}

/// `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogHow {
    /// A line for people
    Text,
    /// An object per line
    Json,
    /// Nothing
    Off,
}
