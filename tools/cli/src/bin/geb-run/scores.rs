//! `geb-run scores`: the log-probability of every token of a text, as it is evaluated.

use std::fmt::Write;
use std::time::Instant;

use geb::tokenizer::Tokenizer;
use geb_eval::{Scores, TokenScore};
use serde_json::json;

use crate::args::ScoresArgs;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, raw};
use crate::{eval, load};

/// Runs the command.
pub fn run(args: &ScoresArgs, interrupt: &Interrupt) -> Outcome {
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let ids = eval::encode(&tokenizer, &args.file, true)?;
    if ids.len() < 2 {
        let n = ids.len();
        return Err(Failure::usage(format!(
            "{}: {n} tokens, allowed: at least 2, the first one is not predicted",
            args.file.display()
        )));
    }
    let mut loaded = load::load(opened, &args.cpu, interrupt, Instant::now())?;
    load::one_text(loaded.session.model(), &loaded.opened.path)?;
    let mut progress = Progress::new("scores", "tokens", &args.output);
    if args.csv {
        raw(&header(args.top_k))?;
    }
    let mut scores = Scores::new(&mut loaded.session, &ids, args.top_k as usize);
    loop {
        let some = interrupt.during(|| scores.advance());
        let some = some.map_err(|e| load::at(&loaded.opened.path, e))?;
        let Some(last) = some.last() else {
            return Ok(());
        };
        let done = last.position + 1;
        let line = if args.csv { csv_line } else { json_line };
        let mut text = String::new();
        some.iter().for_each(|s| line(&mut text, s, &tokenizer));
        raw(&text)?;
        progress.update(done, ids.len());
    }
}

fn json_line(text: &mut String, s: &TokenScore, tokenizer: &Tokenizer) {
    let top = s
        .top
        .iter()
        .map(|(id, logprob)| json!({ "id": id, "text": tokenizer.piece(*id), "logprob": logprob }));
    let mut value = json!({
        "position": s.position,
        "id": s.id,
        "text": tokenizer.piece(s.id),
        "logprob": s.logprob,
        "rank": s.rank,
    });
    if !s.top.is_empty() {
        value["top"] = top.collect();
    }
    _ = writeln!(text, "{value}");
}

/// Names of the columns.
fn header(top_k: u32) -> String {
    let top = (1..=top_k).map(|k| format!(",top{k}_id,top{k}_logprob"));
    format!("position,id,text,logprob,rank{}\n", top.collect::<String>())
}

fn csv_line(text: &mut String, s: &TokenScore, tokenizer: &Tokenizer) {
    // RFC 4180: quotes are doubled inside quotes.
    let piece = tokenizer.piece(s.id).replace('"', "\"\"");
    _ = write!(
        text,
        "{},{},\"{piece}\",{},{}",
        s.position, s.id, s.logprob, s.rank
    );
    for (id, logprob) in &s.top {
        _ = write!(text, ",{id},{logprob}");
    }
    text.push('\n');
}
