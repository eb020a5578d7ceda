//! `geb-run systems`: every model family and technique that the project owes an answer, how far
//! it is, and the command that proves it.
//!
//! The table is `rows::ROWS`. Proofs are names of fixtures and tests; the tests below look for all of
//! them in the sources, so that a row cannot name what is not there. A row whose proof is not part of
//! `cargo test` is not done.

mod row;
mod rows;

use serde_json::json;

use crate::args::SystemsArgs;
use crate::report::{Outcome, out};
use row::{Row, State};
use rows::ROWS;

/// Runs the command.
pub fn run(args: &SystemsArgs) -> Outcome {
    if args.json {
        let rows: Vec<_> = ROWS.iter().map(as_json).collect();
        return out(&format!("{}\n", json!(rows)));
    }
    let mut text = String::new();
    for r in ROWS {
        text += &format!(
            "{:<4} {:<16} {} ({})\n",
            r.id,
            r.state.name(),
            r.system,
            r.architecture
        );
        if !r.note.is_empty() {
            text += &format!("{:22}{}\n", "", r.note);
        }
        let fixtures: Vec<&str> = r.proofs.iter().filter_map(|p| p.fixture()).collect();
        for command in commands(r) {
            let cases = match command.contains("--test logits f32") {
                true => format!("    # {}", fixtures.join(", ")),
                false => String::new(),
            };
            text += &format!("{:22}{command}{cases}\n", "");
        }
    }
    for state in [State::Reference, State::Synthetic, State::Open] {
        let rows = ROWS.iter().filter(|r| r.state == state).count();
        text += &format!("{}: {rows} of {}\n", state.name(), ROWS.len());
    }
    out(&text)
}

/// The commands of a row, each once.
fn commands(row: &Row) -> Vec<String> {
    let mut out: Vec<String> = row.proofs.iter().map(|p| p.command()).collect();
    out.dedup();
    out
}

fn as_json(r: &Row) -> serde_json::Value {
    json!({
        "id": r.id,
        "system": r.system,
        "architecture": r.architecture,
        "state": r.state.name(),
        "note": r.note,
        "commands": commands(r),
        "fixtures": r.proofs.iter().filter_map(|p| p.fixture()).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::row::Proof;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn source(path: &str) -> String {
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn every_row_is_there_once_and_in_order() {
        let systems = (1..=38).map(|i| format!("A{i}"));
        let techniques = (1..=22).map(|i| format!("B{i}"));
        // The other evaluations have no rows here.
        let evaluations = (7..=11).map(|i| format!("C{i}"));
        let wanted: Vec<String> = systems.chain(techniques).chain(evaluations).collect();
        let found: Vec<&str> = ROWS.iter().map(|r| r.id).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn every_proof_is_part_of_the_tests() {
        let has_test = |path: &str, name: &str| {
            let text = source(path);
            let test = text.find(&format!("fn {name}()")).map(|at| &text[..at]);
            test.is_some_and(|before| before.trim_end().ends_with("#[test]"))
        };
        for row in ROWS {
            for &proof in row.proofs {
                let found = match proof {
                    Proof::Logits(case) => {
                        let file = format!("tests/fixtures/{case}/expected.safetensors");
                        root().join(file).exists()
                            && source("tests/it/logits.rs").contains(&format!("\"{case}\","))
                    }
                    Proof::Test(file, name) => has_test(&format!("tests/it/{file}.rs"), name),
                    Proof::Cli(file, name) => {
                        has_test(&format!("tools/cli/tests/it/{file}.rs"), name)
                    }
                    Proof::Unit(file, name) => has_test(file, name),
                };
                assert!(found, "{}: {proof:?}", row.id);
            }
        }
    }

    #[test]
    fn states_are_honest() {
        for row in ROWS {
            match row.state {
                State::Open => assert!(!row.note.is_empty(), "{}: no reason", row.id),
                _ => assert!(!row.proofs.is_empty(), "{}: no proof", row.id),
            }
        }
    }
}
