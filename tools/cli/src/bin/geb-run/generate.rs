//! `geb-run generate`: one prompt, one answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use geb::constraint::Constraint;
use geb::files::Over;
use geb::generate::{GenerateOptions, Generated, StopReason, generate_with};
use geb::session::Want;
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::json;

use crate::args::GenerateArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded, Opened};
use crate::outputs;
use crate::report::{self, Failure, Outcome, dim, note};
use crate::screen::{Screen, timing_line};
use crate::{constraint, several, speculate};

/// Runs the command.
pub fn run(args: &GenerateArgs, interrupt: &Interrupt) -> Outcome {
    let started = Instant::now();
    let over = outputs::STATE.or_any(args.force);
    outputs::check(args.save_state.as_deref(), over)?;
    let prompt = prompt_text(args)?;
    if args.raw && args.template.system.is_some() {
        return Err(Failure::usage("--system needs the chat template").hint("leave --raw out"));
    }
    let opened = load::open(&args.model, None)?;
    let tokenizer = Arc::new(load::tokenizer(&opened)?);
    let (mut ids, constraint) = prompt_ids(args, &opened, &tokenizer, &prompt)?;
    let mut loaded =
        load::load_to_guess(opened, &args.cpu, args.speculate.heads, interrupt, started)?;
    if let Some(path) = &args.load_state {
        load_state(&mut loaded, path)?;
        ids.splice(0..0, loaded.session.tokens().iter().copied());
    }
    let mut guesses = speculate::sources(&args.speculate, &args.cpu, &loaded, interrupt)?;
    let (sampling, seed) = load::sampling(&args.sampling);
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling,
        stop: args.sampling.stop.clone(),
        ignore_eos: args.sampling.ignore_eos,
        stop_repeats: 0,
        constraint,
        cancel: Some(interrupt.flag()),
        ..GenerateOptions::default()
    };
    if args.several.wanted() {
        let prompt = (&*ids, &*tokenizer);
        return several::run(
            args,
            &mut loaded,
            prompt,
            (&mut guesses, options),
            interrupt,
        );
    }
    let mut screen = Screen::new(args.json, &args.output);
    let session = &mut loaded.session;
    let result = interrupt.during(|| {
        generate_with(
            session,
            &mut guesses,
            &tokenizer,
            &ids,
            &options,
            &mut screen,
        )
    });
    let finished = screen.finish();
    let result = result.map_err(|e| load::at(&loaded.opened.path, e))?;
    finished?;
    if let Some(path) = &args.save_state {
        save_state(&mut loaded, &ids, &result, (path, over))?;
    }
    if args.json {
        report::out_line(&to_json(&loaded, &ids, &result, seed).to_string())?;
    }
    if !args.output.quiet && !args.json {
        dim(timing_line(Some(loaded.load), &result.timings));
        load::streamed(&loaded.session);
    }
    if result.reason == StopReason::Cancelled {
        Err(Failure::interrupted())
    } else {
        Ok(())
    }
}

/// Makes the session one that was saved.
fn load_state(loaded: &mut Loaded, path: &Path) -> Outcome {
    let limit = usize::try_from(loaded.session.state_bytes()).unwrap_or(usize::MAX);
    let bytes = load::read_bytes(path, limit)?;
    let done = loaded.session.load_state(&bytes);
    done.map_err(|e| load::at(path, e))
}

/// Saves the session; of the answer it has not yet seen the last token.
fn save_state(
    loaded: &mut Loaded,
    prompt: &[u32],
    result: &Generated,
    (path, over): (&Path, Over),
) -> Outcome {
    let session = &mut loaded.session;
    let all: Vec<u32> = prompt.iter().chain(&result.ids).copied().collect();
    let seen = session.pos();
    let mut save = || -> geb::Result<Vec<u8>> {
        session.forward(&all[seen.min(all.len())..], Want::None)?;
        session.save_state()
    };
    let bytes = save().map_err(|e| load::at(path, e))?;
    outputs::write(path, &bytes, over)
}

/// `-p` or `-f`.
fn prompt_text(args: &GenerateArgs) -> Outcome<String> {
    let limit = geb::limits::MAX_PROMPT_BYTES;
    match (&args.prompt, &args.file) {
        (_, Some(path)) => load::read_prompt(path, limit),
        (Some(text), None) if text.len() > limit => Err(Failure::usage(format!(
            "the prompt is longer than {limit} bytes"
        ))),
        (Some(text), None) => Ok(text.clone()),
        (None, None) => Err(Failure::usage("no prompt").hint("give one with -p TEXT or -f FILE")),
    }
}

/// The prompt as ids, through the chat template or as it is, and what holds the answer to it.
fn prompt_ids(
    args: &GenerateArgs,
    opened: &Opened,
    tokenizer: &Arc<Tokenizer>,
    prompt: &str,
) -> Outcome<(Vec<u32>, Option<Constraint>)> {
    let constraint = constraint::of(&args.constraint, tokenizer)?;
    if constraint.is_some() && args.several.beams.is_some() {
        return Err(Failure::usage("--beams cannot be held to a form").hint("use --best-of"));
    }
    let at = |e| load::at(&opened.path, e);
    let template = if args.raw {
        None
    } else {
        load::template(opened, tokenizer, &args.template)?
    };
    let Some(template) = template else {
        if !args.raw {
            if args.template.system.is_some() {
                return Err(no_template(opened));
            }
            if !args.output.quiet {
                note(
                    "note: this model has no chat template; continuing the prompt as it is (--raw)",
                );
            }
        }
        let how = Encode {
            add_special: true,
            parse_special: true,
        };
        let ids = tokenizer.encode(prompt, how).map_err(at)?;
        return Ok((ids, constraint));
    };
    let prompt = prompt.strip_suffix('\n').unwrap_or(prompt);
    load::check_length(tokenizer, prompt, load::most_tokens(opened, &args.cpu))?;
    let messages = load::conversation(load::system(opened, &args.template), prompt);
    if args.template.system.is_some() {
        load::say_where_system_goes(&template, &args.output);
    }
    let messages = template.fitted(&messages);
    let prompt = template.prompt(tokenizer, &messages, true).map_err(at)?;
    let opened = &prompt.opened;
    let constraint = constraint::behind_reasoning(constraint, &template, tokenizer, opened);
    Ok((prompt.ids, constraint))
}

/// What to say when a conversation needs a template and there is none.
pub fn no_template(opened: &Opened) -> Failure {
    let path = opened.path.display();
    let mut failure = Failure::new(format!(
        "{path}: this model has no chat template, so it cannot hold a conversation"
    ));
    failure.code = 4;
    failure.hint(format!(
        "continue a text:   geb-run generate -m {path} --raw -p TEXT\nor bring a template: --chat-template FILE (Jinja)"
    ))
}

fn to_json(loaded: &Loaded, prompt: &[u32], result: &Generated, seed: u64) -> serde_json::Value {
    let t = &result.timings;
    json!({
        "model": loaded.opened.path,
        "ids": result.ids,
        "text": result.text,
        "stop_reason": result.reason.name(),
        "seed": seed,
        "prompt_ids": prompt,
        "timings": {
            "load_s": loaded.load.as_secs_f64(),
            "first_token_s": t.first_token.as_secs_f64(),
            "prefill_s": t.prefill.as_secs_f64(),
            "prefill_tokens": t.prompt_tokens - t.reused_tokens,
            "prefill_tok_s": t.prefill_tok_s(),
            "decode_s": t.decode.as_secs_f64(),
            "decode_tokens": t.sampled_tokens,
            "decode_tok_s": t.decode_tok_s(),
        },
        "speculation": speculate::to_json(&t.speculation),
        "peak_memory_bytes": report::peak_memory_bytes(),
        "threads": loaded.session.threads(),
        "isa": loaded.session.kernels().level().name(),
    })
}
