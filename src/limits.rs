//! Every bound on what a file or a user may ask for, one constant each, with its reason.

use core::ops::RangeInclusive;

/// Kinds of distances with a bias of their own.
pub const MAX_BUCKETS: u64 = 1_024;
/// Distance from which on all are in one of these buckets.
pub const MAX_REACH: u64 = 8192;
/// Smallest GGUF file: magic, version and the two counts.
pub const MIN_FILE_BYTES: usize = 24;
/// Tensors in one file. The largest published models have about 2,000 per part.
pub const MAX_TENSORS: u64 = 65_536;
/// Metadata keys in one file.
pub const MAX_KEYS: u64 = 65_536;
/// Smallest encoding of one key: length (8), one byte, type (4), one byte of value.
pub const MIN_KEY_BYTES: u64 = 14;
/// Smallest encoding of one tensor: name length (8), one byte, dimension count (4),
/// one dimension (8), type (4), offset (8).
pub const MIN_TENSOR_BYTES: u64 = 33;
/// Bytes of a key.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Bytes of one metadata string; real chat templates stay below 100 KiB.
pub const MAX_STRING_BYTES: u64 = 16 << 20;
/// Elements of one metadata array.
pub const MAX_ARRAY_LEN: u64 = 16_777_216;
/// All metadata together.
pub const MAX_METADATA_BYTES: u64 = 512 << 20;
/// `general.alignment`: a power of two in this range.
pub const ALIGNMENT: RangeInclusive<u32> = 8..=65_536;
/// Alignment when the key is absent (GGUF specification).
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// Bytes of a tensor name (the limit of ggml).
pub const MAX_TENSOR_NAME_BYTES: u64 = 64;
/// Dimensions of a tensor (the limit of ggml).
pub const MAX_DIMS: u32 = 4;
/// One dimension.
pub const MAX_DIM: u64 = 1 << 40;
/// Elements of a tensor.
pub const MAX_ELEMENTS: u64 = 1 << 48;
/// Tokens of a vocabulary.
pub const MAX_VOCAB: usize = 1_048_576;
/// Bytes of one token.
pub const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Bytes of a token where the longest one is searched at every byte; published ones have at most 200.
pub const MAX_SEARCHED_TOKEN_BYTES: usize = 1_024;
/// Merges of a vocabulary; published ones have at most two per token.
pub const MAX_MERGES: usize = 2 * MAX_VOCAB;
/// Control and user-defined tokens of a vocabulary; published ones have a few thousand.
pub const MAX_SPECIAL_TOKENS: usize = 65_536;
/// Bytes of all their texts together; the matcher's size follows it.
pub const MAX_SPECIAL_BYTES: usize = 4 << 20;
/// Tokens that a file may name as ends of an answer besides those with keys of their own.
pub const MAX_STOP_TOKENS: usize = 64;
/// Bytes of a chat template's source.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Bytes a chat template may render.
pub const MAX_RENDERED_BYTES: usize = 4 << 20;
/// Steps a chat template may take.
pub const TEMPLATE_FUEL: u64 = 1_000_000;
/// Messages of a conversation.
pub const MAX_MESSAGES: usize = 1_024;
/// Blocks of a chat template inside each other.
pub const MAX_TEMPLATE_RECURSION: usize = 100;
/// Blocks and calls of a running template inside each other.
pub const MAX_TEMPLATE_CALLS: usize = 200;
/// Bytes of a role name.
pub const MAX_ROLE_BYTES: usize = 64;
/// Bytes of values a chat template may make while it renders once.
pub const TEMPLATE_MEMORY_BYTES: usize = 64 << 20;
/// Bytes and elements it may look at; a few tenths of a second.
pub const TEMPLATE_WORK: usize = 256 << 20;
/// Lists in lists of a chat template.
pub const MAX_TEMPLATE_DEPTH: usize = 128;
/// Numbers in a `range` of a chat template.
pub const MAX_TEMPLATE_RANGE: usize = 100_000;
/// Namespaces a chat template may make.
pub const MAX_TEMPLATE_NAMESPACES: usize = 1_000;
/// Tokens of one tag of a chat template.
pub const MAX_TAG_TOKENS: usize = 1_000;
/// `elif`s of a chat template.
pub const MAX_ELIFS: usize = 256;
/// Answers to one prompt, generated or followed side by side.
pub const MAX_SEQUENCES: usize = 1_024;
/// Tokens whose logits a request changes.
pub const MAX_LOGIT_BIASES: usize = 1_024;
/// What logits are divided by.
pub const TEMPERATURE: RangeInclusive<f32> = 0.0..=100.0;
/// Sum of probabilities, or share of the best one, that decides which tokens are kept.
pub const PROBABILITY: RangeInclusive<f32> = 0.0..=1.0;
/// Factor for the logits of recent tokens.
pub const REPEAT_PENALTY: RangeInclusive<f32> = 0.01..=100.0;
/// What is taken from the logits of an answer's tokens; OpenAI's range.
pub const COUNT_PENALTY: RangeInclusive<f32> = -2.0..=2.0;
/// What is added to the logit of a token; OpenAI's range.
pub const LOGIT_BIAS: RangeInclusive<f32> = -100.0..=100.0;
/// First penalty for a token that goes on with a repetition.
pub const DRY_MULTIPLIER: RangeInclusive<f32> = 0.0..=100.0;
/// Growth of that penalty with each repeated token; below 1 it would shrink.
pub const DRY_BASE: RangeInclusive<f32> = 1.0..=100.0;
/// Texts over which no repetition goes; published settings have at most ten.
pub const MAX_DRY_BREAKERS: usize = 128;
/// Bytes of one of them; llama.cpp reads 40.
pub const MAX_DRY_BREAKER_BYTES: usize = 256;
/// Standard deviations of logits.
pub const TOP_N_SIGMA: RangeInclusive<f32> = 0.0..=100.0;
/// How far a temperature by entropy is from the given one.
pub const DYNATEMP_RANGE: RangeInclusive<f32> = 0.0..=100.0;
/// Exponent of its curve.
pub const DYNATEMP_EXPONENT: RangeInclusive<f32> = 0.0..=100.0;
/// Bits per token that mirostat aims at; a vocabulary of [`MAX_VOCAB`] has 20.
pub const MIROSTAT_TAU: RangeInclusive<f32> = 0.0..=100.0;
/// How fast it follows; above 1 it overshoots.
pub const MIROSTAT_ETA: RangeInclusive<f32> = 0.0..=1.0;
/// Tools of a request.
pub const MAX_TOOLS: usize = 128;
/// Characters of a tool's name; OpenAI takes 64, bridges to other protocols make longer ones.
pub const MAX_TOOL_NAME: usize = 256;
/// Objects and lists inside each other in the arguments of a tool call.
pub const MAX_JSON_DEPTH: usize = 64;
/// Bytes of a prompt.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;
/// Longest text that an evaluation encodes.
pub const MAX_TEXT_BYTES: usize = 64 << 20;
/// The table of a tokenizer that normalises text; published ones have 240 kB.
pub const MAX_CHARSMAP_BYTES: usize = 16 << 20;
/// Steps of a tokenizer for one text, and for each of its bytes: published vocabularies take a few tens, and
/// a token of [`MAX_SEARCHED_TOKEN_BYTES`] at every byte would take a thousand.
pub const TOKENIZER_STEPS: u64 = 1 << 20;
/// See [`TOKENIZER_STEPS`].
pub const TOKENIZER_STEPS_PER_BYTE: u64 = 256;
/// A `tokenizer.json` part inside a file's metadata.
pub const MAX_TOKENIZER_JSON_BYTES: usize = 1 << 20;
/// A text after normalisation.
pub const MAX_NORMALIZED_BYTES: usize = 2 * MAX_TEXT_BYTES;
/// Layers of a model.
pub const MAX_LAYERS: u64 = 1_024;
/// Width of a model, of its feed-forward layers, and of all heads together.
pub const MAX_WIDTH: u64 = 1 << 20;
/// Experts of one layer; published models have at most 512.
pub const MAX_EXPERTS: u64 = 1_024;
/// Heads of one layer.
pub const MAX_HEADS: u64 = 65_536;
/// Tokens that the convolution of a state space model sees.
pub const MAX_CONV: u64 = 256;
/// Positions of a context.
pub const MAX_CONTEXT: u64 = 1 << 24;
/// Header of a safetensors file.
pub const MAX_SAFETENSORS_HEADER: u64 = 100 << 20;
/// The pickle inside a PyTorch checkpoint; it holds names and shapes only.
pub const MAX_PICKLE_BYTES: u64 = 64 << 20;
/// Tensors of a checkpoint.
pub const MAX_CHECKPOINT_TENSORS: usize = 65_536;
/// A JSON file of a checkpoint folder (`tokenizer.json` of large vocabularies is about 20 MB).
pub const MAX_JSON_BYTES: u64 = 256 << 20;
/// A file of a data set for evaluation; the largest published one has 50 MB.
pub const MAX_DATA_FILE_BYTES: u64 = 256 << 20;
/// Rank of an adapter; published ones have at most 1,024.
pub const MAX_ADAPTER_RANK: u64 = 65_536;
/// Problems of one file that an error shows.
pub const MAX_SHOWN_PROBLEMS: usize = 40;

/// Largest importance matrix of the older form; read whole.
pub const MAX_LEGACY_IMATRIX_BYTES: u64 = 1 << 30;
