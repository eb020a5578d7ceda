//! How far models stray from a reference on a text, in lockstep: perplexity, KL divergence, top-1.
//!
//! `divergence REFERENCE TEXT WINDOWS MODEL...`; one line per model, tab-separated.

use std::path::Path;
use std::process::exit;

use geb::Result;
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};
use geb_eval::{Method, evaluate};

fn run(reference: &str, text: &str, windows: usize, models: &[String]) -> Result<()> {
    let path = Path::new(text);
    let text = std::fs::read_to_string(path).map_err(geb::Error::io(path))?;
    let mut sessions = Vec::new();
    let mut ids = Vec::new();
    for name in std::iter::once(reference).chain(models.iter().map(String::as_str)) {
        let file = std::sync::Arc::new(GgufFile::open(Path::new(name), Load::Map)?);
        if ids.is_empty() {
            ids = Tokenizer::from_gguf(&file)?.encode(&text, Encode::default())?;
        }
        let options = SessionOptions {
            ctx: Some(Method::default().window),
            ..SessionOptions::default()
        };
        sessions.push(Session::new(Model::load(file)?, &options)?);
    }
    let method = Method {
        max_windows: Some(windows),
        ..Method::default()
    };
    let scores = evaluate(&mut sessions, &ids, &method, &mut |_, _| true)?;
    for (name, s) in std::iter::once(reference)
        .chain(models.iter().map(String::as_str))
        .zip(&scores)
    {
        println!(
            "{name}\t{:.4}\t{:.6}\t{:.4}\t{}",
            s.perplexity.value,
            s.against_base.as_ref().map_or(0.0, |d| d.kl.mean.value),
            s.against_base.as_ref().map_or(1.0, |d| d.top1.value),
            s.tokens
        );
    }
    Ok(())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [reference, text, windows, models @ ..] = &args[..] else {
        eprintln!("divergence REFERENCE TEXT WINDOWS MODEL...");
        exit(2);
    };
    let Ok(windows) = windows.parse() else {
        eprintln!("windows is {windows}, allowed: a number");
        exit(2);
    };
    if let Err(e) = run(reference, text, windows, models) {
        eprintln!("{e}");
        exit(1);
    }
}
