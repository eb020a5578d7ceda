//! `geb-run tune`: which number of threads is best here. Measures decode and prefill for each,
//! interleaved, and keeps the choice per machine and model size; [`settings::stored`] is
//! what other commands take when no number is given.

use std::path::Path;

use geb::cpus::Cpus;
use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb::threads;
use serde_json::json;

use crate::args::TuneArgs;
use crate::bench::{measure_decode, measure_prefill};
use crate::interrupt::Interrupt;
use crate::load;
use crate::progress::Progress;
use crate::rates::Rates;
use crate::report::{self, Outcome, note, out, rate};
use crate::settings::{self, class, keep, store};

/// More threads must win this much over fewer.
const WORTH: f64 = 1.03;

/// One number of threads and its speeds in tokens per second.
struct Row {
    threads: usize,
    prefill: Rates,
    decode: Rates,
}

impl Row {
    /// What is compared: both speeds count the same.
    fn score(&self) -> f64 {
        let median = |r: &Rates| r.median().unwrap_or_default();
        (median(&self.prefill) * median(&self.decode)).sqrt()
    }
}

/// Runs the command.
pub fn run(args: &TuneArgs, interrupt: &Interrupt) -> Outcome {
    let opened = load::open(&args.model, None)?;
    let model = Model::load(opened.file.clone()).map_err(|e| load::at(&opened.path, e))?;
    let cpus = Cpus::read(Path::new("/"));
    let most = args.most.map_or(cpus.most(), |n| n as usize);
    let rows = measure(args, &model, most.min(threads::MAX_THREADS), interrupt)
        .map_err(|e| load::at(&opened.path, e))?;
    interrupt.check()?;
    let best = recommend(&rows);
    let machine = settings::machine(&cpus);
    let class = class(model.bytes_per_token());
    let kept = (!args.no_save)
        .then(|| store(settings::THREADS))
        .transpose()?;
    if let Some(path) = &kept {
        keep(path, &machine, class, best.into())?;
    }
    if args.json {
        let rows = rows.iter().map(|r| {
            json!({
                "threads": r.threads,
                "prefill_tok_s": r.prefill.median(),
                "decode_tok_s": r.decode.median(),
            })
        });
        return report::out_line(
            &json!({
                "model": opened.path,
                "machine": machine,
                "weights_per_token": class,
                "rows": rows.collect::<Vec<_>>(),
                "recommended": best,
                "stored": kept,
            })
            .to_string(),
        );
    }
    out(&format!("{machine}\n\n{}", to_table(&rows, best)))?;
    if let Some(path) = kept.filter(|_| !args.output.quiet) {
        note(format_args!(
            "{best} threads are now the default for models that read {class} per token ({})",
            path.display()
        ));
    }
    Ok(())
}

/// All counts in turn, again and again, so that what else the machine does hits all alike.
fn measure(
    args: &TuneArgs,
    model: &std::sync::Arc<Model>,
    most: usize,
    interrupt: &Interrupt,
) -> geb::Result<Vec<Row>> {
    let mut progress = Progress::new("tune", "runs", &args.output);
    let options = |threads| SessionOptions {
        threads,
        ctx: Some(args.prompt.max(args.decode + 1)),
        cancel: Some(interrupt.flag()),
        ..SessionOptions::default()
    };
    let sessions = (1..=most).map(|n| Session::new(model.clone(), &options(n)));
    let mut sessions = sessions.collect::<geb::Result<Vec<_>>>()?;
    let row = |threads| Row {
        threads,
        prefill: Rates::default(),
        decode: Rates::default(),
    };
    let mut rows: Vec<Row> = (1..=most).map(row).collect();
    let total = most * (args.reps as usize + 1);
    for i in 0..total {
        let (session, row) = (&mut sessions[i % most], &mut rows[i % most]);
        let prefill = interrupt.during(|| measure_prefill(session, 0, args.prompt));
        let prefilled = prefill.map(|start| start.elapsed())?;
        let decode = interrupt.during(|| measure_decode(session, 0, args.decode));
        let decoded = decode.map(|start| start.elapsed())?;
        // The first round warms up.
        if i >= most {
            row.prefill.push_elapsed(args.prompt, prefilled);
            row.decode.push_elapsed(args.decode, decoded);
        }
        progress.update(i + 1, total);
    }
    Ok(rows)
}

/// The fewest threads that nothing else beats clearly.
fn recommend(rows: &[Row]) -> usize {
    let best = rows.iter().map(Row::score).fold(0.0, f64::max);
    let good = rows.iter().find(|r| r.score() * WORTH >= best);
    good.map_or(1, |r| r.threads)
}

fn to_table(rows: &[Row], best: usize) -> String {
    let head = ["threads", "prefill tok/s", "decode tok/s", ""];
    let mut lines = vec![head.map(String::from).to_vec()];
    for r in rows {
        let speed = |s: &Rates| s.median().map_or("-".into(), rate);
        let mark = if r.threads == best { "recommended" } else { "" };
        let cells = [r.threads.to_string(), speed(&r.prefill), speed(&r.decode)];
        lines.push([cells.as_slice(), &[mark.to_owned()]].concat());
    }
    report::table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(scores: &[f64]) -> Vec<Row> {
        let row = |(i, s): (usize, &f64)| {
            let mut r = Row {
                threads: i + 1,
                prefill: Rates::default(),
                decode: Rates::default(),
            };
            let second = std::time::Duration::from_secs(1);
            r.prefill.push_elapsed((s * 1000.0) as usize, second);
            r.decode.push_elapsed((s * 10.0) as usize, second);
            r
        };
        scores.iter().enumerate().map(row).collect()
    }

    #[test]
    fn the_fewest_good_threads_are_recommended() {
        assert_eq!(recommend(&rows(&[10.0, 19.0, 25.0, 25.0])), 3);
        assert_eq!(recommend(&rows(&[10.0, 10.2])), 1);
        assert_eq!(recommend(&rows(&[10.0, 19.0, 12.0])), 2);
        assert_eq!(recommend(&[]), 1);
    }
}
