//! What a row needs when it runs alone: this program measures it in a process of its own.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rounds::Method;

/// Memory and load time of a process that runs nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    /// Highest resident memory, mapped weights included.
    pub peak_memory_bytes: Option<u64>,
    /// Seconds from opening the file to a session.
    pub load_s: Option<f64>,
}

/// Runs `geb-run bench` on `path`, once. What cannot be measured stays unknown: the comparison
/// does not depend on it.
pub fn run(path: &std::path::Path, kv: &str, threads: usize, method: &Method) -> Alone {
    let Ok(program) = std::env::current_exe() else {
        return Alone::default();
    };
    let numbers = [
        ("-t", threads),
        ("-p", method.prompt),
        ("-n", method.decode.min(8)),
        ("-r", 1),
    ];
    let output = Command::new(program)
        .arg("bench")
        .arg("-m")
        .arg(path)
        .args(["--json", "--quiet", "--kv", kv])
        .args(
            numbers
                .iter()
                .flat_map(|(k, n)| [(*k).to_owned(), n.to_string()]),
        )
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let json: Value = output
        .ok()
        .and_then(|o| serde_json::from_slice(&o.stdout).ok())
        .unwrap_or_default();
    Alone {
        peak_memory_bytes: json["peak_memory_bytes"].as_u64(),
        load_s: json["load_s"].as_f64(),
    }
}
