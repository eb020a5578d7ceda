//! How the codes of an integer panel lie in memory. A tile kernel (`ops::tile`) owns one such layout: its
//! weights are interleaved and its activations filled as the kernel reads them.

/// The layout of a group of 32 columns: of 16 rows of weights, and of the tokens of a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "no architecture has the kernels of all")]
pub(crate) enum IntPanel {
    /// Weights `[8][16 rows][4]`, activations `[8][tokens][4]`: dot products of four columns.
    Fours {
        /// Weights are stored plus 128, because the dot product multiplies unsigned ones.
        unsigned: bool,
    },
    /// Weights `[4][16 rows][8]`, activations `[4][tokens, an even number][8]`: matrix products of 2 x 8 and 8 x 2.
    Eights,
    /// Weights `[8][16 rows][4]`, activations `[tokens][32]`: matrix products of 16 x 32 and 32 x 16.
    Groups,
}

impl IntPanel {
    /// What is added to a weight.
    #[inline(always)]
    pub const fn shift(self) -> u8 {
        match self {
            Self::Fours { unsigned } => 128 * unsigned as u8,
            Self::Eights | Self::Groups => 0,
        }
    }

    /// Tokens that a tile of `n` has room for. What lies in the place of one that is not there does not matter.
    #[inline(always)]
    pub const fn slots(self, n: usize) -> usize {
        match self {
            Self::Fours { .. } | Self::Groups => n,
            Self::Eights => n.next_multiple_of(2),
        }
    }

    /// Puts the 32 codes of token `t` into its group of a tile with `slots`.
    #[inline(always)]
    pub fn put(self, group: &mut [u8], slots: usize, t: usize, codes: &[u8; 32]) {
        match self {
            Self::Fours { .. } => {
                for (k, four) in codes.as_chunks::<4>().0.iter().enumerate() {
                    group[(k * slots + t) * 4..][..4].copy_from_slice(four);
                }
            }
            Self::Eights => {
                for (k, eight) in codes.as_chunks::<8>().0.iter().enumerate() {
                    group[(k * slots + t) * 8..][..8].copy_from_slice(eight);
                }
            }
            Self::Groups => group[32 * t..][..32].copy_from_slice(codes),
        }
    }
}
