//! Multiple choice: the same questions to all rows in lockstep.

use std::path::Path;

use geb::session::Session;
use geb::tokenizer::Tokenizer;
use geb_eval::choice::run::{Record, Solver, run};
use geb_eval::choice::score::Paired;
use geb_eval::choice::{Bank, Format, Selection};

use crate::report::{Failure, Outcome};
use geb_eval::compare::result::TaskScore;

/// Questions and their name.
pub struct Task {
    /// As typed: format and folder.
    pub name: String,
    /// The questions.
    pub bank: Bank,
}

impl Task {
    /// Reads `FORMAT:FOLDER`; at most `limit` questions of a subject.
    pub fn read(typed: &str, limit: Option<usize>) -> Outcome<Task> {
        let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
        let bad = || {
            let allowed = names.join(", ");
            Failure::usage(format!(
                "--choice is {typed}, allowed: FORMAT:FOLDER with a format of {allowed}"
            ))
        };
        let (format, folder) = typed.split_once(':').ok_or_else(bad)?;
        let format = Format::from_name(format).ok_or_else(bad)?;
        let selection = Selection {
            limit,
            ..Selection::default()
        };
        Ok(Task {
            name: typed.to_owned(),
            bank: Bank::read(format, Path::new(folder), &selection)?,
        })
    }

    /// Asks what `done` questions have not been asked; `tokenizers` belong to `sessions`.
    pub fn ask(
        &self,
        sessions: &mut [Session],
        tokenizers: &[&Tokenizer],
        done: usize,
        observe: &mut dyn FnMut(Record) -> bool,
    ) -> geb::Result<()> {
        let pairs = sessions.iter_mut().zip(tokenizers);
        let mut solvers: Vec<Solver<'_>> = pairs
            .map(|(session, tokenizer)| Solver { session, tokenizer })
            .collect();
        run(&mut solvers, &self.bank, done, observe)
    }

    /// The score of a row against the base, row 0.
    pub fn score(&self, records: &[Record], row: usize) -> TaskScore {
        let paired = Paired::of(records, 0, row, self.bank.format.metric());
        let (low, high) = paired.second.wilson95();
        TaskScore {
            questions: paired.second.questions,
            accuracy: paired.second.accuracy(),
            low,
            high,
            lost: paired.lost,
            gained: paired.won,
            moved: paired.moved,
            mcnemar_p: paired.mcnemar_p(),
        }
    }
}
