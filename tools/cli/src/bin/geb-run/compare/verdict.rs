//! What the numbers say: the Pareto front, a sentence per candidate, the gates.
//!
//! Every word of a sentence follows from numbers in it; how much is lost, from [`geb_eval::compare::loss`].

use geb_eval::{Divergence, Estimate};

use crate::args::GateArgs;
use crate::report::rate;
use geb_eval::compare::loss::{self, Finding, Numbers};
use geb_eval::compare::result::{Comparison, Missed, Row, Spread, TaskScore, TextInfo};

/// Quarters of a ratio further apart than this (share of it) are said, and worth a warning.
const WIDE: f64 = 0.1;
/// CPU share of others that is worth a warning.
const BUSY: f64 = 0.05;
/// CPU share of others that makes the speeds of sentences doubtful.
const VERY_BUSY: f64 = 0.25;

/// Marks the front and writes verdicts, warnings and missed gates.
pub fn judge(c: &mut Comparison, gates: &GateArgs) {
    let front: Vec<bool> = (0..c.rows.len())
        .map(|i| !c.rows.iter().any(|other| dominates(other, &c.rows[i])))
        .collect();
    let found = findings(c);
    for ((row, on), finding) in c.rows.iter_mut().zip(front).zip(found) {
        row.pareto = on;
        row.finding = finding;
    }
    let warnings = warnings(c);
    c.warnings.extend(warnings);
    let busy = c.speed.as_ref().is_some_and(|s| {
        let shares = [s.others, s.stolen].map(Option::unwrap_or_default);
        shares.iter().sum::<f64>() > VERY_BUSY
    });
    c.order = (0..c.texts.len()).filter_map(|i| order(c, i)).collect();
    let left = windows_left(&c.texts);
    let names: Vec<String> = c.texts.iter().map(|t| t.name.clone()).collect();
    let tasks: Vec<String> = c.tasks.iter().map(|t| t.name.clone()).collect();
    let Some((base, candidates)) = c.rows.split_first_mut() else {
        return;
    };
    base.verdict = format!("{}: what the others are compared with", base.name);
    for row in candidates {
        row.verdict = verdict(base, row, &names, left, &tasks, gates);
        if busy && !row.speed.is_empty() {
            row.verdict
                .push_str(" (speed on a busy machine: take it as a hint)");
        }
        c.missed.extend(missed(row, &names, gates));
    }
}

/// `a` is better than `b` in one of size, divergence and decoding speed, and in none worse.
/// Speeds whose quarters overlap are equal, divergences within their errors too.
fn dominates(a: &Row, b: &Row) -> bool {
    let (mut better, mut worse) = (a.bytes < b.bytes, a.bytes > b.bytes);
    for (a, b) in a.speed.iter().zip(&b.speed) {
        better |= a.decode.low > b.decode.high;
        worse |= a.decode.high < b.decode.low;
    }
    // The base has no divergence from itself.
    let kl = |row: &Row, i: usize| {
        row.divergence(i)
            .map_or((0.0, 0.0), |d| (d.kl.mean.value, error(d.kl.mean)))
    };
    for i in 0..a.texts.len() {
        let ((a, a_error), (b, b_error)) = (kl(a, i), kl(b, i));
        better |= a < b - a_error.hypot(b_error);
        worse |= a > b + a_error.hypot(b_error);
    }
    better && !worse
}

fn warnings(c: &Comparison) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(speed) = &c.speed {
        let percent = |s: Option<f64>| s.filter(|s| *s > BUSY).map(|s| 100.0 * s);
        if let Some(p) = percent(speed.others) {
            out.push(format!(
                "other programs had {p:.0} % of the CPU time while speed was measured"
            ));
        }
        if let Some(p) = percent(speed.stolen) {
            out.push(format!(
                "other virtual machines took {p:.0} % of the CPU time while speed was measured"
            ));
        }
    }
    let wide = |row: &Row| {
        let ratios = row
            .speed
            .iter()
            .flat_map(|s| [("prefill", s.prefill_ratio), ("decode", s.decode_ratio)]);
        let (what, widest) = ratios.max_by(|a, b| a.1.width().total_cmp(&b.1.width()))?;
        let (low, high) = (times(widest.low), times(widest.high));
        (widest.width() > WIDE).then(|| format!("{} ({what} {low} to {high})", row.name))
    };
    let uncertain: Vec<String> = c.rows.iter().skip(1).filter_map(wide).collect();
    if !uncertain.is_empty() {
        out.push(format!(
            "the speed ratios of the rounds differ widely: {}; repeat with more rounds (-r) on a quiet machine",
            uncertain.join(", ")
        ));
    }
    out
}

/// A ratio as people say it.
pub fn times(ratio: f64) -> String {
    format!("{}×", rate(ratio))
}

/// Digits after the point for a value with this error: two figures of an error that begins with 1,
/// one of others.
pub fn digits(error: f64) -> usize {
    if !(error > 0.0 && error.is_finite()) {
        return 2;
    }
    let first = -error.log10().floor();
    let figures = if error * 10f64.powf(first) < 1.95 {
        1.0
    } else {
        0.0
    };
    (first + figures).clamp(0.0, 9.0) as usize
}

fn speed_words(row: &Row) -> Option<String> {
    let best = row.speed.iter().max_by_key(|s| s.threads)?;
    let word = |r: Spread, what: &str| {
        let only = if r.median < 1.0 { "only " } else { "" };
        let said = format!("{what} {only}{} as fast", times(r.median));
        if r.low <= 1.0 && r.high >= 1.0 {
            format!("{what} speed the same within the spread")
        } else if r.width() > WIDE {
            format!("{said} ({} to {})", times(r.low), times(r.high))
        } else {
            said
        }
    };
    let decode = word(best.decode_ratio, "decode");
    Some(format!("{decode}, {}", word(best.prefill_ratio, "prefill")))
}

fn size_words(base: &Row, row: &Row) -> String {
    let ratio = base.bytes as f64 / row.bytes.max(1) as f64;
    if ratio >= 1.0 {
        format!("{} smaller", times(ratio))
    } else {
        format!("{} larger", times(1.0 / ratio))
    }
}

/// The standard error; unknown from a single window, which excludes nothing.
fn error(e: Estimate) -> f64 {
    e.error.unwrap_or(f64::INFINITY)
}

/// Relative change of the perplexity.
fn change(d: &Divergence) -> Estimate {
    Estimate {
        value: d.perplexity_ratio.value - 1.0,
        ..d.perplexity_ratio
    }
}

/// Two figures.
fn significant(value: f64) -> String {
    let digits = if value > 0.0 {
        1.0 - value.log10().floor()
    } else {
        0.0
    };
    let digits = digits.clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

/// The first text in full, the others in the same order without the words.
fn text_words(on_texts: &[&Divergence], names: &[String]) -> String {
    let words = |(i, (d, name)): (usize, (&&Divergence, &String))| {
        let of = if names.len() > 1 {
            format!(" on {name}")
        } else {
            String::new()
        };
        let [kl, top1, perplexity] = if i == 0 {
            ["KL ", "top-1 agreement ", "perplexity "]
        } else {
            [""; 3]
        };
        let change = change(d);
        let digits = change.error.map_or(2, |e| digits(100.0 * e).clamp(1, 3));
        let error = change
            .error
            .map_or(String::new(), |e| format!(" ± {:.digits$}", 100.0 * e));
        format!(
            "{kl}{}, {top1}{:.1} % and {perplexity}{:+.digits$} %{error}{of}",
            significant(d.kl.mean.value),
            100.0 * d.top1.value,
            100.0 * change.value,
        )
    };
    let all: Vec<String> = on_texts.iter().zip(names).enumerate().map(words).collect();
    all.join(", ")
}

fn task_words(name: &str, t: &TaskScore) -> String {
    let change = if t.mcnemar_p >= 0.05 {
        "no measurable change"
    } else if t.lost > t.gained {
        "a measurable loss"
    } else {
        "a measurable gain"
    };
    format!(
        "{name}: {} of {} answers lost, {} gained (p = {:.2}): {change}",
        t.lost, t.questions, t.gained, t.mcnemar_p
    )
}

/// What is found on all texts, the worst of each: `None` without texts.
fn findings(c: &Comparison) -> Vec<Option<Finding>> {
    let mut out = vec![None; c.rows.len()];
    for i in 0..c.texts.len() {
        let of_row = |(at, row): (usize, &Row)| Some((at, Numbers::of(row.texts.get(i)?)?));
        let (at, numbers): (Vec<usize>, Vec<Numbers>) =
            c.rows.iter().enumerate().filter_map(of_row).unzip();
        for (at, found) in at.into_iter().zip(loss::findings(&numbers)) {
            out[at] = Some(out[at].map_or(found, |before: Finding| before.worse(found)));
        }
    }
    out
}

/// Candidates of a text, the nearest to the base first; `None` for fewer than two.
fn order(c: &Comparison, i: usize) -> Option<String> {
    let mut all: Vec<(&Row, Numbers)> = Vec::new();
    for row in &c.rows {
        all.extend(row.texts.get(i).and_then(Numbers::of).map(|n| (row, n)));
    }
    all.sort_by(|a, b| loss::nearer(&a.1, &b.1));
    let (first, _) = all.first()?;
    let mut said = format!(
        "nearest to {} on {}: {}",
        c.rows[0].name, c.texts[i].name, first.name
    );
    for pair in all.windows(2) {
        let sign = if loss::apart(&pair[0].1, &pair[1].1) {
            "<"
        } else {
            "≈"
        };
        said.push_str(&format!(" {sign} {}", pair[1].0.name));
    }
    (all.len() > 1).then_some(said)
}

/// Windows that the shortest text still has.
fn windows_left(texts: &[TextInfo]) -> usize {
    let left = |t: &TextInfo| (t.tokens / t.window.max(1)).saturating_sub(t.windows);
    texts.iter().map(left).min().unwrap_or(usize::MAX)
}

fn verdict(
    base: &Row,
    row: &Row,
    texts: &[String],
    left: usize,
    tasks: &[String],
    gates: &GateArgs,
) -> String {
    let mut parts: Vec<String> = speed_words(row).into_iter().collect();
    parts.push(size_words(base, row));
    let on_texts: Vec<&Divergence> = (0..texts.len()).filter_map(|i| row.divergence(i)).collect();
    if !on_texts.is_empty() {
        parts.push(text_words(&on_texts, texts));
    }
    let mut said = format!("{}: {}", row.name, parts.join(", "));
    if let Some(finding) = row.finding {
        said.push_str(&format!(": {}", finding.words(&base.name)));
        if finding.more_windows > left {
            said.push_str(&format!(" (the text has {left})"));
        }
    }
    for (t, name) in row.tasks.iter().zip(tasks) {
        said.push_str(&format!("; {}", task_words(name, t)));
    }
    if let Some(b) = row
        .worst_block
        .as_ref()
        .filter(|b| b.error > gates.max_block_error)
    {
        said.push_str(&format!(
            "; DAMAGED? {} differs from the base by {:.0} % of its size at weight {}",
            b.tensor,
            100.0 * b.error,
            b.index
        ));
    }
    said
}

/// The gates that a row misses: the worst text and the slowest number of threads count.
fn missed(row: &Row, texts: &[String], gates: &GateArgs) -> Vec<Missed> {
    let mut out = Vec::new();
    let mut miss = |what: String| {
        out.push(Missed {
            row: row.name.clone(),
            what,
        });
    };
    for (i, name) in texts.iter().enumerate() {
        let Some(d) = row.divergence(i) else { continue };
        let kl = d.kl.mean.value;
        if let Some(most) = gates.max_kld.filter(|most| above(kl, *most)) {
            miss(format!(
                "mean KL divergence {kl:.6} on {name}, --max-kld {most}"
            ));
        }
        let top1 = 100.0 * d.top1.value;
        if let Some(least) = gates.min_top1.filter(|least| below(top1, *least)) {
            miss(format!(
                "top-1 agreement {top1:.2} % on {name}, --min-top1 {least}"
            ));
        }
        let up = 100.0 * change(d).value;
        if let Some(most) = gates.max_ppl_increase.filter(|most| above(up, *most)) {
            miss(format!(
                "perplexity {up:+.3} % on {name}, --max-ppl-increase {most}"
            ));
        }
    }
    for s in &row.speed {
        let ratio = s.decode_ratio.median;
        if let Some(least) = gates.min_speedup.filter(|least| below(ratio, *least)) {
            miss(format!(
                "decode {ratio:.2} times as fast with {} threads, --min-speedup {least}",
                s.threads
            ));
        }
    }
    if let Some(b) = row
        .worst_block
        .as_ref()
        .filter(|b| above(b.error, gates.max_block_error))
    {
        miss(format!(
            "32 weights of {} from {} on differ from the base by {:.0} % of their size: damaged, or of another model (--max-block-error {})",
            b.tensor,
            b.index,
            100.0 * b.error,
            gates.max_block_error
        ));
    }
    out
}

/// NaN passes no gate.
fn above(value: f64, most: f64) -> bool {
    value.is_nan() || value > most
}

fn below(value: f64, least: f64) -> bool {
    value.is_nan() || value < least
}

#[cfg(test)]
mod tests {
    use super::*;
    use geb_eval::compare::result::{Speed, WorstBlock};
    use geb_eval::{DeltaP, Kl, Report};

    fn estimate(value: f64, error: f64) -> Estimate {
        Estimate {
            value,
            error: Some(error),
        }
    }

    fn divergence(kl: f64, change: Estimate) -> Divergence {
        let zero = estimate(0.0, 0.0);
        Divergence {
            kl: Kl {
                mean: estimate(kl, kl / 100.0),
                median: zero,
                q90: zero,
                q99: zero,
                q999: zero,
                max: 0.0,
            },
            top1: estimate(0.992, 0.001),
            top5: zero,
            delta_p: DeltaP {
                mean: zero,
                rms: zero,
                q01: zero,
                q05: zero,
                median: zero,
                q95: zero,
                q99: zero,
            },
            perplexity_ratio: Estimate {
                value: 1.0 + change.value,
                ..change
            },
            nll_difference: Estimate {
                value: change.value.ln_1p(),
                ..change
            },
            perplexity_difference: zero,
            kl_by_window: Vec::new(),
            kl_by_position: Vec::new(),
        }
    }

    fn row(name: &str, bytes: u64, kl: f64, change: Estimate, decode: f64) -> Row {
        let spread = |m: f64| Spread {
            median: m,
            low: 0.98 * m,
            high: 1.02 * m,
        };
        Row {
            name: name.into(),
            bytes,
            speed: vec![Speed {
                threads: 2,
                decode: spread(100.0 * decode),
                decode_ratio: spread(decode),
                prefill_ratio: spread(1.01),
                ..Speed::default()
            }],
            texts: vec![Report {
                windows: 20,
                tokens: 5120,
                nll: estimate(1.0, 0.0),
                perplexity: estimate(1f64.exp(), 0.0),
                against_base: (name != "f32").then(|| divergence(kl, change)),
            }],
            ..Row::default()
        }
    }

    fn comparison(rows: Vec<Row>) -> Comparison {
        Comparison {
            version: String::new(),
            title: String::new(),
            command: String::new(),
            date: String::new(),
            machine: Default::default(),
            texts: vec![geb_eval::compare::result::TextInfo {
                name: "t".into(),
                file: "t".into(),
                tokens: 512 * 4000,
                windows: 20,
                window: 512,
                count_from: 256,
            }],
            tasks: Vec::new(),
            speed: None,
            rows,
            order: Vec::new(),
            missed: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn gates() -> GateArgs {
        GateArgs {
            max_block_error: 0.8,
            ..GateArgs::default()
        }
    }

    #[test]
    fn words_follow_from_numbers() {
        let base = row("f32", 3800, 0.0, estimate(0.0, 0.0), 1.0);
        let cases = [
            (0.0001, 0.0005, 0.0003, "not distinguishable from f32"),
            (0.0001, 0.0005, 0.003, "cannot tell yet: "),
            (0.004, -0.005, 0.001, "a small loss"),
            (0.02, 0.0, 0.001, "a moderate loss"),
            (0.2, 0.1, 0.01, "a heavy loss"),
            (2.0, 2.0, 0.1, "broken"),
        ];
        for (kl, value, error, words) in cases {
            let change = estimate(value, error);
            let mut c = comparison(vec![base.clone(), row("q", 1000, kl, change, 3.6)]);
            judge(&mut c, &gates());
            let said = &c.rows[1].verdict;
            assert!(said.contains(&format!(": {words}")), "{said}");
            assert!(said.starts_with("q: decode 3.60× as fast, prefill speed the same within the spread, 3.80× smaller, KL "), "{said}");
            assert!(
                said.contains(", top-1 agreement 99.2 % and perplexity "),
                "{said}"
            );
            assert!(c.order.is_empty());
        }
    }

    #[test]
    fn other_predictions_are_a_loss_though_the_perplexity_stays() {
        let mut q = row("q", 1000, 0.0008, estimate(0.0, 0.0001), 3.6);
        if let Some(d) = &mut q.texts[0].against_base {
            d.top1.value = 0.8;
        }
        let base = row("f32", 3800, 0.0, estimate(0.0, 0.0), 1.0);
        // Of two rows the one with the larger divergence is not better.
        let far = row("far", 900, 0.3, estimate(0.0, 0.001), 3.6);
        let near = row("near", 900, 0.0001, estimate(0.0, 0.0001), 3.6);
        let mut c = comparison(vec![base, far, q, near]);
        judge(&mut c, &gates());
        let ends = [
            "a heavy loss",
            "a moderate loss",
            "not distinguishable from f32",
        ];
        for (row, end) in c.rows[1..].iter().zip(ends) {
            assert!(row.verdict.ends_with(end), "{}", row.verdict);
        }
        assert_eq!(c.order, ["nearest to f32 on t: near < q < far"]);
    }

    #[test]
    fn a_text_that_is_too_short_is_said() {
        let mut c = comparison(vec![
            row("f32", 400, 0.0, estimate(0.0, 0.0), 1.0),
            row("q", 100, 0.0001, estimate(0.0, 0.01), 1.0),
        ]);
        c.texts[0].tokens = 512 * 23;
        judge(&mut c, &gates());
        let said = &c.rows[1].verdict;
        assert!(
            said.ends_with(" more windows needed (the text has 3)"),
            "{said}"
        );
    }

    #[test]
    fn the_front_has_no_row_that_another_beats() {
        let none = estimate(0.0, 0.0);
        let mut c = comparison(vec![
            row("f32", 400, 0.0, none, 1.0),
            row("q8", 100, 0.001, none, 3.0),
            row("bad", 110, 0.002, none, 3.01),
            row("q4", 50, 0.01, none, 5.0),
        ]);
        judge(&mut c, &gates());
        let front: Vec<bool> = c.rows.iter().map(|r| r.pareto).collect();
        assert_eq!(front, [true, true, false, true]);
    }

    #[test]
    fn gates_name_the_row_and_the_number() {
        let mut candidate = row("q4", 50, 0.01, estimate(0.02, 0.001), 1.5);
        candidate.worst_block = Some(WorstBlock {
            tensor: "blk.0.x".into(),
            index: 96,
            error: 1.0,
        });
        let strict = GateArgs {
            max_kld: Some(0.005),
            min_top1: Some(99.5),
            max_ppl_increase: Some(1.0),
            min_speedup: Some(2.0),
            max_block_error: 0.8,
        };
        let count = |candidate: &Row, gates: &GateArgs| {
            let mut c = comparison(vec![
                row("f32", 400, 0.0, estimate(0.0, 0.0), 1.0),
                candidate.clone(),
            ]);
            judge(&mut c, gates);
            c.missed.len()
        };
        assert_eq!(count(&candidate, &strict), 5);
        assert_eq!(count(&candidate, &gates()), 1);
        candidate.worst_block = None;
        assert_eq!(count(&candidate, &gates()), 0);
        candidate.texts[0].against_base = Some(divergence(f64::NAN, estimate(0.0, 0.0)));
        let one = GateArgs {
            max_kld: Some(1.0),
            ..gates()
        };
        assert_eq!(count(&candidate, &one), 1);
    }
}
