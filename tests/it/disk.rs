//! Beginnings on disk: a prompt served from there has the bits that it has alone, and a file that is not
//! whole, of this model, cache type, level, key and text is never used.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::mutate::Rng;
use geb::Dtype;
use geb::engine::{
    DiskCache, DiskPages, Engine, KvChoice, Scope, SeqKey, SessionOptions, Span, Want,
};
use geb::gguf::{GgufFile, Load};
use geb::kernels::level::Level;
use geb::model::Model;
use geb::session::{Segment, Session};
use geb_convert::{self as convert, Options};

pub const BLOCK: usize = 64;
/// Enough for every file of a test.
pub const PLENTY: u64 = 1 << 30;

fn bytes(case: &str) -> Vec<u8> {
    let root = Path::new(crate::common::ROOT);
    let options = Options {
        policy: Dtype::Q8_0.into(),
        ..Options::default()
    };
    let source = root.join("tests/fixtures").join(case).join("hf");
    convert::convert_to_vec(&source, &options).expect(case).0
}

pub fn model(case: &str) -> Arc<Model> {
    let file = GgufFile::from_bytes(bytes(case)).expect("GGUF");
    Model::load(Arc::new(file)).expect(case)
}

pub fn options(kv: KvChoice, ctx: usize) -> SessionOptions {
    SessionOptions {
        kv,
        ctx: Some(ctx),
        beyond: true,
        threads: 1,
        ..Default::default()
    }
}

pub fn ids(rng: &mut Rng, n: usize, model: &Model) -> Vec<u32> {
    let vocab = model.config().vocab;
    (0..n).map(|_| rng.below(vocab) as u32).collect()
}

/// An engine, and what reads for it.
pub struct Run {
    pub engine: Engine,
    pub disk: Arc<DiskPages>,
}

impl Run {
    pub fn on(model: &Arc<Model>, options: &SessionOptions, cache: Arc<DiskCache>) -> Run {
        let mut engine = Engine::new(model.clone(), options).expect("engine");
        let disk = engine.set_disk_cache(cache).expect("identity");
        Run { engine, disk }
    }

    pub fn new(model: &Arc<Model>, options: &SessionOptions, folder: &Path) -> Run {
        let cache = DiskCache::open(folder, PLENTY).expect("cache");
        Self::on(model, options, Arc::new(cache))
    }

    pub fn key(&self, scope: &Scope) -> SeqKey {
        self.disk.key(scope, &[], &[]).expect("key")
    }

    /// Reads a prompt in steps of random sizes, what is on disk first; logits of what was evaluated, and how many
    /// tokens came from disk and how many were there when it began.
    pub fn read(&mut self, scope: &Scope, ids: &[u32], rng: &mut Rng) -> (Vec<f32>, usize, usize) {
        let stored = self.disk.read(&self.key(scope), ids);
        let restored = self.engine.restore(&stored).expect("restored");
        assert_eq!(restored, stored.tokens());
        let mut seq = self.engine.sequence().expect("sequence");
        let found = self.engine.begin(&mut seq, scope, ids).expect("begun");
        let mut logits = Vec::new();
        while seq.tokens().len() < ids.len() {
            let at = seq.tokens().len();
            let n = (1 + rng.below(100)).min(ids.len() - at);
            let mut span = [Span {
                seq: &mut seq,
                input: Segment::Tokens(&ids[at..at + n]),
                want: Want::All,
            }];
            let out = self.engine.step(&mut span).expect("step");
            assert!(out.failed.is_empty(), "{:?}", out.failed);
            logits.extend_from_slice(out.logits);
            self.engine.keep_state(&seq).expect("kept");
            self.disk.cache().wait();
        }
        (logits, restored, found)
    }
}

/// Logits of all tokens, read alone.
pub fn alone(model: &Arc<Model>, options: &SessionOptions, ids: &[u32]) -> Vec<f32> {
    let mut session = Session::new(model.clone(), options).expect("session");
    session.forward(ids, Want::All).expect("alone").to_vec()
}

/// The last of `expected` are these, bit for bit.
pub fn assert_tail(found: &[f32], expected: &[f32], what: &str) {
    let tail = &expected[expected.len() - found.len()..];
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
    assert!(
        !found.is_empty() && found.iter().zip(tail).all(same),
        "{what}"
    );
}

/// All files of the cache.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let list = |f: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(f).expect("a folder");
        let mut all: Vec<_> = entries.map(|e| e.expect("entry").path()).collect();
        all.sort();
        all
    };
    let folders = list(folder).into_iter().filter(|p| p.is_dir());
    let kinds: Vec<_> = folders.flat_map(|f| list(&f)).collect();
    kinds.iter().flat_map(|f| list(f)).collect()
}

/// Damages a file in one of many ways.
fn damage(file: &Path, rng: &mut Rng) -> &'static str {
    let mut bytes = fs::read(file).expect("a file");
    let what = match rng.below(8) {
        0 => {
            bytes.truncate(rng.below(bytes.len()));
            "cut"
        }
        1 => {
            bytes.clear();
            "empty"
        }
        2 => {
            bytes.extend([0; 3]);
            "longer"
        }
        3 => {
            // The header alone says what it was computed for.
            let at = rng.below(300);
            bytes[at] = bytes[at].wrapping_add(1);
            "another header"
        }
        4 => {
            let at = bytes.len() - 1 - rng.below(32);
            bytes[at] ^= 1 << rng.below(8);
            "another hash"
        }
        _ => {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
            "another bit"
        }
    };
    fs::write(file, bytes).expect("written");
    what
}

/// Prompts from disk, whole and damaged, of one model and cache type; how many files were refused.
fn scene(case: &str, kv: KvChoice, n: usize, seed: u64) -> u64 {
    let (mut rng, scope) = (Rng::new(seed), Scope([5; 32]));
    let model = model(case);
    let options = SessionOptions {
        // Room for what the tree keeps behind a window: behind pages that are given up it gets no more.
        streams: 4,
        ..options(kv, n + 1)
    };
    let folder = tempfile::tempdir().expect("a folder");
    let prompt = ids(&mut rng, n, &model);
    let expected = alone(&model, &options, &prompt);
    let mut run = Run::new(&model, &options, folder.path());
    let (logits, restored, found) = run.read(&scope, &prompt, &mut rng);
    assert_eq!((restored, found), (0, 0), "{case}");
    assert_tail(&logits, &expected, case);
    drop(run);
    let whole = files(folder.path());
    assert_eq!(whole.len(), n / BLOCK, "{case}");
    let contents: Vec<_> = whole.iter().map(|f| fs::read(f).expect("read")).collect();
    // Where each page of the prompt lies: the file grows with the ids in it.
    let mut order = whole.clone();
    order.sort_by_key(|f| fs::metadata(f).expect("a file").len());

    let mut fork = prompt.clone();
    fork[BLOCK + 3] ^= 1;
    let other_end = alone(&model, &options, &fork);
    let mut run = Run::new(&model, &options, folder.path());
    let (logits, restored, _) = run.read(&scope, &fork, &mut rng);
    assert_eq!(restored, BLOCK, "{case}");
    assert_tail(&logits, &other_end, case);
    assert_eq!(
        run.disk.read(&run.key(&Scope::default()), &prompt).tokens(),
        0
    );
    drop(run);

    let mut refused = 0;
    for trial in 0..12 {
        let page = rng.below(order.len());
        let what = (trial > 0).then(|| damage(&order[page], &mut rng));
        let what = format!("{case} {kv:?} page {page}: {what:?}");
        let mut run = Run::new(&model, &options, folder.path());
        let (logits, restored, found) = run.read(&scope, &prompt, &mut rng);
        let pages = if trial > 0 { page } else { n / BLOCK };
        assert_eq!(restored, pages * BLOCK, "{what}");
        assert!(found >= restored.min(n - 1) && found < n, "{what}");
        assert_eq!(logits.len(), (n - found) * model.config().vocab, "{what}");
        assert_tail(&logits, &expected, &what);
        let stats = run.disk.cache().stats();
        assert_eq!(stats.refused, u64::from(trial > 0), "{what}");
        assert_eq!((stats.failed, stats.dropped), (0, 0), "{what}");
        refused += stats.refused;
        // It was deleted and, computed again, written with the same bytes.
        for (file, bytes) in whole.iter().zip(&contents) {
            assert!(fs::read(file).expect("whole again") == *bytes, "{what}");
        }
    }
    refused
}

#[test]
fn prompts_from_disk_have_their_own_bits_and_damaged_files_are_refused() {
    let mut refused = 0;
    // The last two have layers with a window, some of whose pages are given up.
    let cases = [
        ("qwen2", 231),
        ("llama3", 192),
        ("phi3-longrope", 200),
        ("olmoe", 140),
        ("gemma3", 700),
        ("mistral-swa", 650),
    ];
    for (i, (case, n)) in cases.into_iter().enumerate() {
        for (j, kv) in [KvChoice::F32, KvChoice::F16, KvChoice::Q8_0]
            .into_iter()
            .enumerate()
        {
            refused += scene(case, kv, n, (3 * i + j) as u64);
        }
    }
    refused += scene("bloom", KvChoice::F32, 200, 77);
    assert_eq!(refused, 19 * 11);
}

#[test]
fn states_come_from_disk_and_damaged_ones_are_refused() {
    for (i, case) in ["rwkv6", "rwkv7", "mamba", "mamba2"]
        .into_iter()
        .enumerate()
    {
        let (mut rng, scope) = (Rng::new(i as u64), Scope::default());
        let (model, options) = (model(case), options(KvChoice::Auto, 150));
        let folder = tempfile::tempdir().expect("a folder");
        let prompt = ids(&mut rng, 150, &model);
        let expected = alone(&model, &options, &prompt);
        let mut run = Run::new(&model, &options, folder.path());
        let (logits, ..) = run.read(&scope, &prompt[..100], &mut rng);
        assert_tail(&logits, &expected[..100 * model.config().vocab], case);
        drop(run);
        let mut order = files(folder.path());
        order.sort_by_key(|f| fs::metadata(f).expect("a file").len());
        assert!(!order.is_empty(), "{case}");
        // From the longest to the shortest: each damaged one leaves the one before it.
        for trial in 0..=order.len() {
            let left = order.len() - trial;
            let mut run = Run::new(&model, &options, folder.path());
            let stored = run.disk.read(&run.key(&scope), &prompt);
            assert_eq!(
                run.engine.restore(&stored).expect("restored"),
                stored.tokens()
            );
            let mut seq = run.engine.sequence().expect("sequence");
            let found = run.engine.begin(&mut seq, &scope, &prompt).expect("begun");
            assert_eq!(found, stored.tokens(), "{case}");
            assert_eq!(found > 0, left > 0, "{case}");
            assert!(trial > 0 || found == 100, "{case}");
            let mut span = [Span {
                seq: &mut seq,
                input: Segment::Tokens(&prompt[found..]),
                want: Want::All,
            }];
            let out = run.engine.step(&mut span).expect("step");
            assert_tail(out.logits, &expected, case);
            assert_eq!(
                run.disk.cache().stats().refused,
                u64::from(trial > 0),
                "{case}"
            );
            if left > 0 {
                damage(&order[left - 1], &mut rng);
            }
        }
    }
}

/// Pages alone, or states alone, would not be a beginning.
#[test]
fn models_with_both_kinds_of_layers_are_refused_by_name() {
    for case in ["lfm2", "qwen35"] {
        let model = model(case);
        let mut engine = Engine::new(model, &options(KvChoice::Auto, 64)).expect("engine");
        let folder = tempfile::tempdir().expect("a folder");
        let cache = DiskCache::open(folder.path(), PLENTY).expect("cache");
        let refused = engine.set_disk_cache(Arc::new(cache)).map(|_| ());
        let error = refused.expect_err("both").to_string();
        assert!(error.contains(case), "{error}");
    }
}

/// The same engine with one thing changed.
fn others(one: &Arc<Model>, base: &SessionOptions) -> Vec<(Arc<Model>, SessionOptions)> {
    let mut changed = bytes("phi3-longrope");
    let last = one.file().tensors().last().expect("a tensor");
    changed[last.info().range.start] ^= 1;
    let changed = GgufFile::from_bytes(changed).expect("GGUF");
    let with = |change: fn(&mut SessionOptions)| {
        let mut options = base.clone();
        change(&mut options);
        (one.clone(), options)
    };
    let mut others = vec![
        (Model::load(Arc::new(changed)).expect("model"), base.clone()),
        (model("phi3-longrope-short"), base.clone()),
        with(|o| o.kv = KvChoice::F32),
        with(|o| o.kv = KvChoice::Q8_0),
        with(|o| o.ctx = Some(8)),
    ];
    if Level::detect() != Level::Scalar {
        others.push(with(|o| o.level = Some(Level::Scalar)));
    }
    others
}

#[test]
fn files_of_another_model_type_level_or_context_are_not_used() {
    let (mut rng, scope) = (Rng::new(3), Scope::default());
    let folder = tempfile::tempdir().expect("a folder");
    // Long positions of this one have other rotations, which its context decides.
    let one = model("phi3-longrope");
    let prompt = ids(&mut rng, 100, &one);
    let base = SessionOptions {
        level: Some(Level::detect()),
        ..options(KvChoice::F16, 110)
    };
    let mut run = Run::new(&one, &base, folder.path());
    run.read(&scope, &prompt, &mut rng);
    drop(run);
    let written = files(folder.path());
    assert_eq!(written.len(), 1);
    let others = others(&one, &base);
    let original = one.config().rope_scaling.original_context;
    assert!(8.0 < original && original < 110.0, "{original}");
    for (i, (model, options)) in others.into_iter().enumerate() {
        // It is not looked at, and where it stands in the other's place it is refused.
        let expected = alone(
            &model,
            &SessionOptions {
                ctx: Some(110),
                ..options.clone()
            },
            &prompt,
        );
        let mine = tempfile::tempdir().expect("a folder");
        let mut run = Run::new(&model, &options, mine.path());
        let name = written[0].file_name().expect("a name");
        if options.ctx == Some(8) {
            // Of the same folder: the header alone tells.
            let there = mine.path().join(relative(&written[0], folder.path()));
            fs::create_dir_all(there.parent().expect("a folder")).expect("made");
            fs::copy(&written[0], &there).expect("copied");
            assert_eq!(run.disk.read(&run.key(&scope), &prompt).tokens(), 0, "{i}");
            assert_eq!(run.disk.cache().stats().refused, 1, "{i}");
            continue;
        }
        run.read(&scope, &prompt, &mut rng);
        drop(run);
        let theirs = files(mine.path());
        assert_eq!(theirs[0].file_name(), Some(name), "{i}");
        let places = (&theirs[0], mine.path(), &written[0], folder.path());
        assert_ne!(
            relative(places.0, places.1),
            relative(places.2, places.3),
            "{i}"
        );
        fs::copy(&written[0], &theirs[0]).expect("copied");
        let mut run = Run::new(&model, &options, mine.path());
        let (logits, restored, _) = run.read(&scope, &prompt, &mut rng);
        assert_eq!((restored, run.disk.cache().stats().refused), (0, 1), "{i}");
        assert_tail(&logits, &expected, "another engine's file");
    }
    let run = Run::new(&one, &base, folder.path());
    assert_eq!(run.disk.read(&run.key(&scope), &prompt).tokens(), BLOCK);
}

fn relative(file: &Path, folder: &Path) -> PathBuf {
    file.strip_prefix(folder).expect("inside").to_owned()
}

#[test]
fn what_was_read_for_another_engine_is_refused_by_name() {
    let (mut rng, scope) = (Rng::new(4), Scope::default());
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (model("qwen2"), model("llama"));
    let options = options(KvChoice::F16, 110);
    let prompt = ids(&mut rng, 100, &a);
    let mut run = Run::new(&a, &options, folder.path());
    run.read(&scope, &prompt, &mut rng);
    let fresh = Run::new(&a, &options, folder.path());
    let stored = fresh.disk.read(&fresh.key(&scope), &prompt);
    assert_eq!(stored.tokens(), BLOCK);
    let mut other = Run::new(&b, &options, folder.path());
    let error = other
        .engine
        .restore(&stored)
        .expect_err("another model")
        .to_string();
    assert!(
        error.contains("pages from disk is those of another engine"),
        "{error}"
    );
}

#[test]
fn a_mapped_file_without_hashes_is_known_by_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    let identity = |path: &Path, load: Load| {
        let file = GgufFile::open(path, load).expect("GGUF");
        Model::load(Arc::new(file))
            .expect("model")
            .identity()
            .expect("identity")
    };
    // With hashes a copy is the same model, mapped or not.
    let sealed = bytes("qwen2");
    fs::write(&path, &sealed).expect("written");
    let copy = folder.path().join("copy.gguf");
    fs::copy(&path, &copy).expect("copied");
    let ids =
        [(&path, Load::Map), (&copy, Load::Map), (&path, Load::Copy)].map(|(p, l)| identity(p, l));
    assert!(ids[0] == ids[1] && ids[0] == ids[2]);
    // Without them a copy is another one, and so is a file that was written again.
    let mut plain = sealed.clone();
    let key = b"geb.tensors.sha256";
    let at = plain
        .windows(key.len())
        .position(|w| w == key)
        .expect("hashes");
    plain[at] = b'x';
    fs::write(&path, &plain).expect("written");
    let first = identity(&path, Load::Map);
    assert_eq!(first, identity(&path, Load::Map));
    fs::copy(&path, &copy).expect("copied");
    assert_ne!(first, identity(&copy, Load::Map));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("a file");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
    file.set_modified(later).expect("a time");
    assert_ne!(first, identity(&path, Load::Map));
    // In memory every byte counts.
    let read = identity(&path, Load::Copy);
    let last = plain.len() - 1;
    plain[last] ^= 1;
    fs::write(&path, &plain).expect("written");
    assert_ne!(read, identity(&path, Load::Copy));
}

#[test]
fn what_is_in_memory_is_not_read_and_what_was_given_up_is() {
    let (mut rng, scope) = (Rng::new(5), Scope::default());
    let folder = tempfile::tempdir().expect("a folder");
    let model = model("qwen2");
    let mut options = options(KvChoice::F16, 200);
    // Pages of one context.
    options.kv_memory = Some(
        Engine::new(model.clone(), &options)
            .expect("engine")
            .kv_bytes(),
    );
    let prompts = [(); 3].map(|()| ids(&mut rng, 190, &model));
    let expected = prompts.each_ref().map(|p| alone(&model, &options, p));
    let mut run = Run::new(&model, &options, folder.path());
    for round in 0..3 {
        for (prompt, expected) in prompts.iter().zip(&expected) {
            let (logits, restored, found) = run.read(&scope, prompt, &mut rng);
            assert_tail(&logits, expected, "given up and read again");
            assert_eq!(found > 0, round > 0);
            assert_eq!(restored, if round > 0 { 128 } else { 0 });
            assert_eq!(run.disk.read(&run.key(&scope), prompt).tokens(), 0);
        }
    }
    let stats = run.disk.cache().stats();
    assert_eq!(
        (stats.written, stats.found, stats.refused),
        (6, 12, 0),
        "{stats:?}"
    );
}
