//! `geb-run eval choice`: multiple choice from local data sets.

use std::time::{Duration, Instant};

use geb_eval::choice::published::published;
use geb_eval::choice::run::{Record, Solver, run as answer};
use geb_eval::choice::score::{Score, Summary};
use geb_eval::choice::{Bank, Format, Metric, Selection};
use serde_json::{Value, json};

use crate::args::ChoiceArgs;
use crate::interrupt::Interrupt;
use crate::load;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, note, out, out_line, raw, seconds, table};

/// What was measured, with what it was measured on.
struct Run {
    bank: Bank,
    /// `general.name` of the file, else the name of the file.
    model: String,
    dtype: &'static str,
    records: Vec<Record>,
    time: Duration,
}

/// Runs the command.
pub fn run(args: &ChoiceArgs, interrupt: &Interrupt) -> Outcome {
    let selection = Selection {
        shots: args.shots,
        subjects: args.subjects.clone(),
        limit: args.limit,
    };
    let bank = Bank::read(args.format, &args.dir, &selection)?;
    let run = measure(args, bank, interrupt)?;
    if run.records.iter().all(|r| r.verdicts.is_empty()) {
        return Err(
            Failure::usage("no question fits the context, not even without examples")
                .hint("raise it with --ctx, if the model was trained for more"),
        );
    }
    if args.json {
        return out_line(&run.json().to_string());
    }
    if args.csv {
        return raw(&run.csv());
    }
    run.notes();
    out(&run.text())
}

fn measure(args: &ChoiceArgs, bank: Bank, interrupt: &Interrupt) -> Outcome<Run> {
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let mut loaded = load::load(opened, &args.cpu, interrupt, Instant::now())?;
    load::one_text(loaded.session.model(), &loaded.opened.path)?;
    let (file, path) = (&loaded.opened.file, &loaded.opened.path);
    let file_name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = file.str("general.name").ok().flatten();
    let model = name.map_or(file_name.into_owned(), str::to_owned);
    let dtype = load::main_type(file);
    let mut progress = Progress::new(args.format.name(), "questions", &args.output);
    let (mut records, total) = (Vec::new(), bank.len());
    let mut observe = |record| {
        records.push(record);
        progress.update(records.len(), total);
        !interrupt.pressed()
    };
    let mut solvers = [Solver {
        session: &mut loaded.session,
        tokenizer: &tokenizer,
    }];
    let started = Instant::now();
    let done = interrupt.during(|| answer(&mut solvers, &bank, 0, &mut observe));
    done.map_err(|e| load::at(path, e))?;
    drop(progress);
    Ok(Run {
        model,
        dtype,
        bank,
        records,
        time: started.elapsed(),
    })
}

impl Run {
    /// The figures of this data set: the likelihood alone, and by length where that differs.
    fn metrics(&self) -> &'static [Metric] {
        match self.bank.format {
            Format::Hellaswag | Format::Arc | Format::Jsonl => &[Metric::Acc, Metric::AccNorm],
            _ => &[Metric::Acc],
        }
    }

    fn summaries(&self) -> Vec<Summary> {
        let metrics = self.metrics().iter();
        metrics.map(|m| Summary::of(&self.records, 0, *m)).collect()
    }

    /// Fewest and most examples before a question.
    fn shots(&self) -> (usize, usize) {
        let answered = self.records.iter().filter(|r| !r.verdicts.is_empty());
        let shots = || answered.clone().map(|r| r.shots);
        (shots().min().unwrap_or(0), shots().max().unwrap_or(0))
    }

    /// What was not as asked for.
    fn notes(&self) {
        let summary = Summary::of(&self.records, 0, Metric::Acc);
        let questions = |n: u64| format!("{n} question{}", if n == 1 { "" } else { "s" });
        if summary.shortened > 0 {
            let n = questions(summary.shortened);
            note(format_args!(
                "note: {n} had fewer examples, to fit the context"
            ));
        }
        if summary.skipped > 0 {
            let n = questions(summary.skipped);
            note(format_args!("note: {n} left out: too long for the context"));
        }
    }

    fn text(&self) -> String {
        let (least, most) = self.shots();
        let shots = match (least, most) {
            (1, 1) => "1 example".into(),
            (a, b) if a == b => format!("{a} examples"),
            (a, b) => format!("{a} to {b} examples"),
        };
        let (format, time) = (self.bank.format.name(), seconds(self.time));
        let total = self.records.len();
        let mut text = format!(
            "{format}, {shots}, {} ({}), {total} questions in {time}\n\n",
            self.model, self.dtype
        );
        text.push_str(&self.table());
        let choices = self.bank.subjects.iter().flat_map(|s| &s.questions);
        let chance: f64 = choices.map(|q| 1.0 / q.candidates.len() as f64).sum();
        text.push_str(&format!(
            "\nby chance  {:.1} %\n",
            100.0 * chance / total as f64
        ));
        if let Some(p) = published(self.bank.format, &self.model) {
            let (accuracy, model, source) = (p.accuracy, p.model, p.source);
            text.push_str(&format!(
                "published  {accuracy:.2} % for {model} ({source})\n"
            ));
        }
        text
    }

    fn table(&self) -> String {
        let summaries = self.summaries();
        let mut head = vec!["subject".to_owned(), "questions".into()];
        for metric in self.metrics() {
            head.extend([format!("{} %", metric.name()), "±".into()]);
        }
        head.push("95 % interval".into());
        let mut rows = vec![head];
        let percent = |x: f64| format!("{:.1}", 100.0 * x);
        let score = |scores: Vec<&Score>| {
            let mut cells = vec![scores[0].questions.to_string()];
            for s in &scores {
                cells.extend([percent(s.accuracy()), percent(s.standard_error())]);
            }
            let (low, high) = scores[scores.len() - 1].wilson95();
            cells.push(format!("{} to {}", percent(low), percent(high)));
            cells
        };
        for (i, (name, _)) in summaries[0].subjects.iter().enumerate() {
            let cells = score(summaries.iter().map(|s| &s.subjects[i].1).collect());
            rows.push([vec![name.clone()], cells].concat());
        }
        if summaries[0].subjects.len() > 1 {
            let cells = score(summaries.iter().map(|s| &s.total).collect());
            rows.push(Vec::new());
            rows.push([vec!["mean over questions".into()], cells].concat());
            let mut last = vec!["mean over subjects".into(), String::new()];
            for s in &summaries {
                last.extend([percent(s.subject_mean()), percent(s.subject_mean_error())]);
            }
            rows.push(last);
        }
        table(&rows)
    }

    fn json(&self) -> Value {
        let (least, most) = self.shots();
        let summaries = self.summaries();
        let subjects = summaries[0]
            .subjects
            .iter()
            .enumerate()
            .map(|(i, (name, _))| {
                let mut subject = json!({ "subject": name });
                for (metric, summary) in self.metrics().iter().zip(&summaries) {
                    subject[metric.name()] = score_json(&summary.subjects[i].1);
                }
                subject
            });
        let mut value = json!({
            "format": self.bank.format.name(),
            "model": self.model,
            "type": self.dtype,
            "shots": { "asked": self.bank.shots, "least": least, "most": most },
            "metric": self.bank.format.metric().name(),
            "seconds": self.time.as_secs_f64(),
            "skipped": summaries[0].skipped,
            "shortened": summaries[0].shortened,
        });
        for (metric, summary) in self.metrics().iter().zip(&summaries) {
            let mut all = score_json(&summary.total);
            all["subject_mean"] = summary.subject_mean().into();
            all["subject_mean_error"] = summary.subject_mean_error().into();
            value[metric.name()] = all;
        }
        value["subjects"] = subjects.collect();
        if let Some(p) = published(self.bank.format, &self.model) {
            let (model, source, accuracy) = (p.model, p.source, p.accuracy);
            value["published"] =
                json!({ "model": model, "accuracy": accuracy / 100.0, "source": source });
        }
        let records = self.records.iter().map(|r| {
            let verdict = r.verdicts.first();
            json!({
                "subject": r.subject,
                "index": r.index,
                "answer": r.answer,
                "shots": r.shots,
                "chosen": verdict.map(|v| v.chosen),
                "chosen_norm": verdict.map(|v| v.chosen_norm),
                "log_probs": verdict.map(|v| &v.log_probs),
            })
        });
        value["records"] = records.collect();
        value
    }

    /// One line per question; the log-probabilities come last, because their number varies.
    fn csv(&self) -> String {
        let mut text = String::from("subject,index,shots,answer,chosen,chosen_norm,log_probs\n");
        for r in &self.records {
            let (subject, index, shots, answer) = (&r.subject, r.index, r.shots, r.answer);
            text.push_str(&format!("{},{index},{shots},{answer}", quoted(subject)));
            match r.verdicts.first() {
                Some(v) => {
                    text.push_str(&format!(",{},{}", v.chosen, v.chosen_norm));
                    for log_prob in &v.log_probs {
                        text.push_str(&format!(",{log_prob:.6}"));
                    }
                }
                None => text.push_str(",,,"),
            }
            text.push('\n');
        }
        text
    }
}

/// A score as a JSON object.
pub fn score_json(score: &Score) -> Value {
    let (low, high) = score.wilson95();
    json!({
        "questions": score.questions,
        "correct": score.correct,
        "accuracy": score.accuracy(),
        "standard_error": score.standard_error(),
        "wilson95": [low, high],
    })
}

/// A field of a CSV line.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
