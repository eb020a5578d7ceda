//! Encoding and decoding against vectors made by an independent implementation, bit for bit.
//! `data/make.py` says how they were made.

use geb_kernels::dtype::Dtype;
use geb_kernels::{Kernels, Level};

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn floats(name: &str) -> Vec<f32> {
    file(name)
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn levels() -> impl Iterator<Item = &'static Kernels> {
    Level::available()
        .into_iter()
        .filter_map(Kernels::for_level)
}

#[test]
fn dequantize_equals_gguf() {
    for k in levels() {
        for dtype in [
            Dtype::F16,
            Dtype::BF16,
            Dtype::Q8_0,
            Dtype::Q4_0,
            Dtype::Q4_1,
        ] {
            let bytes = file(&format!("dequantize_{dtype}.bin"));
            let want = floats(&format!("dequantize_{dtype}.f32"));
            let mut got = vec![0.0; want.len()];
            k.dequantize(dtype, &bytes, &mut got);
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                let same = g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan());
                assert!(
                    same,
                    "{} {dtype} weight {i}: {g:e}, expected {w:e}",
                    k.level()
                );
            }
        }
    }
}

/// Pseudo-random bytes as `data/make.py` makes them.
fn arbitrary(n: usize) -> Vec<u8> {
    let byte = |i: u64| {
        let v = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((v ^ v >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 56) as u8
    };
    (0..n as u64).map(byte).collect()
}

/// The recorded number of blocks and checksum of a type.
fn recorded(dtype: Dtype) -> Option<(usize, u64)> {
    let lines = include_str!("data/dequantize.txt").lines();
    let mut words = lines.map(|l| l.split(' ')).find_map(|mut w| {
        let same = w.next() == Some(dtype.name());
        same.then_some(w)
    })?;
    let blocks = words.next()?.parse().ok()?;
    Some((blocks, u64::from_str_radix(words.next()?, 16).ok()?))
}

/// Types of the table that are no weights: sums and activations inside ggml, and plain numbers.
const NOT_WEIGHTS: [Dtype; 7] = [
    Dtype::Q8_1,
    Dtype::Q8_K,
    Dtype::I8,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::F64,
];

/// Every other type of the table has kernels, so that the property tests, which walk what has kernels,
/// run it; a golden vector; and a row in the benchmarks.
#[test]
fn every_type_is_tested_and_measured() {
    let source = include_str!("../../benches/kernels.rs");
    let walks = "Dtype::ALL.iter().copied().filter(|t| kernels.supports(*t))";
    assert_eq!(
        source.matches(walks).count(),
        2,
        "benchmarks walk the table"
    );
    for k in levels() {
        for &dtype in Dtype::ALL {
            if NOT_WEIGHTS.contains(&dtype) {
                assert!(!k.supports(dtype), "{dtype} is a weight now: test it");
                continue;
            }
            assert!(k.supports(dtype), "{} {dtype}: no kernels", k.level());
            if dtype.block_len() > 1 {
                assert!(recorded(dtype).is_some(), "{dtype}: no golden vector");
            }
        }
    }
}

/// Every type that can run has a golden vector, and every block of it comes out as it should,
/// with whatever bytes its scales have.
#[test]
fn every_type_decodes_arbitrary_bytes_as_gguf() {
    for k in levels() {
        for dtype in Dtype::ALL.iter().copied().filter(|t| k.supports(*t)) {
            if dtype.block_len() == 1 {
                continue; // `special_numbers_become_half_precision_as_in_gguf`, and F32 is itself
            }
            let (blocks, want) = recorded(dtype).unwrap_or_else(|| panic!("{dtype}: no vector"));
            let bytes = arbitrary(blocks * dtype.block_bytes());
            let mut out = vec![0.0; blocks * dtype.block_len()];
            k.dequantize(dtype, &bytes, &mut out);
            let canonical = |v: &f32| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() };
            let terms = out
                .iter()
                .enumerate()
                .map(|(i, v)| u64::from(canonical(v)).wrapping_mul(2 * i as u64 + 1));
            let got = terms.fold(0, u64::wrapping_add);
            assert_eq!(got, want, "{} {dtype}: {:?}", k.level(), &out[..8]);
            // A part of a unit decodes like the whole.
            for n in 1..9 {
                let mut part = vec![0.0; n * dtype.block_len()];
                k.dequantize(dtype, &bytes[..n * dtype.block_bytes()], &mut part);
                assert_eq!(
                    bits(&part),
                    bits(&out[..part.len()]),
                    "{} {dtype} {n}",
                    k.level()
                );
            }
        }
    }
}

#[test]
fn quantize_equals_gguf() {
    let x = floats("quantize_x.f32");
    for k in levels() {
        for dtype in [
            Dtype::F16,
            Dtype::BF16,
            Dtype::Q8_0,
            Dtype::Q4_0,
            Dtype::Q4_1,
            Dtype::Q5_0,
            Dtype::Q5_1,
            Dtype::TQ1_0,
            Dtype::TQ2_0,
            Dtype::MXFP4,
        ] {
            let want = file(&format!("quantize_{dtype}.bin"));
            let mut got = vec![0; want.len()];
            k.quantize(dtype, &x, &mut got);
            let row = dtype.block_len().max(32);
            let bytes = dtype.row_bytes(row).unwrap();
            for (i, (g, w)) in got.chunks(bytes).zip(want.chunks(bytes)).enumerate() {
                let x = &x[i * row..][..row];
                let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                if dtype == Dtype::MXFP4 && max > 0.0 && max < 2f32.powi(-125) {
                    continue; // the exponent would be negative, which `gguf` lets wrap around
                }
                assert_eq!(g, w, "{} {dtype} row {i}: {x:?}", k.level());
            }
        }
    }
}

#[test]
fn special_numbers_become_half_precision_as_in_gguf() {
    let x = floats("special_x.f32");
    for k in levels() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let want = file(&format!("special_{dtype}.bin"));
            let mut got = vec![0; want.len()];
            k.quantize(dtype, &x, &mut got);
            for (i, v) in x.iter().enumerate() {
                let half = |b: &[u8]| u16::from_le_bytes([b[2 * i], b[2 * i + 1]]);
                let (g, w) = (half(&got), half(&want));
                // The payload of a NaN is the hardware's business in F16.
                let nan = |h: u16| h & 0x7fff > 0x7c00;
                let same = g == w || (dtype == Dtype::F16 && nan(g) && nan(w));
                assert!(
                    same,
                    "{} {dtype} {:#010x}: {g:#06x}, expected {w:#06x}",
                    k.level(),
                    v.to_bits()
                );
            }
        }
    }
}

/// Floats survive unchanged, and the portable kernels give the same bytes as every other level,
/// for a stretch long enough to reach vector loops and their tails.
#[test]
fn levels_agree_on_bytes() {
    let scalar = Kernels::for_level(Level::Scalar).unwrap();
    let mut state = 1u32;
    let mut x = Vec::new();
    for i in 0..32 * 1001 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let scale = 2f32.powi((i / 32 % 33) - 20);
        x.push((state as i32 as f32 / i32::MAX as f32) * scale);
    }
    for k in levels() {
        for dtype in Dtype::ALL.iter().copied().filter(|t| k.writes(*t)) {
            let x = &x[..x.len() / dtype.block_len() * dtype.block_len()];
            let bytes = dtype.row_bytes(x.len()).unwrap();
            let (mut a, mut b) = (vec![0; bytes], vec![0; bytes]);
            scalar.quantize(dtype, x, &mut a);
            k.quantize(dtype, x, &mut b);
            assert!(a == b, "{} {dtype}", k.level());
            let (mut back_a, mut back_b) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            scalar.dequantize(dtype, &a, &mut back_a);
            k.dequantize(dtype, &a, &mut back_b);
            assert_eq!(bits(&back_a), bits(&back_b), "{} {dtype}", k.level());
            assert!(dtype != Dtype::F32 || back_a == x);
        }
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}
