//! What a model knows against what its prompt says (ClashEval, arXiv 2404.10198).
//!
//! ```text
//! prior    = "Question: ...\nAnswer:"
//! context  = context + "\n\n" + prior
//! changed  = changed_context + "\n\n" + prior
//! log_probs of " answer" and " changed_answer" behind each of them
//! ```

use std::path::Path;

use serde::Serialize;

use super::choice::files::DataFile;
use super::choice::run::{Prompt, Solver, highest, likelihood};
use super::choice::score::Score;
use geb::error::{Error, Result};

/// A question with two texts that answer it differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is asked.
    pub question: String,
    /// The right answer, then the changed one.
    pub answers: [String; 2],
    /// The text of the right answer, then the changed one.
    pub contexts: [String; 2],
}

/// Reads a JSON-lines file with the texts `question`, `answer`, `context`, `changed_answer` and
/// `changed_context`.
///
/// # Errors
/// [`Error::Io`], and [`Error::Data`] with file and line for what is no question.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    let file = DataFile::read(path.to_owned())?;
    let objects = file.at_least(1)?;
    let question = |o: &super::choice::files::Object<'_>| {
        let answers = [o.some_text("answer")?, o.some_text("changed_answer")?];
        if answers[0] == answers[1] {
            let allowed = "another text than field answer";
            return Err(o.bad("field changed_answer", &answers[1], allowed));
        }
        Ok(Question {
            line: o.line,
            question: o.some_text("question")?,
            contexts: [o.some_text("context")?, o.some_text("changed_context")?],
            answers,
        })
    };
    objects.iter().map(question).collect()
}

/// What a model said to one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Line of the file, from 1.
    pub line: usize,
    /// Log-likelihoods of the right and the changed answer without a context, nats.
    pub prior: [f64; 2],
    /// Those behind the context.
    pub context: [f64; 2],
    /// Those behind the changed context.
    pub changed: [f64; 2],
}

/// Whether the right answer is the more probable one; the right one of equals.
pub fn right(log_probs: [f64; 2]) -> bool {
    highest(log_probs.into_iter()) == 0
}

/// Asks all questions. `observe` is given each record, or `None` for a question whose prompts do not
/// fit the context; its `false` ends with [`Error::Interrupted`].
///
/// # Errors
/// Those of [`Session::forward`](geb::session::Session::forward).
pub fn run(
    solver: &mut Solver<'_>,
    questions: &[Question],
    observe: &mut dyn FnMut(Option<Record>) -> bool,
) -> Result<()> {
    solver.session.reset();
    for question in questions {
        if !observe(ask(solver, question)?) {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

fn ask(solver: &mut Solver<'_>, question: &Question) -> Result<Option<Record>> {
    let asked = format!("Question: {}\nAnswer:", question.question);
    let [right, changed] = &question.contexts;
    let texts = [
        asked.clone(),
        format!("{right}\n\n{asked}"),
        format!("{changed}\n\n{asked}"),
    ];
    let mut prompts = Vec::new();
    for text in &texts {
        for answer in &question.answers {
            prompts.push(Prompt::new(solver.tokenizer, text, &format!(" {answer}"))?);
        }
    }
    let ctx = solver.session.ctx();
    if prompts.iter().any(|p| p.inputs().len() > ctx) {
        return Ok(None);
    }
    let mut said = [[0.0; 2]; 3];
    for (said, prompt) in said.as_flattened_mut().iter_mut().zip(&prompts) {
        *said = likelihood(solver.session, prompt)?;
    }
    let [prior, context, changed] = said;
    Ok(Some(Record {
        line: question.line,
        prior,
        context,
        changed,
    }))
}

/// How often which answer won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Right without a context.
    pub prior: Score,
    /// Right with the context.
    pub context: Score,
    /// Right with the changed context.
    pub changed: Score,
    /// Changed context followed, of all questions.
    pub followed: Score,
    /// Changed context followed, of questions that were right without a context.
    pub misled: Score,
    /// Right answer kept against the changed context, of the same questions.
    pub kept: Score,
    /// Right context followed, of questions that were wrong without one.
    pub corrected: Score,
}

impl Summary {
    /// Counts the records.
    pub fn of(records: &[Record]) -> Summary {
        let score = |asked: fn(&Record) -> bool, won: fn(&Record) -> bool| {
            records.iter().filter(|r| asked(r)).map(won).collect()
        };
        Summary {
            prior: score(|_| true, |r| right(r.prior)),
            context: score(|_| true, |r| right(r.context)),
            changed: score(|_| true, |r| right(r.changed)),
            followed: score(|_| true, |r| !right(r.changed)),
            misled: score(|r| right(r.prior), |r| !right(r.changed)),
            kept: score(|r| right(r.prior), |r| right(r.changed)),
            corrected: score(|r| !right(r.prior), |r| right(r.context)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_what_was_known() {
        let (yes, no) = ([-1.0, -2.0], [-2.0, -1.0]);
        let record = |prior, context, changed| Record {
            line: 1,
            prior,
            context,
            changed,
        };
        let records = [
            record(yes, yes, no),
            record(yes, yes, yes),
            record(yes, yes, no),
            record(no, yes, no),
            record(no, no, yes),
        ];
        let s = Summary::of(&records);
        let counts = |s: Score| (s.correct, s.questions);
        assert_eq!(counts(s.prior), (3, 5));
        assert_eq!(counts(s.context), (4, 5));
        assert_eq!((counts(s.changed), counts(s.followed)), ((2, 5), (3, 5)));
        assert_eq!((counts(s.misled), counts(s.kept)), ((2, 3), (1, 3)));
        assert_eq!(counts(s.corrected), (1, 2));
        assert!(right([-1.0, -1.0]));
    }
}
