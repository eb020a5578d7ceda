//! `geb-run tokenize`: text to ids and pieces.

use std::path::Path;

use geb::shown::Shown;
use geb::tokenizer::Encode;
use serde_json::json;

use crate::args::TokenizeArgs;
use crate::load;
use crate::report::{Outcome, out, out_line};

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Outcome {
    let opened = load::open_any(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let text = if args.text == "-" {
        load::read_text(Path::new("-"), geb::limits::MAX_PROMPT_BYTES)?
    } else {
        args.text.clone()
    };
    let encode = Encode {
        add_special: !(args.no_special || args.plain),
        parse_special: !args.plain,
    };
    let ids = tokenizer
        .encode(&text, encode)
        .map_err(|e| load::at(&opened.path, e))?;
    let pieces: Vec<String> = ids
        .iter()
        .map(|&id| tokenizer.piece(id).to_string())
        .collect();
    if args.json {
        return out_line(&json!({ "ids": ids, "pieces": pieces }).to_string());
    }
    if args.ids {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        return out_line(&words.join(","));
    }
    let lines: String = ids
        .iter()
        .zip(&pieces)
        .map(|(id, piece)| format!("{id:>7}  {}\n", Shown::value(piece)))
        .collect();
    out(&lines)
}
