//! From the words that were typed to those of the command line: the default command, and what people type
//! who come from other programs.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use geb_cli::foreign;

use crate::args::{Cli, Command};
use crate::report::{Failure, Outcome, note};

/// What the first word means when it is a command of another program.
enum First {
    /// These words in its place.
    Words(&'static [&'static str]),
    /// There is no such thing; what to do.
    Not(&'static str),
}

const NOTHING_RUNS: &str = "nothing runs in the background: Ctrl-C ends a command";
const CONVERTER: &str = "geb-quantize makes models: geb-quantize CHECKPOINT_FOLDER model.gguf";
const NO_HUB: &str = "nothing is sent or fetched but by geb-run pull";

/// Commands of ollama, llama.cpp and others.
const FOREIGN: &[(&[&str], First)] = &[
    (&["run", "talk", "cli"], First::Words(&["chat"])),
    (&["show", "info", "gguf-dump"], First::Words(&["inspect"])),
    (
        &["completion", "complete", "gen"],
        First::Words(&["generate"]),
    ),
    (&["embedding", "embeddings"], First::Words(&["embed"])),
    (&["benchmark"], First::Words(&["bench"])),
    (
        &["perplexity", "ppl"],
        First::Words(&["eval", "perplexity"]),
    ),
    (&["download", "get", "fetch"], First::Words(&["pull"])),
    (&["ls", "models"], First::Words(&["list"])),
    (&["version"], First::Words(&["--version"])),
    (
        &["server", "api", "start", "launch"],
        First::Words(&["serve"]),
    ),
    (&["ps", "stop", "kill", "status"], First::Not(NOTHING_RUNS)),
    (
        &["create", "quantize", "convert", "import", "merge"],
        First::Not(CONVERTER),
    ),
    (
        &["rm", "delete", "remove", "cp", "copy", "mv"],
        First::Not("models are files: geb-run list shows where they are"),
    ),
    (
        &[
            "push", "login", "logout", "signin", "signout", "whoami", "search",
        ],
        First::Not(NO_HUB),
    ),
    (
        &["train", "finetune", "fine-tune"],
        First::Not("models are run here, not trained; adapters are taken with --lora FILE"),
    ),
    (
        &["update", "upgrade", "install", "uninstall"],
        First::Not("programs are installed with cargo install"),
    ),
];

/// The words of our own command line.
///
/// # Errors
/// One line for a command or flag that there is nothing for.
pub fn meant(typed: Vec<OsString>) -> Outcome<Vec<OsString>> {
    let typed = with_command(typed)?;
    let command = Cli::command();
    // `eval perplexity` has the flags of `perplexity`.
    let mut of = &command;
    for word in typed.iter().skip(1) {
        match word.to_str().and_then(|w| of.find_subcommand(w)) {
            Some(found) => of = found,
            None => break,
        }
    }
    // The text of `tokenize` may look like anything.
    if of.get_name() == "tokenize" {
        return Ok(typed);
    }
    let own = |flag: &str| {
        let long = flag.strip_prefix("--");
        let short = flag.strip_prefix('-').filter(|s| s.chars().count() == 1);
        let short = short.and_then(|s| s.chars().next());
        of.get_arguments().any(|a| match long {
            Some(long) => {
                a.get_long() == Some(long)
                    || a.get_all_aliases().is_some_and(|all| all.contains(&long))
            }
            None => short.is_some() && a.get_short() == short,
        })
    };
    let quiet = typed.iter().any(|w| w == "-q" || w == "--quiet");
    let (words, notes) = foreign::translate(typed, foreign::RUN, &own).map_err(|line| {
        Failure::usage(line)
            .hint("geb-run --help shows the commands, geb-run COMMAND --help their flags")
    })?;
    if !quiet {
        notes.iter().for_each(|n| note(format_args!("note: {n}")));
    }
    Ok(words)
}

/// `geb-run MODEL …` and `geb-run` alone mean `geb-run chat …`.
fn with_command(mut typed: Vec<OsString>) -> Outcome<Vec<OsString>> {
    let first = typed.get(1).and_then(|w| w.to_str()).unwrap_or_default();
    if Command::NAMES.contains(&first) || matches!(first, "-h" | "--help" | "-V" | "--version") {
        return Ok(typed);
    }
    if first == "help" {
        typed.remove(1);
        typed.push("--help".into());
        return Ok(typed);
    }
    // A file of that name is a model.
    let mut all = FOREIGN.iter().filter(|_| !Path::new(first).exists());
    match all.find(|(names, _)| names.contains(&first)) {
        Some((_, First::Words(words))) => {
            typed.splice(1..2, words.iter().map(OsString::from));
        }
        Some((_, First::Not(why))) => {
            return Err(Failure::usage(format!("{first}: no such command; {why}")));
        }
        None => typed.insert(1.min(typed.len()), "chat".into()),
    }
    Ok(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn words(line: &str) -> String {
        let typed = line.split(' ').map(OsString::from).collect();
        let words = meant(typed).expect("understood");
        let words: Vec<_> = words
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        words[1..].join(" ")
    }

    #[test]
    fn a_model_alone_means_chat() {
        assert_eq!(words("geb-run smollm2"), "chat smollm2");
        assert_eq!(words("geb-run"), "chat");
        assert_eq!(words("geb-run -m x.gguf"), "chat -m x.gguf");
        assert_eq!(words("geb-run bench -m x"), "bench -m x");
        assert_eq!(words("geb-run --help"), "--help");
    }

    #[test]
    fn words_of_other_programs_are_ours() {
        assert_eq!(words("geb-run run smollm2 hello"), "chat smollm2 hello");
        assert_eq!(words("geb-run show m.gguf"), "inspect m.gguf");
        assert_eq!(words("geb-run help"), "--help");
        assert_eq!(words("geb-run help bench"), "bench --help");
        assert_eq!(words("geb-run ls"), "list");
        assert_eq!(
            words("geb-run -m m.gguf -cnv -c 0 -ngl 99 -t 2"),
            "chat -m m.gguf -c 0 -t 2"
        );
        assert_eq!(
            words("geb-run generate -m x -p y -b 1 --n-predict 3"),
            "generate -m x -p y --max-tokens 3"
        );
        assert_eq!(
            words("geb-run perplexity -m x -f y -b 1"),
            "eval perplexity -m x -f y"
        );
        assert_eq!(words("geb-run bench -m x -r 3"), "bench -m x -r 3");
        assert_eq!(words("geb-run tokenize -m x -ngl"), "tokenize -m x -ngl");
        assert_eq!(words("geb-run server -m x"), "serve -m x");
        let refused = meant(["geb-run", "stop", "x"].map(OsString::from).to_vec());
        assert_eq!(refused.expect_err("nothing runs").code, 2);
    }
}
