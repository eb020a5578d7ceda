//! Instruction set levels: what a machine can do, as one ordered list.

use core::fmt;

/// A set of CPU features that kernels are compiled for.
///
/// Within one architecture the variants are ordered from least to most capable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Portable Rust, no intrinsics. Also the definition the others are tested against.
    Scalar,
    /// x86-64 with AVX2, FMA, F16C and POPCNT.
    Avx2,
    /// AVX2 with the 256-bit VEX form of the 8-bit dot product.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ, VBMI, VBMI2 and VNNI, and BMI2.
    Avx512Vnni,
    /// AArch64 base line.
    Neon,
    /// AArch64 with `sdot`.
    NeonDot,
    /// AArch64 with `sdot` and the int8 matrix product.
    NeonI8mm,
}

impl Level {
    /// Every level, of every architecture.
    pub const ALL: &'static [Level] = &[
        Level::Scalar,
        Level::Avx2,
        Level::AvxVnni,
        Level::Avx512Vnni,
        Level::Neon,
        Level::NeonDot,
        Level::NeonI8mm,
    ];

    /// The lower-case name used by `GEB_ISA` and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512Vnni => "avx512vnni",
            Level::Neon => "neon",
            Level::NeonDot => "neondot",
            Level::NeonI8mm => "neoni8mm",
        }
    }

    /// Looks a name up, without regard to case.
    pub fn from_name(name: &str) -> Option<Level> {
        Self::ALL
            .iter()
            .copied()
            .find(|l| l.name().eq_ignore_ascii_case(name))
    }

    /// The levels this machine can run, least capable first. Never empty.
    pub fn available() -> Vec<Level> {
        Self::ALL
            .iter()
            .copied()
            .filter(|l| l.is_available())
            .collect()
    }

    /// The most capable level of this machine.
    pub fn detect() -> Level {
        Self::available().last().copied().unwrap_or(Level::Scalar)
    }

    /// Whether this machine has every feature of the level.
    ///
    /// Must test for exactly the features that `dispatch.rs` enables.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(all(target_arch = "x86_64", not(feature = "evex")))]
            Level::AvxVnni => Level::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(all(target_arch = "x86_64", feature = "evex"))]
            Level::AvxVnni => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => {
                Level::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm => {
                Level::NeonDot.is_available() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
