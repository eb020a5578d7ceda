//! Configurations as three versions of `transformers` write them (`tests/oracle/configs.py`), keys that nobody
//! reads, and tensors under the names that other programs give them.

use std::path::{Path, PathBuf};

use geb::gguf::GgufFile;
use geb::model::Config;
use geb::{Dtype, Error};
use geb_convert::hyper::Hyper;
use geb_convert::{GebLayout, Options, convert_to_vec};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    PathBuf::from(crate::common::ROOT).join("tests/fixtures")
}

fn read(path: &Path) -> Value {
    // Python writes what JSON has no number for.
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text.replace(" Infinity", " null")).unwrap()
}

fn spellings() -> serde_json::Map<String, Value> {
    let Value::Object(all) = read(&fixtures().join("spellings.json")) else {
        panic!("not an object");
    };
    all
}

/// Copies a fixture; `change` edits its configuration.
fn folder(case: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(case).join("hf")).unwrap() {
        let entry = entry.unwrap();
        std::fs::write(
            dir.path().join(entry.file_name()),
            std::fs::read(entry.path()).unwrap(),
        )
        .unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config = read(&path);
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    dir
}

/// What a file says and holds but for where it comes from.
type Content = Vec<(String, Vec<u8>)>;

/// The content of a conversion, and its notes.
fn converted(dir: &Path) -> Result<(Content, Vec<String>), Error> {
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let (bytes, report) = convert_to_vec(dir, &options)?;
    let file = GgufFile::from_bytes(bytes)?;
    let keys = file
        .metadata()
        .map(|(key, value)| (key.to_owned(), format!("{value:?}").into()));
    let mut all: Content = keys
        .filter(|(key, _)| !key.starts_with("geb.source.") && key != "general.name")
        .collect();
    for t in file.tensors() {
        let head = format!("{} {:?} {:?}", t.info().name, t.dtype(), t.info().dims);
        all.push((head, t.bytes().to_vec()));
    }
    Ok((all, report.notes))
}

#[test]
fn three_spellings_of_every_family_are_one_model() {
    let mut files = 0;
    for (case, versions) in spellings() {
        let versions = versions.as_object().unwrap();
        assert_eq!(versions.len(), 3, "{case}");
        let mut first: Option<Vec<_>> = None;
        for (version, config) in versions {
            let hyper = Hyper::read(config).unwrap_or_else(|e| panic!("{case} {version}: {e}"));
            let mut keys = hyper.metadata(&GebLayout::default(), hyper.vocab);
            let factors = hyper.factors().into_iter();
            keys.extend(
                factors.map(|(name, f)| (name.to_owned(), format!("{f:?}").as_str().into())),
            );
            match &first {
                Some(first) => assert_eq!(first, &keys, "{case} {version}"),
                None => first = Some(keys),
            }
        }
        if !fixtures().join(&case).is_dir() {
            continue;
        }
        let mut first = None;
        for (version, config) in versions {
            let dir = folder(&case, |c| *c = config.clone());
            let (all, _) =
                converted(dir.path()).unwrap_or_else(|e| panic!("{case} {version}: {e}"));
            files += 1;
            match &first {
                Some(first) => assert!(first == &all, "{case} {version}: another file"),
                None => first = Some(all),
            }
        }
    }
    assert!(files >= 3 * 50, "{files}");
}

/// `field` and `value` of the error.
fn refused(config: &Value, field: &str, value: &str) {
    match Hyper::read(config) {
        Err(Error::Checkpoint {
            field: f, value: v, ..
        }) => {
            assert!(
                f.contains(field) && v.contains(value),
                "{f} is {v}: {config}"
            );
        }
        Err(other) => panic!("{field}: another error: {other}"),
        Ok(_) => panic!("{field}: accepted: {config}"),
    }
}

#[test]
fn a_key_that_nobody_reads_is_refused_in_every_family() {
    for (case, versions) in spellings() {
        let config = &versions["5.24.0"];
        let with = |key: &str, value: Value| {
            let mut changed = config.clone();
            changed[key] = value;
            changed
        };
        for (value, shown) in [
            (json!(0.5), "0.5"),
            (json!(true), "true"),
            (json!("gain"), "gain"),
            (json!([1, 2]), "[1,2]"),
            (json!({"a": 1}), "{\"a\":1}"),
        ] {
            refused(&with("attention_gain", value), "attention_gain", shown);
        }
        for nothing in [json!(null), json!(false), json!([]), json!({}), json!("")] {
            let read = Hyper::read(&with("attention_gain", nothing.clone()));
            assert!(read.is_ok(), "{case} {nothing}: {read:?}");
        }
        // Keys that other families read, and the spellings to come of what all have.
        for (key, value, shown, reader) in [
            ("attn_logit_softcapping", 50.0, "50", "gemma2"),
            ("attention_multiplier", 0.5, "0.5", "granite"),
        ] {
            if case != reader {
                refused(&with(key, json!(value)), key, shown);
            }
        }
        refused(&with("is_causal", json!(false)), "is_causal", "false");
        // What programs leave in configurations.
        let mut kept = config.clone();
        for (key, value) in [
            ("unsloth_version", json!("2026.1")),
            ("_attn_implementation", json!("sdpa")),
            ("torch_dtype", json!("float16")),
            ("max_new_tokens", json!(100)),
            ("quantization_config", json!({"quant_method": "fp8"})),
            ("image_token_id", json!(7)),
            ("attention_dropout", json!(0.5)),
        ] {
            kept[key] = value;
        }
        assert!(
            Hyper::read(&kept).is_ok(),
            "{case}: {:?}",
            Hyper::read(&kept)
        );
    }
}

fn with(case: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut config = read(&fixtures().join(case).join("hf/config.json"));
    change(&mut config);
    config
}

#[test]
fn contradictions_name_both_keys() {
    let both = [
        (
            "llama",
            "n_layer",
            json!(5),
            "num_hidden_layers",
            "n_layer is 5",
        ),
        ("llama", "d_ff", json!(9), "intermediate_size", "d_ff is 9"),
        (
            "gpt-neox",
            "rotary_pct",
            json!(0.5),
            "partial_rotary_factor",
            "rotary_pct is 0.5",
        ),
        (
            "gpt-neox",
            "rotary_emb_base",
            json!(5000),
            "rope_theta",
            "rotary_emb_base is 5000",
        ),
        (
            "llama",
            "rope_parameters",
            json!({"rope_theta": 5e5, "rope_type": "default"}),
            "rope_parameters.rope_theta",
            "rope_theta is 10000",
        ),
        (
            "glm",
            "rope_parameters",
            json!({"rope_theta": 1e4, "partial_rotary_factor": 0.25}),
            "rope_parameters.partial_rotary_factor",
            "partial_rotary_factor is 0.5",
        ),
        (
            "llama3",
            "rope_parameters",
            json!({"factor": 4.0, "rope_type": "llama3"}),
            "rope_parameters.factor",
            "rope_scaling.factor is 8",
        ),
        (
            "llama",
            "rope_scaling",
            json!({"type": "linear", "rope_type": "yarn", "factor": 2.0}),
            "rope_scaling.rope_type",
            "rope_scaling.type is \"linear\"",
        ),
        (
            "gemma3",
            "rope_parameters",
            json!({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 2e4}}),
            "rope_parameters.sliding_attention.rope_theta",
            "rope_local_base_freq is 10000",
        ),
    ];
    for (case, key, value, field, shown) in both {
        refused(&with(case, |c| c[key] = value), field, shown);
    }
    let same = json!({"rope_theta": 10000, "rope_type": "default"});
    assert!(Hyper::read(&with("llama", |c| c["rope_parameters"] = same)).is_ok());
}

#[test]
fn a_rotation_is_never_completed_in_silence() {
    let no_base = |case: &str, rope: Value| {
        with(case, |c| {
            c["rope_parameters"] = rope;
            for key in ["rope_theta", "rope_local_base_freq", "rope_scaling"] {
                c[key] = json!(null);
            }
        })
    };
    let theta = "rope_theta";
    for case in ["llama", "qwen2", "glm", "gemma3", "phi3", "mixtral"] {
        refused(
            &no_base(case, json!({"rope_type": "default"})),
            theta,
            "absent",
        );
    }
    let one = json!({"full_attention": {"rope_theta": 1e6, "rope_type": "default"}});
    refused(&no_base("gemma3", one), "sliding_attention", "absent");
    let none = json!({"full_attention": {}, "sliding_attention": {"rope_theta": 1e4}});
    refused(
        &no_base("gemma3", none),
        "full_attention.rope_theta",
        "absent",
    );
    let other =
        json!({"chunked_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e4}});
    refused(
        &no_base("gemma3", other),
        "rope_parameters.chunked_attention",
        "rope_theta",
    );
    let two =
        json!({"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 2e4}});
    refused(
        &no_base("mistral-swa", two),
        "rope_parameters.sliding_attention",
        "another",
    );
    let scaled = json!({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}});
    refused(
        &no_base("gemma3", scaled),
        "rope_parameters.sliding_attention",
        "another",
    );
    refused(
        &with("llama", |c| c["rope_scaling"] = json!({"factor": 2.0})),
        "rope_scaling.factor",
        "2.0",
    );
    let alpha = json!({"rope_type": "yarn", "factor": 2.0, "alpha": 7.5});
    refused(
        &with("llama", |c| c["rope_scaling"] = alpha),
        "rope_scaling.alpha",
        "7.5",
    );
    for kind in ["dynamic", "proportional", "xdrope", "ntk", "DYNAMIC"] {
        let rope = json!({"rope_type": kind, "factor": 2.0});
        let read = Hyper::read(&with("llama", |c| c["rope_scaling"] = rope));
        let error = read.expect_err(kind).to_string();
        assert!(error.contains(kind), "{error}");
    }
}

/// What a runtime reads of a fixture's file after a change of its configuration.
fn runtime(case: &str, change: impl FnOnce(&mut Value)) -> Config {
    let options = Options {
        policy: Dtype::F32.into(),
        ..Options::default()
    };
    let (bytes, _) = convert_to_vec(folder(case, change).path(), &options).unwrap();
    Config::read(&GgufFile::from_bytes(bytes).unwrap()).unwrap()
}

#[test]
fn what_gguf_has_no_key_for_reaches_the_runtime() {
    for (said, reach) in [
        (json!(null), 128),
        (json!(128), 128),
        (json!(64), 64),
        (json!(20), 20),
    ] {
        let c = runtime("t5", |c| c["relative_attention_max_distance"] = said);
        assert_eq!(c.encoder.unwrap().reach, reach);
    }
    let near = |reach: u64| {
        with("t5", |c| {
            c["relative_attention_max_distance"] = json!(reach)
        })
    };
    refused(&near(16), "relative_attention_max_distance", "16");
    refused(&near(100_000), "relative_attention_max_distance", "100000");
    for (case, key, said, epsilon) in [
        ("rwkv5", "head_size_divisor", json!(null), 64e-5),
        ("rwkv5", "head_size_divisor", json!(8), 64e-5),
        ("rwkv5", "head_size_divisor", json!(4), 16e-5),
        ("rwkv6", "head_size_divisor", json!(16), 256e-5),
        ("rwkv7", "norm_bias", json!(true), 64e-5),
    ] {
        let c = runtime(case, |c| c[key] = said);
        let found = c.recurrent.unwrap().mixer_epsilon;
        assert!((found - epsilon).abs() < 1e-9, "{case} {key}: {found}");
    }
    let falcon = &spellings()["falcon-mamba"]["5.24.0"];
    let keys = Hyper::read(falcon)
        .unwrap()
        .metadata(&GebLayout::default(), 408);
    assert!(
        keys.contains(&("mamba.ssm.dt_b_c_rms_epsilon".into(), 1e-6f32.into())),
        "{keys:?}"
    );
    refused(
        &with("rwkv5", |c| c["attention_hidden_size"] = json!(128)),
        "attention_hidden_size",
        "128",
    );
    refused(
        &with("mamba", |c| c["use_conv_bias"] = json!(false)),
        "use_conv_bias",
        "false",
    );
    refused(
        &with("mamba2", |c| c["time_step_limit"] = json!([0.0, 1.0])),
        "time_step_limit",
        "1.0",
    );
    // Scaled outputs need the matrix of the embedding, others one of their own.
    let other = folder("t5-relu", |c| c["scale_decoder_outputs"] = json!(false));
    let error = converted(other.path()).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight: missing"), "{error}");
}

/// The tensors of a safetensors file: name, entry of the header, bytes.
type Tensor = (String, Value, Vec<u8>);

fn tensors(path: &Path) -> Vec<Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let entries = header.as_object().unwrap().iter();
    let entries = entries.filter(|(name, _)| *name != "__metadata__");
    let at = |v: &Value, i: usize| 8 + n + v["data_offsets"][i].as_u64().unwrap() as usize;
    entries
        .map(|(name, v)| (name.clone(), v.clone(), bytes[at(v, 0)..at(v, 1)].to_vec()))
        .collect()
}

fn write(path: &Path, tensors: &[Tensor]) {
    let (mut header, mut data) = (json!({}), Vec::<u8>::new());
    for (name, entry, bytes) in tensors {
        let mut entry = entry.clone();
        entry["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
        header[name] = entry;
        data.extend(bytes);
    }
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

/// A tensor of ones.
fn ones(name: &str, n: usize) -> Tensor {
    let bytes = vec![1f32; n].iter().flat_map(|v| v.to_le_bytes()).collect();
    (name.into(), json!({"dtype": "F32", "shape": [n]}), bytes)
}

/// What becomes of a name.
type Rename<'a> = &'a dyn Fn(&str) -> String;

const WEIGHTS: &str = "model.safetensors";

/// A fixture whose tensors have other names, and some more.
fn renamed(case: &str, name: impl Fn(&str) -> String, more: &[Tensor]) -> tempfile::TempDir {
    let dir = folder(case, |_| {});
    let path = dir.path().join(WEIGHTS);
    let mut all = tensors(&path);
    all.iter_mut().for_each(|t| t.0 = name(&t.0));
    all.extend_from_slice(more);
    write(&path, &all);
    dir
}

#[test]
fn names_of_wrappers_are_taken_off() {
    let plain = |case: &str| converted(folder(case, |_| {}).path()).unwrap().0;
    let rest = |name: &str| {
        let prefixes = ["model.", "transformer.", "gpt_neox.", "backbone."];
        let found = prefixes.iter().find_map(|p| name.strip_prefix(p));
        found.unwrap_or(name).to_owned()
    };
    for case in [
        "llama", "gemma3", "gpt2", "gpt-neox", "falcon", "mamba", "t5",
    ] {
        let want = plain(case);
        let all: [(&str, Rename<'_>); 6] = [
            ("none", &rest),
            ("torch.compile", &|n| format!("_orig_mod.{n}")),
            ("DDP", &|n| format!("module.{n}")),
            ("both", &|n| format!("module._orig_mod.{n}")),
            ("PEFT", &|n| format!("base_model.model.{n}")),
            ("multimodal", &|n| format!("language_model.{n}")),
        ];
        for (wrapper, name) in all {
            let dir = renamed(case, name, &[]);
            let (all, notes) =
                converted(dir.path()).unwrap_or_else(|e| panic!("{case} {wrapper}: {e}"));
            assert!(all == want, "{case} {wrapper}: another file");
            assert!(!notes.iter().any(|n| n.contains("left out")), "{notes:?}");
        }
    }
    let dir = renamed("llama", str::to_owned, &[ones("norm.weight", 64)]);
    let error = converted(dir.path()).unwrap_err().to_string();
    assert!(error.contains("norm.weight: not part"), "{error}");
}

#[test]
fn what_is_no_text_model_is_left_out_with_a_line() {
    let want = converted(folder("llama", |_| {}).path()).unwrap().0;
    for (name, said) in [
        ("v_head.summary.weight", "value head"),
        ("score.weight", "value head"),
        ("model.layers.0.self_attn.k_scale", "scales of a cache"),
        (
            "model.layers.0.self_attn.k_proj.k_scale",
            "scales of a cache",
        ),
        ("vision_tower.embeddings.weight", "vision"),
        ("model.visual.blocks.0.weight", "vision"),
        ("audio_tower.conv1.weight", "audio"),
        ("multi_modal_projector.weight", "projector"),
    ] {
        let dir = renamed("llama", str::to_owned, &[ones(name, 4)]);
        let (all, notes) = converted(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(all == want, "{name}");
        let line = notes.iter().find(|n| n.contains(said) && n.contains(name));
        assert!(
            line.is_some_and(|l| l.contains("1 tensors") && l.contains("16 bytes")),
            "{notes:?}"
        );
    }
    for name in [
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.gain",
        "model.layers.7.x",
    ] {
        let dir = renamed("llama", str::to_owned, &[ones(name, 4)]);
        let error = converted(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_text_model_inside_another_one() {
    let inside = |case: &str, class: &str, kind: &str, name: Rename<'_>| {
        let dir = renamed(case, name, &[ones("model.vision_tower.x.weight", 8)]);
        let path = dir.path().join("config.json");
        let mut text = read(&path);
        let own = text.as_object_mut().unwrap();
        let eos = own.remove("eos_token_id");
        own.remove("architectures");
        let outer = json!({"architectures": [class], "model_type": kind, "text_config": text,
            "vision_config": {"hidden_size": 32}, "eos_token_id": eos, "image_token_id": 3,
            "projector_hidden_act": "gelu"});
        std::fs::write(path, outer.to_string()).unwrap();
        let (all, notes) =
            converted(dir.path()).unwrap_or_else(|e| panic!("{case} in {kind}: {e}"));
        assert!(notes.iter().any(|n| n.contains("vision")), "{notes:?}");
        assert!(
            all == converted(folder(case, |_| {}).path()).unwrap().0,
            "{case} in {kind}"
        );
    };
    let old = |n: &str| format!("language_model.{n}");
    let new = |n: &str| n.replacen("model.", "model.language_model.", 1);
    let text = |n: &str| n.replacen("model.", "model.text_model.", 1);
    inside("gemma3", "Gemma3ForConditionalGeneration", "gemma3", &old);
    inside("gemma3", "Gemma3ForConditionalGeneration", "gemma3", &new);
    inside("llama", "LlavaForConditionalGeneration", "llava", &old);
    inside(
        "llama",
        "Idefics3ForConditionalGeneration",
        "idefics3",
        &text,
    );
    inside(
        "mistral-swa",
        "Mistral3ForConditionalGeneration",
        "mistral3",
        &new,
    );
    inside(
        "qwen2",
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl",
        &new,
    );
    inside("qwen3", "Qwen3VLForConditionalGeneration", "qwen3_vl", &new);
}

#[test]
fn what_a_text_config_leaves_out_is_as_in_the_reference() {
    let outer = |kind: &str, text: Value| json!({"model_type": kind, "text_config": text, "vision_config": {}});
    // google/gemma-3-4b-it.
    let gemma = json!({"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "sliding_window": 1024, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let h = Hyper::read(&outer("gemma3", gemma)).unwrap();
    let one = h.shape.layers[0];
    assert_eq!(
        (one.heads, one.kv_heads, h.shape.head_dim, h.vocab),
        (8, 4, 256, 262208)
    );
    assert_eq!(
        (h.context, h.eps, h.rope_base, h.window),
        (131072, 1e-6, 1e6, Some(1024))
    );
    let keys = h.metadata(&GebLayout::default(), h.vocab);
    assert!(keys.contains(&("gemma3.rope.freq_base_swa".into(), 10000f32.into())));
    // llava-hf/llava-1.5-7b-hf.
    let llava = json!({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096,
        "model_type": "llama", "rms_norm_eps": 1e-5, "torch_dtype": "float16", "vocab_size": 32064});
    let h = Hyper::read(&outer("llava", llava)).unwrap();
    let one = h.shape.layers[0];
    assert_eq!(
        (h.layers(), h.width, one.heads, one.kv_heads, one.ffn),
        (32, 4096, 32, 32, 11008)
    );
    assert_eq!((h.vocab, h.context, h.eps), (32064, 4096, 1e-5));
    let h = Hyper::read(&outer("llava_next", json!({}))).unwrap();
    assert_eq!((h.family.architecture, h.vocab), ("llama", 32000));
    refused(
        &outer("blip_3", json!({"hidden_size": 8})),
        "text_config.model_type",
        "absent",
    );
    refused(
        &outer("llava", json!({"model_type": "llama", "attention_gain": 2})),
        "attention_gain",
        "2",
    );
    let mut both = outer("llava", json!({"model_type": "llama", "rope_theta": 5e5}));
    both["rope_theta"] = json!(1e4);
    refused(&both, "text_config.rope_theta", "rope_theta is 10000");
    // A configuration that is not inside another one states its sizes.
    refused(
        &json!({"model_type": "llama"}),
        "num_hidden_layers",
        "absent",
    );
}

/// Shards of the llama fixture: their tensors by turns.
fn shards(names: &[&str], drop: &[&str]) -> (tempfile::TempDir, Value) {
    let dir = folder("llama", |_| {});
    let path = dir.path().join(WEIGHTS);
    let all = tensors(&path);
    std::fs::remove_file(path).unwrap();
    let mut map = json!({});
    for (i, name) in names.iter().enumerate() {
        let kept = all.iter().enumerate();
        let kept = kept.filter(|(n, t)| n % names.len() == i && !drop.contains(&t.0.as_str()));
        let part: Vec<Tensor> = kept.map(|(_, t)| t.clone()).collect();
        part.iter().for_each(|t| map[&t.0] = json!(name));
        write(&dir.path().join(name), &part);
    }
    (dir, map)
}

fn index(dir: &tempfile::TempDir, map: &Value) {
    let json = json!({"metadata": {"total_size": 1}, "weight_map": map});
    let path = dir.path().join("model.safetensors.index.json");
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn shards_with_and_without_an_index() {
    let want = converted(folder("llama", |_| {}).path()).unwrap().0;
    let good = |case: &str, dir: &tempfile::TempDir| {
        let found = converted(dir.path()).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(found.0 == want, "{case}");
    };
    let bad = |dir: &tempfile::TempDir, named: &[&str]| {
        let error = converted(dir.path()).unwrap_err().to_string();
        named
            .iter()
            .for_each(|n| assert!(error.contains(n), "{error}, expected {n}"));
    };
    let two = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let (dir, map) = shards(&two, &[]);
    good("no index", &dir);
    index(&dir, &map);
    good("index", &dir);
    let mut dotted = map.clone();
    for shard in dotted.as_object_mut().unwrap().values_mut() {
        *shard = json!(format!("./{}", shard.as_str().unwrap()));
    }
    index(&dir, &dotted);
    good("dots", &dir);
    for outside in [
        "../x.safetensors",
        "./../x.safetensors",
        "/x.safetensors",
        "a/x.safetensors",
    ] {
        let mut map = map.clone();
        map["model.norm.weight"] = json!(outside);
        index(&dir, &map);
        bad(&dir, &["weight_map.model.norm.weight", outside]);
    }
    let mut more = map.clone();
    more["model.layers.0.self_attn.rotary_emb.inv_freq"] = json!(two[0]);
    index(&dir, &more);
    good("a buffer in no shard", &dir);
    let norm = "model.norm.weight";
    let mut moved = map.clone();
    let other = two[usize::from(map[norm] == json!(two[0]))];
    moved[norm] = json!(other);
    index(&dir, &moved);
    bad(&dir, &[norm, other]);
    let (dir, mut map) = shards(&two, &[norm]);
    map[norm] = json!(two[0]);
    index(&dir, &map);
    bad(&dir, &[norm, "no file"]);
    let head = "lm_head.weight";
    let (dir, mut map) = shards(&two, &[head]);
    map[head] = json!(two[0]);
    index(&dir, &map);
    bad(&dir, &[head, "missing"]);
    let path = dir.path().join("config.json");
    let mut config = read(&path);
    config["tie_word_embeddings"] = json!(true);
    std::fs::write(path, config.to_string()).unwrap();
    converted(dir.path()).unwrap();

    good(
        "one of one",
        &shards(&["model-00001-of-00001.safetensors"], &[]).0,
    );
    good(
        "consolidated",
        &shards(&["consolidated.safetensors"], &[]).0,
    );
    good("another name", &shards(&["weights.safetensors"], &[]).0);
    let (dir, _) = shards(&two, &[]);
    std::fs::write(dir.path().join("consolidated.safetensors"), "not looked at").unwrap();
    good("both", &dir);
    std::fs::remove_file(dir.path().join(two[0])).unwrap();
    std::fs::remove_file(dir.path().join("consolidated.safetensors")).unwrap();
    bad(&dir, &[two[0], "missing"]);
    bad(
        &shards(&[two[0], "model-00002-of-00003.safetensors"], &[]).0,
        &["of-00003", "one set"],
    );
    bad(
        &shards(&["a.safetensors", "b.safetensors"], &[]).0,
        &["a.safetensors, b.safetensors"],
    );
}
