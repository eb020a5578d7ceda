//! The table of kinds, and how each is recognised.

use std::path::Path;

/// A kind of file that is no model, or a model of another program.
#[derive(Debug)]
pub struct Kind {
    /// Completes "FILE is".
    pub name: &'static str,
    /// What to do next.
    pub advice: &'static str,
    /// A good file of another use, not a bad one.
    pub good: bool,
    seen: Seen,
    /// How names of such files end, in small letters.
    ends: &'static [&'static str],
}

/// How a kind is recognised by its bytes.
#[derive(Debug)]
enum Seen {
    /// These bytes at this offset.
    At(usize, &'static [u8]),
    /// Any of these at the start.
    Start(&'static [&'static [u8]]),
    /// A text that begins like one of these, in any case of letters, behind white space.
    Text(&'static [&'static str]),
    /// The whole file, or its first [`HEAD_BYTES`].
    By(fn(&[u8]) -> bool),
    /// By its name only.
    Name,
}

/// Bytes that are looked at.
const HEAD_BYTES: usize = 4096;

const fn kind(
    name: &'static str,
    seen: Seen,
    ends: &'static [&'static str],
    advice: &'static str,
) -> Kind {
    Kind {
        name,
        advice,
        good: false,
        seen,
        ends,
    }
}

use Seen::{At, By, Name, Start, Text};

const AGAIN: &str = "download it again";
const LOGIN: &str = "a server answered so instead of sending the file: the address is wrong, or the model asks for a \
                     login; download it again";
const FOLDER: &str =
    "geb-quantize converts the folder that it is in: geb-quantize FOLDER model.gguf";
const ORIGINAL: &str = "convert the original checkpoint (safetensors or PyTorch) with geb-quantize, or get a GGUF file \
                        of the model";
const UNPACK: &str = "unpack it first";
const UNFINISHED: &str = "an unfinished download";
const WAIT: &str = "let the download end, or start it again";

/// What stands in the place of any file when a download went wrong.
const ANSWERS: &[Kind] = &[
    kind("empty", By(<[u8]>::is_empty), &[], AGAIN),
    kind(
        "a Git LFS pointer",
        Text(&[
            "version https://git-lfs.github.com/spec/",
            "version https://hawser.github.com/spec/",
        ]),
        &[],
        "it only says where the file is: run `git lfs pull` in its folder, or download the file itself",
    ),
    kind(
        "an HTML page",
        Text(&["<!doctype html", "<html", "<head", "<body"]),
        &[],
        LOGIN,
    ),
    kind("an XML document", Text(&["<?xml", "<error>"]), &[], LOGIN),
    kind(
        "an error message of a server",
        By(is_server_error),
        &[],
        LOGIN,
    ),
    kind(
        "nothing but zero bytes",
        By(is_zeros),
        &[],
        "its download did not end, or its disk is damaged: download it again",
    ),
];

/// Files of other programs, and files beside models.
const OTHERS: &[Kind] = &[
    kind(
        "a GGUF file for big-endian machines",
        By(is_big_endian),
        &[],
        "get the little-endian file, or convert the original checkpoint with geb-quantize",
    ),
    kind(
        "a GGML file from before GGUF (2023)",
        Start(&[
            b"lmgg", b"fmgg", b"tjgg", b"algg", b"nsgg", b"qsgg", b"ggml", b"ggmf", b"ggjt",
            b"ggla",
        ]),
        &[".ggml", ".ggmf", ".ggjt"],
        ORIGINAL,
    ),
    kind(
        "a llamafile",
        Start(&[b"MZqFpD", b"jartsr"]),
        &[".llamafile"],
        "a llamafile is a ZIP archive too: unzip the GGUF file out of it",
    ),
    kind(
        "a program",
        Start(&[b"\x7fELF", b"MZ", b"#!", b"\xcf\xfa\xed\xfe"]),
        &[".exe"],
        "name a GGUF file",
    ),
    kind(
        "a safetensors file",
        By(is_safetensors),
        &[".safetensors"],
        FOLDER,
    ),
    kind(
        "a TensorFlow Lite model",
        At(4, b"TFL3"),
        &[".tflite"],
        ORIGINAL,
    ),
    kind(
        "an HDF5 file (Keras)",
        Start(&[b"\x89HDF\r\n\x1a\n"]),
        &[".h5", ".hdf5", ".keras"],
        ORIGINAL,
    ),
    kind("an ONNX model", By(is_onnx), &[".onnx", ".ort"], ORIGINAL),
    kind(
        "a Core ML model",
        Name,
        &[".mlmodel", ".mlpackage"],
        ORIGINAL,
    ),
    kind(
        "a PyTorch checkpoint",
        By(is_torch),
        &[".pt", ".pth", ".bin", ".ckpt", ".pkl"],
        FOLDER,
    ),
    kind(
        "a NumPy file",
        Start(&[b"\x93NUMPY"]),
        &[".npy", ".npz"],
        ORIGINAL,
    ),
    kind(
        "a ZIP archive",
        Start(&[b"PK\x03\x04", b"PK\x05\x06"]),
        &[".zip"],
        UNPACK,
    ),
    kind(
        "a gzip archive",
        Start(&[b"\x1f\x8b"]),
        &[".gz", ".tgz"],
        UNPACK,
    ),
    kind(
        "an xz archive",
        Start(&[b"\xfd7zXZ\0"]),
        &[".xz", ".txz"],
        UNPACK,
    ),
    kind(
        "a Zstandard archive",
        Start(&[b"\x28\xb5\x2f\xfd"]),
        &[".zst", ".tzst"],
        UNPACK,
    ),
    kind(
        "a bzip2 archive",
        Start(&[b"BZh"]),
        &[".bz2", ".tbz"],
        UNPACK,
    ),
    kind(
        "an LZ4 archive",
        Start(&[b"\x04\x22\x4d\x18"]),
        &[".lz4"],
        UNPACK,
    ),
    kind(
        "a 7z archive",
        Start(&[b"7z\xbc\xaf\x27\x1c"]),
        &[".7z"],
        UNPACK,
    ),
    kind(
        "a RAR archive",
        Start(&[b"Rar!\x1a\x07"]),
        &[".rar"],
        UNPACK,
    ),
    kind("a tar archive", At(257, b"ustar"), &[".tar"], UNPACK),
    kind(
        "a PDF document",
        Start(&[b"%PDF"]),
        &[".pdf"],
        "name a GGUF file",
    ),
    kind(
        UNFINISHED,
        Name,
        &[
            ".part",
            ".partial",
            ".incomplete",
            ".crdownload",
            ".aria2",
            ".download",
            ".opdownload",
            ".!ut",
            ".tmp",
        ],
        WAIT,
    ),
    kind(
        "a Modelfile of ollama",
        Text(&["from ", "# modelfile"]),
        &["modelfile"],
        "name the GGUF file in its line FROM",
    ),
    kind("a JSON file", By(is_json), &[".json"], FOLDER),
    kind(
        "a text file",
        By(is_text),
        &[".txt", ".md"],
        "name a GGUF file, or a checkpoint folder for geb-quantize",
    ),
];

const fn other_use(name: &'static str, advice: &'static str) -> Kind {
    Kind {
        name,
        advice,
        good: true,
        seen: Name,
        ends: &[],
    }
}

pub(super) static ADAPTER: Kind = other_use(
    "an adapter (LoRA)",
    "give the model it was made for, and the adapter beside it (lora), or merge both: geb-quantize merge",
);
pub(super) static MMPROJ: Kind = other_use(
    "the image or sound encoder of a model (mmproj)",
    "name the GGUF file of the language model, which lies beside it as a rule",
);
pub(super) static IMATRIX: Kind = other_use(
    "an importance matrix",
    "geb-quantize takes it beside the checkpoint (imatrix)",
);
pub(super) static CONTROL: Kind = other_use(
    "a control vector",
    "name the GGUF file of the model; control vectors are not supported",
);
pub(super) static VOCAB: Kind = other_use(
    "a vocabulary without weights",
    "geb-run tokenize can use it; for anything else name the GGUF file with the weights",
);

/// What `data`, the beginning of a file or all of it, is according to its bytes.
fn by_bytes<'k>(kinds: &'k [Kind], data: &[u8]) -> Option<&'k Kind> {
    let head = &data[..data.len().min(HEAD_BYTES)];
    kinds.iter().find(|k| match k.seen {
        At(at, bytes) => head.get(at..).is_some_and(|rest| rest.starts_with(bytes)),
        Start(all) => all.iter().any(|bytes| head.starts_with(bytes)),
        Text(all) => all.iter().any(|text| begins(head, text)),
        By(is) => is(data),
        Name => false,
    })
}

fn by_name(path: &Path) -> Option<&'static Kind> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let ends = |k: &&Kind| k.ends.iter().any(|end| name.ends_with(end));
    OTHERS.iter().find(ends)
}

/// What a file is that could not be read as what it should be.
pub fn look(path: &Path, data: &[u8]) -> Option<&'static Kind> {
    let certain = by_bytes(ANSWERS, data).or_else(|| by_bytes(OTHERS, data));
    match certain {
        // Any text may be half a download, any ZIP archive may be something with a name of its own.
        Some(k) if !["a text file", "a ZIP archive"].contains(&k.name) => Some(k),
        vague => by_name(path).or(vague),
    }
}

/// What a file is that ends too early because its download has not ended.
pub(super) fn unfinished(path: &Path) -> Option<&'static Kind> {
    let is_partial = |k: &&'static Kind| k.name == UNFINISHED;
    let kind = OTHERS.iter().find(is_partial)?;
    let own = by_name(path).filter(is_partial).is_some();
    (own || control_file(path).is_some()).then_some(kind)
}

/// In whose place a pointer, a page or nothing was saved.
pub(super) fn answer(data: &[u8]) -> Option<&'static Kind> {
    by_bytes(ANSWERS, data)
}

/// The control file of a download that has not ended, beside the file itself.
pub fn control_file(path: &Path) -> Option<std::path::PathBuf> {
    let beside = |end: &str| {
        let mut name = path.file_name()?.to_owned();
        name.push(end);
        Some(path.with_file_name(name)).filter(|p| p.is_file())
    };
    [".aria2", ".st"].into_iter().find_map(beside)
}

/// Whether a file begins as GGUF does.
pub fn is_gguf(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let mut magic = [0; 4];
    let read =
        std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic));
    read.is_ok() && &magic == b"GGUF"
}

/// Whether a text begins like this, in small letters, behind a byte order mark and white space.
fn begins(head: &[u8], text: &str) -> bool {
    let head = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    head.get(..text.len())
        .is_some_and(|h| h.eq_ignore_ascii_case(text.as_bytes()))
}

/// What model hubs and proxies send: short texts, or a JSON object that is an error.
fn is_server_error(data: &[u8]) -> bool {
    const TEXTS: &[&str] = &[
        "entry not found",
        "repository not found",
        "invalid username or password",
        "access to model ",
        "access denied",
        "not found",
        "404",
        "403",
        "401",
        "unauthorized",
        "forbidden",
        "rate limit",
        "too many requests",
        "bad gateway",
        "502 ",
        "503 ",
        "internal server error",
        "error:",
        "gated repo",
        "upstream ",
    ];
    // An object of these keys alone; `errors` alone is also how a tokenizer says what it does with bad bytes.
    const SAID: &[&str] = &["error", "errors", "message", "detail"];
    const BESIDE: &[&str] = &[
        "status",
        "statusCode",
        "code",
        "type",
        "documentation_url",
        "request_id",
        "path",
        "timestamp",
        "title",
    ];
    if data.len() > HEAD_BYTES {
        return false;
    }
    let json = || serde_json::from_slice::<serde_json::Value>(data).ok();
    let is_error = |v: serde_json::Value| {
        let keys = v
            .as_object()
            .map(|o| o.keys().map(String::as_str).collect::<Vec<_>>());
        keys.is_some_and(|k| {
            k.iter().any(|k| SAID.contains(k))
                && k.iter().all(|k| SAID.contains(k) || BESIDE.contains(k))
        })
    };
    is_text(data) && (TEXTS.iter().any(|t| begins(data, t)) || json().is_some_and(is_error))
}

fn is_zeros(data: &[u8]) -> bool {
    data.len() >= 16 && data[..data.len().min(HEAD_BYTES)].iter().all(|b| *b == 0)
}

fn is_big_endian(data: &[u8]) -> bool {
    let version = || Some(u32::from_be_bytes(data.get(4..8)?.try_into().ok()?));
    data.starts_with(b"FUGG")
        || data.starts_with(b"GGUF") && version().is_some_and(|v| (1..=3).contains(&v))
}

/// Eight bytes of length, then a JSON object.
fn is_safetensors(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first_chunk::<8>() else {
        return false;
    };
    let length = u64::from_le_bytes(*length);
    length < crate::limits::MAX_SAFETENSORS_HEADER && rest.starts_with(b"{")
}

/// A protobuf whose first field is a small version and whose second one is the producer's name.
fn is_onnx(data: &[u8]) -> bool {
    matches!(data, [0x08, 1..=20, 0x12, len, rest @ ..]
        if rest.get(..usize::from(*len)).is_some_and(|name| name.is_ascii() && !name.is_empty()))
}

/// A ZIP archive whose first entry is PyTorch's pickle, or a bare pickle.
fn is_torch(data: &[u8]) -> bool {
    let name = || {
        let len = u16::from_le_bytes(data.get(26..28)?.try_into().ok()?);
        data.get(30..30 + usize::from(len))
    };
    let entry = |n: &[u8]| {
        [
            &b"data.pkl"[..],
            b"/version",
            b"byteorder",
            b".format_version",
        ]
        .iter()
        .any(|e| n.ends_with(e))
    };
    match data {
        [b'P', b'K', 3, 4, ..] => name().is_some_and(entry),
        [0x80, 2..=5, ..] => true,
        _ => false,
    }
}

fn is_json(data: &[u8]) -> bool {
    is_text(data) && (begins(data, "{") || begins(data, "["))
}

/// UTF-8 without control characters, as far as it is looked at.
fn is_text(data: &[u8]) -> bool {
    let head = &data[..data.len().min(HEAD_BYTES)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty() && valid.chars().all(|c| !c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(name: &str, data: &[u8], kind: &str) {
        let found = look(Path::new(name), data).map(|k| k.name);
        assert_eq!(found, Some(kind), "{name}");
    }

    #[test]
    fn bytes_come_before_names() {
        let zip = |name: &str| {
            let mut zip = b"PK\x03\x04".to_vec();
            zip.resize(26, 0);
            zip.extend((name.len() as u16).to_le_bytes());
            zip.extend([0, 0]);
            zip.extend(name.as_bytes());
            zip
        };
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
        for name in ["m.gguf", "m.safetensors", "m.pt", "m", "tokenizer.json"] {
            is(name, lfs, "a Git LFS pointer");
            is(name, b"", "empty");
            is(
                name,
                b"\xef\xbb\xbf\n <!DOCTYPE HTML><html>",
                "an HTML page",
            );
            is(
                name,
                b"<?xml version=\"1.0\"?><Error><Code>AccessDenied",
                "an XML document",
            );
            is(
                name,
                b"{\"error\":\"Invalid credentials\"}",
                "an error message of a server",
            );
            is(name, b"Entry not found", "an error message of a server");
            is(
                name,
                b"GGUF\0\0\0\x03\0\0\0\0",
                "a GGUF file for big-endian machines",
            );
            is(
                name,
                b"tjgg\x03\0\0\0",
                "a GGML file from before GGUF (2023)",
            );
            is(name, b"MZqFpD='\n\n", "a llamafile");
            is(name, b"\x0a\0\0\0\0\0\0\0{\"a\": {}}", "a safetensors file");
            is(name, b"\x1c\0\0\0TFL3", "a TensorFlow Lite model");
            is(name, &zip("archive/data.pkl"), "a PyTorch checkpoint");
            is(name, b"\x80\x02\x8a\x0al\xfc\x9c", "a PyTorch checkpoint");
            is(name, b"\x08\x08\x12\x07pytorch\x1a", "an ONNX model");
            is(name, b"\x1f\x8b\x08", "a gzip archive");
            is(name, &[0; 64], "nothing but zero bytes");
        }
        is("m.gguf", &zip("model.gguf"), "a ZIP archive");
        is("m.llamafile", &zip("model.gguf"), "a llamafile");
        is("config.json", b"{\"model_type\": \"llama\"}", "a JSON file");
        is(
            "m.gguf",
            b"{\"message\": \"Not Found\", \"status\": 404}",
            "an error message of a server",
        );
        is(
            "tokenizer_config.json",
            b"{\"errors\": \"replace\", \"unk_token\": \"a\"}",
            "a JSON file",
        );
        is("README.md", b"# A model", "a text file");
        is("Modelfile", b"FROM ./m.gguf\n", "a Modelfile of ollama");
    }

    #[test]
    fn unknown_bytes_go_by_the_name() {
        let noise = [0x91u8, 0xff, 3, 7, 0x80];
        for (name, kind) in [
            ("a.PT", "a PyTorch checkpoint"),
            ("ggml-model.ggml", "a GGML file from before GGUF (2023)"),
            ("m.gguf.part", "an unfinished download"),
            ("m.gguf.crdownload", "an unfinished download"),
            ("m.mlmodel", "a Core ML model"),
            ("m.tar.gz", "a gzip archive"),
            ("m.onnx", "an ONNX model"),
        ] {
            is(name, &noise, kind);
        }
        assert!(look(Path::new("m.gguf"), &noise).is_none());
        assert!(look(Path::new("m"), b"GGUF\x03\0\0\0").is_none());
    }
}
