//! What this machine can do at most: read bandwidth and arithmetic peaks, measured with the loops of
//! the kernels themselves. `bench --limits` prints all of them; every bench compares with the ones
//! that bound it.

use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use geb::kernels::{Kernels, Level};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::load;
use crate::report::{self, Failure, Outcome, out};

/// Bytes read per measurement: well beyond any cache.
const DATA: usize = 512 << 20;
/// Rounds of independent operations per measurement, for about 40 ms of AVX-512.
const STEPS: usize = 1_000_000;

/// Limits at one level and number of threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// 8-bit integer dot products, GOP/s (a product and a sum are two operations).
    pub int8_gops: f64,
    /// BF16 dot products, GFLOP/s, where there is an instruction.
    pub bf16_gflops: Option<f64>,
    /// F32 multiply-adds, GFLOP/s.
    pub f32_gflops: f64,
    /// Reading memory, GB/s.
    pub read_gb_s: f64,
}

impl Limits {
    /// Runs every loop once on `threads` threads; `data` is what is read.
    pub fn measure(kernels: &Kernels, threads: usize, data: &[u8]) -> Limits {
        let ops = |f: &(dyn Fn() -> u64 + Sync)| {
            let seconds = together(threads, |_| _ = black_box(f())).as_secs_f64();
            f() as f64 * threads as f64 / seconds / 1e9
        };
        let steps = if kernels.level() == Level::Scalar {
            STEPS / 20
        } else {
            STEPS
        };
        Limits {
            int8_gops: ops(&|| kernels.peak_int8(steps)),
            bf16_gflops: kernels
                .peak_bf16(1)
                .map(|_| ops(&|| kernels.peak_bf16(steps).unwrap_or(0))),
            f32_gflops: ops(&|| kernels.peak_f32(steps)),
            read_gb_s: read_gb_s(kernels, threads, data),
        }
    }

    /// The better of two measurements, each by itself.
    pub fn best(self, other: Limits) -> Limits {
        Limits {
            int8_gops: self.int8_gops.max(other.int8_gops),
            bf16_gflops: match (self.bf16_gflops, other.bf16_gflops) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            },
            f32_gflops: self.f32_gflops.max(other.f32_gflops),
            read_gb_s: self.read_gb_s.max(other.read_gb_s),
        }
    }

    /// The limits under their names in JSON.
    pub fn to_json(self) -> Value {
        json!({
            "int8_gops": self.int8_gops,
            "bf16_gflops": self.bf16_gflops,
            "f32_gflops": self.f32_gflops,
            "read_gb_s": self.read_gb_s,
        })
    }
}

/// Memory to read in small pages.
pub fn small_pages() -> Vec<u8> {
    vec![1; DATA]
}

/// GB/s of reading all of `data` once, in one share per thread.
pub fn read_gb_s(kernels: &Kernels, threads: usize, data: &[u8]) -> f64 {
    let share = data.len().div_ceil(threads).max(1);
    let shares: Vec<&[u8]> = data.chunks(share).collect();
    let time = together(shares.len(), |i| kernels.read(black_box(shares[i])));
    data.len() as f64 / time.as_secs_f64() / 1e9
}

/// Time from the common start of `threads` threads to the end of the last. Where the system starts no
/// thread, this one does the work.
fn together(threads: usize, f: impl Fn(usize) + Sync) -> Duration {
    let (start, f) = (&AtomicBool::new(false), &f);
    std::thread::scope(|scope| {
        let work = move |i| {
            while !start.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            let begun = Instant::now();
            f(i);
            (begun, Instant::now())
        };
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || work(i))
                    .ok()
            })
            .collect();
        start.store(true, Ordering::Release);
        let workers = workers.into_iter().enumerate();
        let times = workers.filter_map(|(i, w)| w.map_or_else(|| Some(work(i)), |w| w.join().ok()));
        let times: Vec<_> = times.collect();
        let begun = times.iter().map(|t| t.0).min();
        let ended = times.iter().map(|t| t.1).max();
        begun.zip(ended).map_or(Duration::ZERO, |(a, b)| b - a)
    })
    .max(Duration::from_nanos(1))
}

/// One line of the table of memory: what is read, with one thread and with all.
struct Reading {
    what: &'static str,
    key: &'static str,
    gb_s: [f64; 2],
}

/// `geb-run bench --limits`.
pub fn run(args: &BenchArgs) -> Outcome {
    let best = load::kernels(&args.cpu)?;
    let threads = load::threads(&args.cpu);
    let levels: Vec<&Kernels> = Level::available()
        .into_iter()
        .filter(|l| *l <= best.level())
        .filter_map(Kernels::for_level)
        .collect();
    let rounds = args.reps as usize;
    let data = small_pages();
    let mut arithmetic = vec![[Limits::default(); 2]; levels.len()];
    for _ in 0..rounds {
        for (k, both) in levels.iter().zip(&mut arithmetic) {
            for (limits, n) in both.iter_mut().zip([1, threads]) {
                *limits = limits.best(Limits::measure(k, n, &data[..data.len() / 8]));
            }
        }
    }
    let memory = readings(best, threads, rounds, &data)?;
    if args.json {
        report::out_line(&to_json(threads, &levels, &arithmetic, &memory).to_string())
    } else {
        out(&to_text(threads, &levels, &arithmetic, &memory))
    }
}

fn readings(k: &Kernels, threads: usize, rounds: usize, data: &[u8]) -> Outcome<Vec<Reading>> {
    let failed = |e: std::io::Error| Failure::usage(format!("memory to read: {e}"));
    let mut huge = memmap2::MmapMut::map_anon(data.len()).map_err(failed)?;
    // Without huge pages this row repeats the first.
    #[cfg(target_os = "linux")]
    let _ = huge.advise(memmap2::Advice::HugePage);
    huge.fill(1);
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    file.write_all(data).map_err(failed)?;
    let mapped =
        geb::mmap::open(file.path(), geb::gguf::Load::Map).map_err(|e| load::at(file.path(), e))?;
    let mut memory = [
        ("memory, small pages", "read_small", data),
        ("memory, huge pages", "read_huge", &huge[..]),
        (
            "mapped file, in the page cache",
            "read_mapped",
            mapped.as_ref(),
        ),
    ]
    .map(|(what, key, bytes)| {
        (
            Reading {
                what,
                key,
                gb_s: [0.0; 2],
            },
            bytes,
        )
    });
    for _ in 0..=rounds {
        for (reading, bytes) in &mut memory {
            for (gb_s, n) in reading.gb_s.iter_mut().zip([1, threads]) {
                *gb_s = gb_s.max(read_gb_s(k, n, bytes));
            }
        }
    }
    Ok(memory.into_iter().map(|(reading, _)| reading).collect())
}

fn to_text(
    threads: usize,
    levels: &[&Kernels],
    arithmetic: &[[Limits; 2]],
    memory: &[Reading],
) -> String {
    let all = format!("{threads} threads");
    let mut text = format!("{:<32}{:>10}{all:>14}\n", "read, GB/s", "1 thread");
    for m in memory {
        text.push_str(&format!(
            "  {:<30}{:>10.1}{:>14.1}\n",
            m.what, m.gb_s[0], m.gb_s[1]
        ));
    }
    type Column = fn(&Limits) -> Option<f64>;
    let kinds: [(&str, Column); 3] = [
        ("int8 dot, GOP/s", |l| Some(l.int8_gops)),
        ("BF16 dot, GFLOP/s", |l| l.bf16_gflops),
        ("F32 multiply-add, GFLOP/s", |l| Some(l.f32_gflops)),
    ];
    for (name, column) in kinds {
        text.push_str(&format!("{name}\n"));
        for (k, [one, many]) in levels.iter().zip(arithmetic) {
            if let (Some(one), Some(many)) = (column(one), column(many)) {
                text.push_str(&format!(
                    "  {:<30}{one:>10.0}{many:>14.0}\n",
                    k.level().name()
                ));
            }
        }
    }
    text
}

fn to_json(
    threads: usize,
    levels: &[&Kernels],
    arithmetic: &[[Limits; 2]],
    memory: &[Reading],
) -> Value {
    let top = arithmetic.last().copied().unwrap_or_default();
    let mut all = top[1].to_json();
    // The limit of reading is the best way of reading.
    all["read_gb_s"] = json!(memory.iter().map(|m| m.gb_s[1]).fold(0.0, f64::max));
    all["threads"] = json!(threads);
    all["isa"] = json!(levels.last().map(|k| k.level().name()));
    for m in memory {
        all[format!("{}_gb_s", m.key)] = json!(m.gb_s[1]);
        all[format!("{}_gb_s_1_thread", m.key)] = json!(m.gb_s[0]);
    }
    let levels = levels.iter().zip(arithmetic).map(|(k, [one, many])| {
        let pick = |l: &Limits| json!({"int8_gops": l.int8_gops, "bf16_gflops": l.bf16_gflops, "f32_gflops": l.f32_gflops});
        json!({"isa": k.level().name(), "one_thread": pick(one), "all_threads": pick(many)})
    });
    all["levels"] = levels.collect();
    all
}
