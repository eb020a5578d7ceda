//! Which tensor gets which type. The rules are a table walked from top to bottom; the first that
//! fits decides.
//!
//! The mixtures are those of llama.cpp (its `llama-quantize`, October 2026), so that sizes and
//! quality compare under one name. Left out: its special cases for Falcon.

use std::fmt;

pub use fancy_regex::Regex;
use geb_kernels::dtype::Dtype;

use geb::error::{Error, Result};
use geb::gguf::writer::MetaValue;

/// A name under which files are made: a base type, and by the rules better types where errors
/// cost most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mixture {
    /// For example `Q4_K_M`.
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// The type of every matrix no rule names.
    pub base: Dtype,
}

const fn mix(name: &'static str, file_type: u32, base: Dtype) -> Mixture {
    Mixture {
        name,
        file_type,
        base,
    }
}

/// What a conversion can be asked for.
pub const MIXTURES: &[Mixture] = &[
    mix("F32", 0, Dtype::F32),
    mix("F16", 1, Dtype::F16),
    mix("BF16", 32, Dtype::BF16),
    mix("Q8_0", 7, Dtype::Q8_0),
    mix("Q4_0", 2, Dtype::Q4_0),
    mix("Q4_1", 3, Dtype::Q4_1),
    mix("Q5_0", 8, Dtype::Q5_0),
    mix("Q5_1", 9, Dtype::Q5_1),
    mix("Q2_K", 10, Dtype::Q2_K),
    mix("Q2_K_S", 21, Dtype::Q2_K),
    mix("Q3_K_S", 11, Dtype::Q3_K),
    mix("Q3_K_M", 12, Dtype::Q3_K),
    mix("Q3_K_L", 13, Dtype::Q3_K),
    mix("Q4_K_S", 14, Dtype::Q4_K),
    mix("Q4_K_M", 15, Dtype::Q4_K),
    mix("Q5_K_S", 16, Dtype::Q5_K),
    mix("Q5_K_M", 17, Dtype::Q5_K),
    mix("Q6_K", 18, Dtype::Q6_K),
    mix("IQ4_NL", 25, Dtype::IQ4_NL),
    mix("IQ4_XS", 30, Dtype::IQ4_XS),
    mix("TQ1_0", 36, Dtype::TQ1_0),
    mix("TQ2_0", 37, Dtype::TQ2_0),
    mix("MXFP4", 38, Dtype::MXFP4),
];

/// Short names, as llama.cpp understands them.
pub const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

/// Other words for one type.
const SAME: &[(&str, &str)] = &[
    ("FP32", "F32"),
    ("FLOAT32", "F32"),
    ("FLOAT", "F32"),
    ("FP16", "F16"),
    ("FLOAT16", "F16"),
    ("HALF", "F16"),
    ("BFLOAT16", "BF16"),
];

/// What fits a number of bits, the best one first.
const BY_BITS: &[(u32, &[&str])] = &[
    (1, &["tq1_0"]),
    (2, &["q2_k"]),
    (3, &["q3_k_m", "q3_k_l"]),
    (4, &["q4_k_m", "q4_0"]),
    (5, &["q5_k_m", "q5_0"]),
    (6, &["q6_k"]),
    (8, &["q8_0"]),
    (16, &["bf16", "f16"]),
    (32, &["f32"]),
];

/// What stands before the number of bits in names of types.
const PREFIXES: &[&str] = &[
    "", "q", "iq", "tq", "int", "uint", "i", "u", "f", "fp", "bf", "float", "w", "nf", "mxfp",
    "nvfp", "bnb", "udq", "udiq",
];

/// The mixtures that someone may mean who types something else: of as many bits (`int4`, `8bit`, `q4_k_xl`).
pub fn similar(typed: &str) -> &'static [&'static str] {
    let plain = typed.to_ascii_lowercase().replace(['-', '_', ' ', '.'], "");
    let words = [
        ("awq", 4),
        ("gptq", 4),
        ("bnb", 4),
        ("half", 16),
        ("brainfloat", 16),
        ("single", 32),
    ];
    let word = words.iter().find(|w| w.0 == plain).map(|w| w.1);
    let (prefix, rest) = plain.split_at(
        plain
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(plain.len()),
    );
    // Q80 is Q8_0: a type of one digit.
    let digits = match rest {
        r if r.starts_with("16") || r.starts_with("32") => &r[..2],
        r => r.get(..1).unwrap_or_default(),
    };
    let bits = word.or_else(|| digits.parse().ok().filter(|_| PREFIXES.contains(&prefix)));
    let found = BY_BITS.iter().find(|(n, _)| Some(*n) == bits);
    found.map_or(&[], |(_, names)| names)
}

/// What a tensor does in the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// The output matrix, or the embedding that serves as one.
    Output,
    /// The embedding beside an output matrix.
    Embedding,
    /// Values, also packed with queries and keys.
    Value,
    Key,
    AttnOut,
    FfnDown,
    Other,
}

/// Under which condition a rule holds. `i` of `n`: layer of layers; for values, which of those.
#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    /// `i < n / 8`, `i >= 7 n / 8`, or every third layer between.
    More,
    /// `i < k`.
    First(usize),
    /// `i < n / k`.
    Below(usize),
    /// `i < n / k`, without importance weights.
    BelowPlain(usize),
    /// `i < n / k`, with importance weights.
    BelowWeighted(usize),
    /// Four or more query heads share a key head.
    Gqa4,
    Experts8,
    NotExperts8,
    /// Llama with 80 layers and shared key heads.
    Llama70B,
}

use Dtype::{IQ4_NL, Q3_K, Q4_1, Q4_K, Q5_1, Q5_K, Q6_K, Q8_0};
use Role::*;
use When::*;

/// Every mixture whose base type has blocks.
const ANY: &[&str] = &[];

/// Mixtures, role, condition, type.
const RULES: &[(&[&str], Role, When, Dtype)] = &[
    (&["Q8_0", "MXFP4"], Output, Always, Q8_0),
    (ANY, Output, Always, Q6_K),
    (&["TQ1_0", "TQ2_0"], Embedding, Always, Q4_K),
    (ANY, Value, Experts8, Q8_0),
    (ANY, Key, Experts8, Q8_0),
    (&["Q4_K_M", "Q5_K_M"], Value, More, Q6_K),
    (
        &["Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"],
        Value,
        Llama70B,
        Q5_K,
    ),
    (&["Q2_K", "Q2_K_S"], Value, Gqa4, Q4_K),
    (&["Q2_K"], Value, Always, Q3_K),
    (&["Q3_K_M"], Value, First(2), Q5_K),
    (&["Q3_K_M"], Value, Always, Q4_K),
    (&["Q3_K_L"], Value, Always, Q5_K),
    (&["Q4_K_S"], Value, First(4), Q5_K),
    (&["IQ4_NL", "IQ4_XS"], Value, Gqa4, Q5_K),
    (&["Q4_K_M", "Q5_K_M"], FfnDown, More, Q6_K),
    (&["Q2_K"], FfnDown, Always, Q3_K),
    (&["Q2_K_S"], FfnDown, Below(8), Q4_K),
    (&["Q3_K_M"], FfnDown, Below(16), Q5_K),
    (&["Q3_K_M"], FfnDown, Always, Q4_K),
    (&["Q3_K_L"], FfnDown, Always, Q5_K),
    (&["Q4_K_S"], FfnDown, Below(8), Q5_K),
    (&["IQ4_NL", "IQ4_XS"], FfnDown, BelowPlain(8), Q5_K),
    (&["Q4_0"], FfnDown, BelowWeighted(8), Q4_1),
    (&["Q5_0"], FfnDown, BelowWeighted(8), Q5_1),
    (
        &[
            "Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS",
        ],
        AttnOut,
        Experts8,
        Q5_K,
    ),
    (&["Q2_K"], AttnOut, Always, Q3_K),
    (&["Q3_K_M"], AttnOut, Always, Q4_K),
    (&["Q3_K_L"], AttnOut, NotExperts8, Q5_K),
];

/// What replaces a type whose blocks do not divide the row length: about as many bits, in blocks
/// of 32. If those do not divide it either, F16 does.
const FALLBACKS: &[(Dtype, Dtype)] = &[
    (Dtype::Q2_K, IQ4_NL),
    (Q3_K, IQ4_NL),
    (Dtype::IQ4_XS, IQ4_NL),
    (Q4_K, Dtype::Q5_0),
    (Q5_K, Q5_1),
    (Q6_K, Q8_0),
    (Dtype::TQ1_0, Dtype::Q4_0),
    (Dtype::TQ2_0, Dtype::Q4_0),
];

/// Parts of names that are never quantized: small, or read by code that wants floats.
const ALWAYS_F32: &[&str] = &[
    "_norm.weight",
    "_gate_inp.weight",
    "rope_freqs.weight",
    "rope_factors",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
    "time_mix_first",
    "time_mix_lerp",
    "time_mix_decay",
    "time_mix_w",
    "time_mix_v0",
    "time_mix_v1",
    "time_mix_v2",
    "time_mix_a",
    "time_mix_g1",
    "time_mix_g2",
];

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The mixture.
    pub mixture: Mixture,
    /// No rules: the base type for every matrix.
    pub pure: bool,
    /// Type of the output matrix (of the embedding, where that serves as one).
    pub output: Option<Dtype>,
    /// Type of the embedding.
    pub embedding: Option<Dtype>,
    /// Types of the tensors whose names match; the first match decides.
    pub overrides: Vec<(Regex, Dtype)>,
    /// Tensors that are not quantized.
    pub keep_f32: Vec<Regex>,
    /// There are importance weights: some rules ask.
    pub weighted: bool,
}

/// The mixture that bears the name of the type, or is its usual one (`Q4_K`: `Q4_K_M`).
impl From<Dtype> for Policy {
    fn from(dtype: Dtype) -> Policy {
        // A type without a mixture is refused when types are chosen: it cannot be written.
        let bare = mix(dtype.name(), 0, dtype);
        Policy::new(find(dtype.name()).unwrap_or(bare))
    }
}

/// A mixture by name or short name, in small or capital letters.
fn find(name: &str) -> Option<Mixture> {
    let name = name.replace('-', "_");
    let mut short = ALIASES.iter().chain(SAME);
    let alias = short.find(|a| a.0.eq_ignore_ascii_case(&name));
    let full = alias.map_or(&*name, |a| a.1);
    let same = |m: &&Mixture| m.name.eq_ignore_ascii_case(full);
    MIXTURES.iter().find(same).copied()
}

/// One line, for the record in the file.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.mixture.name.to_lowercase())?;
        if self.pure {
            f.write_str("; pure")?;
        }
        for (what, dtype) in [("output", self.output), ("embedding", self.embedding)] {
            if let Some(dtype) = dtype {
                write!(f, "; {what} {}", dtype.name().to_lowercase())?;
            }
        }
        for (pattern, dtype) in &self.overrides {
            write!(f, "; {}={}", pattern.as_str(), dtype.name().to_lowercase())?;
        }
        self.keep_f32
            .iter()
            .try_for_each(|p| write!(f, "; keep {}", p.as_str()))
    }
}

/// What decided the type of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The base type of the mixture.
    Base,
    /// Vectors and norms stay F32: they are small, and every runtime expects them so.
    Small,
    /// The output matrix of a file of few bits: its errors reach the logits undamped.
    Output,
    /// A rule of the mixture.
    Mixture,
    /// The user's choice.
    Given,
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
            Reason::Mixture => "mixture",
            Reason::Given => "as asked",
            Reason::Fallback => "row length",
            Reason::Kept => "kept",
        }
    }
}

/// A tensor as the rules see it: name and dimensions (contiguous first).
pub type Shape<'a> = (&'a str, &'a [u64]);

impl Policy {
    /// A mixture without further wishes.
    pub fn new(mixture: Mixture) -> Policy {
        Policy {
            mixture,
            pure: false,
            output: None,
            embedding: None,
            overrides: Vec::new(),
            keep_f32: Vec::new(),
            weighted: false,
        }
    }

    /// By the name of a mixture.
    ///
    /// # Errors
    /// [`Error::Unsupported`] lists the names.
    pub fn named(name: &str) -> Result<Policy> {
        let all = MIXTURES.iter().map(|m| m.name).collect::<Vec<_>>();
        let mixture = find(name).ok_or_else(|| Error::Unsupported {
            what: "output type",
            value: name.into(),
            known: match similar(name) {
                [] => all.join(", "),
                near => format!("{}; did you mean {}?", all.join(", "), near.join(" or ")),
            },
        })?;
        Ok(Policy::new(mixture))
    }

    /// Whether the file needs `general.quantization_version`.
    pub fn quantized(&self) -> bool {
        let given = self.overrides.iter().map(|o| o.1);
        let mut types = given.chain(self.output).chain(self.embedding);
        self.mixture.base.block_len() > 1 || types.any(|t| t.block_len() > 1)
    }

    /// The types of all tensors of a file with this metadata.
    ///
    /// # Errors
    /// [`Error::Request`] for an option that applies to no tensor; [`Error::Unsupported`] for a
    /// type that cannot be written.
    pub fn choose(
        &self,
        tensors: &[Shape<'_>],
        metadata: &[(String, MetaValue)],
    ) -> Result<Vec<(Dtype, Reason)>> {
        self.check_types()?;
        let model = Model::new(tensors, metadata, self.weighted);
        let mut used = Used::new(self);
        let types = tensors
            .iter()
            .map(|&(name, dims)| self.one(name, dims, &model, &mut used))
            .collect();
        used.check(self)?;
        Ok(types)
    }

    fn one(&self, name: &str, dims: &[u64], model: &Model, used: &mut Used) -> (Dtype, Reason) {
        let extent = dims.iter().rposition(|&d| d > 1).map_or(0, |p| p + 1);
        // Tensors without a suffix are factors of a state space.
        let matrix = extent > 1 && name.ends_with(".weight");
        if !matrix || ALWAYS_F32.iter().any(|part| name.contains(part)) {
            return (Dtype::F32, Reason::Small);
        }
        let (want, reason) = match self.given(name, model, used) {
            Some(dtype) => (dtype, Reason::Given),
            None => self.by_rules(name, model),
        };
        let fits = |t: Dtype| dims[0].is_multiple_of(t.block_len() as u64);
        let fallback = FALLBACKS.iter().find(|f| f.0 == want && fits(f.1));
        match (fits(want), fallback) {
            (true, _) => (want, reason),
            (false, Some(f)) => (f.1, Reason::Fallback),
            (false, None) => (Dtype::F16, Reason::Fallback),
        }
    }

    /// The user's choice for a tensor. Every option that names it counts as used.
    fn given(&self, name: &str, model: &Model, used: &mut Used) -> Option<Dtype> {
        let hit = |r: &Regex| r.is_match(name).unwrap_or(false);
        let mut kept = None;
        for (pattern, used) in self.keep_f32.iter().zip(&mut used.keep_f32) {
            if hit(pattern) {
                *used = true;
                kept = Some(Dtype::F32);
            }
        }
        let mut matched = None;
        for ((pattern, dtype), used) in self.overrides.iter().zip(&mut used.overrides) {
            if hit(pattern) {
                *used = true;
                matched = matched.or(Some(*dtype));
            }
        }
        let embedding = name == EMBEDDING;
        used.embedding |= embedding;
        let embedding = self.embedding.filter(|_| embedding);
        let output = self
            .output
            .filter(|_| embedding.is_none() && model.is_output(name));
        used.output |= output.is_some();
        kept.or(embedding).or(output).or(matched)
    }

    fn by_rules(&self, name: &str, model: &Model) -> (Dtype, Reason) {
        let base = self.mixture.base;
        if self.pure || base.block_len() == 1 {
            return (base, Reason::Base);
        }
        let role = model.role(name);
        let fits = |r: &&(&[&str], Role, When, Dtype)| {
            let named = r.0.is_empty() || r.0.contains(&self.mixture.name);
            named && r.1 == role && model.holds(r.2, role, name)
        };
        match RULES.iter().find(fits) {
            Some(rule) if rule.3 == base => (base, Reason::Base),
            Some(rule) if role == Output => (rule.3, Reason::Output),
            Some(rule) => (rule.3, Reason::Mixture),
            None => (base, Reason::Base),
        }
    }

    fn check_types(&self) -> Result<()> {
        let given = self.overrides.iter().map(|o| o.1);
        let all = given
            .chain(self.output)
            .chain(self.embedding)
            .chain([self.mixture.base]);
        for dtype in all {
            if !writable().any(|t| t == dtype) {
                return Err(Error::Unsupported {
                    what: "output type",
                    value: dtype.name().into(),
                    known: writable().map(|t| t.name()).collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(())
    }
}

/// The types that can be written: the bases of all mixtures.
pub fn writable() -> impl Iterator<Item = Dtype> {
    let base = MIXTURES.iter().map(|m| m.base);
    Dtype::ALL
        .iter()
        .copied()
        .filter(move |t| base.clone().any(|b| b == *t))
}

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
/// How names of further heads begin.
const HEADS: &str = "mtp.";

/// What the rules ask about a model.
struct Model {
    tied: bool,
    llama: bool,
    layers: usize,
    /// Query heads per key head.
    gqa: u64,
    experts: u64,
    weighted: bool,
    /// Layers that hold values, in order.
    values: Vec<usize>,
}

impl Model {
    fn new(tensors: &[Shape<'_>], metadata: &[(String, MetaValue)], weighted: bool) -> Model {
        let get = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        let arch = match get("general.architecture") {
            Some(MetaValue::Str(arch)) => arch.as_str(),
            _ => "",
        };
        let int = |key: &str| get(&format!("{arch}.{key}")).and_then(first_int);
        let heads = int("attention.head_count").unwrap_or(1);
        let kv = int("attention.head_count_kv").unwrap_or(heads).max(1);
        let values = tensors
            .iter()
            .filter(|t| role(t.0) == Value && !t.0.starts_with(HEADS));
        let mut values: Vec<usize> = values.map(|t| layer(t.0)).collect();
        values.sort_unstable();
        Model {
            tied: !tensors.iter().any(|t| t.0 == OUTPUT),
            llama: arch == "llama",
            layers: int("block_count").unwrap_or(0) as usize,
            gqa: heads / kv,
            experts: int("expert_count").unwrap_or(0),
            weighted,
            values,
        }
    }

    /// The output matrix, also where it is the embedding.
    fn is_output(&self, name: &str) -> bool {
        name == OUTPUT || (self.tied && name == EMBEDDING)
    }

    fn role(&self, name: &str) -> Role {
        if self.is_output(name) {
            Output
        } else {
            role(name)
        }
    }

    fn holds(&self, when: When, role: Role, name: &str) -> bool {
        let layer = match name.starts_with(HEADS) {
            // They stand in the place of the last layer.
            true => self.layers.saturating_sub(1),
            false => layer(name),
        };
        let (i, n) = match (role, self.values.binary_search(&layer)) {
            (Value, Ok(i)) => (i, self.values.len()),
            _ => (layer, self.layers),
        };
        match when {
            Always => true,
            More => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            First(k) => i < k,
            Below(k) => i < n / k,
            BelowPlain(k) => i < n / k && !self.weighted,
            BelowWeighted(k) => i < n / k && self.weighted,
            Gqa4 => self.gqa >= 4,
            Experts8 => self.experts == 8,
            NotExperts8 => self.experts != 8,
            Llama70B => self.llama && self.layers == 80 && self.gqa > 1,
        }
    }
}

fn role(name: &str) -> Role {
    const ROLES: &[(&str, Role)] = &[
        ("attn_qkv.weight", Value),
        ("attn_kv_b.weight", Value),
        ("attn_v.weight", Value),
        ("attn_k.weight", Key),
        ("attn_output.weight", AttnOut),
        ("ffn_down", FfnDown),
    ];
    if name == EMBEDDING {
        return Embedding;
    }
    let found = ROLES.iter().find(|r| name.contains(r.0));
    found.map_or(Other, |r| r.1)
}

/// `blk.7.…`: 7.
fn layer(name: &str) -> usize {
    let (_, rest) = name.split_once("blk.").unwrap_or_default();
    let number = rest.split('.').next();
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// An integer, or the first of an array of them.
fn first_int(value: &MetaValue) -> Option<u64> {
    match value {
        MetaValue::U32(v) => Some((*v).into()),
        MetaValue::I32(v) => u64::try_from(*v).ok(),
        MetaValue::U64(v) => Some(*v),
        MetaValue::U32s(v) => v.first().map(|&v| v.into()),
        MetaValue::I32s(v) => v.first().and_then(|&v| u64::try_from(v).ok()),
        _ => None,
    }
}

/// Which of the user's options met a tensor.
struct Used {
    output: bool,
    embedding: bool,
    overrides: Vec<bool>,
    keep_f32: Vec<bool>,
}

impl Used {
    fn new(policy: &Policy) -> Used {
        Used {
            output: false,
            embedding: false,
            overrides: vec![false; policy.overrides.len()],
            keep_f32: vec![false; policy.keep_f32.len()],
        }
    }

    /// An option without effect is a mistake: a name misspelt, or a file of another layout.
    fn check(&self, policy: &Policy) -> Result<()> {
        let refuse = |option: &str, value: &str| {
            Err(Error::Request {
                what: option.into(),
                value: format!("{value} (no matrix of the source has such a name)"),
                allowed: "a pattern that matches (a dry run lists the names)".into(),
            })
        };
        if let Some(i) = self.overrides.iter().position(|u| !u) {
            let (pattern, dtype) = &policy.overrides[i];
            return refuse("overrides", &format!("{}={dtype}", pattern.as_str()));
        }
        if let Some(i) = self.keep_f32.iter().position(|u| !u) {
            return refuse("keep_f32", policy.keep_f32[i].as_str());
        }
        match (policy.output, policy.embedding) {
            (Some(t), _) if !self.output => refuse("output", t.name()),
            (_, Some(t)) if !self.embedding => refuse("embedding", t.name()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
