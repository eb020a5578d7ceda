//! Conversion of the reference checkpoints: every type, the same bytes for any number of threads,
//! tokenizers and chat templates as the references say.

use std::path::{Path, PathBuf};

use geb::gguf::GgufFile;
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Error};
use geb_convert::{self as convert, GebLayout, Options, convert_to_vec};
use serde_json::Value;

const CASES: &[&str] = &[
    "llama",
    "llama-tied-bf16",
    "llama3",
    "llama-bin",
    "mistral-swa",
    "geb",
    "geb-alt",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-longrope",
    "minicpm",
    "olmo",
    "olmo2",
    "gemma",
    "gemma2",
    "gemma3",
    "smollm3",
    "granite",
    "ministral3",
    "glm4",
    "seed_oss",
    "ernie4_5",
    "hunyuan-dense",
    "exaone4",
    "cohere2",
    "arcee",
    "starcoder2",
    "stablelm",
    "phi2",
    "mixtral",
    "qwen3moe",
    "olmoe",
    "jetmoe",
    "chatglm3",
    "glm",
    "openelm",
    "gpt2",
    "gpt-neo",
    "gpt-neox",
    "bloom",
    "falcon",
    "falcon-new",
    "t5",
    "t5-relu",
    "lfm2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
];
const TYPES: &[Dtype] = &[
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::Q8_0,
    Dtype::Q4_0,
    Dtype::Q4_1,
];

fn root() -> PathBuf {
    PathBuf::from(crate::common::ROOT)
}

fn case_dir(case: &str) -> PathBuf {
    root().join("tests/fixtures").join(case)
}

fn expected(case: &str) -> Value {
    let text = std::fs::read_to_string(case_dir(case).join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn options(case: &str, dtype: Dtype) -> Options {
    let layout = match case {
        "geb-alt" => GebLayout {
            kv_interleaved: false,
            rope_full: false,
            rope_half_split: false,
            gate_first: false,
        },
        _ => GebLayout::default(),
    };
    Options {
        policy: dtype.into(),
        layout,
        ..Options::default()
    }
}

fn converted(case: &str, dtype: Dtype) -> (GgufFile, convert::Report) {
    let (bytes, report) = convert_to_vec(&case_dir(case).join("hf"), &options(case, dtype))
        .unwrap_or_else(|e| panic!("{case} {dtype}: {e}"));
    (GgufFile::from_bytes(bytes).unwrap(), report)
}

#[test]
fn every_fixture_converts_to_every_type() {
    for case in CASES {
        for &dtype in TYPES {
            let (file, report) = converted(case, dtype);
            let want = expected(case);
            assert_eq!(
                file.str("general.architecture").unwrap(),
                want["gguf_architecture"].as_str(),
                "{case}"
            );
            assert_eq!(report.tensors.len(), file.tensors().count(), "{case}");
            for row in report.by_type() {
                let limit = match row.dtype {
                    Dtype::F32 => 0.0,
                    Dtype::F16 => 5e-4,
                    Dtype::BF16 => 3e-3,
                    Dtype::Q8_0 => 0.01,
                    _ => 0.13,
                };
                assert!(
                    row.sums.relative_rms() <= limit,
                    "{case} {dtype}: {} {}",
                    row.dtype,
                    row.sums.relative_rms()
                );
                assert_eq!(row.sums.n, row.elements, "{case} {dtype}");
            }
        }
    }
}

#[test]
fn token_ids_equal_the_references() {
    for case in CASES {
        let (file, _) = converted(case, Dtype::Q8_0);
        let tok = Tokenizer::from_gguf(&file).unwrap();
        let want = expected(case);
        assert_eq!(
            tok.vocab_len() as u64,
            want["vocab_rows"].as_u64().unwrap(),
            "{case}"
        );
        for t in want["tokenizer_cases"].as_array().unwrap() {
            let text = t["text"].as_str().unwrap();
            for (key, add_special, parse_special) in [
                ("ids", true, true),
                ("ids_no_special", false, true),
                ("ids_plain", false, false),
            ] {
                let ids: Vec<u32> = t[key]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|v| v.as_u64().unwrap() as u32)
                    .collect();
                let got = tok
                    .encode(
                        text,
                        Encode {
                            add_special,
                            parse_special,
                        },
                    )
                    .unwrap();
                assert_eq!(got, ids, "{case}: {key} of {text:?}");
            }
        }
        if let Some(ids) = want["special_token_ids"].as_object() {
            for (text, id) in ids {
                let id = id.as_u64().unwrap() as u32;
                assert_eq!(tok.piece(id), *text, "{case}");
                assert!(tok.is_control(id), "{case}: {text}");
            }
        }
    }
}

/// Rows of a tensor as f32.
fn rows(file: &GgufFile, name: &str) -> Vec<f32> {
    let t = file.tensor(name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(t.dtype(), Dtype::F32);
    t.bytes()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Undoes the reordering of `heads`: output row 2i of a head is source row i, 2i+1 is i + d/2.
fn unpermute(x: &[f32], cols: usize, d: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (r, row) in x.chunks_exact(cols).enumerate() {
        let (head, j) = (r / d, r % d);
        let to = head * d + if j % 2 == 0 { j / 2 } else { j / 2 + d / 2 };
        out[to * cols..(to + 1) * cols].copy_from_slice(row);
    }
    out
}

#[test]
fn f32_tensors_equal_the_source() {
    let (file, _) = converted("llama", Dtype::F32);
    let bytes = std::fs::read(case_dir("llama").join("hf/model.safetensors")).unwrap();
    let source = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let hf = |name: &str| -> Vec<f32> {
        source
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    for l in 0..3 {
        let (g, h) = (format!("blk.{l}"), format!("model.layers.{l}"));
        assert_eq!(
            unpermute(&rows(&file, &format!("{g}.attn_q.weight")), 64, 16),
            hf(&format!("{h}.self_attn.q_proj.weight"))
        );
        assert_eq!(
            unpermute(&rows(&file, &format!("{g}.attn_k.weight")), 64, 16),
            hf(&format!("{h}.self_attn.k_proj.weight"))
        );
        for (a, b) in [
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("ffn_norm", "post_attention_layernorm"),
        ] {
            assert_eq!(
                rows(&file, &format!("{g}.{a}.weight")),
                hf(&format!("{h}.{b}.weight")),
                "{a}"
            );
        }
    }
    assert_eq!(rows(&file, "output.weight"), hf("lm_head.weight"));
}

#[test]
fn metadata_of_special_cases() {
    let (file, _) = converted("llama3", Dtype::F32);
    assert_eq!(rows(&file, "rope_freqs.weight").len(), 8);
    // eos by its text in tokenizer_config.json; the other of the list stops too.
    assert_eq!(
        file.int("tokenizer.ggml.eos_token_id", 0..=1000).unwrap(),
        Some(449)
    );
    assert_eq!(
        file.int("tokenizer.ggml.eot_token_id", 0..=1000).unwrap(),
        Some(445)
    );
    assert_eq!(file.str("tokenizer.ggml.pre").unwrap(), Some("llama-bpe"));
    let (file, _) = converted("mistral-swa", Dtype::F32);
    assert_eq!(
        file.int("llama.attention.sliding_window", 0..=1000)
            .unwrap(),
        Some(9)
    );
    assert_eq!(
        file.int("llama.rope.dimension_count", 0..=1000).unwrap(),
        Some(20)
    );
    let (file, _) = converted("llama-tied-bf16", Dtype::BF16);
    assert!(file.tensor("output.weight").is_none());
    let (file, report) = converted("llama-tied-bf16", Dtype::Q4_0);
    assert_eq!(
        file.tensor("token_embd.weight").unwrap().dtype(),
        Dtype::Q6_K
    );
    assert_eq!(report.tensors[0].reason, "output matrix");
    let (file, _) = converted("geb-alt", Dtype::F32);
    assert_eq!(
        file.int("chatglm.rope.dimension_count", 0..=1000).unwrap(),
        Some(8)
    );
    assert_eq!(
        file.tensor("blk.0.attn_qkv.weight").unwrap().info().dims,
        [64, 128]
    );
    assert_eq!(
        file.tensor("blk.0.ffn_up.weight").unwrap().info().dims,
        [64, 192]
    );
    // head size 20: rows of 40 and 80 weights do not fill blocks of 32.
    let (file, report) = converted("mistral-swa", Dtype::Q4_1);
    assert_eq!(
        file.tensor("blk.0.attn_q.weight").unwrap().dtype(),
        Dtype::F16
    );
    assert_eq!(
        file.tensor("blk.0.ffn_down.weight").unwrap().dtype(),
        Dtype::Q4_1
    );
    assert!(!report.notes.is_empty());
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    for case in ["geb", "llama-bin"] {
        let make = |threads| {
            let options = Options {
                threads: Some(threads),
                ..options(case, Dtype::Q4_0)
            };
            convert_to_vec(&case_dir(case).join("hf"), &options).unwrap()
        };
        let (one, report) = make(1);
        for threads in [2, 3, 8] {
            let (bytes, other) = make(threads);
            assert!(bytes == one, "{case}: {threads} threads");
            for (a, b) in report.tensors.iter().zip(&other.tensors) {
                assert_eq!(a.sums, b.sums, "{case}: {}", a.name);
            }
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_bad_weight_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let hf = dir.path().join("hf");
    copy_folder(&case_dir("llama").join("hf"), &hf);
    let path = hf.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.self_attn.k_proj.weight";
    let start = json[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let at = 8 + header + start + 4 * 777;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let out = dir.path().join("out.gguf");
    for dtype in TYPES {
        let error = convert::convert(&hf, &out, &options("llama", *dtype), &mut ()).unwrap_err();
        match error {
            Error::NonFinite { what, index, value } => {
                assert!(what.contains(name), "{what}");
                assert_eq!(index, 777);
                assert!(value.is_nan());
            }
            other => panic!("{other}"),
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }
    let allowed = |dtype| Options {
        allow_nonfinite: true,
        ..options("llama", dtype)
    };
    let report = convert::convert(&hf, &out, &allowed(Dtype::F16), &mut ()).unwrap();
    assert!(
        report
            .notes
            .iter()
            .any(|n| n.contains("blk.1.attn_k.weight: 1 weights")),
        "{:?}",
        report.notes
    );
    assert!(matches!(
        convert::convert(&hf, &out, &allowed(Dtype::Q8_0), &mut ()),
        Err(Error::NonFinite { .. })
    ));
}

/// All end tokens of `generation_config.json` reach the runtime, however many there are.
#[test]
fn lists_of_end_tokens_are_kept() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(case_dir("qwen2").join("hf")).expect("a fixture") {
        let entry = entry.expect("an entry");
        if entry.path().is_file() {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copies");
        }
    }
    let config = r#"{"eos_token_id": [40, 41, 42, 43, 44, 9999999], "pad_token_id": -1}"#;
    std::fs::write(dir.path().join("generation_config.json"), config).expect("writes");
    let (bytes, report) = convert_to_vec(dir.path(), &Options::default()).expect("converts");
    let file = GgufFile::from_bytes(bytes).expect("a valid file");
    let tokenizer = geb::tokenizer::Tokenizer::from_gguf(&file).expect("valid");
    for id in 40..45 {
        assert!(tokenizer.is_stop(id), "{id}: {:?}", tokenizer.stop_ids());
    }
    assert!(!tokenizer.is_stop(45));
    assert!(
        tokenizer.warnings().is_empty(),
        "{:?}",
        tokenizer.warnings()
    );
    let notes = format!("{:?}", report.notes);
    assert!(
        notes.contains("generation_config.json") && notes.contains("9999999"),
        "{notes}"
    );
}
