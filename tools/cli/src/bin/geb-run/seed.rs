//! Seeds that nobody chose.

use std::time::{SystemTime, UNIX_EPOCH};

/// A seed nobody chose: clock and process, 32 bits so that it is easy to type again.
pub fn random() -> u64 {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    let mixed = (clock ^ u64::from(std::process::id()) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed >> 32
}
