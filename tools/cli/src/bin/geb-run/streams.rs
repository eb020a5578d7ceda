//! `geb-run bench --streams`: many requests at once, as a server has them.

use std::time::{Duration, Instant};

use geb::engine::Engine;
use geb::generate::GenerateOptions;
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::scheduler::{Event, Handle, Request, Scheduler, SchedulerOptions, SchedulerStats};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Opened};
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, out, rate, seconds};

/// What one request saw.
#[derive(Default)]
struct Seen {
    /// From handing it over to its first token.
    first: Duration,
    /// Between two tokens.
    gaps: Vec<Duration>,
    error: Option<geb::Error>,
}

/// What was measured with so many requests at once, over all rounds.
struct Row {
    streams: usize,
    /// Tokens of all requests per second, from the first one handed over to the last token; by round.
    total: Vec<f64>,
    /// Tokens after its first one per second, by request.
    each: Vec<f64>,
    first: Vec<f64>,
    gaps: Vec<f64>,
    stats: SchedulerStats,
}

/// Measures with each number of streams.
pub fn run(args: &BenchArgs, opened: &Opened, interrupt: &Interrupt) -> Outcome {
    if args.decode == 0 || args.prompt == 0 {
        return Err(Failure::usage(
            "--streams measures requests of a prompt (-p) and an answer (-n), both at least 1",
        ));
    }
    let at = |e| load::at(&opened.path, e);
    let model = Model::load(opened.file.clone()).map_err(at)?;
    let tokenizer = std::sync::Arc::new(load::tokenizer(opened)?);
    let total = args.streams.len() * (args.reps as usize + 1);
    let mut progress = Progress::new("bench", "rounds", &args.output);
    let (mut rows, mut done) = (Vec::new(), 0);
    for &streams in &args.streams {
        let mut options = load::engine_options(&model, &args.cpu, interrupt)?;
        options.ctx = options.ctx.or(Some(args.prompt + args.decode));
        options.streams = streams;
        let engine = Engine::new(model.clone(), &options).map_err(at)?;
        let how = SchedulerOptions {
            streams,
            queue: streams,
            // Guesses hold in some texts and not in others: they are measured by --speculation.
            guess: false,
            ..SchedulerOptions::default()
        };
        let scheduler = Scheduler::new(engine, tokenizer.clone(), how)?;
        let mut row = Row::new(streams);
        for round in 0..=args.reps as usize {
            let seen = interrupt.during(|| one_round(&scheduler, args, streams, round, interrupt));
            interrupt.check()?;
            let (time, seen) = seen.map_err(at)?;
            // The first round warms up.
            if round > 0 {
                row.add(time, args.decode, seen);
            }
            done += 1;
            progress.update(done, total);
        }
        row.stats = scheduler.stats();
        rows.push(row);
    }
    drop(progress);
    if args.json {
        let rows: Vec<_> = rows.iter().map(|r| r.to_json()).collect();
        let all = json!({
            "model": opened.path,
            "type": load::main_type(&opened.file),
            "prompt_tokens": args.prompt,
            "decode_tokens": args.decode,
            "reps": args.reps,
            "streams": rows,
            "peak_memory_bytes": report::peak_memory_bytes(),
        });
        return report::out_line(&all.to_string());
    }
    out(&to_text(args, opened, &rows))
}

/// All requests at once; the time until the last token of all, and what each saw.
fn one_round(
    scheduler: &Scheduler,
    args: &BenchArgs,
    streams: usize,
    round: usize,
    interrupt: &Interrupt,
) -> geb::Result<(Duration, Vec<Seen>)> {
    let start = Instant::now();
    let mut handles = Vec::with_capacity(streams);
    for stream in 0..streams {
        let request = Request {
            prompt: ids(scheduler.model(), args.prompt, round * streams + stream),
            options: GenerateOptions {
                max_tokens: args.decode,
                sampling: SamplerOptions::greedy(),
                ignore_eos: true,
                ..GenerateOptions::default()
            },
            ..Request::default()
        };
        let handed = Instant::now();
        match scheduler.submit(request) {
            Ok(handle) => handles.push((handed, handle)),
            Err(refusal) => return Err(geb::Error::Panic(refusal.to_string())),
        }
    }
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let watch = |(handed, handle)| scope.spawn(move || watch(handed, handle, interrupt));
        let threads: Vec<_> = handles.into_iter().map(watch).collect();
        let joined = threads.into_iter().map(|t| t.join());
        joined.map(Result::unwrap_or_default).collect()
    });
    let time = start.elapsed();
    let mut whole = Vec::with_capacity(streams);
    for one in seen {
        match one.error {
            Some(error) => return Err(error),
            None => whole.push(one),
        }
    }
    Ok((time, whole))
}

/// Notes when each token came.
fn watch(handed: Instant, handle: Handle, interrupt: &Interrupt) -> Seen {
    let (mut seen, mut last) = (Seen::default(), None);
    for event in handle {
        if interrupt.pressed() {
            break;
        }
        match event {
            Event::Token(_) => {
                let now = Instant::now();
                match last {
                    None => seen.first = now - handed,
                    Some(last) => seen.gaps.push(now - last),
                }
                last = Some(now);
            }
            Event::Failed(error) => seen.error = Some(error),
            _ => {}
        }
    }
    seen
}

/// Ids spread over the vocabulary; no two requests begin alike.
pub fn ids(model: &Model, n: usize, request: usize) -> Vec<u32> {
    let vocab = model.config().vocab as u64;
    let first = (request as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let one = |i: u64| (first.wrapping_add(i.wrapping_mul(2_654_435_761)) >> 7) % vocab;
    (0..n as u64).map(|i| one(i) as u32).collect()
}

/// The value below which so great a share of them lie.
fn at_share(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted
        .get((last * share).round() as usize)
        .copied()
        .unwrap_or(0.0)
}

impl Row {
    fn new(streams: usize) -> Row {
        Row {
            streams,
            total: Vec::new(),
            each: Vec::new(),
            first: Vec::new(),
            gaps: Vec::new(),
            stats: SchedulerStats::default(),
        }
    }

    fn add(&mut self, time: Duration, decode: usize, seen: Vec<Seen>) {
        let tokens = (seen.len() * decode) as f64;
        self.total.push(tokens / time.as_secs_f64());
        for one in seen {
            let decoding: f64 = one.gaps.iter().map(Duration::as_secs_f64).sum();
            if decoding > 0.0 {
                self.each.push(one.gaps.len() as f64 / decoding);
            }
            self.first.push(one.first.as_secs_f64());
            self.gaps.extend(one.gaps.iter().map(Duration::as_secs_f64));
        }
        for list in [
            &mut self.total,
            &mut self.each,
            &mut self.first,
            &mut self.gaps,
        ] {
            list.sort_by(f64::total_cmp);
        }
    }

    /// Share of a processor that the leading thread takes outside of passes.
    fn outside(&self) -> f64 {
        let s = &self.stats;
        let all = (s.passing + s.outside).as_secs_f64();
        s.outside.as_secs_f64() / all.max(1e-9)
    }

    fn to_json(&self) -> Value {
        json!({
            "streams": self.streams,
            "total_tok_s": at_share(&self.total, 0.5),
            "total_all": self.total,
            "stream_tok_s": at_share(&self.each, 0.5),
            "first_token_s": { "p50": at_share(&self.first, 0.5), "p99": at_share(&self.first, 0.99) },
            "inter_token_s": { "p50": at_share(&self.gaps, 0.5), "p99": at_share(&self.gaps, 0.99) },
            "passes": self.stats.steps,
            "rows": self.stats.rows,
            "preemptions": self.stats.preemptions,
            "outside_share": self.outside(),
        })
    }
}

fn to_text(args: &BenchArgs, opened: &Opened, rows: &[Row]) -> String {
    let mut text = format!(
        "model      {}\nrequests   {} tokens in, {} out, all at once; median of {} rounds\n\n",
        opened.path.display(),
        args.prompt,
        args.decode,
        args.reps
    );
    text.push_str(
        "streams   all tok/s   each tok/s   first token p50   p99       next token p50   p99       rows/pass\n",
    );
    for row in rows {
        let time = |list: &[f64], share| seconds(Duration::from_secs_f64(at_share(list, share)));
        let rows = row.stats.rows as f64 / row.stats.steps.max(1) as f64;
        text.push_str(&format!(
            "{:>7} {:>11} {:>12} {:>17}   {:<9} {:>14}   {:<9} {:>9.1}\n",
            row.streams,
            rate(at_share(&row.total, 0.5)),
            rate(at_share(&row.each, 0.5)),
            time(&row.first, 0.5),
            time(&row.first, 0.99),
            time(&row.gaps, 0.5),
            time(&row.gaps, 0.99),
            rows
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_list_are_its_values() {
        let list: Vec<f64> = (0..101).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|s| at_share(&list, s)),
            [0.0, 50.0, 99.0, 100.0]
        );
        assert_eq!(at_share(&[], 0.5), 0.0);
    }
}
