//! How many weights of a tensor are zero: what pruning left (arXiv 2405.03594), seen through the type of
//! the file. F32, F16, BF16, Q8_0 and Q4_0 keep zeros; types with a minimum per block do not.

use geb_kernels::Kernels;

use crate::gguf::TensorView;

/// Weights that are looked at together: what one block of the common types holds.
pub const GROUP: usize = 32;
/// Weights decoded at a time, a multiple of every block length.
const PIECE: usize = 1 << 14;

/// Counts of one or several tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Zeros {
    /// All weights.
    pub weights: u64,
    /// Those that are zero.
    pub zeros: u64,
    /// Groups of [`GROUP`] weights in a row.
    pub groups: u64,
    /// Groups in which all weights are zero.
    pub empty: u64,
}

impl Zeros {
    /// Counts the zeros of a tensor; `None` for a type without decoder.
    pub fn of(tensor: &TensorView<'_>, kernels: &Kernels) -> Option<Zeros> {
        let dtype = tensor.dtype();
        if !kernels.supports(dtype) {
            return None;
        }
        let mut sum = Zeros::default();
        let mut values = vec![0.0; PIECE];
        let piece = PIECE / dtype.block_len() * dtype.block_bytes();
        for bytes in tensor.bytes().chunks(piece) {
            let n = bytes.len() / dtype.block_bytes() * dtype.block_len();
            let values = &mut values[..n];
            kernels.dequantize(dtype, bytes, values);
            for group in values.chunks(GROUP) {
                let zeros = group.iter().filter(|v| **v == 0.0).count();
                sum.add(&Zeros {
                    weights: group.len() as u64,
                    zeros: zeros as u64,
                    groups: 1,
                    empty: (zeros == group.len()).into(),
                });
            }
        }
        Some(sum)
    }

    /// Adds the counts of another tensor.
    pub fn add(&mut self, other: &Zeros) {
        self.weights += other.weights;
        self.zeros += other.zeros;
        self.groups += other.groups;
        self.empty += other.empty;
    }

    /// Zeros in per cent of the weights.
    pub fn percent(&self) -> f64 {
        100.0 * self.zeros as f64 / self.weights.max(1) as f64
    }

    /// Empty groups in per cent of the groups.
    pub fn empty_percent(&self) -> f64 {
        100.0 * self.empty as f64 / self.groups.max(1) as f64
    }
}
