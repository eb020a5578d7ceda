//! Measuring a plan: weights, memory, speed in rounds, texts and questions in lockstep.

use std::path::Path;
use std::sync::Arc;

use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions, auto_is_f32};
use geb::tokenizer::{Encode, Tokenizer};
use geb_eval::{Method, TextRun, weights};

use super::assemble::assemble;
use super::bench::{Bench, kv_name};
use super::rounds::Lane;
use super::state::{Measured, Store};
use super::{Plan, alone, files, verdict};
use crate::args::KvHow;
use crate::interrupt::Interrupt;
use crate::load::{self, Opened};
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use geb_eval::compare::result::{Comparison, TextInfo};

impl Bench {
    fn new(plan: &Plan<'_>, interrupt: &Interrupt) -> Outcome<Bench> {
        let open = |path: &Path| {
            let file = GgufFile::open(path, Load::Map).map_err(|e| load::at(path, e))?;
            Ok(Opened {
                path: path.to_path_buf(),
                file: Arc::new(file),
                lora: Vec::new(),
            })
        };
        let opened = plan.paths().into_iter().map(open);
        let opened = opened.collect::<Outcome<Vec<Opened>>>()?;
        let models = opened
            .iter()
            .map(|o| Model::load(o.file.clone()).map_err(|e| load::at(&o.path, e)));
        let models = models.collect::<Outcome<Vec<_>>>()?;
        if !plan.texts.is_empty() || !plan.tasks.is_empty() {
            let mut pairs = models.iter().zip(&opened);
            pairs.try_for_each(|(model, o)| load::one_text(model, &o.path))?;
        }
        let rows = one_cache(plan.rows(), &models[0])?;
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
        // Questions may be long: the context that sessions have when nothing is asked for.
        let asks = !plan.tasks.is_empty();
        let lane = |(i, threads): (usize, usize)| {
            let ctx = if i == widest {
                speed_ctx.max(text_ctx)
            } else {
                speed_ctx
            };
            let session = |(file, kv): (usize, KvHow)| {
                let options = SessionOptions {
                    threads,
                    ctx: (!(asks && i == widest)).then_some(ctx),
                    kv: kv_choice(kv),
                    cancel: Some(interrupt.flag()),
                    ..Default::default()
                };
                Session::new(models[file].clone(), &options)
                    .map_err(|e| load::at(&opened[file].path, e))
            };
            let sessions = rows.iter().copied().map(session);
            Ok(Lane {
                threads,
                sessions: sessions.collect::<Outcome<_>>()?,
            })
        };
        let lanes = threads.into_iter().enumerate().map(lane);
        let lanes = lanes.collect::<Outcome<Vec<_>>>()?;
        let tokenizers = if plan.texts.is_empty() && plan.tasks.is_empty() {
            Vec::new()
        } else {
            let all = opened
                .iter()
                .map(|o| Tokenizer::from_gguf(&o.file).map_err(|e| load::at(&o.path, e)));
            all.collect::<Outcome<Vec<_>>>()?
        };
        Ok(Bench {
            opened,
            tokenizers,
            rows,
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
        for (opened, tokenizer) in self.opened.iter().zip(&self.tokenizers) {
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

/// Where nothing is asked for, all rows have the cache that is the base's own, so that what differs is the weights.
fn one_cache(mut rows: Vec<(usize, KvHow)>, base: &Model) -> Outcome<Vec<(usize, KvHow)>> {
    if rows.iter().any(|(_, kv)| *kv != KvHow::Auto) {
        return Ok(rows);
    }
    let own = if auto_is_f32(base)? {
        KvHow::F32
    } else {
        KvHow::F16
    };
    rows.iter_mut().for_each(|(_, kv)| *kv = own);
    Ok(rows)
}

/// `--kv` of the library.
fn kv_choice(kv: KvHow) -> KvChoice {
    match kv {
        KvHow::Auto => KvChoice::Auto,
        KvHow::F16 => KvChoice::F16,
        KvHow::F32 => KvChoice::F32,
        KvHow::Q8_0 => KvChoice::Q8_0,
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
    for i in 0..plan.tasks.len() {
        ask(plan, &mut bench, i, measured, store, interrupt)?;
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
    let rows = bench.rows.clone();
    let mut progress = Progress::new("memory and load time", "files", plan.output);
    let threads = bench.lanes[bench.widest].threads;
    while measured.alone.len() < rows.len() {
        interrupt.check()?;
        let (file, kv) = rows[measured.alone.len()];
        let path = &plan.file(file).path;
        let alone = alone::run(path, kv_name(kv), threads, &plan.speed);
        // Ctrl-C reaches the other process too.
        interrupt.check()?;
        measured.alone.push(alone);
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

/// The questions of one task.
fn ask(
    plan: &Plan<'_>,
    bench: &mut Bench,
    i: usize,
    measured: &mut Measured,
    store: &mut Store,
    interrupt: &Interrupt,
) -> Outcome {
    let task = &plan.tasks[i];
    if measured.tasks.len() <= i {
        measured.tasks.push(Vec::new());
    }
    let total = task.bank.len();
    let mut progress = Progress::new(task.name.as_str(), "questions", plan.output);
    let sessions = &mut bench.lanes[bench.widest].sessions;
    let tokenizers = &bench.tokenizers;
    let tokenizers: Vec<&Tokenizer> = plan
        .rows()
        .iter()
        .map(|(file, _)| &tokenizers[*file])
        .collect();
    let mut kept = Ok(());
    task.ask(
        sessions,
        &tokenizers,
        measured.tasks[i].len(),
        &mut |record| {
            measured.tasks[i].push(record);
            progress.update(measured.tasks[i].len(), total);
            kept = store.keep(measured);
            kept.is_ok() && !interrupt.pressed()
        },
    )
    .map_err(Failure::from)
    .or_else(|failure| kept.and(Err(failure)))
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
