//! `geb-quantize`: checkpoint folders and GGUF files to quantized GGUF files.
//!
//! Glue only: `args` is what was typed, `work` turns it into options of `geb::convert` and runs
//! them, `show` prints reports. Errors become one line on standard error and an exit code.

mod args;
mod show;
mod work;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use geb::shown::Shown;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // A second Ctrl-C does not wait; what it leaves behind, the next run removes.
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if let Err(e) = handler {
        eprintln!("geb-quantize: warning: Ctrl-C will not clean up: {e}");
    }
    let result = match (cli.command, cli.files.zip(cli.how)) {
        (Some(args::Command::Probe(probe)), _) => work::probe(&probe, &stop),
        (Some(args::Command::Verify(verify)), _) => work::verify(&verify),
        (Some(args::Command::Adapter(adapter)), _) => work::adapter(&adapter),
        (Some(args::Command::Merge(merge)), _) => work::merge(&merge, &stop),
        (None, Some((files, how))) => work::convert(&files, &how, &cli.layout, &stop),
        (None, None) => unreachable!("clap requires SOURCE without a subcommand"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let hint = match e {
                geb::Error::Occupied { .. } => " (--force replaces it)",
                _ => "",
            };
            eprintln!("geb-quantize: {}{hint}", Shown::lines(&e.to_string()));
            ExitCode::from(e.exit_code() as u8)
        }
    }
}
