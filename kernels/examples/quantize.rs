//! Encodes raw F32 rows, for comparisons with other encoders (`tests/oracle/quantizers.py`).
//!
//! `quantize TYPE reference|fast|best X.f32 OUT REPEATS [IMPORTANCE.f32]`
//!
//! Prints the million weights per second of processor time, the best of `REPEATS`.

use geb_kernels::dtype::Dtype;
use geb_kernels::{Effort, Kernels, Search};

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

fn floats(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let values = bytes.as_chunks().0.iter();
    values.map(|b| f32::from_le_bytes(*b)).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dtype, effort, x, out, repeats, rest @ ..] = &args[..] else {
        panic!("usage: quantize TYPE EFFORT X.f32 OUT REPEATS [IMPORTANCE.f32]");
    };
    let dtype = Dtype::from_name(dtype).expect("a type");
    let effort = match effort.as_str() {
        "reference" => Effort::Reference,
        "fast" => Effort::Fast,
        "best" => Effort::Best,
        other => panic!("no effort '{other}'"),
    };
    let (x, importance) = (floats(x), rest.first().map(|w| floats(w)));
    let search = Search {
        effort,
        importance: importance.as_deref(),
    };
    let kernels = Kernels::best().expect("a level");
    let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
    let mut seconds = f64::INFINITY;
    for _ in 0..repeats.parse().expect("a number") {
        let start = thread_seconds();
        kernels.quantize_with(dtype, &x, search, &mut bytes);
        seconds = seconds.min(thread_seconds() - start);
    }
    std::fs::write(out, &bytes).unwrap_or_else(|e| panic!("{out}: {e}"));
    println!("{}", x.len() as f64 / seconds / 1e6);
}
