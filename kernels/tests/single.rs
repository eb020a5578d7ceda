//! Setting single weights of a block agrees with what the block decodes to.

use geb_kernels::dtype::Dtype;
use geb_kernels::{Grid, Kernels, Level};

/// For each type: what `quantize_one` returns is what the block then decodes to, no other value of the
/// weight is nearer, and quantizing decoded values changes nothing.
#[test]
fn quantized_weights_are_what_the_block_decodes_to() {
    let kernels = Kernels::for_level(Level::Scalar).expect("scalar");
    let types = Dtype::ALL.iter().filter(|t| Grid::has(**t));
    assert_eq!(types.clone().count(), 12);
    for &dtype in types {
        let n = dtype.block_len();
        let wave = |j: usize, f: f32| (j as f32 * f).sin() * (1.0 + (j / 16) as f32 * 0.1);
        let x: Vec<f32> = (0..n).map(|j| wave(j, 0.7) + 0.1).collect();
        let mut block = vec![0; dtype.block_bytes()];
        kernels.quantize(dtype, &x, &mut block);
        let mut grid = Grid::of(dtype, &block).expect("a grid");
        let target: Vec<f32> = (0..n).map(|j| 1.2 * wave(j, 1.9)).collect();
        let mut other = block.clone();
        let quantized: Vec<f32> = (0..n).map(|j| grid.quantize_one(j, target[j])).collect();
        grid.put(&mut other);
        let mut decoded = vec![0.0; n];
        kernels.dequantize(dtype, &other, &mut decoded);
        assert_eq!(quantized, decoded, "{dtype}");
        for j in 0..n {
            let here = (quantized[j] - target[j]).abs();
            for step in -40..40 {
                let near = grid.clone().quantize_one(j, target[j] + step as f32 * 0.05);
                assert!((near - target[j]).abs() >= here * 0.9999, "{dtype} {j}");
            }
        }
        kernels.dequantize(dtype, &block, &mut decoded);
        let mut again = block.clone();
        for j in 0..n {
            assert_eq!(grid.quantize_one(j, decoded[j]), decoded[j], "{dtype} {j}");
        }
        grid.put(&mut again);
        let mut twice = vec![0.0; n];
        kernels.dequantize(dtype, &again, &mut twice);
        assert_eq!(twice, decoded, "{dtype}");
    }
}
