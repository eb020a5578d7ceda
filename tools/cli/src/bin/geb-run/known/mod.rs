//! `geb-run eval rows`, `labels`, `clash` and `quotes`: what a model knows by heart, learns from its
//! prompt, believes and copies, from local files.

mod clash;
mod labels;
mod quotes;
mod rows;

use std::time::Instant;

use geb::tokenizer::Tokenizer;
use geb_eval::choice::run::Solver;
use geb_eval::choice::score::Score;

use crate::args::{CpuArgs, ModelArgs, OutputArgs};
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::progress::Progress;
use crate::report::Outcome;

pub use clash::run as clash;
pub use labels::run as labels;
pub use quotes::run as quotes;
pub use rows::run as rows;

/// A model that is asked.
struct Asked {
    loaded: Loaded,
    tokenizer: Tokenizer,
    /// Name of the file.
    name: String,
}

impl Asked {
    fn open(model: &ModelArgs, cpu: &CpuArgs, interrupt: &Interrupt) -> Outcome<Asked> {
        let opened = load::open(model, None)?;
        let tokenizer = load::tokenizer(&opened)?;
        let loaded = load::load(opened, cpu, interrupt, Instant::now())?;
        load::one_text(loaded.session.model(), &loaded.opened.path)?;
        let name = loaded.opened.path.file_stem().unwrap_or_default();
        Ok(Asked {
            name: name.to_string_lossy().into_owned(),
            loaded,
            tokenizer,
        })
    }

    /// Records of `total` questions, as `ask` hands them over.
    fn records<R>(
        &mut self,
        total: usize,
        output: &OutputArgs,
        interrupt: &Interrupt,
        ask: impl FnOnce(&mut Solver<'_>, &mut dyn FnMut(R) -> bool) -> geb::error::Result<()>,
    ) -> Outcome<Vec<R>> {
        let mut progress = Progress::new(&self.name, "questions", output);
        let mut records = Vec::new();
        let mut observe = |record| {
            records.push(record);
            progress.update(records.len(), total);
            !interrupt.pressed()
        };
        let mut solver = Solver {
            session: &mut self.loaded.session,
            tokenizer: &self.tokenizer,
        };
        let done = interrupt.during(|| ask(&mut solver, &mut observe));
        done.map_err(|e| load::at(&self.loaded.opened.path, e))?;
        Ok(records)
    }
}

/// Cells for a share: number, per cent, its error, its interval.
fn share(score: Score) -> Vec<String> {
    let mut cells = vec![score.questions.to_string()];
    if score.questions > 0 {
        let percent = |x: f64| format!("{:.1}", 100.0 * x);
        let (low, high) = score.wilson95();
        cells.push(percent(score.accuracy()));
        cells.push(percent(score.standard_error()));
        cells.push(format!("{} to {}", percent(low), percent(high)));
    }
    cells
}

/// The head above [`share`].
fn share_head(first: &str, number: &str) -> Vec<String> {
    [first, number, "%", "±", "95 % interval"]
        .map(str::to_owned)
        .to_vec()
}
