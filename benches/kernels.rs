//! Every kernel at the shapes of a 1.3B model: decode in bytes of weights per second, 8 rows and prefill in
//! multiply-adds per second, each with the name of the kernel. `cargo test` runs each once.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use geb_kernels::dtype::Dtype;
use geb_kernels::{ActKind, Activations, Kernels, Level, MatMut, Scratch, SparseMatrix, reference};

const COLS: usize = 2048;
const ROWS: usize = 5632;

/// Weights between -0.5 and 0.5, quantized by the real quantizer if there is one.
fn weights(kernels: &Kernels, dtype: Dtype) -> Vec<u8> {
    if !kernels.writes(dtype) {
        return sample(dtype, COLS).repeat(ROWS);
    }
    let row: Vec<f32> = (0..COLS)
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
        .collect();
    let mut bytes = vec![0; dtype.row_bytes(COLS).expect("whole blocks")];
    kernels.quantize(dtype, &row, &mut bytes);
    bytes.repeat(ROWS)
}

/// Blocks of a type that has no quantizer.
fn sample(dtype: Dtype, weights: usize) -> Vec<u8> {
    let mut state = 1u32;
    reference::sample_blocks(dtype, weights, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    })
}

fn products(c: &mut Criterion) {
    for level in Level::available() {
        let kernels = Kernels::for_level(level).expect("available");
        for dtype in Dtype::ALL.iter().copied().filter(|t| kernels.supports(*t)) {
            let weights = weights(kernels, dtype);
            for tokens in [1, 8, 128] {
                if tokens > 1 && level == Level::Scalar {
                    continue; // the definition, not a product: minutes per round
                }
                let x: Vec<f32> = (0..tokens * COLS)
                    .map(|i| (i % 97) as f32 / 97.0 - 0.5)
                    .collect();
                let mut acts = Activations::new();
                acts.reshape(kernels, kernels.act_kind(dtype), tokens, COLS);
                acts.fill(kernels, &x);
                let (mut out, mut scratch) = (vec![0.0; tokens * ROWS], Scratch::new());
                let mut group = c.benchmark_group(match tokens {
                    1 => "decode",
                    8 => "rows",
                    _ => "prefill",
                });
                group.sample_size(10).throughput(match tokens {
                    1 => Throughput::Bytes(weights.len() as u64),
                    _ => Throughput::Elements((tokens * ROWS * COLS) as u64),
                });
                group.bench_function(format!("{dtype} {}", kernels.name(dtype)), |b| {
                    b.iter(|| {
                        let view = MatMut::new(&mut out, tokens, ROWS, ROWS);
                        kernels.mat_mul(
                            dtype,
                            black_box(&weights),
                            COLS,
                            &acts,
                            view,
                            &mut scratch,
                        );
                    });
                });
            }
        }
    }
}

fn blocks(c: &mut Criterion) {
    let kernels = Kernels::best().expect("a level");
    let x: Vec<f32> = (0u64..1 << 20)
        .map(|i| ((i * 7919) % 100_003) as f32 / 50_000.0 - 1.0)
        .collect();
    for dtype in Dtype::ALL.iter().copied().filter(|t| kernels.supports(*t)) {
        let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
        let mut back = vec![0.0; x.len()];
        let mut group = c.benchmark_group("blocks");
        group
            .sample_size(10)
            .throughput(Throughput::Bytes(4 * x.len() as u64));
        if kernels.writes(dtype) {
            group.bench_function(format!("quantize {dtype}"), |b| {
                b.iter(|| kernels.quantize(dtype, black_box(&x), &mut bytes));
            });
        } else {
            bytes = sample(dtype, x.len());
        }
        group.bench_function(format!("dequantize {dtype}"), |b| {
            b.iter(|| kernels.dequantize(dtype, black_box(&bytes), &mut back));
        });
    }
}

/// Q8_0 of which so many per cent are zero, dense and packed; the second shape does not fit a cache.
fn sparse(c: &mut Criterion) {
    let kernels = Kernels::best().expect("a level");
    let shapes = [(ROWS, COLS, 1), (ROWS, COLS, 128), (4 * ROWS, COLS, 1)];
    for (zeros, (rows, cols, tokens)) in [50, 62, 70, 80]
        .into_iter()
        .flat_map(|z| shapes.map(|s| (z, s)))
    {
        let (mut state, part) = (1u32, 512);
        let row: Vec<f32> = (0..part * cols)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let v = (state >> 8) as f32 / (1 << 24) as f32;
                if (state >> 3) % 100 < zeros {
                    0.0
                } else {
                    v - 1.5
                }
            })
            .collect();
        let mut bytes = vec![0; Dtype::Q8_0.row_bytes(row.len()).expect("whole blocks")];
        kernels.quantize(Dtype::Q8_0, &row, &mut bytes);
        let dense = bytes.repeat(rows / part);
        let packed = SparseMatrix::pack(&dense, cols).expect("memory");
        let mut acts = Activations::new();
        acts.reshape(kernels, ActKind::Q8, tokens, cols);
        acts.fill(kernels, &vec![0.5; tokens * cols]);
        let (mut out, mut scratch) = (vec![0.0; tokens * rows], Scratch::new());
        let mut group = c.benchmark_group(format!("sparse {rows}x{cols} n={tokens}"));
        let size = packed.bytes(0..rows) as f64 / dense.len() as f64;
        group
            .sample_size(10)
            .throughput(Throughput::Bytes(dense.len() as u64));
        group.bench_function(format!("{zeros} % dense"), |b| {
            b.iter(|| {
                let view = MatMut::new(&mut out, tokens, rows, rows);
                kernels.mat_mul(
                    Dtype::Q8_0,
                    black_box(&dense),
                    cols,
                    &acts,
                    view,
                    &mut scratch,
                );
            });
        });
        group.bench_function(format!("{zeros} % packed to {size:.2}"), |b| {
            b.iter(|| {
                let view = MatMut::new(&mut out, tokens, rows, rows);
                kernels.mat_mul_sparse(black_box(&packed), 0..rows, &acts, view, &mut scratch);
            });
        });
    }
}

criterion_group!(benches, products, blocks, sparse);
criterion_main!(benches);
