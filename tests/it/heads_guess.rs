//! Guessing with further heads changes the speed alone, and brings what the heads know.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::changed::Changed;
use crate::common::nano::{encode, nano};
use geb::Dtype;
use geb::generate::{GenerateOptions, Generated, generate_with};
use geb::gguf::writer::{MetaValue, Plan, write_to};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::speculate::{Draft, ExtraHeads, Guesses, Speculation, SpeculationStats, Tuning};
use geb::tokenizer::Tokenizer;

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn load(bytes: Vec<u8>) -> Arc<Model> {
    let file = GgufFile::from_bytes(bytes).expect("a valid file");
    Model::load(Arc::new(file)).expect("a valid model")
}

fn session_of(model: &Arc<Model>, threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        extra_heads: true,
        ..Default::default()
    };
    Session::new(model.clone(), &options).expect("session")
}

/// geb-nano with heads that nobody trained: its last layers once more.
fn nano_with_heads(dtype: Dtype) -> Arc<Model> {
    let file = GgufFile::open(&nano(dtype), Load::Map).expect("own file");
    let mut changed = Changed::of(&file);
    let blocks = file
        .int("llama.block_count", 1..=100)
        .expect("a number")
        .expect("a number");
    for head in 0..3 {
        let stem = format!("blk.{}.", blocks - 1 - head % 2);
        for t in file.tensors() {
            if let Some(role) = t.info().name.strip_prefix(&stem) {
                changed.push(&format!("mtp.{head}.{role}"), &t);
            }
        }
    }
    changed
        .plan
        .set_meta("llama.mtp_head_count", MetaValue::U32(3));
    load(changed.bytes())
}

fn guessing(session: &Session, tuning: Tuning) -> Speculation {
    let heads = ExtraHeads::new(session).expect("heads");
    Speculation::off().with(Box::new(heads), tuning, usize::MAX)
}

fn generated(
    session: &mut Session,
    guesses: &mut Speculation,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Generated {
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    let mut sink = |_: &str| ControlFlow::Continue(());
    generate_with(session, guesses, &tokenizer, prompt, options, &mut sink).expect("generates")
}

#[test]
fn guessing_with_heads_gives_the_text_of_plain_decoding() {
    let prompts = [
        "the the the the the the",
        "And it came to pass in those days, that",
        "神说，神说，神说，",
    ];
    let mut total = SpeculationStats::default();
    for (i, text) in prompts.iter().enumerate() {
        let dtype = [Dtype::F32, Dtype::Q8_0, Dtype::Q4_0][i % 3];
        let model = nano_with_heads(dtype);
        let mut reference =
            Session::new(model.clone(), &SessionOptions::default()).expect("session");
        let mut fast = session_of(&model, 1 + i % 3);
        let tokenizer = Tokenizer::from_gguf(model.file()).expect("tokenizer");
        let prompt = encode(&tokenizer, text);
        let sampled = SamplerOptions {
            temperature: 0.9,
            repeat_penalty: 1.2,
            seed: i as u64,
            ..Default::default()
        };
        for (tuning, samplings) in [
            (Tuning::Always, vec![SamplerOptions::greedy(), sampled]),
            (Tuning::Auto, vec![SamplerOptions::greedy()]),
        ] {
            let mut guesses = guessing(&fast, tuning);
            for sampling in samplings {
                let options = GenerateOptions {
                    max_tokens: 24,
                    sampling,
                    ignore_eos: true,
                    ..Default::default()
                };
                let want = generated(&mut reference, &mut Speculation::off(), &prompt, &options);
                let got = generated(&mut fast, &mut guesses, &prompt, &options);
                assert_eq!(
                    (got.ids, got.text),
                    (want.ids, want.text),
                    "{text:?} {options:?}"
                );
                assert_eq!(fast.tokens(), reference.tokens());
                if tuning == Tuning::Always {
                    total.add(&got.timings.speculation);
                }
            }
        }
    }
    // It was not equal because nothing was guessed; guesses that hold are those of the other tests.
    assert!(total.drafted > 200, "{total:?}");
}

/// Tokens of a text that goes round: the next one is `7 t + 3`.
const ROUND: usize = 64;

fn after(t: usize) -> usize {
    (7 * t + 3) % ROUND
}

/// A model of that text. States are one number per token; the layers do nothing, and a head's layer leads
/// from a token to the one its guess follows. `knows` says of which tokens head `i` knows that.
fn round_model(knows: impl Fn(usize, usize) -> bool) -> Arc<Model> {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 256),
        ("embedding_length", ROUND),
        ("feed_forward_length", ROUND),
        ("attention.head_count", 2),
        ("mtp_head_count", 3),
    ] {
        plan.push_meta(format!("llama.{key}"), MetaValue::U32(value as u32));
    }
    plan.push_meta("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    let matrix = |at: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..ROUND * ROUND)
            .map(|i| at(i / ROUND, i % ROUND))
            .collect()
    };
    let one = |yes: bool| if yes { 1.0 } else { 0.0 };
    let mut data = Vec::new();
    let mut add = |name: String, values: Vec<f32>| {
        let dims = match values.len() == ROUND {
            true => vec![ROUND as u64],
            false => vec![ROUND as u64; 2],
        };
        plan.push_tensor(format!("{name}.weight"), Dtype::F32, dims);
        data.push(values);
    };
    let identity = matrix(&|r, c| one(r == c));
    add("token_embd".into(), identity.clone());
    add("output_norm".into(), vec![1.0; ROUND]);
    add("output".into(), matrix(&|r, c| one(r == after(c))));
    for stem in ["blk.0", "blk.1", "mtp.0", "mtp.1", "mtp.2"] {
        let head = stem
            .strip_prefix("mtp.")
            .and_then(|i| i.parse::<usize>().ok());
        for role in ["attn_norm", "ffn_norm"] {
            add(format!("{stem}.{role}"), vec![1.0; ROUND]);
        }
        for role in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            add(format!("{stem}.{role}"), vec![0.0; ROUND * ROUND]);
        }
        for role in ["ffn_gate", "ffn_up"] {
            add(format!("{stem}.{role}"), identity.clone());
        }
        let leads = |to: usize, from: usize| {
            let way = head.filter(|i| knows(*i, from));
            let end = way.map(|i| (0..=i).fold(from, |t, _| after(t)));
            one(end == Some(to))
        };
        add(format!("{stem}.ffn_down"), matrix(&leads));
    }
    let mut bytes = Vec::new();
    write_to(&mut bytes, &plan, &mut |i, out| {
        out.write_all(&bytes_of(&data[i])).expect("memory");
        Ok(())
    })
    .expect("a valid plan");
    load(bytes)
}

/// The most probable token.
fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits").0 as u32
}

/// Decodes `n` tokens after token 1, as `pick` chooses.
fn decode(
    session: &mut Session,
    guesses: &mut Speculation,
    n: usize,
    pick: &mut dyn FnMut(&[f32]) -> u32,
) -> (Vec<u32>, SpeculationStats) {
    let vocab = session.model().config().vocab;
    let mut history = vec![1u32, after(1) as u32];
    session.reset();
    session.forward(&history[..1], Want::Last).expect("prompt");
    guesses.begin();
    while history.len() < n + 2 {
        let wanted = n + 2 - history.len();
        if !guesses.goes_on(history[history.len() - 1]) {
            let (engine, seq) = session.parts();
            let mut draft = Draft::new(engine, seq);
            let batch = guesses.plan(&mut draft, &history, wanted, Guesses::Tuned);
            session.forward(batch, Want::All).expect("a step");
            guesses.evaluated(None);
        }
        let at = guesses.row() * vocab;
        let logits = &session.logits()[at..at + vocab];
        history.push(pick(logits));
    }
    (history, guesses.stats())
}

#[test]
fn heads_that_know_the_text_give_several_tokens_per_pass() {
    let text: Vec<u32> = std::iter::successors(Some(1), |t| Some(after(*t)))
        .take(102)
        .map(|t| t as u32)
        .collect();
    let per_pass = |knows: fn(usize, usize) -> bool, kv: KvChoice| {
        let model = round_model(knows);
        let options = SessionOptions {
            extra_heads: true,
            kv,
            ..Default::default()
        };
        let mut session = Session::new(model, &options).expect("session");
        let mut guesses = guessing(&session, Tuning::Always);
        let (ids, stats) = decode(&mut session, &mut guesses, 100, &mut best);
        assert_eq!(ids, text);
        assert_eq!(stats.passes + stats.accepted, 100);
        stats
    };
    // Every guess holds: four tokens per pass.
    let all = per_pass(|_, _| true, KvChoice::F16);
    assert_eq!((all.passes, all.accepted, all.drafted), (25, 75, 75));
    // One token in five is beyond the first head, one in three beyond the third.
    let some = per_pass(|i, t| [t % 5 > 0, true, t % 3 > 0][i], KvChoice::F32);
    assert!(some.accepted < some.drafted, "{some:?}");
    let tokens = some.tokens_per_pass().expect("passes");
    assert!((2.0..4.0).contains(&tokens), "{tokens}");
    // None holds: the text is the same.
    let none = per_pass(|_, _| false, KvChoice::F16);
    assert_eq!((none.passes, none.accepted), (100, 0));
}

/// A sampler that leaves the text now and then makes the same choices, guesses that hold among them.
#[test]
fn sampled_texts_are_those_of_plain_decoding() {
    let mut session = session_of(&round_model(|i, t| (i + t) % 7 > 0), 2);
    let mut guesses = guessing(&session, Tuning::Always);
    let mut run = |guesses: &mut Speculation| {
        let mut state = 3u64;
        let mut pick = |logits: &[f32]| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            match (state >> 33) % 8 {
                0 => (state >> 40) as u32 % ROUND as u32,
                _ => best(logits),
            }
        };
        decode(&mut session, guesses, 200, &mut pick)
    };
    let (want, plain) = run(&mut Speculation::off());
    assert_eq!(plain.passes, 200);
    let (got, stats) = run(&mut guesses);
    assert_eq!(got, want);
    assert!(
        stats.accepted > 50 && stats.accepted < stats.drafted,
        "{stats:?}"
    );
}
