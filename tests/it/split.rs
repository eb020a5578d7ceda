//! Files in parts: what is written in parts reads as one, and a set that is not whole is refused.

use std::fs;
use std::path::{Path, PathBuf};

use geb::gguf::checksums::check_hashes;
use geb::gguf::{GgufFile, Load};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

fn source() -> PathBuf {
    PathBuf::from(crate::common::ROOT).join("tests/fixtures/geb/hf")
}

fn convert(source: &Path, out: &Path, dtype: Dtype, split_max: Option<u64>) -> Vec<PathBuf> {
    let options = Options {
        policy: dtype.into(),
        split_max,
        ..Options::default()
    };
    let report = convert::convert(source, out, &options, &mut ()).unwrap();
    report.files
}

const MAX: u64 = 700_000;

fn parts(dir: &Path) -> Vec<PathBuf> {
    convert(&source(), &dir.join("m.gguf"), Dtype::F32, Some(MAX))
}

fn refused(path: &Path) -> String {
    match GgufFile::open(path, Load::Map) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(e) => e.to_string(),
    }
}

#[test]
fn parts_read_as_one_file_from_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let single = dir.path().join("single.gguf");
    convert(&source(), &single, Dtype::F32, None);
    let single = GgufFile::open(&single, Load::Map).unwrap();
    let parts = parts(dir.path());
    assert!(parts.len() > 2, "{parts:?}");
    let n = parts.len();
    for (i, part) in parts.iter().enumerate() {
        let name = format!("m-{:05}-of-{n:05}.gguf", i + 1);
        assert_eq!(part, &dir.path().join(name));
        assert!(fs::metadata(part).unwrap().len() <= MAX);
        for load in [Load::Map, Load::Copy] {
            let file = GgufFile::open(part, load).unwrap();
            assert_eq!(file.parts().count(), n);
            assert_eq!(file.str("general.architecture").unwrap(), Some("llama"));
            assert!(file.tensors().count() == single.tensors().count());
            for (a, b) in file.tensors().zip(single.tensors()) {
                assert_eq!(a.info().name, b.info().name);
                assert!(a.bytes() == b.bytes(), "{}", a.info().name);
                let by_name = file.tensor(&a.info().name).unwrap();
                assert!(by_name.bytes() == b.bytes());
            }
        }
    }
    let checked = check_hashes(&parts[0]).unwrap();
    assert_eq!(checked.tensors, single.tensors().count());
    assert!(checked.damaged.is_empty());
}

#[test]
fn parts_are_a_source_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let single = dir.path().join("single.gguf");
    convert(&source(), &single, Dtype::F32, None);
    let parts = parts(dir.path());
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    convert(&single, &a, Dtype::Q8_0, None);
    convert(&parts[1], &b, Dtype::Q8_0, None);
    assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
    // None of the parts may be overwritten.
    for part in &parts {
        let options = Options::default();
        let error = convert::convert(&parts[0], part, &options, &mut ()).unwrap_err();
        assert!(matches!(error, Error::Request { .. }), "{error}");
    }
}

#[test]
fn a_set_that_is_not_whole_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let parts = parts(dir.path());
    let n = parts.len();

    let away = dir.path().join("away");
    fs::rename(&parts[1], &away).unwrap();
    for opened in [0, 2] {
        let text = refused(&parts[opened]);
        let named =
            text.contains("m-00002-of-") && text.contains(&format!("part 2 of {n} is missing"));
        assert!(named, "{text}");
    }
    fs::copy(&parts[2], &parts[1]).unwrap();
    let text = refused(&parts[0]);
    assert!(
        text.contains("split.no of") && text.contains("is 2, allowed: 1"),
        "{text}"
    );

    // The same part of another set, with the same shapes.
    let other = tempfile::tempdir().unwrap();
    let layout = convert::GebLayout {
        rope_half_split: false,
        ..Default::default()
    };
    let options = Options {
        policy: Dtype::F32.into(),
        split_max: Some(MAX),
        layout,
        ..Options::default()
    };
    let path = other.path().join("m.gguf");
    let others = convert::convert(&source(), &path, &options, &mut ())
        .unwrap()
        .files;
    assert_eq!(others.len(), n);
    fs::copy(&others[1], &parts[1]).unwrap();
    let text = refused(&parts[0]);
    assert!(text.contains("parts that were written together"), "{text}");

    fs::rename(&away, &parts[1]).unwrap();
    let odd = dir.path().join("odd.gguf");
    fs::copy(&parts[0], &odd).unwrap();
    let text = refused(&odd);
    assert!(
        text.contains("split.count") && text.contains("odd.gguf"),
        "{text}"
    );
    assert!(GgufFile::open(&parts[0], Load::Map).is_ok());
}

#[test]
fn a_limit_that_no_tensor_fits_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        split_max: Some(9000),
        ..Options::default()
    };
    let out = dir.path().join("m.gguf");
    let error = convert::convert(&source(), &out, &options, &mut ()).unwrap_err();
    assert!(
        error.to_string().starts_with("split_max is 9000 bytes"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
