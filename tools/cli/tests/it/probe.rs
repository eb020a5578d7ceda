//! `geb-run probe`: forms of its reports, and what it refuses.

use crate::support::*;

const TEXT: [&str; 3] = ["probe", "-p", "Some text to look at."];

fn probe(extra: &[&str]) -> std::process::Output {
    run_on_model(&[&TEXT[..], extra].concat())
}

#[test]
fn attention_and_lens_in_every_form() {
    let value = json(&probe(&[
        "--heads",
        "--lens",
        "--positions",
        "0,3",
        "--json",
    ]));
    let heads = ids(&value["heads"]);
    let rows = value["attention"].as_array().expect("rows");
    assert_eq!(rows.len() as u64, 2 * heads.iter().sum::<u64>());
    for row in rows {
        let weights = row["weights"].as_array().expect("weights");
        let sum: f64 = weights.iter().filter_map(serde_json::Value::as_f64).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row}");
        let seen = weights.len() as u64 + row["first"].as_u64().expect("a number");
        assert_eq!(Some(seen - 1), row["position"].as_u64());
    }
    let lens = value["lens"].as_array().expect("rows");
    assert_eq!(lens.len(), 2 * (heads.len() + 1));
    assert!(
        lens.iter()
            .all(|l| l["top"].as_array().map(Vec::len) == Some(5))
    );
    let text = probe(&["--heads", "--lens", "--top", "2"]);
    exits(&text, 0);
    let text = stdout(&text);
    assert!(
        text.contains(", by layers:") && text.contains("\n0.0  from "),
        "{text}"
    );
}

#[test]
fn heads_switched_off_change_the_loss() {
    let some = json(&probe(&["--ablate", "0.0", "--json"]));
    let all = json(&probe(&["--ablate", "all", "--json"]));
    let number = |v: &serde_json::Value, field: &str| v["ablation"][field].as_f64();
    assert_eq!(number(&some, "loss"), number(&all, "loss"));
    assert_ne!(number(&some, "loss"), number(&some, "loss_without"));
    assert_ne!(number(&all, "loss_without"), number(&some, "loss_without"));
    let heads: u64 = ids(&all["heads"]).iter().sum();
    let count = all["ablation"]["heads"].as_array().map(Vec::len);
    assert_eq!(count, Some(heads as usize));
}

#[test]
fn states_and_retrieval() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("s.safetensors");
    let out = probe(&["--states", file.to_str().expect("path"), "--json"]);
    let value = json(&out);
    let bytes = std::fs::read(&file).expect("written");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let shape = tensors.tensor("states").expect("states").shape().to_vec();
    let tokens = value["tokens"].as_array().map(Vec::len);
    assert_eq!(
        (shape[0], Some(shape[1])),
        (ids(&value["heads"]).len() + 1, tokens)
    );
    let words = [
        "probe",
        "--retrieval",
        "--lengths",
        "120",
        "--depths",
        "50",
        "--needles",
        "1",
    ];
    let value = json(&run_on_model(&[&words[..], &["--json"]].concat()));
    assert!(value["retrieval"]["tokens"].as_u64() > Some(0));
    let text = run_on_model(&words);
    exits(&text, 0);
    assert!(stdout(&text).contains("answer tokens"), "{}", stdout(&text));
}

#[test]
fn what_cannot_be_probed_is_said() {
    for (words, said) in [
        (&["--ablate", "99.0"][..], "--ablate 99.0 is no head"),
        (&["--lens", "--positions", "500"], "not in the text"),
        (&["--retrieval"], "cannot be used with"),
        (&[], "required"),
        (&["--lens", "--kv", "q8_0"], "--kv is not f32"),
    ] {
        let refused = probe(words);
        exits(&refused, 2);
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    }
}
