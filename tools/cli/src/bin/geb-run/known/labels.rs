//! `geb-run eval labels`: accuracy of labels by the length of the prompt with their examples.

use geb_eval::labels::{Bank, Record, run as ask, score};
use serde_json::{Value, json};

use super::{Asked, share, share_head};
use crate::args::LabelsArgs;
use crate::choice::score_json;
use crate::interrupt::Interrupt;
use crate::needle::lengths;
use crate::report::{Outcome, out, out_line, table};

/// Runs the command.
pub fn run(args: &LabelsArgs, interrupt: &Interrupt) -> Outcome {
    let bank = Bank::read(&args.file, args.questions)?;
    let mut asked = Asked::open(&args.model, &args.cpu, interrupt)?;
    let lengths = lengths(&args.lengths, asked.loaded.session.ctx())?;
    let total = bank.questions.len() * lengths.len();
    let records = asked.records(total, &args.output, interrupt, |solver, each| {
        ask(solver, &bank, &lengths, each)
    })?;
    if args.json {
        out_line(&to_json(&asked.name, &bank, &lengths, &records).to_string())
    } else {
        out(&text(&asked.name, &bank, &lengths, &records))
    }
}

/// Fewest and most examples of a length.
fn examples(records: &[Record], length: usize) -> (usize, usize) {
    let of = || records.iter().filter(|r| r.length == length);
    let examples = || of().map(|r| r.examples);
    (examples().min().unwrap_or(0), examples().max().unwrap_or(0))
}

fn text(model: &str, bank: &Bank, lengths: &[usize], records: &[Record]) -> String {
    let mut head = share_head("tokens", "questions");
    head.push("examples".into());
    let mut rows = vec![head];
    for &length in lengths {
        let mut cells = vec![length.to_string()];
        cells.extend(share(score(records, length)));
        cells.push(match examples(records, length) {
            (a, b) if a == b => a.to_string(),
            (a, b) => format!("{a} to {b}"),
        });
        rows.push(cells);
    }
    let (labels, there) = (bank.labels.len(), bank.examples.len());
    format!(
        "{model}, {labels} labels, {there} lines of examples\n\n{}\nby chance  {:.1} %\n",
        table(&rows),
        100.0 / labels as f64
    )
}

fn to_json(model: &str, bank: &Bank, lengths: &[usize], records: &[Record]) -> Value {
    let lengths = lengths.iter().map(|&length| {
        let mut value = score_json(&score(records, length));
        let (least, most) = examples(records, length);
        value["length"] = length.into();
        value["examples"] = json!({ "least": least, "most": most });
        value
    });
    json!({
        "model": model,
        "labels": bank.labels,
        "lengths": lengths.collect::<Vec<_>>(),
        "records": records,
    })
}
