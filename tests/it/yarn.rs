//! Rotation stretched by YaRN: from `config.json` over the keys of a file to the angles, against `transformers`
//! (`tests/oracle/yarn.py`).

use std::path::Path;

use geb::gguf::{GgufFile, writer};
use geb::model::{Config, RopeFreqs};
use geb_convert::GebLayout;
use geb_convert::hyper::Hyper;
use serde_json::{Value, json};

#[test]
fn yarn_is_that_of_the_reference() {
    let path = Path::new(crate::common::ROOT).join("tests/fixtures/yarn.json");
    let text = std::fs::read_to_string(path).expect("a file of the repository");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    for case in cases.as_array().expect("a list") {
        let rope = &case["rope_parameters"];
        let hyper = Hyper::read(&json!({
            "model_type": "qwen2", "num_hidden_layers": 1, "hidden_size": 256, "vocab_size": 8,
            "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 16384,
            "rope_parameters": rope,
        }));
        let mut plan = writer::Plan::default();
        plan.push_meta("general.architecture", "qwen2");
        for (key, value) in hyper.unwrap().metadata(&GebLayout::default(), 8) {
            plan.push_meta(key, value);
        }
        let bytes = plan.layout().unwrap().header;
        let config = Config::read(&GgufFile::from_bytes(bytes).unwrap()).unwrap();
        let (r, base) = (config.rope_dimension_count, config.rope_freq_base);
        let freqs = RopeFreqs::new(r, base, config.rope_scaling, None);
        let near = |a: f64, b: &Value| {
            let b = b.as_f64().unwrap();
            assert!((a - b).abs() <= 3e-7 * b, "{rope}: {a}, expected {b}");
        };
        near(freqs.magnitude, &case["factor"]);
        let angles = case["angles"].as_array().unwrap();
        assert_eq!(angles.len(), freqs.per_position.len(), "{rope}");
        let all = freqs.per_position.iter().zip(angles);
        all.for_each(|(a, b)| near(*a, b));
    }
}
