//! `geb-run eval choice` and `geb-run eval needle` on geb-nano.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::support::*;

/// geb-nano as a Q8_0 file; made once.
pub fn nano() -> &'static str {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let path = MODEL.get_or_init(|| {
        let path = scratch().join("nano-q8_0.gguf");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/geb-nano/hf");
        let options = geb_convert::Options {
            policy: geb::Dtype::Q8_0.into(),
            ..Default::default()
        };
        geb_convert::convert(&source, &path, &options, &mut ()).expect("convert");
        path
    });
    path.to_str().expect("path")
}

/// A folder in the layout of MMLU with two subjects, four questions.
fn mmlu() -> &'static str {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = scratch().join("mmlu");
        for (name, text) in [
            (
                "test/kings_test.csv",
                "Who was king?,Saul,Eve,Ruth,Dan,A\nWho slew Goliath?,Saul,David,Eli,Lot,B\nWho was wise?,Cain,Esau,Solomon,Ham,C\n",
            ),
            ("dev/kings_dev.csv", "Who was king?,Saul,Eve,Ruth,Dan,A\nWho fell?,Eli,Job,Amos,Joel,A\n"),
            ("test/law_test.csv", "What is a law?,a rule,a tree,a fish,a sea,A\n"),
            ("dev/law_dev.csv", "What is sin?,a tree,evil,a fish,a sea,B\n"),
        ] {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        dir
    });
    dir.to_str().expect("path")
}

fn choice(words: &[&str]) -> std::process::Output {
    let start = ["eval", "choice", "--format", "mmlu", "-m", nano(), mmlu()];
    run(&[&start, words].concat())
}

#[test]
fn choice_reports_the_same_in_every_form() {
    let value = json(&choice(&["--json"]));
    assert_eq!(value["acc"]["questions"], 4);
    assert_eq!(
        value["shots"],
        serde_json::json!({"asked": 5, "least": 1, "most": 2})
    );
    let records = value["records"].as_array().expect("records");
    let right = records
        .iter()
        .filter(|r| r["chosen"] == r["answer"])
        .count();
    assert_eq!(value["acc"]["correct"], right);
    assert_eq!(value["subjects"][0]["subject"], "kings");
    assert_eq!(value["subjects"][0]["acc"]["questions"], 3);

    let csv = choice(&["--csv"]);
    exits(&csv, 0);
    let csv = stdout(&csv);
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("subject,index,shots,answer,chosen,chosen_norm,log_probs")
    );
    for (line, record) in lines.by_ref().zip(records) {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), 10, "{line}");
        assert_eq!(fields[4], record["chosen"].to_string());
        let first: f64 = fields[6].parse().expect("a number");
        assert!((first - record["log_probs"][0].as_f64().expect("a number")).abs() < 1e-5);
    }
    assert_eq!(csv.lines().count(), 5);

    let text = choice(&[]);
    exits(&text, 0);
    let text = stdout(&text);
    assert!(text.starts_with("mmlu, 1 to 2 examples, "), "{text}");
    let accuracy = format!("{:.1}", 25.0 * right as f64);
    let mean = text.lines().find(|l| l.starts_with("mean over questions"));
    let cells: Vec<&str> = mean.expect("a mean").split_whitespace().skip(3).collect();
    assert_eq!(cells[..2], ["4", &accuracy], "{text}");
    assert!(text.contains("by chance  25.0 %"), "{text}");
}

#[test]
fn choice_takes_a_part() {
    let value = json(&choice(&[
        "--json",
        "--subjects",
        "k*",
        "--limit",
        "2",
        "--shots",
        "0",
    ]));
    assert_eq!(value["acc"]["questions"], 2);
    assert_eq!(value["shots"]["most"], 0);
}

#[test]
fn choice_says_what_is_wrong() {
    let format = run(&["eval", "choice", "--format", "mmul", "-m", nano(), mmlu()]);
    exits(&format, 2);
    assert!(
        stderr(&format).contains("mmlu, ceval, cmmlu, hellaswag"),
        "{}",
        stderr(&format)
    );
    let layout = run(&["eval", "choice", "--format", "ceval", "-m", nano(), mmlu()]);
    exits(&layout, 2);
    assert!(
        stderr(&layout).contains("val/SUBJECT_val.csv"),
        "{}",
        stderr(&layout)
    );
    let bad = scratch().join("bad-mmlu");
    std::fs::create_dir_all(bad.join("test")).expect("a folder");
    std::fs::write(bad.join("test/law_test.csv"), "q,a,b,c,d,E\n").expect("a file");
    let bad = run(&[
        "eval",
        "choice",
        "--format",
        "mmlu",
        "-m",
        nano(),
        bad.to_str().expect("path"),
    ]);
    exits(&bad, 3);
    assert!(
        stderr(&bad).contains("line 1: answer is E, allowed: A, B, C or D"),
        "{}",
        stderr(&bad)
    );
    let small = choice(&["--ctx", "8"]);
    exits(&small, 2);
    assert!(
        stderr(&small).contains("no question fits the context"),
        "{}",
        stderr(&small)
    );
}

#[test]
fn shortened_prompts_are_mentioned() {
    // Room for the longest question and less than an example more.
    let alone = json(&choice(&["--json", "--shots", "0"]));
    assert_eq!(alone["skipped"], 0);
    let most = (40..240).step_by(4).find(|ctx| {
        let n = ctx.to_string();
        let output = choice(&["--json", "--ctx", &n]);
        output.status.success() && json(&output)["skipped"] == 0
    });
    let ctx = most.expect("a context").to_string();
    let less = choice(&["--ctx", &ctx]);
    exits(&less, 0);
    assert!(
        stderr(&less).contains("had fewer examples, to fit the context"),
        "{}",
        stderr(&less)
    );
}

#[test]
fn needles_fill_a_grid() {
    let grid = [
        "eval",
        "needle",
        "-m",
        nano(),
        "--lengths",
        "384,200",
        "--depths",
        "100,0",
        "--needles",
        "2",
    ];
    let value = json(&run(&[&grid[..], &["--json"]].concat()));
    let cells = value["cells"].as_array().expect("cells");
    let places: Vec<_> = cells
        .iter()
        .map(|c| (c["length"].clone(), c["depth"].clone()))
        .collect();
    let want = [(200, 0.0), (200, 1.0), (384, 0.0), (384, 1.0)];
    assert_eq!(places, want.map(|(l, d)| (l.into(), d.into())));
    let trials = value["trials"].as_array().expect("trials");
    assert_eq!(trials.len(), 8);
    for trial in trials {
        let (tokens, length) = (trial["tokens"].as_u64(), trial["length"].as_u64());
        assert!(
            tokens <= length && tokens > length.map(|l| l - 60),
            "{trial}"
        );
        assert!(trial["log_prob"].as_f64() < Some(0.0));
        let answer = trial["answer"].as_str().expect("text");
        let right = answer.starts_with(trial["expected"].as_str().expect("text"));
        assert_eq!(trial["found"], right, "{trial}");
    }
    let map = run(&grid);
    exits(&map, 0);
    let map = stdout(&map);
    assert!(map.contains("  depth      200     384  tokens"), "{map}");
    assert!(!map.contains('\x1b'), "{map}");
    let mut coloured = geb_run();
    coloured.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
    let coloured = coloured.args(grid).output().expect("geb-run starts");
    assert!(stdout(&coloured).contains("\x1b[30;48;5;"));
    let long = run(&["eval", "needle", "-m", nano(), "--lengths", "600"]);
    exits(&long, 2);
    assert!(
        stderr(&long).contains("--lengths 600 does not fit the context of 512"),
        "{}",
        stderr(&long)
    );
}
