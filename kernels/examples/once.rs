//! One product, repeated: for counting instructions under an emulator or a simulator.
//!
//! `once LEVEL FORMAT TOKENS REPEATS` multiplies 32 rows of 1024 weights with TOKENS tokens REPEATS
//! times; counts of two numbers of repeats differ by the product alone. See `kernels/count.py`.

use std::hint::black_box;

use geb_kernels::dtype::Dtype;
use geb_kernels::{Activations, Kernels, Level, MatMut, Scratch};

const ROWS: usize = 32;
const COLS: usize = 1024;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [level, format, tokens, repeats] = &args[..] else {
        panic!("once LEVEL FORMAT TOKENS REPEATS");
    };
    let k = Level::from_name(level)
        .and_then(Kernels::for_level)
        .expect("a level of this machine");
    let dtype = Dtype::from_name(format).expect("a type");
    let tokens: usize = tokens.parse().expect("a number of tokens");
    let repeats: usize = repeats.parse().expect("a number of repeats");
    let weights = vec![0x31u8; dtype.row_bytes(ROWS * COLS).expect("whole blocks")];
    let mut acts = Activations::new();
    acts.reshape(k, k.act_kind(dtype), tokens, COLS);
    acts.fill(k, &vec![0.5; tokens * COLS]);
    let mut out = vec![0.0; tokens * ROWS];
    let mut scratch = Scratch::new();
    for _ in 0..repeats {
        let view = MatMut::new(&mut out, tokens, ROWS, ROWS);
        k.mat_mul(dtype, black_box(&weights), COLS, &acts, view, &mut scratch);
    }
    black_box(out);
}
