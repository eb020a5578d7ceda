//! Quantized checkpoints as source: the tensors of a Linear become one matrix of floats, whose rows are
//! decoded when they are read. What comes after sees an ordinary checkpoint.
//!
//! ```text
//! quantization_config -> method -> reader
//! each stored tensor -> reader -> matrix [outputs, inputs], the tensors it is made of leave the list
//! rows: codes -> (code - zero) * scale -> f32
//! ```
//! Layers that are stored plain stay as they are.

mod awq;
mod bitnet;
mod bnb;
mod compressed;
mod floats;
mod gptq;
mod grid;
mod modelopt;
mod mxfp4;
mod number;
mod parts;
mod reader;
mod table;
#[cfg(test)]
mod tests;

use geb_kernels::dtype::Dtype;
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::folder::{Fields, Folder, bad, short};
use super::tensor::{Elem, SourceTensor, byte_count};
use geb::error::Result;
use parts::Parts;
use reader::{Config, Found, Reader, unsupported};

/// A method by its names, and what reads it.
type Method = (
    &'static [&'static str],
    fn(&Config<'_>) -> Result<Box<dyn Reader>>,
);

const METHODS: &[Method] = &[
    (&["fp8", "mxfp8", "fbgemm_fp8"], floats::Floats::open),
    (
        &["compressed-tensors", "compressed_tensors"],
        compressed::Compressed::open,
    ),
    (
        &["modelopt", "modelopt_fp4", "modelopt_mixed"],
        modelopt::ModelOpt::open,
    ),
    (&["gptq"], gptq::Gptq::open),
    (&["awq"], awq::Awq::open),
    (
        &["bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"],
        bnb::Bnb::open,
    ),
    (&["mxfp4"], mxfp4::Mxfp4::open),
    (&["bitnet"], bitnet::Bitnet::open),
];

/// Files beside config.json that say how a checkpoint was quantized, and what they speak of if they do not
/// name it.
const FILES: [(&str, &str); 3] = [
    ("quantize_config.json", "gptq"),
    ("quant_config.json", "awq"),
    ("hf_quant_config.json", "modelopt"),
];

/// Tensors of a quantized Linear or of a cache that are about activations, by the ends of their names.
const ACTIVATIONS: [&str; 16] = [
    ".input_scale",
    "_input_scale",
    ".input_scale_ub",
    ".input_global_scale",
    ".input_zero_point",
    ".activation_scale",
    "_activation_scale",
    ".output_scale",
    ".output_zero_point",
    ".weight_format",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".kv_scale",
    ".k_zero_point",
    ".v_zero_point",
];

/// Ends of names that only quantized checkpoints have.
const MARKS: [&str; 5] = [".qweight", ".weight_packed", ".absmax", ".SCB", "_blocks"];

/// What a checkpoint was.
pub(super) struct Decoded {
    /// Name of the method.
    pub method: String,
    /// One line about it.
    pub note: String,
}

/// Replaces the tensors of quantized matrices by the matrices; says what they were.
///
/// # Errors
/// [`geb::Error::Unsupported`] naming the method; [`geb::Error::Checkpoint`] naming tensor and sizes.
pub(super) fn decode(
    checkpoint: &mut Checkpoint,
    folder: &Folder,
    config: &Value,
) -> Result<Option<Decoded>> {
    let beside = |name| folder.json(name);
    let mut value = inside(config).cloned().map(|v| ("config.json", v, ""));
    for (file, method) in FILES {
        if value.is_none() {
            value = beside(file)?.map(|v| (file, v, method));
        }
    }
    let Some((file, value, unnamed)) = value else {
        plain(checkpoint)?;
        return Ok(None);
    };
    let value = value
        .get("quantization")
        .filter(|v| v.is_object())
        .unwrap_or(&value);
    if !value.is_object() {
        let value = short(value);
        return Err(bad(file, "quantization_config", value, "an object"));
    }
    let fields = Fields { file, value };
    let method = method_of(fields, unnamed)?;
    let config = Config {
        file,
        method: &method,
        fields,
    };
    let Some((_, open)) = METHODS.iter().find(|m| m.0.contains(&method.as_str())) else {
        return Err(unsupported(method));
    };
    let count = replace(checkpoint, &*open(&config)?)?;
    let note = match count {
        0 => format!("{file} says {method}, but all weights are plain"),
        n => format!("{n} matrices were {method} and are decoded to F32 first"),
    };
    Ok(Some(Decoded { method, note }))
}

/// `quantization_config`, of the model or of its text part.
fn inside(config: &Value) -> Option<&Value> {
    const NAMES: [&str; 3] = ["quantization_config", "compression_config", "quantization"];
    let empty = |v: &Value| v.is_null() || v.as_object().is_some_and(|o| o.is_empty());
    let own = |v: &'_ Value| {
        NAMES
            .into_iter()
            .find(|n| v.get(n).is_some_and(|v| !empty(v)))
    };
    if let Some(name) = own(config) {
        return config.get(name);
    }
    let parts = config.as_object()?.values().filter(|v| v.is_object());
    parts.filter_map(|v| v.get(own(v)?)).next()
}

/// The name of the method; `unnamed` is that of the file.
fn method_of(fields: Fields<'_>, unnamed: &str) -> Result<String> {
    let has = |name: &str| fields.value.get(name).is_some_and(|v| !v.is_null());
    let named = fields.str(&["quant_method"])?;
    let method = match named {
        Some("auto-round" | "intel/auto-round") => {
            let format = fields.str(&["packing_format"])?.unwrap_or("auto_round");
            match format {
                "auto_round:auto_gptq" => "gptq",
                "auto_round:auto_awq" => "awq",
                other => return Err(unsupported(format!("auto-round, packing_format {other}"))),
            }
        }
        Some(name) => name,
        None if has("load_in_4bit") || has("load_in_8bit") => "bitsandbytes",
        None if has("config_groups") => "compressed-tensors",
        None if has("quant_algo") => "modelopt",
        None if !unnamed.is_empty() => unnamed,
        None if has("desc_act") || has("sym") => "gptq",
        None if has("zero_point") => "awq",
        None if has("group_size") && has("bits") => "mlx",
        None => {
            let allowed = "the name of the method";
            return Err(bad(
                fields.file,
                "quantization_config.quant_method",
                "absent",
                allowed,
            ));
        }
    };
    Ok(method.to_lowercase())
}

/// Without a configuration: floats of 8 bits are cast; other signs of quantization are errors.
fn plain(checkpoint: &mut Checkpoint) -> Result<()> {
    for t in checkpoint.tensors() {
        if MARKS.iter().any(|end| t.name.ends_with(end)) {
            let allowed = format!("the method that {} was made with", t.name);
            return Err(bad("config.json", "quantization_config", "absent", allowed));
        }
    }
    replace(checkpoint, &floats::Plain).map(|_| ())
}

/// Puts the matrices a reader finds in the place of the tensors they are made of; how many there are.
fn replace(checkpoint: &mut Checkpoint, reader: &dyn Reader) -> Result<usize> {
    let parts = Parts::new(checkpoint);
    let mut matrices = Vec::new();
    for (i, t) in checkpoint.tensors().iter().enumerate() {
        if parts.is_taken(i) {
            continue;
        }
        if let Some(found) = reader.read(&parts, t)? {
            parts.take(&t.name);
            matrices.push((i, tensor(&parts, t, found)?));
        }
    }
    let count = matrices.len();
    if count == 0 {
        return Ok(0);
    }
    let mut matrices = matrices.into_iter().peekable();
    let mut list = Vec::new();
    for (i, t) in checkpoint.tensors().iter().enumerate() {
        if let Some((_, matrix)) = matrices.next_if(|m| m.0 == i) {
            list.push(matrix);
        } else if !parts.is_taken(i) && !ACTIVATIONS.iter().any(|end| t.name.ends_with(end)) {
            list.push(t.clone());
        }
    }
    checkpoint.set_tensors(list)?;
    Ok(count)
}

fn tensor(parts: &Parts<'_>, t: &SourceTensor, found: Found) -> Result<SourceTensor> {
    let Found { name, shape, coded } = found;
    let bytes = byte_count(parts.file(t), &name, &shape, 4)?;
    Ok(SourceTensor {
        name,
        elem: Elem::Float(Dtype::F32),
        shape,
        file: t.file,
        range: 0..bytes as usize,
        coded: Some(coded),
    })
}
