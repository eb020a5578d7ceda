//! Carries mutants through the library on two threads, and watches them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use geb::generate::{GenerateOptions, generate};
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{Session, SessionOptions, Want};
use geb::tokenizer::Tokenizer;
use geb::{Dtype, Result};
use geb_convert::{self as convert, Options};

use crate::common::alloc::peak;

/// Heap that one step may use at most: files have less than a megabyte.
const HEAP: usize = 96 << 20;
/// A mutant that takes longer hangs. Generous: other tests run at the same time.
const HANGS: Duration = Duration::from_secs(60);

/// A file of one layer, where layers can be left out.
pub fn converted(case: &str, dtype: Dtype) -> Vec<u8> {
    let source = Path::new(crate::common::ROOT)
        .join("tests/fixtures")
        .join(case)
        .join("hf");
    let mut options = Options {
        policy: dtype.into(),
        layers: Some(vec![0]),
        threads: Some(1),
        ..Options::default()
    };
    let cut = convert::convert_to_vec(&source, &options);
    options.layers = None;
    let whole = || convert::convert_to_vec(&source, &options).expect("a fixture converts");
    cut.unwrap_or_else(|_| whole()).0
}

/// Where a worker is, for the one who looks whether it hangs.
pub struct At {
    seed: AtomicU64,
    since: Mutex<(Instant, &'static str)>,
}

impl At {
    pub fn new() -> At {
        At {
            seed: AtomicU64::new(0),
            since: Mutex::new((Instant::now(), "start")),
        }
    }

    pub fn step(&self, name: &'static str) {
        self.since.lock().expect("no worker panics inside").1 = name;
    }

    pub fn mutant(&self, seed: u64) {
        self.seed.store(seed, SeqCst);
        *self.since.lock().expect("no worker panics inside") = (Instant::now(), "start");
    }
}

/// How far a mutant came: number of times each step succeeded.
pub type Reached = BTreeMap<&'static str, u64>;

/// Runs a step within the heap bound; an error is fine, and the end of the way.
pub fn step<T>(
    at: &At,
    reached: &mut Reached,
    name: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Option<T> {
    at.step(name);
    let (result, heap) = peak(work);
    assert!(heap <= HEAP, "{name}: {heap} bytes of heap");
    *reached.entry(name).or_default() += u64::from(result.is_ok());
    match result {
        Ok(value) => Some(value),
        Err(e) => {
            assert!(!e.to_string().is_empty());
            assert!(!matches!(e, geb::Error::Interrupted), "{e}");
            None
        }
    }
}

/// One token after a short prompt.
pub fn one_token(model: &Arc<Model>, tokenizer: Option<&Tokenizer>, ids: &[u32]) -> Result<()> {
    let c = model.config();
    let options = SessionOptions {
        threads: 1,
        ctx: Some(c.context_length.min(64)),
        ..SessionOptions::default()
    };
    let mut session = Session::new(model.clone(), &options)?;
    let ids: Vec<u32> = ids
        .iter()
        .copied()
        .filter(|id| (*id as usize) < c.vocab)
        .take(9)
        .collect();
    let Some(tokenizer) = tokenizer.filter(|_| !ids.is_empty()) else {
        return session.forward(&[0], Want::Last).map(drop);
    };
    let options = GenerateOptions {
        max_tokens: 1,
        sampling: SamplerOptions {
            temperature: 0.0,
            ..SamplerOptions::default()
        },
        ..GenerateOptions::default()
    };
    let mut events = |_: &str| ControlFlow::Continue(());
    generate(&mut session, tokenizer, &ids, &options, &mut events).map(drop)
}

/// Types that a mutant is converted to, one after the other.
pub const TARGETS: &[Dtype] = &[
    Dtype::Q8_0,
    Dtype::Q4_K,
    Dtype::F16,
    Dtype::Q4_0,
    Dtype::F32,
    Dtype::Q6_K,
];

pub fn convert_it(path: &Path, seed: u64) -> Result<Vec<u8>> {
    let options = Options {
        policy: TARGETS[seed as usize / 7 % TARGETS.len()].into(),
        allow_requantize: !seed.is_multiple_of(5),
        threads: Some(1),
        ..Options::default()
    };
    Ok(convert::convert_to_vec(path, &options)?.0)
}

pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Runs all seeds on two threads; returns what was reached and what went wrong.
pub fn run_all(
    seeds: Vec<u64>,
    one: &(dyn Fn(u64, &Path, &At, &mut Reached) + Sync),
) -> (Reached, Vec<u64>) {
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let places = [At::new(), At::new()];
    let results = Mutex::new((Reached::new(), Vec::new()));
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::thread::scope(|scope| {
        let workers: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(w, at)| {
                let path: PathBuf = dir.path().join(format!("{w}.gguf"));
                let (next, seeds, results) = (&next, &seeds, &results);
                scope.spawn(move || {
                    let (mut reached, mut failed) = (Reached::new(), Vec::new());
                    loop {
                        let i = next.fetch_add(1, SeqCst) as usize;
                        let Some(&seed) = seeds.get(i).filter(|_| failed.len() < 20) else {
                            break;
                        };
                        at.mutant(seed);
                        let work = AssertUnwindSafe(|| one(seed, &path, at, &mut reached));
                        if catch_unwind(work).is_err() {
                            failed.push(seed);
                        }
                    }
                    let mut all = results.lock().expect("results");
                    for (name, n) in reached {
                        *all.0.entry(name).or_default() += n;
                    }
                    all.1.extend(failed);
                })
            })
            .collect();
        let watch = scope.spawn(|| {
            while !done.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(50));
                for at in &places {
                    let (since, name) = *at.since.lock().expect("no worker panics inside");
                    if since.elapsed() > HANGS
                        && !done.load(SeqCst)
                        && next.load(SeqCst) < seeds.len() as u64
                    {
                        eprintln!("seed {} hangs at {name}", at.seed.load(SeqCst));
                        std::process::exit(101);
                    }
                }
            }
        });
        workers
            .into_iter()
            .for_each(|w| w.join().expect("workers catch panics"));
        done.store(true, SeqCst);
        watch.join().expect("the watch");
    });
    results.into_inner().expect("results")
}

/// Runs `one` on the mutants of `count` seeds, and reports those that fail as `describe` names them.
pub fn run_seeds(
    name: &str,
    count: u64,
    describe: &dyn Fn(u64) -> String,
    one: &(dyn Fn(u64, &Path, &At, &mut Reached) + Sync),
) -> Reached {
    let seeds: Vec<u64> = match number("GEB_MUTANT") {
        Some(seed) => {
            println!("{name}: {}", describe(seed));
            vec![seed]
        }
        None => (0..count).collect(),
    };
    let (count, start) = (seeds.len() as u64, Instant::now());
    let (reached, failed) = run_all(seeds, one);
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {count} mutants in {seconds:.0} s: {reached:?}");
    let failed: Vec<String> = failed.into_iter().map(describe).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    reached
}

/// How many mutants of models; of other files there are fewer.
pub fn count() -> u64 {
    number("GEB_MUTANTS_BEHIND").unwrap_or(10_000)
}

/// Both ways of a small file beside a model must be common.
pub fn both_ways(reached: &Reached, name: &str, count: u64) {
    let n = reached.get(name).copied().unwrap_or(0);
    let single = number("GEB_MUTANT").is_some();
    assert!(
        single || (n > count / 50 && n < count * 19 / 20),
        "{name}: {n} of {count}"
    );
}
