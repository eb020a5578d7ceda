//! What some machines of a level have beyond it, and whether it is used.
//!
//! Where results depend on it, so must the answer on nothing that is measured: the same machine would give other
//! bits from one start to the next.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv, CpuidResult};

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

/// Whether products of int8 may use tile registers: the processor has them in the size that `isa::amx` counts on, the
/// system keeps them for each thread, and has given this process leave to use them, which it is asked for here. That
/// they multiply right is for the caller to try.
pub(crate) fn int8_tiles() -> bool {
    if __cpuid(0).eax < 0x1d || !is_x86_feature_detected!("xsave") {
        return false;
    }
    // SAFETY: the processor has XSAVE, and the system uses it: that is what was just asked.
    let kept = unsafe { xgetbv() };
    int8_tiles_fit(__cpuid_count(7, 0).edx, kept, __cpuid_count(0x1d, 1)) && permitted()
}

/// The registers that the system keeps.
#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: register 0 is there wherever the instruction is.
    unsafe { _xgetbv(0) }
}

/// Whether there are eight tiles of 16 rows of 64 bytes, whose int8 products the processor has: `features` are EDX of
/// leaf 7, `kept` is XCR0, `palette` leaf 0x1d of palette 1.
fn int8_tiles_fit(features: u32, kept: u64, palette: CpuidResult) -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const CONFIG_AND_DATA: u64 = 3 << 17;
    features & (TILE | INT8) == TILE | INT8
        && kept & CONFIG_AND_DATA == CONFIG_AND_DATA
        && palette.eax >> 16 == 1024
        && palette.ebx == 8 << 16 | 64
        && palette.ecx & 0xffff == 16
}

/// Asks the system for the 8 KiB of tile registers. It refuses if a thread has too small a stack for signals to save
/// them on.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: the call has no pointers.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

/// Elsewhere nobody has tried.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
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

    /// What Sapphire Rapids says, and what is missing if any of it is missing.
    #[test]
    fn tiles_need_processor_system_and_size() {
        let palette = CpuidResult {
            eax: 0x0400_2000,
            ebx: 0x0008_0040,
            ecx: 0x10,
            edx: 0,
        };
        let (features, kept) = (0x0340_0000, 0x6_02e7);
        assert!(int8_tiles_fit(features, kept, palette));
        for bit in [24, 25] {
            assert!(!int8_tiles_fit(features & !(1 << bit), kept, palette));
        }
        for bit in [17, 18] {
            assert!(!int8_tiles_fit(features, kept & !(1 << bit), palette));
        }
        let fewer = CpuidResult { ecx: 8, ..palette };
        assert!(!int8_tiles_fit(features, kept, fewer));
        let shorter = CpuidResult {
            ebx: 0x0008_0020,
            ..palette
        };
        assert!(!int8_tiles_fit(features, kept, shorter));
    }
}
