//! Adapters at run time: `y = G (W x) + B (A x)` beside weights that stay as they are in the file.
//!
//! All adapters in use become one term per matrix when they are set: the rows of their A under each
//! other, their B, with factors multiplied in, side by side, and for magnitudes a factor G per output.
//! So a pass costs the same two small F32 products whatever their number, and nothing without them.
//! Products and sums have the order of all others: threads and batches change no bit.

use std::collections::HashMap;
use std::sync::Arc;

use geb_kernels::dtype::Dtype;
use geb_kernels::mat::MatMut;
use geb_kernels::team::Leader;
use geb_kernels::{ActKind, Activations, Kernels};

use sha2::{Digest, Sha256};

use super::Model;
use super::forward::packing::{SERIAL_ROWS, pack};
use super::weights::{Layer, QMatrix};
use crate::adapter::{Adapter, LowRank};
use crate::error::{Error, Result};

/// Outputs of one claim of a thread.
const STEP: usize = 64;

/// What the adapters in use change about one matrix.
struct Term {
    /// `[rank, in]`, the ranks of all adapters together.
    a: Vec<f32>,
    /// `[out, rank]`
    b: Vec<f32>,
    rank: usize,
    /// G, `[out]`.
    gain: Option<Vec<f32>>,
}

/// The adapters of a sequence, with their buffers.
pub(crate) struct Adapters {
    /// By where the bytes of the matrix start.
    terms: Arc<HashMap<usize, Term>>,
    identity: [u8; 32],
    x: Activations,
    /// `A x`, `[tokens, rank]`, and its packed form.
    low: Vec<f32>,
    low_acts: Activations,
    /// `B (A x)`, `[tokens, out]`.
    change: Vec<f32>,
}

impl Model {
    /// The matrices that adapters can change, by name.
    fn adaptable(&self) -> HashMap<&str, &QMatrix> {
        let tied = self.weights.output.weight.range == self.weights.token_embd.range;
        let output = (!tied).then_some(&self.weights.output);
        let inputs = self.weights.layers.iter().flat_map(Layer::inputs);
        // Experts, which see some of the tokens each, are left as they are.
        let layers = inputs.filter(|groups| groups.len() == 1).flatten();
        let by_start: HashMap<usize, &QMatrix> = layers
            .flatten()
            .chain(output)
            .map(|w| (w.weight.range.start, &w.weight))
            .collect();
        self.file
            .tensors()
            .map(|t| t.info())
            .filter(|t| t.dims.len() == 2)
            .filter_map(|t| Some((t.name.as_str(), *by_start.get(&t.range.start)?)))
            .collect()
    }

    /// Reads an adapter for this model.
    ///
    /// # Errors
    /// As [`Adapter::read`].
    pub fn adapter(&self, file: &crate::gguf::GgufFile) -> Result<Adapter> {
        let matrices = self.adaptable();
        Adapter::read(file, self.config.arch.name, &|name| {
            let shape = matrices.get(name).map(|m| [m.rows, m.cols]);
            shape.ok_or_else(|| match self.file.tensor(name) {
                Some(_) => {
                    "no matrix that adapters change: those of the layers and output.weight".into()
                }
                None => "the model has no such tensor".into(),
            })
        })
    }
}

impl Adapters {
    /// The terms of adapters with their scales, each made for `model`.
    ///
    /// # Errors
    /// [`Error::Request`] for a scale that is no finite number; [`Error::Tensors`] for an adapter of
    /// another model.
    pub fn new(model: &Model, kernels: &Kernels, adapters: &[(&Adapter, f32)]) -> Result<Adapters> {
        let matrices = model.adaptable();
        let mut of: HashMap<&str, Vec<(&LowRank, f32)>> = HashMap::new();
        let mut problems = Vec::new();
        for (adapter, scale) in adapters {
            if !scale.is_finite() {
                return Err(Error::Request {
                    what: "scale of an adapter".into(),
                    value: scale.to_string(),
                    allowed: "a finite number".into(),
                });
            }
            // Off is off, for magnitudes too.
            for part in adapter.parts().iter().filter(|_| *scale != 0.0) {
                let parts = of.entry(&part.tensor).or_default();
                parts.push((part, adapter.factor(part, *scale)));
                let shape = matrices.get(&*part.tensor).map(|m| (m.rows, m.cols));
                if shape != Some((part.rows, part.cols)) {
                    problems.push(format!(
                        "  {}: of an adapter for another model",
                        part.tensor
                    ));
                }
            }
        }
        if !problems.is_empty() {
            return Err(Error::Tensors(problems));
        }
        let terms = of.into_iter().filter_map(|(name, parts)| {
            let matrix = matrices.get(name)?;
            let term = Term::new(&parts, |row, out| {
                let data = model.bytes(matrix);
                let bytes = data.len() / matrix.rows;
                kernels.dequantize(matrix.dtype, &data[row * bytes..(row + 1) * bytes], out);
            });
            Some((matrix.range.start, term))
        });
        let terms: HashMap<usize, Term> = terms.collect();
        let identity = identity(&terms);
        Ok(Self::of(Arc::new(terms), identity))
    }

    fn of(terms: Arc<HashMap<usize, Term>>, identity: [u8; 32]) -> Adapters {
        Adapters {
            terms,
            identity,
            x: Activations::default(),
            low: Vec::new(),
            low_acts: Activations::default(),
            change: Vec::new(),
        }
    }

    /// The same terms, for another sequence.
    pub fn fork(&self) -> Adapters {
        Self::of(self.terms.clone(), self.identity)
    }

    /// What tells these changes from others of the same model: SHA-256 of all terms.
    pub fn identity(&self) -> [u8; 32] {
        self.identity
    }

    /// Bytes of the terms.
    pub fn bytes(&self) -> u64 {
        let floats = |t: &Term| t.a.len() + t.b.len() + t.gain.as_ref().map_or(0, Vec::len);
        self.terms.values().map(|t| 4 * floats(t) as u64).sum()
    }

    /// Adds to `outs`, `[n, out]` each, what the adapters change about the products of these matrices
    /// with `x`, `[n, in]`.
    pub fn add<const N: usize>(
        &mut self,
        (kernels, lead): (&'static Kernels, &mut Leader<'_>),
        x: &[f32],
        n: usize,
        outs: [(&QMatrix, &mut [f32]); N],
    ) {
        let mut packed = false;
        for (matrix, out) in outs {
            let Some(term) = self.terms.get(&matrix.range.start) else {
                continue;
            };
            let (rows, cols) = (matrix.rows, matrix.cols);
            if !std::mem::replace(&mut packed, true) {
                pack((kernels, lead), &mut self.x, ActKind::F32, x, (n, cols));
            }
            resize(&mut self.low, n * term.rank);
            resize(&mut self.change, n * rows);
            let (low, change) = (&mut self.low[..n * term.rank], &mut self.change[..n * rows]);
            product((kernels, lead), (&term.a, cols), &self.x, low);
            pack(
                (kernels, lead),
                &mut self.low_acts,
                ActKind::F32,
                low,
                (n, term.rank),
            );
            product(
                (kernels, lead),
                (&term.b, term.rank),
                &self.low_acts,
                change,
            );
            let change = &*change;
            let join = |t: usize, out: &mut [f32]| {
                if let Some(gain) = &term.gain {
                    out.iter_mut().zip(gain).for_each(|(y, g)| *y *= g);
                }
                kernels.add(out, &change[t * rows..(t + 1) * rows]);
            };
            if n <= SERIAL_ROWS {
                out.chunks_exact_mut(rows)
                    .enumerate()
                    .for_each(|(t, out)| join(t, out));
            } else {
                lead.chunks_mut(out, rows, |t, out, _| join(t, out));
            }
        }
    }
}

impl Term {
    /// The term of `parts` with their factors; `base` gives a row of the matrix.
    fn new(parts: &[(&LowRank, f32)], base: impl Fn(usize, &mut [f32])) -> Term {
        let (rows, cols) = parts.first().map_or((0, 0), |(p, _)| (p.rows, p.cols));
        let rank = parts.iter().map(|(p, _)| p.rank).sum();
        let magnitudes = parts.iter().any(|(p, _)| p.magnitude.is_some());
        let mut gain = magnitudes.then(|| Vec::with_capacity(rows));
        let mut b = Vec::with_capacity(rows * rank);
        let (mut row, mut low) = (vec![0.0; cols], vec![0.0; cols]);
        for r in 0..rows {
            if magnitudes {
                base(r, &mut row);
            }
            let mut total = 1.0;
            for (part, s) in parts {
                let g = match part.magnitude {
                    Some(_) => part.row(*s, r, &row, &mut low),
                    None => 1.0,
                };
                total += g - 1.0;
                let factor = (g * f64::from(*s)) as f32;
                b.extend(
                    part.b[r * part.rank..(r + 1) * part.rank]
                        .iter()
                        .map(|v| factor * v),
                );
            }
            if let Some(gain) = &mut gain {
                gain.push(total as f32);
            }
        }
        let a = parts.iter().flat_map(|(p, _)| &p.a).copied().collect();
        Term { a, b, rank, gain }
    }
}

/// SHA-256 of terms in the order of their matrices.
fn identity(terms: &HashMap<usize, Term>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut starts: Vec<_> = terms.iter().collect();
    starts.sort_unstable_by_key(|(start, _)| **start);
    for (start, term) in starts {
        let gain = term.gain.as_deref().unwrap_or(&[]);
        for n in [*start, term.rank, term.a.len(), term.b.len(), gain.len()] {
            hash.update((n as u64).to_le_bytes());
        }
        for floats in [&term.a[..], &term.b, gain] {
            hash.update(bytemuck::cast_slice(floats));
        }
    }
    hash.finalize().into()
}

fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len.max(buffer.len()), 0.0);
}

/// `out = W x` for W in F32, `[out, cols]`.
fn product(
    (kernels, lead): (&'static Kernels, &mut Leader<'_>),
    (weights, cols): (&[f32], usize),
    x: &Activations,
    out: &mut [f32],
) {
    let rows = weights.len() / cols;
    let n = out.len() / rows;
    let weights: &[u8] = bytemuck::cast_slice(weights);
    let out = MatMut::new(out, n, rows, rows);
    lead.columns([out], STEP, |_, c, block, local| {
        let part = &weights[4 * c * cols..4 * (c + block.cols()) * cols];
        kernels.mat_mul(Dtype::F32, part, cols, x, block, &mut local.panel);
    });
}
