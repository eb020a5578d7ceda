//! Runs that were stopped and continue: the bytes are those of an uninterrupted run.

use std::fs;
use std::path::{Path, PathBuf};

use geb::gguf::checksums::check_hashes;
use geb::{Dtype, Error};
use geb_convert::policy::{Policy, Regex};
use geb_convert::{self as convert, Options, Progress, Report};

fn source() -> PathBuf {
    PathBuf::from(crate::common::ROOT).join("tests/fixtures/geb/hf")
}

fn options(resume: bool) -> Options {
    Options {
        policy: Dtype::Q8_0.into(),
        resume,
        threads: Some(2),
        ..Options::default()
    }
}

/// Stops after some pieces.
struct StopAfter(std::cell::Cell<usize>);

impl Progress for StopAfter {
    fn cancelled(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

fn stop_after(pieces: usize, out: &Path, options: &Options) {
    let mut progress = StopAfter(pieces.into());
    let error = convert::convert(&source(), out, options, &mut progress).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
}

/// What was said about the wish to continue.
fn remark(report: &Report) -> &str {
    let said = |n: &&String| n.contains("continue");
    report.notes.iter().find(said).expect("a remark")
}

fn whole(out: &Path, options: &Options) -> Report {
    convert::convert(&source(), out, options, &mut ()).unwrap()
}

/// Names and bytes of all files of a folder.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                fs::read(e.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

fn partial(dir: &Path, journal: bool) -> PathBuf {
    let found = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut found = found.filter(|p| {
        let name = p.to_string_lossy();
        name.contains(".geb-partial-") && name.ends_with(".journal") == journal
    });
    found.next().expect("a partial file")
}

#[test]
fn stopped_anywhere_and_continued() {
    for split_max in [None, Some(200_000)] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("m.gguf");
        let options = Options {
            split_max,
            ..options(true)
        };
        let report = whole(&out, &options);
        let want = files(dir.path());
        assert_eq!(want.len() > 1, split_max.is_some());
        for stop in 0..report.tensors.len() {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("m.gguf");
            stop_after(stop, &out, &options);
            let again = whole(&out, &options);
            // The embedding comes in three pieces; a tensor that was not finished does not count.
            let said = again.notes.iter().any(|n| n.starts_with("continued: "));
            assert_eq!(said, stop >= 3, "{stop}: {:?}", again.notes);
            assert!(files(dir.path()) == want, "stopped after {stop}");
            for (a, b) in report.tensors.iter().zip(&again.tensors) {
                assert_eq!((a.sums, a.worst), (b.sums, b.worst), "{}", a.name);
            }
        }
    }
}

#[test]
fn stopped_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    whole(&out, &options(false));
    let want = files(dir.path());
    fs::remove_file(&out).unwrap();
    for _ in 0..6 {
        stop_after(3, &out, &options(true));
    }
    let report = whole(&out, &options(true));
    assert!(
        remark(&report).starts_with("continued: 16 of "),
        "{:?}",
        report.notes
    );
    assert!(files(dir.path()) == want);
}

#[test]
fn damaged_leftovers_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    whole(&out, &options(false));
    let want = fs::read(&out).unwrap();
    let mut undamaged = String::new();
    for damage in 0..5 {
        fs::remove_file(&out).unwrap_or_default();
        stop_after(12, &out, &options(true));
        let (data, journal) = (partial(dir.path(), false), partial(dir.path(), true));
        let mut bytes = fs::read(&data).unwrap();
        match damage {
            0 => {}
            1 => {
                // In the first tensor: the header is still zeros.
                let at = bytes.iter().position(|&b| b != 0).unwrap();
                bytes[at] ^= 1;
                fs::write(&data, bytes).unwrap();
            }
            2 => fs::write(&data, &bytes[..bytes.len() / 2]).unwrap(),
            3 => fs::remove_file(&data).unwrap(),
            _ => {
                let text = fs::read(&journal).unwrap();
                fs::write(&journal, &text[..text.len() - 20]).unwrap();
            }
        }
        let report = whole(&out, &options(true));
        let said = remark(&report);
        assert!(said.starts_with("continued: "), "{said}");
        if damage == 0 {
            undamaged = said.to_owned();
        }
        assert_eq!(said == undamaged, damage == 0, "{damage}: {said}");
        assert!(fs::read(&out).unwrap() == want, "damage {damage}");
        assert_eq!(files(dir.path()).len(), 1, "damage {damage}");
    }
}

#[test]
fn another_run_is_not_continued_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    stop_after(9, &out, &options(true));
    let other = Options {
        policy: Policy {
            keep_f32: vec![Regex::new("attn_q").unwrap()],
            ..Dtype::Q8_0.into()
        },
        ..options(true)
    };
    let report = whole(&out, &other);
    assert_eq!(
        remark(&report),
        "not continued: the earlier run differs in recipe; starting anew"
    );
    assert_eq!(files(dir.path()).len(), 1, "the leftovers are gone");
    let report = whole(&out, &other);
    assert_eq!(remark(&report), "nothing to continue; starting anew");

    // A source changed meanwhile, of the same size.
    let copy = dir.path().join("hf");
    fs::create_dir(&copy).unwrap();
    for (name, bytes) in files(&source()) {
        fs::write(copy.join(name), bytes).unwrap();
    }
    let mut progress = StopAfter(9.into());
    convert::convert(&copy, &out, &options(true), &mut progress).unwrap_err();
    let weights = copy.join("pytorch_model.bin");
    let bytes = fs::read(&weights).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&weights, bytes).unwrap();
    let report = convert::convert(&copy, &out, &options(true), &mut ()).unwrap();
    assert_eq!(
        remark(&report),
        "not continued: the earlier run differs in source; starting anew"
    );
}

/// Copies the source, to be changed.
fn copy_of(source: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for (name, bytes) in files(source) {
        fs::write(to.join(name), bytes).unwrap();
    }
}

/// Puts `bytes` into a file that says that it has not been changed.
fn replace_unseen(path: &Path, bytes: &[u8]) {
    let before = fs::metadata(path).unwrap();
    assert_eq!(before.len(), bytes.len() as u64);
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(before.modified().unwrap())
        .set_accessed(before.accessed().unwrap());
    file.set_times(times).unwrap();
}

/// Another checkpoint with the names, sizes and times of the one that was begun: what is the same is
/// kept, what is not is made again, and the file is that of a run of its own.
#[test]
fn another_source_of_the_same_looks_is_found() {
    let fixtures = PathBuf::from(crate::common::ROOT).join("tests/fixtures");
    for (case, weights, dtype) in [
        ("geb", "pytorch_model.bin", Dtype::Q8_0),
        ("llama", "model.safetensors", Dtype::F32),
        ("llama", "model.safetensors", Dtype::F16),
        ("gpt2", "model.safetensors", Dtype::Q8_0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let hf = dir.path().join("hf");
        copy_of(&fixtures.join(case).join("hf"), &hf);
        let path = hf.join(weights);
        let first = fs::read(&path).unwrap();
        // One bit, in each of several places; or every 4099th byte.
        let places = [first.len() / 3, first.len() / 2, first.len() * 9 / 10];
        for change in 0..4 {
            let mut other = first.clone();
            match places.get(change) {
                Some(&at) => other[at & !3] ^= 1,
                None => (first.len() / 3..first.len())
                    .step_by(4096)
                    .for_each(|at| other[at & !3] ^= 1),
            }
            let options = Options {
                policy: dtype.into(),
                ..options(true)
            };
            let out = dir.path().join(format!("out-{change}"));
            fs::create_dir(&out).unwrap();
            let (out, want) = (out.join("m.gguf"), dir.path().join("want.gguf"));
            let mut stop = StopAfter(12.into());
            let stopped = convert::convert(&hf, &out, &options, &mut stop);
            assert!(
                matches!(stopped, Err(Error::Interrupted)),
                "{case}: {stopped:?}"
            );
            replace_unseen(&path, &other);
            let Ok(expected) = convert::convert(
                &hf,
                &want,
                &Options {
                    resume: false,
                    ..options.clone()
                },
                &mut (),
            ) else {
                // The change made no weights of it.
                replace_unseen(&path, &first);
                continue;
            };
            let report = convert::convert(&hf, &out, &options, &mut ()).unwrap();
            assert!(
                fs::read(&out).unwrap() == fs::read(&want).unwrap(),
                "{case} {change}"
            );
            let said = remark(&report);
            assert!(said.starts_with("continued: "), "{said}");
            if change == 3 {
                assert!(said.contains("another one now"), "{case}: {said}");
            }
            for (a, b) in expected.tensors.iter().zip(&report.tensors) {
                assert_eq!((a.sums, a.worst), (b.sums, b.worst), "{}", a.name);
            }
            replace_unseen(&path, &first);
        }
    }
}

/// Whatever else shapes the file: a run with another configuration, tokenizer or option is another.
#[test]
fn other_inputs_of_the_same_looks_are_found() {
    let fixtures = PathBuf::from(crate::common::ROOT).join("tests/fixtures");
    let dir = tempfile::tempdir().unwrap();
    let hf = dir.path().join("hf");
    copy_of(&fixtures.join("llama/hf"), &hf);
    let changed = |file: &str, from: &str, to: &str| {
        let path = hf.join(file);
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        replace_unseen(&path, text.replacen(from, to, 1).as_bytes());
    };
    let begin = |out: &Path| {
        let mut stop = StopAfter(5.into());
        convert::convert(&hf, out, &options(true), &mut stop).unwrap_err();
    };
    for (file, from, to) in [
        (
            "config.json",
            "\"rms_norm_eps\": 1e-05",
            "\"rms_norm_eps\": 1e-06",
        ),
        (
            "config.json",
            "\"rope_theta\": 10000.0",
            "\"rope_theta\": 20000.0",
        ),
        ("config.json", "\"eos_token_id\": 2", "\"eos_token_id\": 3"),
    ] {
        let out = dir.path().join("m.gguf");
        begin(&out);
        changed(file, from, to);
        let report = convert::convert(&hf, &out, &options(true), &mut ()).unwrap();
        let said = remark(&report);
        assert!(said.starts_with("not continued: "), "{to}: {said}");
        changed(file, to, from);
    }
    begin(&dir.path().join("m.gguf"));
    let out = dir.path().join("m.gguf");
    let searched = Options {
        search: geb::kernels::Effort::Best,
        ..options(true)
    };
    let report = convert::convert(&hf, &out, &searched, &mut ()).unwrap();
    assert_eq!(
        remark(&report),
        "not continued: the earlier run differs in recipe; starting anew"
    );
}

#[test]
fn without_resume_nothing_is_left_and_leftovers_go() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    stop_after(5, &out, &options(false));
    assert!(files(dir.path()).is_empty());
    stop_after(5, &out, &options(true));
    assert_eq!(files(dir.path()).len(), 2);
    whole(&out, &options(false));
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn a_flipped_byte_is_found_and_its_tensor_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    whole(&out, &options(false));
    let good = fs::read(&out).unwrap();
    let checked = check_hashes(&out).unwrap();
    assert!(checked.damaged.is_empty() && checked.bytes > 0);
    let file = geb::gguf::GgufFile::from_bytes(good.clone()).unwrap();
    assert_eq!(checked.tensors, file.tensors().count());
    for t in file.tensors() {
        let range = t.info().range.clone();
        for at in [range.start, range.start + range.len() / 2, range.end - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&out, bad).unwrap();
            assert_eq!(check_hashes(&out).unwrap().damaged, [t.info().name.clone()]);
        }
    }
}
