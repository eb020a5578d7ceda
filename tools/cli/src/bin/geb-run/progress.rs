//! Progress on stderr: a bar on a terminal, a plain line every five seconds elsewhere, or nothing.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::OutputArgs;
use crate::report::note;

/// Work shorter than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(400);
/// Distance of plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// One piece of work with a known length.
pub struct Progress {
    what: String,
    unit: &'static str,
    enabled: bool,
    tty: bool,
    start: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows nothing until work takes a noticeable time.
    pub fn new(what: impl Into<String>, unit: &'static str, args: &OutputArgs) -> Self {
        let now = Instant::now();
        Self {
            what: what.into(),
            unit,
            enabled: !(args.quiet || args.no_progress),
            tty: std::io::stderr().is_terminal(),
            start: now,
            last_line: now,
            bar: None,
        }
    }

    /// `done` of `total`.
    pub fn update(&mut self, done: usize, total: usize) {
        if !self.enabled || self.start.elapsed() < PATIENCE {
            return;
        }
        if self.tty {
            let (what, unit) = (&self.what, self.unit);
            let bar = self.bar.get_or_insert_with(|| new_bar(what, unit, total));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= PLAIN_EVERY {
            self.last_line = Instant::now();
            let left = left(self.start.elapsed(), done, total);
            note(format_args!(
                "{}: {done}/{total} {}{left}",
                self.what, self.unit
            ));
        }
    }

    /// Removes the bar; the next work starts fresh.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.start = Instant::now();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What the rest takes if it goes on like this.
fn left(elapsed: Duration, done: usize, total: usize) -> String {
    if done == 0 || done >= total {
        return String::new();
    }
    let rest = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
    match rest.ceil() as u64 {
        s if s < 100 => format!(", {s} s left"),
        s => format!(", {} min left", s.div_ceil(60)),
    }
}

fn new_bar(what: &str, unit: &str, total: usize) -> ProgressBar {
    let bar =
        ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(10));
    let template = format!("{{msg}} {{bar:30}} {{pos}}/{{len}} {unit} ({{eta}} left)");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_estimated() {
        let seconds = Duration::from_secs;
        assert_eq!(left(seconds(10), 1, 4), ", 30 s left");
        assert_eq!(left(seconds(60), 1, 11), ", 10 min left");
        assert_eq!(left(seconds(1), 0, 4), "");
        assert_eq!(left(seconds(1), 4, 4), "");
    }
}
