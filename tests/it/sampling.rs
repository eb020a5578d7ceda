//! Every option of the sampler gives the text of plain decoding whoever guesses: what a step remembers goes on with
//! the tokens that are chosen, never with those that were guessed. Through the scheduler: `scheduler.rs`.

use std::ops::ControlFlow;

use geb::Dtype;
use geb::generate::{GenerateOptions, StopReason, generate_with};
use geb::sampler::{Dry, Dynatemp, Mirostat, SamplerOptions, Xtc};
use geb::session::{Session, SessionOptions};
use geb::speculate::{Drafter, EarlyExit, Lookup, Speculation, Tuning};
use geb::tokenizer::Tokenizer;

use crate::common::nano::{encode, session_with};

/// Switches an option on.
type Change = fn(&mut SamplerOptions);

/// The options that are off by default, by name.
pub const CHANGES: [(&str, Change); 8] = [
    ("dry", |o| o.dry.multiplier = 0.8),
    ("dry without breakers", |o| {
        o.dry = Dry {
            multiplier: 3.0,
            base: 1.2,
            allowed_length: 1,
            last_n: 50,
            breakers: Vec::new(),
        }
    }),
    ("xtc", |o| {
        o.xtc = Xtc {
            probability: 0.5,
            threshold: 0.05,
        }
    }),
    ("typical", |o| o.typical_p = 0.6),
    ("top-n-sigma", |o| o.top_n_sigma = 0.5),
    ("dynatemp", |o| {
        o.dynatemp = Dynatemp {
            range: 0.7,
            exponent: 1.5,
        }
    }),
    ("mirostat", |o| o.mirostat = Some(Mirostat::default())),
    ("narrow mirostat", |o| {
        o.mirostat = Some(Mirostat { tau: 1.5, eta: 0.7 })
    }),
];

fn session(threads: usize) -> Session {
    let options = SessionOptions {
        threads,
        ctx: Some(400),
        ..Default::default()
    };
    session_with(Dtype::Q8_0, &options)
}

/// Ids, text and why it ended; guesses that were verified, and that held.
fn run(
    session: &mut Session,
    guesses: &mut Speculation,
    prompt: &str,
    sampling: &SamplerOptions,
) -> ((Vec<u32>, String, StopReason), [usize; 2]) {
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    let options = GenerateOptions {
        max_tokens: 32,
        sampling: sampling.clone(),
        ignore_eos: true,
        ..Default::default()
    };
    let ids = encode(&tokenizer, prompt);
    let mut sink = |_: &str| ControlFlow::Continue(());
    let done = generate_with(session, guesses, &tokenizer, &ids, &options, &mut sink);
    let done = done.expect("generates");
    let stats = done.timings.speculation;
    let answer = (done.ids, done.text, done.reason);
    (answer, [stats.drafted, stats.accepted])
}

fn prompts() -> [String; 4] {
    [
        "And it came to pass in those days, that".into(),
        "And the children of Israel did so, as the LORD commanded Moses. ".repeat(3),
        "The king said: \"What wilt thou?\" The king said: \"What wilt".into(),
        "起初，神创造天地。".repeat(4),
    ]
}

#[test]
fn each_option_gives_the_text_of_plain_decoding() {
    let (mut reference, mut fast) = (session(1), session(2));
    let always = |d: Box<dyn Drafter>| Speculation::off().with(d, Tuning::Always, usize::MAX);
    let exit = EarlyExit::new(&fast, 2).expect("a layer of the model");
    let mut sources = [always(Box::new(Lookup::new())), always(Box::new(exit))];
    let base = |i: usize| SamplerOptions {
        temperature: [0.4, 0.9][i % 2],
        seed: i as u64,
        ..Default::default()
    };
    let prompts = prompts();
    let off = &mut Speculation::off();
    let mut without = |i: usize| run(&mut fast, off, &prompts[i], &base(i)).0;
    let usual: Vec<_> = (0..prompts.len()).map(&mut without).collect();
    for (name, change) in CHANGES {
        let (mut changed, mut drafted, mut accepted) = (0, 0, 0);
        for (i, prompt) in prompts.iter().enumerate() {
            let mut sampling = base(i);
            change(&mut sampling);
            let (expected, stats) = run(&mut reference, off, prompt, &sampling);
            assert_eq!(stats, [0, 0]);
            changed += usize::from(usual[i] != expected);
            for source in &mut sources {
                let (answer, [d, a]) = run(&mut fast, source, prompt, &sampling);
                assert_eq!(answer, expected, "{name}: {:?} {prompt}", source.names());
                (drafted, accepted) = (drafted + d, accepted + a);
            }
        }
        assert!(changed > 0, "{name} has an effect");
        // It was not equal because nothing was guessed, rightly and wrongly.
        assert!(
            accepted > 0 && drafted > accepted,
            "{name}: {accepted} of {drafted}"
        );
    }
}

/// All at once, and greedy ones where only penalties count.
#[test]
fn options_together_give_the_text_of_plain_decoding() {
    let (mut reference, mut fast) = (session(1), session(2));
    let mut lookup = Speculation::off().with(Box::new(Lookup::new()), Tuning::Always, 8);
    for (i, prompt) in prompts().iter().enumerate() {
        for count in (2..=CHANGES.len()).step_by(2) {
            let mut sampling = SamplerOptions {
                temperature: [0.0, 0.7][i % 2],
                frequency_penalty: 0.3,
                logit_bias: vec![(300, 1.0)],
                seed: count as u64,
                ..Default::default()
            };
            for (_, change) in CHANGES.iter().take(count) {
                change(&mut sampling);
            }
            let (expected, _) = run(&mut reference, &mut Speculation::off(), prompt, &sampling);
            let (answer, _) = run(&mut fast, &mut lookup, prompt, &sampling);
            assert_eq!(answer, expected, "{sampling:?} {prompt}");
        }
    }
}
