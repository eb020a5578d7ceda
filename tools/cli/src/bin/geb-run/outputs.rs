//! The files this program writes, and which old ones each may replace without being told to. The
//! table of all of them is in docs/format.md.

use std::path::Path;

use geb::files::{self, Over};

use crate::report::Outcome;

/// `compare --json=FILE`.
pub const COMPARISON: Over = Over {
    name: "the JSON of a comparison",
    is: |head| {
        head.starts_with(b"{")
            && has(head, b"\"command\": \"geb-run ")
            && has(head, b"\"version\": ")
    },
};
/// `compare --md=FILE`.
pub const MARKDOWN: Over = Over {
    name: "the Markdown of a comparison",
    is: |head| head.starts_with(b"## ") && has(head, b"\n`geb-run "),
};
/// `compare --csv=FILE`.
pub const CSV: Over = Over {
    name: "the CSV of a comparison",
    is: |head| head.starts_with(b"name,kv,bytes,bits_per_weight,"),
};
/// `compare --report FILE`.
pub const PAGE: Over = Over {
    name: "the page of a comparison",
    is: |head| has(head, b"<meta name=\"generator\" content=\"geb-run\">"),
};
/// `logits --out FILE`.
pub const LOGITS: Over = Over {
    name: "a file of logits",
    is: |head| {
        head.get(8..)
            .is_some_and(|h| h.starts_with(b"{\"logits\":"))
    },
};
/// `probe --states FILE`.
pub const STATES: Over = Over {
    name: "a file of states",
    is: |head| {
        head.get(8..)
            .is_some_and(|h| h.starts_with(b"{\"states\":"))
    },
};
/// `generate --save-state FILE`.
pub const STATE: Over = Over {
    name: "a saved state",
    is: |head| head.starts_with(b"GEBSTATE"),
};
/// `/save FILE` of the chat.
pub const CHAT: Over = Over {
    name: "a saved conversation",
    is: |head| head.starts_with(b"{") && has(head, b"\"geb_chat\": "),
};
/// `bench --save FILE`.
pub const RANDOM_MODEL: Over = Over {
    name: "a GGUF file of random weights",
    is: |head| head.starts_with(b"GGUF") && has(head, b" (random weights)"),
};

fn has(head: &[u8], part: &[u8]) -> bool {
    head.windows(part.len()).any(|w| w == part)
}

/// Refuses an output that could not be written, before the work.
pub fn check(path: Option<&Path>, over: Over) -> Outcome {
    match path {
        Some(path) if path.as_os_str() != "-" => Ok(files::Place::of(path)?.check(over)?),
        _ => Ok(()),
    }
}

/// Writes a file: a regular one as a whole, a device or pipe through.
pub fn write(path: &Path, bytes: &[u8], over: Over) -> Outcome {
    Ok(files::write(path, bytes, over)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_knows_itself_only() {
        let model = [
            &b"GGUF\x03\0\0\0"[..],
            &[0; 16],
            b"smollm2 (random weights)",
        ]
        .concat();
        let samples: [(Over, &[u8]); 9] = [
            (COMPARISON, b"{\n  \"version\": \"0.1.0\",\n  \"title\": \"x\",\n  \"command\": \"geb-run compare a\""),
            (MARKDOWN, b"## What smaller types cost: x\n\nmachine  \n`geb-run compare a`\n"),
            (CSV, b"name,kv,bytes,bits_per_weight,peak_memory_bytes"),
            (PAGE, b"<!doctype html>\n<meta name=\"generator\" content=\"geb-run\">"),
            (LOGITS, b"\x40\0\0\0\0\0\0\0{\"logits\":{\"dtype\""),
            (STATES, b"\x40\0\0\0\0\0\0\0{\"states\":{\"dtype\""),
            (STATE, b"GEBSTATE\x01\0\0\0"),
            (CHAT, b"{\n  \"geb_chat\": 1,"),
            (RANDOM_MODEL, &model),
        ];
        for (i, (over, _)) in samples.iter().enumerate() {
            for (j, (_, head)) in samples.iter().enumerate() {
                assert_eq!((over.is)(head), i == j, "{}: {j}", over.name);
            }
            for other in [&b"notes"[..], b"{}", b"<html>", b"a,b\n", b"GGUF\x03\0\0\0"] {
                assert!(!(over.is)(other), "{}", over.name);
            }
        }
    }
}
