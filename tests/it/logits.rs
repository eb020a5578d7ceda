//! Reference checkpoints, converted from their folders: logits, greedy continuation, batching,
//! thread counts, instruction levels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::model::arch::REGISTRY;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::{Dtype, Error};
use geb_convert::{self as convert, GebLayout, Options};
use geb_kernels::Level;
use safetensors::SafeTensors;

const CASES: &[&str] = &[
    "llama",
    "llama-tied-bf16",
    "llama3",
    "llama-bin",
    "mistral-swa",
    "geb",
    "geb-alt",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-longrope",
    "phi3-longrope-short",
    "minicpm",
    "olmo",
    "olmo2",
    "gemma",
    "gemma2",
    "gemma3",
    "smollm3",
    "granite",
    "ministral3",
    "glm4",
    "seed_oss",
    "ernie4_5",
    "hunyuan-dense",
    "exaone4",
    "cohere2",
    "arcee",
    "starcoder2",
    "stablelm",
    "phi2",
    "mixtral",
    "qwen3moe",
    "olmoe",
    "jetmoe",
    "chatglm3",
    "glm",
    "openelm",
    "gpt2",
    "gpt-neo",
    "gpt-neox",
    "bloom",
    "falcon",
    "falcon-new",
    "t5",
    "t5-relu",
    "rwkv5",
    "rwkv5:pth",
    "rwkv6",
    "rwkv6:pth",
    "rwkv7",
    "rwkv7:pth",
    "mamba",
    "mamba2",
    "lfm2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
];

fn root() -> PathBuf {
    Path::new(crate::common::ROOT).to_path_buf()
}

/// `geb-alt` has the other answers to GEB's layout questions.
fn layout(case: &str) -> GebLayout {
    match case {
        "geb-alt" => GebLayout {
            kv_interleaved: false,
            rope_full: false,
            rope_half_split: false,
            gate_first: false,
        },
        _ => GebLayout::default(),
    }
}

/// A case and, behind a colon, which of its checkpoints: `hf` if not said.
fn checkpoint(case: &str) -> PathBuf {
    let (case, folder) = case.split_once(':').unwrap_or((case, "hf"));
    root().join("tests/fixtures").join(case).join(folder)
}

fn model(case: &str, dtype: Dtype) -> Arc<Model> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let out = dir.path().join("model.gguf");
    let source = checkpoint(case);
    let options = Options {
        policy: dtype.into(),
        layout: layout(case),
        ..Options::default()
    };
    convert::convert(&source, &out, &options, &mut ()).unwrap_or_else(|e| panic!("{case}: {e}"));
    let file = GgufFile::open(&out, Load::Copy).expect("what was written reads back");
    Model::load(Arc::new(file)).unwrap_or_else(|e| panic!("{case}: {e}"))
}

fn session(model: &Arc<Model>, options: SessionOptions) -> Session {
    Session::new(model.clone(), &options).expect("session")
}

struct Expected {
    ids: Vec<u32>,
    /// What the decoder is given, where an encoder reads `ids`.
    decoder_ids: Option<Vec<u32>>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
    architecture: String,
    /// Context of the run, where it decides (long and short rotation factors).
    ctx: Option<usize>,
}

fn expected(case: &str) -> Expected {
    let path = checkpoint(case).with_file_name("expected.safetensors");
    let bytes = std::fs::read(&path).expect("a file of the repository");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let ids = |name: &str| -> Vec<u32> {
        let view = file.tensor(name).expect("tensor");
        let (chunks, _) = view.data().as_chunks::<8>();
        chunks
            .iter()
            .map(|c| i64::from_le_bytes(*c) as u32)
            .collect()
    };
    // GELU in its tanh form, where the reference has another.
    let tanh = file.tensor("logits_gelu_tanh");
    let view = tanh.or(file.tensor("logits")).expect("logits");
    let (chunks, _) = view.data().as_chunks::<4>();
    let logits = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
    let text =
        std::fs::read_to_string(path.with_extension("json")).expect("a file of the repository");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    Expected {
        ids: ids("input_ids"),
        decoder_ids: file
            .tensor("decoder_input_ids")
            .is_ok()
            .then(|| ids("decoder_input_ids")),
        logits,
        greedy: ids("greedy_ids"),
        architecture: json["gguf_architecture"].as_str().expect("a name").into(),
        ctx: json["run"]["n_ctx"].as_u64().map(|n| n as usize),
    }
}

impl Expected {
    /// The tokens to evaluate; an encoder reads its text first.
    fn prompt(&self, session: &mut Session) -> &[u32] {
        match &self.decoder_ids {
            Some(ids) => {
                session.encode(&self.ids).expect("encode");
                ids
            }
            None => &self.ids,
        }
    }
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("not empty").0 as u32
}

fn greedy(session: &mut Session, prompt: &[u32], n: usize) -> Vec<u32> {
    session.reset();
    let mut next = argmax(session.forward(prompt, Want::Last).expect("prompt"));
    let mut out = vec![next];
    while out.len() < n {
        next = argmax(session.forward(&[next], Want::Last).expect("token"));
        out.push(next);
    }
    out
}

/// Architectures that have no reference checkpoint, but a direct computation in `tests/it/experts.rs`.
const DIRECT: [&str; 1] = ["qwen2moe"];

#[test]
fn every_architecture_has_a_reference() {
    let checked: Vec<_> = CASES
        .iter()
        .map(|case| expected(case).architecture)
        .collect();
    for arch in REGISTRY {
        let name = arch.name;
        let direct = DIRECT.contains(&name);
        assert!(
            direct || checked.iter().any(|c| c == name),
            "{name}: no case"
        );
    }
}

#[test]
fn f32_logits_and_greedy_ids_equal_the_reference_on_every_level() {
    for &case in CASES {
        let (model, want) = (model(case, Dtype::F32), expected(case));
        for level in Level::available() {
            let mut s = session(
                &model,
                SessionOptions {
                    level: Some(level),
                    threads: 2,
                    ctx: want.ctx,
                    ..Default::default()
                },
            );
            let prompt = want.prompt(&mut s);
            let got = s.forward(prompt, Want::All).expect("forward");
            let error = worst(got, &want.logits);
            println!("{case} {}: largest difference {error:.2e}", level.name());
            // The references' own F32 noise is below 1e-4; 2e-3 is their stated tolerance.
            assert!(error < 2e-3, "{case} {}: {error}", level.name());
            // A decoder begins with one token.
            let prompt = match want.decoder_ids {
                Some(_) => &prompt[..1],
                None => prompt,
            };
            assert_eq!(
                greedy(&mut s, prompt, want.greedy.len()),
                want.greedy,
                "{case}"
            );
        }
    }
}

/// Files that llama.cpp's converter made of the checkpoints, as they are and with their weights in F32.
#[test]
fn files_of_another_converter_give_the_logits_of_the_reference() {
    let entries = std::fs::read_dir(root().join("tests/fixtures-gguf")).expect("a folder");
    let paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    assert!(paths.len() >= 19, "{paths:?}");
    for path in paths {
        let case = path.file_stem().expect("a name").to_string_lossy();
        let want = expected(&case);
        let options = Options {
            policy: Dtype::F32.into(),
            ..Options::default()
        };
        let (widened, _) = convert::convert_to_vec(&path, &options).expect("F32");
        // Some levels round what they multiply BF16 weights with.
        for (file, level) in [
            (GgufFile::open(&path, Load::Copy), Some(Level::Scalar)),
            (GgufFile::from_bytes(widened), None),
        ] {
            let model = Model::load(Arc::new(file.expect("GGUF")));
            let model = model.unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(model.config().arch.name, want.architecture);
            let options = SessionOptions {
                level,
                ..Default::default()
            };
            let mut s = session(&model, options);
            let got = s.forward(&want.ids, Want::All).expect("forward");
            let error = worst(got, &want.logits);
            println!("{case} {level:?}: largest difference {error:.2e}");
            assert!(error < 2e-3, "{case} {level:?}: {error}");
            assert_eq!(
                greedy(&mut s, &want.ids, want.greedy.len()),
                want.greedy,
                "{case}"
            );
        }
    }
}

/// Logits of `ids`, `n` of them at a time.
fn in_pieces(session: &mut Session, ids: &[u32], n: usize) -> Vec<f32> {
    let logits = |ids| session.forward(ids, Want::All).expect("forward").to_vec();
    ids.chunks(n).flat_map(logits).collect()
}

#[test]
fn batching_and_threads_do_not_change_the_result() {
    for case in [
        "llama",
        "mistral-swa",
        "geb-alt",
        "mixtral",
        "olmoe",
        "jetmoe",
        "bloom",
        "gpt-neo",
        "falcon",
        "gemma2",
        "smollm3",
        "ministral3",
        "hunyuan-dense",
        "exaone4",
        "cohere2",
        "arcee",
        "phi2",
        "t5",
        "rwkv6",
        "rwkv7",
        "mamba",
        "mamba2",
        "lfm2",
        "qwen35",
    ] {
        let (model, want) = (model(case, Dtype::F32), expected(case));
        let options = SessionOptions {
            threads: 1,
            ..Default::default()
        };
        let mut s = session(&model, options);
        let prompt = want.prompt(&mut s);
        let whole = s.forward(prompt, Want::All).expect("forward").to_vec();
        for threads in [1, 2, 3, 4] {
            let mut s = session(
                &model,
                SessionOptions {
                    threads,
                    ..Default::default()
                },
            );
            want.prompt(&mut s);
            let got = s.forward(prompt, Want::All).expect("forward");
            assert_eq!(got, whole, "{case}: {threads} threads");
            for step in [1, 5, 13] {
                s.reset();
                let got = in_pieces(&mut s, prompt, step);
                let bound = 1e-4 * whole.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(worst(&got, &whole) <= bound, "{case}: pieces of {step}");
            }
        }
    }
}

#[test]
fn prefix_reuse_equals_a_fresh_run() {
    let (model, want) = (model("llama3", Dtype::Q8_0), expected("llama3"));
    let mut s = session(&model, SessionOptions::default());
    s.forward(&want.ids, Want::None).expect("forward");
    let mut other = want.ids[..10].to_vec();
    other.extend([3, 4, 5]);
    assert_eq!(s.common_prefix(&other), 10);
    s.truncate(10);
    let reused = s
        .forward(&other[10..], Want::Last)
        .expect("forward")
        .to_vec();
    s.reset();
    s.forward(&other[..10], Want::None).expect("forward");
    assert_eq!(
        s.forward(&other[10..], Want::Last).expect("forward"),
        reused
    );
    assert_eq!(s.tokens(), other);
}

#[test]
fn quantized_models_stay_close() {
    // Share of a position's logits' spread; Q8_0 is documented at 1 to 3 %.
    for (dtype, bound) in [
        (Dtype::F16, 0.002),
        (Dtype::BF16, 0.02),
        (Dtype::Q8_0, 0.03),
        (Dtype::Q4_1, 0.5),
        (Dtype::Q4_0, 0.5),
    ] {
        let (model, want) = (model("geb", dtype), expected("geb"));
        let mut s = session(
            &model,
            SessionOptions {
                kv: KvChoice::F16,
                ..Default::default()
            },
        );
        let got = s.forward(&want.ids, Want::All).expect("forward");
        let mean = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / want.logits.len() as f64;
        let average = mean(&mut want.logits.iter().map(|v| f64::from(*v)));
        let spread = mean(
            &mut want
                .logits
                .iter()
                .map(|v| (f64::from(*v) - average).powi(2)),
        )
        .sqrt();
        let error = mean(
            &mut got
                .iter()
                .zip(&want.logits)
                .map(|(a, b)| f64::from((a - b).abs())),
        );
        println!(
            "geb {dtype}: mean difference {:.4} of the logits' deviation",
            error / spread
        );
        assert!(error / spread < bound, "{dtype}: {}", error / spread);
    }
}

#[test]
fn geb_nano_gives_its_published_logits() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let out = dir.path().join("nano.gguf");
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    convert::convert(&root().join("assets/geb-nano/hf"), &out, &options, &mut ()).expect("convert");
    let file = GgufFile::open(&out, Load::Map).expect("open");
    let model = Model::load(Arc::new(file)).expect("load");
    let bytes =
        std::fs::read(root().join("assets/geb-nano/expected_logits.safetensors")).expect("file");
    let st = SafeTensors::deserialize(&bytes).expect("safetensors");
    let (ids, _) = st.tensor("input_ids").expect("ids").data().as_chunks::<8>();
    let ids: Vec<u32> = ids.iter().map(|c| i64::from_le_bytes(*c) as u32).collect();
    let (rows, _) = st.tensor("logits").expect("logits").data().as_chunks::<4>();
    let want: Vec<f32> = rows.iter().map(|c| f32::from_le_bytes(*c)).collect();
    let mut s = session(&model, SessionOptions::default());
    // 32 English tokens, then 32 Chinese ones: two texts or one, the file does not say.
    let one = s.forward(&ids, Want::All).expect("forward").to_vec();
    s.reset();
    let mut two = s.forward(&ids[..32], Want::All).expect("forward").to_vec();
    s.reset();
    two.extend_from_slice(s.forward(&ids[32..], Want::All).expect("forward"));
    let error = worst(&one, &want).min(worst(&two, &want));
    assert!(error < 2e-3, "largest difference {error}");
}

#[test]
fn requests_outside_their_range_are_refused_and_change_nothing() {
    let model = model("llama", Dtype::Q8_0);
    let vocab = model.config().vocab as u32;
    let options = SessionOptions {
        ctx: Some(8),
        ..Default::default()
    };
    let mut s = session(&model, options.clone());
    s.forward(&[1, 2, 3], Want::None).expect("fits");
    assert!(matches!(
        s.forward(&[vocab], Want::Last),
        Err(Error::Request { .. })
    ));
    assert!(matches!(
        s.forward(&[1; 6], Want::Last),
        Err(Error::Request { .. })
    ));
    assert_eq!(s.tokens(), [1, 2, 3]);
    s.forward(&[1; 5], Want::Last).expect("exactly full");
    let trained = model.config().context_length;
    let whole = SessionOptions {
        ctx: Some(0),
        ..options.clone()
    };
    assert_eq!(session(&model, whole).ctx(), trained);
    for ctx in [trained + 1, usize::MAX] {
        let options = SessionOptions {
            ctx: Some(ctx),
            ..options.clone()
        };
        assert!(matches!(
            Session::new(model.clone(), &options),
            Err(Error::Request { .. })
        ));
    }
    let cancel = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mut s = session(
        &model,
        SessionOptions {
            cancel: Some(cancel),
            ..options
        },
    );
    assert!(matches!(
        s.forward(&[1], Want::Last),
        Err(Error::Interrupted)
    ));
    assert_eq!(s.pos(), 0);
}

/// Any ids of a model, the same ones in every run.
fn some_ids(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.config().vocab;
    (0..n).map(|i| (i * 7919 % vocab) as u32).collect()
}

fn nano(dtype: Dtype) -> Arc<Model> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let out = dir.path().join("nano.gguf");
    let options = Options {
        policy: dtype.into(),
        ..Options::default()
    };
    convert::convert(&root().join("assets/geb-nano/hf"), &out, &options, &mut ()).expect("convert");
    let file = GgufFile::open(&out, Load::Copy).expect("open");
    Model::load(Arc::new(file)).expect("load")
}

/// What speculation relies on: several tokens at once give the bits of the same tokens one by one.
/// `firsts`: positions where the batches start, each followed by `tokens` tokens.
fn batches_equal_single_tokens(model: &Arc<Model>, level: Level, firsts: &[usize], tokens: usize) {
    let last = firsts.iter().max().expect("a position");
    let ids = some_ids(model, last + tokens);
    for kv in [KvChoice::F32, KvChoice::F16, KvChoice::Q8_0] {
        for threads in [1, 3] {
            let options = SessionOptions {
                level: Some(level),
                threads,
                kv,
                ..Default::default()
            };
            let mut s = session(model, options);
            s.forward(&ids[..*last], Want::None).expect("context");
            for &first in firsts {
                let ids = &ids[..first + tokens];
                s.truncate(first);
                let want = in_pieces(&mut s, &ids[first..], 1);
                for n in [2, 3, 4, 5, 9, 16, tokens] {
                    s.truncate(first);
                    assert_eq!(s.pos(), first);
                    let got = in_pieces(&mut s, &ids[first..], n);
                    let name = format!("{} {kv:?} {threads} threads", level.name());
                    assert!(got == want, "{name}: batches of {n} after {first}");
                }
            }
        }
    }
}

#[test]
fn batches_give_the_bits_of_single_tokens() {
    // The scalar level is slow; products at all levels are compared in the kernels' own tests.
    for level in Level::available()
        .into_iter()
        .filter(|l| *l > Level::Scalar)
    {
        for dtype in [Dtype::F32, Dtype::Q8_0, Dtype::Q4_0] {
            // Over the ends of a block, of the first piece, and near the end of the context.
            batches_equal_single_tokens(&nano(dtype), level, &[488, 245, 58], 18);
        }
        // The window ends inside the batch.
        for case in [
            "mistral-swa",
            "gemma2",
            "smollm3",
            "ministral3",
            "hunyuan-dense",
            "cohere2",
        ] {
            batches_equal_single_tokens(&model(case, Dtype::F32), level, &[60, 3], 30);
        }
        for dtype in [Dtype::F32, Dtype::Q8_0] {
            batches_equal_single_tokens(&model("qwen3moe", dtype), level, &[70, 5], 40);
        }
    }
}
