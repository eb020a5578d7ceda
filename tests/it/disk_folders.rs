//! Folders of the cache on disk: shared, full, read only, of everybody.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::mutate::Rng;
use crate::disk::{BLOCK, PLENTY, Run, alone, assert_tail, files, ids, model, options};
use geb::engine::{DiskCache, KvChoice, Scope};

#[test]
fn two_engines_write_and_read_one_folder() {
    let (mut rng, scope) = (Rng::new(6), Scope::default());
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (model("qwen2"), model("gemma3"));
    let smaller = [&a, &b]
        .into_iter()
        .min_by_key(|m| m.config().vocab)
        .expect("two");
    let options = options(KvChoice::F16, 200);
    let shared = Arc::new(DiskCache::open(folder.path(), PLENTY).expect("cache"));
    let prompts: Vec<_> = (0..6).map(|_| ids(&mut rng, 150, smaller)).collect();
    std::thread::scope(|s| {
        for thread in 0..4u64 {
            let (a, b, shared, prompts) = (&a, &b, shared.clone(), &prompts);
            let (options, folder, scope) = (&options, folder.path(), &scope);
            s.spawn(move || {
                let mut rng = Rng::new(thread);
                let model = if thread < 2 { a } else { b };
                let mut run = match thread % 2 {
                    0 => Run::on(model, options, shared),
                    _ => Run::new(model, options, folder),
                };
                for prompt in prompts {
                    let expected = alone(model, options, prompt);
                    let (logits, ..) = run.read(scope, prompt, &mut rng);
                    assert_tail(&logits, &expected, "side by side");
                }
                assert_eq!(run.disk.cache().stats().refused, 0);
            });
        }
    });
    assert_eq!(files(folder.path()).len(), 2 * 6 * 2);
    for model in [&a, &b] {
        let run = Run::on(model, &options, shared.clone());
        for prompt in &prompts {
            assert_eq!(run.disk.read(&run.key(&scope), prompt).tokens(), 128);
        }
    }
}

#[test]
fn the_limit_holds_and_the_least_recently_used_go() {
    let (mut rng, scope) = (Rng::new(7), Scope::default());
    let folder = tempfile::tempdir().expect("a folder");
    let (model, options) = (model("qwen2"), options(KvChoice::F16, 80));
    let prompts: Vec<_> = (0..40).map(|_| ids(&mut rng, 70, &model)).collect();
    let mut run = Run::new(&model, &options, folder.path());
    run.read(&scope, &prompts[0], &mut rng);
    drop(run);
    let first = files(folder.path()).remove(0);
    let size = fs::metadata(&first).expect("a file").len();
    // Files of others are neither counted nor touched.
    let foreign = ["note.txt", "0123.gebkv", "x.gebkv"].map(|n| first.with_file_name(n));
    let large = vec![1; 30 * size as usize];
    foreign
        .iter()
        .for_each(|f| fs::write(f, &large).expect("written"));
    fs::write(folder.path().join("else"), &large).expect("written");
    let limit = 10 * size + 1;
    for prompt in &prompts {
        let cache = Arc::new(DiskCache::open(folder.path(), limit).expect("cache"));
        let mut run = Run::on(&model, &options, cache);
        let (_, restored, _) = run.read(&scope, &prompts[0], &mut rng);
        assert_eq!(restored, BLOCK, "used each time, it stays");
        run.read(&scope, prompt, &mut rng);
        let ours = files(folder.path()).len() - foreign.len();
        assert!(ours as u64 * size <= limit, "{ours} files");
        assert_eq!(run.disk.cache().stats().bytes, ours as u64 * size);
    }
    assert!(files(folder.path()).len() - foreign.len() >= 8);
    for file in &foreign {
        assert_eq!(fs::read(file).expect("untouched"), large);
    }
    // A smaller limit is met at once; nothing fits into less than a file.
    let cache = Arc::new(DiskCache::open(folder.path(), 3 * size).expect("cache"));
    cache.wait();
    assert!(cache.stats().bytes <= 3 * size && cache.stats().deleted > 0);
    let none = Arc::new(DiskCache::open(folder.path(), size - 1).expect("cache"));
    let mut run = Run::on(&model, &options, none);
    run.read(&scope, &prompts[5], &mut rng);
    let stats = run.disk.cache().stats();
    assert_eq!(
        (stats.bytes, stats.written, stats.failed),
        (0, 0, 1),
        "{stats:?}"
    );
}

#[cfg(unix)]
#[test]
fn folders_that_cannot_be_written_are_read_and_those_of_everybody_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (mut rng, scope) = (Rng::new(8), Scope::default());
    let (model, options) = (model("qwen2"), options(KvChoice::F16, 80));
    let prompt = ids(&mut rng, 70, &model);
    let expected = alone(&model, &options, &prompt);
    let top = tempfile::tempdir().expect("a folder");
    let folder = top.path().join("made/here");
    Run::new(&model, &options, &folder).read(&scope, &prompt, &mut rng);
    let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o777;
    let file = files(&folder).remove(0);
    assert_eq!(mode(&file), 0o600);
    for folder in file.ancestors().skip(1).take(4) {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    // Read only: what is there is read, what is new is not written, and nobody fails.
    let set = |mode: u32| {
        let folders = file.ancestors().skip(1).take(3);
        folders
            .for_each(|f| fs::set_permissions(f, fs::Permissions::from_mode(mode)).expect("set"));
    };
    set(0o500);
    let mut run = Run::new(&model, &options, &folder);
    let (logits, restored, _) = run.read(&scope, &prompt, &mut rng);
    assert_eq!(restored, BLOCK);
    assert_tail(&logits, &expected, "read only");
    drop(run);
    set(0o700);
    // A file in the place of the model's folder stops everybody, the superuser too.
    let model_folder = file.ancestors().nth(2).expect("a folder");
    fs::remove_dir_all(model_folder).expect("removed");
    fs::write(model_folder, "in the way").expect("written");
    let mut run = Run::new(&model, &options, &folder);
    let (logits, restored, _) = run.read(&scope, &prompt, &mut rng);
    assert_tail(&logits, &expected, "nothing can be written");
    let stats = run.disk.cache().stats();
    assert_eq!(
        (restored, stats.failed, stats.written),
        (0, 1, 0),
        "{stats:?}"
    );
    // What everybody can write, anybody could have written.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("set");
    let error = DiskCache::open(&folder, PLENTY)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("a folder that everybody can write"),
        "{error}"
    );
    assert!(DiskCache::open(&model_folder.join("x"), PLENTY).is_err());
}
