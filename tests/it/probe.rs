//! The layout of GEB checkpoints: wrong ones show in the logits, and the probe finds the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::Dtype;
use geb::gguf::GgufFile;
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb_convert::probe::{ProbeOptions, probe};
use geb_convert::{GebLayout, Options, convert_to_vec};

fn root() -> PathBuf {
    PathBuf::from(crate::common::ROOT)
}

fn fixture(case: &str) -> PathBuf {
    root().join("tests/fixtures").join(case)
}

fn load(hf: &Path, layout: GebLayout) -> Arc<GgufFile> {
    let options = Options {
        policy: Dtype::F32.into(),
        layout,
        ..Options::default()
    };
    let (bytes, _) = convert_to_vec(hf, &options).unwrap();
    Arc::new(GgufFile::from_bytes(bytes).unwrap())
}

/// Tensors of an `expected.safetensors` as numbers.
fn expected(path: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let st = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = st
        .tensor("input_ids")
        .unwrap()
        .data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect();
    let logits = st
        .tensor("logits")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    (ids, logits)
}

/// Largest difference of the logits of all prompt tokens.
fn difference(file: Arc<GgufFile>, path: &Path) -> f32 {
    let (ids, want) = expected(path);
    let model = Model::load(file).unwrap();
    let mut session = Session::new(
        model,
        &SessionOptions {
            threads: 2,
            ..SessionOptions::default()
        },
    )
    .unwrap();
    let got = session.forward(&ids, Want::All).unwrap();
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(&want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn wrong_layouts_do_not() {
    for layout in GebLayout::all().filter(|l| *l != GebLayout::default()) {
        let dir = fixture("geb");
        let worst = difference(
            load(&dir.join("hf"), layout),
            &dir.join("expected.safetensors"),
        );
        assert!(worst > 1.0, "{layout:?}: {worst}");
    }
}

#[test]
fn the_probe_finds_the_layout_of_geb_nano() {
    let nano = root().join("assets/geb-nano");
    for (text, right, second) in [("eval-en.txt", 2.887, 3.760), ("eval-zh.txt", 3.992, 4.677)] {
        let text = std::fs::read_to_string(nano.join(text)).unwrap();
        let options = ProbeOptions {
            tokens: 200,
            threads: 2,
            prefixes: false,
        };
        let found = probe(&nano.join("hf"), &text, &options, &mut |_, _| true).unwrap();
        assert_eq!(found.rows.len(), 16);
        assert_eq!(found.rows[0].layout, GebLayout::default());
        // The values of the model card, computed with another implementation.
        assert!(
            (found.rows[0].nll[0] - right).abs() < 2e-3,
            "{}",
            found.rows[0].nll[0]
        );
        assert!(
            (found.rows[1].nll[0] - second).abs() < 2e-3,
            "{}",
            found.rows[1].nll[0]
        );
    }
}

#[test]
fn the_probe_can_be_stopped_and_refuses_known_families() {
    let nano = root().join("assets/geb-nano/hf");
    let stopped = probe(
        &nano,
        "In the beginning",
        &ProbeOptions::default(),
        &mut |done, _| done < 1,
    );
    assert!(matches!(stopped, Err(geb::Error::Interrupted)));
    let refused = probe(
        &fixture("llama").join("hf"),
        "text",
        &ProbeOptions::default(),
        &mut |_, _| true,
    );
    assert!(matches!(refused, Err(geb::Error::Request { .. })));
    let short = probe(&nano, "", &ProbeOptions::default(), &mut |_, _| true);
    assert!(matches!(short, Err(geb::Error::Request { .. })));
}
