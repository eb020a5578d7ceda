//! Which instruction levels are tested here: one test for each, ignored where the processor has not got the level.
//! Those that `GEB_REQUIRE_ISA` lists must be there.

use geb::Dtype;
use geb::kernels::{Activations, Kernels, Level, MatMut, Scratch};
use libtest_mimic::Trial;

const ROWS: usize = 33;
const COLS: usize = 512;
const TOKENS: usize = 19;

pub fn trials() -> Vec<Trial> {
    let required = std::env::var("GEB_REQUIRE_ISA").unwrap_or_default();
    let trial = |level: &Level| {
        let level = *level;
        let needed = required.split(',').any(|n| n.trim() == level.name());
        let absent = !level.is_available() && !needed;
        let test = Trial::test(format!("products_of_{}", level.name()), move || {
            for dtype in [Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_K, Dtype::IQ4_XS] {
                assert!(
                    products(level, dtype) == products(Level::Scalar, dtype),
                    "{dtype}"
                );
            }
            Ok(())
        });
        test.with_kind(if absent { "no such processor" } else { "" })
            .with_ignored_flag(absent)
    };
    Level::ALL.iter().map(trial).collect()
}

/// Bits of the products of some weights and activations.
fn products(level: Level, dtype: Dtype) -> Vec<u32> {
    let kernels = Kernels::for_level(level).expect("the level is there");
    let number = |i: usize| (i as f32 * 0.37).sin();
    let weights: Vec<f32> = (0..ROWS * COLS).map(number).collect();
    let inputs: Vec<f32> = (0..TOKENS * COLS).map(|i| number(7 * i + 1)).collect();
    let mut bytes = vec![0; dtype.row_bytes(weights.len()).expect("whole blocks")];
    kernels.quantize(dtype, &weights, &mut bytes);
    let mut acts = Activations::default();
    acts.reshape(kernels, kernels.act_kind(dtype), TOKENS, COLS);
    acts.fill(kernels, &inputs);
    let mut out = vec![0f32; TOKENS * ROWS];
    let to = MatMut::new(&mut out, TOKENS, ROWS, ROWS);
    kernels.mat_mul(dtype, &bytes, COLS, &acts, to, &mut Scratch::new());
    out.iter().map(|v| v.to_bits()).collect()
}
