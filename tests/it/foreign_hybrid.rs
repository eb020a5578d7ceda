//! Files that llama.cpp's converter has made of checkpoints whose layers keep a state or have attention.

use std::path::Path;
use std::sync::Arc;

use geb::gguf::writer::{MetaValue, Plan, PlannedTensor, write_to};
use geb::gguf::{GgufFile, Load, Value as GgufValue};
use geb::model::Model;
use geb::model::arch::MixerKind;
use geb::session::{Session, SessionOptions, Want};
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Error, Result};
use geb_convert::{Options, convert_to_vec};
use safetensors::SafeTensors;
use serde_json::Value;

const CASES: [&str; 4] = ["lfm2", "qwen35", "qwen35moe", "qwen3next"];

fn file(case: &str) -> Arc<GgufFile> {
    let path = Path::new(crate::common::ROOT).join("tests/fixtures-gguf");
    let path = path.join(case).with_extension("gguf");
    Arc::new(GgufFile::open(&path, Load::Copy).expect("a file of the repository"))
}

fn fixture(case: &str, name: &str) -> Vec<u8> {
    let path = Path::new(crate::common::ROOT).join("tests/fixtures");
    std::fs::read(path.join(case).join(name)).expect("a file of the repository")
}

/// Prompt and its logits.
fn expected(case: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = fixture(case, "expected.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = file.tensor("input_ids").expect("ids");
    let (ids, _) = view.data().as_chunks::<8>();
    let ids = ids.iter().map(|id| i64::from_le_bytes(*id) as u32);
    let view = file.tensor("logits").expect("logits");
    let (values, _) = view.data().as_chunks::<4>();
    let logits = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
    (ids.collect(), logits)
}

fn logits(model: Arc<Model>, ids: &[u32]) -> Vec<f32> {
    let mut session = Session::new(model, &SessionOptions::default()).expect("session");
    session.forward(ids, Want::All).expect("forward").to_vec()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(x, y)| (x - y).abs());
    each.fold(0.0, f32::max)
}

/// A value as text, whatever type its integers have.
fn values(value: GgufValue<'_>) -> Vec<String> {
    let one = |v: GgufValue<'_>| v.as_int().map_or(format!("{v:?}"), |n| n.to_string());
    match value {
        GgufValue::Array(array) => array.iter().map(one).collect(),
        value => vec![one(value)],
    }
}

/// What this converter writes is what llama.cpp's does: names, shapes, types and bytes, and the keys of the graph.
#[test]
fn the_converter_makes_the_same_file() {
    for case in CASES {
        let theirs = file(case);
        let folder = Path::new(crate::common::ROOT).join("tests/fixtures");
        let options = Options {
            policy: Dtype::BF16.into(),
            ..Options::default()
        };
        let folder = folder.join(case).join("hf");
        let (bytes, _) = convert_to_vec(&folder, &options).expect("converts");
        let ours = GgufFile::from_bytes(bytes).expect("reads back");
        assert_eq!(ours.tensors().count(), theirs.tensors().count(), "{case}");
        for want in theirs.tensors() {
            let name = &want.info().name;
            let found = ours.tensor(name).expect(name);
            assert_eq!(found.info().dims, want.info().dims, "{case}: {name}");
            assert_eq!(found.dtype(), want.dtype(), "{case}: {name}");
            // Exponentials may differ in the last bit.
            if !name.ends_with("ssm_a") {
                assert!(found.bytes() == want.bytes(), "{case}: {name}");
            }
        }
        let of_graph = format!("{case}.");
        for (key, want) in theirs.metadata().filter(|m| m.0.starts_with(&of_graph)) {
            let found = ours.get(key).map(values);
            assert_eq!(found, Some(values(want)), "{case}: {key}");
        }
    }
}

#[test]
fn layers_are_what_the_file_says() {
    let kinds = |case: &str| -> Vec<MixerKind> {
        let model = Model::load(file(case)).expect("loads");
        model.config().layers.iter().map(|l| l.mixer).collect()
    };
    let (conv, delta, full) = (
        MixerKind::ShortConv,
        MixerKind::DeltaNet,
        MixerKind::Attention,
    );
    assert_eq!(kinds("lfm2"), [conv, full, conv, conv]);
    assert_eq!(kinds("qwen35"), [delta, delta, delta, full]);
}

#[test]
fn texts_become_the_ids_of_the_reference() {
    for case in CASES {
        let tokenizer = Tokenizer::from_gguf(&file(case)).expect("tokenizer");
        let json: Value = serde_json::from_slice(&fixture(case, "expected.json")).expect("JSON");
        let cases = json["tokenizer_cases"].as_array().expect("cases");
        assert!(cases.len() > 5, "{case}");
        for one in cases {
            let text = one["text"].as_str().expect("a text");
            let want = one["ids"].as_array().expect("ids").iter();
            let want: Vec<u64> = want.map(|id| id.as_u64().expect("an id")).collect();
            let how = Encode {
                add_special: true,
                parse_special: true,
            };
            let ids = tokenizer.encode(text, how).expect("encodes").into_iter();
            let ids: Vec<u64> = ids.map(u64::from).collect();
            assert_eq!(ids, want, "{case}: {text:?}");
        }
    }
}

/// The file of a case with another number of blocks, so many of which guess further tokens, and the tensors of
/// the last block again under the number of a block more.
fn with_guesses(case: &str, blocks: u32, guesses: u32) -> Result<Arc<Model>> {
    let base = file(case);
    let mut plan = Plan::default();
    plan.copy_meta(&base, |_, _| true);
    plan.set_meta(&format!("{case}.block_count"), MetaValue::U32(blocks));
    let key = format!("{case}.nextn_predict_layers");
    plan.set_meta(&key, MetaValue::U32(guesses));
    let last = base
        .tensors()
        .filter(|t| t.info().name.starts_with("blk.3."));
    let more = last.map(|t| (t.info().name.replace("blk.3.", "blk.4."), t));
    let all = base.tensors().map(|t| (t.info().name.clone(), t));
    let all: Vec<_> = all.chain(more).collect();
    let planned = all.iter().map(|(name, t)| PlannedTensor {
        name: name.clone(),
        dtype: t.info().dtype,
        dims: t.info().dims.clone(),
    });
    plan.tensors = planned.collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, &plan, &mut |i, out| {
        out.write_all(all[i].1.bytes()).map_err(Error::io("memory"))
    })?;
    Model::load(Arc::new(GgufFile::from_bytes(bytes)?))
}

#[test]
fn blocks_that_guess_are_counted_and_not_run() {
    let (ids, want) = expected("qwen35");
    let model = with_guesses("qwen35", 5, 1).expect("loads");
    assert_eq!(
        (model.config().block_count, model.config().nextn_blocks),
        (4, 1)
    );
    assert!(worst(&logits(model, &ids), &want) < 2e-3);
    for (blocks, guesses) in [(4, 0), (5, 0), (5, 5), (5, 6)] {
        let refused = with_guesses("qwen35", blocks, guesses).map(|_| ());
        let named = matches!(refused, Err(Error::Key { .. } | Error::Tensors(_)));
        assert!(named, "{blocks} {guesses}: {refused:?}");
    }
}
