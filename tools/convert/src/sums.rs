//! Error sums of what is written against its source.

use std::fmt::Write as _;

/// Numbers added in `f32` before they go on in `f64`: one block of the K types.
const PIECE: usize = 256;
const LANES: usize = 16;

/// Error sums of a tensor or a part of it.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Sums {
    /// Weights.
    pub n: u64,
    /// Σ x².
    pub xx: f64,
    /// Σ y².
    pub yy: f64,
    /// Σ xy.
    pub xy: f64,
    /// Σ (x − y)².
    pub dd: f64,
    /// max |x − y|.
    pub max: f64,
}

/// The block of a tensor that fits its source worst.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct WorstBlock {
    /// Number of the block in the tensor, row after row.
    pub index: u64,
    /// √(mean (x − y)²) in it, in units of the weights.
    pub rms: f64,
}

impl WorstBlock {
    /// The worse of two; of equal ones the first.
    pub fn worse(self, later: WorstBlock) -> WorstBlock {
        if later.rms > self.rms { later } else { self }
    }
}

impl Sums {
    /// Adds the sums of a later part.
    pub fn add(&mut self, other: &Sums) {
        self.n += other.n;
        self.xx += other.xx;
        self.yy += other.yy;
        self.xy += other.xy;
        self.dd += other.dd;
        self.max = self.max.max(other.max);
    }

    /// Compares `y` with `x`, finite values only. `block` is the block length, `first` the number
    /// of the first block.
    pub fn measure(x: &[f32], y: &[f32], block: usize, first: u64) -> (Sums, WorstBlock) {
        let mut all = Sums::default();
        let mut worst = WorstBlock::default();
        let blocks = x.chunks(block).zip(y.chunks(block));
        for (index, (x, y)) in (first..).zip(blocks) {
            let mut sums = Sums::default();
            for (x, y) in x.chunks(PIECE).zip(y.chunks(PIECE)) {
                sums.add(&Sums::piece(x, y));
            }
            all.add(&sums);
            let rms = (sums.dd / sums.n.max(1) as f64).sqrt();
            worst = worst.worse(WorstBlock { index, rms });
        }
        (all, worst)
    }

    /// At most [`PIECE`] weights. In `f32` where its range is wide enough for the squares.
    fn piece(x: &[f32], y: &[f32]) -> Sums {
        let mut lanes = [[0f32; LANES]; 5];
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let plain = xs.remainder().is_empty();
        for (x, y) in xs.zip(ys) {
            for l in 0..LANES {
                let d = x[l] - y[l];
                lanes[0][l] += x[l] * x[l];
                lanes[1][l] += y[l] * y[l];
                lanes[2][l] += x[l] * y[l];
                lanes[3][l] += d * d;
                lanes[4][l] = lanes[4][l].max(d.abs());
            }
        }
        let sum = |i: usize| lanes[i].iter().map(|&v| f64::from(v)).sum::<f64>();
        let (xx, yy) = (sum(0), sum(1));
        let safe = |v: f64| (1e-20..1e30).contains(&v);
        if !(plain && safe(xx) && safe(yy)) {
            return Sums::exact(x, y);
        }
        Sums {
            n: x.len() as u64,
            xx,
            yy,
            xy: sum(2),
            dd: sum(3),
            max: lanes[4].iter().fold(0.0, |m, &v| m.max(f64::from(v))),
        }
    }

    /// In `f64`, leaving out what is not finite.
    fn exact(x: &[f32], y: &[f32]) -> Sums {
        let mut s = Sums {
            n: x.len() as u64,
            ..Sums::default()
        };
        for (&x, &y) in x.iter().zip(y) {
            let (x, y) = (f64::from(x), f64::from(y));
            if !(x.is_finite() && y.is_finite()) {
                continue;
            }
            s.xx += x * x;
            s.yy += y * y;
            s.xy += x * y;
            s.dd += (x - y) * (x - y);
            s.max = s.max.max((x - y).abs());
        }
        s
    }

    /// √(Σ(x−y)² / Σx²); 0 for an all-zero tensor.
    pub fn relative_rms(&self) -> f64 {
        if self.xx > 0.0 {
            (self.dd / self.xx).sqrt()
        } else {
            0.0
        }
    }

    /// √(mean x²).
    pub fn rms(&self) -> f64 {
        (self.xx / self.n.max(1) as f64).sqrt()
    }

    /// Σxy / √(Σx² Σy²); 1 for an all-zero tensor.
    pub fn cosine(&self) -> f64 {
        let d = (self.xx * self.yy).sqrt();
        if d > 0.0 { (self.xy / d).min(1.0) } else { 1.0 }
    }
}

/// What streaming a tensor found.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Outcome {
    /// Error sums.
    pub sums: Sums,
    /// The block with the largest error.
    pub worst: WorstBlock,
    /// Weights that are not finite (only where that is allowed).
    pub nonfinite: u64,
    /// Weights that are written as zero (where they are counted).
    pub zeros: u64,
}

impl Outcome {
    /// Adds what a later part found.
    pub fn add(&mut self, later: &Outcome) {
        self.sums.add(&later.sums);
        self.worst = self.worst.worse(later.worst);
        self.nonfinite += later.nonfinite;
        self.zeros += later.zeros;
    }

    fn numbers(&self) -> [u64; 10] {
        let s = &self.sums;
        let floats = [s.xx, s.yy, s.xy, s.dd, s.max, self.worst.rms].map(f64::to_bits);
        let [xx, yy, xy, dd, max, rms] = floats;
        [
            s.n,
            xx,
            yy,
            xy,
            dd,
            max,
            self.worst.index,
            rms,
            self.nonfinite,
            self.zeros,
        ]
    }

    /// One line from which [`Outcome::from_line`] makes the same bits.
    pub fn to_line(self) -> String {
        self.numbers().iter().fold(String::new(), |mut out, n| {
            let _ = write!(out, "{n:x} ");
            out
        })
    }

    /// The outcome of a line; `None` for any other text.
    pub fn from_line(line: &str) -> Option<Outcome> {
        let numbers = line
            .split_whitespace()
            .map(|n| u64::from_str_radix(n, 16).ok());
        let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
        let &[n, xx, yy, xy, dd, max, index, rms, nonfinite, zeros] = numbers.as_slice() else {
            return None;
        };
        let [xx, yy, xy, dd, max, rms] = [xx, yy, xy, dd, max, rms].map(f64::from_bits);
        Some(Outcome {
            sums: Sums {
                n,
                xx,
                yy,
                xy,
                dd,
                max,
            },
            worst: WorstBlock { index, rms },
            nonfinite,
            zeros,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, scale: f32) -> Vec<f32> {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next() * scale).collect()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-5 * b.abs()
    }

    #[test]
    fn sums_in_f32_pieces_equal_those_in_f64() {
        for (n, scale) in [
            (4096, 1.0),
            (1000, 0.02),
            (77, 1.0),
            (512, 1e-30),
            (512, 1e30),
        ] {
            let x = noise(n, scale);
            let y: Vec<f32> = x
                .iter()
                .map(|v| v + scale * 0.01 * (v / scale).sin())
                .collect();
            let (fast, _) = Sums::measure(&x, &y, 32, 0);
            let slow = Sums::exact(&x, &y);
            assert_eq!(fast.n, slow.n);
            for (a, b) in [(fast.xx, slow.xx), (fast.xy, slow.xy), (fast.max, slow.max)] {
                assert!(close(a, b), "{n} {scale}: {a} {b}");
            }
            assert!((fast.dd - slow.dd).abs() <= 1e-3 * slow.dd, "{n} {scale}");
        }
        let x = [1.0, f32::NAN, f32::INFINITY, 2.0];
        assert_eq!(Sums::measure(&x, &x, 32, 0).0.xx, 5.0);
    }

    #[test]
    fn the_worst_block_is_found() {
        let x = noise(320, 1.0);
        let mut y = x.clone();
        y[70] += 0.5;
        y[230] += 0.25;
        let (_, worst) = Sums::measure(&x, &y, 32, 100);
        assert_eq!(worst.index, 102);
        assert!(close(worst.rms, (0.25f64 / 32.0).sqrt()), "{worst:?}");
    }

    #[test]
    fn lines_keep_every_bit() {
        let (sums, worst) = Sums::measure(&noise(99, 3.0), &noise(99, 2.9), 32, 7);
        let outcome = Outcome {
            sums,
            worst,
            nonfinite: 5,
            zeros: 7,
        };
        assert_eq!(Outcome::from_line(&outcome.to_line()), Some(outcome));
        for bad in ["", "1 2", "x", "1 2 3 4 5 6 7 8 9", "1 2 3 4 5 6 7 8 9 a b"] {
            assert_eq!(Outcome::from_line(bad), None);
        }
    }
}
