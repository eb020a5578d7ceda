//! Questions answered by a letter: MMLU, C-Eval, CMMLU.

use std::path::Path;
use std::sync::Arc;

use super::files::{self, DataFile};
use super::question::{Candidate, Format, Question, Source};
use super::subjects;
use geb::error::Result;

/// How a data set is laid out and asked.
struct Layout {
    /// Folder and end of the file names of the questions.
    questions: (&'static str, &'static str),
    /// The same of the examples.
    examples: (&'static str, &'static str),
    /// Question, the four answers, the letter of the right one; without header where `None`.
    columns: Option<[&'static str; 6]>,
    style: Style,
}

/// Texts around a question.
pub(super) struct Style {
    before: &'static str,
    after: &'static str,
    /// What stands before the letter.
    space: &'static str,
}

/// The style of MMLU.
pub(super) const ENGLISH: Style = Style {
    before: "",
    after: "\nAnswer:",
    space: " ",
};

const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

fn layout(format: Format) -> Layout {
    match format {
        Format::Ceval => Layout {
            questions: ("val", "_val.csv"),
            examples: ("dev", "_dev.csv"),
            columns: Some(COLUMNS),
            style: Style {
                before: "",
                after: "\n答案：",
                space: "",
            },
        },
        Format::Cmmlu => Layout {
            questions: ("test", ".csv"),
            examples: ("dev", ".csv"),
            columns: Some(COLUMNS),
            style: Style {
                before: "题目：",
                after: "\n答案是：",
                space: "",
            },
        },
        _ => Layout {
            questions: ("test", "_test.csv"),
            examples: ("dev", "_dev.csv"),
            columns: None,
            style: ENGLISH,
        },
    }
}

/// What stands before the examples of a subject.
pub(super) fn header(format: Format, name: &str) -> String {
    let plain = name.replace('_', " ");
    match format {
        Format::Ceval => {
            let name = subjects::ceval(name).unwrap_or(&plain);
            format!("以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n")
        }
        Format::Cmmlu => {
            let name = subjects::cmmlu(name).unwrap_or(&plain);
            format!("以下是关于{name}的单项选择题，请直接给出正确答案的选项。\n\n")
        }
        _ => {
            format!("The following are multiple choice questions (with answers) about {plain}.\n\n")
        }
    }
}

/// The subjects of a folder.
pub(super) fn sources(format: Format, dir: &Path) -> Result<Vec<Source>> {
    let layout = layout(format);
    let (folder, suffix) = layout.questions;
    let found = files::ending_with(&dir.join(folder), suffix)?;
    let (folder, suffix) = layout.examples;
    let examples = |name: &str| dir.join(folder).join(format!("{name}{suffix}"));
    Ok(found
        .into_iter()
        .map(|(name, questions)| Source {
            examples: Some(examples(&name)),
            name,
            questions,
        })
        .collect())
}

/// The questions of a file.
pub(super) fn questions(format: Format, file: &DataFile) -> Result<Vec<Question>> {
    let layout = layout(format);
    let rows = match layout.columns {
        Some(names) => file.columns(names)?,
        // The authors' files have no header; those that others export do.
        None if file.has_header(COLUMNS)? => file.columns(COLUMNS)?,
        None => without_header(file)?,
    };
    let ask = |(index, (line, [question, a, b, c, d, letter])): (usize, (usize, [String; 6]))| {
        let letter = letter.trim();
        let answer = ["A", "B", "C", "D"].iter().position(|l| *l == letter);
        let answer = answer.ok_or_else(|| file.bad(line, "answer", letter, "A, B, C or D"))?;
        let candidates = candidates(&layout.style, &question, &[a, b, c, d]);
        Ok(Question {
            index,
            candidates,
            answer,
        })
    };
    rows.into_iter().enumerate().map(ask).collect()
}

/// Rows of exactly six fields.
fn without_header(file: &DataFile) -> Result<Vec<(usize, [String; 6])>> {
    let six = |row: super::csv::Row| {
        let fields = <[String; 6]>::try_from(row.fields);
        fields.map(|f| (row.line, f)).map_err(|fields| {
            let value = format!("{} fields", fields.len());
            file.bad(row.line, "row", &value, "6: question, A, B, C, D, answer")
        })
    };
    file.rows()?.into_iter().map(six).collect()
}

/// The letters as candidates behind a question with its answers.
pub(super) fn candidates(style: &Style, question: &str, answers: &[String]) -> Vec<Candidate> {
    let letters = || ('A'..='Z').zip(answers);
    let mut text = format!("{}{}", style.before, question.trim());
    for (letter, answer) in letters() {
        text.push_str(&format!("\n{letter}. {answer}"));
    }
    text.push_str(style.after);
    let context: Arc<str> = text.into();
    letters()
        .map(|(letter, _)| Candidate {
            context: context.clone(),
            continuation: format!("{}{letter}", style.space),
            length: 1,
        })
        .collect()
}
