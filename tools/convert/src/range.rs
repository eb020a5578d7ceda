//! What a type can hold.

use geb_kernels::dtype::Dtype;

/// The largest finite F16.
const MOST: f32 = 65504.0;
/// Half a step of an F16 above it still rounds to it.
const SLACK: f32 = 1.0 + 1.0 / 4096.0;

/// The least and the greatest weight of a type: the largest F16 scale times the integers of a group and of a
/// weight, for each sign, and the minimum where there is one (block layouts of ggml). All of F32 for other types.
pub(super) fn range(dtype: Dtype) -> [f32; 2] {
    let [low, high] = match dtype {
        Dtype::F16 | Dtype::TQ1_0 | Dtype::TQ2_0 => [1.0, 1.0],
        Dtype::Q4_0 => [8.0, 8.0],
        Dtype::Q5_0 => [16.0, 16.0],
        Dtype::Q8_0 | Dtype::IQ4_NL => [127.0, 127.0],
        Dtype::Q4_1 => [1.0, 15.0 + 1.0],
        Dtype::Q5_1 => [1.0, 31.0 + 1.0],
        Dtype::Q2_K => [15.0, 15.0 * 3.0],
        Dtype::Q3_K => [32.0 * 4.0, 32.0 * 4.0],
        Dtype::Q4_K => [63.0, 63.0 * 15.0],
        Dtype::Q5_K => [63.0, 63.0 * 31.0],
        Dtype::Q6_K => [128.0 * 32.0, 128.0 * 32.0],
        Dtype::IQ4_XS => [32.0 * 127.0, 32.0 * 127.0],
        _ => return [f32::MIN, f32::MAX],
    };
    [-low * MOST, high * MOST]
}

/// The first finite weight that the type cannot hold.
pub(super) fn outside(dtype: Dtype, x: &[f32]) -> Option<usize> {
    let [low, high] = range(dtype).map(|end| (end * SLACK).clamp(f32::MIN, f32::MAX));
    // Without an early end, so that it is done many numbers at a time.
    let any = x
        .iter()
        .fold(false, |any, v| any | (*v < low) | (*v > high));
    let out = |v: &f32| v.is_finite() && (*v < low || *v > high);
    any.then(|| x.iter().position(out)).flatten()
}

#[cfg(test)]
mod tests {
    use geb_kernels::{Effort, Kernels, Search};

    use super::*;

    /// One weight of a block at the end of the range is held; the types that round the most are ternary.
    #[test]
    fn the_ends_are_reached() {
        let kernels = Kernels::best().expect("kernels");
        let mut types = 0;
        for &dtype in Dtype::ALL.iter().filter(|d| kernels.writes(**d)) {
            types += 1;
            for end in range(dtype) {
                let value = 0.97 * end;
                if value.abs() > 1e30 {
                    continue;
                }
                for effort in [Effort::Reference, Effort::Fast, Effort::Best] {
                    for at in [0, 100, 255] {
                        let mut x = vec![0f32; 256];
                        x[at] = value;
                        let mut bytes = vec![0; dtype.row_bytes(256).expect("whole blocks")];
                        let search = Search {
                            effort,
                            importance: None,
                        };
                        kernels.quantize_with(dtype, &x, search, &mut bytes);
                        let mut y = vec![0f32; 256];
                        kernels.dequantize(dtype, &bytes, &mut y);
                        // The formula takes the least value for the minimum; that is refused later.
                        let formula = matches!(dtype, Dtype::Q4_1 | Dtype::Q5_1);
                        if formula && effort == Effort::Reference && !y[at].is_finite() {
                            continue;
                        }
                        let error = (y[at] / value - 1.0).abs();
                        assert!(
                            error < 0.05,
                            "{dtype} {effort:?}: {value} at {at} becomes {}",
                            y[at]
                        );
                    }
                }
                assert_eq!(outside(dtype, &[0.0, value]), None, "{dtype}");
                assert_eq!(outside(dtype, &[0.0, 1.03 * end]), Some(1), "{dtype}");
            }
        }
        assert!(types > 15, "{types}");
        assert_eq!(
            outside(Dtype::Q4_K, &[f32::NAN, f32::INFINITY, 1e12]),
            Some(2)
        );
    }
}
