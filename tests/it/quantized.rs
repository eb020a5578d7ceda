//! Quantized checkpoints as source: logits of whole models against the reference library on the
//! decoded weights; what a conversion says and writes. Values of every method: `tools/convert/src/dequant/tests.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geb::gguf::GgufFile;
use geb::model::Model;
use geb::session::{Session, SessionOptions, Want};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};
use safetensors::SafeTensors;

/// A method's fixture, the one it was made from, and what it is called.
const CASES: [(&str, &str, &str); 6] = [
    ("awq", "llama", "awq"),
    ("gptq", "llama", "gptq"),
    ("bnb-nf4", "llama", "bitsandbytes"),
    ("ct-int4-pack", "llama", "compressed-tensors"),
    ("nvfp4-modelopt", "llama", "modelopt"),
    ("fp8-block", "qwen3", "fp8"),
];

fn fixtures() -> PathBuf {
    Path::new(crate::common::ROOT).join("tests/fixtures")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a file of the repository")
}

/// The whole checkpoint: quantized matrices in one shard, what its base has besides in another.
fn folder(case: &str, base: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (own, base) = (
        fixtures().join("quantized-models").join(case),
        fixtures().join(base).join("hf"),
    );
    for entry in std::fs::read_dir(&base).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        if name != "model.safetensors" {
            std::fs::write(dir.path().join(name), read(&path)).expect("copy");
        }
    }
    std::fs::write(
        dir.path().join("config.json"),
        read(&own.join("config.json")),
    )
    .expect("copy");
    let (all, quantized) = (
        read(&base.join("model.safetensors")),
        read(&own.join("quantized.safetensors")),
    );
    let all = SafeTensors::deserialize(&all).expect("safetensors");
    let parts = SafeTensors::deserialize(&quantized).expect("safetensors");
    let held = |stem: &str| parts.names().iter().any(|n| n.starts_with(stem));
    let plain = all
        .tensors()
        .into_iter()
        .filter(|(name, _)| !held(name.trim_end_matches("weight")));
    let plain: Vec<_> = plain.collect();
    let mut map = serde_json::Map::new();
    let names = plain.iter().map(|p| (p.0.as_str(), "a.safetensors"));
    for (name, file) in names.chain(parts.names().into_iter().map(|n| (n, "b.safetensors"))) {
        map.insert(name.to_owned(), file.into());
    }
    let plain = safetensors::serialize(plain, None).expect("serialize");
    std::fs::write(dir.path().join("a.safetensors"), plain).expect("write");
    std::fs::write(dir.path().join("b.safetensors"), &quantized).expect("write");
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).expect("write");
    dir
}

fn options(dtype: Dtype) -> Options {
    Options {
        policy: dtype.into(),
        threads: Some(2),
        ..Options::default()
    }
}

#[test]
fn logits_equal_those_of_the_decoded_weights() {
    for (case, base, method) in CASES {
        let dir = folder(case, base);
        let (bytes, report) =
            convert::convert_to_vec(dir.path(), &options(Dtype::F32)).expect(case);
        let file = GgufFile::from_bytes(bytes).expect("what was written reads back");
        assert_eq!(
            file.str("geb.source.quantization").expect("a string"),
            Some(method)
        );
        let note = report.notes.iter().find(|n| n.contains("decoded to F32"));
        assert!(
            note.is_some_and(|n| n.contains(method)),
            "{case}: {:?}",
            report.notes
        );
        let model = Model::load(Arc::new(file)).expect(case);
        let mut session = Session::new(model, &SessionOptions::default()).expect("session");
        let expected = read(
            &fixtures()
                .join("quantized-models")
                .join(case)
                .join("expected.safetensors"),
        );
        let expected = SafeTensors::deserialize(&expected).expect("safetensors");
        let ids = expected.tensor("input_ids").expect("ids");
        let ids = ids
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b) as u32);
        let ids: Vec<u32> = ids.collect();
        let logits = session.forward(&ids, Want::Last).expect("logits");
        let want = expected.tensor("logits").expect("logits");
        let want = want
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        let worst = logits
            .iter()
            .zip(want)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        println!("{case}: {worst:e}");
        assert!(worst < 1e-4, "{case}: {worst}");
    }
}

/// Sizes are those of the source, the bytes do not depend on threads, quantizing again needs no permission.
#[test]
fn a_conversion_says_what_it_reads_and_writes() {
    for (case, base, _) in CASES {
        let dir = folder(case, base);
        let weights = |name| {
            std::fs::metadata(dir.path().join(name))
                .expect("a file")
                .len()
        };
        let files = weights("a.safetensors") + weights("b.safetensors");
        let planned = convert::dry_run(dir.path(), &options(Dtype::Q8_0)).expect(case);
        let share = planned.source_bytes as f64 / files as f64;
        assert!((0.8..=1.0).contains(&share), "{case}: {share}");
        let (one, report) = convert::convert_to_vec(dir.path(), &options(Dtype::Q8_0)).expect(case);
        assert_eq!(report.source_bytes, planned.source_bytes, "{case}");
        let alone = Options {
            threads: Some(1),
            ..options(Dtype::Q8_0)
        };
        let (other, _) = convert::convert_to_vec(dir.path(), &alone).expect(case);
        assert!(one == other, "{case}");
    }
}

#[test]
fn another_method_is_refused_by_its_name() {
    let dir = folder("gptq", "llama");
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&read(&path)).expect("JSON");
    config["quantization_config"]["quant_method"] = "vptq".into();
    std::fs::write(&path, config.to_string()).expect("write");
    let error = convert::dry_run(dir.path(), &options(Dtype::F32)).expect_err("refused");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("quantized checkpoint: method vptq") && !text.contains('\n'),
        "{text}"
    );
    config
        .as_object_mut()
        .expect("an object")
        .remove("quantization_config");
    std::fs::write(&path, config.to_string()).expect("write");
    let error = convert::dry_run(dir.path(), &options(Dtype::F32)).expect_err("refused");
    assert!(
        error.to_string().contains("quantization_config is absent"),
        "{error}"
    );
}
