//! `geb-run logits`: the logits of given tokens as a safetensors file, for comparisons.

use std::time::Instant;

use geb::session::Want;
use safetensors::tensor::{Dtype, TensorView};

use crate::args::LogitsArgs;
use crate::interrupt::Interrupt;
use crate::load;
use crate::outputs;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, dim};

/// Positions per forward pass: bounds the scratch memory of large vocabularies.
const BATCH: usize = 128;

/// Runs the command.
pub fn run(args: &LogitsArgs, interrupt: &Interrupt) -> Outcome {
    let over = outputs::LOGITS.or_any(args.force);
    outputs::check(Some(&args.out), over)?;
    let opened = load::open(&args.model, None)?;
    let mut loaded = load::load(opened, &args.cpu, interrupt, Instant::now())?;
    load::one_text(loaded.session.model(), &loaded.opened.path)?;
    if args.tokens.len() > loaded.session.ctx() {
        let (n, ctx) = (args.tokens.len(), loaded.session.ctx());
        return Err(
            Failure::usage(format!("{n} tokens do not fit the context of {ctx}"))
                .hint("raise it with --ctx, if the model was trained for more"),
        );
    }
    let mut progress = Progress::new("logits", "tokens", &args.output);
    let mut bytes = Vec::new();
    let mut done = 0;
    for part in args.tokens.chunks(BATCH) {
        let rows = interrupt.during(|| loaded.session.forward(part, Want::All));
        let rows = rows.map_err(|e| load::at(&loaded.opened.path, e))?;
        bytes.extend(rows.iter().flat_map(|x| x.to_le_bytes()));
        done += part.len();
        progress.update(done, args.tokens.len());
    }
    progress.clear();
    let vocab = bytes.len() / 4 / args.tokens.len();
    let shape = vec![args.tokens.len(), vocab];
    let data = TensorView::new(Dtype::F32, shape, &bytes)
        .and_then(|view| safetensors::serialize([("logits", view)], None))
        .map_err(|e| Failure::new(format!("{}: {e}", args.out.display())))?;
    outputs::write(&args.out, &data, over)?;
    if !args.output.quiet {
        dim(format_args!(
            "wrote {}: logits F32 [{}, {vocab}]",
            args.out.display(),
            args.tokens.len()
        ));
        load::streamed(&loaded.session);
    }
    Ok(())
}
