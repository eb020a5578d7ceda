//! Where generated text goes: streamed to stdout, with prefill progress on stderr.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use geb::generate::{Events, Timings};

use crate::args::OutputArgs;
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome, rate, seconds};
use crate::speculate;

/// Receives generated text.
pub struct Screen {
    silent: bool,
    tty: bool,
    progress: Progress,
    ends_with_newline: bool,
    failure: Option<Failure>,
}

impl Screen {
    /// `silent`: collect only (`--json`).
    pub fn new(silent: bool, output: &OutputArgs) -> Self {
        Self {
            silent,
            tty: std::io::stdout().is_terminal(),
            progress: Progress::new("reading the prompt", "tokens", output),
            ends_with_newline: true,
            failure: None,
        }
    }

    /// Takes the progress away.
    pub fn clear(&mut self) {
        self.progress.clear();
    }

    /// Ends the line, and reports a closed or broken stdout.
    pub fn finish(mut self) -> Outcome {
        self.progress.clear();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if !self.silent && !self.ends_with_newline {
            report::out("\n")?;
        }
        Ok(())
    }
}

impl Events for Screen {
    fn prefill(&mut self, done: usize, total: usize) {
        self.progress.update(done, total);
    }

    fn text(&mut self, text: &str) -> ControlFlow<()> {
        self.progress.clear();
        if self.silent {
            return ControlFlow::Continue(());
        }
        self.ends_with_newline = text.ends_with('\n');
        let written = if self.tty {
            report::raw(&printable(text))
        } else {
            report::raw(text)
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }
}

/// Text that cannot steer a terminal: control characters other than newline and tab are shown as `�`.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && !matches!(c, '\n' | '\t') {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// The one line of timings.
pub fn timing_line(load: Option<std::time::Duration>, t: &Timings) -> String {
    let mut parts = Vec::new();
    if let Some(load) = load {
        parts.push(format!("load {}", seconds(load)));
    }
    parts.push(format!("first token {}", seconds(t.first_token)));
    let evaluated = t.prompt_tokens - t.reused_tokens;
    let reused = if t.reused_tokens > 0 {
        format!(" (+{} reused)", t.reused_tokens)
    } else {
        String::new()
    };
    let speed = t.prefill_tok_s().map_or("-".into(), rate);
    parts.push(format!("prefill {evaluated}{reused} at {speed} tok/s"));
    let speed = t.decode_tok_s().map_or("-".into(), rate);
    parts.push(format!("decode {} at {speed} tok/s", t.sampled_tokens));
    parts.extend(speculate::line(&t.speculation));
    if let Some(ram) = report::peak_memory_bytes() {
        parts.push(format!("RAM {}", report::bytes(ram)));
    }
    format!("[{}]", parts.join(" · "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
    }
}
