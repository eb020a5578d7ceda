//! `geb-run eval rows`: whether a model knows a table by heart.

use geb_eval::Estimate;
use geb_eval::choice::score::{Score, sign_test};
use geb_eval::table::{Plan, Record, Table, run as ask};
use serde_json::{Value, json};

use super::{Asked, share, share_head};
use crate::args::RowsArgs;
use crate::choice::score_json;
use crate::interrupt::Interrupt;
use crate::report::{Failure, Outcome, note, out, out_line, table};

/// What the records say.
struct Summary {
    /// Exact rows that are more probable than the perturbed ones.
    exact: Score,
    completed: Score,
    /// Log-likelihood of the exact row less that of the perturbed one.
    difference: Estimate,
    p: f64,
}

/// Runs the command.
pub fn run(args: &RowsArgs, interrupt: &Interrupt) -> Outcome {
    let data = Table::read(&args.file)?;
    let plan = plan(args, &data)?;
    let mut asked = Asked::open(&args.model, &args.cpu, interrupt)?;
    let total = data.rows.len().min(plan.limit);
    let records = asked.records(total, &args.output, interrupt, |solver, each| {
        ask(solver, &data, &plan, each)
    })?;
    let records: Vec<Record> = records.into_iter().flatten().collect();
    if records.is_empty() {
        return Err(
            Failure::usage("no row fits the context and has another value to swap")
                .hint("raise the context with --ctx, or leave out --column"),
        );
    }
    let skipped = total - records.len();
    let summary = Summary::of(&records);
    if args.json {
        let value = summary.json(&asked.name, &plan, &records, skipped);
        return out_line(&value.to_string());
    }
    if skipped > 0 {
        note(format_args!(
            "note: {skipped} of {total} rows left out: too long, or no other value"
        ));
    }
    out(&summary.text(&asked.name))
}

fn plan(args: &RowsArgs, data: &Table) -> Outcome<Plan> {
    let columns = data.columns.len();
    let given = args.given.unwrap_or(columns / 2);
    if given >= columns {
        let most = columns - 1;
        return Err(Failure::usage(format!(
            "--given {given} leaves nothing to complete, allowed: 1 to {most}"
        )));
    }
    let place = |name: &String| {
        let found = data.columns.iter().position(|c| c == name);
        found.ok_or_else(|| {
            let names = data.columns.join(", ");
            Failure::usage(format!(
                "--column {name} is not in the table, allowed: {names}"
            ))
        })
    };
    Ok(Plan {
        before: args.before,
        given,
        column: args.column.as_ref().map(place).transpose()?,
        seed: args.seed,
        limit: args.limit.unwrap_or(usize::MAX),
    })
}

impl Summary {
    fn of(records: &[Record]) -> Summary {
        let wins = |won: fn(&Record) -> bool| records.iter().filter(|r| won(r)).count() as u64;
        let differences: Vec<f64> = records.iter().map(|r| r.exact - r.perturbed).collect();
        Summary {
            exact: records.iter().map(|r| r.exact > r.perturbed).collect(),
            completed: records.iter().map(|r| r.completed).collect(),
            difference: Estimate::mean(&differences),
            p: sign_test(
                wins(|r| r.exact > r.perturbed),
                wins(|r| r.exact < r.perturbed),
            ),
        }
    }

    fn text(&self, model: &str) -> String {
        let named = |name: &str, score| [vec![name.to_owned()], share(score)].concat();
        let rows = [
            share_head(model, "rows"),
            named("exact row more probable", self.exact),
            named("rest completed", self.completed),
        ];
        format!(
            "{}\ndifference  {:.3} nats per row\nsign test   p = {:.3} if neither row were preferred\n",
            table(&rows),
            self.difference,
            self.p
        )
    }

    fn json(&self, model: &str, plan: &Plan, records: &[Record], skipped: usize) -> Value {
        json!({
            "model": model,
            "before": plan.before,
            "given": plan.given,
            "seed": plan.seed,
            "skipped": skipped,
            "exact_wins": score_json(&self.exact),
            "completed": score_json(&self.completed),
            "difference": self.difference,
            "sign_test_p": self.p,
            "records": records,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wins_and_differences_are_counted() {
        let record = |exact, perturbed| Record {
            line: 2,
            before: 0,
            exact,
            perturbed,
            column: String::new(),
            instead: String::new(),
            written: String::new(),
            completed: exact == -1.0,
        };
        let records = [record(-1.0, -3.0), record(-2.0, -2.0), record(-4.0, -3.0)];
        let s = Summary::of(&records);
        assert_eq!((s.exact.correct, s.exact.questions), (1, 3));
        assert_eq!(s.completed.correct, 1);
        // Mean of 2, 0, -1; a tie counts for neither side.
        assert!((s.difference.value - 1.0 / 3.0).abs() < 1e-12);
        let squares = (5.0f64 / 3.0).powi(2) + (1.0f64 / 3.0).powi(2) + (4.0f64 / 3.0).powi(2);
        let error = s.difference.error.expect("three rows");
        assert!((error - (squares / 2.0 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(s.p, 1.0);
    }
}
