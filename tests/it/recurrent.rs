//! Models that keep a state: going back, failing, saving, speculation, exactness of batches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::torch::{Tensors, torch_file};
use geb::chat::{ChatTemplate, Message};
use geb::generate::{GenerateOptions, generate, generate_with};
use geb::gguf::writer::{MetaValue, Plan, PlannedTensor, write_to};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb::speculate::{EarlyExit, Speculation};
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};
use serde_json::Value;

/// From LFM2 on with attention in other layers.
const CASES: [&str; 8] = [
    "rwkv6",
    "rwkv7",
    "mamba",
    "mamba2",
    "lfm2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
];

fn convert_case(case: &str, dtype: Dtype) -> Arc<Model> {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let dir = tempfile::tempdir().expect("temporary folder");
    let out = dir.path().join("model.gguf");
    let options = Options {
        policy: dtype.into(),
        ..Options::default()
    };
    convert::convert(&root.join(case).join("hf"), &out, &options, &mut ()).expect("converts");
    let file = GgufFile::open(&out, Load::Copy).expect("opens");
    Model::load(Arc::new(file)).expect("loads")
}

fn session(model: &Arc<Model>, threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        ..Default::default()
    };
    Session::new(model.clone(), &options).expect("session")
}

fn ids(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.config().vocab;
    (0..n).map(|i| ((i * 7919 + 3) % vocab) as u32).collect()
}

fn all(s: &mut Session, ids: &[u32], step: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for piece in ids.chunks(step) {
        out.extend_from_slice(s.forward(piece, Want::All).expect("forward"));
    }
    out
}

#[test]
fn batches_threads_and_types_give_the_bits_of_single_tokens() {
    for case in CASES {
        for dtype in [Dtype::F32, Dtype::Q8_0] {
            let model = convert_case(case, dtype);
            let ids = ids(&model, model.config().context_length.min(600));
            let want = all(&mut session(&model, 1), &ids, 1);
            assert!(want.iter().all(|v| v.is_finite()));
            for (threads, step) in [(1, 600), (2, 600), (3, 7), (4, 2)] {
                let got = all(&mut session(&model, threads), &ids, step);
                assert!(got == want, "{case} {dtype} {threads} threads, {step}");
            }
        }
    }
}

#[test]
fn going_back_is_exact() {
    for case in CASES {
        let model = convert_case(case, Dtype::Q8_0);
        let ids = ids(&model, 60);
        let mut s = session(&model, 2);
        let want = all(&mut s, &ids, 60);
        let vocab = model.config().vocab;
        // From the beginning: everything was one prompt.
        s.truncate(40);
        assert_eq!(s.pos(), 0);
        s.forward(&ids[..20], Want::None).expect("forward");
        s.forward(&ids[20..30], Want::None).expect("forward");
        for id in &ids[30..40] {
            s.forward(&[*id], Want::None).expect("forward");
        }
        // Back to where the last call with several tokens began, as often as asked.
        for to in [39, 25, 20] {
            s.truncate(to);
            assert_eq!(s.pos(), 20, "{case}");
            assert!(all(&mut s, &ids[20..], 1) == want[20 * vocab..], "{case}");
        }
        s.truncate(60);
        assert_eq!(s.pos(), 60);
        s.truncate(19);
        assert_eq!(s.pos(), 0);
        assert!(all(&mut s, &ids, 13) == want, "{case}");
    }
}

#[test]
fn a_failed_pass_leaves_a_state_that_is_right() {
    for case in ["rwkv6", "lfm2", "qwen35"] {
        fails_and_goes_on(case);
    }
}

fn fails_and_goes_on(case: &str) {
    let model = convert_case(case, Dtype::F32);
    let ids = ids(&model, 40);
    let cancel = Arc::new(AtomicBool::new(false));
    let options = SessionOptions {
        cancel: Some(cancel.clone()),
        ..Default::default()
    };
    let mut s = Session::new(model.clone(), &options).expect("session");
    let want = all(&mut s, &ids, 40);
    s.reset();
    s.forward(&ids[..10], Want::None).expect("forward");
    s.forward(&ids[10..20], Want::None).expect("forward");
    s.forward(&ids[20..21], Want::None).expect("forward");
    cancel.store(true, Ordering::Relaxed);
    let stopped = s.forward(&ids[21..22], Want::Last).map(|_| ());
    assert!(matches!(stopped, Err(Error::Interrupted)));
    cancel.store(false, Ordering::Relaxed);
    assert_eq!(s.pos(), 10);
    let vocab = model.config().vocab;
    assert!(all(&mut s, &ids[10..], 5) == want[10 * vocab..]);
}

#[test]
fn a_saved_state_goes_on_with_the_same_bits_and_only_in_its_model() {
    let other = convert_case("rwkv6", Dtype::Q8_0);
    for case in CASES {
        let model = convert_case(case, Dtype::F32);
        let ids = ids(&model, 30);
        let mut s = session(&model, 2);
        s.forward(&ids[..20], Want::None).expect("forward");
        let saved = s.save_state().expect("saves");
        let want = all(&mut s, &ids[20..], 10);
        let mut fresh = session(&model, 1);
        fresh.load_state(&saved).expect("loads");
        assert_eq!(fresh.tokens(), &ids[..20]);
        assert!(all(&mut fresh, &ids[20..], 1) == want, "{case}");
        // Back to the loaded state, not behind it.
        fresh.truncate(25);
        assert_eq!(fresh.pos(), 20);
        assert!(all(&mut fresh, &ids[20..], 3) == want, "{case}");

        assert!(session(&other, 1).load_state(&saved).is_err());
        let mut s = session(&model, 1);
        for cut in [0, 7, 60, saved.len() - 1] {
            assert!(s.load_state(&saved[..cut]).is_err(), "{cut}");
        }
        for at in [0, 8, 20, 45, 52, 70, saved.len() - 40, saved.len() - 1] {
            let mut broken = saved.clone();
            broken[at] ^= 1;
            assert!(s.load_state(&broken).is_err(), "{case}: byte {at}");
        }
        assert_eq!(s.pos(), 0);
    }
    let attention = convert_case("llama", Dtype::F32);
    let refused = session(&attention, 1).save_state();
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}

#[test]
fn speculation_changes_nothing() {
    for case in ["rwkv6", "mamba", "lfm2", "qwen35"] {
        let model = convert_case(case, Dtype::F32);
        let tokenizer = Tokenizer::from_gguf(model.file()).expect("tokenizer");
        let prompt: Vec<u32> = ids(&model, 8).repeat(4);
        let options = GenerateOptions {
            max_tokens: 30,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut quiet = |_: &str| std::ops::ControlFlow::Continue(());
        let mut s = session(&model, 1);
        let plain = generate(&mut s, &tokenizer, &prompt, &options, &mut quiet).expect("plain");
        let mut lookup = Speculation::lookup();
        for _ in 0..2 {
            let mut quiet = |_: &str| std::ops::ControlFlow::Continue(());
            let guessed = generate_with(
                &mut s,
                &mut lookup,
                &tokenizer,
                &prompt,
                &options,
                &mut quiet,
            );
            let guessed = guessed.expect("guessed");
            assert_eq!(guessed.ids, plain.ids);
            assert_eq!(guessed.timings.speculation.drafted, 0);
        }
        assert!(EarlyExit::new(&s, 1).is_err());
        assert!(s.exit_early(1, 0, 1).is_err());
    }
}

/// Prompt and answer of a case.
fn fixture_ids(case: &str) -> Vec<u32> {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let bytes = std::fs::read(root.join(case).join("expected.safetensors")).expect("file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let of = |name: &str| {
        let view = file.tensor(name).expect("ids");
        let (ids, _) = view.data().as_chunks::<8>();
        let ids = ids.iter().map(|id| i64::from_le_bytes(*id) as u32);
        ids.collect::<Vec<_>>()
    };
    [of("input_ids"), of("greedy_ids")].concat()
}

#[test]
fn eight_bits_stay_close() {
    for case in [
        "rwkv5", "rwkv6", "rwkv7", "mamba", "mamba2", "lfm2", "qwen35",
    ] {
        let models = [Dtype::F32, Dtype::Q8_0].map(|t| convert_case(case, t));
        let ids = fixture_ids(case);
        let vocab = models[0].config().vocab;
        let [exact, quantized] = models.map(|m| all(&mut session(&m, 2), &ids, 400));
        let top = |row: &[f32]| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.expect("a row").0
        };
        let rows = exact.chunks_exact(vocab).zip(quantized.chunks_exact(vocab));
        let same = rows.filter(|(a, b)| top(a) == top(b)).count();
        let mean = |x: &mut dyn Iterator<Item = f32>| x.sum::<f32>() / exact.len() as f32;
        let middle = mean(&mut exact.iter().copied());
        let spread = mean(&mut exact.iter().map(|v| (v - middle).powi(2))).sqrt();
        let pairs = exact.iter().zip(&quantized);
        let share = mean(&mut pairs.map(|(a, b)| (a - b).abs())) / spread;
        println!("{case}: {same} of {} first tokens, {share:.4}", ids.len());
        // Random weights have near ties; the llama fixture keeps 92 % of the first tokens, at 0.033.
        assert!(share < 0.06, "{case}: {share}");
        assert!(same * 100 >= ids.len() * 85, "{case}: {same}");
    }
}

#[test]
fn tokenizers_and_chats_equal_the_reference() {
    let folders = [
        "rwkv5/hf",
        "rwkv5/pth",
        "rwkv6/hf",
        "rwkv6/pth",
        "rwkv7/hf",
        "rwkv7/pth",
        "mamba/hf",
        "mamba2/hf",
        "lfm2/hf",
        "qwen35/hf",
        "qwen35moe/hf",
        "qwen3next/hf",
    ];
    for folder in folders {
        let root = Path::new(crate::common::ROOT).join("tests/fixtures");
        let folder = root.join(folder);
        let (bytes, _) = convert::convert_to_vec(&folder, &Options::default()).expect("converts");
        let file = GgufFile::from_bytes(bytes).expect("reads back");
        let tokenizer = Tokenizer::from_gguf(&file).expect("tokenizer");
        let text = std::fs::read_to_string(folder.with_file_name("expected.json")).expect("file");
        let expected: Value = serde_json::from_str(&text).expect("JSON");
        let ids = |v: &Value| -> Vec<u64> {
            let list = v.as_array().expect("ids").iter();
            list.map(|id| id.as_u64().expect("an id")).collect()
        };
        let encode = |text: &str, add_special, parse_special| -> Vec<u64> {
            let how = Encode {
                add_special,
                parse_special,
            };
            let ids = tokenizer.encode(text, how).expect("encodes");
            ids.into_iter().map(u64::from).collect()
        };
        for case in expected["tokenizer_cases"].as_array().expect("cases") {
            let text = case["text"].as_str().expect("a text");
            let name = format!("{}: {text:?}", folder.display());
            assert_eq!(encode(text, true, true), ids(&case["ids"]), "{name}");
            let parsed = encode(text, false, true);
            assert_eq!(parsed, ids(&case["ids_no_special"]), "{name}");
            let plain = encode(text, false, false);
            assert_eq!(plain, ids(&case["ids_plain"]), "{name}");
            let plain: Vec<u32> = plain.into_iter().map(|id| id as u32).collect();
            // Mamba's tokenizer composes characters first.
            if case["nfc_changes_text"] != true {
                assert_eq!(tokenizer.decode(&plain), text, "{name}");
            }
        }
        let template = ChatTemplate::from_gguf(&file).expect("valid");
        for case in expected["chat_cases"].as_array().into_iter().flatten() {
            let template = template.as_ref().expect("a template");
            let text = |m: &Value, key: &str| m[key].as_str().expect("a text").to_owned();
            let messages = case["messages"].as_array().expect("messages").iter();
            let messages: Vec<Message> = messages
                .map(|m| Message::new(text(m, "role"), text(m, "content")))
                .collect();
            let prompt = case["add_generation_prompt"] == true;
            let rendered = template.render(&messages, prompt).expect("renders");
            assert_eq!(rendered, case["rendered"].as_str().expect("a text"));
            assert_eq!(encode(&rendered, false, true), ids(&case["ids"]));
            let plain = template.encode(&tokenizer, &messages, prompt);
            let plain = plain.expect("encodes").into_iter().map(u64::from);
            let plain: Vec<u64> = plain.collect();
            assert_eq!(plain, ids(&case["ids_content_plain"]));
        }
    }
}

/// The metadata and tensors of a converted case, with some keys changed.
fn changed(case: &str, keys: &[(&str, u32)]) -> geb::Result<Arc<Model>> {
    let model = convert_case(case, Dtype::F32);
    let mut plan = Plan::default();
    plan.copy_meta(model.file(), |_, _| true);
    for (key, value) in keys {
        plan.set_meta(key, MetaValue::U32(*value));
    }
    plan.tensors = model
        .file()
        .tensors()
        .map(|t| PlannedTensor {
            name: t.info().name.clone(),
            dtype: t.info().dtype,
            dims: t.info().dims.clone(),
        })
        .collect();
    let all: Vec<_> = model.file().tensors().map(|t| t.bytes()).collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, &plan, &mut |i, out| {
        out.write_all(all[i]).map_err(Error::io("memory"))
    })?;
    Model::load(Arc::new(GgufFile::from_bytes(bytes)?))
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    for (case, keys) in [
        ("rwkv6", [("rwkv6.wkv.head_size", 48)]),
        ("rwkv6", [("rwkv6.wkv.head_size", 0)]),
        ("rwkv7", [("rwkv7.feed_forward_length", 64)]),
        ("rwkv7", [("rwkv7.embedding_length", 1 << 20)]),
        ("mamba", [("mamba.ssm.state_size", 1 << 20)]),
        ("mamba", [("mamba.ssm.conv_kernel", 5)]),
        ("mamba", [("mamba.ssm.inner_size", 1 << 20)]),
        ("mamba", [("mamba.ssm.time_step_rank", 3)]),
        ("mamba2", [("mamba2.ssm.group_count", 3)]),
        ("mamba2", [("mamba2.ssm.time_step_rank", 16)]),
        ("mamba2", [("mamba2.ssm.state_size", 1 << 20)]),
        ("lfm2", [("lfm2.shortconv.l_cache", 4)]),
        ("lfm2", [("lfm2.attention.head_count_kv", 2)]),
        ("lfm2", [("lfm2.attention.head_count_kv", 0)]),
        ("qwen35", [("qwen35.ssm.conv_kernel", 3)]),
        ("qwen35", [("qwen35.ssm.group_count", 3)]),
        ("qwen35", [("qwen35.ssm.group_count", 4)]),
        ("qwen35", [("qwen35.ssm.time_step_rank", 8)]),
        ("qwen35", [("qwen35.ssm.state_size", 1 << 20)]),
        ("qwen35", [("qwen35.ssm.inner_size", 1 << 20)]),
        ("qwen35", [("qwen35.nextn_predict_layers", 4)]),
    ] {
        let found = changed(case, &keys).map(|_| ());
        let refused = matches!(found, Err(Error::Key { .. } | Error::Tensors(_)));
        assert!(refused, "{case} {keys:?}: {found:?}");
    }
}

#[test]
fn the_stream_is_halved_where_the_file_says_so() {
    let plain = changed("rwkv6", &[]).expect("loads");
    let halved = changed("rwkv6", &[("rwkv6.rescale_every_n_layers", 2)]).expect("loads");
    let ids = ids(&plain, 12);
    let [a, b] = [plain, halved].map(|m| all(&mut session(&m, 1), &ids, 12));
    // The matrices were not divided: what the last layer adds weighs twice as much.
    assert!(a != b && b.iter().all(|v| v.is_finite()));
}

/// Weights of RWKV before 5.2 beside no configuration, as their authors publish them.
#[test]
fn versions_that_have_no_graph_are_refused_by_their_number() {
    let flat = |names: &[&str]| -> Vec<(String, Vec<usize>)> {
        names.iter().map(|n| ((*n).into(), vec![64])).collect()
    };
    let gate = ("time_mix_g".to_owned(), vec![1, 1, 64]);
    let cases = [
        ("4", flat(&["time_decay", "time_first", "time_mix_k"])),
        ("5.0", flat(&["time_decay", "time_first", "ln_x.weight"])),
        (
            "5.1",
            [
                flat(&["time_decay", "time_first", "ln_x.weight"]),
                vec![gate.clone()],
            ]
            .concat(),
        ),
        (
            "5.1",
            vec![
                gate.clone(),
                ("time_decay".into(), vec![2, 1, 1]),
                ("time_faaaa".into(), vec![2, 1, 1]),
            ],
        ),
        ("5.1", flat(&["time_decay", "gate.weight", "ln_x.weight"])),
    ];
    for (version, att) in cases {
        let mut tensors = Tensors::new();
        let mut add = |name: String, shape: Vec<usize>| {
            let n = shape.iter().product();
            tensors.insert(name, (shape, vec![0.5; n]));
        };
        add("emb.weight".into(), vec![8, 64]);
        for (name, shape) in att {
            add(format!("blocks.0.att.{name}"), shape);
        }
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("RWKV.pth"), torch_file(&tensors)).expect("written");
        let error = convert::dry_run(dir.path(), &Options::default())
            .map(|_| ())
            .expect_err("old");
        let want = format!("unsupported RWKV version: {version}; known: RWKV 5.2, 6 and 7");
        assert_eq!(error.to_string(), want);
    }
}
