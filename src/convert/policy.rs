//! Which tensor gets which type. The rules are a table walked from top to bottom.

use geb_kernels::dtype::Dtype;

use crate::error::{Error, Result};

/// Types a conversion can be asked for, with their `general.file_type` number.
pub const TARGETS: &[(Dtype, u32)] = &[
    (Dtype::F32, 0),
    (Dtype::F16, 1),
    (Dtype::BF16, 32),
    (Dtype::Q8_0, 7),
    (Dtype::Q4_0, 2),
    (Dtype::Q4_1, 3),
    (Dtype::Q5_0, 8),
    (Dtype::Q5_1, 9),
    (Dtype::Q2_K, 10),
    (Dtype::Q3_K, 11),
    (Dtype::Q4_K, 14),
    (Dtype::Q5_K, 16),
    (Dtype::Q6_K, 18),
    (Dtype::IQ4_NL, 25),
    (Dtype::IQ4_XS, 30),
    (Dtype::TQ1_0, 36),
    (Dtype::TQ2_0, 37),
    (Dtype::MXFP4, 38),
];

/// What replaces a type whose blocks do not divide the row length: about as many bits, in blocks
/// of 32. If those do not divide it either, F16 does.
const FALLBACKS: &[(Dtype, Dtype)] = &[
    (Dtype::Q2_K, Dtype::IQ4_NL),
    (Dtype::Q3_K, Dtype::IQ4_NL),
    (Dtype::IQ4_XS, Dtype::IQ4_NL),
    (Dtype::Q4_K, Dtype::Q5_0),
    (Dtype::Q5_K, Dtype::Q5_1),
    (Dtype::Q6_K, Dtype::Q8_0),
    (Dtype::TQ1_0, Dtype::Q4_0),
    (Dtype::TQ2_0, Dtype::Q4_0),
];

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Base type.
    pub base: Dtype,
    /// The base type even for the output matrix.
    pub pure: bool,
}

/// What decided the type of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The type that was asked for.
    Base,
    /// Vectors and norms stay F32: they are small, and every runtime expects them so.
    Small,
    /// The output matrix of a file of few bits: its errors reach the logits undamped.
    Output,
    /// The row length is no multiple of the block length.
    Fallback,
    /// Not a type that is re-typed (integers).
    Kept,
}

impl Reason {
    /// Short text for tables.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Base => "",
            Reason::Small => "vector or norm",
            Reason::Output => "output matrix",
            Reason::Fallback => "row length",
            Reason::Kept => "kept",
        }
    }
}

/// Name ends that are never quantized, whatever their shape.
const ALWAYS_F32: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "rope_freqs.weight",
    ".bias",
];

impl Policy {
    /// Checks that `base` is a type this program writes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] otherwise.
    pub fn new(base: Dtype, pure: bool) -> Result<Policy> {
        if TARGETS.iter().any(|t| t.0 == base) {
            return Ok(Policy { base, pure });
        }
        let known: Vec<_> = TARGETS.iter().map(|t| t.0.name()).collect();
        Err(Error::Unsupported {
            what: "output type",
            value: base.name().into(),
            known: known.join(", "),
        })
    }

    /// `general.file_type`.
    pub fn file_type(&self) -> u32 {
        TARGETS.iter().find(|t| t.0 == self.base).map_or(0, |t| t.1)
    }

    /// Whether the file needs `general.quantization_version`.
    pub fn quantized(&self) -> bool {
        self.base.block_len() > 1
    }

    /// Type of the tensor `name` with `dims` (contiguous first). `tied`: the file has no
    /// `output.weight`, so the embedding is also the output matrix.
    pub fn choose(&self, name: &str, dims: &[u64], tied: bool) -> (Dtype, Reason) {
        if dims.len() < 2 || ALWAYS_F32.iter().any(|end| name.ends_with(end)) {
            return (Dtype::F32, Reason::Small);
        }
        let output = name == "output.weight" || (tied && name == "token_embd.weight");
        let better = match self.base {
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q5_0 | Dtype::Q5_1 | Dtype::MXFP4 => Dtype::Q8_0,
            base if self.quantized() && base != Dtype::Q8_0 => Dtype::Q6_K,
            base => base,
        };
        let (want, reason) = match output && better != self.base && !self.pure {
            true => (better, Reason::Output),
            false => (self.base, Reason::Base),
        };
        let fits = |t: Dtype| dims[0].is_multiple_of(t.block_len() as u64);
        let fallback = FALLBACKS.iter().find(|f| f.0 == want && fits(f.1));
        match (fits(want), fallback) {
            (true, _) => (want, reason),
            (false, Some(f)) => (f.1, Reason::Fallback),
            (false, None) => (Dtype::F16, Reason::Fallback),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let q4 = Policy::new(Dtype::Q4_0, false).unwrap();
        let cases: &[(&str, &[u64], bool, Dtype)] = &[
            ("blk.0.attn_q.weight", &[64, 64], false, Dtype::Q4_0),
            ("blk.0.attn_q.bias", &[64], false, Dtype::F32),
            ("blk.0.attn_norm.weight", &[64], false, Dtype::F32),
            ("blk.0.ffn_down.weight", &[172, 64], false, Dtype::F16),
            ("output.weight", &[64, 100], false, Dtype::Q8_0),
            ("token_embd.weight", &[64, 100], false, Dtype::Q4_0),
            ("token_embd.weight", &[64, 100], true, Dtype::Q8_0),
        ];
        for &(name, dims, tied, want) in cases {
            assert_eq!(q4.choose(name, dims, tied).0, want, "{name}");
        }
        let pure = Policy::new(Dtype::Q4_0, true).unwrap();
        assert_eq!(
            pure.choose("output.weight", &[64, 100], false),
            (Dtype::Q4_0, Reason::Base)
        );
        let k = Policy::new(Dtype::Q4_K, false).unwrap();
        let cases: &[(&[u64], bool, Dtype)] = &[
            (&[256, 64], false, Dtype::Q4_K),
            (&[96, 64], false, Dtype::Q5_0),
            (&[90, 64], false, Dtype::F16),
            (&[512, 64], true, Dtype::Q6_K),
            (&[96, 64], true, Dtype::Q8_0),
        ];
        for &(dims, tied, want) in cases {
            assert_eq!(
                k.choose("token_embd.weight", dims, tied).0,
                want,
                "{dims:?}"
            );
        }
        assert!(Policy::new(Dtype::IQ2_XS, false).is_err());
    }
}
