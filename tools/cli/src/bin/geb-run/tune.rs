//! `geb-run tune`: which number of threads is best here. Measures decode and prefill for each,
//! interleaved, and keeps the choice per machine and model size; [`stored`] is what other
//! commands take when no number is given.

use std::path::{Path, PathBuf};

use geb::cpus::Cpus;
use geb::files::{self, Over};
use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb::threads;
use serde_json::{Map, Value, json};

use crate::args::TuneArgs;
use crate::bench::{Rates, measure_decode, measure_prefill};
use crate::interrupt::Interrupt;
use crate::load;
use crate::model_path;
use crate::outputs;
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, note, out, rate};

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
    let (machine, class) = (machine(&cpus), class(model.bytes_per_token()));
    let kept = (!args.no_save).then(store).transpose()?;
    if let Some(path) = &kept {
        keep(path, &machine, class, best)?;
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

/// The number to use for a model that reads this many bytes of weights per token: what was
/// stored for this machine. `None` where the environment names one, or nothing was stored.
pub fn stored(bytes_per_token: u64) -> Option<usize> {
    if threads::asked().is_some() {
        return None;
    }
    let all = read(&store().ok()?)?;
    let cpus = Cpus::read(Path::new("/"));
    let n = all.get(&machine(&cpus))?.get(class(bytes_per_token))?;
    let n = usize::try_from(n.as_u64()?).ok()?;
    (1..=threads::MAX_THREADS).contains(&n).then_some(n)
}

/// Longest file of choices that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The file with all choices: `{machine: {class: threads}}`.
fn store() -> Outcome<PathBuf> {
    Ok(model_path::cache_dir()?.join("threads.json"))
}

fn read(path: &Path) -> Option<Map<String, Value>> {
    serde_json::from_slice(&files::read(path, MAX_BYTES).ok()?).ok()
}

/// Adds one choice. A file that cannot be read is replaced.
fn keep(path: &Path, machine: &str, class: &str, threads: usize) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(e.to_string()).at(path.display());
    let mut all = read(path).unwrap_or_default();
    let own = all.entry(machine).or_insert_with(|| json!({}));
    if !own.is_object() {
        *own = json!({});
    }
    own[class] = threads.into();
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let text = serde_json::to_vec_pretty(&all).map_err(|e| failed(e.into()))?;
    outputs::write(path, &text, Over::ANY)
}

/// The machine as this process sees it: a container with fewer CPUs is another one.
pub fn machine(cpus: &Cpus) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let quota = cpus.quota.map_or(String::new(), |q| format!(", quota {q}"));
    format!("{name}, {} cores, {} CPUs{quota}", cpus.cores, cpus.logical)
}

/// Models of one class are limited by the same thing: start-up of steps, caches or memory.
fn class(bytes_per_token: u64) -> &'static str {
    const MB: u64 = 1_000_000;
    match bytes_per_token {
        b if b <= 32 * MB => "up to 32 MB",
        b if b <= 128 * MB => "up to 128 MB",
        b if b <= 512 * MB => "up to 512 MB",
        b if b <= 2_000 * MB => "up to 2 GB",
        b if b <= 8_000 * MB => "up to 8 GB",
        _ => "more than 8 GB",
    }
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

    #[test]
    fn choices_are_kept_side_by_side() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("new").join("threads.json");
        for (machine, class, n) in [("a", "x", 1), ("a", "y", 2), ("b", "x", 3), ("a", "x", 4)] {
            keep(&path, machine, class, n).expect("written");
        }
        let all = Value::Object(read(&path).expect("JSON"));
        assert_eq!(all, json!({"a": {"x": 4, "y": 2}, "b": {"x": 3}}));
        std::fs::write(&path, "[broken").expect("written");
        keep(&path, "c", "x", 1).expect("replaced");
        assert_eq!(read(&path).expect("JSON").len(), 1);
    }

    #[test]
    fn classes_grow() {
        let classes = [1, 100, 400, 1_900, 7_000, 9_000].map(|mb| class(mb * 1_000_000));
        let distinct: std::collections::BTreeSet<_> = classes.iter().collect();
        assert_eq!(distinct.len(), classes.len());
    }
}
