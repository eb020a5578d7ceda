//! `geb-run chat`: a conversation. Every turn renders the whole conversation through the chat
//! template; the token prefix that the KV cache already holds is not evaluated again.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use geb::chat::{Message, Prompt};
use geb::generate::{GenerateOptions, StopReason, generate_with};

use crate::answer::Answer;
use crate::args::ChatArgs;
use crate::commands::{self, Next};
use crate::constraint;
use crate::conversation::{Chat, Totals};
use crate::generate::no_template;
use crate::input::{Input, Typed};
use crate::interrupt::Interrupt;
use crate::load::{self, message};
use crate::report::{self, Failure, Outcome, bytes, count, dim, note};
use crate::screen::timing_line;
use crate::speculate;

/// Room for an answer that is kept free in the context before old turns are forgotten.
const ANSWER_ROOM: usize = 256;

/// Runs the command.
pub fn run(args: &ChatArgs, interrupt: &Interrupt) -> Outcome {
    let started = Instant::now();
    // With -m, the first word is the prompt; two words are then too many.
    let second = args.second.as_ref().or(args.prompt.as_ref());
    let (model, prompt) = match (&args.model.model, &args.first, second) {
        (Some(_), None, prompt) => (None, prompt.map(String::as_str)),
        (Some(_), Some(_), Some(extra)) => {
            return Err(
                Failure::usage(format!("unexpected `{extra}`")).hint("put the prompt in quotes")
            );
        }
        (Some(_), prompt, None) => (None, prompt.as_deref()),
        (_, model, prompt) => (model.as_deref(), prompt.map(String::as_str)),
    };
    let opened = load::open(&args.model, model)?;
    let tokenizer = Arc::new(load::tokenizer(&opened)?);
    let constraint = constraint::of(&args.constraint, &tokenizer)?;
    let Some(template) = load::template(&opened, &tokenizer, &args.template)? else {
        return Err(no_template(&opened));
    };
    let system = load::system(&opened, &args.template).map(str::to_owned);
    let loaded = load::load_to_guess(opened, &args.cpu, args.speculate.heads, interrupt, started)?;
    let guesses = speculate::sources(&args.speculate, &args.cpu, &loaded, interrupt)?;
    let (sampling, seed) = load::sampling(&args.sampling);
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling,
        stop: args.sampling.stop.clone(),
        ignore_eos: args.sampling.ignore_eos,
        stop_repeats: args.stop_repeats,
        cancel: Some(interrupt.flag()),
        // What stands around reasoning is read, and not shown.
        shown: template.reply_format().shown(&tokenizer),
        ..GenerateOptions::default()
    };
    let mut chat = Chat {
        loaded,
        tokenizer,
        template,
        options,
        guesses,
        output: args.output.clone(),
        reasoning: args.reasoning,
        constraint,
        system,
        messages: Vec::new(),
        seed,
        totals: Totals::default(),
        load_shown: false,
        system_shown: false,
    };
    match prompt {
        Some(prompt) => chat
            .say(prompt.to_owned(), interrupt)
            .and_then(|reason| match reason {
                StopReason::Cancelled => Err(Failure::interrupted()),
                _ => Ok(()),
            }),
        None => chat.talk(interrupt),
    }
}

impl Chat {
    /// Reads and answers until the user leaves.
    fn talk(&mut self, interrupt: &Interrupt) -> Outcome {
        let interactive = std::io::stdin().is_terminal();
        if interactive && !self.output.quiet {
            self.greet();
        }
        let mut input = Input::open(interactive);
        // Ctrl-C pressed once: the next one leaves.
        let mut leaving = false;
        loop {
            let line = match input.read()? {
                Typed::Line(line) => line,
                Typed::End => return Ok(()),
                Typed::Interrupt if leaving => return Err(Failure::left()),
                Typed::Interrupt => {
                    leaving = true;
                    dim("(Ctrl-C again or Ctrl-D leaves)");
                    continue;
                }
            };
            leaving = false;
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let answered = if line.starts_with('/') {
                match commands::run(self, line) {
                    Next::Read => continue,
                    Next::Leave => return Ok(()),
                    Next::Answer => self.answer(interrupt),
                }
            } else {
                self.say(line.to_owned(), interrupt)
            };
            match answered {
                Ok(reason) => leaving = reason == StopReason::Cancelled,
                // A message that does not fit is no reason to lose the conversation.
                Err(f) if f.code == 2 && interactive => _ = f.print(),
                Err(f) => return Err(f),
            }
        }
    }

    /// Who is talking.
    fn greet(&self) {
        let file = &self.loaded.opened.file;
        let name = file.str("general.name").ok().flatten();
        let stem = self
            .loaded
            .opened
            .path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        let parameters: u64 = file.tensors().map(|t| t.info().elements()).sum();
        let session = &self.loaded.session;
        note(format_args!(
            "{} · {} parameters · {} ({}) · {} threads · {} · context {}",
            name.filter(|n| !n.trim().is_empty()).unwrap_or(&stem),
            count(parameters),
            load::main_type(file),
            bytes(file.file_bytes()),
            session.threads(),
            session.kernels().level().name(),
            session.ctx(),
        ));
        dim("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
    }

    /// Adds a user message and answers it. A message that cannot be answered is not kept.
    fn say(&mut self, text: String, interrupt: &Interrupt) -> Outcome<StopReason> {
        self.messages.push(message("user", &text));
        let answered = self.answer(interrupt);
        if answered.is_err() {
            self.messages.pop();
        }
        answered
    }

    /// Answers the last user message and keeps the answer.
    fn answer(&mut self, interrupt: &Interrupt) -> Outcome<StopReason> {
        let prompt = self.prompt()?;
        self.options.sampling.seed = self.seed.wrapping_add(self.totals.answers);
        let (form, opened) = (self.constraint.clone(), &prompt.opened);
        self.options.constraint =
            constraint::behind_reasoning(form, &self.template, &self.tokenizer, opened);
        let format = self.template.reply_format();
        let mut answer = Answer::new(format, &prompt, self.reasoning, &self.output);
        let (session, tokenizer) = (&mut self.loaded.session, &self.tokenizer);
        let (guesses, options) = (&mut self.guesses, &self.options);
        let result = interrupt.during(|| {
            generate_with(
                session,
                guesses,
                tokenizer,
                &prompt.ids,
                options,
                &mut answer,
            )
        });
        let finished = answer.finish();
        let result = result.map_err(|e| load::at(&self.loaded.opened.path, e))?;
        // Templates leave the reasoning of earlier answers out, or want it without its markers.
        let reply = finished?;
        self.messages.push(message("assistant", &reply.content));
        self.totals.add(&result.timings);
        if result.reason == StopReason::Repeat {
            note(format_args!(
                "(stopped: the answer has repeated itself for {} tokens; --stop-repeats 0 lets it go on)",
                self.options.stop_repeats
            ));
        }
        if !self.output.quiet {
            let why = match result.reason {
                StopReason::Length => " length limit: -n or --ctx raises it",
                StopReason::Cancelled => " stopped",
                _ => "",
            };
            let load = (!std::mem::replace(&mut self.load_shown, true)).then_some(self.loaded.load);
            dim(format_args!("{}{why}", timing_line(load, &result.timings)));
        }
        Ok(result.reason)
    }

    /// The conversation as a prompt. When it outgrows the context, the oldest turns are forgotten.
    fn prompt(&mut self) -> Outcome<Prompt> {
        let room = ANSWER_ROOM
            .min(self.options.max_tokens)
            .min(self.loaded.session.ctx() / 4);
        let limit = self.loaded.session.ctx() - room;
        if let Some(last) = self.messages.last() {
            load::check_length(&self.tokenizer, &last.content, limit)?;
        }
        let mut forgotten = 0;
        loop {
            let prompt = self.encode()?;
            if prompt.ids.len() <= limit {
                if forgotten > 0 {
                    note(format_args!(
                        "(context full: the oldest {forgotten} turns are forgotten; /reset starts over)"
                    ));
                }
                return Ok(prompt);
            }
            if self.messages.len() < 3 {
                let message = format!(
                    "the message takes {} tokens, allowed: {limit} of the context",
                    prompt.ids.len()
                );
                return Err(Failure::usage(message)
                    .hint("shorten it, or raise --ctx if the model allows more"));
            }
            self.messages.drain(..2);
            forgotten += 1;
        }
    }

    fn encode(&mut self) -> Outcome<Prompt> {
        let system = self.system.as_deref().map(|s| message("system", s));
        if system.is_some() && !std::mem::replace(&mut self.system_shown, true) {
            load::say_where_system_goes(&self.template, &self.output);
        }
        let all: Vec<Message> = system
            .into_iter()
            .chain(self.messages.iter().cloned())
            .collect();
        self.template
            .prompt(&self.tokenizer, &self.template.fitted(&all), true)
            .map_err(|e| load::at(&self.loaded.opened.path, e))
    }

    /// Forgets the conversation.
    pub fn reset(&mut self) {
        self.messages.clear();
        self.loaded.session.reset();
    }

    /// `/stats`.
    pub fn stats(&self) -> String {
        let (session, t) = (&self.loaded.session, &self.totals);
        let memory = session.memory();
        format!(
            "{} answers, {} tokens generated; {}; {}\nprompt tokens: {} evaluated, {} reused from the cache\n\
             context: {} of {} tokens; memory: weights {}, KV cache {}, scratch {}, peak {}\nseed {}",
            t.answers,
            t.generated,
            t.rates(),
            speculate::line(&t.speculation).unwrap_or("no guesses".into()),
            t.evaluated,
            t.reused,
            session.pos(),
            session.ctx(),
            bytes(memory.weights),
            bytes(memory.kv),
            bytes(memory.scratch),
            report::peak_memory_bytes().map_or("unknown".into(), bytes),
            self.seed,
        )
    }
}
