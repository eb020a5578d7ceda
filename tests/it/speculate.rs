//! Speculation changes nothing but the time: ids, text, reason to stop and the session afterwards are
//! those of plain decoding, whoever guesses and however badly.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::nano::{encode, nano, session_with};
use geb::Dtype;
use geb::error::{Error, Result};
use geb::generate::{GenerateOptions, StopReason, generate_with};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::speculate::{
    Draft, DraftModel, Drafter, EarlyExit, Lookup, Offer, Speculation, SpeculationStats, Tuning,
};
use geb::tokenizer::Tokenizer;

fn session(dtype: Dtype, threads: usize, ctx: usize) -> Session {
    let options = SessionOptions {
        threads,
        ctx: Some(ctx),
        kv: KvChoice::Auto,
        ..Default::default()
    };
    session_with(dtype, &options)
}

fn tokenizer(session: &Session) -> Tokenizer {
    Tokenizer::from_gguf(session.model().file()).expect("tokenizer")
}

/// English, Chinese, code, repetitions, and two beyond one piece of split attention.
fn prompts() -> Vec<String> {
    let en = std::fs::read_to_string(crate::common::asset("eval-en.txt")).expect("text");
    let zh = std::fs::read_to_string(crate::common::asset("eval-zh.txt")).expect("text");
    let passage = "And the children of Israel did so, as the LORD commanded Moses. ";
    let mut prompts: Vec<String> = [
        "In the beginning",
        "And it came to pass in those days, that",
        "The king said unto him, What wilt thou? And",
        "Blessed is the man that",
        "And he said, Behold,",
        "1 2 3 4 5 6 7 8 9 10 11",
        "耶和华对摩西说：",
        "起初，神创造",
        "耶稣回答说，我实实在在地告诉你们，",
        "以色列人行耶和华眼中看为恶的事，",
        "fn main() {\n    for i in 0..10 {\n        println!(\"{i}\");\n    }\n}\n\nfn main() {\n",
        "let a = [1, 2, 3];\nlet b = [1, 2, 3];\nlet c =",
        "a b c a b c a b c a b",
        "the the the the the the",
        "神说，神说，神说，",
        "x",
    ]
    .map(str::to_owned)
    .into();
    prompts.push(passage.repeat(3) + "And the children");
    prompts.push("神就照着自己的形象造人，乃是照着他的形象造男造女。".repeat(3) + "神就照");
    prompts.push(en[..1100].to_owned());
    prompts.push(zh.chars().take(300).collect());
    prompts
}

fn sampled(seed: u64, temperature: f32, repeat_penalty: f32) -> SamplerOptions {
    SamplerOptions {
        temperature,
        repeat_penalty,
        seed,
        ..Default::default()
    }
}

fn samplings(i: usize) -> [SamplerOptions; 4] {
    let seed = i as u64;
    let greedy = SamplerOptions::greedy();
    [
        greedy.clone(),
        SamplerOptions {
            repeat_penalty: 1.3,
            ..greedy
        },
        sampled(seed, 0.7, 1.0),
        sampled(seed + 100, 1.1, 1.2),
    ]
}

/// All that plain decoding and speculation must agree on.
#[derive(Debug, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    text: String,
    streamed: String,
    reason: StopReason,
    sampled_tokens: usize,
    /// What the session holds afterwards.
    held: Vec<u32>,
}

/// Cancels from the callback after `pieces`.
fn run_until(
    session: &mut Session,
    speculation: &mut Speculation,
    prompt: &[u32],
    options: &GenerateOptions,
    pieces: usize,
) -> (Outcome, SpeculationStats) {
    let tokenizer = tokenizer(session);
    let (mut streamed, mut left) = (String::new(), pieces);
    let mut sink = |text: &str| {
        streamed.push_str(text);
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let done = generate_with(session, speculation, &tokenizer, prompt, options, &mut sink)
        .expect("generates");
    let outcome = Outcome {
        ids: done.ids,
        text: done.text,
        streamed,
        reason: done.reason,
        sampled_tokens: done.timings.sampled_tokens,
        held: session.tokens().to_vec(),
    };
    (outcome, done.timings.speculation)
}

fn run(
    session: &mut Session,
    speculation: &mut Speculation,
    prompt: &[u32],
    options: &GenerateOptions,
) -> (Outcome, SpeculationStats) {
    run_until(session, speculation, prompt, options, usize::MAX)
}

fn plain(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> Outcome {
    let (outcome, stats) = run(session, &mut Speculation::off(), prompt, options);
    assert_eq!((stats.drafted, stats.verify_batches), (0, 0));
    outcome
}

fn always(drafter: impl Drafter + 'static) -> Speculation {
    Speculation::off().with(Box::new(drafter), Tuning::Always, usize::MAX)
}

fn draft(dtype: Dtype, target: &Session) -> DraftModel {
    let session = session(dtype, 1, 512);
    DraftModel::new(session, target.model().file()).expect("the same vocabulary")
}

/// The promise everything rests on.
#[test]
fn a_batch_gives_the_bits_of_single_tokens() {
    for dtype in [Dtype::F32, Dtype::Q8_0, Dtype::Q4_0] {
        let (mut one, mut many) = (session(dtype, 1, 512), session(dtype, 2, 512));
        let text = std::fs::read_to_string(crate::common::asset("eval-en.txt")).expect("text");
        let ids = encode(&tokenizer(&one), &text[..2500]);
        let most = one.verify_batch();
        assert!(most > 1);
        for first in [0, 5, 250, 255, 400] {
            for n in 2..=most {
                for s in [&mut one, &mut many] {
                    s.reset();
                    if first > 0 {
                        s.forward(&ids[..first], Want::None).expect("prefill");
                    }
                }
                let batch = &ids[first..first + n];
                let singly: Vec<f32> = batch
                    .iter()
                    .flat_map(|id| one.forward(&[*id], Want::Last).expect("step").to_vec())
                    .collect();
                let at_once = many.forward(batch, Want::All).expect("batch");
                let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert!(bits(&singly) == bits(at_once), "{dtype} {first} {n}");
            }
        }
    }
}

#[test]
fn every_source_gives_the_text_of_plain_decoding() {
    let mut stats = [SpeculationStats::default(); 4];
    for (i, text) in prompts().iter().enumerate() {
        // The reference runs on one thread, the others on one to three.
        let dtype = [Dtype::F32, Dtype::Q8_0, Dtype::Q4_0][i % 3];
        let mut reference = session(dtype, 1, 512);
        let mut fast = session(dtype, 1 + i % 3, 512);
        let prompt = encode(&tokenizer(&fast), text);
        let other = if dtype == Dtype::Q4_0 {
            Dtype::Q8_0
        } else {
            Dtype::Q4_0
        };
        let exit = EarlyExit::new(&fast, 2).expect("a layer of the model");
        let mut sources = [
            always(Lookup::new()),
            always(draft(other, &fast)),
            always(exit),
            always(Lookup::new()).with(Box::new(draft(other, &fast)), Tuning::Auto, 3),
        ];
        for (s, sampling) in samplings(i).into_iter().enumerate() {
            let options = GenerateOptions {
                max_tokens: 32,
                sampling,
                ignore_eos: s % 2 == 0,
                ..Default::default()
            };
            let expected = plain(&mut reference, &prompt, &options);
            for (source, total) in sources.iter_mut().zip(&mut stats) {
                let (outcome, s) = run(&mut fast, source, &prompt, &options);
                assert_eq!(
                    outcome,
                    expected,
                    "{:?} {text:?} {options:?}",
                    source.names()
                );
                total.drafted += s.drafted;
                total.accepted += s.accepted;
                total.passes += s.passes;
            }
        }
    }
    // It was not equal because nothing happened.
    for s in stats {
        assert!(s.accepted > 100 && s.accepted < s.drafted, "{stats:?}");
    }
}

/// The default, as programs use it: whether and when it guesses depends on the clock.
#[test]
fn self_tuning_changes_nothing() {
    let (mut reference, mut fast) = (session(Dtype::Q8_0, 1, 512), session(Dtype::Q8_0, 2, 512));
    let mut tuned = Speculation::lookup().with(
        Box::new(EarlyExit::new(&fast, 3).expect("a layer")),
        Tuning::Auto,
        8,
    );
    for (i, text) in prompts().iter().enumerate() {
        let prompt = encode(&tokenizer(&fast), text);
        let options = GenerateOptions {
            max_tokens: 60,
            sampling: samplings(i)[i % 4].clone(),
            ignore_eos: true,
            ..Default::default()
        };
        let expected = plain(&mut reference, &prompt, &options);
        let (outcome, _) = run(&mut fast, &mut tuned, &prompt, &options);
        assert_eq!(outcome, expected, "{text:?}");
    }
}

/// How an adversary guesses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Right,
    Wrong,
    /// Right for a number of tokens, then wrong, in turn.
    Mixed,
    Random,
    /// More guesses than asked for, some of them no tokens.
    Wild,
    Fails,
}

/// Knows what plain decoding gives.
struct Adversary {
    way: Way,
    /// Prompt and answer.
    truth: Vec<u32>,
    state: u64,
}

impl Adversary {
    fn next(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.state >> 33) as u32
    }
}

impl Drafter for Adversary {
    fn name(&self) -> &'static str {
        "adversary"
    }

    fn offer(&mut self, history: &[u32]) -> Option<Offer> {
        Some(Offer {
            class: history.len(),
            next: None,
        })
    }

    fn draft(
        &mut self,
        target: &mut Draft<'_>,
        history: &[u32],
        max: usize,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        assert_eq!(target.tokens(), &history[..history.len() - 1]);
        let vocab = target.model().config().vocab as u32;
        for i in 0..max {
            let at = history.len() + i;
            let right = self.truth.get(at).copied().unwrap_or(7);
            let random = self.next();
            out.push(match self.way {
                Way::Right => right,
                Way::Wrong => (right + 1) % vocab,
                Way::Mixed if at.is_multiple_of(5) => (right + 1) % vocab,
                Way::Mixed => right,
                Way::Random => random % vocab,
                Way::Wild | Way::Fails => random,
            });
        }
        match self.way {
            Way::Wild => out.extend([u32::MAX, vocab, 5, 5, 5]),
            Way::Fails => return Err(Error::Interrupted),
            _ => {}
        }
        Ok(())
    }
}

fn adversary(way: Way, expected: &Outcome, prompt: &[u32]) -> Speculation {
    always(Adversary {
        way,
        truth: [prompt, &expected.ids].concat(),
        state: 1,
    })
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        sampling: SamplerOptions::greedy(),
        ignore_eos: true,
        ..Default::default()
    }
}

#[test]
fn no_guess_however_bad_changes_the_text() {
    let mut session = session(Dtype::Q8_0, 2, 300);
    let prompt = encode(
        &tokenizer(&session),
        "And it came to pass in those days, that",
    );
    let most = session.verify_batch();
    for sampling in samplings(3) {
        let options = GenerateOptions {
            sampling,
            ..greedy(40)
        };
        let expected = plain(&mut session, &prompt, &options);
        for way in [
            Way::Right,
            Way::Wrong,
            Way::Mixed,
            Way::Random,
            Way::Wild,
            Way::Fails,
        ] {
            let mut guesses = adversary(way, &expected, &prompt);
            let (outcome, stats) = run(&mut session, &mut guesses, &prompt, &options);
            assert_eq!(outcome, expected, "{way:?}");
            match way {
                Way::Right => {
                    assert_eq!(stats.accepted, stats.drafted);
                    assert_eq!(stats.passes, 39usize.div_ceil(most));
                }
                Way::Wrong => assert_eq!((stats.accepted, stats.passes), (0, 39)),
                Way::Mixed => assert!(stats.accepted > 20 && stats.accepted < stats.drafted),
                Way::Fails => assert_eq!((stats.drafted, stats.passes), (0, 39)),
                Way::Random | Way::Wild => assert!(stats.passes > 30),
            }
        }
    }
}

/// Every length, every context, every stop inside runs of accepted guesses.
#[test]
fn runs_end_where_plain_decoding_ends() {
    let mut long = session(Dtype::F32, 2, 300);
    let prompt = encode(&tokenizer(&long), "And it came to pass in those days, that");
    let all = plain(&mut long, &prompt, &greedy(40));
    let same = |session: &mut Session, options: &GenerateOptions, pieces: usize| {
        let (expected, _) = run_until(session, &mut Speculation::off(), &prompt, options, pieces);
        session.reset();
        for way in [Way::Right, Way::Mixed] {
            let mut guesses = adversary(way, &all, &prompt);
            let (outcome, stats) = run_until(session, &mut guesses, &prompt, options, pieces);
            assert_eq!(outcome, expected, "{way:?} {options:?} {pieces}");
            assert!(
                stats.drafted > 0 || expected.ids.len() < 3 || session.ctx() < prompt.len() + 3
            );
        }
        expected
    };
    for max_tokens in 0..14 {
        let outcome = same(&mut long, &greedy(max_tokens), usize::MAX);
        assert_eq!(
            (outcome.ids.len(), outcome.reason),
            (max_tokens, StopReason::Length)
        );
    }
    for pieces in 1..12 {
        let outcome = same(&mut long, &greedy(40), pieces);
        assert_eq!(outcome.reason, StopReason::Cancelled);
    }
    for at in 1..12 {
        // A stop string out of the text, from each of its characters on.
        let stop: String = all.text.chars().skip(at).take(4).collect();
        let options = GenerateOptions {
            stop: vec![stop],
            ..greedy(40)
        };
        assert_eq!(
            same(&mut long, &options, usize::MAX).reason,
            StopReason::Stop
        );
    }
    for ctx in prompt.len()..prompt.len() + 14 {
        let mut short = session(Dtype::F32, 2, ctx);
        let outcome = same(&mut short, &greedy(40), usize::MAX);
        assert_eq!(outcome.reason, StopReason::Length);
        assert_eq!(prompt.len() + outcome.ids.len(), ctx + 1);
    }
}

/// An end token among accepted guesses ends the text, and is not part of it.
#[test]
fn an_end_token_inside_a_run_ends_the_text() {
    let mut session = session(Dtype::Q8_0, 1, 500);
    let tokenizer = tokenizer(&session);
    let prompt = encode(&tokenizer, "And it came to pass");
    let options = |seed| GenerateOptions {
        max_tokens: 400,
        sampling: SamplerOptions {
            temperature: 3.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed,
            ..Default::default()
        },
        ..Default::default()
    };
    let (seed, expected) = (0..40)
        .map(|seed| (seed, plain(&mut session, &prompt, &options(seed))))
        .find(|(_, o)| o.reason == StopReason::Eos && o.ids.len() > 4)
        .expect("an end token within 16000 tokens");
    let end = *tokenizer.stop_ids().first().expect("an end token");
    let mut guesses = always(Adversary {
        way: Way::Right,
        truth: [&prompt[..], &expected.ids, &[end, 9, 9, 9, 9]].concat(),
        state: 1,
    });
    let (outcome, stats) = run(&mut session, &mut guesses, &prompt, &options(seed));
    assert_eq!(outcome, expected);
    assert!(stats.accepted > 0);
}

/// A flag set while a run is used up, as by Ctrl-C.
#[test]
fn cancelling_inside_a_run_keeps_what_was_said() {
    let mut session = session(Dtype::F32, 2, 300);
    let tokenizer = tokenizer(&session);
    let prompt = encode(&tokenizer, "And it came to pass in those days, that");
    let all = plain(&mut session, &prompt, &greedy(40));
    for pieces in 1..8 {
        let outcome = [Way::Fails, Way::Right].map(|way| {
            let flag = Arc::new(AtomicBool::new(false));
            let options = GenerateOptions {
                cancel: Some(flag.clone()),
                ..greedy(40)
            };
            let mut left = pieces;
            let mut sink = |_: &str| {
                left -= 1;
                flag.store(left == 0, Ordering::Relaxed);
                ControlFlow::Continue(())
            };
            let mut guesses = adversary(way, &all, &prompt);
            session.reset();
            let done = generate_with(
                &mut session,
                &mut guesses,
                &tokenizer,
                &prompt,
                &options,
                &mut sink,
            );
            let done = done.expect("no error");
            (done.ids, done.text, done.reason, session.tokens().to_vec())
        });
        assert_eq!(outcome[0], outcome[1]);
        assert_eq!(outcome[0].2, StopReason::Cancelled);
    }
}

/// A guess may lead to positions where the model has no finite logits; plain decoding never goes there.
#[test]
fn a_wrong_guess_that_breaks_the_model_is_no_error() {
    let own = nano(Dtype::F32);
    let file = GgufFile::open(&own, Load::Map).expect("own file");
    let table = file.tensor("token_embd.weight").expect("the table").info();
    let (broken, row_bytes) = (2047, table.cols() * 4);
    let at = table.range.start + broken * row_bytes;
    let mut bytes = std::fs::read(&own).expect("own file");
    for number in bytes[at..at + row_bytes].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let file = GgufFile::from_bytes(bytes).expect("a valid file");
    let model = Model::load(Arc::new(file)).expect("a valid model");
    let mut session = Session::new(model, &SessionOptions::default()).expect("session");
    let prompt = encode(&tokenizer(&session), "And it came to pass");
    let expected = plain(&mut session, &prompt, &greedy(20));
    session
        .forward(&[broken as u32], Want::Last)
        .expect_err("it is broken");
    let mut guesses = always(Adversary {
        way: Way::Right,
        truth: vec![broken as u32; 100],
        state: 1,
    });
    let (outcome, stats) = run(&mut session, &mut guesses, &prompt, &greedy(20));
    assert_eq!(outcome, expected);
    assert_eq!((stats.passes, stats.drafted), (19, 0));
}

#[test]
fn a_session_is_as_good_as_new_after_wrong_guesses() {
    let (mut used, mut fresh) = (session(Dtype::Q4_0, 2, 400), session(Dtype::Q4_0, 1, 400));
    let tokenizer = tokenizer(&used);
    let mut text = "And the LORD spake unto Moses, saying,".to_owned();
    for turn in 0..4 {
        let prompt = encode(&tokenizer, &text);
        let options = greedy(20);
        fresh.reset();
        let expected = plain(&mut fresh, &prompt, &options);
        for way in [Way::Random, Way::Mixed, Way::Wrong] {
            let mut guesses = adversary(way, &expected, &prompt);
            let (outcome, _) = run(&mut used, &mut guesses, &prompt, &options);
            assert_eq!(outcome, expected, "{way:?} in turn {turn}");
        }
        text.push_str(&expected.text);
        text.push_str(" And he said,");
    }
}

/// Records what it was asked, through the trait alone.
#[test]
fn a_source_is_asked_within_its_limits() {
    struct Recorder(Arc<Mutex<Vec<usize>>>);
    impl Drafter for Recorder {
        fn name(&self) -> &'static str {
            "recorder"
        }
        fn offer(&mut self, _: &[u32]) -> Option<Offer> {
            Some(Offer {
                class: 0,
                next: None,
            })
        }
        fn draft(
            &mut self,
            _: &mut Draft<'_>,
            _: &[u32],
            max: usize,
            _: &mut Vec<u32>,
        ) -> Result<()> {
            self.0.lock().expect("one thread").push(max);
            Ok(())
        }
    }
    let mut session = session(Dtype::F32, 1, 300);
    let prompt = encode(&tokenizer(&session), "In the beginning");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let recorder = Box::new(Recorder(asked.clone()));
    let mut guesses = Speculation::off().with(recorder, Tuning::Always, 2);
    let (_, stats) = run(&mut session, &mut guesses, &prompt, &greedy(6));
    // Six tokens need five passes; the last of them is followed by one token only.
    assert_eq!(*asked.lock().expect("one thread"), [2, 2, 2, 1]);
    assert_eq!((stats.passes, stats.drafted), (5, 0));
}

#[test]
fn a_draft_model_must_speak_the_same_language() {
    let target = session(Dtype::F32, 1, 64);
    let own = std::fs::read(nano(Dtype::Q4_0)).expect("own file");
    let at = |needle: &[u8]| {
        own.windows(needle.len())
            .position(|w| w == needle)
            .expect("in the file")
    };
    // One token gets another text of the same length.
    let mut other = own.clone();
    let word = "▁they".as_bytes();
    let place = at(&[&(word.len() as u64).to_le_bytes()[..], word].concat()) + 8;
    other[place + word.len() - 1] = b'Q';
    let refused = |bytes: Vec<u8>| -> String {
        let file = GgufFile::from_bytes(bytes).expect("a valid file");
        let model = Model::load(Arc::new(file)).expect("a valid model");
        let options = SessionOptions {
            threads: 1,
            ctx: Some(64),
            ..Default::default()
        };
        let session = Session::new(model, &options).expect("session");
        let error = DraftModel::new(session, target.model().file()).err();
        let error = error.expect("refused");
        assert!(matches!(error, Error::Request { .. }));
        error.to_string()
    };
    let message = refused(other);
    assert!(
        message.contains("▁theQ") && message.contains("▁they"),
        "{message}"
    );
    let mut kind = own.clone();
    let key = b"tokenizer.ggml.model\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00llama";
    let place = at(key) + key.len() - 5;
    kind[place..place + 5].copy_from_slice(b"gpt-2");
    let message = refused(kind);
    assert!(
        message.contains("tokenizer.ggml.model") && message.contains("gpt-2"),
        "{message}"
    );
    assert!(EarlyExit::new(&target, 0).is_err());
    assert!(EarlyExit::new(&target, 99).is_err_and(|e| e.to_string().contains("1..=")));
}
