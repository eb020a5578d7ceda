//! What is typed: flags and their help. What they mean is decided in `work`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use geb::Dtype;
use geb_convert::policy::{MIXTURES, Policy, Regex, similar, writable};

const EXAMPLES: &str = "\
Examples:
  geb-quantize ./geb-1.3b geb-q8_0.gguf --type q8_0
  geb-quantize ./geb-1.3b geb-q4_0.gguf --type q4_0 --threads 8
  geb-quantize ./geb-1.3b geb-q4_k_m.gguf --type q4_k_m --tensor-type 'attn_[qk]=q5_k'
  geb-quantize ./geb-1.3b --type q4_0 --dry-run
  geb-quantize model-f16.gguf model-q8_0.gguf --type q8_0
  geb-quantize ./geb-1.3b geb-q8_0.gguf --type q8_0 --resume --report errors.json
  geb-quantize model-f16.gguf model-q4_k.gguf --type q4_k --imatrix model.imatrix.gguf --search best
  geb-quantize probe ./geb-1.3b --text sample.txt
  geb-quantize verify geb-q8_0.gguf
  geb-quantize adapter ./my-lora my-lora.gguf --base ./geb-1.3b
  geb-quantize merge ./geb-1.3b my-lora.gguf=0.8 geb-mine-q8_0.gguf --type q8_0

Exit codes: 0 ok, 1 failure, 2 usage, 3 bad source, 4 unsupported source, 8 no checksums (verify), 130 interrupted.";

/// Converts a checkpoint folder (or a GGUF file) to a GGUF file.
#[derive(Parser, Debug)]
#[command(
    name = "geb-quantize",
    version,
    about = "Converts a Hugging Face checkpoint folder, or a GGUF file, to a quantized GGUF file.",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "geb-quantize [OPTIONS] <SOURCE> <OUT>\n       geb-quantize probe [OPTIONS] <SOURCE> --text <FILE>\n       geb-quantize verify <FILE>\n       geb-quantize adapter <PEFT_FOLDER> <OUT> --base <FOLDER>\n       geb-quantize merge [OPTIONS] <BASE> <ADAPTER[=SCALE]>... <OUT>"
)]
pub struct Cli {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// A conversion.
    #[command(flatten)]
    pub files: Option<Files>,
    /// How.
    #[command(flatten)]
    pub how: How,
    /// Layout of GEB checkpoints.
    #[command(flatten)]
    pub layout: Layout,
}

/// Other work.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Find the layout of a GEB checkpoint: all 16 are run over a text, the least loss is right.
    Probe(Probe),
    /// Compare the tensors of a file with the hashes that were stored when it was written.
    Verify(Verify),
    /// Convert a PEFT adapter folder (LoRA, DoRA) to a GGUF adapter, for geb-run --lora and merge.
    Adapter(Adapter),
    /// Merge adapters into a model, then quantize it.
    Merge(Box<Merge>),
}

/// One of [`MIXTURES`], in small or capital letters, or another word for one.
fn mixture() -> impl TypedValueParser<Value = Policy> {
    Named {
        names: MIXTURES.iter().map(|m| m.name).collect(),
        parse: |name| Policy::named(name).ok(),
    }
}

/// A word from a list, or another word for one; an unknown one is answered with what may be meant.
#[derive(Clone)]
struct Named<T> {
    names: Vec<&'static str>,
    parse: fn(&str) -> Option<T>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Named<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let typed = value.to_string_lossy();
        let found = (self.parse)(&typed);
        found.ok_or_else(|| {
            let flag = arg.map_or_else(|| "type".into(), ToString::to_string);
            let near = similar(&typed);
            let near = near.iter().filter(|n| (self.parse)(n).is_some()).copied();
            let near = near.collect::<Vec<_>>().join(" or ");
            let known = || self.names.join(", ").to_lowercase();
            let meant = match near.as_str() {
                "" => format!("known: {}", known()),
                near => format!("did you mean {near}? (--help lists all)"),
            };
            let text = format!("invalid value '{typed}' for '{flag}': {meant}\n");
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, text).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().map(|n| PossibleValue::new(*n))))
    }
}

/// A type that can be written.
fn dtype() -> impl TypedValueParser<Value = Dtype> {
    Named {
        names: writable().map(|t| t.name()).collect(),
        parse: named_type,
    }
}

fn named_type(name: &str) -> Option<Dtype> {
    let own = || Some(Policy::named(name).ok()?.mixture.base);
    Dtype::from_name(name)
        .or_else(own)
        .filter(|t| writable().any(|w| w == *t))
}

/// `REGEX=TYPE`.
fn tensor_type(text: &str) -> Result<(Regex, Dtype), String> {
    let (pattern, name) = text.rsplit_once('=').ok_or("expected REGEX=TYPE")?;
    let known = || writable().map(|t| t.name()).collect::<Vec<_>>().join(", ");
    let dtype = named_type(name).ok_or_else(|| format!("{name} is not one of {}", known()))?;
    Ok((regex(pattern)?, dtype))
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|e| e.to_string())
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

/// What to convert.
#[derive(Args, Debug)]
pub struct Files {
    /// Checkpoint folder (config.json, weights, tokenizer) or GGUF file
    pub source: PathBuf,
    /// File to write; an old GGUF file is replaced when the new one is complete and verified
    #[arg(required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
}

/// A conversion of an adapter.
#[derive(Args, Debug)]
pub struct Adapter {
    /// Folder with adapter_config.json and adapter_model.safetensors
    pub folder: PathBuf,
    /// GGUF file to write
    pub out: PathBuf,
    /// Replace a file that is no adapter
    #[arg(long)]
    pub force: bool,
    /// Checkpoint folder of the model that the adapter changes
    #[arg(long, value_name = "FOLDER")]
    pub base: PathBuf,
    #[command(flatten)]
    pub layout: Layout,
}

/// A merge.
#[derive(Args, Debug)]
pub struct Merge {
    /// Checkpoint folder or GGUF file, GGUF adapters, and the file to write
    #[arg(value_name = "BASE ADAPTER[=SCALE]... OUT", num_args = 3.., required = true)]
    pub files: Vec<String>,
    #[command(flatten)]
    pub how: How,
    #[command(flatten)]
    pub layout: Layout,
}

/// How to convert.
#[derive(Args, Debug)]
pub struct How {
    /// Type of the weights, or a mixture of types (q4_k, q5_k, q3_k mean the _M mixtures) [default: q4_k_m; q8_0
    /// is nearly lossless]
    #[arg(short = 't', long = "type", ignore_case = true, value_name = "TYPE", value_parser = mixture())]
    pub policy: Option<Policy>,
    /// Say what would be written, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Threads [default: all that are available]
    #[arg(long, value_name = "N", env = "GEB_THREADS", value_parser = threads)]
    pub threads: Option<u16>,
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
    /// Keep these layers and leave the others out, such as 0-5,8
    #[arg(long, value_name = "LIST", value_parser = layers)]
    pub keep_layers: Option<Layers>,
    /// Continue a run that was stopped, and leave this one so that it can be continued
    #[arg(long)]
    pub resume: bool,
    /// Write parts of at most this size: OUT-00001-of-0000N.gguf (M and G are powers of 1000)
    #[arg(long, value_name = "N(M|G)", value_parser = size)]
    pub split_max_size: Option<u64>,
    /// Leave the other experts out: 0,2,5-7, or 3:0,1 for layer 3 (may be repeated)
    #[arg(long, value_name = "[LAYER:]LIST")]
    pub keep_experts: Vec<String>,
    /// Leave out the further heads of a model that predicts several tokens (llama.cpp refuses files with them)
    #[arg(long)]
    pub no_heads: bool,
    /// Record the SHA-256 of the weight files as well
    #[arg(long)]
    pub hash_source: bool,
    /// One type for every matrix: no better types where errors cost most
    #[arg(long, help_heading = "Types of single tensors")]
    pub pure: bool,
    /// Type of the tensors whose names match; repeatable, the first match decides
    #[arg(long, value_name = "REGEX=TYPE", value_parser = tensor_type, help_heading = "Types of single tensors")]
    pub tensor_type: Vec<(Regex, Dtype)>,
    /// Type of the output matrix (of the embedding, where the model has no other)
    #[arg(long, ignore_case = true, value_name = "TYPE", value_parser = dtype(), help_heading = "Types of single tensors")]
    pub output_type: Option<Dtype>,
    /// Type of the embedding
    #[arg(long, ignore_case = true, value_name = "TYPE", value_parser = dtype(), help_heading = "Types of single tensors")]
    pub embedding_type: Option<Dtype>,
    /// Do not quantize the tensors whose names match; repeatable
    #[arg(long, value_name = "REGEX", value_parser = regex, help_heading = "Types of single tensors")]
    pub keep_f32: Vec<Regex>,
    /// Replace a file that is there and is no GGUF file of a model, or no report
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Report as JSON, tensor by tensor, to a file
    #[arg(long, value_name = "FILE.json", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Report as JSON on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// No progress bar
    #[arg(long, help_heading = "Output")]
    pub no_progress: bool,
}

/// Answers to the layout questions of GEB checkpoints.
#[derive(Args, Debug)]
pub struct Layout {
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

/// Numbers of layers.
#[derive(Clone, Debug)]
pub struct Layers(pub Vec<usize>);

/// `0-5,8`.
fn layers(text: &str) -> Result<Layers, String> {
    let bad = || format!("expected numbers and ranges such as 0-5,8, found {text}");
    let number = |n: &str| n.parse::<u16>().map_err(|_| bad());
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend((number(first)?..=number(last)?).map(usize::from));
    }
    Ok(Layers(all))
}

/// `FILE` or `FILE=SCALE`.
pub fn scaled(text: &str) -> (PathBuf, f32) {
    let scale = |(file, scale): (&str, &str)| Some((file.into(), scale.parse().ok()?));
    let found = text.rsplit_once('=').and_then(scale);
    found.unwrap_or((text.into(), 1.0))
}

/// A number of threads.
fn threads(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err("allowed: 1 to 1024; left out: all that are available".into()),
    }
}

/// `500M`, `2G`, or bytes.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['M', 'G']) {
        Some(digits) if text.ends_with('M') => (digits, 1_000_000),
        Some(digits) => (digits, 1_000_000_000),
        None => (text, 1),
    };
    let n = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    n.filter(|&n| n > 0)
        .ok_or_else(|| "expected a number of bytes, or one with M or G, such as 500M".into())
}

/// A check of stored hashes.
#[derive(Args, Debug)]
pub struct Verify {
    /// GGUF file, or any part of a split one
    pub file: PathBuf,
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
    #[arg(long, value_name = "N", env = "GEB_THREADS", value_parser = threads)]
    pub threads: Option<u16>,
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// No progress bar
    #[arg(long)]
    pub no_progress: bool,
}
