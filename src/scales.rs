//! A scan for blocks whose scales are NaN or infinite.
//!
//! Quantized weights are integers; only the scales (and minimums) of a block are floats. One bad
//! scale spoils every product of its row, so a file from an unknown source can be scanned before
//! it is trusted.

use geb_kernels::dtype::Dtype;
pub use geb_kernels::numbers::{Number, fields};

/// What a scan found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// All finite.
    Clean,
    /// Blocks with a NaN or infinity: how many, and the index of the first.
    Bad {
        /// Number of such blocks.
        blocks: u64,
        /// Index of the first one.
        first: u64,
    },
    /// This type cannot be scanned.
    Unknown,
}

/// Scans the bytes of a tensor, whole blocks.
pub fn scan(dtype: Dtype, bytes: &[u8]) -> Scan {
    let Some(fields) = fields(dtype) else {
        return Scan::Unknown;
    };
    let mut found = Scan::Clean;
    for (i, block) in bytes.chunks_exact(dtype.block_bytes()).enumerate() {
        if fields
            .iter()
            .any(|&(at, number)| number.is_bad(&block[at..at + number.bytes()]))
        {
            found = match found {
                Scan::Bad { blocks, first } => Scan::Bad {
                    blocks: blocks + 1,
                    first,
                },
                _ => Scan::Bad {
                    blocks: 1,
                    first: i as u64,
                },
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use geb_kernels::numbers::FIELDS;

    #[test]
    fn bad_numbers_are_found_in_every_type() {
        for (dtype, fields) in FIELDS {
            let size = dtype.block_bytes();
            let clean = vec![0u8; size * 3];
            assert_eq!(scan(*dtype, &clean), Scan::Clean, "{dtype}");
            for (at, number) in *fields {
                let mut bad = clean.clone();
                bad[size + at..size + at + number.bytes()].fill(0xff);
                assert_eq!(
                    scan(*dtype, &bad),
                    Scan::Bad {
                        blocks: 1,
                        first: 1
                    },
                    "{dtype}"
                );
            }
        }
    }
}
