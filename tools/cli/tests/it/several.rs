//! Several answers from the command line: ranks, forms, flags that exclude each other.

use crate::support::*;

const PROMPT: [&str; 8] = [
    "generate",
    "-p",
    "ab",
    "--raw",
    "-n",
    "6",
    "--ignore-eos",
    "-q",
];

fn several(extra: &[&str]) -> std::process::Output {
    run_on_model(&[&PROMPT[..], extra].concat())
}

#[test]
fn answers_are_ranked_in_every_form() {
    let greedy = json(&several(&["--temp", "0", "--json"]));
    let one = json(&several(&["--beams", "1", "--json"]));
    assert_eq!(one["sequences"][0]["ids"], greedy["ids"]);
    assert_eq!(one["sequences"][0]["text"], greedy["text"]);
    for how in [
        &["--num-beams", "3"][..],
        &["--best-of", "3", "--seed", "1"],
    ] {
        let value = json(&several(&[how, &["--json"]].concat()));
        let sequences = value["sequences"].as_array().expect("answers");
        let number = |i: usize, field: &str| sequences[i][field].as_f64().expect("a number");
        assert_eq!(sequences.len(), 3);
        for i in 0..3 {
            assert!((number(i, "score") - number(i, "log_prob") / 6.0).abs() < 1e-12);
            assert!(i == 0 || number(i - 1, "score") >= number(i, "score"));
        }
        let best = several(how);
        exits(&best, 0);
        let texts = stdout(&best);
        let first = sequences[0]["text"].as_str().expect("a text");
        assert_eq!(texts, format!("{first}\n"));
        let two = several(&[how, &["--keep", "2"]].concat());
        let lines = stdout(&two);
        let heads: Vec<&str> = lines.lines().filter(|l| l.starts_with("--- ")).collect();
        assert_eq!(heads.len(), 2, "{lines}");
        let score = format!("score {:.4}", number(1, "score"));
        assert!(heads[1].contains(&score), "{lines}");
    }
}

#[test]
fn what_does_not_go_together_is_said_in_one_line() {
    for (flags, said) in [
        (&["--beams", "2", "--draft", "x"][..], "--draft"),
        (&["--beams", "2", "--temp", "1"], "--temp"),
        (&["--beams", "2", "--best-of", "2"], "--best-of"),
        (&["--beams", "0"], "1..=1024"),
        (&["--keep", "2"], "--beams"),
        (&["--best-of", "2", "--temp", "0"], "one answer N times"),
    ] {
        let refused = several(flags);
        exits(&refused, 2);
        let text = stderr(&refused);
        let first = text.lines().next().unwrap_or_default();
        assert!(
            text.contains(said) && first.starts_with("error: "),
            "{text}"
        );
    }
}
