//! `geb-run eval rows`, `labels`, `clash` and `quotes` on geb-nano, with likelihoods summed here token
//! by token; and what a batch saves of them.

use std::path::Path;
use std::sync::Arc;

use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb::tokenizer::{Encode, Tokenizer};
use serde_json::{Value, json as object};

use super::support::*;
use super::tasks::nano;

/// A file of this test run.
fn file(name: &str, text: &str) -> String {
    let path = scratch().join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("path").to_owned()
}

struct Plain {
    session: Session,
    tokenizer: Tokenizer,
}

impl Plain {
    fn new() -> Plain {
        let file = GgufFile::open(Path::new(nano()), Load::Map).expect("own file");
        let tokenizer = Tokenizer::from_gguf(&file).expect("tokenizer");
        let model = Model::load(Arc::new(file)).expect("own model");
        let session = Session::new(model, &SessionOptions::default()).expect("session");
        Plain { session, tokenizer }
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.add_bos());
        let ids = self.tokenizer.encode(text, Encode::default());
        bos.into_iter().chain(ids.expect("encodes")).collect()
    }

    /// Log-likelihood of `rest` behind `context`, everything evaluated anew.
    fn log_prob(&mut self, context: &str, rest: &str) -> f64 {
        let (alone, ids) = (self.ids(context), self.ids(&format!("{context}{rest}")));
        let start = alone.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        self.session.reset();
        let logits = self.session.forward(&ids, Want::All).expect("forward");
        let vocab = logits.len() / ids.len();
        let one = |i: usize| {
            let row: Vec<f64> = logits[(i - 1) * vocab..i * vocab]
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            row[ids[i] as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
        };
        (start..ids.len()).map(one).sum()
    }

    /// The most probable tokens behind `context`, two more than `rest` has, as text.
    fn greedy(&mut self, context: &str, rest: &str) -> String {
        let (alone, whole) = (self.ids(context), self.ids(&format!("{context}{rest}")));
        let start = alone.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        let mut ids = whole[..start].to_vec();
        while ids.len() < whole.len() + 2 {
            self.session.reset();
            let row = self.session.forward(&ids, Want::Last).expect("forward");
            let best = (0..row.len())
                .rev()
                .max_by(|a, b| row[*a].total_cmp(&row[*b]));
            let best = best.expect("a token") as u32;
            if self.tokenizer.is_stop(best) {
                break;
            }
            ids.push(best);
        }
        let last = ids[..start].last().copied();
        self.tokenizer.continuation(last, &ids[start..])
    }
}

#[track_caller]
fn near(said: &Value, want: f64) {
    let said = said.as_f64().expect("a number");
    assert!((said - want).abs() < 2e-3, "{said}, by hand {want}");
}

fn eval(words: &[&str]) -> std::process::Output {
    run(&[&["eval", words[0], "-m", nano()], &words[1..]].concat())
}

#[test]
fn each_command_has_examples() {
    for command in ["rows", "labels", "clash", "quotes"] {
        for flag in ["-h", "--help"] {
            let help = run(&["eval", command, flag]);
            exits(&help, 0);
            let example = format!("  geb-run eval {command} ");
            assert!(stdout(&help).contains(&example), "{}", stdout(&help));
        }
    }
}

#[test]
fn rows_have_the_likelihoods_of_plain_sums() {
    let text = "name,land,age\nSaul,Gibeah,60\nDavid,Judah,70\nOmri,Samaria,50\n";
    let path = file("kings.csv", text);
    let value = json(&eval(&["rows", &path, "--json", "--column", "land"]));
    let records = value["records"].as_array().expect("records");
    assert_eq!(records.len(), 3);
    let lines: Vec<&str> = text.lines().collect();
    let mut plain = Plain::new();
    let (mut wins, mut differences) = (0, Vec::new());
    for (i, record) in records.iter().enumerate() {
        let context = lines[..=i].join("\n") + "\n";
        let exact = plain.log_prob(&context, &format!("{}\n", lines[i + 1]));
        let fields: Vec<&str> = lines[i + 1].split(',').collect();
        let instead = record["instead"].as_str().expect("a text");
        assert!(instead != fields[1] && text.contains(&format!(",{instead},")));
        let changed = format!("{},{instead},{}\n", fields[0], fields[2]);
        let perturbed = plain.log_prob(&context, &changed);
        near(&record["exact"], exact);
        near(&record["perturbed"], perturbed);
        wins += u64::from(exact > perturbed);
        differences.push(exact - perturbed);
        let written = record["written"].as_str().expect("a text");
        let rest = format!(",{},{}\n", fields[1], fields[2]);
        assert_eq!(
            written,
            plain.greedy(&format!("{context}{}", fields[0]), &rest)
        );
        assert_eq!(record["completed"], written.starts_with(&rest));
    }
    assert_eq!(value["exact_wins"]["correct"], wins);
    near(
        &value["difference"]["value"],
        differences.iter().sum::<f64>() / 3.0,
    );
    let shown = eval(&["rows", &path]);
    exits(&shown, 0);
    assert!(stdout(&shown).contains("exact row more probable"));
    let wrong = eval(&["rows", &path, "--column", "size"]);
    exits(&wrong, 2);
    assert!(stderr(&wrong).contains("allowed: name, land, age"));
    let wrong = eval(&["rows", &file("ragged.csv", "a,b\n1,2\n3\n")]);
    exits(&wrong, 3);
    assert!(stderr(&wrong).contains("line 3: row is 1 fields, allowed: 2"));
}

#[test]
fn labels_have_the_likelihoods_of_plain_sums() {
    let line = |i: usize| {
        let (text, label) = [
            ("the king of Israel", "man"),
            ("the sea and the river", "water"),
        ][i % 2];
        object!({ "text": format!("{text} {i}"), "label": label })
    };
    let lines: Vec<Value> = (0..12).map(line).collect();
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    let path = file("labels.jsonl", &text);
    let words = ["labels", &path, "--questions", "3", "--lengths", "160,60"];
    let value = json(&eval(&[&words[..], &["--json"]].concat()));
    assert_eq!(value["labels"], object!(["man", "water"]));
    let records = value["records"].as_array().expect("records");
    assert_eq!(records.len(), 6);
    let mut plain = Plain::new();
    let of = |i: usize, name: &str| lines[i][name].as_str().expect("a text").to_owned();
    let mut right = [0, 0];
    for (n, record) in records.iter().enumerate() {
        let asked = record["line"].as_u64().expect("a line") as usize - 1;
        assert_eq!(asked, 9 + n % 3);
        let examples = record["examples"].as_u64().expect("a number") as usize;
        let solved = (0..examples)
            .map(|i| format!("text: {}\nlabel: {}\n\n", of(i, "text"), of(i, "label")));
        let context = solved.collect::<String>() + &format!("text: {}\nlabel:", of(asked, "text"));
        let log_probs = [" man", " water"].map(|l| plain.log_prob(&context, l));
        near(&record["log_probs"][0], log_probs[0]);
        near(&record["log_probs"][1], log_probs[1]);
        let chosen = usize::from(log_probs[1] > log_probs[0]);
        right[n / 3] += u64::from(chosen == asked % 2);
        assert!(record["tokens"].as_u64() <= record["length"].as_u64());
    }
    assert!(records[0]["examples"].as_u64() < records[3]["examples"].as_u64());
    for (i, length) in [60, 160].into_iter().enumerate() {
        assert_eq!(value["lengths"][i]["length"], length);
        assert_eq!(value["lengths"][i]["correct"], right[i]);
    }
    let shown = eval(&words);
    exits(&shown, 0);
    assert!(stdout(&shown).contains("2 labels, 9 lines of examples"));
    let wrong = eval(&[
        "labels",
        &file(
            "unlabelled.jsonl",
            "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\"}\n",
        ),
    ]);
    exits(&wrong, 3);
    assert!(
        stderr(&wrong).contains("line 2: field label is missing"),
        "{}",
        stderr(&wrong)
    );
}

#[test]
fn clashes_have_the_likelihoods_of_plain_sums() {
    let texts = [
        [
            "Who built the ark?",
            "Noah",
            "Noah built the ark.",
            "Saul",
            "Saul built the ark.",
        ],
        [
            "Who slew Goliath?",
            "David",
            "David slew Goliath.",
            "Omri",
            "Omri slew Goliath.",
        ],
    ];
    let names = [
        "question",
        "answer",
        "context",
        "changed_answer",
        "changed_context",
    ];
    let line = |t: &[&str; 5]| {
        let fields = names
            .iter()
            .zip(t)
            .map(|(n, t)| (n.to_string(), (*t).into()));
        format!("{}\n", Value::Object(fields.collect()))
    };
    let path = file("clashes.jsonl", &texts.iter().map(line).collect::<String>());
    let value = json(&eval(&["clash", &path, "--json"]));
    let mut plain = Plain::new();
    let (mut prior, mut followed) = (0, 0);
    for (i, [question, answer, context, changed, other]) in texts.into_iter().enumerate() {
        let asked = format!("Question: {question}\nAnswer:");
        let record = &value["records"][i];
        for (name, before) in [
            ("prior", asked.clone()),
            ("context", format!("{context}\n\n{asked}")),
            ("changed", format!("{other}\n\n{asked}")),
        ] {
            let both = [answer, changed].map(|a| plain.log_prob(&before, &format!(" {a}")));
            near(&record[name][0], both[0]);
            near(&record[name][1], both[1]);
            prior += u64::from(name == "prior" && both[0] >= both[1]);
            followed += u64::from(name == "changed" && both[0] < both[1]);
        }
    }
    assert_eq!(value["prior"]["correct"], prior);
    assert_eq!(value["followed"]["correct"], followed);
    assert_eq!(value["misled"]["questions"], prior);
    let shown = eval(&["clash", &path]);
    exits(&shown, 0);
    assert!(stdout(&shown).contains("changed context followed"));
    let wrong = eval(&[
        "clash",
        &file(
            "no-clash.jsonl",
            "{\"question\": \"a\", \"answer\": \"b\"}\n",
        ),
    ]);
    exits(&wrong, 3);
    assert!(stderr(&wrong).contains("line 1: field changed_answer is missing"));
}

#[test]
fn quotes_are_counted_without_a_model() {
    let answers = file(
        "quoted.jsonl",
        "{\"answer\": \"In the beginning, God slept.\"}\n{\"answer\": \"起初神\"}\n",
    );
    let corpus = file(
        "genesis.txt",
        "In the beginning God created the heaven.\n起初，神创造天地。\n",
    );
    let words = [
        "eval", "quotes", &answers, "--corpus", &corpus, "--grams", "3,1",
    ];
    let value = json(&run(&[&words[..], &["--json"]].concat()));
    // Words: in the beginning god | slept; of three: in the beginning, the beginning god | beginning god slept.
    let found: Vec<_> = [0, 1].map(|i| value["grams"][i]["found"].clone()).to_vec();
    assert_eq!(found, [4 + 3, 2 + 1]);
    near(&value["answers"][0]["grams"][0]["share"], 0.8);
    near(&value["grams"][1]["mean"]["value"], (2.0 / 3.0 + 1.0) / 2.0);
    let shown = run(&words);
    exits(&shown, 0);
    assert!(
        stdout(&shown).contains("in the corpus"),
        "{}",
        stdout(&shown)
    );
    let wrong = run(&[&words[..5], &["--field", "text"]].concat());
    exits(&wrong, 3);
    assert!(stderr(&wrong).contains("line 1: field text is missing"));
}

#[test]
fn a_batch_saves_answers_with_their_log_probabilities() {
    let chat = object!({ "messages": [{ "role": "user", "content": "Hello" }],
                         "max_tokens": 3, "temperature": 0, "logprobs": true, "top_logprobs": 2 });
    let text = object!({ "prompt": "In the", "max_tokens": 3, "temperature": 0, "logprobs": 1 });
    let line = |id: &str, url: &str, body: Value| {
        object!({ "custom_id": id, "method": "POST", "url": url, "body": body }).to_string() + "\n"
    };
    let lines = line("chat", "/v1/chat/completions", chat) + &line("text", "/v1/completions", text);
    let input = file("prompts.jsonl", &lines);
    let out = file("prompt-answers.jsonl", "");
    exits(
        &run(&["batch", "-m", nano(), &input, "-o", &out, "--force", "-q"]),
        0,
    );
    let rows = std::fs::read_to_string(&out).expect("rows");
    let mut chats = 0;
    for row in rows
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("a row"))
    {
        let choice = &row["response"]["body"]["choices"][0];
        if row["custom_id"] == "chat" {
            for token in choice["logprobs"]["content"].as_array().expect("tokens") {
                assert!(token["logprob"].as_f64() <= Some(0.0));
                assert_eq!(token["top_logprobs"].as_array().map(Vec::len), Some(2));
                // Greedy: the chosen token is the most probable one.
                assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
                chats += 1;
            }
            continue;
        }
        let tokens = choice["logprobs"]["tokens"].as_array().expect("tokens");
        let first = tokens[0].as_str().expect("a text");
        let want = Plain::new().log_prob("In the", first);
        near(&choice["logprobs"]["token_logprobs"][0], want);
    }
    assert!(chats > 0, "{rows}");
    assert_eq!(rows.lines().count(), 2);
}
