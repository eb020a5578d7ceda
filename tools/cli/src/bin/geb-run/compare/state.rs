//! What was measured so far, kept in the cache folder: a run that was stopped, or killed, continues
//! with `--resume` and ends with the same numbers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use geb::files::{self, Over};
use geb_eval::TextRun;
use geb_eval::choice::run::Record;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::alone::Alone;
use super::files::{file_hash, hex};
use super::rounds::Times;
use crate::outputs;
use crate::report::{Failure, Outcome};

/// A killed run loses at most this much work, and the last window.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Longest file that is read back.
const MAX_BYTES: u64 = 4 << 30;

/// Everything measured.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Speed.
    pub times: Times,
    /// Memory and load time, per row.
    pub alone: Vec<Alone>,
    /// Accuracy, per text.
    pub texts: Vec<TextRun>,
    /// Answers, per task.
    pub tasks: Vec<Vec<Record>>,
}

/// Where it is kept.
pub struct Store {
    /// `None`: nowhere.
    path: Option<PathBuf>,
    /// When it was written last.
    saved: Option<Instant>,
}

impl Store {
    /// Keeps nothing.
    pub fn none() -> Store {
        Store {
            path: None,
            saved: None,
        }
    }

    /// In `folder`, under a name that holds the hash of the files compared and of the method.
    pub fn new(folder: &Path, files: &[&Path], method: &str) -> Outcome<Store> {
        let mut hash = Sha256::new();
        for file in files {
            let at = |e: std::io::Error| Failure::new(e.to_string()).at(file.display());
            hash.update(file_hash(file).map_err(at)?);
        }
        hash.update(method);
        hash.update(env!("CARGO_PKG_VERSION"));
        let key = hex(&hash.finalize());
        Ok(Store {
            path: Some(folder.join(format!("state-{}.json", &key[..16]))),
            saved: None,
        })
    }

    /// What an earlier run kept; `None` when there is nothing.
    pub fn load(&self) -> Outcome<Option<Measured>> {
        let Some(path) = self.path.as_ref().filter(|p| p.is_file()) else {
            return Ok(None);
        };
        let at = |e: String| {
            Failure::new(e)
                .at(path.display())
                .hint("run without --resume to start again")
        };
        let text = files::read(path, MAX_BYTES).map_err(|e| at(e.to_string()))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| at(e.to_string()))
    }

    /// Writes `measured` if the last time is long enough ago.
    pub fn keep(&mut self, measured: &Measured) -> Outcome {
        if self.saved.is_some_and(|t| t.elapsed() < SAVE_EVERY) {
            return Ok(());
        }
        self.save(measured)
    }

    /// Writes `measured`, atomically.
    pub fn save(&mut self, measured: &Measured) -> Outcome {
        self.saved = Some(Instant::now());
        let Some(path) = &self.path else {
            return Ok(());
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_vec(measured).map_err(|e| Failure::new(e.to_string()))?;
        outputs::write(path, &text, Over::ANY)
    }

    /// The run is complete.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            _ = std::fs::remove_file(path);
        }
    }

    /// Whether an interrupted run can be continued.
    pub fn keeps(&self) -> bool {
        self.path.is_some()
    }
}
