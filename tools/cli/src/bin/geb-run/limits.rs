//! What this machine can do at most: read bandwidth and arithmetic peaks, measured with the loops of
//! the kernels themselves. `bench --limits` prints all of them and keeps them; every bench compares with the ones
//! that bound it: those kept, else what it measures between its own rounds. A limit is the median of
//! several moments, because neighbours on the machine come and go.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use geb::cpus::Cpus;
use geb::kernels::{ActKind, Kernels, Level};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::load;
use crate::rates;
use crate::report::{self, Failure, Outcome, note, out};
use crate::settings;

/// Bytes read per measurement: well beyond any cache.
const DATA: usize = 512 << 20;
/// A model is larger than any cache from here on; reading a smaller one is no measure of memory.
pub const LARGE: u64 = 64 << 20;
/// Rounds of independent operations per measurement, for about 40 ms of AVX-512.
const STEPS: usize = 1_000_000;
/// Share of the int8 peak that a product can reach: of eleven instructions that compete for the same ports, eight are
/// dot products, the others convert, scale and add up what those give.
const REACHABLE: f64 = 0.73;

/// Limits at one level and number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// 8-bit integer dot products, GOP/s (a product and a sum are two operations).
    pub int8_gops: f64,
    /// BF16 dot products, GFLOP/s, where there is an instruction.
    pub bf16_gflops: Option<f64>,
    /// F32 multiply-adds, GFLOP/s.
    pub f32_gflops: f64,
    /// Reading memory, GB/s.
    pub read_gb_s: f64,
    /// When they were kept, in seconds since 1970; `None` for what was measured between the rounds of a run.
    pub kept: Option<u64>,
}

impl Limits {
    /// Runs every loop of arithmetic once on `threads` threads; nothing is read.
    fn arithmetic(kernels: &Kernels, threads: usize) -> Limits {
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
            ..Limits::default()
        }
    }

    /// The median of several moments, each limit by itself.
    fn median(moments: &[Limits]) -> Limits {
        let of = |f: &dyn Fn(&Limits) -> Option<f64>| {
            rates::median(moments.iter().filter_map(f).collect())
        };
        let always = |f: fn(&Limits) -> f64| of(&|l| Some(f(l))).unwrap_or(0.0);
        Limits {
            int8_gops: always(|l| l.int8_gops),
            bf16_gflops: of(&|l| l.bf16_gflops),
            f32_gflops: always(|l| l.f32_gflops),
            read_gb_s: always(|l| l.read_gb_s),
            kept: None,
        }
    }

    /// Operations per second that weights multiplied in this way can reach, in billions, and the name of
    /// that peak; `None` where it was not measured.
    pub fn peak(&self, act: ActKind) -> Option<(f64, &'static str)> {
        match act {
            ActKind::Q8 => Some((self.int8_gops, "int8")),
            ActKind::Bf16 => Some((self.bf16_gflops?, "BF16")),
            ActKind::F32 => Some((self.f32_gflops, "F32")),
        }
    }

    /// Seconds that no pass which reads so many bytes and does so many operations can be faster than.
    pub fn bound(&self, act: ActKind, bytes: f64, operations: f64) -> Option<f64> {
        let (peak, _) = self.peak(act)?;
        let share = if act == ActKind::Q8 { REACHABLE } else { 1.0 };
        Some((bytes / self.read_gb_s).max(operations / (share * peak)) / 1e9)
    }

    /// The limits under their names in JSON.
    pub fn to_json(self) -> Value {
        json!({
            "int8_gops": self.int8_gops,
            "bf16_gflops": self.bf16_gflops,
            "f32_gflops": self.f32_gflops,
            "read_gb_s": self.read_gb_s,
            "limits_kept_unix": self.kept,
        })
    }

    /// What [`to_json`](Self::to_json) wrote; `None` unless every limit is a positive number.
    fn from_json(value: &Value) -> Option<Limits> {
        let number = |name: &str| value[name].as_f64().filter(|v| v.is_finite() && *v > 0.0);
        let bf16 = &value["bf16_gflops"];
        Some(Limits {
            int8_gops: number("int8_gops")?,
            bf16_gflops: if bf16.is_null() {
                None
            } else {
                Some(number("bf16_gflops")?)
            },
            f32_gflops: number("f32_gflops")?,
            read_gb_s: number("read_gb_s")?,
            kept: Some(value["limits_kept_unix"].as_u64()?),
        })
    }
}

/// The limits that a run is compared with.
pub struct Beside {
    kernels: &'static Kernels,
    threads: usize,
    kept: Option<Limits>,
    moments: Vec<Limits>,
}

impl Beside {
    /// For a run with these kernels and threads.
    pub fn new(kernels: &'static Kernels, threads: usize) -> Beside {
        let kept = settings::store(settings::LIMITS).ok();
        let kept = kept.and_then(|path| settings::find(&path, &key(kernels, threads)));
        Beside {
            kernels,
            threads,
            kept: kept.as_ref().and_then(Limits::from_json),
            moments: Vec::new(),
        }
    }

    /// Measures once, unless limits are kept; `data` is what is read.
    pub fn measure(&mut self, data: &[u8]) {
        if self.kept.is_none() {
            self.moments.push(Limits {
                read_gb_s: read_gb_s(self.kernels, self.threads, data),
                ..Limits::arithmetic(self.kernels, self.threads)
            });
        }
    }

    /// Those kept, else the median of the moments.
    pub fn limits(&self) -> Limits {
        self.kept.unwrap_or_else(|| Limits::median(&self.moments))
    }

    /// A line that says what the shares are of.
    pub fn to_text(&self) -> String {
        let Some(kept) = self.kept.and_then(|l| l.kept) else {
            let n = self.moments.len();
            return format!(
                "limits     medians of {n} moments between the rounds (bench --limits keeps them)\n"
            );
        };
        let days = now().saturating_sub(kept) / 86_400;
        let ago = match days {
            0 => "today".into(),
            1 => "1 day ago".into(),
            n => format!("{n} days ago"),
        };
        format!("limits     measured {ago} (bench --limits)\n")
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

/// Under which limits are kept.
fn key(kernels: &Kernels, threads: usize) -> String {
    format!("{}, {threads} threads", kernels.level().name())
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

/// Memory of three kinds to read.
struct Memory {
    small: Vec<u8>,
    huge: memmap2::MmapMut,
    mapped: geb::mmap::Bytes,
    _file: tempfile::NamedTempFile,
}

impl Memory {
    fn new() -> Outcome<Memory> {
        let failed = |e: std::io::Error| Failure::usage(format!("memory to read: {e}"));
        let small = small_pages();
        let mut huge = memmap2::MmapMut::map_anon(small.len()).map_err(failed)?;
        // Without huge pages this row repeats the first.
        #[cfg(target_os = "linux")]
        let _ = huge.advise(memmap2::Advice::HugePage);
        huge.fill(1);
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        file.write_all(&small).map_err(failed)?;
        let mapped = geb::mmap::open(file.path(), geb::gguf::Load::Map);
        Ok(Memory {
            small,
            huge,
            mapped: mapped.map_err(|e| load::at(file.path(), e))?,
            _file: file,
        })
    }

    /// Names in tables and in JSON, and the bytes.
    fn kinds(&self) -> [(&'static str, &'static str, &[u8]); 3] {
        let mapped = "mapped file, in the page cache";
        [
            ("memory, small pages", "read_small", &self.small),
            ("memory, huge pages", "read_huge", &self.huge),
            (mapped, "read_mapped", self.mapped.as_ref()),
        ]
    }
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
    let (mut arithmetic, memory) = moments(args, best, &levels, [1, threads])?;
    for both in &mut arithmetic {
        for (i, limits) in both.iter_mut().enumerate() {
            // The limit of reading is the best way of reading.
            limits.read_gb_s = memory.iter().map(|m| m.gb_s[i]).fold(0.0, f64::max);
            limits.kept = Some(now());
        }
    }
    if args.json {
        report::out_line(&to_json(threads, &levels, &arithmetic, &memory).to_string())?;
    } else {
        out(&to_text(threads, &levels, &arithmetic, &memory))?;
    }
    keep(&levels, [1, threads], &arithmetic, args.output.quiet);
    Ok(())
}

/// Measures everything once per round with each number of threads; medians of the rounds, after one that warms up.
fn moments(
    args: &BenchArgs,
    best: &Kernels,
    levels: &[&Kernels],
    threads: [usize; 2],
) -> Outcome<(Vec<[Limits; 2]>, Vec<Reading>)> {
    let memory = Memory::new()?;
    let kinds = memory.kinds();
    let mut arithmetic = vec![[const { Vec::new() }; 2]; levels.len()];
    let mut reading = [const { [const { Vec::new() }; 2] }; 3];
    for round in 0..=args.reps as usize {
        for (i, n) in threads.into_iter().enumerate() {
            for (all, (_, _, bytes)) in reading.iter_mut().zip(kinds) {
                let gb_s = read_gb_s(best, n, bytes);
                all[i].extend((round > 0).then_some(gb_s));
            }
            for (all, k) in arithmetic.iter_mut().zip(levels) {
                if round > 0 {
                    all[i].push(Limits::arithmetic(k, n));
                }
            }
        }
    }
    let arithmetic = arithmetic
        .iter()
        .map(|both| [0, 1].map(|i| Limits::median(&both[i])));
    let lines = reading
        .into_iter()
        .zip(kinds)
        .map(|(both, (what, key, _))| Reading {
            what,
            key,
            gb_s: both.map(|all| rates::median(all).unwrap_or(0.0)),
        });
    Ok((arithmetic.collect(), lines.collect()))
}

/// Keeps limits for later runs, each under its level and threads. Where nothing can be kept, a note says so.
fn keep(levels: &[&Kernels], threads: [usize; 2], limits: &[[Limits; 2]], quiet: bool) {
    let kept = settings::store(settings::LIMITS).and_then(|path| {
        let machine = settings::machine(&Cpus::read(Path::new("/")));
        for (k, both) in levels.iter().zip(limits) {
            for (limits, n) in both.iter().zip(threads) {
                settings::keep(&path, &machine, &key(k, n), limits.to_json())?;
            }
        }
        Ok(path)
    });
    match kept {
        Ok(_) if quiet => {}
        Ok(path) => note(format_args!(
            "shares of later runs are of these limits ({})",
            path.display()
        )),
        Err(failure) => note(format_args!(
            "warning: the limits are not kept: {}",
            failure.message
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(int8: f64, read: f64) -> Limits {
        Limits {
            int8_gops: int8,
            f32_gflops: 200.0,
            read_gb_s: read,
            ..Limits::default()
        }
    }

    #[test]
    fn one_interrupted_moment_moves_no_limit() {
        let moments = [limits(900.0, 40.0), limits(90.0, 41.0), limits(902.0, 4.0)];
        assert_eq!(Limits::median(&moments), limits(900.0, 40.0));
        assert_eq!(Limits::median(&[]), Limits::default());
    }

    #[test]
    fn a_pass_is_bound_by_bytes_or_by_operations() {
        let l = limits(1000.0, 40.0);
        assert_eq!(l.bound(ActKind::Q8, 40e9, 1e9), Some(1.0));
        assert_eq!(l.bound(ActKind::Q8, 40e9, 1460e9), Some(2.0));
        assert_eq!(l.bound(ActKind::F32, 40e9, 600e9), Some(3.0));
        assert_eq!(l.bound(ActKind::Bf16, 1.0, 1.0), None);
    }

    #[test]
    fn kept_limits_are_read_back_and_broken_ones_are_not() {
        let kept = Limits {
            bf16_gflops: Some(450.0),
            kept: Some(1_700_000_000),
            ..limits(900.0, 40.0)
        };
        for l in [
            kept,
            Limits {
                bf16_gflops: None,
                ..kept
            },
        ] {
            assert_eq!(Limits::from_json(&l.to_json()), Some(l));
        }
        for (name, value) in [
            ("read_gb_s", json!(0)),
            ("int8_gops", json!("x")),
            ("bf16_gflops", json!(-1)),
            ("limits_kept_unix", Value::Null),
        ] {
            let mut broken = kept.to_json();
            broken[name] = value;
            assert_eq!(Limits::from_json(&broken), None, "{name}");
        }
    }
}
