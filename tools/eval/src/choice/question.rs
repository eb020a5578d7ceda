//! Questions with their answers, and the formats of their files.

use std::path::PathBuf;
use std::sync::Arc;

/// Whose layout the files have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// MMLU (arXiv 2009.03300): 57 subjects in English.
    Mmlu,
    /// C-Eval (arXiv 2305.08322): 52 subjects in Chinese.
    Ceval,
    /// CMMLU (arXiv 2306.09212): 67 subjects in Chinese.
    Cmmlu,
    /// HellaSwag (arXiv 1905.07830): endings of a text.
    Hellaswag,
    /// ARC, easy and challenge (arXiv 1803.05457): answers to school questions.
    Arc,
    /// WinoGrande (arXiv 1907.10641): what a gap stands for.
    Winogrande,
    /// Questions of your own, one JSON object a line.
    Jsonl,
}

/// How an answer is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// By the highest log-likelihood.
    Acc,
    /// By the highest log-likelihood per character.
    AccNorm,
}

impl Metric {
    /// `acc` or `acc_norm`.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
        }
    }
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 7] = [
        Format::Mmlu,
        Format::Ceval,
        Format::Cmmlu,
        Format::Hellaswag,
        Format::Arc,
        Format::Winogrande,
        Format::Jsonl,
    ];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Mmlu => "mmlu",
            Format::Ceval => "ceval",
            Format::Cmmlu => "cmmlu",
            Format::Hellaswag => "hellaswag",
            Format::Arc => "arc",
            Format::Winogrande => "winogrande",
            Format::Jsonl => "jsonl",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Format> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Examples before a question where nothing else is asked for.
    pub fn default_shots(self) -> usize {
        match self {
            Format::Mmlu | Format::Ceval | Format::Cmmlu => 5,
            _ => 0,
        }
    }

    /// The figure usually reported.
    pub fn metric(self) -> Metric {
        match self {
            Format::Hellaswag | Format::Arc | Format::Jsonl => Metric::AccNorm,
            _ => Metric::Acc,
        }
    }

    /// The files a folder of this format has.
    pub fn layout(self) -> &'static str {
        match self {
            Format::Mmlu => "test/SUBJECT_test.csv, examples in dev/SUBJECT_dev.csv",
            Format::Ceval => "val/SUBJECT_val.csv, examples in dev/SUBJECT_dev.csv",
            Format::Cmmlu => "test/SUBJECT.csv, examples in dev/SUBJECT.csv",
            Format::Hellaswag => "hellaswag_val.jsonl, examples in hellaswag_train.jsonl",
            Format::Arc => {
                "ARC-Easy/ARC-Easy-Test.jsonl or ARC-Challenge/ARC-Challenge-Test.jsonl, examples in *-Train.jsonl"
            }
            Format::Winogrande => "dev.jsonl, examples in train_xl.jsonl",
            Format::Jsonl => "SUBJECT.jsonl, examples in dev/SUBJECT.jsonl",
        }
    }
}

/// One possible answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Text before the continuation, without header and examples.
    pub context: Arc<str>,
    /// Text whose likelihood counts.
    pub continuation: String,
    /// Characters by which the log-likelihood is divided for [`Metric::AccNorm`].
    pub length: usize,
}

/// A question with its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Its number in the file, from 0.
    pub index: usize,
    /// At least two.
    pub candidates: Vec<Candidate>,
    /// The right one.
    pub answer: usize,
}

impl Question {
    /// The question with its right answer, as an example for others.
    pub(super) fn solved(&self) -> String {
        let right = &self.candidates[self.answer];
        format!("{}{}\n\n", right.context, right.continuation)
    }

    /// Whether both ask the same: such an example would give the answer away.
    pub(super) fn is_same(&self, other: &Question) -> bool {
        let contexts = |q: &Question| q.candidates.first().map(|c| c.context.clone());
        contexts(self) == contexts(other)
    }
}

/// The files of one subject.
pub(super) struct Source {
    pub name: String,
    pub questions: PathBuf,
    pub examples: Option<PathBuf>,
}
