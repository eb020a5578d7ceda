//! Sessions on fixtures: batches, windows, caches.

use std::path::Path;

use super::*;
use crate::Dtype;
use crate::engine::check_ctx;
use crate::gguf::{GgufFile, Load};
use crate::limits;
use crate::model::arch::{Positions, REGISTRY};
use geb_convert::{self as convert, Options};

const KV: [KvChoice; 3] = [KvChoice::F32, KvChoice::F16, KvChoice::Q8_0];

/// The fixture `mistral-swa`, window 9, with a longer context.
fn model() -> Arc<Model> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mistral-swa/hf");
    for entry in std::fs::read_dir(&source).expect("fixture") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copy");
    }
    let path = dir.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("config");
    let longer = config.replace(
        "\"max_position_embeddings\": 128",
        "\"max_position_embeddings\": 4096",
    );
    assert_ne!(config, longer);
    std::fs::write(&path, longer).expect("config");
    let out = dir.path().join("model.gguf");
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    convert::convert(dir.path(), &out, &options, &mut ()).expect("convert");
    let file = GgufFile::open(&out, Load::Copy).expect("open");
    Model::load(Arc::new(file)).expect("load")
}

fn session(model: &Arc<Model>, kv: KvChoice, ctx: usize) -> Session {
    let options = SessionOptions {
        kv,
        ctx: Some(ctx),
        threads: 2,
        ..Default::default()
    };
    Session::new(model.clone(), &options).expect("session")
}

fn some_ids(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.config().vocab;
    (0..n).map(|i| (i * 7919 % vocab) as u32).collect()
}

/// Logits of `ids`, in batches of the given sizes (the last one repeats).
fn in_batches(session: &mut Session, ids: &[u32], sizes: &[usize]) -> Vec<f32> {
    let (mut out, mut at) = (Vec::new(), 0);
    for i in 0.. {
        let n = sizes[i.min(sizes.len() - 1)].min(ids.len() - at);
        if n == 0 {
            break;
        }
        out.extend_from_slice(
            session
                .forward(&ids[at..at + n], Want::All)
                .expect("forward"),
        );
        at += n;
    }
    out
}

#[test]
fn branches_take_turns_wherever_the_session_went() {
    let model = model();
    let ids = some_ids(&model, 1400);
    for kv in KV {
        let mut s = session(&model, kv, 4096);
        s.forward(&ids[..700], Want::None).expect("forward");
        let whole = s.branch().expect("a branch");
        assert_eq!(whole.tokens(), &ids[..700]);
        let tail = |s: &mut Session, n: usize| -> Vec<f32> {
            let text: Vec<u32> = ids.iter().rev().copied().take(n).collect();
            in_batches(s, &text, &[1])
        };
        // Two texts behind 650 tokens, token by token in turns.
        let mut turns = [0, 1].map(|i| {
            s.truncate(650);
            assert_eq!(s.pos(), 650);
            s.forward(&ids[700 + 40 * i..740 + 40 * i], Want::None)
                .expect("forward");
            (s.branch().expect("a branch"), Vec::new())
        });
        for t in 0..40 {
            for (i, (branch, logits)) in turns.iter_mut().enumerate() {
                s.resume(branch).expect("held");
                let id = [ids[900 + 40 * i + t]];
                logits.extend_from_slice(s.forward(&id, Want::Last).expect("forward"));
                *branch = s.branch().expect("a branch");
            }
        }
        for (i, (branch, logits)) in turns.iter().enumerate() {
            let mut fresh = session(&model, kv, 4096);
            fresh
                .forward(&branch.tokens()[..690], Want::None)
                .expect("forward");
            let want = in_batches(&mut fresh, &ids[900 + 40 * i..940 + 40 * i], &[40]);
            assert!(*logits == want, "{kv:?} {i}");
        }
        let mut fresh = session(&model, kv, 4096);
        fresh.forward(&ids[..700], Want::None).expect("forward");
        let want = tail(&mut fresh, 30);
        // So far ahead that the session has given up what the branch sees.
        tail(&mut s, 600);
        s.resume(&whole).expect("held");
        assert!(tail(&mut s, 30) == want, "{kv:?}");
        // Another beginning.
        s.reset();
        s.forward(&ids[1..700], Want::None).expect("forward");
        s.resume(&whole).expect("held");
        assert!(tail(&mut s, 30) == want, "{kv:?}");
        // Pages come back when those who name them are gone.
        drop((turns, whole));
        s.reset();
        let (free, all) = s.engine.pages.free();
        assert_eq!(free, all, "{kv:?}");
    }
}

#[test]
fn pages_behind_a_window_are_given_up_and_change_nothing() {
    let model = model();
    let ids = some_ids(&model, 1500);
    for kv in KV {
        let mut ring = session(&model, kv, 4096);
        // 9 + 512 positions are 10 pages, wherever the window begins.
        assert_eq!(ring.memory().kv, session(&model, kv, 640).memory().kv);
        assert!(ring.memory().kv < session(&model, kv, 64).memory().kv * 11);
        let mut whole = session(&model, kv, 4096);
        whole.engine.pages.back = usize::MAX;
        for sizes in [&[512][..], &[500, 1, 13, 300, 2, 64, 7, 450, 1]] {
            ring.reset();
            whole.reset();
            let want = in_batches(&mut whole, &ids, sizes);
            assert!(
                in_batches(&mut ring, &ids, sizes) == want,
                "{kv:?} {sizes:?}"
            );
        }
    }
}

/// Gemma's layers with a window give up what is behind it while the others keep everything.
#[test]
fn layers_keep_what_each_of_them_sees() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gemma3/hf");
    let dir = tempfile::tempdir().expect("temporary folder");
    for entry in std::fs::read_dir(&source).expect("fixture") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copy");
    }
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).expect("config");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["max_position_embeddings"] = 4096.into();
    std::fs::write(&path, config.to_string()).expect("config");
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let (bytes, _) = convert::convert_to_vec(dir.path(), &options).expect("convert");
    let file = GgufFile::from_bytes(bytes).expect("a file");
    let model = Model::load(Arc::new(file)).expect("load");
    let c = model.config();
    let sliding = c.windows.iter().filter(|w| **w != usize::MAX).count();
    assert!(sliding > 0 && sliding < c.block_count);
    let mut mixed = session(&model, KvChoice::F32, 4096);
    let mut whole = session(&model, KvChoice::F32, 4096);
    whole.engine.pages.back = usize::MAX;
    let position: usize = c.layers[..c.block_count]
        .iter()
        .map(|l| 8 * l.kv_width())
        .sum();
    assert!(mixed.memory().kv < 4096 * position as u64);
    let ids = some_ids(&model, 1300);
    let sizes = [512, 1, 300, 13];
    assert!(in_batches(&mut mixed, &ids, &sizes) == in_batches(&mut whole, &ids, &sizes));
    // The windows' pages that an early position sees are given up.
    mixed.truncate(500);
    assert_eq!(mixed.pos(), 0);
    whole.truncate(500);
    assert_eq!(whole.pos(), 500);
}

#[test]
fn going_back_is_exact_or_starts_again() {
    let model = model();
    let vocab = model.config().vocab;
    let ids = some_ids(&model, 1600);
    let mut s = session(&model, KvChoice::Auto, 4096);
    let all = in_batches(&mut s, &ids, &[1]);
    for back in [1, 16, 64, 300, 512] {
        let left = ids.len() - back;
        s.truncate(left);
        assert_eq!(s.pos(), left, "back by {back}");
        let got = in_batches(&mut s, &ids[left..], &[1]);
        assert!(got == all[left * vocab..], "back by {back}");
    }
    // Further back the window's positions are gone: nothing is kept rather than something wrong.
    s.truncate(700);
    assert_eq!(s.pos(), 0);
    let got = in_batches(&mut s, &ids[..700], &[1]);
    assert!(got == all[..700 * vocab]);
    // The highest position counts, not the current one.
    s.forward(&ids[700..1500], Want::None).expect("forward");
    s.truncate(1000);
    assert_eq!(s.pos(), 1000);
    s.forward(&ids[1000..1002], Want::None).expect("forward");
    s.truncate(900);
    assert_eq!(s.pos(), 0);
}

/// Vectors have no ids, so two texts of vectors look alike; what they left does not.
#[test]
fn branches_of_vectors_are_told_apart() {
    let model = model();
    let e = model.config().embedding_length;
    let mut s = session(&model, KvChoice::F32, 256);
    let of = |seed: usize| -> Vec<f32> {
        let one = |i: usize| ((i * 31 + seed * 977) % 201) as f32 / 100.0 - 1.0;
        (0..80 * e).map(one).collect()
    };
    let texts = [of(1), of(2)].map(|x| {
        s.reset();
        let input = [Segment::Vectors(&x)];
        s.forward_inputs(&input, Want::None).expect("forward");
        let branch = s.branch().expect("a branch");
        (
            branch,
            s.forward(&[5], Want::Last).expect("forward").to_vec(),
        )
    });
    assert_eq!(texts[0].0.tokens(), texts[1].0.tokens());
    assert!(texts[0].1 != texts[1].1);
    for i in [0, 1, 1, 0] {
        s.resume(&texts[i].0).expect("held");
        assert!(s.forward(&[5], Want::Last).expect("forward") == texts[i].1);
    }
}

#[test]
fn a_branch_of_another_session_is_refused() {
    let (one, other) = (model(), model());
    let ids = some_ids(&one, 20);
    let mut s = session(&one, KvChoice::F32, 64);
    let want = s.forward(&ids, Want::Last).expect("forward").to_vec();
    for model in [&one, &other] {
        let mut foreign = session(model, KvChoice::F32, 64);
        foreign.forward(&ids, Want::None).expect("forward");
        let branch = foreign.branch().expect("a branch");
        let refused = s.resume(&branch).expect_err("another engine's");
        assert!(matches!(refused, Error::Request { .. }), "{refused}");
    }
    s.truncate(ids.len() - 1);
    assert!(s.forward(&ids[19..], Want::Last).expect("forward") == want);
}

#[test]
fn a_whole_context_goes_back_anywhere() {
    let model = model();
    let ids = some_ids(&model, 500);
    let mut s = session(&model, KvChoice::Q8_0, 500);
    let want = in_batches(&mut s, &ids, &[1]);
    s.truncate(3);
    assert_eq!(s.pos(), 3);
    let got = in_batches(&mut s, &ids[3..], &[1]);
    assert!(got == want[3 * model.config().vocab..]);
}

#[test]
fn a_context_beyond_the_trained_length_must_be_asked_for() {
    let model = model();
    let trained = model.config().context_length;
    let options = |ctx, beyond| SessionOptions {
        ctx: Some(ctx),
        beyond,
        threads: 1,
        ..Default::default()
    };
    for (ctx, beyond, most) in [
        (trained + 1, false, trained),
        (
            limits::MAX_CONTEXT as usize + 1,
            true,
            limits::MAX_CONTEXT as usize,
        ),
    ] {
        let refused = Session::new(model.clone(), &options(ctx, beyond)).err();
        let message = refused.expect("refused").to_string();
        assert!(message.contains(&ctx.to_string()), "{message}");
        assert!(message.contains(&format!("1..={most}")), "{message}");
    }
    let ids = some_ids(&model, trained + 8);
    let mut longer = Session::new(model.clone(), &options(trained + 8, true)).expect("asked for");
    let got = in_batches(&mut longer, &ids, &[512]);
    assert_eq!(got.len(), ids.len() * model.config().vocab);
    assert!(got.iter().all(|v| v.is_finite()));
    // Up to the trained length nothing changes.
    let mut plain = Session::new(model.clone(), &options(trained, false)).expect("fits");
    let want = in_batches(&mut plain, &ids[..trained], &[512]);
    assert!(want == got[..want.len()]);
}

#[test]
fn a_table_of_positions_ends() {
    let mut config = model().config().clone();
    for arch in REGISTRY {
        config.arch = arch;
        let more = check_ctx(&config, config.context_length + 1, true);
        let ends = arch.positions == Positions::Learned;
        assert_eq!(more.is_err(), ends, "{}", arch.name);
    }
}
