//! What the efforts of the encoders promise, for every type that can be written.

use geb_kernels::dtype::Dtype;
use geb_kernels::{Effort, Kernels, Level, Search, reference};
use proptest::prelude::*;

const EFFORTS: [Effort; 3] = [Effort::Reference, Effort::Fast, Effort::Best];

fn levels() -> impl Iterator<Item = &'static Kernels> {
    let levels = Level::available().into_iter();
    levels.filter_map(Kernels::for_level)
}

/// Block formats with an encoder.
fn formats() -> Vec<Dtype> {
    let scalar = Kernels::for_level(Level::Scalar).unwrap();
    let all = Dtype::ALL.iter().copied();
    all.filter(|t| scalar.writes(*t) && t.block_len() > 1)
        .collect()
}

fn encode(k: &Kernels, dtype: Dtype, x: &[f32], search: Search) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).unwrap()];
    k.quantize_with(dtype, x, search, &mut bytes);
    bytes
}

/// `sum(w (x - y)^2)` of each block; rows have the length of `w`.
fn errors(dtype: Dtype, x: &[f32], w: &[f32], bytes: &[u8]) -> Vec<f64> {
    let y = reference::dequantize(dtype, bytes);
    let terms = x.iter().zip(&y).zip(w.iter().cycle());
    let terms: Vec<f64> = terms
        .map(|((x, y), w)| f64::from(*w) * (f64::from(*x) - f64::from(*y)).powi(2))
        .collect();
    let blocks = terms.chunks(dtype.block_len());
    blocks.map(|b| b.iter().sum()).collect()
}

struct Rng(u64);

impl Rng {
    fn unit(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// Two rows of 512 of different kinds: bell-shaped, with outliers, one-sided, constant, zero, tiny.
fn rows(seed: u64) -> Vec<f32> {
    let mut rng = Rng(seed);
    let kinds: Vec<f32> = (0..1024 / 32).map(|_| rng.unit()).collect();
    let value = |i: usize| {
        let bell: f32 = (0..4).map(|_| rng.unit()).sum::<f32>() * 0.05;
        match (kinds[i / 32] * 8.0) as i32 {
            7 => 0.0,
            6 => 0.125,
            5 => bell.abs() + 0.1,
            4 if i.is_multiple_of(29) => bell * 30.0,
            3 => bell * 1e-6,
            _ => bell,
        }
    };
    (0..1024).map(value).collect()
}

/// Weights with a few large ones and zeros.
fn importance(seed: u64) -> Vec<f32> {
    let mut rng = Rng(seed ^ 77);
    let weight = |i: usize| match i % 37 {
        5 => 50.0,
        11 => 0.0,
        _ => rng.unit().abs() + 0.01,
    };
    (0..512).map(weight).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..Default::default() })]

    /// More effort is never worse, block for block; and weights serve the blocks they are for.
    #[test]
    fn no_block_gets_worse(seed: u64) {
        let k = Kernels::best().unwrap();
        let (x, w) = (rows(seed), importance(seed));
        let ones = vec![1.0; 512];
        for dtype in formats() {
            for (w, given) in [(&ones, None), (&w, Some(&w[..]))] {
                // A formula does not know the weights, but they are what counts.
                let mut before = errors(dtype, &x, w, &encode(k, dtype, &x, Search::default()));
                if given.is_some() && !is_formula(dtype) {
                    before.fill(f64::INFINITY);
                }
                for effort in EFFORTS {
                    let search = Search { effort, importance: given };
                    let after = errors(dtype, &x, w, &encode(k, dtype, &x, search));
                    for (i, (a, b)) in after.iter().zip(&before).enumerate() {
                        prop_assert!(
                            *a <= b * 1.001 + 1e-18,
                            "{} {:?} {}: block {}: {} after {}", dtype, effort, given.is_some(), i, a, b
                        );
                    }
                    before = after;
                }
            }
        }
    }

    /// The same bytes on every level, with every effort, for one block as for all at once.
    #[test]
    fn efforts_are_bit_exact(seed: u64) {
        let scalar = Kernels::for_level(Level::Scalar).unwrap();
        let (x, w) = (rows(seed), importance(seed));
        for dtype in formats() {
            for effort in EFFORTS {
                for importance in [None, Some(&w[..])] {
                    let search = Search { effort, importance };
                    let want = encode(scalar, dtype, &x, search);
                    for k in levels() {
                        prop_assert!(
                            encode(k, dtype, &x, search) == want,
                            "{} {} {:?} {}", k.level(), dtype, effort, importance.is_some()
                        );
                    }
                    // Blocks do not know of each other.
                    let (len, size) = (dtype.block_len(), dtype.block_bytes());
                    let at = seed as usize % (1024 / len);
                    let importance = importance.map(|w| &w[at * len % 512..][..len]);
                    let one = encode(scalar, dtype, &x[at * len..][..len], Search { effort, importance });
                    prop_assert_eq!(&one[..], &want[at * size..][..size], "{} block {}", dtype, at);
                }
            }
        }
    }
}

/// Types that are a formula without weights.
fn is_formula(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Q4_0
            | Dtype::Q4_1
            | Dtype::Q5_0
            | Dtype::Q5_1
            | Dtype::Q8_0
            | Dtype::TQ1_0
            | Dtype::TQ2_0
            | Dtype::MXFP4
    )
}

/// Weights of no importance at all are equal weights: nothing is dropped.
#[test]
fn no_importance_is_equal_importance() {
    let k = Kernels::best().unwrap();
    let (x, zeros) = (rows(5), vec![0.0; 512]);
    for dtype in formats() {
        let search = Search {
            effort: Effort::Fast,
            importance: None,
        };
        let want = encode(k, dtype, &x, search);
        let importance = Some(&zeros[..]);
        let got = encode(
            k,
            dtype,
            &x,
            Search {
                importance,
                ..search
            },
        );
        assert!(got == want, "{dtype}");
    }
}

/// A large weight on one value makes that value exact, or nearly.
#[test]
fn what_is_important_is_exact() {
    let k = Kernels::best().unwrap();
    let x = rows(3);
    for dtype in formats() {
        let mut w = vec![1e-3; 512];
        w[100] = 1e6;
        let with = Search {
            importance: Some(&w),
            ..Search::default()
        };
        let distance = |search| {
            let y = reference::dequantize(dtype, &encode(k, dtype, &x, search));
            (x[100] - y[100]).abs()
        };
        let (after, before) = (distance(with), distance(Search::default()));
        // A power of two as scale has not much choice.
        let bound = match dtype {
            Dtype::MXFP4 => before,
            // Its scale has three bits of fraction.
            Dtype::NVFP4 => x[100].abs() / 16.0,
            _ => x[100].abs() * 2e-2,
        };
        assert!(after <= bound, "{dtype}: {after}, without weights {before}");
    }
}
