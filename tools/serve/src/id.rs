//! Names and numbers that nobody can guess beforehand.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// A number of the system's random keys.
pub fn number() -> u64 {
    RandomState::new().hash_one(0)
}

/// `prefix` and 24 letters and digits.
pub fn random(prefix: &str) -> String {
    let wide = u128::from(number()) << 64 | u128::from(number());
    let mut digits = format!("{wide:032x}");
    digits.truncate(24);
    format!("{prefix}{digits}")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
