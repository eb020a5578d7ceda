//! `geb-run embed`: texts as vectors.

use std::time::Instant;

use geb::embed::{self, Settings};
use serde_json::json;

use crate::args::EmbedArgs;
use crate::interrupt::Interrupt;
use crate::load;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, out_line};

/// Runs the command.
pub fn run(args: &EmbedArgs, interrupt: &Interrupt) -> Outcome {
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let texts = match &args.file {
        Some(path) => {
            let text = load::read_text(path, geb::limits::MAX_TEXT_BYTES)?;
            let lines = text.lines().filter(|l| !l.trim().is_empty());
            lines.map(str::to_owned).collect()
        }
        None => args.texts.clone(),
    };
    if texts.is_empty() {
        return Err(Failure::usage("no texts"));
    }
    let mut loaded = load::load(opened, &args.cpu, interrupt, Instant::now())?;
    let session = &mut loaded.session;
    let path = &loaded.opened.path;
    let at = |e| load::at(path, e);
    let mut settings = Settings::of(session.model()).map_err(at)?;
    settings.pooling = args.pooling.unwrap_or(settings.pooling);
    settings.causal &= !args.non_causal;
    let mut progress = Progress::new("embed", "texts", &args.output);
    let mut data = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let encoded = embed::encode(&tokenizer, args.instruction.as_deref(), text);
        let (ids, skip) = encoded.map_err(at)?;
        let vector = interrupt.during(|| embed::embed(session, &ids, skip, settings));
        data.push(json!({
            "index": index,
            "tokens": ids.len(),
            "pooled_tokens": ids.len() - skip,
            "embedding": vector.map_err(at)?,
        }));
        progress.update(index + 1, texts.len());
    }
    drop(progress);
    out_line(
        &json!({
            "model": path.display().to_string(),
            "pooling": settings.pooling.name(),
            "causal": settings.causal,
            "dimensions": session.model().config().embedding_length,
            "data": data,
        })
        .to_string(),
    )
}
