//! Files and folders that are something else than what was asked for.

use super::{Case, all, fixture, scratch};

const POINTER: &[u8] =
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n";
const PAGE: &[u8] =
    b"<!DOCTYPE html>\n<html class=\"\"><head><title>Hugging Face</title></head></html>\n";

fn file(name: &str, bytes: &[u8]) {
    let path = scratch().join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}

/// A ZIP archive as far as its first entry's name.
fn zip(entry: &str) -> Vec<u8> {
    let mut zip = b"PK\x03\x04".to_vec();
    zip.resize(26, 0);
    zip.extend((entry.len() as u16).to_le_bytes());
    zip.extend([0, 0]);
    zip.extend(entry.as_bytes());
    zip
}

/// Metadata of strings, no tensors.
fn gguf(keys: &[(&str, &str)], tensor: bool) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(u64::from(tensor).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        bytes.extend([text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat());
    }
    if tensor {
        bytes.extend(text("a.weight"));
        bytes.extend(
            [
                1u32.to_le_bytes().to_vec(),
                8u64.to_le_bytes().to_vec(),
                0u32.to_le_bytes().to_vec(),
                0u64.to_le_bytes().to_vec(),
            ]
            .concat(),
        );
        bytes.resize(bytes.len().next_multiple_of(32) + 32, 0);
    }
    bytes
}

#[test]
fn files_given_to_geb_run() {
    let cut = std::fs::read(scratch().join("m.gguf")).expect("a model");
    for (name, bytes) in [
        ("lfs.gguf", POINTER.to_vec()),
        ("page.gguf", PAGE.to_vec()),
        (
            "denied.gguf",
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code></Error>"
                .to_vec(),
        ),
        (
            "json.gguf",
            b"{\"error\":\"Invalid username or password.\"}".to_vec(),
        ),
        ("entry.gguf", b"Entry not found".to_vec()),
        ("empty.gguf", Vec::new()),
        ("zeros.gguf", vec![0; 4096]),
        ("cut.gguf", cut[..cut.len() / 2].to_vec()),
        ("cut.gguf.part", cut[..cut.len() / 2].to_vec()),
        ("cut.gguf.incomplete", cut[..cut.len() / 2].to_vec()),
        ("cut.gguf.crdownload", cut[..100].to_vec()),
        ("aria.gguf", cut[..cut.len() / 2].to_vec()),
        ("aria.gguf.aria2", b"\0\x01\0\0\0\0".to_vec()),
        ("noise.bin", b"\x91\xff\x03".repeat(20)),
        ("pytorch_model.bin", zip("archive/data.pkl")),
        (
            "old.pt",
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
        ),
        ("v.pth", zip("v/data.pkl")),
        ("c.ckpt", b"\x91\xff\x03".repeat(20)),
        ("m.onnx", b"\x08\x08\x12\x07pytorch\x1a\x050.1.0".to_vec()),
        ("m.llamafile", b"MZqFpD='\n\n".to_vec()),
        ("m.safetensors", b"\x0a\0\0\0\0\0\0\0{\"a\":{}}  ".to_vec()),
        (
            "m.tflite",
            b"\x1c\0\0\0TFL3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        ("m.mlmodel", b"\x91\xff\x03".repeat(20)),
        (
            "m.h5",
            b"\x89HDF\r\n\x1a\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        ("m.zip", zip("m.gguf")),
        (
            "m.tar.gz",
            b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        (
            "m.gguf.zst",
            b"\x28\xb5\x2f\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        (
            "ggml-model-q4_0.bin",
            b"tjgg\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        (
            "big.gguf",
            b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0".to_vec(),
        ),
        (
            "config.json",
            b"{\"model_type\": \"llama\", \"hidden_size\": 64}".to_vec(),
        ),
        ("README.md", b"# A model card with some text in it".to_vec()),
        (
            "Modelfile",
            b"FROM ./model.gguf\nPARAMETER temperature 1\n".to_vec(),
        ),
        (
            "lora.gguf",
            gguf(
                &[
                    ("general.type", "adapter"),
                    ("general.architecture", "llama"),
                ],
                true,
            ),
        ),
        (
            "mmproj.gguf",
            gguf(&[("general.architecture", "clip")], true),
        ),
        ("matrix.gguf", gguf(&[("general.type", "imatrix")], true)),
        (
            "vocab.gguf",
            gguf(&[("general.architecture", "llama")], false),
        ),
    ] {
        file(&format!("f/{name}"), &bytes);
    }
    all(
        "Files given to geb-run",
        &[
            Case(
                "geb-run chat f/lfs.gguf",
                &["f/lfs.gguf is a Git LFS pointer", "git lfs pull"],
                3,
            ),
            Case(
                "geb-run chat f/page.gguf",
                &["f/page.gguf is an HTML page", "login"],
                3,
            ),
            Case(
                "geb-run chat f/denied.gguf",
                &["f/denied.gguf is an XML document"],
                3,
            ),
            Case(
                "geb-run chat f/json.gguf",
                &["f/json.gguf is an error message of a server"],
                3,
            ),
            Case(
                "geb-run chat f/entry.gguf",
                &["f/entry.gguf is an error message of a server"],
                3,
            ),
            Case(
                "geb-run chat f/empty.gguf",
                &["f/empty.gguf is empty", "download it again"],
                3,
            ),
            Case(
                "geb-run chat f/zeros.gguf",
                &["f/zeros.gguf is nothing but zero bytes"],
                3,
            ),
            Case(
                "geb-run chat f/cut.gguf",
                &["f/cut.gguf", "damaged or cut off"],
                3,
            ),
            Case(
                "geb-run chat f/cut.gguf.part",
                &["f/cut.gguf.part is an unfinished download"],
                3,
            ),
            Case(
                "geb-run chat f/cut.gguf.incomplete",
                &["f/cut.gguf.incomplete is an unfinished download"],
                3,
            ),
            Case(
                "geb-run chat f/cut.gguf.crdownload",
                &["f/cut.gguf.crdownload is an unfinished download"],
                3,
            ),
            Case(
                "geb-run chat f/aria.gguf",
                &["f/aria.gguf is an unfinished download"],
                3,
            ),
            Case(
                "geb-run chat f/aria.gguf.aria2",
                &["f/aria.gguf.aria2 is an unfinished download"],
                3,
            ),
            Case(
                "geb-run chat f/pytorch_model.bin",
                &[
                    "f/pytorch_model.bin is a PyTorch checkpoint",
                    "geb-quantize",
                ],
                3,
            ),
            Case(
                "geb-run chat f/noise.bin",
                &["f/noise.bin is a PyTorch checkpoint"],
                3,
            ),
            Case(
                "geb-run chat f/old.pt",
                &["f/old.pt is a PyTorch checkpoint"],
                3,
            ),
            Case(
                "geb-run chat f/v.pth",
                &["f/v.pth is a PyTorch checkpoint"],
                3,
            ),
            Case(
                "geb-run chat f/c.ckpt",
                &["f/c.ckpt is a PyTorch checkpoint"],
                3,
            ),
            Case(
                "geb-run chat f/m.onnx",
                &["f/m.onnx is an ONNX model", "original checkpoint"],
                3,
            ),
            Case(
                "geb-run chat f/m.llamafile",
                &["f/m.llamafile is a llamafile", "unzip"],
                3,
            ),
            Case(
                "geb-run chat f/m.safetensors",
                &["f/m.safetensors is a safetensors file", "geb-quantize"],
                3,
            ),
            Case(
                "geb-run chat f/m.tflite",
                &["f/m.tflite is a TensorFlow Lite model"],
                3,
            ),
            Case(
                "geb-run chat f/m.mlmodel",
                &["f/m.mlmodel is a Core ML model"],
                3,
            ),
            Case("geb-run chat f/m.h5", &["f/m.h5 is an HDF5 file"], 3),
            Case(
                "geb-run chat f/m.zip",
                &["f/m.zip is a ZIP archive", "unpack"],
                3,
            ),
            Case(
                "geb-run chat f/m.tar.gz",
                &["f/m.tar.gz is a gzip archive", "unpack"],
                3,
            ),
            Case(
                "geb-run chat f/m.gguf.zst",
                &["f/m.gguf.zst is a Zstandard archive"],
                3,
            ),
            Case(
                "geb-run chat f/ggml-model-q4_0.bin",
                &["a GGML file from before GGUF"],
                3,
            ),
            Case(
                "geb-run chat f/big.gguf",
                &["f/big.gguf is a GGUF file for big-endian machines"],
                3,
            ),
            Case(
                "geb-run chat f/config.json",
                &["f/config.json is a JSON file", "geb-quantize"],
                3,
            ),
            Case(
                "geb-run chat f/README.md",
                &["f/README.md is a text file"],
                3,
            ),
            Case(
                "geb-run chat f/Modelfile",
                &["f/Modelfile is a Modelfile of ollama", "FROM"],
                3,
            ),
            Case(
                "geb-run chat f/lora.gguf",
                &["f/lora.gguf is an adapter (LoRA), not a model", "lora"],
                4,
            ),
            Case(
                "geb-run chat f/mmproj.gguf",
                &["f/mmproj.gguf is the image or sound encoder"],
                4,
            ),
            Case(
                "geb-run chat f/matrix.gguf",
                &["f/matrix.gguf is an importance matrix"],
                4,
            ),
            Case(
                "geb-run chat f/vocab.gguf",
                &["f/vocab.gguf is a vocabulary without weights"],
                4,
            ),
            Case(
                "geb-run bench -m f/lora.gguf",
                &["f/lora.gguf is an adapter"],
                4,
            ),
            Case(
                "geb-run generate -m m.gguf --lora f/lfs.gguf -p x",
                &["f/lfs.gguf is a Git LFS pointer"],
                3,
            ),
            Case(
                "geb-run generate -m m.gguf --draft f/page.gguf -p x",
                &["f/page.gguf is an HTML page"],
                3,
            ),
            Case(
                "geb-run compare f/lfs.gguf",
                &["f/lfs.gguf is a Git LFS pointer"],
                3,
            ),
            Case(
                "geb-quantize f/lfs.gguf o.gguf",
                &["f/lfs.gguf is a Git LFS pointer", "git lfs pull"],
                3,
            ),
            Case(
                "geb-quantize f/page.gguf o.gguf",
                &["f/page.gguf is an HTML page"],
                3,
            ),
            Case(
                "geb-quantize f/m.onnx o.gguf",
                &["f/m.onnx is an ONNX model"],
                3,
            ),
            Case(
                "geb-quantize f/matrix.gguf o.gguf",
                &["f/matrix.gguf is an importance matrix"],
                4,
            ),
            Case(
                "geb-quantize f/lora.gguf o.gguf",
                &["f/lora.gguf is an adapter", "geb-quantize merge"],
                4,
            ),
            Case(
                "geb-quantize verify f/page.gguf",
                &["f/page.gguf is an HTML page"],
                3,
            ),
            Case(
                "geb-quantize m.gguf o.gguf --imatrix f/lfs.gguf",
                &["f/lfs.gguf is a Git LFS pointer"],
                3,
            ),
        ],
    );
}

/// A copy of a fixture in which one file is something else.
fn folder(name: &str, case: &str, replaced: &str, bytes: &[u8]) {
    let to = scratch().join(name);
    std::fs::create_dir_all(&to).expect("a folder");
    for entry in std::fs::read_dir(fixture(case))
        .expect("a fixture")
        .flatten()
    {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
    if !replaced.is_empty() {
        std::fs::write(to.join(replaced), bytes).expect("a file");
    }
}

#[test]
fn folders() {
    for (name, case, replaced, bytes) in [
        ("d/whole", "qwen2", "", POINTER),
        ("d/weights", "qwen2", "model.safetensors", POINTER),
        ("d/config", "qwen2", "config.json", POINTER),
        ("d/tokenizer", "qwen2", "tokenizer.json", POINTER),
        ("d/pieces", "llama", "tokenizer.model", POINTER),
        ("d/page", "qwen2", "config.json", PAGE),
        (
            "d/error",
            "qwen2",
            "tokenizer.json",
            b"{\"error\": \"Access to model x is restricted\"}",
        ),
        ("d/torch", "llama-bin", "pytorch_model.bin", POINTER),
        ("d/nothing", "qwen2", "model.safetensors", b""),
        (
            "d/disguise",
            "qwen2",
            "model.safetensors",
            b"GGUF\x03\0\0\0",
        ),
    ] {
        folder(name, case, replaced, bytes);
    }
    let model = std::fs::read(scratch().join("m.gguf")).expect("a model");
    file("one/model.gguf", &model);
    file("one/mmproj-model.gguf", &model);
    file("many/a.gguf", &model);
    file("many/b.gguf", &model);
    file("none/notes.txt", b"x");
    file("adapter/adapter_config.json", b"{}");
    file("adapter/adapter_model.safetensors", b"");
    file("weights-only/model.safetensors", b"");
    all(
        "Folders",
        &[
            Case(
                "geb-run chat d/whole",
                &[
                    "d/whole is a checkpoint folder",
                    "geb-quantize d/whole model.gguf",
                ],
                1,
            ),
            Case(
                "geb-run chat weights-only",
                &["weights-only is a checkpoint folder"],
                1,
            ),
            Case("geb-run generate -m one --raw -p a -n 1 -q", &[], 0),
            Case(
                "geb-run chat many",
                &["many holds 2 GGUF files", "many/a.gguf"],
                2,
            ),
            Case(
                "geb-run chat none",
                &["none is a folder without a GGUF file"],
                1,
            ),
            Case(
                "geb-run chat adapter",
                &["adapter is an adapter (LoRA)", "geb-quantize adapter"],
                1,
            ),
            Case("geb-quantize adapter-folder o.gguf", &["adapter-folder"], 1),
            Case(
                "geb-quantize ./adapter o.gguf",
                &["adapter is an adapter (LoRA), not a checkpoint"],
                4,
            ),
            Case(
                "geb-quantize d/weights o.gguf",
                &[
                    "d/weights/model.safetensors is a Git LFS pointer",
                    "git lfs pull",
                ],
                3,
            ),
            Case(
                "geb-quantize d/config o.gguf",
                &["d/config/config.json is a Git LFS pointer"],
                3,
            ),
            Case(
                "geb-quantize d/tokenizer o.gguf",
                &["d/tokenizer/tokenizer.json is a Git LFS pointer"],
                3,
            ),
            Case(
                "geb-quantize d/pieces o.gguf",
                &["d/pieces/tokenizer.model is a Git LFS pointer"],
                3,
            ),
            Case(
                "geb-quantize d/page o.gguf",
                &["d/page/config.json is an HTML page"],
                3,
            ),
            Case(
                "geb-quantize d/error o.gguf",
                &["d/error/tokenizer.json is an error message of a server"],
                3,
            ),
            Case(
                "geb-quantize d/torch o.gguf",
                &["d/torch/pytorch_model.bin is a Git LFS pointer"],
                3,
            ),
            Case(
                "geb-quantize d/nothing o.gguf",
                &["d/nothing/model.safetensors is empty"],
                3,
            ),
            Case(
                "geb-quantize d/whole/model.safetensors o.gguf --type q8_0",
                &["the whole checkpoint folder is converted: d/whole"],
                0,
            ),
            Case(
                "geb-quantize d/whole/config.json o.gguf --type q8_0",
                &["the whole checkpoint folder is converted"],
                0,
            ),
            Case("geb-quantize f2.safetensors o.gguf", &["f2.safetensors"], 1),
            Case(
                "geb-quantize d/missing o.gguf",
                &["d/missing", "No such file"],
                1,
            ),
        ],
    );
    assert!(scratch().join("o.gguf").is_file());
}
