//! `geb-run compare`: what smaller types cost against a base, in size, speed and accuracy.
//!
//! ```text
//! files     what was typed -> GGUF files, quantized into the cache where needed
//! measure   weights, memory, speed in rounds, texts in lockstep        (kept in `state`)
//! loss      how much is lost, from the numbers and their errors
//! verdict   Pareto front, a sentence per candidate, gates
//! table     terminal, Markdown, CSV        html, plot     a page
//! ```

mod alone;
mod assemble;
mod bench;
pub mod files;
mod html;
mod machine;
mod measure;
mod plot;
pub mod rounds;
pub mod state;
pub mod table;
mod tasks;
mod verdict;

use std::path::{Path, PathBuf};

use geb::files::Over;
use geb::gguf::{GgufFile, Load};
use geb_eval::Method;
use geb_eval::choice::Bank;
use geb_eval::compare::result::Comparison;

use crate::args::{CompareArgs, GateArgs, KvHow, OutputArgs, WriteArgs, asked};
use crate::interrupt::Interrupt;
use crate::load;
use crate::model_path::cache_dir;
use crate::outputs::{self, COMPARISON, CSV, MARKDOWN, PAGE};
use crate::report::{self, Failure, Outcome, note};
use files::{Candidate, Maker};
pub use measure::measure;
use state::Store;
use tasks::Task;

/// Longest text that is read, in bytes.
const MAX_TEXT: usize = 1 << 30;

/// What is compared and how.
pub struct Plan<'a> {
    /// What the result is about.
    pub title: String,
    /// The base.
    pub base: Candidate,
    /// Candidates, in the order of the rows.
    pub candidates: Vec<Candidate>,
    /// Types of the candidates' KV cache.
    pub kv: Vec<KvHow>,
    /// Numbers of threads; the largest is used for accuracy.
    pub threads: Vec<usize>,
    /// How speed is measured; no rounds: not at all.
    pub speed: rounds::Method,
    /// Name, file and content.
    pub texts: Vec<(String, String, String)>,
    /// Windows of the texts.
    pub method: Method,
    /// Whether a window begins with BOS where the model wants it.
    pub bos: bool,
    /// Questions.
    pub tasks: Vec<Task>,
    /// What the rows must reach.
    pub gates: &'a GateArgs,
    /// What is said.
    pub output: &'a OutputArgs,
}

/// Runs the command.
pub fn run(args: &CompareArgs, interrupt: &Interrupt) -> Outcome {
    gates_apply(args)?;
    args.write.check()?;
    let threads: Vec<usize> = args
        .speed
        .threads
        .iter()
        .filter_map(|t| asked(Some(*t)))
        .collect();
    let folder = cache_dir()?.join("compare");
    let maker = Maker {
        folder: folder.clone(),
        imatrix: args.imatrix.as_deref(),
        fresh: args.fresh,
        threads: threads.iter().copied().max(),
        output: &args.output,
        interrupt,
    };
    let texts = args.text.iter().map(|path| text(path));
    let texts = texts.collect::<Outcome<Vec<_>>>()?;
    let limit = args.choice_limit.map(|n| n as usize);
    let tasks = args.choice.iter().map(|typed| Task::read(typed, limit));
    let tasks = tasks.collect::<Outcome<Vec<_>>>()?;
    let base = maker.base(&args.base)?;
    let source = if Path::new(&args.base).is_dir() {
        PathBuf::from(&args.base)
    } else {
        base.path.clone()
    };
    let candidates = maker.candidates(&source, &args.candidates)?;
    let plan = Plan {
        title: format!("What smaller types cost: {}", model_name(&base)?),
        base,
        candidates,
        kv: args.kv.clone(),
        threads,
        speed: rounds::Method {
            prompt: args.speed.prompt as usize,
            decode: args.speed.decode as usize,
            rounds: args.speed.rounds as usize,
        },
        texts,
        method: Method {
            window: args.window as usize,
            count_from: args.window as usize / 2,
            max_windows: args.windows.map(|n| n as usize),
            ..Method::default()
        },
        bos: true,
        tasks,
        gates: &args.gates,
        output: &args.output,
    };
    let mut store = Store::new(&folder, &plan.paths(), &plan.recipe())?;
    let before = if args.resume { store.load()? } else { None };
    if args.resume && before.is_none() {
        note("nothing to resume: this command has not been stopped before; starting");
    }
    let comparison = measure(&plan, before.unwrap_or_default(), &mut store, interrupt)?;
    store.remove();
    write(&comparison, &args.write)?;
    gate(&comparison)
}

/// What the file calls its model, else the name of the file.
fn model_name(base: &Candidate) -> Outcome<String> {
    let file = GgufFile::open(&base.path, Load::Map).map_err(|e| load::at(&base.path, e))?;
    let name = file.str("general.name").ok().flatten().map(str::to_owned);
    Ok(name.unwrap_or_else(|| base.name.clone()))
}

/// A gate about something that is not measured would always be passed.
fn gates_apply(args: &CompareArgs) -> Outcome {
    let gates = &args.gates;
    let of_text = [gates.max_kld, gates.min_top1, gates.max_ppl_increase];
    if args.text.is_empty() && of_text.iter().any(Option::is_some) {
        return Err(Failure::usage(
            "--max-kld, --min-top1 and --max-ppl-increase need a --text",
        ));
    }
    if args.speed.rounds == 0 && gates.min_speedup.is_some() {
        return Err(Failure::usage("--min-speedup needs rounds (-r)"));
    }
    Ok(())
}

fn text(path: &Path) -> Outcome<(String, String, String)> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let content = load::read_text(path, MAX_TEXT)?;
    Ok((name.into_owned(), path.display().to_string(), content))
}

/// Exit code 7 when a row missed a gate.
fn gate(c: &Comparison) -> Outcome {
    if c.missed.is_empty() {
        return Ok(());
    }
    let missed: Vec<String> = c
        .missed
        .iter()
        .map(|m| format!("{}: {}", m.row, m.what))
        .collect();
    Err(Failure {
        code: 7,
        ..Failure::new(format!(
            "gate missed: {}",
            missed.join("\n       gate missed: ")
        ))
    })
}

impl WriteArgs {
    /// The forms of the table, each with the old files it replaces.
    fn forms(&self) -> [(Option<&Path>, Over); 3] {
        let forms = [
            (&self.json, COMPARISON),
            (&self.md, MARKDOWN),
            (&self.csv, CSV),
        ];
        forms.map(|(path, over)| (path.as_deref(), over.or_any(self.force)))
    }

    /// Refuses outputs that could not be written, before the work.
    fn check(&self) -> Outcome {
        for (path, over) in self.forms() {
            outputs::check(path, over)?;
        }
        outputs::check(self.report.as_deref(), PAGE.or_any(self.force))
    }
}

/// The table to stdout, unless one of the other forms goes there.
fn write(c: &Comparison, to: &WriteArgs) -> Outcome {
    let json = |c: &Comparison| {
        serde_json::to_string_pretty(c)
            .map(|t| t + "\n")
            .map_err(|e| Failure::new(e.to_string()))
    };
    let mut table = true;
    let forms = [json(c), Ok(table::markdown(c)), Ok(table::csv(c))];
    for ((path, over), text) in to.forms().into_iter().zip(forms) {
        match path {
            Some(path) if path.as_os_str() == "-" => {
                table = false;
                report::out(&text?)?;
            }
            Some(path) => outputs::write(path, text?.as_bytes(), over)?,
            None => {}
        }
    }
    if let Some(path) = &to.report {
        let over = PAGE.or_any(to.force);
        outputs::write(path, html::page(c)?.as_bytes(), over)?;
    }
    if table {
        report::out(&table::text(c))?;
    }
    Ok(())
}

impl Plan<'_> {
    /// All files, the base first.
    fn paths(&self) -> Vec<&Path> {
        let files = std::iter::once(&self.base).chain(&self.candidates);
        files.map(|f| f.path.as_path()).collect()
    }

    /// What decides the numbers beside the files.
    fn recipe(&self) -> String {
        let texts: Vec<&str> = self.texts.iter().map(|t| t.2.as_str()).collect();
        let tasks: Vec<&Bank> = self.tasks.iter().map(|t| &t.bank).collect();
        format!(
            "{:?} {:?} {:?} {:?} {texts:?} {tasks:?}",
            self.kv, self.threads, self.speed, self.method
        )
    }

    /// File of every row and the cache type asked for, the base first.
    fn rows(&self) -> Vec<(usize, KvHow)> {
        let kv = |i: usize| self.kv.iter().map(move |kv| (i, *kv));
        let candidates = (1..=self.candidates.len()).flat_map(kv);
        std::iter::once((0, KvHow::Auto))
            .chain(candidates)
            .collect()
    }

    fn file(&self, i: usize) -> &Candidate {
        match i {
            0 => &self.base,
            i => &self.candidates[i - 1],
        }
    }
}
