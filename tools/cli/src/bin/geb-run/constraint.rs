//! What `--json-schema`, `--regex` and `--grammar` hold an answer to.

use std::path::Path;
use std::sync::Arc;

use geb::chat::ChatTemplate;
use geb::constraint::Constraint;
use geb::tokenizer::Tokenizer;
use geb_constrain::{Grammars, Source};

use crate::args::ConstraintArgs;
use crate::load;
use crate::report::{Failure, Outcome, note};

/// Largest schema or grammar that is read.
const MOST: usize = 1 << 20;

/// The constraint that the flags ask for, for answers without reasoning.
///
/// # Errors
/// A file that cannot be read; a form that no answer can be held to.
pub fn of(args: &ConstraintArgs, tokenizer: &Arc<Tokenizer>) -> Outcome<Option<Constraint>> {
    let (flag, source) = match (&args.json_schema, &args.regex, &args.grammar) {
        (Some(schema), ..) => ("--json-schema", self::schema(schema)?),
        (_, Some(regex), _) => ("--regex", Source::Regex(regex.clone())),
        (_, _, Some(path)) => ("--grammar", Source::Lark(load::read_text(path, MOST)?)),
        _ => return Ok(None),
    };
    let compiled = Grammars::new(tokenizer.clone()).compile(&source);
    let compiled = compiled.map_err(|e| Failure::usage(format!("{flag}: {e}")))?;
    for what in &compiled.unenforced {
        note(format_args!("note: {flag}: {what}"));
    }
    Ok(Some(Constraint::whole(compiled.grammar)))
}

/// The constraint of an answer to a prompt that ends with `opened`: it begins behind the reasoning.
pub fn behind_reasoning(
    constraint: Option<Constraint>,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    opened: &str,
) -> Option<Constraint> {
    let format = template.reply_format();
    let openings = format.before_text().map(str::to_owned);
    constraint.map(|constraint| Constraint {
        reasoning: format.reasoning_before(tokenizer, opened),
        openings: openings.into_iter().collect(),
        ..constraint
    })
}

/// A schema, or the file of one.
fn schema(given: &str) -> Outcome<Source> {
    let inline = given.trim_start().starts_with('{');
    let text = match inline {
        true => given.to_owned(),
        false => load::read_text(Path::new(given), MOST)?,
    };
    let schema = serde_json::from_str(&text).map_err(|e| {
        let name = if inline { "the schema" } else { given };
        Failure::usage(format!("--json-schema: {name}: {e}"))
    })?;
    let strict = false;
    Ok(Source::Schema { schema, strict })
}
