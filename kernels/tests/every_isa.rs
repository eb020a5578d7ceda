//! Every level of this machine, every format, every operation, against the reference.
//!
//! `GEB_REQUIRE_ISA=scalar,avx2` makes the test fail if a listed level is missing, so that a
//! silent skip cannot pass for success. `GEB_CASES` sets the number of random cases.

mod guard;

use std::ops::Range;
use std::sync::LazyLock;

use geb_kernels::dtype::Dtype;
use geb_kernels::numbers::{Number, fields};
use geb_kernels::{ActKind, Activations, Kernels, Level, MatMut, Scratch, reference};
use guard::Guarded;
use proptest::prelude::*;

/// Every type that can run: a new one is tested without being listed here.
fn formats() -> impl Iterator<Item = Dtype> {
    let scalar = Kernels::for_level(Level::Scalar).unwrap();
    let all = Dtype::ALL.iter().copied();
    all.filter(|t| scalar.supports(*t))
}

/// About `n` columns, in whole blocks.
fn columns(dtype: Dtype, n: usize) -> usize {
    let block = dtype.block_len();
    (n / block).max(1) * block
}

/// Columns of about `blocks` blocks of 32. Plain numbers have no blocks, so any number of columns.
fn ragged(dtype: Dtype, blocks: usize) -> usize {
    match dtype.block_len() {
        1 => 31 * blocks - 30,
        _ => columns(dtype, 32 * blocks),
    }
}

/// Of every level what runs here, and the plain kernels where those are others.
fn levels() -> &'static [&'static Kernels] {
    static ALL: LazyLock<Vec<&'static Kernels>> = LazyLock::new(|| {
        let mut all = Vec::new();
        for level in Level::available() {
            let Some(k) = Kernels::for_level(level) else {
                continue;
            };
            all.push(k);
            let plain = Kernels::plain(level).expect("the level has kernels");
            if formats().any(|t| plain.name(t) != k.name(t)) {
                all.push(Box::leak(Box::new(plain)));
            }
        }
        all
    });
    &ALL
}

fn cases() -> u32 {
    std::env::var("GEB_CASES")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(8)
}

#[test]
fn required_levels_are_present() {
    let have: Vec<_> = levels().iter().map(|k| k.level().name()).collect();
    eprintln!("levels tested: {}", have.join(", "));
    for name in std::env::var("GEB_REQUIRE_ISA")
        .unwrap_or_default()
        .split(',')
    {
        let name = name.trim();
        assert!(
            name.is_empty() || have.contains(&name),
            "level {name} missing, have {have:?}"
        );
    }
    assert!(have.contains(&"scalar"));
}

/// Small repeatable numbers.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

/// Blocks of random bytes with finite scales: zero, denormal, negative and ordinary.
fn random_blocks(dtype: Dtype, weights: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = reference::sample_blocks(dtype, weights, || rng.next());
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            Dtype::F32 => block.copy_from_slice(&rng.unit().to_le_bytes()),
            Dtype::F16 => block[1] &= 0xbf,
            Dtype::BF16 => block[1] = (block[1] & 0x80) | 0x3e,
            _ => {
                for &(at, number) in fields(dtype).unwrap_or_default() {
                    let bits: u16 = match rng.below(8) {
                        0 => 0,
                        1 => 0x8000,
                        2 => rng.next() as u16 & 0x83ff,
                        _ => (rng.next() as u16 & 0x87ff) | 0x2000,
                    };
                    match number {
                        Number::F16 => block[at..at + 2].copy_from_slice(&bits.to_le_bytes()),
                        _ => block[at] = [0, 1, 2, 130][rng.below(4)],
                    }
                }
            }
        }
    }
    bytes
}

/// The part of every weight that a kernel adds separately: its minimum, which is the weight with
/// code 0.
fn zero_points(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let codes = match dtype {
        Dtype::Q4_1 => 4..20,
        Dtype::Q5_1 => 4..24,
        Dtype::Q2_K => 16..80,
        Dtype::Q4_K => 16..144,
        Dtype::Q5_K => 16..176,
        _ => return vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()],
    };
    let mut blank = bytes.to_vec();
    for block in blank.chunks_exact_mut(dtype.block_bytes()) {
        block[codes.clone()].fill(0);
    }
    reference::dequantize(dtype, &blank)
}

struct Problem {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    tokens: usize,
    weights: Vec<u8>,
    x: Vec<f32>,
}

impl Problem {
    fn new(dtype: Dtype, rows: usize, cols: usize, tokens: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let weights = random_blocks(dtype, rows * cols, &mut rng);
        let mut x: Vec<f32> = (0..tokens * cols).map(|_| rng.unit()).collect();
        for group in x.chunks_mut(32) {
            match rng.below(8) {
                0 => group.fill(0.0),
                1 => group.iter_mut().for_each(|v| *v *= 1e-30),
                2 => group.iter_mut().for_each(|v| *v = v.signum()),
                _ => {}
            }
        }
        Self {
            dtype,
            rows,
            cols,
            tokens,
            weights,
            x,
        }
    }

    /// `[tokens][rows]`, weights placed `shift` bytes off a page end, activations filled in
    /// reverse tile order, output written in two column ranges.
    fn run(&self, k: &Kernels, tokens: Range<usize>, shift: usize, split: usize) -> Vec<f32> {
        let n = tokens.len();
        let x = &self.x[tokens.start * self.cols..tokens.end * self.cols];
        let x = Guarded::new(bytemuck::cast_slice(x), 0);
        let x: &[f32] = bytemuck::cast_slice(x.bytes());
        let mut acts = Activations::new();
        acts.reshape(k, k.act_kind(self.dtype), n, self.cols);
        let shape = acts.shape();
        let tiles = acts
            .bytes_mut()
            .chunks_exact_mut(shape.tile_bytes())
            .enumerate();
        for (i, tile) in tiles.rev() {
            k.fill_tile(shape, i, x, tile);
        }
        let row_bytes = self.dtype.row_bytes(self.cols).unwrap();
        let mut out = vec![f32::NAN; n * self.rows];
        let (left, right) = MatMut::new(&mut out, n, self.rows, self.rows).split_cols(split);
        let mut scratch = Scratch::new();
        for (range, view) in [(0..split, left), (split..self.rows, right)] {
            let part = &self.weights[range.start * row_bytes..range.end * row_bytes];
            let part = Guarded::new(part, shift);
            k.mat_mul(
                self.dtype,
                part.bytes(),
                self.cols,
                &acts,
                view,
                &mut scratch,
            );
        }
        out
    }

    fn check(&self, k: &Kernels, got: &[f32]) {
        let weights = reference::dequantize(self.dtype, &self.weights);
        let zeros = zero_points(self.dtype, &self.weights);
        let bound = (self.cols as f64 + 16.0) * 2f64.powi(-24);
        for t in 0..self.tokens {
            let x = &self.x[t * self.cols..][..self.cols];
            let x = reference::seen_activations(k.act_kind(self.dtype), x);
            for r in 0..self.rows {
                let row = r * self.cols..(r + 1) * self.cols;
                let (want, size) = reference::dot(&weights[row.clone()], &x);
                let (_, zero_size) = reference::dot(&zeros[row], &x);
                let got = f64::from(got[t * self.rows + r]);
                let allowed = (size + 2.0 * zero_size) * bound + 1e-37;
                assert!(
                    (got - want).abs() <= allowed,
                    "{} {} {}x{}, token {t} of {}, row {r}: {got}, expected {want} +- {allowed}",
                    k.level(),
                    self.dtype,
                    self.rows,
                    self.cols,
                    self.tokens,
                );
            }
        }
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]

    /// Few and many tokens, ragged rows and columns, unaligned weights that end at a page without
    /// access: right results on every level.
    #[test]
    fn products_match_the_reference(
        seed: u64,
        rows in 1usize..40,
        blocks in 1usize..=64,
        tokens in 1usize..=40,
        shift in 0usize..64,
    ) {
        for dtype in formats() {
            let problem = Problem::new(dtype, rows, ragged(dtype, blocks), tokens, seed);
            let split = seed as usize % (rows + 1);
            for &k in levels() {
                problem.check(k, &problem.run(k, 0..tokens, shift, split));
            }
        }
    }

    /// A token's results are the same bits on every level, alone or among others, and however the
    /// rows are split: there is one order of additions.
    #[test]
    fn products_are_bit_exact(
        seed: u64,
        rows in 1usize..40,
        blocks in 1usize..=80,
        tokens in 1usize..=32,
    ) {
        for dtype in formats() {
            let problem = Problem::new(dtype, rows, ragged(dtype, blocks), tokens, seed);
            let scalar = Kernels::for_level(Level::Scalar).unwrap();
            let same = bits(&problem.run(scalar, 0..tokens, 0, 0));
            for &k in levels() {
                // BF16 pairs round the activations: there, only batches agree with each other.
                let want = if k.act_kind(dtype) == scalar.act_kind(dtype) {
                    same.clone()
                } else {
                    bits(&problem.run(k, 0..tokens, 0, 0))
                };
                let all = problem.run(k, 0..tokens, 3, rows / 2);
                prop_assert_eq!(&bits(&all), &want, "{} {} all {}", k.level(), dtype, tokens);
                let t = seed as usize % tokens;
                for n in [1, 2, 3, 4, 7, 15] {
                    let n = n.min(tokens);
                    let first = t.min(tokens - n);
                    let some = problem.run(k, first..first + n, 0, rows / 3);
                    let want = &want[first * rows..(first + n) * rows];
                    let name = k.level();
                    prop_assert_eq!(&bits(&some)[..], want, "{} {} {}..{}", name, dtype, first, n);
                }
            }
        }
    }
}

/// The largest products there are: nothing saturates, and integer sums are exact.
#[test]
fn extremes_are_exact() {
    let cols = 512;
    for &k in levels() {
        for code in [-128i8, -127, 127, 1] {
            for x in [127.0f32, -127.0] {
                for tokens in [1, 2, 3, 4, 5, 20] {
                    let mut block = vec![0, 0x3c];
                    block.extend([code as u8; 32]);
                    let weights = block.repeat(17 * cols / 32);
                    let problem = Problem {
                        dtype: Dtype::Q8_0,
                        rows: 17,
                        cols,
                        tokens,
                        weights,
                        x: vec![x; tokens * cols],
                    };
                    let want = f32::from(code) * x * cols as f32;
                    let got = problem.run(k, 0..tokens, 0, 5);
                    assert!(
                        got.iter().all(|&g| g == want),
                        "{} {code} {x}: {got:?}",
                        k.level()
                    );
                }
            }
        }
    }
}

/// Rows longer than a segment of the order of additions.
#[test]
fn long_rows_are_blocked() {
    for dtype in formats() {
        let problem = Problem::new(dtype, 18, columns(dtype, 16384 + 288), 6, 11);
        let scalar = Kernels::for_level(Level::Scalar).unwrap();
        let want = bits(&problem.run(scalar, 0..6, 0, 16));
        for &k in levels() {
            let all = problem.run(k, 0..6, 0, 16);
            problem.check(k, &all);
            if k.act_kind(dtype) == scalar.act_kind(dtype) {
                assert_eq!(bits(&all), want, "{} {dtype}", k.level());
            }
            let one = bits(&problem.run(k, 3..4, 0, 18));
            let want = bits(&all[3 * 18..4 * 18]);
            assert_eq!(one, want, "{} {dtype} alone", k.level());
        }
    }
}

/// A NaN or an infinity among the activations reaches every output of its token and no other.
#[test]
fn bad_activations_are_not_hidden() {
    for dtype in formats() {
        let cols = columns(dtype, 64);
        for bad in [f32::NAN, f32::INFINITY] {
            for tokens in [2, 20] {
                let mut problem = Problem::new(dtype, 17, cols, tokens, 5);
                problem.x[cols + 40] = bad;
                // No zero weights: infinity must stay visible.
                let ones = vec![1.0; 17 * cols];
                for &k in levels() {
                    if k.writes(dtype) {
                        k.quantize(dtype, &ones, &mut problem.weights);
                    }
                    let out = problem.run(k, 0..tokens, 0, 17);
                    for (i, v) in out.iter().enumerate() {
                        assert_eq!(v.is_finite(), i / 17 != 1, "{} {dtype} {i}: {v}", k.level());
                    }
                }
            }
        }
    }
}

/// Encoding and decoding at the edge of a page.
#[test]
fn blocks_stay_in_their_buffers() {
    for &k in levels() {
        for dtype in formats().filter(|t| k.writes(*t)) {
            for blocks in 1..=2048 / dtype.block_len().max(32) {
                let n = blocks * dtype.block_len();
                let mut rng = Rng(blocks as u64);
                let x: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
                let x = Guarded::new(bytemuck::cast_slice(&x), 0);
                let mut out = Guarded::new(&vec![0; dtype.row_bytes(n).unwrap()], 0);
                k.quantize(dtype, bytemuck::cast_slice(x.bytes()), out.bytes_mut());
                let mut back = Guarded::new(&vec![0; 4 * n], 0);
                let values: &mut [f32] = bytemuck::cast_slice_mut(back.bytes_mut());
                k.dequantize(dtype, out.bytes(), values);
                assert_eq!(values, reference::dequantize(dtype, out.bytes()));
            }
        }
    }
}

/// The activation quantizer of every level follows the rules, and its codes never reach -128.
#[test]
fn activation_codes_follow_the_rules() {
    // Weights that pick single columns make the codes visible: code * scale.
    let cols = 64;
    let mut weights = Vec::new();
    for c in 0..cols {
        for b in 0..cols / 32 {
            weights.extend([0, 0x3c]);
            weights.extend((0..32).map(|i| u8::from(b * 32 + i == c)));
        }
    }
    let mut rng = Rng(3);
    for tokens in [1, 9] {
        for size in [1.0f32, 1e-20, 1e30, 2e-31, 1e-31, 1e-44] {
            let x: Vec<f32> = (0..tokens * cols).map(|_| rng.unit() * size).collect();
            let problem = Problem {
                dtype: Dtype::Q8_0,
                rows: cols,
                cols,
                tokens,
                weights: weights.clone(),
                x: x.clone(),
            };
            for &k in levels() {
                assert_eq!(k.act_kind(Dtype::Q8_0), ActKind::Q8);
                let got = problem.run(k, 0..tokens, 0, 0);
                for (t, row) in x.chunks(cols).enumerate() {
                    let q = reference::quantize_activations(row);
                    for c in 0..cols {
                        let want = q.codes[c] as f32 * q.scales[c / 32];
                        assert!(q.codes[c].abs() <= 127);
                        assert_eq!(got[t * cols + c], want, "{} {size} {c}", k.level());
                    }
                }
            }
        }
    }
}

#[test]
fn loops_of_the_limits_run_and_count() {
    for k in Level::available()
        .into_iter()
        .filter_map(Kernels::for_level)
    {
        let (int8, f32) = (k.peak_int8(1), k.peak_f32(1));
        assert!(int8 >= 4 * f32 && f32 > 0, "{}", k.level());
        assert_eq!(k.peak_int8(3), 3 * int8);
        k.read(&[1; 1000]);
    }
}
