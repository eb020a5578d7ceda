//! Answering: several models in lockstep, each question prefilled once per model.
//!
//! Consecutive prompts of a subject begin alike (header and examples), the candidates of a question
//! even more so: what a session already holds of a prompt is kept, the rest is one batch. Results
//! do not depend on that (docs/architecture.md, invariant 8).

use serde::{Deserialize, Serialize};

use super::{Bank, Candidate, Metric, Question, Subject};
use geb::error::{Error, Result};
use geb::logits::log_sum;
use geb::session::{Session, Want};
use geb::tokenizer::{Encode, Tokenizer};

/// A model that answers.
pub struct Solver<'a> {
    /// Its state; whatever it holds is given up.
    pub session: &'a mut Session,
    /// Its vocabulary.
    pub tokenizer: &'a Tokenizer,
}

/// What the models said to one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the subject.
    pub subject: String,
    /// Number of the question in its file, from 0.
    pub index: usize,
    /// The right answer, from 0.
    pub answer: usize,
    /// Examples that stood before it.
    pub shots: usize,
    /// Fewer examples than asked for, because more did not fit the context of some model.
    pub shortened: bool,
    /// One for each model, in their order; none when the question did not fit even alone.
    pub verdicts: Vec<Verdict>,
}

/// What one model said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Log-likelihood of each answer, nats.
    pub log_probs: Vec<f64>,
    /// The answer of the highest one; the first of equals.
    pub chosen: usize,
    /// The answer of the highest one per character.
    pub chosen_norm: usize,
}

impl Verdict {
    /// The answer by this metric.
    pub fn chosen_by(&self, metric: Metric) -> usize {
        match metric {
            Metric::Acc => self.chosen,
            Metric::AccNorm => self.chosen_norm,
        }
    }

    fn new(log_probs: Vec<f64>, candidates: &[Candidate]) -> Verdict {
        let per_character = log_probs.iter().zip(candidates);
        let per_character = per_character.map(|(l, c)| l / c.length.max(1) as f64);
        Verdict {
            chosen: highest(log_probs.iter().copied()),
            chosen_norm: highest(per_character),
            log_probs,
        }
    }
}

pub(crate) fn highest(values: impl Iterator<Item = f64>) -> usize {
    let better = |best: (usize, f64), x: (usize, f64)| if x.1 > best.1 { x } else { best };
    let start = (0, f64::NEG_INFINITY);
    values.enumerate().fold(start, better).0
}

/// Answers the questions of `bank` but the first `done`, in their order, with every solver.
///
/// `observe` is given each record; its `false` ends with [`Error::Interrupted`]. A question whose
/// prompt exceeds the context of a solver loses its last examples one by one, for all solvers
/// alike; one that does not fit even without gets no verdicts.
///
/// # Errors
/// [`Error::Request`] for an answer that adds no token to its question, and those of
/// [`Session::forward`].
pub fn run(
    solvers: &mut [Solver<'_>],
    bank: &Bank,
    done: usize,
    observe: &mut dyn FnMut(Record) -> bool,
) -> Result<()> {
    solvers.iter_mut().for_each(|s| s.session.reset());
    let questions = bank
        .subjects
        .iter()
        .flat_map(|s| s.questions.iter().map(move |q| (s, q)));
    for (subject, question) in questions.skip(done) {
        if !observe(answer(solvers, bank, subject, question)?) {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// One question.
fn answer(
    solvers: &mut [Solver<'_>],
    bank: &Bank,
    subject: &Subject,
    question: &Question,
) -> Result<Record> {
    let examples = subject.examples.iter().filter(|e| !e.is_same(question));
    let examples: Vec<String> = examples.take(bank.shots).map(Question::solved).collect();
    let mut record = Record {
        subject: subject.name.clone(),
        index: question.index,
        answer: question.answer,
        shots: 0,
        shortened: false,
        verdicts: Vec::new(),
    };
    for shots in (0..=examples.len()).rev() {
        let before = format!("{}{}", subject.header, examples[..shots].concat());
        let prompts = solvers.iter().map(|s| s.prompts(&before, question));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let fits = |(s, p): (&Solver<'_>, &Vec<Prompt>)| {
            p.iter().all(|p| p.inputs().len() <= s.session.ctx())
        };
        if solvers.iter().zip(&prompts).all(fits) {
            record.shots = shots;
            record.shortened = shots < examples.len();
            for (solver, prompts) in solvers.iter_mut().zip(&prompts) {
                let log_probs = prompts.iter().map(|p| likelihood(solver.session, p));
                let log_probs = log_probs.collect::<Result<_>>()?;
                let verdict = Verdict::new(log_probs, &question.candidates);
                record.verdicts.push(verdict);
            }
            break;
        }
    }
    Ok(record)
}

/// Tokens of a prompt with a continuation.
pub(crate) struct Prompt {
    /// All of them, `[tokens]`.
    pub ids: Vec<u32>,
    /// Where the continuation begins; at least 1.
    pub from: usize,
}

impl Prompt {
    /// `context` and `continuation` as one text. The continuation begins where the tokens differ
    /// from those of the context alone.
    ///
    /// # Errors
    /// [`Error::Request`] when the continuation adds no token.
    pub fn new(tokenizer: &Tokenizer, context: &str, continuation: &str) -> Result<Prompt> {
        let alone = ids(tokenizer, context)?;
        let ids = ids(tokenizer, &format!("{context}{continuation}"))?;
        let same = ids.iter().zip(&alone).take_while(|(a, b)| a == b).count();
        let from = same.max(1);
        if from >= ids.len() {
            return Err(Error::Request {
                what: "answer".into(),
                value: format!("{continuation:?}, which adds no token"),
                allowed: "a text of at least one token".into(),
            });
        }
        Ok(Prompt { ids, from })
    }

    /// The tokens a model has to see: all but the last.
    pub fn inputs(&self) -> &[u32] {
        &self.ids[..self.ids.len() - 1]
    }

    /// The tokens whose likelihood counts.
    pub fn targets(&self) -> &[u32] {
        &self.ids[self.from..]
    }
}

/// Ids of a text at the start of a context; texts of control tokens are ordinary text.
pub(crate) fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids: Vec<u32> = tokenizer
        .bos()
        .filter(|_| tokenizer.add_bos())
        .into_iter()
        .collect();
    ids.extend(tokenizer.encode(text, Encode::default())?);
    Ok(ids)
}

impl Solver<'_> {
    /// One for each candidate.
    fn prompts(&self, before: &str, question: &Question) -> Result<Vec<Prompt>> {
        let prompt = |c: &Candidate| {
            let context = format!("{before}{}", c.context);
            Prompt::new(self.tokenizer, &context, &c.continuation)
        };
        question.candidates.iter().map(prompt).collect()
    }
}

/// Log-likelihood of the continuation of `prompt`, nats. What the session holds of the prompt
/// already is not evaluated again.
pub(crate) fn likelihood(session: &mut Session, prompt: &Prompt) -> Result<f64> {
    let (kernels, targets) = (session.kernels(), prompt.targets());
    let logits = targets_logits(session, prompt)?;
    let rows = logits.chunks_exact(logits.len() / targets.len());
    let log_probs = rows.zip(targets).map(|(row, target)| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(row[*target as usize]) - log_sum(kernels, row, top)
    });
    Ok(log_probs.sum())
}

/// Logits that predict the targets of `prompt`, `[targets, vocab]`.
fn targets_logits<'s>(session: &'s mut Session, prompt: &Prompt) -> Result<&'s [f32]> {
    let (inputs, rows) = (prompt.inputs(), prompt.targets().len());
    let vocab = session.model().config().vocab;
    // Letters: the same logits answer for every candidate.
    if session.tokens() == inputs && session.logits().len() == rows * vocab {
        return Ok(session.logits());
    }
    let first = inputs.len() - rows;
    session.truncate(session.common_prefix(inputs).min(first));
    // A sliding window may have kept less.
    let kept = session.pos();
    if rows == 1 {
        return session.forward(&inputs[kept..], Want::Last);
    }
    if kept < first {
        session.forward(&inputs[kept..first], Want::None)?;
    }
    session.forward(&inputs[first..], Want::All)
}

/// What greedy decoding writes behind the context of `prompt`, in a few tokens more than the continuation
/// has; and whether the model ended it.
pub(crate) fn greedy(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &Prompt,
) -> Result<(String, bool)> {
    let context = &prompt.ids[..prompt.from];
    let most = (prompt.targets().len() + 2).min(session.ctx() - context.len() + 1);
    session.truncate(session.common_prefix(context).min(context.len() - 1));
    let mut next = context[session.pos()..].to_vec();
    let mut written = Vec::new();
    let mut ended = false;
    while written.len() < most && !ended {
        let id = argmax(session.forward(&next, Want::Last)?) as u32;
        ended = tokenizer.is_stop(id);
        if !ended {
            written.push(id);
            next = vec![id];
        }
    }
    let text = tokenizer.continuation(context.last().copied(), &written);
    Ok((text, ended))
}

/// The most probable token of one row; the first of equals.
pub(crate) fn argmax(row: &[f32]) -> usize {
    highest(row.iter().map(|x| f64::from(*x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_chosen() {
        assert_eq!(highest([-2.0, -1.0, -1.0].into_iter()), 1);
        let candidate = |length| Candidate {
            context: "".into(),
            continuation: " x".into(),
            length,
        };
        let verdict = Verdict::new(vec![-6.0, -8.0], &[candidate(2), candidate(4)]);
        assert_eq!((verdict.chosen, verdict.chosen_norm), (0, 1));
        assert_eq!(verdict.chosen_by(Metric::Acc), 0);
        assert_eq!(verdict.chosen_by(Metric::AccNorm), 1);
    }
}
