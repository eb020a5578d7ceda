//! Checkpoint folders: headers, configurations and tokenizers with something changed.

use std::path::Path;
use std::sync::Arc;

use geb::gguf::GgufFile;
use geb::model::Model;
use geb_convert::{self as convert, Options};
use serde_json::Value as Json;

use super::carry::{At, Reached, TARGETS, both_ways, count, one_token, run_seeds, step};
use super::mutant::{FLOATS, NUMBERS, TEXTS};
use crate::common::mutate::Rng;

/// Changes something somewhere in a JSON value.
fn change_json(value: &mut Json, rng: &mut Rng) {
    let deeper = rng.below(8) > 0;
    match value {
        Json::Object(map) if deeper && !map.is_empty() => {
            let at = rng.below(map.len());
            let key = map.keys().nth(at).cloned().unwrap_or_default();
            match rng.below(16) {
                0 => _ = map.remove(&key),
                1 => {
                    let value = map.get(&key).cloned().unwrap_or_default();
                    map.insert(rng.pick(TEXTS).to_owned(), value);
                }
                _ => map.values_mut().nth(at).map_or((), |v| change_json(v, rng)),
            }
        }
        Json::Array(list) if deeper && !list.is_empty() => {
            let at = rng.below(list.len());
            match rng.below(12) {
                0 => _ = list.remove(at),
                1 => list.push(list[at].clone()),
                2 => list.reverse(),
                3 => list.clear(),
                _ => change_json(&mut list[at], rng),
            }
        }
        _ => {
            *value = match rng.below(9) {
                0..3 => {
                    let n = rng.pick(NUMBERS);
                    let n = u64::try_from(n).map(Json::from);
                    n.unwrap_or_else(|_| Json::from(-1i64))
                }
                3 => Json::from(f64::from(rng.pick(FLOATS))),
                4 => Json::from(rng.pick(TEXTS)),
                5 => Json::Null,
                6 => Json::from(rng.below(2) == 0),
                7 => Json::from(vec![1, 0, 1 << 30]),
                _ => serde_json::json!({ "type": "yarn", "factor": -1.0 }),
            }
        }
    }
}

/// A file of a checkpoint with something in its JSON changed.
fn folder_mutant(from: &Path, seed: u64) -> (String, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let files = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ];
    let files: Vec<&str> = files
        .into_iter()
        .filter(|f| from.join(f).exists())
        .collect();
    let name = rng.pick(&files);
    let bytes = std::fs::read(from.join(name)).expect("a fixture");
    let (json, rest) = match name.ends_with(".safetensors") {
        true => {
            let n = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
            (&bytes[8..8 + n], &bytes[8 + n..])
        }
        false => (&bytes[..], &bytes[..0]),
    };
    let mut value: Json = serde_json::from_slice(json).expect("JSON");
    for _ in 0..1 + rng.below(2) {
        change_json(&mut value, &mut rng);
    }
    let text = value.to_string();
    let out = match name.ends_with(".safetensors") {
        true => [
            &(text.len() as u64).to_le_bytes()[..],
            text.as_bytes(),
            rest,
        ]
        .concat(),
        false => text.into_bytes(),
    };
    (name.to_owned(), out)
}

#[test]
fn folders() {
    let cases = [
        "llama",
        "llama3",
        "qwen2",
        "gemma3",
        "gpt2",
        "mixtral",
        "rwkv7",
        "olmo",
        "t5",
        "phi3-longrope",
    ];
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let source = |seed: u64| root.join(cases[seed as usize % cases.len()]).join("hf");
    let one = |seed: u64, path: &Path, at: &At, r: &mut Reached| {
        let from = source(seed);
        let (name, bytes) = folder_mutant(&from, seed);
        let folder = path.with_extension("hf");
        _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).expect("a folder");
        for entry in std::fs::read_dir(&from).expect("a fixture") {
            let entry = entry.expect("an entry");
            let to = folder.join(entry.file_name());
            match entry.file_name() == *name {
                true => std::fs::write(to, &bytes).expect("a file"),
                false => _ = std::fs::copy(entry.path(), to).expect("a file"),
            }
        }
        let options = Options {
            policy: TARGETS[seed as usize / 7 % TARGETS.len()].into(),
            threads: Some(1),
            ..Options::default()
        };
        let dry = step(at, r, "plan", || convert::dry_run(&folder, &options));
        if dry.is_some() && seed.is_multiple_of(3) {
            let made = step(at, r, "convert", || {
                convert::convert_to_vec(&folder, &options)
            });
            if let Some((made, _)) = made {
                let file = GgufFile::from_bytes(made).expect("our own file");
                let model = step(at, r, "bind", || Model::load(Arc::new(file)));
                model.map(|m| step(at, r, "token", || one_token(&m, None, &[])));
            }
        }
    };
    let describe = |seed: u64| {
        let (from, (name, bytes)) = (source(seed), folder_mutant(&source(seed), seed));
        let old = std::fs::read(from.join(&name)).expect("a fixture");
        let at = old.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
        format!("seed {seed}: {}: {name} from byte {at} on", from.display())
    };
    let count = count() / 100;
    let reached = run_seeds("folders", count, &describe, &one);
    both_ways(&reached, "plan", count);
}
