//! Packed weights give the bits of the Q8_0 they were made from: every level, any masks, any shape.

use geb_kernels::dtype::Dtype;
use geb_kernels::{ActKind, Activations, Kernels, Level, MatMut, Scratch, SparseMatrix};
use proptest::prelude::*;

const BLOCK: usize = Dtype::Q8_0.block_bytes();

fn levels() -> Vec<&'static Kernels> {
    let available = Level::available().into_iter();
    available.filter_map(Kernels::for_level).collect()
}

fn cases() -> u32 {
    let cases = std::env::var("GEB_CASES").ok();
    cases.and_then(|v| v.parse().ok()).unwrap_or(24)
}

/// Small repeatable numbers.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u32) -> u32 {
        let state = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = state.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % n
    }
}

/// Any codes, -128 too, and any scales: zero, negative, denormal, ordinary. Some rows are all zeros, some
/// have none, the others `zeros` per cent.
fn matrix(rows: usize, cols: usize, zeros: u32, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows {
        let zeros = [0, 100, zeros, zeros, zeros][rng.below(5) as usize];
        for _ in 0..cols / 32 {
            let scale = match rng.below(6) {
                0 => rng.below(0x400) as u16,
                1 => 0x8000,
                sign => (sign as u16 & 1) << 15 | 0x2000 | rng.below(0x800) as u16,
            };
            bytes.extend(scale.to_le_bytes());
            bytes.extend((0..32).map(|_| match rng.below(100) < zeros {
                true => 0,
                false => 1 + rng.below(255) as u8,
            }));
        }
    }
    bytes
}

fn acts(kernels: &Kernels, x: &[f32], tokens: usize, cols: usize) -> Activations {
    let mut acts = Activations::new();
    acts.reshape(kernels, ActKind::Q8, tokens, cols);
    acts.fill(kernels, x);
    acts
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Compares on all levels, also for a part of the rows and for the blocks themselves.
fn compare((rows, cols): (usize, usize), zeros: u32, tokens: usize, seed: u64) {
    let mut rng = Rng(seed);
    let weights = matrix(rows, cols, zeros, &mut rng);
    let packed = SparseMatrix::pack(&weights, cols).unwrap();
    let nonzero = rows * cols - SparseMatrix::zeros(&weights);
    let heads = rows * cols.div_ceil(256) * 48;
    assert_eq!(packed.bytes(0..rows), heads + nonzero, "{rows} x {cols}");
    let x: Vec<f32> = (0..tokens * cols)
        .map(|_| rng.below(2001) as f32 / 1000.0 - 1.0)
        .collect();
    let first = rng.below(rows as u32) as usize;
    for kernels in levels() {
        let what = format!("{} {rows} x {cols}, {tokens} tokens", kernels.level());
        let mut blocks = vec![1; weights.len()];
        kernels.expand(&packed, 0..rows, &mut blocks);
        assert!(blocks == weights, "{what}: blocks");
        let acts = acts(kernels, &x, tokens, cols);
        let mut scratch = Scratch::new();
        for first in [0, first] {
            let n = rows - first;
            let (mut dense, mut sparse) = (vec![1.0; tokens * n], vec![2.0; tokens * n]);
            let from = &weights[first * cols / 32 * BLOCK..];
            let out = MatMut::new(&mut dense, tokens, n, n);
            kernels.mat_mul(Dtype::Q8_0, from, cols, &acts, out, &mut scratch);
            let out = MatMut::new(&mut sparse, tokens, n, n);
            kernels.mat_mul_sparse(&packed, first..rows, &acts, out, &mut scratch);
            assert_eq!(bits(&dense), bits(&sparse), "{what}, from row {first}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn equal_the_dense_product(
        rows in 1usize..40,
        blocks in 1usize..30,
        zeros in 0u32..=100,
        tokens in prop_oneof![1usize..=4, 5usize..40],
        seed in any::<u64>(),
    ) {
        compare((rows, 32 * blocks), zeros, tokens, seed);
    }
}

#[test]
fn equal_in_rows_of_several_segments() {
    for tokens in [1, 3, 9] {
        compare((19, 16384 + 32 * 11), 70, tokens, 5);
    }
}

#[test]
fn equal_with_activations_that_are_not_finite() {
    let (rows, cols) = (17, 96);
    let weights = matrix(rows, cols, 70, &mut Rng(3));
    let packed = SparseMatrix::pack(&weights, cols).unwrap();
    let mut x = vec![0.5; cols];
    x[40] = f32::INFINITY;
    for kernels in levels() {
        let (acts, mut scratch) = (acts(kernels, &x, 1, cols), Scratch::new());
        let mut out = vec![0.0; rows];
        let view = MatMut::new(&mut out, 1, rows, rows);
        kernels.mat_mul_sparse(&packed, 0..rows, &acts, view, &mut scratch);
        assert!(out.iter().all(|v| v.is_nan()), "{}", kernels.level());
    }
}

#[test]
#[should_panic(expected = "product: rows")]
fn rows_must_agree() {
    let kernels = Kernels::for_level(Level::Scalar).unwrap();
    let packed = SparseMatrix::pack(&[0; BLOCK], 32).unwrap();
    let acts = acts(kernels, &[0.0; 32], 1, 32);
    let out = &mut [0.0; 2];
    let view = MatMut::new(out, 1, 2, 2);
    kernels.mat_mul_sparse(&packed, 0..1, &acts, view, &mut Scratch::new());
}
