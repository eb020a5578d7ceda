//! PyPI `gguf` as a witness of the converter: it reads every file we make, and its own
//! quantizers give the same bytes.
//!
//! `GEB_PYTHON` names an interpreter that has `gguf` (otherwise `python3` is tried); without one they are ignored.

use std::path::PathBuf;
use std::process::Command;

use crate::common::{ROOT, needs};
use geb::Dtype;
use geb_convert::policy::Policy;
use geb_convert::{GebLayout, Options, convert};
use libtest_mimic::Trial;
use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pypi/check_quants.py");
const TYPES: &[Dtype] = &[
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::Q8_0,
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
];

pub fn trials() -> Vec<Trial> {
    needs::trials(vec![(
        "bytes_equal_the_quantizers_of_pypi_gguf",
        bytes_equal_the_quantizers_of_pypi_gguf as fn(),
        needs::no_gguf(),
    )])
}

fn bytes_equal_the_quantizers_of_pypi_gguf() {
    let python = needs::python();
    let root = PathBuf::from(ROOT);
    let dir = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for case in [
        "geb-nano",
        "llama",
        "llama-tied-bf16",
        "llama3",
        "llama-bin",
        "mistral-swa",
        "geb",
        "geb-alt",
    ] {
        let hf = match case {
            "geb-nano" => root.join("assets/geb-nano/hf"),
            _ => root.join("tests/fixtures").join(case).join("hf"),
        };
        let layout = match case {
            "geb-alt" => GebLayout {
                kv_interleaved: false,
                rope_full: false,
                rope_half_split: false,
                gate_first: false,
            },
            _ => GebLayout::default(),
        };
        let mut command = Command::new(&python);
        command.arg(SCRIPT);
        for &dtype in TYPES {
            let path = dir.path().join(format!("{case}-{dtype}.gguf"));
            convert(
                &hf,
                &path,
                &Options {
                    policy: Policy {
                        pure: true,
                        ..dtype.into()
                    },
                    layout,
                    ..Options::default()
                },
                &mut (),
            )
            .unwrap();
            if dtype == Dtype::F32 {
                command.arg(&path);
            }
            command.arg(&path);
        }
        let out = command.output().unwrap();
        assert!(
            out.status.success(),
            "{case}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        for line in String::from_utf8(out.stdout).unwrap().lines() {
            let seen: Value = serde_json::from_str(line).unwrap();
            assert_eq!(seen["different"], Value::Array(vec![]), "{}", seen["file"]);
            assert!(seen["tokens"].as_u64().unwrap() > 400);
            compared += 1;
        }
    }
    assert_eq!(compared, 8 * TYPES.len());
    println!("{compared} files: same bytes as PyPI gguf");
}
