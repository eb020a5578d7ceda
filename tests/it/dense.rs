//! Dense families of 2024 and 2025: what their configurations may say and must not, and what files of other
//! programs leave to the reader. Their logits are compared in `logits.rs`.

use std::path::Path;

use crate::common::tiny::Tiny;
use geb::Error;
use geb::gguf::GgufFile;
use geb::gguf::writer::MetaValue;
use geb::model::Config;
use geb_convert::GebLayout;
use geb_convert::hyper::Hyper;
use serde_json::{Value, json};

/// The configuration of a fixture with these changes.
fn config(case: &str, changes: Value) -> Value {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let text = std::fs::read(root.join(case).join("hf/config.json")).expect("a fixture");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

/// What the file says under a key of the architecture.
fn said(config: &Value, key: &str) -> Option<MetaValue> {
    let hyper = Hyper::read(config).unwrap_or_else(|e| panic!("{e}: {config}"));
    let keys = hyper.metadata(&GebLayout::default(), hyper.vocab);
    let mut keys = keys.into_iter();
    let own = |name: &str| name.split_once('.').is_some_and(|(_, end)| end == key);
    keys.find(|(name, _)| own(name)).map(|(_, value)| value)
}

fn float(config: &Value, key: &str) -> f32 {
    match said(config, key) {
        Some(MetaValue::F32(v)) => v,
        other => panic!("{key}: {other:?}"),
    }
}

/// The error names the key.
fn refused(config: &Value, key: &str) {
    match Hyper::read(config) {
        Err(Error::Checkpoint { field, .. }) => assert!(field.contains(key), "{field}: {config}"),
        Err(other) => panic!("{key}: another error: {other}"),
        Ok(_) => panic!("{key}: accepted: {config}"),
    }
}

#[test]
fn gemma_2_says_its_scale_caps_and_windows() {
    let of = |changes| config("gemma2", changes);
    assert_eq!(float(&of(json!({})), "attn_logit_softcapping"), 50.0);
    let wide = of(json!({"query_pre_attn_scalar": 144}));
    assert_eq!(float(&wide, "attention.scale"), 1.0 / 12.0);
    let free = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    assert_eq!(float(&of(free.clone()), "attn_logit_softcapping"), 0.0);
    assert_eq!(float(&of(free), "final_logit_softcapping"), 0.0);
    let whole = of(json!({"sliding_window": null}));
    assert_eq!(
        said(&whole, "attention.sliding_window"),
        Some(MetaValue::U32(0))
    );
    let pattern = "attention.sliding_window_pattern";
    assert_eq!(said(&of(json!({})), pattern), None);
    let [s, f] = ["sliding_attention", "full_attention"];
    let other = of(json!({"layer_types": [f, s, s]}));
    let want = MetaValue::Bools(vec![false, true, true]);
    assert_eq!(said(&other, pattern), Some(want));
    refused(
        &of(json!({"use_bidirectional_attention": true})),
        "use_bidirectional_attention",
    );
}

#[test]
fn gemma_2_files_without_keys_have_the_published_values() {
    let read = |layers: usize| {
        let mut tiny = Tiny::new("gemma2", layers);
        tiny.key("attention.key_length", MetaValue::U32(8));
        let file = GgufFile::from_bytes(tiny.bytes()).expect("GGUF");
        Config::read(&file).expect("valid")
    };
    // Two heads in a width of 32: only the model of 46 layers looks at that.
    let (small, large) = (read(3), read(46));
    assert_eq!(small.attention_scale, 1.0 / 8f32.sqrt());
    assert_eq!(large.attention_scale, 0.25);
    assert_eq!(small.attention_softcap, Some(50.0));
    assert_eq!(small.logit_softcap, Some(30.0));
    assert_eq!(small.windows, [4096, usize::MAX, 4096]);
}

#[test]
fn layers_that_do_not_rotate_are_those_of_the_files() {
    let of = |changes| config("smollm3", changes);
    for wrong in [
        json!({"no_rope_layers": [1, 1, 1, 1]}),
        json!({"no_rope_layers": [1, 1, 1]}),
        json!({"no_rope_layers": [1, 1, 1, 2]}),
        json!({"no_rope_layers": null, "no_rope_layer_interval": 2}),
    ] {
        refused(&of(wrong), "no_rope_layers");
    }
    for same in [
        json!({"no_rope_layers": null}),
        json!({"no_rope_layers": [1, 1, 1, 0, 1, 1]}),
    ] {
        assert!(Hyper::read(&of(same)).is_ok());
    }
    refused(
        &config("cohere2", json!({"sliding_window": null})),
        "sliding_window",
    );
    let pattern = "attention.sliding_window_pattern";
    let every = json!({"layer_types": null, "sliding_window_pattern": 2});
    let want = Some(MetaValue::Bools(vec![true, false, true, false]));
    for case in ["exaone4", "cohere2"] {
        assert_eq!(said(&config(case, every.clone()), pattern), want, "{case}");
        assert_eq!(said(&config(case, json!({})), pattern), None, "{case}");
    }
    // The small EXAONE has no windows and rotates everywhere.
    let types = json!(vec!["full_attention"; 4]);
    let small =
        json!({"sliding_window": null, "sliding_window_pattern": null, "layer_types": types});
    assert_eq!(
        said(&config("exaone4", small), "attention.sliding_window"),
        None
    );
    let rotated = |window: u32| {
        let mut tiny = Tiny::new("exaone4", 4);
        tiny.key("attention.sliding_window", MetaValue::U32(window));
        let file = GgufFile::from_bytes(tiny.bytes()).expect("GGUF");
        Config::read(&file).expect("valid").rotated
    };
    assert_eq!(rotated(0), [true; 4]);
    assert_eq!(rotated(8), [true, true, true, false]);
}

#[test]
fn queries_grow_with_yarn_only() {
    let plain = json!({"rope_theta": 1e6, "rope_type": "default", "llama_4_scaling_beta": 0.1});
    let changes = json!({ "rope_parameters": plain });
    refused(
        &config("ministral3", changes.clone()),
        "llama_4_scaling_beta",
    );
    refused(&config("seed_oss", changes), "llama_4_scaling_beta");
    let scale = float(
        &config("ministral3", json!({})),
        "attention.temperature_scale",
    );
    assert_eq!(scale, 0.1);
    // As the text model of one that sees images; before it was called so, it was of the llama graph.
    for (kind, architecture) in [("ministral3", "mistral3"), ("mistral", "llama")] {
        let mut text = config(
            "ministral3",
            json!({"model_type": kind, "architectures": null}),
        );
        if kind == "mistral" {
            text["rope_parameters"] = json!({"rope_theta": 1e6, "rope_type": "default"});
        }
        let whole = json!({
            "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text,
        });
        let hyper = Hyper::read(&whole).expect(kind);
        assert_eq!(hyper.architecture(&GebLayout::default()), architecture);
    }
    let mut tiny = Tiny::new("mistral3", 1);
    tiny.key("attention.temperature_scale", MetaValue::F32(0.1));
    let file = GgufFile::from_bytes(tiny.bytes()).expect("GGUF");
    let error = Config::read(&file).expect_err("no context to count in");
    assert!(
        error.to_string().contains("original_context_length"),
        "{error}"
    );
}

#[test]
fn scaling_by_alpha_is_in_the_base() {
    let dynamic =
        json!({"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "mscale": 1.0});
    let changes = json!({"rope_parameters": null, "rope_theta": 10000.0, "rope_scaling": dynamic});
    let base = float(&config("hunyuan-dense", changes.clone()), "rope.freq_base");
    let want = 1e4 * 1000f64.powf(24.0 / 22.0);
    assert!((f64::from(base) / want - 1.0).abs() < 1e-6, "{base}");
    let mut stretched = changes.clone();
    stretched["rope_scaling"]["factor"] = json!(2.0);
    refused(&config("hunyuan-dense", stretched), "factor");
    let error = Hyper::read(&config("seed_oss", changes)).expect_err("of another family");
    assert!(error.to_string().contains("dynamic"), "{error}");
}

#[test]
fn other_graphs_of_the_families_are_refused() {
    refused(
        &config("stablelm", json!({"qk_layernorm": true})),
        "qk_layernorm",
    );
    refused(
        &config("phi2", json!({"qk_layernorm": true})),
        "qk_layernorm",
    );
    refused(
        &config("cohere2", json!({"use_qk_norm": true})),
        "use_qk_norm",
    );
    refused(
        &config("hunyuan-dense", json!({"use_cla": true})),
        "use_cla",
    );
    let side = config("stablelm", json!({"use_parallel_residual": true}));
    assert_eq!(
        said(&side, "use_parallel_residual"),
        Some(MetaValue::Bool(true))
    );
    // Pairs of M-RoPE are others.
    let mut tiny = Tiny::new("glm4", 1);
    let sections = MetaValue::U32s(vec![2, 2, 0, 0]);
    tiny.key("rope.dimension_sections", sections);
    let file = GgufFile::from_bytes(tiny.bytes()).expect("GGUF");
    let error = Config::read(&file).expect_err("sections");
    assert!(error.to_string().contains("dimension_sections"), "{error}");
}
