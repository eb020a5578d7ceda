//! Hostile containers made by code: every rule of docs/format.md at its limit, one below and
//! one above, and the malformed fields that broke other readers, with the exact error.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::common::cases::{Cases, Want, outcome};
use crate::common::gguf::{self as g, File, Val};
use geb::gguf::{GgufFile, Load};
use geb::{Dtype, Error};

fn sample(change: impl FnOnce(&mut File)) -> File {
    File::sample().edit(change)
}

#[test]
fn header() {
    let mut c = Cases(Vec::new());
    let whole = File::new().encode();
    for len in [0, 1, 4, 8, 23] {
        c.bytes(
            &format!("{len} bytes"),
            whole[..len].to_vec(),
            Want::Rule(1, "file size".into()),
        );
    }
    c.ok("24 bytes, nothing in it", &File::new());
    for magic in [
        *b"GGUf",
        *b"FUGG",
        *b"ggml",
        *b"ggjt",
        [0; 4],
        *b"PK\x03\x04",
        *b"\xffGUF",
    ] {
        c.bad(
            &format!("magic {magic:?}"),
            2,
            "magic",
            &sample(|f| f.magic = magic),
        );
    }
    for version in [
        0,
        1,
        4,
        5,
        3u32.swap_bytes(),
        2u32.swap_bytes(),
        1u32.swap_bytes(),
        u32::MAX,
    ] {
        c.bad(
            &format!("version {version}"),
            2,
            "version",
            &sample(|f| f.version = version),
        );
    }
    for version in [2, 3] {
        c.ok(
            &format!("version {version}"),
            &sample(|f| f.version = version),
        );
    }
    c.check(23);
}

#[test]
fn counts_far_outside() {
    let mut c = Cases(Vec::new());
    for n in [
        65_537,
        1 << 31,
        1 << 32,
        1 << 63,
        u64::MAX,
        u64::MAX / 33,
        u64::MAX / 14 + 1,
    ] {
        // CVE-2024-21836, CVE-2024-23605, CVE-2025-0315
        c.bad(
            &format!("{n} tensors"),
            3,
            "tensor count",
            &sample(|f| f.n_tensors = Some(n)),
        );
        c.bad(
            &format!("{n} keys"),
            3,
            "key count",
            &sample(|f| f.n_keys = Some(n)),
        );
    }
    c.check(14);
}

/// Rule 3 at the limit and one above, both for the fixed limit and for the room in the file.
#[test]
fn counts_at_their_limits() {
    let mut c = Cases(Vec::new());
    let many_keys = |n: usize| {
        let mut f = File::new();
        for i in 0..n {
            f = f.key(&format!("{i:x}"), g::U8, Val::Raw(vec![0]));
        }
        f
    };
    c.ok("65536 keys", &many_keys(65_536));
    c.bad("65537 keys", 3, "key count", &many_keys(65_537));
    let many_tensors = |n: usize| {
        let mut f = File::new().u32("general.alignment", 8);
        f.alignment = 8;
        for i in 0..n {
            f = f.tensor(&format!("{i:x}"), Dtype::I8, &[1]);
        }
        f
    };
    c.ok("65536 tensors", &many_tensors(65_536));
    c.bad("65537 tensors", 3, "tensor count", &many_tensors(65_537));
    // One key of 14 bytes: the smallest there is. Room for exactly one.
    let smallest = File::new().key("k", g::U8, Val::Raw(vec![1]));
    assert_eq!(smallest.encode().len(), 24 + 14);
    c.ok("smallest key", &smallest);
    c.bad(
        "two keys in the room of one",
        3,
        "key count",
        &smallest.clone().edit(|f| f.n_keys = Some(2)),
    );
    c.bad(
        "a tensor in the room of a key",
        3,
        "tensor count",
        &smallest.edit(|f| f.n_tensors = Some(1)),
    );
    // The count is believed, the content is missing.
    c.bad(
        "a key too few",
        4,
        "key 1",
        &File::new()
            .str("k", &"x".repeat(20))
            .edit(|f| f.n_keys = Some(2)),
    );
    c.check(8);
}

#[test]
fn keys() {
    let mut c = Cases(Vec::new());
    let named = |name: &str| File::new().key(name, g::U32, Val::Raw(vec![0; 4]));
    c.ok("key of 1 byte", &named("k"));
    c.ok("key of 65534 bytes", &named(&"k".repeat(65_534)));
    c.ok("key of 65535 bytes", &named(&"k".repeat(65_535)));
    c.bad(
        "key of 65536 bytes",
        4,
        "key 0: length",
        &named(&"k".repeat(65_536)),
    );
    c.bad("empty key (llama.cpp #24884)", 4, "key 0", &named(""));
    c.ok("key beyond ASCII", &named("sch\u{f6}n"));
    for len in [1 << 16, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 8, u64::MAX] {
        let f = named("k").edit(|f| f.keys[0].name.len = Some(len));
        c.bad(&format!("key length {len}"), 4, "key 0: length", &f);
    }
    c.bad(
        "key longer than the file",
        4,
        "key 0",
        &named("k").edit(|f| f.keys[0].name.len = Some(100)),
    );
    for bytes in [
        vec![0xff],
        vec![b'a', 0xc3],
        vec![0xed, 0xa0, 0x80],
        vec![0xc0, 0x80],
        vec![0xf4, 0x90, 0x80, 0x80],
    ] {
        let f = named("k").edit(|f| f.keys[0].name.bytes = bytes.clone());
        c.bad(&format!("key bytes {bytes:x?}"), 4, "key 0", &f);
    }
    c.bad(
        "duplicate key",
        4,
        "key",
        &named("k").u32("other", 1).u32("k", 2),
    );
    c.bad(
        "duplicate key, other type",
        4,
        "key",
        &named("k").str("k", "x"),
    );
    // CVE-2024-32878, CVE-2024-41130: cut after the first key.
    let first = named("k").encode();
    for len in 25..first.len() {
        let field = if len < 38 { "key count" } else { "k" };
        let rule = if len < 38 { 3 } else { 5 };
        c.bytes(
            &format!("cut at {len}"),
            first[..len].to_vec(),
            Want::Rule(rule, field.into()),
        );
    }
    c.check(30);
}

#[test]
fn values() {
    let mut c = Cases(Vec::new());
    c.ok("every type", &File::sample());
    for ty in [13, 14, 255, 1 << 31, u32::MAX] {
        c.bad(
            &format!("type {ty}"),
            5,
            "k: value type",
            &File::new().key("k", ty, Val::Raw(vec![0; 16])),
        );
        let array = File::new().key(
            "k",
            g::ARRAY,
            Val::Array {
                elem: ty,
                count: Some(1 << 60),
                items: vec![],
            },
        );
        // kekzl/imp #532: an unknown element type must not be looped over.
        c.bad(
            &format!("element type {ty}"),
            5,
            "k: element type",
            &array.str("tail", &"x".repeat(30)),
        );
    }
    let nested = |elem| File::new().array("k", elem, vec![Val::Raw(vec![0; 64])]);
    c.bad("nested array", 5, "k: element type", &nested(g::ARRAY));
    for b in [2, 7, 128, 255] {
        c.bad(
            &format!("bool {b}"),
            5,
            "k: bool",
            &File::new().key("k", g::BOOL, Val::Raw(vec![b])),
        );
        let array = File::new().array("k", g::BOOL, vec![Val::Raw(vec![1]), Val::Raw(vec![b])]);
        c.bad(&format!("bool {b} in an array"), 5, "k: bool", &array);
    }
    c.check(20);
}

#[test]
fn strings() {
    let mut c = Cases(Vec::new());
    for len in [(16 << 20) + 1, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        // CVE-2024-23496
        let f = File::new().str("k", "abc").edit(|f| {
            f.keys[0].val = Val::Str(g::Text {
                len: Some(len),
                bytes: vec![],
            })
        });
        c.bad(&format!("string length {len}"), 5, "k: length", &f);
    }
    for extra in [1, 100] {
        let text = g::Text {
            len: Some(3 + extra),
            bytes: b"abc".to_vec(),
        };
        let f = File::new().key("k", g::STR, Val::Str(text));
        c.bad(&format!("string {extra} longer than the file"), 5, "k", &f);
    }
    let not_utf8 = Val::Str(g::Text {
        len: None,
        bytes: vec![b'a', 0xff],
    });
    c.bad(
        "string not UTF-8",
        5,
        "k",
        &File::new().key("k", g::STR, not_utf8.clone()),
    );
    c.bad(
        "element not UTF-8",
        5,
        "k",
        &File::new().array("k", g::STR, vec![not_utf8]),
    );
    c.ok(
        "string of 16 MiB",
        &File::new().str("k", &"x".repeat(16 << 20)),
    );
    c.bad(
        "string of 16 MiB and 1",
        5,
        "k: length",
        &File::new().str("k", &"x".repeat((16 << 20) + 1)),
    );
    c.check(11);
}

#[test]
fn arrays() {
    let mut c = Cases(Vec::new());
    let sizes = [
        (g::U8, 1),
        (g::I16, 2),
        (g::U32, 4),
        (g::F32, 4),
        (g::BOOL, 1),
        (g::STR, 8),
        (g::U64, 8),
        (g::F64, 8),
    ];
    for (elem, size) in sizes {
        // CVE-2024-21825: count times size wraps, or is one more than the file holds.
        for count in [
            5,
            u64::MAX,
            u64::MAX / size,
            (u64::MAX / size).saturating_add(1),
            1 << 63,
            1 << 61,
            (1 << 24) + 1,
        ] {
            let items = vec![Val::Raw(vec![0; size as usize]); 4];
            let f = File::new().key(
                "k",
                g::ARRAY,
                Val::Array {
                    elem,
                    count: Some(count),
                    items,
                },
            );
            c.bad(
                &format!("{count} elements of type {elem}"),
                5,
                "k: array length",
                &f,
            );
        }
        c.ok(
            &format!("no elements of type {elem}"),
            &File::new().array("k", elem, vec![]),
        );
    }
    c.check(64);
}

#[test]
fn array_lengths() {
    let mut c = Cases(Vec::new());
    let bulk = |n: usize| {
        File::new()
            .array("k", g::U8, vec![Val::Raw(vec![0; n])])
            .edit(|f| {
                let Val::Array { count, .. } = &mut f.keys[0].val else {
                    unreachable!()
                };
                *count = Some(n as u64);
            })
    };
    c.ok("16777215 elements", &bulk(16_777_215));
    c.ok("16777216 elements", &bulk(16_777_216));
    c.bad("16777217 elements", 5, "k: array length", &bulk(16_777_217));
    // The strings inside lie about their lengths.
    for len in [2, 1 << 20, u64::MAX] {
        let items = vec![
            Val::Str("ok".into()),
            Val::Str(g::Text {
                len: Some(len),
                bytes: vec![b'x'],
            }),
        ];
        let field = if len == u64::MAX { "k: length" } else { "k" };
        c.bad(
            &format!("second string of length {len}"),
            5,
            field,
            &File::new().array("k", g::STR, items),
        );
    }
    c.check(6);
}

/// All metadata together, 512 MiB: a sparse file, so the test costs neither disk nor memory.
#[test]
fn metadata_total_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let make = |total: u64| {
        let path = dir.path().join("sparse.gguf");
        let file = fs::File::create(&path).unwrap();
        let head = File::new().edit(|f| f.n_keys = Some(5)).encode();
        file.write_all_at(&head, 0).unwrap();
        let start = head.len() as u64;
        let mut at = start;
        for i in 0..5u64 {
            // Key "0".."4": 9 bytes; type, element type, count: 16 bytes.
            let (elem, size) = if i < 4 { (g::U64, 8) } else { (g::U8, 1) };
            let count = match i {
                0..3 => 1 << 24,
                3 => (1 << 24) - 1024,
                _ => start + total - (at + 25),
            };
            let mut key = 1u64.to_le_bytes().to_vec();
            key.push(b'0' + i as u8);
            key.extend([g::ARRAY, elem].iter().flat_map(|v| v.to_le_bytes()));
            key.extend(count.to_le_bytes());
            assert_eq!(key.len(), 25);
            file.write_all_at(&key, at).unwrap();
            at += 25 + count * size;
        }
        file.set_len(at).unwrap();
        outcome(GgufFile::open(&path, Load::Map))
    };
    assert_eq!(make((512 << 20) - 1), Want::Ok);
    assert_eq!(make(512 << 20), Want::Ok);
    assert_eq!(make((512 << 20) + 1), Want::Rule(5, "metadata".into()));
}

/// Two tensors in a file that states this alignment.
fn aligned(v: u32) -> File {
    let mut f = File::new()
        .u32("general.alignment", v)
        .tensor("t", Dtype::F32, &[4])
        .tensor("u", Dtype::F32, &[4]);
    f.alignment = if v.is_power_of_two() && v < 1 << 20 {
        v as usize
    } else {
        32
    };
    f
}

#[test]
fn alignment() {
    let mut c = Cases(Vec::new());
    for v in [8, 16, 32, 64, 32_768, 65_536] {
        c.ok(&format!("alignment {v}"), &aligned(v));
    }
    // 0: CVE-2025-0317, candle #3876. 2^30 and 2^31: ggml #1516, llama.cpp #24997.
    for v in [
        0,
        1,
        2,
        4,
        7,
        9,
        12,
        33,
        48,
        65_535,
        65_537,
        1 << 17,
        1 << 30,
        1 << 31,
        u32::MAX,
    ] {
        c.bad(
            &format!("alignment {v}"),
            6,
            "general.alignment",
            &aligned(v),
        );
    }
    c.check(21);
}

#[test]
fn alignment_of_another_type() {
    let mut c = Cases(Vec::new());
    // llama.cpp #26318
    for (ty, n) in [
        (g::I32, 4),
        (g::U64, 8),
        (g::U16, 2),
        (g::F32, 4),
        (g::U8, 1),
    ] {
        let f = aligned(32).with("general.alignment", ty, Val::Raw(vec![32; n]));
        c.bad(
            &format!("alignment of type {ty}"),
            6,
            "general.alignment",
            &f,
        );
    }
    let f = aligned(32).with("general.alignment", g::STR, Val::Str("32".into()));
    c.bad("alignment as a string", 6, "general.alignment", &f);
    let f = aligned(32).with(
        "general.alignment",
        g::ARRAY,
        Val::Array {
            elem: g::U32,
            count: None,
            items: vec![],
        },
    );
    c.bad("alignment as an array", 6, "general.alignment", &f);
    c.check(7);
}

/// What is odd but allowed is said, not refused.
#[test]
fn warnings() {
    let warnings = |f: File| {
        GgufFile::from_bytes(f.encode())
            .unwrap()
            .index()
            .warnings
            .clone()
    };
    assert_eq!(warnings(File::sample()), Vec::<String>::new());
    let gap = File::new()
        .tensor("a", Dtype::F32, &[32])
        .tensor("b", Dtype::F32, &[8]);
    let gap = warnings(gap.edit(|f| f.tensors[0].dims = vec![8]));
    assert_eq!(
        gap,
        ["1 gaps with 96 unused bytes in the data, the first before tensor b"]
    );
    let odd = warnings(File::new().u32("a\u{1b}[31m b", 1).u32("c d", 1));
    assert_eq!(odd, ["key a\\u{1b}[31m b is not a plain ASCII name"]);
}

/// Text from the file reaches a terminal only escaped and cut.
#[test]
fn messages_are_safe_to_print() {
    let name = format!("\u{1b}[2J{}", "k".repeat(60_000));
    let text = GgufFile::from_bytes(File::new().key(&name, 99, Val::Raw(vec![0; 9])).encode());
    let text = text.err().map(|e| e.to_string()).unwrap();
    assert!(text.len() < 500 && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn only_regular_files() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    for load in [Load::Map, Load::Copy] {
        // CVE-2024-39721: /dev/random blocked for ever.
        for path in [
            dir.path(),
            &pipe,
            &link,
            "/dev/zero".as_ref(),
            "/dev/random".as_ref(),
            "/dev/null".as_ref(),
        ] {
            let error = GgufFile::open(path, load).err();
            assert!(
                matches!(error, Some(Error::Request { .. })),
                "{}: {error:?}",
                path.display()
            );
        }
        assert!(matches!(
            GgufFile::open(&dir.path().join("none"), load),
            Err(Error::Io { .. })
        ));
        let empty = dir.path().join("empty");
        fs::write(&empty, "").unwrap();
        let error = GgufFile::open(&empty, load).err().expect("empty");
        assert!(matches!(error, Error::Kind { .. }), "{error}");
        assert!(error.to_string().ends_with("is empty, not a GGUF file"));
        let good = dir.path().join("good");
        fs::write(&good, File::sample().encode()).unwrap();
        assert_eq!(outcome(GgufFile::open(&good, load)), Want::Ok);
    }
}
