//! `geb-run eval quotes`: the share of n-grams of answers that a corpus has.

use geb_eval::quotes::{Count, corpus, count, mean_share, read};
use serde_json::{Value, json};

use crate::args::QuotesArgs;
use crate::report::{Outcome, out, out_line, table};

/// Runs the command.
pub fn run(args: &QuotesArgs) -> Outcome {
    let answers = read(&args.file, &args.field)?;
    let corpus = corpus(&args.corpus)?;
    let mut grams = args.grams.clone();
    grams.sort_unstable();
    grams.dedup();
    let texts: Vec<&str> = answers.iter().map(|a| a.1.as_str()).collect();
    let counts = count(&texts, &corpus, &grams);
    if args.json {
        let lines = answers.iter().map(|a| a.0);
        return out_line(&to_json(&grams, lines, &counts).to_string());
    }
    let head = ["n", "answers", "n-grams", "in the corpus", "mean %", "±"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (i, n) in grams.iter().enumerate() {
        let all = sum(&counts, i);
        let long = counts.iter().filter(|c| c[i].total > 0).count();
        let mut cells = [*n, long, all.total, all.found]
            .map(|x| x.to_string())
            .to_vec();
        if let Some(mean) = mean_share(&counts, i) {
            let percent = |x: f64| format!("{:.1}", 100.0 * x);
            cells.push(percent(mean.value));
            cells.extend(mean.error.map(percent));
        }
        rows.push(cells);
    }
    out(&table(&rows))
}

/// N-grams of all answers.
fn sum(counts: &[Vec<Count>], i: usize) -> Count {
    let all = counts.iter().map(|c| c[i]);
    let none = Count {
        n: 0,
        total: 0,
        found: 0,
    };
    all.fold(none, |a, b| Count {
        n: b.n,
        total: a.total + b.total,
        found: a.found + b.found,
    })
}

fn to_json(grams: &[usize], lines: impl Iterator<Item = usize>, counts: &[Vec<Count>]) -> Value {
    let all = grams.iter().enumerate().map(|(i, n)| {
        let all = sum(counts, i);
        let mean = mean_share(counts, i);
        json!({ "n": n, "total": all.total, "found": all.found, "share": all.share(), "mean": mean })
    });
    let answers = lines.zip(counts).map(|(line, counts)| {
        let counts = counts
            .iter()
            .map(|c| json!({ "n": c.n, "total": c.total, "found": c.found, "share": c.share() }));
        json!({ "line": line, "grams": counts.collect::<Vec<_>>() })
    });
    json!({ "grams": all.collect::<Vec<_>>(), "answers": answers.collect::<Vec<_>>() })
}
