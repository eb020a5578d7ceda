//! Flags to sources of guesses, and what to say about them.

use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb::speculate::{
    DraftModel, EarlyExit, ExtraHeads, Lookup, Speculation, SpeculationStats, Tuning,
};
use serde_json::{Value, json};

use crate::args::{CpuArgs, GuessWhen, LoadHow, ModelArgs, SpeculateArgs};
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::report::{Failure, Outcome};

/// The sources asked for. Earlier text comes first: it costs nothing.
pub fn sources(
    args: &SpeculateArgs,
    cpu: &CpuArgs,
    loaded: &Loaded,
    interrupt: &Interrupt,
) -> Outcome<Speculation> {
    let mut guesses = match args.lookup {
        GuessWhen::Auto => Speculation::lookup(),
        GuessWhen::On => {
            Speculation::off().with(Box::new(Lookup::new()), Tuning::Always, usize::MAX)
        }
        GuessWhen::Off => Speculation::off(),
    };
    let max = args.draft_max as usize;
    if let Some(heads) = ExtraHeads::new(&loaded.session) {
        let tuning = match args.heads {
            GuessWhen::On => Tuning::Always,
            _ => Tuning::Auto,
        };
        guesses = guesses.with(Box::new(heads), tuning, max);
    } else if args.heads == GuessWhen::On {
        let message = "--heads is on, but the model has no further heads";
        return Err(Failure::usage(message));
    }
    if let Some(name) = &args.draft {
        let draft = draft_model(name, cpu, loaded, interrupt)?;
        guesses = guesses.with(Box::new(draft), Tuning::Auto, max);
    }
    if let Some(layers) = args.exit_layer {
        let exit = EarlyExit::new(&loaded.session, layers)?;
        guesses = guesses.with(Box::new(exit), Tuning::Auto, max);
    }
    Ok(guesses)
}

/// `--draft`: a session of its own, no longer than the model's.
fn draft_model(
    name: &str,
    cpu: &CpuArgs,
    loaded: &Loaded,
    interrupt: &Interrupt,
) -> Outcome<DraftModel> {
    let opened = load::open(
        &ModelArgs {
            model: Some(name.to_owned()),
            load: LoadHow::Map,
            lora: Vec::new(),
        },
        None,
    )?;
    let at = |e| load::at(&opened.path, e);
    let model = Model::load(opened.file.clone()).map_err(at)?;
    let trained = model.config().context_length;
    let options = SessionOptions {
        ctx: Some(loaded.session.ctx().min(trained)),
        ..load::session_options(cpu, interrupt)?
    };
    let session = Session::new(model, &options).map_err(at)?;
    DraftModel::new(session, &loaded.opened.file)
        .map_err(|e| at(e).hint("a draft model needs the vocabulary of the model it guesses for"))
}

/// `2.1 tokens per pass (40 of 52 guesses held)`; nothing without guesses.
pub fn line(s: &SpeculationStats) -> Option<String> {
    let per_pass = s.tokens_per_pass().filter(|_| s.drafted > 0)?;
    Some(format!(
        "{per_pass:.2} tokens per pass ({} of {} guesses held)",
        s.accepted, s.drafted
    ))
}

/// The same as JSON.
pub fn to_json(s: &SpeculationStats) -> Value {
    json!({
        "drafted": s.drafted,
        "accepted": s.accepted,
        "passes": s.passes,
        "verify_batches": s.verify_batches,
        "tokens_per_pass": s.tokens_per_pass(),
    })
}
