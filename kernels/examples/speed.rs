//! Speed of every format and level on one core, against measured limits of the machine.
//!
//! `cargo run --release -p geb-kernels --example speed [level] [format] [operation]`
//!
//! * decode: GB/s of weights, read cold from a buffer larger than the caches, one token;
//! * prefill: GOP/s of a 2048 x 2048 product with 512 tokens, as share of the machine's peak;
//! * warm: decode from the cache, the limit of the arithmetic;
//! * batch: decode with four tokens;
//! * rows: nanoseconds per 512 weights for 1 to 64 tokens, of a matrix of 100 MB (`GEB_BYTES`);
//! * quantize: GB/s of F32 read;
//! * fill: millions of activations quantized and packed per second.

use std::hint::black_box;

use geb_kernels::dtype::Dtype;
use geb_kernels::{ActKind, Activations, Kernels, Level, MatMut, Scratch, reference};

/// More than any cache.
const COLD: usize = 200_000_000;
/// Less than a second-level cache.
const WARM: usize = 250_000;

/// Columns of the matrices, a multiple of 256 (`GEB_COLS`).
static COLS: std::sync::LazyLock<usize> =
    std::sync::LazyLock::new(|| std::env::var("GEB_COLS").map_or(2048, |v| v.parse().unwrap()));

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// Processor time of this thread in seconds: other programs on the core do not count.
fn thread_seconds() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// The shortest of several runs, in seconds.
fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    let time = |f: &mut dyn FnMut()| {
        let start = thread_seconds();
        f();
        thread_seconds() - start
    };
    (0..runs)
        .map(|_| time(&mut f))
        .fold(f64::INFINITY, f64::min)
}

/// A matrix of `rows` rows.
fn weights(k: &Kernels, dtype: Dtype, rows: usize) -> Vec<u8> {
    if k.writes(dtype) {
        let mut bytes = vec![0; dtype.row_bytes(rows * *COLS).unwrap()];
        k.quantize(dtype, &numbers(rows * *COLS), &mut bytes);
        return bytes;
    }
    let mut state = 1u32;
    reference::sample_blocks(dtype, rows * *COLS, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    })
}

/// GB/s of weights. With few bytes the weights stay in the cache: the limit of the arithmetic.
fn decode(k: &Kernels, dtype: Dtype, tokens: usize, bytes: usize) -> f64 {
    let row_bytes = dtype.row_bytes(*COLS).unwrap();
    let block_rows = 32;
    let rows = bytes.div_ceil(row_bytes * block_rows) * block_rows;
    let weights = weights(k, dtype, block_rows).repeat(rows / block_rows);
    let x = numbers(tokens * *COLS);
    let mut acts = Activations::new();
    acts.reshape(k, k.act_kind(dtype), tokens, *COLS);
    acts.fill(k, &x);
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Scratch::new();
    let repeats = COLD.div_ceil(weights.len());
    let seconds = best(4, || {
        for _ in 0..repeats {
            let view = MatMut::new(&mut out, tokens, rows, rows);
            k.mat_mul(dtype, black_box(&weights), *COLS, &acts, view, &mut scratch);
        }
    });
    (repeats * weights.len()) as f64 / seconds / 1e9
}

fn prefill(k: &Kernels, dtype: Dtype, tokens: usize) -> f64 {
    let rows = 2048;
    let weights = weights(k, dtype, rows.min(64)).repeat(rows / rows.min(64));
    let x = numbers(tokens * *COLS);
    let mut acts = Activations::new();
    acts.reshape(k, k.act_kind(dtype), tokens, *COLS);
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Scratch::new();
    let seconds = best(6, || {
        acts.fill(k, &x);
        let view = MatMut::new(&mut out, tokens, rows, rows);
        k.mat_mul(dtype, black_box(&weights), *COLS, &acts, view, &mut scratch);
    });
    2.0 * (rows * *COLS * tokens) as f64 / seconds / 1e9
}

/// Nanoseconds per 512 weights, from memory, by the number of tokens.
fn rows(k: &Kernels, dtype: Dtype, tokens: usize) -> f64 {
    let bytes = std::env::var("GEB_BYTES").map_or(100_000_000, |v| v.parse().unwrap());
    let weights_each = dtype.block_len() as f64 / dtype.block_bytes() as f64;
    let gb_s = decode(k, dtype, tokens, bytes);
    512.0 / (gb_s * weights_each)
}

fn quantize(k: &Kernels, dtype: Dtype) -> f64 {
    let x = numbers(1 << 20);
    let mut out = vec![0; dtype.row_bytes(x.len()).unwrap()];
    let seconds = best(4, || k.quantize(dtype, black_box(&x), &mut out));
    (x.len() * 4) as f64 / seconds / 1e9
}

/// Million values per second quantized and packed as activations.
fn fill(k: &Kernels, kind: ActKind, tokens: usize) -> f64 {
    let x = numbers(tokens * *COLS);
    let mut acts = Activations::new();
    acts.reshape(k, kind, tokens, *COLS);
    let repeats = 2_000_000 / x.len();
    let seconds = best(4, || {
        for _ in 0..repeats {
            acts.fill(k, black_box(&x));
        }
    });
    (x.len() * repeats) as f64 / seconds / 1e6
}

/// GOP/s of the int8 and the F32 peak, and GB/s of reading, of the best level.
fn limits(k: &Kernels) -> (f64, f64, f64) {
    const STEPS: usize = 4_000_000;
    let data = vec![1u8; 400_000_000];
    let int8 = k.peak_int8(STEPS) as f64 / best(5, || _ = k.peak_int8(STEPS));
    let float = k.peak_f32(STEPS) as f64 / best(5, || _ = k.peak_f32(STEPS));
    let read = data.len() as f64 / best(3, || k.read(black_box(&data)));
    (int8 / 1e9, float / 1e9, read / 1e9)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wants = |names: &[&str]| {
        let known = args.iter().filter(|a| names.contains(&a.as_str()));
        let known: Vec<_> = known.collect();
        move |name: &str| known.is_empty() || known.iter().any(|k| k.as_str() == name)
    };
    let levels: Vec<&str> = Level::ALL.iter().map(|l| l.name()).collect();
    let formats: Vec<&str> = Dtype::ALL.iter().map(|f| f.name()).collect();
    let (level_on, format_on) = (wants(&levels), wants(&formats));
    let op_on = wants(&[
        "decode", "warm", "batch", "prefill", "quantize", "fill", "rows",
    ]);
    let (int8, float, read) = limits(Kernels::best().unwrap());
    println!("one core: int8 {int8:.0} GOP/s, F32 {float:.0} GFLOP/s, read {read:.1} GB/s");
    for level in Level::available() {
        let Some(k) = Kernels::for_level(level).filter(|_| level_on(level.name())) else {
            continue;
        };
        if op_on("fill") {
            for (name, kind) in [("F32", ActKind::F32), ("Q8", ActKind::Q8)] {
                let (one, many) = (fill(k, kind, 1), fill(k, kind, 256));
                println!(
                    "{:<11} activations {name}: x1 {one:.0}, x256 {many:.0} M/s",
                    level.name()
                );
            }
        }
        for &dtype in Dtype::ALL
            .iter()
            .filter(|f| k.supports(**f) && format_on(f.name()))
        {
            print!("{:<11} {:<7}", level.name(), dtype.name());
            if op_on("decode") {
                print!("  decode {:5.1} GB/s", decode(k, dtype, 1, COLD));
            }
            if op_on("warm") {
                print!("  warm {:5.1} GB/s", decode(k, dtype, 1, WARM));
            }
            if op_on("batch") {
                print!("  x4 {:5.1} GB/s", decode(k, dtype, 4, COLD));
            }
            if op_on("prefill") && level != Level::Scalar {
                let peak = if k.act_kind(dtype) == ActKind::Q8 {
                    int8
                } else {
                    float
                };
                for tokens in [8, 512] {
                    let speed = prefill(k, dtype, tokens);
                    print!(
                        "  x{tokens} {speed:5.0} GOP/s ({:2.0} %)",
                        100.0 * speed / peak
                    );
                }
            }
            if op_on("rows") {
                print!("  ns per 512 weights, x tokens:");
                for tokens in [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64] {
                    print!(" {tokens}: {:.1}", rows(k, dtype, tokens));
                }
            }
            if op_on("quantize") && k.writes(dtype) {
                print!("  quantize {:5.2} GB/s", quantize(k, dtype));
            }
            println!();
        }
    }
}
