//! `geb-run eval needle`: what a model finds again in a long context, drawn as a map.

use std::time::{Duration, Instant};

use geb_eval::needle::{Plan, Trial, run as plant};
use serde_json::{Value, json};

use crate::args::NeedleArgs;
use crate::interrupt::Interrupt;
use crate::load;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, colour_on, out_line, raw, seconds};

/// Shortest prompt of the default grid.
const SHORTEST: usize = 512;

/// Prompts of one length and depth.
struct Cell {
    /// Share of needles that were found.
    found: f64,
    /// Mean log-likelihood of the right answers, nats.
    log_prob: f64,
}

struct Run {
    plan: Plan,
    model: String,
    trials: Vec<Trial>,
    time: Duration,
}

/// Runs the command.
pub fn run(args: &NeedleArgs, interrupt: &Interrupt) -> Outcome {
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let mut loaded = load::load(opened, &args.cpu, interrupt, Instant::now())?;
    load::one_text(loaded.session.model(), &loaded.opened.path)?;
    let path = &loaded.opened.path;
    let plan = plan(args, loaded.session.ctx())?;
    let mut progress = Progress::new("needles", "prompts", &args.output);
    let (mut trials, total) = (Vec::new(), plan.trials());
    let mut observe = |trial| {
        trials.push(trial);
        progress.update(trials.len(), total);
        !interrupt.pressed()
    };
    let started = Instant::now();
    let done = interrupt.during(|| plant(&mut loaded.session, &tokenizer, &plan, &mut observe));
    done.map_err(|e| load::at(path, e))?;
    drop(progress);
    let run = Run {
        plan,
        model: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        trials,
        time: started.elapsed(),
    };
    if args.json {
        out_line(&run.json().to_string())
    } else {
        raw(&run.text(colour_on(&std::io::stdout())))
    }
}

/// The lengths asked for, in increasing order; else doubled ones up to the context.
pub fn lengths(asked: &[usize], ctx: usize) -> Outcome<Vec<usize>> {
    let doubled = std::iter::successors(Some(SHORTEST), |n| n.checked_mul(2));
    let mut lengths = match asked {
        [] => doubled.take_while(|n| *n <= ctx).collect(),
        given => given.to_vec(),
    };
    lengths.sort_unstable();
    lengths.dedup();
    if lengths.is_empty() {
        lengths.push(ctx);
    }
    if let Some(length) = lengths.last().filter(|l| **l > ctx) {
        return Err(Failure::usage(format!(
            "--lengths {length} does not fit the context of {ctx}"
        ))
        .hint("raise it with --ctx, if the model was trained for more"));
    }
    Ok(lengths)
}

fn plan(args: &NeedleArgs, ctx: usize) -> Outcome<Plan> {
    let lengths = lengths(&args.lengths, ctx)?;
    let mut depths = args.depths.clone();
    depths.sort_unstable();
    depths.dedup();
    let text = args.text.as_ref();
    Ok(Plan {
        lengths,
        depths: depths.iter().map(|d| f64::from(*d) / 100.0).collect(),
        needles: args.needles,
        haystack: text
            .map(|p| load::read_text(p, geb::limits::MAX_TEXT_BYTES))
            .transpose()?,
    })
}

impl Run {
    fn cell(&self, length: usize, depth: f64) -> Cell {
        let inside = |t: &&Trial| t.length == length && t.depth == depth;
        let trials: Vec<&Trial> = self.trials.iter().filter(inside).collect();
        let mean = |value: fn(&Trial) -> f64| {
            trials.iter().map(|t| value(t)).sum::<f64>() / trials.len() as f64
        };
        Cell {
            found: mean(|t| f64::from(u8::from(t.found))),
            log_prob: mean(|t| t.log_prob),
        }
    }

    fn text(&self, colour: bool) -> String {
        let found = self.trials.iter().filter(|t| t.found).count();
        let (total, needles) = (self.trials.len(), self.plan.needles);
        let (time, model) = (seconds(self.time), &self.model);
        let number = |n: usize| if n == 1 { "needle" } else { "needles" };
        let mut text = format!(
            "{model}: {found} of {total} {} found, {needles} per cell, in {time}\n\nfound, %\n",
            number(total)
        );
        text.push_str(&self.map(colour, |cell| {
            (cell.found, format!("{:.0}", 100.0 * cell.found))
        }));
        text.push_str("\nlog-likelihood of the answer, nats\n");
        // Shaded by the probability of the answer's geometric mean per digit, five of them.
        let shade = |cell: &Cell| ((cell.log_prob / 5.0).exp(), short(cell.log_prob));
        text.push_str(&self.map(colour, shade));
        text
    }

    /// Depths downwards, lengths to the right.
    fn map(&self, colour: bool, show: impl Fn(&Cell) -> (f64, String)) -> String {
        let mut text = String::new();
        for &depth in &self.plan.depths {
            text.push_str(&format!("{:>5.0} % ", 100.0 * depth));
            for &length in &self.plan.lengths {
                let (share, label) = show(&self.cell(length, depth));
                text.push_str(&shaded(colour, share, &label));
            }
            text.push('\n');
        }
        text.push_str("  depth ");
        for length in &self.plan.lengths {
            text.push_str(&format!("{length:>8}"));
        }
        text + "  tokens\n"
    }

    fn json(&self) -> Value {
        let lengths = self.plan.lengths.iter();
        let pairs = lengths.flat_map(|l| self.plan.depths.iter().map(|d| (*l, *d)));
        let cells = pairs.map(|(length, depth)| {
            let cell = self.cell(length, depth);
            json!({ "length": length, "depth": depth, "found": cell.found, "log_prob": cell.log_prob })
        });
        json!({
            "model": self.model,
            "needles": self.plan.needles,
            "seconds": self.time.as_secs_f64(),
            "cells": cells.collect::<Vec<_>>(),
            "trials": self.trials,
        })
    }
}

/// A log-likelihood in at most five columns.
fn short(log_prob: f64) -> String {
    let decimals = usize::from(log_prob > -99.95);
    format!("{log_prob:.decimals$}")
}

/// Eight columns: in colour from red over yellow to green, else with a block of five densities.
fn shaded(colour: bool, share: f64, label: &str) -> String {
    let share = share.clamp(0.0, 1.0);
    if colour {
        // The diagonal of the 6 × 6 × 6 colours between red and green.
        let (red, green) = if share < 0.5 {
            (5, (10.0 * share) as u8)
        } else {
            ((10.0 - 10.0 * share) as u8, 5)
        };
        let index = 16 + 36 * red + 6 * green;
        return format!("\x1b[30;48;5;{index}m{label:>7} \x1b[0m");
    }
    let block = [' ', '░', '▒', '▓', '█'][(share * 4.0).round() as usize];
    format!("{:>8}", format!("{block}{block} {label:>4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_eight_columns_wide() {
        for share in [0.0, 0.3, 0.5, 0.99, 1.0] {
            let plain = shaded(false, share, "-12.3");
            assert_eq!(plain.chars().count(), 8, "{plain:?}");
            let coloured = shaded(true, share, "-12.3");
            let shown = coloured
                .split('m')
                .nth(1)
                .and_then(|s| s.strip_suffix("\x1b[0"));
            assert_eq!(shown.map(|s| s.chars().count()), Some(8), "{coloured:?}");
        }
    }

    #[test]
    fn colours_go_from_red_to_green() {
        let index = |share| {
            shaded(true, share, "")
                .split(['m', ';'])
                .nth(3)
                .map(str::to_owned)
        };
        let numbers = [0.0, 0.5, 1.0].map(index);
        assert_eq!(numbers, ["196", "226", "46"].map(|n| Some(n.to_owned())));
    }
}
