//! Multiple choice: MMLU, C-Eval, CMMLU, HellaSwag, ARC, WinoGrande, and questions of your own, read
//! from the files these data sets are published as, with their usual prompts.
//!
//! A question is a list of candidates: a context and a continuation whose log-likelihood is taken.
//! For letters the contexts are equal and the continuations are the letters; for endings they are
//! the endings; for WinoGrande the contexts differ and the continuation is one.
//!
//! ```text
//! prompt    = header of the subject + examples + context
//! log_probs = Σ log p(token | everything before), over the tokens of the continuation
//! chosen    = argmax log_probs                    -> acc
//! by length = argmax log_probs / characters       -> acc_norm
//! ```
//! [`read`](Bank::read) gives the questions, [`run`](run::run) answers them with several models at a
//! time, [`score`] counts.

pub(crate) mod csv;
mod endings;
pub(crate) mod files;
mod letters;
pub mod published;
mod question;
pub mod run;
pub mod score;
mod subjects;

use std::path::Path;

use geb::error::{Error, Result};

use question::Source;
pub use question::{Candidate, Format, Metric, Question};

/// Questions that share their examples.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Name, from the file.
    pub name: String,
    /// What stands before the examples.
    pub header: String,
    /// Solved questions.
    pub examples: Vec<Question>,
    /// Those to be answered.
    pub questions: Vec<Question>,
}

/// What to take of a data set.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Examples before a question; `None`: [`Format::default_shots`].
    pub shots: Option<usize>,
    /// Only subjects that match this, with `*` and `?`.
    pub subjects: Option<String>,
    /// At most so many questions of a subject.
    pub limit: Option<usize>,
}

/// The questions of a data set.
#[derive(Clone, Debug)]
pub struct Bank {
    /// Where they are from.
    pub format: Format,
    /// Examples before a question.
    pub shots: usize,
    /// In the order of their names.
    pub subjects: Vec<Subject>,
}

impl Bank {
    /// Reads the questions of a folder.
    ///
    /// # Errors
    /// [`Error::Request`] for a folder without the files of the format or a pattern that fits no
    /// subject, [`Error::Data`] with file and line for what cannot be a question.
    pub fn read(format: Format, dir: &Path, selection: &Selection) -> Result<Bank> {
        let shots = selection.shots.unwrap_or(format.default_shots());
        let sources = match format {
            Format::Mmlu | Format::Ceval | Format::Cmmlu => letters::sources(format, dir)?,
            Format::Jsonl => endings::own_sources(dir)?,
            _ => endings::sources(format, dir),
        };
        if sources.is_empty() {
            return Err(no_files(format, dir));
        }
        let pattern = selection.subjects.as_deref().unwrap_or("*");
        let names: Vec<String> = sources.iter().map(|s| s.name.clone()).collect();
        let chosen = sources
            .into_iter()
            .filter(|s| files::matches(pattern, &s.name));
        let limit = selection.limit.unwrap_or(usize::MAX);
        let subjects = chosen.map(|s| s.read(format, shots, limit));
        let subjects = subjects.collect::<Result<Vec<_>>>()?;
        if subjects.is_empty() {
            return Err(Error::Request {
                what: "pattern of subjects".into(),
                value: pattern.into(),
                allowed: format!("one that fits some of {}", names.join(", ")),
            });
        }
        Ok(Bank {
            format,
            shots,
            subjects,
        })
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.subjects.iter().map(|s| s.questions.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Source {
    fn read(self, format: Format, shots: usize, limit: usize) -> Result<Subject> {
        let questions = one_file(format, self.questions, limit)?;
        // One more than needed, because the question itself is no example.
        let examples = match (shots, self.examples) {
            (0, _) => Vec::new(),
            (_, Some(path)) if path.is_file() => one_file(format, path, shots.saturating_add(1))?,
            _ => {
                return Err(Error::Request {
                    what: format!("number of examples for {}", self.name),
                    value: shots.to_string(),
                    allowed: format!("0, because there are none; expected: {}", format.layout()),
                });
            }
        };
        Ok(Subject {
            header: match format {
                Format::Mmlu | Format::Ceval | Format::Cmmlu => letters::header(format, &self.name),
                _ => String::new(),
            },
            name: self.name,
            examples,
            questions,
        })
    }
}

/// The first `limit` questions of a file.
fn one_file(format: Format, path: std::path::PathBuf, limit: usize) -> Result<Vec<Question>> {
    let file = files::DataFile::read(path)?;
    let mut questions = match format {
        Format::Mmlu | Format::Ceval | Format::Cmmlu => letters::questions(format, &file)?,
        _ => endings::questions(format, &file)?,
    };
    if questions.is_empty() {
        return Err(file.bad(1, "number of questions", "0", "at least 1"));
    }
    questions.truncate(limit);
    Ok(questions)
}

/// Says what is expected, and what was found instead where that is a likely mistake.
fn no_files(format: Format, dir: &Path) -> Error {
    let mut names = Vec::new();
    let inside = |d: &Path| std::fs::read_dir(d).into_iter().flatten().flatten();
    for entry in inside(dir) {
        names.push(entry.path());
        names.extend(inside(&entry.path()).map(|e| e.path()));
    }
    let parquet = names
        .iter()
        .any(|p| p.extension().is_some_and(|e| e == "parquet"));
    let value = match (dir.is_dir(), parquet) {
        (false, _) => "no folder",
        (_, true) => "a folder of Parquet files, which are not read (export them)",
        _ if names.is_empty() => "an empty folder",
        _ => "a folder without such files",
    };
    Error::Request {
        what: format!("{} data {}", format.name(), dir.display()),
        value: value.into(),
        allowed: format.layout().into(),
    }
}
