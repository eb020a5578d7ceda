//! A base and its candidates on a text, in lockstep.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::method::Method;
use super::report::{self, Report};
use super::rows::{Column, Point, compare};
use geb::error::{Error, Result};
use geb::gguf::{GgufFile, Value};
use geb::session::{BATCH, Session, Want};
use geb::threads;

/// Logits held at a time, all models together, in bytes; at least [`LEAST_ROWS`] rows each.
const LOGITS_BYTES: usize = 64 << 20;
/// Fewer rows at a time would waste the prefill kernels.
const LEAST_ROWS: usize = 16;

/// Several models on one text: what has been measured so far.
///
/// Between windows it can be stored (serde) and taken up again with [`TextRun::check`]; the numbers
/// of the end are the same bits. They depend neither on threads nor on how rows are cut.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TextRun {
    method: Method,
    /// SHA-256 of the ids.
    text: String,
    /// SHA-256 of the token list.
    vocabulary: String,
    done: usize,
    total: usize,
    /// Per model; the first one is the base.
    columns: Vec<Column>,
}

impl TextRun {
    /// A run with nothing measured yet. The first session is the base.
    ///
    /// # Errors
    /// [`Error::Request`] when there is no complete window, a window exceeds a context, an id is
    /// outside the vocabulary, or the vocabularies of the models differ.
    pub fn new(sessions: &[Session], ids: &[u32], method: &Method) -> Result<TextRun> {
        method.check(ids.len())?;
        if let Some(s) = sessions.iter().find(|s| s.ctx() < method.window) {
            let allowed = format!("at least one window of {}", method.window);
            return request("context", s.ctx().to_string(), allowed);
        }
        let vocabulary = same_vocabulary(sessions)?;
        let vocab = sessions[0].model().config().vocab;
        if let Some(id) = ids
            .iter()
            .chain(&method.bos)
            .find(|id| **id as usize >= vocab)
        {
            return request("token id", id.to_string(), format!("0..{vocab}"));
        }
        Ok(TextRun {
            method: *method,
            text: hash(ids.iter().map(|id| id.to_le_bytes())),
            vocabulary,
            done: 0,
            total: method.windows(ids.len()),
            columns: vec![Column::default(); sessions.len()],
        })
    }

    /// Whether a stored run belongs to these sessions, this text and this method, and is whole. That
    /// the weights are the same is for the caller to know.
    ///
    /// # Errors
    /// [`Error::Request`] says what differs; and as [`TextRun::new`].
    pub fn check(&self, sessions: &[Session], ids: &[u32], method: &Method) -> Result<()> {
        let fresh = TextRun::new(sessions, ids, method)?;
        let differs = |what: &str, stored: String, now: String| {
            request(&format!("{what} of the stored run"), stored, now)
        };
        if self.method != fresh.method {
            let show = |m: &Method| format!("{m:?}");
            return differs("method", show(&self.method), show(&fresh.method));
        }
        if self.text != fresh.text {
            return differs("text (sha256 of ids)", self.text.clone(), fresh.text);
        }
        if self.vocabulary != fresh.vocabulary {
            return differs(
                "vocabulary (sha256)",
                self.vocabulary.clone(),
                fresh.vocabulary,
            );
        }
        let models = |r: &TextRun| r.columns.len();
        if models(self) != models(&fresh) {
            let (stored, now) = (models(self).to_string(), models(&fresh).to_string());
            return differs("number of models", stored, now);
        }
        let lines = self.done.saturating_mul(method.counted());
        let whole = |c: &Column| [c.nll.len(), c.kl.len(), c.top.len()] == [lines; 3];
        if self.total != fresh.total || self.done > self.total || !self.columns.iter().all(whole) {
            let windows = format!("{} of {}", self.done, self.total);
            let allowed = format!("up to {}, with {lines} lines per model", fresh.total);
            return differs("windows", windows, allowed);
        }
        Ok(())
    }

    /// Evaluated windows, and all of them.
    pub fn windows(&self) -> (usize, usize) {
        (self.done, self.total)
    }

    /// Evaluates the next window; `false` when there is none left. `sessions` and `ids` are those
    /// of [`TextRun::new`].
    ///
    /// # Errors
    /// Those of [`Session::forward`]; nothing of the window is kept then, so that it can be tried again.
    ///
    /// # Panics
    /// If there are other sessions or fewer ids than at the start.
    pub fn advance(&mut self, sessions: &mut [Session], ids: &[u32]) -> Result<bool> {
        assert_eq!(
            sessions.len(),
            self.columns.len(),
            "sessions of another run"
        );
        if self.done >= self.total {
            return Ok(false);
        }
        let first = self.done * self.method.step();
        let mut window = ids[first..first + self.method.window].to_vec();
        if let Some(bos) = self.method.bos {
            window[0] = bos;
        }
        let columns = one_window(sessions, &window, self.method.count_from)?;
        for (all, new) in self.columns.iter_mut().zip(columns) {
            all.append(new);
        }
        self.done += 1;
        Ok(true)
    }

    /// The numbers so far, one report per model, the base first. Without a window they are NaN.
    pub fn reports(&self) -> Vec<Report> {
        let method = &self.method;
        report::reports(&self.columns, method.counted(), method.count_from)
    }
}

/// Evaluates `ids` with every session; the first one is the base of the others.
///
/// `progress(done, total)` is called after every window; its `false` ends with
/// [`Error::Interrupted`].
///
/// # Errors
/// Those of [`TextRun::new`] and [`TextRun::advance`].
pub fn evaluate(
    sessions: &mut [Session],
    ids: &[u32],
    method: &Method,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Report>> {
    let mut run = TextRun::new(sessions, ids, method)?;
    while run.advance(sessions, ids)? {
        let (done, total) = run.windows();
        if !progress(done, total) {
            return Err(Error::Interrupted);
        }
    }
    sessions.iter_mut().for_each(Session::reset);
    Ok(run.reports())
}

fn request<T>(what: &str, value: String, allowed: String) -> Result<T> {
    Err(Error::Request {
        what: what.into(),
        value,
        allowed,
    })
}

/// One window from position 0: layers in batches, then logits of the counted rows, a few at a time.
fn one_window(sessions: &mut [Session], window: &[u32], count_from: usize) -> Result<Vec<Column>> {
    let mut columns = vec![Column::default(); sessions.len()];
    sessions.iter_mut().for_each(Session::reset);
    let vocab = sessions.first().map_or(1, |s| s.model().config().vocab);
    let rows = (LOGITS_BYTES / (4 * vocab * sessions.len().max(1))).clamp(LEAST_ROWS, BATCH);
    // Logits of position p predict token p + 1: the last token is only predicted.
    let inputs = &window[..window.len() - 1];
    for (i, batch) in inputs.chunks(BATCH).enumerate() {
        for session in sessions.iter_mut() {
            session.forward(batch, Want::None)?;
        }
        let at = i * BATCH;
        let counted = (count_from - 1).saturating_sub(at).min(batch.len());
        for from in (counted..batch.len()).step_by(rows) {
            let to = (from + rows).min(batch.len());
            for session in sessions.iter_mut() {
                session.head(from..to)?;
            }
            let targets = &window[at + from + 1..=at + to];
            score(sessions, targets, &mut columns);
        }
    }
    Ok(columns)
}

/// Appends a line per row of the sessions' logits, in their order, on the threads of the base.
fn score(sessions: &[Session], targets: &[u32], columns: &mut [Column]) {
    let Some(base) = sessions.first() else { return };
    let logits: Vec<&[f32]> = sessions.iter().map(Session::logits).collect();
    let (kernels, vocab) = (base.kernels(), base.model().config().vocab);
    let models = sessions.len();
    let mut points = vec![Point::default(); models * targets.len()];
    let share = targets.len().div_ceil(base.threads()).max(1);
    let parts = points.chunks_mut(share * models).zip(targets.chunks(share));
    threads::each(parts.enumerate().collect(), |(part, (points, targets))| {
        for (k, (out, target)) in points.chunks_mut(models).zip(targets).enumerate() {
            let row = (part * share + k) * vocab;
            let rows: Vec<&[f32]> = logits.iter().map(|l| &l[row..row + vocab]).collect();
            compare(kernels, &rows, *target as usize, out);
        }
    });
    for line in points.chunks_exact(models) {
        columns.iter_mut().zip(line).for_each(|(c, p)| c.push(p));
    }
}

/// SHA-256 in hexadecimal digits.
fn hash(parts: impl Iterator<Item = impl AsRef<[u8]>>) -> String {
    let mut sha = Sha256::new();
    parts.for_each(|p| sha.update(p));
    sha.finalize().iter().fold(String::new(), |mut text, b| {
        _ = write!(text, "{b:02x}");
        text
    })
}

/// Refuses models whose token lists differ: the same id would mean different text. Returns the
/// hash of the list.
fn same_vocabulary(sessions: &[Session]) -> Result<String> {
    let described: Vec<(String, String)> = sessions.iter().map(vocabulary).collect();
    let Some((hash, base)) = described.first() else {
        return request("number of models", "0".into(), "at least 1".into());
    };
    match described.iter().find(|(h, _)| h != hash) {
        None => Ok(hash.clone()),
        Some((_, other)) => request(
            "vocabulary",
            other.clone(),
            format!("that of the base: {base}"),
        ),
    }
}

/// Hash of the token list and size, and how to say it.
fn vocabulary(session: &Session) -> (String, String) {
    let file: &GgufFile = session.model().file();
    let vocab = session.model().config().vocab;
    let tokens = match file.get("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => tokens.raw(),
        _ => &[],
    };
    let hash = hash([&(vocab as u64).to_le_bytes()[..], tokens].into_iter());
    let name = match file.get("general.name") {
        Some(Value::Str(name)) => format!("'{name}'"),
        _ => "the file without a name".into(),
    };
    let text = format!("{vocab} tokens of {name} (sha256 {:.12})", hash);
    (hash, text)
}
