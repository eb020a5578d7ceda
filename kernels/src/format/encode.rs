//! Arithmetic of the block encoders, in forms that the compiler can vectorise.

use crate::numeric::max_key;

/// Truncates to an integer. What does not fit a code (only when an inverse scale overflowed)
/// becomes 0, as the conversion does in ggml's reference.
#[inline(always)]
pub(crate) fn truncate(v: f32) -> i32 {
    let v = if v.abs() < 1024.0 { v } else { 0.0 };
    // SAFETY: finite and below 1024. (`as` would add a saturation that is not vectorised.)
    unsafe { v.to_int_unchecked() }
}

/// Truncates to a code of `0..=top`.
#[inline(always)]
pub(crate) fn code(v: f32, top: i32) -> u8 {
    truncate(v).clamp(0, top) as u8
}

/// The first value that fits. Rarely needed; kept out of the vectorised loops.
#[cold]
#[inline(never)]
fn first(x: &[f32; 32], fits: impl Fn(f32) -> bool) -> f32 {
    x.iter().copied().find(|&v| fits(v)).unwrap_or(0.0)
}

/// The value of the largest magnitude, with its sign; of several, the first, as in the reference.
#[inline(always)]
pub(crate) fn largest(x: &[f32; 32]) -> f32 {
    let most = max_key(x, |v| v.to_bits() & 0x7fff_ffff);
    let (mut positive, mut negative) = (0, 0);
    for v in x {
        positive |= u32::from(v.to_bits() == most);
        negative |= u32::from(v.to_bits() == most | 1 << 31);
    }
    let max = f32::from_bits(most);
    // An all-zero block has scale -0, whatever the signs of its zeros.
    if negative == 0 || most == 0 {
        max
    } else if positive == 0 {
        -max
    } else {
        first(x, |v| v.abs() == max)
    }
}

/// The smallest and the largest value. If the smallest is a zero, it has the sign of the first
/// zero, as in the reference.
#[inline(always)]
pub(crate) fn range(x: &[f32; 32]) -> (f32, f32) {
    // With negative numbers inverted and the sign bit flipped, floats order like unsigned
    // integers, whose maximum needs no care for NaN and vectorises (so the minimum is a maximum).
    let key = |v: f32| v.to_bits() ^ ((v.to_bits() as i32 >> 31) as u32 | 1 << 31);
    let value = |key: u32| f32::from_bits(key ^ ((!key as i32 >> 31) as u32 | 1 << 31));
    let (mut min, max) = (value(!max_key(x, |v| !key(v))), value(max_key(x, key)));
    if min == 0.0 {
        min = first(x, |v| v == 0.0);
    }
    (min, max)
}
