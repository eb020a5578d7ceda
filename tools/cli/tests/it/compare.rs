//! `geb-run compare` on the model of the demo: forms of the result, gates, faults that were put in,
//! stopping and continuing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use geb::Dtype;
use geb::gguf::writer::{MetaValue, Plan, write_to};
use geb::gguf::{GgufFile, Load};
use serde_json::Value;

use super::support::*;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../assets/geb-nano")
        .join(name)
}

/// A folder for one test, with its own cache.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir_in(scratch()).expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = geb_run();
        command.env("GEB_CACHE_DIR", self.path("cache"));
        command.arg("compare").args(words).arg("--quiet");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("geb-run starts")
    }

    /// The demo's model in this type.
    fn model(&self, dtype: Dtype) -> PathBuf {
        let path = self.path(&format!("{}.gguf", dtype.name()));
        let options = geb_convert::Options {
            policy: dtype.into(),
            ..Default::default()
        };
        geb_convert::convert(&asset("hf"), &path, &options, &mut ()).expect("converted");
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The same file with its tensors' bytes and keys changed.
fn changed(
    from: &Path,
    to: &Path,
    keys: impl Fn(&mut Plan),
    bytes: impl Fn(&str, &GgufFile) -> Vec<u8>,
) {
    let file = GgufFile::open(from, Load::Map).expect("opened");
    let mut plan = Plan {
        metadata: Vec::new(),
        tensors: Vec::new(),
    };
    plan.copy_meta(&file, |_, _| true);
    for t in file.tensors() {
        plan.push_tensor(t.info().name.clone(), t.dtype(), t.info().dims.clone());
    }
    keys(&mut plan);
    let mut out = Vec::new();
    write_to(&mut out, &plan, &mut |i, w| {
        let data = bytes(&plan.tensors[i].name, &file);
        w.write_all(&data).map_err(geb::Error::io("memory"))
    })
    .expect("written");
    std::fs::write(to, out).expect("saved");
}

fn bytes_of(name: &str, file: &GgufFile) -> Vec<u8> {
    file.tensor(name).expect("tensor").bytes().to_vec()
}

#[test]
fn one_command_gives_every_form() {
    let place = Place::new();
    let (base, en, zh) = (asset("hf"), asset("eval-en.txt"), asset("eval-zh.txt"));
    let files = ["json", "md", "csv", "html"].map(|e| place.path(&format!("out.{e}")));
    let [json, md, csv, html] = files.each_ref().map(|p| text(p));
    let run = |rounds: &str| {
        let words = [
            text(&base),
            "q8_0",
            "q4_0",
            "--text",
            text(&en),
            "--text",
            text(&zh),
            "--windows",
            "3",
            "-t",
            "1,2",
            "-r",
            rounds,
            "-p",
            "16",
            "-n",
            "4",
            "--kv",
            "f16,q8_0",
        ];
        let mut command = place.command(&words);
        command.args([
            format!("--json={json}"),
            format!("--md={md}"),
            format!("--csv={csv}"),
            format!("--report={html}"),
        ]);
        let output = command.output().expect("geb-run starts");
        exits(&output, 0);
        output
    };
    let table = stdout(&run("2"));
    for name in [
        "f32",
        "q8_0 kv f16",
        "q8_0 kv q8_0",
        "q4_0 kv f16",
        "q4_0 kv q8_0",
    ] {
        assert!(table.contains(name), "{name}: {table}");
    }
    assert!(
        table.contains("top-1 agreement") && table.contains("eval-zh"),
        "{table}"
    );
    let read = |path: &str| std::fs::read_to_string(path).expect("written");
    let value: Value = serde_json::from_str(&read(json)).expect("JSON");
    let rows = value["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 5);
    let number =
        |row: usize, path: &str| rows[row].pointer(path).and_then(Value::as_f64).expect(path);
    for row in 1..5 {
        assert!(number(row, "/texts/1/against_base/kl/mean/value") > 0.0);
        assert!(number(row, "/speed/1/decode_ratio/median") > 0.0);
        assert!(number(row, "/bytes") < number(0, "/bytes"));
        assert!(number(row, "/worst_block/error") < 0.5);
        assert!(
            rows[row]["command"]
                .as_str()
                .expect("command")
                .starts_with("geb-quantize ")
        );
    }
    assert!(
        number(1, "/texts/0/against_base/kl/mean/value")
            < number(3, "/texts/0/against_base/kl/mean/value")
    );
    assert_eq!(read(csv).lines().count(), 6);
    assert!(read(md).contains("|---|---:|"));
    let page = read(html);
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme"));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!page.contains("NaN") && !page.contains("{{"));
    // The second time nothing is quantized: the files are the same ones.
    let made = || {
        let all = std::fs::read_dir(place.path("cache/compare")).expect("cache");
        let mut all: Vec<_> = all
            .flatten()
            .map(|e| {
                (
                    e.file_name(),
                    e.metadata().and_then(|m| m.modified()).expect("time"),
                )
            })
            .collect();
        all.sort();
        all
    };
    let first = made();
    assert_eq!(
        first.len(),
        3,
        "base and two types; no state is left: {first:?}"
    );
    run("1");
    assert_eq!(made(), first);
}

/// What is lost for certain in each row behind the base: 0 nothing, 4 broken.
fn losses(json: &str) -> Vec<usize> {
    let classes = ["none", "small", "moderate", "heavy", "broken"];
    let value: Value = serde_json::from_str(json).expect("JSON");
    let rank = |row: &Value| {
        let class = row["finding"]["at_least"].as_str();
        classes.iter().position(|c| Some(*c) == class)
    };
    let rows = value["rows"].as_array().expect("rows");
    rows[1..]
        .iter()
        .map(|r| rank(r).expect("a class"))
        .collect()
}

const TEN_WINDOWS: [&str; 4] = ["--windows", "10", "-r", "0"];

#[test]
fn more_noise_is_never_called_better() {
    let place = Place::new();
    let (base, en) = (place.model(Dtype::F32), asset("eval-en.txt"));
    let noisy = |share: f64| {
        let mut state = 1u64;
        // The sum of four uniform numbers of variance 1/12, made variance 1.
        let mut noise = move || {
            let mut sum = 0.0;
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                sum += (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5;
            }
            sum * 3f64.sqrt()
        };
        let path = place.path(&format!("noise-{share}.gguf"));
        let file = GgufFile::open(&base, Load::Map).expect("opened");
        let mut changed_bytes = std::collections::HashMap::new();
        for t in file.tensors() {
            let w: Vec<f32> = t
                .bytes()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            let square: f64 = w.iter().map(|x| f64::from(*x).powi(2)).sum();
            let size = share * (square / w.len() as f64).sqrt();
            let bytes: Vec<u8> = w
                .iter()
                .flat_map(|x| ((f64::from(*x) + size * noise()) as f32).to_le_bytes())
                .collect();
            changed_bytes.insert(t.info().name.clone(), bytes);
        }
        changed(&base, &path, |_| (), |name, _| changed_bytes[name].clone());
        path
    };
    let noises = [0.0005, 0.02, 0.1, 0.3, 1.0].map(noisy);
    let run = |candidates: &[&str]| {
        let ends = ["--text", text(&en), "--json=-"];
        let words = [&[text(&base)], candidates, &ends, &TEN_WINDOWS];
        let output = place.run(&words.concat());
        exits(&output, 0);
        losses(&stdout(&output))
    };
    // What is said of one does not rest on what is said of the others.
    let each: Vec<usize> = noises[..4]
        .iter()
        .step_by(3)
        .flat_map(|n| run(&[text(n)]))
        .collect();
    let together = run(&noises.each_ref().map(|n| text(n)));
    assert_eq!(each, [together[0], together[3]]);
    assert!(together.is_sorted(), "{together:?}");
    assert_eq!((together[0], together[4]), (0, 4), "{together:?}");
}

#[test]
fn fewer_bits_are_never_called_better_and_one_cache_is_used() {
    let place = Place::new();
    let (base, en, json) = (asset("hf"), asset("eval-en.txt"), place.path("out.json"));
    let mut command = place.command(&[text(&base), "q2_k", "q4_0", "q6_k", "q8_0"]);
    command.args(["--text", text(&en)]).args(TEN_WINDOWS);
    command.arg(format!("--json={}", text(&json)));
    let output = command.output().expect("geb-run starts");
    exits(&output, 0);
    let classes = losses(&std::fs::read_to_string(&json).expect("written"));
    assert!(classes.is_sorted_by(|a, b| a >= b), "{classes:?}");
    assert!(classes[0] > classes[3] && classes[1] > 0, "{classes:?}");
    let table = stdout(&output);
    for said in [
        "counted from position 256; KV cache f32;",
        "\nnearest to f32 on eval-en: q8_0 < q6_k < q4_0 < q2_k\n",
        " smaller, KL 0.00",
    ] {
        assert!(table.contains(said), "{said}: {table}");
    }
    assert!(!table.contains("no measurable loss"), "{table}");
}

#[test]
fn gates_end_with_code_7_and_the_row() {
    let place = Place::new();
    let (base, en) = (place.model(Dtype::F32), asset("eval-en.txt"));
    let run = |gate: &[&str]| {
        let words = [
            text(&base),
            "q8_0",
            "q4_0",
            "--text",
            text(&en),
            "--windows",
            "2",
            "-r",
            "0",
        ];
        place.run(&[&words[..], gate].concat())
    };
    exits(
        &run(&[
            "--max-kld",
            "1",
            "--min-top1",
            "50",
            "--max-ppl-increase",
            "90",
        ]),
        0,
    );
    // The perplexity of so few windows may fall; swapped layers raise it for certain.
    for (gate, value) in [("--max-kld", "0.001"), ("--min-top1", "98")] {
        let missed = run(&[gate, value]);
        exits(&missed, 7);
        let said = stderr(&missed);
        assert!(said.contains("q4_0: ") && said.contains(gate), "{said}");
        assert!(
            stdout(&missed).contains("q4_0"),
            "the table is shown all the same"
        );
    }
    let slow = place.run(&[
        text(&base),
        text(&base),
        "-r",
        "1",
        "-p",
        "8",
        "-n",
        "2",
        "--min-speedup",
        "1000",
    ]);
    exits(&slow, 7);
}

#[test]
fn a_doubled_block_scale_is_seen() {
    let place = Place::new();
    let (base, good) = (place.model(Dtype::F32), place.model(Dtype::Q8_0));
    let bad = place.path("bad.gguf");
    changed(
        &good,
        &bad,
        |_| (),
        |name, file| {
            let mut bytes = bytes_of(name, file);
            if name == "blk.1.ffn_up.weight" {
                // Exponent of the scale of block 7 (half precision, little-endian).
                bytes[7 * 34 + 1] += 4;
            }
            bytes
        },
    );
    exits(&place.run(&[text(&base), text(&good), "-r", "0"]), 0);
    let seen = place.run(&[text(&base), text(&bad), "-r", "0"]);
    exits(&seen, 7);
    let said = stderr(&seen);
    assert!(
        said.contains("blk.1.ffn_up.weight from 224 on") && said.contains("100 %"),
        "{said}"
    );
}

#[test]
fn swapped_layers_are_seen() {
    let place = Place::new();
    let (base, good) = (place.model(Dtype::F32), place.model(Dtype::Q8_0));
    let (bad, en) = (place.path("bad.gguf"), asset("eval-en.txt"));
    changed(
        &good,
        &bad,
        |_| (),
        |name, file| {
            let other = match name.strip_prefix("blk.1.") {
                Some(rest) => format!("blk.2.{rest}"),
                None => name.replace("blk.2.", "blk.1."),
            };
            bytes_of(&other, file)
        },
    );
    // By what it says of the text alone.
    let words = [
        text(&base),
        text(&bad),
        "--text",
        text(&en),
        "--windows",
        "2",
        "-r",
        "0",
    ];
    let gates = [
        "--max-block-error",
        "100",
        "--max-kld",
        "0.05",
        "--min-top1",
        "90",
        "--max-ppl-increase",
        "5",
    ];
    let seen = place.run(&[&words[..], &gates].concat());
    exits(&seen, 7);
    assert_eq!(
        stderr(&seen).matches("gate missed").count(),
        3,
        "{}",
        stderr(&seen)
    );
    // And by its weights alone.
    exits(&place.run(&[text(&base), text(&bad), "-r", "0"]), 7);
}

#[test]
fn another_tokenizer_is_refused() {
    let place = Place::new();
    let (base, good) = (place.model(Dtype::F32), place.model(Dtype::Q8_0));
    let (bad, en) = (place.path("bad.gguf"), asset("eval-en.txt"));
    let swap = |plan: &mut Plan| {
        let tokens = plan
            .metadata
            .iter_mut()
            .find(|(k, _)| k == "tokenizer.ggml.tokens");
        let Some((_, MetaValue::Strs(tokens))) = tokens else {
            panic!("no tokens");
        };
        tokens.swap(1000, 2000);
    };
    changed(&good, &bad, swap, bytes_of);
    let seen = place.run(&[
        text(&base),
        text(&bad),
        "--text",
        text(&en),
        "--windows",
        "2",
        "-r",
        "0",
    ]);
    assert!(
        matches!(seen.status.code(), Some(2 | 3)),
        "{}",
        stderr(&seen)
    );
    assert!(stderr(&seen).contains("token"), "{}", stderr(&seen));
}

#[test]
fn wrong_words_are_answered_before_any_work() {
    let place = Place::new();
    let base = place.model(Dtype::F32);
    let unknown = place.run(&[text(&base), "q9_9"]);
    assert_ne!(unknown.status.code(), Some(0));
    assert!(stderr(&unknown).contains("Q8_0"), "{}", stderr(&unknown));
    let text_file = place.run(&[text(&base), "q8_0", "--text", "/no/such/text"]);
    exits(&text_file, 1);
    for gate in [
        ["--max-kld", "1"],
        ["--min-top1", "1"],
        ["--max-ppl-increase", "1"],
    ] {
        exits(&place.run(&[&[text(&base), "q8_0"][..], &gate].concat()), 2);
    }
    let slow = ["-r", "0", "--min-speedup", "2"];
    exits(&place.run(&[&[text(&base), "q8_0"][..], &slow].concat()), 2);
    assert!(!place.path("cache").exists());
}

#[cfg(unix)]
#[test]
fn stopped_and_resumed_is_the_same() {
    let place = Place::new();
    let (base, en) = (place.model(Dtype::F32), asset("eval-en.txt"));
    let words = [
        text(&base),
        "q4_0",
        "--text",
        text(&en),
        "--windows",
        "30",
        "-r",
        "0",
        "--json",
    ];
    let whole = json(&place.run(&words));
    let state = || {
        let files = std::fs::read_dir(place.path("cache/compare")).expect("cache");
        let mut names = files
            .flatten()
            .map(|e| e.file_name().into_string().expect("UTF-8"));
        names.find(|n| n.starts_with("state-"))
    };
    assert_eq!(state(), None);
    let mut command = place.command(&words);
    let mut child = command
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    // It is kept from the first window on.
    while state().is_none() && child.try_wait().expect("a status").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let id = child.id().to_string();
    Command::new("kill")
        .args(["-INT", &id])
        .status()
        .expect("kill");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert!(state().is_some());
    let resumed = json(&place.run(&[&words[..], &["--resume"]].concat()));
    for row in 0..2 {
        assert_eq!(whole["rows"][row]["texts"], resumed["rows"][row]["texts"]);
    }
    assert_eq!(state(), None);
}
