//! Hostile tensor tables made by code: rules 7 to 10 of docs/format.md at their limits.

use crate::common::cases::{Cases, Want};
use crate::common::gguf::{self as g, File};
use geb::Dtype;

/// One tensor, changed.
fn one(change: &dyn Fn(&mut g::Tensor)) -> File {
    File::new()
        .tensor("t", Dtype::F32, &[4, 2])
        .edit(|f| change(&mut f.tensors[0]))
}

#[test]
fn tensor_names() {
    let mut c = Cases(Vec::new());
    let named = |name: &str| File::new().tensor(name, Dtype::F32, &[4]);
    c.ok("name of 63 bytes", &named(&"n".repeat(63)));
    c.ok("name of 64 bytes", &named(&"n".repeat(64)));
    c.bad(
        "name of 65 bytes",
        7,
        "tensor 0: name: length",
        &named(&"n".repeat(65)),
    );
    c.bad("empty name", 7, "tensor 0: name", &named(""));
    c.bad(
        "name not UTF-8",
        7,
        "tensor 0: name",
        &one(&|t| t.name.bytes = vec![0xff]),
    );
    for len in [1 << 32, 1 << 63, u64::MAX] {
        c.bad(
            &format!("name length {len}"),
            7,
            "tensor 0: name: length",
            &one(&|t| t.name.len = Some(len)),
        );
    }
    c.bad(
        "duplicate name",
        7,
        "tensor name",
        &named("t")
            .tensor("u", Dtype::F32, &[1])
            .tensor("t", Dtype::F32, &[2]),
    );
    c.check(9);
}

#[test]
fn dimensions() {
    let mut c = Cases(Vec::new());
    for n in [1, 2, 3, 4] {
        c.ok(
            &format!("{n} dimensions"),
            &File::new().tensor("t", Dtype::F32, &vec![2; n]),
        );
    }
    // CVE-2024-21802, antirez/gguf-tools #25, openvino.genai #4170
    for n in [0, 5, 6, 255, 1 << 31, u32::MAX] {
        c.bad(
            &format!("{n} dimensions"),
            7,
            "tensor t: dimension count",
            &one(&|t| t.n_dims = Some(n)),
        );
    }
    // CVE-2025-0312, GHSA-3p75-pq92-q28f, llama.cpp #26946, whisper.cpp #3864
    for d in 0..4 {
        let mut dims = vec![4; 4];
        dims[d] = 0;
        c.bad(
            &format!("dimension {d} is 0"),
            7,
            &format!("tensor t: dimension {d}"),
            &one(&|t| t.dims = dims.clone()),
        );
    }
    for (dims, field) in [
        (vec![(1 << 40) + 1], "dimension 0"),
        (vec![1, u64::MAX], "dimension 1"),
        (vec![1, 1 << 63], "dimension 1"),
        // CVE-2026-33298, RUSTSEC-2026-0217, candle #3714, gguf-parser-go #20: products wrap.
        (vec![1 << 32, 1 << 32], "element count"),
        (vec![1 << 16; 4], "element count"),
        (vec![1 << 40, 1 << 24], "element count"),
        (vec![1 << 40, (1 << 8) + 1], "element count"),
        (vec![3 << 38, 1 << 10, 1, 1], "element count"),
    ] {
        c.bad(
            &format!("dims {dims:?}"),
            7,
            &format!("tensor t: {field}"),
            &one(&|t| t.dims = dims.clone()),
        );
    }
    // Within the limits of rule 7, and still not in the file.
    for dims in [vec![1 << 40], vec![1 << 40, 1 << 8], vec![1 << 12; 4]] {
        c.bad(
            &format!("dims {dims:?}"),
            9,
            "tensor t: offset + size",
            &one(&|t| t.dims = dims.clone()),
        );
    }
    c.check(25);
}

#[test]
fn tensor_types_and_rows() {
    let mut c = Cases(Vec::new());
    let typed = |id: u32, row: u64| {
        File::new().tensor("t", Dtype::F32, &[4096]).edit(|f| {
            f.tensors[0].ty = id;
            f.tensors[0].dims = vec![row];
        })
    };
    for &t in Dtype::ALL {
        let block = t.block_len() as u64;
        c.ok(&format!("{t}, one block"), &typed(t.id(), block));
        if block > 1 {
            for row in [1, block - 1, block + 1, 2 * block - 1] {
                c.bad(
                    &format!("{t} with a row of {row}"),
                    8,
                    "tensor t: row length",
                    &typed(t.id(), row),
                );
            }
        }
    }
    // CVE-2024-42477; ids 4, 5, 31-33, 36-38 were removed from the format.
    for id in [
        4,
        5,
        31,
        32,
        33,
        36,
        37,
        38,
        43,
        44,
        64,
        255,
        1 << 31,
        u32::MAX,
    ] {
        c.bytes(&format!("type {id}"), typed(id, 256).encode(), Want::Type);
    }
    c.check(100);
}

/// Two tensors at these offsets.
fn two(a: Option<u64>, b: Option<u64>) -> File {
    File::new()
        .tensor("a", Dtype::F32, &[16])
        .tensor("b", Dtype::F32, &[16])
        .edit(|f| {
            f.tensors[0].offset = a;
            f.tensors[1].offset = b;
        })
}

#[test]
fn tensor_offsets() {
    let mut c = Cases(Vec::new());
    c.ok("adjacent", &two(Some(0), Some(64)));
    c.ok("in reverse order", &two(Some(64), Some(0)));
    for offset in [1, 8, 31, 33, u64::MAX] {
        c.bad(
            &format!("offset {offset}"),
            9,
            "tensor b: offset",
            &two(None, Some(offset)),
        );
    }
    // CVE-2026-7482: a region that leaves the file. CVE-2025-53630, CVE-2026-27940: sums wrap.
    for offset in [
        96,
        128,
        160,
        1 << 32,
        1 << 62,
        1 << 63,
        u64::MAX - 31,
        u64::MAX - 63,
    ] {
        c.bad(
            &format!("offset {offset}"),
            9,
            "tensor b: offset + size",
            &two(None, Some(offset)),
        );
    }
    c.check(15);
}

#[test]
fn overlaps() {
    let mut c = Cases(Vec::new());
    for offset in [0, 32] {
        c.bad(
            &format!("overlap at {offset}"),
            10,
            "tensor b: offset",
            &two(None, Some(offset)),
        );
    }
    c.bad(
        "overlap, first one later",
        10,
        "tensor a: offset",
        &two(Some(32), Some(0)),
    );
    let inside = File::new()
        .tensor("a", Dtype::F32, &[64])
        .tensor("b", Dtype::F32, &[1]);
    c.bad(
        "one inside the other",
        10,
        "tensor b: offset",
        &inside.edit(|f| f.tensors[1].offset = Some(128)),
    );
    // The padding after the last tensor may be missing, its bytes may not.
    let file = File::new().tensor("a", Dtype::F32, &[5]).encode();
    c.bytes(
        "no padding at the end",
        file[..file.len() - 12].to_vec(),
        Want::Ok,
    );
    c.bytes(
        "one byte missing",
        file[..file.len() - 13].to_vec(),
        Want::Rule(9, "tensor a: offset + size".into()),
    );
    let wide = File::new()
        .u32("general.alignment", 64)
        .tensor("a", Dtype::F32, &[1])
        .tensor("b", Dtype::F32, &[1]);
    c.bad("offset 32 with alignment 64", 9, "tensor b: offset", &wide);
    c.check(7);
}
