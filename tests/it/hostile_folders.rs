//! Checkpoint folders whose JSON or tokenizer is made to break the converter: each is refused
//! with the error that names what is wrong with it.

use std::path::{Path, PathBuf};

use geb::{Dtype, Error};
use geb_convert::{Options, dry_run};
use serde_json::{Value, json};

/// `field` and `value` of an [`Error::Checkpoint`] that contain these texts.
fn refused<T>(case: &str, result: Result<T, Error>, want_field: &str, want_value: &str) {
    match result {
        Err(Error::Checkpoint { field, value, .. }) => {
            assert!(
                field.contains(want_field),
                "{case}: field {field:?}, expected {want_field:?} ({value})"
            );
            assert!(
                value.contains(want_value),
                "{case}: value {value:?}, expected {want_value:?}"
            );
        }
        Err(other) => panic!("{case}: another error: {other}"),
        Ok(_) => panic!("{case}: accepted"),
    }
}

fn fixture(case: &str) -> PathBuf {
    PathBuf::from(crate::common::ROOT)
        .join("tests/fixtures")
        .join(case)
        .join("hf")
}

/// A copy of a fixture in which `change` edits one JSON file.
fn folder(case: &str, file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(case)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join(file);
    let mut value =
        std::fs::read_to_string(&path).map_or(json!({}), |t| serde_json::from_str(&t).unwrap());
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
    dir
}

fn run(dir: &Path) -> Result<(), Error> {
    dry_run(
        dir,
        &Options {
            policy: Dtype::F32.into(),
            ..Options::default()
        },
    )
    .map(drop)
}

#[test]
fn configurations() {
    let set =
        |key: &'static str, value: Value| folder("llama", "config.json", move |c| c[key] = value);
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("num_hidden_layers", json!(0), "num_hidden_layers", "0"),
        (
            "num_hidden_layers",
            json!(100000),
            "num_hidden_layers",
            "100000",
        ),
        ("num_hidden_layers", json!(-3), "num_hidden_layers", "-3"),
        (
            "num_hidden_layers",
            json!("3"),
            "num_hidden_layers",
            "\"3\"",
        ),
        ("num_attention_heads", json!(0), "num_attention_heads", "0"),
        ("num_key_value_heads", json!(3), "num_key_value_heads", "3"),
        ("num_key_value_heads", json!(0), "num_key_value_heads", "0"),
        ("hidden_size", json!(1e300), "hidden_size", "e"),
        ("hidden_size", json!(null), "hidden_size", "absent"),
        ("head_dim", json!(15), "head_dim", "15"),
        ("head_dim", json!(4098), "head_dim", "4098"),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps", "-1"),
        ("rope_theta", json!(0), "rope_theta", "0"),
        (
            "vocab_size",
            json!(u64::MAX),
            "vocab_size",
            "18446744073709551615",
        ),
        (
            "max_position_embeddings",
            json!(0),
            "max_position_embeddings",
            "0",
        ),
        (
            "tie_word_embeddings",
            json!("no"),
            "tie_word_embeddings",
            "no",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear"}),
            "rope_scaling.factor",
            "absent",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 0}),
            "factor",
            "0",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 32}),
            "low_freq_factor",
            "4",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "longrope", "original_max_position_embeddings": 32, "long_factor": [1.5, "x"]}),
            "long_factor",
            "longrope",
        ),
        (
            "partial_rotary_factor",
            json!(0.1),
            "partial_rotary_factor",
            "0.1",
        ),
    ];
    for (key, value, field, shown) in cases {
        let case = format!("{key} = {value}");
        refused(&case, run(set(key, value).path()), field, shown);
    }
    let unsupported = [
        ("architectures", json!(["GPTJForCausalLM"]), "architecture"),
        ("hidden_act", json!("gelu"), "activation"),
        (
            "rope_scaling",
            json!({"rope_type": "dynamic"}),
            "rope scaling",
        ),
    ];
    for (key, value, what) in unsupported {
        match run(set(key, value).path()) {
            Err(Error::Unsupported { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{key}: {other:?}"),
        }
    }
    for (key, value) in [
        ("num_hidden_layers", 4),
        ("intermediate_size", 161),
        ("hidden_size", 128),
        ("num_hidden_layers", 2),
    ] {
        match run(set(key, json!(value)).path()) {
            Err(Error::Tensors(list)) => assert!(!list.is_empty() && list.len() <= 21),
            other => panic!("{key} = {value}: {other:?}"),
        }
    }
}

/// A special id that is no token is left out with a note; the file is that of a folder without it.
#[test]
fn special_ids_that_nobody_needs() {
    let special = |bytes: Vec<u8>| {
        let file = geb::gguf::GgufFile::from_bytes(bytes).expect("a valid file");
        let ids: Vec<String> = file
            .metadata()
            .filter(|(key, _)| key.contains("token_id"))
            .map(|(key, value)| format!("{key} {value:?}"))
            .collect();
        ids
    };
    let convert = |path: &std::path::Path| {
        geb_convert::convert_to_vec(path, &geb_convert::Options::default()).expect("converts")
    };
    let right = folder("llama", "config.json", |_| {});
    let right = special(convert(right.path()).0);
    for key in [
        "pad_token_id",
        "sep_token_id",
        "mask_token_id",
        "unk_token_id",
        "eos_token_id",
        "bos_token_id",
    ] {
        for value in [
            json!(578),
            json!(99_999),
            json!(4_294_967_295u64),
            json!(-2),
            json!(1.5),
            json!("x"),
            json!(true),
        ] {
            let folder = folder("llama", "config.json", |c| c[key] = value.clone());
            let (bytes, report) = convert(folder.path());
            assert_eq!(special(bytes), right, "{key} = {value}");
            let notes = format!("{:?}", report.notes);
            let shown = value.to_string().replace('"', "\\\"");
            assert!(
                notes.contains(key) && notes.contains(&shown),
                "{key} = {value}: {notes}"
            );
        }
        let folder = folder("llama", "config.json", |c| c[key] = json!(-1));
        let (bytes, report) = convert(folder.path());
        assert_eq!(special(bytes), right, "{key}");
        assert!(
            !format!("{:?}", report.notes).contains(key),
            "-1 means none"
        );
    }
}

#[test]
fn shard_indices() {
    const INDEX: &str = "model.safetensors.index.json";
    let set = |change: fn(&mut Value)| folder("llama-tied-bf16", INDEX, change);
    let name = "model.norm.weight";
    let cases: Vec<(&str, tempfile::TempDir, &str, &str)> = vec![
        ("no map", set(|i| *i = json!({})), "weight_map", "absent"),
        (
            "map is a list",
            set(|i| i["weight_map"] = json!([1])),
            "weight_map",
            "an array",
        ),
        (
            "parent folder",
            set(|i| i["weight_map"]["model.norm.weight"] = json!("../m.safetensors")),
            name,
            "../m.safetensors",
        ),
        (
            "absolute path",
            set(|i| i["weight_map"]["model.norm.weight"] = json!("/etc/m.safetensors")),
            name,
            "/etc",
        ),
        (
            "backslash",
            set(|i| i["weight_map"]["model.norm.weight"] = json!("a\\m.safetensors")),
            name,
            "m.safetensors",
        ),
        (
            "other file type",
            set(|i| i["weight_map"]["model.norm.weight"] = json!("config.json")),
            name,
            "config.json",
        ),
        (
            "number",
            set(|i| i["weight_map"]["model.norm.weight"] = json!(1)),
            name,
            "1",
        ),
        (
            "missing shard",
            set(|i| i["weight_map"]["model.norm.weight"] = json!("m.safetensors")),
            "weight_map",
            "not in the folder",
        ),
        (
            "wrong shard",
            set(|i| {
                i["weight_map"]["model.norm.weight"] = json!("model-00001-of-00002.safetensors")
            }),
            name,
            "00001",
        ),
        (
            "tensor in no shard",
            set(|i| i["weight_map"]["ghost.weight"] = json!("model-00001-of-00002.safetensors")),
            "ghost.weight",
            "00001",
        ),
    ];
    for (case, dir, field, value) in &cases {
        refused(case, run(dir.path()), field, value);
    }
}

#[test]
fn tokenizer_files() {
    let set = |case: &str, file: &str, change: fn(&mut Value)| folder(case, file, change);
    const T: &str = "tokenizer.json";
    const C: &str = "tokenizer_config.json";
    let cases: Vec<(&str, tempfile::TempDir, &str, &str)> = vec![
        (
            "no model",
            set("llama3", T, |t| t["model"] = json!(null)),
            "model",
            "absent",
        ),
        (
            "vocabulary is a list",
            set("llama3", T, |t| t["model"]["vocab"] = json!([1])),
            "model.vocab",
            "an array",
        ),
        (
            "id of 2^40",
            set("llama3", T, |t| {
                t["model"]["vocab"]["zz"] = json!(1u64 << 40)
            }),
            "zz",
            "1099511627776",
        ),
        (
            "negative id",
            set("llama3", T, |t| t["model"]["vocab"]["zz"] = json!(-1)),
            "zz",
            "-1",
        ),
        (
            "id twice",
            set("llama3", T, |t| t["model"]["vocab"]["zz"] = json!(5)),
            "model.vocab",
            "5",
        ),
        (
            "merges are missing",
            set("llama3", T, |t| t["model"]["merges"] = json!(null)),
            "model.merges",
            "null",
        ),
        (
            "merge of three",
            set("llama3", T, |t| {
                t["model"]["merges"][0] = json!(["a", "b", "c"])
            }),
            "model.merges[0]",
            "a",
        ),
        (
            "merge of unknown tokens",
            set("llama3", T, |t| {
                t["model"]["merges"][0] = json!(["qq", "qq"])
            }),
            "model.merges[0]",
            "not a token",
        ),
        (
            "added token without id",
            set("llama3", T, |t| t["added_tokens"][0]["id"] = json!(null)),
            "added_tokens[0].id",
            "null",
        ),
        (
            "added token without text",
            set("llama3", T, |t| t["added_tokens"][0]["content"] = json!(7)),
            "added_tokens[0]",
            "7",
        ),
        (
            "text twice",
            set("llama3", C, |c| {
                c["added_tokens_decoder"]["444"]["content"] = json!("he")
            }),
            "token",
            "also token",
        ),
        (
            "added_tokens_decoder is a list",
            set("llama", C, |c| c["added_tokens_decoder"] = json!([])),
            "added_tokens_decoder",
            "an array",
        ),
        (
            "added id is a word",
            set("llama", C, |c| {
                c["added_tokens_decoder"]["x"] = json!({"content": "y"})
            }),
            "added_tokens_decoder.x",
            "not a number",
        ),
        (
            "added content is missing",
            set("llama", C, |c| c["added_tokens_decoder"]["5"] = json!({})),
            "added_tokens_decoder.5",
            "{}",
        ),
        (
            "add_bos_token is a word",
            set("llama", C, |c| c["add_bos_token"] = json!("yes")),
            "add_bos_token",
            "yes",
        ),
        (
            "template is a number",
            set("llama", C, |c| c["chat_template"] = json!(7)),
            "chat_template",
            "a number",
        ),
        (
            "template without a name",
            set("llama", C, |c| {
                c["chat_template"] = json!([{"template": "x"}])
            }),
            "chat_template",
            "template",
        ),
        (
            "template too long",
            set("llama", C, |c| {
                c["chat_template"] = json!("x".repeat(300_000))
            }),
            "chat_template",
            "300000 bytes",
        ),
    ];
    for (case, dir, field, value) in &cases {
        refused(case, run(dir.path()), field, value);
    }
    let unsupported = [
        (
            set("llama3", T, |t| t["model"]["type"] = json!("WordPiece")),
            "tokenizer model",
        ),
        (
            set("llama3", T, |t| {
                t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(a+)+$")
            }),
            "pre-tokenizer",
        ),
        (
            set(
                "llama3",
                T,
                |t| {
                    t["normalizer"] =
                        json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""})
                },
            ),
            "normalizer",
        ),
        (
            set("llama-bin", T, |t| {
                t["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}})
            }),
            "pre-tokenizer",
        ),
    ];
    for (dir, what) in &unsupported {
        match run(dir.path()) {
            Err(Error::Unsupported { what: found, .. }) => assert_eq!(found, *what),
            other => panic!("{what}: {other:?}"),
        }
    }
    // A merge order that the SentencePiece algorithm cannot follow is kept beside the scores.
    let dir = set("llama-bin", T, |t| {
        t["model"]["merges"].as_array_mut().unwrap().truncate(3);
    });
    run(dir.path()).expect("converts");
    let dir = folder("llama", "config.json", |_| {});
    std::fs::write(dir.path().join("tokenizer.model"), b"\xff\xff\xff\xff").unwrap();
    refused("SentencePiece garbage", run(dir.path()), "protobuf", "");
    std::fs::write(dir.path().join("tokenizer.model"), b"").unwrap();
    refused(
        "SentencePiece without pieces",
        run(dir.path()),
        "pieces",
        "0",
    );
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    refused("no tokenizer", run(dir.path()), "tokenizer", "absent");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    refused("no weights", run(dir.path()), "weights", "absent");
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    refused("no configuration", run(dir.path()), "file", "absent");
}

/// Links in a folder: those that stay in it or lead to the blobs of its Hugging Face cache are
/// followed, others are refused by the name of the file.
#[cfg(unix)]
mod links {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// The fixture as a cache keeps it: `blobs`, and a snapshot of links.
    fn cache(root: &Path) -> PathBuf {
        let (blobs, snapshot) = (root.join("blobs"), root.join("snapshots/0a1b"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        for (i, entry) in fs::read_dir(fixture("llama")).unwrap().enumerate() {
            let (entry, hash) = (entry.unwrap(), format!("{i:064x}"));
            fs::copy(entry.path(), blobs.join(&hash)).unwrap();
            let link = Path::new("../../blobs").join(hash);
            symlink(link, snapshot.join(entry.file_name())).unwrap();
        }
        snapshot
    }

    #[test]
    fn of_a_cache_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models--a--b");
        let snapshot = cache(&root);
        run(&snapshot).unwrap();
        // The folder itself may be a link, named from anywhere.
        symlink(&snapshot, dir.path().join("link")).unwrap();
        run(&dir.path().join("link")).unwrap();
        // As older versions download to a folder: absolute links into the cache.
        let local = dir.path().join("local");
        fs::create_dir(&local).unwrap();
        for entry in fs::read_dir(&snapshot).unwrap() {
            let entry = entry.unwrap();
            let blob = entry.path().canonicalize().unwrap();
            symlink(blob, local.join(entry.file_name())).unwrap();
        }
        run(&local).unwrap();
        // A folder of a snapshot.
        let sub = snapshot.join("text/model");
        fs::create_dir_all(&sub).unwrap();
        for entry in fs::read_dir(&local).unwrap() {
            let entry = entry.unwrap();
            let blob = fs::read_link(entry.path()).unwrap();
            let name = blob.file_name().unwrap();
            let link = Path::new("../../../../blobs").join(name);
            symlink(link, sub.join(entry.file_name())).unwrap();
        }
        run(&sub).unwrap();
    }

    #[test]
    fn inside_the_folder_are_followed() {
        let dir = folder("llama", "config.json", |_| {});
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::rename(at("config.json"), at("sub/real.json")).unwrap();
        symlink("sub/real.json", at("first.json")).unwrap();
        symlink(at("first.json"), at("config.json")).unwrap();
        run(dir.path()).unwrap();
    }

    #[test]
    fn that_lead_out_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture("llama")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), outside.path().join(entry.file_name())).unwrap();
        }
        // Something that is called like a cache, but is none.
        let near = outside.path().join("models--a--b/other");
        fs::create_dir_all(&near).unwrap();
        fs::write(near.join("0".repeat(64)), "{}").unwrap();
        let blobs = outside.path().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join("config.json"), "{}").unwrap();
        let names = fs::read_dir(fixture("llama")).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        for name in names {
            let mut targets = vec![
                outside.path().join(&name),
                "/etc/passwd".into(),
                "/proc/self/environ".into(),
                near.join("0".repeat(64)),
                blobs.join("config.json"),
                "missing".into(),
            ];
            // Through a link that leads on.
            symlink(
                outside.path().join(&name),
                outside.path().join("on-".to_owned() + &name),
            )
            .unwrap();
            targets.push(outside.path().join("on-".to_owned() + &name));
            for target in targets {
                let dir = folder("llama", "config.json", |_| {});
                let path = dir.path().join(&name);
                fs::remove_file(&path).unwrap();
                symlink(&target, &path).unwrap();
                let Err(error) = run(dir.path()) else {
                    panic!("{name} -> {} was read", target.display());
                };
                let text = error.to_string();
                let dangling = target == Path::new("missing");
                assert!(text.contains(&name) || dangling, "{name}: {text}");
                assert!(!text.contains("root:"), "{text}");
            }
        }
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            let dir = folder("llama", "config.json", |_| {});
            let path = dir.path().join(name);
            let _ = fs::remove_file(&path);
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
            refused(name, run(dir.path()), "kind of file", "not a regular file");
        }
    }
}
