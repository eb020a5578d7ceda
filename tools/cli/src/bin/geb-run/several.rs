//! `geb-run generate --beams` and `--best-of`: several answers, best first.

use std::io::IsTerminal;
use std::time::Instant;

use geb::generate::{BeamOptions, GenerateOptions, Sequence, StopReason, beam_search, best_of};
use geb::speculate::Speculation;
use geb::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::args::GenerateArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::report::{self, Failure, Outcome, dim, seconds};
use crate::screen::{Screen, printable};

/// Answers the prompt as `--beams` or `--best-of` say.
pub fn run(
    args: &GenerateArgs,
    loaded: &mut Loaded,
    (ids, tokenizer): (&[u32], &Tokenizer),
    (guesses, options): (&mut Speculation, GenerateOptions),
    interrupt: &Interrupt,
) -> Outcome {
    let asked = &args.several;
    if asked.best_of.is_some_and(|n| n > 1) && args.sampling.temp == 0.0 {
        return Err(
            Failure::usage("--best-of with --temp 0 gives one answer N times")
                .hint("raise --temp, or use --beams"),
        );
    }
    let mut screen = Screen::new(true, &args.output);
    let (started, seed) = (Instant::now(), options.sampling.seed);
    let session = &mut loaded.session;
    let sequences = interrupt.during(|| match asked.beams {
        Some(beams) => {
            let options = BeamOptions {
                beams: beams as usize,
                max_tokens: options.max_tokens,
                length_penalty: asked.length_penalty,
                ignore_eos: options.ignore_eos,
                cancel: options.cancel,
            };
            beam_search(session, tokenizer, ids, &options, &mut screen)
        }
        None => {
            let how = (asked.best_of.unwrap_or(1) as usize, asked.length_penalty);
            best_of(session, guesses, tokenizer, ids, &options, how, &mut screen)
        }
    });
    screen.finish()?;
    let sequences = sequences.map_err(|e| load::at(&loaded.opened.path, e))?;
    let kept = &sequences[..sequences.len().min(asked.keep as usize)];
    if args.json {
        let value = json!({
            "model": loaded.opened.path,
            "prompt_ids": ids,
            "seed": asked.best_of.map(|_| seed),
            "length_penalty": asked.length_penalty,
            "sequences": sequences.iter().map(to_json).collect::<Vec<_>>(),
            "seconds": started.elapsed().as_secs_f64(),
            "peak_memory_bytes": report::peak_memory_bytes(),
            "threads": loaded.session.threads(),
            "isa": loaded.session.kernels().level().name(),
        });
        report::out_line(&value.to_string())?;
    } else {
        for (i, s) in kept.iter().enumerate() {
            if asked.keep > 1 {
                report::out_line(&format!(
                    "--- {} of {}: {}",
                    i + 1,
                    sequences.len(),
                    line(s)
                ))?;
            }
            match std::io::stdout().is_terminal() {
                true => report::out_line(&printable(&s.text))?,
                false => report::out_line(&s.text)?,
            }
        }
        if !args.output.quiet {
            let best = kept.first().map_or(String::new(), line);
            let time = seconds(started.elapsed());
            dim(format_args!(
                "[best of {}: {best} · {time}]",
                sequences.len()
            ));
        }
    }
    match sequences.iter().any(|s| s.reason == StopReason::Cancelled) {
        true => Err(Failure::interrupted()),
        false => Ok(()),
    }
}

fn line(s: &Sequence) -> String {
    format!(
        "score {:.4}, log-probability {:.4}, {} tokens, {}",
        s.score,
        s.log_prob,
        s.ids.len(),
        s.reason.name()
    )
}

fn to_json(s: &Sequence) -> Value {
    json!({
        "ids": s.ids,
        "text": s.text,
        "log_prob": s.log_prob,
        "score": s.score,
        "stop_reason": s.reason.name(),
    })
}
