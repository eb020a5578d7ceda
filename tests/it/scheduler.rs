//! Many requests on one engine: each gets the ids, the text and the log-probabilities that it gets alone, whoever
//! is beside it, whatever it has to make room for, whatever others have read before.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use geb::adapter::Adapter;
use geb::engine::{Engine, KvChoice, Scope, SessionOptions};
use geb::generate::{GenerateOptions, StopReason, generate};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::scheduler::{
    Event, Fair, Handle, Policy, Refusal, Request, Running, Scheduler, SchedulerOptions,
    SchedulerStats, Waiting,
};
use geb::session::Session;
use geb::tokenizer::Tokenizer;
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

use crate::common::dice::Dice;
use crate::common::gguf::File;
use crate::common::nano::{encode, nano};
use crate::sampling::CHANGES;

fn fixture(case: &str) -> Arc<Model> {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let source = root.join(case).join("hf");
    let (bytes, _) = convert::convert_to_vec(&source, &options).expect("converts");
    Model::load(Arc::new(GgufFile::from_bytes(bytes).expect("GGUF"))).expect("model")
}

/// A random adapter of rank 2 for all matrices of the layers.
fn adapter(model: &Model, dice: &mut Dice) -> Arc<Adapter> {
    let base = model.file();
    let name = base.str("general.architecture").expect("a text");
    let mut out = File::new()
        .str("general.type", "adapter")
        .str("general.architecture", name.expect("there"))
        .str("adapter.type", "lora")
        .f32("adapter.lora.alpha", 4.0);
    for t in base.tensors() {
        let info = t.info();
        let leaf = info.name.trim_end_matches(".weight");
        let known = ["attn_q", "attn_v", "ffn_down"];
        if !known.iter().any(|k| leaf.ends_with(k)) {
            continue;
        }
        let mut random = |n: usize, size: f32| -> Vec<u8> {
            let one = |_| (dice.below(2001) as f32 / 1000.0 - 1.0) * size;
            (0..n).map(one).flat_map(f32::to_le_bytes).collect()
        };
        let (rows, cols) = (info.rows(), info.cols());
        let (a, b) = (random(2 * cols, 1.0), random(2 * rows, 0.05));
        let named = |end: &str| format!("{}.{end}", info.name);
        let dims = |a: usize, b: usize| [a as u64, b as u64];
        out = out
            .tensor_with(&named("lora_a"), Dtype::F32, &dims(cols, 2), a)
            .tensor_with(&named("lora_b"), Dtype::F32, &dims(2, rows), b);
    }
    let file = GgufFile::from_bytes(out.encode()).expect("GGUF");
    Arc::new(model.adapter(&file).expect("fits the model"))
}

/// All that a request must give whoever is beside it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    text: String,
    log_probs: Vec<u64>,
    reason: Option<StopReason>,
    error: Option<String>,
}

/// What `request` gives on a session of its own.
fn alone(
    model: &Arc<Model>,
    options: &SessionOptions,
    tokenizer: &Tokenizer,
    r: &Request,
) -> Answer {
    let mut session = Session::new(model.clone(), options).expect("session");
    let adapters: Vec<_> = r.adapters.iter().map(|(a, s)| (&**a, *s)).collect();
    session.set_adapters(&adapters).expect("adapters");
    let mut sink = |_: &str| ControlFlow::Continue(());
    match generate(&mut session, tokenizer, &r.prompt, &r.options, &mut sink) {
        Ok(done) => Answer {
            ids: done.ids,
            text: done.text,
            log_probs: done.log_probs.iter().map(|p| p.to_bits()).collect(),
            reason: Some(done.reason),
            error: None,
        },
        Err(error) => Answer {
            error: Some(error.to_string()),
            ..Answer::default()
        },
    }
}

/// Reads the events of a request, at most `most`.
fn read(handle: Handle, most: usize) -> (Answer, usize) {
    let (mut answer, mut cached) = (Answer::default(), 0);
    let mut ended = false;
    for event in handle.take(most) {
        assert!(!ended, "nothing follows the last event");
        match event {
            Event::Started { cached: n, .. } => cached = n,
            Event::Prefill { done, total } => assert!(done <= total),
            Event::Prompt(_) => unreachable!("nobody asked for it"),
            Event::Token(progress) => {
                answer.ids.extend(progress.id);
                answer.text.push_str(&progress.text);
                answer.log_probs.extend(progress.log_prob.map(f64::to_bits));
                if let (Some(own), [(_, best), ..]) = (progress.log_prob, &progress.top[..]) {
                    assert!(own <= *best && progress.top.len() == 2);
                }
            }
            Event::Done { reason, timings } => {
                answer.reason = Some(reason);
                assert!(timings.sampled_tokens >= answer.ids.len());
                ended = true;
            }
            Event::Failed(error) => {
                answer.error = Some(error.to_string());
                // What was said before it failed is no answer.
                (answer.ids, answer.text, answer.log_probs) = Default::default();
                ended = true;
            }
        }
    }
    (answer, cached)
}

/// How the i-th request chooses its tokens.
fn sampling(i: usize, vocab: usize, dice: &mut Dice) -> SamplerOptions {
    let mut options = cut(i, vocab, dice);
    // Every option meets every kind of prompt, alone or with others.
    for (bit, (_, change)) in CHANGES.iter().enumerate() {
        let on = match i % 3 {
            0 => i / 3 % CHANGES.len() == bit,
            1 => dice.below(3) == 0,
            _ => false,
        };
        if on {
            change(&mut options);
        }
    }
    options
}

fn cut(i: usize, vocab: usize, dice: &mut Dice) -> SamplerOptions {
    match i % 4 {
        0 => SamplerOptions::greedy(),
        1 => SamplerOptions {
            temperature: 0.0,
            frequency_penalty: 0.7,
            presence_penalty: 0.2,
            logit_bias: vec![(dice.below(vocab) as u32, 3.0)],
            ..Default::default()
        },
        _ => SamplerOptions {
            temperature: 1.0 + dice.below(3) as f32 / 2.0,
            top_k: 0,
            repeat_penalty: 1.0 + dice.below(2) as f32 / 5.0,
            seed: dice.below(1000) as u64,
            ..Default::default()
        },
    }
}

/// 64 requests of all kinds.
fn requests(
    model: &Arc<Model>,
    tokenizer: &Tokenizer,
    longest: usize,
    dice: &mut Dice,
) -> Vec<Request> {
    let vocab = model.config().vocab;
    let has_adapters = model.config().recurrent.is_none() && model.config().encoder.is_none();
    let adapters: Vec<_> = match has_adapters {
        true => (0..2).map(|_| adapter(model, dice)).collect(),
        false => Vec::new(),
    };
    let common = dice.ids(300, vocab);
    let mut last: Vec<u32> = Vec::new();
    let one = |i: usize| {
        let n = match i % 8 {
            0 => 1 + dice.below(longest),
            1..4 => 1 + dice.below(200),
            _ => 1 + dice.below(40),
        };
        let shared = if i.is_multiple_of(3) {
            dice.below(300)
        } else {
            0
        };
        let mut prompt = common[..shared.min(longest)].to_vec();
        if i % 4 == 3 && last.len() < longest {
            // Goes on where the one before it ended.
            prompt.clone_from(&last);
        }
        let n = n.min(longest - prompt.len()).max(1);
        prompt.extend(match dice.below(4) {
            // Repeats itself, so that there is something to guess.
            0 => dice.ids(7, vocab).into_iter().cycle().take(n).collect(),
            _ => dice.ids(n, vocab),
        });
        last.clone_from(&prompt);
        let sampling = sampling(i, vocab, dice);
        let stop = match i % 5 {
            0 => vec![tokenizer.piece(dice.below(vocab) as u32), "e".into()],
            _ => Vec::new(),
        };
        Request {
            prompt,
            stored: None,
            options: GenerateOptions {
                max_tokens: dice.below(if i.is_multiple_of(2) { 400 } else { 60 }),
                sampling,
                stop: stop.into_iter().filter(|s| !s.is_empty()).collect(),
                ignore_eos: i.is_multiple_of(2),
                log_probs: true,
                top_log_probs: 2,
                ..Default::default()
            },
            adapters: match adapters.get(i % 6) {
                Some(adapter) => vec![(adapter.clone(), 0.5 + (i % 2) as f32)],
                None => Vec::new(),
            },
            scope: Scope([(i % 16 == 5) as u8; 32]),
            owner: (i % 5) as u64,
        }
    };
    (0..64).map(one).collect()
}

/// Lets everybody in who is new, room or not: they take it from each other.
struct Crowd(Fair);

impl Policy for Crowd {
    fn admit(
        &mut self,
        waiting: &[Waiting],
        places: usize,
        fits: &mut dyn FnMut(usize) -> bool,
    ) -> Vec<usize> {
        let mut any = |i: usize| waiting[i].ticket.is_none() || fits(i);
        self.0.admit(waiting, places, &mut any)
    }

    fn read(&mut self, running: &[Running], rows: usize) -> Vec<usize> {
        self.0.read(running, rows)
    }

    fn preempt(&mut self, running: &[Running]) -> Option<usize> {
        self.0.preempt(running)
    }
}

/// 64 requests at random moments, in a cache for `contexts` of them, against lone runs.
fn exact(case: &str, longest: usize, contexts: f64, kv: KvChoice) -> (SchedulerStats, usize) {
    let model = fixture(case);
    let tokenizer = Arc::new(Tokenizer::from_gguf(model.file()).expect("tokenizer"));
    let mut dice = Dice(7 + case.len() as u64);
    let mut options = SessionOptions {
        threads: 1,
        ctx: Some(longest + 100),
        beyond: true,
        kv,
        ..Default::default()
    };
    let requests = requests(&model, &tokenizer, longest, &mut dice);
    let lone = |r| alone(&model, &options, &tokenizer, r);
    let expected: Vec<_> = requests.iter().map(lone).collect();
    let one = Engine::new(model.clone(), &options)
        .expect("engine")
        .kv_bytes();
    options.threads = 2;
    options.streams = 12;
    // A recurrent model has no pages; its copies of states have memory of their own.
    options.kv_memory = (one > 0).then_some((one as f64 * contexts) as u64);
    let engine = Engine::new(model.clone(), &options).expect("engine");
    let how = SchedulerOptions {
        streams: 12,
        // As good as none: prompts and answers mix.
        step: Duration::from_millis(1),
        ..Default::default()
    };
    let policy = Box::new(Crowd(Fair::default()));
    let scheduler = Scheduler::with_policy(engine, tokenizer, how, policy).expect("scheduler");
    let mut cached = 0;
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for (i, request) in requests.iter().enumerate() {
            let handle = scheduler
                .submit(request.clone())
                .expect("room in the queue");
            // Every ninth is dropped in the middle, and asked again.
            let most = if i % 9 == 4 {
                dice.below(6)
            } else {
                usize::MAX
            };
            readers.push((i, most, scope.spawn(move || read(handle, most))));
            if most < usize::MAX {
                let again = scheduler.submit(request.clone()).expect("room");
                readers.push((i, usize::MAX, scope.spawn(move || read(again, usize::MAX))));
            }
            if dice.below(3) == 0 {
                std::thread::sleep(Duration::from_millis(dice.below(20) as u64));
            }
        }
        for (i, most, reader) in readers {
            let (answer, hit) = reader.join().expect("read");
            cached += hit;
            if most == usize::MAX {
                assert_eq!(answer, expected[i], "{case}: request {i}");
            }
        }
    });
    let stats = scheduler.stats();
    println!("{case}: {cached} tokens found, {stats:?}");
    assert_eq!((stats.panics, stats.failed), (0, 0), "{case}: {stats:?}");
    assert!(stats.finished >= 64, "{case}: {stats:?}");
    (stats, cached)
}

#[test]
fn requests_give_what_they_give_alone() {
    let (stats, cached) = exact("llama", 3000, 1.2, KvChoice::F32);
    assert!(cached > 0, "some began alike");
    assert!(
        stats.rows > 2 * stats.steps,
        "they shared passes: {stats:?}"
    );
    let (stats, _) = exact("llama", 600, 1.1, KvChoice::F16);
    assert!(stats.preemptions > 20, "{stats:?}");
}

#[test]
fn windows_experts_and_narrow_caches_too() {
    exact("gemma3", 700, 2.0, KvChoice::Q8_0);
    exact("mistral-swa", 900, 1.5, KvChoice::F16);
    exact("mixtral", 300, 1.5, KvChoice::F16);
}

#[test]
fn recurrent_models_and_encoders_too() {
    let (_, cached) = exact("rwkv7", 400, 4.0, KvChoice::F32);
    assert!(cached > 0, "copies of states were found");
    exact("mamba2", 300, 4.0, KvChoice::F32);
    exact("t5", 100, 4.0, KvChoice::F32);
}

/// Pages and copies of states in one memory, too little for all: sequences make room for each other.
#[test]
fn models_with_both_kinds_of_layers_too() {
    let (stats, _) = exact("lfm2", 400, 1.5, KvChoice::F16);
    assert!(stats.preemptions > 0, "{stats:?}");
    for (case, kv) in [("lfm2", KvChoice::F32), ("qwen35", KvChoice::Q8_0)] {
        let (_, cached) = exact(case, 200, 40.0, kv);
        assert!(cached > 0, "{case}: copies of states were found");
    }
}

fn nano_model() -> (Arc<Model>, Arc<Tokenizer>) {
    let file = GgufFile::open(&nano(Dtype::Q8_0), Load::Map).expect("own file");
    let tokenizer = Tokenizer::from_gguf(&file).expect("tokenizer");
    (
        Model::load(Arc::new(file)).expect("model"),
        Arc::new(tokenizer),
    )
}

fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        prompt,
        options: GenerateOptions {
            max_tokens,
            sampling: SamplerOptions::greedy(),
            ignore_eos: true,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn nano_scheduler(streams: usize, queue: usize) -> Scheduler {
    let (model, tokenizer) = nano_model();
    let options = SessionOptions {
        threads: 1,
        ctx: Some(512),
        streams,
        ..Default::default()
    };
    let engine = Engine::new(model, &options).expect("engine");
    let how = SchedulerOptions {
        streams,
        queue,
        ..Default::default()
    };
    Scheduler::new(engine, tokenizer, how).expect("scheduler")
}

/// Waits until `done` says so.
fn until(scheduler: &Scheduler, done: impl Fn(&SchedulerStats) -> bool) -> SchedulerStats {
    for _ in 0..2000 {
        let stats = scheduler.stats();
        if done(&stats) {
            return stats;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it never happened: {:?}", scheduler.stats());
}

#[test]
fn a_beginning_of_many_is_read_once() {
    const COMMON: usize = 384;
    let scheduler = nano_scheduler(16, 32);
    let mut dice = Dice(7);
    let common = dice.ids(COMMON, 2000);
    let asked: Vec<_> = (0..16)
        .map(|_| [common.clone(), dice.ids(16, 2000)].concat())
        .collect();
    let alone = nano_scheduler(1, 1);
    let lone =
        |prompt: &Vec<u32>| read(alone.submit(greedy(prompt.clone(), 4)).expect("room"), 999).0;
    let handles: Vec<_> = asked
        .iter()
        .map(|p| scheduler.submit(greedy(p.clone(), 4)).expect("room"))
        .collect();
    let mut computed = 0;
    for (handle, prompt) in handles.into_iter().zip(&asked) {
        let (answer, cached) = read(handle, usize::MAX);
        assert_eq!(answer, lone(prompt));
        computed += prompt.len() - cached;
    }
    assert!(computed <= COMMON + 16 * (16 + 64), "{computed}");
}

#[test]
fn a_slow_reader_pauses_only_itself() {
    let scheduler = nano_scheduler(2, 8);
    let prompt = encode(scheduler.tokenizer(), "In the beginning");
    let slow = scheduler.submit(greedy(prompt.clone(), 450)).expect("room");
    // Its events find no more room; the other one goes on.
    let other = read(
        scheduler.submit(greedy(prompt, 450)).expect("room"),
        usize::MAX,
    )
    .0;
    assert_eq!(other.ids.len(), 450);
    let stats = until(&scheduler, |s| s.finished == 1);
    assert_eq!(stats.running, 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(
        scheduler.stats().steps,
        stats.steps,
        "nothing is done for nobody"
    );
    assert_eq!(read(slow, usize::MAX).0, other);
}

#[test]
fn a_dropped_handle_ends_its_request_wherever_it_is() {
    let scheduler = nano_scheduler(1, 2);
    let prompt = encode(scheduler.tokenizer(), "And it came to pass");
    let running = scheduler.submit(greedy(prompt.clone(), 480)).expect("room");
    until(&scheduler, |s| s.running == 1);
    let waiting = scheduler.submit(greedy(prompt.clone(), 480)).expect("room");
    let last = scheduler.submit(greedy(prompt.clone(), 3)).expect("room");
    let refused = scheduler.submit(greedy(prompt.clone(), 3)).err();
    assert!(matches!(
        refused,
        Some(Refusal::Full {
            waiting: 2,
            most: 2
        })
    ));
    drop(waiting);
    until(&scheduler, |s| s.cancelled == 1 && s.waiting == 1);
    drop(running);
    assert_eq!(read(last, usize::MAX).0.ids.len(), 3);
    let stats = until(&scheduler, |s| s.finished == 1);
    assert_eq!((stats.cancelled, stats.running, stats.waiting), (2, 0, 0));
    // A scheduler that ends leaves nobody waiting.
    let open = scheduler.submit(greedy(prompt, 480)).expect("room");
    drop(scheduler);
    let (answer, _) = read(open, usize::MAX);
    assert!(answer.reason.is_none() && answer.error.is_none());
}

#[test]
fn what_is_wrong_with_a_request_is_its_first_event() {
    let scheduler = nano_scheduler(2, 8);
    let mut hot = greedy(vec![1, 2], 3);
    hot.options.sampling.temperature = -1.0;
    let bad = [
        (greedy(Vec::new(), 3), "prompt"),
        (greedy(vec![1; 513], 3), "prompt"),
        (greedy(vec![u32::MAX], 3), "token id"),
        (hot, "temperature"),
    ];
    for (request, field) in bad {
        let mut events = scheduler.submit(request).expect("taken");
        let first = events.next();
        let Some(Event::Failed(Error::Request { what, .. })) = first else {
            panic!("{first:?}");
        };
        assert_eq!(what, field);
        assert!(events.next().is_none());
    }
    assert_eq!(scheduler.stats().panics, 0);
}

/// A model whose token 2047 makes every number after it NaN: a prompt with it fails, those beside it do not.
#[test]
fn a_failure_is_that_of_one_request() {
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
    let tokenizer = Arc::new(Tokenizer::from_gguf(&file).expect("tokenizer"));
    let model = Model::load(Arc::new(file)).expect("a valid model");
    let options = SessionOptions {
        threads: 2,
        ctx: Some(256),
        streams: 8,
        ..Default::default()
    };
    let engine = Engine::new(model.clone(), &options).expect("engine");
    let prompts: Vec<Vec<u32>> = (0..8)
        .map(|i| {
            let mut ids = encode(&tokenizer, "And it came to pass");
            ids.push(5 + i);
            if i % 4 == 1 {
                ids.push(broken as u32);
            }
            ids
        })
        .collect();
    let all: Vec<_> = prompts.into_iter().map(|p| greedy(p, 30)).collect();
    let lone = |r| alone(&model, &options, &tokenizer, r);
    let expected: Vec<_> = all.iter().map(lone).collect();
    let how = SchedulerOptions::default();
    let scheduler = Scheduler::new(engine, tokenizer.clone(), how).expect("scheduler");
    let handles: Vec<_> = all
        .iter()
        .map(|r| scheduler.submit(r.clone()).expect("room"))
        .collect();
    for (handle, expected) in handles.into_iter().zip(expected) {
        assert_eq!(read(handle, usize::MAX).0, expected);
    }
    let stats = scheduler.stats();
    assert_eq!((stats.failed, stats.finished, stats.panics), (2, 6, 0));
}
