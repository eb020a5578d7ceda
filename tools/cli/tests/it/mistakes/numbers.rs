//! Numbers at their limits: every numeric flag of every command, found in the help texts, with values that no
//! one should type. Whatever comes: a documented exit code in time, no panic, no abort.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Case, all, program, scratch, words_of};

/// What is typed for every numeric flag.
const EXTREMES: &[&str] = &[
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "4294967296",
    "nan",
    "-inf",
    "1e400",
    "0.5",
    "",
];
/// Value names of flags that take numbers; all others must be in [`OTHER`].
const NUMERIC: &[&str] = &[
    "N",
    "K",
    "P",
    "T",
    "R",
    "S",
    "L",
    "E",
    "X",
    "M",
    "SIZE",
    "PERCENT",
    "N,...",
    "P,...",
    "IDS",
    "L.H,...",
    "N(M|G)",
    "LIST",
    "[LAYER:]LIST",
];
const OTHER: &[&str] = &[
    "MODEL",
    "FILE",
    "TEXT",
    "HOW",
    "WHEN",
    "WHICH",
    "TYPE",
    "LEVEL",
    "FILE[=SCALE]",
    "FORMAT",
    "FORMAT:DIR",
    "DIR",
    "GLOB",
    "SHAPE",
    "FOLDER",
    "REGEX=TYPE",
    "ID=BIAS",
    "REGEX",
    "FILE.json",
    "GEB_KV",
    "GEB_ROPE",
    "GEB_MLP",
    "NAME",
    "LANG",
];
/// Longest run; a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Address space of a run, in kilobytes: far more than a tiny model needs.
const SPACE_KB: u64 = 8_000_000;

/// Flags with the names of their values, from a help text.
fn flags(help: &str) -> Vec<(String, String)> {
    let lines = help.lines().map(str::trim).filter(|l| l.starts_with('-'));
    lines
        .filter_map(|line| {
            let (flags, rest) = line.split_once('<')?;
            let flag = flags.trim_end_matches([' ', '[', '=']).rsplit(' ').next()?;
            Some((flag.to_owned(), rest.split_once('>')?.0.to_owned()))
        })
        .collect()
}

/// A command that works without further flags.
const BASES: &[&str] = &[
    "geb-run chat m.gguf hello --chat-template t.jinja -n 1",
    "geb-run generate -m m.gguf --raw -p a -n 1",
    "geb-run logits -m m.gguf --out l.safetensors --tokens 1,2",
    "geb-run eval perplexity -m m.gguf -f text.txt --ctx 16",
    "geb-run eval choice -m m.gguf --format jsonl questions",
    "geb-run eval needle -m m.gguf --lengths 32 --needles 1 --depths 0",
    "geb-run eval rows -m m.gguf table.csv",
    "geb-run eval labels -m m.gguf labels.jsonl --lengths 64",
    "geb-run eval clash -m m.gguf clashes.jsonl",
    "geb-run eval quotes quoted.jsonl --corpus text.txt --field a",
    "geb-run scores -m m.gguf -f text.txt --json",
    "geb-run embed -m m.gguf a",
    "geb-run bench -m m.gguf -p 1 -n 1 -r 1",
    "geb-run compare m.gguf q8_0 -r 0 --text text.txt --window 32",
    "geb-run tune -m m.gguf -p 1 -n 1 -r 1 --most 1 --no-save",
    "geb-run probe -m m.gguf -p a --lens",
    "geb-run compress -m m.gguf text.txt -o - --force",
    "geb-run imatrix -m m.gguf -f text.txt -o i.gguf --ctx 16",
    "geb-quantize m.gguf n.gguf --type q8_0",
    "geb-quantize probe folder --text text.txt",
];

/// Runs with little address space; the exit code and standard error, `None` after too long.
fn run(words: &[String]) -> (Option<i32>, String) {
    let inner = program(&words[0]);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -v {SPACE_KB}; exec \"$0\" \"$@\""))
        .arg(inner.get_program())
        .args(&words[1..]);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .current_dir(scratch())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut pipe = child.stderr.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        _ = pipe.read_to_string(&mut text);
        text
    });
    let started = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break Some(status.code().unwrap_or(-1));
        }
        if started.elapsed() > PATIENCE {
            child.kill().expect("a child");
            _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    (code, reader.join().unwrap_or_default())
}

fn prepare() {
    let text = "In the beginning was the word, and it was good to read. ".repeat(40);
    let write =
        |name: &str, text: &str| std::fs::write(scratch().join(name), text).expect("a file");
    write("text.txt", &text);
    write(
        "t.jinja",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    );
    write("table.csv", "a,b\n1,2\n3,4\n");
    let labels = ["x", "y"].map(|l| format!("{{\"text\": \"a\", \"label\": \"{l}\"}}\n"));
    write("labels.jsonl", &labels.concat());
    let fields =
        ["question", "answer", "context", "changed_context"].map(|f| format!("\"{f}\": \"a\""));
    let clash = format!("{{{}, \"changed_answer\": \"b\"}}\n", fields.join(", "));
    write("clashes.jsonl", &clash);
    write("quoted.jsonl", "{\"a\": \"the word\"}\n");
    std::fs::create_dir_all(scratch().join("questions")).expect("a folder");
    write(
        "questions/a.jsonl",
        "{\"question\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0}\n",
    );
}

#[test]
fn every_number_at_its_limits() {
    prepare();
    let mut cases = Vec::new();
    for base in BASES {
        let words = words_of(base);
        let names = words[1..]
            .iter()
            .take(2)
            .take_while(|w| w.chars().all(|c| c.is_ascii_lowercase()));
        let help = program(&words[0])
            .args(names)
            .arg("--help")
            .output()
            .expect("it starts");
        let found = flags(&String::from_utf8_lossy(&help.stdout));
        assert!(found.len() > 2, "{base}: {found:?}");
        for (flag, value) in found {
            let numeric = NUMERIC.contains(&value.as_str());
            assert!(
                numeric || OTHER.contains(&value.as_str()),
                "{base}: say whether {flag} <{value}> is a number"
            );
            if numeric {
                cases.extend(EXTREMES.iter().map(|v| (words.clone(), flag.clone(), *v)));
            }
        }
    }
    assert!(cases.len() > 1000, "{}", cases.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let bad = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((base, flag, value)) =
                    cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let (code, err) = run(&typed(base, flag, value));
                    let documented = code.is_some_and(|c| (0..=7).contains(&c));
                    let lines = err
                        .lines()
                        .filter(|l| l.starts_with("error:") || l.contains("memory allocation of"))
                        .count();
                    if !documented
                        || err.contains("panicked")
                        || err.contains("internal fault")
                        || lines > 1
                    {
                        bad.lock().expect("list").push(format!(
                            "{} {flag} {value:?}: {code:?}: {err}",
                            base.join(" ")
                        ));
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().expect("list");
    println!(
        "{} commands with a number at its limit, {} wrong",
        cases.len(),
        bad.len()
    );
    assert!(
        bad.is_empty(),
        "{} of {}:\n{}",
        bad.len(),
        cases.len(),
        bad.join("\n")
    );
}

/// The command with the flag; its own one of the same name is left out.
fn typed(base: &[String], flag: &str, value: &str) -> Vec<String> {
    let short = match flag {
        "--max-tokens" | "--decode" => "-n",
        "--prompt" => "-p",
        "--reps" | "--rounds" => "-r",
        other => other,
    };
    let mut words = base.to_vec();
    if let Some(at) = words.iter().position(|w| w == flag || w == short) {
        words.drain(at..(at + 2).min(words.len()));
    }
    words.extend([flag.to_owned(), value.to_owned()]);
    words
}

#[test]
fn numbers_mean_what_they_mean_in_llama_cpp() {
    prepare();
    let run = "geb-run generate -m m.gguf --raw -p a -q";
    let with = |flags: &str| format!("{run} {flags}");
    let taken = [
        "-n -1 -c 16",
        "-n -2 -c 16",
        "-n 0",
        "-n 1 --seed -1",
        "-n 1 --repeat-last-n -1 --repeat-penalty 1.2",
        "-n 1 --repeat-last-n 0",
        "-n 1 --top-p 0",
        "-n 1 --top-p 1",
        "-n 1 --top-k 0",
        "-n 1 --top-k -1",
        "-n 1 --min-p 0",
        "-n 1 --typical 0",
        "-n 1 --typical 0.5 --top-nsigma 1.5 --xtc-probability 1 --xtc-threshold 0.1",
        "-n 1 --top-nsigma -1",
        "-n 1 --dynatemp-range 0.5 --dynatemp-exp 2",
        "-n 1 --mirostat 0 --mirostat-lr 0.1 --mirostat-ent 5",
        "-n 1 --mirostat 2",
        "-n 1 --presence-penalty -2 --frequency-penalty 2",
        "-n 1 --dry-multiplier 1 --dry-penalty-last-n -1",
        "-n 1 --temp -1",
        "-n 1 --temp 0",
        "-n 1 -c 0",
        "-n 1 -t 0",
        "-n 1 -t -1",
    ]
    .map(with);
    let cases: Vec<Case<'_>> = taken.iter().map(|line| Case(line, &[], 0)).collect();
    all("Numbers that are taken", &cases);
}

#[test]
fn numbers_out_of_range_are_answered() {
    prepare();
    let with = |flags: &str| format!("geb-run generate -m m.gguf --raw -p a -q {flags}");
    let refused = [
        ("-n -3", "or -1 (until the end)"),
        ("-n x", "or -1 (until the end)"),
        ("--seed -2", "or -1 (random)"),
        ("--repeat-last-n -2", "or -1 (all)"),
        ("--top-p 1.5", "allowed: 0 to 1"),
        ("--top-p -0.5", "allowed: 0 to 1"),
        ("--top-k -2", "or 0 (all)"),
        ("--min-p 2", "allowed: 0 to 1"),
        ("--temp nan", "to 100"),
        ("--temp 1000", "to 100"),
        ("--repeat-penalty 0", "allowed: 0.01 to 100"),
        ("--presence-penalty 3", "allowed: -2 to 2"),
        ("--frequency-penalty nan", "allowed: -2 to 2"),
        ("--dry-multiplier -1", "allowed: 0 to 100"),
        ("--dry-base 0.5", "allowed: 1 to 100"),
        ("--dry-allowed-length -1", "allowed: 0 to 16777216"),
        ("--dry-penalty-last-n -2", "or -1 (all)"),
        ("--dry-sequence-breaker \\x", "allowed behind a \\: n, r, t"),
        ("--xtc-probability 1.5", "allowed: 0 to 1"),
        ("--xtc-threshold -0.5", "allowed: 0 to 1"),
        ("--typical 2", "allowed: 0 to 1"),
        ("--top-nsigma -2", "or -1 (off)"),
        ("--dynatemp-range inf", "allowed: 0 to 100"),
        ("--dynatemp-exp -1", "allowed: 0 to 100"),
        ("--mirostat 1", "allowed: 0 (off), 2"),
        ("--mirostat-lr 2", "allowed: 0 to 1"),
        ("--mirostat-ent nan", "allowed: 0 to 100"),
        ("-c -1", "0..=16777216"),
        ("-t -2", "or 0 (one per core)"),
        ("-t 100000", "allowed: 1 to 256"),
        ("--draft-max -1", "1..=1024"),
        ("--best-of 0", "1..=1024"),
    ]
    .map(|(flags, says)| (with(flags), [says]));
    let cases: Vec<Case<'_>> = refused
        .iter()
        .map(|(line, says)| Case(line, says, 2))
        .collect();
    all("Numbers that are answered", &cases);
}

/// The JSON of a greedy run.
fn json(flags: &[&str]) -> serde_json::Value {
    let base = ["generate", "-m", "m.gguf", "--raw", "--json", "-q"];
    let output = program("geb-run")
        .args(base)
        .args(flags)
        .output()
        .expect("it starts");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{flags:?}: {}",
        super::said(&output)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_is_taken_has_its_meaning() {
    prepare();
    let ids = |flags: &[&str]| json(&[&["-p", "a", "-n", "8"], flags].concat())["ids"].clone();
    let greedy = ids(&["--temp", "0"]);
    for same in [&["--temp", "-1"][..], &["--top-p", "0"], &["--top-k", "1"]] {
        assert_eq!(ids(same), greedy, "{same:?}");
    }
    let with = |flags: &[&str]| ids(&[&["--seed", "3", "--ignore-eos"], flags].concat());
    let usual = with(&[]);
    for off in [
        &["--mirostat", "0", "--mirostat-ent", "1"][..],
        &["--dry-base", "3", "--xtc-threshold", "0.01"],
        &[
            "--typical",
            "1",
            "--top-nsigma",
            "-1",
            "--dynatemp-range",
            "0",
        ],
    ] {
        assert_eq!(with(off), usual, "{off:?}");
    }
    for on in [
        &["--mirostat", "2"][..],
        &["--typical", "0.1"],
        &["--top-nsigma", "0.1"],
        &["--xtc-probability", "1", "--xtc-threshold", "0.001"],
        &["--dynatemp-range", "10", "--temp", "10"],
        &["--presence-penalty", "2", "--frequency-penalty", "2"],
        &["--dry-multiplier", "50", "--dry-allowed-length", "0"],
    ] {
        assert_ne!(with(on), usual, "{on:?}");
    }
    let all = ids(&["--top-k", "0", "--seed", "3"]);
    assert_eq!(ids(&["--top-k", "-1", "--seed", "3"]), all);
    // Until the end: of the context, when the model does not end.
    let long = json(&[
        "-p",
        "a",
        "-n",
        "-1",
        "-c",
        "16",
        "--temp",
        "0",
        "--ignore-eos",
    ]);
    let count = |v: &serde_json::Value| v.as_array().map_or(0, Vec::len);
    assert_eq!(
        count(&long["ids"]) + count(&long["prompt_ids"]),
        17,
        "{long}"
    );
    // Two random seeds differ.
    let seeds: Vec<_> = (0..3)
        .map(|_| json(&["-p", "a", "-n", "1", "--seed", "-1"])["seed"].clone())
        .collect();
    assert!(seeds[0] != seeds[1] || seeds[1] != seeds[2], "{seeds:?}");
}

#[test]
fn a_prompt_file_has_no_last_line_end() {
    let prompt = |name: &str, bytes: &[u8]| {
        std::fs::write(scratch().join(name), bytes).expect("a file");
        json(&["-f", name, "-n", "1", "--temp", "0"])["prompt_ids"].clone()
    };
    let plain = json(&["-p", "The sea", "-n", "1", "--temp", "0"])["prompt_ids"].clone();
    for (name, bytes) in [
        ("p1.txt", &b"The sea"[..]),
        ("p2.txt", b"The sea\n"),
        ("p3.txt", b"The sea\r\n"),
        ("p4.txt", b"\xef\xbb\xbfThe sea\n"),
    ] {
        assert_eq!(prompt(name, bytes), plain, "{name}");
    }
    assert_ne!(prompt("p5.txt", b"The sea\n\n"), plain);
    let mut child = program("geb-run")
        .args([
            "generate", "-m", "m.gguf", "--raw", "--json", "-q", "-n", "1", "--temp", "0", "-f",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"The sea\n")
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    let piped: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(piped["prompt_ids"], plain);
}
