//! Kills and failing system calls: whatever happens while a file is written, the target holds
//! nothing, the old file or the complete new one, and the next run succeeds and cleans up.
//!
//! The binary starts itself again as a small writer (`write-probe`) under `strace`, which
//! kills it, or fails a call, at every system call in turn. Without `strace` these tests
//! are ignored, or fail where the environment variable `CI` is `true`.

mod common;
#[path = "crash/disk.rs"]
mod disk;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use common::{ROOT, needs};
use geb::gguf::writer::{Plan, write_file};
use geb::gguf::{GgufFile, Load};
use geb::{Dtype, Error, Result};
use geb_convert::{self as convert, Options};

const TENSORS: usize = 40;
const OLD: &[u8] = b"the old file";

/// Tests by name, as the standard harness would list them.
const TESTS: &[(&str, fn())] = &[
    ("order_of_syncs", order_of_syncs),
    ("kill_at_every_system_call", kill_at_every_system_call),
    ("kill_at_random_moments", kill_at_random_moments),
    (
        "continue_after_a_kill_at_every_write",
        continue_after_a_kill_at_every_write,
    ),
    ("errors_at_every_system_call", errors_at_every_system_call),
    ("truncated_while_mapped", truncated_while_mapped),
    (
        "disk_cache_killed_at_every_system_call",
        disk::kill_at_every_system_call,
    ),
];

/// Those that start no tracer.
const WITHOUT_STRACE: &[&str] = &["kill_at_random_moments", "truncated_while_mapped"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("write-probe") => return write_probe(Path::new(&args[1])),
        Some("convert-probe") => return convert_probe(Path::new(&args[1]), &args[2]),
        Some("disk-probe") => return disk::probe(Path::new(&args[1]), Path::new(&args[2])),
        Some("map-probe") => return map_probe(Path::new(&args[1]), &args[2]),
        _ => {}
    }
    let missing = needs::no_strace();
    let test = |(name, test): &(&'static str, fn())| {
        let missing = match *name {
            "disk_cache_killed_at_every_system_call" => disk::no_attach(),
            _ => missing.clone().filter(|_| !WITHOUT_STRACE.contains(name)),
        };
        (*name, *test, missing)
    };
    // Each of them starts processes and counts what is left of them.
    let mut args = libtest_mimic::Arguments::from_args();
    args.test_threads.get_or_insert(1);
    needs::run(args, needs::trials(TESTS.iter().map(test).collect()))
}

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "probe");
    for i in 0..TENSORS {
        plan.push_tensor(format!("t{i}"), Dtype::Q8_0, [2048, 24 + i as u64]);
    }
    plan
}

fn fill(i: usize, out: &mut dyn Write) -> Result<()> {
    let row: Vec<u8> = (0..2048 / 32 * 34).map(|b| (b * 13 + i) as u8).collect();
    (0..24 + i)
        .try_for_each(|_| out.write_all(&row))
        .map_err(Error::io("memory"))
}

/// The process that is killed.
fn write_probe(path: &Path) -> ExitCode {
    match write_file(path, &plan(), &mut fill) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A conversion that can be continued, to one file or several.
fn convert_probe(path: &Path, max: &str) -> ExitCode {
    let source = Path::new(ROOT).join("tests/fixtures/geb/hf");
    let options = Options {
        split_max: max.parse().ok(),
        resume: true,
        threads: Some(1),
        ..Options::default()
    };
    match convert::convert(&source, path, &options, &mut ()) {
        Ok(report) => {
            println!("{}", report.notes.join("; "));
            ExitCode::SUCCESS
        }
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A folder, the target in it, and what a complete target holds.
struct Place {
    dir: tempfile::TempDir,
    path: PathBuf,
    new: Vec<u8>,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        write_file(&path, &plan(), &mut fill).unwrap();
        let new = fs::read(&path).unwrap();
        Place { dir, path, new }
    }

    /// Puts the old file, or nothing, in place.
    fn reset(&self, old: bool) {
        fs::remove_file(&self.path).unwrap_or_default();
        if old {
            fs::write(&self.path, OLD).unwrap();
        }
    }

    fn leftovers(&self) -> usize {
        fs::read_dir(self.dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path() != self.path)
            .count()
    }

    /// The target is what it was before, or complete. Returns true if complete.
    fn assert_old_or_new(&self, old: bool, what: &str) -> bool {
        match fs::read(&self.path) {
            Ok(bytes) if bytes == self.new => true,
            Ok(bytes) => {
                assert!(
                    old && bytes == OLD,
                    "{what}: the target holds {} other bytes",
                    bytes.len()
                );
                false
            }
            Err(_) => {
                assert!(!old, "{what}: the old file is gone");
                false
            }
        }
    }

    /// A run without interference succeeds and leaves nothing behind.
    fn assert_recovers(&self, what: &str) {
        let out = probe(&self.path).output().unwrap();
        assert!(
            out.status.success(),
            "{what}: the next run failed: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(self.assert_old_or_new(true, what));
        assert_eq!(self.leftovers(), 0, "{what}: leftovers after the next run");
    }
}

fn this_binary() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn probe(path: &Path) -> Command {
    let mut command = this_binary();
    command.arg("write-probe").arg(path);
    command
}

fn strace(options: &[&str], path: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(options).arg("--");
    command
        .arg(std::env::current_exe().unwrap())
        .arg("write-probe")
        .arg(path);
    command
}

/// The system calls of an undisturbed run, in order.
fn record(place: &Place) -> Vec<String> {
    let log = place.dir.path().with_extension("strace");
    let out = strace(&["-o", log.to_str().unwrap()], &place.path).output();
    assert!(out.is_ok_and(|o| o.status.success()), "strace");
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let calls = text
        .lines()
        .filter_map(|l| l.split_once(' '))
        .map(|(_, call)| call.trim_start().to_owned());
    calls
        .filter(|c| c.contains('(') && !c.starts_with("exit"))
        .collect()
}

fn name(call: &str) -> &str {
    call.split('(').next().unwrap_or_default()
}

/// How often each call occurs.
fn counts(calls: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    calls
        .iter()
        .for_each(|c| *counts.entry(name(c)).or_default() += 1);
    counts
}

/// Data is synced before the rename, the folder after it.
fn order_of_syncs() {
    let place = Place::new();
    let calls = record(&place);
    let at = |is: &dyn Fn(&str) -> bool| calls.iter().rposition(|c| is(c)).expect("call not found");
    let create = calls
        .iter()
        .find(|c| c.contains(".geb-partial-") && c.contains("O_EXCL"))
        .expect("no exclusive create");
    let fd = create.rsplit("= ").next().unwrap();
    let last_write = at(&|c| c.starts_with(&format!("write({fd},")));
    let data_sync = at(&|c| c.starts_with(&format!("fsync({fd})")));
    let rename = at(&|c| name(c).starts_with("rename"));
    let folder_sync = at(&|c| name(c) == "fsync");
    assert!(last_write < data_sync && data_sync < rename && rename < folder_sync);
    assert_eq!(counts(&calls)["fsync"], 2);
}

fn kill_at_every_system_call() {
    let place = Place::new();
    let calls = record(&place);
    // The start of the process cannot reach the target; one pass over it is enough.
    let folder = place.dir.path().to_str().unwrap();
    let reached = |c: &String| name(c) != "execve" && c.contains(folder);
    let start = calls
        .iter()
        .position(reached)
        .expect("the target is never named");
    let (mut seen, mut runs, mut kills, mut complete) = (BTreeMap::new(), 0, 0, 0);
    for (i, call) in calls.iter().enumerate() {
        let n: &mut usize = seen.entry(name(call)).or_default();
        *n += 1;
        let both: &[bool] = if i < start { &[true] } else { &[true, false] };
        for &old in both {
            place.reset(old);
            let what = format!("killed at {} number {n}, old file: {old}", name(call));
            let inject = format!("inject={}:signal=SIGKILL:when={n}", name(call));
            let options = ["-o", "/dev/null", "-e", &inject];
            let out = strace(&options, &place.path).output().unwrap();
            runs += 1;
            kills += usize::from(!out.status.success());
            complete += usize::from(place.assert_old_or_new(old, &what));
            if place.leftovers() > 0 {
                place.assert_recovers(&what);
            }
        }
    }
    let n = calls.len();
    println!("{kills} kills in {runs} runs, {n} system calls, {complete} with the new file");
    // Calls differ a little from run to run; nearly all must have been hit.
    assert!(kills >= runs * 9 / 10 && complete > 0);
    place.assert_recovers("at the end");
}

/// Whatever call that changes a file is the last, the next run ends with the same bytes.
fn continue_after_a_kill_at_every_write() {
    for max in ["none", "200000"] {
        let whole = tempfile::tempdir().unwrap();
        let run = |dir: &Path| {
            let mut command = this_binary();
            command
                .arg("convert-probe")
                .arg(dir.join("m.gguf"))
                .arg(max);
            command.output().unwrap()
        };
        assert!(run(whole.path()).status.success());
        let want = contents(whole.path());
        assert_eq!(want.len() > 1, max != "none");
        let (mut kills, mut continued) = (0, 0);
        for call in ["write", "ftruncate", "fsync", "rename", "unlink"] {
            // Until a run gets through: then there is no such call any more.
            for n in 1.. {
                let dir = tempfile::tempdir().unwrap();
                let inject = format!("inject={call}:signal=SIGKILL:when={n}");
                let mut strace = Command::new("strace");
                strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, "--"]);
                strace
                    .arg(std::env::current_exe().unwrap())
                    .arg("convert-probe");
                let out = strace.arg(dir.path().join("m.gguf")).arg(max).output();
                let out = out.expect("strace starts");
                if out.status.success() {
                    break;
                }
                kills += 1;
                let out = run(dir.path());
                let text = String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success(), "{call} {n}: {text}");
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                continued += usize::from(said.contains("continued: "));
                assert!(contents(dir.path()) == want, "{call} {n}, parts of {max}");
            }
        }
        println!("parts of {max}: {kills} kills, {continued} runs continued");
        assert!(kills > 40 && continued > kills / 2);
    }
}

/// Names and bytes of the files in a folder.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    files
        .map(|e| (e.file_name().into(), fs::read(e.path()).unwrap()))
        .collect()
}

fn kill_at_random_moments() {
    let place = Place::new();
    let start = Instant::now();
    assert!(probe(&place.path).status().unwrap().success());
    let whole = start.elapsed().as_micros() as u64;
    let (mut seed, mut kills) = (1u64, 0);
    for i in 0..200 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let old = i % 2 == 0;
        place.reset(old);
        let mut child = probe(&place.path).spawn().unwrap();
        std::thread::sleep(Duration::from_micros((seed >> 33) % (whole * 5 / 4)));
        let _ = child.kill();
        kills += usize::from(child.wait().unwrap().signal().is_some());
        place.assert_old_or_new(old, &format!("kill {i}"));
    }
    println!("200 random moments, {kills} before the end of the run");
    place.assert_recovers("after random kills");
}

fn errors_at_every_system_call() {
    let place = Place::new();
    let calls = record(&place);
    let (mut runs, mut refused) = (0, 0);
    for (call, count) in counts(&calls) {
        let errors: &[&str] = match call {
            "write" | "fsync" | "openat" | "rename" | "renameat" | "renameat2" => {
                &["ENOSPC", "EIO", "EINTR", "EDQUOT"]
            }
            "statx" | "fstat" | "flock" | "statfs" | "getdents64" | "lseek" | "read" => &["EIO"],
            _ => continue,
        };
        for (n, error) in (1..=count).flat_map(|n| errors.iter().map(move |e| (n, e))) {
            place.reset(true);
            let what = format!("{error} at {call} number {n}");
            let inject = format!("inject={call}:error={error}:when={n}");
            let out = strace(&["-o", "/dev/null", "-e", &inject], &place.path)
                .output()
                .unwrap();
            check_failed_run(&place, &what, &out);
            if *error == "EINTR" && call != "openat" {
                assert!(
                    out.status.success(),
                    "{what}: an interruption is not an error"
                );
            }
            runs += 1;
            refused += usize::from(!out.status.success());
        }
    }
    println!("{runs} failing calls, {refused} ended in an error");
    assert!(refused > 20);
    place.assert_recovers("after errors");
}

fn check_failed_run(place: &Place, what: &str, out: &Output) {
    let complete = place.assert_old_or_new(true, what);
    assert_eq!(out.status.signal(), None, "{what}: killed by a signal");
    assert_eq!(place.leftovers(), 0, "{what}: a temporary file is left");
    if out.status.success() {
        assert!(complete, "{what}: success without the new file");
    } else {
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(
            text.lines().count() == 1 && text.contains("err"),
            "{what}: {text}"
        );
    }
}

/// Maps or copies the file, waits until its parent has changed it, then reads every weight.
fn map_probe(path: &Path, load: &str) -> ExitCode {
    geb::mmap::install_sigbus_handler();
    let load = if load == "copy" {
        Load::Copy
    } else {
        Load::Map
    };
    let file = GgufFile::open(path, load).unwrap();
    println!("ready");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let sum: u64 = file
        .tensors()
        .flat_map(|t| t.bytes())
        .map(|&b| u64::from(b))
        .sum();
    println!("{sum}");
    ExitCode::SUCCESS
}

fn start_map_probe(path: &Path, load: &str) -> Child {
    let pipe = Stdio::piped;
    let mut command = this_binary();
    command
        .arg("map-probe")
        .arg(path)
        .arg(load)
        .stdin(pipe())
        .stdout(pipe())
        .stderr(pipe());
    let mut child = command.spawn().unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

fn finish(mut child: Child) -> Output {
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    child.wait_with_output().unwrap()
}

/// A mapped file cut by another process: one line, exit code 74. A copy, and a file replaced
/// by rename, go on as if nothing had happened.
fn truncated_while_mapped() {
    let place = Place::new();
    for load in ["map", "copy"] {
        let child = start_map_probe(&place.path, load);
        fs::OpenOptions::new()
            .write(true)
            .open(&place.path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        let out = finish(child);
        if load == "map" {
            assert_eq!(out.status.code(), Some(geb::mmap::EXIT_TRUNCATED));
            assert_eq!(String::from_utf8_lossy(&out.stderr).lines().count(), 1);
        } else {
            assert!(out.status.success());
        }
        fs::write(&place.path, &place.new).unwrap();
    }
    let child = start_map_probe(&place.path, "map");
    let other = place.dir.path().join("other");
    fs::write(&other, OLD).unwrap();
    fs::rename(&other, &place.path).unwrap();
    assert!(finish(child).status.success());
}
