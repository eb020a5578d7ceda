//! Arithmetic of the block encoders, in forms that the compiler can vectorise.

/// Truncates to an integer. What does not fit a code (only when an inverse scale overflowed)
/// becomes 0, as the conversion does in ggml's reference.
#[inline(always)]
pub(crate) fn truncate(v: f32) -> i32 {
    let v = if v.abs() < 1024.0 { v } else { 0.0 };
    // SAFETY: finite and below 1024. (`as` would add a saturation that is not vectorised.)
    unsafe { v.to_int_unchecked() }
}

/// The largest key of a block. Eight running maximums, because a single one does not vectorise
/// reliably.
#[inline(always)]
pub(crate) fn most(x: &[f32; 32], key: impl Fn(f32) -> u32) -> u32 {
    let mut lanes = [0u32; 8];
    for eight in x.as_chunks::<8>().0 {
        for (lane, v) in lanes.iter_mut().zip(eight) {
            *lane = key(*v).max(*lane);
        }
    }
    lanes.into_iter().fold(0, u32::max)
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
    let most = most(x, |v| v.to_bits() & 0x7fff_ffff);
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
    let (mut min, max) = (value(!most(x, |v| !key(v))), value(most(x, key)));
    if min == 0.0 {
        min = first(x, |v| v == 0.0);
    }
    (min, max)
}

/// F16 bits to F32; exact. Signalling NaNs become quiet, as the hardware does.
#[inline(always)]
pub(crate) fn from_f16(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    // Places exponent and fraction, then corrects the bias by 2^112, denormals included.
    let value = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    let quiet = if magnitude > 0x7c00 {
        0x7fc0_0000
    } else {
        0x7f80_0000
    };
    let special = if magnitude >= 0x7c00 { quiet } else { 0 };
    f32::from_bits(value.to_bits() | special | (u32::from(h & 0x8000) << 16))
}

/// F32 to F16 bits, ties to even, overflow to infinity. NaNs become quiet.
#[inline(always)]
pub(crate) fn to_f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Rounds at bit 13 and moves the exponent bias; whatever overflows is infinity.
    let odd = magnitude >> 13 & 1;
    let normal = (magnitude.wrapping_add(0xc800_0fff + odd) >> 13).min(0x7c00);
    // Adding one half aligns the unit of F16 denormals, 2^-24, with the last bit of the sum.
    let denormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let nan = 0x7e00 | magnitude >> 13 & 0x3ff;
    let half = if magnitude < 0x3880_0000 {
        denormal
    } else {
        normal
    };
    let half = if magnitude > 0x7f80_0000 { nan } else { half };
    (half | bits >> 16 & 0x8000) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::half::f16;

    #[test]
    fn every_f16_widens_as_in_the_half_crate() {
        for h in 0..=u16::MAX {
            let (got, want) = (from_f16(h), f16::from_bits(h).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                "{h:#06x}"
            );
        }
    }

    #[test]
    fn f32_narrows_as_in_the_half_crate() {
        // Every exponent, with fractions around every rounding boundary.
        for high in 0..=u16::MAX {
            for low in [
                0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x8000, 0xffff,
            ] {
                let v = f32::from_bits(u32::from(high) << 16 | low);
                let (got, want) = (to_f16(v), f16::from_f32(v));
                let same = got == want.to_bits() || (v.is_nan() && want.is_nan());
                assert!(
                    same && f16::from_bits(got).is_nan() == v.is_nan(),
                    "{:#010x}",
                    v.to_bits()
                );
            }
        }
    }
}
