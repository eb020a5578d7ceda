//! Answers that are held to a form: they are of that form, and the same whoever is beside them, however late a
//! grammar is, whatever is guessed.

mod schemas;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use geb::constraint::{Constraint, Grammar, Matcher, Next, Reasoning};
use geb::engine::{Engine, SessionOptions};
use geb::generate::{GenerateOptions, Generated, StopReason, generate, generate_with};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::scheduler::{Event, Request, Scheduler, SchedulerOptions};
use geb::session::Session;
use geb::speculate::{EarlyExit, Lookup, Speculation, Tuning};
use geb::tokenizer::Tokenizer;
use geb::{Dtype, Error};
use geb_constrain::{Grammars, Source};
use serde_json::{Value, json};

use crate::common::dice::Dice;
use crate::common::nano::{encode, nano};

/// geb-nano, and grammars of its vocabulary.
pub struct Nano {
    pub model: Arc<Model>,
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Grammars,
}

pub fn options() -> SessionOptions {
    SessionOptions {
        threads: 1,
        ctx: Some(512),
        ..Default::default()
    }
}

impl Nano {
    pub fn open() -> Nano {
        let file = GgufFile::open(&nano(Dtype::Q8_0), Load::Map).expect("own file");
        let tokenizer = Arc::new(Tokenizer::from_gguf(&file).expect("tokenizer"));
        Nano {
            model: Model::load(Arc::new(file)).expect("own model"),
            grammars: Grammars::new(tokenizer.clone()),
            tokenizer,
        }
    }

    pub fn grammar(&self, source: &Source) -> Arc<dyn Grammar> {
        self.grammars.compile(source).expect("a grammar").grammar
    }

    fn regex(&self, regex: &str) -> Constraint {
        Constraint::whole(self.grammar(&Source::Regex(regex.into())))
    }

    fn alone(&self, prompt: &str, options: &GenerateOptions) -> geb::Result<Generated> {
        let mut session = Session::new(self.model.clone(), &self::options()).expect("session");
        let ids = encode(&self.tokenizer, prompt);
        let mut sink = |_: &str| ControlFlow::Continue(());
        generate(&mut session, &self.tokenizer, &ids, options, &mut sink)
    }

    pub fn scheduler(&self, streams: usize) -> Scheduler {
        let options = SessionOptions {
            streams,
            ..self::options()
        };
        let engine = Engine::new(self.model.clone(), &options).expect("engine");
        let how = SchedulerOptions {
            streams,
            ..Default::default()
        };
        Scheduler::new(engine, self.tokenizer.clone(), how).expect("scheduler")
    }
}

pub fn asked(constraint: Option<Constraint>, seed: u64) -> GenerateOptions {
    GenerateOptions {
        max_tokens: 120,
        sampling: SamplerOptions {
            temperature: 1.0,
            seed,
            ..Default::default()
        },
        log_probs: true,
        constraint,
        ..Default::default()
    }
}

/// What a request must give whoever is beside it.
type Answer = (Vec<u32>, String, Vec<u64>, Option<StopReason>);

fn of(done: &Generated) -> Answer {
    let bits = done.log_probs.iter().map(|p| p.to_bits()).collect();
    (done.ids.clone(), done.text.clone(), bits, Some(done.reason))
}

/// Reads a request to its end.
pub fn read(events: impl Iterator<Item = Event>) -> Result<Answer, Error> {
    let mut answer = Answer::default();
    for event in events {
        match event {
            Event::Token(progress) => {
                answer.0.extend(progress.id);
                answer.1.push_str(&progress.text);
                answer.2.extend(progress.log_prob.map(f64::to_bits));
            }
            Event::Done { reason, .. } => answer.3 = Some(reason),
            Event::Failed(error) => return Err(error),
            _ => {}
        }
    }
    Ok(answer)
}

/// A grammar that takes its time.
#[derive(Debug)]
struct Slow(Arc<dyn Grammar>, Mutex<u64>);

struct SlowMatcher(Box<dyn Matcher>, Dice);

impl Grammar for Slow {
    fn matcher(&self) -> Box<dyn Matcher> {
        let mut seed = self.1.lock().expect("no panic");
        *seed += 1;
        Box::new(SlowMatcher(self.0.matcher(), Dice(*seed)))
    }
}

impl SlowMatcher {
    fn wait(&mut self) {
        std::thread::sleep(Duration::from_micros(self.1.below(4_000) as u64));
    }
}

impl Matcher for SlowMatcher {
    fn begin(&mut self, said: &[u8]) -> geb::Result<Option<Next>> {
        self.wait();
        self.0.begin(said)
    }

    fn take(&mut self, token: u32) -> geb::Result<Next> {
        self.wait();
        self.0.take(token)
    }
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 10 },
            "age": { "type": "integer", "minimum": 0, "maximum": 120 },
            "friends": { "type": "array", "items": { "$ref": "#" }, "maxItems": 2 },
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    })
}

/// Constraints of all kinds, and none.
fn kinds(nano: &Nano) -> Vec<Option<Constraint>> {
    let strict = false;
    let schema = person();
    let person = nano.grammar(&Source::Schema { schema, strict });
    let lark = "start: \"yes\" | \"no, \" WORD (\" \" WORD)*\nWORD: /[a-z]{2,}/";
    vec![
        None,
        Some(Constraint::whole(person)),
        Some(nano.regex("[a-c]{3}-[0-9]{4}(, [a-z]+)*")),
        Some(Constraint::whole(nano.grammar(&Source::Lark(lark.into())))),
        Some(Constraint {
            openings: vec!["the".into(), "and".into()],
            ..nano.regex(" [0-9]{3}\\.")
        }),
        Some(Constraint {
            reasoning: Reasoning::Open { close: "he".into() },
            ..nano.regex("[^A-Z]*[A-Z]{4}")
        }),
    ]
}

#[test]
fn a_held_text_is_the_same_alone_and_among_others() {
    let nano = Nano::open();
    let kinds = kinds(&nano);
    let prompts = [
        "In the beginning",
        "And the",
        "he said and he said and he said",
    ];
    let all: Vec<_> = (0..36)
        .map(|i| {
            let constraint = kinds[i % kinds.len()].clone();
            (prompts[i / 2 % 3], asked(constraint, i as u64))
        })
        .collect();
    let alone = |(prompt, options): &(&str, GenerateOptions)| {
        of(&nano.alone(prompt, options).expect("an answer"))
    };
    let expected: Vec<_> = all.iter().map(alone).collect();
    let scheduler = nano.scheduler(12);
    let mut dice = Dice(3);
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for (i, (prompt, options)) in all.iter().enumerate() {
            let mut options = options.clone();
            // Of every other one the grammar is late, often by more than a pass.
            if let Some(held) = options.constraint.as_mut().filter(|_| i % 2 == 1) {
                held.grammar = Arc::new(Slow(held.grammar.clone(), Mutex::new(i as u64)));
            }
            let request = Request {
                prompt: encode(&nano.tokenizer, prompt),
                options,
                ..Default::default()
            };
            let handle = scheduler.submit(request).expect("room");
            readers.push(scope.spawn(move || read(handle)));
            std::thread::sleep(Duration::from_millis(dice.below(10) as u64));
        }
        for (i, reader) in readers.into_iter().enumerate() {
            let answer = reader.join().expect("read").expect("an answer");
            assert_eq!(answer, expected[i], "request {i}");
        }
    });
    assert_eq!(scheduler.stats().panics, 0);
}

#[test]
fn guesses_change_nothing_of_a_held_text() {
    let nano = Nano::open();
    let mut session = Session::new(nano.model.clone(), &options()).expect("session");
    for (i, kind) in kinds(&nano).into_iter().enumerate() {
        let asked = asked(kind, 11);
        let prompt = "he said and he said and he said";
        let expected = of(&nano.alone(prompt, &asked).expect("an answer"));
        let early = EarlyExit::new(&session, 1).expect("layers");
        let mut guesses = Speculation::off()
            .with(Box::new(Lookup::default()), Tuning::Always, 6)
            .with(Box::new(early), Tuning::Always, 3);
        let ids = encode(&nano.tokenizer, prompt);
        let mut sink = |_: &str| ControlFlow::Continue(());
        let (held, texts) = (&mut session, &nano.tokenizer);
        let done = generate_with(held, &mut guesses, texts, &ids, &asked, &mut sink);
        assert_eq!(of(&done.expect("an answer")), expected, "kind {i}");
    }
}

#[test]
fn what_is_forced_takes_one_pass() {
    let nano = Nano::open();
    let held = nano.regex("The quick brown fox jumps over the lazy dog: [a-z]");
    let done = nano
        .alone("In the", &asked(Some(held), 1))
        .expect("an answer");
    assert!(
        done.text
            .starts_with("The quick brown fox jumps over the lazy dog: ")
    );
    assert_eq!(done.text.len(), 46);
    assert_eq!(done.reason, StopReason::Eos);
    let passes = done.timings.speculation.passes;
    let tokens = done.ids.len();
    assert!(passes * 4 < tokens, "{passes} passes of {tokens} tokens");
}

#[test]
fn behind_an_opening_and_behind_reasoning() {
    let nano = Nano::open();
    let kinds = kinds(&nano);
    let mut opened = 0;
    for seed in 0..6 {
        let done = nano.alone("And the", &asked(kinds[4].clone(), seed));
        let text = done.expect("an answer").text;
        for opening in ["the", "and"] {
            for (at, _) in text.match_indices(opening) {
                let rest = &text.as_bytes()[at + 3..];
                // What begins in the token that ends the opening and does not fit was none.
                if rest.len() >= 5 && rest[0] == b' ' && rest[1].is_ascii_digit() {
                    opened += 1;
                    let digits = rest[1..4].iter().all(u8::is_ascii_digit);
                    assert!(digits && rest[4] == b'.', "{text}");
                }
            }
        }
        let done = nano.alone("And the", &asked(kinds[5].clone(), seed));
        let done = done.expect("an answer");
        if let Some(at) = done
            .text
            .find("he")
            .filter(|_| done.reason == StopReason::Eos)
        {
            let rest = done.text[at + 2..].trim_start_matches(|c: char| !c.is_ascii_uppercase());
            assert!(
                rest.len() == 4 && rest.bytes().all(|b| b.is_ascii_uppercase()),
                "{rest}"
            );
        }
    }
    assert!(opened > 0, "an opening was found");
}

#[test]
fn what_cannot_be_enforced_is_told_and_what_is_wrong_refused() {
    let nano = Nano::open();
    let schema = |schema: Value, strict| Source::Schema { schema, strict };
    let wrong = [
        Source::Regex("(a".into()),
        Source::Regex("ab\\".into()),
        Source::Regex("a".repeat(100_000)),
        Source::Lark("start: nothing".into()),
        Source::Lark(String::new()),
        schema(json!(3), false),
        schema(json!({ "type": "colour" }), false),
        schema(json!({ "$ref": "https://example.org/schema" }), false),
        schema(json!({ "$ref": "#/$defs/none" }), false),
        schema(json!({ "type": "object", "if": {}, "then": {} }), true),
        schema(
            json!({ "oneOf": [{ "type": "string" }, { "minLength": 3 }] }),
            true,
        ),
        schema(json!({ "type": "string", "format": "colour" }), true),
        schema(json!({ "type": "array", "uniqueItems": true }), true),
        schema(json!(false), false),
        // Options of the grammar are not a request's to set.
        schema(
            json!({ "not": {}, "x-guidance": { "lenient": true } }),
            true,
        ),
    ];
    for source in wrong {
        let error = nano.grammars.compile(&source).err();
        let Some(Error::Constraint(why)) = error else {
            panic!("{source:?}: {error:?}");
        };
        assert!(
            !why.is_empty() && why.chars().count() <= 301 && !why.contains('\n'),
            "{why}"
        );
    }
    let lenient = schema(json!({ "type": "array", "uniqueItems": true }), false);
    let compiled = nano.grammars.compile(&lenient).expect("lenient");
    assert_eq!(compiled.unenforced.len(), 1, "{:?}", compiled.unenforced);
    assert!(compiled.unenforced[0].contains("uniqueItems"));
    let again = nano.grammars.compile(&lenient).expect("lenient");
    assert!(Arc::ptr_eq(&compiled.grammar, &again.grammar), "kept");
}

/// Schemas whose references, and grammars whose rules, follow each other for long: deep, and flat to whoever counts
/// brackets.
fn chains() -> Vec<Source> {
    let chain = |n: usize, link: &dyn Fn(String) -> Value| {
        let one = |i: usize| (format!("a{i}"), link(format!("#/$defs/a{}", i + 1)));
        let mut defs: serde_json::Map<_, _> = (0..n).map(one).collect();
        defs.insert(format!("a{n}"), json!({}));
        schema_of(json!({ "$defs": defs, "$ref": "#/$defs/a0" }))
    };
    let rules = |n: usize, name: &str| {
        let one = |i: usize| format!("{name}{i}: \"a\" {name}{}\n", i + 1);
        let all: String = (0..n).map(one).collect();
        Source::Lark(format!("start: {name}0\n{all}{name}{n}: \"b\"\n"))
    };
    vec![
        chain(1_500, &|to| json!({ "$ref": to })),
        chain(
            900,
            &|to| json!({ "type": "object", "properties": { "p": { "$ref": to } } }),
        ),
        chain(
            1_000,
            &|to| json!({ "type": "array", "items": { "$ref": to } }),
        ),
        chain(1_000, &|to| json!({ "anyOf": [{ "$ref": to }] })),
        chain(1_000, &|to| json!({ "allOf": [{ "$ref": to }] })),
        rules(3_000, "r"),
        rules(3_000, "R"),
        schema_of(json!({ "$ref": "#" })),
        schema_of(
            json!({ "properties": (0..2_000).map(|i| (format!("k{i}"), json!({}))).collect::<serde_json::Map<_, _>>() }),
        ),
    ]
}

/// Sources that are long, deep, ambiguous, or take long.
fn hostile() -> Vec<Source> {
    let deep = |n: usize| (0..n).fold(json!({ "type": "string" }), |s, _| json!({ "items": s }));
    let many: Vec<_> = (0..5_000).map(|i| json!(format!("value {i}"))).collect();
    vec![
        Source::Regex("(a?){500}a{500}".into()),
        Source::Regex("(a?){4000}a{4000}".into()),
        Source::Regex("(((((a{1,100}){1,100}){1,100}){1,100}){1,100})".into()),
        Source::Regex("(x+x+)+y".into()),
        Source::Regex("[a-z]*".repeat(500)),
        Source::Lark("start: start start | \"a\"".into()),
        Source::Lark("start: a\na: a | a a | \"x\" a?".into()),
        schema_of(json!({ "type": "string", "maxLength": 65_536 })),
        schema_of(json!({ "enum": many })),
        schema_of(deep(120)),
        schema_of(
            json!({ "anyOf": (0..300).map(|i| json!({ "required": [format!("k{i}")] })).collect::<Vec<_>>() }),
        ),
    ]
}

#[test]
fn hostile_grammars_end_their_own_request() {
    let nano = Nano::open();
    let scheduler = nano.scheduler(4);
    let mut outcomes = [0; 2];
    for source in hostile().into_iter().chain(chains()) {
        let held = match nano.grammars.compile(&source) {
            Ok(compiled) => Constraint::whole(compiled.grammar),
            Err(Error::Constraint(_) | Error::Slow { .. }) => {
                outcomes[0] += 1;
                continue;
            }
            Err(other) => panic!("{source:?}: {other}"),
        };
        let mut options = asked(Some(held), 1);
        options.max_tokens = 12;
        let request = Request {
            prompt: encode(&nano.tokenizer, "In the"),
            options,
            ..Default::default()
        };
        match read(scheduler.submit(request).expect("room")) {
            Ok(answer) => assert!(answer.3.is_some()),
            Err(Error::Slow { .. } | Error::Constraint(_)) => {}
            Err(other) => panic!("{source:?}: {other}"),
        }
        outcomes[1] += 1;
    }
    assert!(outcomes.iter().all(|n| *n > 0), "{outcomes:?}");
    assert_eq!(scheduler.stats().panics, 0);
}

fn schema_of(schema: Value) -> Source {
    let strict = false;
    Source::Schema { schema, strict }
}
