//! Every level of this machine, every format, every operation, against the reference.

use geb_kernels::dtype::Dtype;
use geb_kernels::{Activations, Kernels, Level, MatMut, Scratch, reference};

const FORMATS: [Dtype; 6] = [
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::Q8_0,
    Dtype::Q4_0,
    Dtype::Q4_1,
];

#[test]
fn smoke() {
    for level in Level::available() {
        let k = Kernels::for_level(level).unwrap();
        for dtype in FORMATS {
            for (rows, cols, tokens) in [
                (5, 576, 1),
                (37, 256, 3),
                (37, 1056, 4),
                (37, 576, 33),
                (16, 8224, 9),
            ] {
                let x: Vec<f32> = (0..tokens * cols)
                    .map(|i| ((i * 7919 % 1013) as f32 - 500.0) / 300.0)
                    .collect();
                let w: Vec<f32> = (0..rows * cols)
                    .map(|i| ((i * 104729 % 997) as f32 - 500.0) / 1000.0)
                    .collect();
                let mut wq = vec![0; dtype.row_bytes(rows * cols).unwrap()];
                k.quantize(dtype, &w, &mut wq);
                let wd = reference::dequantize(dtype, &wq);
                let mut acts = Activations::new();
                acts.reshape(k, k.act_kind(dtype), tokens, cols);
                acts.fill(k, &x);
                let mut out = vec![0.0; tokens * rows];
                k.mat_mul(
                    dtype,
                    &wq,
                    cols,
                    &acts,
                    MatMut::new(&mut out, tokens, rows, rows),
                    &mut Scratch::new(),
                );
                for t in 0..tokens {
                    let seen =
                        reference::seen_activations(k.act_kind(dtype), &x[t * cols..][..cols]);
                    for r in 0..rows {
                        let (sum, size) = reference::dot(&wd[r * cols..][..cols], &seen);
                        let got = f64::from(out[t * rows + r]);
                        assert!(
                            (got - sum).abs() <= size * 1e-5,
                            "{level} {dtype} {rows}x{cols} t{t} r{r}: {got} vs {sum}"
                        );
                    }
                }
            }
        }
    }
}
