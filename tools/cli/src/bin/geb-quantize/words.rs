//! From the words that were typed to those of the command line: what people type who come from other
//! programs.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use geb_cli::foreign;
use geb_convert::policy::Policy;

use crate::args::Cli;
use crate::show;

/// The command line, with negative numbers as values: what is allowed is said by the flag.
pub fn command() -> clap::Command {
    numbers(Cli::command())
}

fn numbers(command: clap::Command) -> clap::Command {
    let negative = |arg: clap::Arg| {
        let takes = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes)
    };
    command.mut_args(negative).mut_subcommands(numbers)
}

/// The words of our own command line.
///
/// # Errors
/// One line for what there is nothing for.
pub fn meant(mut typed: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let command = Cli::command();
    let first = typed
        .get(1)
        .and_then(|w| w.to_str())
        .unwrap_or_default()
        .to_owned();
    match first.as_str() {
        "convert" | "quantize" if !Path::new(&first).exists() => _ = typed.remove(1),
        "version" if typed.len() == 2 => typed[1] = "--version".into(),
        "help" if typed.len() == 2 => typed[1] = "--help".into(),
        "inspect" | "show" | "info" | "run" | "chat" | "bench" | "generate" | "compare"
            if !Path::new(&first).exists() =>
        {
            let program = if matches!(first.as_str(), "show" | "info") {
                "inspect"
            } else {
                &first
            };
            let program = if program == "run" { "chat" } else { program };
            return Err(format!(
                "{first}: no such command; geb-run {program} does that"
            ));
        }
        _ => {}
    }
    let of = command.find_subcommand(&first).unwrap_or(&command);
    let own = |flag: &str| {
        let (long, short) = (
            flag.strip_prefix("--"),
            flag.strip_prefix('-').filter(|s| s.len() == 1),
        );
        let short = short.and_then(|s| s.chars().next());
        of.get_arguments().any(|a| match long {
            Some(long) => a.get_long() == Some(long),
            None => short.is_some() && a.get_short() == short,
        })
    };
    let (mut words, notes) = foreign::translate(typed, foreign::QUANTIZE, &own)?;
    notes
        .iter()
        .for_each(|n| show::say(format_args!("note: {n}")));
    if of.get_name() == command.get_name() {
        type_as_third(&mut words);
    }
    Ok(words)
}

/// `geb-quantize IN OUT Q4_K_M 8` as llama-quantize is called.
fn type_as_third(words: &mut Vec<OsString>) {
    let is_type = |w: &OsString| {
        w.to_str()
            .is_some_and(|w| Policy::named(w).is_ok() && !Path::new(w).exists())
    };
    let named = words.iter().any(|w| {
        w.to_str()
            .is_some_and(|w| w == "-t" || w.starts_with("--type"))
    });
    let plain = |w: &OsString| !w.as_encoded_bytes().starts_with(b"-");
    let threads = |w: &OsString| w.to_str().is_some_and(|w| w.parse::<u16>().is_ok());
    if named || words.len() < 4 || !words.iter().rev().take(3).all(plain) {
        return;
    }
    let at = words.len() - 1;
    let (at, count) = if threads(&words[at]) && words.len() > 4 {
        (at - 1, 1)
    } else {
        (at, 0)
    };
    if is_type(&words[at]) {
        words.insert(at, "--type".into());
        if count == 1 {
            words.insert(at + 2, "--threads".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn words(line: &str) -> String {
        let words = meant(line.split(' ').map(OsString::from).collect()).expect("understood");
        let words: Vec<_> = words
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        words[1..].join(" ")
    }

    #[test]
    fn words_of_other_programs_are_ours() {
        assert_eq!(words("q in out --outtype q8_0"), "in out --type q8_0");
        assert_eq!(words("q --outfile out in"), "in out");
        assert_eq!(words("q in out Q4_K_M"), "in out --type Q4_K_M");
        assert_eq!(
            words("q --pure in out q4_0 8"),
            "--pure in out --type q4_0 --threads 8"
        );
        assert_eq!(words("q in out --type q8_0"), "in out --type q8_0");
        assert_eq!(words("q convert in out"), "in out");
        assert_eq!(words("q help"), "--help");
        assert_eq!(words("q verify f16"), "verify f16");
        assert!(
            meant(["q", "run", "x"].map(OsString::from).to_vec())
                .is_err_and(|e| e.contains("geb-run chat"))
        );
        command().debug_assert();
    }
}
