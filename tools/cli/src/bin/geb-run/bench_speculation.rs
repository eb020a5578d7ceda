//! `geb-run bench --speculation`: the same answers with and without guessing ahead, in turn, on a text that
//! repeats itself and on one that does not. Guessing starts without experience in every round.

use std::ops::ControlFlow;
use std::time::Instant;

use geb::generate::{GenerateOptions, Generated, generate_with};
use geb::sampler::SamplerOptions;
use geb::speculate::{Speculation, SpeculationStats};
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::progress::Progress;
use crate::rates::Rates;
use crate::report::{self, Failure, Outcome, out, rate, table};
use crate::speculate;

/// A passage that models copy when they have seen it twice.
const PASSAGE: &str = "And the king said unto the people, Go up to the house of the LORD, and take \
with you the silver and the gold, and the oil, and the corn, and the wine. And the people did as \
the king had said, and they went up early in the morning. ";
/// The beginning of a text that goes its own way.
const OPENING: &str = "And it came to pass in those days, that";

/// One kind of text, measured.
struct Row {
    name: &'static str,
    plain: Rates,
    guessed: Rates,
    /// Speed with over speed without, per round.
    ratios: Rates,
    stats: SpeculationStats,
}

/// Runs the measurement.
pub fn run(args: &BenchArgs, interrupt: &Interrupt) -> Outcome {
    if args.decode < 2 {
        return Err(Failure::usage(
            "-n is less than 2: there is nothing to time",
        ));
    }
    let started = Instant::now();
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let mut loaded =
        load::load_to_guess(opened, &args.cpu, args.speculate.heads, interrupt, started)?;
    let mut guesses = speculate::sources(&args.speculate, &args.cpu, &loaded, interrupt)?;
    let texts = [
        (
            "repeats itself",
            format!("{PASSAGE}{PASSAGE}And the king"),
            SamplerOptions::greedy(),
        ),
        (
            "goes its own way",
            OPENING.to_owned(),
            SamplerOptions {
                seed: 1,
                ..SamplerOptions::default()
            },
        ),
    ];
    let mut rows = Vec::new();
    for (name, text, sampling) in texts {
        let encode = Encode {
            add_special: true,
            parse_special: false,
        };
        let prompt = tokenizer.encode(&text, encode)?;
        let options = GenerateOptions {
            max_tokens: args.decode,
            sampling,
            ignore_eos: true,
            cancel: Some(interrupt.flag()),
            ..Default::default()
        };
        let mut bench = Bench {
            loaded: &mut loaded,
            tokenizer: &tokenizer,
            prompt: &prompt,
            options: &options,
        };
        rows.push(bench.row(name, &mut guesses, args, interrupt)?);
    }
    if args.json {
        report::out_line(&to_json(args, &loaded, &guesses, &rows).to_string())
    } else {
        out(&to_text(&loaded, &rows))
    }
}

/// What is generated again and again.
struct Bench<'a> {
    loaded: &'a mut Loaded,
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    options: &'a GenerateOptions,
}

impl Bench<'_> {
    fn row(
        &mut self,
        name: &'static str,
        guesses: &mut Speculation,
        args: &BenchArgs,
        interrupt: &Interrupt,
    ) -> Outcome<Row> {
        let mut row = Row {
            name,
            plain: Rates::default(),
            guessed: Rates::default(),
            ratios: Rates::default(),
            stats: SpeculationStats::default(),
        };
        let mut progress = Progress::new(name, "runs", &args.output);
        let total = args.reps as usize + 1;
        for rep in 0..total {
            guesses.forget();
            let plain = &mut Speculation::off();
            // Who is first changes, so that a trend in the machine's speed cancels out.
            let (a, b) = if rep % 2 == 0 {
                let a = self.generate(plain, interrupt)?;
                (a, self.generate(guesses, interrupt)?)
            } else {
                let b = self.generate(guesses, interrupt)?;
                (self.generate(plain, interrupt)?, b)
            };
            if a.ids != b.ids {
                return Err(Failure::new(
                    "the text with guesses is another one: this is a bug",
                ));
            }
            let speeds = a.timings.decode_tok_s().zip(b.timings.decode_tok_s());
            if let Some((plain, guessed)) = speeds.filter(|_| rep > 0) {
                row.plain.add(plain);
                row.guessed.add(guessed);
                row.ratios.add(guessed / plain);
                row.stats.add(&b.timings.speculation);
            }
            progress.update(rep + 1, total);
        }
        Ok(row)
    }

    fn generate(&mut self, guesses: &mut Speculation, interrupt: &Interrupt) -> Outcome<Generated> {
        let Loaded {
            session, opened, ..
        } = &mut *self.loaded;
        session.reset();
        let mut sink = |_: &str| ControlFlow::Continue(());
        let done = interrupt.during(|| {
            generate_with(
                session,
                guesses,
                self.tokenizer,
                self.prompt,
                self.options,
                &mut sink,
            )
        });
        interrupt.check()?;
        done.map_err(|e| load::at(&opened.path, e))
    }
}

fn to_text(loaded: &Loaded, rows: &[Row]) -> String {
    let show = |v: Option<f64>| v.map_or("-".into(), rate);
    let head = [
        "text",
        "plain tok/s",
        "guessing tok/s",
        "ratio",
        "tokens per pass",
        "guesses held",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|r| {
        vec![
            r.name.to_owned(),
            show(r.plain.median()),
            show(r.guessed.median()),
            r.ratios.median().map_or("-".into(), |x| format!("{x:.3}")),
            show(r.stats.tokens_per_pass()),
            format!("{} of {}", r.stats.accepted, r.stats.drafted),
        ]
    }));
    format!(
        "model  {}\nmachine  {}, {} threads; the same text with and without\n{}",
        loaded.opened.path.display(),
        loaded.session.kernels().level().name(),
        loaded.session.threads(),
        table(&lines)
    )
}

fn to_json(args: &BenchArgs, loaded: &Loaded, guesses: &Speculation, rows: &[Row]) -> Value {
    let texts: Vec<Value> = rows
        .iter()
        .map(|r| {
            json!({
                "text": r.name,
                "plain_tok_s": r.plain.median(),
                "guessing_tok_s": r.guessed.median(),
                "ratio": r.ratios.median(),
                "ratios": r.ratios.all(),
                "speculation": speculate::to_json(&r.stats),
            })
        })
        .collect();
    json!({
        "model": loaded.opened.path,
        "isa": loaded.session.kernels().level().name(),
        "threads": loaded.session.threads(),
        "tokens": args.decode,
        "reps": args.reps,
        "sources": guesses.names(),
        "same_text": true,
        "texts": texts,
    })
}
