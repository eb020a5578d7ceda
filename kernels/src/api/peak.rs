//! What a core can do at most.

use crate::table::Kernels;

impl Kernels {
    /// Runs `steps` rounds of independent 8-bit dot products; returns the operations done.
    pub fn peak_int8(&self, steps: usize) -> u64 {
        // SAFETY: `self` proves the features.
        unsafe { (self.peak.int8)(steps) }
    }

    /// Runs `steps` rounds of independent F32 multiply-adds; returns the operations done.
    pub fn peak_f32(&self, steps: usize) -> u64 {
        // SAFETY: `self` proves the features.
        unsafe { (self.peak.f32)(steps) }
    }

    /// Runs `steps` rounds of independent BF16 dot products; `None` where the machine (or the
    /// level) has no such instruction. Returns the operations done.
    pub fn peak_bf16(&self, steps: usize) -> Option<u64> {
        #[cfg(target_arch = "x86_64")]
        if self.level() == crate::Level::Avx512Vnni && is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the features have just been checked.
            return Some(unsafe { crate::ops::peak::bf16(steps) });
        }
        let _ = steps;
        None
    }

    /// Reads `bytes` once with this level's loads, as fast as products read weights.
    pub fn read(&self, bytes: &[u8]) {
        // SAFETY: `self` proves the features.
        unsafe { (self.peak.read)(bytes) }
    }
}
