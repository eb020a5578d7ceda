//! `geb-run eval`: how good a model is, by its probabilities.

use std::path::Path;
use std::time::{Duration, Instant};

use geb::eval::{Method, Report, TextRun};
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::json;

use crate::args::{CountHow, EvalArgs, EvalCommand, PerplexityArgs};
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, out, rate, seconds};

/// Tokens of a window when `--ctx` says nothing.
const WINDOW: usize = 512;

/// Runs the command.
pub fn run(args: &EvalArgs, interrupt: &Interrupt) -> Outcome {
    match &args.what {
        EvalCommand::Perplexity(args) => perplexity(args, interrupt),
    }
}

fn perplexity(args: &PerplexityArgs, interrupt: &Interrupt) -> Outcome {
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let ids = encode(&tokenizer, &args.file)?;
    let method = method(args, &tokenizer);
    let mut cpu = args.cpu.clone();
    cpu.ctx = Some(method.window as u32);
    let mut loaded = load::load(opened, &cpu, interrupt, Instant::now())?;
    let sessions = std::slice::from_mut(&mut loaded.session);
    let start = Instant::now();
    let run = measure(sessions, &ids, &method, args, interrupt)?;
    let took = start.elapsed();
    let [report] = &run.reports()[..] else {
        return Err(Failure::new("one model has one report"));
    };
    if args.json {
        return report::out_line(&to_json(report, &method, &loaded, took).to_string());
    }
    let tokens = method.window * report.windows;
    out(&format!(
        "perplexity {:.4}\n{} tokens counted in {} windows of {}; {} in {} ({} tok/s, {} threads, {})\n",
        report.perplexity,
        report.tokens,
        report.windows,
        method.window,
        tokens,
        seconds(took),
        rate(tokens as f64 / took.as_secs_f64()),
        loaded.session.threads(),
        loaded.session.kernels().level().name(),
    ))
}

/// The ids of a text file, with the start token if the model adds one.
pub fn encode(tokenizer: &Tokenizer, path: &Path) -> Outcome<Vec<u32>> {
    let text = load::read_text(path, geb::limits::MAX_TEXT_BYTES)?;
    let how = Encode {
        add_special: true,
        parse_special: false,
    };
    Ok(tokenizer.encode_text(&text, how)?)
}

fn method(args: &PerplexityArgs, tokenizer: &Tokenizer) -> Method {
    let window = args.cpu.ctx.map_or(WINDOW, |c| c as usize);
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let method = match (args.stride, args.count) {
        (Some(stride), _) => Method::strided(window, stride as usize, bos),
        (None, CountHow::Llama) => Method::llama_cpp(window, bos),
        (None, CountHow::Half) => Method {
            window,
            count_from: window / 2,
            ..Method::default()
        },
    };
    Method {
        max_windows: args.windows.map(|n| n as usize),
        ..method
    }
}

fn measure(
    sessions: &mut [geb::session::Session],
    ids: &[u32],
    method: &Method,
    args: &PerplexityArgs,
    interrupt: &Interrupt,
) -> Outcome<TextRun> {
    let mut progress = Progress::new("perplexity", "windows", &args.output);
    let mut run = TextRun::new(sessions, ids, method)?;
    while interrupt.during(|| run.advance(sessions, ids))? {
        let (done, total) = run.windows();
        progress.update(done, total);
        if interrupt.pressed() {
            return Err(Failure::interrupted());
        }
    }
    Ok(run)
}

fn to_json(report: &Report, method: &Method, loaded: &Loaded, took: Duration) -> serde_json::Value {
    json!({
        "model": loaded.opened.path.display().to_string(),
        "method": method,
        "windows": report.windows,
        "tokens": report.tokens,
        "nll": report.nll,
        "perplexity": report.perplexity,
        "kv": loaded.session.kv_type().name(),
        "threads": loaded.session.threads(),
        "isa": loaded.session.kernels().level().name(),
        "seconds": took.as_secs_f64(),
        "peak_memory_bytes": report::peak_memory_bytes(),
    })
}
