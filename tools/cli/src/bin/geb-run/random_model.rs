//! Models with random weights of a known shape, so that speed can be measured without a download:
//! it depends on shapes and types, not on values. The weights are random bytes in valid blocks,
//! with scales that give numbers of about ±0.02 (types that cannot be written: below ±1), so that all
//! activations stay finite.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::Dtype;
use geb::files::{NewFile, Over, Place};
use geb::gguf::writer::{Fill, MetaValue, Plan, PlannedTensor, write_to};
use geb::gguf::{GgufFile, Load};
use geb::kernels::Kernels;
use geb::kernels::reference::sample_blocks;

use crate::interrupt::Interrupt;
use crate::load::{self, Opened};
use crate::model_path::{self, cache_dir};
use crate::report::{Failure, Outcome};
use crate::shape::Shape;

/// Hyperparameters of a shape.
struct Sizes {
    name: &'static str,
    layers: u64,
    width: u64,
    heads: u64,
    kv_heads: u64,
    head_size: u64,
    ffn: u64,
    vocab: u64,
    context: u64,
    tied: bool,
    rope_base: f32,
    /// Experts of a layer and of a token; none in a dense model.
    experts: Option<(u64, u64)>,
}

impl Shape {
    fn sizes(self) -> Sizes {
        match self {
            Self::Geb1_3b => Sizes {
                name: "geb-1.3b",
                layers: 24,
                width: 2048,
                heads: 16,
                kv_heads: 4,
                head_size: 128,
                ffn: 5632,
                vocab: 64896,
                context: 4096,
                tied: false,
                rope_base: 10_000.0,
                experts: None,
            },
            Self::Smollm2 => Sizes {
                name: "smollm2-135m",
                layers: 30,
                width: 576,
                heads: 9,
                kv_heads: 3,
                head_size: 64,
                ffn: 1536,
                vocab: 49152,
                context: 8192,
                tied: true,
                rope_base: 100_000.0,
                experts: None,
            },
            Self::Mixtral => Sizes {
                name: "mixtral-7-layers",
                layers: 7,
                width: 4096,
                heads: 32,
                kv_heads: 8,
                head_size: 128,
                ffn: 14336,
                vocab: 32000,
                context: 32768,
                tied: false,
                rope_base: 1_000_000.0,
                experts: Some((8, 2)),
            },
        }
    }
}

/// Standard deviation of the weights.
const DEVIATION: f64 = 0.02;
/// Bytes of random blocks that are repeated, from changing starts, until a tensor is full.
const POOL_BYTES: usize = 1 << 20;
/// Random weights in the pool.
const POOL_WEIGHTS: usize = 1 << 18;

/// A model with random weights.
pub struct RandomModel {
    pub shape: Shape,
    pub dtype: Dtype,
    /// Keys of a tokenizer; none: there is no text.
    pub vocab: Option<Vec<(String, MetaValue)>>,
}

impl RandomModel {
    /// Writes the model and opens it. Without `save` it goes into the cache folder and loses its name at
    /// once: the space is freed when the program ends, however it ends.
    pub fn make(self, save: Option<&Path>, over: Over, interrupt: &Interrupt) -> Outcome<Opened> {
        let sizes = self.shape.sizes();
        let kernels = Kernels::best().map_err(Failure::usage)?;
        let mut plan = plan(&sizes, self.dtype, kernels)?;
        if let Some(vocab) = self.vocab {
            plan.metadata
                .retain(|(key, _)| !key.starts_with("tokenizer."));
            plan.metadata.extend(padded(vocab, sizes.vocab as usize)?);
        }
        written(&sizes, self.dtype, kernels, &plan, save, over, interrupt)
    }
}

/// The keys of the tokenizer of a model.
pub fn vocabulary(model: &str) -> Outcome<Vec<(String, MetaValue)>> {
    let path = model_path::resolve(Some(model))?;
    let file = GgufFile::open(&path, Load::Map).map_err(|e| load::at(&path, e))?;
    let of_text = |key: &str| key.starts_with("tokenizer.") && !key.starts_with("tokenizer.geb.");
    let keys = file.metadata().filter(|(key, _)| of_text(key));
    let keys: Vec<_> = keys
        .map(|(key, value)| (key.to_owned(), MetaValue::from_value(value)))
        .collect();
    match keys.iter().any(|(key, _)| key == TOKENS) {
        true => Ok(keys),
        false => Err(Failure::usage(format!(
            "{}: no key {TOKENS}",
            path.display()
        ))),
    }
}

/// Texts of tokens.
const TOKENS: &str = "tokenizer.ggml.tokens";
/// Type of a token that is never written.
const UNUSED: i32 = 5;

/// The keys with as many tokens as the shape has.
fn padded(mut keys: Vec<(String, MetaValue)>, most: usize) -> Outcome<Vec<(String, MetaValue)>> {
    let mut found = 0;
    for (key, value) in &mut keys {
        match (&**key, value) {
            (TOKENS, MetaValue::Strs(tokens)) => {
                found = tokens.len();
                let more = found..most;
                tokens.extend(more.map(|i| format!("[unused {i}]")));
            }
            ("tokenizer.ggml.token_type", MetaValue::I32s(types)) => {
                types.resize(most.max(types.len()), UNUSED)
            }
            ("tokenizer.ggml.scores", MetaValue::F32s(scores)) => {
                scores.resize(most.max(scores.len()), 0.0)
            }
            _ => {}
        }
    }
    match found <= most {
        true => Ok(keys),
        false => Err(Failure::usage(format!(
            "--vocab has {found} tokens, allowed: at most {most}, those of the shape"
        ))),
    }
}

/// Writes the model and opens it.
fn written(
    sizes: &Sizes,
    dtype: Dtype,
    kernels: &Kernels,
    plan: &Plan,
    save: Option<&Path>,
    over: Over,
    interrupt: &Interrupt,
) -> Outcome<Opened> {
    if let Some(path) = save {
        let place = Place::of(path)?;
        place.check(over)?;
        place.regular()?;
    }
    let pool = pool(dtype, kernels);
    let path;
    let opened = match save {
        Some(to) => {
            path = to.to_path_buf();
            let mut file = NewFile::create(to, over)?;
            write(&mut *file.writer(), to, plan, (dtype, &pool), interrupt)?;
            file.finish()?;
            GgufFile::open(to, Load::Map)
        }
        None => {
            let dir = cache_dir()?;
            let failed = |e: std::io::Error| Failure::new(e.to_string()).at(dir.display());
            std::fs::create_dir_all(&dir).map_err(failed)?;
            let mut file = tempfile::Builder::new();
            let file = file.prefix(".bench-").suffix(".gguf").tempfile_in(&dir);
            let mut file = file.map_err(failed)?;
            path = file.path().to_path_buf();
            write(&mut file, &path, plan, (dtype, &pool), interrupt)?;
            GgufFile::open(&path, Load::Map)
        }
    };
    let name = format!("{} with random {} weights", sizes.name, dtype.name());
    Ok(Opened {
        path: PathBuf::from(name),
        file: Arc::new(opened.map_err(|e| load::at(&path, e))?),
        lora: Vec::new(),
    })
}

fn write(
    out: &mut dyn Write,
    path: &Path,
    plan: &Plan,
    (dtype, pool): (Dtype, &[u8]),
    interrupt: &Interrupt,
) -> Outcome {
    let at = |e: std::io::Error| Failure::new(e.to_string()).at(path.display());
    let mut out = BufWriter::with_capacity(POOL_BYTES, out);
    let (mut start, mut random) = (0, Random::new());
    let mut fill = |i: usize, out: &mut dyn Write| {
        if interrupt.pressed() {
            return Err(geb::Error::Interrupted);
        }
        let tensor = &plan.tensors[i];
        let io = |e| geb::Error::Io {
            path: path.to_path_buf(),
            source: e,
        };
        if tensor.dims.len() == 1 {
            return (0..tensor.dims[0])
                .try_for_each(|_| out.write_all(&1f32.to_le_bytes()))
                .map_err(io);
        }
        if tensor.dtype != dtype {
            // Routers; theirs is the choice of experts, so no two are alike.
            let n = tensor.dims.iter().product::<u64>();
            return (0..n)
                .try_for_each(|_| out.write_all(&random.weight().to_le_bytes()))
                .map_err(io);
        }
        let rows = tensor.dims[1..].iter().product::<u64>() as usize;
        let row_bytes = tensor.dtype.row_bytes(tensor.dims[0] as usize).unwrap_or(0);
        let mut left = rows * row_bytes;
        while left > 0 {
            let part = &pool[start..pool.len().min(start + left)];
            out.write_all(part).map_err(io)?;
            left -= part.len();
            // Another start each time; always at a block.
            start = (start + part.len() + 7 * tensor.dtype.block_bytes()) % pool.len();
        }
        Ok(())
    };
    let fill: &mut Fill<'_> = &mut fill;
    write_to(&mut out, plan, fill)?;
    out.flush().map_err(at)
}

/// Keys and tensors of a Llama-shaped model.
fn plan(s: &Sizes, dtype: Dtype, kernels: &Kernels) -> Outcome<Plan> {
    for (what, n) in [("width", s.width), ("feed-forward width", s.ffn)] {
        if dtype.row_bytes(n as usize).is_none() {
            let block = dtype.block_len();
            return Err(Failure::usage(format!(
                "--type is {dtype}, its blocks of {block} do not divide the {what} {n}"
            ))
            .hint("take a type with blocks of 32, for example q8_0 or q4_0"));
        }
    }
    if !kernels.supports(dtype) {
        let known: Vec<&str> = Dtype::ALL
            .iter()
            .filter(|t| kernels.supports(**t))
            .map(|t| t.name())
            .collect();
        return Err(Failure::usage(format!(
            "--type is {dtype}, allowed: {}",
            known.join(", ")
        )));
    }
    let u32_of = |n: u64| MetaValue::U32(n as u32);
    let metadata = [
        ("general.architecture", MetaValue::Str("llama".into())),
        (
            "general.name",
            MetaValue::Str(format!("{} (random weights)", s.name)),
        ),
        ("llama.block_count", u32_of(s.layers)),
        ("llama.context_length", u32_of(s.context)),
        ("llama.embedding_length", u32_of(s.width)),
        ("llama.feed_forward_length", u32_of(s.ffn)),
        ("llama.attention.head_count", u32_of(s.heads)),
        ("llama.attention.head_count_kv", u32_of(s.kv_heads)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            MetaValue::F32(1e-5),
        ),
        ("llama.rope.dimension_count", u32_of(s.head_size)),
        ("llama.rope.freq_base", MetaValue::F32(s.rope_base)),
        ("llama.vocab_size", u32_of(s.vocab)),
        // There is no text; other runtimes want that said.
        ("tokenizer.ggml.model", MetaValue::Str("none".into())),
    ];
    let matrix = |name: String, cols: u64, rows: u64| PlannedTensor {
        name,
        dtype,
        dims: vec![cols, rows],
    };
    let norm = |name: String| PlannedTensor {
        name,
        dtype: Dtype::F32,
        dims: vec![s.width],
    };
    let mut tensors = vec![
        matrix("token_embd.weight".into(), s.width, s.vocab),
        norm("output_norm.weight".into()),
    ];
    if !s.tied {
        tensors.push(matrix("output.weight".into(), s.width, s.vocab));
    }
    let (q, kv) = (s.heads * s.head_size, s.kv_heads * s.head_size);
    for layer in 0..s.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([
            norm(name("attn_norm")),
            matrix(name("attn_q"), s.width, q),
            matrix(name("attn_k"), s.width, kv),
            matrix(name("attn_v"), s.width, kv),
            matrix(name("attn_output"), q, s.width),
            norm(name("ffn_norm")),
        ]);
        let Some((experts, _)) = s.experts else {
            tensors.extend([
                matrix(name("ffn_gate"), s.width, s.ffn),
                matrix(name("ffn_up"), s.width, s.ffn),
                matrix(name("ffn_down"), s.ffn, s.width),
            ]);
            continue;
        };
        tensors.push(PlannedTensor {
            name: name("ffn_gate_inp"),
            dtype: Dtype::F32,
            dims: vec![s.width, experts],
        });
        let stack = |role: &str, cols, rows| PlannedTensor {
            name: name(role),
            dtype,
            dims: vec![cols, rows, experts],
        };
        tensors.extend([
            stack("ffn_gate_exps", s.width, s.ffn),
            stack("ffn_up_exps", s.width, s.ffn),
            stack("ffn_down_exps", s.ffn, s.width),
        ]);
    }
    let mut metadata: Vec<(String, MetaValue)> = metadata
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
    if let Some((experts, used)) = s.experts {
        metadata.push(("llama.expert_count".into(), u32_of(experts)));
        metadata.push(("llama.expert_used_count".into(), u32_of(used)));
    }
    Ok(Plan { metadata, tensors })
}

/// About [`POOL_BYTES`] of blocks, whole ones, with weights of mean 0 and [`DEVIATION`]; of a type that is read
/// only, random codes. The same [`POOL_WEIGHTS`] repeat: searching for the scales of more would take longer
/// than it helps.
fn pool(dtype: Dtype, kernels: &Kernels) -> Vec<u8> {
    let mut random = Random::new();
    let bytes = if kernels.writes(dtype) {
        let weights: Vec<f32> = (0..POOL_WEIGHTS).map(|_| random.weight()).collect();
        let mut bytes = vec![0; POOL_WEIGHTS / dtype.block_len() * dtype.block_bytes()];
        kernels.quantize(dtype, &weights, &mut bytes);
        bytes
    } else {
        sample_blocks(dtype, POOL_WEIGHTS, || random.next() as u32)
    };
    bytes.repeat(POOL_BYTES.div_ceil(bytes.len()))
}

/// xorshift64*: fast, and the same on every machine.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// Of mean 0 and [`DEVIATION`].
    fn weight(&mut self) -> f32 {
        let range = DEVIATION * 3f64.sqrt();
        ((self.unit() * 2.0 - 1.0) * range) as f32
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24
    }

    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() & 0xff_ffff) as f64 / f64::from(1u32 << 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_are_finite_and_centred() {
        let kernels = Kernels::best().expect("kernels");
        for &dtype in Dtype::ALL.iter().filter(|t| kernels.supports(**t)) {
            let bytes = pool(dtype, kernels);
            let blocks = bytes.len() / dtype.block_bytes();
            let mut weights = vec![0f32; blocks * dtype.block_len()];
            kernels.dequantize(dtype, &bytes, &mut weights);
            assert!(weights.iter().all(|w| w.is_finite()), "{dtype}");
            let n = weights.len() as f64;
            let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
            let deviation = (weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / n).sqrt();
            let (low, high) = match kernels.writes(dtype) {
                true => (0.01, 0.04),
                false => (0.005, 1.0),
            };
            assert!(mean.abs() < 0.2 * deviation, "{dtype}: mean {mean}");
            assert!(
                (low..high).contains(&deviation),
                "{dtype}: deviation {deviation}"
            );
        }
    }

    #[test]
    fn a_vocabulary_is_padded_to_the_shape_and_never_cut() {
        let tokens = || vec!["a".to_owned(), "b".to_owned()];
        let keys = || {
            let types = MetaValue::I32s(vec![1, 1]);
            let types = ("tokenizer.ggml.token_type".to_owned(), types);
            vec![(TOKENS.to_owned(), MetaValue::Strs(tokens())), types]
        };
        let found = padded(keys(), 3).expect("room");
        let wanted = [&tokens()[..], &["[unused 2]".to_owned()]].concat();
        assert_eq!(found[0].1, MetaValue::Strs(wanted));
        assert_eq!(found[1].1, MetaValue::I32s(vec![1, 1, UNUSED]));
        assert!(padded(keys(), 1).is_err());
    }

    #[test]
    fn the_shapes_have_the_published_sizes() {
        let kernels = Kernels::best().expect("kernels");
        let weights = |shape: Shape| -> u64 {
            let plan = plan(&shape.sizes(), Dtype::Q8_0, kernels).expect("plan");
            plan.tensors
                .iter()
                .map(|t| t.dims.iter().product::<u64>())
                .sum()
        };
        assert_eq!(weights(Shape::Geb1_3b) / 100_000, 13_480);
        assert_eq!(weights(Shape::Smollm2), 134_515_008);
        // Mixtral 8x7B has 46.7 G weights in 32 layers.
        let layers = weights(Shape::Mixtral) - 2 * 32000 * 4096 - 4096;
        assert_eq!((layers / 7 * 32 + 2 * 32000 * 4096) / 10_000_000, 4_670);
    }
}
