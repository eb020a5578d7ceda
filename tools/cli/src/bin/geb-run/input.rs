//! What the user types: a line editor with history on a terminal, plain lines from a pipe.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;

use rustyline::Editor;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use crate::report::{Failure, Outcome, note};

/// Longest message read from a pipe, in bytes.
const MAX_LINE_BYTES: usize = geb::limits::MAX_PROMPT_BYTES;
/// Lines of history kept.
const HISTORY_LINES: usize = 1000;

/// One thing the user did.
pub enum Typed {
    /// A message or command; several lines when continued with `\`.
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D or the end of the pipe.
    End,
}

/// The source of messages.
pub enum Input {
    /// A person.
    Editor(Box<Editor<(), FileHistory>>, Option<PathBuf>),
    /// A pipe or file.
    Lines(io::StdinLock<'static>),
}

impl Input {
    /// An editor when `interactive` and the terminal allows it, else lines.
    pub fn open(interactive: bool) -> Input {
        let lines = || Input::Lines(io::stdin().lock());
        if !interactive {
            return lines();
        }
        // The editor draws on stdout; when that is a file, it must use the terminal itself.
        let behaviour = if io::stdout().is_terminal() {
            Behavior::Stdio
        } else {
            Behavior::PreferTerm
        };
        let config = Config::builder()
            .behavior(behaviour)
            .bracketed_paste(true)
            .auto_add_history(false);
        let config = config
            .max_history_size(HISTORY_LINES)
            .map(|c| c.build())
            .unwrap_or_default();
        match Editor::with_config(config) {
            Err(_) => lines(),
            Ok(mut editor) => {
                let history = history_file();
                if let Some(file) = &history {
                    _ = editor.load_history(file);
                }
                Input::Editor(Box::new(editor), history)
            }
        }
    }

    /// The next message, command, interrupt or end.
    pub fn read(&mut self) -> Outcome<Typed> {
        let mut text = match self.line("> ")? {
            Typed::Line(line) => line,
            other => return Ok(other),
        };
        while let Some(start) = text.strip_suffix('\\') {
            let start = start.to_owned();
            match self.line("… ")? {
                Typed::Line(line) if start.len() + line.len() < MAX_LINE_BYTES => {
                    text = format!("{start}\n{line}");
                }
                Typed::Line(_) => return Err(too_long()),
                Typed::End => text = start,
                Typed::Interrupt => return Ok(Typed::Interrupt),
            }
        }
        self.remember(&text);
        Ok(Typed::Line(text))
    }

    fn line(&mut self, prompt: &str) -> Outcome<Typed> {
        match self {
            Input::Editor(editor, _) => match editor.readline(prompt) {
                Ok(line) => Ok(Typed::Line(line)),
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(ReadlineError::Io(e)) => Err(e.into()),
                Err(e) => Err(Failure::new(format!("terminal: {e}"))),
            },
            Input::Lines(input) => next_line(input),
        }
    }

    /// Adds a line to the history file. The history is a convenience: failures are said once.
    fn remember(&mut self, text: &str) {
        let Input::Editor(editor, history) = self else {
            return;
        };
        if !editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        let Some(file) = history.clone() else { return };
        let saved = file
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .map_err(ReadlineError::from);
        if let Err(e) = saved.and_then(|()| editor.save_history(&file)) {
            note(format_args!(
                "warning: history is not kept: {}: {e}",
                file.display()
            ));
            *history = None;
        }
    }
}

fn too_long() -> Failure {
    Failure::usage(format!("a line is longer than {MAX_LINE_BYTES} bytes"))
}

/// A line without its end; of an endless one no more is read than may be.
fn next_line(input: &mut impl BufRead) -> Outcome<Typed> {
    let at = |e: io::Error| Failure::usage(format!("standard input: {e}"));
    let mut bytes = Vec::new();
    // A line end has up to two bytes.
    let mut input = input.take(MAX_LINE_BYTES as u64 + 2);
    if input.read_until(b'\n', &mut bytes).map_err(at)? == 0 {
        return Ok(Typed::End);
    }
    if bytes.pop_if(|b| *b == b'\n').is_some() {
        bytes.pop_if(|b| *b == b'\r');
    }
    if bytes.len() > MAX_LINE_BYTES {
        return Err(too_long());
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| at(io::Error::other("not UTF-8")))?;
    Ok(Typed::Line(text))
}

/// `$XDG_STATE_HOME/geb/history` or `~/.local/state/geb/history`.
fn history_file() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let state =
        set("XDG_STATE_HOME").or_else(|| set("HOME").map(|h| h.join(".local").join("state")))?;
    Some(state.join("geb").join("history"))
}
