//! Reports as aligned text and as JSON.

use std::io::{ErrorKind, Write};

use geb::shown::Shown;
use geb::{Error, Result};
use geb_convert::probe::Probe;
use geb_convert::{Options, Report, Sums};
use serde_json::{Value, json};

/// Writes a text for a person to standard output, with nothing in it that steers a terminal.
pub fn print(text: &str) -> Result<()> {
    print_raw(&Shown::lines(text).to_string())
}

/// Writes to standard output; a reader that has gone away is no error.
pub fn print_raw(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::io("standard output")),
    }
}

/// Writes a line to standard error; one that is closed or full is no reason to fail.
pub fn say(line: impl std::fmt::Display) {
    geb_cli::shield::complain(format_args!("geb-quantize: {line}"));
}

/// An error in one line, with what to do next where that is known.
pub fn failure(e: &Error) -> String {
    let said = Shown::lines(&geb_cli::errors::message(e)).to_string();
    match e {
        Error::Kind { kind, .. } => format!("{said}: {}", kind.advice),
        Error::Threads { .. } => format!("{said}: try fewer (--threads)"),
        Error::Occupied { .. } => format!("{said} (--force replaces it)"),
        _ => said,
    }
}

/// Rows of cells as columns; the columns of `left` (by index) are left-aligned.
fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(c, cell)| {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            if left.contains(&c) {
                format!("{cell}{pad}")
            } else {
                format!("{pad}{cell}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `1.43 GB`, decimal units.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} B"),
    }
}

fn total(report: &Report) -> String {
    format!(
        "{}: {} tensors, {} weights, {:.3} bits per weight, file {}\n",
        Shown::name(&report.architecture),
        report.tensors.len(),
        report.elements(),
        report.bits_per_weight(),
        bytes(report.file_bytes)
    )
}

fn cells<const N: usize>(row: [&str; N]) -> Vec<String> {
    row.map(str::to_owned).to_vec()
}

fn errors(sums: &Sums) -> [String; 3] {
    [
        format!("{:.6}", sums.relative_rms()),
        format!("{:.6}", sums.max),
        format!("{:.8}", sums.cosine()),
    ]
}

/// One line per type: sizes and errors.
pub fn report_table(report: &Report) -> String {
    let mut rows = vec![cells([
        "type",
        "tensors",
        "weights",
        "size",
        "rel. RMS error",
        "max error",
        "cosine",
    ])];
    for r in report.by_type() {
        let mut row = vec![
            r.dtype.to_string(),
            r.tensors.to_string(),
            r.elements.to_string(),
            bytes(r.bytes),
        ];
        row.extend(errors(&r.sums));
        rows.push(row);
    }
    table(&rows, &[0]) + &total(report)
}

/// One line per tensor, for a dry run.
pub fn plan_table(report: &Report) -> String {
    let mut rows = vec![cells(["tensor", "shape", "from", "to", "size", "reason"])];
    for t in &report.tensors {
        let shape: Vec<String> = t.dims.iter().rev().map(u64::to_string).collect();
        rows.push(vec![
            Shown::name(&t.name).to_string(),
            shape.join(" × "),
            t.from.to_string(),
            t.to.to_string(),
            bytes(t.bytes),
            t.reason.to_string(),
        ]);
    }
    table(&rows, &[0, 2, 3, 5]) + &total(report)
}

fn json_text(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// The report as JSON.
pub fn report_json(report: &Report, options: &Options, written: bool) -> String {
    let measured = |s: &Sums| {
        written.then(
            || json!({"relative_rms": s.relative_rms(), "max_abs": s.max, "cosine": s.cosine()}),
        )
    };
    let types: Vec<Value> = report
        .by_type()
        .iter()
        .map(|r| {
            json!({"type": r.dtype.name(), "tensors": r.tensors, "weights": r.elements, "bytes": r.bytes, "error": measured(&r.sums)})
        })
        .collect();
    let tensors: Vec<Value> = report
        .tensors
        .iter()
        .map(|t| {
            let rms = t.sums.rms();
            let worst = written.then(|| json!({"index": t.worst.index, "rms": t.worst.rms,
                   "relative_to_tensor": if rms > 0.0 { t.worst.rms / rms } else { 0.0 }}));
            json!({"name": t.name, "dims": t.dims, "from": t.from.name(), "to": t.to.name(), "bytes": t.bytes,
                   "bits_per_weight": t.bits_per_weight(), "reason": t.reason, "nonfinite": t.nonfinite,
                   "error": measured(&t.sums), "worst_block": worst})
        })
        .collect();
    json_text(&json!({
        "written": written,
        "type": options.policy.mixture.name,
        "recipe": options.policy.to_string(),
        "files": report.files,
        "architecture": report.architecture,
        "file_bytes": report.file_bytes,
        "weights": report.elements(),
        "bits_per_weight": report.bits_per_weight(),
        "notes": report.notes,
        "types": types,
        "tensors": tensors,
    }))
}

/// Layouts by loss.
pub fn probe_table(probe: &Probe) -> String {
    let mut head = cells(["", "key_value", "rope", "mlp"]);
    head.extend(probe.columns.iter().map(|c| format!("after {c}")));
    head.push("worse by".into());
    let mut rows = vec![head];
    let least = probe.rows.first().map_or(0.0, |r| r.best());
    for (i, r) in probe.rows.iter().enumerate() {
        let l = &r.layout;
        let mut row = vec![
            (i + 1).to_string(),
            l.kv_name().into(),
            l.rope_name().into(),
            l.mlp_name().into(),
        ];
        row.extend(r.nll.iter().map(|v| format!("{v:.4}")));
        row.push(format!("{:+.4}", r.best() - least));
        rows.push(row);
    }
    let mut out = table(&rows, &[1, 2, 3]);
    out.push_str(&format!(
        "mean loss in nats over {} tokens, weights as {}\n",
        probe.tokens, probe.dtype
    ));
    if let Some(best) = probe.rows.first() {
        let l = &best.layout;
        let flags = format!(
            "--geb-kv {} --geb-rope {} --geb-mlp {}",
            l.kv_name(),
            l.rope_name(),
            l.mlp_name()
        );
        out.push_str(&format!("least loss: {flags}\n"));
    }
    out
}

/// The probe as JSON.
pub fn probe_json(probe: &Probe) -> String {
    let rows: Vec<Value> = probe
        .rows
        .iter()
        .map(|r| json!({"kv": r.layout.kv_name(), "rope": r.layout.rope_name(), "mlp": r.layout.mlp_name(), "nll": r.nll}))
        .collect();
    json_text(
        &json!({"tokens": probe.tokens, "type": probe.dtype.name(), "prefixes": probe.columns, "layouts": rows}),
    )
}
