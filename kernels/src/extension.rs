//! What some machines of a level have beyond it, and whether it is used.
//!
//! Where results depend on it, so must the answer on nothing that is measured: the same machine would give other
//! bits from one start to the next.

use core::arch::x86_64::__cpuid;

/// Whether BF16 weights are multiplied in pairs (AVX512_BF16), with activations rounded to BF16. Where they are not,
/// they are widened to F32, which is exact.
pub(crate) fn bf16_pairs() -> bool {
    is_x86_feature_detected!("avx512bf16") && pairs_are_fast(&vendor())
}

/// Whether processors of this vendor multiply pairs faster than F32. Per core, AMD Zen 4: 236 GFLOP/s against 118;
/// Intel Emerald Rapids: 103 against 200.
fn pairs_are_fast(vendor: &[u8; 12]) -> bool {
    vendor == b"AuthenticAMD"
}

/// The vendor's name, as the processor gives it.
fn vendor() -> [u8; 12] {
    let leaf = __cpuid(0);
    bytemuck::cast([leaf.ebx, leaf.edx, leaf.ecx])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_for_vendors_that_multiply_them_fast() {
        assert!(pairs_are_fast(b"AuthenticAMD"));
        assert!(!pairs_are_fast(b"GenuineIntel"));
        assert!(!pairs_are_fast(b"CentaurHauls"));
        assert!(vendor().iter().all(|c| (b' '..=b'~').contains(c)));
    }
}
