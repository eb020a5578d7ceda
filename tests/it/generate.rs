//! The generation loop on real (tiny) models.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::nano::{encode, session_with};
use geb::generate::{Events, GenerateOptions, Generated, StopReason, generate};
use geb::gguf::GgufFile;
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Error};
use geb_convert::{Options, convert_to_vec};

fn session() -> (Session, Tokenizer) {
    let options = SessionOptions {
        threads: 2,
        kv: KvChoice::F32,
        ..Default::default()
    };
    let session = session_with(Dtype::F32, &options);
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    (session, tokenizer)
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        sampling: SamplerOptions::greedy(),
        ignore_eos: true,
        ..Default::default()
    }
}

fn quiet(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What an independent implementation generates (geb-nano's card).
#[test]
fn greedy_text_is_that_of_the_reference() {
    let (mut session, tokenizer) = session();
    let expected = std::fs::read(crate::common::asset("expected.json")).expect("expected.json");
    let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
    for case in expected["prompts"].as_array().expect("prompts") {
        let prompt = encode(&tokenizer, case["prompt"].as_str().expect("text"));
        let mut streamed = String::new();
        let mut sink = |text: &str| {
            streamed.push_str(text);
            ControlFlow::Continue(())
        };
        let result =
            generate(&mut session, &tokenizer, &prompt, &greedy(40), &mut sink).expect("generates");
        assert_eq!(
            serde_json::json!(result.ids),
            case["greedy_ids"],
            "{}",
            case["name"]
        );
        assert_eq!(
            serde_json::json!(result.text),
            case["greedy_text"],
            "{}",
            case["name"]
        );
        assert_eq!(result.text, streamed);
        assert_eq!(result.reason, StopReason::Length);
    }
}

#[test]
fn a_longer_prompt_reuses_the_cache_and_changes_nothing() {
    let (mut fresh, tokenizer) = session();
    let first = encode(&tokenizer, "And it came to pass in those days");
    let mut longer = first.clone();
    let (mut warm, _) = session();
    let answer =
        generate(&mut warm, &tokenizer, &first, &greedy(12), &mut quiet).expect("generates");
    assert_eq!(answer.timings.reused_tokens, 0);
    // As in a chat: old prompt, old answer, new text.
    longer.extend(&answer.ids);
    longer.extend(encode(&tokenizer, "And he said unto them"));
    let reused =
        generate(&mut warm, &tokenizer, &longer, &greedy(20), &mut quiet).expect("generates");
    let again =
        generate(&mut fresh, &tokenizer, &longer, &greedy(20), &mut quiet).expect("generates");
    // All but the last token of the answer was in the cache.
    assert_eq!(
        reused.timings.reused_tokens,
        first.len() + answer.ids.len() - 1
    );
    assert_eq!(reused.ids, again.ids);
    // The same prompt again: only its last token is evaluated.
    let same =
        generate(&mut warm, &tokenizer, &longer, &greedy(20), &mut quiet).expect("generates");
    assert_eq!(same.timings.reused_tokens, longer.len() - 1);
    assert_eq!(same.ids, again.ids);
    // Another beginning: nothing is reused.
    let other = encode(&tokenizer, "耶和华对摩西说：");
    let other = generate(&mut warm, &tokenizer, &other, &greedy(4), &mut quiet).expect("generates");
    assert_eq!(other.timings.reused_tokens, 0);
}

#[test]
fn generation_stops_for_every_reason() {
    let (mut session, tokenizer) = session();
    let prompt = encode(&tokenizer, "And it came to pass in those days, that");
    let mut run = |options: &GenerateOptions, events: &mut dyn Events| -> Generated {
        generate(&mut session, &tokenizer, &prompt, options, events).expect("generates")
    };
    // The reference text is " they had made the churches of the LORD, …".
    let stop = GenerateOptions {
        stop: vec!["churches of".into(), "never".into()],
        ..greedy(40)
    };
    let stopped = run(&stop, &mut quiet);
    assert_eq!(
        (stopped.text.as_str(), stopped.reason),
        (" they had made the ", StopReason::Stop)
    );
    // The callback cancels.
    let mut pieces = 0;
    let mut three = |_: &str| {
        pieces += 1;
        if pieces == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    assert_eq!(run(&greedy(40), &mut three).reason, StopReason::Cancelled);
    // The flag cancels.
    let flag = Arc::new(AtomicBool::new(true));
    let cancelled = run(
        &GenerateOptions {
            cancel: Some(flag),
            ..greedy(40)
        },
        &mut quiet,
    );
    assert_eq!(
        (cancelled.reason, cancelled.ids.len()),
        (StopReason::Cancelled, 0)
    );
    // No tokens wanted.
    assert_eq!(run(&greedy(0), &mut quiet).reason, StopReason::Length);
    // Hot enough sampling meets the end token sooner or later.
    let hot = SamplerOptions {
        temperature: 3.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 1,
        ..Default::default()
    };
    let end = GenerateOptions {
        max_tokens: 400,
        sampling: hot,
        ..Default::default()
    };
    let mut reasons = (0..20).map(|seed| {
        let sampling = SamplerOptions {
            seed,
            ..end.sampling.clone()
        };
        run(
            &GenerateOptions {
                sampling,
                ..end.clone()
            },
            &mut quiet,
        )
    });
    let ended = reasons
        .find(|r| r.reason == StopReason::Eos)
        .expect("an end token within 8000 tokens");
    assert!(
        !ended.ids.contains(&2),
        "the end token is not part of the answer"
    );
}

#[test]
fn a_full_context_ends_the_text() {
    let options = SessionOptions {
        threads: 1,
        ctx: Some(20),
        ..Default::default()
    };
    let mut session = session_with(Dtype::Q8_0, &options);
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    let prompt = encode(&tokenizer, "And it came to pass in those days, that");
    let result =
        generate(&mut session, &tokenizer, &prompt, &greedy(100), &mut quiet).expect("generates");
    assert_eq!(result.reason, StopReason::Length);
    // The last token needs no room: it is not evaluated.
    assert_eq!(prompt.len() + result.ids.len(), 21);
    assert_eq!(session.pos(), 20);
    let long = vec![300; 21];
    let refused = generate(&mut session, &tokenizer, &long, &greedy(1), &mut quiet);
    assert!(matches!(refused, Err(Error::Request { .. })));
    assert!(generate(&mut session, &tokenizer, &[], &greedy(1), &mut quiet).is_err());
}

#[test]
fn a_cancelled_prefill_keeps_the_session_usable() {
    let flag = Arc::new(AtomicBool::new(true));
    let options = SessionOptions {
        threads: 2,
        cancel: Some(flag.clone()),
        ..Default::default()
    };
    let mut session = session_with(Dtype::Q8_0, &options);
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    let prompt = encode(&tokenizer, "And it came to pass in those days, that");
    let with_flag = GenerateOptions {
        cancel: Some(flag.clone()),
        ..greedy(8)
    };
    let result =
        generate(&mut session, &tokenizer, &prompt, &with_flag, &mut quiet).expect("no error");
    assert_eq!(result.reason, StopReason::Cancelled);
    flag.store(false, Ordering::Relaxed);
    let result =
        generate(&mut session, &tokenizer, &prompt, &with_flag, &mut quiet).expect("generates");
    assert_eq!(result.ids.len(), 8);
}

/// The encoder reads the prompt, the decoder writes the text.
#[test]
fn a_model_with_an_encoder_answers_as_the_reference() {
    for case in ["t5", "t5-relu"] {
        let folder = Path::new(crate::common::ROOT)
            .join("tests/fixtures")
            .join(case);
        let options = Options {
            policy: Dtype::F32.into(),
            ..Options::default()
        };
        let (bytes, _) = convert_to_vec(&folder.join("hf"), &options).expect("converts");
        let model = Model::load(Arc::new(GgufFile::from_bytes(bytes).expect("a file")));
        let mut session =
            Session::new(model.expect("a model"), &SessionOptions::default()).expect("session");
        let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
        let expected = std::fs::read(folder.join("expected.json")).expect("expected.json");
        let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
        let tensors = std::fs::read(folder.join("expected.safetensors")).expect("a file");
        let tensors = safetensors::SafeTensors::deserialize(&tensors).expect("safetensors");
        let ids = tensors.tensor("greedy_ids").expect("ids");
        let (ids, _) = ids.data().as_chunks::<8>();
        let want: Vec<u32> = ids.iter().map(|c| i64::from_le_bytes(*c) as u32).collect();
        let how = Encode {
            add_special: true,
            parse_special: true,
        };
        let text = expected["prompt_text"].as_str().expect("a text");
        let prompt = tokenizer.encode(text, how).expect("encodes");
        for _ in 0..2 {
            let done = generate(&mut session, &tokenizer, &prompt, &greedy(16), &mut quiet);
            assert_eq!(done.expect("generates").ids, want, "{case}");
        }
        // Another text, other logits.
        let mut first = |text: &[u32]| -> Vec<f32> {
            session.encode(text).expect("encodes");
            session.reset();
            session.forward(&[0], Want::Last).expect("forward").to_vec()
        };
        let backwards: Vec<u32> = prompt.iter().rev().copied().collect();
        let pairs: Vec<_> = first(&prompt).into_iter().zip(first(&backwards)).collect();
        assert!(pairs.iter().any(|(a, b)| (a - b).abs() > 0.3), "{case}");
        // Without a text there is nothing to look at.
        let mut fresh =
            Session::new(session.model().clone(), &SessionOptions::default()).expect("session");
        assert!(matches!(
            fresh.forward(&[0], Want::Last),
            Err(Error::Request { .. })
        ));
        assert!(matches!(fresh.encode(&[]), Err(Error::Request { .. })));
        assert!(matches!(
            fresh.encode(&[1; 513]),
            Err(Error::Request { .. })
        ));
    }
}
