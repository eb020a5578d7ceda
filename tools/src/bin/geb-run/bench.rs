//! `geb-run bench`: prefill and decode speed, with what is needed to judge them: instruction
//! level, kernel, threads, bytes read per token, spread.

use std::time::{Duration, Instant};

use geb::Dtype;
use geb::session::{Session, Want};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::progress::Progress;
use crate::random_model;
use crate::report::{self, Failure, Outcome, bytes, count, out, rate, seconds};

/// Measurements of one kind, in tokens per second.
#[derive(Clone, Debug, Default)]
pub struct Rates(Vec<f64>);

impl Rates {
    /// Adds a measurement.
    pub fn push(&mut self, tokens: usize, start: Instant) {
        self.push_elapsed(tokens, start.elapsed());
    }

    /// Adds a measurement that has ended.
    pub fn push_elapsed(&mut self, tokens: usize, elapsed: Duration) {
        self.0.push(tokens as f64 / elapsed.as_secs_f64().max(1e-9));
    }

    /// Middle value (mean of the two middle ones); `None` without measurements.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
    }

    fn min(&self) -> Option<f64> {
        self.0.iter().copied().min_by(f64::total_cmp)
    }

    fn max(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs, interrupt: &Interrupt) -> Outcome {
    if args.prompt == 0 && args.decode == 0 {
        return Err(Failure::usage("nothing to measure: -p and -n are both 0"));
    }
    let mut loaded = open(args, interrupt)?;
    let mut progress = Progress::new("bench", "runs", &args.output);
    let (mut prefill, mut decode) = (Rates::default(), Rates::default());
    let total = args.reps as usize + 1;
    for rep in 0..total {
        let measured = interrupt.during(|| one_round(&mut loaded.session, args));
        interrupt.check()?;
        let (p, d) = measured.map_err(|e| load::at(&loaded.opened.path, e))?;
        // The first round warms up: it reads the file from disk and fills the caches.
        if rep > 0 {
            prefill.0.extend(p.0);
            decode.0.extend(d.0);
        }
        progress.update(rep + 1, total);
    }
    drop(progress);
    let read = loaded.session.model().bytes_per_token();
    if args.json {
        report::out_line(&to_json(args, &loaded, &prefill, &decode, read).to_string())
    } else {
        out(&to_text(args, &loaded, &prefill, &decode, read))
    }
}

fn open(args: &BenchArgs, interrupt: &Interrupt) -> Outcome<Loaded> {
    let started = Instant::now();
    let opened = match args.shape {
        None => load::open(&args.model, None)?,
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
            interrupt
                .during(|| random_model::make(shape, dtype, args.save.as_deref(), interrupt))?
        }
    };
    let mut cpu = args.cpu.clone();
    // No more context than needed: its memory would be counted.
    let needed = args.prompt.max(args.decode + 1);
    cpu.ctx = cpu.ctx.or(u32::try_from(needed).ok());
    load::load(opened, &cpu, interrupt, started)
}

/// One prefill and one decode measurement, as far as asked for.
fn one_round(session: &mut Session, args: &BenchArgs) -> geb::Result<(Rates, Rates)> {
    let (mut prefill, mut decode) = (Rates::default(), Rates::default());
    if args.prompt > 0 {
        prefill.push(args.prompt, measure_prefill(session, args.prompt)?);
    }
    if args.decode > 0 {
        decode.push(args.decode, measure_decode(session, args.decode)?);
    }
    Ok((prefill, decode))
}

/// Evaluates `n` tokens at once; returns when it started.
pub fn measure_prefill(session: &mut Session, n: usize) -> geb::Result<Instant> {
    let ids = some_ids(session, n);
    session.reset();
    let start = Instant::now();
    session.forward(&ids, Want::Last)?;
    Ok(start)
}

/// Evaluates `n` tokens one by one after a first one; returns when it started.
pub fn measure_decode(session: &mut Session, n: usize) -> geb::Result<Instant> {
    let ids = some_ids(session, n + 1);
    session.reset();
    session.forward(&ids[..1], Want::Last)?;
    let start = Instant::now();
    for id in &ids[1..] {
        session.forward(&[*id], Want::Last)?;
    }
    Ok(start)
}

/// Ids spread over the vocabulary, the same ones in every run.
fn some_ids(session: &Session, n: usize) -> Vec<u32> {
    let vocab = session.model().config().vocab as u64;
    (0..n as u64)
        .map(|i| (i.wrapping_mul(2_654_435_761) % vocab) as u32)
        .collect()
}

fn gb_s(decode: &Rates, read: u64) -> Option<f64> {
    decode.median().map(|tok_s| tok_s * read as f64 / 1e9)
}

fn to_text(
    args: &BenchArgs,
    loaded: &Loaded,
    prefill: &Rates,
    decode: &Rates,
    read: u64,
) -> String {
    let file = &loaded.opened.file;
    let session = &loaded.session;
    let parameters: u64 = file.tensors().map(|t| t.info().elements()).sum();
    let main = load::main_type(file);
    let kernel = kernel_name(session, main);
    let speed = |rates: &Rates| {
        let show = |v: Option<f64>| v.map_or("-".into(), rate);
        let spread = format!("{} .. {}", show(rates.min()), show(rates.max()));
        format!(
            "{:>7} tok/s   (median of {}; {spread})",
            show(rates.median()),
            rates.0.len()
        )
    };
    let mut text = format!(
        "model      {}\n           {} parameters, {main}, {}\nmachine    {}, kernel {kernel}, {} threads\n",
        loaded.opened.path.display(),
        count(parameters),
        bytes(file.data().len() as u64),
        session.kernels().level().name(),
        session.threads(),
    );
    if args.prompt > 0 {
        text.push_str(&format!("prefill {:<5}{}\n", args.prompt, speed(prefill)));
    }
    if args.decode > 0 {
        let bandwidth =
            gb_s(decode, read).map_or(String::new(), |g| format!("   {g:.1} GB/s of weights"));
        text.push_str(&format!(
            "decode  {:<5}{}{bandwidth}\n",
            args.decode,
            speed(decode)
        ));
    }
    let peak = report::peak_memory_bytes().map_or("unknown".into(), bytes);
    text.push_str(&format!(
        "load {}, peak memory {peak}\n",
        seconds(loaded.load)
    ));
    text
}

fn kernel_name(session: &Session, main: &str) -> &'static str {
    Dtype::from_name(main).map_or("?", |t| session.kernels().name(t))
}

fn to_json(args: &BenchArgs, loaded: &Loaded, prefill: &Rates, decode: &Rates, read: u64) -> Value {
    let file = &loaded.opened.file;
    let session = &loaded.session;
    let main = load::main_type(file);
    let parameters: u64 = file.tensors().map(|t| t.info().elements()).sum();
    json!({
        "model": loaded.opened.path,
        "type": main,
        "parameters": parameters,
        "file_bytes": file.data().len(),
        "isa": session.kernels().level().name(),
        "kernel": kernel_name(session, main),
        "threads": session.threads(),
        "reps": args.reps,
        "prompt_tokens": args.prompt,
        "decode_tokens": args.decode,
        "prefill_tok_s": prefill.median(),
        "prefill_tok_s_min": prefill.min(),
        "prefill_tok_s_max": prefill.max(),
        "prefill_all": prefill.0,
        "decode_tok_s": decode.median(),
        "decode_tok_s_min": decode.min(),
        "decode_tok_s_max": decode.max(),
        "decode_all": decode.0,
        "decode_bytes_per_token": read,
        "decode_gb_s": gb_s(decode, read),
        "load_s": loaded.load.as_secs_f64(),
        "peak_memory_bytes": report::peak_memory_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread() {
        let rates = Rates(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!(
            (rates.median(), rates.min(), rates.max()),
            (Some(2.5), Some(1.0), Some(10.0))
        );
        assert_eq!(Rates::default().median(), None);
    }
}
