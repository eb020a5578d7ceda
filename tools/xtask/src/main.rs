//! `cargo xtask check`: rules that the compiler does not know, each as a ratchet.
//!
//! A rule finds places (`findings`); `ratchets.json` lists how many each place may have. More than that, or
//! a place that is not listed, fails. Fewer is said, and `cargo xtask check --update` takes it over: the
//! list only shrinks. `cargo xtask circles` says what ties the files of a circle.

#![forbid(unsafe_code)]

mod circles;
mod modules;
mod rules;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use source::Findings;

/// One rule: its name in `ratchets.json`, what it asks, how it looks.
struct Rule {
    name: &'static str,
    asks: &'static str,
    find: fn(&source::Tree) -> Findings,
}

const RULES: &[Rule] = &[
    Rule {
        name: "circles",
        asks: "a type lives below the first file that reads it (files in circles)",
        find: circles::find,
    },
    Rule {
        name: "long_functions",
        asks: "functions have at most 70 lines",
        find: rules::long_functions,
    },
    Rule {
        name: "long_files",
        asks: "files have at most 600 lines",
        find: rules::long_files,
    },
    Rule {
        name: "flags",
        asks: "the library names fields, never flags",
        find: rules::flags,
    },
    Rule {
        name: "tuple_parameters",
        asks: "a parameter is not a tuple to dodge the argument limit",
        find: rules::tuple_parameters,
    },
    Rule {
        name: "vouching",
        asks: "a SAFETY note names the check that makes it true",
        find: rules::vouching,
    },
    Rule {
        name: "unsafe",
        asks: "unsafe lives in the kernels and the module that maps files",
        find: rules::misplaced_unsafe,
    },
    Rule {
        name: "words",
        asks: "one word per thing, and it is the field's word",
        find: rules::words,
    },
];

fn main() -> ExitCode {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
    let done = match typed[..] {
        ["check"] => check(false),
        ["check", "--update"] => check(true),
        ["circles"] => source::Tree::read(&top()).map(|tree| circles::print(&tree)),
        _ => Err("cargo xtask check [--update] | circles".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the checkout: of the one that runs this, which need not be the one that built it.
fn top() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR");
    let here = PathBuf::from(here.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()));
    here.ancestors().nth(2).unwrap_or(&here).to_owned()
}

/// Compares what every rule finds with `ratchets.json`.
fn check(update: bool) -> Result<(), String> {
    let list = top().join("tools/xtask/ratchets.json");
    let mut allowed = read(&list)?;
    let tree = source::Tree::read(&top())?;
    let mut broken = Vec::new();
    println!("{:>6} {:>8}  rule", "found", "allowed");
    for rule in RULES {
        let found = (rule.find)(&tree);
        let before = allowed.get(rule.name).cloned().unwrap_or_default();
        println!(
            "{:>6} {:>8}  {}: {}",
            total(&found),
            total(&before),
            rule.name,
            rule.asks
        );
        for (place, count) in &found {
            let may = before.get(place).copied().unwrap_or(0);
            if *count > may {
                broken.push(format!("{}: {place}: {count}, allowed: {may}", rule.name));
            }
        }
        let less = total(&found) < total(&before);
        if less && !update {
            println!(
                "{:>16} fewer than allowed: `cargo xtask check --update` keeps it so",
                ""
            );
        }
        allowed.insert(rule.name.to_owned(), found);
    }
    if update && (broken.is_empty() || !list.exists()) {
        let text = serde_json::to_string_pretty(&allowed).map_err(|e| e.to_string())?;
        return std::fs::write(&list, text + "\n").map_err(|e| format!("{}: {e}", list.display()));
    }
    match broken.is_empty() {
        true => Ok(()),
        false => Err(broken.join("\n")),
    }
}

fn total(findings: &Findings) -> usize {
    findings.values().sum()
}

/// The list of what is allowed; nothing, if there is none yet.
fn read(list: &Path) -> Result<BTreeMap<String, Findings>, String> {
    match std::fs::read(list) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", list.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(format!("{}: {e}", list.display())),
    }
}
