//! Labels learned from the prompt: examples up to some number of tokens, then a text whose label is
//! chosen by likelihood (LongICLBench, arXiv 2404.02060).
//!
//! ```text
//! prompt = ("text: {text}\nlabel: {label}\n\n") for the first examples + "text: {text}\nlabel:"
//! chosen = argmax over all labels of Σ log p(token of " label")
//! ```
//! The last lines of the file are asked, those before them are the examples, in their order.

use std::path::Path;

use serde::Serialize;

use super::choice::files::DataFile;
use super::choice::run::{Prompt, Solver, highest, likelihood};
use super::choice::score::Score;
use geb::error::{Error, Result};
use geb::tokenizer::{Encode, Tokenizer};

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// From 1.
    pub line: usize,
    /// What is to be labelled.
    pub text: String,
    /// Number of its label.
    pub label: usize,
}

/// What is asked, and with which examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// All labels, in the order of their first lines.
    pub labels: Vec<String>,
    /// Lines for the prompts.
    pub examples: Vec<Labelled>,
    /// Lines that are asked.
    pub questions: Vec<Labelled>,
}

impl Bank {
    /// Reads a JSON-lines file of objects with `text` and `label`; the last `questions` lines, and at
    /// most half of them, are asked.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Data`] with file and line for what has no text or label, and for a
    /// file with fewer than two lines or labels.
    pub fn read(path: &Path, questions: usize) -> Result<Bank> {
        let file = DataFile::read(path.to_owned())?;
        let mut labels: Vec<String> = Vec::new();
        let mut lines = Vec::new();
        for object in file.at_least(2)? {
            let (text, label) = (object.some_text("text")?, object.word("label")?);
            if label.is_empty() {
                return Err(object.bad("field label", "empty", "a text or an integer"));
            }
            let known = labels.iter().position(|l| *l == label);
            let label = known.unwrap_or_else(|| {
                labels.push(label);
                labels.len() - 1
            });
            lines.push(Labelled {
                line: object.line,
                text,
                label,
            });
        }
        if labels.len() < 2 {
            return Err(file.bad(1, "number of labels", "1", "at least 2"));
        }
        let questions = lines.split_off(lines.len() - questions.clamp(1, lines.len() / 2));
        Ok(Bank {
            labels,
            examples: lines,
            questions,
        })
    }

    /// Examples that fit without a question, each taken alone.
    fn fitting(&self, tokenizer: &Tokenizer, length: usize) -> Result<usize> {
        let mut tokens = 0;
        for (i, example) in self.examples.iter().enumerate() {
            let text = solved(example, &self.labels);
            tokens += tokenizer.encode(&text, Encode::default())?.len();
            if tokens > length {
                return Ok(i);
            }
        }
        Ok(self.examples.len())
    }

    fn before(&self, examples: usize) -> String {
        let examples = self.examples[..examples].iter();
        examples.map(|e| solved(e, &self.labels)).collect()
    }
}

fn asked(line: &Labelled) -> String {
    format!("text: {}\nlabel:", line.text)
}

fn solved(line: &Labelled, labels: &[String]) -> String {
    format!("{} {}\n\n", asked(line), labels[line.label])
}

/// What a model said to one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Tokens allowed.
    pub length: usize,
    /// Tokens of the longest prompt, label included.
    pub tokens: usize,
    /// Examples before the question.
    pub examples: usize,
    /// Line of the file, from 1.
    pub line: usize,
    /// Number of the right label.
    pub label: usize,
    /// Number of the chosen one.
    pub chosen: usize,
    /// Log-likelihood of each label, nats.
    pub log_probs: Vec<f64>,
}

/// Asks every question with prompts of each length, in increasing order. `observe` is given each record;
/// its `false` ends with [`Error::Interrupted`].
///
/// # Errors
/// [`Error::Request`] for a length beyond the context, or one that a question exceeds without
/// examples; and those of [`Session::forward`](geb::session::Session::forward).
pub fn run(
    solver: &mut Solver<'_>,
    bank: &Bank,
    lengths: &[usize],
    observe: &mut dyn FnMut(Record) -> bool,
) -> Result<()> {
    solver.session.reset();
    for &length in lengths {
        let ctx = solver.session.ctx();
        if length > ctx {
            return Err(refused(length, format!("at most {ctx}, the context")));
        }
        let fitting = bank.fitting(solver.tokenizer, length)?;
        for question in &bank.questions {
            let record = ask(solver, bank, question, length, fitting)?;
            if !observe(record) {
                return Err(Error::Interrupted);
            }
        }
    }
    Ok(())
}

fn refused(length: usize, allowed: String) -> Error {
    Error::Request {
        what: "length".into(),
        value: length.to_string(),
        allowed,
    }
}

/// One question, with as many of the first `most` examples as fit.
fn ask(
    solver: &mut Solver<'_>,
    bank: &Bank,
    question: &Labelled,
    length: usize,
    most: usize,
) -> Result<Record> {
    let longest = |prompts: &[Prompt]| prompts.iter().map(|p| p.ids.len()).max().unwrap_or(0);
    let mut examples = most;
    let (prompts, tokens) = loop {
        let context = bank.before(examples) + &asked(question);
        let prompt = |label: &String| Prompt::new(solver.tokenizer, &context, &format!(" {label}"));
        let prompts = bank.labels.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let tokens = longest(&prompts);
        if tokens <= length {
            break (prompts, tokens);
        }
        let allowed = || {
            format!(
                "at least {tokens}, the text of line {} alone",
                question.line
            )
        };
        examples = examples
            .checked_sub(1)
            .ok_or_else(|| refused(length, allowed()))?;
    };
    let log_probs = prompts.iter().map(|p| likelihood(solver.session, p));
    let log_probs = log_probs.collect::<Result<Vec<_>>>()?;
    Ok(Record {
        length,
        tokens,
        examples,
        line: question.line,
        label: question.label,
        chosen: highest(log_probs.iter().copied()),
        log_probs,
    })
}

/// Right labels at one length.
pub fn score(records: &[Record], length: usize) -> Score {
    let records = records.iter().filter(|r| r.length == length);
    records.map(|r| r.chosen == r.label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_asked_and_lengths_counted_apart() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("labels.jsonl");
        let line = |i: usize| format!("{{\"text\": \"t{i}\", \"label\": \"l{}\"}}\n", i % 2);
        std::fs::write(&path, (0..5).map(line).collect::<String>()).expect("a file");
        let bank = Bank::read(&path, 9).expect("five lines");
        assert_eq!(bank.labels, ["l0", "l1"]);
        assert_eq!((bank.examples.len(), bank.questions.len()), (3, 2));
        assert_eq!(bank.questions[0].line, 4);
        let want = "text: t0\nlabel: l0\n\ntext: t1\nlabel: l1\n\n";
        assert_eq!(bank.before(2), want);
        let record = |length, chosen| Record {
            length,
            tokens: 9,
            examples: 1,
            line: 4,
            label: 1,
            chosen,
            log_probs: Vec::new(),
        };
        let records = [record(8, 1), record(8, 0), record(16, 1)];
        assert_eq!(score(&records, 8).accuracy(), 0.5);
        assert_eq!(score(&records, 16).questions, 1);
    }
}
