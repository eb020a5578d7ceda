//! Many sequences in one pass over the weights: each has the bits that it has alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use geb::engine::{Engine, KvChoice, Sequence, SessionOptions, Span, Want};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{Segment, Session};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

use crate::common::dice::Dice;

/// Every checkpoint of the fixtures.
fn cases() -> Vec<String> {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let entries = std::fs::read_dir(root).expect("a folder of the repository");
    let names = entries.filter_map(|e| {
        let path = e.expect("entry").path();
        let name = path.file_name()?.to_str()?.to_owned();
        path.join("hf").is_dir().then_some(name)
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert!(names.len() >= 51, "{names:?}");
    names
}

fn model(case: &str, dtype: Dtype) -> Arc<Model> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let source: PathBuf = [crate::common::ROOT, "tests/fixtures", case, "hf"]
        .iter()
        .collect();
    let out = dir.path().join("model.gguf");
    let options = Options {
        policy: dtype.into(),
        ..Options::default()
    };
    convert::convert(&source, &out, &options, &mut ()).unwrap_or_else(|e| panic!("{case}: {e}"));
    let file = GgufFile::open(&out, Load::Copy).expect("what was written reads back");
    Model::load(Arc::new(file)).unwrap_or_else(|e| panic!("{case}: {e}"))
}

/// What one user sends: the text of an encoder, where there is one, and tokens.
struct Request {
    text: Vec<u32>,
    ids: Vec<u32>,
}

fn requests(model: &Model, n: usize, dice: &mut Dice) -> Vec<Request> {
    let c = model.config();
    let one = |_| Request {
        text: match c.encoder {
            Some(_) => {
                let n = 1 + dice.below(12);
                dice.ids(n, c.vocab)
            }
            None => Vec::new(),
        },
        ids: {
            let n = 1 + dice.below(c.context_length.min(44));
            dice.ids(n, c.vocab)
        },
    };
    (0..n).map(one).collect()
}

/// Logits of all tokens, read alone and in one call.
fn alone(model: &Arc<Model>, options: &SessionOptions, r: &Request) -> Vec<f32> {
    let mut session = Session::new(model.clone(), options).expect("session");
    if !r.text.is_empty() {
        session.encode(&r.text).expect("text");
    }
    session
        .forward(&r.ids, Want::All)
        .expect("forward")
        .to_vec()
}

fn sequence(engine: &mut Engine, r: &Request) -> Sequence {
    let mut seq = engine.sequence().expect("sequence");
    if !r.text.is_empty() {
        engine.encode(&mut seq, &r.text).expect("text");
    }
    seq
}

/// Reads all requests in steps of random pieces of random sequences, and compares every row; how many steps it took.
fn mixed(
    case: &str,
    model: &Arc<Model>,
    options: &SessionOptions,
    n: usize,
    dice: &mut Dice,
) -> usize {
    let vocab = model.config().vocab;
    let requests = requests(model, n, dice);
    let expected: Vec<_> = requests.iter().map(|r| alone(model, options, r)).collect();
    let mut engine = Engine::new(model.clone(), options).expect("engine");
    let mut seqs: Vec<_> = requests.iter().map(|r| sequence(&mut engine, r)).collect();
    let mut steps = 0;
    while seqs
        .iter()
        .zip(&requests)
        .any(|(s, r)| s.tokens().len() < r.ids.len())
    {
        let decodes = dice.below(2) == 0;
        let mut spans = Vec::new();
        let mut which = Vec::new();
        let mut room = engine.batch();
        for (i, (seq, r)) in seqs.iter_mut().zip(&requests).enumerate() {
            let at = seq.tokens().len();
            let most = (r.ids.len() - at).min(room);
            // Some sit out; the others decode one token or read a piece of a prompt.
            if most == 0 || dice.below(4) == 0 {
                continue;
            }
            let n = if decodes || dice.below(3) == 0 {
                1
            } else {
                1 + dice.below(most)
            };
            room -= n;
            which.push((i, at));
            spans.push(Span {
                seq,
                input: Segment::Tokens(&r.ids[at..at + n]),
                want: Want::All,
            });
        }
        let out = engine.step(&mut spans).expect("step");
        assert!(out.failed.is_empty(), "{case}: {:?}", out.failed);
        for (span, (i, at)) in which.iter().enumerate() {
            let found = out.of(span, vocab);
            let expected = &expected[*i][at * vocab..at * vocab + found.len()];
            let same = found
                .iter()
                .zip(expected)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(
                same && !found.is_empty(),
                "{case} {:?} {} threads: sequence {i} of {n} at {at}",
                options.kv,
                options.threads
            );
        }
        steps += 1;
    }
    steps
}

#[test]
fn every_family_gives_each_of_many_sequences_its_own_bits() {
    let mut dice = Dice(7);
    let (mut steps, mut runs) = (0, 0);
    for case in cases() {
        for dtype in [Dtype::F32, Dtype::Q8_0] {
            let model = model(&case, dtype);
            let biased = Engine::new(
                model.clone(),
                &SessionOptions {
                    kv: KvChoice::F16,
                    ..Default::default()
                },
            )
            .is_err();
            let kinds: &[KvChoice] = match biased {
                true => &[KvChoice::F32],
                false => &[KvChoice::F32, KvChoice::F16, KvChoice::Q8_0],
            };
            for (i, kv) in kinds.iter().enumerate() {
                let options = SessionOptions {
                    kv: *kv,
                    threads: 1 + (i + dice.below(4)) % 4,
                    ..Default::default()
                };
                let n = 2 + dice.below(15);
                steps += mixed(&case, &model, &options, n, &mut dice);
                runs += 1;
            }
        }
    }
    // One may be read at once.
    assert!(steps > 3 * runs, "{steps} steps of {runs} runs");
}

#[test]
fn a_span_that_cannot_run_fails_alone() {
    let model = model("mistral-swa", Dtype::F32);
    let vocab = model.config().vocab;
    let options = SessionOptions {
        threads: 2,
        ..Default::default()
    };
    let mut engine = Engine::new(model.clone(), &options).expect("engine");
    let good = Request {
        text: Vec::new(),
        ids: vec![5, 9, 2],
    };
    let expected = alone(&model, &options, &good);
    let [mut a, mut b, mut c] = [(); 3].map(|()| engine.sequence().expect("sequence"));
    let (outside, nan) = (
        [vocab as u32],
        vec![f32::NAN; model.config().embedding_length],
    );
    let out = engine
        .step(&mut [
            Span {
                seq: &mut a,
                input: Segment::Tokens(&outside),
                want: Want::Last,
            },
            Span {
                seq: &mut b,
                input: Segment::Tokens(&good.ids),
                want: Want::All,
            },
            Span {
                seq: &mut c,
                input: Segment::Vectors(&nan),
                want: Want::Last,
            },
        ])
        .expect("step");
    let failed: Vec<_> = out
        .failed
        .iter()
        .map(|(i, e)| (*i, e.to_string()))
        .collect();
    assert!(
        failed.len() == 2 && failed[0].0 == 0 && failed[1].0 == 2,
        "{failed:?}"
    );
    assert!(failed[0].1.contains("token id"), "{failed:?}");
    assert_eq!(out.of(1, vocab), expected);
    assert_eq!(
        [a.tokens().len(), b.tokens().len(), c.tokens().len()],
        [0, 3, 0]
    );
}

#[test]
fn too_many_rows_and_foreign_sequences_are_refused_by_name() {
    let model = model("llama", Dtype::F32);
    let small = SessionOptions {
        ctx: Some(16),
        threads: 1,
        ..Default::default()
    };
    let mut engine = Engine::new(model.clone(), &small).expect("engine");
    let ids = vec![1; 10];
    let [mut a, mut b] = [(); 2].map(|()| engine.sequence().expect("sequence"));
    let spans = &mut [
        Span {
            seq: &mut a,
            input: Segment::Tokens(&ids),
            want: Want::Last,
        },
        Span {
            seq: &mut b,
            input: Segment::Tokens(&ids),
            want: Want::Last,
        },
    ];
    let error = engine.step(spans).err().expect("20 rows in 16").to_string();
    assert!(
        error.contains("rows of a step is 20, allowed: at most 16"),
        "{error}"
    );
    let larger = Engine::new(
        model,
        &SessionOptions {
            ctx: Some(32),
            threads: 1,
            ..Default::default()
        },
    );
    let mut foreign = larger.expect("engine").sequence().expect("sequence");
    let mut one = [Span {
        seq: &mut foreign,
        input: Segment::Tokens(&ids),
        want: Want::Last,
    }];
    let error = engine
        .step(&mut one)
        .err()
        .expect("another engine's")
        .to_string();
    assert!(error.contains("another engine"), "{error}");
}

#[test]
fn a_cancelled_step_leaves_every_sequence_as_it_was() {
    for case in ["qwen2", "rwkv7", "mamba", "lfm2", "qwen35"] {
        let model = model(case, Dtype::F32);
        let cancel = Arc::new(AtomicBool::new(false));
        let options = SessionOptions {
            threads: 2,
            cancel: Some(cancel.clone()),
            ..Default::default()
        };
        let mut engine = Engine::new(model.clone(), &options).expect("engine");
        let [mut a, mut b] = [(); 2].map(|()| engine.sequence().expect("sequence"));
        let run = |engine: &mut Engine, a: &mut Sequence, b: &mut Sequence| {
            let spans = &mut [
                Span {
                    seq: a,
                    input: Segment::Tokens(&[3, 1, 4, 1]),
                    want: Want::Last,
                },
                Span {
                    seq: b,
                    input: Segment::Tokens(&[2, 7]),
                    want: Want::Last,
                },
            ];
            engine.step(spans).map(|out| out.logits.to_vec())
        };
        cancel.store(true, Ordering::Relaxed);
        let error = run(&mut engine, &mut a, &mut b).expect_err("cancelled");
        assert!(matches!(error, Error::Interrupted), "{case}: {error}");
        assert_eq!([a.tokens().len(), b.tokens().len()], [0, 0], "{case}");
        cancel.store(false, Ordering::Relaxed);
        let found = run(&mut engine, &mut a, &mut b).expect("step");
        let alone = |ids: &[u32]| {
            let mut s = Session::new(
                model.clone(),
                &SessionOptions {
                    threads: 1,
                    ..Default::default()
                },
            )
            .expect("session");
            s.forward(ids, Want::Last).expect("forward").to_vec()
        };
        assert_eq!(
            found,
            [alone(&[3, 1, 4, 1]), alone(&[2, 7])].concat(),
            "{case}"
        );
    }
}
