//! The result as text: aligned tables for a terminal, the same in Markdown, and CSV.

use geb_eval::{Divergence, Estimate, Report};
use serde::Serialize;

use super::verdict::{digits, times};
use crate::report::{self, bytes};
use geb_eval::compare::result::{Comparison, Row, Speed, Spread};

/// A table with a head.
#[derive(Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How it was measured.
    pub note: String,
    /// Head first; all rows have its length.
    pub lines: Vec<Vec<String>>,
}

/// A value with its error, as many digits as the error allows.
pub fn pm(e: Estimate, scale: f64) -> String {
    let error = scale * e.error.unwrap_or_default();
    let digits = digits(error);
    // Adding 0 after rounding turns -0 into 0.
    let power = 10f64.powi(digits as i32);
    let value = (scale * e.value * power).round() / power + 0.0;
    let value = format!("{value:.digits$}");
    if error > 0.0 {
        format!("{value} ± {error:.digits$}")
    } else {
        value
    }
}

fn seconds(s: f64) -> String {
    report::seconds(std::time::Duration::from_secs_f64(s.max(0.0)))
}

/// All tables of a comparison; those without measurements are left out.
pub fn tables(c: &Comparison) -> Vec<Table> {
    let threads: Vec<usize> = c
        .rows
        .first()
        .map_or(Vec::new(), |r| r.speed.iter().map(|s| s.threads).collect());
    let speed = threads
        .iter()
        .enumerate()
        .map(|(i, t)| speed_table(c, i, *t));
    let texts = (0..c.texts.len()).map(|i| text_table(c, i));
    let tasks = (0..c.tasks.len()).map(|i| task_table(c, i));
    std::iter::once(size_table(c))
        .chain(speed)
        .chain(texts)
        .chain(tasks)
        .collect()
}

fn lines<const N: usize>(
    c: &Comparison,
    head: [&str; N],
    row: impl Fn(&Row) -> Option<[String; N]>,
) -> Vec<Vec<String>> {
    let head = head.map(str::to_owned).to_vec();
    let rows = c.rows.iter().filter_map(|r| row(r).map(|l| l.to_vec()));
    std::iter::once(head).chain(rows).collect()
}

fn size_table(c: &Comparison) -> Table {
    let base = c.rows.first().map_or(0, |r| r.bytes) as f64;
    let head = [
        "",
        "size",
        "smaller",
        "bits/weight",
        "peak memory",
        "load",
        "weight error",
    ];
    let dash = || "-".to_owned();
    let row = |r: &Row| {
        Some([
            format!("{}{}", r.name, if r.pareto { " *" } else { "" }),
            bytes(r.bytes),
            times(base / r.bytes.max(1) as f64),
            format!("{:.2}", r.bits_per_weight),
            r.peak_memory_bytes.map_or_else(dash, bytes),
            r.load_s.map_or_else(dash, seconds),
            mean_weight_error(r).map_or_else(dash, |e| format!("{:.2} %", 100.0 * e)),
        ])
    };
    Table {
        title: "Size".into(),
        note: "* on the Pareto front: no other row is better in size, speed or divergence and as good in the others".into(),
        lines: lines(c, head, row),
    }
}

/// Root of the mean square of the groups' relative errors.
pub fn mean_weight_error(row: &Row) -> Option<f64> {
    let n = row.weights.len();
    let squares: f64 = row.weights.iter().map(|g| g.error * g.error).sum();
    (n > 0).then(|| (squares / n as f64).sqrt())
}

fn speed_table(c: &Comparison, i: usize, threads: usize) -> Table {
    let method = c.speed.as_ref().map_or(String::new(), |s| {
        format!(
            "prompt of {}, {} decoded, median of {} rounds, ± half the distance of the quarters",
            s.prompt, s.decode, s.rounds
        )
    });
    let head = [
        "",
        "prefill tok/s",
        "to base",
        "decode tok/s",
        "to base",
        "first token",
        "GB/s",
        "of reading",
    ];
    let spread = |s: Spread| {
        let digits = if s.median < 99.95 { 1 } else { 0 };
        format!(
            "{:.digits$} ± {:.digits$}",
            s.median,
            (s.high - s.low) / 2.0
        )
    };
    let row = |r: &Row| {
        let s: &Speed = r.speed.get(i)?;
        Some([
            r.name.clone(),
            spread(s.prefill),
            times(s.prefill_ratio.median),
            spread(s.decode),
            times(s.decode_ratio.median),
            seconds(s.first_token_s),
            format!("{:.1}", s.decode_gb_s),
            s.decode_share
                .map_or("-".into(), |s| format!("{:.0} %", 100.0 * s)),
        ])
    };
    let plural = if threads == 1 { "" } else { "s" };
    Table {
        title: format!("Speed with {threads} thread{plural}"),
        note: method,
        lines: lines(c, head, row),
    }
}

fn text_table(c: &Comparison, i: usize) -> Table {
    let t = &c.texts[i];
    let head = [
        "",
        "perplexity",
        "change %",
        "mean KL",
        "median",
        "99 %",
        "max",
        "top-1 %",
        "top-5 %",
        "Δp %",
        "Δp 1 … 99 %",
    ];
    let row = |r: &Row| {
        let report = r.texts.get(i)?;
        let mut line = std::array::from_fn(|_| "-".to_owned());
        line[0] = r.name.clone();
        let perplexity = report.perplexity;
        let error = perplexity
            .error
            .map_or(String::new(), |e| format!(" ± {e:.2}"));
        // The error of both is mostly the same; what differs is in the next column.
        line[1] = format!("{:.3}{error}", perplexity.value);
        if let Some(d) = &report.against_base {
            let ratio = d.perplexity_ratio;
            let digits = ratio.error.map_or(2, |e| digits(100.0 * e).clamp(1, 3));
            let error = |e| format!(" ± {:.digits$}", 100.0 * e);
            let error = ratio.error.map_or(String::new(), error);
            line[2] = format!("{:+.digits$}{error}", 100.0 * (ratio.value - 1.0));
            line[3] = pm(d.kl.mean, 1.0);
            line[4] = format!("{:.5}", d.kl.median.value);
            line[5] = format!("{:.4}", d.kl.q99.value);
            line[6] = format!("{:.3}", d.kl.max);
            line[7] = pm(d.top1, 100.0);
            line[8] = pm(d.top5, 100.0);
            line[9] = pm(d.delta_p.mean, 100.0);
            let [low, high] = [d.delta_p.q01, d.delta_p.q99].map(|q| 100.0 * q.value);
            line[10] = format!("{low:+.2} … {high:+.2}");
        }
        Some(line)
    };
    Table {
        title: format!("Accuracy on {}", t.name),
        note: format!(
            "{} windows of {} tokens, counted from position {}; KV cache {}; ± standard error; KL in nats per token",
            t.windows,
            t.window,
            t.count_from,
            caches(c)
        ),
        lines: lines(c, head, row),
    }
}

/// The type of the rows' KV cache, or that of each where they differ.
fn caches(c: &Comparison) -> String {
    let first = c.rows.first().map_or("", |r| r.kv.as_str());
    if c.rows.iter().all(|r| r.kv == first) {
        return first.to_owned();
    }
    let each: Vec<String> = c
        .rows
        .iter()
        .map(|r| format!("{} in {}", r.kv, r.name))
        .collect();
    each.join(", ")
}

fn task_table(c: &Comparison, i: usize) -> Table {
    let t = &c.tasks[i];
    let head = [
        "",
        "right %",
        "95 %",
        "lost",
        "gained",
        "other wrong",
        "McNemar p",
    ];
    let row = |r: &Row| {
        let s = r.tasks.get(i)?;
        // The base has nothing to lose against itself.
        let base = std::ptr::eq(r, &c.rows[0]);
        let against = |text: String| if base { "-".to_owned() } else { text };
        Some([
            r.name.clone(),
            format!("{:.1}", 100.0 * s.accuracy),
            format!("{:.1} … {:.1}", 100.0 * s.low, 100.0 * s.high),
            against(s.lost.to_string()),
            against(s.gained.to_string()),
            against(s.moved.to_string()),
            against(format!("{:.3}", s.mcnemar_p)),
        ])
    };
    Table {
        title: format!("Answers to {}", t.name),
        note: format!("{} questions", t.questions),
        lines: lines(c, head, row),
    }
}

/// For a terminal.
pub fn text(c: &Comparison) -> String {
    let mut out = format!("{}\n{}\n", c.title, machine(c));
    for table in tables(c) {
        let (title, note) = (table.title, table.note);
        let lines = report::table(&table.lines);
        out.push_str(&format!("\n{title} ({note})\n{lines}"));
    }
    out.push('\n');
    for line in c
        .rows
        .iter()
        .skip(1)
        .map(|row| &row.verdict)
        .chain(&c.order)
    {
        out.push_str(&format!("{line}\n"));
    }
    for warning in &c.warnings {
        out.push_str(&format!("warning: {warning}\n"));
    }
    out
}

/// One line about the machine.
pub fn machine(c: &Comparison) -> String {
    let m = &c.machine;
    let memory = m
        .memory_bytes
        .map_or(String::new(), |b| format!(", {} memory", bytes(b)));
    format!("{}, {}{memory}", m.cpu, m.isa)
}

/// In Markdown.
pub fn markdown(c: &Comparison) -> String {
    let cell = |s: &String| s.replace('|', "\\|");
    let mut out = format!("## {}\n\n{}  \n`{}`\n", c.title, machine(c), c.command);
    for table in tables(c) {
        out.push_str(&format!("\n**{}** ({})\n\n", table.title, table.note));
        for (i, line) in table.lines.iter().enumerate() {
            let cells: Vec<String> = line.iter().map(cell).collect();
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
            if i == 0 {
                out.push_str(&format!("|---|{}\n", "---:|".repeat(line.len() - 1)));
            }
        }
    }
    out.push('\n');
    for line in c
        .rows
        .iter()
        .skip(1)
        .map(|row| &row.verdict)
        .chain(&c.order)
    {
        out.push_str(&format!("- {line}\n"));
    }
    for warning in &c.warnings {
        out.push_str(&format!("- warning: {warning}\n"));
    }
    out
}

/// A head and a line per row; columns of further threads, texts and tasks carry their names.
pub fn csv(c: &Comparison) -> String {
    let mut all: Vec<Vec<String>> = c.rows.iter().map(|_| Vec::new()).collect();
    let mut head = Vec::new();
    let mut column = |name: String, value: &dyn Fn(&Row) -> Option<String>| {
        head.push(name);
        for (line, row) in all.iter_mut().zip(&c.rows) {
            line.push(value(row).unwrap_or_default());
        }
    };
    column("name".into(), &|r| Some(r.name.clone()));
    column("kv".into(), &|r| Some(r.kv.clone()));
    column("bytes".into(), &|r| Some(r.bytes.to_string()));
    column("bits_per_weight".into(), &|r| {
        Some(r.bits_per_weight.to_string())
    });
    column("peak_memory_bytes".into(), &|r| {
        r.peak_memory_bytes.map(|n| n.to_string())
    });
    column("load_s".into(), &|r| r.load_s.map(|n| n.to_string()));
    column("pareto".into(), &|r| Some(r.pareto.to_string()));
    let lanes = c.rows.first().map_or(0, |r| r.speed.len());
    for i in 0..lanes {
        let t = c.rows[0].speed[i].threads;
        type Get = fn(&Speed) -> f64;
        let columns: [(&str, Get); 6] = [
            ("prefill_tok_s", |s| s.prefill.median),
            ("prefill_ratio", |s| s.prefill_ratio.median),
            ("decode_tok_s", |s| s.decode.median),
            ("decode_ratio", |s| s.decode_ratio.median),
            ("first_token_s", |s| s.first_token_s),
            ("decode_gb_s", |s| s.decode_gb_s),
        ];
        for (name, get) in columns {
            column(format!("{name}_t{t}"), &|r| {
                Some(get(r.speed.get(i)?).to_string())
            });
        }
    }
    for (i, t) in c.texts.iter().enumerate() {
        let perplexity = |r: &Row| r.texts.get(i).map(|t: &Report| t.perplexity);
        let name = |what: &str| format!("{what}_{}", t.name);
        column(name("perplexity"), &|r| {
            Some(perplexity(r)?.value.to_string())
        });
        column(name("perplexity_error"), &|r| {
            Some(perplexity(r)?.error?.to_string())
        });
        type Get = fn(&Divergence) -> f64;
        let columns: [(&str, Get); 10] = [
            ("perplexity_ratio", |d| d.perplexity_ratio.value),
            ("perplexity_ratio_error", |d| {
                d.perplexity_ratio.error.unwrap_or(f64::NAN)
            }),
            ("mean_kl", |d| d.kl.mean.value),
            ("mean_kl_error", |d| d.kl.mean.error.unwrap_or(f64::NAN)),
            ("median_kl", |d| d.kl.median.value),
            ("q99_kl", |d| d.kl.q99.value),
            ("max_kl", |d| d.kl.max),
            ("top1", |d| d.top1.value),
            ("top5", |d| d.top5.value),
            ("delta_p", |d| d.delta_p.mean.value),
        ];
        for (what, get) in columns {
            column(name(what), &|r| Some(get(r.divergence(i)?).to_string()));
        }
    }
    for (i, t) in c.tasks.iter().enumerate() {
        column(format!("accuracy_{}", t.name), &|r| {
            Some(r.tasks.get(i)?.accuracy.to_string())
        });
        column(format!("mcnemar_p_{}", t.name), &|r| {
            Some(r.tasks.get(i)?.mcnemar_p.to_string())
        });
    }
    let quote = |s: &String| {
        if s.contains([',', '"', '\n']) {
            format!("\"{}\"", s.replace('"', "\"\""))
        } else {
            s.clone()
        }
    };
    std::iter::once(&head)
        .chain(&all)
        .map(|line| line.iter().map(quote).collect::<Vec<_>>().join(",") + "\n")
        .collect()
}
