//! Conversions between floats of 16 and 32 bits, in forms that the compiler can vectorise.

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

/// BF16 bits to F32: a plain shift, which also keeps NaNs as they are.
#[inline(always)]
pub(crate) fn from_bf16(b: u16) -> f32 {
    f32::from_bits(u32::from(b) << 16)
}

/// F32 to BF16, ties to even; NaNs stay NaNs and become quiet (as ggml does).
#[inline(always)]
pub(crate) fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // ggml's NumPy code sets the quiet bit, then rounds all the same; the sum cannot carry out
    // of the kept bits because the lower half has been cleared.
    if nan {
        (bits >> 16 | 64) as u16
    } else {
        rounded as u16
    }
}

/// The largest key of a block. Eight running maximums, because a single one does not vectorise
/// reliably.
#[inline(always)]
pub(crate) fn max_key(x: &[f32; 32], key: impl Fn(f32) -> u32) -> u32 {
    let mut lanes = [0u32; 8];
    for eight in x.as_chunks::<8>().0 {
        for (lane, v) in lanes.iter_mut().zip(eight) {
            *lane = key(*v).max(*lane);
        }
    }
    lanes.into_iter().fold(0, u32::max)
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
