//! Kills and failing system calls at every point of what changes several names or small files:
//! a set of files in the place of an older one, small outputs, a run continued on another source.
//!
//! The binary starts itself again as a small writer under `strace`, as `tests/crash.rs` does. After
//! each fault the old content or the new one is there, whole, for any program that opens it by its
//! name, and the next run succeeds and leaves nothing behind.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use common::{ROOT, needs};
use geb::files::{self, Over};
use geb::gguf::writer::Plan;
use geb::gguf::{GgufFile, Load, Output, split};
use geb::{Dtype, Error, Result};
use geb_convert::{self as convert, Options};

const TESTS: &[(&str, fn())] = &[
    ("a_set_in_the_place_of_a_set", a_set_in_the_place_of_a_set),
    ("a_set_beside_a_set_of_another_count", a_set_beside_another),
    ("small_outputs", small_outputs),
    ("continued_on_another_source", continued_on_another_source),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["set-probe", path, parts, seed] => set_probe(Path::new(path), parts, seed),
        ["small-probe", path] => files::write(Path::new(path), SMALL_NEW, SMALL),
        ["convert-probe", source, path] => convert_probe(Path::new(source), Path::new(path)),
        _ => {
            let test = |(name, test): &(&'static str, fn())| (*name, *test, needs::no_strace());
            let args = libtest_mimic::Arguments::from_args();
            return needs::run(args, needs::trials(TESTS.iter().map(test).collect()));
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A set of so many parts; the seed decides the weights.
fn set_probe(path: &Path, parts: &str, seed: &str) -> Result<()> {
    let (parts, seed): (u64, u8) = (parts.parse().unwrap(), seed.parse().unwrap());
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "probe");
    for i in 0..parts {
        plan.push_tensor(format!("t{i}"), Dtype::F32, [4096]);
    }
    let mut plans = split::cut(&plan, 18_000)?;
    assert_eq!(plans.len() as u64, parts);
    plans
        .iter_mut()
        .for_each(|p| p.reserve_hashes(parts as usize));
    let name = |(i, plan)| (split::part_path(path, i, parts as usize), plan);
    let files = plans.into_iter().enumerate().map(name).collect();
    let mut output = Output::create(files, Over::MODEL, None)?;
    for i in 0..parts {
        output.tensor(i as usize, &mut |out| {
            let bytes = vec![seed + i as u8; 4 * 4096];
            out.write_all(&bytes).map_err(Error::io("memory"))?;
            Ok(String::new())
        })?;
    }
    output.finish()
}

const SMALL: Over = Over {
    name: "a small file of ours",
    is: |head| head.starts_with(b"small"),
};
const SMALL_OLD: &[u8] = b"small and old";
const SMALL_NEW: &[u8] = b"small and new, and a little longer";

fn convert_probe(source: &Path, out: &Path) -> Result<()> {
    let options = Options {
        resume: true,
        threads: Some(1),
        ..Options::default()
    };
    let report = convert::convert(source, out, &options, &mut ())?;
    println!("{}", report.notes.join("; "));
    Ok(())
}

/// The probe in the words, under `strace` where there is something to inject.
fn probe(words: &[&str], inject: Option<&str>) -> std::process::Output {
    let this = std::env::current_exe().unwrap();
    let mut command = match inject {
        None => Command::new(&this),
        Some(inject) => {
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", inject, "--"]);
            strace.arg(&this);
            strace
        }
    };
    command.args(words).output().unwrap()
}

fn passes(words: &[&str]) {
    let out = probe(words, None);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{words:?}: {text}");
}

/// The system calls of an undisturbed run from the first on that names `folder`: each with its number
/// among the calls of its name.
fn points(words: &[&str], folder: &Path) -> Vec<(String, usize)> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-s", "4096", "-o"])
        .arg(log.path())
        .arg("--");
    let strace = strace
        .arg(std::env::current_exe().unwrap())
        .args(words)
        .output();
    assert!(strace.is_ok_and(|o| o.status.success()), "strace");
    let text = fs::read_to_string(log.path()).unwrap();
    let calls = text
        .lines()
        .filter_map(|l| Some(l.split_once(' ')?.1.trim_start()));
    let folder = folder.to_str().unwrap();
    let (mut seen, mut started, mut out) = (BTreeMap::new(), false, Vec::new());
    for call in calls.filter(|c| c.contains('(') && !c.starts_with("exit")) {
        let name = call.split('(').next().unwrap().to_owned();
        let n: &mut usize = seen.entry(name.clone()).or_default();
        *n += 1;
        started |= name != "execve" && call.contains(folder);
        if started {
            out.push((name, *n));
        }
    }
    out
}

/// What is injected at a call.
fn faults(call: &str) -> Vec<&'static str> {
    let mut out = vec!["signal=SIGKILL"];
    let changes = [
        "write",
        "openat",
        "fsync",
        "rename",
        "link",
        "symlink",
        "mkdir",
        "ftruncate",
        "unlink",
        "rmdir",
    ];
    let looks = [
        "read",
        "lseek",
        "statx",
        "fstat",
        "newfstatat",
        "flock",
        "statfs",
        "getdents64",
        "readlink",
        "fchmod",
        "fchown",
        "mmap",
    ];
    if changes.iter().any(|c| call.starts_with(c)) {
        out.extend(["error=EIO", "error=ENOSPC"]);
    } else if looks.contains(&call) {
        out.push("error=EIO");
    }
    out
}

/// One folder in which faults are tried, and what is asked after each.
struct Place<'a> {
    words: Vec<&'a str>,
    dir: &'a Path,
    /// Makes the state before.
    reset: &'a (dyn Fn() + Sync),
    /// Whether the new content is there; panics where it is neither that nor the old one.
    is_new: &'a (dyn Fn(&str) -> bool + Sync),
    /// Names in the folder once all is done.
    names: Vec<String>,
}

#[derive(Default, Debug)]
struct Counts {
    points: usize,
    kills: usize,
    errors: usize,
    new: usize,
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}

impl Place<'_> {
    fn try_all(&self) -> Counts {
        (self.reset)();
        let before = names(self.dir);
        let points = points(&self.words, self.dir);
        let mut counts = Counts::default();
        for (call, n) in &points {
            for fault in faults(call) {
                (self.reset)();
                let what = format!("{fault} at {call} number {n}");
                let inject = format!("inject={call}:{fault}:when={n}");
                let out = probe(&self.words, Some(&inject));
                counts.points += 1;
                let new = (self.is_new)(&what);
                counts.new += usize::from(new);
                let killed = out.status.signal().is_some() || out.status.code() == Some(137);
                counts.kills += usize::from(killed);
                if !killed && !out.status.success() {
                    counts.errors += 1;
                    let text = String::from_utf8_lossy(&out.stderr);
                    assert!(text.lines().count() == 1, "{what}: {text}");
                }
                assert!(
                    new || !out.status.success(),
                    "{what}: success without the new content"
                );
                let left = names(self.dir);
                if left != before && left != self.names {
                    passes(&self.words);
                    assert!((self.is_new)(&what), "{what}: the next run");
                    assert_eq!(names(self.dir), self.names, "{what}: after the next run");
                }
            }
        }
        counts
    }
}

fn report(what: &str, counts: &Counts) {
    let Counts {
        points,
        kills,
        errors,
        new,
    } = counts;
    println!(
        "{what}: {points} points ({kills} kills, {errors} errors, {new} with the new content): 0 lost, 0 wrong"
    );
    assert!(
        *kills > 20 && *errors > 10 && *new > 0 && new < points,
        "{counts:?}"
    );
}

/// The bytes of the tensors of a set, opened by the name of its first part.
fn tensors(first: &Path) -> Result<Vec<u8>> {
    let file = GgufFile::open(first, Load::Copy)?;
    Ok(file
        .tensors()
        .flat_map(|t| [t.bytes()[0], t.bytes()[4 * 4095]])
        .collect())
}

fn set(seed: u8, parts: u8) -> Vec<u8> {
    (0..parts).flat_map(|i| [seed + i; 2]).collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

fn a_set_in_the_place_of_a_set() {
    let (old, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = old.path().join("m.gguf");
    passes(&["set-probe", kept.to_str().unwrap(), "3", "10"]);
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let path = work.join("m.gguf");
    let first = split::part_path(&path, 0, 3);
    let is_new = |what: &str| {
        let found = tensors(&first).unwrap_or_else(|e| panic!("{what}: no usable set: {e}"));
        assert!(
            found == set(10, 3) || found == set(20, 3),
            "{what}: {found:?}"
        );
        found == set(20, 3)
    };
    let place = Place {
        words: vec!["set-probe", path.to_str().unwrap(), "3", "20"],
        dir: &work,
        reset: &|| copy_all(old.path(), &work),
        is_new: &is_new,
        names: names(old.path()),
    };
    let counts = place.try_all();
    report("a set in the place of a set", &counts);
    (place.reset)();
    passes(&place.words);
    assert!(is_new("at the end"));
    // All are files again, of their own.
    for name in names(&work) {
        assert!(fs::symlink_metadata(work.join(name)).unwrap().is_file());
    }
}

/// The old set has other names: it stays, whole, whatever happens.
fn a_set_beside_another() {
    let (old, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = old.path().join("m.gguf");
    passes(&["set-probe", kept.to_str().unwrap(), "2", "10"]);
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let path = work.join("m.gguf");
    let (before, after) = (split::part_path(&path, 0, 2), split::part_path(&path, 0, 3));
    let is_new = |what: &str| {
        let found = tensors(&before).unwrap_or_else(|e| panic!("{what}: the old set: {e}"));
        assert_eq!(found, set(10, 2), "{what}");
        let there = after.exists();
        if there {
            let found = tensors(&after).unwrap_or_else(|e| panic!("{what}: the new set: {e}"));
            assert_eq!(found, set(20, 3), "{what}");
        }
        there
    };
    let mut all = names(old.path());
    all.extend((0..3).map(|i| {
        let part = split::part_path(&path, i, 3);
        part.file_name().unwrap().to_str().unwrap().to_owned()
    }));
    all.sort();
    let place = Place {
        words: vec!["set-probe", path.to_str().unwrap(), "3", "20"],
        dir: &work,
        reset: &|| copy_all(old.path(), &work),
        is_new: &is_new,
        names: all,
    };
    let counts = place.try_all();
    report("a set beside one of another count", &counts);
}

fn small_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let (work, real) = (dir.path().join("work"), dir.path().join("real"));
    for linked in [false, true] {
        for folder in [&work, &real] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir(folder).unwrap();
        }
        // Where a link stands, the file is in another folder, and that is the one that counts.
        let named = work.join("out.json");
        let (folder, target) = match linked {
            true => (&real, real.join("file.json")),
            false => (&work, named.clone()),
        };
        if linked {
            std::os::unix::fs::symlink(&target, &named).unwrap();
        }
        let is_new = |what: &str| {
            let bytes = fs::read(&named).unwrap_or_else(|e| panic!("{what}: lost: {e}"));
            assert!(
                bytes == SMALL_OLD || bytes == SMALL_NEW,
                "{what}: {} bytes",
                bytes.len()
            );
            assert_eq!(
                fs::symlink_metadata(&named).unwrap().is_symlink(),
                linked,
                "{what}"
            );
            bytes == SMALL_NEW
        };
        let place = Place {
            words: vec!["small-probe", named.to_str().unwrap()],
            dir: folder,
            reset: &|| {
                for name in names(folder) {
                    let path = folder.join(name);
                    if path != named || !linked {
                        fs::remove_file(path).unwrap();
                    }
                }
                fs::write(&target, SMALL_OLD).unwrap();
            },
            is_new: &is_new,
            names: vec![target.file_name().unwrap().to_str().unwrap().to_owned()],
        };
        let counts = place.try_all();
        let what = if linked {
            "a small output through a link"
        } else {
            "a small output"
        };
        report(what, &counts);
    }
}

/// Killed at a write, then the source is another one with the same names, sizes and times.
fn continued_on_another_source() {
    let fixture = Path::new(ROOT).join("tests/fixtures/llama/hf");
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("hf");
    fs::create_dir(&source).unwrap();
    for name in names(&fixture) {
        fs::copy(fixture.join(&name), source.join(&name)).unwrap();
    }
    let weights = source.join("model.safetensors");
    let first = fs::read(&weights).unwrap();
    let mut other = first.clone();
    // The last bit of a weight in each kilobyte of the second half; weights end with the file.
    let places = (first.len() / 2..first.len() - 4).step_by(1024);
    places.for_each(|at| other[at / 4 * 4 + first.len() % 4] ^= 1);
    let times = fs::metadata(&weights).unwrap();
    let put = |bytes: &[u8]| {
        fs::write(&weights, bytes).unwrap();
        let file = fs::File::options().write(true).open(&weights).unwrap();
        let same = fs::FileTimes::new().set_modified(times.modified().unwrap());
        file.set_times(same).unwrap();
    };
    let whole = |bytes: &[u8], out: &Path| -> Vec<u8> {
        put(bytes);
        passes(&[
            "convert-probe",
            source.to_str().unwrap(),
            out.to_str().unwrap(),
        ]);
        fs::read(out).unwrap()
    };
    let want = whole(&other, &dir.path().join("other.gguf"));
    assert!(want != whole(&first, &dir.path().join("first.gguf")));
    let (mut kills, mut continued, mut again) = (0, 0, 0);
    for call in ["write", "fsync", "rename"] {
        for n in 1.. {
            let out = tempfile::tempdir().unwrap();
            let path: PathBuf = out.path().join("m.gguf");
            let words = [
                "convert-probe",
                source.to_str().unwrap(),
                path.to_str().unwrap(),
            ];
            put(&first);
            let inject = format!("inject={call}:signal=SIGKILL:when={n}");
            if probe(&words, Some(&inject)).status.success() {
                break;
            }
            kills += 1;
            put(&other);
            let done = probe(&words, None);
            let text = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{call} {n}: {text}");
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            continued += usize::from(said.contains("continued: "));
            again += usize::from(said.contains("another one now"));
            assert!(
                fs::read(&path).unwrap() == want,
                "{call} {n}: of the wrong source"
            );
            assert_eq!(names(out.path()), ["m.gguf"]);
        }
    }
    println!(
        "continued on another source: {kills} kills, {continued} continued, {again} of them with tensors made again: 0 lost, 0 wrong"
    );
    assert!(kills > 30 && continued > kills / 2 && again > 5);
}
