//! Looking into models: attention against a plain loop, the lens against the logits, heads switched off
//! against weights of zero, and a head built to copy.

use std::path::Path;
use std::sync::Arc;

use crate::common::tiny::{Tiny, dense_layer};
use geb::gguf::GgufFile;
use geb::gguf::writer::MetaValue;
use geb::model::Model;
use geb::model::observer::{Heads, Observer};
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::tokenizer::Tokenizer;
use geb::{Dtype, Error};
use geb_convert::{Options, convert_to_vec};
use geb_eval::needle::Plan;
use geb_eval::probe::{Probe, ProbeOptions, heads};
use geb_eval::retrieval::{self, Retrieval};

fn options(threads: usize) -> SessionOptions {
    SessionOptions {
        threads,
        kv: KvChoice::F32,
        ..Default::default()
    }
}

fn ready(bytes: Vec<u8>, threads: usize) -> Session {
    let file = Arc::new(GgufFile::from_bytes(bytes).expect("GGUF"));
    let model = Model::load(file).expect("model");
    Session::new(model, &options(threads)).expect("session")
}

fn fixture(case: &str, dtype: Dtype) -> Session {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let options = Options {
        policy: dtype.into(),
        ..Options::default()
    };
    let (bytes, _) = convert_to_vec(&root.join(case).join("hf"), &options).expect("converts");
    ready(bytes, 2)
}

fn ids(session: &Session, n: usize) -> Vec<u32> {
    let vocab = session.model().config().vocab;
    (0..n).map(|i| ((i * 7919 + 3) % vocab) as u32).collect()
}

/// Compares what heads have found with the sum of values by weights.
#[derive(Default)]
struct PlainLoop {
    rows: usize,
    largest: f32,
}

impl Observer for PlainLoop {
    fn heads(&mut self, heads: &mut Heads<'_>) {
        let width = heads.count * heads.size;
        for token in 0..heads.tokens() {
            for head in 0..heads.count {
                let weights = heads.weights(head, token);
                assert_eq!(weights.len(), heads.seen(token).len());
                let sum: f32 = weights.iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "{sum}");
                let mut want = vec![0f32; heads.size];
                for (position, weight) in heads.seen(token).zip(&weights) {
                    let value = heads.value(head, position);
                    want.iter_mut()
                        .zip(value)
                        .for_each(|(w, v)| *w += weight * v);
                }
                let got = &heads.out[token * width + head * heads.size..][..heads.size];
                let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (got, want) in got.iter().zip(&want) {
                    self.largest = self.largest.max((got - want).abs() / most);
                }
                self.rows += 1;
            }
        }
    }
}

#[test]
fn weights_and_values_make_what_the_layer_made() {
    // Fused rows, windows, norms of q and k, ALiBi, learned positions, shared keys.
    for case in [
        "llama",
        "chatglm3",
        "gemma3",
        "mistral-swa",
        "bloom",
        "gpt2",
        "qwen3",
        "openelm",
    ] {
        let mut s = fixture(case, Dtype::F32);
        let ids = ids(&s, 60);
        let all: usize = heads(s.model()).iter().sum();
        assert!(all > 0, "{case}");
        for step in [60, 1, 23] {
            s.reset();
            let mut plain = PlainLoop::default();
            for part in ids.chunks(step) {
                s.forward_observed(part, Want::None, &mut plain)
                    .expect("forward");
            }
            assert_eq!(plain.rows, 60 * all, "{case}");
            assert!(plain.largest < 2e-5, "{case} {step}: {}", plain.largest);
        }
    }
}

#[test]
fn looking_changes_nothing_and_the_last_lens_is_the_output() {
    for (case, dtype) in [
        ("llama", Dtype::Q8_0),
        ("minicpm", Dtype::F32),
        ("gemma3", Dtype::F32),
        ("gpt-neox", Dtype::F32),
        ("rwkv7", Dtype::F32),
        ("mamba2", Dtype::Q8_0),
        ("lfm2", Dtype::Q8_0),
        ("qwen35", Dtype::F32),
    ] {
        let mut s = fixture(case, dtype);
        let ids = ids(&s, 40);
        let want = s.forward(&ids, Want::All).expect("forward").to_vec();
        let all = ProbeOptions {
            positions: (0..40).collect(),
            states: true,
            attention: true,
            ablate: Vec::new(),
        };
        for step in [40, 7] {
            let mut probe = Probe::new(s.model(), &all).expect("probe");
            s.reset();
            let mut got = Vec::new();
            for part in ids.chunks(step) {
                let logits = s.forward_observed(part, Want::All, &mut probe);
                got.extend_from_slice(logits.expect("forward"));
            }
            assert!(got == want, "{case} {step}");
            let c = s.model().config();
            let (layers, e) = (c.block_count, c.embedding_length);
            let rows: usize = heads(s.model()).iter().sum();
            assert_eq!(probe.attention.len(), 40 * rows, "{case}");
            assert!(probe.attention.iter().all(|a| a.strongest() <= a.position));
            assert_eq!(probe.states.len(), layers + 1);
            assert!(probe.states.iter().all(|x| x.len() == 40 * e));
            let lens = s.lens(&probe.states[layers]).expect("lens");
            assert!(lens == want, "{case} {step}");
            let below = s.lens(&probe.states[layers - 1]).expect("lens");
            assert!(below != want, "{case}");
        }
    }
}

/// Scores that a cap bends change the output, and weights are told as they are.
#[test]
fn capped_scores_make_what_the_layer_made() {
    let mut tiny = two_layers();
    let mut free = ready(tiny.bytes(), 2);
    tiny.key("attn_logit_softcapping", MetaValue::F32(0.3));
    let mut capped = ready(tiny.bytes(), 2);
    let ids = ids(&free, 40);
    let mut plain = PlainLoop::default();
    let got = capped.forward_observed(&ids, Want::All, &mut plain);
    let got = got.expect("forward").to_vec();
    assert_eq!(plain.rows, 40 * 2 * 2);
    assert!(plain.largest < 2e-5, "{}", plain.largest);
    let want = free.forward(&ids, Want::All).expect("forward");
    let far = got.iter().zip(want).any(|(a, b)| (a - b).abs() > 1e-2);
    assert!(far, "the cap changes nothing");
}

/// Logits of a text with some heads switched off.
fn without(s: &mut Session, ids: &[u32], ablate: Vec<(usize, usize)>) -> Vec<f32> {
    let options = ProbeOptions {
        ablate,
        ..Default::default()
    };
    let mut probe = Probe::new(s.model(), &options).expect("probe");
    s.reset();
    let logits = s.forward_observed(ids, Want::All, &mut probe);
    logits.expect("forward").to_vec()
}

fn two_layers() -> Tiny {
    let mut tiny = Tiny::new("llama", 2);
    (0..2).for_each(|l| dense_layer(&mut tiny, l));
    tiny
}

#[test]
fn heads_switched_off_are_columns_of_zeros() {
    let tiny = two_layers();
    let mut s = ready(tiny.bytes(), 2);
    let ids = ids(&s, 20);
    let all = vec![(0, 0), (0, 1), (1, 0), (1, 1)];
    for ablate in [all, vec![(1, 0)], vec![(0, 1), (1, 1)]] {
        let mut zeros = tiny.clone();
        for &(layer, head) in &ablate {
            let name = format!("blk.{layer}.attn_output.weight");
            let matrix = zeros.tensors.iter_mut().find(|t| t.0 == name);
            let rows = matrix.expect("a matrix").1.1.chunks_exact_mut(32);
            rows.for_each(|row| row[16 * head..16 * (head + 1)].fill(0.0));
        }
        let want = ready(zeros.bytes(), 1)
            .forward(&ids, Want::All)
            .expect("forward")
            .to_vec();
        let got = without(&mut s, &ids, ablate.clone());
        let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs() / most);
        assert!(error.fold(0f32, f32::max) < 1e-6, "{ablate:?}");
        assert!(got != without(&mut s, &ids, Vec::new()), "{ablate:?}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_refused() {
    let mut s = ready(two_layers().bytes(), 1);
    let options = ProbeOptions {
        ablate: vec![(1, 2)],
        ..Default::default()
    };
    let refused = Probe::new(s.model(), &options).map(|_| ());
    assert!(matches!(refused, Err(Error::Request { value, .. }) if value == "1.2"));
    let width = s.model().config().embedding_length;
    for states in [
        vec![0.0; width + 1],
        vec![f32::NAN; width],
        vec![0.0; 600 * width],
    ] {
        let refused = s.lens(&states).map(|_| ());
        assert!(matches!(refused, Err(Error::Request { .. })));
    }
    let halves = SessionOptions {
        kv: KvChoice::F16,
        ..Default::default()
    };
    let mut halves = Session::new(s.model().clone(), &halves).expect("session");
    let refused = halves.forward_observed(&[1], Want::None, &mut PlainLoop::default());
    assert!(matches!(refused, Err(Error::Request { what, .. }) if what == "KV cache type"));
    let mut t5 = fixture("t5", Dtype::F32);
    let refused = t5.forward_observed(&[1], Want::None, &mut PlainLoop::default());
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}

/// Eight tokens; head 0 of layer 0 looks at the token before and notes it, head 1 of layer 1 looks for
/// its own token in these notes: at what came after it before. The model says what that is.
///
/// Columns of the residual stream: 0..8 the token, 8..16 the one before, 16 always 1, 17..25 what comes next.
fn copier() -> Tiny {
    let mut tiny = two_layers();
    tiny.letters(8);
    tiny.key("rope.dimension_count", geb::gguf::writer::MetaValue::U32(8));
    for (name, (_, values)) in &mut tiny.tensors {
        values.fill(if name.contains("norm") { 1.0 } else { 0.0 });
    }
    let mut set = |name: &str, row: usize, column: usize, value: f32| {
        let tensor = tiny
            .tensors
            .iter_mut()
            .find(|t| t.0 == format!("{name}.weight"));
        tensor.expect("a tensor").1.1[32 * row + column] = value;
    };
    for pair in 0..4 {
        // Rotated by one position more than the key before: the product is greatest there.
        let angle = 10_000f32.powf(-(pair as f32) / 4.0);
        set("blk.0.attn_q", 2 * pair, 16, 10.0 * angle.cos());
        set("blk.0.attn_q", 2 * pair + 1, 16, -10.0 * angle.sin());
        set("blk.0.attn_k", 2 * pair, 16, 10.0);
    }
    for t in 0..8 {
        set("token_embd", t, t, 1.0);
        set("token_embd", t, 16, 1.0);
        set("blk.0.attn_v", t, t, 0.25);
        set("blk.0.attn_output", 8 + t, t, 1.0);
        // Columns 8 and on of a head are not rotated.
        set("blk.1.attn_q", 16 + 8 + t, t, 6.0);
        set("blk.1.attn_k", 16 + 8 + t, 8 + t, 6.0);
        set("blk.1.attn_v", 16 + t, t, 1.0);
        set("blk.1.attn_output", 17 + t, 16 + t, 1.0);
        set("output", t, 17 + t, 5.0);
    }
    tiny
}

#[test]
fn a_head_that_was_built_to_copy_is_found() {
    let mut s = ready(copier().bytes(), 2);
    let needle = [1, 2, 3, 4];
    let text = [&[0, 6, 7, 6, 7, 7, 6], &needle[..], &[6, 7, 7, 6], &needle].concat();
    let mut found = Retrieval::new(&s);
    // The needle is at 7..11, its second appearance begins at 15 and is answered from 16 on.
    found.add(&mut s, &text, 7..11, 16).expect("a prompt");
    assert_eq!(found.hits, [[0, 0], [0, 3]]);
    assert_eq!((found.tokens, found.predicted), (3, 3));
    assert_eq!(found.ranking()[0], (1, 1, 1.0));
    // Elsewhere it is no needle.
    found.add(&mut s, &text, 0..7, 16).expect("a prompt");
    assert_eq!((found.tokens, found.score(1, 1)), (6, 0.5));
    // Without it, or without the notes that it reads, the model does not know.
    for head in [(1, 1), (0, 0)] {
        let row = without(&mut s, &text[..16], vec![head]);
        let last = &row[15 * 8..];
        let nothing = last.iter().all(|v| *v == 0.0);
        assert!(nothing || last.iter().any(|v| *v > last[2]), "{head:?}");
    }
    assert!(found.add(&mut s, &text, 7..11, 0).is_err());
    assert!(found.add(&mut s, &text, 7..20, 16).is_err());
}

#[test]
fn needles_in_text_are_scored() {
    let options = options(2);
    let mut s = crate::common::nano::session_with(Dtype::Q8_0, &options);
    let tokenizer = Tokenizer::from_gguf(s.model().file()).expect("tokenizer");
    let plan = Plan {
        lengths: vec![200],
        depths: vec![0.2, 0.8],
        needles: 2,
        haystack: None,
    };
    let mut seen = Vec::new();
    let mut observe = |done| {
        seen.push(done);
        true
    };
    let found = retrieval::run(&mut s, &tokenizer, &plan, &mut observe).expect("runs");
    assert_eq!(seen, [1, 2, 3, 4]);
    assert!(found.tokens >= 4 && found.predicted <= found.tokens);
    let ranking = found.ranking();
    assert_eq!(ranking.len(), heads(s.model()).iter().sum::<usize>());
    assert!(ranking.windows(2).all(|w| w[0].2 >= w[1].2));
    let stopped = retrieval::run(&mut s, &tokenizer, &plan, &mut |_| false);
    assert!(matches!(stopped, Err(Error::Interrupted)));
}
