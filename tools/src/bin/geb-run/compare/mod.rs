//! `geb-run compare`: what smaller types cost against a base, in size, speed and accuracy.
//!
//! ```text
//! files     what was typed -> GGUF files, quantized into the cache where needed
//! measure   weights, memory, speed in rounds, texts in lockstep        (kept in `state`)
//! verdict   Pareto front, a sentence per candidate, gates
//! table     terminal, Markdown, CSV        html, plot     a page
//! ```

pub mod alone;
pub mod files;
mod html;
mod machine;
mod plot;
pub mod result;
pub mod rounds;
pub mod state;
pub mod table;
mod verdict;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::eval::{Method, TextRun, weights};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};

use crate::args::{CompareArgs, GateArgs, KvHow, OutputArgs, WriteArgs};
use crate::interrupt::Interrupt;
use crate::load::{self, Opened};
use crate::logits::write_atomic;
use crate::model_path::cache_dir;
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, note};
use files::{Candidate, Maker};
use result::{Comparison, GroupError, Row, TextInfo, TypeShare, WorstBlock};
use rounds::Lane;
use state::{Measured, Store};

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
    /// What the rows must reach.
    pub gates: &'a GateArgs,
    /// What is said.
    pub output: &'a OutputArgs,
}

/// Runs the command.
pub fn run(args: &CompareArgs, interrupt: &Interrupt) -> Outcome {
    let threads: Vec<usize> = args.speed.threads.iter().map(|t| *t as usize).collect();
    let folder = cache_dir()?.join("compare");
    let maker = Maker {
        folder: folder.clone(),
        fresh: args.fresh,
        threads: threads.iter().copied().max(),
        output: &args.output,
        interrupt,
    };
    let texts = args.text.iter().map(|path| text(path));
    let texts = texts.collect::<Outcome<Vec<_>>>()?;
    let base = maker.base(&args.base)?;
    let source = if Path::new(&args.base).is_dir() {
        PathBuf::from(&args.base)
    } else {
        base.path.clone()
    };
    let candidates = maker.candidates(&source, &args.candidates)?;
    let plan = Plan {
        title: format!("What smaller types cost: {}", base.name),
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
            max_windows: args.windows.map(|n| n as usize),
            ..Method::llama_cpp(args.window as usize, None)
        },
        bos: true,
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

/// The table to stdout, unless one of the other forms goes there.
fn write(c: &Comparison, to: &WriteArgs) -> Outcome {
    let json = |c: &Comparison| {
        serde_json::to_string_pretty(c)
            .map(|t| t + "\n")
            .map_err(|e| Failure::new(e.to_string()))
    };
    let mut table = true;
    type Form = (Option<PathBuf>, Outcome<String>);
    let forms: [Form; 3] = [
        (to.json.clone(), json(c)),
        (to.md.clone(), Ok(table::markdown(c))),
        (to.csv.clone(), Ok(table::csv(c))),
    ];
    for (path, text) in forms {
        match path {
            Some(path) if path.as_os_str() == "-" => {
                table = false;
                report::out(&text?)?;
            }
            Some(path) => write_atomic(&path, text?.as_bytes())?,
            None => {}
        }
    }
    if let Some(path) = &to.report {
        write_atomic(path, html::page(c)?.as_bytes())?;
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
        format!(
            "{:?} {:?} {:?} {:?} {texts:?}",
            self.kv, self.threads, self.speed, self.method
        )
    }

    /// File and cache type of every row, the base first.
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

/// The files of a plan, opened.
struct Bench {
    opened: Vec<Opened>,
    /// One per number of threads.
    lanes: Vec<Lane>,
    /// The one used for accuracy.
    widest: usize,
}

impl Bench {
    fn new(plan: &Plan<'_>, interrupt: &Interrupt) -> Outcome<Bench> {
        let open = |path: &Path| {
            let file = GgufFile::open(path, Load::Map).map_err(|e| load::at(path, e))?;
            Ok(Opened {
                path: path.to_path_buf(),
                file: Arc::new(file),
            })
        };
        let opened = plan.paths().into_iter().map(open);
        let opened = opened.collect::<Outcome<Vec<Opened>>>()?;
        let models = opened
            .iter()
            .map(|o| Model::load(o.file.clone()).map_err(|e| load::at(&o.path, e)));
        let models = models.collect::<Outcome<Vec<_>>>()?;
        let mut threads = plan.threads.clone();
        if threads.is_empty() {
            threads.push(geb::threads::default_threads());
        }
        let widest = (0..threads.len()).max_by_key(|i| threads[*i]).unwrap_or(0);
        if plan.speed.rounds == 0 {
            threads = vec![threads[widest]];
        }
        let widest = widest.min(threads.len() - 1);
        let speed_ctx = plan.speed.prompt.max(plan.speed.decode + 1);
        let text_ctx = if plan.texts.is_empty() {
            0
        } else {
            plan.method.window
        };
        let lane = |(i, threads): (usize, usize)| {
            let ctx = if i == widest {
                speed_ctx.max(text_ctx)
            } else {
                speed_ctx
            };
            let session = |(file, kv): (usize, KvHow)| {
                let options = SessionOptions {
                    threads,
                    ctx: Some(ctx),
                    kv: kv_choice(kv),
                    cancel: Some(interrupt.flag()),
                    ..Default::default()
                };
                Session::new(models[file].clone(), &options)
                    .map_err(|e| load::at(&opened[file].path, e))
            };
            let sessions = plan.rows().into_iter().map(session);
            Ok(Lane {
                threads,
                sessions: sessions.collect::<Outcome<_>>()?,
            })
        };
        let lanes = threads.into_iter().enumerate().map(lane);
        let lanes = lanes.collect::<Outcome<Vec<_>>>()?;
        Ok(Bench {
            opened,
            lanes,
            widest,
        })
    }

    /// Ids of a text, the same for all files.
    fn encode(&self, text: &str) -> Outcome<(Vec<u32>, Option<u32>)> {
        let options = Encode {
            add_special: false,
            parse_special: false,
        };
        let mut first: Option<(Vec<u32>, Option<u32>)> = None;
        for opened in &self.opened {
            let tokenizer =
                Tokenizer::from_gguf(&opened.file).map_err(|e| load::at(&opened.path, e))?;
            let ids = tokenizer.encode(text, options)?;
            let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
            match &first {
                None => first = Some((ids, bos)),
                Some((base, _)) if *base == ids => {}
                Some((base, _)) => {
                    let at = base.iter().zip(&ids).take_while(|(a, b)| a == b).count();
                    let what = format!(
                        "{} tokens of the text, the base has {}; they differ from token {at} on",
                        ids.len(),
                        base.len()
                    );
                    return Err(files::another_tokenizer(opened, &what));
                }
            }
        }
        Ok(first.unwrap_or_default())
    }
}

/// `--kv` of the library.
pub fn kv_choice(kv: KvHow) -> KvChoice {
    match kv {
        KvHow::Auto => KvChoice::Auto,
        KvHow::F16 => KvChoice::F16,
        KvHow::F32 => KvChoice::F32,
        KvHow::Q8_0 => KvChoice::Q8_0,
    }
}

fn kv_name(kv: KvHow) -> &'static str {
    match kv {
        KvHow::Auto => "auto",
        KvHow::F16 => "f16",
        KvHow::F32 => "f32",
        KvHow::Q8_0 => "q8_0",
    }
}

/// Measures a plan. After Ctrl-C what was measured is in `store`.
pub fn measure(
    plan: &Plan<'_>,
    measured: Measured,
    store: &mut Store,
    interrupt: &Interrupt,
) -> Outcome<Comparison> {
    let mut measured = measured;
    let result = interrupt.during(|| all(plan, &mut measured, store, interrupt));
    if !interrupt.pressed() {
        return result;
    }
    store.save(&measured)?;
    let failure = Failure::interrupted();
    Err(if store.keeps() {
        failure.hint("what was measured is kept: the same command with --resume continues")
    } else {
        failure
    })
}

fn all(
    plan: &Plan<'_>,
    measured: &mut Measured,
    store: &mut Store,
    interrupt: &Interrupt,
) -> Outcome<Comparison> {
    let mut bench = Bench::new(plan, interrupt)?;
    // A wrong tokenizer is found before the work.
    let texts = plan.texts.iter().map(|t| bench.encode(&t.2));
    let texts = texts.collect::<Outcome<Vec<_>>>()?;
    let weights = weight_errors(plan, &bench, interrupt)?;
    if plan.speed.rounds > 0 {
        speed(plan, &mut bench, measured, store, interrupt)?;
    }
    let mut infos = Vec::new();
    for (i, (ids, bos)) in texts.iter().enumerate() {
        infos.push(accuracy(
            plan,
            &mut bench,
            i,
            (ids, *bos),
            measured,
            store,
            interrupt,
        )?);
    }
    let mut c = assemble(plan, &bench, measured, infos, &weights);
    verdict::judge(&mut c, plan.gates);
    Ok(c)
}

/// Memory and load time of each row alone, then the rounds.
fn speed(
    plan: &Plan<'_>,
    bench: &mut Bench,
    measured: &mut Measured,
    store: &mut Store,
    interrupt: &Interrupt,
) -> Outcome {
    let rows = plan.rows();
    let mut progress = Progress::new("memory and load time", "files", plan.output);
    let threads = bench.lanes[bench.widest].threads;
    while measured.alone.len() < rows.len() {
        interrupt.check()?;
        let (file, kv) = rows[measured.alone.len()];
        let path = &plan.file(file).path;
        measured
            .alone
            .push(alone::run(path, kv_name(kv), threads, &plan.speed));
        progress.update(measured.alone.len(), rows.len());
    }
    drop(progress);
    let (mut progress, total) = (
        Progress::new("speed", "rounds", plan.output),
        plan.speed.rounds,
    );
    if measured.times.done() < total {
        measured.times.warm_up(&plan.speed, &mut bench.lanes)?;
    }
    while measured.times.done() < total {
        measured.times.advance(&plan.speed, &mut bench.lanes)?;
        progress.update(measured.times.done(), total);
        store.keep(measured)?;
    }
    Ok(())
}

/// One text, all rows in lockstep.
fn accuracy(
    plan: &Plan<'_>,
    bench: &mut Bench,
    i: usize,
    (ids, bos): (&[u32], Option<u32>),
    measured: &mut Measured,
    store: &mut Store,
    interrupt: &Interrupt,
) -> Outcome<TextInfo> {
    let (name, file, _) = &plan.texts[i];
    let method = Method {
        bos: bos.filter(|_| plan.bos),
        ..plan.method
    };
    let sessions = &mut bench.lanes[bench.widest].sessions;
    match measured.texts.get(i) {
        Some(run) => run.check(sessions, ids, &method)?,
        None => measured.texts.push(TextRun::new(sessions, ids, &method)?),
    }
    let mut progress = Progress::new(name.as_str(), "windows", plan.output);
    loop {
        interrupt.check()?;
        let run = &mut measured.texts[i];
        let more = run.advance(sessions, ids)?;
        let (done, total) = run.windows();
        progress.update(done, total);
        if !more {
            break;
        }
        store.keep(measured)?;
    }
    Ok(TextInfo {
        name: name.clone(),
        file: file.clone(),
        tokens: ids.len(),
        windows: measured.texts[i].windows().1,
        window: method.window,
        count_from: method.count_from,
    })
}

/// Of every candidate file; quick beside the rest, so not kept.
fn weight_errors(
    plan: &Plan<'_>,
    bench: &Bench,
    interrupt: &Interrupt,
) -> Outcome<Vec<Vec<weights::TensorError>>> {
    let mut progress = Progress::new("weights", "files", plan.output);
    let lane = &bench.lanes[bench.widest];
    let Some((base, others)) = bench.opened.split_first() else {
        return Ok(Vec::new());
    };
    let (kernels, flag) = (lane.sessions[0].kernels(), interrupt.flag());
    let compared = others.iter().enumerate().map(|(i, other)| {
        progress.update(i, others.len());
        Ok(weights::compare(
            kernels,
            &base.file,
            &other.file,
            lane.threads,
            &flag,
        )?)
    });
    compared.collect()
}

fn assemble(
    plan: &Plan<'_>,
    bench: &Bench,
    measured: &Measured,
    texts: Vec<TextInfo>,
    weights: &[Vec<weights::TensorError>],
) -> Comparison {
    let lane = &bench.lanes[bench.widest];
    let reports: Vec<_> = measured.texts.iter().map(TextRun::reports).collect();
    let rows = plan.rows().into_iter().enumerate().map(|(r, (i, kv))| {
        let (candidate, opened) = (plan.file(i), &bench.opened[i]);
        let several = plan.kv.len() > 1 && r > 0;
        let cache = if several {
            format!(" kv {}", kv_name(kv))
        } else {
            String::new()
        };
        let alone = measured.alone.get(r).copied().unwrap_or_default();
        let errors = i.checked_sub(1).and_then(|i| weights.get(i));
        Row {
            name: format!("{}{cache}", candidate.name),
            file: candidate.path.display().to_string(),
            command: candidate.command.clone(),
            kv: lane.sessions[r].kv_type().name().to_owned(),
            peak_memory_bytes: alone.peak_memory_bytes,
            load_s: alone.load_s,
            speed: measured.times.speeds(&plan.speed, &bench.lanes, r),
            texts: reports.iter().filter_map(|t| t.get(r).cloned()).collect(),
            weights: errors.map_or(Vec::new(), |e| groups(e)),
            worst_block: errors.and_then(|e| worst_block(e)),
            ..about(&opened.file)
        }
    });
    Comparison {
        version: env!("CARGO_PKG_VERSION").into(),
        title: plan.title.clone(),
        command: machine::command(),
        date: machine::date(),
        machine: machine::this(lane.sessions[0].kernels().level().name()),
        texts,
        tasks: Vec::new(),
        speed: (plan.speed.rounds > 0).then(|| measured.times.info(&plan.speed, &bench.lanes)),
        rows: rows.collect(),
        missed: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Size, bits and types of a file.
fn about(file: &GgufFile) -> Row {
    let weights: u64 = file.tensors().map(|t| t.info().elements()).sum();
    let mut by_type = std::collections::BTreeMap::new();
    for t in file.tensors() {
        *by_type.entry(t.dtype().name()).or_insert(0u64) += t.bytes().len() as u64;
    }
    let all: u64 = by_type.values().sum();
    let mut types: Vec<TypeShare> = by_type
        .into_iter()
        .map(|(name, n)| TypeShare {
            name: name.to_owned(),
            share: n as f64 / all.max(1) as f64,
        })
        .collect();
    types.sort_by(|a, b| b.share.total_cmp(&a.share));
    Row {
        bytes: file.data().len() as u64,
        bits_per_weight: all as f64 * 8.0 / weights.max(1) as f64,
        types,
        ..Row::default()
    }
}

/// `blk.3.attn_q.weight` is group `attn_q` of layer 3.
fn groups(errors: &[weights::TensorError]) -> Vec<GroupError> {
    let group = |e: &weights::TensorError| {
        let name = e.name.trim_end_matches(".weight");
        let in_layer = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'));
        let (layer, group) = match in_layer {
            Some((layer, group)) => (layer.parse().ok(), group),
            None => (None, name),
        };
        GroupError {
            group: group.to_owned(),
            layer,
            dtype: e.dtype.name().to_owned(),
            error: e.relative(),
        }
    };
    errors.iter().map(group).collect()
}

fn worst_block(errors: &[weights::TensorError]) -> Option<WorstBlock> {
    let worst = errors.iter().max_by(|a, b| a.worst.total_cmp(&b.worst))?;
    Some(WorstBlock {
        tensor: worst.name.clone(),
        index: worst.worst_at,
        error: worst.worst,
    })
}
