//! Attention over every type of the KV cache at every level: against f64, and against itself.

use geb_kernels::float::{
    AttnQuery, AttnScratch, BLOCK, KvHead, KvRows, KvShape, KvSide, KvType, SPLIT,
};
use geb_kernels::{Kernels, Level, MatMut};
use half::f16;

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

fn levels() -> Vec<&'static Kernels> {
    let levels = Level::available();
    levels
        .iter()
        .filter_map(|l| Kernels::for_level(*l))
        .collect()
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// What the cache holds of `x` (`[positions, d]`), from the documentation of [`KvType`].
fn rounded(kv: KvType, d: usize, x: &[f32]) -> Vec<f32> {
    let group = |g: &[f32]| {
        let most = g.iter().fold(0f32, |m, v| m.max(v.abs()));
        let finite = g.iter().all(|v| v.is_finite());
        let code = |v: &f32| match most {
            m if !finite => f32::NAN * m,
            m if m < 2f32.powi(-100) => 0.0,
            m => (v * (127.0 / m)).round_ties_even() * (m / 127.0),
        };
        g.iter().map(code).collect::<Vec<_>>()
    };
    match kv {
        KvType::F32 => x.to_vec(),
        KvType::F16 => x.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
        KvType::Q8_0 => x
            .chunks(d)
            .flat_map(|row| row.chunks(32).flat_map(group))
            .collect(),
    }
}

/// Bytes between the pages of a test that belong to nobody.
const GAP: usize = 192;

/// A cache of one head in pages out of order, filled position by position or in one go.
struct Cache {
    shape: KvShape,
    slab: Vec<u32>,
    pages: Vec<u32>,
}

impl Cache {
    fn new(kv: KvType, d: usize, positions: usize) -> Cache {
        let shape = KvShape::new(kv, d);
        let count = positions.div_ceil(BLOCK);
        // Every second page from the end, then the others: no two neighbours lie side by side.
        let last_first = (0..count as u32).rev();
        let (even, odd): (Vec<u32>, Vec<u32>) = last_first.partition(|p| p % 2 == 0);
        let pages: Vec<u32> = even.into_iter().chain(odd).collect();
        // All bits set: what was never written is a NaN in every type.
        let slab = vec![u32::MAX; count * Self::page_bytes(shape) / 4];
        Cache { shape, slab, pages }
    }

    fn page_bytes(shape: KvShape) -> usize {
        GAP + 2 * shape.block_bytes()
    }

    fn put(&mut self, kernels: &Kernels, first: usize, tokens: usize, k: &[f32], v: &[f32]) {
        let (d, block) = (self.shape.head_size(), self.shape.block_bytes());
        for (side, x, at) in [(KvSide::Keys, k, GAP), (KvSide::Values, v, GAP + block)] {
            let mut at_token = 0;
            while at_token < tokens {
                let position = first + at_token;
                let n = (BLOCK - position % BLOCK).min(tokens - at_token);
                let rows = KvRows {
                    x: &x[position * d..],
                    stride: d,
                    tokens: n,
                    slot: position % BLOCK,
                };
                let page = self.pages[position / BLOCK] as usize;
                let start = page * Self::page_bytes(self.shape) + at;
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.slab);
                kernels.store_kv(self.shape, side, rows, &mut bytes[start..start + block]);
                at_token += n;
            }
        }
    }

    fn head(&self) -> KvHead<'_> {
        let slab = bytemuck::cast_slice::<u32, u8>(&self.slab);
        KvHead::new(
            self.shape,
            slab,
            &self.pages,
            Self::page_bytes(self.shape),
            GAP,
        )
    }

    /// The same with the pages behind `position` given up, to be used for other positions.
    fn release_before(&mut self, position: usize) {
        for page in &mut self.pages[..position / BLOCK] {
            *page = u32::MAX;
        }
    }

    fn attend(&self, kernels: &Kernels, a: &AttnQuery<'_>) -> Vec<f32> {
        let (rows, cols) = (a.tokens.1 - a.tokens.0, a.heads * self.shape.head_size());
        let mut out = vec![0f32; rows * cols];
        let view = MatMut::new(&mut out, rows, cols, cols);
        kernels.attend(a, self.head(), view, &mut AttnScratch::default());
        out
    }
}

/// A group of heads and a batch of tokens after `first` cached positions.
#[derive(Clone, Copy, Debug)]
struct Case {
    d: usize,
    heads: usize,
    tokens: usize,
    first: usize,
    window: usize,
    softcap: Option<f32>,
}

impl Case {
    fn end(&self) -> usize {
        self.first + self.tokens
    }

    fn query<'a>(&self, q: &'a [f32]) -> AttnQuery<'a> {
        AttnQuery {
            q,
            stride: self.heads * self.d + 5,
            column: 3,
            heads: self.heads,
            tokens: (0, self.tokens),
            first_position: self.first,
            positions: (0, self.end()),
            window: self.window,
            scale: 2.0,
            softcap: self.softcap,
        }
    }

    fn queries(&self) -> Vec<f32> {
        numbers(self.tokens * (self.heads * self.d + 5), 3)
    }
}

/// Attention of one row in f64, from the definition. `q`: the scaled query.
fn reference(case: &Case, q: &[f32], k: &[f32], v: &[f32], token: usize) -> Vec<f64> {
    let (d, p) = (case.d, case.first + token);
    let seen: Vec<usize> = (0..=p).filter(|j| p - j < case.window).collect();
    let dot = |j: &usize| -> f64 {
        let key = &k[j * d..(j + 1) * d];
        q.iter()
            .zip(key)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let capped = |s: f64| match case.softcap.map(f64::from) {
        Some(c) => c * (s / c).tanh(),
        None => s,
    };
    let scores: Vec<f64> = seen.iter().map(dot).map(capped).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mean = |i: usize| -> f64 {
        let terms = seen.iter().zip(&weights);
        terms.map(|(j, w)| w * f64::from(v[j * d + i])).sum::<f64>() / total
    };
    (0..d).map(mean).collect()
}

/// Largest difference from the definition, in units of the values' magnitude `size`.
fn worst_error(kernels: &Kernels, kv: KvType, case: &Case, size: f32) -> f64 {
    let (d, heads) = (case.d, case.heads);
    let k = numbers(case.end() * d, 1);
    let v: Vec<f32> = numbers(case.end() * d, 2)
        .iter()
        .map(|x| x * size)
        .collect();
    let q = case.queries();
    let a = case.query(&q);
    let mut cache = Cache::new(kv, d, case.end());
    cache.put(kernels, 0, case.end(), &k, &v);
    let out = cache.attend(kernels, &a);
    let (k, v) = (rounded(kv, d, &k), rounded(kv, d, &v));
    let mut worst = 0f64;
    for t in 0..case.tokens {
        for h in 0..heads {
            let at = t * a.stride + a.column + h * d;
            let scaled: Vec<f32> = q[at..at + d].iter().map(|x| x * a.scale).collect();
            // With 8-bit keys the query is rounded to 8 bits as well.
            let scaled = match kv {
                KvType::Q8_0 => rounded(kv, d, &scaled),
                KvType::F32 | KvType::F16 => scaled,
            };
            let want = reference(case, &scaled, &k, &v, t);
            for (want, got) in want.iter().zip(&out[(t * heads + h) * d..]) {
                assert!(got.is_finite(), "{kv:?} {case:?}");
                worst = worst.max((want - f64::from(*got)).abs() / f64::from(size));
            }
        }
    }
    worst
}

#[test]
fn equals_the_definition_on_every_level() {
    for (d, heads, tokens, first, window, softcap) in [
        (16, 1, 1, 0, usize::MAX, None),
        (16, 3, 1, 200, usize::MAX, None),
        (20, 2, 7, 60, 9, Some(3.0)),
        (64, 3, 33, 100, usize::MAX, None),
        (64, 3, 33, 100, usize::MAX, Some(50.0)),
        (40, 4, 16, 500, 70, None),
        (80, 8, 5, 63, 1, Some(0.5)),
        (128, 1, 130, 0, usize::MAX, None),
        (96, 2, 3, 700, 300, Some(3.0)),
    ] {
        let case = Case {
            d,
            heads,
            tokens,
            first,
            window,
            softcap,
        };
        for kernels in levels() {
            for kv in TYPES {
                for size in [1.0, 1e-3, 60_000.0] {
                    let worst = worst_error(kernels, kv, &case, size);
                    let level = kernels.level();
                    assert!(worst < 2e-5, "{level} {kv:?} {case:?}: {worst}");
                }
            }
        }
    }
}

#[test]
fn huge_values_fit_where_the_type_has_room() {
    let case = Case {
        d: 64,
        heads: 2,
        tokens: 2,
        first: 90,
        window: usize::MAX,
        softcap: None,
    };
    for kernels in levels() {
        for kv in [KvType::F32, KvType::Q8_0] {
            assert!(worst_error(kernels, kv, &case, 1e30) < 2e-5, "{kv:?}");
        }
    }
}

#[test]
fn zeros_give_the_mean_and_nan_or_infinity_is_not_hidden() {
    let (d, n) = (48, 130);
    let case = Case {
        d,
        heads: 2,
        tokens: 1,
        first: n - 1,
        window: usize::MAX,
        softcap: None,
    };
    let q = case.queries();
    for kernels in levels() {
        for kv in TYPES {
            let (k, v) = (vec![0f32; n * d], vec![0f32; n * d]);
            let mut cache = Cache::new(kv, d, n);
            cache.put(kernels, 0, n, &k, &v);
            assert!(
                cache
                    .attend(kernels, &case.query(&q))
                    .iter()
                    .all(|x| *x == 0.0)
            );
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut poisoned = k.clone();
                poisoned[70 * d + 2] = bad;
                cache.put(kernels, 0, n, &poisoned, &v);
                let out = cache.attend(kernels, &case.query(&q));
                // -inf times a negative query is +inf, the other way round it has no weight.
                let reported = out.iter().all(|x| x.is_nan());
                let no_weight = kv != KvType::Q8_0 && bad.is_infinite();
                assert!(reported || no_weight, "{kv:?} key {bad}");
                cache.put(kernels, 0, n, &k, &poisoned);
                let out = cache.attend(kernels, &case.query(&q));
                assert!(!out[2].is_finite(), "{kv:?} value {bad}");
            }
        }
    }
}

/// A token's bits must not depend on the other tokens, on how the positions are cut, on pages given up
/// behind a window, or on how the cache was filled.
#[test]
fn a_token_gives_the_same_bits_alone_in_a_batch_in_pieces_and_behind_a_window() {
    for (d, heads, first, window, softcap) in [
        (64, 3, 250, usize::MAX, None),
        (64, 1, 600, usize::MAX, Some(3.0)),
        (40, 4, 510, 300, None),
        (32, 2, 1000, 9, Some(3.0)),
    ] {
        let case = Case {
            d,
            heads,
            tokens: 40,
            first,
            window,
            softcap,
        };
        let (k, v) = (numbers(case.end() * d, 4), numbers(case.end() * d, 5));
        let q = case.queries();
        for kernels in levels() {
            for kv in TYPES {
                let mut whole = Cache::new(kv, d, case.end());
                whole.put(kernels, 0, case.end(), &k, &v);
                let mut single = Cache::new(kv, d, case.end());
                let a = case.query(&q);
                let want = whole.attend(kernels, &a);
                let row = heads * d;
                let name = format!("{} {kv:?} {case:?}", kernels.level());
                for t in 0..case.tokens {
                    let one = AttnQuery {
                        tokens: (t, t + 1),
                        positions: (0, first + t + 1),
                        ..a
                    };
                    let alone = whole.attend(kernels, &one);
                    assert!(
                        alone == want[t * row..(t + 1) * row],
                        "{name}: token {t} alone"
                    );
                    let cut = in_pieces(kernels, &whole, &one);
                    assert!(cut == alone, "{name}: token {t} in pieces");
                }
                for at in 0..case.end() {
                    single.put(kernels, at, 1, &k, &v);
                }
                single.release_before((first + 1).saturating_sub(window));
                assert!(single.attend(kernels, &a) == want, "{name}: window");
                assert!(
                    in_pieces(kernels, &single, &a) == want,
                    "{name}: window in pieces"
                );
            }
        }
    }
}

fn in_pieces(kernels: &Kernels, cache: &Cache, a: &AttnQuery<'_>) -> Vec<f32> {
    let each = a.partial_len(cache.shape);
    let from = (a.first_position + a.tokens.0 + 1).saturating_sub(a.window) / SPLIT * SPLIT;
    let mut pieces = Vec::new();
    for at in (from..a.positions.1).step_by(SPLIT) {
        let positions = (at, (at + SPLIT).min(a.positions.1));
        let mut piece = vec![0f32; each];
        let part = AttnQuery { positions, ..*a };
        kernels.attend_partial(&part, cache.head(), &mut piece, &mut AttnScratch::default());
        pieces.extend(piece);
    }
    let (rows, cols) = (a.tokens.1 - a.tokens.0, a.heads * cache.shape.head_size());
    let mut out = vec![0f32; rows * cols];
    let view = MatMut::new(&mut out, rows, cols, cols);
    kernels.merge_partials(cache.shape, &mut pieces, each, view);
    out
}

#[test]
fn blocks_are_whole_cache_lines() {
    for kv in TYPES {
        for d in [1, 20, 64, 80, 128] {
            assert_eq!(KvShape::new(kv, d).block_bytes() % 64, 0);
        }
    }
    let bytes = |kv| KvShape::new(kv, 64).block_bytes();
    assert_eq!(
        TYPES.map(bytes),
        [BLOCK * 64 * 4, BLOCK * 64 * 2, BLOCK * 64 * 9 / 8]
    );
}
