//! Further heads (multi-token prediction): what a checkpoint of them becomes, and that their logits are those
//! of a page of loops.

use std::path::Path;
use std::sync::Arc;

use crate::common::changed::Changed;
use crate::common::torch::{Tensors, torch_file};
use geb::gguf::GgufFile;
use geb::gguf::writer::MetaValue;
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb::speculate::ExtraHeads;
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};
use safetensors::tensor::{Dtype as Elem, TensorView};
use serde_json::{Value, json};

const WIDTH: usize = 32;
const HEADS: usize = 4;
const KV: usize = 2;
const D: usize = WIDTH / HEADS;
const FFN: usize = 48;
/// Rows of the vocabulary of the borrowed tokenizer.
const VOCAB: usize = 578;
/// Layers, the last of which is the first head.
const LAYERS: usize = 3;
/// Further heads.
const FURTHER: usize = 3;

fn checkpoint() -> Tensors {
    let mut state = 11u64;
    let mut random = |scale: f32| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let mut all = Tensors::new();
    let mut add = |name: String, shape: &[usize], scale: f32| {
        let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
        let n = shape.iter().product();
        let values = (0..n).map(|_| centre + random(scale)).collect();
        all.insert(name, (shape.to_vec(), values));
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, WIDTH], 1.0);
    add("model.norm.weight".into(), &[WIDTH], 0.3);
    add("lm_head.weight".into(), &[VOCAB, WIDTH], 0.6);
    let layers = (0..LAYERS).map(|l| format!("model.layers.{l}"));
    for stem in layers.chain((0..FURTHER).map(|i| format!("extra_heads.{i}"))) {
        let mut part = |role: &str, shape: &[usize], scale| {
            add(format!("{stem}.{role}.weight"), shape, scale);
        };
        part("input_layernorm", &[WIDTH], 0.3);
        part("post_attention_layernorm", &[WIDTH], 0.3);
        part("self_attn.q_proj", &[WIDTH, WIDTH], 0.5);
        part("self_attn.k_proj", &[KV * D, WIDTH], 0.5);
        part("self_attn.v_proj", &[KV * D, WIDTH], 0.5);
        part("self_attn.o_proj", &[WIDTH, WIDTH], 0.4);
        part("mlp.gate_proj", &[FFN, WIDTH], 0.4);
        part("mlp.up_proj", &[FFN, WIDTH], 0.4);
        part("mlp.down_proj", &[WIDTH, FFN], 0.4);
    }
    all
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "num_hidden_layers": LAYERS,
        "n_future_tokens": FURTHER + 1, "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_attention_heads": HEADS, "num_key_value_heads": KV, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "vocab_size": VOCAB, "rope_theta": 10000.0,
        "bos_token_id": 1, "eos_token_id": 2,
    })
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn tokenizer_into(dir: &Path) {
    let model = "tests/fixtures/llama/hf/tokenizer.model";
    std::fs::copy(
        Path::new(crate::common::ROOT).join(model),
        dir.join("tokenizer.model"),
    )
    .expect("a file of the repository");
}

/// A folder in the form of Hugging Face.
fn folder(tensors: &Tensors, config: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    let bytes: Vec<_> = (tensors.iter())
        .map(|(name, (shape, values))| (name, shape, bytes_of(values)))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Elem::F32, shape.to_vec(), bytes).expect("a tensor");
        (name.as_str(), view)
    });
    let file = safetensors::serialize(views, None).expect("a checkpoint");
    std::fs::write(dir.path().join("model.safetensors"), file).expect("writes");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("writes");
    tokenizer_into(dir.path());
    dir
}

fn converted(tensors: &Tensors, config: &Value, dtype: Dtype) -> Result<Vec<u8>, Error> {
    convert_folder(folder(tensors, config).path(), dtype, false)
}

fn converted_without_heads(tensors: &Tensors) -> Vec<u8> {
    convert_folder(folder(tensors, &config()).path(), Dtype::Q8_0, true).expect("converts")
}

fn convert_folder(dir: &Path, dtype: Dtype, no_heads: bool) -> Result<Vec<u8>, Error> {
    let options = Options {
        policy: dtype.into(),
        no_heads,
        ..Options::default()
    };
    Ok(convert::convert_to_vec(dir, &options)?.0)
}

fn load(bytes: Vec<u8>) -> Result<Arc<Model>, Error> {
    Model::load(Arc::new(GgufFile::from_bytes(bytes).expect("a valid file")))
}

fn session_of(model: &Arc<Model>, threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        extra_heads: true,
        ..Default::default()
    };
    Session::new(model.clone(), &options).expect("session")
}

// ---- the page of loops, in F64 ----

fn times(tensors: &Tensors, stem: &str, x: &[f64]) -> Vec<f64> {
    let (_, values) = &tensors[&format!("{stem}.weight")];
    let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
    values.chunks(x.len()).map(row).collect()
}

fn norm(tensors: &Tensors, stem: &str, x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let weights = &tensors[&format!("{stem}.weight")].1;
    let one = |(x, w): (&f64, &f32)| x / (mean + 1e-5).sqrt() * f64::from(*w);
    x.iter().zip(weights).map(one).collect()
}

/// Rotates the pairs `(i, i + D/2)` of each head.
fn rotate(x: &mut [f64], position: usize) {
    for head in x.chunks_mut(D) {
        for i in 0..D / 2 {
            let angle = position as f64 / 10000f64.powf(2.0 * i as f64 / D as f64);
            let (a, b) = (head[i], head[i + D / 2]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + D / 2] = b * angle.cos() + a * angle.sin();
        }
    }
}

/// What a layer makes of all positions.
fn layer(tensors: &Tensors, stem: &str, xs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let name = |role: &str| format!("{stem}.{role}");
    let (mut keys, mut values, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for (t, x) in xs.iter().enumerate() {
        let h = norm(tensors, &name("input_layernorm"), x);
        let mut q = times(tensors, &name("self_attn.q_proj"), &h);
        let mut k = times(tensors, &name("self_attn.k_proj"), &h);
        rotate(&mut q, t);
        rotate(&mut k, t);
        keys.push(k);
        values.push(times(tensors, &name("self_attn.v_proj"), &h));
        let mut mixed = Vec::new();
        for (head, q) in q.chunks(D).enumerate() {
            let at = head / (HEADS / KV) * D;
            let score = |k: &Vec<f64>| -> f64 {
                let dot: f64 = q.iter().zip(&k[at..at + D]).map(|(a, b)| a * b).sum();
                (dot / (D as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = keys.iter().map(score).collect();
            let sum: f64 = scores.iter().sum();
            mixed.extend((at..at + D).map(|i| {
                let parts = scores
                    .iter()
                    .zip(&values)
                    .map(|(s, v): (_, &Vec<f64>)| s * v[i]);
                parts.sum::<f64>() / sum
            }));
        }
        let add =
            |x: &[f64], y: Vec<f64>| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x + y).collect() };
        let x = add(x, times(tensors, &name("self_attn.o_proj"), &mixed));
        let h = norm(tensors, &name("post_attention_layernorm"), &x);
        let gate = times(tensors, &name("mlp.gate_proj"), &h);
        let up = times(tensors, &name("mlp.up_proj"), &h);
        let inner: Vec<f64> = gate
            .iter()
            .zip(up)
            .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
            .collect();
        out.push(add(&x, times(tensors, &name("mlp.down_proj"), &inner)));
    }
    out
}

/// Logits of every head at every position: `[heads][positions][vocab]`, the model's own head first.
fn plain_logits(tensors: &Tensors, ids: &[u32]) -> Vec<Vec<Vec<f64>>> {
    let table = &tensors["model.embed_tokens.weight"].1;
    let row = |id: &u32| {
        let at = *id as usize * WIDTH;
        table[at..at + WIDTH]
            .iter()
            .map(|v| f64::from(*v))
            .collect()
    };
    let mut trunk: Vec<Vec<f64>> = ids.iter().map(row).collect();
    for l in 0..LAYERS - 1 {
        trunk = layer(tensors, &format!("model.layers.{l}"), &trunk);
    }
    let own = format!("model.layers.{}", LAYERS - 1);
    let further = (0..FURTHER).map(|i| format!("extra_heads.{i}"));
    let heads = std::iter::once(own).chain(further);
    heads
        .map(|stem| {
            let states = layer(tensors, &stem, &trunk);
            let logits = |x: &Vec<f64>| times(tensors, "lm_head", &norm(tensors, "model.norm", x));
            states.iter().map(logits).collect()
        })
        .collect()
}

fn worst(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs();
    got.iter().zip(want).map(difference).fold(0.0, f64::max)
}

fn some_ids(n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % VOCAB) as u32).collect()
}

#[test]
fn logits_of_every_head_equal_a_plain_loop() {
    let tensors = checkpoint();
    let model = load(converted(&tensors, &config(), Dtype::F32).expect("converts")).expect("loads");
    assert_eq!(model.config().extra_heads, FURTHER);
    let ids = some_ids(40);
    let want = plain_logits(&tensors, &ids);
    let mut session = session_of(&model, 2);
    assert_eq!(session.extra_heads(), FURTHER);
    let check = |session: &mut Session, pieces: &[usize]| {
        let mut at = session.pos();
        for (i, n) in pieces.iter().enumerate() {
            let got = session
                .forward(&ids[at..at + n], Want::Last)
                .expect("forward");
            at += n;
            assert!(worst(got, &want[0][at - 1]) < 1e-4);
            // Heads are asked now and then, and not always all of them.
            let heads = [FURTHER, 1, 0, 2][i % 4];
            let got = session.look_ahead(heads).expect("heads");
            for (head, got) in got.chunks(VOCAB).enumerate() {
                let error = worst(got, &want[1 + head][at - 1]);
                assert!(error < 1e-4, "head {head} at {at}: {error}");
            }
            assert_eq!(got.len(), heads * VOCAB);
        }
    };
    check(&mut session, &[5, 1, 1, 3, 10, 1, 1, 18]);
    // Back to an earlier position: what the heads had seen behind it is gone.
    session.forward(&[], Want::None).expect("nothing");
    for kept in [39, 12, 30, 3, 0] {
        session.truncate(kept);
        let kept = session.pos();
        check(&mut session, &[40 - kept]);
        // Another text behind the same beginning, then the first again.
        session.truncate(kept.min(7));
        session.forward(&[9, 8, 7, 6], Want::Last).expect("forward");
        session.look_ahead(FURTHER).expect("heads");
        session.truncate(kept.min(7));
        let at = session.pos();
        session.forward(&ids[at..], Want::None).expect("forward");
    }
}

#[test]
fn heads_give_the_same_bits_for_any_batches_and_threads() {
    let model = load(converted(&checkpoint(), &config(), Dtype::Q8_0).expect("converts"));
    let model = model.expect("loads");
    let ids = some_ids(60);
    let run = |threads: usize, piece: usize, ask: bool| {
        let mut session = session_of(&model, threads);
        for ids in ids.chunks(piece) {
            session.forward(ids, Want::None).expect("forward");
            if ask {
                session.look_ahead(FURTHER).expect("heads");
            }
        }
        session.look_ahead(FURTHER).expect("heads").to_vec()
    };
    let want = run(1, 60, false);
    for (threads, piece, ask) in [(1, 1, true), (3, 1, false), (2, 7, true), (4, 60, true)] {
        assert!(
            run(threads, piece, ask) == want,
            "{threads} threads, pieces of {piece}"
        );
    }
}

/// A ring loses what a head that lags behind, or a session that goes back, may still need.
#[test]
fn windows_and_going_back_change_nothing() {
    let mut config = config();
    (config["sliding_window"], config["max_position_embeddings"]) = (json!(16), json!(1024));
    let model = load(converted(&checkpoint(), &config, Dtype::F32).expect("converts"));
    let model = model.expect("loads");
    let ids = some_ids(800);
    let mut used = session_of(&model, 2);
    used.forward(&ids[..300], Want::None).expect("forward");
    used.look_ahead(1).expect("heads");
    used.forward(&ids[300..700], Want::None).expect("forward");
    for (kept, upto, heads) in [
        (700, 700, 2),
        (690, 800, 3),
        (650, 660, 3),
        (400, 640, 1),
        (20, 700, 3),
    ] {
        used.truncate(kept);
        let at = used.pos();
        used.forward(&ids[at..upto], Want::None).expect("forward");
        let got = used.look_ahead(heads).expect("heads").to_vec();
        let mut fresh = session_of(&model, 1);
        fresh.forward(&ids[..upto], Want::None).expect("forward");
        assert!(
            got == fresh.look_ahead(heads).expect("heads"),
            "{kept} {upto}"
        );
    }
}

/// Texts that take turns in one session keep what the heads go by.
#[test]
fn branches_keep_what_heads_go_by() {
    let model = load(converted(&checkpoint(), &config(), Dtype::F32).expect("converts"));
    let mut session = session_of(&model.expect("loads"), 2);
    let ids = some_ids(30);
    session.forward(&ids, Want::None).expect("forward");
    let own = session.look_ahead(FURTHER).expect("heads").to_vec();
    let branch = session.branch().expect("a branch");
    session.truncate(20);
    session.forward(&[5, 6, 7], Want::None).expect("forward");
    let other = session.look_ahead(FURTHER).expect("heads").to_vec();
    let second = session.branch().expect("a branch");
    for (branch, want) in [(&branch, &own), (&second, &other), (&branch, &own)] {
        session.resume(branch).expect("held");
        assert!(session.look_ahead(FURTHER).expect("heads") == want);
    }
}

#[test]
fn heads_that_are_not_there_are_not_asked() {
    let model = load(converted(&checkpoint(), &config(), Dtype::F32).expect("converts"));
    let model = model.expect("loads");
    let mut session = session_of(&model, 1);
    let error = session.look_ahead(1).unwrap_err().to_string();
    assert!(error.contains("after the first token"), "{error}");
    session.forward(&[1, 2], Want::Last).expect("forward");
    let error = session.look_ahead(FURTHER + 1).unwrap_err().to_string();
    assert!(error.contains("at most 3"), "{error}");
    let mut plain = Session::new(model, &SessionOptions::default()).expect("session");
    assert_eq!(plain.extra_heads(), 0);
    assert!(ExtraHeads::new(&plain).is_none());
    assert!(plain.memory().kv < session.memory().kv);
    plain.forward(&[1, 2], Want::Last).expect("forward");
    plain.look_ahead(1).expect_err("they were not asked for");
}

// ---- checkpoints ----

/// The same weights under the names of the authors, with rotated pairs side by side.
fn authors_form(tensors: &Tensors) -> Tensors {
    const NAMES: [(&str, &str); 13] = [
        ("model.embed_tokens", "tok_embeddings"),
        ("model.layers", "layers"),
        ("model.norm", "norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
    ];
    let mut out = Tensors::new();
    for (name, (shape, values)) in tensors {
        let mut values = values.clone();
        if name.contains("q_proj") || name.contains("k_proj") {
            let rows: Vec<&[f32]> = values.chunks(WIDTH).collect();
            // Rows i and i + D/2 of a head become 2i and 2i + 1.
            let of = |r: usize| r / D * D + r % 2 * (D / 2) + r % D / 2;
            values = (0..rows.len())
                .map(of)
                .flat_map(|r| rows[r].to_vec())
                .collect();
        }
        let renamed = NAMES
            .iter()
            .fold(name.clone(), |n, (from, to)| n.replace(from, to));
        out.insert(renamed, (shape.clone(), values));
    }
    out
}

fn params() -> Value {
    json!({
        "dim": WIDTH, "n_layers": LAYERS + FURTHER, "n_heads": HEADS, "n_kv_heads": KV,
        "n_future_tokens": FURTHER + 1, "norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 16,
        "max_seq_len": 128,
    })
}

fn converted_from_authors(
    tensors: &Tensors,
    params: &Value,
    dtype: Dtype,
) -> Result<Vec<u8>, Error> {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("consolidated.pth"), torch_file(tensors)).expect("writes");
    std::fs::write(dir.path().join("params.json"), params.to_string()).expect("writes");
    tokenizer_into(dir.path());
    convert_folder(dir.path(), dtype, false)
}

#[test]
fn both_forms_of_a_checkpoint_are_one_model() {
    let tensors = checkpoint();
    let hub = converted(&tensors, &config(), Dtype::Q8_0).expect("converts");
    let hub = GgufFile::from_bytes(hub).expect("own file");
    let mut authors = authors_form(&tensors);
    authors.insert("rope.freqs".into(), (vec![D / 2], vec![1.0; D / 2]));
    let own = converted_from_authors(&authors, &params(), Dtype::Q8_0).expect("converts");
    let own = GgufFile::from_bytes(own).expect("own file");
    let names = |f: &GgufFile| {
        f.tensors()
            .map(|t| t.info().name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&hub), names(&own));
    for t in hub.tensors() {
        let name = &t.info().name;
        assert!(own.tensor(name).expect(name).bytes() == t.bytes(), "{name}");
    }
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.mtp_head_count",
        "llama.context_length",
        "llama.attention.head_count_kv",
        "llama.feed_forward_length",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.tokens",
    ] {
        let [a, b] = [&hub, &own].map(|f| f.get(key).map(MetaValue::from_value));
        assert!(a == b && a.is_some(), "{key}");
    }
    let number = |key| hub.int(key, 0..=100).expect("a number");
    assert_eq!(number("llama.block_count"), Some(LAYERS as u64));
    assert_eq!(number("llama.mtp_head_count"), Some(FURTHER as u64));
    // They are quantized like the layer in whose place they stand.
    for role in ["attn_q", "attn_output", "ffn_gate", "ffn_down", "attn_norm"] {
        let dtype = |stem: &str| {
            hub.tensor(&format!("{stem}.{role}.weight"))
                .expect(role)
                .info()
                .dtype
        };
        for i in 0..FURTHER {
            assert_eq!(dtype(&format!("mtp.{i}")), dtype("blk.2"), "{role}");
        }
    }
    // Left out, nothing of them is there.
    let plain = converted_without_heads(&tensors);
    let plain = GgufFile::from_bytes(plain).expect("own file");
    assert!(plain.get("llama.mtp_head_count").is_none());
    assert_eq!(plain.tensors().count(), hub.tensors().count() - 9 * FURTHER);
    assert!(plain.tensor("mtp.0.attn_q.weight").is_none());
    // Without n_future_tokens in params.json it is a Llama checkpoint like any other.
    let mut plain = params();
    plain["n_layers"] = json!(LAYERS);
    plain
        .as_object_mut()
        .expect("an object")
        .remove("n_future_tokens");
    authors.retain(|name, _| !name.starts_with("extra_heads"));
    let plain = converted_from_authors(&authors, &plain, Dtype::F32).expect("converts");
    assert_eq!(load(plain).expect("loads").config().extra_heads, 0);
}

#[test]
fn heads_too_few_or_too_many_are_one_line() {
    let refused = |tensors: &Tensors, config: &Value, want: &[&str]| {
        let error = converted(tensors, config, Dtype::F32)
            .unwrap_err()
            .to_string();
        for want in want {
            assert!(error.contains(want), "{error}");
        }
        // One line for what is wrong, and one that says so.
        assert!(error.lines().count() <= 1 + want.len(), "{error}");
    };
    let tensors = checkpoint();
    let with = |n: usize| {
        let mut config = config();
        config["n_future_tokens"] = json!(n);
        config
    };
    refused(
        &tensors,
        &with(5),
        &["extra_heads.3: missing, n_future_tokens is 5: 4 further heads"],
    );
    refused(
        &tensors,
        &with(3),
        &["extra_heads.2: unexpected, n_future_tokens is 3: 2 further heads"],
    );
    refused(&tensors, &with(0), &["n_future_tokens"]);
    let mut less = tensors.clone();
    less.remove("extra_heads.1.mlp.up_proj.weight");
    refused(
        &less,
        &config(),
        &["extra_heads.1.mlp.up_proj.weight: missing"],
    );
    let mut other = tensors.clone();
    other.insert("extra_heads.1.mlp.gate.weight".into(), (vec![1], vec![1.0]));
    refused(
        &other,
        &config(),
        &["extra_heads.1.mlp.gate.weight: not part of"],
    );
    let mut params = params();
    for (n, want) in [
        (7, "n_future_tokens is 7, allowed: an integer in 1..=6"),
        (3, "layers.3.attention.wq"),
    ] {
        params["n_future_tokens"] = json!(n);
        let error = converted_from_authors(&authors_form(&tensors), &params, Dtype::F32);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn files_that_contradict_themselves_are_refused() {
    let file = converted(&checkpoint(), &config(), Dtype::F32).expect("converts");
    let file = GgufFile::from_bytes(file).expect("own file");
    let refused = |change: &dyn Fn(&mut Changed), want: &[&str]| {
        let mut changed = Changed::of(&file);
        change(&mut changed);
        let error = load(changed.bytes()).map(|_| ()).unwrap_err().to_string();
        for want in want {
            assert!(error.contains(want), "{error}");
        }
        assert!(error.lines().count() <= 1 + want.len(), "{error}");
    };
    let count = |n: u32| {
        move |c: &mut Changed| _ = c.plan.set_meta("llama.mtp_head_count", MetaValue::U32(n))
    };
    refused(&count(4), &["mtp.3: missing, llama.mtp_head_count is 4"]);
    refused(&count(2), &["mtp.2: unexpected, llama.mtp_head_count is 2"]);
    refused(
        &count(0),
        &[
            "mtp.0: unexpected",
            "mtp.1: unexpected",
            "mtp.2: unexpected",
        ],
    );
    refused(
        &count(u32::MAX),
        &["llama.mtp_head_count is 4294967295 (u32), allowed: an integer in 0..="],
    );
    refused(
        &|c| c.remove("mtp.1.attn_v"),
        &["mtp.1.attn_v.weight: missing, expected [16, 32]"],
    );
    refused(
        &|c| c.remove("mtp.1."),
        &["mtp.1: missing, llama.mtp_head_count is 3"],
    );
    let small = |c: &mut Changed| {
        c.remove("mtp.0.ffn_up.weight");
        c.push(
            "mtp.0.ffn_up.weight",
            &file.tensor("blk.0.ffn_down.weight").expect("a tensor"),
        );
    };
    refused(
        &small,
        &["mtp.0.ffn_up.weight: shape [32, 48], expected [48, 32]"],
    );
    let more = |c: &mut Changed| {
        c.push(
            "mtp.0.attn_x.weight",
            &file.tensor("blk.0.attn_k.weight").expect("a tensor"),
        )
    };
    refused(
        &more,
        &["mtp.0.attn_x.weight: not part of architecture llama"],
    );
}

#[test]
fn further_heads_are_no_work_of_a_token() {
    let file = converted(&checkpoint(), &config(), Dtype::F32).expect("converts");
    let with = GgufFile::from_bytes(file).expect("own file");
    let mut changed = Changed::of(&with);
    changed.remove("mtp.");
    changed
        .plan
        .set_meta("llama.mtp_head_count", MetaValue::U32(0));
    let (with, without) = (
        Model::load(Arc::new(with)).expect("loads"),
        load(changed.bytes()).expect("loads"),
    );
    assert_eq!(with.bytes_per_token(), without.bytes_per_token());
    assert_eq!(with.products_per_token(), without.products_per_token());
    // And its next tokens are those of the file without.
    let ids = some_ids(30);
    let logits = [with, without].map(|m| {
        session_of(&m, 2)
            .forward(&ids, Want::All)
            .expect("forward")
            .to_vec()
    });
    assert!(logits[0] == logits[1]);
}
