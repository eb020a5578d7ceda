//! Texts, ends and log-probabilities that come over HTTP, against those that the library gives alone: the same in
//! bits, whoever is beside a request, whatever was cached, preempted, guessed or left behind.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use geb::Dtype;
use geb::chat::{ChatTemplate, Message};
use geb::constraint::Constraint;
use geb::generate::{GenerateOptions, StopReason, generate};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::Session;
use geb::tokenizer::{Encode, Tokenizer};
use geb_constrain::{Grammars, Source};
use geb_serve::Speaker;
use serde_json::{Map, Value, json};

use super::client::{Connection, ask, request};
use super::shape::stream;
use super::{CTX, Server, TEMPLATE, VOCAB, session, until};
use crate::common::dice::Dice;
use crate::common::gguf::File;
use crate::common::nano::nano;

/// The library alone, with the file that the server has.
pub struct Library {
    pub session: Session,
    pub tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
    template: ChatTemplate,
}

impl Library {
    pub fn open() -> Library {
        let file = GgufFile::open(&nano(Dtype::Q8_0), Load::Map).expect("own file");
        let tokenizer = Arc::new(Tokenizer::from_gguf(&file).expect("tokenizer"));
        let model = Model::load(Arc::new(file)).expect("own model");
        Library {
            session: Session::new(model, &session()).expect("session"),
            grammars: Grammars::new(tokenizer.clone()),
            tokenizer,
            template: ChatTemplate::from_source(TEMPLATE, "<s>", "</s>").expect("own template"),
        }
    }

    fn hold(&self, source: &Source) -> Constraint {
        let compiled = self.grammars.compile(source).expect("a grammar");
        Constraint::whole(compiled.grammar)
    }

    pub fn ids(&self, text: &str) -> Vec<u32> {
        let how = Encode {
            add_special: true,
            parse_special: true,
        };
        self.tokenizer.encode(text, how).expect("encodes")
    }
}

/// An answer, and all that must be equal of it.
#[derive(Clone, Debug, PartialEq, Default)]
struct Answer {
    text: String,
    finish: String,
    /// Bits of the log-probabilities of its tokens.
    log_probs: Vec<u64>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Chat,
    Texts,
}

/// A request in its two forms, and how it is asked.
struct Case {
    path: Path,
    body: Value,
    prompt: Vec<u32>,
    options: GenerateOptions,
    answers: usize,
    streams: bool,
    weighed: bool,
    /// The client leaves after so many chunks.
    leaves: Option<usize>,
}

/// Words of the model's language, some with signs of several bytes.
const WORDS: [&str; 12] = [
    "In",
    "the",
    "beginning",
    "the world",
    "was",
    "without",
    "form",
    "and",
    "é",
    "晴れ",
    "🙂",
    "waters",
];

impl Case {
    /// The i-th of many.
    fn new(i: usize, library: &Library, dice: &mut Dice) -> Case {
        let words = match i % 8 {
            0 => 150,
            1..4 => 40,
            _ => 1 + dice.below(12),
        };
        let mut text: Vec<&str> = vec!["In the beginning"; usize::from(i.is_multiple_of(3))];
        text.extend((0..words).map(|_| WORDS[dice.below(WORDS.len())]));
        let text = text.join(" ");
        let path = if i.is_multiple_of(2) {
            Path::Chat
        } else {
            Path::Texts
        };
        let (field, prompt) = match path {
            Path::Chat => {
                let messages = [Message::new("user", &*text)];
                let ids = library.template.encode(&library.tokenizer, &messages, true);
                let messages = json!([{ "role": "user", "content": text }]);
                (("messages", messages), ids.expect("encodes"))
            }
            Path::Texts if i % 4 == 1 => (("prompt", json!(text)), library.ids(&text)),
            Path::Texts => {
                let ids = library.ids(&text);
                (("prompt", json!([ids])), ids)
            }
        };
        let prompt: Vec<u32> = prompt;
        assert!(prompt.len() < CTX, "{} tokens", prompt.len());
        let mut body = json!({ field.0: field.1 });
        let mut options = GenerateOptions {
            max_tokens: 1 + dice.below(if i % 4 == 2 { 200 } else { 40 }),
            ignore_eos: i.is_multiple_of(5),
            log_probs: true,
            ..GenerateOptions::default()
        };
        body["max_tokens"] = options.max_tokens.into();
        body["ignore_eos"] = options.ignore_eos.into();
        if i % 6 == 1 {
            let stop = [WORDS[dice.below(8)], "e", ", and the"][dice.below(3)];
            options.stop = vec![stop.into(), "never to be seen".into()];
            body["stop"] = json!(options.stop);
        }
        let streams = dice.below(3) > 0;
        body["stream"] = streams.into();
        let weighed = dice.below(2) > 0;
        if weighed {
            body["logprobs"] = if path == Path::Chat {
                true.into()
            } else {
                2.into()
            };
        }
        let answers = if i % 7 == 3 { 2 } else { 1 };
        body["n"] = answers.into();
        options.sampling = sampling(i, dice, &mut body);
        options.constraint = (i % 5 == 2).then(|| library.hold(&form(i, &mut body)));
        Case {
            path,
            body,
            prompt,
            options,
            answers,
            streams,
            weighed,
            leaves: (i % 9 == 4).then(|| dice.below(6)),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let path = match self.path {
            Path::Chat => "/v1/chat/completions",
            Path::Texts => "/v1/completions",
        };
        let kind = [("Content-Type", "application/json")];
        request("POST", path, &kind, self.body.to_string().as_bytes())
    }

    /// What the library gives.
    fn alone(&self, library: &mut Library) -> Vec<Answer> {
        let one = |i: usize| {
            let mut options = self.options.clone();
            options.sampling.seed += i as u64;
            let mut sink = |_: &str| ControlFlow::Continue(());
            library.session.reset();
            let (session, tokenizer) = (&mut library.session, &library.tokenizer);
            let done = generate(session, tokenizer, &self.prompt, &options, &mut sink);
            let done = done.expect("generates");
            let finish = match done.reason {
                StopReason::Length => "length",
                _ => "stop",
            };
            let mut log_probs: Vec<_> = done.log_probs.iter().map(|p| p.to_bits()).collect();
            if self.path == Path::Chat {
                // Of a continuation an end token is an entry, too.
                log_probs.truncate(done.ids.len());
            }
            Answer {
                text: done.text,
                finish: finish.into(),
                log_probs: if self.weighed { log_probs } else { Vec::new() },
            }
        };
        (0..self.answers).map(one).collect()
    }

    /// What the server gives.
    fn asked(&self, address: &str) -> Vec<Answer> {
        let response = ask(address, "POST", &self.bytes()).expect("a response");
        assert_eq!(response.status, 200, "{}", response.text());
        let mut answers = vec![Answer::default(); self.answers];
        if !self.streams {
            let body = response.json();
            for choice in body["choices"].as_array().expect("choices") {
                self.add(choice, &mut answers);
            }
            return answers;
        }
        let object = match self.path {
            Path::Chat => "chat.completion.chunk",
            Path::Texts => "text_completion",
        };
        for chunk in stream(&response.events(), object, self.answers) {
            for choice in chunk["choices"].as_array().expect("choices") {
                self.add(choice, &mut answers);
            }
        }
        answers
    }

    /// Adds a choice, whole or a piece.
    fn add(&self, choice: &Value, answers: &mut [Answer]) {
        let answer = &mut answers[choice["index"].as_u64().expect("an index") as usize];
        let text = match (self.path, self.streams) {
            (Path::Chat, true) => &choice["delta"]["content"],
            (Path::Chat, false) => &choice["message"]["content"],
            (Path::Texts, _) => &choice["text"],
        };
        answer.text += text.as_str().unwrap_or_default();
        answer.finish += choice["finish_reason"].as_str().unwrap_or_default();
        let weights = &choice["logprobs"];
        let all: Vec<f64> = match self.path {
            Path::Chat => {
                let tokens = weights["content"].as_array().into_iter().flatten();
                tokens
                    .map(|t| t["logprob"].as_f64().expect("a number"))
                    .collect()
            }
            Path::Texts => {
                let all = weights["token_logprobs"].as_array().into_iter().flatten();
                all.map(|p| p.as_f64().expect("a number")).collect()
            }
        };
        answer.log_probs.extend(all.iter().map(|p| p.to_bits()));
    }

    /// Asks, and leaves before the answer is whole.
    fn left(&self, address: &str, chunks: usize) {
        let mut connection = Connection::open(address);
        connection.send(&self.bytes()).expect("sent");
        if self.streams && connection.head().expect("a response").status == 200 {
            for _ in 0..chunks {
                // It may end before that.
                if !connection.chunk().is_ok_and(|c| c.is_some()) {
                    return;
                }
            }
        }
    }
}

/// What the i-th answer is held to, in both forms.
fn form(i: usize, body: &mut Value) -> Source {
    match i % 3 {
        0 => {
            body["regex"] = "([a-z]{1,9} ?){3,20}\\.".into();
            Source::Regex("([a-z]{1,9} ?){3,20}\\.".into())
        }
        1 => {
            let lark = "start: \"And \" WORD (\", and \" WORD)*\nWORD: /[a-z]+/";
            body["grammar"] = lark.into();
            Source::Lark(lark.into())
        }
        _ => {
            let schema = json!({
                "type": "object",
                "properties": { "place": { "type": "string", "maxLength": 9 }, "day": { "enum": [1, 2, "three"] } },
                "required": ["place", "day"],
                "additionalProperties": false,
            });
            let named = json!({ "name": "x", "schema": schema, "strict": true });
            body["response_format"] = json!({ "type": "json_schema", "json_schema": named });
            let strict = true;
            Source::Schema { schema, strict }
        }
    }
}

/// How the i-th request chooses its tokens, in both forms.
fn sampling(i: usize, dice: &mut Dice, body: &mut Value) -> SamplerOptions {
    let mut s = SamplerOptions {
        seed: dice.below(1000) as u64,
        ..SamplerOptions::default()
    };
    body["seed"] = s.seed.into();
    match i % 4 {
        0 => s.temperature = 0.0,
        1 => {
            (s.temperature, s.top_k) = (1.25, 0);
            body["top_k"] = 0.into();
        }
        2 => {
            (s.frequency_penalty, s.presence_penalty) = (0.75, 0.25);
            body["frequency_penalty"] = 0.75.into();
            body["presence_penalty"] = 0.25.into();
            let bias: Vec<_> = (0..3).map(|_| (dice.below(VOCAB) as u32, 2.5)).collect();
            let all = bias.iter().map(|(id, b)| (id.to_string(), json!(b)));
            body["logit_bias"] = Value::Object(all.collect::<Map<_, _>>());
            // An id once.
            s.logit_bias = bias;
            s.logit_bias.sort_by_key(|(id, _)| *id);
            s.logit_bias.dedup_by_key(|(id, _)| *id);
        }
        _ => {
            (s.repeat_penalty, s.min_p, s.top_p) = (1.25, 0.125, 0.75);
            body["repetition_penalty"] = 1.25.into();
            body["min_p"] = 0.125.into();
            body["top_p"] = 0.75.into();
        }
    }
    body["temperature"] = f64::from(s.temperature).into();
    s
}

#[test]
fn texts_are_those_of_lone_runs() {
    let mut library = Library::open();
    let mut dice = Dice(15);
    let cases: Vec<_> = (0..64).map(|i| Case::new(i, &library, &mut dice)).collect();
    let expected: Vec<_> = cases.iter().map(|c| c.alone(&mut library)).collect();
    let one = geb::engine::Engine::kv_bytes_for(library.session.model(), &session());
    let pages = one.expect("known");
    // Fewer places than requests, and pages for few of them.
    let server = Server::start(|o| {
        o.scheduler.streams = 12;
        o.scheduler.step = Duration::from_millis(1);
        o.session.kv_memory = Some(pages);
    });
    std::thread::scope(|scope| {
        for (i, (case, expected)) in cases.iter().zip(&expected).enumerate() {
            let address = &server.address;
            if let Some(chunks) = case.leaves {
                scope.spawn(move || case.left(address, chunks));
            }
            scope.spawn(move || assert_eq!(case.asked(address), *expected, "request {i}"));
        }
    });
    println!(
        "{} steps of {} rows, {} preemptions, {} tokens found",
        server.metric("geb_steps"),
        server.metric("geb_iteration_tokens"),
        server.metric("geb_num_preemptions"),
        server.metric("geb_prefix_cache_hits_total"),
    );
    assert!(server.metric("geb_iteration_tokens") > 2.0 * server.metric("geb_steps"));
    assert!(server.metric("geb_requests_cancelled") > 0.0);
    until("all have ended", || server.load() == [0.0, 0.0]);
    // Again, one after the other, with what was cached.
    let hits = server.metric("geb_prefix_cache_hits_total");
    for (i, (case, expected)) in cases.iter().zip(&expected).enumerate().step_by(5) {
        assert_eq!(case.asked(&server.address), *expected, "request {i}, again");
    }
    assert!(server.metric("geb_prefix_cache_hits_total") > hits);
    server.is_well();
}

/// Answers that outgrow the pages there are: those that make room are read again, and say the same.
#[test]
fn texts_survive_preemptions() {
    let mut library = Library::open();
    let one = geb::engine::Engine::kv_bytes_for(library.session.model(), &session());
    let pages = one.expect("known");
    let server = Server::start(|o| o.session.kv_memory = Some(pages));
    let mut dice = Dice(99);
    let case = |i: u64| {
        let prompt: Vec<_> = (0..20).map(|_| dice.below(VOCAB) as u32).collect();
        let sampling = SamplerOptions {
            seed: i,
            ..SamplerOptions::default()
        };
        let options = GenerateOptions {
            max_tokens: 300,
            ignore_eos: true,
            log_probs: true,
            sampling,
            ..GenerateOptions::default()
        };
        Case {
            path: Path::Texts,
            body: json!({
                "prompt": [prompt], "max_tokens": 300, "ignore_eos": true, "seed": i, "logprobs": 0, "stream": i.is_multiple_of(2),
            }),
            prompt,
            options,
            answers: 1,
            streams: i.is_multiple_of(2),
            weighed: true,
            leaves: None,
        }
    };
    // Each enters with two pages and wants six; there are eight.
    let cases: Vec<_> = (0..4).map(case).collect();
    let expected: Vec<_> = cases.iter().map(|c| c.alone(&mut library)).collect();
    std::thread::scope(|scope| {
        for (case, expected) in cases.iter().zip(&expected) {
            let address = &server.address;
            scope.spawn(move || assert_eq!(case.asked(address), *expected));
        }
        let held = || server.metric("geb_kv_cache_usage_perc");
        until("the cache is held", || held() > 0.0 && held() <= 1.0);
    });
    assert!(server.metric("geb_num_preemptions") > 0.0);
    server.is_well();
    assert_eq!(server.metric("geb_kv_cache_usage_perc"), 0.0);
}

/// What a file has for conversations with tools is for those alone.
#[test]
fn tools_have_the_template_that_the_file_has_for_them() {
    let plain = GgufFile::open(&nano(Dtype::Q8_0), Load::Map).expect("own file");
    assert!(ChatTemplate::for_tools(&plain).expect("read").is_none());
    let both = File::decode(&plain)
        .without("tokenizer.chat_template")
        .str("tokenizer.chat_template", "{{ messages }}")
        .str("tokenizer.chat_template.rag", "{{ documents }}")
        .str("tokenizer.chat_template.tool_use", "{{ tools }}");
    let both = GgufFile::from_bytes(both.encode()).expect("GGUF");
    let template = |found: geb::Result<Option<ChatTemplate>>| found.expect("it is valid");
    let speaker = Speaker::new(
        "m".into(),
        Arc::new(Tokenizer::from_gguf(&both).expect("tokenizer")),
        template(ChatTemplate::from_gguf(&both)),
        None,
        CTX,
    );
    let source = |s: &Speaker, tools: bool| s.template_of(tools).map(|t| t.source().to_owned());
    let whole = Some("{{ messages }}".to_owned());
    assert_eq!(source(&speaker, true), whole);
    let speaker = speaker.with_tools(template(ChatTemplate::for_tools(&both)));
    assert_eq!(source(&speaker, true).as_deref(), Some("{{ tools }}"));
    assert_eq!(source(&speaker, false), whole);
}
