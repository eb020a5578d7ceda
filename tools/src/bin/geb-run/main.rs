//! `geb-run`: run a language model on the CPU. See `geb-run --help`.
//!
//! `args` is what was typed; every command has its module; `report` is what the user reads.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod bench_speculation;
mod chat;
mod choice;
mod commands;
mod compare;
mod compress;
mod cpu_share;
mod demo;
mod embed;
mod eval;
mod generate;
mod imatrix;
mod input;
mod inspect;
mod interrupt;
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
mod report;
mod scores;
mod screen;
mod several;
mod speculate;
mod systems;
mod tokenize;
mod tune;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use interrupt::Interrupt;
use report::Outcome;

fn main() {
    std::process::exit(start());
}

/// Parses, runs, and turns the outcome into an exit code.
fn start() -> i32 {
    let typed = with_default_command(std::env::args_os().collect());
    let command = Cli::command()
        .version(&*version().leak())
        .mut_subcommands(threads_help);
    let parsed = command
        .try_get_matches_from(typed)
        .and_then(|m| Cli::from_arg_matches(&m));
    match parsed {
        Ok(cli) => match run(&cli.command) {
            Ok(()) => 0,
            Err(failure) => failure.print(),
        },
        Err(e) => {
            // Printing to a closed stream is no failure.
            _ = e.print();
            e.exit_code()
        }
    }
}

fn run(command: &Command) -> Outcome {
    geb::mmap::install_sigbus_handler();
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
        Command::Compare(args) => compare::run(args, &interrupt),
        Command::Tune(args) => tune::run(args, &interrupt),
        Command::Probe(args) => probe::run(args, &interrupt),
        Command::Compress(args) => compress::run(args, &interrupt),
        Command::Decompress(args) => compress::undo(args, &interrupt),
        Command::Imatrix(args) => imatrix::run(args, &interrupt),
        Command::Pull(args) => pull::run(args),
        Command::Demo(args) => demo::run(args, &interrupt),
        Command::Systems(args) => systems::run(args),
    }
}

/// `geb-run MODEL …` and `geb-run` alone mean `geb-run chat …`.
fn with_default_command(mut typed: Vec<OsString>) -> Vec<OsString> {
    let own = |word: &str| {
        Command::NAMES.contains(&word) || matches!(word, "-h" | "--help" | "-V" | "--version")
    };
    let is_own = typed.get(1).and_then(|w| w.to_str()).is_some_and(own);
    if !is_own {
        typed.insert(1.min(typed.len()), "chat".into());
    }
    typed
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

    fn words(line: &str) -> Vec<String> {
        let typed = line.split(' ').map(OsString::from).collect();
        with_default_command(typed)
            .into_iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_model_alone_means_chat() {
        assert_eq!(words("geb-run smollm2"), ["geb-run", "chat", "smollm2"]);
        assert_eq!(words("geb-run"), ["geb-run", "chat"]);
        assert_eq!(
            words("geb-run -m x.gguf"),
            ["geb-run", "chat", "-m", "x.gguf"]
        );
        assert_eq!(words("geb-run bench -m x"), ["geb-run", "bench", "-m", "x"]);
        assert_eq!(words("geb-run --help"), ["geb-run", "--help"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let names: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|c| c.get_name().to_owned())
            .collect();
        assert_eq!(names, Command::NAMES);
    }
}
