//! The cache on disk, whose thread is killed at every system call: each file is absent, what it was before or
//! whole, and a prompt that is read afterwards has its own bits.
//!
//! `strace` counts calls for each thread, so it is attached to the one that writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use geb::engine::{DiskCache, Engine, Scope, SessionOptions, Span, Want};
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::Segment;

/// Two whole pages and a little more.
const TOKENS: u32 = 140;

/// Reads the prompt, what is on disk first, once somebody says so on standard input.
pub fn probe(model: &Path, folder: &Path) -> ExitCode {
    let cache = DiskCache::open(folder, 1 << 30).unwrap();
    cache.wait();
    let tell_and_wait = || {
        println!("ready");
        std::io::stdin().read_exact(&mut [0]).unwrap();
    };
    read(&load(model), cache, tell_and_wait);
    ExitCode::SUCCESS
}

fn load(model: &Path) -> Arc<Model> {
    let file = GgufFile::open(model, Load::Map).unwrap();
    Model::load(Arc::new(file)).unwrap()
}

/// Logits of the last token, how many tokens came from disk, and how many files were refused.
fn read(model: &Arc<Model>, cache: DiskCache, before: impl FnOnce()) -> (Vec<f32>, usize, u64) {
    let options = SessionOptions {
        threads: 1,
        ctx: Some(200),
        beyond: true,
        ..Default::default()
    };
    let mut engine = Engine::new(model.clone(), &options).unwrap();
    let disk = engine.set_disk_cache(Arc::new(cache)).unwrap();
    before();
    let prompt: Vec<u32> = (0..TOKENS).map(|i| i * 7 % 50).collect();
    let key = disk.key(&Scope::default(), &[], &[]).unwrap();
    let restored = engine.restore(&disk.read(&key, &prompt)).unwrap();
    let mut seq = engine.sequence().unwrap();
    let found = engine.begin(&mut seq, &Scope::default(), &prompt).unwrap();
    let mut span = [Span {
        seq: &mut seq,
        input: Segment::Tokens(&prompt[found..]),
        want: Want::Last,
    }];
    let out = engine.step(&mut span).unwrap();
    assert!(out.failed.is_empty());
    let logits = out.logits.to_vec();
    disk.cache().wait();
    (logits, restored, disk.cache().stats().refused)
}

/// A model, a folder of the cache, and what is right.
struct Place {
    dir: tempfile::TempDir,
    logits: Vec<f32>,
    /// The files of the cache as they are when whole.
    whole: BTreeMap<PathBuf, Vec<u8>>,
}

/// What is there before the run that is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Nothing,
    /// The first page, and in the place of the second one other bytes.
    Damaged,
}

const OTHER: &[u8] = b"no page";

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(super::ROOT).join("tests/fixtures/qwen2/hf");
        let options = geb_convert::Options::default();
        geb_convert::convert(&source, &dir.path().join("m.gguf"), &options, &mut ()).unwrap();
        let mut place = Place {
            dir,
            logits: Vec::new(),
            whole: BTreeMap::new(),
        };
        (place.logits, ..) = place.read();
        place.whole = place.files();
        assert_eq!(place.whole.len(), 2);
        place
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("m.gguf")
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn read(&self) -> (Vec<f32>, usize, u64) {
        let cache = DiskCache::open(&self.folder(), 1 << 30).unwrap();
        read(&load(&self.model()), cache, || ())
    }

    /// All files below the folder.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut open) = (BTreeMap::new(), vec![self.folder()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => open.push(path),
                    false => _ = files.insert(path.clone(), fs::read(path).unwrap()),
                }
            }
        }
        files
    }

    /// The file of the second page: the one with more ids.
    fn second(&self) -> &Path {
        let longest = self.whole.iter().max_by_key(|(_, bytes)| bytes.len());
        longest.unwrap().0
    }

    fn reset(&self, before: Before) {
        fs::remove_dir_all(self.folder()).unwrap_or_default();
        if before == Before::Damaged {
            for (path, bytes) in &self.whole {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let damaged = path == self.second();
                fs::write(path, if damaged { OTHER } else { bytes }).unwrap();
            }
        }
    }

    /// Every file is whole or what it was; the next run has the right bits and leaves all whole. Returns whether the
    /// killed run had written both.
    fn assert_recovers(&self, before: Before, what: &str) -> bool {
        let mut whole = 0;
        for (path, bytes) in self.files() {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with('.') {
                assert!(name.contains(".geb-new-"), "{what}: {name}");
                continue;
            }
            let old = before == Before::Damaged && path == self.second() && bytes == OTHER;
            let right = self.whole.get(&path) == Some(&bytes);
            assert!(right || old, "{what}: {name} holds {} bytes", bytes.len());
            whole += usize::from(right);
        }
        let (logits, restored, refused) = self.read();
        assert!(logits == self.logits, "{what}: other logits");
        assert!(
            restored <= 64 * whole,
            "{what}: {restored} tokens of {whole} pages"
        );
        assert!(refused == 0 || before == Before::Damaged, "{what}");
        assert!(
            self.files() == self.whole,
            "{what}: not whole after the next run"
        );
        whole == 2
    }
}

/// A probe that waits, and `strace` with these options attached to its thread that writes.
fn start(place: &Place, options: &[&str]) -> (Child, Child) {
    let mut probe = super::this_binary()
        .arg("disk-probe")
        .args([place.model(), place.folder()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    let out = probe.stdout.as_mut().unwrap();
    out.read_exact(&mut ready).unwrap();
    let tasks = fs::read_dir(format!("/proc/{}/task", probe.id())).unwrap();
    let mut tasks = tasks.map(|t| t.unwrap().path());
    let name = |t: &PathBuf| fs::read_to_string(t.join("comm")).unwrap();
    let task = tasks.find(|t| name(t).trim() == "geb-disk").unwrap();
    let mut strace = Command::new("strace");
    strace
        .args(options)
        .arg("-p")
        .arg(task.file_name().unwrap());
    let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let lines = strace.stderr.as_mut().unwrap();
    BufReader::new(lines).read_line(&mut said).unwrap();
    assert!(said.contains("attached"), "strace: {said}");
    // A call that was going on when the tracer came may be the one that ends it.
    let told = probe.stdin.as_mut().unwrap().write_all(b"x");
    assert!(told.is_ok() || told.is_err_and(|e| e.kind() == ErrorKind::BrokenPipe));
    (probe, strace)
}

/// Runs the probe so; whether it came to its end.
fn run(place: &Place, options: &[&str]) -> bool {
    let (mut probe, mut strace) = start(place, options);
    let done = probe.wait().unwrap().success();
    strace.wait().unwrap();
    done
}

pub fn kill_at_every_system_call() {
    let place = Place::new();
    let log = place.dir.path().join("log");
    let (mut runs, mut kills, mut complete) = (0, 0, 0);
    for before in [Before::Nothing, Before::Damaged] {
        place.reset(before);
        assert!(run(&place, &["-o", log.to_str().unwrap()]));
        assert!(place.assert_recovers(before, "without a kill"));
        let text = fs::read_to_string(&log).unwrap();
        let calls: Vec<&str> = text.lines().filter(|l| !l.starts_with("exit")).collect();
        let calls: Vec<&str> = calls.into_iter().filter(|l| l.contains('(')).collect();
        assert_order(&calls);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for call in calls {
            let name = super::name(call);
            // A wait that was going on when the tracer came is not a call that can be told from others.
            if name == "restart_syscall" || name.starts_with('<') {
                continue;
            }
            let n = seen.entry(name).or_default();
            *n += 1;
            place.reset(before);
            let what = format!("{before:?}: killed at {name} number {n}");
            let inject = format!("inject={name}:signal=SIGKILL:when={n}");
            runs += 1;
            kills += usize::from(!run(&place, &["-o", "/dev/null", "-e", &inject]));
            complete += usize::from(place.assert_recovers(before, &what));
        }
    }
    println!("{kills} kills in {runs} runs, {complete} with all files");
    assert!(kills >= runs * 8 / 10 && complete > 0 && complete < runs);
}

/// The bytes of each file are durable before its name is, and its name at once.
fn assert_order(calls: &[&str]) {
    let order: Vec<&str> = calls
        .iter()
        .map(|c| super::name(c))
        .filter(|n| ["write", "fsync", "rename"].contains(n))
        .collect();
    assert!(
        !order.is_empty() && order.len().is_multiple_of(4),
        "{order:?}"
    );
    for file in order.chunks(4) {
        assert_eq!(file, ["write", "fsync", "rename", "fsync"]);
    }
}

/// What is missing to attach a tracer to a process.
pub fn no_attach() -> Option<String> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let root =
        fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let free = root || ["", "0"].contains(&scope.trim());
    let missing = || "processes that may trace each other".to_owned();
    super::needs::no_strace().or_else(|| (!free).then(missing))
}
