//! Renders chat templates for `tests/oracle/templates.py`: every line of standard input is
//! `{"source": …, "context": {…}}`, every line of output `{"text": …}` or `{"error": …}`.

use std::io::BufRead;

use geb::chat::ChatTemplate;
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let source = case["source"].as_str().unwrap_or_default();
        let rendered = ChatTemplate::from_source(source, "<s>", "</s>")
            .and_then(|template| template.render_json(&case["context"]));
        let answer = match rendered {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        println!("{answer}");
    }
    Ok(())
}
