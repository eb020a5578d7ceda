//! The one table of GGUF tensor types: id, name, block length, bytes per block.
//!
//! Every size in the program comes from here. Types that have no kernel yet are
//! listed all the same, so that a file can be inspected and an error can name them.
//! Source: the GGUF specification (`ggml/docs/gguf.md`) and PyPI `gguf` 0.19; every row was
//! compared with `ggml_blck_size` and `ggml_type_size` of a ggml build of October 2026 (there
//! and here Q8_1 takes 36 bytes, in PyPI `gguf` 40; no file holds it).

use core::fmt;

macro_rules! dtypes {
    ($($variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal;)*) => {
        /// A tensor type as stored in a GGUF file.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Dtype { $($variant = $id,)* }

        impl Dtype {
            /// All types of the table, by id.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant,)*];

            /// The row of the table: (id, name, weights per block, bytes per block).
            const fn row(self) -> (u32, &'static str, usize, usize) {
                match self { $(Dtype::$variant => ($id, $name, $block, $bytes),)* }
            }
        }
    };
}

dtypes! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2_K = 10, "Q2_K", 256, 84;
    Q3_K = 11, "Q3_K", 256, 110;
    Q4_K = 12, "Q4_K", 256, 144;
    Q5_K = 13, "Q5_K", 256, 176;
    Q6_K = 14, "Q6_K", 256, 210;
    Q8_K = 15, "Q8_K", 256, 292;
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    IQ1_S = 19, "IQ1_S", 256, 50;
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    IQ3_S = 21, "IQ3_S", 256, 110;
    IQ2_S = 22, "IQ2_S", 256, 82;
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    IQ1_M = 29, "IQ1_M", 256, 56;
    BF16 = 30, "BF16", 1, 2;
    TQ1_0 = 34, "TQ1_0", 256, 54;
    TQ2_0 = 35, "TQ2_0", 256, 66;
    MXFP4 = 39, "MXFP4", 32, 17;
    NVFP4 = 40, "NVFP4", 64, 36;
    Q1_0 = 41, "Q1_0", 128, 18;
    Q2_0 = 42, "Q2_0", 64, 18;
}

/// Why a type id is not in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TypeIdError {
    /// The id belonged to a type that was withdrawn from the format.
    Removed(u32, &'static str),
    /// The id was never assigned, as far as this program knows.
    Unknown(u32),
}

impl fmt::Display for TypeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed(id, name) => write!(f, "type id {id} ({name}) was removed from GGUF"),
            Self::Unknown(id) => write!(f, "type id {id} is unknown"),
        }
    }
}

impl std::error::Error for TypeIdError {}

impl Dtype {
    /// Looks an id of a file up.
    pub fn from_id(id: u32) -> Result<Dtype, TypeIdError> {
        if let Some(&t) = Self::ALL.iter().find(|t| t.id() == id) {
            return Ok(t);
        }
        Err(match id {
            4 => TypeIdError::Removed(id, "Q4_2"),
            5 => TypeIdError::Removed(id, "Q4_3"),
            31 => TypeIdError::Removed(id, "Q4_0_4_4"),
            32 => TypeIdError::Removed(id, "Q4_0_4_8"),
            33 => TypeIdError::Removed(id, "Q4_0_8_8"),
            36 => TypeIdError::Removed(id, "IQ4_NL_4_4"),
            37 => TypeIdError::Removed(id, "IQ4_NL_4_8"),
            38 => TypeIdError::Removed(id, "IQ4_NL_8_8"),
            _ => TypeIdError::Unknown(id),
        })
    }

    /// Looks a name up, without regard to case (`q8_0`, `Q8_0`).
    pub fn from_name(name: &str) -> Option<Dtype> {
        Self::ALL
            .iter()
            .copied()
            .find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// The id used in GGUF files.
    pub const fn id(self) -> u32 {
        self.row().0
    }

    /// The name used by GGUF tools, for example `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Weights per block; 1 for plain number types.
    pub const fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `cols` weights, or `None` if `cols` is no multiple of the
    /// block length or the product does not fit.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bits per weight.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
