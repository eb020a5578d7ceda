//! One question, one answer: `cargo run --release --example hello -- model.gguf "Why is the sky blue?"`

use std::io::Write;
use std::ops::ControlFlow;

use geb::chat::Message;
use geb::{Assistant, Result};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(path), Some(question)) = (words.next(), words.next()) else {
        eprintln!("hello MODEL.gguf QUESTION");
        std::process::exit(2);
    };
    let mut assistant = Assistant::open(path, &Default::default())?;
    let prompt = assistant.prompt(&[Message::new("user", question)])?;
    let mut show = |text: &str| {
        print!("{text}");
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let answer = assistant.answer(&prompt, &Default::default(), &mut show)?;
    println!();
    let speed = answer.timings.decode_tok_s().unwrap_or(0.0);
    eprintln!("{} tokens, {speed:.1} tokens/s", answer.ids.len());
    Ok(())
}
