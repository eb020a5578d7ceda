//! Several answers to one prompt: beam search against an exhaustive one and against greedy decoding, the
//! best of several samples against their scores.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::common::nano::{encode, session_with};
use crate::common::tiny::{Tiny, dense_layer};
use geb::generate::{
    BeamOptions, GenerateOptions, Sequence, StopReason, beam_search, best_of, generate,
};
use geb::gguf::GgufFile;
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::speculate::Speculation;
use geb::tokenizer::Tokenizer;
use geb::{Dtype, Error};
use geb_convert::{Options, convert_to_vec};
use geb_eval::Scores;

fn quiet(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(threads: usize) -> SessionOptions {
    SessionOptions {
        threads,
        ..Default::default()
    }
}

fn ready(bytes: Vec<u8>, threads: usize) -> (Session, Tokenizer) {
    let file = Arc::new(GgufFile::from_bytes(bytes).expect("GGUF"));
    let tokenizer = Tokenizer::from_gguf(&file).expect("tokenizer");
    let model = Model::load(file).expect("model");
    let session = Session::new(model, &options(threads)).expect("session");
    (session, tokenizer)
}

/// A fixture, in F32.
fn fixture(case: &str, threads: usize) -> (Session, Tokenizer) {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let (bytes, _) = convert_to_vec(&root.join(case).join("hf"), &options).expect("converts");
    ready(bytes, threads)
}

fn nano(threads: usize) -> (Session, Tokenizer) {
    let options = SessionOptions {
        threads,
        kv: KvChoice::Auto,
        ..Default::default()
    };
    let session = session_with(Dtype::Q8_0, &options);
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    (session, tokenizer)
}

fn beams(beams: usize, max_tokens: usize) -> BeamOptions {
    BeamOptions {
        beams,
        max_tokens,
        length_penalty: 1.0,
        ignore_eos: false,
        cancel: None,
    }
}

fn search(s: &mut (Session, Tokenizer), prompt: &[u32], how: &BeamOptions) -> Vec<Sequence> {
    beam_search(&mut s.0, &s.1, prompt, how, &mut quiet).expect("beam search")
}

/// Log-probabilities of all tokens after `ids`, by a fresh session.
fn next(session: &mut Session, ids: &[u32]) -> Vec<f64> {
    session.reset();
    let row = session.forward(ids, Want::Last).expect("forward");
    let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
    row.iter().map(|v| f64::from(*v) - sum.ln()).collect()
}

/// Every text of at most `depth` tokens: ids without the end token, log-probability, tokens.
fn all_texts(
    session: &mut Session,
    (prompt, ids): (&[u32], &[u32]),
    so_far: f64,
    (depth, end): (usize, Option<u32>),
    out: &mut Vec<(Vec<u32>, f64, usize)>,
) {
    let log_probs = next(session, &[prompt, ids].concat());
    for (id, log_prob) in (0u32..).zip(log_probs) {
        let sum = so_far + log_prob;
        let longer = [ids, &[id]].concat();
        if Some(id) == end {
            out.push((ids.to_vec(), sum, longer.len()));
        } else if longer.len() == depth {
            out.push((longer, sum, depth));
        } else {
            all_texts(session, (prompt, &longer), sum, (depth, end), out);
        }
    }
}

#[test]
fn with_beams_for_all_texts_the_search_is_exhaustive() {
    let mut tiny = Tiny::new("llama", 2);
    (0..2).for_each(|l| dense_layer(&mut tiny, l));
    tiny.letters(5);
    let mut s = ready(tiny.bytes(), 2);
    let prompt = [1, 3, 4];
    for ignore_eos in [false, true] {
        let mut texts = Vec::new();
        let end = (!ignore_eos).then_some(2);
        all_texts(&mut s.0, (&prompt, &[]), 0.0, (3, end), &mut texts);
        assert_eq!(texts.len(), if ignore_eos { 125 } else { 85 });
        for length_penalty in [1.0, 0.0, 2.5] {
            let how = BeamOptions {
                length_penalty,
                ignore_eos,
                ..beams(125, 3)
            };
            let found = search(&mut s, &prompt, &how);
            let score = |t: &(_, f64, usize)| t.1 / (t.2 as f64).powf(length_penalty);
            texts.sort_by(|a, b| score(b).total_cmp(&score(a)));
            assert_eq!(found.len(), texts.len());
            for (sequence, text) in found.iter().zip(&texts) {
                assert_eq!(sequence.ids, text.0);
                assert!((sequence.log_prob - text.1).abs() < 1e-5);
                assert!((sequence.score - score(text)).abs() < 1e-5);
            }
        }
    }
    // Fewer beams cannot find a better one.
    let best = search(&mut s, &prompt, &beams(125, 3))[0].score;
    for k in 1..6 {
        assert!(search(&mut s, &prompt, &beams(k, 3))[0].score <= best);
    }
}

/// Prompts for models of several kinds: attention, a window, recurrent, both, with an encoder.
fn models(threads: usize) -> Vec<(&'static str, (Session, Tokenizer), Vec<u32>)> {
    let (session, tokenizer) = nano(threads);
    let prompt = encode(&tokenizer, "And it came to pass in those days, that");
    let mut all = vec![("nano", (session, tokenizer), prompt)];
    for case in ["mistral-swa", "rwkv7", "mamba2", "lfm2", "qwen35", "t5"] {
        let s = fixture(case, threads);
        let vocab = s.0.model().config().vocab;
        let prompt = (0..20).map(|i| (i * 7919 + 11) % vocab as u32);
        all.push((case, s, prompt.collect()));
    }
    all
}

#[test]
fn one_beam_is_greedy_decoding() {
    for (case, mut s, prompt) in models(2) {
        for ignore_eos in [false, true] {
            let how = BeamOptions {
                ignore_eos,
                ..beams(1, 24)
            };
            let found = search(&mut s, &prompt, &how);
            let greedy = GenerateOptions {
                max_tokens: 24,
                sampling: SamplerOptions::greedy(),
                ignore_eos,
                log_probs: true,
                ..Default::default()
            };
            let want = generate(&mut s.0, &s.1, &prompt, &greedy, &mut quiet).expect("generates");
            let [found] = found.as_slice() else {
                panic!("{case}: one answer")
            };
            assert_eq!(found.ids, want.ids, "{case}");
            assert_eq!(found.text, want.text, "{case}");
            assert_eq!(found.reason, want.reason, "{case}");
            let sum: f64 = want.log_probs.iter().sum();
            assert!((found.log_prob - sum).abs() < 1e-9, "{case}");
        }
    }
}

/// Sum of the log-probabilities of `ids` after `prompt`, as `geb-run scores` computes them.
fn scored(session: &mut Session, prompt: &[u32], ids: &[u32]) -> f64 {
    let all = [prompt, ids].concat();
    let (mut sum, mut scores) = (0.0, Scores::new(session, &all, 0));
    loop {
        let some = scores.advance().expect("scores");
        if some.is_empty() {
            return sum;
        }
        let answer = some.iter().filter(|s| s.position >= prompt.len());
        sum += answer.map(|s| s.logprob).sum::<f64>();
    }
}

#[test]
fn beams_have_the_scores_of_their_texts_and_threads_change_nothing() {
    let one = models(1);
    for (one, three) in one.into_iter().zip(models(3)) {
        let (case, mut s, prompt) = one;
        let how = BeamOptions {
            ignore_eos: true,
            ..beams(4, 12)
        };
        let found = search(&mut s, &prompt, &how);
        assert_eq!(found.len(), 4, "{case}");
        let (_, mut other, _) = three;
        assert_eq!(search(&mut other, &prompt, &how), found, "{case}");
        assert!(found.windows(2).all(|w| w[0].score >= w[1].score), "{case}");
        assert!(found.windows(2).all(|w| w[0].ids != w[1].ids), "{case}");
        let start = s.0.model().config().encoder.map(|e| e.start);
        let before = start.map_or(prompt, |start| vec![start]);
        for answer in &found {
            let want = scored(&mut s.0, &before, &answer.ids);
            assert!((answer.log_prob - want).abs() < 1e-9, "{case}");
            assert_eq!(answer.score, answer.log_prob / 12.0, "{case}");
        }
    }
}

#[test]
fn the_best_of_several_samples_has_the_best_score() {
    for (case, mut s, prompt) in models(2) {
        let sampling = SamplerOptions {
            seed: 5,
            ..Default::default()
        };
        let options = GenerateOptions {
            max_tokens: 12,
            sampling,
            ignore_eos: true,
            ..Default::default()
        };
        let off = &mut Speculation::off();
        let (session, tokenizer) = (&mut s.0, &s.1);
        let found = best_of(
            session,
            off,
            tokenizer,
            &prompt,
            &options,
            (3, 1.0),
            &mut quiet,
        );
        let found = found.expect("answers");
        assert!(found.windows(2).all(|w| w[0].score >= w[1].score), "{case}");
        let start = session.model().config().encoder.map(|e| e.start);
        let before = start.map_or(prompt.clone(), |start| vec![start]);
        for seed in 5..8 {
            let mut alone = options.clone();
            alone.sampling.seed = seed;
            let want =
                generate(session, tokenizer, &prompt, &alone, &mut quiet).expect("generates");
            let same = |f: &&Sequence| f.ids == want.ids && f.text == want.text;
            assert!(found.iter().any(|f| same(&f)), "{case} {seed}");
        }
        for answer in &found {
            let want = scored(session, &before, &answer.ids);
            assert!((answer.log_prob - want).abs() < 1e-9, "{case}");
        }
    }
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let mut s = nano(1);
    let prompt = encode(&s.1, "In the beginning");
    let cases = [
        (beams(0, 4), "number of answers"),
        (beams(1025, 4), "number of answers"),
        (
            BeamOptions {
                length_penalty: f64::NAN,
                ..beams(2, 4)
            },
            "length penalty",
        ),
    ];
    for (how, field) in cases {
        let refused = beam_search(&mut s.0, &s.1, &prompt, &how, &mut quiet);
        assert!(matches!(refused, Err(Error::Request { what, .. }) if what == field));
    }
    let empty = beam_search(&mut s.0, &s.1, &[], &beams(2, 4), &mut quiet);
    assert!(matches!(empty, Err(Error::Request { what, .. }) if what == "prompt"));
    // The end of the context ends every answer: its last token is not evaluated.
    let ctx = s.0.ctx();
    let long: Vec<u32> = prompt.iter().copied().cycle().take(ctx - 3).collect();
    let how = BeamOptions {
        ignore_eos: true,
        ..beams(2, 100)
    };
    let found = search(&mut s, &long, &how);
    assert!(
        found
            .iter()
            .all(|f| f.ids.len() == 4 && f.reason == StopReason::Length)
    );
}
