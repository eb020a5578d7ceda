//! `geb-run`: run a language model on the CPU. See `geb-run --help`.
//!
//! `args` is what was typed; every command has its module; `report` is what the user reads.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod args;
mod batch;
mod bench;
mod bench_speculation;
mod chat;
mod choice;
mod commands;
mod compare;
mod compress;
mod constraint;
mod conversation;
mod cpu_share;
mod demo;
mod embed;
mod eval;
mod generate;
mod imatrix;
mod input;
mod inspect;
mod interrupt;
mod known;
mod limits;
mod load;
mod logits;
mod model_path;
mod needle;
mod outputs;
mod probe;
mod progress;
mod pull;
mod random_model;
mod rates;
mod report;
mod rows;
mod scores;
mod screen;
mod seed;
mod serve;
mod settings;
mod several;
mod shape;
mod speculate;
mod streams;
mod systems;
mod tokenize;
mod tune;
mod words;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use geb_cli::shield;
use interrupt::Interrupt;
use report::{Failure, Outcome};

fn main() {
    std::process::exit(shield::run("error:", start));
}

/// Parses, runs, and turns the outcome into an exit code.
fn start() -> i32 {
    let outcome = match words::meant(std::env::args_os().collect()) {
        Ok(typed) => parse(typed),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => 0,
        Err(failure) => failure.print(),
    }
}

/// Runs what the words say.
fn parse(typed: Vec<OsString>) -> Outcome {
    let command = command().version(&*version().leak());
    let parsed = command
        .try_get_matches_from(typed)
        .and_then(|m| Cli::from_arg_matches(&m));
    match parsed {
        Ok(cli) => run(&cli.command),
        // A closed stdout is no failure, a full disk is.
        Err(e) => match e.print() {
            Err(io) if !e.use_stderr() => Err(Failure::from(io).at("standard output")),
            _ => Err(Failure::said(e.exit_code())),
        },
    }
}

/// The command line with what only this machine knows, and with negative numbers as values.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(numbers)
}

/// Lets every value be a negative number: what is allowed is said by the flag, not by the parser.
fn numbers(command: clap::Command) -> clap::Command {
    let negative = |arg: clap::Arg| {
        let takes = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes)
    };
    threads_help(command)
        .mut_args(negative)
        .mut_subcommands(numbers)
}

fn run(command: &Command) -> Outcome {
    let interrupt = Interrupt::install();
    match command {
        Command::Chat(args) => chat::run(args, &interrupt),
        Command::Generate(args) => generate::run(args, &interrupt),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Logits(args) => logits::run(args, &interrupt),
        Command::Eval(args) => eval::run(args, &interrupt),
        Command::Scores(args) => scores::run(args, &interrupt),
        Command::Embed(args) => embed::run(args, &interrupt),
        Command::Bench(args) => bench::run(args, &interrupt),
        Command::Batch(args) => batch::run(args, &interrupt),
        Command::Serve(args) => serve::run(args, &interrupt),
        Command::Compare(args) => compare::run(args, &interrupt),
        Command::Tune(args) => tune::run(args, &interrupt),
        Command::Probe(args) => probe::run(args, &interrupt),
        Command::Compress(args) => compress::run(args, &interrupt),
        Command::Decompress(args) => compress::undo(args, &interrupt),
        Command::Imatrix(args) => imatrix::run(args, &interrupt),
        Command::Pull(args) => pull::run(args),
        Command::Demo(args) => demo::run(args, &interrupt),
        Command::Systems(args) => systems::run(args),
        Command::List => model_path::list(),
    }
}

/// Version, instruction level, threads.
fn version() -> String {
    let kernels = geb::kernels::Kernels::best();
    let level = kernels.as_ref().map_or("unknown", |k| k.level().name());
    format!(
        "{} ({level}, {} threads)",
        env!("CARGO_PKG_VERSION"),
        geb::threads::default_threads()
    )
}

/// Puts the number of threads of this machine into the help of `--threads`.
fn threads_help(command: clap::Command) -> clap::Command {
    if !command.get_arguments().any(|a| a.get_id() == "threads") {
        return command;
    }
    let help = format!(
        "Worker threads [default: {}, the cores this process may use, or what `geb-run tune` found]",
        geb::threads::default_threads()
    );
    command.mut_arg("threads", |a| a.help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
        let names: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|c| c.get_name().to_owned())
            .collect();
        assert_eq!(names, Command::NAMES);
    }
}
