//! What the user reads: failures with a hint and an exit code, notes on stderr, numbers with
//! units, tables. Nothing here panics when a stream is closed.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use geb::shown::Shown;
use geb_cli::errors;

/// A failure as the user sees it.
#[derive(Debug)]
pub struct Failure {
    /// One line: what is wrong.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Exit code (README "Exit codes").
    pub code: i32,
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: 1,
        }
    }

    /// A wrong command line: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            ..Self::new(message)
        }
    }

    /// The user stopped the work: exit code 130.
    pub fn interrupted() -> Self {
        Self {
            code: 130,
            ..Self::new("interrupted")
        }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the thing concerned in front of the message.
    pub fn at(mut self, what: impl fmt::Display) -> Self {
        let what = what.to_string();
        self.message = format!("{}: {}", Shown::list(&what), self.message);
        self
    }

    /// Leaving on purpose: exit code 130, nothing to say.
    pub fn left() -> Self {
        Self {
            code: 130,
            ..Self::new("")
        }
    }

    /// What was said elsewhere already.
    pub fn said(code: i32) -> Self {
        Self {
            code,
            ..Self::new("")
        }
    }

    /// Nothing to say: stdout was closed by its reader, or the user left.
    fn is_silent(&self) -> bool {
        self.code == 0 || self.message.is_empty()
    }

    /// Prints `error: …` and the hint, and returns the exit code.
    pub fn print(&self) -> i32 {
        if !self.is_silent() {
            let (red, bold, off) = if colour() {
                ("\x1b[1;31m", "\x1b[1m", "\x1b[0m")
            } else {
                ("", "", "")
            };
            let mut err = io::stderr().lock();
            _ = writeln!(err, "{red}error:{off} {}", Shown::lines(&self.message));
            if let Some(hint) = &self.hint {
                let hint = hint.replace('\n', "\n      ");
                _ = writeln!(err, "{bold}hint:{off} {}", Shown::lines(&hint));
            }
        }
        self.code
    }
}

impl From<geb::Error> for Failure {
    fn from(e: geb::Error) -> Self {
        let failure = Self {
            code: errors::exit_code(&e),
            ..Self::new(errors::message(&e))
        };
        match e {
            geb::Error::Format { .. } => {
                failure.hint("the file is damaged or cut off: download or convert it again")
            }
            geb::Error::Kind { kind, .. } => failure.hint(kind.advice),
            geb::Error::Memory { .. } => {
                failure.hint("try a smaller context (--ctx) or a smaller type (geb-quantize)")
            }
            geb::Error::Threads { .. } => failure.hint("try fewer: -t 1 starts none"),
            geb::Error::Occupied { .. } => failure.hint("--force replaces it"),
            _ => failure,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        let code = if e.kind() == io::ErrorKind::BrokenPipe {
            0
        } else {
            1
        };
        Self {
            code,
            ..Self::new(e.to_string())
        }
    }
}

/// Writes a text for a person to stdout, with nothing in it that steers a terminal.
pub fn out(text: &str) -> Outcome {
    raw(&Shown::lines(text).to_string())
}

/// Writes to stdout and flushes; a closed pipe ends the program quietly through [`Failure`].
pub fn raw(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Failure::from(e).at("standard output"))
}

/// Writes a line for a program to stdout, as it is: JSON, numbers.
pub fn out_line(text: &str) -> Outcome {
    raw(&format!("{text}\n"))
}

/// Writes a line to stderr, with nothing in it that steers a terminal; ignores a closed stderr.
pub fn note(text: impl fmt::Display) {
    let text = text.to_string();
    _ = writeln!(io::stderr().lock(), "{}", Shown::lines(&text));
}

/// Like [`note`], less conspicuous on a terminal.
pub fn dim(text: impl fmt::Display) {
    if colour() {
        let text = text.to_string();
        _ = writeln!(io::stderr().lock(), "\x1b[2m{}\x1b[0m", Shown::lines(&text));
    } else {
        note(text);
    }
}

/// Colours on stderr.
pub fn colour() -> bool {
    colour_on(&io::stderr())
}

/// Colours on a stream: `NO_COLOR` switches them off, `CLICOLOR_FORCE` on, else only on a terminal.
pub fn colour_on(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && (set("CLICOLOR_FORCE")
            || (stream.is_terminal() && std::env::var("TERM").as_deref() != Ok("dumb")))
}

/// Bytes as a person reads them: `98.4 MB` (powers of ten).
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} B"),
    }
}

/// A count as a person reads it: `134.5 M`.
pub fn count(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n => format!("{n}"),
    }
}

/// A duration as a person reads it: `85 ms`, `1.24 s`.
pub fn seconds(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s < 0.0095 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A rate with three digits.
pub fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 99.95 => format!("{r:.0}"),
        r if r >= 9.995 => format!("{r:.1}"),
        r => format!("{r:.2}"),
    }
}

/// Highest resident memory of this process so far, in bytes (`VmHWM`); `None` outside Linux.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// Columns a text takes on a terminal: CJK and full-width characters take two.
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x300..=0x36f | 0x200b..=0x200f => 0,
            0x1100..=0x115f
            | 0x2e80..=0xa4cf
            | 0xac00..=0xd7a3
            | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f => 2,
            0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// A table: first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let cells = |row: &Vec<String>| row.iter().map(|c| Shown::value(c).to_string()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| {
            rows.iter()
                .filter_map(|r| r.get(c))
                .map(|s| width(s))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - width(cell));
            if c > 0 {
                line.push_str("  ");
            }
            let (before, after) = if c == 0 {
                ("", pad.as_str())
            } else {
                (pad.as_str(), "")
            };
            line.push_str(&format!("{before}{cell}{after}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(count(134_515_008), "134.5 M");
        assert_eq!(seconds(Duration::from_millis(85)), "85 ms");
        assert_eq!(seconds(Duration::from_micros(1500)), "1.5 ms");
        assert_eq!(seconds(Duration::from_millis(1240)), "1.24 s");
        assert_eq!(
            (rate(123.4), rate(12.34), rate(1.234)),
            ("123".into(), "12.3".into(), "1.23".into())
        );
    }

    #[test]
    fn wide_characters_keep_tables_straight() {
        assert_eq!(width("耶和华a"), 7);
        let t = table(&[
            vec!["a".into(), "1".into()],
            vec!["bcd".into(), "22".into()],
        ]);
        assert_eq!(t, "a     1\nbcd  22\n");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let f = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(f.print(), 0);
    }

    #[test]
    fn peak_memory_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(peak_memory_bytes().is_some_and(|b| b > 100_000));
        }
    }
}
