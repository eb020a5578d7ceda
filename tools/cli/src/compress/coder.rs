//! Arithmetic coding with shares of 2^32 (a range coder with carries; Martin 1979).
//!
//! The text so far is an interval of 2^56 units; a symbol takes its share of it. When the interval gets
//! shorter than 2^48, its highest byte is settled but for a carry, and written.

/// One more than the end of the interval.
const TOP: u64 = 1 << 56;
/// An interval is at least this long before a symbol.
const LEAST: u64 = 1 << 48;

/// Writes symbols.
pub(super) struct Encoder {
    low: u64,
    range: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            low: 0,
            range: TOP,
            out: Vec::new(),
        }
    }

    /// A symbol whose share begins at `start` and is `width` wide, of 2^32; `width` is not 0.
    pub(super) fn put(&mut self, start: u32, width: u32) {
        let unit = self.range >> 32;
        self.low += unit * u64::from(start);
        self.range = unit * u64::from(width);
        self.carry();
        while self.range < LEAST {
            self.out.push((self.low >> 48) as u8);
            self.low = (self.low & (LEAST - 1)) << 8;
            self.range <<= 8;
        }
    }

    fn carry(&mut self) {
        if self.low < TOP {
            return;
        }
        self.low -= TOP;
        for byte in self.out.iter_mut().rev() {
            let (sum, more) = byte.overflowing_add(1);
            *byte = sum;
            if !more {
                break;
            }
        }
    }

    /// The shortest text inside the interval; behind it a decoder reads zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.low += LEAST - 1;
        self.carry();
        self.out.push((self.low >> 48) as u8);
        self.out
    }
}

/// Reads them again, given the same shares.
pub(super) struct Decoder<'a> {
    /// From the start of the interval to the text.
    code: u64,
    range: u64,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        let mut decoder = Decoder {
            code: 0,
            range: TOP,
            rest: bytes,
        };
        (0..7).for_each(|_| decoder.shift());
        decoder
    }

    fn shift(&mut self) {
        let (byte, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        self.code = (self.code << 8 | u64::from(*byte)) & (TOP - 1);
    }

    /// A place inside the share of the next symbol.
    pub(super) fn place(&self) -> u32 {
        (self.code / (self.range >> 32)).min(u64::from(u32::MAX)) as u32
    }

    /// Goes behind the symbol with this share, which holds [`Decoder::place`].
    pub(super) fn take(&mut self, start: u32, width: u32) {
        let unit = self.range >> 32;
        self.code -= unit * u64::from(start);
        self.range = unit * u64::from(width);
        while self.range < LEAST {
            self.shift();
            self.range <<= 8;
        }
    }
}

/// The shares of tokens with these logits.
pub(super) struct Shares {
    /// Powers, then nothing; kept to reuse the memory.
    powers: Vec<f64>,
    widths: Vec<u32>,
}

/// What is left unused so that roundings cannot make the sum too large.
const SPARE: f64 = 65_536.0;

impl Shares {
    pub(super) fn new() -> Shares {
        Shares {
            powers: Vec::new(),
            widths: Vec::new(),
        }
    }

    /// Takes new logits, all finite, of at most [`geb::limits::MAX_VOCAB`] tokens. Every token gets a share of
    /// at least one. Additions, products and comparisons in one order only, so that every processor gets
    /// the same shares from the same logits.
    pub(super) fn set(&mut self, logits: &[f32]) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let power = |v: &f32| exp(f64::from(*v) - f64::from(most));
        self.powers.clear();
        self.powers.extend(logits.iter().map(power));
        let sum: f64 = self.powers.iter().sum();
        let factor = (4_294_967_296.0 - SPARE - logits.len() as f64) / sum;
        self.widths.clear();
        let width = |p: &f64| (p * factor) as u32 + 1;
        self.widths.extend(self.powers.iter().map(width));
    }

    /// Start and width of the share of a token.
    pub(super) fn of(&self, id: usize) -> (u32, u32) {
        (self.widths[..id].iter().sum(), self.widths[id])
    }

    /// The token whose share holds `place`, with its start and width; the last one for a place behind all.
    pub(super) fn at(&self, place: u32) -> (usize, u32, u32) {
        let (mut start, last) = (0u32, self.widths.len() - 1);
        for (id, &width) in self.widths.iter().enumerate() {
            if place - start < width || id == last {
                return (id, start, width);
            }
            start += width;
        }
        (last, start, 1)
    }

    /// Bits that a token takes by its share.
    pub(super) fn bits(&self, id: usize) -> f64 {
        32.0 - f64::from(self.widths[id]).log2()
    }
}

/// `e^x` for x up to 0, relative error below 1e-14: the same bits on every machine, as the
/// library's need not be.
fn exp(x: f64) -> f64 {
    const LN2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    if x < -700.0 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E + 0.5).floor();
    let r = (x - n * LN2[0]) - n * LN2[1];
    // 1 + r (1 + r/2 (1 + r/3 (…)))
    let series = (1..=14)
        .rev()
        .fold(1.0, |sum, k| 1.0 + r * sum / f64::from(k));
    series * f64::from_bits(((1023 + n as i64) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn powers_are_those_of_the_library() {
        for i in 0..70_000 {
            let x = -f64::from(i) / 100.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-14, "{x}");
        }
        assert_eq!((exp(0.0), exp(-701.0)), (1.0, 0.0));
    }

    #[test]
    fn shares_fill_the_whole_but_a_spare() {
        let mut shares = Shares::new();
        for logits in [vec![0.0; 150_000], vec![-3e38, 3e38, 0.0], vec![5.0]] {
            shares.set(&logits);
            let sum: u64 = shares.widths.iter().map(|w| u64::from(*w)).sum();
            let left = (1u64 << 32) - sum;
            assert!((1..200_000).contains(&left), "{left}");
            for id in [0, logits.len() / 2, logits.len() - 1] {
                let (start, width) = shares.of(id);
                for place in [start, start + width - 1] {
                    assert_eq!(shares.at(place), (id, start, width));
                }
            }
            assert_eq!(shares.at(u32::MAX).0, logits.len() - 1);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            symbols in prop::collection::vec((any::<u32>(), any::<u32>(), 0u32..33), 0..400),
        ) {
            // Shares of all sizes; wide ones at the end of the interval make carries.
            let share = |&(start, width, small): &(u32, u32, u32)| {
                let width = (u64::from(width) >> small).max(1) as u32;
                (start.min(u32::MAX - width + 1), width)
            };
            let shares: Vec<_> = symbols.iter().map(share).collect();
            let mut encoder = Encoder::new();
            shares.iter().for_each(|(start, width)| encoder.put(*start, *width));
            let bytes = encoder.finish();
            let bits: f64 = shares.iter().map(|s| 32.0 - f64::from(s.1).log2()).sum();
            prop_assert!(8.0 * bytes.len() as f64 <= bits + 0.0001 * shares.len() as f64 + 16.0);
            let mut decoder = Decoder::new(&bytes);
            for (start, width) in &shares {
                let place = decoder.place();
                prop_assert!(place >= *start && place - start < *width);
                decoder.take(*start, *width);
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut shares = Shares::new();
            shares.set(&[0.0, -20.0, 1.0]);
            let mut decoder = Decoder::new(&bytes);
            for _ in 0..200 {
                let (_, start, width) = shares.at(decoder.place());
                decoder.take(start, width);
            }
        }
    }
}
