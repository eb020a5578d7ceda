//! `geb-run logits`: the logits of given tokens as a safetensors file, for comparisons.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use geb::session::Want;
use safetensors::tensor::{Dtype, TensorView};

use crate::args::LogitsArgs;
use crate::interrupt::Interrupt;
use crate::load;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, dim};

/// Positions per forward pass: bounds the scratch memory of large vocabularies.
const BATCH: usize = 128;

/// Runs the command.
pub fn run(args: &LogitsArgs, interrupt: &Interrupt) -> Outcome {
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
    write_atomic(&args.out, &data)?;
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

/// Writes a whole file under a temporary name in the same folder, then renames it.
pub fn write_atomic(path: &Path, data: &[u8]) -> Outcome {
    let at = |e: std::io::Error| Failure::new(e.to_string()).at(path.display());
    let name = path
        .file_name()
        .ok_or_else(|| Failure::usage(format!("{}: not a file name", path.display())))?;
    let temporary = path.with_file_name(format!(
        ".{}.geb-partial-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = std::fs::File::create(&temporary)
        .and_then(|mut f| f.write_all(data).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        _ = std::fs::remove_file(&temporary);
    }
    written.map_err(at)
}
