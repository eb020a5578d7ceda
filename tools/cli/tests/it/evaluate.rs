//! Commands that judge a model by its probabilities: `eval perplexity` and `scores`.

use serde_json::Value;

use crate::support::*;

/// A text of some hundred tokens of the fixture.
fn text() -> String {
    let path = scratch().join("evaluate.txt");
    let prompt = expected("llama")["prompt_text"]
        .as_str()
        .expect("prompt")
        .to_owned();
    std::fs::write(&path, format!("{prompt}\n").repeat(40)).expect("temporary file");
    path.to_str().expect("path").to_owned()
}

#[test]
fn perplexity_of_a_model_against_itself() {
    let (text, base) = (text(), model().to_str().expect("path"));
    let words = [
        "eval",
        "perplexity",
        "-m",
        base,
        "--base",
        base,
        "-f",
        &text,
        "--ctx",
        "64",
        "--windows",
        "3",
    ];
    let value = json(&run(&[&words[..], &["--json"]].concat()));
    let models = value["models"].as_array().expect("models");
    assert_eq!(models.len(), 2);
    assert_eq!(models[0]["perplexity"], models[1]["perplexity"]);
    assert_eq!(models[0]["tokens"], 3 * 31);
    let against = &models[1]["against_base"];
    assert_eq!(against["kl"]["max"], 0.0);
    assert_eq!(against["top1"]["value"], 1.0);
    assert_eq!(against["perplexity_ratio"]["value"], 1.0);
    let shown = run(&words);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("same most probable token 100.000"),
        "{shown}"
    );
}

#[test]
fn scores_add_up_to_the_perplexity_and_both_forms_agree() {
    let text = text();
    let lines = run_on_model(&["scores", "-f", &text, "--json", "--top-k", "2"]);
    let lines = String::from_utf8_lossy(&lines.stdout).into_owned();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert!(lines.len() > 100);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["position"], i as u64 + 1);
        let best = &line["top"][0];
        let (own, best) = (line["logprob"].as_f64(), best["logprob"].as_f64());
        assert_eq!(line["rank"] == 1, own == best, "{line}");
    }
    let csv = run_on_model(&["scores", "-f", &text, "--csv"]);
    let csv = String::from_utf8_lossy(&csv.stdout).into_owned();
    assert!(
        csv.starts_with("position,id,text,logprob,rank\n1,"),
        "{csv:.200}"
    );
    let first = format!("1,{},", lines[0]["id"]);
    assert!(csv.lines().nth(1).is_some_and(|l| l.starts_with(&first)));
    assert_eq!(
        run_on_model(&["scores", "-f", &text]).status.code(),
        Some(2)
    );
    assert_eq!(
        run_on_model(&["scores", "-f", "no such file", "--csv"])
            .status
            .code(),
        Some(1)
    );
}
