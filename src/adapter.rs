//! Adapters: small trained changes of a model's matrices, kept in a file of their own.
//!
//! ```text
//! LoRA  W' = W + s B A                              s = scale * alpha / r          (arXiv 2106.09685)
//! DoRA  W' = m * (W + s B A) / |W + s B A|          row by row, |.| over the inputs (arXiv 2402.09353)
//! several at once: the changes W' - W of all are added to W
//! ```
//! The file is llama.cpp's: a GGUF with `general.type` "adapter", `adapter.type` "lora",
//! `adapter.lora.alpha`, and for a matrix NAME the tensors `NAME.lora_a` `[r, in]` and `NAME.lora_b`
//! `[out, r]`. Magnitudes are ours: `NAME.lora_m` `[out]` (docs/format.md). How adapters are run is
//! in `model/adapters.rs`, how they are merged in `convert/merge.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use geb_kernels::{Kernels, Level};

use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Load, TensorView};
use crate::limits::{MAX_ADAPTER_RANK, MAX_SHOWN_PROBLEMS};

/// Key of alpha.
pub const ALPHA: &str = "adapter.lora.alpha";

/// The change of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// Name of the matrix in the model's file.
    pub tensor: String,
    /// Outputs of the matrix.
    pub rows: usize,
    /// Inputs of the matrix.
    pub cols: usize,
    /// r: rows of A.
    pub rank: usize,
    /// A, `[rank, cols]`.
    pub a: Vec<f32>,
    /// B, `[rows, rank]`.
    pub b: Vec<f32>,
    /// m, `[rows]` (DoRA).
    pub magnitude: Option<Vec<f32>>,
}

impl LowRank {
    /// Row `row` of `s B A`, into `low` `[cols]`; returns what the row of `W + s B A` is multiplied
    /// with, where `base` is the row of `W`: 1 without magnitudes.
    pub fn row(&self, s: f32, row: usize, base: &[f32], low: &mut [f32]) -> f64 {
        low.fill(0.0);
        let b = &self.b[row * self.rank..(row + 1) * self.rank];
        for (b, a) in b.iter().zip(self.a.chunks_exact(self.cols)) {
            let factor = s * b;
            low.iter_mut().zip(a).for_each(|(v, a)| *v += factor * a);
        }
        let Some(m) = &self.magnitude else {
            return 1.0;
        };
        let sum = base
            .iter()
            .zip(&*low)
            .map(|(w, v)| f64::from(w + v).powi(2));
        let norm = sum.sum::<f64>().sqrt();
        if norm > 0.0 {
            f64::from(m[row]) / norm
        } else {
            0.0
        }
    }
}

/// An adapter whose tensors fit the matrices of a model.
#[derive(Clone, Debug)]
pub struct Adapter {
    alpha: f32,
    parts: Vec<LowRank>,
}

/// `[rows, cols]` of a matrix that adapters can change, or why there is none of that name.
pub type ShapeOf<'a> = dyn Fn(&str) -> std::result::Result<[usize; 2], String> + 'a;

/// The tensors of one matrix.
#[derive(Default)]
struct Found<'a> {
    a: Option<TensorView<'a>>,
    b: Option<TensorView<'a>>,
    m: Option<TensorView<'a>>,
}

impl Adapter {
    /// Opens the adapter at `path` for a model of this architecture and these matrices.
    ///
    /// # Errors
    /// As [`Adapter::read`], and those of opening a file.
    pub fn open(path: &Path, architecture: &str, shape: &ShapeOf<'_>) -> Result<Adapter> {
        Self::read(&GgufFile::open(path, Load::Map)?, architecture, shape)
    }

    /// Reads an adapter and compares it with the model.
    ///
    /// # Errors
    /// [`Error::Key`] for a file that is no LoRA adapter of the architecture, [`Error::Unsupported`] for
    /// one that acts after certain tokens only, [`Error::Tensors`] with all that does not fit.
    pub fn read(file: &GgufFile, architecture: &str, shape: &ShapeOf<'_>) -> Result<Adapter> {
        for (key, want) in [
            ("general.type", "adapter"),
            ("adapter.type", "lora"),
            ("general.architecture", architecture),
        ] {
            let value = file.str(key)?.unwrap_or("absent");
            if value != want {
                return Err(Error::Key {
                    key: key.into(),
                    value: value.into(),
                    allowed: format!("{want} (an adapter for this model)"),
                });
            }
        }
        if file.get("adapter.alora.invocation_tokens").is_some() {
            return Err(Error::Unsupported {
                what: "adapter",
                value: "activated by tokens (adapter.alora.invocation_tokens)".into(),
                known: "adapters that always act".into(),
            });
        }
        let mut problems = Vec::new();
        let mut found: BTreeMap<&str, Found<'_>> = BTreeMap::new();
        for t in file.tensors() {
            let name = t.info().name.as_str();
            match name.rsplit_once('.') {
                Some((base, "lora_a")) => found.entry(base).or_default().a = Some(t),
                Some((base, "lora_b")) => found.entry(base).or_default().b = Some(t),
                Some((base, "lora_m")) => found.entry(base).or_default().m = Some(t),
                _ => problems.push(format!("  {name}: not NAME.lora_a, .lora_b or .lora_m")),
            }
        }
        if found.is_empty() {
            problems.push("  no tensors NAME.lora_a and NAME.lora_b".into());
        }
        let mut parts = Vec::with_capacity(found.len());
        for (name, tensors) in &found {
            let fits = shape(name).and_then(|shape| tensors.check(shape));
            match fits {
                Ok(rank) => match tensors.part(name, rank) {
                    Ok(part) => parts.push(part),
                    Err(why) => problems.push(format!("  {name}: {why}")),
                },
                Err(why) => problems.push(format!("  {name}: {why}")),
            }
        }
        let alpha = file.float(ALPHA)?.unwrap_or(0.0);
        if problems.is_empty() {
            return Ok(Adapter { alpha, parts });
        }
        let more = problems.len().saturating_sub(MAX_SHOWN_PROBLEMS);
        problems.truncate(MAX_SHOWN_PROBLEMS);
        if more > 0 {
            problems.push(format!("  ... and {more} more"));
        }
        Err(Error::Tensors(problems))
    }

    /// The changes, in the order of their names.
    pub fn parts(&self) -> &[LowRank] {
        &self.parts
    }

    /// s: `scale * alpha / r`; an alpha of 0 leaves `scale` as it is.
    pub fn factor(&self, part: &LowRank, scale: f32) -> f32 {
        match self.alpha {
            0.0 => scale,
            alpha => scale * alpha / part.rank as f32,
        }
    }
}

impl Found<'_> {
    /// The rank, if the shapes are those of a change of a matrix `[rows, cols]`.
    fn check(&self, [rows, cols]: [usize; 2]) -> std::result::Result<usize, String> {
        let (Some(a), Some(b)) = (&self.a, &self.b) else {
            let missing = if self.a.is_none() { "lora_a" } else { "lora_b" };
            return Err(format!("{missing} is missing"));
        };
        let shape = |t: &TensorView<'_>| t.info().dims.iter().rev().copied().collect::<Vec<_>>();
        let (sa, sb) = (shape(a), shape(b));
        let rank = sa.first().copied().unwrap_or(0);
        let (rows, cols) = (rows as u64, cols as u64);
        if sa != [rank, cols] || sb != [rows, rank] {
            return Err(format!(
                "A {sa:?} and B {sb:?}, expected [r, {cols}] and [{rows}, r]"
            ));
        }
        if !(1..=MAX_ADAPTER_RANK).contains(&rank) {
            return Err(format!("rank {rank}, allowed: 1..={MAX_ADAPTER_RANK}"));
        }
        if let Some(m) = self.m.as_ref().map(shape).filter(|m| *m != [rows]) {
            return Err(format!("magnitudes {m:?}, expected [{rows}]"));
        }
        Ok(rank as usize)
    }

    fn part(&self, name: &str, rank: usize) -> std::result::Result<LowRank, String> {
        let read = |t: &Option<TensorView<'_>>| t.as_ref().map(floats).transpose();
        let (a, b) = (
            read(&self.a)?.unwrap_or_default(),
            read(&self.b)?.unwrap_or_default(),
        );
        Ok(LowRank {
            tensor: name.to_owned(),
            rows: b.len() / rank,
            cols: a.len() / rank,
            rank,
            a,
            b,
            magnitude: read(&self.m)?,
        })
    }
}

/// The finite values of a tensor.
fn floats(t: &TensorView<'_>) -> std::result::Result<Vec<f32>, String> {
    let info = t.info();
    let kernels = Kernels::for_level(Level::Scalar).filter(|k| k.supports(info.dtype));
    let kernels = kernels.ok_or_else(|| format!("type {} of {}", info.dtype, info.name))?;
    let mut out = vec![0.0; info.elements() as usize];
    kernels.dequantize(info.dtype, t.bytes(), &mut out);
    match out.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(format!("element {i} of {} is {}", info.name, out[i])),
        None => Ok(out),
    }
}
