//! PyPI `gguf` as a witness: it reads what we write and what we accept, we read what it
//! writes, and both see the same keys, values, names, types, shapes, offsets and sizes.
//!
//! `GEB_PYTHON` names an interpreter that has `gguf` (otherwise `python3` is tried); without one they are ignored.
//! `GEB_WITNESS` sets the number of accepted mutants (500 by default).

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::gguf::File;
use crate::common::mutate::mutant;
use crate::common::needs;
use geb::gguf::writer::{MetaValue, Plan, write_file};
use geb::gguf::{GgufFile, Load, Value, ValueType};
use geb::{Dtype, Error};
use libtest_mimic::Trial;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pypi/check_gguf.py");

pub fn trials() -> Vec<Trial> {
    needs::trials(vec![
        (
            "reads_what_we_write",
            reads_what_we_write as fn(),
            needs::no_gguf(),
        ),
        (
            "we_read_what_it_writes",
            we_read_what_it_writes as fn(),
            needs::no_gguf(),
        ),
        (
            "reads_the_mutants_we_accept",
            reads_the_mutants_we_accept as fn(),
            needs::no_gguf(),
        ),
    ])
}

/// Runs the script; the answer for each file, by name.
fn run(python: &str, command: &str, folder: &Path) -> HashMap<String, Json> {
    let out = Command::new(python)
        .args([SCRIPT, command])
        .arg(folder)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let lines = String::from_utf8(out.stdout).unwrap();
    let parsed = lines
        .lines()
        .map(|l| serde_json::from_str::<Json>(l).unwrap());
    parsed
        .map(|j| (j["file"].as_str().unwrap().to_owned(), j))
        .collect()
}

fn text(value: Value<'_>) -> String {
    match value {
        Value::F32(v) if v.is_nan() => "nan".into(),
        Value::F64(v) if v.is_nan() => "nan".into(),
        Value::F32(v) => format!("{:016x}", f64::from(v).to_bits()),
        Value::F64(v) => format!("{:016x}", v.to_bits()),
        Value::Str(v) => v.into(),
        Value::Bool(v) => v.to_string(),
        v => v.as_int().unwrap().to_string(),
    }
}

fn digest(values: impl Iterator<Item = String>) -> String {
    let joined = values.collect::<Vec<_>>().join("\x1f");
    Sha256::digest(joined)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Our view in the form of the script.
fn ours(file: &GgufFile) -> Json {
    let key = |(name, value): (&str, Value<'_>)| match value {
        Value::Array(a) => {
            let elem = (a.len > 0).then_some(a.elem as u32);
            json!([
                name,
                ValueType::Array as u32,
                elem,
                a.len,
                digest(a.iter().map(text))
            ])
        }
        v => json!([
            name,
            v.ty() as u32,
            null,
            1,
            digest(std::iter::once(text(v)))
        ]),
    };
    let tensor = |t: geb::gguf::TensorView<'_>| {
        let i = t.info();
        json!([i.name, i.dtype.id(), i.dims, i.range.start, t.bytes().len()])
    };
    json!({
        "keys": file.metadata().map(key).collect::<Vec<_>>(),
        "tensors": file.tensors().map(tensor).collect::<Vec<_>>(),
        "alignment": file.index().alignment,
    })
}

/// What PyPI `gguf` 0.19 gets wrong or does not know.
fn known_difference(file: &GgufFile) -> Option<&'static str> {
    let has = |d: Dtype| file.tensors().any(|t| t.dtype() == d);
    if has(Dtype::Q8_1) {
        return Some("takes a Q8_1 block for 40 bytes");
    }
    has(Dtype::Q2_0).then_some("does not know Q2_0")
}

fn assert_same(theirs: &Json, file: &GgufFile, what: &str) {
    if known_difference(file).is_some() {
        return;
    }
    assert!(
        theirs.get("error").is_none(),
        "{what}: PyPI gguf refused: {}",
        theirs["error"]
    );
    let ours = ours(file);
    for part in ["keys", "tensors", "alignment"] {
        assert_eq!(theirs[part], ours[part], "{what}: {part}");
    }
}

fn reads_what_we_write() {
    let python = needs::python();
    let dir = tempfile::tempdir().unwrap();
    for &dtype in Dtype::ALL {
        let mut plan = Plan::default();
        plan.push_meta("general.architecture", "test")
            .push_meta("general.alignment", 64u32);
        plan.push_meta("f32", -0.0f32)
            .push_meta("f64", f64::MIN_POSITIVE)
            .push_meta("nan", f32::NAN);
        plan.push_meta("u64s", vec![0, u64::MAX])
            .push_meta("bools", vec![true, false])
            .push_meta("i8", -1i8);
        plan.push_meta("none", MetaValue::Strs(vec![]))
            .push_meta("text", "\u{1f600}\n\0");
        plan.push_tensor("a", dtype, [2 * dtype.block_len() as u64, 3, 2])
            .push_tensor("b", Dtype::F32, [7]);
        let layout = plan.layout().unwrap();
        let path = dir.path().join(format!("{dtype}.gguf"));
        write_file(&path, &plan, &mut |i, w| {
            let len = layout.tensors[i].end - layout.tensors[i].start;
            w.write_all(&vec![0; len as usize])
                .map_err(Error::io("memory"))
        })
        .unwrap();
    }
    let seen = run(&python, "read", dir.path());
    assert_eq!(seen.len(), Dtype::ALL.len());
    for (name, theirs) in seen {
        assert_same(
            &theirs,
            &GgufFile::open(&dir.path().join(&name), Load::Map).unwrap(),
            &name,
        );
    }
}

/// 262,144 tokens, 600,000 merges, a template of 30 KB, every key and tensor type it can make.
fn we_read_what_it_writes() {
    let python = needs::python();
    let dir = tempfile::tempdir().unwrap();
    let seen = run(&python, "write", dir.path());
    assert_eq!(seen.len(), 3);
    for (name, theirs) in &seen {
        let start = std::time::Instant::now();
        let file = GgufFile::open(&dir.path().join(name), Load::Map).unwrap();
        println!("{name}: opened in {:.1?}", start.elapsed());
        assert!(
            file.index().warnings.is_empty(),
            "{:?}",
            file.index().warnings
        );
        let Some(arrays) = theirs.get("arrays") else {
            assert_same(theirs, &file, name);
            continue;
        };
        for (key, sum) in arrays.as_object().unwrap() {
            let Some(Value::Array(a)) = file.get(&format!("tokenizer.ggml.{key}")) else {
                panic!("{key}")
            };
            assert_eq!(&digest(a.iter().map(text)), sum.as_str().unwrap(), "{key}");
        }
    }
    let file = GgufFile::open(&dir.path().join("vocabulary.gguf"), Load::Map).unwrap();
    let len = |key| file.array(key, ValueType::Str).unwrap().unwrap().len;
    assert_eq!(
        (len("tokenizer.ggml.tokens"), len("tokenizer.ggml.merges")),
        (262_144, 600_000)
    );
    assert!(file.str("tokenizer.chat_template").unwrap().unwrap().len() > 30_000);
}

fn reads_the_mutants_we_accept() {
    let python = needs::python();
    let wanted: usize =
        std::env::var("GEB_WITNESS").map_or(500, |v| v.parse().expect("GEB_WITNESS is a number"));
    let base = File::sample();
    let dir = tempfile::tempdir().unwrap();
    let (mut accepted, mut known) = (0, 0);
    for seed in 0.. {
        if accepted == wanted {
            break;
        }
        let bytes = mutant(&base, seed);
        let Ok(file) = GgufFile::from_bytes(bytes.clone()) else {
            continue;
        };
        accepted += 1;
        known += usize::from(known_difference(&file).is_some());
        fs::write(dir.path().join(format!("{seed}.gguf")), bytes).unwrap();
    }
    let seen = run(&python, "read", dir.path());
    assert_eq!(seen.len(), wanted);
    for (name, theirs) in seen {
        let file = GgufFile::open(&dir.path().join(&name), Load::Copy).unwrap();
        assert_same(&theirs, &file, &name);
    }
    println!("{accepted} accepted mutants, {known} with types that PyPI gguf reads wrongly");
    assert!(known * 10 < accepted);
}
