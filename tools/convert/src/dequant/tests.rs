//! Quantized Linears of every method against values made with NumPy (`tests/oracle/quantized.py`).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use geb::Error;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/quantized")
}

/// A stored tensor: type, shape, bytes.
type Stored = (String, Vec<u64>, Vec<u8>);

/// Configuration and tensors of a fixture.
fn parse(data: &[u8]) -> (Value, Vec<(String, Stored)>) {
    let (head, rest) = data.split_first_chunk::<8>().unwrap();
    let (head, data) = rest.split_at(u64::from_le_bytes(*head) as usize);
    let head: Value = serde_json::from_slice(head).unwrap();
    let config = head["__metadata__"]["config"].as_str().unwrap();
    let mut list = Vec::new();
    for (name, t) in head.as_object().unwrap().iter().skip(1) {
        let ints = |v: &Value| {
            v.as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .collect()
        };
        let (shape, at): (Vec<u64>, Vec<u64>) = (ints(&t["shape"]), ints(&t["data_offsets"]));
        let bytes = data[at[0] as usize..at[1] as usize].to_vec();
        let dtype = t["dtype"].as_str().unwrap().to_owned();
        list.push((name.clone(), (dtype, shape, bytes)));
    }
    (serde_json::from_str(config).unwrap(), list)
}

fn load(name: &str) -> (Value, Vec<(String, Stored)>) {
    parse(&std::fs::read(fixtures().join(format!("{name}.safetensors"))).unwrap())
}

/// Writes tensors as a checkpoint of one file, decodes it, and gives the checkpoint back.
fn open(config: &Value, tensors: &[(String, Stored)]) -> Result<(Checkpoint, Option<String>)> {
    open_with(config, &[tensors], &[])
}

fn open_with(
    config: &Value,
    shards: &[&[(String, Stored)]],
    files: &[(&str, Value)],
) -> Result<(Checkpoint, Option<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (i, tensors) in shards.iter().enumerate() {
        let (mut head, mut data) = (serde_json::Map::new(), Vec::new());
        let file = match shards.len() {
            1 => "model.safetensors".to_owned(),
            _ => format!("part-{i}.safetensors"),
        };
        for (name, (dtype, shape, bytes)) in *tensors {
            let at = [data.len(), data.len() + bytes.len()];
            head.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": at}),
            );
            map.insert(name.clone(), json!(file));
            data.extend(bytes);
        }
        let head = serde_json::to_vec(&head).unwrap();
        let all = [&(head.len() as u64).to_le_bytes()[..], &head, &data].concat();
        std::fs::write(dir.path().join(file), all).unwrap();
    }
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    let folder = Folder::new(dir.path());
    let mut checkpoint = Checkpoint::open(&folder)?;
    let decoded = decode(&mut checkpoint, &folder, config)?;
    Ok((checkpoint, decoded.map(|d| d.method)))
}

fn in_config(method: &Value) -> Value {
    json!({ "quantization_config": method })
}

/// All values of a tensor; rows are asked for in the order of `rows`, then put in place.
fn values(checkpoint: &Checkpoint, name: &str, rows: impl Fn(usize) -> usize) -> Result<Vec<f32>> {
    let t = &checkpoint.tensors()[checkpoint.find(name).unwrap()];
    let Some(coded) = &t.coded else {
        panic!("{name} is not decoded")
    };
    let (n, cols) = (t.rows(), t.cols());
    let order: Vec<usize> = (0..n).map(rows).collect();
    let mut read = vec![0.0; n * cols];
    coded.decode.rows(checkpoint.files(), &order, &mut read)?;
    let mut out = vec![0.0; n * cols];
    for (row, line) in order.iter().zip(read.chunks_exact(cols.max(1))) {
        out[row * cols..][..cols].copy_from_slice(line);
    }
    Ok(out)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

/// Largest difference, as a part of the value where that is above 1.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let one = |(a, b): (&f32, &f32)| (a - b).abs() / b.abs().max(1.0);
    a.iter().zip(b).map(one).fold(0.0, f32::max)
}

fn names() -> Vec<String> {
    let files = std::fs::read_dir(fixtures()).unwrap();
    let mut names: Vec<String> = files
        .filter_map(|f| {
            f.unwrap()
                .file_name()
                .to_str()?
                .strip_suffix(".safetensors")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_method_gives_the_values_of_numpy() {
    let names = names();
    assert_eq!(names.len(), 45);
    println!("| fixture | method | shape | max diff |");
    for name in &names {
        let (config, tensors) = load(name);
        let (checkpoint, method) = open(&in_config(&config), &tensors).unwrap();
        let left: Vec<_> = checkpoint
            .tensors()
            .iter()
            .map(|t| t.name.clone())
            .collect();
        assert_eq!(left.len(), 2, "{name}: {left:?}");
        let t = checkpoint
            .tensors()
            .iter()
            .find(|t| t.coded.is_some())
            .unwrap();
        assert!(t.name == "m.x.weight", "{name}: {}", t.name);
        let (_, (_, shape, expected)) = tensors.iter().find(|t| t.0 == "expected").unwrap();
        assert_eq!(t.shape, *shape, "{name}");
        let expected = floats(expected);
        let n = t.rows();
        let found = values(&checkpoint, &t.name, |i| i).unwrap();
        let most = difference(&found, &expected);
        let method = method.unwrap_or("none".into());
        println!("| {name} | {method} | {shape:?} | {most:e} |");
        assert!(most <= 2.4e-7, "{name}: {most}");
        // Any order of rows, and bytes from anywhere, are the same numbers.
        let mixed = values(&checkpoint, &t.name, |i| (i * 7 + 3) % n).unwrap();
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(n % 7 != 0 && same(&mixed, &found), "{name}");
        let i = checkpoint.find(&t.name).unwrap();
        let mut bytes = vec![0; t.range.len() - 12];
        checkpoint.read(i, 8, &mut bytes).unwrap();
        assert!(same(&floats(&bytes), &found[2..found.len() - 1]), "{name}");
    }
}

#[test]
fn parts_may_lie_in_different_shards() {
    for name in [
        "gptq-4bit",
        "bnb-nf4-double",
        "fp8-block",
        "ct-pack4-zero-order",
    ] {
        let (config, tensors) = load(name);
        let shards: Vec<&[(String, Stored)]> = tensors.chunks(1).collect();
        let (checkpoint, _) = open_with(&in_config(&config), &shards, &[]).unwrap();
        let expected = &tensors.iter().find(|t| t.0 == "expected").unwrap().1.2;
        let found = values(&checkpoint, "m.x.weight", |i| i).unwrap();
        assert!(difference(&found, &floats(expected)) <= 2.4e-7, "{name}");
    }
}

#[test]
fn the_configuration_may_stand_in_several_places() {
    let of = |name: &str, config: Value, files: &[(&str, Value)]| {
        let (_, tensors) = load(name);
        open_with(&config, &[&tensors], files).unwrap().1
    };
    let (gptq, _) = load("gptq-4bit");
    let mut unnamed = gptq.clone();
    unnamed.as_object_mut().unwrap().remove("quant_method");
    let nested = json!({ "text_config": in_config(&gptq) });
    assert_eq!(of("gptq-4bit", nested, &[]).unwrap(), "gptq");
    let file = [("quantize_config.json", unnamed)];
    assert_eq!(of("gptq-4bit", json!({}), &file).unwrap(), "gptq");
    let awq = json!({"w_bit": 4, "q_group_size": 32, "zero_point": true, "version": "GEMM"});
    let file = [("quant_config.json", awq)];
    assert_eq!(of("awq-gemm", json!({}), &file).unwrap(), "awq");
    let own = json!({"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]});
    let own = json!({"producer": {"name": "modelopt"}, "quantization": own});
    let file = [("hf_quant_config.json", own)];
    assert_eq!(of("modelopt-nvfp4", json!({}), &file).unwrap(), "modelopt");
    let (old, _) = load("ct-pack4");
    let old = json!({ "compression_config": old });
    assert_eq!(of("ct-pack4", old, &[]).unwrap(), "compressed-tensors");
    let bits = json!({"load_in_4bit": true});
    assert_eq!(
        of("bnb-nf4", in_config(&bits), &[]).unwrap(),
        "bitsandbytes"
    );
    let round =
        json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4});
    assert_eq!(of("gptq-4bit", in_config(&round), &[]).unwrap(), "gptq");
}

#[test]
fn groups_of_modules_have_their_own_bits() {
    let (_, tensors) = load("ct-pack3");
    let scheme =
        |bits: u64| json!({"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32});
    for (target, other) in [
        ("re:.*x$", "Linear"),
        ("m.x", "Linear"),
        ("x", "re:.*"),
        ("Linear", "re:.*y"),
    ] {
        let groups = json!({
            "a": {"targets": [other], "weights": scheme(4)},
            "b": {"targets": [target], "weights": scheme(3)},
        });
        let config = json!({"quant_method": "compressed-tensors", "config_groups": groups});
        let (checkpoint, _) = open(&in_config(&config), &tensors).unwrap();
        let expected = &tensors.iter().find(|t| t.0 == "expected").unwrap().1.2;
        let found = values(&checkpoint, "m.x.weight", |i| i).unwrap();
        assert!(difference(&found, &floats(expected)) <= 2.4e-7, "{target}");
    }
}

#[test]
fn what_is_stored_plain_stays() {
    let plain = (
        "m.norm.weight".to_owned(),
        ("F32".to_owned(), vec![2], vec![0; 8]),
    );
    for name in names() {
        let (config, mut tensors) = load(&name);
        tensors.push(plain.clone());
        let (checkpoint, _) = open(&in_config(&config), &tensors).unwrap();
        let t = &checkpoint.tensors()[checkpoint.find("m.norm.weight").unwrap()];
        assert!(t.coded.is_none(), "{name}");
    }
    // A configuration beside weights that are all plain, and floats of 8 bits in a module that is listed.
    let (config, _) = load("gptq-4bit");
    assert_eq!(
        open(&in_config(&config), &[plain]).unwrap().1.unwrap(),
        "gptq"
    );
    let (_, tensors) = load("fp8-plain");
    let config = json!({"quant_method": "fp8", "modules_to_not_convert": ["m.x"]});
    let (checkpoint, _) = open(&in_config(&config), &tensors).unwrap();
    assert!(values(&checkpoint, "m.x.weight", |i| i).is_ok());
}

#[test]
fn other_methods_are_refused_by_name() {
    let gptq =
        |format: &str| json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": format});
    let ct = |key: &str, value: Value| json!({"quant_method": "compressed-tensors", key: value});
    let cases = [
        (json!({"quant_method": "aqlm"}), "method aqlm"),
        (json!({"quant_method": "torchao"}), "method torchao"),
        (json!({"quant_method": "hqq"}), "method hqq"),
        (json!({"bits": 4, "group_size": 64}), "method mlx"),
        (json!({"quant_method": "EETQ"}), "method eetq"),
        (json!({"quant_method": "quark"}), "method quark"),
        (gptq("marlin"), "method gptq, checkpoint_format marlin"),
        (
            json!({"quant_method": "gptq", "is_marlin_format": true}),
            "method gptq, checkpoint_format marlin",
        ),
        (
            json!({"quant_method": "awq", "version": "gemv_fast"}),
            "method awq, version gemv_fast",
        ),
        (
            json!({"quant_method": "awq", "bits": 8}),
            "method awq, 8 bits",
        ),
        (
            ct("format", json!("marlin-24")),
            "method compressed-tensors, format marlin-24",
        ),
        (
            ct("sparsity_config", json!({"format": "sparse-24-bitmask"})),
            "sparse-24-bitmask",
        ),
        (
            ct("transform_config", json!({"config_groups": {"u": {}}})),
            "transform_config",
        ),
        (
            json!({"quant_method": "modelopt", "quant_algo": "NVFP4_SVD"}),
            "quant_algo NVFP4_SVD",
        ),
        (
            json!({"quant_method": "bitnet", "quantization_mode": "online"}),
            "quantization_mode online",
        ),
        (json!({"quant_method": "auto-round"}), "method auto-round"),
    ];
    for (config, message) in cases {
        let (_, tensors) = load("gptq-4bit");
        let error = open(&in_config(&config), &tensors).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(message) && !text.contains('\n'), "{text}");
        assert!(matches!(error, Error::Unsupported { .. }), "{text}");
    }
}

#[test]
fn signs_of_quantization_without_a_configuration_are_errors() {
    for name in [
        "gptq-4bit",
        "ct-pack4",
        "bnb-nf4",
        "bnb-int8",
        "mxfp4",
        "fp8-tensor",
        "fp8-block",
    ] {
        let (_, tensors) = load(name);
        let error = open(&json!({}), &tensors).err().unwrap().to_string();
        assert!(
            error.contains("quantization_config") && error.contains("m.x."),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_configuration_of_no_sense_is_an_error() {
    let (_, tensors) = load("gptq-4bit");
    for config in [
        json!("gptq"),
        json!([4]),
        json!({"quant_method": 4}),
        json!({"version": "gemm"}),
        json!({"quant_method": "gptq", "bits": "four"}),
        json!({"quant_method": "gptq", "group_size": -2}),
        json!({"quant_method": "fp8", "weight_block_size": [128]}),
        json!({"quant_method": "fp8", "modules_to_not_convert": [1]}),
    ] {
        let error = open(&in_config(&config), &tensors).err().unwrap();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        assert!(error.to_string().contains("config.json"), "{error}");
    }
    // Null and empty ones say nothing.
    let (_, tensors) = load("fp8-plain");
    for config in [Value::Null, json!({})] {
        assert!(open(&in_config(&config), &tensors).unwrap().1.is_none());
    }
}

/// Whether the file is bad.
fn is_bad(e: &Error) -> bool {
    matches!(e, Error::Checkpoint { .. } | Error::NonFinite { .. })
}

/// Breaks one thing and gives the message.
fn broken(name: &str, change: impl FnOnce(&mut Vec<(String, Stored)>)) -> String {
    let (config, mut tensors) = load(name);
    change(&mut tensors);
    let result = open(&in_config(&config), &tensors);
    let error = match result {
        Err(e) => e,
        Ok((checkpoint, _)) => values(&checkpoint, "m.x.weight", |i| i).expect_err(name),
    };
    assert!(is_bad(&error), "{error}");
    error.to_string()
}

fn part<'a>(tensors: &'a mut [(String, Stored)], end: &str) -> &'a mut Stored {
    &mut tensors.iter_mut().find(|t| t.0.ends_with(end)).unwrap().1
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    // Every part of every fixture: one row less, one column less, gone.
    let mut count = 0;
    for name in names() {
        let (config, tensors) = load(&name);
        for (i, (part, (_, shape, _))) in tensors.iter().enumerate() {
            let activation = ACTIVATIONS.iter().any(|end| part.ends_with(end));
            if part == "expected" || activation {
                continue;
            }
            for dim in 0..=shape.len() {
                let mut tensors = tensors.clone();
                if dim == shape.len() {
                    tensors.remove(i);
                } else {
                    let (_, shape, bytes) = &mut tensors[i].1;
                    let size = bytes.len() / shape.iter().product::<u64>().max(1) as usize;
                    shape[dim] += 1;
                    bytes.resize(shape.iter().product::<u64>() as usize * size, 1);
                }
                count += 1;
                // Some changes leave a valid checkpoint (an optional part, another number of rows).
                if let Ok((checkpoint, _)) = open(&in_config(&config), &tensors)
                    && checkpoint
                        .find("m.x.weight")
                        .is_some_and(|i| checkpoint.tensors()[i].coded.is_some())
                {
                    values(&checkpoint, "m.x.weight", |i| i).ok();
                }
            }
        }
    }
    assert!(count > 300, "{count}");
    let message = broken("fp8-block", |t| part(t, "weight_scale_inv").1 = vec![5, 3]);
    assert!(
        message.contains("m.x.weight_scale_inv: shape is [5, 3]"),
        "{message}"
    );
    let message = broken("ct-float-channel", |t| {
        *part(t, "weight_scale") = ("BF16".into(), vec![7, 1], vec![0; 14]);
    });
    assert!(
        message.contains("m.x.weight_scale: shape is [7, 1]"),
        "{message}"
    );
    let message = broken("awq-gemm", |t| {
        *part(t, "qzeros") = ("I32".into(), vec![3, 3], vec![0; 36]);
    });
    assert!(message.contains("m.x.qzeros: shape is [3, 3]"), "{message}");
    let message = broken("gptq-4bit", |t| part(t, "qzeros").0 = "F32".into());
    assert!(message.contains("m.x.qzeros: dtype is F32"), "{message}");
    let message = broken("bnb-nf4", |t| {
        *part(t, "absmax") = ("F32".into(), vec![9], vec![0; 36]);
    });
    assert!(
        message.contains("m.x.weight.absmax: shape is [9]"),
        "{message}"
    );
    let message = broken("ct-pack4", |t| part(t, "weight_shape").2[8] = 200);
    assert!(
        message.contains("m.x.weight_shape") || message.contains("m.x.weight_packed"),
        "{message}"
    );
}

/// Other types, no rows, no columns, and other bytes: an error or numbers, never a panic.
#[test]
fn tensors_of_another_kind_are_errors_or_numbers() {
    const TYPES: [(&str, usize); 9] = [
        ("F32", 4),
        ("BF16", 2),
        ("F16", 2),
        ("I64", 8),
        ("I32", 4),
        ("I8", 1),
        ("U8", 1),
        ("F8_E4M3", 1),
        ("F8_E8M0", 1),
    ];
    let (mut refused, mut read) = (0, 0);
    let mut try_it = |config: &Value, tensors: &[(String, Stored)]| {
        let found = open(&in_config(config), tensors).and_then(|(checkpoint, _)| {
            let i = checkpoint
                .find("m.x.weight")
                .filter(|&i| checkpoint.tensors()[i].coded.is_some());
            i.map(|_| values(&checkpoint, "m.x.weight", |i| i))
                .transpose()
        });
        match found {
            Err(e) => {
                refused += 1;
                assert!(is_bad(&e) || matches!(e, Error::Unsupported { .. }), "{e}");
            }
            Ok(_) => read += 1,
        }
    };
    for name in names() {
        let (config, tensors) = load(&name);
        for i in 0..tensors.len() {
            for (dtype, size) in TYPES {
                let mut tensors = tensors.clone();
                let (kind, shape, bytes) = &mut tensors[i].1;
                *kind = dtype.into();
                bytes.resize(shape.iter().product::<u64>() as usize * size, 7);
                try_it(&config, &tensors);
                tensors[i].1.2.fill(0xFF);
                try_it(&config, &tensors);
            }
            for dim in 0..tensors[i].1.1.len() {
                let mut tensors = tensors.clone();
                tensors[i].1.1[dim] = 0;
                tensors[i].1.2.clear();
                try_it(&config, &tensors);
                tensors[i].1.1.clear();
                tensors[i].1.2 = vec![
                    1;
                    TYPES
                        .iter()
                        .find(|t| t.0 == tensors[i].1.0)
                        .map_or(1, |t| t.1)
                ];
                try_it(&config, &tensors);
            }
        }
    }
    println!("{refused} refused, {read} read");
    assert!(refused > 1000 && read > 500, "{refused} {read}");
}

#[test]
fn scales_may_be_powers_of_two_of_their_own_type() {
    let (config, mut tensors) = load("fp8-mx");
    part(&mut tensors, "weight_scale_inv").0 = "F8_E8M0".into();
    let (checkpoint, _) = open(&in_config(&config), &tensors).unwrap();
    let expected = &tensors.iter().find(|t| t.0 == "expected").unwrap().1.2;
    let found = values(&checkpoint, "m.x.weight", |i| i).unwrap();
    assert_eq!(found, floats(expected));
    // One for the whole matrix.
    for dtype in ["F8_E8M0", "U8"] {
        *part(&mut tensors, "weight_scale_inv") = (dtype.into(), vec![1], vec![129]);
        let (checkpoint, _) = open(&in_config(&config), &tensors).unwrap();
        let codes = &tensors.iter().find(|t| t.0 == "m.x.weight").unwrap().1.2;
        let found = values(&checkpoint, "m.x.weight", |i| i).unwrap();
        let expected: Vec<f32> = codes
            .iter()
            .map(|c| number::Number::E4m3.value(&[*c]) * 4.0)
            .collect();
        assert_eq!(found, expected, "{dtype}");
    }
}

#[test]
fn groups_out_of_range_and_scales_that_are_no_numbers_are_named() {
    let message = broken("gptq-4bit-order", |t| part(t, "g_idx").2[20] = 200);
    assert!(
        message.contains("m.x.g_idx[5] is 200, allowed: 0..4"),
        "{message}"
    );
    let message = broken("gptq-4bit-order", |t| part(t, "g_idx").2.fill(0xFF));
    assert!(message.contains("m.x.g_idx[0] is -1"), "{message}");
    let nan = f32::NAN.to_le_bytes();
    for (name, end, index) in [
        ("fp8-block", "weight_scale_inv", 3),
        ("fp8-tensor", "weight_scale_inv", 0),
        ("ct-int-group", "weight_scale", 7),
        ("bnb-nf4", "absmax", 2),
        ("bnb-nf4-double", "nested_absmax", 1),
        ("ct-nvfp4", "global_scale", 0),
    ] {
        let message = broken(name, |t| {
            part(t, end).2[4 * index..][..4].copy_from_slice(&nan)
        });
        let what = format!("{end} at index {index} is NaN");
        assert!(message.contains(&what), "{name}: {message}");
    }
    let message = broken("mxfp4", |t| part(t, "scales").2[9] = 255);
    assert!(
        message.contains("m.x.weight_scales at index 9 is NaN"),
        "{message}"
    );
    let message = broken("bitnet", |t| part(t, "weight_scale").2.fill(0));
    assert!(message.contains("m.x.weight_scale is 0"), "{message}");
}

#[test]
fn states_of_bitsandbytes_are_checked() {
    let state = |text: &str| {
        broken("bnb-nf4", |t| {
            let bytes = text.as_bytes().to_vec();
            *part(t, "quant_state.bitsandbytes__nf4") =
                ("U8".into(), vec![bytes.len() as u64], bytes);
        })
    };
    assert!(state("{").contains("malformed"));
    assert!(state(r#"{"blocksize": 64}"#).contains("shape is absent"));
    assert!(state(r#"{"blocksize": 64, "shape": [16, -40]}"#).contains("shape is [16,-40]"));
    assert!(state(r#"{"blocksize": 0, "shape": [16, 40]}"#).contains("blocksize is 0"));
    assert!(
        state(r#"{"blocksize": 64, "shape": [1099511627776, 1099511627776]}"#).contains("2^48")
    );
    assert!(state(r#"{"blocksize": 64, "shape": [16, 41]}"#).contains("328 bytes"));
}
