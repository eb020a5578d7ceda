//! Jinja expressions and statements against jinja2's recorded answers (`tests/oracle/expressions.py`).

use std::path::Path;

use geb::chat::ChatTemplate;
use serde_json::Value;

fn recorded() -> Value {
    let path = Path::new(crate::common::ROOT).join("tests/fixtures/expressions.json");
    let text = std::fs::read_to_string(path).expect("a file of the repository");
    serde_json::from_str(&text).expect("JSON")
}

fn render(source: &str, context: &Value) -> Result<String, String> {
    ChatTemplate::from_source(source, "<s>", "</s>")
        .and_then(|template| template.render_json(context))
        .map_err(|e| e.to_string())
}

#[test]
fn expressions_equal_jinja2_or_are_refused_by_both() {
    let recorded = recorded();
    let context = &recorded["context"];
    let (mut equal, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in recorded["cases"].as_array().expect("cases") {
        let source = case[0].as_str().expect("a source");
        match (case[1].as_str(), render(source, context)) {
            (Some(wanted), Ok(found)) if wanted == found => equal += 1,
            (None, Err(_)) => refused += 1,
            (wanted, found) => {
                wrong.push(format!("{source}\n  jinja2 {wanted:?}\n  ours   {found:?}"))
            }
        }
    }
    println!(
        "{equal} equal, {refused} refused by both, {} differ",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(equal >= 1_400 && refused >= 100, "{equal} {refused}");
}

/// What jinja2 knows and ours does not is refused, and the message names it.
#[test]
fn what_is_not_available_is_named() {
    let recorded = recorded();
    for source in recorded["refused"].as_array().expect("sources") {
        let source = source.as_str().expect("a source");
        let Err(why) = render(source, &recorded["context"]) else {
            panic!("{source} was rendered");
        };
        assert!(why.contains("(in chat:1)"), "{source}: {why}");
    }
    for (source, name) in [
        ("{{ lipsum() }}", "lipsum"),
        ("{{ xs|random }}", "random"),
        ("{{ 'a'|urlize }}", "urlize"),
        ("{{ 'a'.encode() }}", "encode"),
        ("{{ 'a'|no_such_filter }}", "no_such_filter"),
        ("{{ 'a' is no_such_test }}", "no_such_test"),
        ("{{ xs.append(1) }}", "append"),
        ("{% block a %}{% endblock %}", "block"),
        ("{% include 'a' %}", "include"),
        ("{% no_such_tag %}", "no_such_tag"),
    ] {
        let why = render(source, &recorded["context"]).expect_err(source);
        assert!(why.contains(name), "{source}: {why}");
    }
}
