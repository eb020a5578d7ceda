//! `geb-quantize`: checkpoint folders and GGUF files to quantized GGUF files.
//!
//! Glue only: `args` is what was typed, `work` turns it into options of `geb_convert` and runs
//! them, `show` prints reports. Errors become one line on standard error and an exit code.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod show;
mod words;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::FromArgMatches;
use geb_cli::{errors, shield};

fn main() {
    std::process::exit(shield::run("geb-quantize:", start));
}

/// Parses, runs, and turns the outcome into an exit code.
fn start() -> i32 {
    let typed = match words::meant(std::env::args_os().collect()) {
        Ok(typed) => typed,
        Err(line) => {
            show::say(line);
            return 2;
        }
    };
    let parsed = words::command()
        .try_get_matches_from(typed)
        .and_then(|m| args::Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        // A closed standard output is no failure, a full disk is.
        Err(e) => match e.print() {
            Err(io) if !e.use_stderr() && io.kind() != std::io::ErrorKind::BrokenPipe => {
                show::say(format_args!("standard output: {io}"));
                return 1;
            }
            _ => return e.exit_code(),
        },
    };
    match run(cli) {
        Ok(()) => 0,
        Err(e) => {
            show::say(show::failure(&e));
            errors::exit_code(&e)
        }
    }
}

fn run(cli: args::Cli) -> geb::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // A second Ctrl-C does not wait; what it leaves behind, the next run removes.
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if let Err(e) = handler {
        show::say(format_args!("note: Ctrl-C will not clean up: {e}"));
    }
    match (cli.command, cli.files) {
        (Some(args::Command::Probe(probe)), _) => work::probe(&probe, &stop),
        (Some(args::Command::Verify(verify)), _) => work::verify(&verify),
        (Some(args::Command::Adapter(adapter)), _) => work::adapter(&adapter),
        (Some(args::Command::Merge(merge)), _) => work::merge(&merge, &stop),
        (None, Some(files)) => work::convert(&files, &cli.how, &cli.layout, &stop),
        (None, None) => unreachable!("clap requires SOURCE without a subcommand"),
    }
}
