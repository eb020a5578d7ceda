//! Weight files made to break the converter: each is refused with the error that names what is
//! wrong with it, none panics, none allocates what a header merely claims.

use std::io::{Cursor, Write};

use geb::Error;
use geb_convert::checkpoint::safetensors;
use geb_convert::torch::torch_file;

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

// ---- safetensors ----

fn st(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(std::iter::repeat_n(0u8, data));
    out
}

fn st_len(len: u64, rest: &[u8]) -> Vec<u8> {
    [&len.to_le_bytes()[..], rest].concat()
}

#[test]
fn safetensors_headers() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("empty file", vec![], "size", "0 bytes"),
        ("seven bytes", vec![0; 7], "size", "7 bytes"),
        ("header length 0", st_len(0, b"{}"), "header length", "0"),
        ("header length 1", st_len(1, b"{}"), "header length", "1"),
        (
            "header beyond the file",
            st_len(3, b"{}"),
            "header length",
            "3",
        ),
        (
            "header of 2^64-1 bytes",
            st_len(u64::MAX, b"{}"),
            "header length",
            "18446744073709551615",
        ),
        (
            "header of 2^63 bytes",
            st_len(1 << 63, b"{}"),
            "header length",
            "9223372036854775808",
        ),
        ("not an object", st("[1]", 0), "header", "byte 91"),
        ("space before the object", st(" {}", 0), "header", "byte 32"),
        ("broken JSON", st("{\"a\":", 0), "header", "malformed"),
        (
            "not UTF-8",
            st_len(6, b"{\"\xff\":0"),
            "header",
            "malformed",
        ),
        ("two objects", st("{}{}", 0), "header", "malformed"),
        ("too deep", st(&deep, 0), "header", "malformed"),
        (
            "name twice",
            st(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                4,
            ),
            "tensor name",
            "a",
        ),
        (
            "entry is a number",
            st(r#"{"a":7}"#, 0),
            "a: dtype",
            "absent",
        ),
        (
            "no dtype",
            st(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4),
            "a: dtype",
            "absent",
        ),
        (
            "unknown dtype",
            st(&entry("Q4", "[1]", "[0,4]"), 4),
            "a: dtype",
            "Q4",
        ),
        (
            "dtype is a number",
            st(r#"{"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}}"#, 4),
            "dtype",
            "3",
        ),
        (
            "no shape",
            st(r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#, 4),
            "a: shape",
            "absent",
        ),
        (
            "negative dimension",
            st(&entry("F32", "[-1]", "[0,4]"), 4),
            "a: shape",
            "[-1]",
        ),
        (
            "fractional dimension",
            st(&entry("F32", "[1.5]", "[0,4]"), 4),
            "a: shape",
            "[1.5]",
        ),
        (
            "dimension of 2^41",
            st(&entry("F32", "[2199023255552]", "[0,4]"), 4),
            "a: shape",
            "2199023255552",
        ),
        (
            "product overflows",
            st(
                &entry("F32", "[1099511627776,1099511627776,256]", "[0,4]"),
                4,
            ),
            "a: shape",
            "1099511627776",
        ),
        (
            "partial product overflows",
            st(
                &entry("F32", "[0,1099511627776,1099511627776,4]", "[0,0]"),
                4,
            ),
            "a: shape",
            "1099511627776",
        ),
        (
            "nine dimensions",
            st(&entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4),
            "a: shape",
            "1, 1",
        ),
        (
            "no offsets",
            st(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4),
            "a: data_offsets",
            "absent",
        ),
        (
            "one offset",
            st(&entry("F32", "[1]", "[0]"), 4),
            "a: data_offsets",
            "not two",
        ),
        (
            "three offsets",
            st(&entry("F32", "[1]", "[0,4,8]"), 8),
            "a: data_offsets",
            "not two",
        ),
        (
            "backward offsets",
            st(&entry("F32", "[1]", "[4,0]"), 4),
            "a: data_offsets",
            "[4, 0]",
        ),
        (
            "offsets beyond the data",
            st(&entry("F32", "[1]", "[1,5]"), 4),
            "a: data_offsets",
            "[1, 5]",
        ),
        (
            "offsets of 2^64-1",
            st(
                &entry("F32", "[1]", "[18446744073709551612,18446744073709551615]"),
                4,
            ),
            "a: data_offsets",
            "18446744073709551615",
        ),
        (
            "range shorter than the shape",
            st(&entry("F32", "[2]", "[0,4]"), 8),
            "a: data_offsets",
            "4 bytes",
        ),
        (
            "range longer than the shape",
            st(&entry("F16", "[1]", "[0,4]"), 4),
            "a: data_offsets",
            "4 bytes",
        ),
        (
            "overlap",
            st(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "b: data_offsets",
            "overlapping",
        ),
        (
            "empty name",
            st(
                r#"{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                4,
            ),
            "shape",
            "1",
        ),
    ];
    for (case, bytes, field, value) in &cases {
        refused(case, safetensors("m.safetensors", bytes), field, value);
    }
    let good = st(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"s":{"dtype":"F64","shape":[],"data_offsets":[12,20]}}"#,
        20,
    );
    let list = safetensors("m.safetensors", &good).unwrap();
    assert_eq!(
        (
            list[0].rows(),
            list[0].cols(),
            list[1].rows(),
            list[1].cols()
        ),
        (2, 3, 1, 1)
    );
    for cut in 0..good.len() {
        assert!(
            safetensors("m.safetensors", &good[..cut]).is_err(),
            "cut at {cut}"
        );
    }
}

// ---- pickles ----

/// A checkpoint archive with these entries, stored.
fn archive(entries: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn bin(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    archive(
        &[("m/data.pkl", pickle), ("m/data/0", storage)],
        zip::CompressionMethod::Stored,
    )
}

fn text(s: &str) -> Vec<u8> {
    [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &n.to_le_bytes()].concat()
}

fn ints(list: &[i64]) -> Vec<u8> {
    let mut out = b"(".to_vec();
    list.iter().for_each(|&n| out.extend(int(n)));
    out.push(b't');
    out
}

/// What a tensor record is made of; each test changes one thing.
struct Tensor {
    global: &'static str,
    class: &'static str,
    key: &'static str,
    elements: i64,
    offset: i64,
    shape: Vec<i64>,
    stride: Vec<i64>,
}

impl Default for Tensor {
    fn default() -> Self {
        Tensor {
            global: "ctorch._utils\n_rebuild_tensor_v2\n",
            class: "FloatStorage",
            key: "0",
            elements: 6,
            offset: 0,
            shape: vec![2, 3],
            stride: vec![3, 1],
        }
    }
}

impl Tensor {
    fn record(&self) -> Vec<u8> {
        let mut out = self.global.as_bytes().to_vec();
        out.extend(b"((");
        out.extend(text("storage"));
        out.extend(format!("ctorch\n{}\n", self.class).bytes());
        out.extend(text(self.key));
        out.extend(text("cpu"));
        out.extend(int(self.elements));
        out.extend(b"tQ");
        out.extend(int(self.offset));
        out.extend(ints(&self.shape));
        out.extend(ints(&self.stride));
        out.extend(b"\x89}tR");
        out
    }

    /// A dictionary with one tensor `w`.
    fn pickle(&self) -> Vec<u8> {
        [&b"\x80\x02}("[..], &text("w"), &self.record(), b"u."].concat()
    }
}

const STORAGE: [u8; 24] = [0; 24];

#[test]
fn pickles() {
    let t = Tensor::default;
    let good = t().pickle();
    assert_eq!(
        torch_file("m.bin", &bin(&good, &STORAGE)).unwrap()[0].shape,
        [2, 3]
    );
    let ops = |body: &[u8]| [&b"\x80\x02"[..], body].concat();
    let nested = ops(&[&b")"[..], &[0x85; 100][..], b"."].concat());
    let marks = ops(&vec![b'('; 300_000]);
    let memos = ops(&[&b"N"[..], &b"\x94".repeat(1_100_000), b"."].concat());
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("empty", vec![], "operand", "1 bytes"),
        ("no stop", ops(b"}"), "operand", "1 bytes"),
        ("stop without a value", ops(b"."), "stack", "empty"),
        ("protocol 0", b"\x80\x00}.".to_vec(), "protocol", "0"),
        ("protocol 9", b"\x80\x09}.".to_vec(), "protocol", "9"),
        ("a list", ops(b"]."), "content", "a list"),
        (
            "a string",
            ops(&[text("x"), b".".to_vec()].concat()),
            "content",
            "a string",
        ),
        ("os.system", ops(b"cos\nsystem\n."), "global", "os.system"),
        (
            "builtins.eval",
            ops(b"cbuiltins\neval\n."),
            "global",
            "builtins.eval",
        ),
        (
            "torch.load",
            ops(b"ctorch\nload\n."),
            "global",
            "torch.load",
        ),
        (
            "stack global",
            ops(&[text("posix"), text("system"), b"\x93.".to_vec()].concat()),
            "global",
            "posix.system",
        ),
        ("opcode INST", ops(b"(ios\nsystem\n."), "opcode", "0x69"),
        ("opcode OBJ", ops(b"(o."), "opcode", "0x6f"),
        ("opcode NEWOBJ", ops(b")\x81."), "opcode", "0x81"),
        ("opcode EXT1", ops(b"\x82\x01."), "opcode", "0x82"),
        (
            "unterminated global",
            ops(&[&b"c"[..], &[b'a'; 400]].concat()),
            "name",
            "unterminated",
        ),
        (
            "string of 4 GB",
            ops(b"X\xff\xff\xff\xffabc."),
            "operand",
            "4294967295 bytes",
        ),
        (
            "string not UTF-8",
            ops(b"X\x01\x00\x00\x00\xff."),
            "string",
            "not UTF-8",
        ),
        ("memo never filled", ops(b"h\x07."), "memo", "7"),
        ("memo of nothing", ops(b"q\x00."), "memo", "empty stack"),
        (
            "tuple without a mark",
            ops(b"t."),
            "stack",
            "without a mark",
        ),
        (
            "items without a dictionary",
            ops(b"N(NNu."),
            "SETITEMS",
            "None",
        ),
        ("odd items", ops(b"}(Nu."), "SETITEMS", "odd"),
        ("nested 100 deep", nested, "tuple", "nested 9 deep"),
        ("300,000 marks", marks, "stack", "too deep"),
        ("1.1 million memo entries", memos, "values", "too many"),
        (
            "call of a string",
            ops(&[text("f"), b")R.".to_vec()].concat()),
            "REDUCE",
            "a string",
        ),
        (
            "call of a storage class",
            ops(b"ctorch\nFloatStorage\n)R."),
            "REDUCE",
            "Storage",
        ),
        (
            "OrderedDict with arguments",
            ops(b"ccollections\nOrderedDict\n(NtR."),
            "REDUCE",
            "OrderedDict",
        ),
        ("build on a tuple", ops(b")}b."), "BUILD", "a tuple"),
        (
            "LONG1 of 200 bytes",
            ops(&[&[0x8a, 200][..], &[1; 200], b"."].concat()),
            "LONG1",
            "200 bytes",
        ),
        (
            "persistent id is a string",
            ops(&[text("0"), b"Q.".to_vec()].concat()),
            "persistent id",
            "a string",
        ),
        (
            "unknown storage",
            Tensor {
                class: "QInt8Storage",
                ..t()
            }
            .pickle(),
            "global",
            "torch.QInt8Storage",
        ),
        (
            "negative elements",
            Tensor {
                elements: -1,
                ..t()
            }
            .pickle(),
            "persistent id",
            "of another form",
        ),
        (
            "other rebuild function",
            Tensor {
                global: "ctorch._utils\n_rebuild_sparse_tensor\n",
                ..t()
            }
            .pickle(),
            "global",
            "_rebuild_sparse_tensor",
        ),
        (
            "negative offset",
            Tensor { offset: -1, ..t() }.pickle(),
            "offset",
            "-1",
        ),
        (
            "negative size",
            Tensor {
                shape: vec![-2, 3],
                ..t()
            }
            .pickle(),
            "size or stride",
            "not a tuple",
        ),
        (
            "transposed",
            Tensor {
                shape: vec![3, 2],
                stride: vec![1, 3],
                ..t()
            }
            .pickle(),
            "stride",
            "[1, 3]",
        ),
        (
            "expanded",
            Tensor {
                stride: vec![0, 1],
                ..t()
            }
            .pickle(),
            "stride",
            "[0, 1]",
        ),
        (
            "stride too short",
            Tensor {
                stride: vec![1],
                ..t()
            }
            .pickle(),
            "stride",
            "[1]",
        ),
        (
            "storage missing",
            Tensor { key: "1", ..t() }.pickle(),
            "w: storage",
            "1",
        ),
        (
            "storage outside",
            Tensor {
                key: "../../etc/passwd",
                ..t()
            }
            .pickle(),
            "w: storage",
            "passwd",
        ),
        (
            "storage claims more",
            Tensor { elements: 7, ..t() }.pickle(),
            "storage elements",
            "7",
        ),
        (
            "element count overflows",
            Tensor {
                elements: i64::MAX,
                ..t()
            }
            .pickle(),
            "storage elements",
            "9223372036854775807",
        ),
        (
            "tensor past its storage",
            Tensor { offset: 1, ..t() }.pickle(),
            "range",
            "offset 1",
        ),
        (
            "offset overflows",
            Tensor {
                offset: i64::MAX,
                ..t()
            }
            .pickle(),
            "range",
            "offset 9223372036854775807",
        ),
        (
            "dimension of 2^41",
            Tensor {
                shape: vec![1 << 41],
                stride: vec![1],
                ..t()
            }
            .pickle(),
            "shape",
            "2199023255552",
        ),
        (
            "key is a number",
            ops(&[&b"}("[..], &int(1), &t().record(), b"u."].concat()),
            "key",
            "an integer",
        ),
        (
            "value is a number",
            ops(&[&b"}("[..], &text("w"), &int(1), b"u."].concat()),
            "w",
            "an integer",
        ),
    ];
    for (case, pickle, field, value) in &cases {
        refused(
            case,
            torch_file("m.bin", &bin(pickle, &STORAGE)),
            field,
            value,
        );
    }
    for cut in 0..good.len() {
        assert!(
            torch_file("m.bin", &bin(&good[..cut], &STORAGE)).is_err(),
            "cut at {cut}"
        );
    }
}

#[test]
fn archives() {
    let good = Tensor::default().pickle();
    let whole = bin(&good, &STORAGE);
    let mut compressed = whole.clone();
    // Method 8 (deflate) in the local header and in the directory.
    let find = |bytes: &[u8], sig: &[u8; 4]| bytes.windows(4).position(|w| w == sig).unwrap();
    let (local, central) = (
        find(&compressed, b"PK\x03\x04"),
        find(&compressed, b"PK\x01\x02"),
    );
    compressed[local + 8] = 8;
    compressed[central + 10] = 8;
    let stored = zip::CompressionMethod::Stored;
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("not a zip", b"\x80\x02}.".to_vec(), "zip archive", ""),
        ("empty", vec![], "zip archive", ""),
        ("empty archive", archive(&[], stored), "data.pkl", "absent"),
        (
            "no pickle",
            archive(&[("m/data/0", &STORAGE)], stored),
            "data.pkl",
            "absent",
        ),
        (
            "two pickles",
            archive(&[("m/data.pkl", &good), ("n/data.pkl", &good)], stored),
            "data.pkl",
            "repeated",
        ),
        ("compressed", compressed, "compression", "8"),
        (
            "big-endian",
            archive(
                &[
                    ("m/data.pkl", &good),
                    ("m/byteorder", b"big"),
                    ("m/data/0", &STORAGE),
                ],
                stored,
            ),
            "byteorder",
            "big",
        ),
        (
            "storage under another folder",
            archive(&[("m/data.pkl", &good), ("n/data/0", &STORAGE)], stored),
            "storage",
            "0",
        ),
    ];
    for (case, bytes, field, value) in &cases {
        refused(case, torch_file("m.bin", bytes), field, value);
    }
    for cut in 0..whole.len() {
        assert!(torch_file("m.bin", &whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            // May be accepted; must not panic, and ranges stay inside.
            let _ = torch_file("m.bin", &bytes);
        }
    }
}
