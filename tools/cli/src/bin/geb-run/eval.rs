//! `geb-run eval`: how good a model is, by its probabilities.

use std::path::Path;
use std::time::{Duration, Instant};

use geb::session::Session;
use geb::tokenizer::{Encode, Tokenizer};
use geb_eval::{Divergence, Method, Report, TextRun};
use serde_json::json;

use crate::args::{CountHow, EvalArgs, EvalCommand, ModelArgs, PerplexityArgs};
use crate::choice;
use crate::interrupt::Interrupt;
use crate::known;
use crate::load;
use crate::needle;
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, out, rate, seconds};

/// Tokens of a window when `--ctx` says nothing.
const WINDOW: usize = 512;

/// Runs the command.
pub fn run(args: &EvalArgs, interrupt: &Interrupt) -> Outcome {
    match &args.what {
        EvalCommand::Perplexity(args) => perplexity(args, interrupt),
        EvalCommand::Choice(args) => choice::run(args, interrupt),
        EvalCommand::Needle(args) => needle::run(args, interrupt),
        EvalCommand::Rows(args) => known::rows(args, interrupt),
        EvalCommand::Labels(args) => known::labels(args, interrupt),
        EvalCommand::Clash(args) => known::clash(args, interrupt),
        EvalCommand::Quotes(args) => known::quotes(args),
    }
}

fn perplexity(args: &PerplexityArgs, interrupt: &Interrupt) -> Outcome {
    let (mut sessions, tokenizer) = open(args, interrupt)?;
    let ids = encode(&tokenizer, &args.file, args.count == CountHow::Llama)?;
    let method = method(args, &tokenizer, sessions[0].ctx());
    let start = Instant::now();
    let run = measure(&mut sessions, &ids, &method, args, interrupt)?;
    let took = start.elapsed();
    let reports = run.reports();
    if args.json {
        return report::out_line(&to_json(&reports, &method, &sessions, took).to_string());
    }
    out(&to_text(&reports, &method, &sessions, took))
}

/// The sessions, the base first, and the tokenizer of the model.
fn open(args: &PerplexityArgs, interrupt: &Interrupt) -> Outcome<(Vec<Session>, Tokenizer)> {
    let mut cpu = args.cpu.clone();
    cpu.ctx = Some(cpu.ctx.unwrap_or(WINDOW as u32));
    let base = args.base.clone().map(|base| ModelArgs {
        model: Some(base),
        lora: Vec::new(),
        ..args.model.clone()
    });
    let mut sessions = Vec::new();
    let mut tokenizer = None;
    for model in base.iter().chain([&args.model]) {
        let opened = load::open(model, None)?;
        tokenizer = Some(load::tokenizer(&opened)?);
        let loaded = load::load(opened, &cpu, interrupt, Instant::now())?;
        load::one_text(loaded.session.model(), &loaded.opened.path)?;
        sessions.push(loaded.session);
    }
    let tokenizer = tokenizer.ok_or_else(|| Failure::usage("no model"))?;
    Ok((sessions, tokenizer))
}

/// The ids of a text file; `add_special`: with the start token if the model adds one.
pub fn encode(tokenizer: &Tokenizer, path: &Path, add_special: bool) -> Outcome<Vec<u32>> {
    let text = load::read_text(path, geb::limits::MAX_TEXT_BYTES)?;
    encode_text(tokenizer, &text, add_special)
}

/// Ids of a text as it is.
pub fn encode_text(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Outcome<Vec<u32>> {
    let how = Encode {
        add_special,
        parse_special: false,
    };
    Ok(tokenizer.encode_text(text, how)?)
}

fn method(args: &PerplexityArgs, tokenizer: &Tokenizer, window: usize) -> Method {
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
    sessions: &mut [Session],
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

fn to_text(reports: &[Report], method: &Method, sessions: &[Session], took: Duration) -> String {
    let mut text = String::new();
    for (report, session) in reports.iter().zip(sessions) {
        let who = match (reports.len(), &report.against_base) {
            (1, _) => "perplexity",
            (_, None) => "perplexity of the base",
            (_, Some(_)) => "perplexity of the model",
        };
        let kv = session.kv_type().name();
        text.push_str(&format!("{who} {:.4} (KV cache {kv})\n", report.perplexity));
        text.extend(report.against_base.as_ref().map(divergence));
    }
    let (Some(report), Some(session)) = (reports.first(), sessions.first()) else {
        return text;
    };
    let tokens = method.window * report.windows * reports.len();
    text.push_str(&format!(
        "{} tokens counted in {} windows of {}; {} ({} tok/s, {} threads, {})\n",
        report.tokens,
        report.windows,
        method.window,
        seconds(took),
        rate(tokens as f64 / took.as_secs_f64()),
        session.threads(),
        session.kernels().level().name(),
    ));
    text
}

fn divergence(d: &Divergence) -> String {
    let percent = |e: geb_eval::Estimate| geb_eval::Estimate {
        value: e.value * 100.0,
        error: e.error.map(|e| e * 100.0),
    };
    format!(
        "  ratio {:.6}, difference {:.5}\n\
         \x20 KL mean {:.7}, median {:.7}, 99 % {:.6}, largest {:.5}\n\
         \x20 same most probable token {:.3} %, of the five {:.3} %\n\
         \x20 probability of the text's token: mean {:.4} %, root mean square {:.4} %\n",
        d.perplexity_ratio,
        d.perplexity_difference,
        d.kl.mean,
        d.kl.median,
        d.kl.q99,
        d.kl.max,
        percent(d.top1),
        percent(d.top5),
        percent(d.delta_p.mean),
        percent(d.delta_p.rms),
    )
}

fn to_json(
    reports: &[Report],
    method: &Method,
    sessions: &[Session],
    took: Duration,
) -> serde_json::Value {
    let models = reports.iter().zip(sessions).map(|(report, session)| {
        let mut value = json!(report);
        value["kv"] = json!(session.kv_type().name());
        value
    });
    json!({
        "method": method,
        "models": models.collect::<Vec<_>>(),
        "threads": sessions.first().map(Session::threads),
        "isa": sessions.first().map(|s| s.kernels().level().name()),
        "seconds": took.as_secs_f64(),
        "peak_memory_bytes": report::peak_memory_bytes(),
    })
}
