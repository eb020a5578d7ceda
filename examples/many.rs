//! Eight conversations at once on one model, each with the text that it has alone:
//! `cargo run --release --example many -- model.gguf`

use std::time::Instant;

use geb::chat::Message;
use geb::engine::SessionOptions;
use geb::generate::GenerateOptions;
use geb::scheduler::{Event, Request};
use geb::{Assistant, Result};

const QUESTIONS: [&str; 8] = [
    "Why is the sky blue?",
    "What is a prime number?",
    "Who wrote Faust?",
    "How do bees find their way?",
    "What is the capital of Peru?",
    "Why do cats purr?",
    "What does a compiler do?",
    "How old is the Earth?",
];

fn main() -> Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("many MODEL.gguf");
        std::process::exit(2);
    };
    let options = SessionOptions {
        streams: QUESTIONS.len(),
        ..Default::default()
    };
    let assistant = Assistant::open(path, &options)?;
    let prompts: Vec<_> = QUESTIONS
        .iter()
        .map(|q| assistant.prompt(&[Message::new("user", *q)]))
        .collect::<Result<_>>()?;
    let scheduler = assistant.schedule(Default::default())?;
    let start = Instant::now();
    let mut handles = Vec::new();
    for prompt in prompts {
        let request = Request {
            prompt,
            options: GenerateOptions {
                max_tokens: 64,
                ..Default::default()
            },
            ..Default::default()
        };
        match scheduler.submit(request) {
            Ok(handle) => handles.push(handle),
            Err(refusal) => eprintln!("{refusal}"),
        }
    }
    for (question, handle) in QUESTIONS.iter().zip(handles) {
        println!("— {question}");
        for event in handle {
            match event {
                Event::Token(progress) => print!("{}", progress.text),
                Event::Failed(error) => return Err(error),
                _ => {}
            }
        }
        println!("\n");
    }
    let stats = scheduler.stats();
    let speed = stats.tokens as f64 / start.elapsed().as_secs_f64();
    eprintln!(
        "{} tokens, {speed:.1} tokens/s, {} passes",
        stats.tokens, stats.steps
    );
    Ok(())
}
