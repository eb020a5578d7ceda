//! `geb-run bench`: prefill and decode speed, with what is needed to judge them: instruction
//! level, kernel, threads, bytes read per token, spread.

use std::time::Instant;

use geb::Dtype;
use geb::session::{Session, Want};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::bench_speculation;
use crate::interrupt::Interrupt;
use crate::limits::{self, Beside, LARGE};
use crate::load::{self, Loaded, Opened};
use crate::outputs;
use crate::progress::Progress;
use crate::random_model::{self, RandomModel};
use crate::rates::Rates;
use crate::report::{self, Failure, Outcome, bytes, count, out, rate, seconds};
use crate::rows;
use crate::streams;

/// Runs the command.
pub fn run(args: &BenchArgs, interrupt: &Interrupt) -> Outcome {
    if args.limits {
        return limits::run(args);
    }
    if args.speculation {
        return bench_speculation::run(args, interrupt);
    }
    if !args.rows.is_empty() {
        return rows::run(args, &find(args, interrupt)?, interrupt);
    }
    if !args.streams.is_empty() {
        return streams::run(args, &find(args, interrupt)?, interrupt);
    }
    if args.prompt == 0 && args.decode == 0 {
        return Err(Failure::usage("nothing to measure: -p and -n are both 0"));
    }
    let mut loaded = open(args, interrupt)?;
    let mut progress = Progress::new("bench", "runs", &args.output);
    let (mut prefill, mut decode) = (Rates::default(), Rates::default());
    let mut beside = Beside::new(loaded.session.kernels(), loaded.session.threads());
    let total = args.reps as usize + 1;
    for rep in 0..total {
        let measured = interrupt.during(|| one_round(&mut loaded.session, args));
        interrupt.check()?;
        let (p, d) = measured.map_err(|e| load::at(&loaded.opened.path, e))?;
        // The first round warms up: it reads the file from disk and fills the caches.
        if rep > 0 {
            prefill.extend(&p);
            decode.extend(&d);
            beside.measure(loaded.opened.file.data());
        }
        progress.update(rep + 1, total);
    }
    drop(progress);
    let report = Report {
        args,
        loaded: &loaded,
        prefill,
        decode,
        beside,
    };
    if args.json {
        report::out_line(&report.to_json().to_string())
    } else {
        out(&report.to_text())
    }
}

/// The model asked for, or one of random weights.
fn find(args: &BenchArgs, interrupt: &Interrupt) -> Outcome<Opened> {
    match args.shape {
        None => load::open(&args.model, None),
        Some(shape) => {
            let dtype = Dtype::from_name(&args.dtype).ok_or_else(|| {
                Failure::usage(format!(
                    "--type is {}, allowed: a GGUF type such as f32, q8_0, q4_0",
                    args.dtype
                ))
            })?;
            if !args.output.quiet {
                report::dim(format_args!("making a model with random {dtype} weights …"));
            }
            let over = outputs::RANDOM_MODEL.or_any(args.force);
            let vocab = args.vocab.as_deref().map(random_model::vocabulary);
            let random = RandomModel {
                shape,
                dtype,
                vocab: vocab.transpose()?,
            };
            let save = args.save.as_deref();
            interrupt.during(|| random.make(save, over, interrupt))
        }
    }
}

fn open(args: &BenchArgs, interrupt: &Interrupt) -> Outcome<Loaded> {
    let started = Instant::now();
    let opened = find(args, interrupt)?;
    let mut cpu = args.cpu.clone();
    // No more context than needed: its memory would be counted.
    let needed = args.depth + args.prompt.max(args.decode + 1);
    cpu.ctx = cpu.ctx.or(u32::try_from(needed).ok());
    load::load(opened, &cpu, interrupt, started)
}

/// One prefill and one decode measurement, as far as asked for.
fn one_round(session: &mut Session, args: &BenchArgs) -> geb::Result<(Rates, Rates)> {
    let (mut prefill, mut decode) = (Rates::default(), Rates::default());
    if args.prompt > 0 {
        prefill.push(
            args.prompt,
            measure_prefill(session, args.depth, args.prompt)?,
        );
    }
    if args.decode > 0 {
        decode.push(
            args.decode,
            measure_decode(session, args.depth, args.decode)?,
        );
    }
    Ok((prefill, decode))
}

/// Evaluates `n` tokens at once after `depth` cached ones; returns when it started. An encoder reads a text of
/// `n` tokens, whatever is cached.
pub fn measure_prefill(session: &mut Session, depth: usize, n: usize) -> geb::Result<Instant> {
    if session.model().config().encoder.is_some() {
        let ids = some_ids(session, n + 1);
        // The text that was read last is not read again.
        session.encode(&ids[n..])?;
        let start = Instant::now();
        session.encode(&ids[..n])?;
        return Ok(start);
    }
    let ids = some_ids(session, depth + n);
    reach(session, &ids[..depth])?;
    let start = Instant::now();
    session.forward(&ids[depth..], Want::Last)?;
    Ok(start)
}

/// Evaluates `n` tokens one by one after `depth` cached ones and a first one; returns when it started.
pub fn measure_decode(session: &mut Session, depth: usize, n: usize) -> geb::Result<Instant> {
    let ids = some_ids(session, depth + n + 1);
    if session.model().config().encoder.is_some() && session.text().is_empty() {
        session.encode(&ids[..1])?;
    }
    reach(session, &ids[..=depth])?;
    let start = Instant::now();
    for id in &ids[depth + 1..] {
        session.forward(&[*id], Want::Last)?;
    }
    Ok(start)
}

/// Makes `ids` what the session holds, evaluating only what it does not hold yet.
fn reach(session: &mut Session, ids: &[u32]) -> geb::Result<()> {
    session.truncate(session.common_prefix(ids));
    let kept = session.pos();
    session.forward(&ids[kept..], Want::None)?;
    Ok(())
}

/// Bytes one decoded token reads after `depth` others: the weights and, in the middle of `n` decoded
/// ones, the cache.
pub fn bytes_read(session: &Session, depth: usize, n: usize) -> u64 {
    session.bytes_per_token() + session.kv_bytes_seen(depth + 1 + n / 2)
}

/// Ids spread over the vocabulary, the same ones in every run.
fn some_ids(session: &Session, n: usize) -> Vec<u32> {
    let vocab = session.model().config().vocab as u64;
    (0..n as u64)
        .map(|i| (i.wrapping_mul(2_654_435_761) % vocab) as u32)
        .collect()
}

/// What was measured, to be shown.
struct Report<'a> {
    args: &'a BenchArgs,
    loaded: &'a Loaded,
    prefill: Rates,
    decode: Rates,
    beside: Beside,
}

impl Report<'_> {
    /// Weights and cache read while decoding, GB/s, and its share of what the machine can read.
    fn decode_gb_s(&self) -> (Option<f64>, Option<f64>) {
        let read = bytes_read(&self.loaded.session, self.args.depth, self.args.decode) as f64;
        let gb_s = self.decode.median().map(|tok_s| tok_s * read / 1e9);
        let large = self.loaded.opened.file.file_bytes() >= LARGE;
        let share = gb_s
            .filter(|_| large)
            .map(|v| v / self.beside.limits().read_gb_s);
        (gb_s, share)
    }

    /// Operations of the layers' products while prefilling, GOP/s, the share of the machine's peak,
    /// and which peak that is.
    fn prefill_gops(&self) -> Option<(f64, f64, &'static str)> {
        let session = &self.loaded.session;
        if session.model().config().encoder.is_some() {
            // Its products are not those of a decoded token.
            return None;
        }
        let main = Dtype::from_name(load::main_type(&self.loaded.opened.file))?;
        let act = session.kernels().act_kind(main);
        let (peak, name) = self.beside.limits().peak(act)?;
        let products = session.model().products_per_token() as f64;
        let gops = self.prefill.median()? * 2.0 * products / 1e9;
        Some((gops, gops / peak, name))
    }

    fn to_text(&self) -> String {
        let (file, session) = (&self.loaded.opened.file, &self.loaded.session);
        let parameters: u64 = file.tensors().map(|t| t.info().elements()).sum();
        let main = load::main_type(file);
        let kernel = kernel_name(session, main);
        let mut text = format!(
            "model      {}\n           {} parameters, {main}, {}\nmachine    {}, kernel {kernel}, {} threads\ncache      {}, {depth} tokens before each measurement\n",
            self.loaded.opened.path.display(),
            count(parameters),
            bytes(file.file_bytes()),
            session.kernels().level().name(),
            session.threads(),
            session.kv_type().name(),
            depth = self.args.depth,
        );
        if self.args.prompt > 0 {
            let share = self
                .prefill_gops()
                .map_or(String::new(), |(gops, share, peak)| {
                    format!(
                        "   {gops:.0} GOP/s, {:.0} % of the {peak} peak",
                        100.0 * share
                    )
                });
            let prompt = self.args.prompt;
            let what = match session.model().config().encoder {
                Some(_) => "encode ",
                None => "prefill",
            };
            text.push_str(&format!(
                "{what} {prompt:<5}{}{share}\n",
                speed(&self.prefill)
            ));
        }
        if self.args.decode > 0 {
            let (gb_s, share) = self.decode_gb_s();
            let gb_s = gb_s.map_or(String::new(), |g| {
                format!("   {g:.1} GB/s of weights and cache")
            });
            let share = share.map_or(String::new(), |s| {
                format!(", {:.0} % of reading them", 100.0 * s)
            });
            let decode = self.args.decode;
            text.push_str(&format!(
                "decode  {decode:<5}{}{gb_s}{share}\n",
                speed(&self.decode)
            ));
        }
        text.push_str(&self.beside.to_text());
        let peak = report::peak_memory_bytes().map_or("unknown".into(), bytes);
        text.push_str(&format!(
            "load {}, peak memory {peak}\n",
            seconds(self.loaded.load)
        ));
        text
    }

    fn to_json(&self) -> Value {
        let (args, file, session) = (self.args, &self.loaded.opened.file, &self.loaded.session);
        let (prefill, decode) = (&self.prefill, &self.decode);
        let main = load::main_type(file);
        let parameters: u64 = file.tensors().map(|t| t.info().elements()).sum();
        let (gb_s, decode_share) = self.decode_gb_s();
        let (gops, prefill_share) = self.prefill_gops().map(|(g, s, _)| (g, s)).unzip();
        let mut all = json!({
            "model": self.loaded.opened.path,
            "type": main,
            "parameters": parameters,
            "file_bytes": file.file_bytes(),
            "isa": session.kernels().level().name(),
            "kernel": kernel_name(session, main),
            "threads": session.threads(),
            "kv_type": session.kv_type().name(),
            "kv_bytes_per_position": session.kv_bytes_seen(1),
            "depth_tokens": args.depth,
            "reps": args.reps,
            "prompt_tokens": args.prompt,
            "decode_tokens": args.decode,
            "prefill_tok_s": prefill.median(),
            "prefill_tok_s_min": prefill.min(),
            "prefill_tok_s_max": prefill.max(),
            "prefill_all": prefill.all(),
            "prefill_gops": gops,
            "prefill_share": prefill_share,
            "decode_tok_s": decode.median(),
            "decode_tok_s_min": decode.min(),
            "decode_tok_s_max": decode.max(),
            "decode_all": decode.all(),
            "decode_bytes_per_token": bytes_read(session, args.depth, args.decode),
            "decode_gb_s": gb_s,
            "decode_share": decode_share,
            "load_s": self.loaded.load.as_secs_f64(),
            "peak_memory_bytes": report::peak_memory_bytes(),
        });
        if let (Some(all), Value::Object(limits)) =
            (all.as_object_mut(), self.beside.limits().to_json())
        {
            all.extend(limits);
        }
        all
    }
}

/// Median and spread.
fn speed(rates: &Rates) -> String {
    let show = |v: Option<f64>| v.map_or("-".into(), rate);
    format!(
        "{:>7} tok/s   (median of {}; {} .. {})",
        show(rates.median()),
        rates.all().len(),
        show(rates.min()),
        show(rates.max())
    )
}

fn kernel_name(session: &Session, main: &str) -> &'static str {
    Dtype::from_name(main).map_or("?", |t| session.kernels().name(t))
}
