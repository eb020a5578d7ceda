//! An answer of a chat on the screen: its reasoning shown, hidden, or folded into one line.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use geb::chat::Prompt;
use geb::chat::tools::{CallIds, Delivery, Reply, ReplyEvent, ReplyFormat, ReplyParser};
use geb::generate::Events;

use crate::args::{OutputArgs, ReasoningHow};
use crate::report::{Outcome, colour, dim, seconds};
use crate::screen::Screen;

/// Reads an answer as it comes, and shows it.
pub struct Answer {
    screen: Screen,
    parser: ReplyParser,
    fold: Fold,
    /// Whether there is somebody to tell how long it took to think.
    watched: bool,
}

impl Answer {
    /// The answer to a prompt. Tools are not called here.
    pub fn new(
        format: &ReplyFormat,
        prompt: &Prompt,
        how: ReasoningHow,
        output: &OutputArgs,
    ) -> Answer {
        let ids = CallIds::default();
        Answer {
            screen: Screen::new(false, output),
            parser: format.parser(&prompt.opened, Vec::new(), ids, Delivery::Whole),
            fold: Fold::new(how, format.reasoning()),
            watched: !output.quiet && std::io::stdout().is_terminal(),
        }
    }

    /// Ends it; what was said.
    ///
    /// # Errors
    /// A closed or broken stdout.
    pub fn finish(mut self) -> Outcome<Reply> {
        let rest = self.parser.finish();
        _ = self.tell(rest);
        let last = self.fold.end();
        _ = self.show(last);
        self.screen.finish()?;
        Ok(self.fold.reply)
    }

    fn tell(&mut self, events: Vec<ReplyEvent>) -> ControlFlow<()> {
        for event in events {
            let told = self.fold.take(event);
            self.show(told)?;
        }
        ControlFlow::Continue(())
    }

    fn show(&mut self, told: Told) -> ControlFlow<()> {
        let live = self.watched && colour();
        match told.thought {
            Thought::Nothing => {}
            Thought::Began if live => {
                self.screen.clear();
                let mut err = std::io::stderr().lock();
                _ = write!(err, "\x1b[2mthinking…\x1b[0m");
                _ = err.flush();
            }
            Thought::Began => {}
            Thought::Ended(time) => {
                if live {
                    _ = write!(std::io::stderr().lock(), "\r\x1b[K");
                }
                if self.watched {
                    dim(format_args!("thought for {}", seconds(time)));
                }
            }
        }
        match told.out.is_empty() {
            true => ControlFlow::Continue(()),
            false => self.screen.text(&told.out),
        }
    }
}

impl Events for Answer {
    fn prefill(&mut self, done: usize, total: usize) {
        self.screen.prefill(done, total);
    }

    fn text(&mut self, text: &str) -> ControlFlow<()> {
        let events = self.parser.push(text);
        self.tell(events)
    }
}

/// What is shown of events.
struct Fold {
    how: ReasoningHow,
    /// Stand around reasoning that is shown.
    pair: (&'static str, &'static str),
    since: Option<Instant>,
    reply: Reply,
}

/// What an event shows.
#[derive(Debug, Default, PartialEq)]
struct Told {
    out: String,
    thought: Thought,
}

/// What happens to a line that stands for reasoning.
#[derive(Debug, Default, PartialEq)]
enum Thought {
    #[default]
    Nothing,
    Began,
    /// After this time.
    Ended(Duration),
}

impl Fold {
    fn new(how: ReasoningHow, pair: Option<(&'static str, &'static str)>) -> Fold {
        let (open, close) = pair.unwrap_or(("<think>", "</think>"));
        Fold {
            how,
            pair: (open.trim_end(), close),
            since: None,
            reply: Reply::default(),
        }
    }

    fn take(&mut self, event: ReplyEvent) -> Told {
        let told = match &event {
            ReplyEvent::Reasoning(text) => self.reason(text),
            ReplyEvent::Content(text) => {
                let mut told = self.end();
                told.out.push_str(text);
                told
            }
            // No tools were given.
            _ => Told::default(),
        };
        self.reply.add(event);
        told
    }

    fn reason(&mut self, text: &str) -> Told {
        let begins = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        let mut told = Told::default();
        match self.how {
            ReasoningHow::Hide => {}
            ReasoningHow::Fold if begins => told.thought = Thought::Began,
            ReasoningHow::Fold => {}
            ReasoningHow::Show => {
                if begins {
                    told.out = format!("{}\n", self.pair.0);
                }
                told.out.push_str(text);
            }
        }
        told
    }

    /// Ends the reasoning, if there is some.
    fn end(&mut self) -> Told {
        let Some(since) = self.since.take() else {
            return Told::default();
        };
        match self.how {
            ReasoningHow::Hide => Told::default(),
            ReasoningHow::Fold => Told {
                thought: Thought::Ended(since.elapsed()),
                ..Told::default()
            },
            ReasoningHow::Show => Told {
                out: format!("\n{}\n\n", self.pair.1),
                ..Told::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes to the screen of an answer that thinks twice, and how often a line stands for it.
    fn shown(how: ReasoningHow) -> (String, usize, Reply) {
        let mut fold = Fold::new(how, Some(("<think>", "</think>")));
        let events = [
            ReplyEvent::Reasoning("Hm, ".into()),
            ReplyEvent::Reasoning("yes.".into()),
            ReplyEvent::Content("A".into()),
            ReplyEvent::Content("nd".into()),
            ReplyEvent::Reasoning("No".into()),
        ];
        let mut told: Vec<Told> = events.into_iter().map(|e| fold.take(e)).collect();
        told.push(fold.end());
        let lines = told
            .iter()
            .filter(|t| matches!(t.thought, Thought::Ended(_)));
        let lines = lines.count();
        let out = told.into_iter().map(|t| t.out).collect();
        (out, lines, fold.reply)
    }

    #[test]
    fn reasoning_is_shown_hidden_or_folded() {
        let wanted = "<think>\nHm, yes.\n</think>\n\nAnd<think>\nNo\n</think>\n\n";
        assert_eq!(shown(ReasoningHow::Show).0, wanted);
        assert_eq!(shown(ReasoningHow::Show).1, 0);
        assert_eq!(
            (shown(ReasoningHow::Hide).0, shown(ReasoningHow::Hide).1),
            ("And".into(), 0)
        );
        let (out, lines, reply) = shown(ReasoningHow::Fold);
        assert_eq!((out.as_str(), lines), ("And", 2));
        assert_eq!(
            (reply.content.as_str(), reply.reasoning.as_str()),
            ("And", "Hm, yes.No")
        );
    }
}
