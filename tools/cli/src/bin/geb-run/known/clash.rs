//! `geb-run eval clash`: what a model knows against what its prompt says.

use geb_eval::choice::score::Score;
use geb_eval::clash::{Record, Summary, read, run as ask};
use serde_json::{Value, json};

use super::{Asked, share, share_head};
use crate::args::ClashArgs;
use crate::choice::score_json;
use crate::interrupt::Interrupt;
use crate::report::{Failure, Outcome, note, out, out_line, table};

/// Runs the command.
pub fn run(args: &ClashArgs, interrupt: &Interrupt) -> Outcome {
    let questions = read(&args.file)?;
    let mut asked = Asked::open(&args.model, &args.cpu, interrupt)?;
    let total = questions.len();
    let records = asked.records(total, &args.output, interrupt, |solver, each| {
        ask(solver, &questions, each)
    })?;
    let records: Vec<Record> = records.into_iter().flatten().collect();
    if records.is_empty() {
        return Err(Failure::usage("no question fits the context")
            .hint("raise it with --ctx, if the model was trained for more"));
    }
    let skipped = total - records.len();
    let summary = named(&Summary::of(&records));
    if args.json {
        return out_line(&to_json(&asked.name, &summary, &records, skipped).to_string());
    }
    if skipped > 0 {
        note(format_args!(
            "note: {skipped} of {total} questions left out: too long for the context"
        ));
    }
    let mut rows = vec![share_head(&asked.name, "questions")];
    rows.extend(
        summary
            .iter()
            .map(|(_, name, s)| [vec![(*name).to_owned()], share(*s)].concat()),
    );
    out(&table(&rows))
}

/// Scores with their names in JSON and in the table.
fn named(s: &Summary) -> [(&'static str, &'static str, Score); 7] {
    [
        ("prior", "right without a context", s.prior),
        ("context", "right with the context", s.context),
        ("changed", "right with the changed context", s.changed),
        ("followed", "changed context followed", s.followed),
        ("misled", "  of those right without one", s.misled),
        ("kept", "answer kept against it", s.kept),
        ("corrected", "corrected by the right context", s.corrected),
    ]
}

fn to_json(
    model: &str,
    summary: &[(&'static str, &'static str, Score)],
    records: &[Record],
    skipped: usize,
) -> Value {
    let mut value = json!({ "model": model, "skipped": skipped });
    for (name, _, score) in summary {
        value[name] = score_json(score);
    }
    value["records"] = json!(records);
    value
}
